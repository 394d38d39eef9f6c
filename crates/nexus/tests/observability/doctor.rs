//! A small fleet over PostgreSQL and NATS, looked at whole and with its parts broken one by one.

use std::os::unix::fs::PermissionsExt;

use nexus_testkit::nats::NatsServer;
use nexus_testkit::postgres::{self, Postgres, Stop};
use serde_json::Value;

use crate::common::{Place, eventually};
use crate::roles::{self, Running};

struct Ward {
    place: Place,
    environment: Vec<(&'static str, String)>,
    roles: Vec<String>,
}

impl Ward {
    /// Exit code, the findings of one check, and whether all is well.
    fn asks(&self) -> (i32, Value) {
        let mut command = self.place.command();
        command.args(["--json", "doctor"]);
        command.envs(roles::of_role("worker", &self.environment));
        for role in &self.roles {
            command.args(["--role", role]);
        }
        let output = command.output().unwrap();
        let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        });
        (output.status.code().unwrap(), said)
    }

    fn healthy(&self) {
        let well = || Some(self.asks()).filter(|(code, said)| *code == 0 && said["healthy"] == true);
        assert!(eventually(30, well).is_some(), "{:#}", self.asks().1);
    }

    /// A check fails, with what is said of it and what to do.
    fn fails(&self, check: &str, found: &str) -> Value {
        let broken = || {
            let (code, said) = self.asks();
            let of = |finding: &&Value| {
                finding["check"] == check
                    && finding["verdict"] == "fail"
                    && finding["detail"].as_str().unwrap().contains(found)
                    && finding["next"].as_str().is_some_and(|next| !next.is_empty())
            };
            (code == 1
                && said["healthy"] == false
                && said["checks"].as_array().unwrap().iter().any(|finding| of(&finding)))
            .then_some(said)
        };
        eventually(30, broken).unwrap_or_else(|| panic!("{check}, {found}: {:#}", self.asks().1))
    }
}

fn mode(path: &str, bits: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).unwrap();
}

#[test]
fn parts_broken_one_by_one_are_named() {
    let (postgres, mut nats) = (Postgres::start(), NatsServer::stopped());
    let place = Place::new();
    let mut environment = roles::environment(&place);
    environment.extend([
        ("NEXUS_DATABASE_KIND", "postgres".to_owned()),
        ("NEXUS_DATABASE_POSTGRES_HOST", postgres.socket_dir().to_owned()),
        ("NEXUS_DATABASE_POSTGRES_DATABASE", postgres.database()),
        ("NEXUS_DATABASE_POSTGRES_USER", postgres::USER.to_owned()),
        ("NEXUS_BUS_KIND", "nats".to_owned()),
        ("NEXUS_BUS_NATS_URLS", nats.url()),
        ("NEXUS_WORKER_REGION", "eu".to_owned()),
    ]);
    let mut ward = Ward { place, environment, roles: Vec::new() };

    // Nothing is there yet but the server.
    let said = ward.fails("schema", "schema 0");
    assert!(said.to_string().contains("nexus migrate"), "{said:#}");
    for check in ["bus", "relay"] {
        ward.fails(check, "");
    }
    let mut migrate = ward.place.command();
    assert!(
        migrate.arg("migrate").envs(roles::of_role("migrate", &ward.environment)).output().unwrap().status.success()
    );
    ward.fails("workers", "none lives");
    nats.start_again();
    let running = |ward: &Ward, role: &str| Running::start(&ward.place, role, &roles::of_role(role, &ward.environment));
    let relay = running(&ward, "relay");
    let control = running(&ward, "control");
    let worker = running(&ward, "worker");
    ward.roles = [&relay, &control, &worker].map(|role| role.origin().to_owned()).to_vec();
    ward.healthy();
    let (_, said) = ward.asks();
    let checks = said["checks"].as_array().unwrap();
    for (check, found) in [
        ("PostgreSQL", "version 1"),
        ("schema", "this program knows"),
        ("durability", "fsync on"),
        ("clocks", "ms apart"),
        ("connections", "in use"),
        ("workers", "region eu, pool default: 1 live"),
        ("bus", "version 2."),
        ("relay", "ws://"),
        ("pool identity", "for its owner alone"),
        ("pool documents", "root key"),
        ("role", "ready"),
    ] {
        let there = |finding: &&Value| {
            finding["check"] == check
                && finding["verdict"] == "ok"
                && finding["detail"].as_str().unwrap().contains(found)
        };
        assert!(checks.iter().any(|finding| there(&finding)), "{check}, {found}: {said:#}");
    }
    // For people: one line each, no colour without a terminal.
    let mut plain = ward.place.command();
    let plain = plain.arg("doctor").envs(roles::of_role("worker", &ward.environment)).output().unwrap();
    let text = String::from_utf8(plain.stdout).unwrap();
    assert!(text.contains("PostgreSQL") && !text.contains('\u{1b}'), "{text}");

    let file = |name: &str| ward.environment.iter().find(|(key, _)| *key == name).unwrap().1.clone();
    let (identity, documents) = (file("identity"), file("NEXUS_POOL_DOCUMENT_FILE"));
    mode(&identity, 0o644);
    let said = ward.fails("pool identity", "can be read by others");
    assert!(said.to_string().contains("chmod 600"), "{said:#}");
    mode(&identity, 0o600);
    let kept = std::fs::read(&documents).unwrap();
    std::fs::write(&documents, b"[]").unwrap();
    ward.fails("pool documents", "");
    std::fs::write(&documents, kept).unwrap();

    postgres.sql("postgres", "ALTER SYSTEM SET fsync = off");
    postgres.reload("fsync", "off");
    ward.fails("durability", "fsync off");
    postgres.sql("postgres", "ALTER SYSTEM RESET fsync");
    postgres.reload("fsync", "on");
    ward.healthy();

    nats.stop();
    ward.fails("bus", &nats.url());
    nats.start_again();
    ward.healthy();

    let at = worker.origin().to_owned();
    drop(worker);
    ward.fails("role", &at);
    ward.fails("workers", "none lives");
    drop(relay);
    ward.fails("relay", "ws://");

    postgres.stop(Stop::Immediate);
    ward.fails("PostgreSQL", "");
    ward.fails("database answers", "the database does not answer");
    drop(control);
}
