//! Connections to relays: publish with each relay's answer, subscribe to a stream of verified events.
//!
//! Each relay URL has its own task, which connects when there is something to do, reconnects with jittered backoff,
//! authenticates (NIP-42) and repeats its subscriptions. Every queue is bounded. An event reaches a subscriber only
//! after it matched the subscription's filters and its id and signature were verified here.

use std::sync::Arc;
use std::time::Duration;

use nexus_core::{Clock, Entropy};
use nexus_seal::Signer;
use nostr::event::Event;
use nostr::filter::Filter;

/// How a pool behaves. Bounds are per pool unless they say otherwise.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Relays of our own: exempt from the rules on addresses below.
    pub own_relays: Vec<String>,
    /// Allows plain `ws://` and private addresses. Otherwise relays are `wss://` on public addresses.
    pub development: bool,
    /// Most relay connections.
    pub max_connections: usize,
    /// Subscriptions that share one connection; more open another one to the same relay.
    pub subscriptions_per_connection: usize,
    /// Events that wait for a slow subscriber. What does not fit is asked for again later.
    pub subscription_queue: usize,
    /// Events that wait for a relay's answer, per connection.
    pub publish_queue: usize,
    pub connect_timeout: Duration,
    /// First and longest pause between attempts to connect; each pause is drawn between half and all of it.
    pub backoff: (Duration, Duration),
    /// A connection with nothing to do is closed after this long.
    pub idle: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            own_relays: Vec::new(),
            development: false,
            max_connections: 256,
            subscriptions_per_connection: 20,
            subscription_queue: 1_024,
            publish_queue: 256,
            connect_timeout: Duration::from_secs(10),
            backoff: (Duration::from_millis(250), Duration::from_secs(60)),
            idle: Duration::from_secs(120),
        }
    }
}

/// What one relay said to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub relay: String,
    pub outcome: Result<(), PublishError>,
}

/// Why a relay does not have an event, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The relay's own words, at most 256 characters.
    #[error("refused: {0}")]
    Refused(String),
    /// It may have it nonetheless.
    #[error("no answer in time")]
    Timeout,
    #[error("not connected: {0}")]
    Unreachable(String),
    #[error("too many events wait for this relay")]
    QueueFull,
    #[error("{0}")]
    NotAllowed(&'static str),
}

/// Something that happened to a subscription.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A verified event that matches. Each id comes once in a subscription, within a bounded memory.
    Event { relay: Arc<str>, event: Arc<Event> },
    /// The relay has sent what it had stored.
    EndOfStored { relay: Arc<str> },
    /// The relay ended the subscription. It is asked again after the next reconnect.
    Closed { relay: Arc<str>, reason: String },
}

/// What to subscribe to.
#[derive(Clone, Default)]
pub struct Interest {
    pub relays: Vec<String>,
    pub filters: Vec<Filter>,
    /// Keys to authenticate with where a relay asks for it.
    pub auth: Vec<Arc<dyn Signer>>,
}

/// A live subscription. Dropping it ends it on every relay.
pub struct Subscription {}

impl Subscription {
    /// The next thing that happens. Waits for as long as it takes; none after the pool was shut down.
    pub async fn next(&mut self) -> Option<Notice> {
        todo!()
    }

    /// The next event alone.
    pub async fn next_event(&mut self) -> Option<Arc<Event>> {
        loop {
            if let Notice::Event { event, .. } = self.next().await? {
                return Some(event);
            }
        }
    }
}

/// The pool. Clones share it.
#[derive(Clone)]
pub struct RelayPool {}

impl RelayPool {
    /// Makes a pool without connecting anywhere. Must be called inside a Tokio runtime.
    pub fn new(_config: PoolConfig, _clock: Arc<dyn Clock>, _entropy: Arc<dyn Entropy>) -> Self {
        todo!()
    }

    /// Publishes to each relay and waits for their answers, at most `timeout`. One report for each distinct relay.
    ///
    /// A relay that already had the event counts as success.
    pub async fn publish(&self, _event: &Event, _relays: &[String], _timeout: Duration) -> Vec<Published> {
        todo!()
    }

    /// Subscribes; the subscription lives until it is dropped, over reconnects.
    ///
    /// After a reconnect a relay is asked from an hour before it was last heard; for gift wraps always from three days
    /// ago, since their times are blurred.
    pub fn subscribe(&self, _interest: Interest) -> Subscription {
        todo!()
    }

    /// Asks once: the events that relays have stored, until each has said so or `timeout`. At most 5,000, newest first.
    pub async fn fetch(&self, _interest: Interest, _timeout: Duration) -> Vec<Arc<Event>> {
        todo!()
    }

    /// Each relay with whether it is connected.
    pub fn relays(&self) -> Vec<(String, bool)> {
        todo!()
    }

    /// Ends all subscriptions and connections, and waits for them, at most a second.
    pub async fn shutdown(&self) {
        todo!()
    }
}
