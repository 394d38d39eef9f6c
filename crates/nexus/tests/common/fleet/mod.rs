//! A whole fleet of real processes, made by `./scripts/fleet`, with people who write to its agents all the time.
//!
//! One fleet serves all tests of a binary, one test at a time; a test that fails takes it down, and the next one makes
//! another. When this process ends, in whatever way, the script finds its standard input closed and ends everything.

#![expect(clippy::disallowed_methods, reason = "these tests wait for real processes, by the real clock")]

mod ask;
mod holds;
mod network;
mod people;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use network::Network;
use people::Sent;
use serde_json::Value;

use crate::common::{BINARY, PASSPHRASE, eventually, find, hex_of};

/// What every order may take on a machine that is busy with other things.
const ORDER: Duration = Duration::from_secs(120);
/// Nobody may be stuck longer than this after a fault is over.
pub const STUCK_SECS: u64 = 60;
/// Processes that every test finds running.
const STANDING: [&str; 6] = ["control-1", "control-2", "worker-1", "worker-2", "worker-3", "worker-4"];
/// Who is where.
const STANDING_SQL: &str = "SELECT a.name, a.reason_code, a.generation, encode(a.worker_id, 'hex'), w.dead FROM agent a LEFT JOIN worker w USING (worker_id)";

/// Name, home, failover, and whether it ticks every ten seconds anyway. Four at home in each region, so that each of up to
/// four workers there comes to have one.
const AGENTS: [(&str, &str, &str, bool); 8] = [
    ("ada", "eu", "anywhere", false),
    ("bob", "eu", "anywhere", true),
    ("cleo", "eu", "anywhere", false),
    ("dora", "eu", "never", false),
    ("emil", "us", "anywhere", false),
    ("fay", "us", "anywhere", true),
    ("gus", "us", "anywhere", false),
    ("hal", "us", "anywhere", true),
];

pub struct Fleet {
    script: Child,
    orders: Option<ChildStdin>,
    answers: Mutex<Receiver<String>>,
    pub dir: PathBuf,
    pub ready: Value,
    roles: BTreeMap<String, Value>,
    /// Name to public key in hex.
    pub agents: BTreeMap<String, String>,
    /// Everything that was ever sent to them.
    sent: Vec<Sent>,
    /// Invoices of theirs that strangers paid.
    pub gifts: usize,
}

/// The fleet of this test binary, for one test.
pub struct Borrowed(MutexGuard<'static, Option<Fleet>>);

static FLEET: Mutex<Option<Fleet>> = Mutex::new(None);

/// The fleet, whole: what an earlier test ended runs again.
pub fn fleet() -> Borrowed {
    let mut held = FLEET.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *held {
        Some(fleet) => fleet.heal(),
        None => *held = Some(Fleet::start()),
    }
    Borrowed(held)
}

impl std::ops::Deref for Borrowed {
    type Target = Fleet;
    fn deref(&self) -> &Fleet {
        self.0.as_ref().unwrap()
    }
}

impl std::ops::DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut Fleet {
        self.0.as_mut().unwrap()
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(fleet) = self.0.take()
        {
            fleet.tell();
        }
    }
}

pub fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

impl Fleet {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/fleet");
        let mut script = Command::new(script)
            .args(["--json", "--bin", BINARY])
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", std::env::temp_dir())
            .env("TMPDIR", std::env::temp_dir())
            .env("RUST_BACKTRACE", "1")
            // One agent comes home in a second at most, so that it can be seen.
            // Workers are stopped between payment and result: the payments are plain ones.
            .env("NEXUS_PROVIDER_HOLD", "false")
            .env("NEXUS_PLACEMENT_MOVES_PER_SECOND", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = script.stdin.take();
        let stdout = script.stdout.take().unwrap();
        let (send, answers) = channel::<String>();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let line = answers.recv_timeout(ORDER).expect("the fleet gets ready");
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        let dir = PathBuf::from(ready["dir"].as_str().unwrap());
        let mut fleet = Self {
            script,
            orders,
            answers: Mutex::new(answers),
            dir,
            ready,
            roles: BTreeMap::new(),
            agents: BTreeMap::new(),
            sent: Vec::new(),
            gifts: 0,
        };
        let ready = fleet.ready.clone();
        fleet.note(&ready);
        fleet.populate();
        fleet
    }

    fn note(&mut self, answer: &Value) {
        for (name, role) in answer["roles"].as_object().into_iter().flatten() {
            self.roles.insert(name.clone(), role.clone());
        }
    }

    /// Creates, starts and funds every agent, and waits for the first tick of each.
    fn populate(&mut self) {
        std::fs::write(self.dir.join("passphrase"), PASSPHRASE).unwrap();
        std::fs::write(self.dir.join("rates.json"), r#"{"ticks_per_hour": 3600, "sender_rate_per_minute": 600}"#)
            .unwrap();
        let (passphrase, rates) = (self.dir.join("passphrase"), self.dir.join("rates.json"));
        let create = |(name, home, failover, always): (&str, &str, &str, bool)| {
            let mut args = vec!["agent", "create", name, "--start", "--passphrase-file", passphrase.to_str().unwrap()];
            args.extend(["--goal", "Be there", "--heartbeat", if always { "10s" } else { "1d" }]);
            if always {
                args.push("--always");
            }
            args.extend(["--region", home, "--failover", failover]);
            let npub = find(&self.ok(&args), "npub").unwrap();
            self.ok(&["agent", "set", name, "--file", rates.to_str().unwrap()]);
            self.ok(&["agent", "fund", name, "--sats", "50000"]);
            (name.to_owned(), hex_of(&npub))
        };
        let (first, second) = AGENTS.split_at(AGENTS.len() / 2);
        let made = std::thread::scope(|scope| {
            let other = scope.spawn(|| second.iter().map(|agent| create(*agent)).collect::<Vec<_>>());
            let mut made: Vec<_> = first.iter().map(|agent| create(*agent)).collect();
            made.extend(other.join().unwrap());
            made
        });
        self.agents = made.into_iter().collect();
        let ticked = eventually(STUCK_SECS, || {
            let sql = "SELECT COUNT(DISTINCT npub) FROM tick WHERE status = 'completed'";
            (self.number(sql) == AGENTS.len() as i64).then_some(())
        });
        assert!(ticked.is_some(), "a first tick of everyone");
    }

    /// Has every standing process running, and no other worker.
    pub fn heal(&mut self) {
        let names: Vec<String> = self.roles.keys().cloned().collect();
        for name in names.iter().filter(|name| name.starts_with("worker-") && !STANDING.contains(&name.as_str())) {
            self.kill(name);
        }
        for name in STANDING {
            if !self.is_alive(name) {
                self.restart(name);
            }
        }
    }

    /// A namespace in which this fleet is reachable; none where this user may make none.
    pub fn network(&self) -> Option<Network> {
        let port = |url: &str| url.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
        let number = |name: &str| u16::try_from(self.ready[name].as_u64().unwrap()).unwrap();
        let (relay, devnet) = (self.ready["relay"].as_str().unwrap(), self.ready["devnet"].as_str().unwrap());
        Network::new(&[number("postgres"), number("nats"), port(relay), port(devnet)])
    }

    /// One order to the script, and its answer.
    pub fn order(&mut self, order: &str) -> Value {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
        let line = self.answers.lock().unwrap().recv_timeout(ORDER).unwrap_or_else(|_| panic!("no answer to: {order}"));
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{order}: {line}"));
        assert!(answer["error"].is_null(), "{order}: {answer}");
        self.note(&answer);
        answer
    }

    /// Starts a process of the fleet again, as it was started first.
    pub fn restart(&mut self, name: &str) {
        match name {
            "worker-1" | "worker-2" => self.order(&format!("worker {name} eu")),
            "worker-3" | "worker-4" => self.order(&format!("worker {name} us")),
            _ => self.order(&format!("control {name}")),
        };
    }

    pub fn pid(&self, name: &str) -> u64 {
        self.roles[name]["pid"].as_u64().unwrap_or_else(|| panic!("no {name}"))
    }

    /// The id under which a worker registered first.
    pub fn worker_id(&self, name: &str) -> String {
        self.roles[name]["worker"].as_str().unwrap_or_else(|| panic!("{name} is no worker")).replace('-', "")
    }

    pub fn signal(&self, name: &str, signal: &str) {
        let pid = self.pid(name).to_string();
        let status = Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(status.success(), "kill -{signal} {name}");
    }

    /// SIGKILL, and the process is gone after it.
    pub fn kill(&mut self, name: &str) {
        if self.is_alive(name) {
            self.signal(name, "KILL");
        }
        self.wait(name);
        self.roles.remove(name);
    }

    /// Its exit code: 128 more than the signal that ended it, if one did.
    pub fn wait(&mut self, name: &str) -> i64 {
        self.order(&format!("wait {name}"))["code"].as_i64().unwrap()
    }

    pub fn is_alive(&self, name: &str) -> bool {
        let Some(pid) = self.roles.get(name).and_then(|role| role["pid"].as_u64()) else { return false };
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
    }

    /// Whether it stands still, as after SIGSTOP.
    pub fn is_frozen(&self, name: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid(name))).unwrap_or_default();
        stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('T')
    }

    /// What the process of that name that was started last said.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join("log").join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Waits until a log says this.
    pub fn says(&self, name: &str, what: &str, secs: u64) {
        let said = eventually(secs, || self.log(name).contains(what).then_some(()));
        assert!(said.is_some(), "{name} did not say {what:?}");
    }

    /// The ends of all logs, and where the whole of them stays.
    fn tell(&self) {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fleet-{}", now_ms()));
        let copied = Command::new("cp").arg("-r").arg(self.dir.join("log")).arg(&kept).status();
        eprintln!("--- logs are kept in {}: {copied:?}", kept.display());
        for sql in [
            STANDING_SQL,
            "SELECT a.name, t.cause, j.seq, j.kind, j.generation, j.version FROM tick t JOIN agent a USING (npub)
             JOIN journal j USING (tick_id) WHERE t.status = 'open' ORDER BY 1, 3",
            "SELECT encode(worker_id, 'hex'), region, version, beat, draining, dead FROM worker",
        ] {
            let rows = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.rows(sql)));
            eprintln!("--- {sql}\n{rows:#?}");
        }
        for name in self.roles.keys() {
            let log = self.log(name);
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("TRACE")).collect();
            eprintln!("--- end of {name}'s log ---\n{}", lines[lines.len().saturating_sub(6)..].join("\n"));
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.script.wait();
    }
}
