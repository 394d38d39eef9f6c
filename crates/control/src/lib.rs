//! The control plane: the API, who may call it, and the reconcilers that make what is wanted true.
//!
//! It knows accounts, agents and workers as rows. It cannot open anything of an agent: this crate does not link
//! `nexus-vault`. Whatever needs an agent's key is a row that a worker answers.
//!
//! A request passes [`gate`] (rates, bounds, scan for secrets, authentication, idempotency), then one handler of
//! [`api`], which reads and writes the store and wakes others through the bus. [`reconcile`] takes no orders: a wake
//! only makes it look sooner, and a timer covers lost wakes.

mod address;
pub mod api;
mod app;
pub mod auth;
pub mod config;
mod fleet;
pub mod gate;
mod idempotency;
mod metrics;
mod owner_wallet;
pub mod problem;
mod rate;
pub mod reconcile;
mod server;
mod stream;
#[cfg(test)]
mod testing;
mod web;

use std::sync::Arc;

use axum::Router;
use nexus_bus::Bus;
use nexus_core::{Clock, Entropy};
use nexus_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::{Accounts, Billing, ControlConfig, Operators, Rate, Registration, Retention, address_host};
pub use metrics::{Links, Metrics};
pub use owner_wallet::OwnerWallets;
pub use problem::{Code, Problem};

/// Name under which a worker stores the installation's runner key (hex or npub) with `store::installation::put_first`.
pub const RUNNER_PUBKEY: &str = "runner_pubkey";

/// What the control plane is made of.
#[derive(Clone)]
pub struct ControlParts {
    pub store: Store,
    pub bus: Arc<dyn Bus>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub config: ControlConfig,
    pub metrics: Arc<Metrics>,
    /// Ends listeners, streams and reconcilers.
    pub stop: CancellationToken,
}

/// The API as a router, without a listener and without reconcilers. Needs `ConnectInfo<SocketAddr>` from its server.
pub fn router(parts: ControlParts) -> Router {
    api::router(parts).0
}

/// Runs the reconcilers alone until `parts.stop` is cancelled: for simulation, and for a process without an API.
pub async fn reconcile_only(parts: ControlParts) {
    reconcile::run(Arc::new(app::App::new(parts, String::new(), String::new()))).await;
}

/// Why the control plane ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the configuration is not usable: {0}")]
    Config(String),
}

/// Serves the API on `listener` and runs the reconcilers until `parts.stop` is cancelled, then lets running requests
/// end (at most 5 s).
pub async fn serve(parts: ControlParts, listener: TcpListener) -> Result<(), ServeError> {
    parts.config.validate().map_err(ServeError::Config)?;
    let stop = parts.stop.clone();
    let (router, app) = api::router(parts);
    let reconcilers = tokio::spawn(reconcile::run(app));
    server::serve(router, listener, &stop).await;
    let _ = reconcilers.await;
    Ok(())
}
