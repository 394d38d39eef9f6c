//! The program on PostgreSQL: who may change the schema, what is refused, and by which words.
#![expect(clippy::unwrap_used, reason = "what a test's helper can't do, fails the test")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use nexus_testkit::postgres::{USER, shared};

struct Home {
    dir: tempfile::TempDir,
    database: String,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), database: shared().database() }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nexus"));
        command.args(line.split_whitespace()).env_clear().env("HOME", self.dir.path()).stdin(Stdio::null());
        command.env("NEXUS_CONFIG_DIR", self.dir.path().join("config"));
        command.env("NEXUS_DATA_DIR", self.dir.path().join("data")).env("NEXUS_API_PORT", "0");
        command.env("NEXUS_RELAY_PUBLIC_URL", "ws://127.0.0.1:1").env("NEXUS_RELAY_PORT", "0");
        command.env("NEXUS_DATABASE_KIND", "postgres").env("NEXUS_DATABASE_POSTGRES_HOST", shared().socket_dir());
        command.env("NEXUS_DATABASE_POSTGRES_USER", USER).env("NEXUS_DATABASE_POSTGRES_DATABASE", &self.database);
        let keys = self.dir.path().join("keys");
        if line.starts_with("worker") {
            command.env("NEXUS_POOL_IDENTITY_FILE", keys.join("pool.age"));
        } else if line.starts_with("control") {
            command.env("NEXUS_POOL_DOCUMENT_FILE", keys.join("pool.json"));
            command.env("NEXUS_OPERATOR_KEY_FILE", keys.join("operator.key"));
        }
        command
    }

    /// Runs a command that must fail; gives its standard error.
    fn refused(&self, line: &str, env: &[(&str, &str)]) -> String {
        let output = self.command(line).envs(env.iter().copied()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "nexus {line}: {error}");
        error
    }
}

fn done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_schema_is_changed_by_one_command_alone_also_by_two_at_once() {
    let home = Home::new();
    let keys = home.dir.path().join("keys");
    done(&home.command("pool create --dir").arg(&keys).output().unwrap());
    let roles = ["control", "worker", "relay"];
    for role in roles {
        let error = home.refused(role, &[]);
        assert!(error.contains("has schema 0") && error.contains("`nexus migrate`"), "{role}: {error}");
    }
    let migrations = [0, 1].map(|_| home.command("migrate").stderr(Stdio::piped()).spawn().unwrap());
    for migration in migrations {
        done(&migration.wait_with_output().unwrap());
    }
    assert_eq!(shared().sql(&home.database, "SELECT count(*) FROM schema_version"), "1");
    // And now it serves.
    let mut relay = home.command("relay --json").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(relay.stdout.take().unwrap()).read_line(&mut line).unwrap();
    relay.kill().unwrap();
    relay.wait().unwrap();
    assert!(line.contains("\"ready\":true"), "{line}");
    shared().sql(&home.database, "UPDATE schema_version SET version = 1000");
    for role in roles.into_iter().chain(["migrate"]) {
        let error = home.refused(role, &[]);
        assert!(error.contains("has schema 1000") && error.contains("the version that wrote it"), "{role}: {error}");
    }
}

#[test]
fn timeouts_that_would_outlast_half_a_lease_keep_every_role_from_starting() {
    let home = Home::new();
    for role in ["worker", "control", "relay", "migrate"] {
        let error = home.refused(role, &[("NEXUS_DATABASE_POSTGRES_STATEMENT_TIMEOUT_MS", "2600")]);
        assert!(error.contains("statement_timeout_ms is 2600, but at most half the lease (2500)"), "{role}: {error}");
    }
    let longer = [("NEXUS_DATABASE_POSTGRES_STATEMENT_TIMEOUT_MS", "2600"), ("NEXUS_WORKER_LEASE_MS", "5200")];
    done(&home.command("migrate").envs(longer).output().unwrap());
}

#[test]
fn a_password_is_named_by_where_it_is_and_never_shown() {
    let home = Home::new();
    let secret = "sesame-4711";
    let error = home.refused("config", &[("NEXUS_DATABASE_POSTGRES_PASSWORD", secret)]);
    assert!(error.contains("NEXUS_DATABASE_POSTGRES_PASSWORD") && !error.contains(secret), "{error}");
    let file = home.dir.path().join("password");
    std::fs::write(&file, secret).unwrap();
    let set = |command: &mut Command| {
        command.env("PGSECRET", secret).env("NEXUS_DATABASE_POSTGRES_PASSWORD_ENV", "PGSECRET");
        command.env("NEXUS_BUS_NATS_USER", "fleet").env("NEXUS_BUS_NATS_PASSWORD_FILE", &file);
        command.output().unwrap()
    };
    for line in ["config", "config --sources", "config --json"] {
        let output = set(&mut home.command(line));
        done(&output);
        let shown = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(shown.contains("PGSECRET") && !shown.contains(secret), "{shown}");
    }
}
