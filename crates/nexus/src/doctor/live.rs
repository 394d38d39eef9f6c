//! What runs, or could.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nexus_client::api::Call;
use nexus_client::{Api, Auth};
use nexus_core::{Clock, Entropy};
use nexus_nostr::relay_pool::Interest;
use nexus_nostr::{PoolConfig, RelayPool};
use nostr::event::Kind;
use nostr::filter::Filter;
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpListener;
use url::Url;

use super::Finding;
use crate::ambient::{SystemClock, SystemEntropy};
use crate::config::Config;
use crate::dev::address::Addresses;

/// NIP-89: what a provider announces.
const HANDLER: u16 = 31_990;
const RELAY_TIMEOUT: Duration = Duration::from_secs(3);

/// A host that does not run: could it?
pub async fn stopped(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("host", "not running")];
    for (check, flag, bind, port) in [
        ("API port", "--api-port", config.api.bind, config.api.port),
        ("relay port", "--relay-port", config.relay.bind, config.relay.port),
    ] {
        findings.push(match TcpListener::bind((bind, port)).await {
            Ok(_) => Finding::ok(check, format!("{bind}:{port} is free")),
            Err(error) => {
                Finding::fail(check, format!("{bind}:{port}: {error}"), format!("choose another with {flag} PORT"))
            }
        });
    }
    findings
}

/// A host that runs: does each part answer?
pub async fn running(dir: &Path) -> Vec<Finding> {
    let Some(at) = Addresses::read(dir) else {
        return vec![Finding::fail(
            "host",
            "it holds the data directory but is not ready",
            "wait a second; then look at its log",
        )];
    };
    let mut findings = vec![Finding::ok("host", format!("running, process {}", at.process))];
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    match Api::new(at.api.clone(), Auth::Nobody, clock.clone(), entropy.clone()) {
        Ok(api) => findings.extend(api_parts(&api).await),
        Err(error) => findings.push(Finding::fail("API", error.to_string(), "look at its log")),
    }
    findings.push(devnet(&at.devnet, clock.clone(), entropy.clone()).await);
    let pool = RelayPool::new(PoolConfig { development: true, ..PoolConfig::default() }, clock, entropy);
    findings.extend(relay(&pool, &at.relay).await);
    pool.shutdown().await;
    findings
}

/// What the API says of itself, the placement and the workers.
async fn api_parts(api: &Api) -> Vec<Finding> {
    let answer = match api.probe(Call::new(Method::GET, "/readyz")).await {
        Ok(answer) => answer,
        Err(error) => {
            let text = error.to_string();
            let head = text.lines().next().unwrap_or_default();
            return vec![Finding::fail("API", head, "look at the host's log")];
        }
    };
    let mut findings = vec![Finding::ok("API", api.origin().to_string())];
    for check in answer.body["checks"].as_array().map(Vec::as_slice).unwrap_or_default() {
        findings.push(part(check));
    }
    findings
}

pub fn part(check: &Value) -> Finding {
    let name = match check["name"].as_str() {
        Some("store") => "database answers",
        Some("reconciler") => "placement",
        Some("workers" | "worker") => "worker beat",
        Some("bus") => "bus",
        _ => "API is not stopping",
    };
    match check["ready"].as_bool() {
        Some(true) => Finding::ok(name, "yes"),
        _ => Finding::fail(
            name,
            check["reason"].as_str().unwrap_or("no"),
            "look at the host's log; restart it if this stays",
        ),
    }
}

async fn devnet(url: &str, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Finding {
    let parsed = url.parse::<Url>().ok().and_then(|url| Api::new(url, Auth::Nobody, clock, entropy).ok());
    let Some(api) = parsed else { return Finding::fail("devnet", url, "restart the host") };
    match api.probe(Call::new(Method::GET, "/")).await {
        Err(nexus_client::Error::Unreachable { why, .. }) => {
            Finding::fail("devnet", format!("{url}: {why}"), "restart the host")
        }
        _ => Finding::ok("devnet", url),
    }
}

/// The relay, and whether somebody sells thinking on it.
async fn relay(pool: &RelayPool, url: &str) -> [Finding; 2] {
    let filter = Filter::new().kind(Kind::from_u16(HANDLER)).limit(50);
    let interest = Interest { relays: vec![url.to_owned()], filters: vec![filter], auth: Vec::new() };
    let offers = pool.fetch(interest, RELAY_TIMEOUT).await.events;
    let connected = pool.relays().iter().any(|(_, connected)| *connected);
    let relay = if connected || !offers.is_empty() {
        Finding::ok("relay", url)
    } else {
        Finding::fail("relay", format!("{url} does not answer"), "look at the host's log")
    };
    let provider = if offers.is_empty() {
        Finding::warn("provider", "nobody announces compute on the relay", "start one: `nexus provider --relay URL`")
    } else {
        Finding::ok("provider", format!("{} announced", offers.len()))
    };
    [relay, provider]
}
