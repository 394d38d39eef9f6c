//! Actions that wait for the owner: shown to whoever may read, answered by the owner's signature alone.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::approval::{Ended, State as Waits};
use nexus_core::status::Scope;
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Msat, UnixMs};
use nexus_seal::decision::{Pending, verify_decision};
use nexus_store::approval::{self, Approval};
use nexus_store::inbox::{self, NewItem, Put};
use nexus_store::{Batch, Conflict};
use nostr::event::Event;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use crate::app::Shared;
use crate::auth::Caller;
use crate::config::{DEFAULT_PAGE, MAX_PAGE};
use crate::gate::{Params, Raw};
use crate::problem::{Code, Problem, ProblemBody};

/// An action that waits, or waited.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApprovalView {
    /// `<tick id>:<place>`.
    id: String,
    /// The action's type.
    action: String,
    amount_sats: Option<u64>,
    /// What the owner signs: SHA-256 over the whole action.
    #[schema(value_type = String)]
    digest: Hash32,
    /// The published request (NIP-SA kind 39212).
    #[schema(value_type = Option<String>)]
    request: Option<Hash32>,
    /// `requested`, `approved` (carried out next), `denied`, `expired` (no answer is a no) or `executed`.
    state: String,
    /// How its execution ended: `done`, `refused` or `failed`.
    #[schema(value_type = Option<String>)]
    ended: Option<Ended>,
    #[schema(value_type = i64)]
    requested_at_ms: UnixMs,
    /// Without an answer before this, the answer is no.
    #[schema(value_type = i64)]
    expires_at_ms: UnixMs,
    #[schema(value_type = i64)]
    changed_at_ms: UnixMs,
    /// What it is about, under the view key; base64.
    sealed: String,
}

impl ApprovalView {
    /// `now`: what nobody answered in time is over, whether or not a worker has looked at it since.
    fn new(row: Approval, now: UnixMs) -> Self {
        let over = is_open(&row) && now >= row.expires_at;
        Self {
            id: row.id.to_string(),
            action: row.kind,
            amount_sats: row.amount.map(Msat::sats_ceil),
            digest: row.digest,
            request: row.request,
            state: if over { Waits::Expired { at: now }.as_str().to_owned() } else { row.state },
            ended: row.ended,
            requested_at_ms: row.requested_at,
            expires_at_ms: row.expires_at,
            changed_at_ms: row.changed_at,
            sealed: STANDARD.encode(row.sealed),
        }
    }
}

fn is_open(row: &Approval) -> bool {
    row.state == Waits::Requested.as_str()
}

/// Which to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// `true` for those that are over as well.
    #[serde(default)]
    all: bool,
    /// 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// Actions that wait for the owner, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApprovalPage {
    approvals: Vec<ApprovalView>,
}

/// Lists what waits for the owner.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/approvals", tag = "approvals",
    params(("npub" = String, Path, description = "The agent"), ListQuery),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "What waits", body = ApprovalPage),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Path(npub): Path<String>,
    Params(query): Params<ListQuery>,
) -> Answer<Json<ApprovalPage>> {
    caller.require(Scope::Read)?;
    let agent = caller.readable(&app, &npub).await?;
    let (now, limit) = (app.now(), query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE.min(approval::MAX_PAGE)));
    let rows = approval::list(&app.store, agent.npub, query.all, now, limit).await?;
    Ok(Json(ApprovalPage { approvals: rows.into_iter().map(|row| ApprovalView::new(row, now)).collect() }))
}

/// Reads one.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/approvals/{id}", tag = "approvals",
    params(("npub" = String, Path, description = "The agent"), ("id" = String, Path, description = "The approval")),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "The approval", body = ApprovalView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn read(
    State(app): State<Shared>,
    caller: Caller,
    Path((npub, id)): Path<(String, String)>,
) -> Answer<Json<ApprovalView>> {
    caller.require(Scope::Read)?;
    let agent = caller.readable(&app, &npub).await?;
    let id = id.parse().map_err(|_| Problem::not_found())?;
    let row = approval::get(&app.store, agent.npub, id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(ApprovalView::new(row, app.now())))
}

/// Answers one: the body is the owner's signed decision (NIP-SA kind 39213) over its digest.
///
/// 202 means that the answer is stored; the agent's worker verifies it and acts on it. 200 means that it came too late or
/// was given before, and changes nothing. No token may do this.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/approvals/{id}", tag = "approvals", request_body = Object,
    params(("npub" = String, Path, description = "The agent"), ("id" = String, Path, description = "The approval")),
    security(("nip98" = [])),
    responses(
        (status = 200, description = "It was over: nothing changes", body = ApprovalView),
        (status = 202, description = "Stored", body = ApprovalView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn answer(
    State(app): State<Shared>,
    caller: Caller,
    Path((npub, id)): Path<(String, String)>,
    raw: Raw,
) -> Answer<Response> {
    caller.require_key()?;
    let agent = caller.agent(&app, &npub).await?;
    let id = id.parse().map_err(|_| Problem::not_found())?;
    let event: Event = raw.json()?;
    let row = approval::get(&app.store, agent.npub, id).await?.ok_or_else(Problem::not_found)?;
    let now = app.now();
    let pending = Pending { agent: agent.npub, id, digest: row.digest, request: row.request };
    let decision = verify_decision(&event, &caller.pubkey, &pending, now)
        .map_err(|error| Problem::with(Code::DecisionInvalid, error.to_string()))?;
    if !is_open(&row) || now >= row.expires_at {
        return Ok(Json(ApprovalView::new(row, now)).into_response());
    }
    let item = NewItem {
        npub: agent.npub,
        // The same on the relay: an answer that comes both ways is one.
        external_id: decision.event_id.to_string(),
        trigger: Trigger::Approval,
        sender: Some(caller.pubkey),
        received_at: now,
        payload: serde_json::to_vec(&event).map_err(|error| Problem::internal("approval", &error))?,
    };
    let detail = json!({ "approval_id": id, "answer": decision.answer.as_str() });
    let audit = caller.audit(now, "agent.approval", agent.npub, detail);
    let mut batch = Batch::new("store an owner's answer");
    batch.extend(inbox::put_statements(&item)).push(audit.statement());
    let outputs = app.store.write(batch).await.map_err(|error| match error.conflict() {
        Some(Conflict::InboxFull) => Problem::new(Code::InboxFull).retry_after_secs(60),
        _ => error.into(),
    })?;
    if inbox::put_outcome(&outputs) == Put::Stored {
        app.wake_agent(agent.npub);
    }
    Ok((StatusCode::ACCEPTED, Json(ApprovalView::new(row, now))).into_response())
}
