//! A stored state that looks older than what the agent published: shown, and accepted by the owner's command alone.

use axum::Json;
use axum::extract::{Path, State};
use nexus_seal::OwnerCommand;
use nexus_seal::rollback::{ASK_ACCEPT, ASK_ROLLBACK, Offered};
use nexus_store::Audit;
use nexus_store::wallet_request::Answer as Said;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Answer;
use super::ask::{ask, unanswered};
use crate::app::Shared;
use crate::auth::{Caller, SignedRequest};
use crate::gate::Raw;
use crate::problem::{Code, Problem, ProblemBody};

/// What stands against the stored state.
#[derive(Debug, Serialize, ToSchema)]
pub struct RollbackView {
    /// In words; none when the state is in order.
    text: Option<String>,
    /// The body of the acceptance: `state` and `in_spite_of`, each a version and a digest. None when there is nothing
    /// to accept.
    #[schema(value_type = Option<Object>)]
    accept: Option<Value>,
}

/// Asks the agent's worker what stands against the stored state. Waits up to 10 s for it. No token may do this.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/rollback", tag = "agents", params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = [])),
    responses(
        (status = 200, description = "What stands against it", body = RollbackView),
        (status = 503, description = "No worker answers now", body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn read(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>) -> Answer<Json<RollbackView>> {
    caller.require_key()?;
    let agent = caller.agent(&app, &npub).await?;
    put(&app, &caller, agent.npub, ASK_ROLLBACK, "{}".to_owned(), None).await
}

/// Accepts the stored state in spite of a later anchor.
///
/// The body is `accept` of the call that reads it. The request's own NIP-98 event needs `p` = the agent as well: it goes
/// to the worker with the raw body, and the worker checks both. No token may do this.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/rollback", tag = "agents", request_body = Object,
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = [])),
    responses(
        (status = 200, description = "The state is obeyed", body = RollbackView),
        (status = 503, description = "No worker answers now", body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn accept(
    State(app): State<Shared>,
    caller: Caller,
    signed: Option<axum::Extension<SignedRequest>>,
    Path(npub): Path<String>,
    raw: Raw,
) -> Answer<Json<RollbackView>> {
    caller.require_key()?;
    let agent = caller.agent(&app, &npub).await?;
    let axum::Extension(SignedRequest(event)) = signed.ok_or_else(|| Problem::new(Code::OwnerKeyRequired))?;
    let body = String::from_utf8(raw.0.to_vec()).map_err(|error| Problem::internal("rollback", &error))?;
    let command = serde_json::to_string(&OwnerCommand { event, body });
    let command = command.map_err(|error| Problem::internal("rollback", &error))?;
    let audit = caller.audit(app.now(), "agent.accept_rollback", agent.npub, json!({}));
    put(&app, &caller, agent.npub, ASK_ACCEPT, command, Some(audit)).await
}

async fn put(
    app: &Shared,
    caller: &Caller,
    npub: nexus_core::Npub,
    kind: &str,
    body: String,
    audit: Option<Audit>,
) -> Answer<Json<RollbackView>> {
    match ask(app, npub, kind, body, audit).await? {
        Some(Said::Done(text)) => {
            let said: Offered = serde_json::from_str(&text).map_err(|error| Problem::internal("rollback", &error))?;
            Ok(Json(RollbackView { text: said.text, accept: said.accept.map(|accept| json!(accept)) }))
        }
        Some(Said::Failed(why)) => Err(Problem::with(Code::CommandRefused, why)),
        None => Err(unanswered(app, caller, npub, Code::Unavailable).await),
    }
}
