//! Incoming webhooks, as <https://www.standardwebhooks.com> has them. What comes is closed to the agent on arrival.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use nexus_core::UnixMs;
use nexus_core::status::Scope;
use nexus_core::trigger::Trigger;
use nexus_seal::webhook::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, WebhookHeaders, WebhookKey, verify_webhook};
use nexus_seal::{Recipient, seal_to_recipient_armored};
use nexus_store::hook::{self, Hook};
use nexus_store::inbox::{self, NewItem, Put};
use nexus_store::{Batch, Conflict, agent};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{Answer, created};
use crate::app::Shared;
use crate::auth::{Caller, parse_npub};
use crate::gate::Raw;
use crate::idempotency::Secret;
use crate::problem::{Code, Problem, ProblemBody};

const MAX_NAME: usize = 64;
/// Largest body of a webhook, in bytes.
pub const MAX_WEBHOOK: usize = 32 * 1024;

/// A hook to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewHook {
    /// What the agent is told that it comes from; 1 to 64 characters of a line.
    name: String,
}

/// A hook as lists show it.
#[derive(Debug, Serialize, ToSchema)]
pub struct HookView {
    id: String,
    name: String,
    /// Where senders post to.
    url: String,
    #[schema(value_type = i64)]
    created_at_ms: UnixMs,
    #[schema(value_type = Option<i64>)]
    last_used_at_ms: Option<UnixMs>,
}

impl HookView {
    fn new(app: &Shared, hook: Hook) -> Self {
        let url = format!("{}/v1/agents/{}/hooks/{}", app.config.origin(), hook.npub, hook.id);
        Self { id: hook.id, name: hook.name, url, created_at_ms: hook.created_at, last_used_at_ms: hook.last_used_at }
    }
}

/// A new hook, with its secret, shown once.
#[derive(Serialize, ToSchema)]
pub struct MadeHook {
    /// `whsec_…`, for the sender's settings. It is stored closed and can't be shown again.
    secret: String,
    #[serde(flatten)]
    view: HookView,
}

/// Makes a hook: an address that wakes the agent with what is posted there, signed with the hook's secret.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/hooks", tag = "hooks", request_body = NewHook,
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 201, description = "The hook", body = MadeHook),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn create(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>, raw: Raw) -> Answer<Response> {
    caller.require(Scope::Configure)?;
    let agent = caller.agent(&app, &npub).await?;
    let NewHook { name } = raw.json()?;
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Problem::invalid("name", format!("1 to {MAX_NAME} characters of a line")));
    }
    if !agent.config.triggers.contains(&Trigger::Webhook) {
        return Err(Problem::invalid("triggers", "add `webhook` to the agent's triggers first: it would not be woken"));
    }
    let (now, id) = (app.now(), hex::encode(app.random::<16>()));
    let key = WebhookKey::generate(&*app.entropy);
    let text = key.expose_text();
    let sealed = operator_key(&app)?.seal(&purpose(&id), text.expose().as_bytes(), &*app.entropy);
    let sealed_key = sealed.map_err(|error| Problem::internal("hook", &error))?;
    let hook = Hook { id, npub: agent.npub, name, sealed_key, created_at: now, last_used_at: None };
    let audit = caller.audit(now, "hook.create", agent.npub, json!({ "hook": hook.id, "name": hook.name }));
    hook::create(&app.store, hook.clone(), audit).await.map_err(|error| match error.conflict() {
        Some(Conflict::TooMany) => Problem::with(Code::QuotaExceeded, "the agent has as many hooks as it may"),
        Some(Conflict::NoAgent) => Problem::not_found(),
        _ => error.into(),
    })?;
    let location = format!("/v1/agents/{npub}/hooks/{}", hook.id);
    let made = MadeHook { secret: text.expose().to_owned(), view: HookView::new(&app, hook) };
    let mut response = created(location, made);
    response.extensions_mut().insert(Secret);
    Ok(response)
}

/// An agent's hooks.
#[derive(Debug, Serialize, ToSchema)]
pub struct HookList {
    hooks: Vec<HookView>,
}

/// Lists an agent's hooks, without their secrets.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/hooks", tag = "hooks",
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "The hooks", body = HookList),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>) -> Answer<Json<HookList>> {
    caller.require(Scope::Read)?;
    let agent = caller.agent(&app, &npub).await?;
    let hooks = hook::list(&app.store, agent.npub).await?;
    Ok(Json(HookList { hooks: hooks.into_iter().map(|hook| HookView::new(&app, hook)).collect() }))
}

/// Removes a hook: nothing that is posted there is believed any more.
#[utoipa::path(
    delete, path = "/v1/agents/{npub}/hooks/{id}", tag = "hooks",
    params(("npub" = String, Path, description = "The agent"), ("id" = String, Path, description = "The hook")),
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 204, description = "Removed"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn remove(
    State(app): State<Shared>,
    caller: Caller,
    Path((npub, id)): Path<(String, String)>,
) -> Answer<StatusCode> {
    caller.require(Scope::Configure)?;
    let agent = caller.agent(&app, &npub).await?;
    let audit = caller.audit(app.now(), "hook.remove", agent.npub, json!({ "hook": id }));
    hook::remove(&app.store, agent.npub, &id, audit).await.map_err(|error| match error.conflict() {
        Some(Conflict::NotFound) => Problem::not_found(),
        _ => error.into(),
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// A webhook that is in the inbox.
#[derive(Debug, Serialize, ToSchema)]
pub struct HookTaken {
    /// False when this `webhook-id` was taken before: it wakes the agent once.
    new: bool,
}

/// Takes a webhook: a UTF-8 text of at most 32 KiB, signed as Standard Webhooks says, with the hook's secret. 202 means that
/// it is in the agent's inbox, once however often the same `webhook-id` comes.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/hooks/{id}", tag = "hooks",
    request_body(content = String, description = "Any text, JSON most often", content_type = "application/json"),
    params(
        ("npub" = String, Path, description = "The agent"), ("id" = String, Path, description = "The hook"),
        ("webhook-id" = String, Header, description = "Of this event, the same when it is sent again"),
        ("webhook-timestamp" = String, Header, description = "Seconds since 1970, within five minutes"),
        ("webhook-signature" = String, Header, description = "`v1,` and base64; several with a space between them"),
    ),
    responses(
        (status = 202, description = "In the inbox", body = HookTaken),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn receive(
    State(app): State<Shared>,
    Path((npub, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<Response> {
    let npub = parse_npub(&npub)?;
    if body.len() > MAX_WEBHOOK {
        return Err(Problem::with(Code::BodyTooLarge, format!("at most {MAX_WEBHOOK} bytes")));
    }
    let found = hook::find(&app.store, npub, &id).await?.ok_or_else(Problem::not_found)?;
    let webhook_id = verified(&app, &found, &headers, &body)?;
    // From here on it is the owner's sender who asks.
    let agent = agent::get(&app.store, npub).await?.ok_or_else(Problem::not_found)?;
    if let Some(url) = &agent.moved_to {
        return Err(Problem::with(Code::Moved, format!("it lives at {url}")).extra("url", url.clone()));
    }
    if !agent.config.triggers.contains(&Trigger::Webhook) {
        return Err(Problem::with(Code::NotFound, "this agent takes no webhooks any more"));
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let payload = closed(&app, npub, &told(&found.name, content_type, &body)?).await?;
    let now = app.now();
    let item = NewItem {
        npub,
        external_id: format!("{}:{webhook_id}", found.id),
        trigger: Trigger::Webhook,
        sender: None,
        received_at: now,
        payload,
    };
    let mut batch = Batch::new("take a webhook");
    batch.extend(inbox::put_statements(&item)).push(hook::touch_statement(&found.id, now));
    let outputs = app.store.write(batch).await.map_err(|error| match error.conflict() {
        Some(Conflict::InboxFull) => Problem::new(Code::InboxFull).retry_after_secs(60),
        Some(Conflict::NoAgent) => Problem::not_found(),
        _ => error.into(),
    })?;
    let new = inbox::put_outcome(&outputs) == Put::Stored;
    if new {
        app.wake_agent(npub);
    }
    Ok((StatusCode::ACCEPTED, Json(HookTaken { new })).into_response())
}

/// Its id, if the hook's key signed it lately.
fn verified(app: &Shared, hook: &Hook, headers: &HeaderMap, body: &[u8]) -> Answer<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let signed =
        WebhookHeaders { id: text(ID_HEADER), timestamp: text(TIMESTAMP_HEADER), signature: text(SIGNATURE_HEADER) };
    let opened = operator_key(app)?.open(&purpose(&hook.id), &hook.sealed_key);
    let opened = opened.map_err(|error| Problem::internal("hook", &error))?;
    let key = std::str::from_utf8(opened.expose()).ok().and_then(|text| WebhookKey::parse(text).ok());
    let key = key.ok_or_else(|| Problem::internal("hook", &"its key can't be read"))?;
    let verified = verify_webhook(&signed, body, &[key], app.now());
    Ok(verified.map_err(|error| Problem::with(Code::WebhookRefused, error.to_string()))?.id)
}

/// What the agent reads.
fn told(name: &str, content_type: Option<&str>, body: &[u8]) -> Answer<String> {
    let text = std::str::from_utf8(body).map_err(|_| Problem::invalid("body", "it must be a text in UTF-8"))?;
    let kind =
        content_type.map_or_else(String::new, |kind| format!(" ({})", kind.chars().take(64).collect::<String>()));
    Ok(format!("webhook \"{name}\"{kind}:\n{text}"))
}

async fn closed(app: &Shared, npub: nexus_core::Npub, text: &str) -> Answer<Vec<u8>> {
    let sealed = agent::sealed(&app.store, npub).await?.ok_or_else(Problem::not_found)?;
    let not_there =
        || Problem::with(Code::Unavailable, "the agent has not run yet: start it once").retry_after_secs(60);
    let recipient: Recipient = sealed.inbox_recipient.and_then(|text| text.parse().ok()).ok_or_else(not_there)?;
    let armored = seal_to_recipient_armored(&recipient, text.as_bytes());
    Ok(armored.map_err(|error| Problem::internal("webhook", &error))?.into_bytes())
}

fn purpose(id: &str) -> String {
    format!("webhook:{id}")
}

fn operator_key(app: &Shared) -> Answer<&nexus_seal::operator::OperatorKey> {
    app.config
        .operator_key
        .as_deref()
        .ok_or_else(|| Problem::with(Code::Unavailable, "this host has no operator's key"))
}
