//! The relay's store: events as they were signed, and their single-letter tags.

use nexus_core::{Hash32, Npub, UnixMs};

use crate::{Result, Statement, Store};

/// Events of one answer at most.
pub const MAX_LIMIT: u32 = 5_000;

/// An event to store; verified by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRelayEvent {
    pub id: Hash32,
    pub pubkey: Npub,
    pub kind: u16,
    /// Seconds since 1970.
    pub created_at: i64,
    /// The `d` tag's value (NIP-01: empty when missing), for addressable kinds only.
    pub d: Option<String>,
    /// Seconds since 1970 (NIP-40).
    pub expires_at: Option<i64>,
    /// Single-letter tags with their first values.
    pub tags: Vec<(char, String)>,
    /// NIP-01 JSON.
    pub json: String,
    pub received_at: UnixMs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayEvent {
    /// Order of arrival.
    pub position: i64,
    pub id: Hash32,
    pub pubkey: Npub,
    pub kind: u16,
    pub created_at: i64,
    pub json: String,
}

/// One NIP-01 filter. Empty lists match everything; lists within one field are alternatives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub ids: Vec<Hash32>,
    pub authors: Vec<Npub>,
    pub kinds: Vec<u16>,
    pub tags: Vec<(char, Vec<String>)>,
    /// Seconds, inclusive.
    pub since: Option<i64>,
    /// Seconds, inclusive.
    pub until: Option<i64>,
    /// [`MAX_LIMIT`] when none or above.
    pub limit: Option<u32>,
}

/// How a kind is kept (NIP-01).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    Regular,
    /// One for each (pubkey, kind).
    Replaceable,
    /// One for each (pubkey, kind, d).
    Addressable,
    /// Never stored.
    Ephemeral,
}

/// NIP-01's ranges.
pub const fn keeping(kind: u16) -> Keeping {
    match kind {
        0 | 3 | 10_000..=19_999 => Keeping::Replaceable,
        20_000..=29_999 => Keeping::Ephemeral,
        30_000..=39_999 => Keeping::Addressable,
        _ => Keeping::Regular,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    Stored,
    Duplicate,
    /// A newer event (or one of the same second with a lower id) holds its place, or its author deleted it.
    Superseded,
}

/// Stores an event and, in the same batch, what else must follow (inbox rows of hosted agents). `also` is not done when
/// the event is a duplicate or superseded.
pub async fn put(store: &Store, event: NewRelayEvent, also: Vec<Statement>) -> Result<Stored> {
    todo!()
}

/// Matching events that have not expired, newest first (NIP-01: by created_at, then lowest id).
pub async fn query(store: &Store, filter: &Filter, now: UnixMs) -> Result<Vec<RelayEvent>> {
    todo!()
}

/// How many match (NIP-45), without their bodies.
pub async fn count(store: &Store, filter: &Filter, now: UnixMs) -> Result<u64> {
    todo!()
}

/// Deletes these events of this author (NIP-09) and remembers their ids, so that they do not come back. Returns how many
/// were there.
pub async fn delete(store: &Store, author: Npub, ids: &[Hash32], now: UnixMs) -> Result<u64> {
    todo!()
}

/// Deletes the author's events at an address up to `until` seconds (NIP-09 `a` tags). Returns how many.
pub async fn delete_address(store: &Store, author: Npub, kind: u16, d: &str, until: i64) -> Result<u64> {
    todo!()
}

/// Deletes events that expired before `now`, at most `limit`. Returns how many.
pub async fn purge_expired(store: &Store, now: UnixMs, limit: u32) -> Result<u64> {
    todo!()
}

/// Stored events and bytes of one author: for quotas.
pub async fn usage(store: &Store, author: Npub) -> Result<(u64, u64)> {
    todo!()
}
