//! Drives the real binary as a person would, and an independent Nostr client (nostr-tools, in `tests/independent`).

#![expect(clippy::disallowed_methods, reason = "these tests wait for real processes, by the real clock")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part of the harness")]

pub mod secrets;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub const BINARY: &str = env!("CARGO_BIN_EXE_nexus");
pub const PASSPHRASE: &str = "walnut orbit tulip marble cactus violin";

/// A free port of this machine; taken again by the host right after.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Everything one host keeps: its data, its development network, the user's configuration, its logs.
pub struct Place {
    pub root: tempfile::TempDir,
    pub api_port: u16,
    pub relay_port: u16,
    /// Where its development network is.
    pub devnet: PathBuf,
    runs: std::cell::Cell<u32>,
}

/// A running `nexus dev`.
pub struct Host {
    child: Child,
    pub ready: Value,
    pub log: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("passphrase"), PASSPHRASE).unwrap();
        let devnet = root.path().join("devnet");
        Self { root, api_port: free_port(), relay_port: free_port(), devnet, runs: std::cell::Cell::new(0) }
    }

    /// Another host for the same owner, on the same development network.
    pub fn beside(other: &Self) -> Self {
        let place = Self::new();
        copy(&other.path("config"), &place.path("config"));
        Self { devnet: other.devnet.clone(), ..place }
    }

    /// A host for the owner of these contexts, on the development network at that place.
    pub fn of(config: &Path, devnet: &str) -> Self {
        let place = Self::new();
        copy(config, &place.path("config"));
        Self { devnet: devnet.into(), ..place }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn relay(&self) -> String {
        format!("ws://127.0.0.1:{}", self.relay_port)
    }

    pub fn api(&self) -> String {
        format!("http://127.0.0.1:{}", self.api_port)
    }

    pub fn database(&self) -> PathBuf {
        self.path("data").join("nexus.db")
    }

    /// The binary with nothing of this machine's environment but its path.
    pub fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", self.root.path())
            .env("NEXUS_CONFIG_DIR", self.path("config"))
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null());
        command
    }

    /// Starts the host and waits until it says that it is ready.
    pub fn start(&self, env: &[(&str, &str)]) -> Host {
        self.start_with(env, &[])
    }

    pub fn start_with(&self, env: &[(&str, &str)], args: &[&str]) -> Host {
        let run = self.runs.get() + 1;
        self.runs.set(run);
        let log = self.path(&format!("log-{run}"));
        let mut command = self.command();
        command
            .args(["dev", "--json", "-vv", "--data-dir"])
            .arg(self.path("data"))
            .arg("--devnet")
            .arg(&self.devnet)
            .args(["--api-port", &self.api_port.to_string(), "--relay-port", &self.relay_port.to_string()])
            .args(args)
            // Whatever runs on the machine of the test, the demo planner thinks here.
            .env("NEXUS_PROVIDER_DETECT_OLLAMA", "false")
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (send, ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let Ok(line) = ready.recv_timeout(Duration::from_secs(60)) else {
            let _ = child.kill();
            panic!("the host did not get ready:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        };
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        Host { child, ready, log }
    }

    /// Starts a provider beside the host, on its relay and its development network. Returns it with its npub.
    pub fn provider(&self, name: &str, env: &[(&str, &str)]) -> (Host, String) {
        let log = self.path(&format!("log-provider-{name}"));
        let mut command = self.command();
        command
            .args(["provider", "--json", "-vv", "--relay", &self.relay(), "--devnet"])
            .arg(self.path("devnet"))
            .env("NEXUS_DATA_DIR", self.path(name))
            .env("NEXUS_PROVIDER_DETECT_OLLAMA", "false")
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("no provider: {line}{}", std::fs::read_to_string(&log).unwrap_or_default()));
        let npub = find(&ready, "npub").or_else(|| find(&ready, "provider")).unwrap();
        (Host { child, ready, log }, npub)
    }

    /// Runs the command line; returns its exit code, its JSON output (null if none) and its errors.
    pub fn run(&self, args: &[&str]) -> (i32, Value, String) {
        let output = self.command().arg("--json").args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let value = serde_json::from_str(&text).unwrap_or_else(|_| {
            Value::Array(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
        });
        (output.status.code().unwrap_or(-1), value, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The same, when it must work.
    pub fn ok(&self, args: &[&str]) -> Value {
        let (code, value, errors) = self.run(args);
        assert_eq!(code, 0, "nexus {}: {errors}\n{value}", args.join(" "));
        value
    }

    /// Creates, starts and funds an agent; returns its npub.
    pub fn agent(&self, name: &str, extra: &[&str]) -> String {
        let passphrase = self.path("passphrase");
        let mut args = vec!["agent", "create", name, "--start", "--passphrase-file", passphrase.to_str().unwrap()];
        args.extend(extra);
        let created = self.ok(&args);
        let npub = find(&created, "npub").unwrap_or_else(|| panic!("no npub in {created}"));
        self.ok(&["agent", "fund", name, "--sats", "10000"]);
        npub
    }

    pub fn status(&self, agent: &str) -> Value {
        self.ok(&["agent", "status", agent])
    }

    /// Past ticks, newest first.
    pub fn ticks(&self, agent: &str) -> Vec<Value> {
        let ticks = self.ok(&["agent", "ticks", agent, "--limit", "100"]);
        list(&ticks)
    }

    pub fn events(&self, agent: &str) -> Vec<Value> {
        list(&self.ok(&["agent", "events", agent]))
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The array in a listing, whatever it is called.
pub fn list(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.clone(),
        Value::Object(fields) => fields.values().find_map(|field| field.as_array().cloned()).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// A text field anywhere in a document.
pub fn find(value: &Value, name: &str) -> Option<String> {
    match value {
        Value::Object(fields) => fields
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .or_else(|| fields.values().find_map(|field| find(field, name))),
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        _ => None,
    }
}

impl Host {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGINT, as Ctrl-C sends it; returns the exit code.
    pub fn interrupt(mut self) -> i32 {
        let status = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(started.elapsed() < Duration::from_secs(30), "the host did not stop: {}", self.logged());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log says this; false after `secs`.
    pub fn says(&self, what: &str, secs: u64) -> bool {
        eventually(secs, || self.logged().contains(what).then_some(())).is_some()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.logged();
            let tail: Vec<&str> = log.lines().filter(|line| !line.contains("TRACE")).collect();
            eprintln!("--- end of the host's log ---\n{}", tail[tail.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// Asks again and again until there is an answer or the time is over.
pub fn eventually<T>(secs: u64, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if started.elapsed() > Duration::from_secs(secs) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One command of the independent client; its lines.
pub fn nostr(command: &str, options: Value) -> Result<Vec<Value>, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/independent/client.mjs");
    assert!(
        script.with_file_name("node_modules").is_dir(),
        "the independent client is not installed: run ./scripts/setup"
    );
    let output = Command::new("node").arg(script).arg(command).arg(options.to_string()).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// A person with a Nostr key of their own.
pub struct Friend {
    pub sk: String,
    pub pk: String,
    pub npub: String,
    pub relay: String,
}

impl Friend {
    pub fn new(relay: &str) -> Self {
        let keys = nostr("keys", json!({})).unwrap().remove(0);
        let text = |name: &str| keys[name].as_str().unwrap().to_owned();
        Self { sk: text("sk"), pk: text("pk"), npub: text("npub"), relay: relay.to_owned() }
    }

    /// Sends a note (1), an old message (4) or a gift wrap (17); returns the id that an answer names.
    pub fn send(&self, kind: u16, to_hex: &str, text: &str) -> String {
        let options = json!({ "relay": self.relay, "sk": self.sk, "to": to_hex, "text": text, "kind": kind });
        let sent = nostr("send", options).unwrap().remove(0);
        sent["id"].as_str().unwrap().to_owned()
    }

    /// Waits for an answer of that kind; for notes, one to the event `to`.
    pub fn answer(&self, kind: u16, from_hex: &str, to: Option<&str>) -> Value {
        let options = json!({
            "relay": self.relay, "sk": self.sk, "from": from_hex, "kind": kind, "to": to, "ms": 45_000,
        });
        nostr("wait", options).unwrap_or_else(|error| panic!("no answer of kind {kind}: {error}")).remove(0)
    }

    /// What the relay has stored, as this person sees it.
    pub fn query(&self, filter: Value) -> Vec<Value> {
        nostr("query", json!({ "relay": self.relay, "sk": self.sk, "filter": filter, "ms": 5_000 })).unwrap()
    }
}

/// The hex form of an npub.
pub fn hex_of(npub: &str) -> String {
    npub.parse::<nexus_core::Npub>().unwrap().to_hex()
}
