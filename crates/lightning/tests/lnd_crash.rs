//! SIGKILL of a paying process at each arrow of the payment state machine and at each distinct point of a dispatch, then
//! at random: what the payee saw is what is recorded in the end, and nothing is paid twice.
//!
//! Without a test harness: started with a job in its environment, this program is the process that is killed
//! (`crash_bench`). `NEXUS_CRASH_ROUNDS` is the number of random kills (20).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod crash_bench;
mod lnd_bench;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crash_bench::{Arrow, Book, Dice, Entry, Job, Process, Wallet};
use lnd_bench::Whole;
use nexus_core::payment::PaymentState;
use nexus_core::{Clock, Hash32, Msat};
use nexus_lightning::lnd::{LndPay, NodeConfig, PayerMacaroon, Trust};
use nexus_lightning::{Invoice, InvoiceRequest, InvoiceState, Network, Pay, Receive};
use nexus_testkit::TestClock;
use nexus_testkit::lnd::{Course, FUNDS_MSAT, Node, Pair, Wire};
use serde::{Deserialize, Serialize};

/// How the paying process reaches its node.
#[derive(Clone, Serialize, Deserialize)]
struct AtNode {
    url: String,
    certificate: PathBuf,
    identity: String,
    macaroon: PathBuf,
}

impl Wallet for AtNode {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Pay> {
        let trust = Trust::File(self.certificate.clone());
        let mut node = NodeConfig::new(&self.url, trust, &self.identity, Network::Regtest).unwrap();
        node.patience.settle_ms = 200;
        Arc::new(LndPay::new(node, PayerMacaroon::read(&self.macaroon).unwrap(), clock))
    }
}

type LndJob = Job<AtNode>;

struct Scene {
    pair: Pair,
    payee: Whole,
    dir: tempfile::TempDir,
    invoice: Invoice,
}

fn whole(node: &Node) -> Whole {
    let trust = Trust::Fingerprint(node.fingerprint());
    let config = NodeConfig::new(&node.url(), trust, &node.identity(), Network::Regtest).unwrap();
    let clock: Arc<TestClock> = Arc::default();
    Whole::new(&config, &node.payer_macaroon_file(), &node.invoice_macaroon_file(), clock)
}

impl Scene {
    async fn new() -> Self {
        let pair = Pair::start().await;
        let payee = whole(&pair.payee);
        let invoice = payee.create_invoice(InvoiceRequest::new(Msat::sats(700), "crash")).await.unwrap();
        Self { pair, payee, dir: tempfile::tempdir().unwrap(), invoice }
    }

    fn job(&self) -> LndJob {
        let node = &self.pair.payer;
        let at_node = AtNode {
            url: node.url(),
            certificate: node.certificate_file(),
            identity: node.identity(),
            macaroon: node.payer_macaroon_file(),
        };
        Job::new(at_node, self.dir.path().join("book"), &self.invoice.bolt11)
    }

    fn start(&self, job: &LndJob) -> Process {
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
        assert_eq!(self.pair.payer.begun(self.invoice.hash), 1, "begun more than once");
        assert_eq!(self.pair.sum_msat(), 2 * FUNDS_MSAT);
    }
}

/// Killed between what is recorded and what is done.
async fn at_each_arrow() {
    for arrow in Arrow::ALL {
        for course in [Course::Plain, Course::SettlesAfter { ms: 500 }] {
            for restart in [false, true] {
                let scene = Scene::new().await;
                scene.pair.payer.rule("/v2/router/send", course, Wire::Whole);
                let mut process = scene.start(&Job { stop_at: Some(arrow), ..scene.job() });
                process.wait_until_there();
                process.kill();
                if restart {
                    scene.pair.payer.restart().await;
                }
                scene.start(&scene.job()).end().await;
                scene.assert_settled().await;
            }
        }
    }
}

/// Killed while a request is on its way, heard, done, or answered in part.
async fn at_each_point_of_a_dispatch() {
    let plain = Course::Plain;
    for (path, course, wire) in [
        ("/v1/getinfo", plain, Wire::Mute),
        ("/v2/router/track", plain, Wire::Mute),
        ("/v2/router/send", plain, Wire::Mute),
        ("/v2/router/send", Course::SettlesAfter { ms: 300 }, Wire::Mute),
        ("/v2/router/send", plain, Wire::Dropped),
        ("/v2/router/send", plain, Wire::Cut { lines: 1, within: true }),
        // The bytes arrive after their sender's death: before its heir looks, and while it pays.
        ("/v2/router/send", plain, Wire::Slow { ms: 1 }),
        ("/v2/router/send", plain, Wire::Slow { ms: 60 }),
        ("/v2/router/send", plain, Wire::Slow { ms: 400 }),
    ] {
        let scene = Scene::new().await;
        scene.pair.payer.rule(path, course, wire);
        let process = scene.start(&scene.job());
        scene.pair.payer.arrival(path).await;
        process.kill();
        scene.pair.payer.no_rules();
        scene.start(&scene.job()).end().await;
        // Bytes that are still on their way find the payment made.
        tokio::time::sleep(Duration::from_millis(450)).await;
        scene.assert_settled().await;
    }
}

/// A sender that froze in the middle of a dispatch and thaws after its heir has paid changes nothing.
async fn a_frozen_sender_thaws() {
    for path in ["/v1/getinfo", "/v2/router/track", "/v2/router/send"] {
        let scene = Scene::new().await;
        scene.pair.payer.rule(path, Course::Plain, Wire::Slow { ms: 200 });
        let process = scene.start(&scene.job());
        scene.pair.payer.arrival(path).await;
        process.signal("STOP");
        scene.start(&scene.job()).end().await;
        scene.assert_settled().await;
        process.signal("CONT");
        process.end().await;
        scene.assert_settled().await;
    }
}

/// A payment in flight when its sender died, which fails: its money is held until nobody can send it again.
async fn a_failure_is_believed_late() {
    let scene = Scene::new().await;
    scene.pair.payer.rule("/v2/router/send", Course::Stuck, Wire::Mute);
    let process = scene.start(&scene.job());
    scene.pair.payer.arrival("/v2/router/send").await;
    process.kill();
    while scene.pair.payer.begun(scene.invoice.hash) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while !scene.pair.payer.land(scene.invoice.hash, false) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scene.start(&scene.job()).end().await;
    assert!(scene.last().state.holds(), "an heir believed a failure at once: {:?}", scene.last());
    // The invoice lives an hour; 59 s after it, still nobody believes.
    scene.start(&Job { later_ms: 3_600_000 + 30_000, ..scene.job() }).end().await;
    assert!(scene.last().state.holds(), "{:?}", scene.last());
    scene.start(&Job { later_ms: 3_600_000 + 120_000, ..scene.job() }).end().await;
    assert_eq!(scene.last().state, PaymentState::Failed);
    assert!(!scene.paid().await);
    assert_eq!(scene.pair.payer.begun(scene.invoice.hash), 1);
    assert_eq!(scene.pair.sum_msat(), 2 * FUNDS_MSAT);
}

/// Killed whenever it happens, up to three times in a row.
async fn at_random(rounds: u64) {
    let mut dice = Dice::default();
    let mut throw = |sides| dice.throw(sides);
    for round in 0..rounds {
        let scene = Scene::new().await;
        let course = if throw(2) == 0 { Course::Plain } else { Course::SettlesAfter { ms: throw(200) } };
        scene.pair.payer.rule("/v2/router/send", course, Wire::Slow { ms: throw(40) });
        for _ in 0..=throw(3) {
            let process = scene.start(&scene.job());
            tokio::time::sleep(Duration::from_millis(throw(120))).await;
            process.kill();
        }
        scene.start(&scene.job()).end().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(scene.last().state, PaymentState::Settled, "round {round}");
        scene.assert_settled().await;
    }
}

fn main() {
    if crash_bench::perform::<AtNode>() {
        return;
    }
    let rounds = crash_bench::rounds(20);
    crash_bench::runtime().block_on(async {
        at_each_arrow().await;
        println!("at_each_arrow ... ok");
        at_each_point_of_a_dispatch().await;
        println!("at_each_point_of_a_dispatch ... ok");
        a_frozen_sender_thaws().await;
        println!("a_frozen_sender_thaws ... ok");
        a_failure_is_believed_late().await;
        println!("a_failure_is_believed_late ... ok");
        at_random(rounds).await;
        println!("at_random, {rounds} rounds ... ok");
    });
}
