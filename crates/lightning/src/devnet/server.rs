//! The network's listener.

use axum::serve::ListenerExt as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bitcoin::secp256k1::{PublicKey, SecretKey};
use nexus_core::UnixMs;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::api::{self, Code, Problem};
use super::auth::Replay;
use super::dir::{self, Address};
use super::engine::{Engine, Gone};
use super::log::{COMPACT_BYTES, Log};
use super::{OpenError, Parts, handlers};

/// How long a stopping server waits for the requests it accepted.
const STOP_MS: u64 = 3_000;

/// The network served by this process. Dropping it stops it.
pub struct Server {
    net: Net,
    address: Address,
    task: JoinHandle<()>,
    _stop: DropGuard,
}

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Net(Arc<Inner>);

struct Inner {
    engine: Engine,
    key: SecretKey,
    node: PublicKey,
    boot: String,
    parts: Parts,
    replay: Replay,
    stopping: CancellationToken,
    #[cfg(feature = "faults")]
    faults: super::faults::Faults,
}

impl Net {
    pub(super) fn now(&self) -> UnixMs {
        self.0.parts.clock.now()
    }

    pub(super) fn boot(&self) -> &str {
        &self.0.boot
    }

    pub(super) fn replay(&self) -> &Replay {
        &self.0.replay
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    pub(super) fn key(&self) -> &SecretKey {
        &self.0.key
    }

    pub(super) fn node(&self) -> PublicKey {
        self.0.node
    }

    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    #[cfg(feature = "faults")]
    pub(super) fn faults(&self) -> &super::faults::Faults {
        &self.0.faults
    }
}

impl Server {
    /// Takes the directory's lock and serves it on 127.0.0.1 (`port` 0: any free one). [`OpenError::Held`] when
    /// somebody does already. Must be called within a Tokio runtime.
    pub async fn start(dir: PathBuf, port: u16, parts: Parts) -> Result<Self, OpenError> {
        Self::start_compacting(dir, port, parts, COMPACT_BYTES).await
    }

    pub(super) async fn start_compacting(
        dir: PathBuf,
        port: u16,
        parts: Parts,
        compact_bytes: u64,
    ) -> Result<Self, OpenError> {
        let entropy = parts.entropy.clone();
        let path = dir.clone();
        let open = move || {
            let held = dir::hold(&path)?;
            let keys = held.node_key(&*entropy)?;
            let (log, ledger) = Log::open(held.log())?;
            Ok::<_, OpenError>((held, keys, log, ledger))
        };
        let io = |source| OpenError::Io { path: dir.clone(), source };
        let (held, (key, node), log, ledger) =
            tokio::task::spawn_blocking(open).await.map_err(|error| io(std::io::Error::other(error)))??;
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.map_err(io)?;
        let url = format!("http://{}", listener.local_addr().map_err(io)?);
        let address = Address { url, node: node.to_string() };
        held.announce(&address)?;
        let boot = hex::encode(nexus_core::time::random::<16>(&*parts.entropy));
        let engine = Engine::start(held, log, ledger, parts.clock.clone(), compact_bytes);
        let stopping = CancellationToken::new();
        let net = Net(Arc::new(Inner {
            #[cfg(feature = "faults")]
            faults: super::faults::Faults::new(engine.clone()),
            engine,
            key,
            node,
            boot,
            parts,
            replay: Replay::default(),
            stopping: stopping.clone(),
        }));
        tracing::info!(url = %address.url, "the development network answers");
        let task = tokio::spawn(serve(listener, net.clone()));
        Ok(Self { net, address, task, _stop: stopping.drop_guard() })
    }

    /// Where it answers: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.address.url
    }

    /// The public key of the network's node, compressed, in hex.
    pub fn node(&self) -> &str {
        &self.address.node
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn engine(&self) -> Engine {
        self.net.engine().clone()
    }

    /// Whether it still answers: no longer after an error of the disk.
    pub fn running(&self) -> bool {
        !self.task.is_finished() && !self.net.engine().ended().is_cancelled()
    }

    /// All accounts, money in flight and fees less what the faucet gave, in msat: zero.
    pub async fn sum_msat(&self) -> Option<i128> {
        self.net.engine().transact(|books| books.ledger().sum()).await.ok()
    }

    /// Stops after the requests that were accepted (at most 3 s) and frees the directory.
    pub async fn shutdown(self) {
        let Self { net, task, _stop, .. } = self;
        net.stopping().cancel();
        let ended = net.engine().ended().clone();
        drop(net);
        let stop = async {
            let _ = task.await;
            ended.cancelled().await;
        };
        if tokio::time::timeout(Duration::from_millis(STOP_MS), stop).await.is_err() {
            tracing::warn!("the development network still has requests open and is left to itself");
        }
    }

    /// The switches for faults.
    #[cfg(feature = "faults")]
    pub fn faults(&self) -> super::faults::Faults {
        self.net.faults().clone()
    }
}

async fn serve(listener: TcpListener, net: Net) {
    let stopping = net.stopping().clone();
    let ended = net.engine().ended().clone();
    let stop = async move {
        tokio::select! { () = stopping.cancelled() => {}, () = ended.cancelled() => stopping.cancel() }
    };
    // Small answers must not wait for acknowledgements of earlier ones.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let served = axum::serve(listener, router(net)).with_graceful_shutdown(stop);
    if let Err(error) = served.await {
        tracing::error!(%error, "the development network's listener failed");
    }
}

fn router(net: Net) -> Router {
    let router = Router::new()
        .route(api::NODE, get(node))
        .route(api::ACCOUNT, post(handlers::account))
        .route(api::FAUCET, post(handlers::faucet))
        .route(api::INVOICES, post(handlers::create_invoice))
        .route(api::INVOICE, post(handlers::lookup_invoice))
        .route(api::HOLD, post(handlers::create_hold))
        .route(api::SETTLE, post(handlers::settle_held))
        .route(api::CANCEL, post(handlers::cancel_invoice))
        .route(api::SETTLEMENTS, post(handlers::settlements))
        .route(api::PAYMENTS, post(handlers::pay))
        .route(api::PAYMENT, post(handlers::resolve))
        .route(api::QUOTES, post(handlers::quote));
    #[cfg(feature = "faults")]
    let router = router.route(api::FAULTS, post(super::faults::command));
    router.layer(DefaultBodyLimit::max(api::MAX_REQUEST_BYTES)).with_state(net)
}

async fn node(State(net): State<Net>) -> Json<api::Node> {
    let fee = net.parts().fee;
    Json(api::Node {
        node: net.node().to_string(),
        boot: net.boot().to_owned(),
        network: crate::Network::Regtest,
        fee_base: fee.base,
        fee_ppm: fee.ppm,
    })
}

/// An error as it goes over the wire.
#[derive(Debug)]
pub(super) struct Answer(Problem);

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<Gone> for Answer {
    fn from(Gone: Gone) -> Self {
        Self(Problem::new(Code::Stopping, "the server is stopping"))
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}
