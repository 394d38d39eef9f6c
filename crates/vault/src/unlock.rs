//! The worker's side of attended custody: an ephemeral key that waits for its owner.

use std::fmt;
use std::sync::Arc;

use nexus_core::{Entropy, Generation, Hash32, Npub, UnixMs};
use nexus_seal::check_recipient_envelope;
use nexus_seal::event::event_id;
use nexus_seal::unlock::{UnlockError, VALID_SECS, read_unlock, unsigned_offer};
use nostr::event::Event;

use crate::agent::AgentSecrets;
use crate::error::VaultError;
use crate::identity::{Ephemeral, PoolIdentity};

/// A key in this worker's memory that one payload can be sealed to. Dropped with the agent, and gone after one use.
pub struct UnlockSlot {
    agent: Npub,
    pool_id: String,
    offer: Hash32,
    expires_at: UnixMs,
    key: Option<Ephemeral>,
}

impl fmt::Debug for UnlockSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnlockSlot").field("agent", &self.agent).field("offer", &self.offer).finish_non_exhaustive()
    }
}

impl UnlockSlot {
    /// Whether a payload that is sealed to it now will be taken: not used, and good for another minute.
    pub fn is_open(&self, now: UnixMs) -> bool {
        self.key.is_some() && now.plus_ms(60_000) < self.expires_at
    }

    /// Makes a key and the offer of it, signed by the pool, for the agent that this worker holds under `generation`.
    pub fn open(
        identity: &PoolIdentity,
        pool_id: &str,
        agent: &Npub,
        generation: Generation,
        now: UnixMs,
        entropy: Arc<dyn Entropy>,
    ) -> Result<(Self, Event), VaultError> {
        let key = Ephemeral::generate(&*entropy);
        let offer = unsigned_offer(&identity.signing_key()?, agent, pool_id, &key.recipient(), generation, now);
        let offer = identity.signer(entropy)?.sign_now(offer)?;
        let slot = Self {
            agent: *agent,
            pool_id: pool_id.to_owned(),
            offer: event_id(&offer),
            expires_at: now.plus_ms(VALID_SECS * 1_000),
            key: Some(key),
        };
        Ok((slot, offer))
    }

    /// Takes the payload that `sender` signed for. What does not open, or names another owner, leaves the slot as it is,
    /// so that a stranger cannot use it up; the first that fits ends it.
    pub fn take(
        &mut self,
        sealed: &str,
        sender: &Npub,
        now: UnixMs,
        entropy: Arc<dyn Entropy>,
    ) -> Result<AgentSecrets, VaultError> {
        if now >= self.expires_at {
            self.key = None;
        }
        let Some(key) = &self.key else { return Err(UnlockError::Expired.into()) };
        check_recipient_envelope(sealed)?;
        let plaintext = key.open(sealed.trim().as_bytes())?;
        let payload = read_unlock(plaintext.expose(), &self.offer)?;
        if payload.owner != *sender {
            return Err(UnlockError::OtherOwner.into());
        }
        let secrets = AgentSecrets::from_key(&payload, &self.pool_id, &self.agent, entropy)?;
        self.key = None;
        Ok(secrets)
    }
}
