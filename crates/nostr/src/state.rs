//! The state anchor (39201): a public, agent-signed commitment to the private state, by version and hash.

use nexus_core::Hash32;
use nostr::event::{Event, UnsignedEvent};

use crate::event::{self, EventError, Head, tag};
use crate::kinds;

/// A version of the state and the digest of its ciphertext. It says nothing about what is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    pub version: u64,
    pub digest: Hash32,
}

/// Kind 39201, `d` = `state`, without content.
pub fn anchor(head: Head, anchor: Anchor) -> UnsignedEvent {
    let tags = vec![
        tag(["d", "state"]),
        tag(["state_version", "1"]),
        tag(["version", &anchor.version.to_string()]),
        tag(["x", &anchor.digest.to_string()]),
    ];
    head.unsigned(kinds::STATE, tags, "")
}

/// Reads an anchor. A 39201 that carries encrypted state instead of a hash is none.
pub fn read_anchor(event: &Event) -> Result<Anchor, EventError> {
    event::expect_kind(event, kinds::STATE)?;
    let version = event::first(event, "version").and_then(|text| text.parse().ok());
    let digest = event::first(event, "x").and_then(|text| text.parse().ok());
    match (version, digest) {
        (Some(version), Some(digest)) => Ok(Anchor { version, digest }),
        _ => Err(EventError::Invalid("no anchor")),
    }
}
