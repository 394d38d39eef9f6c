//! Creating an agent: everything that can be checked without opening anything, then one batch.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use nexus_core::policy::{Custody, Policy};
use nexus_core::status::{Hosting, Reason, Scope};
use nexus_core::{Npub, UnixMs};
use nexus_seal::{CreateAgent, HostClaim, WrapRecipient};
use nexus_store::agent::{self, NewAgent, Sealed, StoredPolicy, Wrap};
use nexus_store::{Conflict, StoreError};
use nostr::event::Event;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::status::ReasonView;
use super::{Answer, created};
use crate::app::Shared;
use crate::auth::{AgentProof, Caller};
use crate::gate::Raw;
use crate::idempotency::{self, Key, Stored};
use crate::problem::{Code, Problem, ProblemBody};
use crate::reconcile::hosting as biller;

/// One of an agent's keys, closed to one recipient.
#[derive(ToSchema)]
#[schema(as = Wrap)]
#[expect(dead_code, reason = "describes nexus_seal::Wrap")]
pub struct WrapBody {
    /// `data`, `view` or `inbox`.
    key: String,
    /// Counts from 1.
    number: u32,
    /// `self`, `data`, `pool:<id>` or a reader's npub.
    recipient: String,
    ciphertext: String,
}

/// A new agent. Nothing in it lets this host read or use its keys, but for what is sealed to its worker pool.
#[derive(ToSchema)]
#[schema(as = CreateAgent)]
#[expect(dead_code, reason = "describes nexus_seal::CreateAgent")]
pub struct CreateBody {
    /// 1 to 64 of `a-z 0-9 - _ .`.
    name: String,
    npub: String,
    /// The mnemonic as an armored age file under the owner's passphrase (scrypt, N = 2^18).
    mnemonic_encrypted: String,
    #[schema(value_type = Option<Object>)]
    config: Option<()>,
    /// The runtime envelope: an armored age file to the worker pool (`GET /v1/pool`).
    sealed_key: Option<String>,
    /// The owner-signed policy (kind 30078). Without one the agent may not spend.
    #[schema(value_type = Option<Object>)]
    policy: Option<()>,
    /// The agent-signed host claim (kind 39202, `d` = `host`).
    #[schema(value_type = Option<Object>)]
    claim: Option<()>,
    /// An age recipient: things for the agent's eyes are sealed to it.
    inbox_recipient: Option<String>,
    wraps: Option<Vec<WrapBody>>,
    /// The first state, encrypted under the data key; base64.
    state: Option<String>,
}

/// A created agent. It is stopped; start it, then fund it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Created {
    #[schema(value_type = String)]
    npub: Npub,
    name: String,
    desired: &'static str,
    lifecycle: &'static str,
    reason: ReasonView,
    #[schema(value_type = i64)]
    created_at_ms: UnixMs,
}

/// Creates an agent.
///
/// The header `Nexus-Proof` is the base64 of an event of kind 27235 that the agent's key signed for this request, with
/// `u`, `method`, `payload` and `p` = the owner: it proves that whoever creates the agent holds its key.
#[utoipa::path(
    post, path = "/v1/agents", tag = "agents", request_body = CreateBody,
    params(
        ("Nexus-Proof" = String, Header, description = "Signed by the agent's key for this request"),
        ("Idempotency-Key" = Option<String>, Header, description = "A retry sends the same body, freshly signed"),
    ),
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 201, description = "Created", body = Created),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn create(
    State(app): State<Shared>,
    caller: Caller,
    proof: Option<axum::Extension<AgentProof>>,
    key: Option<axum::Extension<Key>>,
    raw: Raw,
) -> Answer<Response> {
    caller.require(Scope::Configure)?;
    let body: CreateAgent = raw.json()?;
    let (now, npub) = (app.now(), body.npub);
    body.check(&caller.pubkey, now).map_err(refused)?;
    check_custody(&app, &body)?;
    check_claim(&app, &body, now).await?;
    let missing = || Problem::with(Code::ProofInvalid, "send Nexus-Proof, signed by the agent's key");
    proof.ok_or_else(missing)?.verify(&app, &raw.0, &npub, &caller.pubkey).await?;

    let answer = Created {
        npub,
        name: body.name.clone(),
        desired: "stopped",
        lifecycle: "spawning",
        reason: reason(&body).into(),
        created_at_ms: now,
    };
    let key = key.map(|axum::Extension(key)| key);
    let remembered = key.as_ref().map(|key| key.answered(&app, StatusCode::CREATED, json!(answer).to_string()));
    let audit = caller.audit(now, "agent.create", npub, json!({ "name": body.name }));
    let hosting = biller::newborn(&app, &caller.account).await?;
    let new = row(body, &caller, hosting, now)?;
    let most = biller::most_agents(&app, &caller.account);
    match agent::create_within(&app.store, new, most, remembered, audit).await {
        Ok(_) => {}
        Err(StoreError::Duplicate { .. }) => return twin(&app, key).await,
        Err(error) => return Err(not_created(error, most)),
    }
    app.wake_agent(npub);
    let mut response = created(format!("/v1/agents/{npub}"), answer);
    response.extensions_mut().insert(Stored);
    Ok(response)
}

/// Another replica answered the same key meanwhile.
pub(super) async fn twin(app: &Shared, key: Option<Key>) -> Answer<Response> {
    let key = key.ok_or_else(|| Problem::new(Code::Conflict))?;
    idempotency::earlier(app, &key).await?.ok_or_else(|| Problem::new(Code::Conflict))
}

fn refused(error: nexus_seal::api::InvalidCreate) -> Problem {
    let code = match error.field {
        "mnemonic_encrypted" | "sealed_key" | "state" | "wraps" => Code::EnvelopeInvalid,
        "policy" => Code::PolicyInvalid,
        "claim" => Code::ClaimInvalid,
        _ => Code::Invalid,
    };
    Problem::with(code, error.problem).extra("field", error.field)
}

pub(super) fn not_created(error: StoreError, most: Option<u32>) -> Problem {
    match (error.conflict(), most) {
        (Some(Conflict::NpubTaken), _) => Problem::new(Code::AgentExists),
        (Some(Conflict::NameTaken), _) => Problem::new(Code::NameTaken),
        (Some(Conflict::TooManyAgents), Some(most)) => {
            Problem::with(Code::QuotaExceeded, format!("this account may have {most} agents")).extra("limit", most)
        }
        _ => error.into(),
    }
}

/// What is stored must be what the custody says; modes that are not there are refused by name, never half done.
fn check_custody(app: &Shared, body: &CreateAgent) -> Answer<()> {
    check_policy(app, body.policy.as_ref(), body.sealed_key.is_some(), &body.wraps)
}

pub(super) fn check_policy(
    app: &Shared,
    policy: Option<&Event>,
    sealed: bool,
    wraps: &[nexus_seal::Wrap],
) -> Answer<()> {
    let Some(event) = policy else { return Ok(()) };
    let policy =
        Policy::parse(&event.content).map_err(|error| Problem::with(Code::PolicyInvalid, error.to_string()))?;
    super::policy::supported(policy.custody)?;
    super::policy::wallet_supported(app, &policy)?;
    match (policy.custody, sealed) {
        (Custody::Sealed, false) => {
            Err(Problem::invalid("sealed_key", "custody `sealed` needs it: seal it to GET /v1/pool"))
        }
        (Custody::Bunker, false) => {
            let detail = "custody `bunker` needs it: the way to the signer, sealed to GET /v1/pool";
            Err(Problem::invalid("sealed_key", detail))
        }
        (Custody::Attended, true) => {
            Err(Problem::invalid("sealed_key", "custody `attended` stores none: leave it out, and unlock the agent"))
        }
        (Custody::Attended | Custody::Bunker, _) if wraps.iter().any(to_pool) => {
            Err(Problem::invalid("wraps", "only custody `sealed` stores a wrap to the pool"))
        }
        (Custody::Sealed | Custody::Attended | Custody::Bunker | Custody::Threshold, _) => Ok(()),
    }
}

fn to_pool(wrap: &nexus_seal::Wrap) -> bool {
    matches!(wrap.recipient, WrapRecipient::Pool(_))
}

/// The claim must name this very host.
async fn check_claim(app: &Shared, body: &CreateAgent, now: UnixMs) -> Answer<()> {
    let Some(event) = &body.claim else { return Ok(()) };
    names_this_host(app, event, &body.npub, now).await.map(|_| ())
}

/// A claim of the agent's that names this very host, verified.
pub(super) async fn names_this_host(app: &Shared, event: &Event, agent: &Npub, now: UnixMs) -> Answer<HostClaim> {
    let bad = |detail: String| Problem::with(Code::ClaimInvalid, detail);
    let claim = nexus_seal::claim::verify_claim(event, agent, now).map_err(|error| bad(error.to_string()))?;
    let HostClaim { url, runner, .. } = &claim;
    let origin = app.config.origin();
    if url.trim_end_matches('/') != origin {
        return Err(bad(format!("it names another host; this one is {origin}")));
    }
    match super::pool::runner(app).await? {
        Some(own) if own != *runner => Err(bad(format!("it names another runner; this host's is {own}"))),
        Some(_) | None => Ok(claim),
    }
}

fn attended(body: &CreateAgent) -> bool {
    let policy = body.policy.as_ref().and_then(|event| Policy::parse(&event.content).ok());
    policy.is_some_and(|policy| policy.custody == Custody::Attended)
}

fn key_missing(body: &CreateAgent) -> bool {
    body.sealed_key.is_none() && !attended(body)
}

fn reason(body: &CreateAgent) -> Reason {
    if key_missing(body) {
        return Reason::new("key_missing", "no key is sealed to this host's workers: PUT …/sealed-key");
    }
    Reason::new("stopped", "created, not started: `nexus agent start`")
}

fn row(body: CreateAgent, caller: &Caller, hosting: Hosting, now: UnixMs) -> Answer<NewAgent> {
    let key_missing = key_missing(&body).then(|| reason(&body));
    let policy = match &body.policy {
        Some(event) => Some(super::policy::row(event, &caller.pubkey, &body.npub)?),
        None => None,
    };
    let claim = match &body.claim {
        Some(event) => Some(serde_json::to_string(event).map_err(|error| Problem::internal("claim", &error))?),
        None => None,
    };
    Ok(NewAgent {
        npub: body.npub,
        account: caller.id(),
        name: body.name,
        config: body.config,
        sealed: Sealed {
            mnemonic_encrypted: body.mnemonic_encrypted,
            sealed_key: body.sealed_key,
            policy: policy.map(|(stored, _)| stored),
            claim,
            inbox_recipient: body.inbox_recipient.map(|recipient| recipient.to_string()),
        },
        wraps: body.wraps.into_iter().map(wrap).collect(),
        state: body.state.map(|state| state.0),
        hosting,
        reason: key_missing,
        created_at: now,
    })
}

pub fn wrap(wrap: nexus_seal::Wrap) -> Wrap {
    Wrap {
        key: wrap.key.as_str().to_owned(),
        number: wrap.number,
        recipient: wrap.recipient.to_string(),
        ciphertext: wrap.ciphertext,
    }
}

/// Kept beside its version, verbatim.
pub type PolicyRow = (StoredPolicy, nexus_core::policy::Policy);
