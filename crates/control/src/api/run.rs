//! Starting and stopping.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use nexus_core::status::{Desired, Placement, Scope};
use nexus_store::agent::{self, Agent};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::Answer;
use super::agent::answer;
use super::status::AgentStatus;
use crate::app::Shared;
use crate::auth::Caller;
use crate::gate::Raw;
use crate::problem::ProblemBody;

/// How long a stop waits for its end.
const STOP_WAIT_MS: u64 = 1_500;
const STOP_LOOK: Duration = Duration::from_millis(50);

/// Starts an agent. Repeating it changes nothing.
///
/// Answers 200 also where it cannot run yet (not funded, no policy): `reason` says what is missing.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/start", tag = "agents", params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["operate"])),
    responses(
        (status = 200, description = "The agent", body = AgentStatus),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn start(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>) -> Answer<Response> {
    caller.require(Scope::Operate)?;
    let agent = caller.agent(&app, &npub).await?;
    let now = app.now();
    let audit = caller.audit(now, "agent.start", agent.npub, json!({}));
    let mut started = agent::set_desired(&app.store, agent.npub, Desired::Running, false, None, audit).await?;
    if started.next_tick_at.is_none() {
        agent::make_due(&app.store, agent.npub, now).await?;
        started = caller.agent(&app, &npub).await?;
    }
    app.wake_agent(agent.npub);
    answer(&app, &started).await
}

/// When a stop takes effect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// A running tick ends first.
    #[default]
    AfterTick,
    /// Signing is revoked at once; a running tick ends where it stands.
    Now,
}

/// How to stop.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    when: When,
}

/// Stops an agent. Repeating it changes nothing. Waits up to 1.5 s for its end; `reason` says if it takes longer.
///
/// What is in flight (a payment whose outcome is open, an event on its way) is resolved also after a stop.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/stop", tag = "agents", request_body(content = Stop, description = "Optional"),
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["operate"])),
    responses(
        (status = 200, description = "The agent", body = AgentStatus),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn stop(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>, raw: Raw) -> Answer<Response> {
    caller.require(Scope::Operate)?;
    let agent = caller.agent(&app, &npub).await?;
    let Stop { when } = raw.json()?;
    let now = when == When::Now;
    let audit = caller.audit(app.now(), "agent.stop", agent.npub, json!({ "now": now }));
    let stopped = agent::set_desired(&app.store, agent.npub, Desired::Stopped, now, None, audit).await?;
    app.wake_agent(agent.npub);
    let settled = settle(&app, &caller, stopped).await?;
    answer(&app, &settled).await
}

/// Waits until no worker has it any more, so that the answer is the end of it; a tick or payment that takes longer
/// shows as `resolving`.
async fn settle(app: &Shared, caller: &Caller, stopped: Agent) -> Answer<Agent> {
    let npub = stopped.npub.to_string();
    let deadline = app.clock.mono().plus_ms(STOP_WAIT_MS);
    let mut agent = stopped;
    while agent.placement != Placement::Unplaced && agent.desired == Desired::Stopped && app.clock.mono() < deadline {
        tokio::time::sleep(STOP_LOOK).await;
        agent = caller.agent(app, &npub).await?;
    }
    Ok(agent)
}
