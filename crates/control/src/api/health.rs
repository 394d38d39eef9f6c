//! For load balancers and Prometheus.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Answer;
use crate::app::Shared;
use crate::gate::PeerAddress;
use crate::problem::Problem;

/// Whether one part is ready.
#[derive(Debug, Serialize, ToSchema)]
pub struct Check {
    name: &'static str,
    ready: bool,
    /// Why not, and what follows from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// Whether this process can serve.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    ready: bool,
    checks: Vec<Check>,
}

/// Whether the process lives. It looks at nothing else.
#[utoipa::path(get, path = "/healthz", tag = "about", responses((status = 200, description = "It lives")))]
pub async fn alive() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "alive": true }))
}

/// Whether it can serve, with reasons.
#[utoipa::path(
    get, path = "/readyz", tag = "about",
    responses(
        (status = 200, description = "Ready", body = Readiness),
        (status = 503, description = "Not ready", body = Readiness),
    )
)]
pub async fn ready(State(app): State<Shared>) -> Response {
    let store = app.metrics.links.store_answers(&app.store, &*app.clock).await;
    let stopping = app.stop.is_cancelled();
    let checks = vec![
        check("store", store, "the database does not answer"),
        check("running", !stopping, "this process is stopping"),
    ];
    let ready = checks.iter().all(|check| check.ready);
    let mut all = checks;
    // These say that agents wait, not that the API can't serve.
    let workers = app.reconciler.live_workers();
    all.push(check("reconciler", app.reconciler.is_fresh(app.clock.mono()), "placement was not looked at lately"));
    all.push(check("bus", app.bus.health().connected, "no bus: everything goes on, on timers"));
    all.push(check("workers", workers > 0, "no live worker: agents wait"));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, checks: all })).into_response()
}

fn check(name: &'static str, ready: bool, reason: &'static str) -> Check {
    Check { name, ready, reason: (!ready).then_some(reason) }
}

/// Figures for Prometheus: from loopback, or with the operator's metrics token.
#[utoipa::path(get, path = "/metrics", tag = "about", responses((status = 200, description = "OpenMetrics text")))]
pub async fn metrics(
    State(app): State<Shared>,
    PeerAddress(peer): PeerAddress,
    headers: HeaderMap,
) -> Answer<Response> {
    if !peer.is_loopback() && !has_metrics_token(&app, &headers) {
        return Err(Problem::not_found());
    }
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of uptime stay below 2^52")]
    app.metrics.uptime_seconds.set(app.clock.mono().since(app.started) as f64 / 1_000.0);
    app.metrics.links.bus(&app.bus.health());
    app.metrics.links.store_answers(&app.store, &*app.clock).await;
    let text = app.metrics.render().map_err(|error| Problem::internal("metrics", &error))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

fn has_metrics_token(app: &Shared, headers: &HeaderMap) -> bool {
    let Some(token) = &app.config.metrics_token else { return false };
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    // Hashes are compared, so that the time taken tells nothing of the token.
    let hash = |text: &str| nexus_core::Hash32::sha256(text.as_bytes());
    sent.is_some_and(|sent| hash(sent) == hash(token))
}
