//! An agent's events: as a page, as a WebSocket, as server-sent events. All three read the same rows.

use axum::Json;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::event::AgentEvent;
use nexus_core::status::Scope;
use nexus_store::agent::Agent;
use nexus_store::event::{self, StoredEvent};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use crate::app::Shared;
use crate::auth::{Caller, Via, parse_npub, ticket};
use crate::config::{DEFAULT_PAGE, MAX_PAGE};
use crate::gate::Params;
use crate::problem::{Code, Problem, ProblemBody};
use crate::stream::{self, Feed};

/// One event, flat: `seq`, `at`, `npub`, `type`, and the fields of that type.
#[derive(Debug, Serialize)]
pub struct EventView {
    #[serde(flatten)]
    pub event: AgentEvent,
    /// The chain's head after this event (SHA-256, hex).
    pub hash: String,
    /// What only readers may see, under the view key; base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
}

impl From<StoredEvent> for EventView {
    fn from(stored: StoredEvent) -> Self {
        Self {
            event: stored.event,
            hash: stored.hash.to_string(),
            sealed: stored.sealed.map(|bytes| STANDARD.encode(bytes)),
        }
    }
}

/// Where to begin.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// The last `seq` you have: everything after it follows, without gaps. 0 for all that is kept. A stream without it
    /// begins with what happens next; a page without it begins with the oldest.
    after: Option<i64>,
    /// Of a page: 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// One page of events.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventPage {
    #[schema(value_type = Vec<Object>)]
    events: Vec<EventView>,
    /// Send it as `after` for what follows.
    next: i64,
}

/// Reads or follows an agent's events.
///
/// With `Upgrade: websocket` a WebSocket, one event in each text frame; with `Accept: text/event-stream` server-sent
/// events; otherwise a page. Events are kept for 30 days. A browser's WebSocket sends
/// `Sec-WebSocket-Protocol: nexus.events, nexus.ticket.<ticket>` (see `POST …/tickets`).
#[utoipa::path(
    get, path = "/v1/agents/{npub}/events", tag = "events",
    params(("npub" = String, Path, description = "The agent"), EventQuery),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "A page, or server-sent events", body = EventPage),
        (status = 101, description = "A WebSocket"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn read(
    State(app): State<Shared>,
    caller: Caller,
    Path(npub): Path<String>,
    Params(query): Params<EventQuery>,
    request: Request,
) -> Answer<Response> {
    let agent = readable(&app, &caller, &npub).await?;
    let (mut parts, _) = request.into_parts();
    if wants_websocket(&parts.headers) {
        return websocket(app, caller, agent, query.after, &mut parts).await;
    }
    if accepts_stream(&parts.headers) {
        let after = last_event_id(&parts.headers).or(query.after);
        let feed = Feed::open(&app, caller, &agent, after).await?;
        return Ok(stream::sse(feed));
    }
    let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    let after = query.after.unwrap_or(0);
    let events = event::after(&app.store, agent.npub, after, limit).await?;
    let next = events.last().map_or(after, |last| last.event.seq);
    Ok(Json(EventPage { events: events.into_iter().map(EventView::from).collect(), next }).into_response())
}

/// A ticket is for one agent and for this call alone.
async fn readable(app: &Shared, caller: &Caller, npub: &str) -> Answer<Agent> {
    match &caller.via {
        Via::Ticket { agent } if parse_npub(npub)? != *agent => return Err(Problem::not_found()),
        Via::Ticket { .. } => {}
        Via::Key | Via::Token { .. } => caller.require(Scope::Read)?,
    }
    caller.readable(app, npub).await
}

async fn websocket(
    app: Shared,
    caller: Caller,
    agent: Agent,
    after: Option<i64>,
    parts: &mut Parts,
) -> Answer<Response> {
    check_origin(&app, &parts.headers)?;
    let upgrade = WebSocketUpgrade::from_request_parts(parts, &())
        .await
        .map_err(|error| Problem::with(Code::BadRequest, error.body_text()))?;
    let feed = Feed::open(&app, caller, &agent, after).await?;
    let upgrade = upgrade.protocols([ticket::PROTOCOL]).max_message_size(4 * 1024).max_frame_size(4 * 1024);
    Ok(upgrade.on_upgrade(move |socket| stream::websocket(socket, feed)))
}

/// A web page elsewhere may not use its visitor's access. Programs send no `Origin`.
fn check_origin(app: &Shared, headers: &HeaderMap) -> Answer<()> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let own = origin == app.config.origin();
    if own || app.config.allowed_origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    Err(Problem::new(Code::OriginRefused))
}

fn wants_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

fn accepts_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|value| value.split(',').any(|kind| kind.trim().starts_with("text/event-stream")))
}

/// What a browser's `EventSource` sends when it connects again.
fn last_event_id(headers: &HeaderMap) -> Option<i64> {
    headers.get("last-event-id").and_then(|value| value.to_str().ok()?.trim().parse().ok())
}
