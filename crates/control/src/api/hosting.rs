//! Hosting: what it costs, how far it is paid, and how to pay for more.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::hosting::HostingRules;
use nexus_core::status::{Hosting, Scope};
use nexus_core::{AccountId, Hash32, Msat, Npub, UnixMs};
use nexus_lightning::{Description, InvoiceRequest, Preimage};
use nexus_store::hosting::{self, Invoice, NewInvoice, Origin};
use nexus_store::{Conflict, account, ledger};
use qrcode::QrCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Answer, created};
use crate::app::Shared;
use crate::auth::{Caller, parse_npub};
use crate::config::{Billing, DEFAULT_PAGE, MAX_BODY, MAX_PAGE};
use crate::gate::{Params, Raw};
use crate::problem::{Code, Problem, ProblemBody};
use crate::reconcile::{hosting as biller, rent};

/// Largest invoice, in sats: one bitcoin.
const MAX_SATS: u64 = 100_000_000;
const EXPIRY_S: u32 = 3_600;
/// The node's time to make an invoice.
const PATIENCE: Duration = Duration::from_secs(10);
/// Agents of an account that its hosting shows at most.
const MAX_AGENTS: u32 = 10_000;
/// So long before a month begins it is shown why an agent does not pay its rent.
const RENT_SHOWN_MS: i64 = 7 * 86_400_000;

/// A plan: what an account pays for each of its agents, and what that includes.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlanView {
    name: String,
    /// Sats a month for each agent.
    fee_sats: u64,
    /// Agents in one account; none for no bound.
    agents: Option<u32>,
    /// Ticks of an agent in a UTC day; none for no bound.
    ticks_per_day: Option<u32>,
    /// Largest private state of an agent, in KiB; none for as much as this program keeps, 256.
    state_kib: Option<u32>,
    /// Days for which events and ticks of an agent are kept; none for the host's own.
    retention_days: Option<u32>,
}

/// What hosting costs here.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlanList {
    /// False: nothing is charged, and every account is paid.
    charged: bool,
    /// Of new accounts.
    plan: String,
    plans: Vec<PlanView>,
    trial_days: u16,
    grace_days: u16,
    notice_days: Vec<u16>,
    /// Public key of the node that hosting invoices come from, in hex: what a policy names that pays rent.
    node: Option<String>,
}

/// Lists the plans.
#[utoipa::path(get, path = "/v1/plans", tag = "hosting", responses((status = 200, description = "The plans", body = PlanList)))]
pub async fn plans(State(app): State<Shared>) -> Json<PlanList> {
    let billing = app.config.billing.as_ref();
    let rules = billing.map_or_else(HostingRules::default, |billing| billing.rules.clone());
    let plans = billing.into_iter().flat_map(|billing| &billing.plans).map(|(name, plan)| PlanView {
        name: name.clone(),
        fee_sats: plan.fee_sats,
        agents: plan.agents,
        ticks_per_day: plan.ticks_per_day,
        state_kib: plan.state_kib,
        retention_days: plan.retention_days,
    });
    Json(PlanList {
        charged: billing.is_some(),
        plan: app.config.plan.clone(),
        plans: plans.collect(),
        trial_days: rules.trial_days,
        grace_days: rules.grace_days,
        notice_days: rules.notice_days,
        node: billing.and_then(|billing| billing.identity.clone()),
    })
}

/// How far one agent is paid.
#[derive(Debug, Serialize, ToSchema)]
pub struct HostedView {
    #[schema(value_type = String)]
    npub: Npub,
    name: String,
    /// `trial`, `paid`, `grace` or `suspended`.
    hosting: &'static str,
    /// The next fee is due then.
    #[schema(value_type = Option<i64>)]
    paid_until_ms: Option<UnixMs>,
    /// Why its own rent is not paid, where it was asked for lately.
    #[serde(skip_serializing_if = "Option::is_none")]
    rent_problem: Option<String>,
}

/// An account's hosting.
#[derive(Debug, Serialize, ToSchema)]
pub struct HostingView {
    charged: bool,
    plan: String,
    /// Sats a month for each agent.
    fee_sats: u64,
    /// Paid in and not used, in msat.
    credit_msat: u64,
    /// None before its first agent.
    #[schema(value_type = Option<i64>)]
    trial_until_ms: Option<UnixMs>,
    /// The next month of all agents together costs so much more than there is credit, in sats.
    missing_sats: u64,
    agents: Vec<HostedView>,
}

/// Reads how far the account's agents are paid.
#[utoipa::path(
    get, path = "/v1/hosting", tag = "hosting",
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "The account's hosting", body = HostingView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn status(State(app): State<Shared>, caller: Caller) -> Answer<Json<HostingView>> {
    caller.require(Scope::Read)?;
    let (credit, trial_until_ms) = hosting::credit(&app.store, caller.id()).await?;
    let agents = hosting::of_account(&app.store, caller.id(), MAX_AGENTS).await?;
    let billing = app.config.billing.as_ref();
    let fee_sats = billing.map_or(0, |billing| biller::plan(&app, billing, &caller.account.plan).fee_sats);
    let all = Msat::from_sats(fee_sats.saturating_mul(agents.len() as u64)).unwrap_or(Msat::MAX);
    let mut hosted = Vec::with_capacity(agents.len());
    for billed in agents {
        let due = billed.term.is_some_and(|term| app.now() >= term.paid_until.plus_ms(-RENT_SHOWN_MS));
        let rent_problem = match billing {
            Some(billing) if due && billed.credit < Msat::sats(fee_sats) => {
                rent::problem(&app, billing, billed.npub, Msat::sats(fee_sats)).await?
            }
            Some(_) | None => None,
        };
        hosted.push(HostedView {
            npub: billed.npub,
            name: billed.name,
            hosting: if billing.is_some() { billed.hosting.as_str() } else { Hosting::Paid.as_str() },
            paid_until_ms: billed.term.map(|term| term.paid_until),
            rent_problem,
        });
    }
    Ok(Json(HostingView {
        charged: billing.is_some(),
        plan: caller.account.plan.clone(),
        fee_sats,
        credit_msat: credit.as_u64(),
        trial_until_ms,
        missing_sats: all.saturating_sub(credit).sats_ceil(),
        agents: hosted,
    }))
}

/// What to pay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewHostingInvoice {
    /// 1 to 100,000,000.
    amount_sats: u64,
}

/// An invoice for hosting credit.
#[derive(Debug, Serialize, ToSchema)]
pub struct HostingInvoice {
    /// The payment hash, in hex.
    id: String,
    /// BOLT 11; empty if the node never made it.
    bolt11: String,
    amount_sats: u64,
    memo: String,
    /// `open`, `paid` or `expired`.
    state: String,
    #[schema(value_type = i64)]
    created_at_ms: UnixMs,
    #[schema(value_type = i64)]
    expires_at_ms: UnixMs,
    /// What came, in msat.
    paid_msat: Option<u64>,
    #[schema(value_type = Option<i64>)]
    paid_at_ms: Option<UnixMs>,
}

impl From<Invoice> for HostingInvoice {
    fn from(invoice: Invoice) -> Self {
        Self {
            id: invoice.hash.to_string(),
            bolt11: invoice.bolt11,
            amount_sats: invoice.amount.whole_sats(),
            memo: invoice.memo,
            state: invoice.state,
            created_at_ms: invoice.created_at,
            expires_at_ms: invoice.expires_at,
            paid_msat: invoice.paid.map(Msat::as_u64),
            paid_at_ms: invoice.paid_at,
        }
    }
}

/// Makes an invoice of the operator's: what is paid on it becomes the account's credit, whatever came and however late.
#[utoipa::path(
    post, path = "/v1/invoices", tag = "hosting", request_body = NewHostingInvoice,
    security(("nip98" = []), ("token" = ["billing"])),
    responses(
        (status = 201, description = "The invoice", body = HostingInvoice),
        (status = 503, description = "The operator's node can't be reached now", body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn invoice(State(app): State<Shared>, caller: Caller, raw: Raw) -> Answer<Response> {
    caller.require(Scope::Billing)?;
    let NewHostingInvoice { amount_sats } = raw.json()?;
    let made = make(&app, caller.id(), amount_sats, Origin::Account).await?;
    let view = HostingInvoice::from(made);
    Ok(created(format!("/v1/invoices/{}", view.id), view))
}

/// The account's invoices.
#[derive(Debug, Serialize, ToSchema)]
pub struct HostingInvoiceList {
    invoices: Vec<HostingInvoice>,
}

/// Lists the account's last 200 invoices, newest first.
#[utoipa::path(
    get, path = "/v1/invoices", tag = "hosting",
    security(("nip98" = []), ("token" = ["billing"])),
    responses(
        (status = 200, description = "The invoices", body = HostingInvoiceList),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn invoices(State(app): State<Shared>, caller: Caller) -> Answer<Json<HostingInvoiceList>> {
    caller.require(Scope::Billing)?;
    let found = hosting::invoices(&app.store, caller.id(), hosting::MAX_PAGE).await?;
    Ok(Json(HostingInvoiceList { invoices: found.into_iter().map(HostingInvoice::from).collect() }))
}

/// Reads one invoice. An open one is looked up at the node first.
#[utoipa::path(
    get, path = "/v1/invoices/{id}", tag = "hosting",
    params(("id" = String, Path, description = "The payment hash")),
    security(("nip98" = []), ("token" = ["billing"])),
    responses(
        (status = 200, description = "The invoice", body = HostingInvoice),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn read_invoice(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<HostingInvoice>> {
    caller.require(Scope::Billing)?;
    let found = own(&app, &caller, &id).await?;
    let fresh = looked_up(&app, found).await?;
    Ok(Json(fresh.into()))
}

/// The invoice as a QR code.
#[utoipa::path(
    get, path = "/v1/invoices/{id}/qr", tag = "hosting",
    params(("id" = String, Path, description = "The payment hash")),
    security(("nip98" = []), ("token" = ["billing"])),
    responses(
        (status = 200, description = "SVG", body = String, content_type = "image/svg+xml"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn qr(State(app): State<Shared>, caller: Caller, Path(id): Path<String>) -> Answer<Response> {
    caller.require(Scope::Billing)?;
    let found = own(&app, &caller, &id).await?;
    if found.bolt11.is_empty() {
        return Err(Problem::with(Code::NotFound, "the node never made this invoice: ask for another"));
    }
    // In capitals it fits a smaller code (BIP 21 readers and wallets take both).
    let code = QrCode::new(found.bolt11.to_uppercase().as_bytes());
    let code = code.map_err(|error| Problem::internal("qr", &error))?;
    let svg = code.render::<qrcode::render::svg::Color<'_>>().min_dimensions(256, 256).build();
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], svg).into_response())
}

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// Entries before this moment, in milliseconds: `next_before_ms` of the page before.
    before_ms: Option<i64>,
    /// 1 to 200, 50 if not given.
    limit: Option<u32>,
    /// `json`, or `csv` for a table.
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Json,
    Csv,
}

/// One receipt.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryView {
    /// What happened, once: `paid:<payment hash>`, `month:<agent>:<start>:<number>`, `unused:…`, `refund:<payment hash>`, `refund_…`.
    id: String,
    /// `top_up`, `month`, `unused`, `refund`, or `refund_back` for what of a refund is credit again.
    kind: String,
    #[schema(value_type = Option<String>)]
    npub: Option<Npub>,
    note: String,
    #[schema(value_type = i64)]
    at_ms: UnixMs,
    /// What the account's credit gained; negative: what it lost.
    credit_msat: i64,
}

/// One page of receipts, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryPage {
    entries: Vec<EntryView>,
    next_before_ms: Option<i64>,
}

/// Lists what was credited and charged.
#[utoipa::path(
    get, path = "/v1/hosting/history", tag = "hosting", params(HistoryQuery),
    security(("nip98" = []), ("token" = ["billing"])),
    responses(
        (status = 200, description = "One page; as a table with `format=csv`", body = EntryPage),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn history(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<HistoryQuery>,
) -> Answer<Response> {
    caller.require(Scope::Billing)?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    let before = UnixMs(query.before_ms.unwrap_or(i64::MAX));
    let found = ledger::entries(&app.store, caller.id(), before, limit).await?;
    let next_before_ms = found.last().filter(|_| found.len() == limit as usize).map(|entry| entry.at.0);
    let entries = found.into_iter().map(|entry| EntryView {
        id: entry.key,
        kind: entry.kind,
        npub: entry.npub,
        note: entry.note,
        at_ms: entry.at,
        credit_msat: entry.credit_msat,
    });
    let page = EntryPage { entries: entries.collect(), next_before_ms };
    Ok(match query.format {
        Format::Json => Json(page).into_response(),
        Format::Csv => ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], csv(&page.entries)).into_response(),
    })
}

/// RFC 4180. A text that a spreadsheet would take for a formula is shown with a quote before it.
fn csv(entries: &[EntryView]) -> String {
    let text = |text: &str| {
        let formula = if text.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
        format!("\"{formula}{}\"", text.replace('"', "\"\""))
    };
    let rows = entries.iter().map(|entry| {
        let npub = entry.npub.map_or_else(String::new, |npub| npub.to_string());
        let (id, note) = (text(&entry.id), text(&entry.note));
        format!("{},{},{},{},{},{}\r\n", entry.at_ms, entry.kind, entry.credit_msat, npub, note, id)
    });
    std::iter::once("at_ms,kind,credit_msat,npub,note,id\r\n".to_owned()).chain(rows).collect()
}

/// Whose credit to raise, and by how much.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopUp {
    /// The owner's npub.
    owner: String,
    /// 1 to 100,000,000.
    amount_sats: u64,
}

/// What a top-up came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopUpView {
    /// Credited for this invoice, in msat.
    paid_msat: u64,
}

/// Pays for somebody's hosting without an account: L402. The first answer is 402 with an invoice in `WWW-Authenticate`; the
/// same call with `Authorization: L402 <token>:<preimage>` says what was credited. The token is the payment hash.
#[utoipa::path(
    post, path = "/v1/hosting/topup", tag = "hosting", request_body = TopUp,
    params(("authorization" = Option<String>, Header, description = "`L402 <token>:<preimage>`, once it is paid")),
    responses(
        (status = 200, description = "Credited", body = TopUpView),
        (status = 402, description = "Pay the invoice in `WWW-Authenticate`", body = ProblemBody, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn top_up(State(app): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer<Response> {
    if body.len() > MAX_BODY {
        return Err(Problem::with(Code::BodyTooLarge, format!("at most {MAX_BODY} bytes")));
    }
    let TopUp { owner, amount_sats } = Raw(body).json()?;
    let owner = parse_npub(&owner)?;
    let no_account = || Problem::with(Code::NotFound, "no account here has this owner");
    let (account, _) = account::by_member(&app.store, owner).await?.ok_or_else(no_account)?;
    if let Some(hash) = proven(&headers)? {
        let found = hosting::invoice(&app.store, hash).await?.filter(|invoice| invoice.account == account.id);
        let found = found.ok_or_else(|| Problem::with(Code::NotFound, "this invoice is not one for this owner"))?;
        let fresh = looked_up(&app, found).await?;
        let not_yet = || Problem::with(Code::Unavailable, "the payment has not arrived yet").retry_after_secs(5);
        let paid = fresh.paid.ok_or_else(not_yet)?;
        return Ok(Json(TopUpView { paid_msat: paid.as_u64() }).into_response());
    }
    let made = make(&app, account.id, amount_sats, Origin::Anybody).await?;
    let token = STANDARD.encode(made.hash.as_bytes());
    let challenge = format!("L402 version=\"0\", token=\"{token}\", macaroon=\"{token}\", invoice=\"{}\"", made.bolt11);
    let detail =
        "pay the invoice in WWW-Authenticate, then send the call again with `Authorization: L402 <token>:<preimage>`";
    let problem = Problem::with(Code::PaymentRequired, detail).extra("bolt11", made.bolt11);
    let mut response = problem.into_response();
    if let Ok(value) = challenge.parse() {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    Ok(response)
}

/// The payment hash of an L402 credential whose preimage fits.
fn proven(headers: &HeaderMap) -> Answer<Option<Hash32>> {
    let Some(value) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    let bad = || Problem::with(Code::Unauthorized, "expected `Authorization: L402 <token>:<preimage in hex>`");
    let credential = value.strip_prefix("L402 ").or_else(|| value.strip_prefix("LSAT ")).ok_or_else(bad)?;
    let (token, preimage) = credential.split_once(':').ok_or_else(bad)?;
    let token: [u8; 32] = STANDARD.decode(token).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(bad)?;
    let mut secret = [0_u8; 32];
    hex::decode_to_slice(preimage.trim(), &mut secret).map_err(|_| bad())?;
    let hash = Preimage::from_bytes(secret).hash();
    if hash == Hash32::from_bytes(token) { Ok(Some(hash)) } else { Err(bad()) }
}

fn billing(app: &Shared) -> Answer<&Billing> {
    app.config
        .billing
        .as_ref()
        .ok_or_else(|| Problem::with(Code::NotFound, "nothing is charged here: every account is paid"))
}

/// Stored before the node is asked, so that whatever the node was asked for is known here.
async fn make(app: &Shared, account: AccountId, amount_sats: u64, origin: Origin) -> Answer<Invoice> {
    let billing = billing(app)?;
    if !(1..=MAX_SATS).contains(&amount_sats) {
        return Err(Problem::invalid("amount_sats", format!("1 to {MAX_SATS}")));
    }
    let amount = Msat::sats(amount_sats);
    let host = app.config.public_origin.host_str().unwrap_or_default();
    let memo = format!("Hosting at {host}");
    let bytes = app.random::<32>();
    let preimage = Preimage::from_bytes(bytes);
    let hash = preimage.hash();
    let no_key = || Problem::with(Code::Unavailable, "this host has no operator's key");
    let key = app.config.operator_key.as_deref().ok_or_else(no_key)?;
    let sealed = key.seal(&format!("hosting-invoice:{hash}"), &bytes, &*app.entropy);
    let now = app.now();
    let new = NewInvoice {
        hash,
        account,
        amount,
        memo: memo.clone(),
        origin,
        sealed_preimage: sealed.map_err(|error| Problem::internal("invoice", &error))?,
        created_at: now,
        expires_at: now.plus_ms(i64::from(EXPIRY_S) * 1_000),
    };
    hosting::put_invoice(&app.store, new).await.map_err(|error| match error.conflict() {
        Some(Conflict::TooMany) => {
            let detail = "too many open invoices of this account: pay one, or wait until they expire";
            Problem::with(Code::QuotaExceeded, detail).retry_after_secs(600)
        }
        _ => error.into(),
    })?;
    let request =
        InvoiceRequest { preimage: Some(preimage), amount, description: Description::Memo(memo), expiry_s: EXPIRY_S };
    let unreachable = |why: String| {
        tracing::warn!(why, "the operator's node made no invoice");
        Problem::with(Code::Unavailable, "the operator's node can't be reached: try again").retry_after_secs(10)
    };
    let made = tokio::time::timeout(PATIENCE, billing.node.create_invoice(request)).await;
    let made = made.map_err(|_| unreachable("no answer in time".to_owned()))?;
    let made = made.map_err(|error| unreachable(error.to_string()))?;
    if made.hash != hash {
        return Err(unreachable("its invoice has another hash".to_owned()));
    }
    hosting::made(&app.store, hash, &made.bolt11, made.expires_at).await?;
    hosting::invoice(&app.store, hash).await?.ok_or_else(Problem::not_found)
}

async fn own(app: &Shared, caller: &Caller, id: &str) -> Answer<Invoice> {
    let hash: Hash32 = id.parse().map_err(|_| Problem::not_found())?;
    let found = hosting::invoice(&app.store, hash).await?;
    found.filter(|invoice| invoice.account == caller.id()).ok_or_else(Problem::not_found)
}

/// As it stands at the node now, if that can be had.
async fn looked_up(app: &Shared, invoice: Invoice) -> Answer<Invoice> {
    let Some(billing) = app.config.billing.as_ref().filter(|_| invoice.state != "paid") else { return Ok(invoice) };
    biller::ask(app, billing, &invoice).await?;
    hosting::invoice(&app.store, invoice.hash).await?.ok_or_else(Problem::not_found)
}
