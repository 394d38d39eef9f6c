//! Authentication to relays (NIP-42).

use nexus_core::Npub;
use nostr::event::{Event, UnsignedEvent};

use crate::event::{self, EventError, Head, tag};
use crate::kinds;

/// How far the event's time may be off, in seconds.
const WINDOW: i64 = 600;

/// Kind 22242: answers a relay's challenge.
pub fn answer(head: Head, relay: &str, challenge: &str) -> UnsignedEvent {
    head.unsigned(kinds::AUTH, vec![tag(["relay", relay]), tag(["challenge", challenge])], "")
}

/// The relay's side: who authenticated, by an event that is verified here.
///
/// `relay` decides whether a URL names this relay: behind proxies, it has several names.
pub fn check(answer: &Event, challenge: &str, now: i64, relay: impl FnOnce(&str) -> bool) -> Result<Npub, EventError> {
    event::expect_kind(answer, kinds::AUTH)?;
    if event::created_at(answer).abs_diff(now) > WINDOW.unsigned_abs() {
        return Err(EventError::Invalid("created_at is more than 10 minutes off"));
    }
    if event::first(answer, "challenge") != Some(challenge) {
        return Err(EventError::Invalid("another challenge"));
    }
    if !event::first(answer, "relay").is_some_and(relay) {
        return Err(EventError::Invalid("for another relay"));
    }
    event::verify(answer)?;
    Ok(event::npub(&answer.pubkey))
}
