//! `/healthz`, `/readyz` and `/metrics` of a role that has no API of its own.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use nexus_bus::SharedBus;
use nexus_core::Clock;
use nexus_store::{Store, fleet};
use nexus_worker::Vitals;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::base::Base;

/// A database that takes longer to answer is not there.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// What is looked at.
pub struct Health {
    store: Store,
    bus: SharedBus,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    /// Of the worker, where the role is one.
    vitals: Option<Arc<Vitals>>,
    registry: Mutex<Registry>,
    gauges: Gauges,
}

#[derive(Default)]
struct Gauges {
    store_up: Gauge,
    store_seconds: Gauge<f64, AtomicU64>,
    bus_connected: Gauge,
    bus_connects: Gauge,
    bus_published: Gauge,
    bus_dropped: Gauge,
    bus_received: Gauge,
    bus_ignored: Gauge,
}

impl Gauges {
    fn new(registry: &mut Registry) -> Self {
        let made = Self::default();
        registry.register("nexus_store_up", "1 while the database answers", made.store_up.clone());
        registry.register("nexus_store_seconds", "How long it took to answer", made.store_seconds.clone());
        registry.register("nexus_bus_connected", "1 while wakes go out and come in", made.bus_connected.clone());
        registry.register("nexus_bus_connects", "Connections made to the bus", made.bus_connects.clone());
        registry.register("nexus_bus_published", "Wakes sent", made.bus_published.clone());
        registry.register("nexus_bus_dropped", "Wakes given up before they left", made.bus_dropped.clone());
        registry.register("nexus_bus_received", "Wakes that came in", made.bus_received.clone());
        registry.register("nexus_bus_ignored", "Messages that were no wake of this version", made.bus_ignored.clone());
        made
    }
}

impl Health {
    /// Of this role; `registry` holds its own figures.
    pub fn new(base: &Base, mut registry: Registry, vitals: Option<Arc<Vitals>>) -> Arc<Self> {
        let gauges = Gauges::new(&mut registry);
        Arc::new(Self {
            store: base.store.clone(),
            bus: base.bus.clone(),
            clock: base.clock.clone(),
            stop: base.stop.clone(),
            vitals,
            registry: Mutex::new(registry),
            gauges,
        })
    }

    async fn store_answers(&self) -> bool {
        let asked = self.clock.mono();
        let answered = tokio::time::timeout(STORE_TIMEOUT, fleet::ping(&self.store)).await;
        #[expect(clippy::cast_precision_loss, reason = "at most the timeout")]
        self.gauges.store_seconds.set(self.clock.mono().since(asked) as f64 / 1_000.0);
        let up = matches!(answered, Ok(Ok(())));
        self.gauges.store_up.set(i64::from(up));
        up
    }

    fn measure_bus(&self) {
        let (health, gauges) = (self.bus.health(), &self.gauges);
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        gauges.bus_connected.set(i64::from(health.connected));
        gauges.bus_connects.set(count(health.connects));
        gauges.bus_published.set(count(health.published));
        gauges.bus_dropped.set(count(health.dropped));
        gauges.bus_received.set(count(health.received));
        gauges.bus_ignored.set(count(health.ignored));
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
    health.measure_bus();
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
