//! What opens an agent, from wherever its custody keeps it: sealed to the pool, delivered by its owner, or at its owner's
//! signer.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use nexus_core::Npub;
use nexus_core::policy::{Custody, Policy};
use nexus_core::status::Desired;
use nexus_nostr::bunker::{Line, Link, RemoteSigner};
use nexus_nostr::relay_pool::Interest;
use nexus_seal::{BoxFuture, Signer, SignerError};
use nexus_store::agent::{Agent, Sealed};
use nexus_vault::{AgentSecrets, BunkerSecrets, RuntimeSecrets, WalletSeed};
use nostr::event::Event;

use crate::error::TurnError;
use crate::host::Host;
use crate::relays::Relays;

/// The reason of an agent whose owner has to unlock it.
pub(crate) const LOCKED: &str = "locked";
/// The reason of an agent whose signer does not answer.
pub(crate) const SIGNER_OFFLINE: &str = "signer_offline";
/// Until an agent that cannot be opened is tried again: its owner or operator has to act first.
const RETRY_MS: u64 = 60_000;
/// A signer that comes back is found this soon.
const SIGNER_RETRY_MS: u64 = 5_000;
/// For one answer of a signer elsewhere.
const SIGNER_PATIENCE: Duration = Duration::from_secs(8);

/// An agent's keys, or the way to them.
pub(crate) struct Secrets {
    pub npub: Npub,
    pub owner: Npub,
    pub custody: Custody,
    pub min_policy_version: u64,
    pub with_state: bool,
    pub signer: Arc<dyn Signer>,
    pub wallet: WalletSeed,
}

/// Opens what there is. An agent that nobody can open now says what it waits for.
pub(crate) async fn of(host: &Host, agent: &Agent, sealed: &Sealed) -> Result<Secrets, TurnError> {
    let refused = |text: String| TurnError::parked("sealed_key_refused", text, RETRY_MS);
    let Some(sealed_key) = &sealed.sealed_key else {
        let held = host.attended().secrets(&agent.npub, agent.generation);
        return held.map(|secrets| local(&secrets)).ok_or_else(|| locked(agent, sealed));
    };
    let opened = RuntimeSecrets::open(sealed_key, &host.pool, &host.config.pool, &agent.npub, host.entropy.clone());
    match opened.map_err(|error| refused(error.to_string()))? {
        RuntimeSecrets::Local(secrets) if secrets.custody == Custody::Sealed => Ok(local(&secrets)),
        RuntimeSecrets::Local(_) => {
            Err(refused("a key is stored, but in this custody none is: only its owner unlocks it".to_owned()))
        }
        RuntimeSecrets::Bunker(secrets) => remote(host, secrets).await,
    }
}

fn local(secrets: &AgentSecrets) -> Secrets {
    Secrets {
        npub: secrets.npub,
        owner: secrets.owner,
        custody: secrets.custody,
        min_policy_version: secrets.min_policy_version,
        with_state: secrets.with_state,
        signer: secrets.signer.clone(),
        wallet: secrets.wallet.clone(),
    }
}

/// The signer is asked at the beginning of each turn, so that nothing begins that it could not end.
async fn remote(host: &Host, secrets: BunkerSecrets) -> Result<Secrets, TurnError> {
    let link = Link {
        signer: secrets.signer,
        relays: secrets.relays,
        client: secrets.client,
        line: Arc::new(RelayLine(host.relays.clone())),
        clock: host.clock.clone(),
        entropy: host.entropy.clone(),
        patience: SIGNER_PATIENCE,
    };
    let signer = RemoteSigner::known(link, secrets.npub);
    signer.check().await.map_err(|error| signer_problem(&error))?;
    Ok(Secrets {
        npub: secrets.npub,
        owner: secrets.owner,
        custody: Custody::Bunker,
        min_policy_version: secrets.min_policy_version,
        with_state: secrets.with_state,
        signer: Arc::new(signer),
        wallet: secrets.wallet,
    })
}

/// What becomes of a turn whose signer did not do what it was asked. A tick that is open stays in its journal.
pub(crate) fn signer_problem(error: &SignerError) -> TurnError {
    match error {
        SignerError::Offline(why) => {
            let text = format!("its remote signer is offline: {why}; everything waits, and it is asked again");
            TurnError::parked(SIGNER_OFFLINE, text, SIGNER_RETRY_MS)
        }
        SignerError::Refused(_) | SignerError::WrongKey { .. } | SignerError::Cipher(_) => {
            TurnError::parked("signer_refused", error.to_string(), 10_000)
        }
    }
}

fn locked(agent: &Agent, sealed: &Sealed) -> TurnError {
    // What the stored policy says is good enough for words.
    let event = sealed.policy.as_ref().and_then(|policy| serde_json::from_str::<Event>(&policy.event).ok());
    let policy = event.and_then(|event| Policy::parse(&event.content).ok());
    let attended = policy.is_some_and(|policy| policy.custody == Custody::Attended);
    let name = &agent.name;
    let text = match (attended, agent.desired) {
        (true, Desired::Running) => format!("locked: its owner has to unlock it: `nexus agent unlock {name}`"),
        (true, Desired::Stopped) => {
            format!("locked, and stopped: `nexus agent start {name}`, then `nexus agent unlock {name}`")
        }
        (false, _) => "no key is sealed to this pool: create the agent again with the nexus client".to_owned(),
    };
    TurnError::parked(LOCKED, text, RETRY_MS)
}

/// The worker's relays, as a signer's user needs them: all agents share their connections.
struct RelayLine(Arc<dyn Relays>);

impl Line for RelayLine {
    fn publish<'a>(&'a self, event: &'a Event, relays: &'a [String], limit: Duration) -> BoxFuture<'a, bool> {
        let publishing = self.0.publish(event, relays, limit);
        Box::pin(async move { publishing.await.iter().any(|report| report.outcome.is_ok()) })
    }

    fn subscribe(&self, interest: Interest) -> BoxStream<'static, Arc<Event>> {
        self.0.subscribe(interest).boxed()
    }
}
