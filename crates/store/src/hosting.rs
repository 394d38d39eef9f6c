//! What hosting costs whom: invoices for credit, and the months that agents are paid for.
//!
//! A month is charged when it begins, out of the account's credit, in one batch with what follows from it. Each step names
//! what it starts from, so that two control planes, or one that repeats itself, charge once.

use nexus_core::event::EventBody;
use nexus_core::hosting::{Included, Plan, Renewal, Term};
use nexus_core::status::Hosting;
use nexus_core::{AccountId, Hash32, Msat, Npub, UnixMs};

use crate::batch::{Lock, params};
#[cfg(feature = "broken")]
use crate::broken::Broken;
use crate::draft::{Draft, rev};
use crate::event::NewEvent;
use crate::ledger::{Book, Kind, Transfer};
use crate::row::Columns;
use crate::{Conflict, Result, Statement, Store, rent};

/// Open invoices of one account and origin at most.
pub const MAX_OPEN: i64 = 20;
/// Most invoices of one page.
pub const MAX_PAGE: u32 = 200;

/// An invoice that an account asked for, in order to have credit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInvoice {
    pub hash: Hash32,
    pub account: AccountId,
    pub amount: Msat,
    pub memo: String,
    pub origin: Origin,
    /// Closed under the operator's key.
    pub sealed_preimage: Vec<u8>,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
}

/// Who asked for an invoice. What strangers ask for leaves an account room for its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Account,
    /// Anybody, by L402.
    Anybody,
}

impl Origin {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Anybody => "anybody",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    pub hash: Hash32,
    pub account: AccountId,
    pub amount: Msat,
    pub memo: String,
    pub sealed_preimage: Vec<u8>,
    /// Empty until the node has made it.
    pub bolt11: String,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
    /// `open`, `paid` or `expired`.
    pub state: String,
    /// What came, which may be more than was asked.
    pub paid: Option<Msat>,
    pub paid_at: Option<UnixMs>,
}

macro_rules! invoice_columns {
    () => {
        "SELECT payment_hash, account_id, amount_msat, memo, sealed_preimage, bolt11, created_at, expires_at, state,
            paid_msat, paid_at FROM hosting_invoice"
    };
}

/// Stores an invoice before the node is asked for it.
///
/// # Errors
/// [`Conflict::TooMany`] above [`MAX_OPEN`]; [`Conflict::NoAccount`].
pub async fn put_invoice(store: &Store, invoice: NewInvoice) -> Result<()> {
    let mut draft = Draft::new("store a hosting invoice");
    let account = Statement::read("SELECT 1 FROM account WHERE account_id = ?1", params![invoice.account]);
    draft.push(account.lock(Lock::Update).one_or_conflict(Conflict::NoAccount));
    draft.push(
        Statement::write(
            "INSERT INTO hosting_invoice (payment_hash, account_id, amount_msat, memo, sealed_preimage, bolt11,
                created_at, expires_at, state, look_at, origin)
             SELECT ?1, ?2, ?3, ?4, ?5, '', ?6, ?7, 'open', ?6, ?9
             WHERE (SELECT COUNT(*) FROM hosting_invoice WHERE account_id = ?2 AND state = 'open' AND origin = ?9) < ?8",
            params![
                invoice.hash,
                invoice.account,
                invoice.amount,
                invoice.memo,
                invoice.sealed_preimage,
                invoice.created_at,
                invoice.expires_at,
                MAX_OPEN,
                invoice.origin.as_str()
            ],
        )
        .one_or_conflict(Conflict::TooMany),
    );
    draft.write(store).await.map(|_| ())
}

/// What the node made of it.
pub async fn made(store: &Store, hash: Hash32, bolt11: &str, expires_at: UnixMs) -> Result<()> {
    let sql = "UPDATE hosting_invoice SET bolt11 = ?2, expires_at = ?3 WHERE payment_hash = ?1";
    let statement = Statement::write(sql, params![hash, bolt11.to_owned(), expires_at]);
    store.change("keep a hosting invoice", statement.one_or_conflict(Conflict::NotFound)).await.map(|_| ())
}

pub async fn invoice(store: &Store, hash: Hash32) -> Result<Option<Invoice>> {
    let sql = concat!(invoice_columns!(), " WHERE payment_hash = ?1");
    store.row("read a hosting invoice", sql, params![hash], invoice_row).await
}

/// An account's, newest first.
pub async fn invoices(store: &Store, account: AccountId, limit: u32) -> Result<Vec<Invoice>> {
    let sql = concat!(invoice_columns!(), " WHERE account_id = ?1 ORDER BY created_at DESC, payment_hash LIMIT ?2");
    store.rows("list hosting invoices", sql, params![account, limit.min(MAX_PAGE)], invoice_row).await
}

/// Those that the node is to be asked about now: open ones, and for a while expired ones.
pub async fn to_look_at(store: &Store, now: UnixMs, limit: u32) -> Result<Vec<Invoice>> {
    let sql = concat!(invoice_columns!(), " WHERE state <> 'paid' AND look_at <= ?1 ORDER BY look_at LIMIT ?2");
    store.rows("find hosting invoices to look up", sql, params![now, limit], invoice_row).await
}

/// What was credited since a moment, oldest first, after the given one: to be compared with the node.
pub async fn credited(store: &Store, since: UnixMs, after: Option<Hash32>, limit: u32) -> Result<Vec<Invoice>> {
    let after = after.map_or_else(Vec::new, |hash| hash.as_bytes().to_vec());
    let sql = concat!(
        invoice_columns!(),
        " WHERE state = 'paid' AND paid_at >= ?1 AND payment_hash > ?2 ORDER BY payment_hash LIMIT ?3"
    );
    store.rows("list credited invoices", sql, params![since, after, limit.min(MAX_PAGE)], invoice_row).await
}

/// Not paid yet: looked at again then, for the last time if none.
pub async fn look_later(store: &Store, hash: Hash32, expired: bool, at: Option<UnixMs>) -> Result<()> {
    let state = if expired { "expired" } else { "open" };
    let at = at.unwrap_or(UnixMs(i64::MAX));
    let sql = "UPDATE hosting_invoice SET look_at = ?3, state = ?2 WHERE payment_hash = ?1 AND state <> 'paid'";
    store.change("look at a hosting invoice later", Statement::write(sql, params![hash, state, at])).await.map(|_| ())
}

/// The node says that it was paid: credited once, whatever came and however late. Its account's agents are looked at next.
/// False: it was credited before.
///
/// # Errors
/// [`Conflict::NotFound`] when no such invoice is ours: see [`unexplained`].
pub async fn paid(store: &Store, hash: Hash32, came: Msat, at: UnixMs) -> Result<bool> {
    let Some(found) = invoice(store, hash).await? else {
        return Err(crate::StoreError::Conflict { attempted: "credit a payment", conflict: Conflict::NotFound });
    };
    let mut draft = Draft::new("credit a payment");
    let key = format!("paid:{hash}");
    #[cfg(feature = "broken")]
    let key = if store.is_broken(Broken::CreditedEachTime) { store.another_key(key) } else { key };
    push_credit(&mut draft, &found, came, at, key);
    match draft.write(store).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_duplicate() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Credits a payment, in a batch that may have more to say. The batch is `Duplicate` when it was credited before.
pub(crate) fn push_paid(draft: &mut Draft, found: &Invoice, came: Msat, at: UnixMs) {
    push_credit(draft, found, came, at, format!("paid:{}", found.hash));
}

fn push_credit(draft: &mut Draft, found: &Invoice, came: Msat, at: UnixMs, key: String) {
    let hash = found.hash;
    let transfer = Transfer {
        key,
        kind: Kind::TopUp,
        account: Some(found.account),
        npub: None,
        note: found.memo.clone(),
        at,
        from: Book::Credit(found.account),
        to: Book::Lightning,
        amount: came,
    };
    draft.push(Statement::write(
        "UPDATE hosting_invoice SET state = 'paid', paid_msat = ?2, paid_at = ?3 WHERE payment_hash = ?1",
        params![hash, came, at],
    ));
    // In the order of all batches over agents.
    draft.push(Statement::write(
        concat!(
            "UPDATE agent SET hosting_look_at = 0 WHERE npub IN
                (SELECT npub FROM agent WHERE account_id = ?1 AND moved_to IS NULL ORDER BY npub ",
            crate::dialect::in_order!(),
            ")"
        ),
        params![found.account],
    ));
    transfer.push_to(draft);
}

/// Money that came to the node for an invoice that is not here: kept apart, once, for the operator to find out. False: known.
pub async fn unexplained(store: &Store, hash: Hash32, came: Msat, at: UnixMs) -> Result<bool> {
    let mut draft = Draft::new("keep a payment that nothing explains");
    let transfer = Transfer {
        key: format!("paid:{hash}"),
        kind: Kind::Unknown,
        account: None,
        npub: None,
        note: "no invoice of this host".to_owned(),
        at,
        from: Book::Suspense,
        to: Book::Lightning,
        amount: came,
    };
    transfer.push_to(&mut draft);
    match draft.write(store).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_duplicate() => Ok(false),
        Err(error) => Err(error),
    }
}

/// An agent as the biller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Billed {
    pub npub: Npub,
    pub name: String,
    pub account: AccountId,
    pub plan: String,
    pub hosting: Hosting,
    /// None before it was first looked at.
    pub term: Option<Term>,
    /// What its last month cost.
    pub paid: Msat,
    pub notice: Option<u16>,
    /// What its next month can be charged from: without what others' rent paid for.
    pub credit: Msat,
    pub trial_until: Option<UnixMs>,
}

macro_rules! billed_columns {
    () => {
        "SELECT a.npub, a.name, a.account_id, c.plan, a.hosting, a.hosted_from, a.hosted_months, a.paid_until,
            a.month_fee_msat, a.hosting_notice, c.credit_msat, c.trial_until,
            (SELECT CAST(COALESCE(SUM(i.paid_msat), 0) AS BIGINT) FROM hosting_invoice i WHERE i.account_id = a.account_id
                AND i.npub IS NOT NULL AND i.used = 0 AND i.state = 'paid' AND i.npub <> a.npub)
         FROM agent a JOIN account c ON c.account_id = a.account_id"
    };
}

/// Agents whose hosting is to be looked at now.
pub async fn due(store: &Store, now: UnixMs, limit: u32) -> Result<Vec<Billed>> {
    let sql = concat!(
        billed_columns!(),
        " WHERE a.hosting_look_at <= ?1 AND a.moved_to IS NULL ORDER BY a.hosting_look_at, a.npub LIMIT ?2"
    );
    store.rows("find agents whose hosting is due", sql, params![now, limit], billed_row).await
}

/// An account's agents as the biller sees them.
pub async fn of_account(store: &Store, account: AccountId, limit: u32) -> Result<Vec<Billed>> {
    let sql = concat!(billed_columns!(), " WHERE a.account_id = ?1 AND a.moved_to IS NULL ORDER BY a.npub LIMIT ?2");
    store.rows("list an account's hosting", sql, params![account, limit], billed_row).await
}

/// Nothing is charged any more: agents that were are paid like everyone, a page at a time. What was paid in stays credit. Returns
/// how many.
pub async fn forget(store: &Store) -> Result<u64> {
    let mut draft = Draft::new("end what is charged for hosting");
    draft.next_rev();
    let sql = concat!(
        "UPDATE agent SET hosting = 'paid', hosted_from = NULL, hosted_months = 0, paid_until = NULL, month_fee_msat = 0,
            hosting_notice = NULL, hosting_look_at = 0, ticks_per_day = NULL, state_kib = NULL, retention_days = NULL,
            desired_rev = ",
        rev!(),
        " WHERE npub IN (SELECT npub FROM agent WHERE hosted_from IS NOT NULL ORDER BY npub LIMIT ?1 ",
        crate::dialect::in_order!(),
        ")"
    );
    draft.push(Statement::write(sql, params![i64::from(crate::worker::MAX_TOGETHER)]));
    let outputs = store.write(draft.into_batch()).await?;
    Ok(outputs.last().map_or(0, |output| output.affected))
}

/// An account's credit, and until when its trial goes.
pub async fn credit(store: &Store, account: AccountId) -> Result<(Msat, Option<UnixMs>)> {
    let sql = "SELECT credit_msat, trial_until FROM account WHERE account_id = ?1";
    let found =
        store.row("read an account's credit", sql, params![account], |row| Ok((row.get()?, row.get()?))).await?;
    Ok(found.unwrap_or((Msat::ZERO, None)))
}

/// The account's trial begins, unless it has.
pub async fn begin_trial(store: &Store, account: AccountId, until: UnixMs) -> Result<()> {
    let sql = "UPDATE account SET trial_until = ?2 WHERE account_id = ?1 AND trial_until IS NULL";
    store.change("begin a trial", Statement::write(sql, params![account, until])).await.map(|_| ())
}

/// What a look at an agent's hosting came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    pub term: Term,
    pub hosting: Hosting,
    /// A notice that is given now, in days before the end.
    pub notice: Option<u16>,
    /// The account's credit pays for the next month: earlier notices are over.
    pub covered: bool,
    pub look_at: UnixMs,
    /// As the plan has it.
    pub included: Included,
}

/// Notes what a look came to; its agent's worker is told if its standing changed. Returns the numbers of its events.
///
/// # Errors
/// [`Conflict::Version`] when it was billed meanwhile.
pub async fn looked(store: &Store, billed: &Billed, looked: Looked, at: UnixMs) -> Result<Vec<i64>> {
    let mut draft = Draft::new("look at an agent's hosting");
    begin(&mut draft, billed, looked.hosting);
    let notice = looked.notice.or(billed.notice).filter(|_| !looked.covered).map(i64::from);
    put(&mut draft, billed, &looked, billed.paid, notice, at);
    if let Some(days) = looked.notice {
        draft.event(
            billed.npub,
            &NewEvent::new(at, EventBody::HostingEnds { days, paid_until: looked.term.paid_until }),
        );
    }
    draft.write(store).await
}

/// Charges a month: the fee leaves the account's credit, and the agent is paid for, in one batch. Returns the numbers of its
/// events.
///
/// # Errors
/// [`Conflict::NoCredit`]; [`Conflict::Version`] or `Duplicate` when it was charged meanwhile.
pub async fn charge(
    store: &Store,
    billed: &Billed,
    bought: Renewal,
    plan: &Plan,
    look_at: UnixMs,
    at: UnixMs,
) -> Result<Vec<i64>> {
    let fee = plan.fee();
    let mut draft = Draft::new("charge a month of hosting");
    begin(&mut draft, billed, Hosting::Paid);
    #[cfg(feature = "broken")]
    if store.is_broken(Broken::MonthUnguarded) {
        draft = Draft::new("charge a month of hosting");
        draft.next_rev();
    }
    if fee > Msat::ZERO {
        let key = format!("month:{}:{}:{}", billed.npub.to_hex(), bought.start, bought.number);
        #[cfg(feature = "broken")]
        let key = if store.is_broken(Broken::MonthUnguarded) { store.another_key(key) } else { key };
        let transfer = Transfer {
            key,
            kind: Kind::Month,
            account: Some(billed.account),
            npub: Some(billed.npub),
            note: format!("{}, plan {}, {} to {}", billed.name, billed.plan, bought.month.from, bought.month.until),
            at,
            from: Book::Income,
            to: Book::Credit(billed.account),
            amount: fee,
        };
        rent::leaves_others(&mut draft, billed.account, Some(billed.npub), fee);
        rent::used(&mut draft, billed.npub);
        transfer.push_to(&mut draft);
    }
    let term = Term { from: bought.start, months: bought.number + 1, paid_until: bought.month.until };
    let looked =
        Looked { term, hosting: Hosting::Paid, notice: None, covered: true, look_at, included: plan.included() };
    put(&mut draft, billed, &looked, fee, None, at);
    draft.write(store).await
}

/// What is unused of an agent's month goes back to its account's credit: for the batch in which it goes. The batch is
/// [`Conflict::Version`] when the agent was charged meanwhile.
pub(crate) fn unused(draft: &mut Draft, billed: &Billed, at: UnixMs) {
    draft.push(lock_as(billed));
    let Some(term) = billed.term else { return };
    let amount = term.unused(billed.paid, at);
    if amount > Msat::ZERO {
        let transfer = Transfer {
            key: format!("unused:{}:{}:{}", billed.npub.to_hex(), term.from, term.months),
            kind: Kind::Unused,
            account: Some(billed.account),
            npub: Some(billed.npub),
            note: format!("{} went, paid until {}", billed.name, term.paid_until),
            at,
            from: Book::Credit(billed.account),
            to: Book::Income,
            amount,
        };
        transfer.push_to(draft);
    }
}

/// The agent as the biller sees it; none if it is not here.
pub async fn billed(store: &Store, npub: Npub) -> Result<Option<Billed>> {
    let sql = concat!(billed_columns!(), " WHERE a.npub = ?1 AND a.moved_to IS NULL");
    let found = store.row("read an agent's hosting", sql, params![npub], billed_row).await;
    #[cfg(feature = "broken")]
    if store.is_broken(Broken::RefundDoubled) {
        return found
            .map(|found| found.map(|billed| Billed { paid: billed.paid.saturating_add(billed.paid), ..billed }));
    }
    found
}

/// As long as it is billed as it was read.
fn lock_as(billed: &Billed) -> Statement {
    let term = billed.term;
    Statement::read(
        "SELECT 1 FROM agent WHERE npub = ?1 AND hosted_months = ?2 AND moved_to IS NULL
            AND ((paid_until IS NULL AND ?3 IS NULL) OR paid_until = ?3)",
        params![billed.npub, term.map_or(0, |term| i64::from(term.months)), term.map(|term| term.paid_until)],
    )
    .lock(Lock::Update)
    .one_or_conflict(Conflict::Version)
}

/// The counter first, then the agent, then the account: as everywhere.
fn begin(draft: &mut Draft, billed: &Billed, hosting: Hosting) {
    if hosting != billed.hosting {
        draft.next_rev();
    }
    draft.push(lock_as(billed));
}

fn put(draft: &mut Draft, billed: &Billed, looked: &Looked, fee: Msat, notice: Option<i64>, at: UnixMs) {
    let term = &looked.term;
    let changed = looked.hosting != billed.hosting;
    let sql = if changed {
        concat!(
            "UPDATE agent SET hosted_from = ?2, hosted_months = ?3, paid_until = ?4, month_fee_msat = ?5, hosting = ?6,
                hosting_notice = ?7, hosting_look_at = ?8, ticks_per_day = ?9, state_kib = ?10, retention_days = ?11,
                next_tick_at = CASE WHEN hosting = 'suspended' AND next_tick_at IS NOT NULL THEN ?12 ELSE next_tick_at END,
                desired_rev = ",
            rev!(),
            " WHERE npub = ?1"
        )
    } else {
        "UPDATE agent SET hosted_from = ?2, hosted_months = ?3, paid_until = ?4, month_fee_msat = ?5, hosting = ?6,
            hosting_notice = ?7, hosting_look_at = ?8, ticks_per_day = ?9, state_kib = ?10, retention_days = ?11
         WHERE npub = ?1"
    };
    let mut params = params![
        billed.npub,
        term.from,
        i64::from(term.months),
        term.paid_until,
        fee,
        looked.hosting.as_str(),
        notice,
        looked.look_at,
        looked.included.ticks_per_day.map(i64::from),
        looked.included.state_kib.map(i64::from),
        looked.included.retention_days.map(i64::from)
    ];
    if changed {
        // What is revived ticks at once.
        params.push(at.into());
    }
    draft.push(Statement::write(sql, params));
    if changed {
        draft.event(billed.npub, &NewEvent::new(at, EventBody::HostingChanged { state: looked.hosting }));
    }
}

fn invoice_row(row: &mut Columns) -> Result<Invoice> {
    Ok(Invoice {
        hash: row.get()?,
        account: row.get()?,
        amount: row.get()?,
        memo: row.get()?,
        sealed_preimage: row.get()?,
        bolt11: row.get()?,
        created_at: row.get()?,
        expires_at: row.get()?,
        state: row.get()?,
        paid: row.get()?,
        paid_at: row.get()?,
    })
}

fn billed_row(row: &mut Columns) -> Result<Billed> {
    let (npub, name, account, plan) = (row.get()?, row.get()?, row.get()?, row.get()?);
    let hosting = row.parse(Hosting::parse)?;
    let (from, months, until): (Option<UnixMs>, i64, Option<UnixMs>) = (row.get()?, row.get()?, row.get()?);
    let months = u32::try_from(months).unwrap_or(u32::MAX);
    let paid = row.get()?;
    let notice: Option<i64> = row.get()?;
    let (credit, trial_until): (Msat, Option<UnixMs>) = (row.get()?, row.get()?);
    let kept_for_others: Msat = row.get()?;
    Ok(Billed {
        npub,
        name,
        account,
        plan,
        hosting,
        term: from.zip(until).map(|(from, paid_until)| Term { from, months, paid_until }),
        paid,
        notice: notice.and_then(|days| u16::try_from(days).ok()),
        credit: credit.saturating_sub(kept_for_others),
        trial_until,
    })
}
