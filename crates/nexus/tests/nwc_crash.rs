//! SIGKILL of a process that pays over Nostr Wallet Connect, at each arrow of the payment state machine and at each
//! distinct point of a dispatch, then at random: what the payee saw is what is recorded in the end, and nothing is paid
//! twice.
//!
//! Without a test harness: started with a job in its environment, this program is the process that is killed
//! (`crash_bench`). `NEXUS_CRASH_ROUNDS` is the number of random kills (20).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../lightning/tests/crash_bench/mod.rs"]
mod crash_bench;
mod nwc_bench;
#[path = "nwc_bench/files.rs"]
mod nwc_files;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crash_bench::{Arrow, Book, Dice, Entry, Job, Process, Wallet};
use nexus_core::payment::PaymentState;
use nexus_core::{Clock, Hash32, Msat};
use nexus_lightning::nwc::FAILURE_MARGIN_MS;
use nexus_lightning::storage::MemoryStorage;
use nexus_lightning::{Invoice, InvoiceRequest, InvoiceState, Pay, Receive};
use nexus_testkit::TestClock;
use nexus_testkit::nwc::{Course, Service, Wire};
use nwc_bench::{PoolLine, TestRelay, wallet};
use nwc_files::Files;
use serde::{Deserialize, Serialize};

const FUNDS_MSAT: u64 = 100_000_000;
const PAYER: usize = 0;
const PAYEE: usize = 1;
/// The invoice's life.
const EXPIRY_MS: i64 = 3_600_000;

/// How the paying process reaches its wallet.
#[derive(Clone, Serialize, Deserialize)]
struct Connected {
    uri: String,
    storage: PathBuf,
}

impl Wallet for Connected {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Pay> {
        let storage = Arc::new(Files(self.storage.clone()));
        Arc::new(wallet(&self.uri, PoolLine::new(clock.clone()), storage, clock))
    }
}

type NwcJob = Job<Connected>;

struct Scene {
    service: Service,
    payee: nexus_lightning::nwc::NwcWallet,
    dir: tempfile::TempDir,
    invoice: Invoice,
    _relay: TestRelay,
}

impl Scene {
    async fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TestClock::default());
        let relay = TestRelay::start(clock.clone()).await;
        let service = Service::start(&relay.url, clock.clone(), &[FUNDS_MSAT, FUNDS_MSAT]).await;
        let storage = Arc::new(MemoryStorage::default());
        let payee = wallet(&service.uri(PAYEE), PoolLine::new(clock.clone()), storage, clock);
        let invoice = payee.create_invoice(InvoiceRequest::new(Msat::sats(700), "crash")).await.unwrap();
        Self { service, payee, dir: tempfile::tempdir().unwrap(), invoice, _relay: relay }
    }

    fn job(&self) -> NwcJob {
        let connected = Connected { uri: self.service.uri(PAYER), storage: self.dir.path().join("storage") };
        Job::new(connected, self.dir.path().join("book"), &self.invoice.bolt11)
    }

    fn start(&self, job: &NwcJob) -> Process {
        Process::start(job, self.dir.path())
    }

    fn last(&self) -> Entry {
        Book(self.dir.path().join("book")).last().unwrap()
    }

    async fn paid(&self) -> bool {
        let state = self.payee.lookup_invoice(self.invoice.hash).await.unwrap();
        matches!(state, InvoiceState::Settled { .. })
    }

    /// The payee was paid once, and the book says so, with proof.
    async fn assert_settled(&self) {
        let last = self.last();
        assert_eq!(last.state, PaymentState::Settled);
        assert_eq!(last.preimage.map(|it| Hash32::sha256(it.as_bytes())), Some(self.invoice.hash));
        assert!(last.fee.is_some());
        assert!(self.paid().await, "recorded, and the payee saw nothing");
        assert_eq!(self.service.begun(self.invoice.hash), 1, "begun more than once");
        assert_eq!(self.service.sum_msat(), 2 * FUNDS_MSAT);
    }
}

/// Killed between what is recorded and what is done.
async fn at_each_arrow() {
    for arrow in Arrow::ALL {
        for course in [Course::Plain, Course::SettlesAfter { ms: 500 }] {
            for restart in [false, true] {
                let scene = Scene::new().await;
                scene.service.rule(PAYER, "pay_invoice", course, Wire::Whole);
                let mut process = scene.start(&Job { stop_at: Some(arrow), ..scene.job() });
                process.wait_until_there();
                process.kill();
                if restart {
                    scene.service.restart().await;
                }
                settle(&scene).await;
            }
        }
    }
}

/// The heir's processes, until one has recorded how it ended.
async fn settle(scene: &Scene) {
    for _ in 0..10 {
        scene.start(&scene.job()).end().await;
        if scene.last().state == PaymentState::Settled {
            break;
        }
    }
    scene.assert_settled().await;
}

/// Killed while a request is on its way, heard, done, or answered.
async fn at_each_point_of_a_dispatch() {
    let plain = Course::Plain;
    for (method, course, wire) in [
        ("get_info", plain, Wire::Late { ms: 2_000 }),
        ("lookup_invoice", plain, Wire::Late { ms: 2_000 }),
        ("pay_invoice", plain, Wire::Late { ms: 2_000 }),
        ("pay_invoice", Course::SettlesAfter { ms: 300 }, Wire::Lost { deaf: 0 }),
        ("pay_invoice", plain, Wire::Lost { deaf: 1 }),
        ("pay_invoice", plain, Wire::Dropped),
        ("pay_invoice", plain, Wire::Garbled),
        // It is heard after its sender's death: before its heir looks, and while it pays.
        ("pay_invoice", plain, Wire::Slow { ms: 1 }),
        ("pay_invoice", plain, Wire::Slow { ms: 100 }),
        ("pay_invoice", plain, Wire::Slow { ms: 600 }),
    ] {
        let scene = Scene::new().await;
        scene.service.rule(PAYER, method, course, wire);
        let process = scene.start(&scene.job());
        scene.service.arrival(method).await;
        process.kill();
        settle(&scene).await;
        // What is still on its way finds the payment made.
        tokio::time::sleep(Duration::from_millis(700)).await;
        scene.assert_settled().await;
    }
}

/// A sender that froze in the middle of a dispatch and thaws after its heir has paid changes nothing.
async fn a_frozen_sender_thaws() {
    for method in ["lookup_invoice", "pay_invoice"] {
        let scene = Scene::new().await;
        scene.service.rule(PAYER, method, Course::Plain, Wire::Slow { ms: 200 });
        let process = scene.start(&scene.job());
        scene.service.arrival(method).await;
        process.signal("STOP");
        settle(&scene).await;
        process.signal("CONT");
        process.end().await;
        scene.assert_settled().await;
    }
}

/// Killed while its payment is in flight, which the wallet calls failed, and which settles: nobody believed it.
async fn called_failed_and_settled() {
    for ms in [100, 1_500] {
        let scene = Scene::new().await;
        scene.service.rule(PAYER, "pay_invoice", Course::CalledFailed { settles_after_ms: ms }, Wire::Lost { deaf: 0 });
        let process = scene.start(&scene.job());
        scene.service.arrival("pay_invoice").await;
        process.kill();
        while !scene.paid().await {
            scene.start(&scene.job()).end().await;
            assert!(scene.last().state.holds() || scene.paid().await, "{:?}", scene.last());
        }
        settle(&scene).await;
    }
}

/// A payment in flight when its sender died, which fails: its money is held until ten minutes past the invoice's expiry.
async fn a_failure_is_believed_late() {
    let scene = Scene::new().await;
    scene.service.rule(PAYER, "pay_invoice", Course::Stuck, Wire::Whole);
    let process = scene.start(&scene.job());
    scene.service.arrival("pay_invoice").await;
    process.kill();
    while !scene.service.land(scene.invoice.hash, false) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let later = |later_ms| Job { later_ms, ..scene.job() };
    for later_ms in [0, EXPIRY_MS + 70_000, EXPIRY_MS + FAILURE_MARGIN_MS - 60_000] {
        scene.start(&later(later_ms)).end().await;
        assert!(scene.last().state.holds(), "believed {later_ms} ms later: {:?}", scene.last());
    }
    scene.start(&later(EXPIRY_MS + FAILURE_MARGIN_MS + 60_000)).end().await;
    assert_eq!(scene.last().state, PaymentState::Failed);
    assert!(!scene.paid().await);
    assert_eq!(scene.service.begun(scene.invoice.hash), 1);
    assert_eq!(scene.service.sum_msat(), 2 * FUNDS_MSAT);
}

/// Killed whenever it happens, up to three times in a row.
async fn at_random(rounds: u64) {
    let mut dice = Dice::default();
    for round in 0..rounds {
        let scene = Scene::new().await;
        let course = if dice.throw(2) == 0 { Course::Plain } else { Course::SettlesAfter { ms: dice.throw(200) } };
        scene.service.rule(PAYER, "pay_invoice", course, Wire::Slow { ms: dice.throw(40) });
        for _ in 0..=dice.throw(3) {
            let process = scene.start(&scene.job());
            tokio::time::sleep(Duration::from_millis(dice.throw(250))).await;
            process.kill();
        }
        settle(&scene).await;
        if round % 100 == 99 {
            println!("at_random, round {} ... ok", round + 1);
        }
    }
}

fn main() {
    if crash_bench::perform::<Connected>() {
        return;
    }
    crash_bench::runtime().block_on(async {
        at_each_arrow().await;
        println!("at_each_arrow ... ok");
        at_each_point_of_a_dispatch().await;
        println!("at_each_point_of_a_dispatch ... ok");
        a_frozen_sender_thaws().await;
        println!("a_frozen_sender_thaws ... ok");
        called_failed_and_settled().await;
        println!("called_failed_and_settled ... ok");
        a_failure_is_believed_late().await;
        println!("a_failure_is_believed_late ... ok");
        let rounds = crash_bench::rounds(20);
        at_random(rounds).await;
        println!("at_random, {rounds} rounds ... ok");
    });
}
