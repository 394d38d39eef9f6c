//! The program as it is typed: exit codes, messages, files, and a host that starts, refuses a second copy and stops.

#![expect(clippy::unwrap_used, reason = "what a test's helper can't do, fails the test")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nexus"));
        command.args(line.split_whitespace()).env_clear().env("NEXUS_CONFIG_DIR", self.path("config"));
        command.env("HOME", self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs a command that must end with this exit code; gives its standard error.
    fn expect(&self, line: &str, code: i32) -> String {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "nexus {line}: {error}");
        error
    }

    fn host(&self, data: &str) -> Host {
        let data = self.path(data);
        let mut command = self.command("dev --api-port 0 --relay-port 0 --json --data-dir");
        let child = command.arg(&data).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut host = Host { child, ready: Value::Null };
        let mut line = String::new();
        BufReader::new(host.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        host.ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not ready: {line}"));
        host
    }
}

struct Host {
    child: Child,
    ready: Value,
}

impl Host {
    fn stop(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

#[test]
fn exit_codes_say_what_happened() {
    let home = Home::new();
    home.expect("--help", 0);
    home.expect("completions bash", 0);
    home.expect("", 2);
    home.expect("agent create", 2);
    assert!(home.expect("agent list", 2).contains("nexus dev"), "no context must say how to get one");
    assert!(home.expect("agent list --context gone", 3).contains("nexus context list"));
    let error = home.expect("agent wallet a --wallet gold", 2);
    assert!(error.contains("cashu=https://MINT"), "{error}");
}

#[test]
fn an_unknown_configuration_key_is_named() {
    let home = Home::new();
    let file = home.path("nexus.toml");
    std::fs::write(&file, "[relay]\nprot = 1\n").unwrap();
    let error = home.expect(&format!("config --config {}", file.display()), 2);
    assert!(error.contains("`relay.prot`") && error.contains("`relay.port`"), "{error}");
    let output = home.command("config").env("NEXUS_RELAY_PROT", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("NEXUS_RELAY_PROT"));
}

#[test]
fn errors_are_json_for_programs() {
    let home = Home::new();
    let error: Value = serde_json::from_str(&home.expect("agent list --json", 2)).unwrap();
    assert_eq!(error["error"]["exit"], 2);
    assert!(error["error"]["next"].as_str().unwrap().contains("nexus dev"));
}

#[cfg(unix)]
#[test]
fn a_host_starts_keeps_its_keys_private_and_comes_back() {
    let home = Home::new();
    let host = home.host("data");
    let first = host.ready.clone();
    assert_eq!(mode(&home.path("config/contexts/dev.toml")), 0o600);
    for key in ["root.nsec", "pool.age", "operator.key", "provider.nsec"] {
        assert_eq!(mode(&home.path("data/keys").join(key)), 0o600, "{key}");
    }
    assert_eq!(mode(&home.path("data/nexus.db")), 0o600);

    let data = home.path("data");
    let second = home.expect(&format!("dev --api-port 0 --relay-port 0 --data-dir {}", data.display()), 1);
    assert!(second.contains("already runs") && second.contains("--data-dir"), "{second}");
    let port = first["api"].as_str().unwrap().trim_end_matches('/').rsplit(':').next().unwrap().to_owned();
    let other = home.path("other");
    let taken = home.expect(&format!("dev --api-port {port} --relay-port 0 --data-dir {}", other.display()), 1);
    assert!(taken.contains(&port) && taken.contains("--api-port"), "{taken}");

    home.expect("agent list", 0);
    home.expect("agent create bob", 2);
    home.expect("agent status bob", 3);
    home.expect("agent balance Not_A_Name!", 2);
    assert_eq!(host.stop(), Some(0));
    assert!(home.expect("agent list", 5).contains("nexus dev"));

    let again = home.host("data");
    for stays in ["owner", "root_fingerprint", "provider"] {
        assert_eq!(again.ready[stays], first[stays], "{stays}");
    }
    home.expect("pool", 0);
}

/// A host with other keys under the same address: nothing is sealed to it.
#[test]
fn a_host_with_another_root_key_is_refused() {
    let home = Home::new();
    let passphrase = home.path("passphrase");
    std::fs::write(&passphrase, "velvet-goose 71 paints quietly").unwrap();
    let host = home.host("first");
    let context = home.path("config/contexts/dev.toml");
    let pinned = std::fs::read_to_string(&context).unwrap();
    let pin = pinned[pinned.find("[pool]").unwrap()..].to_owned();
    host.stop();
    let _other = home.host("second");
    let renewed = std::fs::read_to_string(&context).unwrap();
    let forged = format!("{}{pin}", &renewed[..renewed.find("[pool]").unwrap()]);
    std::fs::write(&context, forged).unwrap();
    let error = home.expect(&format!("agent create eve --passphrase-file {}", passphrase.display()), 6);
    assert!(error.contains("root key"), "{error}");
    assert!(!home.path("config/agents").exists(), "no agent may be made");
}
