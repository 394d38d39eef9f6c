//! The driver for Nostr Wallet Connect against the suite for all drivers: over a real relay, with a wallet service of our
//! own that answers as Alby Hub does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod nwc_bench;

use std::sync::Arc;

use futures::future::BoxFuture;
use nexus_core::{Clock, Hash32, UnixMs};
use nexus_lightning::conformance::{self, Bench, Next};
use nexus_lightning::driver::WalletDriver;
use nexus_lightning::nwc::FAILURE_MARGIN_MS;
use nexus_lightning::storage::MemoryStorage;
use nexus_testkit::AheadClock;
use nexus_testkit::nwc::{Course, Service, Wire};
use nwc_bench::{PoolLine, TestRelay, wallet};

const FUNDS_MSAT: u64 = 1_000_000_000;
const PAYER: usize = 0;
const PAYEE: usize = 1;

struct NwcBench {
    clock: AheadClock,
    _relay: TestRelay,
    service: Service,
    line: Arc<PoolLine>,
    storage: [MemoryStorage; 2],
}

impl NwcBench {
    async fn new() -> Self {
        let clock = AheadClock::default();
        let relay = TestRelay::start(Arc::new(clock.clone())).await;
        let service = Service::start(&relay.url, Arc::new(clock.clone()), &[FUNDS_MSAT, FUNDS_MSAT]).await;
        let line = PoolLine::new(Arc::new(clock.clone()));
        Self { clock, _relay: relay, service, line, storage: Default::default() }
    }

    fn wallet(&self, app: usize) -> Arc<dyn WalletDriver> {
        let storage = Arc::new(self.storage[app].clone());
        Arc::new(wallet(&self.service.uri(app), self.line.clone(), storage, self.clock()))
    }
}

impl Bench for NwcBench {
    fn payer(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>> {
        Box::pin(async { self.wallet(PAYER) })
    }

    fn payee(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>> {
        Box::pin(async { self.wallet(PAYEE) })
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    fn restart(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.service.restart())
    }

    fn script(&self, next: Next) -> BoxFuture<'_, bool> {
        // The question after a lost answer is lost too: else there is no doubt.
        let lost = Wire::Lost { deaf: 1 };
        let (course, wire) = match next {
            Next::Lost => (Course::Plain, lost),
            Next::LostThenFails => (Course::FailsAfter { ms: 150 }, lost),
            Next::Dropped => (Course::Plain, Wire::Dropped),
            Next::Stuck => (Course::Stuck, Wire::Whole),
            Next::Slow => (Course::SettlesAfter { ms: 200 }, Wire::Whole),
        };
        self.service.rule(PAYER, "pay_invoice", course, wire);
        Box::pin(async { true })
    }

    fn land(&self, hash: Hash32, settle: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move { assert!(self.service.land(hash, settle)) })
    }

    fn one_backend(&self) -> bool {
        false
    }

    fn own_preimages(&self) -> bool {
        false
    }

    fn believes_late(&self) -> bool {
        true
    }

    fn pass_expiry(&self, expires_at: UnixMs) -> BoxFuture<'_, ()> {
        let left_ms = expires_at.plus_ms(FAILURE_MARGIN_MS).0 - self.clock.now().0;
        self.clock.advance_ms(left_ms.max(0));
        Box::pin(async {})
    }

    // NIP-47 has no word for a fee limit.
    fn takes_fees(&self) -> bool {
        false
    }
}

macro_rules! suite {
    ($($name:ident)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let bench = NwcBench::new().await;
                conformance::$name(&bench).await;
                assert_eq!(bench.service.sum_msat(), 2 * FUNDS_MSAT);
            }
        )*
    };
}

nexus_lightning::each_conformance_test!(suite);

/// One service through the whole suite: nothing that one test leaves behind disturbs the next.
#[tokio::test]
async fn all_on_one_service() {
    let bench = NwcBench::new().await;
    conformance::all(&bench).await;
    assert_eq!(bench.service.sum_msat(), 2 * FUNDS_MSAT);
}
