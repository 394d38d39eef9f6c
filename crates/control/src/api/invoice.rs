//! Money in: an invoice from the agent's own wallet, which only a worker can open, or of its account at the operator's node.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nexus_core::status::Scope;
use nexus_core::{Hash32, Msat, UnixMs};
use nexus_lightning::Description;
use nexus_store::wallet_request::Answer as Said;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::Answer;
use super::ask::{ask, unanswered};
use super::sub_account::{self, Asked};
use crate::app::Shared;
use crate::auth::Caller;
use crate::gate::Raw;
use crate::problem::{Code, Problem, ProblemBody};

/// Largest invoice, in sats: one bitcoin.
const MAX_SATS: u64 = 100_000_000;
const MAX_MEMO: usize = 256;
/// Of one that control makes itself.
const EXPIRY_S: u32 = 3_600;

/// What to ask the agent's wallet for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvoiceRequest {
    /// 1 to 100,000,000.
    amount_sats: u64,
    /// Stands in the invoice in clear; at most 256 bytes.
    #[serde(default)]
    memo: String,
}

/// An invoice of the agent's wallet.
#[derive(Debug, Serialize, ToSchema)]
pub struct InvoiceView {
    /// BOLT 11.
    bolt11: String,
    #[schema(value_type = String)]
    payment_hash: Hash32,
    amount_sats: u64,
    #[schema(value_type = i64)]
    expires_at_ms: UnixMs,
}

/// What a worker answers.
#[derive(Deserialize)]
struct Made {
    bolt11: String,
    payment_hash: Hash32,
    expires_at: UnixMs,
}

/// Makes an invoice of the agent's wallet. Waits up to 10 s for a worker; 503 says why there is none.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/invoices", tag = "money", request_body = InvoiceRequest,
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["operate"])),
    responses(
        (status = 201, description = "The invoice", body = InvoiceView),
        (status = 503, description = "The wallet can't be reached now", body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn create(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>, raw: Raw) -> Answer<Response> {
    caller.require(Scope::Operate)?;
    let agent = caller.agent(&app, &npub).await?;
    let InvoiceRequest { amount_sats, memo } = raw.json()?;
    if !(1..=MAX_SATS).contains(&amount_sats) {
        return Err(Problem::invalid("amount_sats", format!("1 to {MAX_SATS}")));
    }
    if memo.len() > MAX_MEMO {
        return Err(Problem::invalid("memo", format!("at most {MAX_MEMO} bytes")));
    }
    let audit = caller.audit(app.now(), "agent.invoice", agent.npub, json!({ "amount_sats": amount_sats }));
    if let Some(accounts) = sub_account::node_of(&app, agent.npub).await? {
        let (amount, description) = (Msat::sats(amount_sats), Description::Memo(memo));
        let asked = Asked { amount, description, expiry_s: EXPIRY_S, zap: None, public: false };
        let made = sub_account::make(&app, accounts, agent.npub, asked, Some(audit)).await?;
        let (payment_hash, expires_at_ms) = (made.hash, made.expires_at);
        let view = InvoiceView { bolt11: made.bolt11, payment_hash, amount_sats, expires_at_ms };
        return Ok((StatusCode::CREATED, Json(view)).into_response());
    }
    let body = json!({ "amount_msat": amount_sats * 1_000, "memo": memo });
    match ask(&app, agent.npub, "invoice", body.to_string(), audit).await? {
        Some(Said::Done(text)) => {
            let made: Made = serde_json::from_str(&text).map_err(|error| Problem::internal("invoice", &error))?;
            let Made { bolt11, payment_hash, expires_at: expires_at_ms } = made;
            let view = InvoiceView { bolt11, payment_hash, amount_sats, expires_at_ms };
            Ok((StatusCode::CREATED, Json(view)).into_response())
        }
        Some(Said::Failed(why)) => Err(Problem::with(Code::WalletUnavailable, why).retry_after_secs(5)),
        None => Err(unanswered(&app, &caller, agent.npub, Code::WalletUnavailable).await),
    }
}
