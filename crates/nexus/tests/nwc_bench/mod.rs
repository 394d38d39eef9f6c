//! A wallet service behind a real relay, and wallets that speak to it.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part of it")]

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_bus::{Bus, LocalBus};
use nexus_core::Clock;
use nexus_lightning::lnd::FeeReserve;
use nexus_lightning::nwc::{Connection, Heard, Line, NwcParts, NwcWallet, Patience};
use nexus_lightning::{Network, WalletStorage};
use nexus_nostr::relay_pool::{Interest, Notice};
use nexus_nostr::{PoolConfig, RelayPool};
use nexus_relay::{RelayConfig, RelayParts};
use nexus_store::Store;
use nexus_testkit::SystemEntropy;
use nostr::event::Event;
use nostr::filter::Filter;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A relay of ours, open to all. Dropping it stops it.
pub struct TestRelay {
    pub url: String,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl TestRelay {
    pub async fn start(clock: Arc<dyn Clock>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let config = RelayConfig {
            open: true,
            trust_loopback: true,
            writes_per_minute_key: 1_000_000,
            writes_per_minute_address: 1_000_000,
            frames_per_minute: 1_000_000,
            // Some processes of these tests live later than the relay.
            max_future_secs: 1_000_000,
            max_ephemeral_age_secs: 1_000_000,
            ..RelayConfig::default()
        };
        let parts = RelayParts {
            outside: None,
            store: Store::open(&dir.path().join("relay.db")).unwrap(),
            bus: LocalBus::new() as Arc<dyn Bus>,
            clock,
            entropy: Arc::new(SystemEntropy),
            config,
            listener,
            shutdown: shutdown.clone(),
        };
        tokio::spawn(async move { nexus_relay::serve(parts).await.unwrap() });
        Self { url, shutdown, _dir: dir }
    }
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Our own relay pool as a wallet's line.
pub struct PoolLine(pub RelayPool);

impl PoolLine {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let backoff = (Duration::from_millis(20), Duration::from_millis(100));
        let config = PoolConfig { development: true, backoff, ..PoolConfig::default() };
        Arc::new(Self(RelayPool::new(config, clock, Arc::new(SystemEntropy))))
    }
}

impl Line for PoolLine {
    fn publish<'a>(&'a self, event: &'a Event, relays: &'a [String], limit: Duration) -> BoxFuture<'a, bool> {
        Box::pin(async move { self.0.publish(event, relays, limit).await.iter().any(|it| it.outcome.is_ok()) })
    }

    fn subscribe(&self, relays: &[String], filters: Vec<Filter>) -> BoxStream<'static, Heard> {
        let subscription = self.0.subscribe(Interest { relays: relays.to_vec(), filters, auth: Vec::new() });
        futures::stream::unfold(subscription, |mut subscription| async move {
            loop {
                match subscription.next().await? {
                    Notice::Event { event, .. } => return Some((Heard::Event(event), subscription)),
                    Notice::EndOfStored { .. } => return Some((Heard::Standing, subscription)),
                    Notice::Closed { .. } => {}
                }
            }
        })
        .boxed()
    }
}

/// Only what is stuck or lost waits for all of it.
pub const PATIENCE: Patience = Patience { connect_ms: 10_000, answer_ms: 2_500, settle_ms: 2_500, poll_ms: 300 };

pub fn wallet(uri: &str, line: Arc<dyn Line>, storage: Arc<dyn WalletStorage>, clock: Arc<dyn Clock>) -> NwcWallet {
    NwcWallet::new(NwcParts {
        connection: Connection::parse(uri).unwrap(),
        network: Network::Regtest,
        line,
        storage,
        clock,
        entropy: Arc::new(SystemEntropy),
        fee_reserve: FeeReserve::default(),
        patience: PATIENCE,
    })
}
