//! Connections to relays: publish with each relay's answer, subscribe to a stream of verified events.
//!
//! Each relay URL has its own task, which connects when there is something to do, reconnects with jittered backoff,
//! authenticates (NIP-42) and repeats its subscriptions. Every queue is bounded. An event reaches a subscriber only
//! after it matched the subscription's filters and its id and signature were verified here.

mod address;
mod connection;
mod seat;
mod session;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nexus_core::{Clock, Entropy};
use nexus_seal::Signer;
use nostr::event::{Event, EventId};
use nostr::filter::Filter;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use address::RelayAddress;
use connection::{Command, Connection, Handle, Outgoing};
use seat::{Seat, Shared};

/// Most events that [`RelayPool::fetch`] gives.
const MAX_FETCHED: usize = 5_000;
/// Most relays that one publication or subscription names.
const MAX_RELAYS: usize = 32;

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
pub struct Subscription {
    shared: Arc<Shared>,
    notices: mpsc::Receiver<Notice>,
    /// The connections that serve it.
    sweeps: Vec<Arc<Notify>>,
    /// How many relays were named.
    relays: usize,
}

impl Subscription {
    /// The next thing that happens. Waits for as long as it takes; none after the pool was shut down.
    ///
    /// Safe to cancel.
    pub async fn next(&mut self) -> Option<Notice> {
        if let Ok(notice) = self.notices.try_recv() {
            return Some(notice);
        }
        if self.shared.lagged.swap(false, Ordering::AcqRel) {
            self.sweeps.iter().for_each(|sweep| sweep.notify_one());
        }
        self.notices.recv().await
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

impl Drop for Subscription {
    fn drop(&mut self) {
        self.notices.close();
        self.sweeps.iter().for_each(|sweep| sweep.notify_one());
    }
}

type Connections = HashMap<String, Vec<Handle>>;

struct Inner {
    config: PoolConfig,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    connections: Mutex<Connections>,
    next_id: AtomicU64,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Inner {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool. Clones share it; it lives until [`RelayPool::shutdown`].
#[derive(Clone)]
pub struct RelayPool(Arc<Inner>);

/// What relays had when they were asked once.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// Newest first.
    pub events: Vec<Arc<Event>>,
    /// Relays that said in time that this is all they have.
    pub answered: usize,
    pub asked: usize,
}

impl RelayPool {
    /// Makes a pool without connecting anywhere.
    pub fn new(config: PoolConfig, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self(Arc::new(Inner {
            config,
            clock,
            entropy,
            connections: Mutex::default(),
            next_id: AtomicU64::new(1),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Publishes to each relay and waits for their answers, at most `limit`. One report for each distinct relay.
    ///
    /// A relay that already had the event, or a newer one in its place, counts as success.
    pub async fn publish(&self, event: &Event, relays: &[String], limit: Duration) -> Vec<Published> {
        self.publish_as(event, relays, limit, None).await
    }

    /// Like [`Self::publish`], with a key to authenticate with where a relay wants to know who writes.
    pub async fn publish_as(
        &self,
        event: &Event,
        relays: &[String],
        limit: Duration,
        auth: Option<Arc<dyn Signer>>,
    ) -> Vec<Published> {
        let frame: Arc<str> = serde_json::json!(["EVENT", event]).to_string().into();
        let deadline = Instant::now() + limit;
        let answers = self.addresses(relays).into_iter().map(|(relay, address)| {
            let (answer, answered) = oneshot::channel();
            let outgoing = Outgoing { id: event.id, frame: frame.clone(), auth: auth.clone(), deadline, answer };
            let sent = address.map_err(PublishError::NotAllowed).and_then(|address| self.send(address, outgoing));
            async move {
                let outcome = match sent {
                    Err(error) => Err(error),
                    Ok(()) => match tokio::time::timeout_at(deadline, answered).await {
                        Err(_) => Err(PublishError::Timeout),
                        Ok(Err(_)) => Err(PublishError::Unreachable("the connection ended".into())),
                        Ok(Ok(outcome)) => outcome,
                    },
                };
                Published { relay: relay.to_owned(), outcome }
            }
        });
        futures::future::join_all(answers).await
    }

    fn send(&self, address: RelayAddress, outgoing: Outgoing) -> Result<(), PublishError> {
        let mut connections = self.0.connections();
        let existing = connections.get(address.as_str()).and_then(|handles| handles.first()).cloned();
        let handle = existing.or_else(|| self.connect(&mut connections, address));
        let handle = handle.ok_or_else(|| PublishError::Unreachable("too many connections".into()))?;
        handle.commands.try_send(Command::Publish(outgoing)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PublishError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => PublishError::Unreachable("shutting down".into()),
        })
    }

    /// Subscribes; the subscription lives until it is dropped, over reconnects.
    ///
    /// After a reconnect a relay is asked from an hour before it was last heard; for gift wraps always from three days
    /// ago, since their times are blurred. A relay that cannot be reached is told as closed once, and tried again.
    pub fn subscribe(&self, interest: Interest) -> Subscription {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let now = self.0.clock.now().secs();
        let shared = Arc::new(Shared::new(id, interest.filters, interest.auth, now));
        let (notices, receiver) = mpsc::channel(self.0.config.subscription_queue.max(MAX_RELAYS));
        let mut sweeps = Vec::new();
        let addresses = self.addresses(&interest.relays);
        let relays = addresses.len();
        for (relay, address) in addresses {
            let seat = Seat::new(shared.clone(), notices.clone());
            match address.and_then(|address| self.place(address, seat)) {
                Ok(sweep) => sweeps.push(sweep),
                Err(reason) => {
                    let _ = notices.try_send(Notice::Closed { relay: relay.into(), reason: reason.into() });
                }
            }
        }
        Subscription { shared, notices: receiver, sweeps, relays }
    }

    /// Finds room for a subscription at a relay, on a new connection if the others are full.
    fn place(&self, address: RelayAddress, seat: Seat) -> Result<Arc<Notify>, &'static str> {
        let mut connections = self.0.connections();
        let full = self.0.config.subscriptions_per_connection;
        let has_room = |handle: &&Handle| handle.seats.load(Ordering::Acquire) < full;
        let existing = connections.get(address.as_str()).and_then(|handles| handles.iter().find(has_room)).cloned();
        let handle = existing.or_else(|| self.connect(&mut connections, address)).ok_or("too many connections")?;
        handle.seats.fetch_add(1, Ordering::AcqRel);
        if handle.commands.try_send(Command::Subscribe(seat)).is_err() {
            handle.seats.fetch_sub(1, Ordering::AcqRel);
            return Err("too much waits for this relay");
        }
        Ok(handle.sweep)
    }

    fn connect(&self, connections: &mut Connections, address: RelayAddress) -> Option<Handle> {
        let open: usize = connections.values().map(Vec::len).sum();
        if open >= self.0.config.max_connections || self.0.cancel.is_cancelled() {
            return None;
        }
        let (sender, commands) =
            mpsc::channel(self.0.config.publish_queue.max(self.0.config.subscriptions_per_connection));
        let handle = Handle {
            serial: self.0.next_id.fetch_add(1, Ordering::Relaxed),
            commands: sender,
            sweep: Arc::new(Notify::new()),
            seats: Arc::new(AtomicUsize::new(0)),
            connected: Arc::new(AtomicBool::new(false)),
        };
        connections.entry(address.as_str().to_owned()).or_default().push(handle.clone());
        let connection = Connection {
            pool: self.0.clone(),
            relay: address.as_str().into(),
            address,
            handle: handle.clone(),
            commands,
            seats: HashMap::new(),
        };
        self.0.tasks.spawn(connection.run());
        Some(handle)
    }

    /// Asks once: the events that relays have stored, until each has said so, or `limit`. At most 5,000, newest first.
    pub async fn fetch(&self, interest: Interest, limit: Duration) -> Fetched {
        let mut heard: HashSet<Arc<str>> = HashSet::new();
        let mut answered = 0;
        let mut found: BTreeMap<EventId, Arc<Event>> = BTreeMap::new();
        let mut subscription = self.subscribe(interest);
        let collect = async {
            while heard.len() < subscription.relays && found.len() < MAX_FETCHED {
                match subscription.next().await {
                    None => break,
                    Some(Notice::Event { event, .. }) => drop(found.insert(event.id, event)),
                    Some(Notice::EndOfStored { relay }) => answered += usize::from(heard.insert(relay)),
                    Some(Notice::Closed { relay, .. }) => drop(heard.insert(relay)),
                }
            }
        };
        let _ = timeout(limit, collect).await;
        let mut events: Vec<Arc<Event>> = found.into_values().collect();
        events.sort();
        Fetched { events, answered, asked: subscription.relays }
    }

    /// Each relay with whether it is connected.
    pub fn relays(&self) -> Vec<(String, bool)> {
        let connected = |handles: &Vec<Handle>| handles.iter().any(|handle| handle.connected.load(Ordering::Acquire));
        self.0.connections().iter().map(|(url, handles)| (url.clone(), connected(handles))).collect()
    }

    /// Ends all subscriptions and connections, and waits for them, at most a second.
    pub async fn shutdown(&self) {
        self.0.cancel.cancel();
        self.0.connections().clear();
        self.0.tasks.close();
        let _ = timeout(Duration::from_secs(1), self.0.tasks.wait()).await;
    }

    /// Each distinct relay, in order, at most [`MAX_RELAYS`], with whether it may be connected to.
    fn addresses<'a>(&self, relays: &'a [String]) -> Vec<(&'a str, Result<RelayAddress, &'static str>)> {
        let mut seen = HashSet::new();
        let parsed = relays.iter().map(|relay| (relay.as_str(), RelayAddress::parse(relay, &self.0.config)));
        let spelling = |relay: &str, parsed: &Result<RelayAddress, _>| match parsed {
            Ok(address) => address.as_str().to_owned(),
            Err(_) => relay.to_owned(),
        };
        parsed.filter(|(relay, address)| seen.insert(spelling(relay, address))).take(MAX_RELAYS).collect()
    }
}
