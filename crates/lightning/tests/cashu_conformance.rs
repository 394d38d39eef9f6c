//! The Cashu driver against the suite for all drivers: a real mint (Nutshell) that pays out of one node of a pair, and an
//! LND driver at the other that is paid, so that what each side believes can be compared.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cashu_bench;
mod lnd_bench;

use std::sync::Arc;

use cashu_bench::{Way, Wire, config, fund, mint_at, wallet};
use futures::future::BoxFuture;
use lnd_bench::Whole;
use nexus_core::{Clock, Hash32};
use nexus_lightning::Network;
use nexus_lightning::cashu::{CashuMemory, CashuWallet, WalletSeed};
use nexus_lightning::conformance::{self, Bench, Next};
use nexus_lightning::driver::WalletDriver;
use nexus_lightning::lnd::{NodeConfig, Trust};
use nexus_lightning::storage::MemoryStorage;
use nexus_testkit::TestClock;
use nexus_testkit::lnd::{Course, FUNDS_MSAT, Pair, Wire as NodeWire};
use nexus_testkit::mint::Mint;

struct CashuBench {
    pair: Pair,
    mint: Mint,
    way: Arc<Way>,
    storage: MemoryStorage,
    /// Of one process, whose handles know of each other: two processes never hold one wallet, the fence sees to that.
    memory: CashuMemory,
    clock: Arc<TestClock>,
}

impl CashuBench {
    async fn new() -> Self {
        let pair = Pair::start().await;
        let mint = mint_at(&pair.payer).await;
        let clock: Arc<TestClock> = Arc::default();
        let way = Way::to(&mint.url(), clock.clone());
        let (storage, memory) = (MemoryStorage::default(), CashuMemory::default());
        let bench = Self { pair, mint, way, storage, memory, clock };
        let payer = wallet(&bench.mint.url(), 1, bench.way.clone(), Arc::new(bench.storage.clone()));
        fund(&payer, &bench.pair.payee, 200_000).await;
        bench
    }
}

impl Bench for CashuBench {
    fn payer(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>> {
        Box::pin(async {
            let storage = Arc::new(self.storage.clone());
            let (clock, way): (Arc<TestClock>, _) = (Arc::default(), self.way.clone());
            let (config, seed) = (config(&self.mint.url()), WalletSeed::new([1; 64]));
            let wallet = CashuWallet::again(config, seed, way, storage, clock, self.memory.clone());
            Arc::new(wallet) as Arc<dyn WalletDriver>
        })
    }

    fn payee(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>> {
        Box::pin(async {
            let node = &self.pair.payee;
            let trust = Trust::File(node.certificate_file());
            let config = NodeConfig::new(&node.url(), trust, &node.identity(), Network::Regtest).unwrap();
            let clock = self.clock.clone();
            let whole = Whole::new(&config, &node.payer_macaroon_file(), &node.invoice_macaroon_file(), clock);
            Arc::new(whole) as Arc<dyn WalletDriver>
        })
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn restart(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.mint.restart())
    }

    fn script(&self, next: Next) -> BoxFuture<'_, bool> {
        let (course, wire) = match next {
            Next::Lost => (Course::Plain, Some(Wire::Mute)),
            Next::LostThenFails => (Course::FailsAfter { ms: 1_500 }, Some(Wire::MuteEarly)),
            Next::Dropped => (Course::Plain, Some(Wire::Dropped)),
            Next::Stuck => (Course::Stuck, None),
            Next::Slow => (Course::SettlesAfter { ms: 200 }, None),
        };
        if wire != Some(Wire::Dropped) {
            self.pair.payer.rule("/v2/router/send", course, NodeWire::Whole);
        }
        if let Some(wire) = wire {
            self.way.rule("/v1/melt/bolt11", wire);
        }
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
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let bench = CashuBench::new().await;
                conformance::$name(&bench).await;
                assert_eq!(bench.pair.sum_msat(), 2 * FUNDS_MSAT);
            }
        )*
    };
}

nexus_lightning::each_conformance_test!(suite);

/// One mint through the whole suite: nothing that one test leaves behind disturbs the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_at_one_mint() {
    let bench = CashuBench::new().await;
    conformance::all(&bench).await;
    assert_eq!(bench.pair.sum_msat(), 2 * FUNDS_MSAT);
}
