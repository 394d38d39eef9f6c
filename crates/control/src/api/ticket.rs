//! Tickets for a browser's WebSocket.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nexus_core::UnixMs;
use nexus_core::status::Scope;
use serde::Serialize;
use utoipa::ToSchema;

use super::Answer;
use crate::app::Shared;
use crate::auth::{Caller, ticket};
use crate::idempotency::Secret;
use crate::problem::ProblemBody;

/// A ticket: good for one WebSocket, for 30 seconds.
#[derive(Serialize, ToSchema)]
pub struct TicketView {
    ticket: String,
    /// What to pass as the WebSocket's subprotocols.
    protocols: [String; 2],
    #[schema(value_type = i64)]
    expires_at_ms: UnixMs,
}

/// Makes a single-use ticket with which a browser opens this agent's WebSocket.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/tickets", tag = "events",
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 201, description = "The ticket", body = TicketView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn create(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>) -> Answer<Response> {
    caller.require(Scope::Read)?;
    let agent = caller.agent(&app, &npub).await?;
    let (text, expires_at_ms) = ticket::issue(&app, &caller, agent.npub).await?;
    let protocols = [ticket::PROTOCOL.to_owned(), format!("{}{}", ticket::TICKET_PREFIX, *text)];
    let body = TicketView { ticket: text.to_string(), protocols, expires_at_ms };
    let mut response = (StatusCode::CREATED, Json(body)).into_response();
    response.extensions_mut().insert(Secret);
    Ok(response)
}
