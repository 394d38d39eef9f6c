//! Money out: an owner's command to the agent's wallet, which only a worker can open.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nexus_core::Hash32;
use nexus_seal::OwnerCommand;
use nexus_seal::withdrawal::{ASK_WITHDRAW, Withdrawal, Withdrawn};
use nexus_store::wallet_request::Answer as Said;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::Answer;
use super::ask::{ask, unanswered};
use crate::app::Shared;
use crate::auth::{Caller, SignedRequest};
use crate::gate::Raw;
use crate::problem::{Code, Problem, ProblemBody};

/// Longest invoice that is passed on, in bytes.
const MAX_INVOICE: usize = 4 * 1024;

/// What to pay.
#[derive(ToSchema)]
#[schema(as = Withdrawal)]
#[expect(dead_code, reason = "describes nexus_seal::withdrawal::Withdrawal")]
pub struct WithdrawalBody {
    /// What the invoice has to ask for.
    amount_sats: u64,
    /// BOLT 11.
    invoice: String,
}

/// What became of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct WithdrawalView {
    #[schema(value_type = String)]
    payment_hash: Hash32,
    /// `settled`, `failed` (nothing was paid), or where it stands: `dispatched`, `pending`, `unknown`. An event `payment`
    /// tells its end.
    state: String,
    fee_sats: u64,
    /// Of a failed one: why nothing was paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Pays an invoice from the agent's wallet, once.
///
/// The request's own NIP-98 event needs `p` = the agent as well: it goes to the worker with the raw body, and the worker
/// checks both. Waits up to 10 s; 202 means that the payment is on its way. No token may do this.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/withdrawals", tag = "money", request_body = WithdrawalBody,
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = [])),
    responses(
        (status = 200, description = "It has come to its end", body = WithdrawalView),
        (status = 202, description = "It is on its way", body = WithdrawalView),
        (status = 503, description = "No worker answered in time: the agent's events say whether it paid", body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn create(
    State(app): State<Shared>,
    caller: Caller,
    signed: Option<axum::Extension<SignedRequest>>,
    Path(npub): Path<String>,
    raw: Raw,
) -> Answer<Response> {
    caller.require_key()?;
    let agent = caller.agent(&app, &npub).await?;
    let axum::Extension(SignedRequest(event)) = signed.ok_or_else(|| Problem::new(Code::OwnerKeyRequired))?;
    let Withdrawal { amount_sats, invoice } = raw.json()?;
    if invoice.len() > MAX_INVOICE {
        return Err(Problem::invalid("invoice", format!("at most {MAX_INVOICE} bytes")));
    }
    let body = String::from_utf8(raw.0.to_vec()).map_err(|error| Problem::internal("withdrawal", &error))?;
    let command = serde_json::to_string(&OwnerCommand { event, body });
    let command = command.map_err(|error| Problem::internal("withdrawal", &error))?;
    let audit = caller.audit(app.now(), "agent.withdraw", agent.npub, json!({ "amount_sats": amount_sats }));
    match ask(&app, agent.npub, ASK_WITHDRAW, command, audit).await? {
        Some(Said::Done(text)) => {
            let said: Withdrawn =
                serde_json::from_str(&text).map_err(|error| Problem::internal("withdrawal", &error))?;
            let over = said.state == "settled" || said.state == "failed";
            let Withdrawn { payment_hash, state, fee, why } = said;
            let view = WithdrawalView { payment_hash, state, fee_sats: fee.sats_ceil(), why };
            let status = if over { StatusCode::OK } else { StatusCode::ACCEPTED };
            Ok((status, Json(view)).into_response())
        }
        Some(Said::Failed(why)) => Err(Problem::with(Code::CommandRefused, why)),
        None => Err(unanswered(&app, &caller, agent.npub, Code::WalletUnavailable).await),
    }
}
