//! `/healthz`, `/readyz` and `/metrics` of a role that has no API of its own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use nexus_bus::SharedBus;
use nexus_control::Links;
use nexus_core::Clock;
use nexus_store::Store;
use nexus_worker::Vitals;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::base::Base;

/// What is looked at.
pub struct Health {
    store: Store,
    bus: SharedBus,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    /// Of the worker, where the role is one.
    vitals: Option<Arc<Vitals>>,
    registry: Mutex<Registry>,
    links: Links,
}

impl Health {
    /// Of this role; `registry` holds its own figures.
    pub fn new(base: &Base, mut registry: Registry, vitals: Option<Arc<Vitals>>) -> Arc<Self> {
        let links = Links::new(&mut registry);
        Arc::new(Self {
            store: base.store.clone(),
            bus: base.bus.clone(),
            clock: base.clock.clone(),
            stop: base.stop.clone(),
            vitals,
            registry: Mutex::new(registry),
            links,
        })
    }

    async fn store_answers(&self) -> bool {
        self.links.store_answers(&self.store, &*self.clock).await
    }
}

/// Answers until it is dropped, which is when the role has ended.
pub async fn serve(health: Arc<Health>, listener: TcpListener) {
    let router = Router::new()
        .route("/healthz", get(async || Json(json!({ "alive": true }))))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "serving health and metrics");
    }
}

/// The address as others read it.
pub fn url(at: SocketAddr) -> String {
    format!("http://{}", super::listen::reachable(at))
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    let mut checks = vec![check("store", (!health.store_answers().await).then_some("the database does not answer"))];
    checks.push(check("running", health.stop.is_cancelled().then_some("this process is stopping")));
    if let Some(vitals) = &health.vitals {
        checks.push(check("worker", vitals.problem(health.clock.mono())));
    }
    let ready = checks.iter().all(|check| check["ready"] == true);
    // Without a bus everything goes on, on timers.
    let bus = (!health.bus.health().connected).then_some("no bus: everything goes on, on timers");
    checks.push(check("bus", bus));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "checks": checks }))).into_response()
}

fn check(name: &str, problem: Option<&str>) -> Value {
    match problem {
        None => json!({ "name": name, "ready": true }),
        Some(reason) => json!({ "name": name, "ready": false, "reason": reason }),
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> Response {
    health.store_answers().await;
    health.links.bus(&health.bus.health());
    if let Some(vitals) = &health.vitals {
        vitals.refresh(health.clock.mono());
    }
    let mut text = String::new();
    let encoded = encode(&mut text, &health.registry.lock().unwrap_or_else(PoisonError::into_inner));
    match encoded {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
