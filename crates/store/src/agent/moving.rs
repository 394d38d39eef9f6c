//! Moving: an agent that lives elsewhere from now on, and one that comes.
//!
//! Whether a claim counts is decided in `nexus_seal::claim`. Here, by compare-and-set on the claim that was weighed.

use nexus_core::budget::Window;
use nexus_core::state::WindowSpend;
use nexus_core::{Generation, Npub, UnixMs, WorkerId};

use super::{
    Agent, NewAgent, get, label_statements, name_free, no_agent, room_statement, state_statements, write_and_read,
};
use crate::batch::{Lock, params};
use crate::draft::{Draft, rev};
use crate::hosting::{self, Billed};
use crate::idempotency::Idempotency;
use crate::tick::NewState;
use crate::wallet_record::{self, WalletRecord};
use crate::{Audit, Conflict, Result, Statement, Store, blob, budget};

const LEAVE: &str = "let an agent go";
/// Times that a departure follows an agent that was placed elsewhere meanwhile.
const MOVES: u32 = 5;

/// An agent that lives elsewhere, by a claim that wins over the one held.
#[derive(Debug, Clone)]
pub struct Departure {
    /// Where it lives now.
    pub url: String,
    /// The winning claim.
    pub claim: String,
    /// The claim that it was weighed against.
    pub held: Option<String>,
}

/// An agent that comes with a backup.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub agent: NewAgent,
    /// The backup's generation.
    pub generation: Generation,
    pub next_tick_at: Option<UnixMs>,
    /// The version of its state.
    pub state_version: u32,
    /// What its wallet's driver keeps.
    pub wallet: Vec<WalletRecord>,
    /// What it spent today, as its own state says.
    pub spent: Option<WindowSpend>,
    /// The claim that its own was weighed against.
    pub held: Option<String>,
}

/// Raises the generation, deletes the sealed key and all wraps, ends what was open, and keeps the winning claim, in one
/// batch: what a worker still writes of it comes before, or is stale. Payments in flight stay listed; nobody here can
/// send them again.
///
/// # Errors
/// `Conflict::NoAgent`; `Conflict::Version` when another claim was kept meanwhile: weigh again.
pub async fn leave(store: &Store, npub: Npub, departure: Departure, audit: Audit) -> Result<()> {
    let mut tries = 0;
    loop {
        let Some(agent) = get(store, npub).await? else { return Err(no_agent(LEAVE)) };
        let billed = hosting::billed(store, npub).await?;
        let left = leave_from(store, npub, agent.worker, billed.as_ref(), departure.clone(), audit.clone()).await;
        match left {
            Err(error) if error.conflict() == Some(&Conflict::Version) && tries < MOVES => tries += 1,
            left => return left,
        }
    }
}

async fn leave_from(
    store: &Store,
    npub: Npub,
    worker: Option<WorkerId>,
    billed: Option<&Billed>,
    departure: Departure,
    audit: Audit,
) -> Result<()> {
    let (at, mut draft) = (audit.at, Draft::new(LEAVE));
    if let Some(worker) = worker {
        draft.lock_fence(worker);
    }
    let sql = "SELECT 1 FROM agent WHERE npub = ?1 AND ((worker_id IS NULL AND ?2 IS NULL) OR worker_id = ?2)";
    draft.push(Statement::read(sql, params![npub, worker]).lock(Lock::Update).one_or_conflict(Conflict::Version));
    draft.push(claim_statement(npub, departure.held, departure.claim));
    draft.next_rev();
    if let Some(billed) = billed {
        hosting::unused(&mut draft, billed, at);
    }
    draft.push(
        Statement::write(
            concat!(
                "UPDATE agent SET generation = generation + 1, prev_worker_id = worker_id, worker_id = NULL,
                    placed_incarnation = NULL, placement = 'unplaced', away = 0, desired = 'stopped', stop_now = 0,
                    purpose = 'service', moved_to = ?2, reason_code = 'moved', reason_text = ?3, next_attempt_at = NULL,
                    next_tick_at = NULL, balance_msat = NULL, balance_at = NULL, updated_at = ?4,
                    hosted_from = NULL, hosted_months = 0, paid_until = NULL, month_fee_msat = 0, hosting_notice = NULL,
                    hosting_look_at = 0, desired_rev = ",
                rev!(),
                " WHERE npub = ?1"
            ),
            params![npub, departure.url.clone(), format!("it lives at {} now", departure.url), at],
        )
        .one_or_conflict(Conflict::NoAgent),
    );
    draft.push(Statement::write("UPDATE agent_sealed SET sealed_key = NULL WHERE npub = ?1", params![npub]));
    draft.push(Statement::write("DELETE FROM agent_wrap WHERE npub = ?1", params![npub]));
    for statement in end_statements(npub, at) {
        draft.push(statement);
    }
    draft.push(audit.statement());
    draft.write(store).await.map(|_| ())
}

/// What was open ends here: the agent goes on elsewhere, from its last committed tick.
fn end_statements(npub: Npub, at: UnixMs) -> [Statement; 9] {
    [
        Statement::write(
            "DELETE FROM journal WHERE tick_id IN (SELECT tick_id FROM tick WHERE npub = ?1 AND status = 'open')",
            params![npub],
        ),
        Statement::write(
            "UPDATE tick SET status = 'failed', reason = 'moved', ended_at = ?2 WHERE npub = ?1 AND status = 'open'",
            params![npub, at],
        ),
        Statement::write("UPDATE inbox SET handled = 1, note = 'moved' WHERE npub = ?1 AND handled = 0", params![npub]),
        Statement::write("DELETE FROM publication WHERE npub = ?1 AND done = 0", params![npub]),
        Statement::write("DELETE FROM wallet_request WHERE npub = ?1 AND outcome IS NULL", params![npub]),
        Statement::write("DELETE FROM invoice_watch WHERE npub = ?1", params![npub]),
        Statement::write("DELETE FROM hook WHERE npub = ?1", params![npub]),
        wallet_record::forget_statement(npub),
        Statement::write("UPDATE hosting_invoice SET used = 1 WHERE npub = ?1", params![npub]),
    ]
}

/// Replaces the held claim by one that wins over it and names this host.
///
/// # Errors
/// `Conflict::Version` when another was kept meanwhile.
pub async fn keep_claim(store: &Store, npub: Npub, held: Option<String>, claim: String) -> Result<()> {
    let mut draft = Draft::new("keep a host claim");
    draft.push(claim_statement(npub, held, claim));
    draft.write(store).await.map(|_| ())
}

fn claim_statement(npub: Npub, held: Option<String>, claim: String) -> Statement {
    Statement::write(
        "UPDATE agent_sealed SET claim = ?3 WHERE npub = ?1 AND COALESCE(claim, '') = ?2",
        params![npub, held.unwrap_or_default(), claim],
    )
    .one_or_conflict(Conflict::Version)
}

/// Takes an agent in, stopped, at the generation after the higher of the backup's and the stored one. One that has moved
/// away from here comes back to its row, with its history; whatever else is stored of it is replaced by the backup. A new
/// one needs room: the account then has at most `most` agents.
///
/// # Errors
/// `Conflict::NpubTaken` when it lives here, or is another account's; `Conflict::NameTaken`; `Conflict::NoAccount`;
/// `Conflict::TooManyAgents`; `Conflict::Version` when another claim was kept meanwhile; `Duplicate` when the idempotency key is taken.
pub async fn arrive(
    store: &Store,
    arrival: Arrival,
    most: Option<u32>,
    idempotency: Option<Idempotency>,
    audit: Audit,
) -> Result<Agent> {
    let (npub, mut draft) = (arrival.agent.npub, Draft::new("take an agent in"));
    if let Some(idempotency) = idempotency {
        draft.push(idempotency.statement());
    }
    draft.push(
        Statement::read("SELECT 1 FROM account WHERE account_id = ?1", params![arrival.agent.account])
            .one_or_conflict(Conflict::NoAccount),
    );
    draft.push(name_free(arrival.agent.account, npub, &arrival.agent.name));
    let stored = get(store, npub).await?;
    let highest = stored.as_ref().map_or(arrival.generation.0, |agent| agent.generation.0.max(arrival.generation.0));
    let generation = Generation(highest.max(0).saturating_add(1));
    draft.next_rev();
    match &stored {
        None => {
            if let Some(most) = most {
                draft.push(room_statement(arrival.agent.account, most));
            }
            new_statements(&mut draft, &arrival)?;
        }
        Some(stored) => back_statements(store, &mut draft, &arrival, stored.generation)?,
    }
    draft.push(Statement::write(
        "UPDATE agent SET generation = ?2, next_tick_at = ?3 WHERE npub = ?1",
        params![npub, generation, arrival.next_tick_at],
    ));
    for statement in label_statements(npub, &arrival.agent.config) {
        draft.push(statement);
    }
    for wrap in &arrival.agent.wraps {
        draft.push(wrap.insert_statement(npub));
    }
    if let Some(blob) = arrival.agent.state {
        let state = NewState { version: 1, after: 0, blob: blob.into() };
        for statement in state_statements(store, npub, generation, &state, arrival.agent.created_at) {
            draft.push(statement);
        }
        draft.push(Statement::write(
            "UPDATE agent_state SET version = ?2 WHERE npub = ?1",
            params![npub, arrival.state_version.max(1)],
        ));
    }
    draft.push(wallet_record::forget_statement(npub));
    for record in arrival.wallet {
        draft.push(record.insert_statement(npub, arrival.agent.created_at));
    }
    if let Some(spent) = arrival.spent {
        draft.push(budget::at_least(npub, &Window::Day(spent.day), spent.settled));
    }
    draft.push(audit.statement());
    write_and_read(store, draft, npub).await
}

fn new_statements(draft: &mut Draft, arrival: &Arrival) -> Result<()> {
    let agent = &arrival.agent;
    draft.push(
        Statement::read("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM agent WHERE npub = ?1)", params![agent.npub])
            .one_or_conflict(Conflict::NpubTaken),
    );
    draft.push(agent.insert_statement()?);
    draft.push(agent.sealed.insert_statement(agent.npub));
    Ok(())
}

/// Only a row that was left, of the same account, at the generation that was read.
fn back_statements(store: &Store, draft: &mut Draft, arrival: &Arrival, generation: Generation) -> Result<()> {
    let agent = &arrival.agent;
    let sealed = &agent.sealed;
    draft.push(
        Statement::read(
            "SELECT 1 FROM agent WHERE npub = ?1 AND account_id = ?2 AND generation = ?3 AND moved_to IS NOT NULL",
            params![agent.npub, agent.account, generation],
        )
        .lock(Lock::Update)
        .one_or_conflict(Conflict::NpubTaken),
    );
    draft.push(claim_statement(agent.npub, arrival.held.clone(), sealed.claim.clone().unwrap_or_default()));
    let policy = sealed.policy.clone();
    let (event, version) = policy.map_or((None, None), |policy| (Some(policy.event), Some(policy.version)));
    draft.push(Statement::write(
        "UPDATE agent_sealed SET mnemonic_encrypted = ?2, sealed_key = ?3, policy = ?4, policy_version = ?5,
            inbox_recipient = ?6 WHERE npub = ?1",
        params![
            agent.npub,
            sealed.mnemonic_encrypted.clone(),
            sealed.sealed_key.clone(),
            event,
            version,
            sealed.inbox_recipient.clone()
        ],
    ));
    draft.push(Statement::write(
        concat!(
            "UPDATE agent SET name = ?2, config = ?3, config_version = config_version + 1, region = ?4, moved_to = NULL,
                reason_code = NULL, reason_text = NULL, policy_version = ?5, schedules_at = ?6, updated_at = ?6, desired_rev = ",
            rev!(),
            " WHERE npub = ?1"
        ),
        params![
            agent.npub,
            agent.name.clone(),
            super::config_text(&agent.config)?,
            agent.config.region.clone(),
            version,
            agent.created_at
        ],
    ));
    draft.push(Statement::write("DELETE FROM agent_label WHERE npub = ?1", params![agent.npub]));
    if store.objects().is_some() {
        draft.push(blob::drop_state_statement(agent.npub, agent.created_at));
    }
    draft.push(Statement::write("DELETE FROM agent_state WHERE npub = ?1", params![agent.npub]));
    Ok(())
}
