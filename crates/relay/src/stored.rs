//! Reading what is stored, for one subscription.

use std::collections::HashSet;

use nexus_core::{Npub, UnixMs};
use nexus_nostr::event;
use nexus_store::relay_event::{self, RelayEvent};
use nexus_store::{Store, StoreError};
use nostr::event::Event;
use nostr::filter::Filter;

use crate::access;

/// Pages that are read for one filter when private messages of others fill them.
const MAX_PAGES: usize = 4;

/// The stored events of one filter that `keys` may see, newest first, at most `max`.
pub(crate) async fn find(
    store: &Store,
    filter: &Filter,
    keys: &HashSet<Npub>,
    max: u32,
    now: UnixMs,
) -> Result<Vec<(Event, String)>, StoreError> {
    let Some(mut query) = to_query(filter) else { return Ok(Vec::new()) };
    let wanted = query.limit.unwrap_or(max).min(max);
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let mut found: Vec<(Event, String)> = Vec::new();
    let mut seen = HashSet::new();
    let some_are_private = filter.kinds.is_none() || access::asks_for_private(filter);
    let page_size = if some_are_private { max } else { wanted };
    query.limit = Some(page_size);
    for _ in 0..MAX_PAGES {
        let page = relay_event::query(store, &query, now).await?;
        let full = page.len() >= usize::try_from(page_size).unwrap_or(usize::MAX);
        query.until = page.last().map(|oldest| oldest.created_at);
        for row in page.into_iter().filter(|row| seen.insert(row.id)) {
            if let Some(event) = readable(&row, keys) {
                found.push((event, row.json));
            }
            if found.len() >= usize::try_from(wanted).unwrap_or(usize::MAX) {
                return Ok(found);
            }
        }
        if !full {
            break;
        }
    }
    Ok(found)
}

/// The row as an event, if these keys may see it. Our own rows were verified when they came.
fn readable(row: &RelayEvent, keys: &HashSet<Npub>) -> Option<Event> {
    let event = event::decode_event(row.json.as_bytes(), usize::MAX).ok()?;
    access::may_read(&event, keys).then_some(event)
}

/// The store's question; none when a list is empty, which matches nothing (NIP-01).
fn to_query(filter: &Filter) -> Option<relay_event::Filter> {
    let empty = filter.ids.as_ref().is_some_and(|list| list.is_empty())
        || filter.authors.as_ref().is_some_and(|list| list.is_empty())
        || filter.kinds.as_ref().is_some_and(|list| list.is_empty())
        || filter.generic_tags.values().any(|list| list.is_empty());
    if empty {
        return None;
    }
    let seconds = |at: nostr::types::Timestamp| i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    Some(relay_event::Filter {
        ids: filter.ids.iter().flatten().map(event::hash).collect(),
        authors: filter.authors.iter().flatten().map(event::npub).collect(),
        kinds: filter.kinds.iter().flatten().map(|kind| kind.as_u16()).collect(),
        tags: filter.generic_tags.iter().map(|(name, list)| (name.as_char(), list.iter().cloned().collect())).collect(),
        since: filter.since.map(seconds),
        until: filter.until.map(seconds),
        limit: filter.limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
    })
}
