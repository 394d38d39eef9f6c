//! Opening an agent for one turn: keys, policy, state. Dropped, and wiped, at the turn's end.

use std::collections::BTreeSet;
use std::sync::Arc;

use nexus_core::policy::{Custody, Policy, WalletChoice};
use nexus_core::rollback::Mark;
use nexus_core::state::AgentState;
use nexus_core::{Generation, Hash32, Npub};
use nexus_lightning::WalletStorage;
use nexus_lightning::lnd::Books;
use nexus_seal::blob::Purpose;
use nexus_seal::{Signer, SignerError, Wrap, verify_policy};
use nexus_store::agent::{self, Agent, Made};
use nexus_store::blob::{self, Blob};
use nexus_store::tick::NewState;
use nexus_vault::{AgentKeys, VaultError, WalletSeed};

use crate::error::TurnError;
use crate::faults::At;
use crate::host::Host;
use crate::kept::Kept;
use crate::readers;
use crate::rollback::{self, Found};
use crate::secrets::{self, Secrets, signer_problem};
use crate::sub_account::StoredBooks;

/// Until an agent that cannot be opened is tried again: its owner or operator has to act first.
const RETRY_MS: u64 = 60_000;

/// An agent, open.
pub(crate) struct Opened {
    pub npub: Npub,
    pub owner: Npub,
    pub custody: Custody,
    pub signer: Arc<dyn Signer>,
    pub wallet_seed: WalletSeed,
    pub wallet_storage: Arc<dyn WalletStorage>,
    pub wallet_books: Arc<dyn Books>,
    pub keys: AgentKeys,
    /// The policy to obey, or why there is none.
    pub policy: Result<Policy, PolicyProblem>,
    pub policy_digest: Option<Hash32>,
    pub state: AgentState,
    /// The stored version that `state` was read from; 0 before the first.
    pub stored_version: i64,
    /// The agent's own later word against the stored state, until the owner accepts it.
    pub rollback: Option<Found>,
    /// The anchored version that the owner overruled; what follows stands above it.
    pub overruled: i64,
    /// Who has a wrap of which view key.
    pub readers: BTreeSet<(u32, Npub)>,
}

/// Why no policy is obeyed.
#[derive(Debug, Clone)]
pub(crate) struct PolicyProblem {
    pub code: &'static str,
    pub text: String,
}

impl Opened {
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref().ok()
    }

    /// The wallet in force. Without a policy nothing is spent, but the agent can be funded: at the host's own kind.
    pub fn wallet(&self) -> WalletChoice {
        let named = || self.policy().map(|policy| policy.wallet.clone());
        self.state.wallet.clone().or_else(named).unwrap_or_default()
    }
}

/// Opens what is stored of an agent. Whatever does not fit together parks the agent under a name.
pub(crate) async fn unlock(host: &Arc<Host>, agent: &Agent) -> Result<Opened, TurnError> {
    let npub = agent.npub;
    let sealed = agent::sealed(&host.store, npub).await?.ok_or(TurnError::Stale)?;
    let secrets = secrets::of(host, agent, &sealed).await?;
    let (keys, readers, mut state, stored) = open_state(host, agent, &secrets).await?;
    state.room = agent.state_kib.and_then(|kib| usize::try_from(kib).ok()?.checked_mul(1_024));
    let rollback = rollback::look(host, agent, sealed.claim.as_deref(), stored).await?;
    let (policy, policy_digest) = open_policy(sealed.policy.as_ref().map(|p| p.event.as_str()), &secrets, &state);
    let wallet_storage = Kept::new(host, agent, &keys, &secrets.wallet);
    let mut opened = Opened {
        npub,
        owner: secrets.owner,
        custody: secrets.custody,
        signer: secrets.signer,
        wallet_seed: secrets.wallet,
        wallet_storage: Arc::new(wallet_storage),
        wallet_books: Arc::new(StoredBooks::new(host.store.clone(), host.clone(), npub, agent.generation)),
        keys,
        policy,
        policy_digest,
        state,
        stored_version: stored.map_or(0, |mark| i64::try_from(mark.version).unwrap_or(i64::MAX)),
        rollback,
        overruled: 0,
        readers,
    };
    if let Some(here) = host.wallets.home(&opened.wallet()) {
        // Kept with the next state that is stored: whether it fits is asked before the wallet is.
        opened.state.take_wallet_home(&here);
    }
    // Nothing is built on a state that may be an older one.
    if opened.rollback.is_none() {
        remember_policy(host, agent.generation, &mut opened).await?;
    }
    Ok(opened)
}

async fn open_state(
    host: &Host,
    agent: &Agent,
    secrets: &Secrets,
) -> Result<(AgentKeys, BTreeSet<(u32, Npub)>, AgentState, Option<Mark>), TurnError> {
    let npub = agent.npub;
    let stored = agent::state(&host.store, npub).await?;
    let wraps = agent::wraps(&host.store, npub).await?;
    let wraps: Vec<Wrap> = wraps.into_iter().filter_map(read_wrap).collect();
    let readers = readers::among(&wraps);
    let held = host.attended().keys(&npub, agent.generation);
    let keys = match held {
        Some(keys) => Ok(keys),
        None => AgentKeys::open(&*secrets.signer, &wraps).await,
    };
    let keys = match keys {
        Ok(keys) => keys,
        Err(VaultError::Signer(error @ SignerError::Offline(_))) => return Err(signer_problem(&error)),
        Err(VaultError::WrapMissing(_)) if stored.is_none() && !secrets.with_state => {
            make_keys(host, agent, secrets).await?
        }
        Err(error) => return Err(TurnError::parked("keys_refused", error.to_string(), RETRY_MS)),
    };
    if secrets.custody == Custody::Bunker {
        // Its signer is not asked for it again while the agent is here.
        host.attended().keep_keys(npub, agent.generation, &keys);
    }
    let Some(stored) = stored else {
        if secrets.with_state {
            // Starting afresh would forget which policy was obeyed and what was spent.
            let text = "this agent was created with a state, which is missing from the database: restore it";
            return Err(TurnError::parked("state_missing", text, RETRY_MS));
        }
        return Ok((keys, readers, AgentState::new(String::new(), Vec::new()), None));
    };
    if stored.generation > agent.generation {
        return Err(TurnError::parked("state_generation", "state of a later generation than the agent's", RETRY_MS));
    }
    let refused = |text: String| TurnError::parked("state_refused", text, RETRY_MS);
    let bytes = keys.data.open(Purpose::State, &stored.blob).map_err(|error| refused(error.to_string()))?;
    let state = AgentState::decode(bytes.expose()).map_err(|_| refused("state of another version".into()))?;
    if keys.view.number() < state.view_key {
        let text =
            format!("its view key {} is missing: what is stored is not what this agent's worker wrote", state.view_key);
        return Err(TurnError::parked("keys_refused", text, RETRY_MS));
    }
    let version = u64::try_from(stored.version).unwrap_or(0);
    Ok((keys, readers, state, Some(Mark { version, digest: Hash32::sha256(&stored.blob) })))
}

fn read_wrap(wrap: agent::Wrap) -> Option<Wrap> {
    let key = serde_json::from_value(serde_json::Value::String(wrap.key)).ok()?;
    Some(Wrap { key, number: wrap.number, recipient: wrap.recipient.parse().ok()?, ciphertext: wrap.ciphertext })
}

/// What a bare API caller left out is made at the first start.
async fn make_keys(host: &Host, agent: &Agent, secrets: &Secrets) -> Result<AgentKeys, TurnError> {
    let failed = |error: VaultError| TurnError::parked("keys_refused", error.to_string(), RETRY_MS);
    let keys = AgentKeys::generate(agent.npub, &*host.entropy);
    let recipient = host.pool.recipient();
    let pool = (secrets.custody == Custody::Sealed).then_some((host.config.pool.as_str(), &recipient));
    let wraps = keys.wraps(&*secrets.signer, &[secrets.owner], pool, &*host.entropy).await.map_err(failed)?;
    let stored = wraps.iter().map(|wrap| agent::Wrap {
        key: wrap.key.as_str().to_owned(),
        number: wrap.number,
        recipient: wrap.recipient.to_string(),
        ciphertext: wrap.ciphertext.clone(),
    });
    let made = Made { wraps: stored.collect(), inbox_recipient: Some(keys.inbox.recipient().to_string()), state: None };
    let fence = host.live_fence()?;
    agent::put_made(&host.store, fence, agent.npub, agent.generation, host.now(), made).await?;
    // Another worker may have been first: what is stored counts.
    let wraps = agent::wraps(&host.store, agent.npub).await?;
    let wraps: Vec<Wrap> = wraps.into_iter().filter_map(read_wrap).collect();
    AgentKeys::open(&*secrets.signer, &wraps).await.map_err(failed)
}

type Verified = (Result<Policy, PolicyProblem>, Option<Hash32>);

/// Verifies the stored policy against the owner inside the sealed key, and against what was obeyed before.
fn open_policy(event: Option<&str>, secrets: &Secrets, state: &AgentState) -> Verified {
    let Some(event) = event else {
        let text = "no policy signed by the owner: the agent may not spend".to_owned();
        return (Err(PolicyProblem { code: "policy_missing", text }), None);
    };
    let refused = |text: String| (Err(PolicyProblem { code: "policy_refused", text }), None);
    let event = match nexus_seal::event::parse_verified(event.as_bytes()) {
        Ok(event) => event,
        Err(error) => return refused(format!("policy refused: {error}")),
    };
    let signed = match verify_policy(&event, &secrets.owner, &secrets.npub) {
        Ok(signed) => signed,
        Err(error) => return refused(format!("policy refused: {error}")),
    };
    match signed.follows(state.policy_version, state.policy_digest, secrets.min_policy_version) {
        Ok(()) if signed.policy.custody != secrets.custody => {
            let (found, delivered) = (signed.policy.custody, secrets.custody);
            refused(format!("policy refused: it says custody {found:?}, but the key was given for {delivered:?}"))
        }
        Ok(()) => (Ok(signed.policy), Some(signed.digest)),
        Err(error) => refused(format!("policy refused: {error}")),
    }
}

/// A newer policy is noted in encrypted state before it is obeyed, so that no older one is ever obeyed after it.
async fn remember_policy(host: &Host, generation: Generation, opened: &mut Opened) -> Result<(), TurnError> {
    let Ok(policy) = &opened.policy else { return Ok(()) };
    if policy.version == opened.state.policy_version && opened.state.policy_digest == opened.policy_digest {
        return Ok(());
    }
    let version = policy.version;
    opened.state.policy_version = version;
    opened.state.policy_digest = opened.policy_digest;
    save_state(host, generation, opened).await
}

/// Stores the state outside a tick. A tick that is open keeps its journal; its commit builds on this state.
pub(crate) async fn save_state(host: &Host, generation: Generation, opened: &mut Opened) -> Result<(), TurnError> {
    let state = seal_state(host, generation, opened).await?;
    let version = state.version;
    let fence = host.live_fence()?;
    let made = Made { wraps: Vec::new(), inbox_recipient: None, state: Some(state) };
    agent::put_made(&host.store, fence, opened.npub, generation, host.now(), made).await?;
    opened.stored_version = version;
    Ok(())
}

/// The next version of the state, closed; a large one is in the object store by then.
pub(crate) async fn seal_state(
    host: &Host,
    generation: Generation,
    opened: &mut Opened,
) -> Result<NewState, TurnError> {
    let version = opened.stored_version.max(opened.overruled) + 1;
    opened.state.version = u64::try_from(version).unwrap_or(0);
    let bytes =
        opened.state.encode().map_err(|error| TurnError::parked("state_too_large", error.to_string(), RETRY_MS))?;
    let bytes = zeroize::Zeroizing::new(bytes);
    let blob = opened
        .keys
        .data
        .seal(Purpose::State, &bytes, &*host.entropy)
        .map_err(|error| TurnError::parked("state_too_large", error.to_string(), RETRY_MS))?;
    Ok(NewState { version, after: opened.stored_version, blob: stage(host, opened.npub, generation, blob).await? })
}

/// Puts sealed bytes where they belong, before the batch that names them.
pub(crate) async fn stage(host: &Host, npub: Npub, generation: Generation, sealed: Vec<u8>) -> Result<Blob, TurnError> {
    let fence = host.live_fence()?;
    host.faults.pass(At::Before, "stage").await;
    let blob = blob::stage(&host.store, fence, npub, generation, host.now(), sealed).await?;
    host.faults.pass(At::After, "stage").await;
    Ok(blob)
}
