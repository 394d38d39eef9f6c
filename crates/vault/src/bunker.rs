//! Bunker custody: the agent's key is its owner's signer's, and only what reaches it is opened here.

use std::sync::Arc;

use nexus_core::policy::Custody;
use nexus_core::{Entropy, Npub};
use nexus_seal::bunker_key::custody_of;
use nexus_seal::{BunkerKey, SealedKey, check_recipient_envelope};

use crate::agent::AgentSecrets;
use crate::derive::WalletSeed;
use crate::error::VaultError;
use crate::identity::PoolIdentity;
use crate::mnemonic::Mnemonic;
use crate::signer::LocalSigner;

/// What the runtime envelope of bunker custody gives. That the signer holds the agent's key shows when it is asked.
#[derive(Debug)]
pub struct BunkerSecrets {
    pub npub: Npub,
    pub owner: Npub,
    pub min_policy_version: u64,
    pub with_state: bool,
    /// The key that the signer knows this agent's host by.
    pub client: Arc<LocalSigner>,
    /// The signer's own key, and where it listens.
    pub signer: Npub,
    pub relays: Vec<String>,
    pub wallet: WalletSeed,
}

/// A runtime envelope, open.
#[derive(Debug)]
pub enum RuntimeSecrets {
    Local(AgentSecrets),
    Bunker(BunkerSecrets),
}

impl RuntimeSecrets {
    /// Opens a runtime envelope that was found with this agent, in this pool. Refuses, by name, what is another's.
    pub fn open(
        sealed_key: &str,
        identity: &PoolIdentity,
        pool_id: &str,
        npub: &Npub,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, VaultError> {
        check_recipient_envelope(sealed_key)?;
        let plaintext = identity.open(sealed_key.trim().as_bytes())?;
        if custody_of(plaintext.expose())? != Custody::Bunker {
            let key = SealedKey::from_plaintext(plaintext.expose())?;
            return AgentSecrets::from_key(&key, pool_id, npub, entropy).map(Self::Local);
        }
        let key = BunkerKey::from_plaintext(plaintext.expose())?;
        if key.npub != *npub {
            return Err(VaultError::OtherAgent { expected: *npub, found: key.npub });
        }
        if key.pool_id != pool_id {
            return Err(VaultError::OtherPool { expected: pool_id.to_owned(), found: key.pool_id });
        }
        Ok(Self::Bunker(BunkerSecrets {
            npub: key.npub,
            owner: key.owner,
            min_policy_version: key.min_policy_version,
            with_state: key.with_state,
            client: Arc::new(LocalSigner::parse(key.client_secret.expose(), entropy)?),
            signer: key.signer,
            relays: key.relays,
            wallet: Mnemonic::parse(key.mnemonic.expose())?.wallet_seed()?,
        }))
    }
}
