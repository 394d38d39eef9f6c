//! A subscription's place at one relay, and what it remembers.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nexus_seal::Signer;
use nostr::event::{Event, EventId, Kind};
use nostr::filter::Filter;
use nostr::types::Timestamp;
use tokio::sync::mpsc;

use super::Notice;
use crate::{event, filter, kinds};

/// Ids that a subscription remembers, to deliver each event once.
const MAX_SEEN: usize = 8_192;
/// What a relay is asked again after a reconnect, in seconds before it was last heard.
const OVERLAP: i64 = 3_600;
/// Gift wraps carry times up to two days back.
const WRAPS_REACH: i64 = 3 * 86_400;

/// What all places of one subscription share.
pub(super) struct Shared {
    pub(super) id: u64,
    pub(super) filters: Vec<Filter>,
    pub(super) auth: Vec<Arc<dyn Signer>>,
    /// Set when something did not fit the queue: the subscriber asks for it once it has caught up.
    pub(super) lagged: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    ids: HashSet<EventId>,
    order: VecDeque<EventId>,
}

impl Shared {
    pub(super) fn new(id: u64, filters: Vec<Filter>, auth: Vec<Arc<dyn Signer>>, now: i64) -> Self {
        let filters = filters.into_iter().map(|filter| first_request(filter, now)).collect();
        Self { id, filters, auth, lagged: AtomicBool::new(false), seen: Mutex::default() }
    }

    fn has_seen(&self, id: &EventId) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).ids.contains(id)
    }

    /// Remembers an id; false if it was known.
    fn remember(&self, id: EventId) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.ids.insert(id) {
            return false;
        }
        seen.order.push_back(id);
        if seen.order.len() > MAX_SEEN
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.ids.remove(&oldest);
        }
        true
    }

    fn forget(&self, id: &EventId) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.ids.remove(id);
        seen.order.retain(|known| known != id);
    }
}

/// A subscription at one relay.
pub(super) struct Seat {
    pub(super) shared: Arc<Shared>,
    pub(super) notices: mpsc::Sender<Notice>,
    /// When the relay last said that it had sent all, in seconds.
    pub(super) heard: Option<i64>,
    /// Something was lost for want of room.
    pub(super) lagged: bool,
    /// The subscriber was told that the relay cannot be reached.
    pub(super) told_down: bool,
    /// The relay wants to know who asks, and is about to.
    pub(super) awaiting_auth: bool,
    /// The relay ended the subscription, and the subscriber knows.
    pub(super) closed: bool,
}

impl Seat {
    pub(super) fn new(shared: Arc<Shared>, notices: mpsc::Sender<Notice>) -> Self {
        let (heard, lagged, told_down, awaiting_auth, closed) = (None, false, false, false, false);
        Self { shared, notices, heard, lagged, told_down, awaiting_auth, closed }
    }

    /// The name of the subscription on the wire.
    pub(super) fn name(&self) -> String {
        self.shared.id.to_string()
    }

    /// Whether the subscriber is gone.
    pub(super) fn abandoned(&self) -> bool {
        self.notices.is_closed()
    }

    /// The `REQ` frame of now.
    pub(super) fn request(&self, now: i64) -> String {
        let filters = self.shared.filters.iter().map(|filter| repeated(filter, self.heard, now));
        let mut frame = vec![serde_json::json!("REQ"), serde_json::json!(self.name())];
        frame.extend(filters.filter_map(|filter| serde_json::to_value(filter).ok()));
        serde_json::Value::Array(frame).to_string()
    }

    /// Takes an event off the wire: matched, not yet seen, hashed and verified, in this order of cost.
    pub(super) fn take(&mut self, relay: &Arc<str>, event: Event) {
        let fits = event::check_shape(&event).is_ok() && filter::any(&self.shared.filters, &event);
        if !fits || self.shared.has_seen(&event.id) {
            return;
        }
        if let Err(error) = event::verify(&event) {
            tracing::debug!(%relay, %error, "a relay sent an event that is not what it says");
            return;
        }
        let id = event.id;
        if self.shared.remember(id) && !self.tell(Notice::Event { relay: relay.clone(), event: Arc::new(event) }) {
            self.shared.forget(&id);
        }
    }

    /// Passes something on without waiting; false when there was no room.
    pub(super) fn tell(&mut self, notice: Notice) -> bool {
        match self.notices.try_send(notice) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lagged = true;
                self.shared.lagged.store(true, Ordering::Release);
                false
            }
        }
    }
}

fn is_for_wraps(filter: &Filter) -> bool {
    filter.kinds.as_ref().is_some_and(|kinds| kinds.contains(&Kind::from_u16(kinds::GIFT_WRAP)))
}

fn seconds(at: i64) -> Timestamp {
    Timestamp::from_secs(u64::try_from(at).unwrap_or(0))
}

/// The filter as it is first sent and as events are matched: a `since` on gift wraps reaches back three days.
fn first_request(mut filter: Filter, now: i64) -> Filter {
    if is_for_wraps(&filter) {
        filter.since = filter.since.map(|since| since.min(seconds(now - WRAPS_REACH)));
    }
    filter
}

/// The filter for a relay that was heard before: from then on, and without a limit.
fn repeated(filter: &Filter, heard: Option<i64>, now: i64) -> Filter {
    let mut filter = filter.clone();
    if let Some(heard) = heard {
        let reach = if is_for_wraps(&filter) { now - WRAPS_REACH } else { heard - OVERLAP };
        filter.since = Some(filter.since.unwrap_or_default().max(seconds(reach)));
        filter.limit = None;
    }
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn gift_wraps_are_asked_for_three_days_back() {
        let now = 100 * DAY;
        let wraps = Filter::new().kind(Kind::GiftWrap).since(seconds(now - 60));
        let first = first_request(wraps, now);
        assert_eq!(first.since, Some(seconds(now - 3 * DAY)));
        let later = now + 10 * DAY;
        assert_eq!(repeated(&first, Some(later - 5), later).since, Some(seconds(later - 3 * DAY)));
    }

    #[test]
    fn other_kinds_resume_an_hour_before_the_relay_was_last_heard() {
        let now = 100 * DAY;
        let notes = Filter::new().kind(Kind::TextNote).since(seconds(now - 60)).limit(10);
        assert_eq!(repeated(&notes, None, now), notes);
        let again = repeated(&notes, Some(now + DAY), now + 2 * DAY);
        assert_eq!((again.since, again.limit), (Some(seconds(now + DAY - OVERLAP)), None));
        let soon = repeated(&notes, Some(now), now + 5);
        assert_eq!(soon.since, Some(seconds(now - 60)), "never earlier than what was asked for");
    }

    #[test]
    fn memory_of_ids_is_bounded() {
        let shared = Shared::new(1, Vec::new(), Vec::new(), 0);
        let id = |n: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            EventId::from_byte_array(bytes)
        };
        for n in 0..10_000 {
            assert!(shared.remember(id(n)));
        }
        assert!(!shared.remember(id(9_999)));
        assert!(shared.remember(id(0)));
        assert_eq!(shared.seen.lock().unwrap().ids.len(), MAX_SEEN);
    }
}
