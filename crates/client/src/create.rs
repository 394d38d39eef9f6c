//! Making an agent: its keys are made here, and only sealed things leave.

use nexus_core::agent::validate_name;
use nexus_core::policy::Policy;
use nexus_core::time::random;
use nexus_core::{AgentConfig, Npub};
use nexus_seal::proof::PROOF_HEADER;
use nexus_seal::{Passphrase, SecretText, SignedPool, Signer};
use nexus_vault::{CreatedAgent, Host, Mnemonic, NewAgent, VaultError};
use reqwest::Method;
use serde_json::Value;

use crate::api::{Api, Call};
use crate::error::Error;
use crate::owner::OwnerKeys;
use crate::pool::Offer;
use crate::{policy, proof};

/// Attempts when the host does not answer: the Idempotency-Key makes them one creation.
const ATTEMPTS: u32 = 3;

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

/// An agent that the host took.
#[derive(Debug)]
pub struct Created {
    pub npub: Npub,
    /// The host's answer.
    pub answer: Value,
}

/// Makes and sends a new agent. `api` must be asked by the owner key; `pool` was verified along the pin.
///
/// Repeats with the same body and Idempotency-Key when the host does not answer, so that a lost answer makes no second
/// agent. Spends about a second in the passphrase's scrypt.
pub async fn create(
    api: &Api,
    owner: &OwnerKeys,
    offer: &Offer,
    pool: &SignedPool,
    draft: Draft,
) -> Result<Created, Error> {
    draft.check()?;
    let agent = make(api, owner, offer, pool, draft).await?;
    let npub = agent.body.npub;
    let body = serde_json::to_vec(&agent.body).map_err(|error| Error::Failed(format!("writing the agent: {error}")))?;
    let key = hex::encode(random::<16>(&*api.entropy));
    let url = api.url("/v1/agents")?;
    let mut attempt = 1;
    loop {
        let now = api.clock.now();
        let proof = proof::agent(&agent.signer, &owner.npub(), "POST", &url, &body, now, &*api.entropy).await?;
        let call = Call::new(Method::POST, "/v1/agents").bytes(body.clone());
        // Header names are lowercase on the wire; `PROOF_HEADER` is how people write this one.
        debug_assert!(PROOF_HEADER.eq_ignore_ascii_case("nexus-proof"));
        let call = call.header("nexus-proof", &proof).header("idempotency-key", &key);
        match api.call(call).await {
            Ok(answer) => return Ok(Created { npub, answer: answer.body }),
            Err(Error::Unreachable { why, .. }) if attempt < ATTEMPTS => {
                tracing::warn!(attempt, why, "the host did not answer; trying again");
                tokio::time::sleep(std::time::Duration::from_millis(500 * u64::from(attempt))).await;
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn make(
    api: &Api,
    owner: &OwnerKeys,
    offer: &Offer,
    pool: &SignedPool,
    draft: Draft,
) -> Result<CreatedAgent, Error> {
    let mnemonic = match &draft.mnemonic {
        Some(text) => Mnemonic::parse(text.expose())
            .map_err(|error| Error::Usage(format!("{error}\n  next: check the words in the mnemonic file")))?,
        None => Mnemonic::generate(&*api.entropy),
    };
    let agent = mnemonic.signer(std::sync::Arc::clone(&api.entropy)).map_err(failed)?.public_key();
    let policy = match &draft.policy {
        Some(text) => policy::next_version(text, &agent, None)?,
        None => Policy::default_for(agent),
    };
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
        entropy: std::sync::Arc::clone(&api.entropy),
    };
    new.create().await.map_err(failed)
}

fn failed(error: VaultError) -> Error {
    match error {
        VaultError::CustodyNotYet(_) => Error::Failed(format!("{error}\n  next: leave out --custody, or use sealed")),
        other => Error::Failed(format!("making the agent: {other}")),
    }
}
