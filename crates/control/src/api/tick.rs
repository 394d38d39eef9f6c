//! Ticks: asking for one now, and the history with cause, cost and steps.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::status::Scope;
use nexus_core::trigger::Trigger;
use nexus_core::{TickId, UnixMs};
use nexus_store::inbox::{self, NewItem, Put};
use nexus_store::tick::{self, Tick, TickStatus};
use nexus_store::{Batch, Conflict};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use super::status::{self, ReasonView};
use crate::app::Shared;
use crate::auth::Caller;
use crate::config::{DEFAULT_PAGE, MAX_PAGE};
use crate::gate::{Params, Raw};
use crate::idempotency::Key;
use crate::problem::{Code, Problem, ProblemBody};

/// Largest text for a manual tick, sealed, in bytes.
const MAX_SEALED_TEXT: usize = 48 * 1024;

/// One tick of the history.
#[derive(Debug, Serialize, ToSchema)]
pub struct TickView {
    id: String,
    /// What woke it.
    trigger: String,
    /// `open`, `completed`, `failed` or `skipped`.
    status: &'static str,
    /// Why it failed or was skipped.
    reason: Option<String>,
    #[schema(value_type = i64)]
    started_at_ms: UnixMs,
    #[schema(value_type = Option<i64>)]
    ended_at_ms: Option<UnixMs>,
    /// Spent, fees included.
    cost_msat: u64,
    /// As in the event `tick_completed`.
    #[schema(value_type = Vec<Object>)]
    actions: Value,
    /// Names, times and outcomes of its steps.
    #[schema(value_type = Vec<Object>)]
    steps: Value,
    /// What people may read of it, under the view key; base64. In lists only when it is small.
    sealed: Option<String>,
    /// Its size in bytes; 0 when there is none.
    sealed_bytes: u64,
}

impl From<Tick> for TickView {
    fn from(tick: Tick) -> Self {
        let list = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!([]));
        Self {
            id: tick.id.to_string(),
            trigger: tick.trigger.to_string(),
            status: status_name(tick.status),
            reason: tick.reason,
            started_at_ms: tick.started_at,
            ended_at_ms: tick.ended_at,
            cost_msat: tick.cost.as_u64(),
            actions: list(&tick.actions),
            steps: list(&tick.steps),
            sealed_bytes: tick.sealed_size,
            sealed: tick.sealed.map(|bytes| STANDARD.encode(bytes)),
        }
    }
}

const fn status_name(status: TickStatus) -> &'static str {
    match status {
        TickStatus::Open => "open",
        TickStatus::Completed => "completed",
        TickStatus::Failed => "failed",
        TickStatus::Skipped => "skipped",
    }
}

/// What a manual tick is about.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TickRequest {
    /// A text for the agent: an armored age file to its `inbox_recipient`. Never clear text.
    sealed_text: Option<String>,
}

/// A wake-up that is in the inbox.
#[derive(Debug, Serialize, ToSchema)]
pub struct TickRequested {
    /// Asking again with the same `Idempotency-Key` is the same request.
    request_id: String,
    /// What stands in the way, or `running`.
    reason: ReasonView,
}

/// Asks for a tick now. 202 means that the wake-up is stored; `reason` says if something keeps it waiting.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/ticks", tag = "ticks", request_body(content = TickRequest, description = "Optional"),
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["operate"])),
    responses(
        (status = 202, description = "In the inbox", body = TickRequested),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn request(
    State(app): State<Shared>,
    caller: Caller,
    Path(npub): Path<String>,
    key: Option<axum::Extension<Key>>,
    raw: Raw,
) -> Answer<Response> {
    caller.require(Scope::Operate)?;
    let agent = caller.agent(&app, &npub).await?;
    let TickRequest { sealed_text } = raw.json()?;
    let payload = checked(sealed_text)?;
    let now = app.now();
    let request_id = match key {
        Some(axum::Extension(key)) => format!("key:{}", key.key),
        None => TickId::new(now, app.random()).to_string(),
    };
    let item = NewItem {
        npub: agent.npub,
        external_id: request_id.clone(),
        trigger: Trigger::Manual,
        sender: Some(caller.pubkey),
        received_at: now,
        payload,
    };
    let audit = caller.audit(now, "agent.tick", agent.npub, json!({ "request_id": request_id }));
    let mut batch = Batch::new("request a tick");
    batch.extend(inbox::put_statements(&item)).push(audit.statement());
    let outputs = app.store.write(batch).await.map_err(|error| match error.conflict() {
        Some(Conflict::InboxFull) => Problem::new(Code::InboxFull).retry_after_secs(60),
        _ => error.into(),
    })?;
    if inbox::put_outcome(&outputs) == Put::Stored {
        app.wake_agent(agent.npub);
    }
    let answer = TickRequested { request_id, reason: status::reason(&agent) };
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

fn checked(sealed_text: Option<String>) -> Answer<Vec<u8>> {
    let Some(text) = sealed_text else { return Ok(Vec::new()) };
    if text.len() > MAX_SEALED_TEXT {
        return Err(Problem::invalid("sealed_text", format!("at most {MAX_SEALED_TEXT} bytes")));
    }
    nexus_seal::check_recipient_envelope(&text)
        .map_err(|error| Problem::with(Code::EnvelopeInvalid, error.to_string()).extra("field", "sealed_text"))?;
    Ok(text.into_bytes())
}

/// Cursor of the history.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// `next` of the page before.
    before: Option<String>,
    /// 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// One page of the history, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct TickPage {
    ticks: Vec<TickView>,
    next: Option<String>,
}

/// Lists an agent's ticks, newest first.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/ticks", tag = "ticks",
    params(("npub" = String, Path, description = "The agent"), HistoryQuery),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "One page", body = TickPage),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Path(npub): Path<String>,
    Params(query): Params<HistoryQuery>,
) -> Answer<Json<TickPage>> {
    caller.require(Scope::Read)?;
    let agent = caller.readable(&app, &npub).await?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE.min(tick::MAX_PAGE));
    let before = match query.before.as_deref().map(str::parse) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(_)) => return Err(Problem::invalid("before", "use `next` of the page before")),
    };
    let ticks = tick::list(&app.store, agent.npub, before, limit).await?;
    let full = ticks.len() == limit as usize;
    let next = ticks.last().filter(|_| full).map(|tick| tick.id.to_string());
    Ok(Json(TickPage { ticks: ticks.into_iter().map(TickView::from).collect(), next }))
}

/// Reads one tick.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/ticks/{id}", tag = "ticks",
    params(("npub" = String, Path, description = "The agent"), ("id" = String, Path, description = "The tick")),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "The tick", body = TickView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn read(
    State(app): State<Shared>,
    caller: Caller,
    Path((npub, id)): Path<(String, String)>,
) -> Answer<Json<TickView>> {
    caller.require(Scope::Read)?;
    let agent = caller.readable(&app, &npub).await?;
    let id = id.parse().map_err(|_| Problem::not_found())?;
    let found = tick::get(&app.store, agent.npub, id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(found.into()))
}
