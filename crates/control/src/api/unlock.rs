//! Attended custody: what a worker offers, and what the owner delivers to it. Both pass through here closed.

use axum::Json;
use axum::extract::{Path, State};
use nexus_core::status::Desired;
use nexus_seal::OwnerCommand;
use nexus_seal::unlock::{ASK_OFFER, ASK_UNLOCK, Offered, Unlock};
use nexus_store::agent::Agent;
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

/// What the agent's worker offers.
#[derive(Debug, Serialize, ToSchema)]
pub struct OfferView {
    /// Nothing is to be done until the agent is placed anew.
    unlocked: bool,
    /// An event (kind 30078, `d` = `nexus-unlock:<npub>`) that the pool's signing key signed: check it along the pinned
    /// pool document, then seal the payload to its `recipient`. None when it is unlocked.
    #[schema(value_type = Option<Object>)]
    offer: Option<Value>,
}

/// The payload.
#[derive(ToSchema)]
#[schema(as = Unlock)]
#[expect(dead_code, reason = "describes nexus_seal::unlock::Unlock")]
pub struct UnlockBody {
    /// An armored age file to the offer's recipient.
    sealed: String,
}

/// Asks the agent's worker for a key to unlock to: an ephemeral one, good for 10 minutes and one payload.
///
/// Waits up to 10 s for the worker. Only a running agent has one. No token may do this.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/unlock", tag = "policy", params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = [])),
    responses(
        (status = 200, description = "The offer", body = OfferView),
        (status = 503, description = "No worker answers now", body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn offer(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>) -> Answer<Json<OfferView>> {
    caller.require_key()?;
    let agent = caller.agent(&app, &npub).await?;
    put(&app, &caller, &agent, ASK_OFFER, "{}".to_owned()).await
}

/// Delivers the payload to the agent's worker.
///
/// The request's own NIP-98 event needs `p` = the agent as well: it goes to the worker with the raw body, and the worker
/// checks both. No token may do this.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/unlock", tag = "policy", request_body = UnlockBody,
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = [])),
    responses(
        (status = 200, description = "It is unlocked", body = OfferView),
        (status = 503, description = "No worker answers now", body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn deliver(
    State(app): State<Shared>,
    caller: Caller,
    signed: Option<axum::Extension<SignedRequest>>,
    Path(npub): Path<String>,
    raw: Raw,
) -> Answer<Json<OfferView>> {
    caller.require_key()?;
    let agent = caller.agent(&app, &npub).await?;
    let axum::Extension(SignedRequest(event)) = signed.ok_or_else(|| Problem::new(Code::OwnerKeyRequired))?;
    let Unlock { sealed } = raw.json()?;
    nexus_seal::check_recipient_envelope(&sealed)
        .map_err(|error| Problem::with(Code::EnvelopeInvalid, error.to_string()))?;
    let body = String::from_utf8(raw.0.to_vec()).map_err(|error| Problem::internal("unlock", &error))?;
    let command = serde_json::to_string(&OwnerCommand { event, body });
    let command = command.map_err(|error| Problem::internal("unlock", &error))?;
    put(&app, &caller, &agent, ASK_UNLOCK, command).await
}

async fn put(app: &Shared, caller: &Caller, agent: &Agent, kind: &str, body: String) -> Answer<Json<OfferView>> {
    if agent.desired == Desired::Stopped {
        let detail = "it has no worker to unlock it on: start it, then unlock it";
        return Err(Problem::with(Code::NotRunning, detail));
    }
    if nexus_store::agent::sealed(&app.store, agent.npub).await?.is_some_and(|sealed| sealed.sealed_key.is_some()) {
        let detail = "its key is sealed to this host's workers: it needs no unlocking";
        return Err(Problem::with(Code::UnlockRefused, detail));
    }
    let delivers = kind == ASK_UNLOCK;
    let audit = delivers.then(|| caller.audit(app.now(), "agent.unlock", agent.npub, json!({})));
    match ask(app, agent.npub, kind, body, audit).await? {
        Some(Said::Done(text)) => {
            let said: Offered = serde_json::from_str(&text).map_err(|error| Problem::internal("unlock", &error))?;
            Ok(Json(OfferView { unlocked: said.unlocked, offer: said.offer.map(|event| json!(event)) }))
        }
        Some(Said::Failed(why)) => Err(Problem::with(Code::UnlockRefused, why)),
        None => Err(unanswered(app, caller, agent.npub, Code::Unavailable).await),
    }
}
