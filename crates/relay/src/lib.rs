//! The inbox relay: a small Nostr relay (NIP-01, 9, 11, 40, 42, 70) that knows who lives here.
//!
//! An event that is addressed to a hosted agent is stored together with the agent's inbox row, in one transaction:
//! `OK true` is a promise that the agent will see it. It takes writes from and to hosted agents and owners, and a few
//! kinds from listed providers; private messages leave only to whoever proved to be their reader. Every queue, list
//! and rate has a bound, all of them in [`RelayConfig`].

mod access;
mod config;
mod connection;
mod door;
mod hub;
mod info;
mod intake;
mod message;
mod outside;
mod quota;
mod stored;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{ConnectInfo, State, WebSocketUpgrade};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use nexus_bus::SharedBus;
use nexus_core::{Clock, Entropy};
use nexus_nostr::RelayPool;
use nexus_store::{Store, relay_event};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{InvalidConfig, RelayConfig};
pub use door::Peer;
pub use message::fuzz_frame;

use door::Door;
use hub::Hub;
use intake::Intake;
use quota::Quotas;

/// What a relay is made of.
pub struct RelayParts {
    pub store: Store,
    pub bus: SharedBus,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub config: RelayConfig,
    pub listener: TcpListener,
    /// Reaches relays of others that agents name; none listens to none.
    pub outside: Option<RelayPool>,
    pub shutdown: CancellationToken,
}

/// Why the relay did not run.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    #[error("the relay's listener: {0}")]
    Listener(#[from] std::io::Error),
}

/// A relay without its listener.
pub struct Relay {
    config: Arc<RelayConfig>,
    entropy: Arc<dyn Entropy>,
    hub: Arc<Hub>,
    quotas: Arc<Quotas>,
    intake: Intake,
    /// `host:port` of every URL that names this relay.
    names: Vec<String>,
    shutdown: CancellationToken,
    connections: TaskTracker,
}

impl Relay {
    /// Whether a URL names this relay: host and port alone, since what stands in front may add TLS and a path.
    fn is_ours(&self, url: &str) -> bool {
        authority(url).is_some_and(|name| self.names.contains(&name))
    }
}

/// Lower-case `host:port` of a WebSocket URL.
fn authority(url: &str) -> Option<String> {
    let (rest, port) = match url.split_once("://")? {
        ("ws", rest) => (rest, "80"),
        ("wss", rest) => (rest, "443"),
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?.to_ascii_lowercase();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    Some(if has_port { authority } else { format!("{authority}:{port}") })
}

/// Serves until `shutdown` is cancelled, then lets running writes finish, at most 5 s. Ready once it is polled: the
/// listener is already bound.
pub async fn serve(parts: RelayParts) -> Result<(), RelayError> {
    let RelayParts { store, bus, clock, entropy, config, listener, outside, shutdown } = parts;
    let relay = relay(store, bus, clock, entropy, config, Some(listener.local_addr()?), shutdown.clone())?;
    let housekeeping = tokio::spawn(housekeeping(relay.clone()));
    let outside = outside.map(|pool| tokio::spawn(outside::run(relay.clone(), pool)));
    let service = router(relay.clone()).into_make_service_with_connect_info::<Peer>();
    let door = Door::new(listener, relay.quotas.clone(), relay.config.handshake_timeout());
    let served = axum::serve(door, service).with_graceful_shutdown(shutdown.cancelled_owned()).await;
    relay.shutdown.cancel();
    relay.connections.close();
    let _ = tokio::time::timeout(Duration::from_secs(6), relay.connections.wait()).await;
    let _ = housekeeping.await;
    if let Some(outside) = outside {
        let _ = outside.await;
    }
    Ok(served?)
}

/// The relay behind [`router`]. `address` is where it listens, if that is a name clients use.
pub fn relay(
    store: Store,
    bus: SharedBus,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    config: RelayConfig,
    address: Option<SocketAddr>,
    shutdown: CancellationToken,
) -> Result<Arc<Relay>, InvalidConfig> {
    config.validate()?;
    let mut names: Vec<String> = config.public_urls.iter().filter_map(|url| authority(url)).collect();
    if let Some(address) = address {
        names.push(address.to_string());
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            names.extend(["localhost", "127.0.0.1", "[::1]"].map(|host| format!("{host}:{}", address.port())));
        }
    }
    let config = Arc::new(config);
    let (hub, quotas) = (Arc::new(Hub::default()), Quotas::new(clock.clone(), config.clone()));
    let intake = Intake { store, bus, clock, config: config.clone(), hub: hub.clone(), quotas: quotas.clone() };
    let connections = TaskTracker::new();
    Ok(Arc::new(Relay { config, entropy, hub, quotas, intake, names, shutdown, connections }))
}

/// The relay as an Axum router: the WebSocket and its information document at `/`. Serve it with [`Peer`] as connect
/// info. [`serve`] counts connections and times their handshakes; whoever serves the router alone does that.
pub fn router(relay: Arc<Relay>) -> Router {
    Router::new().route("/", get(entry)).with_state(relay)
}

async fn entry(
    State(relay): State<Arc<Relay>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let Ok(upgrade) = upgrade else { return information(&relay, &headers) };
    let max = relay.config.max_frame_bytes;
    let upgrade = upgrade.max_message_size(max).max_frame_size(max).max_write_buffer_size(4 * 1024 * 1024);
    let connections = relay.connections.clone();
    upgrade.on_upgrade(move |socket| {
        peer.establish();
        connections.track_future(connection::serve(relay, socket, peer.address.ip()))
    })
}

fn information(relay: &Relay, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut response = if accept.contains("application/nostr+json") {
        let mut document = Json(info::document(&relay.config)).into_response();
        document.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/nostr+json"));
        document
    } else {
        format!("{}: use a Nostr client.\n", relay.config.name).into_response()
    };
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// Each minute, forgets what has expired (NIP-40).
async fn housekeeping(relay: Arc<Relay>) {
    const BATCH: u32 = 1_000;
    loop {
        tokio::select! {
            () = relay.shutdown.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
        let Intake { store, clock, .. } = &relay.intake;
        match relay_event::purge_expired(store, clock.now(), BATCH).await {
            Ok(0) => {}
            Ok(gone) => tracing::debug!(gone, "expired events forgotten"),
            Err(error) => tracing::warn!(%error, "expired events could not be forgotten"),
        }
    }
}
