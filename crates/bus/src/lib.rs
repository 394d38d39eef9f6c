//! Wake-ups and live events. The database is the only truth; the bus only wakes.
//!
//! A message says where to look, never what is there: it may be lost, repeated or forged without harm. Whoever
//! receives one reads the database; whoever receives none looks there on a timer anyway.
//!
//! [`LocalBus`] serves the parts of one process, [`NatsBus`] those of a fleet. Both pass the same tests.

mod health;
mod local;
mod nats;
mod wire;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use nexus_core::{Npub, WorkerId};
use serde::{Deserialize, Serialize};

pub use health::BusHealth;
pub use local::LocalBus;
pub use nats::{NatsBus, NatsConfig, NatsError};

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "wake", rename_all = "snake_case")]
pub enum Wake {
    /// Something waits for this agent: inbox rows, a changed wish, a wallet request.
    Agent { npub: Npub },
    /// An event of this agent was stored.
    Event { npub: Npub, seq: i64 },
    /// A worker appeared, drains, or has new agents.
    Worker { id: WorkerId },
    /// The reconciler should look now.
    Reconcile,
}

impl Wake {
    pub const fn topic(&self) -> Topic {
        match self {
            Self::Agent { .. } => Topic::Agent,
            Self::Event { .. } => Topic::Event,
            Self::Worker { .. } => Topic::Worker,
            Self::Reconcile => Topic::Reconcile,
        }
    }
}

/// The kinds of wakes, so that a process may ask its server for those alone that it acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    Agent,
    Event,
    Worker,
    Reconcile,
}

impl Topic {
    pub const ALL: &[Self] = &[Self::Agent, Self::Event, Self::Worker, Self::Reconcile];
}

/// What a subscriber gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    Wake(Wake),
    /// Some were missed, since this subscriber was slow or the bus was away: re-read everything.
    Lagged,
}

/// The bus is gone: the process is shutting down, or the connection is lost for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bus is closed")]
pub struct Closed;

/// A boxed future, so that the traits are object-safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everyone hears everything.
pub trait Bus: Send + Sync + 'static {
    /// Never blocks, never fails: a lost message is legal.
    fn publish(&self, wake: Wake);

    /// Hears what is published after this call returned.
    fn subscribe(&self) -> Box<dyn Subscription>;

    /// How it is doing, for readiness and metrics. Costs nothing.
    fn health(&self) -> BusHealth {
        BusHealth::in_process()
    }
}

/// One listener. Its queue is bounded.
pub trait Subscription: Send {
    /// The next message. Cancel-safe.
    fn recv(&mut self) -> BoxFuture<'_, Result<Heard, Closed>>;
}

/// The handle that parts hold.
pub type SharedBus = Arc<dyn Bus>;
