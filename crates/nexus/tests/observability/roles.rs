//! Roles that run alone, each a process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::Place;

/// Killed when dropped.
pub struct Running {
    child: Child,
    pub ready: Value,
    pub log: PathBuf,
}

impl Running {
    /// Starts a role with all that it says in JSON, and waits until it is ready.
    pub fn start(place: &Place, role: &str, environment: &[(&str, String)]) -> Self {
        let log = place.path(&format!("log-{role}-{}", crate::common::free_port()));
        let mut command = place.command();
        command.args([role, "--json", "--log", "json", "-vv"]);
        command.envs(environment.iter().map(|(name, value)| (*name, value.as_str())));
        let mut child = command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let line = ready.recv_timeout(Duration::from_secs(60)).unwrap_or_default();
        let ready = serde_json::from_str(&line).unwrap_or(Value::Null);
        let running = Self { child, ready, log };
        assert_eq!(running.ready["ready"], true, "{role}: {line}\n{}", running.logged());
        running
    }

    /// Where it serves health and metrics.
    pub fn origin(&self) -> &str {
        self.ready["health"].as_str().or(self.ready["api"].as_str()).unwrap().trim_end_matches('/')
    }

    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.logged();
            let tail: Vec<&str> = log.lines().filter(|line| !line.contains("TRACE")).collect();
            eprintln!("--- end of {} ---\n{}", self.log.display(), tail[tail.len().saturating_sub(20)..].join("\n"));
        }
    }
}

/// The keys of a fleet, and what each role is told of them.
pub fn environment(place: &Place) -> Vec<(&'static str, String)> {
    let keys = place.path("keys");
    let made = place.ok(&["pool", "create", "--dir", keys.to_str().unwrap()]);
    let file = |name: &str| made[name].as_str().unwrap().to_owned();
    vec![
        ("NEXUS_DATA_DIR", place.path("data").display().to_string()),
        ("NEXUS_RELAY_PORT", place.relay_port.to_string()),
        ("NEXUS_API_PORT", place.api_port.to_string()),
        ("NEXUS_ALLOW_DEVELOPMENT", "true".to_owned()),
        ("NEXUS_POOL_DOCUMENT_FILE", file("documents")),
        ("NEXUS_OPERATOR_KEY_FILE", file("operator")),
        ("identity", file("identity")),
    ]
}

/// What a role is told: only workers get the pool's identity.
pub fn of_role(role: &str, environment: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
    let told = |(name, value): &(&'static str, String)| match (*name, role) {
        ("identity", "worker") => Some(("NEXUS_POOL_IDENTITY_FILE", value.clone())),
        ("identity", _) => None,
        _ => Some((*name, value.clone())),
    };
    environment.iter().filter_map(told).collect()
}
