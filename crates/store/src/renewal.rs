//! Hosting that renews itself out of its owner's wallet.
//!
//! One row of an account, and in it at most one payment: `none`, then `begun` with the invoice that it is for, `sent` before
//! the wallet is asked, `paid` where the wallet says so before the node does, and `none` again. Each step names the one that
//! it starts from and the invoice, so that of two control planes one takes it; whoever takes the step to `sent` asks the
//! wallet, and nobody else does.

use nexus_core::{AccountId, Hash32, Msat, UnixMs};

use crate::batch::params;
use crate::draft::Draft;
use crate::row::Columns;
use crate::{Audit, Conflict, Result, Statement, Store};

/// How far the payment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    None,
    Begun,
    Sent,
    Paid,
}

impl Stage {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Begun => "begun",
            Self::Sent => "sent",
            Self::Paid => "paid",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Begun, Self::Sent, Self::Paid].into_iter().find(|stage| stage.as_str() == text)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    pub account: AccountId,
    /// Closed under the operator's key; none once the owner has taken it back.
    pub sealed: Option<Vec<u8>>,
    /// In hex.
    pub wallet: String,
    /// Largest sum of a UTC month, fees included.
    pub cap: Msat,
    pub enabled: bool,
    pub version: i64,
    /// The month that `spent` is of, as `YYYY-MM`.
    pub month: String,
    /// With what is held for the payment under way.
    pub spent: Msat,
    pub stage: Stage,
    pub hash: Option<Hash32>,
    pub held: Msat,
    pub failures: u32,
    pub problem: Option<String>,
    pub look_at: UnixMs,
}

impl Renewal {
    /// What the cap leaves in a month.
    pub fn left(&self, month: &str) -> Msat {
        let spent = if self.month == month { self.spent } else { Msat::ZERO };
        self.cap.saturating_sub(spent)
    }
}

/// What an owner gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRenewal {
    pub account: AccountId,
    /// Closed under the operator's key.
    pub sealed: Vec<u8>,
    pub wallet: String,
    pub cap: Msat,
}

macro_rules! columns {
    () => {
        "SELECT account_id, connection, wallet, cap_msat, enabled, version, month, spent_msat, stage, payment_hash,
            held_msat, failures, problem, look_at FROM renewal"
    };
}

/// The owner connects a wallet, or another. What is under way goes on.
pub async fn put(store: &Store, new: NewRenewal, at: UnixMs, audit: Audit) -> Result<()> {
    let mut draft = Draft::new("connect an owner's wallet");
    let account = Statement::read("SELECT 1 FROM account WHERE account_id = ?1", params![new.account]);
    draft.push(account.one_or_conflict(Conflict::NoAccount));
    draft.push(
        Statement::write(
            "INSERT INTO renewal (account_id, connection, wallet, cap_msat, enabled, version, month, spent_msat, stage,
                held_msat, failures, look_at)
             VALUES (?1, ?2, ?3, ?4, 1, 1, '', 0, 'none', 0, 0, ?5)
             ON CONFLICT (account_id) DO UPDATE SET connection = excluded.connection, wallet = excluded.wallet,
                cap_msat = excluded.cap_msat, enabled = 1, version = renewal.version + 1, failures = 0, problem = NULL,
                look_at = excluded.look_at",
            params![new.account, new.sealed, new.wallet, new.cap, at],
        )
        .one_or_conflict(Conflict::Version),
    );
    draft.push(audit.statement());
    draft.write(store).await.map(|_| ())
}

/// The owner takes the connection back: it is forgotten, and nothing is begun any more.
///
/// # Errors
/// [`Conflict::NotFound`] when there is none.
pub async fn remove(store: &Store, account: AccountId, audit: Audit) -> Result<()> {
    let mut draft = Draft::new("forget an owner's wallet");
    draft.push(
        Statement::write(
            "UPDATE renewal SET connection = NULL, enabled = 0, version = version + 1, failures = 0, problem = NULL
             WHERE account_id = ?1 AND connection IS NOT NULL",
            params![account],
        )
        .one_or_conflict(Conflict::NotFound),
    );
    draft.push(look_at_agents(account));
    draft.push(audit.statement());
    draft.write(store).await.map(|_| ())
}

pub async fn get(store: &Store, account: AccountId) -> Result<Option<Renewal>> {
    store.row("read a renewal", concat!(columns!(), " WHERE account_id = ?1"), params![account], renewal).await
}

/// Those that are to be looked at now.
pub async fn due(store: &Store, now: UnixMs, limit: u32) -> Result<Vec<Renewal>> {
    let sql = concat!(
        columns!(),
        " WHERE (enabled = 1 OR stage <> 'none') AND look_at <= ?1 ORDER BY look_at, account_id LIMIT ?2"
    );
    store.rows("find hosting to renew", sql, params![now, limit], renewal).await
}

/// An invoice for it, and what it may cost with fees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPayment {
    pub hash: Hash32,
    pub amount: Msat,
    /// Amount and largest fee.
    pub held: Msat,
    pub month: String,
    pub memo: String,
    /// Closed under the operator's key.
    pub sealed_preimage: Vec<u8>,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
}

/// Notes an invoice and holds what it costs, before the node is asked for it.
///
/// # Errors
/// [`Conflict::Version`] when another is under way, the owner has said something else meanwhile, or the cap does not allow it.
pub async fn begin(store: &Store, seen: &Renewal, new: NewPayment) -> Result<()> {
    let mut draft = Draft::new("begin to renew hosting");
    draft.push(
        Statement::write(
            "UPDATE renewal SET stage = 'begun', payment_hash = ?3, held_msat = ?4, month = ?5, problem = NULL,
                look_at = ?6, spent_msat = CASE WHEN month = ?5 THEN spent_msat ELSE 0 END + ?4
             WHERE account_id = ?1 AND version = ?2 AND stage = 'none' AND enabled = 1
                AND CASE WHEN month = ?5 THEN spent_msat ELSE 0 END + ?4 <= cap_msat",
            params![seen.account, seen.version, new.hash, new.held, new.month, new.created_at],
        )
        .one_or_conflict(Conflict::Version),
    );
    draft.push(
        Statement::write(
            "INSERT INTO hosting_invoice (payment_hash, account_id, amount_msat, memo, sealed_preimage, bolt11,
                created_at, expires_at, state, look_at, origin)
             VALUES (?1, ?2, ?3, ?4, ?5, '', ?6, ?7, 'open', ?6, 'renewal')",
            params![new.hash, seen.account, new.amount, new.memo, new.sealed_preimage, new.created_at, new.expires_at],
        )
        .one_or_conflict(Conflict::Version),
    );
    draft.write(store).await.map(|_| ())
}

/// Whoever takes this step asks the wallet next, once.
///
/// # Errors
/// [`Conflict::Version`] when somebody else took it, or the owner wants it no more.
pub async fn send(store: &Store, seen: &Renewal, look_at: UnixMs) -> Result<()> {
    let sql =
        "UPDATE renewal SET stage = 'sent', look_at = ?4 WHERE account_id = ?1 AND version = ?2 AND payment_hash = ?3
        AND stage = 'begun' AND enabled = 1 AND spent_msat <= cap_msat";
    let statement = Statement::write(sql, params![seen.account, seen.version, seen.hash, look_at]);
    store.change("ask an owner's wallet", statement.one_or_conflict(Conflict::Version)).await.map(|_| ())
}

/// The wallet says that it paid, and what it cost with fees. False: that was noted before.
pub async fn paid(store: &Store, seen: &Renewal, cost: Msat, look_at: UnixMs) -> Result<bool> {
    let sql = "UPDATE renewal SET stage = 'paid', held_msat = ?3, look_at = ?4,
            spent_msat = CASE WHEN spent_msat > held_msat THEN spent_msat - held_msat ELSE 0 END + ?3
        WHERE account_id = ?1 AND payment_hash = ?2 AND stage = 'sent'";
    let statement = Statement::write(sql, params![seen.account, seen.hash, cost, look_at]);
    Ok(store.change("note what an owner's wallet paid", statement).await? == 1)
}

/// Its invoice was credited: the next one may begin. False: that was noted before.
pub async fn credited(store: &Store, seen: &Renewal, look_at: UnixMs) -> Result<bool> {
    // Begun, and never asked for: somebody else paid it, and nothing was spent here.
    let sql = "UPDATE renewal SET payment_hash = NULL, failures = 0, problem = NULL, look_at = ?4, held_msat = 0,
            spent_msat = CASE WHEN stage = 'begun' THEN spent_msat - held_msat ELSE spent_msat END, stage = 'none'
        WHERE account_id = ?1 AND payment_hash = ?2 AND stage = ?3";
    let params = params![seen.account, seen.hash, seen.stage.as_str(), look_at];
    Ok(store.change("end a renewal that was paid", Statement::write(sql, params)).await? == 1)
}

/// Why nothing was paid, and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub problem: String,
    pub look_at: UnixMs,
    /// Trying again is of no use before the owner has done something.
    pub disable: bool,
}

/// The payment is over and surely was not made, or none can be begun: what was held is free, and the account's agents are
/// looked at, since their owner is to hear of their end. False: something else happened meanwhile.
pub async fn failed(store: &Store, seen: &Renewal, failed: Failed) -> Result<bool> {
    let mut draft = Draft::new("end a renewal that was not paid");
    let hash = seen.hash.map_or_else(Vec::new, |hash| hash.as_bytes().to_vec());
    draft.push(
        Statement::write(
            "UPDATE renewal SET stage = 'none', payment_hash = NULL, failures = failures + 1, problem = ?5, look_at = ?6,
                enabled = CASE WHEN version = ?2 THEN enabled * ?7 ELSE enabled END,
                spent_msat = CASE WHEN spent_msat > held_msat THEN spent_msat - held_msat ELSE 0 END, held_msat = 0
             WHERE account_id = ?1 AND stage = ?3 AND (stage = 'none' AND version = ?2 OR payment_hash = ?4)",
            params![
                seen.account,
                seen.version,
                seen.stage.as_str(),
                hash,
                failed.problem,
                failed.look_at,
                i64::from(!failed.disable)
            ],
        )
        .one_or_conflict(Conflict::Version),
    );
    draft.push(look_at_agents(seen.account));
    match draft.write(store).await {
        Ok(_) => Ok(true),
        Err(error) if error.conflict() == Some(&Conflict::Version) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Nothing to do before then; where nothing is under way, nothing is missing either. What happened meanwhile comes first.
pub async fn later(store: &Store, seen: &Renewal, look_at: UnixMs, problem: Option<String>) -> Result<()> {
    let sql =
        "UPDATE renewal SET look_at = ?4, problem = ?5, failures = CASE WHEN stage = 'none' THEN 0 ELSE failures END
        WHERE account_id = ?1 AND version = ?2 AND stage = ?3";
    let params = params![seen.account, seen.version, seen.stage.as_str(), look_at, problem];
    store.change("look at a renewal later", Statement::write(sql, params)).await.map(|_| ())
}

/// In the order of all batches over agents.
fn look_at_agents(account: AccountId) -> Statement {
    Statement::write(
        concat!(
            "UPDATE agent SET hosting_look_at = 0 WHERE npub IN
                (SELECT npub FROM agent WHERE account_id = ?1 AND moved_to IS NULL ORDER BY npub ",
            crate::dialect::in_order!(),
            ")"
        ),
        params![account],
    )
}

fn renewal(row: &mut Columns) -> Result<Renewal> {
    Ok(Renewal {
        account: row.get()?,
        sealed: row.get()?,
        wallet: row.get()?,
        cap: row.get()?,
        enabled: row.get()?,
        version: row.get()?,
        month: row.get()?,
        spent: row.get()?,
        stage: row.parse(Stage::parse)?,
        hash: row.get()?,
        held: row.get()?,
        failures: row.get()?,
        problem: row.get()?,
        look_at: row.get()?,
    })
}
