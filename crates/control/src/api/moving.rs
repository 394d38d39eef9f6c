//! Moving: the backup out, the backup in, and the agent's own word where it lives.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use nexus_core::policy::{Policy, WalletChoice};
use nexus_core::status::Scope;
use nexus_core::{Npub, UnixMs};
use nexus_seal::backup::{BackupBlob, BlobKind, MAX_UNRESOLVED, Unresolved};
use nexus_seal::claim::{Weighed, verify_claim, weigh};
use nexus_seal::{Backup, BackupError, HostClaim, ImportAgent, VerifiedBackup, Wrap, WrapRecipient};
use nexus_store::agent::{self, Agent, Arrival, Departure, NewAgent, Sealed};
use nexus_store::wallet_record::{self, WalletRecord};
use nexus_store::{Audit, Conflict, StoreError, payment};
use nostr::event::Event;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::create::{WrapBody, check_policy, names_this_host, not_created, twin, wrap};
use super::status::ReasonView;
use super::{Answer, created};
use crate::app::Shared;
use crate::auth::{AgentProof, Caller, parse_npub};
use crate::config::MAX_BODY;
use crate::gate::Raw;
use crate::idempotency::{Key, Stored};
use crate::problem::{Code, Problem, ProblemBody};
use crate::reconcile::hosting as biller;

/// Writes the agent's backup: one document, everything private in it encrypted. The body is the file, to the byte.
///
/// It is what the last committed tick left. Payments whose outcome is not known yet are listed.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/export", tag = "moving", params(("npub" = String, Path, description = "The agent")),
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 200, description = "The backup", body = Object),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn export(State(app): State<Shared>, caller: Caller, Path(npub): Path<String>) -> Answer<Response> {
    caller.require(Scope::Configure)?;
    let agent = caller.agent(&app, &npub).await?;
    let bytes = backup(&app, &agent).await?.to_bytes().map_err(|error| Problem::internal("backup", &error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response())
}

async fn backup(app: &Shared, agent: &Agent) -> Answer<Backup> {
    let npub = agent.npub;
    let sealed = agent::sealed(&app.store, npub).await?.ok_or_else(Problem::not_found)?;
    let claim = held(&sealed, &npub, app.now()).map(|(event, claim)| (event, claim.epoch));
    let (claim, epoch) = claim.map_or((None, 1), |(event, epoch)| (Some(event), epoch));
    let mut wraps = Vec::new();
    for stored in agent::wraps(&app.store, npub).await? {
        let recipient = stored.recipient.parse().map_err(|error| Problem::internal("wrap", &error))?;
        if matches!(recipient, WrapRecipient::Pool(_)) {
            continue;
        }
        let key = serde_json::from_value(json!(stored.key)).map_err(|error| Problem::internal("wrap", &error))?;
        wraps.push(Wrap { key, number: stored.number, recipient, ciphertext: stored.ciphertext });
    }
    let state = agent::state(&app.store, npub).await?.map(|state| BackupBlob {
        kind: BlobKind::State,
        name: String::new(),
        ciphertext: nexus_seal::Sealed(state.blob),
    });
    let wallet = wallet_record::all(&app.store, npub).await?.into_iter().map(|record| BackupBlob {
        kind: BlobKind::Wallet,
        name: format!("{}/{}", record.space, record.name),
        ciphertext: nexus_seal::Sealed(record.blob),
    });
    let unresolved = payment::unresolved(&app.store, npub).await?;
    let event = |text: &str| serde_json::from_str::<Event>(text).map_err(|error| Problem::internal("policy", &error));
    let policy = sealed.policy.as_ref().map(|policy| event(&policy.event)).transpose()?;
    let wallet_place = wallet_place(app, policy.as_ref());
    Ok(Backup {
        npub,
        name: agent.name.clone(),
        epoch,
        generation: agent.generation,
        made_at: app.now(),
        config: agent.config.clone(),
        next_tick_at: agent.next_tick_at,
        policy,
        claim,
        mnemonic_encrypted: sealed.mnemonic_encrypted,
        inbox_recipient: sealed.inbox_recipient.and_then(|recipient| recipient.parse().ok()),
        wraps,
        blobs: state.into_iter().chain(wallet).collect(),
        wallet_place,
        unresolved: unresolved
            .into_iter()
            .take(MAX_UNRESOLVED)
            .map(|payment| Unresolved {
                payment_hash: payment.hash,
                amount_msat: payment.hold(),
                expires_at: payment.expires_at,
            })
            .collect(),
    })
}

/// Where its wallet is, if that is a place that an importer has to join or reach.
fn wallet_place(app: &Shared, policy: Option<&Event>) -> Option<String> {
    match Policy::parse(&policy?.content).ok()?.wallet {
        WalletChoice::Dev {} => app.config.devnet_place.clone(),
        WalletChoice::Cashu { mint } => Some(mint),
        WalletChoice::Nwc { .. } | WalletChoice::Spark {} => None,
        // What is there has to be taken out first: it is this operator's.
        WalletChoice::Lnd {} => Some(app.config.origin()),
    }
}

/// The claim that is kept of an agent. It was verified before it was kept; what does not verify any more counts as none.
fn held(sealed: &Sealed, npub: &Npub, now: UnixMs) -> Option<(Event, HostClaim)> {
    let event: Event = serde_json::from_str(sealed.claim.as_deref()?).ok()?;
    let claim = verify_claim(&event, npub, now).ok()?;
    Some((event, claim))
}

/// A backup, and what closes the agent to this host.
#[derive(ToSchema)]
#[schema(as = ImportAgent)]
#[expect(dead_code, reason = "describes nexus_seal::ImportAgent")]
pub struct ImportBody {
    /// The document as it was exported.
    #[schema(value_type = Object)]
    backup: (),
    /// Another name than the backup's.
    name: Option<String>,
    /// The runtime envelope: an armored age file to this host's worker pool (`GET /v1/pool`). None in custody `attended`.
    sealed_key: Option<String>,
    /// The agent-signed host claim (kind 39202, `d` = `host`) that names this host, with a higher epoch than the backup's.
    #[schema(value_type = Object)]
    claim: (),
    /// The data key's wrap to the same pool, in custody `sealed`.
    wraps: Option<Vec<WrapBody>>,
    /// The version that stands inside the backup's state.
    state_version: Option<u32>,
    /// `{day, settled}`: what it spent today (msat, day since 1970) by its own state.
    #[schema(value_type = Option<Object>)]
    spent: Option<()>,
}

/// An agent that came. It is stopped: start it once its old host knows.
#[derive(Debug, Serialize, ToSchema)]
pub struct Imported {
    #[schema(value_type = String)]
    npub: Npub,
    name: String,
    epoch: u64,
    reason: ReasonView,
}

/// Takes an agent in from a backup.
///
/// `Nexus-Proof` as for creating one. The claim's epoch must be above the backup's, and the claim win over every other
/// that this host knows of the agent. One that has moved away from here comes back.
#[utoipa::path(
    post, path = "/v1/agents/import", tag = "moving", request_body = ImportBody,
    params(
        ("Nexus-Proof" = String, Header, description = "Signed by the agent's key for this request"),
        ("Idempotency-Key" = Option<String>, Header, description = "A retry sends the same body, freshly signed"),
    ),
    security(("nip98" = []), ("token" = ["configure"])),
    responses(
        (status = 201, description = "It is here", body = Imported),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn import(
    State(app): State<Shared>,
    caller: Caller,
    proof: Option<axum::Extension<AgentProof>>,
    key: Option<axum::Extension<Key>>,
    raw: Raw,
) -> Answer<Response> {
    caller.require(Scope::Configure)?;
    let body: ImportAgent = raw.json()?;
    let now = app.now();
    let read = Backup::from_document(&body.backup).and_then(|backup| backup.verify(&caller.pubkey, now));
    let verified = read.map_err(|error| refused(&error))?;
    let npub = verified.backup.npub;
    check_policy(&app, verified.backup.policy.as_ref(), body.sealed_key.is_some(), &body.wraps)?;
    check_parts(&body)?;
    let claim = names_this_host(&app, &body.claim, &npub, now).await?;
    let sealed = agent::sealed(&app.store, npub).await?.unwrap_or_default();
    let known = held(&sealed, &npub, now).map(|(_, claim)| claim);
    wins(&claim, &verified, known.as_ref())?;
    let missing = || Problem::with(Code::ProofInvalid, "send Nexus-Proof, signed by the agent's key");
    proof.ok_or_else(missing)?.verify(&app, &raw.0, &npub, &caller.pubkey).await?;

    let name = body.name.clone().unwrap_or_else(|| verified.backup.name.clone());
    let answer = Imported {
        npub,
        name: name.clone(),
        epoch: claim.epoch,
        reason: ReasonView { code: "stopped".into(), text: "imported, not started: `nexus agent start`".into() },
    };
    let key = key.map(|axum::Extension(key)| key);
    let remembered = key.as_ref().map(|key| key.answered(&app, StatusCode::CREATED, json!(answer).to_string()));
    let detail = json!({ "name": name, "epoch": claim.epoch, "from_epoch": verified.backup.epoch });
    let audit = caller.audit(now, "agent.import", npub, detail);
    let mut arrival = arrival(body, verified, name, &caller, sealed.claim, now)?;
    arrival.agent.hosting = biller::newborn(&app, &caller.account).await?;
    let most = biller::most_agents(&app, &caller.account);
    match agent::arrive(&app.store, arrival, most, remembered, audit).await {
        Ok(_) => {}
        Err(StoreError::Duplicate { .. }) => return twin(&app, key).await,
        Err(error) => return Err(not_created(error, most)),
    }
    app.wake_agent(npub);
    let mut response = created(format!("/v1/agents/{npub}"), answer);
    response.extensions_mut().insert(Stored);
    Ok(response)
}

fn refused(error: &BackupError) -> Problem {
    let code = match error {
        BackupError::Part { field: "policy", .. } => Code::PolicyInvalid,
        BackupError::Part { field: "claim", .. } => Code::ClaimInvalid,
        _ => Code::BackupInvalid,
    };
    Problem::with(code, error.to_string())
}

fn check_parts(body: &ImportAgent) -> Answer<()> {
    let bad = |detail: String| Problem::with(Code::EnvelopeInvalid, detail);
    if let Some(sealed_key) = &body.sealed_key {
        nexus_seal::check_recipient_envelope(sealed_key).map_err(|error| bad(error.to_string()))?;
    }
    nexus_seal::api::check_wraps(&body.wraps).map_err(bad)?;
    if body.wraps.iter().any(|wrap| !matches!(wrap.recipient, WrapRecipient::Pool(_))) {
        return Err(bad("wraps: only those to this host's pool; the others are in the backup".to_owned()));
    }
    match &body.name {
        Some(name) => nexus_core::agent::validate_name(name).map_err(|error| Problem::invalid("name", error.problem)),
        None => Ok(()),
    }
}

/// Above the backup's epoch, and before every claim that is known.
fn wins(claim: &HostClaim, verified: &VerifiedBackup, known: Option<&HostClaim>) -> Answer<()> {
    if claim.epoch <= verified.backup.epoch {
        let detail = format!("epoch {} is not above the backup's, {}", claim.epoch, verified.backup.epoch);
        return Err(Problem::with(Code::ClaimStale, detail).extra("epoch", verified.backup.epoch));
    }
    match known {
        Some(known) if !claim.supersedes(known) => Err(stale(known)),
        Some(_) | None => Ok(()),
    }
}

fn stale(known: &HostClaim) -> Problem {
    let detail = format!("a claim of epoch {} is known, which names {}", known.epoch, known.url);
    Problem::with(Code::ClaimStale, detail).extra("epoch", known.epoch).extra("url", known.url.clone())
}

fn arrival(
    body: ImportAgent,
    verified: VerifiedBackup,
    name: String,
    caller: &Caller,
    held: Option<String>,
    now: UnixMs,
) -> Answer<Arrival> {
    let backup = verified.backup;
    let policy = match &backup.policy {
        Some(event) => Some(super::policy::row(event, &caller.pubkey, &backup.npub)?.0),
        None => None,
    };
    let claim = serde_json::to_string(&body.claim).map_err(|error| Problem::internal("claim", &error))?;
    let state = backup.blob(BlobKind::State).map(<[u8]>::to_vec);
    let wallet = backup.blobs.iter().filter(|blob| blob.kind == BlobKind::Wallet).map(wallet_record);
    let wallet = wallet.collect::<Answer<Vec<WalletRecord>>>()?;
    let agent = NewAgent {
        npub: backup.npub,
        account: caller.id(),
        name,
        config: backup.config,
        sealed: Sealed {
            mnemonic_encrypted: backup.mnemonic_encrypted,
            sealed_key: body.sealed_key,
            policy,
            claim: Some(claim),
            inbox_recipient: backup.inbox_recipient.map(|recipient| recipient.to_string()),
        },
        wraps: backup.wraps.into_iter().chain(body.wraps).map(wrap).collect(),
        state,
        hosting: caller.account.hosting,
        reason: None,
        created_at: now,
    };
    Ok(Arrival {
        agent,
        generation: backup.generation,
        next_tick_at: backup.next_tick_at,
        state_version: body.state_version.unwrap_or(1),
        wallet,
        spent: body.spent,
        held,
    })
}

/// What a wallet's driver kept, as [`backup`] named it.
fn wallet_record(blob: &BackupBlob) -> Answer<WalletRecord> {
    let unknown =
        || Problem::with(Code::BackupInvalid, format!("the backup's wallet record {:?} has no such name", blob.name));
    let (space, name) = blob.name.split_once('/').ok_or_else(unknown)?;
    let name = name.parse().map_err(|_| unknown())?;
    Ok(WalletRecord { space: space.to_owned(), name, blob: blob.ciphertext.0.clone() })
}

/// The agent's latest host claim known here: its own word where it lives. Anyone may ask: relays carry it too.
#[utoipa::path(
    get, path = "/v1/agents/{npub}/claim", tag = "moving", params(("npub" = String, Path, description = "The agent")),
    responses(
        (status = 200, description = "The event (kind 39202, `d` = `host`)", body = Object),
        (status = "4XX", description = "None is known", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn claim(State(app): State<Shared>, Path(npub): Path<String>) -> Answer<Json<Value>> {
    let npub = parse_npub(&npub)?;
    let sealed = agent::sealed(&app.store, npub).await?.ok_or_else(Problem::not_found)?;
    let (event, _) = held(&sealed, &npub, app.now()).ok_or_else(Problem::not_found)?;
    Ok(Json(json!(event)))
}

/// What a claim led to.
#[derive(Debug, Serialize, ToSchema)]
pub struct Delivered {
    /// `here`: the agent lives here. `fenced`: it lives at `url`, and no key of it is kept here any more.
    outcome: &'static str,
    url: String,
    epoch: u64,
}

/// Tells this host where the agent lives. The body is the claim; its signature is all that is needed.
///
/// If it wins over the claim held and names another host, the agent's generation is raised, its sealed key and wraps are
/// deleted, and every call about it answers 410 with the new `url`.
#[utoipa::path(
    post, path = "/v1/agents/{npub}/claim", tag = "moving", request_body = Object,
    params(("npub" = String, Path, description = "The agent")),
    responses(
        (status = 200, description = "What it led to", body = Delivered),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn deliver(State(app): State<Shared>, Path(npub): Path<String>, body: Bytes) -> Answer<Json<Delivered>> {
    let npub = parse_npub(&npub)?;
    if body.len() > MAX_BODY {
        return Err(Problem::with(Code::BodyTooLarge, format!("at most {MAX_BODY} bytes")));
    }
    let bad = |detail: String| Problem::with(Code::ClaimInvalid, detail);
    let event = nexus_seal::event::parse_verified(&body).map_err(|error| bad(error.to_string()))?;
    let offered = verify_claim(&event, &npub, app.now()).map_err(|error| bad(error.to_string()))?;
    let agent = agent::get(&app.store, npub).await?.ok_or_else(Problem::not_found)?;
    let sealed = agent::sealed(&app.store, npub).await?.ok_or_else(Problem::not_found)?;
    let known = held(&sealed, &npub, app.now()).map(|(_, claim)| claim);
    let own = super::pool::runner(&app).await?;
    let own = own.ok_or_else(|| Problem::with(Code::Unavailable, "no worker has run here yet").retry_after_secs(5))?;
    let HostClaim { url, epoch, .. } = offered.clone();
    match weigh(known.as_ref(), &offered, &own) {
        Weighed::Known => {}
        Weighed::Stale => return Err(known.as_ref().map_or_else(|| Problem::new(Code::ClaimStale), stale)),
        // One that has moved away comes back with its backup only.
        Weighed::Ours if agent.moved_to.is_some() => {}
        Weighed::Ours => {
            agent::keep_claim(&app.store, npub, sealed.claim, event_text(&event)?).await.map_err(changed)?;
        }
        Weighed::Fenced { url, epoch } => {
            let departure = Departure { url: url.clone(), claim: event_text(&event)?, held: sealed.claim };
            agent::leave(&app.store, npub, departure, left(&agent, app.now(), &url, epoch)).await.map_err(changed)?;
            app.wake_agent(npub);
        }
    }
    let outcome = if offered.runner == own { "here" } else { "fenced" };
    Ok(Json(Delivered { outcome, url, epoch }))
}

fn event_text(event: &Event) -> Answer<String> {
    serde_json::to_string(event).map_err(|error| Problem::internal("claim", &error))
}

fn changed(error: StoreError) -> Problem {
    match error.conflict() {
        Some(Conflict::Version) => Problem::new(Code::Conflict),
        Some(Conflict::NoAgent) => Problem::not_found(),
        _ => error.into(),
    }
}

fn left(agent: &Agent, at: UnixMs, url: &str, epoch: u64) -> Audit {
    Audit {
        at,
        account: Some(agent.account),
        actor: agent.npub.to_string(),
        action: "agent.left".to_owned(),
        target: agent.npub.to_string(),
        detail: json!({ "url": url, "epoch": epoch }).to_string(),
    }
}
