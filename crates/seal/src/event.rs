//! Nostr events at the boundary: nothing is believed before id and signature are checked.

use nexus_core::{Hash32, Npub, UnixMs};
use nostr::event::{Event, Kind, Tag, UnsignedEvent};
use nostr::key::PublicKey;
use nostr::types::Timestamp;

/// Largest event text that is parsed, in bytes: what relays take.
pub const MAX_EVENT_BYTES: usize = 128 * 1024;

/// Why an event is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("not a Nostr event")]
    Malformed,
    #[error("the event is larger than {MAX_EVENT_BYTES} bytes")]
    TooLarge,
    #[error("the event's id is not the hash of its content")]
    Id,
    #[error("the event's signature is not its author's")]
    Signature,
    #[error("kind {found} where kind {expected} belongs")]
    Kind { expected: u16, found: u16 },
    #[error("signed by {found}, must be signed by {expected}")]
    Author { expected: Npub, found: Npub },
    #[error("the event needs exactly one `{0}` tag")]
    Tag(&'static str),
    #[error("the event's `{tag}` tag is not {expected}")]
    TagValue { tag: &'static str, expected: String },
}

/// The key of an event's author.
pub fn npub_of(key: &PublicKey) -> Npub {
    Npub::from_bytes(*key.as_bytes())
}

/// The key as the `nostr` crate has it.
pub fn public_key(npub: &Npub) -> PublicKey {
    PublicKey::from_byte_array(*npub.as_bytes())
}

/// An event's id.
pub fn event_id(event: &Event) -> Hash32 {
    Hash32::from_bytes(event.id.to_bytes())
}

/// A moment as an event's `created_at`, in whole seconds.
pub fn timestamp(now: UnixMs) -> Timestamp {
    Timestamp::from_secs(u64::try_from(now.secs()).unwrap_or(0))
}

/// An event's `created_at`, in seconds.
pub fn created_at_secs(event: &Event) -> i64 {
    i64::try_from(event.created_at.as_secs()).unwrap_or(i64::MAX)
}

/// An event to be signed.
pub fn unsigned(author: &Npub, kind: u16, created_at: Timestamp, tags: Vec<Tag>, content: String) -> UnsignedEvent {
    UnsignedEvent::new(public_key(author), created_at, Kind::from_u16(kind), tags, content)
}

/// A tag of any name.
pub fn tag<const N: usize>(name: &str, values: [&str; N]) -> Tag {
    Tag::custom(name, values)
}

/// Parses an event and checks id and signature.
pub fn parse_verified(json: &[u8]) -> Result<Event, EventError> {
    if json.len() > MAX_EVENT_BYTES {
        return Err(EventError::TooLarge);
    }
    let event: Event = serde_json::from_slice(json).map_err(|_| EventError::Malformed)?;
    verify(&event)?;
    Ok(event)
}

/// Checks an event's id and signature.
pub fn verify(event: &Event) -> Result<(), EventError> {
    if !event.verify_id() {
        return Err(EventError::Id);
    }
    if event.verify_signature() { Ok(()) } else { Err(EventError::Signature) }
}

/// Checks kind and author, then id and signature.
pub fn verify_from(event: &Event, kind: u16, author: &Npub) -> Result<(), EventError> {
    if event.kind.as_u16() != kind {
        return Err(EventError::Kind { expected: kind, found: event.kind.as_u16() });
    }
    let found = npub_of(&event.pubkey);
    if found != *author {
        return Err(EventError::Author { expected: *author, found });
    }
    verify(event)
}

/// The value of a tag that must be there exactly once.
pub fn single_tag<'a>(event: &'a Event, name: &'static str) -> Result<&'a str, EventError> {
    let mut values = event.tags.iter().filter(|tag| tag.kind() == name);
    match (values.next(), values.next()) {
        (Some(tag), None) => tag.content().ok_or(EventError::Tag(name)),
        (_, _) => Err(EventError::Tag(name)),
    }
}

/// Checks that a tag is there exactly once, with this value.
pub fn expect_tag(event: &Event, name: &'static str, expected: &str) -> Result<(), EventError> {
    if single_tag(event, name)? == expected {
        Ok(())
    } else {
        Err(EventError::TagValue { tag: name, expected: expected.to_owned() })
    }
}
