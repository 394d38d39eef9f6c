//! What the processes of a fleet share: the database, the bus, keys, and each role's own word.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nexus_bus::{Bus, NatsBus};
use nexus_client::api::Call;
use nexus_client::{Api, Auth, file};
use nexus_core::{Clock, Entropy};
use nexus_seal::SignedPool;
use nexus_store::{PostgresServer as Server, Store, StoreError, worker};
use nostr::event::Event;
use reqwest::Method;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Finding;
use super::live::part;
use crate::ambient::{SystemClock, SystemEntropy};
use crate::config::{BusKind, Config, DatabaseKind};
use crate::output::{moment, printable};
use crate::role::{self, listen};

/// How long the bus has to be there.
const BUS_TIMEOUT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);
/// Everything that a role is asked.
const ROLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Signed requests are refused at 60 s; half of that is worth a word.
const SKEW_WARN_MS: u64 = 5_000;
const SKEW_FAIL_MS: u64 = 30_000;
/// Roles asked at most.
const MAX_ROLES: usize = 64;

/// Whether there is more than one process to look at.
pub fn is_one(config: &Config) -> bool {
    config.database.kind == DatabaseKind::Postgres || config.bus.kind == BusKind::Nats
}

/// Everything, each part on its own: one that is broken hides no other.
pub async fn check(config: &Config, roles: &[url::Url]) -> Vec<Finding> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut findings = keys(config, &*clock);
    findings.extend(database(config, &*clock).await);
    findings.push(bus(config).await);
    findings.push(relay(config).await);
    findings.extend(self::roles(&configured(config, roles)).await);
    findings
}

fn keys(config: &Config, clock: &dyn Clock) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (check, path, whose) in [
        ("pool identity", &config.pool.identity_file, "workers"),
        ("operator key", &config.operator.key_file, "control planes"),
        ("collector headers", &config.telemetry.otlp_headers_file, "workers"),
    ] {
        if let Some(path) = path {
            findings.push(private(check, path, whose));
        }
    }
    findings.extend(readable(config));
    if config.pool.identity_file.is_some() && config.operator.key_file.is_some() {
        findings.push(Finding::warn(
            "keys apart",
            "this configuration names the pool's identity and the operator's key",
            "give workers the one and control planes the other: a process with both is the one to rob",
        ));
    }
    if let Some(path) = &config.pool.document_file {
        findings.push(documents(path, clock));
    }
    findings
}

fn private(check: &'static str, path: &Path, whose: &str) -> Finding {
    let shown = path.display();
    match (path.exists(), file::readable_by_others(path)) {
        (false, _) => Finding::fail(check, format!("{shown} is missing"), format!("put it there, for {whose} alone")),
        (true, true) => Finding::fail(check, format!("{shown} can be read by others"), format!("chmod 600 {shown}")),
        (true, false) => Finding::ok(check, format!("{shown}, for its owner alone")),
    }
}

/// Secrets for other people's servers. Roles take them as they are, since they are often mounted for a group.
fn readable(config: &Config) -> Vec<Finding> {
    let (postgres, nats) = (&config.database.postgres, &config.bus.nats);
    [
        ("database password", &postgres.password_file),
        ("bus password", &nats.password_file),
        ("bus token", &nats.token_file),
        ("bus credentials", &nats.credentials_file),
        ("bus TLS key", &nats.tls_key_file),
        ("bucket credentials", &config.objects.s3.credentials_file),
        ("scaler token", &config.scaler.token_file),
        ("metrics token", &config.api.metrics_token_file),
    ]
    .into_iter()
    .filter_map(|(check, path)| Some((check, path.as_ref()?)))
    .filter(|(_, path)| file::readable_by_others(path))
    .map(|(check, path)| {
        let shown = path.display();
        Finding::warn(check, format!("{shown} can be read by others"), format!("chmod 600 {shown}, if roles own it"))
    })
    .collect()
}

fn documents(path: &Path, clock: &dyn Clock) -> Finding {
    let shown = path.display();
    let next = "copy the one that `nexus pool create` made, or restore it from a backup";
    let text = match file::read_secret(path) {
        Ok(text) => text,
        Err(error) => return Finding::fail("pool documents", error.to_string(), next),
    };
    let chain: Result<Vec<Event>, String> = serde_json::from_str(&text).map_err(|error| error.to_string());
    match chain.and_then(|chain| SignedPool::first_use(&chain, clock.now()).map_err(|error| error.to_string())) {
        Ok(pool) => {
            Finding::ok("pool documents", format!("pool {}, root key: {}", pool.document.pool_id, pool.fingerprint()))
        }
        Err(why) => Finding::fail("pool documents", format!("{shown}: {why}"), next),
    }
}

async fn database(config: &Config, clock: &dyn Clock) -> Vec<Finding> {
    if config.database.kind != DatabaseKind::Postgres {
        return Vec::new();
    }
    let server = match Store::look_at_postgres(config.database.postgres.clone()).await {
        Ok(server) => server,
        Err(error) => {
            let next = "check [database.postgres], that the server runs, and that it lets this machine in";
            return vec![Finding::fail("PostgreSQL", error.to_string(), next)];
        }
    };
    let mut findings = vec![reached(&server), schema(&server), durability(&server), skew(&server, clock)];
    findings.push(connections(&server));
    if server.schema == server.known_schema && !server.is_old() && !server.standby {
        findings.extend(workers(config, clock).await);
    }
    findings
}

fn reached(server: &Server) -> Finding {
    let detail = format!("{}, version {}.{}", server.place, server.version / 10_000, server.version % 10_000);
    if server.is_old() {
        return Finding::fail("PostgreSQL", detail, "upgrade it: 15 or later is needed");
    }
    if server.standby {
        return Finding::fail("PostgreSQL", format!("{detail}, a standby"), "point [database.postgres] at the primary");
    }
    Finding::ok("PostgreSQL", detail)
}

fn schema(server: &Server) -> Finding {
    let detail = format!("schema {}, this program knows {}", server.schema, server.known_schema);
    match server.schema.cmp(&server.known_schema) {
        std::cmp::Ordering::Equal => Finding::ok("schema", detail),
        std::cmp::Ordering::Less => Finding::fail("schema", detail, "run `nexus migrate`"),
        std::cmp::Ordering::Greater => Finding::fail("schema", detail, "run the newer version of nexus that wrote it"),
    }
}

fn durability(server: &Server) -> Finding {
    let on = |set: bool| if set { "on" } else { "off" };
    let (fsync, pages) = (on(server.fsync), on(server.full_page_writes));
    let detail = format!("fsync {fsync}, full_page_writes {pages}, synchronous_commit {}", server.synchronous_commit);
    if !server.is_durable() {
        let next = "turn fsync and full_page_writes on: without them a power cut can lose or double what was paid";
        return Finding::fail("durability", detail, next);
    }
    match server.synchronous_commit.as_str() {
        // Our own connections turn it on; backups and scripts would not.
        "off" | "local" => {
            Finding::warn("durability", detail, "set synchronous_commit = on for the server; nexus does for itself")
        }
        _ => Finding::ok("durability", detail),
    }
}

fn skew(server: &Server, clock: &dyn Clock) -> Finding {
    let apart = server.clock_ms.abs_diff(clock.now().0);
    let detail = format!("{} (UTC) there, {apart} ms apart", moment(server.clock_ms));
    let next = "set both clocks (NTP): signed requests are refused at 60 s off";
    match apart {
        0..SKEW_WARN_MS => Finding::ok("clocks", detail),
        SKEW_WARN_MS..SKEW_FAIL_MS => Finding::warn("clocks", detail, next),
        _ => Finding::fail("clocks", detail, next),
    }
}

fn connections(server: &Server) -> Finding {
    let detail = format!("{} of {} in use", server.connections, server.max_connections);
    if server.connections.saturating_mul(10) > server.max_connections.saturating_mul(9) {
        return Finding::warn(
            "connections",
            detail,
            "raise max_connections, or lower writers and readers of the roles",
        );
    }
    Finding::ok("connections", detail)
}

/// By pool and region, by what their rows say.
async fn workers(config: &Config, clock: &dyn Clock) -> Vec<Finding> {
    let look = async {
        let postgres = nexus_store::PostgresConfig { migrate: false, ..config.database.postgres.clone() };
        worker::list(&Store::open_postgres(postgres).await?).await
    };
    let found: Result<Vec<worker::Worker>, StoreError> = look.await;
    let found = match found {
        Ok(found) => found,
        Err(error) => return vec![Finding::fail("workers", error.to_string(), "look at the server's log")],
    };
    let mut places = std::collections::BTreeMap::<(String, String), (usize, usize)>::new();
    for worker in &found {
        let silent = clock.now().0.saturating_sub(worker.seen_at.0);
        let live = !worker.dead && silent < i64::try_from(config.worker.lease_ms).unwrap_or(i64::MAX);
        let place = places.entry((worker.region.clone(), worker.pool.clone())).or_default();
        place.0 += usize::from(live);
        place.1 += usize::from(!live);
    }
    if places.values().all(|(live, _)| *live == 0) {
        let next = "start one: `nexus worker --region R --pool P`; until then agents wait";
        return vec![Finding::fail("workers", format!("none lives, {} gone", found.len()), next)];
    }
    let finding = |((region, pool), (live, gone)): (&(String, String), &(usize, usize))| {
        let detail = format!("region {region}, pool {pool}: {live} live, {gone} gone");
        match live {
            0 => Finding::warn("workers", detail, "start one there, or agents of that region stay away from home"),
            _ => Finding::ok("workers", detail),
        }
    };
    places.iter().map(finding).collect()
}

async fn bus(config: &Config) -> Finding {
    if config.bus.kind != BusKind::Nats {
        let next = "set bus.kind = \"nats\"; until then the processes find work on timers alone";
        return Finding::warn("bus", "in one process only", next);
    }
    let nats = &config.bus.nats;
    let shown = nats.urls.join(", ");
    let next = "check [bus.nats], and that the server runs; until then everything goes on, on timers";
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let bus = match NatsBus::open(nats.clone(), &[], entropy) {
        Ok(bus) => bus,
        Err(error) => return Finding::fail("bus", error.to_string(), "correct [bus.nats]"),
    };
    let connected = async {
        while !bus.health().connected {
            tokio::time::sleep(LOOK).await;
        }
    };
    match timeout(BUS_TIMEOUT, connected).await {
        Ok(()) => version(&nats.urls, shown).await,
        Err(_) => {
            let why = bus.health().problem.unwrap_or_else(|| "no connection in time".to_owned());
            Finding::fail("bus", format!("{shown}: {why}"), next)
        }
    }
}

/// The oldest server that was tried.
const OLDEST_NATS: (u64, u64) = (2, 9);
/// What a server says first, at most.
const MAX_GREETING: u64 = 64 * 1024;

/// By what each server says first, before anyone has to prove who he is.
async fn version(urls: &[String], shown: String) -> Finding {
    let mut found = Vec::new();
    for url in urls {
        let Ok(Ok(version)) = timeout(BUS_TIMEOUT, greeting(url)).await else { continue };
        let mut numbers = version.split('.').map(|number| number.parse::<u64>().unwrap_or(0));
        let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if number < OLDEST_NATS {
            let detail = format!("{url} is version {}", printable(&version));
            return Finding::fail("bus", detail, "upgrade it: 2.9 or later is needed");
        }
        found.push(printable(&version));
    }
    match found.as_slice() {
        [] => Finding::ok("bus", format!("{shown}, version not told")),
        versions => Finding::ok("bus", format!("{shown}, version {}", versions.join(", "))),
    }
}

/// `INFO {…}`, the first line of NATS's protocol.
async fn greeting(url: &str) -> anyhow::Result<String> {
    let url: url::Url = url.parse()?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let stream = TcpStream::connect((host, url.port().unwrap_or(4_222))).await?;
    let mut line = String::new();
    BufReader::new(stream).take(MAX_GREETING).read_line(&mut line).await?;
    let info: serde_json::Value = serde_json::from_str(line.trim_start_matches("INFO").trim())?;
    info["version"].as_str().map(str::to_owned).context("no version")
}

async fn relay(config: &Config) -> Finding {
    let next = "check relay.public_url (or relay.bind and relay.port), and that `nexus relay` runs";
    let url = match role::relay_url(config) {
        Ok(url) => url,
        Err(error) => return Finding::fail("relay", error.to_string(), next),
    };
    // Its information document (NIP-11) is at the same address.
    let http = url.replacen("ws", "http", 1);
    match ask(&http, "/").await {
        Ok(_) => Finding::ok("relay", url),
        Err(why) => Finding::fail("relay", format!("{url}: {why}"), next),
    }
}

/// The roles that were named; without any, those of this configuration whose port is known.
fn configured(config: &Config, named: &[url::Url]) -> Vec<url::Url> {
    if !named.is_empty() {
        return named.to_vec();
    }
    let control = config.operator.key_file.is_some().then_some((config.api.bind, config.api.port));
    let others = Some((config.health.bind, config.health.port));
    let known = [control, others].into_iter().flatten().filter(|(_, port)| *port != 0);
    let at = |(bind, port)| format!("http://{}", listen::reachable(SocketAddr::new(bind, port))).parse().ok();
    known.filter_map(at).collect()
}

/// Each role's `/readyz`, where it was told.
async fn roles(roles: &[url::Url]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for url in roles.iter().take(MAX_ROLES) {
        let shown = url.as_str().trim_end_matches('/');
        let answer = match ask(shown, "/readyz").await {
            Ok(answer) => answer,
            Err(why) => {
                let next = "check that it runs, and that this machine may reach it";
                findings.push(Finding::fail("role", format!("{shown}: {why}"), next));
                continue;
            }
        };
        let checks = answer["checks"].as_array().cloned().unwrap_or_default();
        let broken: Vec<Finding> = checks.iter().filter(|check| check["ready"] != true).map(part).collect();
        if checks.is_empty() {
            findings.push(Finding::fail("role", format!("{shown} is no role of nexus"), "check the address"));
        } else if answer["ready"] == true {
            findings.push(Finding::ok("role", format!("{shown}, ready")));
        }
        findings.extend(broken.into_iter().map(|finding| Finding {
            detail: format!("{shown}: {}", finding.detail),
            // What the role itself calls ready enough is worth a word, no more.
            verdict: if answer["ready"] == true { super::Verdict::Warn } else { finding.verdict },
            ..finding
        }));
    }
    findings
}

async fn ask(origin: &str, path: &str) -> Result<serde_json::Value, String> {
    let url = origin.parse::<url::Url>().map_err(|error| error.to_string())?;
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    let first_line = |error: nexus_client::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
    let api = Api::new(url, Auth::Nobody, clock, entropy).map_err(first_line)?;
    match timeout(ROLE_TIMEOUT, api.probe(Call::new(Method::GET, path))).await {
        Ok(answer) => answer.map(|answer| answer.body).map_err(first_line),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_password_that_others_may_read_is_worth_a_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "hunter2\n").unwrap();
        let mut config = Config::default();
        config.database.postgres.password_file = Some(path.clone());
        let look = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            readable(&config)
        };
        assert!(look(0o600).is_empty());
        let found = look(0o640);
        assert_eq!(found.len(), 1);
        assert!(found[0].verdict == Verdict::Warn && !found[0].detail.contains("hunter2"), "{:?}", found[0]);
    }
}
