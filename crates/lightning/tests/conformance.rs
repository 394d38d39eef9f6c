//! The development network against the suite for all drivers, with its server restarted midway.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use nexus_core::payment::FailureClass;
use nexus_core::{Clock, Hash32};
use nexus_lightning::conformance::{self, Bench, Next};
use nexus_lightning::devnet::faults::{Command, Fault, Rule};
use nexus_lightning::devnet::{self, AccountKey, Devnet, Parts, Place};
use nexus_lightning::driver::WalletDriver;
use nexus_testkit::{SystemEntropy, TestClock};

struct DevBench {
    dir: tempfile::TempDir,
    clock: Arc<TestClock>,
    net: Mutex<Devnet>,
}

impl DevBench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::default());
        let net = open(&dir, &clock).await;
        net.wallet(AccountKey::from_wallet_seed(b"the seed of the payer")).faucet().await.unwrap();
        Self { dir, clock, net: Mutex::new(net) }
    }

    fn net(&self) -> Devnet {
        self.net.lock().unwrap().clone()
    }

    async fn command(&self, command: Command) -> bool {
        self.net().faults().unwrap().command(command).await
    }

    fn wallet(&self, seed: &[u8]) -> Arc<dyn WalletDriver> {
        Arc::new(self.net().wallet(AccountKey::from_wallet_seed(seed)))
    }
}

async fn open(dir: &tempfile::TempDir, clock: &Arc<TestClock>) -> Devnet {
    let parts = Parts::new(clock.clone(), Arc::new(SystemEntropy));
    devnet::open(Place::Dir(dir.path().join("devnet")), parts).await.unwrap()
}

impl Bench for DevBench {
    fn payer(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>> {
        Box::pin(async { self.wallet(b"the seed of the payer") })
    }

    fn payee(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>> {
        Box::pin(async { self.wallet(b"the seed of the payee") })
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn restart(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            assert_eq!(self.net().sum_msat().await, Some(0));
            let (old, dir) = (self.net(), &self.dir);
            old.shutdown().await;
            // A handle that asks just now may take over: then the new one only connects, and the old one serves.
            let net = open(dir, &self.clock).await;
            *self.net.lock().unwrap() = if net.serving() { net } else { old };
        })
    }

    fn script(&self, next: Next) -> BoxFuture<'_, bool> {
        let fault = match next {
            Next::Lost => Fault::Unknown,
            Next::LostThenFails => Fault::UnknownThenFail { ms: 150 },
            Next::Dropped => Fault::Dropped,
            Next::Stuck => Fault::Stuck,
            Next::Slow => Fault::Delay { ms: 200 },
        };
        Box::pin(self.command(Command::Rule(Rule::next_payment(fault))))
    }

    fn land(&self, hash: Hash32, settle: bool) -> BoxFuture<'_, ()> {
        let class = FailureClass::NoRoute;
        let command = if settle { Command::Settle { hash } } else { Command::Fail { hash, class } };
        Box::pin(async { assert!(self.command(command).await) })
    }
}

macro_rules! suite {
    ($($name:ident)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let bench = DevBench::new().await;
                conformance::$name(&bench).await;
                assert_eq!(bench.net().sum_msat().await, Some(0));
            }
        )*
    };
}

nexus_lightning::each_conformance_test!(suite);

/// One network through the whole suite: nothing that one test leaves behind disturbs the next.
#[tokio::test]
async fn all_on_one_network() {
    let bench = DevBench::new().await;
    conformance::all(&bench).await;
    assert_eq!(bench.net().sum_msat().await, Some(0));
}
