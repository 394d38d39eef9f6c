//! The bus of a fleet: core NATS, no streams. The server remembers nothing, so whoever was away re-reads everything.

mod config;
mod link;
mod state;

use std::sync::Arc;

use nexus_core::Entropy;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use config::{NatsConfig, NatsError};

use crate::local::Listener;
use crate::{Bus, BusHealth, Heard, Subscription, Topic, Wake};
use link::Link;
use state::State;

/// Messages that a subscriber may be behind before it is told to re-read.
const CAPACITY: usize = 4_096;

/// One connection to a NATS server, shared by all subscribers of this process.
///
/// It connects, and connects again, by itself, with jittered pauses: a server that is away delays nothing and fails
/// nothing. Each time that messages flow (again), every subscriber hears [`Heard::Lagged`]. Closed for its
/// subscribers soon after the last handle is dropped; wakes that wait then are still sent if that goes quickly.
#[derive(Debug)]
pub struct NatsBus {
    outgoing: mpsc::Sender<Wake>,
    // Weak, so that subscribers hear the end when the connection's task ends.
    heard: broadcast::WeakSender<Heard>,
    state: Arc<State>,
    _stop: DropGuard,
}

impl NatsBus {
    /// Starts connecting on the current Tokio runtime and returns at once. Subscribers will hear `topics` (and
    /// nothing else: a worker need not be sent every event of the fleet); anything may be published. `entropy`
    /// jitters the pauses.
    ///
    /// # Errors
    /// Only for a configuration that cannot work, unreadable files included; a server that is away is no error.
    pub fn open(config: NatsConfig, topics: &[Topic], entropy: Arc<dyn Entropy>) -> Result<Arc<Self>, NatsError> {
        Self::with_capacity(config, topics, entropy, CAPACITY)
    }

    /// With room for `capacity` messages (at least 1) for each subscriber.
    pub fn with_capacity(
        config: NatsConfig,
        topics: &[Topic],
        entropy: Arc<dyn Entropy>,
        capacity: usize,
    ) -> Result<Arc<Self>, NatsError> {
        config.validate()?;
        let (outgoing, waiting) = mpsc::channel(config.queue);
        let (heard, state) = (broadcast::Sender::new(capacity.max(1)), Arc::new(State::default()));
        let stop = CancellationToken::new();
        let bus = Self { outgoing, heard: heard.downgrade(), state: state.clone(), _stop: stop.clone().drop_guard() };
        tokio::spawn(Link::new(config, topics, entropy, waiting, heard, state, stop).run());
        Ok(Arc::new(bus))
    }
}

impl Bus for NatsBus {
    fn publish(&self, wake: Wake) {
        if self.outgoing.try_send(wake).is_err() {
            self.state.dropped();
        }
    }

    fn subscribe(&self) -> Box<dyn Subscription> {
        let receiver = match self.heard.upgrade() {
            Some(heard) => heard.subscribe(),
            // The task is gone, which happens only with its runtime: a closed channel.
            None => broadcast::Sender::new(1).subscribe(),
        };
        Box::new(Listener { receiver })
    }

    fn health(&self) -> BusHealth {
        self.state.health()
    }
}
