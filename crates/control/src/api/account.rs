//! The caller's own account.

use axum::Json;
use axum::extract::State;
use nexus_core::status::Scope;
use nexus_core::{Npub, UnixMs};
use nexus_store::{agent, audit as rows};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use crate::app::Shared;
use crate::auth::Caller;
use crate::config::{DEFAULT_PAGE, MAX_PAGE};
use crate::gate::Params;
use crate::problem::ProblemBody;

/// An account.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccountView {
    id: String,
    #[schema(value_type = String)]
    owner: Npub,
    name: String,
    plan: String,
    /// `trial`, `paid`, `grace` or `suspended`.
    hosting: &'static str,
    agents: u64,
    /// None for no bound.
    max_agents: Option<u32>,
    #[schema(value_type = i64)]
    created_at_ms: UnixMs,
}

/// Reads the account. The first signed request of a new key makes it, where registration is open.
#[utoipa::path(
    get, path = "/v1/account", tag = "account",
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "The account", body = AccountView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn read(State(app): State<Shared>, caller: Caller) -> Answer<Json<AccountView>> {
    caller.require(Scope::Read)?;
    let agents = agent::count(&app.store, caller.id()).await?;
    let account = &caller.account;
    Ok(Json(AccountView {
        id: account.id.to_string(),
        owner: account.owner,
        name: account.name.clone(),
        plan: account.plan.clone(),
        hosting: account.hosting.as_str(),
        agents,
        max_agents: crate::reconcile::hosting::most_agents(&app, account),
        created_at_ms: account.created_at,
    }))
}

/// Cursor of the audit.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// `next` of the page before.
    #[serde(default)]
    after: i64,
    /// 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// One thing that was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditView {
    id: i64,
    #[schema(value_type = i64)]
    at_ms: UnixMs,
    /// An npub, or `token:<id>`.
    actor: String,
    action: String,
    target: String,
    #[schema(value_type = Object)]
    detail: Value,
}

/// One page of the audit, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPage {
    rows: Vec<AuditView>,
    next: i64,
}

/// Lists what was done in the account's name, by whom and when.
#[utoipa::path(
    get, path = "/v1/account/audit", tag = "account", params(AuditQuery),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "One page", body = AuditPage),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn audit(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<AuditQuery>,
) -> Answer<Json<AuditPage>> {
    caller.require(Scope::Read)?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    let rows = rows::list(&app.store, caller.id(), query.after, limit).await?;
    let next = rows.last().map_or(query.after, |row| row.id);
    let rows = rows.into_iter().map(|row| AuditView {
        id: row.id,
        at_ms: row.audit.at,
        actor: row.audit.actor,
        action: row.audit.action,
        target: row.audit.target,
        detail: serde_json::from_str(&row.audit.detail).unwrap_or(Value::Null),
    });
    Ok(Json(AuditPage { rows: rows.collect(), next }))
}
