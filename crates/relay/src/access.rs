//! Who may read and write what.

use std::collections::HashSet;

use nexus_core::Npub;
use nexus_nostr::{event, kinds};
use nostr::event::{Event, Kind};
use nostr::filter::Filter;

/// Kinds that only their reader gets to see, and for kind 4 their author: NIP-17 asks relays for it.
pub(crate) const PRIVATE: [u16; 2] = [kinds::LEGACY_DM, kinds::GIFT_WRAP];

/// Whether a connection that authenticated as `keys` may see an event.
pub(crate) fn may_read(event: &Event, keys: &HashSet<Npub>) -> bool {
    if !PRIVATE.contains(&event.kind.as_u16()) {
        return true;
    }
    if keys.is_empty() {
        return false;
    }
    let own = event.kind.as_u16() == kinds::LEGACY_DM && keys.contains(&event::npub(&event.pubkey));
    own || event::mentioned(event, nexus_nostr::trigger::MAX_TARGETS).iter().any(|key| keys.contains(key))
}

/// Whether a filter asks for private messages by name: then the relay has to know who asks.
pub(crate) fn asks_for_private(filter: &Filter) -> bool {
    let private =
        |kinds: &std::collections::BTreeSet<Kind>| PRIVATE.iter().any(|kind| kinds.contains(&Kind::from_u16(*kind)));
    filter.kinds.as_ref().is_some_and(private)
}

/// What is known about the keys of an event.
#[derive(Debug, Default)]
pub(crate) struct Parties {
    /// The author is an agent that lives here.
    pub(crate) from_agent: bool,
    /// The author is a member of an account.
    pub(crate) from_owner: bool,
    /// An agent or a member is named in a `p` tag.
    pub(crate) to_us: bool,
    /// The author is a provider on the list.
    pub(crate) from_provider: bool,
    /// The author deletes events of its own that are stored here.
    pub(crate) deletes_own: bool,
}

/// Whether a relay that is not open to all takes an event of these parties.
pub(crate) fn may_write(kind: u16, parties: &Parties) -> bool {
    let provider_kind = matches!(
        kind,
        kinds::METADATA | kinds::RELAY_LIST | kinds::HANDLER | kinds::JOB_TEXT_RESULT | kinds::JOB_FEEDBACK
    );
    parties.from_agent
        || parties.from_owner
        || parties.to_us
        || (parties.from_provider && provider_kind)
        || (parties.deletes_own && kind == kinds::DELETION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_write_to_us_or_not_at_all() {
        let nobody = Parties::default();
        let to_us = Parties { to_us: true, ..Parties::default() };
        let provider = Parties { from_provider: true, ..Parties::default() };
        for kind in [0, 1, 4, 5, 1_059, 7_000, 24_133, 31_990] {
            assert!(!may_write(kind, &nobody), "{kind}");
            assert!(may_write(kind, &to_us), "{kind}");
        }
        for kind in [0, 10_002, 31_990, 6_050, 7_000] {
            assert!(may_write(kind, &provider), "{kind}");
        }
        assert!(!may_write(1, &provider));
        assert!(may_write(5, &Parties { deletes_own: true, ..Parties::default() }));
        assert!(!may_write(1, &Parties { deletes_own: true, ..Parties::default() }));
    }
}
