//! Relays as shelves of events, with listeners.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nexus_core::Npub;
use nexus_nostr::{event, kinds};
use nostr::event::Event;
use nostr::filter::{Filter, MatchEventOptions};
use tokio::sync::mpsc;

/// The inbox relay of the host, and one more.
pub const OWN: &str = "ws://own.sim";
pub const OTHER: &str = "ws://other.sim";

/// Somebody who waits for events.
struct Listener {
    relays: Vec<String>,
    filters: Vec<Filter>,
    heard: mpsc::UnboundedSender<Arc<Event>>,
}

#[derive(Default)]
struct Inner {
    stored: BTreeMap<String, Vec<Arc<Event>>>,
    listeners: Vec<Listener>,
    sellers: BTreeMap<Npub, mpsc::UnboundedSender<Arc<Event>>>,
}

#[derive(Default)]
pub struct Shelves(Mutex<Inner>);

/// What became of an event at one relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    New,
    Known,
}

fn matches(filters: &[Filter], event: &Event) -> bool {
    filters.iter().any(|filter| filter.match_event(event, MatchEventOptions::new()))
}

impl Shelves {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores an event and tells everyone who waits for it.
    pub fn put(&self, relay: &str, event: &Arc<Event>) -> Put {
        let mut inner = self.inner();
        let shelf = inner.stored.entry(relay.to_owned()).or_default();
        if shelf.iter().any(|known| known.id == event.id) {
            return Put::Known;
        }
        shelf.push(event.clone());
        inner.listeners.retain(|listener| !listener.heard.is_closed());
        for listener in &inner.listeners {
            if listener.relays.iter().any(|name| name == relay) && matches(&listener.filters, event) {
                let _ = listener.heard.send(event.clone());
            }
        }
        if event.kind.as_u16() == kinds::JOB_TEXT {
            for seller in event::mentioned(event, 4).iter().filter_map(|npub| inner.sellers.get(npub)) {
                let _ = seller.send(event.clone());
            }
        }
        Put::New
    }

    /// Events that are stored and match, oldest first, each once.
    pub fn stored(&self, relays: &[String], filters: &[Filter]) -> Vec<Arc<Event>> {
        let inner = self.inner();
        let mut found: Vec<Arc<Event>> = Vec::new();
        for event in relays.iter().filter_map(|relay| inner.stored.get(relay)).flatten() {
            if matches(filters, event) && !found.iter().any(|known| known.id == event.id) {
                found.push(event.clone());
            }
        }
        found
    }

    /// Stored events first, then live ones. One that is on two relays may come twice.
    pub fn listen(&self, relays: Vec<String>, filters: Vec<Filter>) -> mpsc::UnboundedReceiver<Arc<Event>> {
        let (heard, hears) = mpsc::unbounded_channel();
        for event in self.stored(&relays, &filters) {
            let _ = heard.send(event);
        }
        self.inner().listeners.push(Listener { relays, filters, heard });
        hears
    }

    /// Requests for this provider, from whatever relay, each as often as it is stored somewhere.
    pub fn requests(&self, seller: Npub) -> mpsc::UnboundedReceiver<Arc<Event>> {
        let (sender, requests) = mpsc::unbounded_channel();
        self.inner().sellers.insert(seller, sender);
        requests
    }
}
