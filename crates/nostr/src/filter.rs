//! Matching events against filters, as NIP-01 has it: an empty list matches nothing.

use nostr::event::Event;
use nostr::filter::Filter;

/// Whether any of the filters matches.
pub fn any(filters: &[Filter], event: &Event) -> bool {
    filters.iter().any(|filter| matches(filter, event))
}

/// Whether an event passes a filter, its `limit` and `search` aside. Cheap tests come first, and nothing is allocated.
pub fn matches(filter: &Filter, event: &Event) -> bool {
    filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
        && filter.since.is_none_or(|since| event.created_at >= since)
        && filter.until.is_none_or(|until| event.created_at <= until)
        && filter.authors.as_ref().is_none_or(|authors| authors.contains(&event.pubkey))
        && filter.ids.as_ref().is_none_or(|ids| ids.contains(&event.id))
        && filter.generic_tags.iter().all(|(letter, wanted)| {
            event.tags.iter().any(|tag| {
                tag.single_letter_tag() == Some(*letter) && tag.content().is_some_and(|value| wanted.contains(value))
            })
        })
}
