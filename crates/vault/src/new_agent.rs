//! Everything that a client makes for a new agent, before it sends anything.

use std::sync::Arc;

use nexus_core::policy::{Custody, Policy};
use nexus_core::state::AgentState;
use nexus_core::{AgentConfig, Entropy, Npub, UnixMs};
use nexus_seal::blob::Purpose;
use nexus_seal::claim::unsigned_claim;
use nexus_seal::event::timestamp;
use nexus_seal::policy::unsigned_policy;
use nexus_seal::{CreateAgent, Passphrase, Sealed, SignedPool, Signer, seal_mnemonic};

use crate::error::VaultError;
use crate::keys::AgentKeys;
use crate::mnemonic::Mnemonic;
use crate::runtime::{Remote, RuntimeKey, fits};
use crate::signer::LocalSigner;

/// Where the agent will live.
#[derive(Debug, Clone)]
pub struct Host {
    /// Public origin of the installation.
    pub url: String,
    /// The installation's runner key; without one no host claim is made.
    pub runner: Option<Npub>,
}

/// What goes into a new agent.
pub struct NewAgent<'a> {
    pub name: String,
    pub config: AgentConfig,
    pub mnemonic: &'a Mnemonic,
    pub passphrase: &'a Passphrase,
    /// Signs the policy, reads the view key.
    pub owner: &'a dyn Signer,
    /// For this mnemonic's npub; [`Policy::default_for`] when the owner chose nothing.
    pub policy: Policy,
    /// As followed along the pin.
    pub pool: &'a SignedPool,
    pub host: Host,
    pub persona: String,
    pub goals: Vec<String>,
    pub now: UnixMs,
    pub entropy: Arc<dyn Entropy>,
}

/// A new agent, closed, and its signer to prove it.
#[derive(Debug)]
pub struct CreatedAgent {
    /// The body of `POST /v1/agents`.
    pub body: CreateAgent,
    /// Signs the `Nexus-Proof`.
    pub signer: LocalSigner,
}

impl NewAgent<'_> {
    /// Makes keys, envelopes, wraps, policy, claim and first state. Nothing leaves this process.
    ///
    /// Spends about a second of computing in the passphrase's scrypt.
    pub async fn create(self) -> Result<CreatedAgent, VaultError> {
        let signer = self.mnemonic.signer(Arc::clone(&self.entropy))?;
        let body = self.body(&signer, None).await?;
        Ok(CreatedAgent { body, signer })
    }

    /// The same in bunker custody: the agent's key is `signer`'s, the mnemonic is the wallet's alone.
    pub async fn create_at(self, signer: &dyn Signer, remote: &Remote) -> Result<CreateAgent, VaultError> {
        self.body(signer, Some(remote)).await
    }

    async fn body(self, signer: &dyn Signer, remote: Option<&Remote>) -> Result<CreateAgent, VaultError> {
        let custody = self.policy.custody;
        fits(custody, remote)?;
        let entropy = &*self.entropy;
        let npub = signer.public_key();
        if self.policy.agent != npub {
            return Err(VaultError::OtherAgent { expected: npub, found: self.policy.agent });
        }
        let words = self.mnemonic.expose();
        let owner = self.owner.public_key();
        let (pool_id, recipient) = (&self.pool.document.pool_id, self.pool.recipient());
        let runtime = RuntimeKey {
            npub,
            owner,
            custody,
            mnemonic: self.mnemonic,
            remote,
            min_policy_version: self.policy.version,
            with_state: true,
        };
        let sealed_key = runtime.seal(self.pool)?;
        let keys = AgentKeys::generate(npub, entropy);
        let readers: Vec<Npub> = std::iter::once(owner).chain(self.policy.readers.iter().copied()).collect();
        let readers = distinct(readers);
        // Only a pool that could open everything anyway gets the data key.
        let pool = (custody == Custody::Sealed).then_some((pool_id.as_str(), recipient));
        let wraps = keys.wraps(signer, &readers, pool, entropy).await?;
        let state = AgentState::new(self.persona, self.goals).encode()?;
        let policy = unsigned_policy(&owner, &self.policy, timestamp(self.now))?;
        let (inbox, now) = (keys.inbox.recipient(), timestamp(self.now));
        let claim = |runner| unsigned_claim(&npub, &runner, &self.host.url, 1, Some(&inbox), now);
        let claim = match self.host.runner {
            Some(runner) => Some(signer.sign(claim(runner)).await?),
            None => None,
        };
        Ok(CreateAgent {
            name: self.name,
            npub,
            mnemonic_encrypted: seal_mnemonic(&words, self.passphrase)?,
            config: self.config,
            sealed_key,
            policy: Some(self.owner.sign(policy).await?),
            claim,
            inbox_recipient: Some(inbox),
            wraps,
            state: Some(Sealed(keys.data.seal(Purpose::State, &state, entropy)?)),
        })
    }
}

fn distinct(mut readers: Vec<Npub>) -> Vec<Npub> {
    readers.sort();
    readers.dedup();
    readers
}
