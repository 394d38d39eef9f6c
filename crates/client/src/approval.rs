//! What waits for the owner, read with the owner's key, and the signed answer to it.

use nexus_core::approval::{Answer, ApprovalId, Asked};
use nexus_core::{Hash32, Npub, UnixMs};
use nexus_seal::Signer;
use nexus_seal::decision::{Pending, unsigned_decision};
use nexus_seal::event::timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::api::{Api, Call};
use crate::error::Error;
use crate::proof;
use crate::view::Viewer;

/// What readers see of a parked action.
#[derive(Debug, Deserialize)]
pub struct Details {
    pub asked: Asked,
    /// Why it asks.
    pub why: String,
}

/// One that waits, as the host shows it.
#[derive(Debug)]
pub struct Shown {
    pub id: ApprovalId,
    pub digest: Hash32,
    pub request: Option<Hash32>,
    /// The host's whole answer.
    pub view: Value,
}

impl Shown {
    fn read(view: Value) -> Result<Self, Error> {
        let text = |name: &str| view[name].as_str();
        let id = text("id").and_then(|id| id.parse().ok());
        let digest = text("digest").and_then(|digest| digest.parse().ok());
        let request = text("request").and_then(|request| request.parse().ok());
        match (id, digest) {
            (Some(id), Some(digest)) => Ok(Self { id, digest, request, view }),
            _ => Err(Error::Protocol { attempted: "reading approvals", why: "one has no id or no digest".to_owned() }),
        }
    }

    /// What it is about. The host can't show one action and have another signed: the digest is worked out here.
    pub fn details(&self, viewer: &Viewer) -> Result<Details, Error> {
        let unread = |why: &str| {
            let next = "next: nothing was signed; `nexus agent refuse` needs no details";
            Error::NotAllowed(format!("what {} is about can't be read: {why}\n  {next}", self.id))
        };
        let text = self.view["sealed"].as_str().and_then(|sealed| viewer.text(sealed));
        let text = text.ok_or_else(|| unread("it does not open with this key"))?;
        let details: Details = serde_json::from_str(text.expose()).map_err(|_| unread("it has another form"))?;
        if details.asked.digest() == self.digest && details.asked.id() == self.id {
            Ok(details)
        } else {
            Err(unread("the host shows another action than the one that would be signed"))
        }
    }
}

/// What waits, newest first; with `all` also what is over.
pub async fn list(api: &Api, npub: &Npub, all: bool) -> Result<Vec<Shown>, Error> {
    let mut page = api.get(&format!("/v1/agents/{npub}/approvals?limit=200&all={all}")).await?;
    let Value::Array(views) = page["approvals"].take() else { return Ok(Vec::new()) };
    views.into_iter().map(Shown::read).collect()
}

/// One of them, now.
pub async fn read(api: &Api, npub: &Npub, id: ApprovalId) -> Result<Shown, Error> {
    Shown::read(api.get(&format!("/v1/agents/{npub}/approvals/{id}")).await?)
}

/// Signs an answer and hands it in; `api` must be asked by the owner's key. Returns whether it changes anything.
pub async fn answer(
    api: &Api,
    signer: &dyn Signer,
    npub: &Npub,
    shown: &Shown,
    answer: Answer,
    reason: &str,
    now: UnixMs,
) -> Result<bool, Error> {
    let pending = Pending { agent: *npub, id: shown.id, digest: shown.digest, request: shown.request };
    let unsigned = unsigned_decision(&signer.public_key(), &pending, answer, reason, None, timestamp(now))
        .map_err(|error| Error::Usage(format!("{error}\n  next: try again")))?;
    let event = signer.sign(unsigned).await.map_err(proof::signing)?;
    let body = serde_json::to_vec(&event).map_err(|error| Error::Failed(format!("writing the answer: {error}")))?;
    let call = Call::new(Method::POST, format!("/v1/agents/{npub}/approvals/{}", shown.id)).bytes(body);
    Ok(api.call(call).await?.status == reqwest::StatusCode::ACCEPTED)
}
