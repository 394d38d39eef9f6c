//! The Spark driver and its sidecar against the suite for all drivers, on a stand-in for the SDK; the sidecar is killed
//! midway.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod spark_bench;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Clock, Hash32, Msat};
use nexus_lightning::conformance::{self, Bench, Next};
use nexus_lightning::driver::WalletDriver;
use nexus_lightning::spark::{Script, Sidecar, SidecarConfig, SparkWallet};
use nexus_lightning::storage::MemoryStorage;
use nexus_lightning::{Dispatch, Driver, InvoiceRequest, Network, Pay, PayRequest, Receive, WalletStorage};
use nexus_testkit::TestClock;
use serde_json::json;
use spark_bench::{FileStorage, Ledger, PAYEE, PAYER, config, wallet, words};

struct SparkBench {
    _dir: tempfile::TempDir,
    clock: Arc<TestClock>,
    ledger: Ledger,
    sidecar: Sidecar,
    payer: MemoryStorage,
    payee: MemoryStorage,
}

impl SparkBench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, clock) = (Ledger::create(dir.path()), Arc::<TestClock>::default());
        let sidecar = Sidecar::new(config(&ledger, &dir.path().join("sidecar")), clock.clone()).unwrap();
        Self { _dir: dir, clock, ledger, sidecar, payer: MemoryStorage::default(), payee: MemoryStorage::default() }
    }

    fn wallet(&self, whose: &str, storage: &MemoryStorage) -> Arc<SparkWallet> {
        Arc::new(SparkWallet::new(self.sidecar.clone(), words(whose), Arc::new(storage.clone())))
    }

    /// A send of an invoice of the payee's.
    async fn send(&self, payer: &SparkWallet) -> (Hash32, Dispatch) {
        let payee = self.wallet(PAYEE, &self.payee);
        let invoice = payee.create_invoice(InvoiceRequest::new(Msat::sats(321), "one")).await.unwrap();
        let quote = payer.quote(PayRequest { bolt11: invoice.bolt11.clone(), amount: None }).await.unwrap();
        let send = Dispatch {
            payment_id: format!("pay {}", &invoice.hash.to_string()[..32]),
            attempt: 1,
            key: "unused".to_owned(),
            bolt11: invoice.bolt11,
            amount: None,
            max_fee: quote.max_fee,
            deadline: self.clock.mono().plus_ms(60_000),
            handle: None,
        };
        (invoice.hash, send)
    }

    async fn certain(&self, payer: &SparkWallet, hash: Hash32, send: &Dispatch) -> Outcome {
        for _ in 0..400 {
            match payer.resolve(send.resolve(hash)).await {
                Outcome::Pending | Outcome::Unknown { .. } => tokio::time::sleep(Duration::from_millis(25)).await,
                certain => return certain,
            }
        }
        panic!("still not certain");
    }

    fn kill(&self) -> Option<u32> {
        let pid = self.sidecar.process_id()?;
        // It may be gone already.
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
        Some(pid)
    }
}

impl Bench for SparkBench {
    fn payer(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>> {
        Box::pin(async { self.wallet(PAYER, &self.payer) as Arc<dyn WalletDriver> })
    }

    fn payee(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>> {
        Box::pin(async { self.wallet(PAYEE, &self.payee) as Arc<dyn WalletDriver> })
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn restart(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let Some(pid) = self.kill() else { return };
            while self.sidecar.process_id() == Some(pid) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    fn script(&self, next: Next) -> BoxFuture<'_, bool> {
        self.ledger.rule(match next {
            Next::Lost => json!({ "lost": true }),
            Next::LostThenFails => json!({ "lost": true, "lands": "fail", "lands_ms": 150 }),
            Next::Dropped => json!({ "dropped": true }),
            Next::Stuck => json!({ "lands_ms": null }),
            Next::Slow => json!({ "lands_ms": 200 }),
        });
        Box::pin(async { true })
    }

    fn land(&self, hash: Hash32, settle: bool) -> BoxFuture<'_, ()> {
        self.ledger.ask(&["land", &hash.to_string(), if settle { "settle" } else { "fail" }]);
        Box::pin(async {})
    }
}

macro_rules! suite {
    ($($name:ident)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let bench = SparkBench::new();
                conformance::$name(&bench).await;
                bench.ledger.assert_sound();
            }
        )*
    };
}

nexus_lightning::each_conformance_test!(suite);

/// One sidecar through the whole suite: nothing that one test leaves behind disturbs the next.
#[tokio::test]
async fn all_on_one_sidecar() {
    let bench = SparkBench::new();
    conformance::all(&bench).await;
    bench.ledger.assert_sound();
}

/// The sidecar dies at each point of a send; the wallets outlive it.
#[tokio::test]
async fn the_sidecar_dies_in_the_middle_of_a_send() {
    let bench = SparkBench::new();
    let payer = bench.wallet(PAYER, &bench.payer);
    for (point, arrived) in [("asked", false), ("sending", false), ("sent", true)] {
        let (hash, send) = bench.send(&payer).await;
        bench.ledger.rule(json!({ "dies": point }));
        let lost = payer.dispatch(send.clone()).await;
        assert!(matches!(lost, Outcome::Unknown { .. }), "{point}: {lost:?}");
        let known = bench.certain(&payer, hash, &send).await;
        assert_eq!(matches!(known, Outcome::Settled { .. }), arrived, "{point}: {known:?}");
        let repeated = payer.dispatch(send.clone()).await;
        assert!(matches!(repeated, Outcome::Settled { preimage: Some(_), .. }), "{point}: {repeated:?}");
        assert_eq!(payer.dispatch(send).await, repeated);
        bench.ledger.assert_sound();
    }
}

/// After the deadline nothing leaves: the outcome says so, nobody was paid, and a repeat in time pays.
async fn assert_late(bench: &SparkBench, payer: &SparkWallet, hash: Hash32, send: Dispatch, outcome: &Outcome) {
    assert_eq!(*outcome, Outcome::Failed { class: FailureClass::Refused });
    assert_eq!(payer.resolve(send.resolve(hash)).await, Outcome::NotFound);
    assert_eq!(bench.ledger.ask(&["paid", &hash.to_string()]), "0");
    let in_time = Dispatch { deadline: bench.clock.mono().plus_ms(60_000), ..send };
    assert!(matches!(payer.dispatch(in_time).await, Outcome::Settled { .. }));
    bench.ledger.assert_sound();
}

/// A request that lay in the pipe of a frozen sidecar until its deadline had passed.
#[tokio::test]
async fn what_lay_in_the_pipe_is_late() {
    let bench = SparkBench::new();
    let payer = bench.wallet(PAYER, &bench.payer);
    let (hash, send) = bench.send(&payer).await;
    let pid = bench.sidecar.process_id().unwrap().to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    let send = Dispatch { deadline: bench.clock.mono().plus_ms(1_500), ..send };
    let thaw = async {
        tokio::time::sleep(Duration::from_millis(2_000)).await;
        assert!(Command::new("kill").args(["-CONT", &pid]).status().unwrap().success());
    };
    let (outcome, ()) = futures::future::join(payer.dispatch(send.clone()), thaw).await;
    assert_late(&bench, &payer, hash, send, &outcome).await;
}

/// An SDK that took so long to choose what to pay with that the deadline passed: its hook stops it.
#[tokio::test]
async fn a_slow_sdk_is_stopped_at_its_hook() {
    let bench = SparkBench::new();
    let payer = bench.wallet(PAYER, &bench.payer);
    let (hash, send) = bench.send(&payer).await;
    bench.ledger.rule(json!({ "watched": true, "slow_at": "asked", "slow_ms": 6_000 }));
    let send = Dispatch { deadline: bench.clock.mono().plus_ms(5_000), ..send };
    let outcome = payer.dispatch(send.clone()).await;
    assert_eq!(bench.ledger.ask(&["arrived", "asked"]), "1");
    assert_late(&bench, &payer, hash, send, &outcome).await;
}

/// A new wallet that has lost what it stored, and a new directory of the SDK's: the key is the same, and pays once.
#[tokio::test]
async fn lost_storage_pays_nothing_twice() {
    let bench = SparkBench::new();
    let payer = bench.wallet(PAYER, &bench.payer);
    let (hash, send) = bench.send(&payer).await;
    bench.ledger.rule(json!({ "lost": true }));
    let lost = payer.dispatch(send.clone()).await;
    assert!(matches!(lost, Outcome::Unknown { .. }), "{lost:?}");
    let elsewhere = tempfile::tempdir().unwrap();
    let storage = Arc::new(FileStorage::new(elsewhere.path().join("records")));
    let config = config(&bench.ledger, elsewhere.path());
    let heir = wallet(&config, bench.clock.clone(), PAYER, storage.clone());
    let known = heir.resolve(send.resolve(hash)).await;
    assert!(matches!(known, Outcome::Settled { preimage: Some(_), .. }), "{known:?}");
    let repeated = heir.dispatch(send.clone()).await;
    assert!(matches!(repeated, Outcome::Settled { preimage: Some(_), .. }), "{repeated:?}");
    assert_eq!(bench.ledger.ask(&["paid", &hash.to_string()]), "1");
    bench.ledger.assert_sound();
    // What is on record is there before anything leaves.
    assert_eq!(storage.list("spark_payments").await.unwrap().len(), 1);
}

/// A storage that belongs to other words is not written to, and pays nothing.
#[tokio::test]
async fn other_words_are_refused() {
    let bench = SparkBench::new();
    bench.wallet(PAYER, &bench.payer).health().await.unwrap();
    let stranger = bench.wallet(PAYEE, &bench.payer);
    let refused = stranger.health().await.unwrap_err().to_string();
    assert!(refused.contains("other words"), "{refused}");
}

/// A process that is no sidecar, whatever it does instead, is a typed error within the bounds.
#[tokio::test]
async fn what_is_no_sidecar_is_named() {
    let greeting = "import sys, json, time\n\
                    def say(it): print(json.dumps(it), flush=True)\n\
                    first = json.loads(sys.stdin.readline())\n";
    let greets = "say({'id': first['id'], 'result': {'protocol': 1}})\n\
                  second = json.loads(sys.stdin.readline())\n\
                  say({'id': second['id'], 'result': {'mono_ms': 1}})\n\
                  sys.stdin.readline()\n";
    for (does, says) in [
        ("sys.exit(0)\n".to_owned(), "ended"),
        ("print('not a reply', flush=True)\n".to_owned(), "cannot be read"),
        ("say({'id': first['id'], 'result': {'protocol': 2}})\n".to_owned(), "another protocol"),
        ("say({'id': 99, 'result': {'protocol': 1}})\n".to_owned(), "cannot be read"),
        ("time.sleep(60)\n".to_owned(), "in time"),
        ("sys.stdout.write('x' * 300_000); sys.stdout.flush(); time.sleep(60)\n".to_owned(), "without end"),
        (format!("{greets}sys.exit(0)\n"), "ended"),
        (format!("{greets}sys.stdout.write('x' * 300_000); sys.stdout.flush(); time.sleep(60)\n"), "without end"),
        (format!("{greets}print('nonsense', flush=True); time.sleep(60)\n"), "unreadable"),
        (format!("{greets}time.sleep(60)\n"), "in time"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("other.py");
        std::fs::write(&script, format!("{greeting}{does}")).unwrap();
        let mut config = SidecarConfig::new("python3".into(), dir.path().join("storage"), Network::Regtest, None);
        (config.script, config.timeout_ms) = (Script::File(script), 5_000);
        let sidecar = Sidecar::new(config, Arc::<TestClock>::default()).unwrap();
        let wallet = SparkWallet::new(sidecar, words(PAYER), Arc::new(MemoryStorage::default()));
        let error = wallet.health().await.unwrap_err();
        assert!(error.to_string().contains(says), "{does}: {error}");
    }
}
