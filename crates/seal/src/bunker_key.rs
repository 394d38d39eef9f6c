//! The runtime envelope in bunker custody: how to reach the owner's signer, and the wallet's words. It holds no Nostr key
//! of the agent.

use std::fmt;

use nexus_core::Npub;
use nexus_core::policy::Custody;
use serde::{Deserialize, Serialize};

use crate::recipient::{Recipient, RecipientError, seal_to_recipient_armored};
use crate::sealed_key::{SEALED_KEY_FORMAT, SealedKeyError};
use crate::secret::{SecretText, to_secret_json};

/// Most relays that are kept of a signer.
pub const MAX_SIGNER_RELAYS: usize = 8;

/// What a worker needs to run an agent whose key it never has.
///
/// Anyone can close an envelope to a pool. This one is believed for what it can do: the signer that it names has to open
/// the agent's own wraps, and sign as the agent.
#[derive(Clone)]
pub struct BunkerKey {
    pub npub: Npub,
    pub owner: Npub,
    pub pool_id: String,
    /// The signer's own key.
    pub signer: Npub,
    pub relays: Vec<String>,
    /// The secret key that the signer knows this agent's host by: hex.
    pub client_secret: SecretText,
    /// The wallet's mnemonic comes from these words as from a sealed agent's (BIP-85).
    pub mnemonic: SecretText,
    pub min_policy_version: u64,
    pub with_state: bool,
}

impl fmt::Debug for BunkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BunkerKey").field("npub", &self.npub).field("signer", &self.signer).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Closing<'a> {
    format: u32,
    npub: Npub,
    owner: Npub,
    custody: Custody,
    pool_id: &'a str,
    signer: Npub,
    relays: &'a [String],
    client_secret: &'a str,
    mnemonic: &'a str,
    min_policy_version: u64,
    with_state: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Opened {
    format: u32,
    npub: Npub,
    owner: Npub,
    custody: Custody,
    pool_id: String,
    signer: Npub,
    relays: Vec<String>,
    client_secret: SecretText,
    mnemonic: SecretText,
    min_policy_version: u64,
    with_state: bool,
}

/// Closes the envelope to a pool: an armored age file.
pub fn seal_bunker_key(key: &BunkerKey, pool: &Recipient) -> Result<String, RecipientError> {
    let closing = Closing {
        format: SEALED_KEY_FORMAT,
        npub: key.npub,
        owner: key.owner,
        custody: Custody::Bunker,
        pool_id: &key.pool_id,
        signer: key.signer,
        relays: &key.relays,
        client_secret: key.client_secret.expose(),
        mnemonic: key.mnemonic.expose(),
        min_policy_version: key.min_policy_version,
        with_state: key.with_state,
    };
    let plaintext = to_secret_json(&closing).map_err(|error| RecipientError::Failed(error.to_string()))?;
    seal_to_recipient_armored(pool, &plaintext)
}

/// The custody that an opened envelope names: it says which document it holds.
pub fn custody_of(plaintext: &[u8]) -> Result<Custody, SealedKeyError> {
    #[derive(Deserialize)]
    struct Named {
        custody: Custody,
    }
    serde_json::from_slice(plaintext).map(|Named { custody }| custody).map_err(|_| SealedKeyError::Malformed)
}

impl BunkerKey {
    /// Reads the plaintext of an envelope that the vault opened. Checks the form only.
    pub fn from_plaintext(plaintext: &[u8]) -> Result<Self, SealedKeyError> {
        let opened: Opened = serde_json::from_slice(plaintext).map_err(|_| SealedKeyError::Malformed)?;
        if opened.format != SEALED_KEY_FORMAT {
            return Err(SealedKeyError::Format { found: opened.format });
        }
        if opened.custody != Custody::Bunker || opened.relays.is_empty() || opened.relays.len() > MAX_SIGNER_RELAYS {
            return Err(SealedKeyError::Malformed);
        }
        Ok(Self {
            npub: opened.npub,
            owner: opened.owner,
            pool_id: opened.pool_id,
            signer: opened.signer,
            relays: opened.relays,
            client_secret: opened.client_secret,
            mnemonic: opened.mnemonic,
            min_policy_version: opened.min_policy_version,
            with_state: opened.with_state,
        })
    }
}
