//! Under which name an agent is found and paid: LNURL-pay (LUD-06, LUD-16), zaps (NIP-57), names (NIP-05).
//!
//! Who pays needs no account here. The invoice is of the agent's own wallet, and so is the money; the receipt of a zap is
//! signed by the installation's runner key, once the wallet says that the invoice is paid.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use nexus_core::status::Scope;
use nexus_core::{Hash32, Msat, Npub};
use nexus_lightning::Description;
use nexus_nostr::zap;
use nexus_store::Conflict;
use nexus_store::agent::{self, Agent};
use nexus_store::wallet_request::{Answer as Said, PUBLIC_INVOICE};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use super::agent::answer;
use super::ask::ask;
use super::pool::runner;
use super::status::AgentStatus;
use super::sub_account::{self, Asked};
use crate::app::Shared;
use crate::auth::Caller;
use crate::gate::{Params, Raw};
use crate::problem::{Code, Problem, ProblemBody};

/// What is taken at once, in msat: a sat to a bitcoin.
const SENDABLE_MSAT: (u64, u64) = (1_000, 100_000_000_000);
/// Seconds that an invoice for anybody is good for.
const EXPIRY_SECS: u32 = 600;
/// What strangers are told; why is the owner's to know.
const UNREACHABLE: &str = "the agent's wallet can't be reached now: try again in a minute";
/// Longest zap request, in bytes.
const MAX_ZAP_REQUEST: usize = 8 * 1024;
/// Names that would be taken for the operator's own.
const RESERVED: [&str; 15] = [
    "_",
    "abuse",
    "admin",
    "administrator",
    "billing",
    "help",
    "hostmaster",
    "info",
    "nexus",
    "operator",
    "postmaster",
    "root",
    "security",
    "support",
    "webmaster",
];

/// The address that an agent should have.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAddress {
    /// 1 to 64 of a-z, 0-9, `-`, `_`, `.`: what stands before the `@`. One agent of the whole host has it, first come.
    name: String,
}

/// Gives the agent an address: `name@host` is then its lightning address and its Nostr name. Its npub stands for the name
/// with or without one.
#[utoipa::path(
    put, path = "/v1/agents/{npub}/address", tag = "agents", request_body = NewAddress,
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 200, description = "The agent", body = AgentStatus),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn put(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>, raw: Raw) -> Answer<Response> {
    caller.require(Scope::Configure)?;
    let agent = caller.agent(&app, &npub).await?;
    let NewAddress { name } = raw.json()?;
    nexus_core::agent::validate_name(&name).map_err(|error| Problem::invalid("name", error.problem))?;
    if RESERVED.contains(&name.as_str()) || name.starts_with("npub1") {
        return Err(Problem::invalid("name", "this one is not given to agents: choose another"));
    }
    change(&app, &caller, &agent, Some(&name)).await
}

/// Takes the agent's address away: the name is free for others. Its npub still stands for it.
#[utoipa::path(
    delete, path = "/v1/agents/{npub}/address", tag = "agents",
    params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 200, description = "The agent", body = AgentStatus),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn remove(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>) -> Answer<Response> {
    caller.require(Scope::Configure)?;
    let agent = caller.agent(&app, &npub).await?;
    change(&app, &caller, &agent, None).await
}

async fn change(app: &Shared, caller: &Caller, agent: &Agent, address: Option<&str>) -> Answer<Response> {
    let audit = caller.audit(app.now(), "agent.address", agent.npub, json!({ "address": address }));
    let changed = agent::set_address(&app.store, agent.npub, address, audit).await;
    let changed = changed.map_err(|error| match error.conflict() {
        Some(Conflict::NameTaken) => Problem::new(Code::NameTaken),
        _ => error.into(),
    })?;
    app.wake_agent(agent.npub);
    answer(app, &changed).await
}

/// The agent's lightning address here.
pub fn of(app: &Shared, agent: &Agent) -> String {
    let at = app.config.address_host();
    match &agent.address {
        Some(name) => format!("{name}@{at}"),
        None => format!("{}@{at}", agent.npub),
    }
}

/// Why a payer gets nothing, in the words of LUD-06.
pub struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        open((self.0, Json(json!({ "status": "ERROR", "reason": self.1 }))))
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(problem.code().status(), problem.words())
    }
}

impl From<nexus_store::StoreError> for Refused {
    fn from(error: nexus_store::StoreError) -> Self {
        Problem::from(error).into()
    }
}

fn refused<T>(status: StatusCode, why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(status, why.into()))
}

/// For web pages of any origin, as LUD-06 and NIP-05 ask.
fn open(answer: impl IntoResponse) -> Response {
    ([(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")], answer).into_response()
}

/// Who is meant by what stands before the `@`.
async fn find(app: &Shared, name: &str) -> Result<Agent, Refused> {
    let name = name.to_ascii_lowercase();
    let found = match name.parse::<Npub>() {
        Ok(npub) if name.starts_with("npub1") => agent::get(&app.store, npub).await?,
        _ => agent::by_address(&app.store, &name).await?,
    };
    match found {
        None => refused(StatusCode::NOT_FOUND, "nobody has this address here"),
        Some(Agent { moved_to: Some(url), .. }) => refused(StatusCode::GONE, format!("this agent lives at {url} now")),
        Some(agent) => Ok(agent),
    }
}

/// What LUD-06 calls metadata: the invoice commits to exactly this text.
fn metadata(app: &Shared, agent: &Agent) -> String {
    let address = of(app, agent);
    json!([["text/plain", format!("To {} ({address})", agent.name)], ["text/identifier", address]]).to_string()
}

/// Says how an agent is paid by LNURL (LUD-06, LUD-16). `name` is an address or an npub.
#[utoipa::path(
    get, path = "/.well-known/lnurlp/{name}", tag = "reach",
    params(("name" = String, Path, description = "What stands before the `@`, or an npub")),
    responses(
        (status = 200, description = "A payRequest; `allowsNostr` for zaps (NIP-57)", body = Object),
        (status = "4XX", description = "`{\"status\":\"ERROR\",\"reason\":…}`", body = Object),
    )
)]
pub async fn pay_request(State(app): State<Shared>, Path(name): Path<String>) -> Result<Response, Refused> {
    let agent = find(&app, &name).await?;
    let runner = runner(&app).await?;
    let mut said = json!({
        "tag": "payRequest",
        "callback": format!("{}/v1/agents/{}/pay", app.config.origin(), agent.npub),
        "minSendable": SENDABLE_MSAT.0,
        "maxSendable": SENDABLE_MSAT.1,
        "metadata": metadata(&app, &agent),
    });
    if let Some(runner) = runner {
        said["allowsNostr"] = Value::Bool(true);
        said["nostrPubkey"] = Value::String(runner.to_hex());
    }
    Ok(open(Json(said)))
}

/// What a payer's wallet sends. Parameters that are not known are let be.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PayQuery {
    /// In msat.
    amount: u64,
    /// A signed zap request (kind 9734), as JSON.
    nostr: Option<String>,
}

/// What is left of a worker's answer.
#[derive(Deserialize)]
struct Made {
    bolt11: String,
}

/// Makes an invoice of the agent's wallet for whoever asks (LUD-06). With `nostr` it is a zap: once it is paid, the receipt
/// (9735) goes to the relays that the request names. Waits up to 10 s for a worker.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/pay", tag = "reach",
    params(("npub" = String, Path, description = "The agent"), PayQuery),
    responses(
        (status = 200, description = "`pr` is the invoice", body = Object),
        (status = "4XX", description = "`{\"status\":\"ERROR\",\"reason\":…}`", body = Object),
        (status = 503, description = "The wallet can't be reached now; the same form", body = Object),
    )
)]
pub async fn pay(
    State(app): State<Shared>,
    Path(npub): Path<String>,
    query: Result<Params<PayQuery>, Problem>,
) -> Result<Response, Refused> {
    let Ok(Params(PayQuery { amount, nostr })) = query else {
        return refused(StatusCode::BAD_REQUEST, "amount: millisats, a whole number");
    };
    let agent = find(&app, &npub).await?;
    let (least, most) = SENDABLE_MSAT;
    let Some(amount) = Msat::try_from(amount).ok().filter(|_| (least..=most).contains(&amount)) else {
        return refused(StatusCode::BAD_REQUEST, format!("amount: {least} to {most} millisats"));
    };
    if let Some(request) = &nostr {
        if request.len() > MAX_ZAP_REQUEST {
            return refused(StatusCode::BAD_REQUEST, format!("nostr: at most {MAX_ZAP_REQUEST} bytes"));
        }
        if let Err(error) = zap::check_request(request, &agent.npub, amount) {
            return refused(StatusCode::BAD_REQUEST, format!("nostr: {error}"));
        }
    }
    let committed = nostr.clone().unwrap_or_else(|| metadata(&app, &agent));
    let description_hash = Hash32::sha256(committed.as_bytes());
    match sub_account::node_of(&app, agent.npub).await {
        Ok(None) => {}
        Ok(Some(accounts)) => {
            let description = Description::Hash(description_hash);
            let asked = Asked { amount, description, expiry_s: EXPIRY_SECS, zap: nostr, public: true };
            return match sub_account::make(&app, accounts, agent.npub, asked, None).await {
                Ok(made) => Ok(open(Json(json!({ "pr": made.bolt11, "routes": [] })))),
                Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE, UNREACHABLE),
            };
        }
        Err(_) => return refused(StatusCode::SERVICE_UNAVAILABLE, UNREACHABLE),
    }
    let mut body = json!({ "amount_msat": amount, "expiry_secs": EXPIRY_SECS });
    match nostr {
        Some(request) => body["zap"] = Value::String(request),
        None => body["description_hash"] = json!(description_hash),
    }
    match ask(&app, agent.npub, PUBLIC_INVOICE, body.to_string(), None).await? {
        Some(Said::Done(text)) => match serde_json::from_str::<Made>(&text) {
            Ok(made) => Ok(open(Json(json!({ "pr": made.bolt11, "routes": [] })))),
            Err(error) => Err(Problem::internal("pay", &error).into()),
        },
        Some(Said::Failed(_)) | None => refused(StatusCode::SERVICE_UNAVAILABLE, UNREACHABLE),
    }
}

/// Whose name is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NameQuery {
    name: Option<String>,
}

/// Names of agents (NIP-05).
#[derive(Debug, Serialize, ToSchema)]
pub struct Names {
    /// Public keys in hex, by name.
    #[schema(value_type = Object)]
    names: Value,
    /// Relays by public key.
    #[schema(value_type = Object)]
    relays: Value,
}

/// Says whose a name is (NIP-05). A name that nobody has, or no name, gets an empty answer: names are not listed.
#[utoipa::path(
    get, path = "/.well-known/nostr.json", tag = "reach", params(NameQuery),
    responses((status = 200, description = "Who has it", body = Names))
)]
pub async fn names(State(app): State<Shared>, Params(query): Params<NameQuery>) -> Answer<Response> {
    let name = query.name.unwrap_or_default().to_ascii_lowercase();
    let found = agent::by_address(&app.store, &name).await?.filter(|agent| agent.moved_to.is_none());
    let mut answer = Names { names: json!({}), relays: json!({}) };
    if let Some(agent) = found {
        let hex = agent.npub.to_hex();
        answer.names[&name] = Value::String(hex.clone());
        if let Some(relay) = &app.config.relay_url {
            answer.relays[&hex] = json!([relay]);
        }
    }
    Ok(open(Json(answer)))
}
