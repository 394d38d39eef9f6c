//! Single-use tickets that let a browser open a WebSocket, where it cannot send headers.
//!
//! A ticket travels in `Sec-WebSocket-Protocol`, never in a URL; the store keeps its hash and hands it out once.

use axum::http::{HeaderMap, header};
use nexus_core::{Hash32, Npub, UnixMs};
use nexus_store::{account, replay};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::app::Shared;
use crate::auth::{Caller, Via};
use crate::config::TICKET_MS;
use crate::problem::{Code, Problem};

/// The subprotocol that carries a ticket, and the one that we answer with.
pub const TICKET_PREFIX: &str = "nexus.ticket.";
pub const PROTOCOL: &str = "nexus.events";

#[derive(Serialize, Deserialize)]
struct Body {
    agent: Npub,
    caller: Npub,
}

/// A ticket for one stream of `agent`, and when it expires.
pub async fn issue(app: &Shared, caller: &Caller, agent: Npub) -> Result<(Zeroizing<String>, UnixMs), Problem> {
    let expires_at = app.now().plus_ms(TICKET_MS);
    let bytes = Zeroizing::new(app.random::<32>());
    let text = Zeroizing::new(hex::encode(*bytes));
    let body = serde_json::json!(Body { agent, caller: caller.pubkey }).to_string();
    replay::put_ticket(&app.store, Hash32::sha256(text.as_bytes()), body, expires_at).await?;
    Ok((text, expires_at))
}

/// The caller whose ticket the headers carry.
pub async fn redeem(app: &Shared, headers: &HeaderMap) -> Result<Caller, Problem> {
    let missing = || Problem::new(Code::Unauthorized);
    let protocols = headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let text = protocols
        .and_then(|all| all.split(',').find_map(|one| one.trim().strip_prefix(TICKET_PREFIX)))
        .ok_or_else(missing)?;
    let refused = || Problem::with(Code::Unauthorized, "the ticket is unknown, expired or used");
    let body =
        replay::take_ticket(&app.store, Hash32::sha256(text.as_bytes()), app.now()).await?.ok_or_else(refused)?;
    let Body { agent, caller } = serde_json::from_str(&body).map_err(|_| refused())?;
    let (account, _) = account::by_member(&app.store, caller).await?.ok_or_else(refused)?;
    Ok(Caller { account, pubkey: caller, via: Via::Ticket { agent } })
}
