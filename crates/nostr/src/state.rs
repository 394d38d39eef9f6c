//! The state in public (39201, `d` = `state`): by default only an anchor, an agent-signed commitment to the private
//! state by version and hash; where the owner chose so, the state itself, encrypted to the agent.

use nexus_core::Hash32;
use nostr::event::{Event, UnsignedEvent};

use crate::event::{self, EventError, Head, tag};
use crate::sealed::Sealed;
use crate::{kinds, series};

/// Largest state that is published, in bytes of JSON: relays take events of 64 KiB, and NIP-44 pads.
pub const MAX_PUBLISHED: usize = 40_960;

/// A version of the state and the digest of its ciphertext. It says nothing about what is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    pub version: u64,
    pub digest: Hash32,
}

/// Kind 39201, `d` = `state`, without content.
pub fn anchor(head: Head, anchor: Anchor) -> UnsignedEvent {
    head.unsigned(kinds::STATE, anchor_tags(anchor), "")
}

fn anchor_tags(anchor: Anchor) -> Vec<nostr::event::Tag> {
    vec![
        tag(["d", "state"]),
        tag(["state_version", "1"]),
        tag(["version", &anchor.version.to_string()]),
        tag(["x", &anchor.digest.to_string()]),
    ]
}

/// Kind 39201 with the state in it: at most [`MAX_PUBLISHED`] bytes of JSON, encrypted by the agent to itself (NIP-44).
/// It is an anchor as well.
pub fn sealed_state(head: Head, at: Anchor, ciphertext: &str) -> UnsignedEvent {
    let mut tags = anchor_tags(at);
    tags.push(tag(["encrypted"]));
    head.unsigned(kinds::STATE, tags, ciphertext)
}

/// Reads an anchor. A 39201 that carries encrypted state without a hash is none.
pub fn read_anchor(event: &Event) -> Result<Anchor, EventError> {
    event::expect_kind(event, kinds::STATE)?;
    series::expect_identifier(event, "state", "not a state")?;
    let version = event::first(event, "version").and_then(|text| text.parse().ok());
    let digest = event::first(event, "x").and_then(|text| text.parse().ok());
    match (version, digest) {
        (Some(version), Some(digest)) => Ok(Anchor { version, digest }),
        _ => Err(EventError::Invalid("no anchor")),
    }
}

/// Reads the encrypted state of either series, to be opened with the agent's own key. What is inside is whatever the
/// agent's earlier runner kept there: OpenAgents' has `wallet_balance_sats` and `budget`.
pub fn read_sealed_state(event: &Event) -> Result<Sealed, EventError> {
    series::expect(event, kinds::STATE)?;
    series::expect_identifier(event, "state", "not a state")?;
    if event.content.is_empty() {
        return Err(EventError::Invalid("no encrypted state"));
    }
    Ok(Sealed::new(event::npub(&event.pubkey), &event.content))
}
