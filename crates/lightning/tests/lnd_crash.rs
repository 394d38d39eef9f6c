//! SIGKILL of a paying process at each arrow of the payment state machine and at each distinct point of a dispatch, then
//! at random: what the payee saw is what is recorded in the end, and nothing is paid twice.
//!
//! Without a test harness: started with a job in its environment, this program is the process that is killed. It keeps
//! one payment in a file, each state on disk before what follows from it, and decides with the same functions that the
//! worker does. `NEXUS_CRASH_ROUNDS` is the number of random kills (20).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lnd_bench;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lnd_bench::{Whole, send_of};
use nexus_core::payment::{Asker, Outcome, PaymentState, conclude};
use nexus_core::{Clock, Hash32, MonoMs, Msat, UnixMs};
use nexus_lightning::lnd::{LndPay, NodeConfig, PayerMacaroon, Trust};
use nexus_lightning::{Dispatch, Invoice, InvoiceRequest, InvoiceState, Network, Pay, Receive, decode_bolt11};
use nexus_testkit::TestClock;
use nexus_testkit::lnd::{Course, FUNDS_MSAT, Node, Pair, Wire};
use serde::{Deserialize, Serialize};

const JOB: &str = "NEXUS_TEST_CRASH_JOB";

/// What the paying process is told.
#[derive(Serialize, Deserialize)]
struct Job {
    url: String,
    certificate: PathBuf,
    identity: String,
    macaroon: PathBuf,
    book: PathBuf,
    bolt11: String,
    /// Where to stop and wait for death.
    stop_at: Option<Arrow>,
    /// How much later than now it is for this process.
    later_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Arrow {
    Reserved,
    Dispatched,
    Answered,
    Recorded,
}

/// A line of the book.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    state: PaymentState,
    preimage: Option<Hash32>,
    fee: Option<Msat>,
}

/// One payment's states, each durable before the next step.
struct Book(PathBuf);

impl Book {
    /// Every whole line; one that a death cut short was never acted on.
    fn read(&self) -> Vec<Entry> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.split_inclusive('\n').filter(|it| it.ends_with('\n')).map(|it| serde_json::from_str(it).unwrap()).collect()
    }

    fn state(&self) -> Option<PaymentState> {
        self.read().last().map(|it| it.state)
    }

    fn write(&self, outcome: &Outcome, state: PaymentState) {
        if self.state() == Some(state) {
            return;
        }
        assert!(self.state().is_none_or(|from| from.may_become(state)), "{:?} to {state:?}", self.state());
        let (preimage, fee) = match outcome {
            Outcome::Settled { preimage, fee } => (*preimage, Some(*fee)),
            Outcome::Failed { .. } | Outcome::Pending | Outcome::NotFound | Outcome::Unknown { .. } => (None, None),
        };
        let mut text = std::fs::read_to_string(&self.0).unwrap_or_default();
        // What a death left of a line goes.
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text.push_str(&serde_json::to_string(&Entry { state, preimage, fee }).unwrap());
        text.push('\n');
        let next = self.0.with_extension("next");
        let mut file = std::fs::File::create(&next).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.sync_all().unwrap();
        std::fs::rename(next, &self.0).unwrap();
    }
}

/// The machine's clock, that much later.
struct Later(TestClock, i64);

impl Clock for Later {
    fn now(&self) -> UnixMs {
        self.0.now().plus_ms(self.1)
    }

    fn mono(&self) -> MonoMs {
        self.0.mono()
    }
}

impl Job {
    /// Waits for death, if this is where it comes.
    async fn pass(&self, arrow: Arrow) {
        if self.stop_at == Some(arrow) {
            println!("here");
            std::future::pending::<()>().await;
        }
    }

    /// Takes the payment as far as it goes: the whole way, or from where the book says that another process left it.
    async fn run(&self) {
        let clock = Arc::new(Later(TestClock::default(), self.later_ms));
        let trust = Trust::File(self.certificate.clone());
        let mut node = NodeConfig::new(&self.url, trust, &self.identity, Network::Regtest).unwrap();
        node.patience.settle_ms = 200;
        let payer = LndPay::new(node, PayerMacaroon::read(&self.macaroon).unwrap(), clock.clone());
        let book = Book(self.book.clone());
        let invoice = decode_bolt11(&self.bolt11).unwrap();
        let send = || send_of(&self.bolt11, "the payment", &*clock);
        let none = Outcome::Pending;
        if book.state().is_none() {
            book.write(&none, PaymentState::Reserved);
            self.pass(Arrow::Reserved).await;
        }
        let mut asker = Asker::Heir;
        if book.state() == Some(PaymentState::Reserved) {
            book.write(&none, PaymentState::Dispatched);
            self.pass(Arrow::Dispatched).await;
            let outcome = payer.dispatch(send()).await;
            self.pass(Arrow::Answered).await;
            asker = if matches!(outcome, Outcome::Unknown { .. }) { Asker::Unsure } else { Asker::Dispatcher };
            if let Some(state) = conclude(&outcome, asker, invoice.expires_at, clock.now()) {
                book.write(&outcome, state);
            }
            self.pass(Arrow::Recorded).await;
        }
        for _ in 0..400 {
            if !book.state().is_some_and(PaymentState::unresolved) {
                return;
            }
            let mut said = payer.resolve(send().resolve(invoice.hash)).await;
            if said == Outcome::NotFound && asker == Asker::Heir && clock.now() < invoice.expires_at {
                let again: Dispatch = send();
                said = payer.dispatch(again).await;
            }
            match conclude(&said, asker, invoice.expires_at, clock.now()) {
                Some(state) => book.write(&said, state),
                // An heir's patience: money stays held.
                None if asker == Asker::Heir => return,
                None => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The paying process. Killed, at the latest, with whatever holds it.
struct Process(Child);

impl Process {
    fn start(job: &Job, dir: &Path) -> Self {
        let path = dir.join("job.json");
        std::fs::write(&path, serde_json::to_string(job).unwrap()).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        Self(command.env(JOB, path).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn wait_until_there(&mut self) {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "here\n", "the process ended before it was killed");
    }

    /// `STOP` or `CONT`.
    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    async fn end(mut self) {
        let status = tokio::task::spawn_blocking(move || self.0.wait().unwrap()).await.unwrap();
        assert!(status.success(), "{status}");
    }
}

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

    fn job(&self) -> Job {
        let node = &self.pair.payer;
        Job {
            url: node.url(),
            certificate: node.certificate_file(),
            identity: node.identity(),
            macaroon: node.payer_macaroon_file(),
            book: self.dir.path().join("book"),
            bolt11: self.invoice.bolt11.clone(),
            stop_at: None,
            later_ms: 0,
        }
    }

    fn start(&self, job: &Job) -> Process {
        Process::start(job, self.dir.path())
    }

    fn last(&self) -> Entry {
        Book(self.dir.path().join("book")).read().last().unwrap().clone()
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
    for arrow in [Arrow::Reserved, Arrow::Dispatched, Arrow::Answered, Arrow::Recorded] {
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
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut throw = |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice % sides
    };
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
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(path) = std::env::var_os(JOB) {
        let job: Job = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        return runtime.block_on(job.run());
    }
    let rounds = std::env::var("NEXUS_CRASH_ROUNDS").map_or(20, |it| it.parse().unwrap());
    runtime.block_on(async {
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
