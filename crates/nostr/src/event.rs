//! Reading events from outside, and the head that every event we write begins with.
//!
//! An event is believed only after its id was hashed and its signature verified here, whatever a relay says.

use nexus_core::{Hash32, Npub};
use nostr::event::{Event, EventId, Kind, Tag, UnsignedEvent};
use nostr::key::{Keys, PublicKey};
use nostr::types::Timestamp;

/// Largest event that is read or sent, in bytes of JSON: what most relays take.
pub const MAX_EVENT: usize = 64 * 1024;
/// Most tags of an event that is read.
pub const MAX_TAGS: usize = 2_048;

/// Why bytes are not an event that can be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("event of {size} bytes: at most {max}")]
    TooLarge { size: usize, max: usize },
    #[error("not a Nostr event")]
    Malformed,
    #[error("the id is not the hash of the event")]
    WrongId,
    #[error("the signature does not verify")]
    WrongSignature,
    #[error("expected kind {expected}, found {found}")]
    WrongKind { expected: u16, found: u16 },
    #[error("{0}")]
    Invalid(&'static str),
}

/// Reads and verifies one event of at most [`MAX_EVENT`] bytes.
pub fn parse_event(json: &[u8]) -> Result<Event, EventError> {
    let event = decode_event(json, MAX_EVENT)?;
    verify(&event)?;
    Ok(event)
}

/// Reads one event without believing it: the caller calls [`verify`] before acting on it.
pub fn decode_event(json: &[u8], max: usize) -> Result<Event, EventError> {
    if json.len() > max {
        return Err(EventError::TooLarge { size: json.len(), max });
    }
    let event: Event = serde_json::from_slice(json).map_err(|_| EventError::Malformed)?;
    check_shape(&event)?;
    Ok(event)
}

/// The bounds that hold for every event we handle: tags within [`MAX_TAGS`], a time that fits a `BIGINT`.
pub fn check_shape(event: &Event) -> Result<(), EventError> {
    if event.tags.len() > MAX_TAGS {
        return Err(EventError::Invalid("too many tags"));
    }
    if i64::try_from(event.created_at.as_secs()).is_err() {
        return Err(EventError::Invalid("created_at is out of range"));
    }
    Ok(())
}

/// Hashes the event and verifies its signature (NIP-01, BIP-340).
pub fn verify(event: &Event) -> Result<(), EventError> {
    if !event.verify_id() {
        return Err(EventError::WrongId);
    }
    if event.verify_signature() { Ok(()) } else { Err(EventError::WrongSignature) }
}

/// Refuses an event of another kind.
pub fn expect_kind(event: &Event, expected: u16) -> Result<(), EventError> {
    let found = event.kind.as_u16();
    if found == expected { Ok(()) } else { Err(EventError::WrongKind { expected, found }) }
}

/// What a relay keeps of a kind (NIP-01).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// All of them.
    Regular,
    /// The newest of an author and kind.
    Replaceable,
    /// The newest of an author, kind and `d` tag.
    Addressable,
    /// None.
    Ephemeral,
}

impl Retention {
    pub const fn of(kind: u16) -> Self {
        match kind {
            0 | 3 | 10_000..=19_999 => Self::Replaceable,
            20_000..=29_999 => Self::Ephemeral,
            30_000..=39_999 => Self::Addressable,
            _ => Self::Regular,
        }
    }
}

/// Author and time of an event to be built. Nothing here reads a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub author: Npub,
    /// Seconds since 1970. Strictly increasing for each address; below zero counts as zero.
    pub created_at: i64,
}

impl Head {
    pub const fn new(author: Npub, created_at: i64) -> Self {
        Self { author, created_at }
    }

    /// An unsigned event with its id computed.
    pub fn unsigned(self, kind: u16, tags: Vec<Tag>, content: impl Into<String>) -> UnsignedEvent {
        let at = Timestamp::from_secs(u64::try_from(self.created_at).unwrap_or(0));
        let mut event = UnsignedEvent::new(public_key(&self.author), at, Kind::from_u16(kind), tags, content);
        event.ensure_id();
        event
    }
}

/// Signs with a key at hand; `aux` is fresh randomness (BIP-340).
pub fn sign(unsigned: UnsignedEvent, keys: &Keys, aux: &[u8; 32]) -> Result<Event, EventError> {
    let id = unsigned.id.unwrap_or_else(|| unsigned.compute_id());
    let signature = keys.sign_schnorr_with_aux_rand(secp256k1::SECP256K1, id.as_bytes(), aux);
    unsigned.add_signature(signature).map_err(|_| EventError::WrongSignature)
}

/// The strictly increasing time for an address: `now`, or one more than the last one used. Seconds.
pub const fn next_created_at(now: i64, last: Option<i64>) -> i64 {
    match last {
        Some(last) if last >= now => last.saturating_add(1),
        Some(_) | None => now,
    }
}

/// A tag of these values; the first is its name.
pub fn tag<const N: usize>(values: [&str; N]) -> Tag {
    let mut values = values.into_iter();
    let name = values.next().unwrap_or_default();
    Tag::custom(name, values)
}

/// The second value of the first tag of this name.
pub fn first<'a>(event: &'a Event, name: &str) -> Option<&'a str> {
    values(event, name).next()
}

/// The second value of each tag of this name.
pub fn values<'a>(event: &'a Event, name: &str) -> impl Iterator<Item = &'a str> {
    rows(event, name).filter_map(|row| row.get(1)).map(String::as_str)
}

/// Each tag of this name as its list of strings, name included.
pub fn rows<'a>(event: &'a Event, name: &str) -> impl Iterator<Item = &'a [String]> {
    event.tags.iter().map(Tag::as_slice).filter(move |row| row.first().is_some_and(|first| first == name))
}

/// The keys named in `p` tags, in order, without repetition, at most `max`.
pub fn mentioned(event: &Event, max: usize) -> Vec<Npub> {
    let mut found = Vec::new();
    for key in values(event, "p").filter(|hex| hex.len() == 64).filter_map(|hex| hex.parse().ok()) {
        if found.len() == max {
            break;
        }
        if !found.contains(&key) {
            found.push(key);
        }
    }
    found
}

pub fn npub(key: &PublicKey) -> Npub {
    Npub::from_bytes(key.to_bytes())
}

/// The same 32 bytes; whether they are a point is checked where a signature is.
pub fn public_key(npub: &Npub) -> PublicKey {
    PublicKey::from_byte_array(*npub.as_bytes())
}

pub fn hash(id: &EventId) -> Hash32 {
    Hash32::from_bytes(id.to_bytes())
}

pub fn event_id(hash: Hash32) -> EventId {
    EventId::from_byte_array(*hash.as_bytes())
}

/// The event's time in seconds.
pub fn created_at(event: &Event) -> i64 {
    i64::try_from(event.created_at.as_secs()).unwrap_or(i64::MAX)
}

/// When the event expires (NIP-40), in seconds.
pub fn expiration(event: &Event) -> Option<i64> {
    first(event, "expiration")?.parse().ok()
}

/// The event as JSON, the form it is journaled, stored and sent in.
pub fn to_json(event: &Event) -> String {
    serde_json::to_string(event).unwrap_or_default()
}
