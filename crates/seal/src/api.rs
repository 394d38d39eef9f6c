//! Bodies that a client seals and the API takes.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::state::WindowSpend;
use nexus_core::{AgentConfig, Npub};
use nostr::event::Event;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::recipient::Recipient;

/// Most wraps of one agent: three keys, each to itself, a pool and some readers.
pub const MAX_WRAPS: usize = 2_048;

/// Ciphertext. Base64 in JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|_| serde::de::Error::custom("expected base64"))
    }
}

/// Which of an agent's keys a wrap holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WrapKey {
    /// Encrypts state and journal.
    Data,
    /// Encrypts what people read.
    View,
    /// The X25519 secret that the inbox recipient belongs to.
    Inbox,
}

impl WrapKey {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::View => "view",
            Self::Inbox => "inbox",
        }
    }
}

/// To whom a wrap is closed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WrapRecipient {
    /// To the agent's own key by NIP-44.
    Own,
    /// To a pool's recipient, as an armored age file.
    Pool(String),
    /// Under the agent's data key, as a base64 blob.
    Data,
    /// To a reader by NIP-44, from the agent's key.
    Reader(Npub),
}

impl fmt::Display for WrapRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("self"),
            Self::Pool(id) => write!(f, "pool:{id}"),
            Self::Data => f.write_str("data"),
            Self::Reader(npub) => write!(f, "{npub}"),
        }
    }
}

impl FromStr for WrapRecipient {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("pool:")) {
            ("self", _) => Ok(Self::Own),
            ("data", _) => Ok(Self::Data),
            (_, Some(id)) if crate::pool::is_pool_id(id) => Ok(Self::Pool(id.to_owned())),
            (_, _) => text.parse().map(Self::Reader).map_err(|_| "expected self, data, pool:<id> or an npub"),
        }
    }
}

impl Serialize for WrapRecipient {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WrapRecipient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One of an agent's keys, closed to one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wrap {
    pub key: WrapKey,
    /// Counts from 1; ciphertexts name it.
    pub number: u32,
    pub recipient: WrapRecipient,
    /// NIP-44 payload, armored age file or base64 blob, as the recipient says.
    pub ciphertext: String,
}

/// The body of `POST /v1/agents`. Holds nothing that the host could read, but for name and configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAgent {
    pub name: String,
    pub npub: Npub,
    /// The owner's envelope: [`crate::check_mnemonic_envelope`].
    pub mnemonic_encrypted: String,
    #[serde(default)]
    pub config: AgentConfig,
    /// The runtime envelope: an armored age file to the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_key: Option<String>,
    /// The owner-signed policy. Without one the agent may not spend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Event>,
    /// The agent-signed host claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Event>,
    /// Where things for the agent's eyes are sealed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbox_recipient: Option<Recipient>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wraps: Vec<Wrap>,
    /// The first state, under the data key: goals and persona.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Sealed>,
}

/// The body of `POST /v1/agents/import`: a backup, and what closes the agent to this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportAgent {
    /// The document as it was exported, with its digest.
    pub backup: serde_json::Value,
    /// Another name than the backup's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The runtime envelope, to this host's pool; none in attended custody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_key: Option<String>,
    /// The agent's own word that it lives here now.
    pub claim: Event,
    /// The data key's wrap to the same pool, in sealed custody; none for an agent without keys yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wraps: Vec<Wrap>,
    /// The version that stands inside the backup's state, which counts on; 1 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_version: Option<u32>,
    /// What the agent spent today by its own state: this host counts on from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<WindowSpend>,
}

/// A body whose parts do not fit each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidCreate {
    pub field: &'static str,
    pub problem: String,
}

impl CreateAgent {
    /// Checks everything that can be checked without opening: name, configuration, envelopes, policy and claim
    /// signatures, wraps, the state's form. `owner` is the account's key, `now` bounds the claim's stamp.
    pub fn check(&self, owner: &Npub, now: nexus_core::UnixMs) -> Result<(), InvalidCreate> {
        let fail = |field, problem: String| InvalidCreate { field, problem };
        nexus_core::agent::validate_name(&self.name).map_err(|e| fail("name", e.problem))?;
        self.config.validate().map_err(|e| fail("config", e.to_string()))?;
        crate::check_mnemonic_envelope(&self.mnemonic_encrypted)
            .map_err(|e| fail("mnemonic_encrypted", e.to_string()))?;
        if let Some(sealed) = &self.sealed_key {
            crate::check_recipient_envelope(sealed).map_err(|e| fail("sealed_key", e.to_string()))?;
        }
        if let Some(policy) = &self.policy {
            crate::verify_policy(policy, owner, &self.npub).map_err(|e| fail("policy", e.to_string()))?;
        }
        if let Some(claim) = &self.claim {
            let claim = crate::claim::verify_claim(claim, &self.npub, now).map_err(|e| fail("claim", e.to_string()))?;
            if claim.inbox.is_some() && claim.inbox != self.inbox_recipient {
                return Err(fail("claim", "names another inbox recipient than inbox_recipient".into()));
            }
        }
        if let Some(state) = &self.state {
            crate::blob::Blob::parse(&state.0).map_err(|e| fail("state", e.to_string()))?;
            if state.0.len() > nexus_core::state::MAX_STATE + crate::blob::BLOB_OVERHEAD {
                return Err(fail("state", format!("at most {} bytes", nexus_core::state::MAX_STATE)));
            }
        }
        check_wraps(&self.wraps).map_err(|problem| fail("wraps", problem))?;
        let has = |key, recipient: &WrapRecipient| {
            self.wraps.iter().any(|wrap| wrap.key == key && wrap.recipient == *recipient)
        };
        let whole = has(WrapKey::Data, &WrapRecipient::Own)
            && has(WrapKey::View, &WrapRecipient::Data)
            && has(WrapKey::Inbox, &WrapRecipient::Data)
            && self.inbox_recipient.is_some();
        let none = self.wraps.is_empty() && self.inbox_recipient.is_none() && self.state.is_none();
        // A worker makes all three keys or none: half of them could belong to a state that it cannot read.
        if whole || none {
            Ok(())
        } else {
            let wanted =
                "send all of: data key to self, view and inbox key under data, inbox_recipient; or none and no state";
            Err(fail("wraps", wanted.into()))
        }
    }
}

/// Largest ciphertext of one wrap, in bytes.
const MAX_WRAP: usize = 4 * 1024;

/// Checks wraps for their bounds, for numbers and for doubles.
pub fn check_wraps(wraps: &[Wrap]) -> Result<(), String> {
    if wraps.len() > MAX_WRAPS {
        return Err(format!("at most {MAX_WRAPS}"));
    }
    let mut seen = std::collections::BTreeSet::new();
    for wrap in wraps {
        if wrap.number == 0 || wrap.ciphertext.is_empty() || wrap.ciphertext.len() > MAX_WRAP {
            return Err(format!("numbers count from 1, ciphertexts have 1 to {MAX_WRAP} bytes"));
        }
        if !seen.insert((wrap.key, wrap.number, &wrap.recipient)) {
            return Err(format!("{} key {} is wrapped twice for {}", wrap.key.as_str(), wrap.number, wrap.recipient));
        }
    }
    Ok(())
}
