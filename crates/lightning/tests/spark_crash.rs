//! SIGKILL of a process that pays from a Spark wallet, at each arrow of the payment state machine and at each point of a
//! dispatch, then at random (`NEXUS_CRASH_ROUNDS`, 10); the stand-in operators outlive it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod crash_bench;
mod spark_bench;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crash_bench::{Arrow, Book, Dice, Job, Process, Wallet, perform, put_durably, rounds, runtime};
use nexus_core::payment::PaymentState;
use nexus_core::{Clock, Hash32};
use nexus_lightning::{Pay, decode_bolt11};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spark_bench::{FileStorage, Ledger, PAYEE, PAYER, config, wallet};

/// Where the paying process finds its files.
#[derive(Clone, Serialize, Deserialize)]
struct Spark {
    ledger: PathBuf,
    dir: PathBuf,
}

impl Wallet for Spark {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Pay> {
        let config = config(&Ledger(self.ledger.clone()), &self.dir);
        let storage = Arc::new(FileStorage::new(self.dir.join("records")));
        Arc::new(wallet(&config, clock, PAYER, storage))
    }
}

struct Scene {
    dir: tempfile::TempDir,
    ledger: Ledger,
    bolt11: String,
    hash: Hash32,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(dir.path());
        let bolt11 = ledger.ask(&["invoice", PAYEE, "700"]);
        let hash = decode_bolt11(&bolt11).unwrap().hash;
        std::fs::create_dir(dir.path().join("sidecar")).unwrap();
        put_durably(&dir.path().join("sidecar/records"), b"{}");
        Self { dir, ledger, bolt11, hash }
    }

    fn book(&self) -> Book {
        Book(self.dir.path().join("book"))
    }

    fn job(&self) -> Job<Spark> {
        let spark = Spark { ledger: self.ledger.0.clone(), dir: self.dir.path().join("sidecar") };
        Job::new(spark, self.book().0, &self.bolt11)
    }

    fn start(&self, job: &Job<Spark>) -> Process {
        Process::start(job, self.dir.path())
    }

    async fn arrival(&self, point: &str) {
        for _ in 0..1_000 {
            if self.ledger.ask(&["arrived", point]) != "0" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("nothing arrived at `{point}`");
    }

    /// The payee was paid once, and the book says so, with proof.
    fn assert_settled(&self) {
        let last = self.book().last().unwrap();
        assert_eq!(last.state, PaymentState::Settled);
        assert_eq!(last.preimage.map(|it| Hash32::sha256(it.as_bytes())), Some(self.hash));
        assert!(last.fee.is_some_and(|fee| fee <= last.max_fee));
        assert_eq!(self.ledger.ask(&["paid", &self.hash.to_string()]), "1");
        self.ledger.assert_sound();
    }
}

/// Killed between what is recorded and what is done.
async fn at_each_arrow() {
    for arrow in Arrow::ALL {
        for rule in [json!({}), json!({ "lands_ms": 300 })] {
            let scene = Scene::new();
            scene.ledger.rule(rule);
            let mut process = scene.start(&Job { stop_at: Some(arrow), ..scene.job() });
            process.wait_until_there();
            process.kill();
            scene.start(&scene.job()).end().await;
            scene.assert_settled();
        }
    }
}

/// Killed while the sidecar is about to send, has sent, or has an answer that nobody hears.
async fn at_each_point_of_a_dispatch() {
    for point in ["asked", "sending", "sent"] {
        for course in [json!({}), json!({ "lands_ms": 300 }), json!({ "lost": true })] {
            let scene = Scene::new();
            let mut rule = json!({ "watched": true, "slow_at": point, "slow_ms": 3_000 });
            rule.as_object_mut().unwrap().extend(course.as_object().cloned().unwrap_or_default());
            scene.ledger.rule(rule);
            let process = scene.start(&scene.job());
            scene.arrival(point).await;
            process.kill();
            scene.ledger.ask(&["no_rules"]);
            scene.start(&scene.job()).end().await;
            scene.assert_settled();
        }
    }
}

/// A sender that froze in the middle of a dispatch, while its sidecar goes on, changes nothing when it thaws.
async fn a_frozen_sender_thaws() {
    for point in ["asked", "sending", "sent"] {
        let scene = Scene::new();
        scene.ledger.rule(json!({ "watched": true, "slow_at": point, "slow_ms": 300 }));
        let process = scene.start(&scene.job());
        scene.arrival(point).await;
        process.signal("STOP");
        scene.start(&scene.job()).end().await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        scene.assert_settled();
        process.signal("CONT");
        process.end().await;
        scene.assert_settled();
    }
}

/// A payment in flight when its sender died, which fails: its money is held until nobody can send it again.
async fn a_failure_is_believed_late() {
    let scene = Scene::new();
    scene.ledger.rule(json!({ "watched": true, "lands_ms": Value::Null }));
    let process = scene.start(&scene.job());
    scene.arrival("sent").await;
    process.kill();
    scene.ledger.ask(&["land", &scene.hash.to_string(), "fail"]);
    scene.start(&scene.job()).end().await;
    assert!(scene.book().last().unwrap().state.holds(), "an heir believed a failure at once");
    // The invoice lives an hour; within a minute after it, still nobody believes.
    scene.start(&Job { later_ms: 3_600_000 + 30_000, ..scene.job() }).end().await;
    assert!(scene.book().last().unwrap().state.holds());
    scene.start(&Job { later_ms: 3_600_000 + 120_000, ..scene.job() }).end().await;
    assert_eq!(scene.book().last().unwrap().state, PaymentState::Failed);
    assert_eq!(scene.ledger.ask(&["paid", &scene.hash.to_string()]), "0");
    scene.ledger.assert_sound();
}

/// Killed whenever it happens, up to three times in a row.
async fn at_random(rounds: u64) {
    let mut dice = Dice::default();
    for round in 0..rounds {
        let scene = Scene::new();
        let points = ["asked", "sending", "sent"];
        let point = points[usize::try_from(dice.throw(3)).unwrap()];
        let lands_ms = dice.throw(2) * dice.throw(200);
        scene.ledger.rule(json!({ "slow_at": point, "slow_ms": dice.throw(150), "lands_ms": lands_ms }));
        for _ in 0..=dice.throw(3) {
            let process = scene.start(&scene.job());
            tokio::time::sleep(Duration::from_millis(dice.throw(700))).await;
            process.kill();
        }
        scene.start(&scene.job()).end().await;
        // A sidecar that was orphaned reads the end of its input and sends nothing more.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(scene.book().last().unwrap().state, PaymentState::Settled, "round {round}");
        scene.assert_settled();
    }
}

fn main() {
    if perform::<Spark>() {
        return;
    }
    let rounds = rounds(10);
    runtime().block_on(async {
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
