//! Every measurement at a tiny size: it runs, says what it found, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::process::{Command, Stdio};

use common::BINARY;
use serde_json::Value;

/// Runs one, and returns its document. The directory is its own and must be empty afterwards.
fn bench(args: &[&str]) -> Value {
    let home = tempfile::tempdir().unwrap();
    // PostgreSQL runs as another user where the tests run as root.
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let data = home.path().join("data");
    std::fs::DirBuilder::new().mode(0o711).create(&data).unwrap();
    let output = Command::new(BINARY)
        .env_clear()
        .env("HOME", home.path())
        .args(["--json", "bench"])
        .args(args)
        .arg("--data-dir")
        .arg(&data)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nexus bench {}: {errors}", args.join(" "));
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0, "something was left in the directory");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn idle_agents_are_placed_and_their_heartbeats_met() {
    let idle = bench(&["idle", "--agents", "300", "--heartbeat", "10", "--seconds", "2"]);
    assert_eq!(idle["agents"].as_u64(), Some(300), "{idle}");
    let (met, missed) = (idle["lag"]["count"].as_u64().unwrap(), idle["missed"].as_u64().unwrap());
    assert!(met > 0 && (20..=130).contains(&(met + missed)), "about a fifth of the heartbeats is due: {idle}");
    assert!(idle["bytes_per_agent"].as_f64().unwrap() > 0.0, "{idle}");
}

#[test]
fn timers_fire_when_they_are_due() {
    let timers = bench(&["timers", "--ticks", "200", "--seconds", "1"]);
    for lateness in ["begun", "durable"] {
        assert_eq!(timers[lateness]["count"].as_u64(), Some(200), "{timers}");
    }
}

#[test]
fn a_lost_workers_agents_go_on() {
    let failover = bench(&["failover", "--agents", "200"]);
    let figure = |name: &str| failover[name].as_u64().unwrap();
    assert!(figure("declared_ms") > 0, "{failover}");
    assert!(figure("declared_ms") <= figure("placed_ms") && figure("placed_ms") <= figure("ticking_ms"), "{failover}");
}

#[test]
fn a_mention_wakes_an_agent_and_is_answered() {
    let wake = bench(&["wake", "--wakes", "2", "--agents", "1"]);
    assert_eq!(wake["whole"]["count"].as_u64(), Some(2), "{wake}");
    assert!(wake["from_sending"]["p50_ms"].as_f64().unwrap() <= wake["whole"]["p50_ms"].as_f64().unwrap(), "{wake}");
    let full = bench(&["ticks", "--full", "--full-agents", "1", "--each", "2"]);
    assert_eq!(full["ticks"].as_u64(), Some(2), "{full}");
    let steps = full["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["what"] == "committed"), "{full}");
    assert!(full["host_memory_bytes"].as_u64().unwrap() > 0, "{full}");
}

#[test]
fn ticks_run_on_a_private_postgresql() {
    let ticks = bench(&["ticks", "--database", "postgres", "--agents", "5", "--seconds", "1"]);
    for run in ["ticks", "alone", "ceiling", "ceiling_alone"] {
        assert!(ticks[run]["ticks"].as_u64().unwrap() > 0, "{run}: {ticks}");
        assert!(ticks[run]["p50_ms"].as_f64().unwrap() <= ticks[run]["p99_ms"].as_f64().unwrap(), "{run}: {ticks}");
    }
    assert_eq!(ticks["database"], "postgres");
    assert!(
        ticks["alone"]["appends_per_commit"].as_f64().unwrap() <= 1.01,
        "one agent has one append in flight: {ticks}"
    );
    assert!(ticks["memory_bytes"].as_u64().unwrap() > 0, "{ticks}");
}
