//! Jobs that were paid and not served, as control and owners see them. The evidence is sealed under the view key.

use nexus_core::dispute::{DisputeId, DisputeState};
use nexus_core::{Hash32, Msat, Npub, UnixMs};

use crate::batch::params;
use crate::event::NewEvent;
use crate::row::Columns;
use crate::{Audit, Batch, Conflict, Result, Statement, Store};

/// Most disputes of one page.
pub const MAX_PAGE: u32 = 200;

macro_rules! dispute_columns {
    () => {
        dispute_columns!("sealed")
    };
    ($sealed:literal) => {
        concat!(
            "SELECT tick_id, attempt, provider, request, payment_hash, bolt11, amount_msat, fee_msat, paid_at, silent_at,
                state, changed_at, look_at, looks, ",
            $sealed,
            " FROM dispute"
        )
    };
}

/// A row as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispute {
    pub id: DisputeId,
    pub provider: Npub,
    /// The job request's event id.
    pub request: Hash32,
    pub payment_hash: Hash32,
    pub bolt11: String,
    pub amount: Msat,
    pub fee: Msat,
    /// None while it is not known whether the money arrived.
    pub paid_at: Option<UnixMs>,
    /// When waiting for a result ended.
    pub silent_at: UnixMs,
    pub state: DisputeState,
    pub changed_at: UnixMs,
    /// When relays are asked for a late result again; none: no more.
    pub look_at: Option<UnixMs>,
    pub looks: u32,
    /// The evidence, under the view key.
    pub sealed: Vec<u8>,
}

/// A change of a dispute, by compare-and-set on its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisputeMove {
    pub id: DisputeId,
    pub from: DisputeState,
    /// The same as `from`: only what stands beside it changes.
    pub to: DisputeState,
    pub fee: Option<Msat>,
    pub paid_at: Option<UnixMs>,
    pub look_at: Option<UnixMs>,
    pub looks: u32,
    /// The evidence anew; none leaves it.
    pub sealed: Option<Vec<u8>>,
}

/// Newest first, without the evidence, which may be large: with `all` those that are over as well.
pub async fn list(store: &Store, npub: Npub, all: bool, limit: u32) -> Result<Vec<Dispute>> {
    let sql = concat!(
        dispute_columns!("substr(sealed, 1, 0)"),
        " WHERE npub = ?1 AND (?2 = 1 OR state IN ('unsettled', 'open', 'answered'))
          ORDER BY tick_id DESC, attempt LIMIT ?3"
    );
    store.rows("list disputes", sql, params![npub, all, limit.min(MAX_PAGE)], dispute_row).await
}

pub async fn get(store: &Store, npub: Npub, id: DisputeId) -> Result<Option<Dispute>> {
    let sql = concat!(dispute_columns!(), " WHERE npub = ?1 AND tick_id = ?2 AND attempt = ?3");
    store.row("read a dispute", sql, params![npub, id.tick_id, i64::from(id.attempt)], dispute_row).await
}

/// The dispute of a payment.
pub async fn of_payment(store: &Store, npub: Npub, hash: Hash32) -> Result<Option<Dispute>> {
    let sql = concat!(dispute_columns!(), " WHERE npub = ?1 AND payment_hash = ?2 ORDER BY tick_id, attempt LIMIT 1");
    store.row("find the dispute of a payment", sql, params![npub, hash], dispute_row).await
}

/// Those of which relays are to be asked for a late result by now, the longest due first.
pub async fn due(store: &Store, npub: Npub, now: UnixMs, limit: u32) -> Result<Vec<Dispute>> {
    let sql = concat!(
        dispute_columns!(),
        " WHERE npub = ?1 AND look_at IS NOT NULL AND look_at <= ?2 ORDER BY look_at, tick_id, attempt LIMIT ?3"
    );
    store.rows("find disputes to look after", sql, params![npub, now, limit.min(MAX_PAGE)], dispute_row).await
}

/// The owner's word on a dispute, with its event. False when it does not stand at `from` any more.
///
/// # Errors
/// `Conflict::DisputeState` for an arrow that disputes do not have.
pub async fn conclude(
    store: &Store,
    npub: Npub,
    id: DisputeId,
    (from, to): (DisputeState, DisputeState),
    event: &NewEvent,
    audit: &Audit,
) -> Result<bool> {
    const ATTEMPTED: &str = "conclude a dispute";
    let arrow = Conflict::DisputeState { expected: from.as_str().to_owned() };
    if !from.may_become(to) {
        return Err(crate::StoreError::Conflict { attempted: ATTEMPTED, conflict: arrow });
    }
    let mut batch = Batch::new(ATTEMPTED);
    batch.push(
        Statement::write(
            "UPDATE dispute SET state = ?5, changed_at = ?6, look_at = NULL
             WHERE npub = ?1 AND tick_id = ?2 AND attempt = ?3 AND state = ?4",
            params![npub, id.tick_id, i64::from(id.attempt), from.as_str(), to.as_str(), event.at],
        )
        .one_or_conflict(arrow),
    );
    batch.extend(crate::event::append_statements(npub, event));
    batch.push(audit.statement());
    match store.write(batch).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.conflict(), Some(Conflict::DisputeState { .. })) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Forgets what changed last before `before`. Returns how many.
pub async fn purge(store: &Store, before: UnixMs, limit: u32) -> Result<u64> {
    let sql = "DELETE FROM dispute WHERE (npub, tick_id, attempt) IN
        (SELECT npub, tick_id, attempt FROM dispute WHERE changed_at < ?1 AND state <> 'unsettled'
            ORDER BY changed_at LIMIT ?2)";
    store.change("purge disputes", Statement::write(sql, params![before, limit])).await
}

impl Dispute {
    /// The same again changes nothing.
    pub(crate) fn statement(&self, npub: Npub) -> Statement {
        Statement::write(
            "INSERT INTO dispute (npub, tick_id, attempt, provider, request, payment_hash, bolt11, amount_msat, fee_msat,
                paid_at, silent_at, state, changed_at, look_at, looks, sealed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16) ON CONFLICT DO NOTHING",
            params![
                npub,
                self.id.tick_id,
                i64::from(self.id.attempt),
                self.provider,
                self.request,
                self.payment_hash,
                self.bolt11.clone(),
                self.amount,
                self.fee,
                self.paid_at,
                self.silent_at,
                self.state.as_str(),
                self.changed_at,
                self.look_at,
                self.looks,
                self.sealed.clone()
            ],
        )
    }
}

impl DisputeMove {
    pub(crate) fn statement(&self, npub: Npub, at: UnixMs) -> Result<Statement, Conflict> {
        let conflict = Conflict::DisputeState { expected: self.from.as_str().to_owned() };
        if self.from != self.to && !self.from.may_become(self.to) {
            return Err(conflict);
        }
        Ok(Statement::write(
            "UPDATE dispute SET state = ?5, changed_at = CASE WHEN state = ?5 THEN changed_at ELSE ?6 END,
                fee_msat = COALESCE(?7, fee_msat), paid_at = COALESCE(?8, paid_at), look_at = ?9, looks = ?10,
                sealed = COALESCE(?11, sealed)
             WHERE npub = ?1 AND tick_id = ?2 AND attempt = ?3 AND state = ?4",
            params![
                npub,
                self.id.tick_id,
                i64::from(self.id.attempt),
                self.from.as_str(),
                self.to.as_str(),
                at,
                self.fee,
                self.paid_at,
                self.look_at,
                self.looks,
                self.sealed.clone()
            ],
        )
        .one_or_conflict(conflict))
    }
}

fn dispute_row(row: &mut Columns) -> Result<Dispute> {
    let (tick_id, attempt): (_, i64) = (row.get()?, row.get()?);
    Ok(Dispute {
        id: DisputeId { tick_id, attempt: u8::try_from(attempt).unwrap_or(u8::MAX) },
        provider: row.get()?,
        request: row.get()?,
        payment_hash: row.get()?,
        bolt11: row.get()?,
        amount: row.get()?,
        fee: row.get()?,
        paid_at: row.get()?,
        silent_at: row.get()?,
        state: row.parse(DisputeState::parse)?,
        changed_at: row.get()?,
        look_at: row.get()?,
        looks: row.get()?,
        sealed: row.get()?,
    })
}
