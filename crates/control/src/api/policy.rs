//! The owner-signed policy: shown as it was signed, replaced only by a newer one with the owner's signature.

use axum::Json;
use axum::extract::{Path, State};
use nexus_core::Npub;
use nexus_core::policy::{Custody, Policy};
use nexus_core::status::Scope;
use nexus_seal::verify_policy;
use nexus_store::Conflict;
use nexus_store::agent::{self, Agent, StoredPolicy};
use nostr::event::Event;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Answer;
use super::create::PolicyRow;
use crate::app::Shared;
use crate::auth::Caller;
use crate::gate::Raw;
use crate::problem::{Code, Problem, ProblemBody};

/// The policy as stored.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyView {
    version: i64,
    /// The event as the owner signed it: verify it, the document is its content.
    #[schema(value_type = Object)]
    event: Value,
}

/// Reads the signed policy.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/policy", tag = "policy", params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "The policy", body = PolicyView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn read(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>) -> Answer<Json<PolicyView>> {
    caller.require(Scope::Read)?;
    let agent = caller.agent(&app, &npub).await?;
    let stored = agent::sealed(&app.store, agent.npub).await?.and_then(|sealed| sealed.policy);
    let stored = stored.ok_or_else(|| Problem::new(Code::PolicyMissing))?;
    let event = serde_json::from_str(&stored.event).map_err(|error| Problem::internal("policy", &error))?;
    Ok(Json(PolicyView { version: stored.version, event }))
}

/// Replaces the policy by a newer one, signed by the owner (kind 30078, `d` = `nexus-policy:<npub>`).
///
/// The body is the event. Its version must be higher than the stored one. No token may do this.
#[utoipa::path(
    put, path = "/v1/agents/{npub}/policy", tag = "policy", request_body = Object,
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = [])),
    responses(
        (status = 200, description = "The stored policy", body = PolicyView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn replace(
    State(app): State<Shared>,
    caller: Caller,
    Path(npub): Path<String>,
    raw: Raw,
) -> Answer<Json<PolicyView>> {
    caller.require_key()?;
    let agent = caller.agent(&app, &npub).await?;
    let event: Event = raw.json()?;
    let stored = store(&app, &caller, &agent, &event).await?;
    Ok(Json(PolicyView { version: stored.policy_version.unwrap_or_default(), event: json!(event) }))
}

/// Checks and stores a newer policy, and wakes the agent.
pub async fn store(app: &Shared, caller: &Caller, agent: &Agent, event: &Event) -> Answer<Agent> {
    caller.require_key()?;
    let (row, policy) = row(event, &caller.pubkey, &agent.npub)?;
    supported(policy.custody)?;
    same_custody(app, agent, &policy).await?;
    wallet_supported(app, &policy)?;
    let audit = caller.audit(app.now(), "agent.policy", agent.npub, json!({ "version": row.version }));
    let stored = agent::set_policy(&app.store, agent.npub, row, audit).await;
    let stored = stored.map_err(|error| match error.conflict() {
        Some(Conflict::Version) => Problem::new(Code::PolicyTooOld).extra("stored_version", agent.policy_version),
        _ => error.into(),
    })?;
    if app.config.billing.is_some() {
        // It may pay its own rent by now.
        nexus_store::rent::look_now(&app.store, agent.npub).await?;
    }
    app.wake_agent(agent.npub);
    Ok(stored)
}

/// A policy says which custody the agent was made in; changing it takes more than a signature.
async fn same_custody(app: &Shared, agent: &Agent, policy: &Policy) -> Answer<()> {
    let stored = agent::sealed(&app.store, agent.npub).await?.and_then(|sealed| sealed.policy);
    let Some(before) = stored.and_then(|stored| custody_of(&stored)) else { return Ok(()) };
    if before == policy.custody {
        return Ok(());
    }
    let detail = format!("custody: the agent was made in {before:?}, and a policy cannot change that");
    Err(Problem::with(Code::PolicyInvalid, detail))
}

/// The custody that a stored policy names.
pub fn custody_of(stored: &StoredPolicy) -> Option<Custody> {
    let event: Event = serde_json::from_str(&stored.event).ok()?;
    Policy::parse(&event.content).ok().map(|policy| policy.custody)
}

/// The row of a policy whose signature, form and agent were checked.
pub fn row(event: &Event, owner: &Npub, agent: &Npub) -> Answer<PolicyRow> {
    let invalid = |detail: String| Problem::with(Code::PolicyInvalid, detail);
    let signed = verify_policy(event, owner, agent).map_err(|error| invalid(error.to_string()))?;
    let version = i64::try_from(signed.policy.version).map_err(|_| invalid("the version is too high".to_owned()))?;
    let text = serde_json::to_string(event).map_err(|error| Problem::internal("policy", &error))?;
    Ok((StoredPolicy { version, event: text }, signed.policy))
}

/// Whether this host has a driver for the wallet. Play money is for hosts that were told so.
pub fn wallet_supported(app: &Shared, policy: &Policy) -> Answer<()> {
    let (backend, offered) = (policy.wallet.as_str(), &app.config.wallets);
    if offered.contains(backend) {
        return Ok(());
    }
    let offered = offered.iter().copied().collect::<Vec<_>>().join(", ");
    let offered = if offered.is_empty() { "none".to_owned() } else { offered };
    let detail =
        format!("this host offers no {backend} wallets; it offers: {offered}. Name another wallet in the policy");
    Err(Problem::with(Code::PolicyInvalid, detail))
}

/// Custody modes that exist.
pub fn supported(custody: Custody) -> Answer<()> {
    match custody {
        Custody::Sealed | Custody::Attended | Custody::Bunker => Ok(()),
        Custody::Threshold => Err(Problem::with(Code::NotYet, "custody `threshold` is not built")),
    }
}
