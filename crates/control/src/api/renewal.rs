//! Hosting that renews itself out of its owner's wallet: the connection, by the owner's signature alone, and how it stands.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nexus_core::status::Scope;
use nexus_core::{Msat, UnixMs};
use nexus_lightning::nwc::Connection;
use nexus_store::Conflict;
use nexus_store::renewal::{self, NewRenewal, Renewal};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::Answer;
use crate::app::Shared;
use crate::auth::Caller;
use crate::gate::Raw;
use crate::owner_wallet::purpose;
use crate::problem::{Code, Problem, ProblemBody};
use crate::reconcile::renewal::month_of;

/// Largest cap, in sats: one bitcoin.
const MAX_SATS: u64 = 100_000_000;

/// A wallet that hosting is paid from.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewConnection {
    /// `nostr+walletconnect://…`, which has to be allowed `pay_invoice` and `lookup_invoice`. Kept encrypted, and never shown.
    connection: String,
    /// Largest sum of a UTC month, fees included: 1 to 100,000,000.
    month_cap_sats: u64,
}

/// How renewal stands. Never the connection.
#[derive(Debug, Serialize, ToSchema)]
pub struct RenewalView {
    enabled: bool,
    /// The wallet's public key, in hex.
    wallet: Option<String>,
    month_cap_sats: u64,
    /// Spent in this UTC month, in msat, with what is held for a payment under way.
    spent_msat: u64,
    /// `none`; `begun`, `sent` or `paid` while a payment is under way.
    stage: &'static str,
    /// Why nothing is paid.
    problem: Option<String>,
    /// When it is tried again.
    #[schema(value_type = Option<i64>)]
    next_attempt_at_ms: Option<UnixMs>,
}

impl RenewalView {
    fn of(row: Option<&Renewal>, now: UnixMs) -> Self {
        let current = row.filter(|row| row.month == month_of(now));
        Self {
            enabled: row.is_some_and(|row| row.enabled),
            wallet: row.filter(|row| row.sealed.is_some()).map(|row| row.wallet.clone()),
            month_cap_sats: row.map_or(0, |row| row.cap.whole_sats()),
            spent_msat: current.map_or(0, |row| row.spent.as_u64()),
            stage: row.map_or(renewal::Stage::None, |row| row.stage).as_str(),
            problem: row.and_then(|row| row.problem.clone()),
            next_attempt_at_ms: row.filter(|row| row.enabled && row.failures > 0).map(|row| row.look_at),
        }
    }
}

/// Has hosting paid out of the owner's own wallet, up to a cap in a month. No token may do this.
#[utoipa::path(
    put, path = "/v1/hosting/renewal", tag = "hosting", request_body = NewConnection,
    security(("nip98" = [])),
    responses(
        (status = 200, description = "How it stands", body = RenewalView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn put(State(app): State<Shared>, caller: Caller, raw: Raw) -> Answer<Json<RenewalView>> {
    owner(&caller)?;
    if app.config.billing.is_none() {
        return Err(Problem::with(Code::NotFound, "nothing is charged here: every account is paid"));
    }
    let (Some(key), Some(_)) = (&app.config.operator_key, &app.config.owner_wallets) else {
        return Err(Problem::with(Code::NotFound, "this host asks no wallets of owners"));
    };
    let NewConnection { connection, month_cap_sats } = raw.json()?;
    let connection = Zeroizing::new(connection);
    if !(1..=MAX_SATS).contains(&month_cap_sats) {
        return Err(Problem::invalid("month_cap_sats", format!("1 to {MAX_SATS}")));
    }
    // What it says of a text that is none holds nothing of the text.
    let parsed = Connection::parse(&connection).map_err(|error| Problem::invalid("connection", error.to_string()))?;
    if !app.config.private_egress && parsed.relays().iter().any(|relay| relay.scheme() != "wss") {
        return Err(Problem::invalid("connection", "its relays have to be wss:// on public addresses"));
    }
    let sealed = key.seal(&purpose(caller.id()), connection.trim().as_bytes(), &*app.entropy);
    let new = NewRenewal {
        account: caller.id(),
        sealed: sealed.map_err(|error| Problem::internal("renewal", &error))?,
        wallet: parsed.wallet().to_hex(),
        cap: Msat::sats(month_cap_sats),
    };
    let (now, detail) = (app.now(), json!({ "wallet": new.wallet, "month_cap_sats": month_cap_sats }));
    let audit = caller.audit(now, "renewal.put", caller.id(), detail);
    renewal::put(&app.store, new, now, audit).await?;
    read(&app, &caller).await
}

/// Reads how renewal stands.
#[utoipa::path(
    get, path = "/v1/hosting/renewal", tag = "hosting",
    security(("nip98" = []), ("token" = ["billing"])),
    responses(
        (status = 200, description = "How it stands", body = RenewalView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn status(State(app): State<Shared>, caller: Caller) -> Answer<Json<RenewalView>> {
    caller.require(Scope::Billing)?;
    read(&app, &caller).await
}

/// Forgets the connection. What the wallet was asked for already may still be paid.
#[utoipa::path(
    delete, path = "/v1/hosting/renewal", tag = "hosting",
    security(("nip98" = [])),
    responses(
        (status = 204, description = "Forgotten"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn remove(State(app): State<Shared>, caller: Caller) -> Answer<Response> {
    owner(&caller)?;
    let audit = caller.audit(app.now(), "renewal.remove", caller.id(), json!({}));
    renewal::remove(&app.store, caller.id(), audit).await.map_err(|error| match error.conflict() {
        Some(Conflict::NotFound) => Problem::with(Code::NotFound, "no wallet is connected"),
        _ => error.into(),
    })?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn owner(caller: &Caller) -> Answer<()> {
    caller.require_key()?;
    if caller.pubkey == caller.account.owner { Ok(()) } else { Err(Problem::new(Code::OwnerKeyRequired)) }
}

async fn read(app: &Shared, caller: &Caller) -> Answer<Json<RenewalView>> {
    let row = renewal::get(&app.store, caller.id()).await?;
    Ok(Json(RenewalView::of(row.as_ref(), app.now())))
}
