//! An agent's secrets as a worker opens them.

use std::sync::Arc;

use nexus_core::policy::Custody;
use nexus_core::{Entropy, Npub};
use nexus_seal::{SealedKey, Signer, check_recipient_envelope};

use crate::derive::WalletSeed;
use crate::error::VaultError;
use crate::identity::PoolIdentity;
use crate::mnemonic::Mnemonic;
use crate::signer::LocalSigner;

/// What the runtime envelope gives, once its contents were found to fit together. Keep it no longer than needed.
#[derive(Debug)]
pub struct AgentSecrets {
    pub npub: Npub,
    /// The owner: whose policy is obeyed. From inside the envelope, so no database can change it.
    pub owner: Npub,
    pub custody: Custody,
    /// Policies below this version are refused.
    pub min_policy_version: u64,
    /// The client made keys and first state: missing wraps or a missing state are tampering, not a beginning.
    pub with_state: bool,
    pub signer: Arc<LocalSigner>,
    pub wallet: WalletSeed,
}

impl AgentSecrets {
    /// Opens a runtime envelope that was found with this agent, in this pool.
    ///
    /// Refuses, by name, one that is for another agent or pool, and one whose mnemonic is not the named agent's.
    pub fn open(
        sealed_key: &str,
        identity: &PoolIdentity,
        pool_id: &str,
        npub: &Npub,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, VaultError> {
        check_recipient_envelope(sealed_key)?;
        let plaintext = identity.open(sealed_key.trim().as_bytes())?;
        Self::from_key(&SealedKey::from_plaintext(plaintext.expose())?, pool_id, npub, entropy)
    }

    /// What an opened document gives, once its contents were found to fit together.
    pub(crate) fn from_key(
        key: &SealedKey,
        pool_id: &str,
        npub: &Npub,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, VaultError> {
        if key.npub != *npub {
            return Err(VaultError::OtherAgent { expected: *npub, found: key.npub });
        }
        if key.pool_id != pool_id {
            return Err(VaultError::OtherPool { expected: pool_id.to_owned(), found: key.pool_id.clone() });
        }
        let mnemonic = Mnemonic::parse(key.mnemonic.expose())?;
        let (signer, wallet) = mnemonic.secrets(key.stretched.as_ref(), entropy)?;
        let derived = signer.public_key();
        if derived != key.npub {
            return Err(VaultError::NpubMismatch { named: key.npub, derived });
        }
        Ok(Self {
            npub: key.npub,
            owner: key.owner,
            custody: key.custody,
            min_policy_version: key.min_policy_version,
            with_state: key.with_state,
            signer: Arc::new(signer),
            wallet,
        })
    }
}
