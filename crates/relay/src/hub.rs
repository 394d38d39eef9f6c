//! Live events to whoever subscribed to them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use nexus_core::Npub;
use nexus_nostr::filter;
use nostr::event::{Event, EventId};
use nostr::filter::Filter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{access, message};

/// Live events that wait while a subscription's stored ones are sent.
const MAX_WAITING: usize = 1_024;

/// An event and its JSON, written once.
pub(crate) struct Live {
    pub(crate) event: Event,
    pub(crate) json: String,
}

/// Where a subscription stands.
enum Phase {
    /// Its stored events are on their way; live ones wait for the end of those.
    Loading {
        round: u64,
        waiting: Vec<Arc<Live>>,
    },
    Following,
}

struct Subscription {
    filters: Vec<Filter>,
    phase: Phase,
}

#[derive(Default)]
struct Interests {
    subscriptions: HashMap<String, Subscription>,
    keys: HashSet<Npub>,
}

/// One connection as the hub sees it.
pub(crate) struct Listener {
    id: u64,
    interests: Mutex<Interests>,
    frames: mpsc::Sender<String>,
    /// Bytes that wait in `frames`.
    queued: AtomicUsize,
    max_bytes: usize,
    /// Ends the connection.
    pub(crate) end: CancellationToken,
}

impl Listener {
    fn interests(&self) -> MutexGuard<'_, Interests> {
        self.interests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a key that this connection proved to hold; false when it has too many.
    pub(crate) fn authenticate(&self, key: Npub, max: usize) -> bool {
        let mut interests = self.interests();
        (interests.keys.len() < max || interests.keys.contains(&key)) && {
            interests.keys.insert(key);
            true
        }
    }

    pub(crate) fn keys(&self) -> HashSet<Npub> {
        self.interests().keys.clone()
    }

    /// Begins or replaces a subscription; false when there are `max` others. Live events wait until [`Self::follow`].
    pub(crate) fn subscribe(&self, name: &str, filters: Vec<Filter>, round: u64, max: usize) -> bool {
        let mut interests = self.interests();
        if interests.subscriptions.len() >= max && !interests.subscriptions.contains_key(name) {
            return false;
        }
        let phase = Phase::Loading { round, waiting: Vec::new() };
        interests.subscriptions.insert(name.to_owned(), Subscription { filters, phase });
        true
    }

    pub(crate) fn unsubscribe(&self, name: &str) -> bool {
        self.interests().subscriptions.remove(name).is_some()
    }

    /// The stored events of a round were sent: live ones follow, first those that came meanwhile and were not among them.
    pub(crate) fn follow(&self, name: &str, round: u64, sent: &HashSet<EventId>) {
        let mut interests = self.interests();
        let Some(subscription) = interests.subscriptions.get_mut(name) else { return };
        let Phase::Loading { round: current, waiting } = &mut subscription.phase else { return };
        if *current != round {
            return;
        }
        let waiting = std::mem::take(waiting);
        subscription.phase = Phase::Following;
        for live in waiting.iter().filter(|live| !sent.contains(&live.event.id)) {
            self.push(message::event(name, &live.json));
        }
    }

    fn offer(&self, live: &Arc<Live>) {
        let mut interests = self.interests();
        let Interests { subscriptions, keys } = &mut *interests;
        for (name, subscription) in subscriptions {
            if !filter::any(&subscription.filters, &live.event) || !access::may_read(&live.event, keys) {
                continue;
            }
            match &mut subscription.phase {
                Phase::Following => self.push(message::event(name, &live.json)),
                Phase::Loading { waiting, .. } if waiting.len() < MAX_WAITING => waiting.push(live.clone()),
                Phase::Loading { .. } => self.end.cancel(),
            }
        }
    }

    /// Queues a frame without waiting. A reader that does not keep up loses its connection, not its neighbours theirs.
    fn push(&self, frame: String) {
        let bytes = frame.len();
        let queued = self.queued.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if queued > self.max_bytes || self.frames.try_send(frame).is_err() {
            tracing::debug!(connection = self.id, queued, "slow reader disconnected");
            self.end.cancel();
        }
    }

    /// A frame has left the queue.
    pub(crate) fn popped(&self, frame: &str) {
        self.queued.fetch_sub(frame.len(), Ordering::AcqRel);
    }
}

/// All connections.
#[derive(Default)]
pub(crate) struct Hub {
    listeners: RwLock<HashMap<u64, Arc<Listener>>>,
    next: AtomicU64,
}

impl Hub {
    pub(crate) fn join(
        &self,
        frames: usize,
        bytes: usize,
        end: CancellationToken,
    ) -> (Arc<Listener>, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel(frames);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let queued = AtomicUsize::new(0);
        let listener =
            Arc::new(Listener { id, interests: Mutex::default(), frames: sender, queued, max_bytes: bytes, end });
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).insert(id, listener.clone());
        (listener, receiver)
    }

    pub(crate) fn leave(&self, listener: &Listener) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).remove(&listener.id);
    }

    /// Offers an event to every connection. Matching comes before writing: what nobody wants costs no frame.
    pub(crate) fn publish(&self, live: Arc<Live>) {
        for listener in self.listeners.read().unwrap_or_else(PoisonError::into_inner).values() {
            listener.offer(&live);
        }
    }
}
