//! A whole fleet of real processes, made by `./scripts/fleet`, with people who write to its agents all the time.
//!
//! One fleet serves all tests of a binary, one test at a time; a test that fails takes it down, and the next one makes
//! another. When this process ends, in whatever way, the script finds its standard input closed and ends everything.

#![expect(clippy::disallowed_methods, reason = "these tests wait for real processes, by the real clock")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{SinkExt, StreamExt};
use nexus_core::time::random;
use nexus_nostr::event::{Head, npub, sign, tag};
use nexus_testkit::SystemEntropy;
use nostr::event::Event;
use nostr::key::{Keys, PublicKey, SecretKey};
use nostr::nips::nip04;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::common::{BINARY, PASSPHRASE, eventually, find, hex_of};

/// What every order may take on a machine that is busy with other things.
const ORDER: Duration = Duration::from_secs(120);
/// Nobody may be stuck longer than this after a fault is over.
pub const STUCK_SECS: u64 = 60;
/// Processes that every test finds running.
const STANDING: [&str; 6] = ["control-1", "control-2", "worker-1", "worker-2", "worker-3", "worker-4"];
/// Between two messages.
const PAUSE: Duration = Duration::from_millis(250);

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

    pub fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", &self.dir)
            .env("NEXUS_CONFIG_DIR", self.dir.join("config"))
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null());
        command
    }

    /// The command line in a context: its exit code, its JSON and its errors.
    pub fn run(&self, args: &[&str]) -> (i32, Value, String) {
        let output = self.command().arg("--json").args(args).output().unwrap();
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code().unwrap_or(-1), value, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The same, when it must work.
    pub fn ok(&self, args: &[&str]) -> Value {
        let (code, value, errors) = self.run(args);
        assert_eq!(code, 0, "nexus {}: {errors}\n{value}", args.join(" "));
        value
    }

    /// What `nexus fleet` says, asked of a control plane; none while that one can't say.
    pub fn view(&self, control: &str) -> Option<Value> {
        let context = if control == "control-1" { "fleet" } else { "fleet-2" };
        let (code, value, _) = self.run(&["--context", context, "fleet"]);
        (code == 0).then_some(value)
    }

    /// Rows of the database, as text.
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let output = Command::new(Path::new(self.ready["postgres_bin"].as_str().unwrap()).join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                "127.0.0.1",
                "-U",
                "nexus",
                "-d",
                "nexus",
                "-p",
            ])
            .args([&self.ready["postgres"].to_string(), "-c", sql])
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
    }

    pub fn number(&self, sql: &str) -> i64 {
        self.rows(sql)[0][0].parse().unwrap_or_else(|_| panic!("no number: {sql}"))
    }

    /// How many agents a worker has, as the database says.
    pub fn load_of(&self, name: &str) -> i64 {
        self.number(&format!("SELECT COUNT(*) FROM agent WHERE encode(worker_id, 'hex') = '{}'", self.worker_id(name)))
    }

    /// Names of the agents that a worker has.
    pub fn agents_of(&self, name: &str) -> Vec<String> {
        let id = self.worker_id(name);
        let sql = format!("SELECT name FROM agent WHERE encode(worker_id, 'hex') = '{id}' ORDER BY name");
        self.rows(&sql).into_iter().map(|row| row[0].clone()).collect()
    }

    /// Waits until a worker has agents, as it gets when it is new and others have more.
    pub fn has_agents(&self, name: &str) {
        let some = eventually(STUCK_SECS, || (self.load_of(name) > 0).then_some(()));
        assert!(some.is_some(), "{name} was given no agent");
    }

    /// Waits until none of these agents is with that worker.
    pub fn moved(&self, worker: &str, agents: &[String], secs: u64) {
        if agents.is_empty() {
            return;
        }
        let id = worker.to_owned();
        let gone = eventually(secs, || {
            let names = agents.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
            let sql = format!(
                "SELECT COUNT(*) FROM agent WHERE name IN ({names}) AND (worker_id IS NULL OR encode(worker_id, 'hex') = '{id}')"
            );
            (self.number(&sql) == 0).then_some(())
        });
        assert!(gone.is_some(), "{agents:?} were not placed elsewhere: {:?}", self.rows(STANDING_SQL));
    }

    /// `GET` of a role's health listener, or of a control plane's API: status and body.
    pub fn get(&self, name: &str, path: &str) -> (u16, String) {
        let role = &self.roles[name];
        let url = role["health"].as_str().or_else(|| role["api"].as_str()).unwrap_or_else(|| panic!("{name}: {role}"));
        http_get(url, path)
    }

    /// A figure of a role's `/metrics`, summed over its labels.
    pub fn metric(&self, name: &str, metric: &str) -> f64 {
        let (status, text) = self.get(name, "/metrics");
        assert_eq!(status, 200, "{text}");
        let lines =
            text.lines().filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with([' ', '{'])));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// People begin to write to every agent, in turn.
    pub fn load(&self) -> Load {
        Load::start(self.ready["relay"].as_str().unwrap(), self.agents.values().cloned().collect())
    }

    /// Everyone is written to once more, then nobody; what must hold after a fault is over.
    pub fn holds(&mut self, load: Load, what: &str) {
        load.round();
        self.sent.extend(load.finish());
        let mut open = Vec::new();
        let settled = eventually(STUCK_SECS, || {
            open = self.unsettled();
            open.is_empty().then_some(())
        });
        assert!(settled.is_some(), "{what}: {STUCK_SECS} s later: {open:#?}");
        self.nothing_doubled(what);
        self.chains_verify();
    }

    /// How often each message was answered: by (agent, message id) for mentions, by (agent, sender) for direct messages.
    fn answers(&self) -> HashMap<(String, String), u64> {
        let sql = "SELECT encode(e.pubkey, 'hex'), t.value, COUNT(*) FROM relay_event e
            JOIN relay_tag t ON t.event_id = e.id JOIN agent a ON a.npub = e.pubkey
            WHERE (e.kind = 1 AND t.name = 'e') OR (e.kind = 4 AND t.name = 'p') GROUP BY 1, 2";
        let count = |row: Vec<String>| ((row[0].clone(), row[1].clone()), row[2].parse().unwrap());
        self.rows(sql).into_iter().map(count).collect()
    }

    /// What is still to come, or stuck.
    fn unsettled(&self) -> Vec<String> {
        let answers = self.answers();
        let mut open: Vec<String> = self
            .sent
            .iter()
            .filter(|sent| sent.acknowledged && !answers.contains_key(&sent.key()))
            .map(|sent| format!("not answered: {sent:?}"))
            .collect();
        for (what, sql) in [
            ("an open tick", "SELECT a.name, t.cause FROM tick t JOIN agent a USING (npub) WHERE t.status = 'open'"),
            (
                "an open payment",
                "SELECT a.name, p.state FROM payment p JOIN agent a USING (npub) WHERE p.state NOT IN ('settled', 'failed', 'canceled')",
            ),
            (
                "an event to publish",
                "SELECT a.name, p.kind FROM publication p JOIN agent a USING (npub) WHERE p.done = 0",
            ),
            ("held budget", "SELECT a.name, b.win FROM budget b JOIN agent a USING (npub) WHERE b.held_msat <> 0"),
            (
                "not on a live worker",
                "SELECT a.name, a.reason_code FROM agent a LEFT JOIN worker w USING (worker_id)
                 WHERE w.worker_id IS NULL OR w.dead = 1",
            ),
            ("a reason to wait", "SELECT name, reason_code, reason_text FROM agent WHERE reason_code IS NOT NULL"),
            (
                "overdue",
                "SELECT name, next_tick_at FROM agent
                 WHERE next_tick_at IS NULL OR next_tick_at < (extract(epoch FROM now()) * 1000 - 10000)",
            ),
        ] {
            open.extend(self.rows(sql).into_iter().map(|row| format!("{what}: {}", row.join(" "))));
        }
        open
    }

    /// Answers, payments, books, and whatever left under an agent's name.
    fn nothing_doubled(&self, what: &str) {
        let answers = self.answers();
        for sent in &self.sent {
            let count = answers.get(&sent.key()).copied().unwrap_or(0);
            assert!(count <= 1, "{what}: answered {count} times: {sent:?}");
        }
        for (wrong, sql) in [
            (
                "two payments of a step",
                "SELECT step FROM payment WHERE state = 'settled' GROUP BY npub, step HAVING COUNT(*) > 1",
            ),
            (
                "two payments of a tick",
                "SELECT tick_id FROM payment WHERE state = 'settled' AND tick_id IS NOT NULL GROUP BY tick_id HAVING COUNT(*) > 1",
            ),
            (
                "an answer that was not journaled",
                "SELECT e.kind, e.json FROM relay_event e JOIN agent a ON a.npub = e.pubkey
                 WHERE e.kind IN (1, 4) AND NOT EXISTS (SELECT 1 FROM publication p WHERE p.event_id = e.id)",
            ),
            (
                "books that disagree",
                "SELECT a.name, p.paid, b.spent FROM agent a,
                 LATERAL (SELECT COALESCE(SUM(amount_msat + fee_msat), 0) paid FROM payment WHERE npub = a.npub AND state = 'settled') p,
                 LATERAL (SELECT COALESCE(SUM(settled_msat), 0) spent FROM budget WHERE npub = a.npub AND win LIKE 'day:%') b
                 WHERE p.paid <> b.spent",
            ),
        ] {
            let rows = self.rows(sql);
            assert!(rows.is_empty(), "{what}: {wrong}: {rows:?}");
        }
        self.ledgers_agree(what);
    }

    /// What the development network settled is what the store says was settled, and the funding of each agent. Both are read
    /// while heartbeats go on paying, so a payment may be on its way from one to the other; what is wrong stays wrong.
    fn ledgers_agree(&self, what: &str) {
        let mut wrong = None;
        let agree = eventually(STUCK_SECS, || {
            wrong = self.disagreement();
            wrong.is_none().then_some(())
        });
        assert!(agree.is_some(), "{what}: {}", wrong.unwrap_or_default());
    }

    fn disagreement(&self) -> Option<String> {
        let paid: BTreeSet<String> = self
            .rows("SELECT encode(hash, 'hex') FROM payment WHERE state = 'settled'")
            .into_iter()
            .map(|row| row[0].clone())
            .collect();
        let mut settled: HashMap<String, u32> = HashMap::new();
        for hash in self.settled_on_the_network() {
            *settled.entry(hash).or_default() += 1;
        }
        let twice: Vec<_> = settled.iter().filter(|(_, times)| **times > 1).collect();
        if !twice.is_empty() {
            return Some(format!("settled twice: {twice:?}"));
        }
        let missing: Vec<_> = paid.iter().filter(|hash| !settled.contains_key(*hash)).collect();
        if !missing.is_empty() {
            return Some(format!("only the store says that these were paid: {missing:?}"));
        }
        let unknown = settled.keys().filter(|hash| !paid.contains(*hash)).count();
        let funded = self.agents.len();
        (unknown != funded).then(|| format!("{unknown} payments that the store does not know, and {funded} fundings"))
    }

    /// Hashes of settled payments, as the network's own log has them.
    fn settled_on_the_network(&self) -> Vec<String> {
        fn look(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| look(item, found)),
                Value::Object(fields) if fields.get("entry").is_some_and(|entry| entry == "settle") => {
                    found.push(fields["key"]["hash"].as_str().unwrap().to_owned());
                }
                // Of a snapshot.
                Value::Object(fields)
                    if fields.get("row").is_some_and(|row| row == "payment")
                        && fields["payment"]["state"] == "settled" =>
                {
                    found.push(fields["key"]["hash"].as_str().unwrap().to_owned());
                }
                _ => {}
            }
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.dir.join("devnet")).unwrap().flatten() {
            let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
            for line in text.lines().filter_map(|line| line.get(17..)) {
                if let Ok(value) = serde_json::from_str::<Value>(line) {
                    look(&value, &mut found);
                }
            }
        }
        assert!(!found.is_empty(), "the network's log holds no settlement");
        found
    }

    fn chains_verify(&self) {
        for name in self.agents.keys() {
            let verified = self.ok(&["agent", "events", name, "--verify"]);
            assert_eq!(verified["verified"], true, "{name}: {verified}");
        }
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

const STANDING_SQL: &str = "SELECT a.name, a.reason_code, a.generation, encode(a.worker_id, 'hex'), w.dead FROM agent a LEFT JOIN worker w USING (worker_id)";

impl Drop for Fleet {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.script.wait();
    }
}

pub fn http_get(url: &str, path: &str) -> (u16, String) {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().unwrap_or_default();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

/// A message that somebody sent, each from a key of its own.
#[derive(Debug, Clone)]
pub struct Sent {
    agent: String,
    kind: u16,
    id: String,
    from: String,
    /// The relay said OK true: it must be answered. Otherwise it may be.
    acknowledged: bool,
}

impl Sent {
    fn key(&self) -> (String, String) {
        (self.agent.clone(), if self.kind == 1 { self.id.clone() } else { self.from.clone() })
    }
}

/// People who write to agents, until told to stop. Whoever hears no OK sends the same event again.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<Mutex<Vec<Sent>>>,
    agents: Vec<String>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(relay: &str, agents: Vec<String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(Mutex::new(Vec::new()));
        let mut people = People {
            relay: relay.to_owned(),
            agents: agents.clone(),
            stop: stop.clone(),
            sent: sent.clone(),
            socket: None,
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(people.write());
        });
        Self { stop, sent, agents, thread }
    }

    fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }

    /// Waits until every agent was sent something more, and the relay took it.
    pub fn round(&self) {
        let before = self.sent().len();
        let all = eventually(STUCK_SECS, || {
            let sent = self.sent();
            let later: BTreeSet<&String> =
                sent[before..].iter().filter(|sent| sent.acknowledged).map(|sent| &sent.agent).collect();
            self.agents.iter().all(|agent| later.contains(agent)).then_some(())
        });
        assert!(all.is_some(), "the relay takes no messages: {:?}", self.sent().last());
    }

    fn finish(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        let sent = self.sent.lock().unwrap();
        sent.clone()
    }
}

struct People {
    relay: String,
    agents: Vec<String>,
    stop: Arc<AtomicBool>,
    sent: Arc<Mutex<Vec<Sent>>>,
    socket: Option<WebSocketStream<tokio::net::TcpStream>>,
}

impl People {
    async fn write(&mut self) {
        for number in 0_usize.. {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let agent = self.agents[number % self.agents.len()].clone();
            // Every fifth is a direct message: with eight agents, each gets both.
            let kind = if number % 5 == 4 { 4 } else { 1 };
            let (event, from) = message(&agent, kind, number);
            let sent = Sent { agent, kind, id: event.id.to_hex(), from, acknowledged: false };
            self.sent.lock().unwrap().push(sent);
            while !self.deliver(&event).await {
                self.socket = None;
                if self.stop.load(Ordering::SeqCst) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            self.sent.lock().unwrap()[number].acknowledged = true;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether the relay said OK true.
    async fn deliver(&mut self, event: &Event) -> bool {
        let attempt = async {
            if self.socket.is_none() {
                let address = self.relay.trim_start_matches("ws://").trim_end_matches('/');
                let stream = tokio::net::TcpStream::connect(address).await.ok()?;
                self.socket = Some(client_async(&self.relay, stream).await.ok()?.0);
            }
            let socket = self.socket.as_mut()?;
            socket.send(Message::text(json!(["EVENT", event]).to_string())).await.ok()?;
            loop {
                let Message::Text(text) = socket.next().await?.ok()? else { continue };
                let frame: Value = serde_json::from_str(&text).ok()?;
                if frame[0] == "OK" && frame[1] == event.id.to_hex() {
                    return frame[2].as_bool();
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), attempt).await.ok().flatten().unwrap_or(false)
    }
}

fn message(agent: &str, kind: u16, number: usize) -> (Event, String) {
    let keys = Keys::new(SecretKey::from_slice(&random::<32>(&SystemEntropy)).unwrap());
    let text = format!("Hello number {number}, who are you?");
    let content = if kind == 4 {
        let reader = PublicKey::from_hex(agent).unwrap();
        nip04::encrypt_with_iv(keys.secret_key(), &reader, text, random(&SystemEntropy)).unwrap()
    } else {
        text
    };
    let head = Head::new(npub(&keys.public_key()), now_ms() / 1_000);
    let event = sign(head.unsigned(kind, vec![tag(["p", agent])], content), &keys, &[7; 32]).unwrap();
    (event, keys.public_key().to_hex())
}
