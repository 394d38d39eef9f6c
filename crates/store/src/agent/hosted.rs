//! What a worker changes of an agent that it holds: status, balance, schedule, and what it made at the first start.

use nexus_core::lifecycle::Lifecycle;
use nexus_core::status::{CustodyState, Reason};
use nexus_core::{Generation, Msat, Npub, UnixMs};

use super::{Wrap, state_statements};
use crate::batch::{params, words};
use crate::draft::Draft;
use crate::event::NewEvent;
use crate::tick::NewState;
use crate::{Conflict, Fence, Result, Side, Statement, Store, inbox};

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
    pub shown_active: Option<bool>,
}

/// What a bare caller left out at creation and the worker made at the first start.
#[derive(Debug, Clone, Default)]
pub struct Made {
    pub wraps: Vec<Wrap>,
    pub inbox_recipient: Option<String>,
    pub state: Option<NewState>,
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
    let mut draft = Draft::hosted("change an agent's status", fence, npub, generation);
    draft.push(change.statement(npub, at));
    draft.events(npub, &events);
    draft.write(store).await
}

/// Notes, before the first of it is written, that only workers of `version` and above read what is stored from now on.
/// Never lowered.
pub async fn raise_reader(store: &Store, fence: Fence, npub: Npub, generation: Generation, version: u32) -> Result<()> {
    let mut draft = Draft::hosted("note which workers read an agent", fence, npub, generation);
    let sql = "UPDATE agent SET reader_version = ?2 WHERE npub = ?1 AND reader_version < ?2";
    draft.push(Statement::write(sql, params![npub, version]));
    draft.write(store).await.map(|_| ())
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
    let mut draft = Draft::hosted("store what was made at the first start", fence, npub, generation);
    for wrap in &made.wraps {
        draft.push(wrap.insert_statement(npub));
    }
    if let Some(recipient) = made.inbox_recipient {
        draft.push(Statement::write(
            "UPDATE agent_sealed SET inbox_recipient = COALESCE(inbox_recipient, ?2) WHERE npub = ?1",
            params![npub, recipient],
        ));
    }
    if let Some(state) = made.state {
        for statement in state_statements(store, npub, generation, &state, at) {
            draft.push(statement);
        }
    }
    draft.write(store).await.map(|_| ())
}

/// Wraps of the view key: those of new readers, and all of a new key's. Whoever is removed has none left.
pub async fn set_readers(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: Generation,
    wraps: Vec<Wrap>,
    removed: &[String],
) -> Result<()> {
    let mut draft = Draft::hosted("change an agent's readers", fence, npub, generation);
    for recipient in removed {
        let sql = "DELETE FROM agent_wrap WHERE npub = ?1 AND wrapped = 'view' AND recipient = ?2";
        draft.push(Statement::write(sql, params![npub, recipient.clone()]));
    }
    for wrap in &wraps {
        draft.push(wrap.insert_statement(npub));
    }
    draft.write(store).await.map(|_| ())
}

/// A new state outside a tick, with what commits beside it: the inbox rows that it settles, each with a word, and side
/// effects.
#[derive(Debug, Clone)]
pub struct Settle {
    pub fence: Fence,
    pub npub: Npub,
    pub generation: Generation,
    pub at: UnixMs,
    pub state: NewState,
    pub inbox: Vec<(i64, String)>,
    pub side: Vec<Side>,
    pub events: Vec<NewEvent>,
}

/// Returns the numbers of appended events.
///
/// # Errors
/// `Stale`; `Conflict::Version` when the stored state is not the one that was read; conflicts of side effects. In each
/// case nothing was changed.
pub async fn settle(store: &Store, settle: Settle) -> Result<Vec<i64>> {
    let Settle { fence, npub, generation, at, state, inbox, side, events } = settle;
    let mut draft = Draft::hosted("store a state and what follows", fence, npub, generation);
    for statement in state_statements(store, npub, generation, &state, at) {
        draft.push(statement);
    }
    for (row, word) in inbox {
        draft.push(inbox::settle_statement(npub, row, word));
    }
    draft.sides(&side, npub, generation, None, at)?;
    draft.events(npub, &events);
    draft.write(store).await
}

/// Wallet and books were compared after a restore: what was shown until then is over.
pub(crate) fn reconciled_statement(npub: Npub, balance: Msat, at: UnixMs) -> Statement {
    Statement::write(
        "UPDATE agent SET unreconciled = 0, reason_code = NULL, reason_text = NULL, next_attempt_at = NULL,
            balance_msat = ?2, balance_at = ?3 WHERE npub = ?1",
        params![npub, balance, at],
    )
    .one_or_conflict(Conflict::NoAgent)
}

/// What the owner was told, now; none: what was told is over.
pub(crate) fn noticed_statement(npub: Npub, code: Option<String>, at: UnixMs) -> Statement {
    let told_at = code.is_some().then_some(at);
    Statement::write(
        "UPDATE agent SET noticed = ?2, noticed_at = COALESCE(?3, noticed_at) WHERE npub = ?1",
        params![npub, code, told_at],
    )
    .one_or_conflict(Conflict::NoAgent)
}

impl Change {
    /// One statement for every mixture of fields, so that it stays prepared.
    pub(crate) fn statement(&self, npub: Npub, at: UnixMs) -> Statement {
        let reason = self.reason.clone();
        let (code, text) =
            reason.clone().flatten().map_or((None, None), |said| (Some(said.code), Some(words(said.text))));
        Statement::write(
            "UPDATE agent SET updated_at = ?2,
                custody = COALESCE(?3, custody),
                lifecycle_since = CASE WHEN ?4 IS NULL OR ?4 = lifecycle THEN lifecycle_since ELSE ?2 END,
                lifecycle = COALESCE(?4, lifecycle),
                reason_code = CASE WHEN ?5 = 1 THEN ?6 ELSE reason_code END,
                reason_text = CASE WHEN ?5 = 1 THEN ?7 ELSE reason_text END,
                next_attempt_at = CASE WHEN ?8 = 1 THEN ?9 ELSE next_attempt_at END,
                next_tick_at = CASE WHEN ?10 = 1 THEN ?11 ELSE next_tick_at END,
                last_tick_at = COALESCE(?12, last_tick_at),
                balance_at = CASE WHEN ?13 IS NULL THEN balance_at ELSE ?2 END,
                balance_msat = COALESCE(?13, balance_msat),
                last_quote_msat = COALESCE(?14, last_quote_msat),
                shown_active = COALESCE(?15, shown_active)
             WHERE npub = ?1",
            params![
                npub,
                at,
                self.custody.map(CustodyState::as_str),
                self.lifecycle.map(Lifecycle::as_str),
                reason.is_some(),
                code,
                text,
                self.next_attempt_at.is_some(),
                self.next_attempt_at.flatten(),
                self.next_tick_at.is_some(),
                self.next_tick_at.flatten(),
                self.last_tick_at,
                self.balance,
                self.last_quote,
                self.shown_active
            ],
        )
        .one_or_conflict(Conflict::NoAgent)
    }
}
