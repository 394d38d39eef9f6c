//! Making an agent: its keys are made here, and only sealed things leave.

use std::sync::Arc;

use nexus_core::agent::validate_name;
use nexus_core::policy::{Custody, Policy};
use nexus_core::time::random;
use nexus_core::{AgentConfig, Npub};
use nexus_seal::{CreateAgent, Passphrase, SecretText, SignedPool, Signer};
use nexus_vault::{CreatedAgent, Host, Mnemonic, NewAgent, VaultError};
use reqwest::Method;
use serde_json::Value;

use crate::api::{Api, Call};
use crate::bunker::Bunker;
use crate::error::Error;
use crate::owner::OwnerKeys;
use crate::pool::Offer;
use crate::{policy, proof};

/// Attempts when the host does not answer: the Idempotency-Key makes them one creation.
const ATTEMPTS: u32 = 3;
const PATH: &str = "/v1/agents";
/// [`nexus_seal::proof::PROOF_HEADER`] as header names are on the wire: in lower case.
const PROOF: &str = "nexus-proof";

/// What the owner decided about a new agent.
pub struct Draft {
    pub name: String,
    pub config: AgentConfig,
    /// A mnemonic to use; a new one is made without.
    pub mnemonic: Option<SecretText>,
    /// Closes the owner's envelope.
    pub passphrase: Passphrase,
    /// A policy document (JSON) to sign as version 1; the default one without.
    pub policy: Option<String>,
    pub persona: String,
    pub goals: Vec<String>,
    /// Who can use its key. A policy document that names another is refused.
    pub custody: Custody,
    /// In bunker custody: the owner's signer, connected. The mnemonic is the wallet's alone then.
    pub bunker: Option<Bunker>,
}

impl Draft {
    /// Refuses what the host would refuse, before any key is made.
    pub fn check(&self) -> Result<(), Error> {
        let usage = |error: nexus_core::agent::InvalidConfig| {
            Error::Usage(format!("{error}\n  next: change it and run the command again"))
        };
        validate_name(&self.name).map_err(usage)?;
        self.config.validate().map_err(usage)
    }
}

/// A new agent, closed and ready to be sent.
pub struct Prepared {
    agent: CreateAgent,
    /// Holds the agent's key, and proves it.
    signer: Arc<dyn Signer>,
    owner: Npub,
    body: Vec<u8>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("npub", &self.agent.npub).field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// Makes a new agent's keys, envelopes, policy and first state. `pool` was verified along the pin. Nothing is sent.
///
/// Spends about a second in the passphrase's scrypt.
pub async fn prepare(
    api: &Api,
    owner: &OwnerKeys,
    offer: &Offer,
    pool: &SignedPool,
    draft: Draft,
) -> Result<Prepared, Error> {
    draft.check()?;
    let mnemonic = match &draft.mnemonic {
        Some(text) => Mnemonic::parse(text.expose())
            .map_err(|error| Error::Usage(format!("{error}\n  next: check the words in the mnemonic file")))?,
        None => Mnemonic::generate(&*api.entropy),
    };
    let npub = match &draft.bunker {
        Some(bunker) => bunker.signer.public_key(),
        None => mnemonic.signer(Arc::clone(&api.entropy)).map_err(failed)?.public_key(),
    };
    let policy = match &draft.policy {
        Some(text) => policy::next_version(text, &npub, None)?,
        None => Policy { custody: draft.custody, ..Policy::default_for(npub) },
    };
    if policy.custody != draft.custody {
        return Err(Error::Usage(format!(
            "the policy document says custody {:?}, the command {:?}\n  next: make them agree",
            policy.custody, draft.custody
        )));
    }
    let signer = owner.signer();
    let new = NewAgent {
        name: draft.name,
        config: draft.config,
        mnemonic: &mnemonic,
        passphrase: &draft.passphrase,
        owner: &*signer,
        policy,
        pool,
        host: Host { url: offer.public_origin.clone(), runner: offer.runner },
        persona: draft.persona,
        goals: draft.goals,
        now: api.clock.now(),
        entropy: Arc::clone(&api.entropy),
    };
    let (agent, signer): (CreateAgent, Arc<dyn Signer>) = match draft.bunker {
        Some(bunker) => {
            let agent = new.create_at(&*bunker.signer, &bunker.remote).await.map_err(failed)?;
            (agent, bunker.signer)
        }
        None => {
            let CreatedAgent { body, signer } = new.create().await.map_err(failed)?;
            (body, Arc::new(signer))
        }
    };
    let body = serde_json::to_vec(&agent).map_err(|error| Error::Failed(format!("writing the agent: {error}")))?;
    Ok(Prepared { agent, signer, owner: owner.npub(), body })
}

impl Prepared {
    pub fn npub(&self) -> Npub {
        self.agent.npub
    }

    /// The owner's envelope: an armored age file that the passphrase opens anywhere.
    pub fn envelope(&self) -> &str {
        &self.agent.mnemonic_encrypted
    }

    /// Sends it; `api` must be asked by the owner key. Gives the host's answer.
    ///
    /// Repeats with the same body and Idempotency-Key when the host does not answer, so that a lost answer makes no
    /// second agent.
    pub async fn send(&self, api: &Api) -> Result<Value, Error> {
        send_proven(api, PATH, &*self.signer, &self.owner, &self.body).await
    }
}

/// Posts a body with the agent's proof, as [`Prepared::send`] says.
pub(crate) async fn send_proven(
    api: &Api,
    path: &'static str,
    agent: &dyn Signer,
    owner: &Npub,
    body: &[u8],
) -> Result<Value, Error> {
    let key = hex::encode(random::<16>(&*api.entropy));
    let url = api.url(path)?;
    let mut attempt = 1;
    loop {
        let proof = proof::agent(agent, owner, "POST", &url, body, api.clock.now(), &*api.entropy).await?;
        let call = Call::new(Method::POST, path).bytes(body.to_vec());
        match api.call(call.header(PROOF, &proof).header("idempotency-key", &key)).await {
            Ok(answer) => return Ok(answer.body),
            Err(Error::Unreachable { why, .. }) if attempt < ATTEMPTS => {
                tracing::warn!(attempt, why, "the host did not answer; trying again");
                tokio::time::sleep(std::time::Duration::from_millis(500 * u64::from(attempt))).await;
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

fn failed(error: VaultError) -> Error {
    match error {
        VaultError::CustodyNotYet(_) => Error::Failed(format!("{error}\n  next: leave out --custody, or use attended")),
        VaultError::Signer(error) => crate::proof::signing(error),
        other => Error::Failed(format!("making the agent: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_goes_where_the_host_looks_for_it() {
        assert!(nexus_seal::proof::PROOF_HEADER.eq_ignore_ascii_case(PROOF));
    }
}
