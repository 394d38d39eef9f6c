//! Outgoing webhooks: where an account wants to hear what happens to its agents.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use nexus_core::event::EventBody;
use nexus_core::status::Scope;
use nexus_core::{Npub, UnixMs};
use nexus_seal::webhook::WebhookKey;
use nexus_store::Conflict;
use nexus_store::webhook::{self, Delivery, Webhook};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::{Answer, created};
use crate::app::Shared;
use crate::auth::Caller;
use crate::config::{DEFAULT_PAGE, MAX_PAGE};
use crate::gate::{Params, Raw};
use crate::idempotency::Secret;
use crate::problem::{Code, Problem, ProblemBody};
use crate::reconcile::webhook::purpose;

/// A webhook to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// An https URL of at most 1,024 bytes, at a public address.
    url: String,
    /// Kinds of events, such as `tick_failed` or `hosting_ends`; all if none is named.
    #[serde(default)]
    events: Vec<String>,
}

/// A webhook as lists show it.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookView {
    id: String,
    url: String,
    /// None: all.
    events: Vec<String>,
    #[schema(value_type = i64)]
    created_at_ms: UnixMs,
    /// The receiver answered 410 then: nothing is sent until it is tried again.
    #[schema(value_type = Option<i64>)]
    gone_at_ms: Option<UnixMs>,
    /// Deliveries that wait.
    pending: i64,
    /// Deliveries that were given up.
    dead: i64,
}

/// A new webhook, with its secret, shown once.
#[derive(Serialize, ToSchema)]
pub struct MadeWebhook {
    /// `whsec_…`, for the receiver. It is stored closed and can't be shown again.
    secret: String,
    #[serde(flatten)]
    view: WebhookView,
}

/// The account's webhooks.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookList {
    webhooks: Vec<WebhookView>,
}

async fn view(app: &Shared, webhook: Webhook) -> Answer<WebhookView> {
    let level = webhook::level(&app.store, &webhook.id).await?;
    Ok(WebhookView {
        id: webhook.id,
        url: webhook.url,
        events: webhook.kinds,
        created_at_ms: webhook.created_at,
        gone_at_ms: webhook.gone_at,
        pending: level.pending,
        dead: level.dead,
    })
}

/// Makes a webhook: from now on, what happens to the account's agents is posted there as Standard Webhooks says, signed with the
/// secret, until it is answered with 2xx; nine times within three days.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks", request_body = NewWebhook,
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 201, description = "The webhook", body = MadeWebhook),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn create(State(app): State<Shared>, caller: Caller, raw: Raw) -> Answer<Response> {
    caller.require(Scope::Configure)?;
    let NewWebhook { url, events } = raw.json()?;
    app.egress.check(&url).map_err(|why| Problem::invalid("url", why))?;
    if let Some(unknown) = events.iter().find(|kind| !EventBody::KINDS.contains(&kind.as_str())) {
        let shown: String = unknown.chars().take(64).collect();
        return Err(Problem::invalid("events", format!("{shown:?} is none: use {}", EventBody::KINDS.join(", "))));
    }
    let (now, id) = (app.now(), hex::encode(app.random::<12>()));
    let key = WebhookKey::generate(&*app.entropy);
    let text = key.expose_text();
    let no_key = || Problem::with(Code::Unavailable, "this host has no operator's key");
    let operator = app.config.operator_key.as_deref().ok_or_else(no_key)?;
    let sealed_key = operator.seal(&purpose(&id), text.expose().as_bytes(), &*app.entropy);
    let new = Webhook {
        id: id.clone(),
        account: caller.id(),
        url,
        kinds: events,
        sealed_key: sealed_key.map_err(|error| Problem::internal("webhook", &error))?,
        created_at: now,
        gone_at: None,
    };
    let audit = caller.audit(now, "webhook.create", &id, json!({ "webhook": id }));
    webhook::create(&app.store, new.clone(), audit).await.map_err(|error| match error.conflict() {
        Some(Conflict::TooMany) => Problem::with(Code::QuotaExceeded, "the account has as many webhooks as it may"),
        _ => error.into(),
    })?;
    let made = MadeWebhook { secret: text.expose().to_owned(), view: view(&app, new).await? };
    let mut response = created(format!("/v1/webhooks/{id}"), made);
    response.extensions_mut().insert(Secret);
    Ok(response)
}

/// Lists the account's webhooks, without their secrets.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks",
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "The webhooks", body = WebhookList),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list(State(app): State<Shared>, caller: Caller) -> Answer<Json<WebhookList>> {
    caller.require(Scope::Read)?;
    let mut webhooks = Vec::new();
    for found in webhook::list(&app.store, caller.id()).await? {
        webhooks.push(view(&app, found).await?);
    }
    Ok(Json(WebhookList { webhooks }))
}

/// Removes a webhook, with what waits for it.
#[utoipa::path(
    delete, path = "/v1/webhooks/{id}", tag = "webhooks",
    params(("id" = String, Path, description = "The webhook")),
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 204, description = "Removed"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn remove(State(app): State<Shared>, caller: Caller, Path(id): Path<String>) -> Answer<StatusCode> {
    caller.require(Scope::Configure)?;
    let audit = caller.audit(app.now(), "webhook.remove", &id, json!({ "webhook": id }));
    webhook::remove(&app.store, caller.id(), &id, audit).await.map_err(|error| match error.conflict() {
        Some(Conflict::NotFound) => Problem::not_found(),
        _ => error.into(),
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which deliveries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    /// `pending`, `delivered` or `dead`; all if not given.
    state: Option<String>,
    /// 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// One delivery. Delivered and dead ones are kept as long as events are.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryView {
    #[schema(value_type = String)]
    npub: Npub,
    /// The event's number.
    seq: i64,
    kind: String,
    state: String,
    attempts: u32,
    #[schema(value_type = Option<i64>)]
    next_at_ms: Option<UnixMs>,
    /// What came of the last attempt.
    said: Option<String>,
    #[schema(value_type = i64)]
    at_ms: UnixMs,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            npub: delivery.npub,
            seq: delivery.seq,
            next_at_ms: (delivery.state == "pending").then_some(delivery.next_at),
            kind: delivery.kind,
            state: delivery.state,
            attempts: delivery.attempts,
            said: delivery.said,
            at_ms: delivery.at,
        }
    }
}

/// A webhook's deliveries, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryList {
    deliveries: Vec<DeliveryView>,
}

/// Lists what was, is or could not be delivered.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/deliveries", tag = "webhooks",
    params(("id" = String, Path, description = "The webhook"), DeliveryQuery),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "The deliveries", body = DeliveryList),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn deliveries(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    Params(query): Params<DeliveryQuery>,
) -> Answer<Json<DeliveryList>> {
    caller.require(Scope::Read)?;
    let found = webhook::find(&app.store, caller.id(), &id).await?.ok_or_else(Problem::not_found)?;
    if query.state.as_deref().is_some_and(|state| !["pending", "delivered", "dead"].contains(&state)) {
        return Err(Problem::invalid("state", "use pending, delivered or dead"));
    }
    let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    let listed = webhook::deliveries(&app.store, &found.id, query.state.as_deref(), limit).await?;
    Ok(Json(DeliveryList { deliveries: listed.into_iter().map(DeliveryView::from).collect() }))
}

/// What is tried again.
#[derive(Debug, Serialize, ToSchema)]
pub struct Retried {
    deliveries: u64,
}

/// Tries again what was given up, and a receiver that was gone.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/retry", tag = "webhooks",
    params(("id" = String, Path, description = "The webhook")),
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 200, description = "How many", body = Retried),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn retry(State(app): State<Shared>, caller: Caller, Path(id): Path<String>) -> Answer<Json<Retried>> {
    caller.require(Scope::Configure)?;
    let found = webhook::find(&app.store, caller.id(), &id).await?.ok_or_else(Problem::not_found)?;
    let (now, audit) = (app.now(), caller.audit(app.now(), "webhook.retry", &id, json!({ "webhook": id })));
    Ok(Json(Retried { deliveries: webhook::retry(&app.store, &found.id, now, audit).await? }))
}
