//! Moving an agent: asking where it lives, closing it to another host, and telling the old ones.

use nexus_core::Npub;
use nexus_seal::claim::verify_claim;
use nexus_seal::{HostClaim, ImportAgent, SignedPool};
use nexus_vault::{Host, OpenedBackup, VaultError};
use nostr::event::Event;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use url::Url;

use crate::api::{Api, Call};
use crate::create::send_proven;
use crate::error::Error;
use crate::owner::OwnerKeys;
use crate::pool::Offer;

const PATH: &str = "/v1/agents/import";
/// Hosts that are asked one after another, each named by the claim that the one before holds.
const MAX_HOSTS: usize = 8;

/// What the hosts of an agent say.
#[derive(Debug, Default)]
pub struct Hosts {
    /// The highest claim found.
    pub found: Option<HostClaim>,
    /// Those to be told of the move.
    pub old: Vec<Url>,
    /// One that a claim names and that did not answer, and why.
    pub silent: Option<(Url, String)>,
}

/// Follows the claims from the backup's own to where the agent lives now. The host of `api` is asked too, and is none of
/// those to be told.
pub async fn find(api: &Api, npub: &Npub, from: Option<&HostClaim>) -> Result<Hosts, Error> {
    let mut hosts = Hosts { found: from.cloned(), ..Hosts::default() };
    for _ in 0..MAX_HOSTS {
        let Some(at) = &hosts.found else { break };
        let Some(url) = origin_of(&at.url) else { break };
        if hosts.old.contains(&url) {
            break;
        }
        let own = url.origin() == api.origin().origin();
        match held_by(&api.elsewhere(url.clone()), npub).await {
            Ok(None) => break,
            Ok(Some(claim)) => {
                hosts.old.extend((!own).then_some(url));
                match claim.supersedes(at) {
                    true => hosts.found = Some(claim),
                    false => break,
                }
            }
            Err(Error::Unreachable { why, .. }) => {
                hosts.silent = Some((url, why));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(hosts)
}

/// The claim that a host holds of an agent; none if it has nothing of it.
async fn held_by(api: &Api, npub: &Npub) -> Result<Option<HostClaim>, Error> {
    let answer = api.probe(Call::new(Method::GET, format!("/v1/agents/{npub}/claim"))).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let odd = |why: String| Error::Unreachable { url: api.origin().to_string(), why };
    if !answer.status.is_success() {
        return Err(odd(format!("it answered {}", answer.status)));
    }
    let event: Event = serde_json::from_value(answer.body).map_err(|error| odd(error.to_string()))?;
    verify_claim(&event, npub, api.clock.now()).map(Some).map_err(|error| odd(error.to_string()))
}

fn origin_of(url: &str) -> Option<Url> {
    let mut url: Url = url.parse().ok()?;
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    Some(url)
}

/// An agent that is closed to a new host, ready to be sent.
#[derive(Debug)]
pub struct Closed {
    opened: OpenedBackup,
    owner: Npub,
    body: Vec<u8>,
    /// The agent's word that it lives at the new host.
    pub claim: Event,
}

/// What is wanted of a move beside its host.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The file that was opened.
    pub document: Value,
    /// The highest claim that is known.
    pub found: Option<&'a HostClaim>,
    /// Another name than the backup's.
    pub name: Option<String>,
}

/// Closes a backup to the host of `api`. `pool` was verified along the pin.
pub async fn close(
    api: &Api,
    owner: &OwnerKeys,
    offer: &Offer,
    pool: &SignedPool,
    opened: OpenedBackup,
    wanted: Wanted<'_>,
) -> Result<Closed, Error> {
    let Wanted { document, found, name } = wanted;
    let host = Host { url: offer.public_origin.clone(), runner: offer.runner };
    let resealed = opened.reseal(&owner.npub(), pool, &host, found, api.clock.now()).await.map_err(failed)?;
    let body = ImportAgent {
        backup: document,
        name,
        sealed_key: resealed.sealed_key,
        claim: resealed.claim.clone(),
        wraps: resealed.pool_wrap.into_iter().collect(),
        state_version: opened.state.as_ref().and_then(|state| u32::try_from(state.version).ok()),
        spent: opened.state.as_ref().map(|state| state.spend),
    };
    let body = serde_json::to_vec(&body).map_err(|error| Error::Failed(format!("writing the agent: {error}")))?;
    Ok(Closed { opened, owner: owner.npub(), body, claim: resealed.claim })
}

impl Closed {
    /// Sends it; `api` must be asked by the owner key. Repeats as creating an agent does.
    pub async fn send(&self, api: &Api) -> Result<Value, Error> {
        send_proven(api, PATH, &*self.opened.signer, &self.owner, &self.body).await
    }

    /// Tells a host where the agent lives now. It needs nobody's login.
    pub async fn tell(&self, api: &Api, old: &Url) -> Result<Value, Error> {
        let body =
            serde_json::to_vec(&self.claim).map_err(|error| Error::Failed(format!("writing a claim: {error}")))?;
        let path = format!("/v1/agents/{}/claim", self.opened.verified().backup.npub);
        Ok(api.elsewhere(old.clone()).call(Call::new(Method::POST, path).bytes(body)).await?.body)
    }
}

pub(crate) fn failed(error: VaultError) -> Error {
    match error {
        VaultError::NoRunner => {
            Error::Failed(format!("{error}\n  next: start a worker on the new host, then try again"))
        }
        VaultError::Signer(error) => crate::proof::signing(error),
        other => Error::Failed(format!("closing the agent to the new host: {other}")),
    }
}
