//! What waits for an agent, from outside: never what it says.

use axum::Json;
use axum::extract::{Path, State};
use nexus_core::status::Scope;
use nexus_core::{Npub, UnixMs};
use nexus_store::inbox;
use serde::Serialize;
use utoipa::ToSchema;

use super::Answer;
use crate::app::Shared;
use crate::auth::Caller;
use crate::problem::ProblemBody;

const SHOWN: u32 = 100;

/// One wake-up that waits.
#[derive(Debug, Serialize, ToSchema)]
pub struct InboxItem {
    trigger: String,
    #[schema(value_type = Option<String>)]
    sender: Option<Npub>,
    #[schema(value_type = i64)]
    received_at_ms: UnixMs,
    bytes: usize,
}

/// What waits.
#[derive(Debug, Serialize, ToSchema)]
pub struct InboxView {
    rows: i64,
    bytes: i64,
    max_rows: i64,
    max_bytes: i64,
    /// The oldest hundred that no tick has taken.
    oldest: Vec<InboxItem>,
}

/// Reads what waits in the agent's inbox: who and when, not what.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/inbox", tag = "ticks", params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "What waits", body = InboxView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn read(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>) -> Answer<Json<InboxView>> {
    caller.require(Scope::Read)?;
    let agent = caller.agent(&app, &npub).await?;
    let (rows, bytes) = inbox::level(&app.store, agent.npub).await?;
    let oldest = inbox::pending(&app.store, agent.npub, SHOWN).await?;
    let oldest = oldest.into_iter().map(|item| InboxItem {
        trigger: item.trigger.to_string(),
        sender: item.sender,
        received_at_ms: item.received_at,
        bytes: item.payload.len(),
    });
    let (max_rows, max_bytes) = (inbox::MAX_ROWS, inbox::MAX_BYTES);
    Ok(Json(InboxView { rows, bytes, max_rows, max_bytes, oldest: oldest.collect() }))
}
