//! The agent's wallet where the policy names one elsewhere: its connection, sealed to the agent, passes through here.

use axum::Json;
use axum::extract::{Path, State};
use nexus_core::Msat;
use nexus_core::status::Scope;
use nexus_store::wallet_request::Answer as Said;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::Answer;
use super::ask::{ask, unanswered};
use crate::app::Shared;
use crate::auth::Caller;
use crate::gate::Raw;
use crate::problem::{Code, Problem, ProblemBody};

/// What the agent's worker is asked.
const CONNECT: &str = "connect";

/// A connection to the wallet that the policy in force names.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WalletConnection {
    /// An armored age file to the agent's `inbox_recipient`; in it a `nostr+walletconnect://` URI. Never in clear.
    sealed: String,
}

/// The wallet, once it has answered.
#[derive(Debug, Serialize, ToSchema)]
pub struct WalletView {
    #[schema(value_type = u64)]
    balance_msat: Msat,
}

/// What a worker answers.
#[derive(Deserialize)]
struct Connected {
    balance_msat: Msat,
}

/// Gives the agent its wallet's connection (Nostr Wallet Connect). Its worker opens it, checks that it is to the wallet
/// that the policy names, asks the wallet for its balance, and keeps it. Waits up to 10 s.
#[utoipa::path(
    put, path = "/v1/agents/{npub}/wallet", tag = "money", request_body = WalletConnection,
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 200, description = "It works, and is kept", body = WalletView),
        (status = 503, description = "No worker answers now", body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn connect(
    State(app): State<Shared>,
    caller: Caller,
    Path(npub): Path<String>,
    raw: Raw,
) -> Answer<Json<WalletView>> {
    caller.require(Scope::Configure)?;
    let agent = caller.agent(&app, &npub).await?;
    let WalletConnection { sealed } = raw.json()?;
    nexus_seal::check_recipient_envelope(&sealed)
        .map_err(|error| Problem::with(Code::EnvelopeInvalid, error.to_string()))?;
    let audit = caller.audit(app.now(), "agent.wallet", agent.npub, json!({}));
    match ask(&app, agent.npub, CONNECT, json!({ "sealed": sealed }).to_string(), audit).await? {
        Some(Said::Done(text)) => {
            let said: Connected = serde_json::from_str(&text).map_err(|error| Problem::internal("wallet", &error))?;
            Ok(Json(WalletView { balance_msat: said.balance_msat }))
        }
        Some(Said::Failed(why)) => Err(Problem::with(Code::WalletRefused, why)),
        None => Err(unanswered(&app, &caller, agent.npub, Code::WalletUnavailable).await),
    }
}
