//! Reading what is stored, for one filter of a subscription, a page at a time.

use std::collections::HashSet;

use nexus_core::{Npub, UnixMs};
use nexus_nostr::event;
use nexus_store::relay_event::{self, RelayEvent};
use nexus_store::{Store, StoreError};
use nostr::event::Event;
use nostr::filter::Filter;

use crate::access;

/// Events of one page: what a slow reader keeps in our memory is not all of its answer.
const PAGE: u32 = 64;
/// Pages of one filter, over those that its results need: private messages of others may fill some.
const SPARE_PAGES: u32 = 8;

/// A walk through the stored events of one filter, newest first.
pub(crate) struct Stored {
    query: relay_event::Filter,
    /// Events still wanted.
    left: u32,
    pages_left: u32,
}

impl Stored {
    /// At most `max` events; none at all when a list of the filter is empty, which matches nothing (NIP-01).
    pub(crate) fn new(filter: &Filter, keys: &HashSet<Npub>, max: u32) -> Option<Self> {
        let mut query = to_query(filter)?;
        if keys.is_empty() {
            query.not_kinds = access::PRIVATE.to_vec();
        }
        let left = query.limit.unwrap_or(max).min(max);
        let pages_left = left.div_ceil(PAGE) + SPARE_PAGES;
        (left > 0).then_some(Self { query, left, pages_left })
    }

    /// The next events that `keys` may see, perhaps none yet; `None` when there are no more.
    pub(crate) async fn next(
        &mut self,
        store: &Store,
        keys: &HashSet<Npub>,
        now: UnixMs,
    ) -> Result<Option<Vec<(Event, String)>>, StoreError> {
        if self.left == 0 || self.pages_left == 0 {
            return Ok(None);
        }
        self.pages_left -= 1;
        self.query.limit = Some(PAGE);
        let rows = relay_event::query(store, &self.query, now).await?;
        if rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
            self.pages_left = 0;
        }
        self.query.after = rows.last().map(|oldest| (oldest.created_at, oldest.id));
        let mut found: Vec<(Event, String)> = rows.into_iter().filter_map(|row| readable(row, keys)).collect();
        found.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= u32::try_from(found.len()).unwrap_or(self.left);
        Ok(Some(found))
    }
}

/// The row as an event, if these keys may see it. Our own rows were verified when they came.
fn readable(row: RelayEvent, keys: &HashSet<Npub>) -> Option<(Event, String)> {
    let event = event::decode_event(row.json.as_bytes(), usize::MAX).ok()?;
    access::may_read(&event, keys).then_some((event, row.json))
}

/// The store's question; none when a list is empty.
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
        ..relay_event::Filter::default()
    })
}
