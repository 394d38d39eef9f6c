//! What an operator does with the offline root key.

use nexus_core::UnixMs;
use nexus_seal::event::timestamp;
use nexus_seal::pool::{POOL_FORMAT, unsigned_pool, unsigned_successor};
use nexus_seal::{PoolDocument, SignedPool, Signer};
use nostr::event::Event;

use crate::error::VaultError;
use crate::identity::PoolIdentity;

/// Makes and signs a pool's first document.
pub async fn sign_first_pool(
    root: &dyn Signer,
    pool_id: &str,
    identity: &PoolIdentity,
    now: UnixMs,
) -> Result<Event, VaultError> {
    let document = PoolDocument {
        format: POOL_FORMAT,
        pool_id: pool_id.to_owned(),
        recipients: identity.recipients(),
        signer: Some(identity.signing_key()?),
        valid_from: now.secs(),
        previous: None,
    };
    let event = unsigned_pool(&root.public_key(), &document, timestamp(now))?;
    Ok(root.sign(event).await?)
}

/// Makes and signs the document after `before`, with the identity's recipients.
pub async fn sign_successor(
    root: &dyn Signer,
    before: &SignedPool,
    identity: &PoolIdentity,
    now: UnixMs,
) -> Result<Event, VaultError> {
    let event = unsigned_successor(before, identity.recipients(), Some(identity.signing_key()?), now)?;
    Ok(root.sign(event).await?)
}
