//! Parked actions as control and owners see them. What is obeyed stands in the agent's encrypted state: these rows say
//! what waits and what became of it, and whoever changes them changes what is shown, nothing else.

use nexus_core::action::ActionKind;
use nexus_core::approval::{ApprovalId, Ended, Parked, State};
use nexus_core::{Hash32, Msat, Npub, UnixMs};

use crate::batch::params;
use crate::row::Columns;
use crate::{Result, Statement, Store};

/// Most approvals of one page.
pub const MAX_PAGE: u32 = 200;

macro_rules! approval_columns {
    () => {
        "SELECT tick_id, place, kind, amount_msat, digest, request, state, ended, requested_at, expires_at, changed_at,
            sealed FROM approval"
    };
}

/// A row as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    pub id: ApprovalId,
    /// What kind of action it is, as in the history.
    pub kind: String,
    pub amount: Option<Msat>,
    pub digest: Hash32,
    /// The published request (39212).
    pub request: Option<Hash32>,
    /// `requested`, `approved`, `denied`, `expired` or `executed`.
    pub state: String,
    /// How its execution ended.
    pub ended: Option<Ended>,
    pub requested_at: UnixMs,
    pub expires_at: UnixMs,
    pub changed_at: UnixMs,
    /// What it is about, under the view key.
    pub sealed: Vec<u8>,
}

/// An action that begins to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApproval {
    pub id: ApprovalId,
    pub kind: ActionKind,
    pub amount: Option<Msat>,
    pub digest: Hash32,
    pub request: Option<Hash32>,
    pub requested_at: UnixMs,
    pub expires_at: UnixMs,
    pub sealed: Vec<u8>,
}

impl NewApproval {
    pub fn new(parked: &Parked, request: Option<Hash32>, sealed: Vec<u8>) -> Self {
        let Parked { id, kind, amount, digest, requested_at, expires_at, .. } = *parked;
        Self { id, kind, amount, digest, request, requested_at, expires_at, sealed }
    }

    pub(crate) fn statement(&self, npub: Npub) -> Statement {
        Statement::write(
            "INSERT INTO approval (npub, tick_id, place, kind, amount_msat, digest, request, state, requested_at,
                expires_at, changed_at, sealed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'requested', ?8, ?9, ?8, ?10) ON CONFLICT DO NOTHING",
            params![
                npub,
                self.id.tick_id,
                i64::from(self.id.index),
                self.kind.as_str(),
                self.amount,
                self.digest,
                self.request,
                self.requested_at,
                self.expires_at,
                self.sealed.clone()
            ],
        )
    }
}

/// What the state says now of an action that waited.
pub(crate) fn change_statement(npub: Npub, id: ApprovalId, state: State, at: UnixMs) -> Statement {
    let ended = match state {
        State::Executed { ended, .. } => Some(ended.as_str()),
        State::Requested | State::Approved { .. } | State::Denied { .. } | State::Expired { .. } => None,
    };
    Statement::write(
        "UPDATE approval SET state = ?4, ended = ?5, changed_at = ?6 WHERE npub = ?1 AND tick_id = ?2 AND place = ?3",
        params![npub, id.tick_id, i64::from(id.index), state.as_str(), ended, at],
    )
}

/// Newest first: those that may still be carried out at `now`, or with `all` the finished ones too.
pub async fn list(store: &Store, npub: Npub, all: bool, now: UnixMs, limit: u32) -> Result<Vec<Approval>> {
    let sql = concat!(
        approval_columns!(),
        " WHERE npub = ?1 AND (?2 = 1 OR state = 'approved' OR (state = 'requested' AND expires_at > ?3))
          ORDER BY tick_id DESC, place LIMIT ?4"
    );
    store.rows("list approvals", sql, params![npub, all, now, limit.min(MAX_PAGE)], approval_row).await
}

pub async fn get(store: &Store, npub: Npub, id: ApprovalId) -> Result<Option<Approval>> {
    let sql = concat!(approval_columns!(), " WHERE npub = ?1 AND tick_id = ?2 AND place = ?3");
    store.row("read an approval", sql, params![npub, id.tick_id, i64::from(id.index)], approval_row).await
}

/// Forgets what expired before `before`, answered or not. Returns how many.
pub async fn purge(store: &Store, before: UnixMs, limit: u32) -> Result<u64> {
    let sql = "DELETE FROM approval WHERE (npub, tick_id, place) IN
        (SELECT npub, tick_id, place FROM approval WHERE expires_at < ?1 AND state <> 'approved'
            ORDER BY expires_at LIMIT ?2)";
    store.change("purge approvals", Statement::write(sql, params![before, limit])).await
}

fn approval_row(row: &mut Columns) -> Result<Approval> {
    let (tick_id, place): (_, i64) = (row.get()?, row.get()?);
    Ok(Approval {
        id: ApprovalId { tick_id, index: u32::try_from(place).unwrap_or(u32::MAX) },
        kind: row.get()?,
        amount: row.get()?,
        digest: row.get()?,
        request: row.get()?,
        state: row.get()?,
        ended: row.parse_opt(Ended::parse)?,
        requested_at: row.get()?,
        expires_at: row.get()?,
        changed_at: row.get()?,
        sealed: row.get()?,
    })
}
