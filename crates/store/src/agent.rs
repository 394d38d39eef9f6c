//! Agents: identity, every axis of their status, configuration, sealed parts and encrypted state.

use nexus_core::lifecycle::Lifecycle;
use nexus_core::status::{CustodyState, Desired, Hosting, Placement, Purpose, Reason};
use nexus_core::{AccountId, AgentConfig, Generation, Hash32, Msat, Npub, UnixMs, WorkerId};

use crate::batch::{Lock, params};
use crate::draft::{Draft, rev};
use crate::hosting::{self, Billed};
use crate::idempotency::Idempotency;
use crate::object::ObjectProblem;
use crate::row::Columns;
use crate::sub_account;
use crate::tick::NewState;
use crate::{Audit, Conflict, Result, Statement, Store, StoreError, blob};

mod hosted;
mod moving;
mod row;

pub use hosted::{Change, Made, Settle, change, put_made, raise_reader, set_readers, settle};
pub(crate) use hosted::{noticed_statement, reconciled_statement};
pub use moving::{Arrival, Departure, arrive, keep_claim, leave};
pub(crate) use row::{agent_columns, agent_row};

/// Most agents of one page.
pub const MAX_PAGE: u32 = 500;
/// The pool of every agent whose key is sealed to this installation's pool.
pub const DEFAULT_POOL: &str = "default";
const READ: &str = "read an agent";
const DELETE: &str = "delete an agent";
/// Times that a deletion follows an agent that was moved meanwhile.
const MOVES: u32 = 5;

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
    /// The lowest version of a worker that reads what is stored of it.
    pub reader_version: u32,
    /// The origin where it lives now, if it has moved away: nothing of it runs here then.
    pub moved_to: Option<String>,
    /// When the database was last put back from a backup: what was sent before that is not looked at again.
    pub restored_at: Option<UnixMs>,
    /// It was put back, and its wallet was not compared with its books yet: nothing is spent until then.
    pub unreconciled: bool,
    /// What its owner was last told that it needs them for; none when that is over. And when something was told.
    pub noticed: Option<String>,
    pub noticed_at: Option<UnixMs>,
    /// Up to when its schedules were looked at, and when one is due next.
    pub schedules_at: Option<UnixMs>,
    pub next_schedule_at: Option<UnixMs>,
    /// Its hosting ends in less than so many days, and is not covered.
    pub hosting_notice: Option<u16>,
    /// As its account's plan allows; none for no bound.
    pub ticks_per_day: Option<u32>,
    /// Largest private state, in KiB, as its plan has it; none for no bound but the program's.
    pub state_kib: Option<u32>,
    /// Its name before the `@` of this host; its npub stands there without one, and beside one.
    pub address: Option<String>,
    /// Whether the schedule that its relays have says that it is active.
    pub shown_active: bool,
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

/// Creates it, however many the account has. Else as [`create_within`].
pub async fn create(store: &Store, agent: NewAgent, idempotency: Option<Idempotency>, audit: Audit) -> Result<Agent> {
    create_within(store, agent, None, idempotency, audit).await
}

/// Creates it if the account then has at most `most` agents, however many are created at once.
///
/// # Errors
/// `Conflict::NpubTaken`, `Conflict::NameTaken`, `Conflict::NoAccount`, `Conflict::TooManyAgents`; `Duplicate` when the
/// idempotency key is taken.
pub async fn create_within(
    store: &Store,
    agent: NewAgent,
    most: Option<u32>,
    idempotency: Option<Idempotency>,
    audit: Audit,
) -> Result<Agent> {
    let mut draft = Draft::new("create an agent");
    if let Some(idempotency) = idempotency {
        draft.push(idempotency.statement());
    }
    draft.push(
        Statement::read("SELECT 1 FROM account WHERE account_id = ?1", params![agent.account])
            .one_or_conflict(Conflict::NoAccount),
    );
    draft.push(
        Statement::read("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM agent WHERE npub = ?1)", params![agent.npub])
            .one_or_conflict(Conflict::NpubTaken),
    );
    draft.push(name_free(agent.account, agent.npub, &agent.name));
    // Holds the counter's row until the commit: whoever counts after it sees every agent created before.
    draft.next_rev();
    if let Some(most) = most {
        draft.push(room_statement(agent.account, most));
    }
    draft.push(agent.insert_statement()?);
    draft.push(agent.sealed.insert_statement(agent.npub));
    for statement in label_statements(agent.npub, &agent.config) {
        draft.push(statement);
    }
    for wrap in &agent.wraps {
        draft.push(wrap.insert_statement(agent.npub));
    }
    if let Some(blob) = agent.state {
        let state = NewState { version: 1, after: 0, blob: blob.into() };
        for statement in state_statements(store, agent.npub, Generation(0), &state, agent.created_at) {
            draft.push(statement);
        }
    }
    draft.push(audit.statement());
    write_and_read(store, draft, agent.npub).await
}

pub async fn get(store: &Store, npub: Npub) -> Result<Option<Agent>> {
    store.row(READ, concat!(agent_columns!(), " WHERE a.npub = ?1"), params![npub], agent_row).await
}

/// The account's own agent; none for someone else's.
pub async fn get_owned(store: &Store, account: AccountId, npub: Npub) -> Result<Option<Agent>> {
    let sql = concat!(agent_columns!(), " WHERE a.npub = ?1 AND a.account_id = ?2");
    store.row(READ, sql, params![npub, account], agent_row).await
}

pub async fn by_name(store: &Store, account: AccountId, name: &str) -> Result<Option<Agent>> {
    let sql = concat!(agent_columns!(), " WHERE a.account_id = ?1 AND a.name = ?2");
    store.row(READ, sql, params![account, name.to_owned()], agent_row).await
}

/// Whoever has this address here, moved away or not.
pub async fn by_address(store: &Store, address: &str) -> Result<Option<Agent>> {
    let sql = concat!(agent_columns!(), " WHERE a.address = ?1");
    store.row(READ, sql, params![address.to_owned()], agent_row).await
}

/// Whether this npub is hosted here: the relay's question.
pub async fn is_hosted(store: &Store, npub: Npub) -> Result<bool> {
    let sql = "SELECT 1 FROM agent WHERE npub = ?1 AND moved_to IS NULL";
    Ok(store.row(READ, sql, params![npub], |row| row.get::<i64>()).await?.is_some())
}

/// One page in npub order.
pub async fn list(store: &Store, account: AccountId, filter: &Filter) -> Result<Vec<Agent>> {
    // One statement for every mixture of filters; the account's index does the work.
    let sql = concat!(
        agent_columns!(),
        " WHERE a.account_id = ?1 AND a.npub > ?2
            AND (?3 IS NULL OR a.desired = ?3) AND (?4 IS NULL OR a.lifecycle = ?4) AND (?5 IS NULL OR a.region = ?5)
            AND (?6 IS NULL OR a.name = ?6)
            AND (?7 IS NULL OR EXISTS
                (SELECT 1 FROM agent_label l WHERE l.npub = a.npub AND l.label = ?7 AND l.value = ?8))
          ORDER BY a.npub LIMIT ?9"
    );
    let (label, value) = filter.label.clone().unzip();
    let limit = if filter.limit == 0 { MAX_PAGE } else { filter.limit.min(MAX_PAGE) };
    let after = filter.after.map_or_else(Vec::new, |npub| npub.as_bytes().to_vec());
    let params = params![
        account,
        after,
        filter.desired.map(Desired::as_str),
        filter.lifecycle.map(Lifecycle::as_str),
        filter.region.clone(),
        filter.name.clone(),
        label,
        value,
        limit
    ];
    store.rows("list agents", sql, params, agent_row).await
}

/// How many agents the account has.
pub async fn count(store: &Store, account: AccountId) -> Result<u64> {
    let sql = "SELECT COUNT(*) FROM agent WHERE account_id = ?1";
    Ok(store.row("count agents", sql, params![account], |row| row.get()).await?.unwrap_or(0))
}

/// Started again while it waits for a worker: what it waits for stays shown, since whoever wrote it will not soon again.
macro_rules! waits_on {
    () => {
        "?2 = 'running' AND ?5 IS NULL AND desired = 'running' AND worker_id IS NULL AND reason_code IS NOT NULL"
    };
}

/// Starts or stops. Raises the revision also when nothing changes, so that a repeated call wakes the worker again. A start
/// clears `stop_now`, the reason (but for what an agent without a worker waits for) and makes the agent due for placement.
///
/// # Errors
/// `Conflict::NoAgent`, also for one that lives elsewhere by now.
pub async fn set_desired(
    store: &Store,
    npub: Npub,
    desired: Desired,
    stop_now: bool,
    reason: Option<Reason>,
    audit: Audit,
) -> Result<Agent> {
    let mut draft = Draft::new("start or stop an agent");
    let (code, text) = reason.map_or((None, None), |reason| (Some(reason.code), Some(reason.text)));
    let purpose = match desired {
        Desired::Running => Purpose::Run,
        Desired::Stopped => Purpose::Service,
    };
    draft.next_rev();
    draft.push(
        Statement::write(
            concat!(
                "UPDATE agent SET desired_rev = ",
                rev!(),
                ", desired = ?2, stop_now = ?3, purpose = ?4,
                  reason_code = CASE WHEN ",
                waits_on!(),
                " THEN reason_code ELSE ?5 END, reason_text = CASE WHEN ",
                waits_on!(),
                " THEN reason_text ELSE ?6 END, next_attempt_at = CASE WHEN ",
                waits_on!(),
                " THEN next_attempt_at WHEN worker_id IS NULL AND ?2 = 'running' THEN ?7 ELSE NULL END,
                  schedules_at = CASE WHEN ?2 = 'running' AND desired = 'stopped' THEN ?7 ELSE schedules_at END, updated_at = ?7
                 WHERE npub = ?1 AND moved_to IS NULL"
            ),
            params![npub, desired.as_str(), stop_now, purpose.as_str(), code, text, audit.at],
        )
        .one_or_conflict(Conflict::NoAgent),
    );
    draft.push(audit.statement());
    write_and_read(store, draft, npub).await
}

/// Replaces name and configuration, if `expected_version` is still the stored one. Schedules that change begin now: runs
/// that were due before and did not begin are forgotten.
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
    let mut draft = Draft::new("change an agent's configuration");
    let Some(before) = get(store, npub).await? else { return Err(no_agent(draft.attempted())) };
    draft.push(name_free(before.account, npub, name));
    draft.next_rev();
    draft.push(
        Statement::write(
            concat!(
                "UPDATE agent SET desired_rev = ",
                rev!(),
                ", name = ?3, config = ?4, region = ?5, config_version = config_version + 1, updated_at = ?6,
                 schedules_at = CASE WHEN ?7 = 1 THEN ?6 ELSE schedules_at END,
                 away = CASE WHEN ?5 IS NULL OR worker_id IS NULL
                    OR ?5 = (SELECT w.region FROM worker w WHERE w.worker_id = agent.worker_id) THEN 0 ELSE 1 END
                 WHERE npub = ?1 AND config_version = ?2"
            ),
            params![
                npub,
                expected_version,
                name.to_owned(),
                config_text(config)?,
                config.region.clone(),
                audit.at,
                before.config.schedules != config.schedules
            ],
        )
        .one_or_conflict(Conflict::Version),
    );
    draft.push(Statement::write("DELETE FROM agent_label WHERE npub = ?1", params![npub]));
    for statement in label_statements(npub, config) {
        draft.push(statement);
    }
    draft.push(audit.statement());
    write_and_read(store, draft, npub).await
}

/// Gives the agent an address that no other has here, or takes its own away.
///
/// # Errors
/// `Conflict::NameTaken`, `Conflict::NoAgent`.
pub async fn set_address(store: &Store, npub: Npub, address: Option<&str>, audit: Audit) -> Result<Agent> {
    let mut draft = Draft::new("change an agent's address");
    // Whoever asks for the same address waits here for the other.
    draft.next_rev();
    draft.push(exists(npub));
    let address = address.map(str::to_owned);
    draft.push(
        Statement::write(
            concat!(
                "UPDATE agent SET desired_rev = ",
                rev!(),
                ", address = ?2, updated_at = ?3 WHERE npub = ?1
                    AND NOT EXISTS (SELECT 1 FROM agent b WHERE b.address = ?2 AND b.npub <> ?1)"
            ),
            params![npub, address, audit.at],
        )
        .one_or_conflict(Conflict::NameTaken),
    );
    draft.push(audit.statement());
    write_and_read(store, draft, npub).await
}

/// Stores a newer policy: its version must be above the stored one.
///
/// # Errors
/// `Conflict::Version`, `Conflict::NoAgent`.
pub async fn set_policy(store: &Store, npub: Npub, policy: StoredPolicy, audit: Audit) -> Result<Agent> {
    let mut draft = Draft::new("store a policy");
    draft.push(exists(npub));
    draft.next_rev();
    draft.push(
        Statement::write(
            concat!(
                "UPDATE agent SET desired_rev = ",
                rev!(),
                ", policy_version = ?2, updated_at = ?3
                 WHERE npub = ?1 AND (policy_version IS NULL OR policy_version < ?2)"
            ),
            params![npub, policy.version, audit.at],
        )
        .one_or_conflict(Conflict::Version),
    );
    draft.push(Statement::write(
        "UPDATE agent_sealed SET policy = ?2, policy_version = ?3 WHERE npub = ?1",
        params![npub, policy.event, policy.version],
    ));
    draft.push(audit.statement());
    write_and_read(store, draft, npub).await
}

/// Replaces the key sealed to the pool (after re-sealing by the owner's client), and wraps.
pub async fn set_sealed_key(
    store: &Store,
    npub: Npub,
    sealed_key: String,
    wraps: Vec<Wrap>,
    audit: Audit,
) -> Result<Agent> {
    let mut draft = Draft::new("replace a sealed key");
    draft.push(exists(npub));
    draft.next_rev();
    draft.push(Statement::write(
        concat!("UPDATE agent SET desired_rev = ", rev!(), ", updated_at = ?2 WHERE npub = ?1"),
        params![npub, audit.at],
    ));
    draft.push(Statement::write("UPDATE agent_sealed SET sealed_key = ?2 WHERE npub = ?1", params![npub, sealed_key]));
    for wrap in &wraps {
        draft.push(wrap.replace_statement(npub));
    }
    draft.push(audit.statement());
    write_and_read(store, draft, npub).await
}

/// Deletes the agent and all its rows; audit rows stay. What its worker is writing in that moment comes before, or is stale.
///
/// # Errors
/// `Conflict::SubRemains` while its account at the operator's node holds money, and
/// `Conflict::Unresolved` while payments are unresolved, unless `forfeit`; `Conflict::NoAgent`; `Conflict::Version` when it
/// was moved again and again meanwhile.
pub async fn delete(store: &Store, npub: Npub, forfeit: bool, audit: Audit) -> Result<()> {
    let mut tries = 0;
    loop {
        let Some(agent) = get(store, npub).await? else { return Err(no_agent(DELETE)) };
        let billed = hosting::billed(store, npub).await?;
        let given_up = if forfeit { sub_account::accounts(store, npub).await? } else { Vec::new() };
        let given_up = forfeit.then_some(&*given_up);
        let deleted = delete_from(store, npub, agent.worker, billed.as_ref(), given_up, audit.clone()).await;
        match deleted {
            // Spent or received between the two looks, or moved.
            Err(error) if matches!(error.conflict(), Some(Conflict::Version | Conflict::SubFunds)) && tries < MOVES => {
                tries += 1;
            }
            deleted => return deleted,
        }
    }
}

/// As long as it is with this worker, whose fence is locked first as by everyone who ends a generation.
async fn delete_from(
    store: &Store,
    npub: Npub,
    worker: Option<WorkerId>,
    billed: Option<&Billed>,
    given_up: Option<&[(String, sub_account::Account)]>,
    audit: Audit,
) -> Result<()> {
    let mut draft = Draft::new(DELETE);
    if let Some(worker) = worker {
        draft.lock_fence(worker);
    }
    let sql = "SELECT 1 FROM agent WHERE npub = ?1 AND ((worker_id IS NULL AND ?2 IS NULL) OR worker_id = ?2)";
    draft.push(Statement::read(sql, params![npub, worker]).lock(Lock::Update).one_or_conflict(Conflict::Version));
    if given_up.is_none() {
        draft.push(sub_account::empty_statement(npub));
        draft.push(
            Statement::read(
                "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM payment
                    WHERE npub = ?1 AND state IN ('reserved', 'dispatched', 'pending', 'unknown'))",
                params![npub],
            )
            .one_or_conflict(Conflict::Unresolved),
        );
    }
    if let Some(billed) = billed {
        hosting::unused(&mut draft, billed, audit.at);
    }
    sub_account::forfeit(&mut draft, npub, given_up.unwrap_or_default(), audit.at);
    draft.push(blob::drop_all_statement(npub, audit.at));
    for sql in DELETES {
        draft.push(Statement::write(sql, params![npub]));
    }
    draft.push(audit.statement());
    draft.write(store).await.map(|_| ())
}

pub async fn sealed(store: &Store, npub: Npub) -> Result<Option<Sealed>> {
    let sql = "SELECT mnemonic_encrypted, sealed_key, policy, policy_version, claim, inbox_recipient
        FROM agent_sealed WHERE npub = ?1";
    store
        .row("read an agent's sealed parts", sql, params![npub], |row| {
            let (mnemonic_encrypted, sealed_key) = (row.get()?, row.get()?);
            let (event, version): (Option<String>, Option<i64>) = (row.get()?, row.get()?);
            let policy = event.zip(version).map(|(event, version)| StoredPolicy { version, event });
            Ok(Sealed { mnemonic_encrypted, sealed_key, policy, claim: row.get()?, inbox_recipient: row.get()? })
        })
        .await
}

pub async fn wraps(store: &Store, npub: Npub) -> Result<Vec<Wrap>> {
    let sql = "SELECT wrapped, number, recipient, ciphertext FROM agent_wrap
        WHERE npub = ?1 ORDER BY wrapped, number, recipient";
    store
        .rows("read an agent's wraps", sql, params![npub], |row| {
            Ok(Wrap { key: row.get()?, number: row.get()?, recipient: row.get()?, ciphertext: row.get()? })
        })
        .await
}

/// # Errors
/// [`StoreError::Object`] when the state is an object that cannot be had, or is not the one that the row names.
pub async fn state(store: &Store, npub: Npub) -> Result<Option<StateBlob>> {
    let mut last = None;
    loop {
        let Some(row) = state_row(store, npub).await? else { return Ok(None) };
        let StateRow { version, generation, at, named } = row;
        match blob::fetch(store, npub, named).await {
            Ok(blob) => return Ok(Some(StateBlob { version, generation, blob, at })),
            // Replaced and deleted between the two looks: the row names another by now.
            Err(error) if error.object() == Some(ObjectProblem::Missing) && last != Some(version) => {
                last = Some(version);
            }
            Err(error) => return Err(error),
        }
    }
}

/// A state as its row holds it.
struct StateRow {
    version: i64,
    generation: Generation,
    at: UnixMs,
    named: blob::Named,
}

async fn state_row(store: &Store, npub: Npub) -> Result<Option<StateRow>> {
    let sql = "SELECT version, generation, at, blob, object, object_size FROM agent_state WHERE npub = ?1";
    let read = |row: &mut Columns| {
        let (version, generation, at) = (row.get()?, row.get()?, row.get()?);
        Ok(StateRow { version, generation, at, named: blob::Named::read(row)? })
    };
    store.row("read an agent's state", sql, params![npub], read).await
}

/// Makes the heartbeat due now, by the control plane (start, funding).
pub async fn make_due(store: &Store, npub: Npub, at: UnixMs) -> Result<()> {
    let mut draft = Draft::new("make a heartbeat due");
    draft.next_rev();
    draft.push(
        Statement::write(
            concat!("UPDATE agent SET desired_rev = ", rev!(), ", next_tick_at = ?2 WHERE npub = ?1"),
            params![npub, at],
        )
        .one_or_conflict(Conflict::NoAgent),
    );
    draft.write(store).await.map(|_| ())
}

/// Everything that hangs off an agent, the rows that others point at last.
const DELETES: [&str; 23] = [
    "DELETE FROM journal WHERE tick_id IN (SELECT tick_id FROM tick WHERE npub = ?1)",
    "DELETE FROM tick WHERE npub = ?1",
    "DELETE FROM inbox WHERE npub = ?1",
    "DELETE FROM budget WHERE npub = ?1",
    "DELETE FROM payment WHERE npub = ?1",
    "DELETE FROM event WHERE npub = ?1",
    "DELETE FROM publication WHERE npub = ?1",
    "DELETE FROM wallet_request WHERE npub = ?1",
    "DELETE FROM invoice_watch WHERE npub = ?1",
    "DELETE FROM wallet_record WHERE npub = ?1",
    // What its rent paid for is its account's.
    "UPDATE hosting_invoice SET used = 1 WHERE npub = ?1",
    "DELETE FROM approval WHERE npub = ?1",
    "DELETE FROM hook WHERE npub = ?1",
    "DELETE FROM webhook_delivery WHERE npub = ?1",
    "DELETE FROM webhook_cursor WHERE npub = ?1",
    "DELETE FROM provider_score WHERE npub = ?1",
    "DELETE FROM provider_week WHERE npub = ?1",
    "DELETE FROM dispute WHERE npub = ?1",
    "DELETE FROM agent_label WHERE npub = ?1",
    "DELETE FROM agent_wrap WHERE npub = ?1",
    "DELETE FROM agent_state WHERE npub = ?1",
    "DELETE FROM agent_sealed WHERE npub = ?1",
    "DELETE FROM agent WHERE npub = ?1",
];

impl NewAgent {
    fn insert_statement(&self) -> Result<Statement> {
        let (code, text) = self.reason.clone().map_or((None, None), |reason| (Some(reason.code), Some(reason.text)));
        Ok(Statement::write(
            concat!(
                "INSERT INTO agent (npub, account_id, name, config, config_version, region, pool, reader_version, desired,
                    desired_rev, stop_now, custody, lifecycle, lifecycle_since, hosting, placement, purpose, generation,
                    reason_code, reason_text, policy_version, event_seq, event_head, pruned_seq, pruned_head,
                    created_at, updated_at)
                 VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, 0, 'stopped', ",
                rev!(),
                ", 0, ?7, 'spawning', ?8, ?9, 'unplaced', 'service', 0, ?10, ?11, ?12, 0, ?13, 0, ?13, ?8, ?8)"
            ),
            params![
                self.npub,
                self.account,
                self.name.clone(),
                config_text(&self.config)?,
                self.config.region.clone(),
                DEFAULT_POOL,
                CustodyState::Ready.as_str(),
                self.created_at,
                self.hosting.as_str(),
                code,
                text,
                self.sealed.policy.as_ref().map(|policy| policy.version),
                crate::event::genesis(self.npub)
            ],
        ))
    }
}

impl Sealed {
    fn insert_statement(&self, npub: Npub) -> Statement {
        let (policy, version) =
            self.policy.clone().map_or((None, None), |policy| (Some(policy.event), Some(policy.version)));
        Statement::write(
            "INSERT INTO agent_sealed (npub, mnemonic_encrypted, sealed_key, policy, policy_version, claim,
                inbox_recipient)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                npub,
                self.mnemonic_encrypted.clone(),
                self.sealed_key.clone(),
                policy,
                version,
                self.claim.clone(),
                self.inbox_recipient.clone()
            ],
        )
    }
}

impl Wrap {
    /// One that exists is left.
    fn insert_statement(&self, npub: Npub) -> Statement {
        Statement::write(
            "INSERT INTO agent_wrap (npub, wrapped, number, recipient, ciphertext) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO NOTHING",
            self.params(npub),
        )
    }

    fn replace_statement(&self, npub: Npub) -> Statement {
        Statement::write(
            "INSERT INTO agent_wrap (npub, wrapped, number, recipient, ciphertext) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (npub, wrapped, number, recipient) DO UPDATE SET ciphertext = excluded.ciphertext",
            self.params(npub),
        )
    }

    fn params(&self, npub: Npub) -> Vec<crate::Value> {
        params![npub, self.key.clone(), self.number, self.recipient.clone(), self.ciphertext.clone()]
    }
}

/// Stores the state that follows the one that was read. `Conflict::Version` when another is stored by now.
/// An object is kept in the same batch, and the one before is dropped.
pub(crate) fn state_statements(
    store: &Store,
    npub: Npub,
    generation: Generation,
    state: &NewState,
    at: UnixMs,
) -> Vec<Statement> {
    let first = state.after == 0;
    let sql = if first {
        "INSERT INTO agent_state (npub, version, generation, blob, at, object, object_size)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING"
    } else {
        "UPDATE agent_state SET version = ?2, generation = ?3, blob = ?4, at = ?5, object = ?6, object_size = ?7
         WHERE npub = ?1 AND version = ?8 AND version < ?2"
    };
    let (bytes, object, size) = state.blob.columns();
    let mut params = params![npub, state.version, generation, bytes, at, object, size];
    if !first {
        params.push(state.after.into());
    }
    // Without an object store no state that is one is ever replaced: it cannot be read.
    let dropped = store.objects().map(|_| blob::drop_state_statement(npub, at));
    let put = Statement::write(sql, params).one_or_conflict(Conflict::Version);
    dropped.into_iter().chain([put]).chain(state.blob.keep_statement(npub)).collect()
}

/// Whether the account has fewer agents than it may. To be read behind the counter of revisions.
fn room_statement(account: AccountId, most: u32) -> Statement {
    let sql = "SELECT 1 WHERE (SELECT COUNT(*) FROM agent WHERE account_id = ?1) < ?2";
    Statement::read(sql, params![account, i64::from(most)]).one_or_conflict(Conflict::TooManyAgents)
}

fn exists(npub: Npub) -> Statement {
    Statement::read("SELECT 1 FROM agent WHERE npub = ?1", params![npub]).one_or_conflict(Conflict::NoAgent)
}

fn name_free(account: AccountId, npub: Npub, name: &str) -> Statement {
    Statement::read(
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM agent WHERE account_id = ?1 AND name = ?3 AND npub <> ?2)",
        params![account, npub, name.to_owned()],
    )
    .one_or_conflict(Conflict::NameTaken)
}

fn label_statements(npub: Npub, config: &AgentConfig) -> Vec<Statement> {
    let insert = |(label, value): (&String, &String)| {
        Statement::write(
            "INSERT INTO agent_label (npub, label, value) VALUES (?1, ?2, ?3)",
            params![npub, label.clone(), value.clone()],
        )
    };
    config.labels.iter().map(insert).collect()
}

fn config_text(config: &AgentConfig) -> Result<String> {
    serde_json::to_string(config)
        .map_err(|error| StoreError::Corrupt { attempted: "write a configuration", what: error.to_string() })
}

const fn no_agent(attempted: &'static str) -> StoreError {
    StoreError::Conflict { attempted, conflict: Conflict::NoAgent }
}

async fn write_and_read(store: &Store, draft: Draft, npub: Npub) -> Result<Agent> {
    let attempted = draft.attempted();
    draft.write(store).await?;
    get(store, npub).await?.ok_or(no_agent(attempted))
}
