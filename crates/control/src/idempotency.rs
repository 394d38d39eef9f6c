//! `Idempotency-Key`: a retry is answered with the first answer, for 24 hours, within an account and a route.
//!
//! Creating an agent stores its answer in the batch that creates it. The other calls may safely happen twice; their
//! answer is stored after them.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use axum::body::{Body, to_bytes};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use nexus_core::{AccountId, Hash32};
use nexus_store::idempotency::{self, Idempotency};
use nexus_store::{Batch, StoreError};

use crate::app::Shared;
use crate::config::{IDEMPOTENCY_MS, MAX_BODY};
use crate::gate::Admitted;
use crate::problem::{Code, Problem};

/// Name of the request header.
pub const HEADER: &str = "Idempotency-Key";
const MAX_KEY: usize = 255;
/// Says that an answer is an earlier one.
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The key of a request that came with one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub account: AccountId,
    /// Method and path.
    pub route: String,
    pub key: String,
    /// SHA-256 of the body.
    pub request: Hash32,
}

impl Key {
    /// The row that remembers this answer.
    pub fn answered(&self, app: &Shared, status: StatusCode, body: String) -> Idempotency {
        Idempotency {
            account: self.account,
            route: self.route.clone(),
            key: self.key.clone(),
            request: self.request,
            status: status.as_u16(),
            body,
            expires_at: app.now().plus_ms(IDEMPOTENCY_MS),
        }
    }
}

/// Marks an answer that its handler has stored already.
#[derive(Debug, Clone, Copy)]
pub struct Stored;

/// Marks an answer that holds a secret: that it happened is remembered, the answer is not.
#[derive(Debug, Clone, Copy)]
pub struct Secret;

/// Requests with a key that are under way in this process.
#[derive(Debug, Default)]
pub struct UnderWay(Mutex<HashSet<Key>>);

/// Runs a request, or answers it from memory.
pub async fn run(app: &Shared, mut admitted: Admitted, next: Next) -> Response {
    let key = match key_of(&admitted) {
        Ok(Some(key)) => key,
        Ok(None) => return next.run(admitted.into_request()).await,
        Err(problem) => return problem.into_response(),
    };
    let Some(_guard) = app.under_way.enter(&key) else {
        return Problem::new(Code::IdempotencyInProgress).retry_after_secs(1).into_response();
    };
    match earlier(app, &key).await {
        Ok(None) => {}
        Ok(Some(answer)) => return answer,
        Err(problem) => return problem.into_response(),
    }
    admitted.parts.extensions.insert(key.clone());
    let answer = next.run(admitted.into_request()).await;
    remember(app, key, answer).await.unwrap_or_else(IntoResponse::into_response)
}

fn key_of(admitted: &Admitted) -> Result<Option<Key>, Problem> {
    let Parts { method, uri, headers, .. } = &admitted.parts;
    let Some(value) = headers.get(HEADER).filter(|_| *method != Method::GET) else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len()));
    let key =
        key.ok_or_else(|| Problem::with(Code::BadRequest, format!("{HEADER}: 1 to {MAX_KEY} visible characters")))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(Some(Key {
        account: admitted.caller.id(),
        route: format!("{method} {path}"),
        key: key.to_owned(),
        request: Hash32::sha256(&admitted.body),
    }))
}

/// What an earlier request under this key was told.
pub async fn earlier(app: &Shared, key: &Key) -> Result<Option<Response>, Problem> {
    let found = idempotency::find(&app.store, key.account, &key.route, &key.key, app.now()).await?;
    let Some(found) = found else { return Ok(None) };
    if found.request != key.request {
        return Err(Problem::new(Code::IdempotencyMismatch));
    }
    if found.body.is_empty() && found.status != StatusCode::NO_CONTENT.as_u16() {
        return Err(Problem::new(Code::SecretShownOnce));
    }
    let status = StatusCode::from_u16(found.status).unwrap_or(StatusCode::OK);
    let mut response = (status, Body::from(found.body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(&REPLAYED, HeaderValue::from_static("true"));
    Ok(Some(response))
}

/// Stores a successful answer. A failure is not remembered: the retry is a new try.
async fn remember(app: &Shared, key: Key, answer: Response) -> Result<Response, Problem> {
    let extensions = answer.extensions();
    if !answer.status().is_success() || extensions.get::<Stored>().is_some() {
        return Ok(answer);
    }
    let secret = extensions.get::<Secret>().is_some();
    let (parts, body) = answer.into_parts();
    let bytes = to_bytes(body, MAX_BODY).await.map_err(|error| Problem::internal("answer", &error))?;
    let text = if secret { String::new() } else { String::from_utf8_lossy(&bytes).into_owned() };
    let row = key.answered(app, parts.status, text);
    match app.store.write(Batch::new("remember an answer").with(row.statement())).await {
        // A twin on another replica was first: both did the same, and the first answer stands.
        Ok(_) | Err(StoreError::Duplicate { .. }) => Ok(Response::from_parts(parts, Body::from(bytes))),
        Err(error) => Err(error.into()),
    }
}

impl UnderWay {
    fn enter<'a>(&'a self, key: &Key) -> Option<Guard<'a>> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The body does not matter here: two bodies under one key wait for each other, too.
        let key = Key { request: Hash32::ZERO, ..key.clone() };
        keys.insert(key.clone()).then_some(Guard { all: self, key })
    }
}

struct Guard<'a> {
    all: &'a UnderWay,
    key: Key,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
