//! A bus under test, and waiting.

use std::sync::Arc;
use std::time::Duration;

use nexus_bus::{Bus, Heard, LocalBus, NatsBus, NatsConfig, SharedBus, Subscription, Topic, Wake};
use nexus_core::{Npub, UnixMs, WorkerId};
use nexus_testkit::SystemEntropy;
use nexus_testkit::nats::NatsServer;

pub const AGENT: Npub = Npub::from_bytes([1; 32]);
/// Nothing in these tests takes so long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(10);

pub enum Rig {
    Local(Arc<LocalBus>),
    Nats(NatsServer, usize),
}

impl Rig {
    pub fn local(capacity: usize) -> Self {
        Self::Local(LocalBus::with_capacity(capacity))
    }

    pub fn nats(capacity: usize) -> Self {
        Self::Nats(NatsServer::start(), capacity)
    }

    /// What another part of the installation holds: connected, and on NATS a process of its own.
    pub async fn join(&self) -> SharedBus {
        match self {
            Self::Local(bus) => bus.clone(),
            Self::Nats(server, capacity) => {
                let config = config(server);
                let bus = NatsBus::with_capacity(config, Topic::ALL, Arc::new(SystemEntropy), *capacity).unwrap();
                connected(&*bus).await;
                bus
            }
        }
    }

    /// The server is killed; what is in this process cannot be away.
    pub fn down(&mut self) {
        if let Self::Nats(server, _) = self {
            server.stop();
        }
    }

    pub fn up(&mut self) {
        if let Self::Nats(server, _) = self {
            server.start_again();
        }
    }

    /// Until this handle has taken in `count` wakes since it joined.
    pub async fn arrived(&self, bus: &dyn Bus, count: u64) {
        if matches!(self, Self::Nats(..)) {
            eventually("wakes arrive", || bus.health().received >= count).await;
        }
    }
}

pub fn config(server: &NatsServer) -> NatsConfig {
    NatsConfig { urls: vec![server.url()], reconnect_max_ms: 300, ..NatsConfig::default() }
}

pub fn open(config: NatsConfig) -> Arc<NatsBus> {
    NatsBus::open(config, Topic::ALL, Arc::new(SystemEntropy)).unwrap()
}

pub async fn connected(bus: &dyn Bus) {
    eventually("the bus connects", || bus.health().connected).await;
}

pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, held).await.is_ok(), "never: {what}");
}

/// The next message, which must come.
pub async fn next(listener: &mut Box<dyn Subscription>) -> Heard {
    let heard = tokio::time::timeout(PATIENCE, listener.recv()).await;
    heard.expect("a message comes").expect("the bus is open")
}

pub async fn next_wake(listener: &mut Box<dyn Subscription>) -> Wake {
    match next(listener).await {
        Heard::Wake(wake) => wake,
        Heard::Lagged => panic!("nothing was missed"),
    }
}

/// Skips wakes until the subscriber is told to re-read.
pub async fn lagged(listener: &mut Box<dyn Subscription>) {
    while next(listener).await != Heard::Lagged {}
}

/// Publishes marks until one is heard, which shows that messages flow.
pub async fn flows(from: &dyn Bus, to: &mut Box<dyn Subscription>) {
    const MARK: i64 = 1_000_000_000;
    for _ in 0..50 {
        from.publish(event(MARK));
        let mark = async { while to.recv().await != Ok(Heard::Wake(event(MARK))) {} };
        if tokio::time::timeout(Duration::from_millis(200), mark).await.is_ok() {
            return;
        }
    }
    panic!("nothing flows");
}

pub fn event(seq: i64) -> Wake {
    Wake::Event { npub: AGENT, seq }
}

pub fn one_of_each() -> [Wake; 4] {
    let id = WorkerId::new(UnixMs(1_700_000_000_000), [7; 10]);
    [Wake::Agent { npub: AGENT }, event(7), Wake::Worker { id }, Wake::Reconcile]
}
