//! What is sealed: a reader's wraps, and the key sealed to the worker pool.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use nexus_core::policy::Custody;
use nexus_core::status::Scope;
use nexus_seal::{Wrap, WrapRecipient};
use nexus_store::agent;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::Answer;
use super::agent::answer;
use super::create::WrapBody;
use super::status::AgentStatus;
use crate::app::Shared;
use crate::auth::Caller;
use crate::gate::Raw;
use crate::problem::{Code, Problem, ProblemBody};

/// A reader's wraps.
#[derive(Debug, Serialize, ToSchema)]
pub struct WrapList {
    #[schema(value_type = Vec<WrapBody>)]
    wraps: Vec<WrapView>,
}

#[derive(Debug, Serialize)]
struct WrapView {
    key: String,
    number: u32,
    recipient: String,
    ciphertext: String,
}

/// Reads the caller's own wraps of the view key: what opens the sealed parts of events and ticks.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/wraps", tag = "policy", params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "The wraps", body = WrapList),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn wraps(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>) -> Answer<Json<WrapList>> {
    caller.require(Scope::Read)?;
    let agent = caller.readable(&app, &npub).await?;
    let own = WrapRecipient::Reader(caller.pubkey).to_string();
    let stored = agent::wraps(&app.store, agent.npub).await?;
    let wraps = stored.into_iter().filter(|wrap| wrap.recipient == own && wrap.key == "view").map(|wrap| WrapView {
        key: wrap.key,
        number: wrap.number,
        recipient: wrap.recipient,
        ciphertext: wrap.ciphertext,
    });
    Ok(Json(WrapList { wraps: wraps.collect() }))
}

/// A key sealed anew.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedKeyBody {
    /// An armored age file to the worker pool (`GET /v1/pool`).
    sealed_key: String,
    /// The data key's wrap to the same pool.
    #[serde(default)]
    #[schema(value_type = Vec<WrapBody>)]
    wraps: Vec<Wrap>,
}

/// Seals the agent's key to the worker pool, for the first time or after the pool's recipients changed.
///
/// The worker refuses a key that is not this agent's or names another owner. No token may do this.
#[utoipa::path(
    put, path = "/v1/agents/{npub}/sealed-key", tag = "policy", request_body = SealedKeyBody,
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = [])),
    responses(
        (status = 200, description = "The agent", body = AgentStatus),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn replace_key(
    State(app): State<Shared>,
    caller: Caller,
    Path(npub): Path<String>,
    raw: Raw,
) -> Answer<Response> {
    caller.require_key()?;
    let agent = caller.agent(&app, &npub).await?;
    let body: SealedKeyBody = raw.json()?;
    let bad = |detail: String| Problem::with(Code::EnvelopeInvalid, detail);
    nexus_seal::check_recipient_envelope(&body.sealed_key).map_err(|error| bad(error.to_string()))?;
    nexus_seal::api::check_wraps(&body.wraps).map_err(bad)?;
    let stored = agent::sealed(&app.store, agent.npub).await?.and_then(|sealed| sealed.policy);
    if stored.and_then(|stored| super::policy::custody_of(&stored)) == Some(Custody::Attended) {
        return Err(Problem::invalid("sealed_key", "custody `attended` stores none: unlock the agent instead"));
    }
    let wraps = body.wraps.into_iter().map(super::create::wrap).collect();
    let audit = caller.audit(app.now(), "agent.seal", agent.npub, json!({}));
    let changed = agent::set_sealed_key(&app.store, agent.npub, body.sealed_key, wraps, audit).await?;
    app.wake_agent(agent.npub);
    answer(&app, &changed).await
}
