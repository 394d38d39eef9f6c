//! The installation's runner key, as it is stored: closed to the pool.

use std::sync::Arc;

use nexus_core::Entropy;
use nexus_seal::{Recipient, seal_to_recipient};

use crate::error::VaultError;
use crate::identity::PoolIdentity;
use crate::signer::LocalSigner;

/// Says what the envelope is, so that no other thing sealed to the pool passes for it.
const PREFIX: &str = "nexus-runner-key:";

/// Closes the runner key to the pool. Made by the first worker, kept in the database.
pub fn seal_runner_key(runner: &LocalSigner, pool: &Recipient) -> Result<Vec<u8>, VaultError> {
    let nsec = runner.expose_nsec();
    let mut text = zeroize::Zeroizing::new(String::with_capacity(PREFIX.len() + nsec.expose().len()));
    text.push_str(PREFIX);
    text.push_str(nsec.expose());
    Ok(seal_to_recipient(pool, text.as_bytes())?)
}

/// Opens the runner key with the pool's identity. The caller compares its public key with the one on record.
pub fn open_runner_key(
    sealed: &[u8],
    identity: &PoolIdentity,
    entropy: Arc<dyn Entropy>,
) -> Result<LocalSigner, VaultError> {
    let opened = identity.open(sealed)?;
    let text = std::str::from_utf8(opened.expose()).map_err(|_| VaultError::SecretKey)?;
    LocalSigner::parse(text.strip_prefix(PREFIX).ok_or(VaultError::SecretKey)?, entropy)
}
