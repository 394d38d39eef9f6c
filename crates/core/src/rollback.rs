//! Whether a stored state is the newest that the agent ever had, as far as its own public word goes.
//!
//! After a commit, version and hash of the state are published, signed by the agent (39201). The anchor may lag behind
//! the state, because a commit comes first; it is never ahead of it. So a stored state below any anchor was put back:
//! spending and answers that it does not remember did happen. The agent waits until its owner says which state counts.

use serde::{Deserialize, Serialize};

use crate::id::Hash32;

/// The name under which an agent waits.
pub const STATE_ROLLBACK: &str = "state_rollback";

/// A version of the state and the hash of its ciphertext. Of an anchor, the agent's signature was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    pub version: u64,
    pub digest: Hash32,
}

/// The owner's word that a state which looks older is to be used, from a verified owner command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// The state that is to be used.
    pub state: Mark,
    /// The anchor that it is used in spite of: a later one asks again.
    pub in_spite_of: Mark,
}

/// What is known of the agent's state in the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No anchor is known: a new agent, relays that lost it, or none that answered. Nothing speaks against the state.
    Unanchored,
    /// The stored state is the anchored one.
    Anchored,
    /// The stored state is newer: the anchor lags, and is published again.
    Ahead { by: u64 },
    /// The owner chose the stored state in spite of the anchor.
    Accepted,
}

/// The stored state is not the newest: the agent waits as [`STATE_ROLLBACK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rollback {
    #[error("the stored state is version {}, but the agent published version {}: an older state was put back", .stored.version, .anchor.version)]
    Older { stored: Mark, anchor: Mark },
    /// One version with two contents: a commit was undone and another made in its place.
    #[error("the stored state has version {} like the published one, but another content", .stored.version)]
    Other { stored: Mark, anchor: Mark },
    /// There is no state, though one was published.
    #[error("no state is stored, but the agent published version {}: it was taken away", .anchor.version)]
    Gone { anchor: Mark },
}

impl Rollback {
    /// The anchor that an owner's acceptance has to name.
    pub const fn anchor(&self) -> Mark {
        match self {
            Self::Older { anchor, .. } | Self::Other { anchor, .. } | Self::Gone { anchor } => *anchor,
        }
    }
}

/// Compares the stored state with the anchors that were found, of any relay and in any order. Only the highest counts:
/// relays may keep older ones. Of two anchors of one version, the stored state may be either.
pub fn compare(stored: Option<Mark>, anchors: &[Mark], accepted: Option<Accepted>) -> Result<Standing, Rollback> {
    let Some(highest) = anchors.iter().map(|anchor| anchor.version).max() else { return Ok(Standing::Unanchored) };
    let mut newest: Vec<Mark> = anchors.iter().copied().filter(|anchor| anchor.version == highest).collect();
    newest.sort_by_key(|anchor| anchor.digest);
    let anchor = newest[0];
    let Some(stored) = stored else { return Err(Rollback::Gone { anchor }) };
    let found = if stored.version > highest {
        return Ok(Standing::Ahead { by: stored.version - highest });
    } else if stored.version < highest {
        Rollback::Older { stored, anchor }
    } else if newest.contains(&stored) {
        return Ok(Standing::Anchored);
    } else {
        Rollback::Other { stored, anchor }
    };
    match accepted {
        Some(word) if word.state == stored && newest.contains(&word.in_spite_of) => Ok(Standing::Accepted),
        Some(_) | None => Err(found),
    }
}

/// The version that the next commit gets: above the stored one, and after an acceptance above the anchor too, so that
/// the agent's own later anchors stand above the one that was overruled.
pub fn next_version(stored: Option<Mark>, anchors: &[Mark]) -> u64 {
    let anchored = anchors.iter().map(|anchor| anchor.version).max().unwrap_or(0);
    stored.map_or(0, |stored| stored.version).max(anchored).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn mark(version: u64, content: u8) -> Mark {
        Mark { version, digest: Hash32::from_bytes([content; 32]) }
    }

    #[test]
    fn an_older_state_is_named_and_a_newer_one_is_fine() {
        let anchors = [mark(3, 1), mark(5, 2), mark(4, 9)];
        assert_eq!(compare(Some(mark(5, 2)), &anchors, None), Ok(Standing::Anchored));
        assert_eq!(compare(Some(mark(7, 3)), &anchors, None), Ok(Standing::Ahead { by: 2 }));
        assert_eq!(compare(Some(mark(1, 1)), &[], None), Ok(Standing::Unanchored));
        assert_eq!(compare(None, &[], None), Ok(Standing::Unanchored));
        let older = compare(Some(mark(4, 9)), &anchors, None).unwrap_err();
        assert_eq!(older, Rollback::Older { stored: mark(4, 9), anchor: mark(5, 2) });
        assert!(older.to_string().contains("version 4") && older.to_string().contains("version 5"));
        assert!(matches!(compare(Some(mark(5, 7)), &anchors, None), Err(Rollback::Other { .. })));
        assert_eq!(compare(None, &anchors, None), Err(Rollback::Gone { anchor: mark(5, 2) }));
    }

    #[test]
    fn an_acceptance_is_for_one_state_and_one_anchor() {
        let anchors = [mark(5, 2)];
        let word = |state, in_spite_of| Some(Accepted { state, in_spite_of });
        let stored = mark(3, 1);
        assert_eq!(compare(Some(stored), &anchors, word(stored, mark(5, 2))), Ok(Standing::Accepted));
        assert!(compare(Some(mark(2, 1)), &anchors, word(stored, mark(5, 2))).is_err(), "a state yet older");
        assert!(compare(Some(stored), &anchors, word(stored, mark(4, 2))).is_err());
        let later = [mark(5, 2), mark(6, 3)];
        assert!(compare(Some(stored), &later, word(stored, mark(5, 2))).is_err(), "an anchor that came up later");
        assert!(compare(None, &anchors, word(stored, mark(5, 2))).is_err());
        // What follows an acceptance stands above what it overruled.
        let next = next_version(Some(stored), &anchors);
        assert_eq!(compare(Some(mark(next, 8)), &anchors, None), Ok(Standing::Ahead { by: 1 }));
    }

    proptest! {
        /// Whatever relays have kept of an honest agent's anchors: its newest state passes, and any earlier one is found
        /// as soon as one later anchor is.
        #[test]
        fn relays_that_forget_hide_nothing_of_what_they_kept(
            versions in 1_u64..30, kept in prop::collection::vec(1_u64..30, 0..10), put_back in 1_u64..30,
        ) {
            let content = |version: u64| mark(version, u8::try_from(version).unwrap());
            let anchors: Vec<Mark> = kept.iter().filter(|version| **version <= versions).map(|v| content(*v)).collect();
            prop_assert!(compare(Some(content(versions)), &anchors, None).is_ok());
            let put_back = put_back.min(versions);
            let seen_later = anchors.iter().any(|anchor| anchor.version > put_back);
            prop_assert_eq!(compare(Some(content(put_back)), &anchors, None).is_err(), seen_later);
            let forged = Mark { digest: Hash32::ZERO, ..content(put_back) };
            let seen = anchors.iter().any(|anchor| anchor.version >= put_back);
            prop_assert_eq!(compare(Some(forged), &anchors, None).is_err(), seen);
        }
    }
}
