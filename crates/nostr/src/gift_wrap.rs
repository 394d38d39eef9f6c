//! Private messages of NIP-17: a rumor inside a seal inside a gift wrap (NIP-59).
//!
//! The outer event has a fresh id and a blurred time each time it is made. What counts is the rumor: its id, its time,
//! and its author, who must be the seal's.

use nexus_core::time::random;
use nexus_core::{Entropy, Hash32, Npub};
use nexus_seal::{Signer, SignerError};
use nostr::event::{Event, UnsignedEvent};
use nostr::key::{Keys, SecretKey};
use nostr::nips::nip44;

use crate::event::{self, EventError, Head, MAX_EVENT, sign, tag};
use crate::kinds;
use crate::sealed::Sealed;

/// Times are blurred by up to this many seconds into the past. A reader's `since` reaches back further.
pub const BLUR_SECS: i64 = 2 * 86_400;
/// Longest message, in bytes: three layers of encryption must still fit an event.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// Why a message could not be wrapped or unwrapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    #[error(transparent)]
    Event(#[from] EventError),
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error("{0}")]
    Invalid(&'static str),
}

/// A private message, opened.
#[derive(Clone, PartialEq, Eq)]
pub struct Rumor {
    pub id: Hash32,
    pub sender: Npub,
    pub kind: u16,
    /// Seconds; the real time, as the sender says.
    pub created_at: i64,
    /// Whom it is addressed to.
    pub to: Vec<Npub>,
    /// The message it answers.
    pub answers: Option<Hash32>,
    pub text: String,
}

impl std::fmt::Debug for Rumor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rumor").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// The message itself (kind 14): never signed, never published.
pub fn rumor(head: Head, to: &Npub, text: &str, answers: Option<Hash32>) -> UnsignedEvent {
    let mut tags = vec![tag(["p", &to.to_hex()])];
    if let Some(id) = answers {
        tags.push(tag(["e", &id.to_string()]));
    }
    head.unsigned(kinds::DM, tags, text)
}

/// The seal (kind 13) around a ciphertext of the rumor: signed by the sender, at a blurred time, without tags.
pub fn seal(head: Head, ciphertext: &str) -> UnsignedEvent {
    head.unsigned(kinds::SEAL, Vec::new(), ciphertext)
}

/// Some second of the last two days.
pub fn blurred(now: i64, entropy: &dyn Entropy) -> i64 {
    let back = i64::from(u32::from_le_bytes(random(entropy))) % BLUR_SECS;
    now.saturating_sub(back)
}

/// Wraps a signed seal (kind 1059), signed by a key that exists for this event alone.
pub fn wrap(sealed: &Event, to: &Npub, now: i64, entropy: &dyn Entropy) -> Result<Event, WrapError> {
    let secret = SecretKey::from_slice(&random::<32>(entropy)).map_err(|_| WrapError::Invalid("no key was drawn"))?;
    let keys = Keys::new(secret);
    let nonce = nip44::Nonce::V2(random(entropy));
    let ciphertext =
        nip44::encrypt_with_nonce(keys.secret_key(), &event::public_key(to), event::to_json(sealed), nonce)
            .map_err(|_| WrapError::Invalid("the receiver's key is not a key"))?;
    let head = Head::new(event::npub(&keys.public_key()), blurred(now, entropy));
    let wrapped = head.unsigned(kinds::GIFT_WRAP, vec![tag(["p", &to.to_hex()])], ciphertext);
    Ok(sign(wrapped, &keys, &random(entropy))?)
}

/// Seals and wraps a rumor for one receiver, with the sender's key.
pub async fn gift_wrap(
    signer: &dyn Signer,
    rumor: &UnsignedEvent,
    to: &Npub,
    now: i64,
    entropy: &dyn Entropy,
) -> Result<Event, WrapError> {
    if rumor.content.len() > MAX_MESSAGE {
        return Err(WrapError::Invalid("a message of more than 16 KiB"));
    }
    let json = serde_json::to_string(rumor).map_err(|_| WrapError::Invalid("the message is not text"))?;
    let ciphertext = signer.nip44_encrypt(to, &json).await?;
    let head = Head::new(signer.public_key(), blurred(now, entropy));
    let sealed = signer.sign(seal(head, &ciphertext)).await?;
    wrap(&sealed, to, now, entropy)
}

/// The outer layer of a verified gift wrap.
pub fn outer(wrapped: &Event) -> Result<Sealed, EventError> {
    event::expect_kind(wrapped, kinds::GIFT_WRAP)?;
    Ok(Sealed::new(event::npub(&wrapped.pubkey), &wrapped.content))
}

/// The decrypted outer layer: a seal, whose signature is verified here.
pub fn parse_seal(json: &str) -> Result<Event, EventError> {
    let seal = event::parse_event(json.as_bytes())?;
    event::expect_kind(&seal, kinds::SEAL)?;
    Ok(seal)
}

/// The decrypted inner layer: its author must be the seal's, and its id the hash of what it says.
pub fn parse_rumor(seal: &Event, json: &str) -> Result<Rumor, EventError> {
    if json.len() > MAX_EVENT {
        return Err(EventError::TooLarge { size: json.len(), max: MAX_EVENT });
    }
    let rumor: UnsignedEvent = serde_json::from_str(json).map_err(|_| EventError::Malformed)?;
    if rumor.pubkey != seal.pubkey {
        return Err(EventError::Invalid("the message names another author than its seal"));
    }
    rumor.verify_id().map_err(|_| EventError::WrongId)?;
    let p = |name: &str| {
        let rows = rumor.tags.iter().map(|tag| tag.as_slice()).filter(move |row| row[0] == name);
        rows.filter_map(|row| row.get(1)).map(String::as_str).collect::<Vec<_>>()
    };
    Ok(Rumor {
        id: event::hash(&rumor.compute_id()),
        sender: event::npub(&rumor.pubkey),
        kind: rumor.kind.as_u16(),
        created_at: i64::try_from(rumor.created_at.as_secs()).unwrap_or(i64::MAX),
        to: p("p").into_iter().filter_map(|hex| hex.parse().ok()).take(64).collect(),
        answers: p("e").into_iter().find_map(|hex| hex.parse().ok()),
        text: rumor.content.clone(),
    })
}

/// Opens a verified gift wrap as its reader.
pub async fn unwrap(signer: &dyn Signer, wrapped: &Event) -> Result<Rumor, WrapError> {
    let outer = outer(wrapped)?;
    let seal = parse_seal(&signer.nip44_decrypt(&outer.peer, &outer.ciphertext).await?)?;
    let author = event::npub(&seal.pubkey);
    let json = signer.nip44_decrypt(&author, &seal.content).await?;
    Ok(parse_rumor(&seal, &json)?)
}
