//! Attended custody: the owner unlocks an agent after each placement, to a key that lives in one worker's memory.
//!
//! The worker makes a fresh X25519 key and signs it with its pool's signing key, which the pool document names and the
//! offline root vouches for: so the client sees that it seals to a worker of the pinned pool and not to whoever answers.
//! The offer is good for 10 minutes and one payload. What was sealed to it cannot be opened later, not even with the
//! pool's identity: the key is gone.

use nexus_core::policy::Custody;
use nexus_core::{Generation, Hash32, Npub, UnixMs};
use nostr::event::{Event, UnsignedEvent};
use serde::{Deserialize, Serialize};

use crate::event::{
    EventError, created_at_secs, event_id, expect_tag, single_tag, tag, timestamp, unsigned, verify_from,
};
use crate::pool::SignedPool;
use crate::recipient::{Recipient, RecipientError, seal_to_recipient_armored};
use crate::sealed_key::{Opened, SealedKey, SealedKeyError, closing};
use crate::secret::to_secret_json;

/// NIP-78 application data. Never published: it goes from worker to client through the API.
pub const OFFER_KIND: u16 = 30_078;
/// Seconds that an offer is good for.
pub const VALID_SECS: i64 = 600;
/// How far the two clocks may differ, in seconds.
pub const SKEW_SECS: i64 = 60;
/// Version of the payload.
pub const UNLOCK_FORMAT: u32 = 1;

/// Why an unlock does not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnlockError {
    #[error("unlock offer: {0}")]
    Event(#[from] EventError),
    #[error("the pool's document names no signing key: its operator has to sign a new document")]
    NoSigner,
    #[error("unlock offer: it is for another pool")]
    OtherPool,
    #[error("unlock offer: its recipient or generation cannot be read")]
    Malformed,
    #[error("unlock offer: made {off_secs} seconds ahead: check the clocks")]
    Ahead { off_secs: i64 },
    #[error("unlock offer: it has expired; ask for a new one")]
    Expired,
    #[error("only an agent in attended custody is unlocked this way")]
    NotAttended,
    #[error("the key is {found}'s, the offer is for {expected}")]
    OtherAgent { expected: Npub, found: Npub },
    #[error("the payload was sealed to another offer")]
    OtherOffer,
    #[error("the payload names another owner than the one who sent it")]
    OtherOwner,
    #[error(transparent)]
    Key(#[from] SealedKeyError),
    #[error(transparent)]
    Recipient(#[from] RecipientError),
}

fn identifier(agent: &Npub) -> String {
    format!("nexus-unlock:{agent}")
}

/// The event for the pool's signing key to sign. `generation` is the one under which the worker holds the agent.
pub fn unsigned_offer(
    signer: &Npub,
    agent: &Npub,
    pool_id: &str,
    recipient: &Recipient,
    generation: Generation,
    now: UnixMs,
) -> UnsignedEvent {
    let until = now.secs().saturating_add(VALID_SECS);
    let tags = vec![
        tag("d", [identifier(agent).as_str()]),
        tag("p", [agent.to_hex().as_str()]),
        tag("pool", [pool_id]),
        tag("recipient", [recipient.as_str()]),
        tag("generation", [generation.0.to_string().as_str()]),
        tag("expiration", [until.to_string().as_str()]),
    ];
    unsigned(signer, OFFER_KIND, timestamp(now), tags, String::new())
}

/// An offer that a worker of the pinned pool made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnlockOffer {
    /// The event's id: what the payload names.
    pub id: Hash32,
    pub agent: Npub,
    pub pool_id: String,
    pub recipient: Recipient,
    pub generation: Generation,
    /// Seconds since 1970.
    pub expires_at: i64,
}

/// The client's side: checks an offer against the pool as it was followed along the pin.
pub fn verify_offer(event: &Event, pool: &SignedPool, agent: &Npub, now: UnixMs) -> Result<UnlockOffer, UnlockError> {
    let signer = pool.document.signer.ok_or(UnlockError::NoSigner)?;
    verify_from(event, OFFER_KIND, &signer)?;
    expect_tag(event, "d", &identifier(agent))?;
    let pool_id = single_tag(event, "pool")?;
    if pool_id != pool.document.pool_id {
        return Err(UnlockError::OtherPool);
    }
    let made_at = created_at_secs(event);
    let off_secs = made_at.saturating_sub(now.secs());
    if off_secs > SKEW_SECS {
        return Err(UnlockError::Ahead { off_secs });
    }
    // The signer's word on how long counts no more than the rule.
    let stated: i64 = single_tag(event, "expiration")?.parse().map_err(|_| UnlockError::Malformed)?;
    let expires_at = stated.min(made_at.saturating_add(VALID_SECS));
    if now.secs() >= expires_at {
        return Err(UnlockError::Expired);
    }
    let generation = single_tag(event, "generation")?.parse().map_err(|_| UnlockError::Malformed)?;
    Ok(UnlockOffer {
        id: event_id(event),
        agent: *agent,
        pool_id: pool_id.to_owned(),
        recipient: single_tag(event, "recipient")?.parse().map_err(|_| UnlockError::Malformed)?,
        generation: Generation(generation),
        expires_at,
    })
}

/// What an owner who wants to unlock is told: `GET /v1/agents/{npub}/unlock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// Nothing is to be done.
    pub unlocked: bool,
    /// To seal to; none when it is unlocked.
    pub offer: Option<Event>,
}

/// The body of `POST /v1/agents/{npub}/unlock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unlock {
    /// What [`seal_unlock`] gave: an armored age file.
    pub sealed: String,
}

/// Kinds of what control asks the agent's worker for.
pub const ASK_OFFER: &str = "unlock_offer";
pub const ASK_UNLOCK: &str = "unlock";

/// The path of both calls: what the owner's command is signed for.
pub fn path(agent: &Npub) -> String {
    format!("/v1/agents/{agent}/unlock")
}

#[derive(Serialize)]
struct Closing<'a, K> {
    unlock: u32,
    offer: &'a Hash32,
    key: K,
}

/// Closes the runtime envelope's content to an offer: an armored age file for the body of the unlock call.
pub fn seal_unlock(offer: &UnlockOffer, key: &SealedKey, now: UnixMs) -> Result<String, UnlockError> {
    if key.custody != Custody::Attended {
        return Err(UnlockError::NotAttended);
    }
    if key.npub != offer.agent {
        return Err(UnlockError::OtherAgent { expected: offer.agent, found: key.npub });
    }
    if key.pool_id != offer.pool_id {
        return Err(UnlockError::OtherPool);
    }
    if now.secs() >= offer.expires_at {
        return Err(UnlockError::Expired);
    }
    let payload = Closing { unlock: UNLOCK_FORMAT, offer: &offer.id, key: closing(key) };
    let plaintext = to_secret_json(&payload).map_err(|error| RecipientError::Failed(error.to_string()))?;
    Ok(seal_to_recipient_armored(&offer.recipient, &plaintext)?)
}

/// Reads the plaintext of a payload that the vault opened, and checks that it was sealed to this very offer.
pub fn read_unlock(plaintext: &[u8], offer: &Hash32) -> Result<SealedKey, UnlockError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Payload {
        unlock: u32,
        offer: Hash32,
        key: Opened,
    }
    let opened: Payload = serde_json::from_slice(plaintext).map_err(|_| SealedKeyError::Malformed)?;
    if opened.unlock != UNLOCK_FORMAT {
        return Err(SealedKeyError::Format { found: opened.unlock }.into());
    }
    if opened.offer != *offer {
        return Err(UnlockError::OtherOffer);
    }
    let key = opened.key.key()?;
    if key.custody == Custody::Attended { Ok(key) } else { Err(UnlockError::NotAttended) }
}
