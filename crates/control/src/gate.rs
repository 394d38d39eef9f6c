//! What every request passes before a handler sees it: rates, bounds, the scan for secrets, and who is calling.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::address::client_address;
use crate::app::Shared;
use crate::auth;
use crate::config::{BODY_TIMEOUT_MS, MAX_BODY, MAX_CREATE_BODY, REQUEST_TIMEOUT_MS};
use crate::idempotency;
use crate::metrics::RequestLabels;
use crate::problem::{Code, Problem};
use crate::rate::bucket_of;

/// A query string as a `T`; a field that is not known is refused.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let read = Query::<T>::try_from_uri(&parts.uri);
        read.map(|Query(value)| Self(value))
            .map_err(|_| Problem::with(Code::BadRequest, "a query parameter is unknown or of another type: see /docs"))
    }
}

/// The address a request came from.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub IpAddr);

/// The body's raw bytes, already scanned for secrets.
#[derive(Debug, Clone)]
pub struct Raw(pub Bytes);

impl Raw {
    /// Reads the body as JSON. An empty body reads as `{}`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let bytes: &[u8] = if self.0.is_empty() { b"{}" } else { &self.0 };
        serde_json::from_slice(bytes).map_err(|error| Problem::with(Code::InvalidJson, safe_detail(&error)))
    }
}

/// What serde says, without the values it would quote.
fn safe_detail(error: &serde_json::Error) -> String {
    let said = error.to_string();
    if said.starts_with("missing field") || said.starts_with("unknown field") {
        return said.chars().take(300).collect();
    }
    format!("line {}, column {} is not what this call takes", error.line(), error.column())
}

macro_rules! from_extension {
    ($($type:ty),*) => { $(
        impl<S: Sync> FromRequestParts<S> for $type {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
                parts.extensions.get::<Self>().cloned().ok_or_else(|| Problem::new(Code::Unauthorized))
            }
        }
    )* };
}
from_extension!(PeerAddress, Raw, auth::Caller, auth::AgentProof);

/// Outermost: the rate of the address, the bound on an answer's time, and the figures.
pub async fn observe(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let started = app.clock.mono();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let address = address_of(&app, &request);
    request.extensions_mut().insert(PeerAddress(address));
    let answered = match app.by_address.take(bucket_of(address), started) {
        Err(wait) => Problem::new(Code::RateLimited).retry_after_secs(wait).into_response(),
        Ok(()) => tokio::time::timeout(Duration::from_millis(REQUEST_TIMEOUT_MS), next.run(request))
            .await
            .unwrap_or_else(|_| Problem::with(Code::Unavailable, "this took too long").into_response()),
    };
    let took_ms = app.clock.mono().since(started);
    record(&app, &method, route, took_ms, &answered);
    answered
}

fn address_of(app: &Shared, request: &Request) -> IpAddr {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip());
    client_address(peer, request.headers(), &app.config.trusted_proxies)
}

fn record(app: &Shared, method: &Method, route: String, took_ms: u64, response: &Response) {
    let status = response.status().as_u16();
    if let Some(code) = response.extensions().get::<Code>() {
        app.metrics.refuse(code.as_str());
    }
    tracing::debug!(%method, route, status, took_ms, "request");
    let labels = RequestLabels { method: method_label(method), route, status };
    app.metrics.requests.get_or_create(&labels).inc();
    #[expect(clippy::cast_precision_loss, reason = "a request's milliseconds are far below 2^52")]
    app.metrics.request_seconds.observe(took_ms as f64 / 1_000.0);
}

/// Callers may invent methods; a label may not grow with them.
fn method_label(method: &Method) -> String {
    let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
    if known.contains(method) { method.to_string() } else { "OTHER".to_owned() }
}

/// What every answer carries, errors and fallbacks too.
pub async fn common_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// In front of every call that needs an account. Refuses whoever it can't name; handlers see a [`auth::Caller`].
pub async fn authenticated(State(app): State<Shared>, request: Request, next: Next) -> Response {
    match admit(&app, request).await {
        Ok(admitted) => idempotency::run(&app, admitted, next).await,
        Err(problem) => problem.into_response(),
    }
}

/// A request that may proceed.
pub struct Admitted {
    pub parts: Parts,
    pub body: Bytes,
    pub caller: auth::Caller,
}

impl Admitted {
    pub fn into_request(self) -> Request {
        let Self { mut parts, body, caller } = self;
        parts.extensions.insert(Raw(body.clone()));
        parts.extensions.insert(caller);
        Request::from_parts(parts, Body::from(body))
    }
}

async fn admit(app: &Shared, request: Request) -> Result<Admitted, Problem> {
    let (mut parts, body) = request.into_parts();
    let limit = body_limit(&parts);
    let body = read_body(&parts.headers, body, limit).await?;
    refuse_secrets(&body)?;
    let caller = auth::authenticate(app, &mut parts, &body).await?;
    if let Err(wait) = app.by_key.take(caller.pubkey, app.clock.mono()) {
        return Err(Problem::new(Code::RateLimited).retry_after_secs(wait));
    }
    Ok(Admitted { parts, body, caller })
}

fn body_limit(parts: &Parts) -> usize {
    let creates = parts.method == Method::POST && ["/v1/agents", "/v1/agents/import"].contains(&parts.uri.path());
    if creates { MAX_CREATE_BODY } else { MAX_BODY }
}

async fn read_body(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || Problem::with(Code::BodyTooLarge, format!("at most {limit} bytes"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    match tokio::time::timeout(Duration::from_millis(BODY_TIMEOUT_MS), to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(Problem::new(Code::BodyTimeout)),
    }
}

/// Says that there is a secret, not which, and keeps nothing of the body.
fn refuse_secrets(body: &Bytes) -> Result<(), Problem> {
    if body.is_empty() {
        return Ok(());
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        Problem::with(Code::InvalidJson, format!("line {}, column {}", error.line(), error.column()))
    })?;
    match nexus_seal::looks_like_secret(&value) {
        None => Ok(()),
        Some(found) => {
            let advice = "It was not stored or logged, but it has travelled: treat it as exposed";
            Err(Problem::with(Code::SecretInBody, format!("{found}. {advice}")))
        }
    }
}
