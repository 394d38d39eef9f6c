//! Refunds: hosting credit that goes back to whoever owns the account, by the owner's own signature.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nexus_core::hosting::refund_fee;
use nexus_core::payment::{EXPIRY_MARGIN_MS, PaymentState};
use nexus_core::status::Scope;
use nexus_core::{Hash32, Msat, UnixMs};
use nexus_lightning::Bolt11;
use nexus_seal::payout::{PayoutKey, PayoutOrder};
use nexus_store::payout::{self, NewPayout, Payout};
use nexus_store::{Conflict, hosting};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Answer;
use crate::app::Shared;
use crate::auth::Caller;
use crate::gate::Raw;
use crate::problem::{Code, Problem, ProblemBody};

/// The payer needs some of an invoice's time, and nobody waits for longer than a day.
const LEAST_LIFE_MS: i64 = 4 * EXPIRY_MARGIN_MS;
const MOST_LIFE_MS: i64 = 86_400_000;

/// What to pay back, and where to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRefund {
    /// What the invoice has to ask for.
    amount_sats: u64,
    /// BOLT 11.
    invoice: String,
}

/// A refund.
#[derive(Debug, Serialize, ToSchema)]
pub struct RefundView {
    #[schema(value_type = String)]
    payment_hash: Hash32,
    amount_sats: u64,
    /// The network's fee, in msat; up to `max_fee_msat` until it is paid.
    fee_msat: u64,
    max_fee_msat: u64,
    /// `reserved`, `dispatched`, `pending`, `unknown`; `settled`; `failed` or `canceled`: then it is credit again.
    state: &'static str,
    /// Why it was not paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[schema(value_type = i64)]
    created_at_ms: UnixMs,
    #[schema(value_type = i64)]
    updated_at_ms: UnixMs,
}

impl From<Payout> for RefundView {
    fn from(payout: Payout) -> Self {
        Self {
            payment_hash: payout.hash,
            amount_sats: payout.amount.whole_sats(),
            fee_msat: payout.fee.as_u64(),
            max_fee_msat: payout.max_fee.as_u64(),
            state: payout.state.as_str(),
            why: payout.note.filter(|_| payout.state != PaymentState::Settled),
            created_at_ms: payout.created_at,
            updated_at_ms: payout.updated_at,
        }
    }
}

/// Pays unused credit back, once for an invoice. A day after the account's last payment in, one at a time, three in a day; the
/// network's fee is taken from the credit. No token may do this.
#[utoipa::path(
    post, path = "/v1/hosting/refunds", tag = "hosting", request_body = NewRefund,
    security(("nip98" = [])),
    responses(
        (status = 202, description = "It is on its way", body = RefundView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn create(State(app): State<Shared>, caller: Caller, raw: Raw) -> Answer<Response> {
    caller.require_key()?;
    if caller.pubkey != caller.account.owner {
        return Err(Problem::new(Code::OwnerKeyRequired));
    }
    let asked: NewRefund = raw.json()?;
    let key = app.config.operator_key.as_deref().filter(|_| app.config.billing.is_some() && app.config.refunds);
    let Some(key) = key else {
        return Err(Problem::with(Code::NotFound, "this host pays no credit back by itself: ask its operator"));
    };
    let order = checked(&app, &caller, asked)?;
    let key = PayoutKey::of(key).map_err(|error| Problem::internal("refund", &error))?;
    let signed = key.sign(&order).map_err(|error| Problem::internal("refund", &error))?;
    let new = NewPayout {
        hash: order.hash,
        account: order.account,
        bolt11: order.bolt11,
        amount: order.amount,
        max_fee: order.max_fee,
        expires_at: order.expires_at,
        order: signed,
        created_at: app.now(),
    };
    if let Err(error) = payout::order(&app.store, new).await {
        let (credit, _) = hosting::credit(&app.store, caller.id()).await?;
        let refused = |code, text: &str| Problem::with(code, text.to_owned());
        return Err(match error.conflict() {
            Some(Conflict::PaymentHash) => refused(Code::Conflict, "this invoice was met before: make another"),
            Some(Conflict::Unresolved) => refused(Code::EffectsUnresolved, "a refund is on its way: wait for its end"),
            Some(Conflict::TooMany) => refused(Code::QuotaExceeded, "three refunds in a day at most"),
            Some(Conflict::TooSoon) => {
                refused(Code::QuotaExceeded, "credit goes back a day after the last payment in: wait until then")
            }
            Some(Conflict::NoCredit) => {
                let text = format!(
                    "the credit is {credit}; the refund takes {} with the largest fee, and what agents paid for their own months stays",
                    order.amount.saturating_add(order.max_fee)
                );
                Problem::with(Code::Conflict, text)
            }
            _ => error.into(),
        });
    }
    let made = payout::get(&app.store, order.hash).await?.ok_or_else(Problem::not_found)?;
    Ok((StatusCode::ACCEPTED, Json(RefundView::from(made))).into_response())
}

/// What control signs: an invoice for what its owner said, that lives long enough to be paid.
fn checked(app: &Shared, caller: &Caller, asked: NewRefund) -> Answer<PayoutOrder> {
    let invalid = |text: String| Problem::invalid("invoice", text);
    let invoice = Bolt11::decode(&asked.invoice).map_err(|error| invalid(error.to_string()))?;
    let amount = invoice.amount.ok_or_else(|| invalid("it names no amount: make one that does".to_owned()))?;
    if Msat::from_sats(asked.amount_sats) != Some(amount) || amount == Msat::ZERO {
        return Err(invalid(format!("it asks for {amount}, not for {} sats", asked.amount_sats)));
    }
    let now = app.now();
    if invoice.expires_at < now.plus_ms(LEAST_LIFE_MS) || invoice.expires_at > now.plus_ms(MOST_LIFE_MS) {
        return Err(invalid("it has to be good for some minutes, and for a day at most: make another".to_owned()));
    }
    Ok(PayoutOrder {
        hash: invoice.hash,
        account: caller.id(),
        bolt11: asked.invoice,
        amount,
        max_fee: refund_fee(amount),
        expires_at: invoice.expires_at,
    })
}

/// The account's refunds.
#[derive(Debug, Serialize, ToSchema)]
pub struct RefundList {
    refunds: Vec<RefundView>,
}

/// Lists the account's last 200 refunds, newest first.
#[utoipa::path(
    get, path = "/v1/hosting/refunds", tag = "hosting",
    security(("nip98" = []), ("token" = ["billing"])),
    responses(
        (status = 200, description = "The refunds", body = RefundList),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list(State(app): State<Shared>, caller: Caller) -> Answer<Json<RefundList>> {
    caller.require(Scope::Billing)?;
    let found = payout::list(&app.store, caller.id(), payout::MAX_PAGE).await?;
    Ok(Json(RefundList { refunds: found.into_iter().map(RefundView::from).collect() }))
}
