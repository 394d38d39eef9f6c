//! What the fleet says: its command line, its database, and each process over HTTP.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Fleet, STANDING_SQL, STUCK_SECS};
use crate::common::{BINARY, eventually};
use crate::web;

impl Fleet {
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
        web::ask(url, path).unwrap_or_default()
    }

    /// A figure of a role's `/metrics`, summed over its labels.
    pub fn metric(&self, name: &str, metric: &str) -> f64 {
        let (status, text) = self.get(name, "/metrics");
        assert_eq!(status, 200, "{text}");
        let lines =
            text.lines().filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with([' ', '{'])));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
