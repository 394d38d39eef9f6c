//! Jobs that were paid and not served: shown to whoever may read. What proves them is opened with a reader's key.

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::dispute::DisputeState;
use nexus_core::event::EventBody;
use nexus_core::status::Scope;
use nexus_core::{Hash32, Npub, UnixMs};
use nexus_store::dispute::{self, Dispute};
use nexus_store::event::NewEvent;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use crate::app::Shared;
use crate::auth::Caller;
use crate::config::{DEFAULT_PAGE, MAX_PAGE};
use crate::gate::{Params, Raw};
use crate::problem::{Problem, ProblemBody};

/// A job that was paid and not served.
#[derive(Debug, Serialize, ToSchema)]
pub struct DisputeView {
    /// `<tick id>:<attempt>`.
    id: String,
    #[schema(value_type = String)]
    provider: Npub,
    /// The job request's event id (kind 5050).
    #[schema(value_type = String)]
    request: Hash32,
    #[schema(value_type = String)]
    payment_hash: Hash32,
    bolt11: String,
    amount_msat: u64,
    fee_msat: u64,
    /// None while it is not known whether the money arrived.
    #[schema(value_type = Option<i64>)]
    paid_at_ms: Option<UnixMs>,
    /// When waiting for a result ended.
    #[schema(value_type = i64)]
    silent_at_ms: UnixMs,
    /// `unsettled`, `open`, `answered` (too late for its tick), `settled_elsewhere` or `closed`.
    #[schema(value_type = String)]
    state: DisputeState,
    #[schema(value_type = i64)]
    changed_at_ms: UnixMs,
    /// When relays are asked for a late result again, with the next tick after it.
    #[schema(value_type = Option<i64>)]
    look_at_ms: Option<UnixMs>,
    /// The evidence (request, feedback, invoice, preimage, late result), under the view key; base64. Not in lists.
    sealed: Option<String>,
}

impl From<Dispute> for DisputeView {
    fn from(row: Dispute) -> Self {
        Self {
            id: row.id.to_string(),
            provider: row.provider,
            request: row.request,
            payment_hash: row.payment_hash,
            bolt11: row.bolt11,
            amount_msat: row.amount.as_u64(),
            fee_msat: row.fee.as_u64(),
            paid_at_ms: row.paid_at,
            silent_at_ms: row.silent_at,
            state: row.state,
            changed_at_ms: row.changed_at,
            look_at_ms: row.look_at,
            sealed: (!row.sealed.is_empty()).then(|| STANDARD.encode(row.sealed)),
        }
    }
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

/// Disputes of an agent, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct DisputePage {
    disputes: Vec<DisputeView>,
}

/// Lists what was paid and not served.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/disputes", tag = "disputes",
    params(("npub" = String, Path, description = "The agent"), ListQuery),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "What was paid and not served", body = DisputePage),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Path(npub): Path<String>,
    Params(query): Params<ListQuery>,
) -> Answer<Json<DisputePage>> {
    caller.require(Scope::Read)?;
    let agent = caller.readable(&app, &npub).await?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE.min(dispute::MAX_PAGE));
    let rows = dispute::list(&app.store, agent.npub, query.all, limit).await?;
    Ok(Json(DisputePage { disputes: rows.into_iter().map(DisputeView::from).collect() }))
}

/// Reads one.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/disputes/{id}", tag = "disputes",
    params(("npub" = String, Path, description = "The agent"), ("id" = String, Path, description = "The dispute")),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "The dispute", body = DisputeView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn read(
    State(app): State<Shared>,
    caller: Caller,
    Path((npub, id)): Path<(String, String)>,
) -> Answer<Json<DisputeView>> {
    caller.require(Scope::Read)?;
    let agent = caller.readable(&app, &npub).await?;
    let id = id.parse().map_err(|_| Problem::not_found())?;
    let row = dispute::get(&app.store, agent.npub, id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(row.into()))
}

/// How a dispute ended.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DisputeEnd {
    /// `settled_elsewhere` (made good in another way) or `closed`.
    #[schema(value_type = String)]
    state: DisputeState,
}

/// Ends a dispute. It changes what is shown: no money moves, and nothing is taken back from what is known of the provider.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/disputes/{id}", tag = "disputes", request_body = DisputeEnd,
    params(("npub" = String, Path, description = "The agent"), ("id" = String, Path, description = "The dispute")),
    security(("nip98" = []), ("token" = ["operate"])),
    responses(
        (status = 200, description = "The dispute as it is now", body = DisputeView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn end(
    State(app): State<Shared>,
    caller: Caller,
    Path((npub, id)): Path<(String, String)>,
    raw: Raw,
) -> Answer<Json<DisputeView>> {
    caller.require(Scope::Operate)?;
    let agent = caller.agent(&app, &npub).await?;
    let id = id.parse().map_err(|_| Problem::not_found())?;
    let row = dispute::get(&app.store, agent.npub, id).await?.ok_or_else(Problem::not_found)?;
    let DisputeEnd { state: to } = raw.json()?;
    if !matches!(to, DisputeState::SettledElsewhere | DisputeState::Closed) {
        return Err(Problem::invalid("state", "use settled_elsewhere or closed"));
    }
    if row.state == DisputeState::Unsettled {
        return Err(Problem::invalid("state", "its payment is not concluded yet: end it when it is"));
    }
    if row.state.may_become(to) {
        let now = app.now();
        let audit = caller.audit(now, "agent.dispute", agent.npub, json!({ "dispute_id": id, "state": to.as_str() }));
        let body = EventBody::Dispute {
            dispute_id: id,
            provider: row.provider,
            amount_sats: row.amount.sats_ceil(),
            state: to.as_str().to_owned(),
        };
        dispute::conclude(&app.store, agent.npub, id, (row.state, to), &NewEvent::new(now, body), &audit).await?;
    }
    // As it stands now, whoever changed it.
    let row = dispute::get(&app.store, agent.npub, id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(row.into()))
}
