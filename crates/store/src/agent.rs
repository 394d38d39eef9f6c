//! Agents: identity, every axis of their status, configuration, sealed parts and encrypted state.

use nexus_core::lifecycle::Lifecycle;
use nexus_core::status::{CustodyState, Desired, Hosting, Placement, Purpose, Reason};
use nexus_core::{AccountId, AgentConfig, Generation, Hash32, Msat, Npub, UnixMs, WorkerId};

use crate::event::NewEvent;
use crate::idempotency::Idempotency;
use crate::tick::NewState;
use crate::{Audit, Fence, Result, Store};

/// Most agents of one page.
pub const MAX_PAGE: u32 = 500;

/// An agent's row: everything but its sealed parts and state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub npub: Npub,
    pub account: AccountId,
    pub name: String,
    pub config: AgentConfig,
    /// Raised by every change of `config` or `name`: the API's ETag.
    pub config_version: i64,
    pub desired: Desired,
    /// Raised whenever the worker must look: start, stop, configuration, policy, placement, wallet request.
    pub desired_rev: i64,
    /// `stop --now`: signing is revoked, an open tick ends at once.
    pub stop_now: bool,
    pub custody: CustodyState,
    pub lifecycle: Lifecycle,
    /// Since when it is in this lifecycle.
    pub lifecycle_since: UnixMs,
    pub hosting: Hosting,
    pub placement: Placement,
    pub purpose: Purpose,
    pub worker: Option<WorkerId>,
    pub last_worker: Option<WorkerId>,
    pub generation: Generation,
    pub reason: Option<Reason>,
    pub next_attempt_at: Option<UnixMs>,
    pub next_tick_at: Option<UnixMs>,
    pub last_tick_at: Option<UnixMs>,
    pub balance: Option<Msat>,
    pub balance_at: Option<UnixMs>,
    /// Highest policy version stored; the worker verifies the document itself.
    pub policy_version: Option<i64>,
    /// The last price that a provider asked.
    pub last_quote: Option<Msat>,
    pub event_seq: i64,
    pub event_head: Hash32,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}

/// The owner-signed policy event, stored verbatim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPolicy {
    pub version: i64,
    pub event: String,
}

/// What only the right key opens, and what is signed. Texts as they came.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Sealed {
    /// Armored age file under the owner's passphrase.
    pub mnemonic_encrypted: String,
    /// Sealed to the pool.
    pub sealed_key: Option<String>,
    pub policy: Option<StoredPolicy>,
    /// The agent-signed host claim.
    pub claim: Option<String>,
    /// The public X25519 recipient of the inbox.
    pub inbox_recipient: Option<String>,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed")
            .field("policy_version", &self.policy.as_ref().map(|policy| policy.version))
            .finish_non_exhaustive()
    }
}

/// One wrap of one key for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrap {
    /// `data`, `view` or `inbox`.
    pub key: String,
    pub number: u32,
    /// `self`, `pool:<id>`, `data` or an npub.
    pub recipient: String,
    pub ciphertext: String,
}

/// An agent to create.
#[derive(Debug, Clone)]
pub struct NewAgent {
    pub npub: Npub,
    pub account: AccountId,
    pub name: String,
    pub config: AgentConfig,
    pub sealed: Sealed,
    pub wraps: Vec<Wrap>,
    /// Version 1 of the encrypted state.
    pub state: Option<Vec<u8>>,
    pub hosting: Hosting,
    pub reason: Option<Reason>,
    pub created_at: UnixMs,
}

/// The encrypted state as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateBlob {
    pub version: i64,
    /// The generation that wrote it, never above the agent's.
    pub generation: Generation,
    pub blob: Vec<u8>,
    pub at: UnixMs,
}

/// Which agents to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub desired: Option<Desired>,
    pub lifecycle: Option<Lifecycle>,
    pub region: Option<String>,
    /// Key and value.
    pub label: Option<(String, String)>,
    pub name: Option<String>,
    /// The last npub of the page before.
    pub after: Option<Npub>,
    /// [`MAX_PAGE`] when 0 or above.
    pub limit: u32,
}

/// A worker's changes to an agent's row. `None` leaves a field; for `reason`, `next_attempt_at` and `next_tick_at`
/// `Some(None)` clears it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    pub custody: Option<CustodyState>,
    pub lifecycle: Option<Lifecycle>,
    pub reason: Option<Option<Reason>>,
    pub next_attempt_at: Option<Option<UnixMs>>,
    pub next_tick_at: Option<Option<UnixMs>>,
    pub last_tick_at: Option<UnixMs>,
    /// Stored with the batch's time.
    pub balance: Option<Msat>,
    pub last_quote: Option<Msat>,
}

/// What a bare caller left out at creation and the worker made at the first start.
#[derive(Debug, Clone, Default)]
pub struct Made {
    pub wraps: Vec<Wrap>,
    pub inbox_recipient: Option<String>,
    pub state: Option<NewState>,
}

/// # Errors
/// `Conflict::NpubTaken`, `Conflict::NameTaken`, `Conflict::NoAccount`; `Duplicate` when the idempotency key is taken.
pub async fn create(store: &Store, agent: NewAgent, idempotency: Option<Idempotency>, audit: Audit) -> Result<Agent> {
    todo!()
}

pub async fn get(store: &Store, npub: Npub) -> Result<Option<Agent>> {
    todo!()
}

/// The account's own agent; none for someone else's.
pub async fn get_owned(store: &Store, account: AccountId, npub: Npub) -> Result<Option<Agent>> {
    todo!()
}

pub async fn by_name(store: &Store, account: AccountId, name: &str) -> Result<Option<Agent>> {
    todo!()
}

/// Whether this npub is hosted here: the relay's question.
pub async fn is_hosted(store: &Store, npub: Npub) -> Result<bool> {
    todo!()
}

/// One page in npub order.
pub async fn list(store: &Store, account: AccountId, filter: &Filter) -> Result<Vec<Agent>> {
    todo!()
}

/// How many agents the account has.
pub async fn count(store: &Store, account: AccountId) -> Result<u64> {
    todo!()
}

/// Starts or stops. Raises the revision also when nothing changes, so that a repeated call wakes the worker again. A start
/// clears `stop_now`, the reason and makes the agent due for placement.
///
/// # Errors
/// `Conflict::NoAgent`.
pub async fn set_desired(
    store: &Store,
    npub: Npub,
    desired: Desired,
    stop_now: bool,
    reason: Option<Reason>,
    audit: Audit,
) -> Result<Agent> {
    todo!()
}

/// Replaces name and configuration, if `expected_version` is still the stored one.
///
/// # Errors
/// `Conflict::Version`, `Conflict::NameTaken`, `Conflict::NoAgent`.
pub async fn set_config(
    store: &Store,
    npub: Npub,
    expected_version: i64,
    name: &str,
    config: &AgentConfig,
    audit: Audit,
) -> Result<Agent> {
    todo!()
}

/// Stores a newer policy: its version must be above the stored one.
///
/// # Errors
/// `Conflict::Version`, `Conflict::NoAgent`.
pub async fn set_policy(store: &Store, npub: Npub, policy: StoredPolicy, audit: Audit) -> Result<Agent> {
    todo!()
}

/// Replaces the key sealed to the pool (after re-sealing by the owner's client), and wraps.
pub async fn set_sealed_key(
    store: &Store,
    npub: Npub,
    sealed_key: String,
    wraps: Vec<Wrap>,
    audit: Audit,
) -> Result<Agent> {
    todo!()
}

/// Deletes the agent and all its rows; audit rows stay.
///
/// # Errors
/// `Conflict::Unresolved` while payments are unresolved, unless `forfeit`; `Conflict::NoAgent`.
pub async fn delete(store: &Store, npub: Npub, forfeit: bool, audit: Audit) -> Result<()> {
    todo!()
}

pub async fn sealed(store: &Store, npub: Npub) -> Result<Option<Sealed>> {
    todo!()
}

pub async fn wraps(store: &Store, npub: Npub) -> Result<Vec<Wrap>> {
    todo!()
}

pub async fn state(store: &Store, npub: Npub) -> Result<Option<StateBlob>> {
    todo!()
}

/// A worker's change of status, with the events that tell it. Returns the events' numbers.
pub async fn change(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: Generation,
    at: UnixMs,
    change: Change,
    events: Vec<NewEvent>,
) -> Result<Vec<i64>> {
    todo!()
}

/// Stores what the worker made at the first start. Wraps that exist are left.
pub async fn put_made(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: Generation,
    at: UnixMs,
    made: Made,
) -> Result<()> {
    todo!()
}

/// Makes the heartbeat due now, by the control plane (start, funding).
pub async fn make_due(store: &Store, npub: Npub, at: UnixMs) -> Result<()> {
    todo!()
}
