//! The LND driver against the suite for all drivers: over TLS, with a node of our own that answers as LND does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lnd_bench;
mod lnd_send;
mod lnd_stories;

use std::sync::Arc;

use futures::future::BoxFuture;
use lnd_bench::Whole;
use nexus_core::{Clock, Hash32};
use nexus_lightning::Network;
use nexus_lightning::conformance::{self, Bench, Next};
use nexus_lightning::driver::WalletDriver;
use nexus_lightning::lnd::{NodeConfig, Trust};
use nexus_testkit::TestClock;
use nexus_testkit::lnd::{Course, FUNDS_MSAT, Node, Pair, Wire};

struct LndBench {
    pair: Pair,
    clock: Arc<TestClock>,
}

impl LndBench {
    async fn new() -> Self {
        Self { pair: Pair::start().await, clock: Arc::default() }
    }

    fn wallet(&self, node: &Node) -> Arc<Whole> {
        let trust = Trust::File(node.certificate_file());
        let mut config = NodeConfig::new(&node.url(), trust, &node.identity(), Network::Regtest).unwrap();
        // Only what is stuck waits for all of it.
        config.patience.settle_ms = 2_000;
        config.patience.connect_ms = 30_000;
        config.patience.answer_ms = 30_000;
        Arc::new(Whole::new(&config, &node.payer_macaroon_file(), &node.invoice_macaroon_file(), self.clock.clone()))
    }
}

impl Bench for LndBench {
    fn payer(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>> {
        Box::pin(async { self.wallet(&self.pair.payer) as Arc<dyn WalletDriver> })
    }

    fn payee(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>> {
        Box::pin(async { self.wallet(&self.pair.payee) as Arc<dyn WalletDriver> })
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn restart(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.pair.payer.restart().await;
            self.pair.payee.restart().await;
        })
    }

    fn script(&self, next: Next) -> BoxFuture<'_, bool> {
        let cut = Wire::Cut { lines: 0, within: false };
        let (course, wire) = match next {
            Next::Lost => (Course::Plain, cut),
            Next::LostThenFails => (Course::FailsAfter { ms: 150 }, cut),
            Next::Dropped => (Course::Plain, Wire::Dropped),
            Next::Stuck => (Course::Stuck, Wire::Whole),
            Next::Slow => (Course::SettlesAfter { ms: 200 }, Wire::Whole),
        };
        self.pair.payer.rule("/v2/router/send", course, wire);
        Box::pin(async { true })
    }

    fn land(&self, hash: Hash32, settle: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move { assert!(self.pair.payer.land(hash, settle)) })
    }

    fn one_backend(&self) -> bool {
        false
    }
}

macro_rules! suite {
    ($($name:ident)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let bench = LndBench::new().await;
                conformance::$name(&bench).await;
                assert_eq!(bench.pair.sum_msat(), 2 * FUNDS_MSAT);
            }
        )*
    };
}

nexus_lightning::each_conformance_test!(suite);

#[tokio::test]
async fn holds() {
    let bench = LndBench::new().await;
    let (payer, payee) = (bench.wallet(&bench.pair.payer), bench.wallet(&bench.pair.payee));
    lnd_stories::holds(&payer, &payee, &*bench.clock).await;
    assert_eq!(bench.pair.sum_msat(), 2 * FUNDS_MSAT);
}

#[tokio::test]
async fn settlements_are_found() {
    let bench = LndBench::new().await;
    let (payer, payee) = (bench.wallet(&bench.pair.payer), bench.wallet(&bench.pair.payee));
    lnd_stories::settlements_are_found(&payer, &payee, &*bench.clock).await;
}

/// One pair through the whole suite: nothing that one test leaves behind disturbs the next.
#[tokio::test]
async fn all_on_one_pair() {
    let bench = LndBench::new().await;
    conformance::all(&bench).await;
    assert_eq!(bench.pair.sum_msat(), 2 * FUNDS_MSAT);
}
