//! What is stored of an agent for its pool to open, in each custody.

use nexus_core::Npub;
use nexus_core::policy::Custody;
use nexus_seal::{BunkerKey, SealedKey, SecretText, SignedPool, seal_bunker_key, seal_key};

use crate::error::VaultError;
use crate::mnemonic::Mnemonic;

/// How a worker reaches the signer that has an agent's key.
#[derive(Debug, Clone)]
pub struct Remote {
    pub signer: Npub,
    pub relays: Vec<String>,
    /// The secret key that the signer knows the agent's host by: hex.
    pub client_secret: SecretText,
}

/// What goes into a runtime envelope.
pub(crate) struct RuntimeKey<'a> {
    pub npub: Npub,
    pub owner: Npub,
    pub custody: Custody,
    /// The agent's words; in bunker custody the wallet's alone.
    pub mnemonic: &'a Mnemonic,
    pub remote: Option<&'a Remote>,
    pub min_policy_version: u64,
    pub with_state: bool,
}

/// A signer elsewhere belongs to bunker custody, and to no other.
pub(crate) fn fits(custody: Custody, remote: Option<&Remote>) -> Result<(), VaultError> {
    match (custody, remote) {
        (Custody::Sealed | Custody::Attended, None) | (Custody::Bunker, Some(_)) => Ok(()),
        (Custody::Sealed | Custody::Attended | Custody::Bunker | Custody::Threshold, _) => {
            Err(VaultError::CustodyNotYet(custody))
        }
    }
}

impl RuntimeKey<'_> {
    /// The envelope to a pool; none in attended custody.
    pub fn seal(&self, pool: &SignedPool) -> Result<Option<String>, VaultError> {
        let (pool_id, recipient) = (&pool.document.pool_id, pool.recipient());
        let mnemonic = self.mnemonic.expose();
        match (self.custody, self.remote) {
            (Custody::Attended, _) => Ok(None),
            (Custody::Sealed | Custody::Bunker | Custody::Threshold, None) => {
                let key = SealedKey {
                    npub: self.npub,
                    owner: self.owner,
                    custody: self.custody,
                    pool_id: pool_id.clone(),
                    mnemonic,
                    stretched: Some(self.mnemonic.stretched()?),
                    min_policy_version: self.min_policy_version,
                    with_state: self.with_state,
                };
                Ok(Some(seal_key(&key, recipient)?))
            }
            (Custody::Sealed | Custody::Bunker | Custody::Threshold, Some(remote)) => {
                let key = BunkerKey {
                    npub: self.npub,
                    owner: self.owner,
                    pool_id: pool_id.clone(),
                    signer: remote.signer,
                    relays: remote.relays.clone(),
                    client_secret: remote.client_secret.clone(),
                    mnemonic,
                    min_policy_version: self.min_policy_version,
                    with_state: self.with_state,
                };
                Ok(Some(seal_bunker_key(&key, recipient)?))
            }
        }
    }
}
