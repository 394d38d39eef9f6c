//! The runtime envelope: what a worker needs to run an agent, closed to a pool.

use std::fmt;

use nexus_core::Npub;
use nexus_core::policy::Custody;
use serde::{Deserialize, Serialize};

use crate::recipient::{Recipient, RecipientError, seal_to_recipient_armored};
use crate::secret::{SecretText, to_secret_json};

/// Version of the document inside.
pub const SEALED_KEY_FORMAT: u32 = 1;

/// Why an opened envelope is not a runtime envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealedKeyError {
    #[error("the sealed key does not hold the expected document")]
    Malformed,
    #[error("the sealed key has format {found}, this version reads {SEALED_KEY_FORMAT}")]
    Format { found: u32 },
}

/// The contents of `sealed_key`.
///
/// The npub is derived again from the mnemonic (or its seed) when it is opened, so the envelope cannot be moved to another agent;
/// the owner inside is the one whose policy is obeyed, whatever a database says.
#[derive(Clone)]
pub struct SealedKey {
    pub npub: Npub,
    pub owner: Npub,
    pub custody: Custody,
    pub pool_id: String,
    pub mnemonic: SecretText,
    /// What the mnemonic stretches to; an envelope without it is as good, only slower to open.
    pub stretched: Option<Stretched>,
    /// Policies below this version are refused, even by a worker that has seen none yet.
    pub min_policy_version: u64,
    /// The client made the keys and the first state. A worker that finds wraps or state missing then refuses to start
    /// from nothing: otherwise, deleting rows would make it forget which policy it obeyed and what it spent.
    pub with_state: bool,
}

/// The BIP-39 seeds (64 bytes, in base64) of the mnemonic and of its wallet's words. Opening an agent with them spends none
/// of BIP-39's 2,048 rounds of PBKDF2.
///
/// The mnemonic stays what counts: the seed must give the agent's npub, as the words must.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stretched {
    pub seed: SecretText,
    pub wallet_seed: SecretText,
}

impl fmt::Debug for Stretched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stretched(…)")
    }
}

impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedKey").field("npub", &self.npub).field("owner", &self.owner).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
pub(crate) struct Closing<'a> {
    format: u32,
    npub: Npub,
    owner: Npub,
    custody: Custody,
    pool_id: &'a str,
    mnemonic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stretched: Option<ClosingStretched<'a>>,
    min_policy_version: u64,
    with_state: bool,
}

#[derive(Serialize)]
struct ClosingStretched<'a> {
    seed: &'a str,
    wallet_seed: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Opened {
    format: u32,
    npub: Npub,
    owner: Npub,
    custody: Custody,
    pool_id: String,
    mnemonic: SecretText,
    stretched: Option<Stretched>,
    min_policy_version: u64,
    with_state: bool,
}

impl Opened {
    pub(crate) fn key(self) -> Result<SealedKey, SealedKeyError> {
        if self.format != SEALED_KEY_FORMAT {
            return Err(SealedKeyError::Format { found: self.format });
        }
        Ok(SealedKey {
            npub: self.npub,
            owner: self.owner,
            custody: self.custody,
            pool_id: self.pool_id,
            mnemonic: self.mnemonic,
            stretched: self.stretched,
            min_policy_version: self.min_policy_version,
            with_state: self.with_state,
        })
    }
}

/// The document as it is written, for the sealing functions of this crate alone.
pub(crate) fn closing(key: &SealedKey) -> Closing<'_> {
    Closing {
        format: SEALED_KEY_FORMAT,
        npub: key.npub,
        owner: key.owner,
        custody: key.custody,
        pool_id: &key.pool_id,
        mnemonic: key.mnemonic.expose(),
        stretched: key.stretched.as_ref().map(|stretched| ClosingStretched {
            seed: stretched.seed.expose(),
            wallet_seed: stretched.wallet_seed.expose(),
        }),
        min_policy_version: key.min_policy_version,
        with_state: key.with_state,
    }
}

/// Closes the runtime envelope to a pool: an armored age file.
pub fn seal_key(key: &SealedKey, pool: &Recipient) -> Result<String, RecipientError> {
    let plaintext = to_secret_json(&closing(key)).map_err(|error| RecipientError::Failed(error.to_string()))?;
    seal_to_recipient_armored(pool, &plaintext)
}

impl SealedKey {
    /// Reads the plaintext of an envelope that the vault opened. Checks the form only.
    pub fn from_plaintext(plaintext: &[u8]) -> Result<Self, SealedKeyError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(plaintext).map_err(|_| SealedKeyError::Malformed)?;
        if format != SEALED_KEY_FORMAT {
            return Err(SealedKeyError::Format { found: format });
        }
        let opened: Opened = serde_json::from_slice(plaintext).map_err(|_| SealedKeyError::Malformed)?;
        opened.key()
    }
}
