//! What goes out: held before the node is asked to pay, and ended by what became of it.
//!
//! A hash has one payment at a node at a time. Money is released only where the payment machine has concluded that nothing
//! was paid, or by who alone ever sent it and was told so; else it stays held.

use nexus_core::{Generation, Hash32, Msat, Npub, UnixMs};

use super::invoice::{invoice, paid_key, push_paid};
use super::{Book, Entry};
use crate::batch::params;
use crate::draft::Draft;
use crate::hosting;
use crate::row::Columns;
use crate::{Conflict, Fence, Result, Statement, Store, StoreError, Verdict};

/// Most payments of one look.
const MAX_PAGE: u32 = 500;
/// Times that a hold looks again at what another wrote meanwhile.
const TRIES: u32 = 5;
const HOLD: &str = "hold an agent's money at the node";

/// Who is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payee {
    Outside,
    /// An agent with an account at the same node: LND pays nothing to itself, so these books do.
    Agent,
    /// The operator, for hosting, at the same node.
    Hosting,
}

impl Payee {
    const ALL: [Self; 3] = [Self::Outside, Self::Agent, Self::Hosting];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Agent => "agent",
            Self::Hosting => "hosting",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|payee| payee.as_str() == text)
    }
}

/// Where a payment stands in these books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Held,
    Settled,
    Failed,
}

impl State {
    const ALL: [Self; 3] = [Self::Held, Self::Settled, Self::Failed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Settled => "settled",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Money to be held for a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewHold {
    pub node: String,
    pub hash: Hash32,
    pub npub: Npub,
    pub payment_id: String,
    pub attempt: u32,
    pub amount: Msat,
    pub max_fee: Msat,
    pub payee: Payee,
    pub at: UnixMs,
}

/// What became of holding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// For the first time: nobody has sent this attempt.
    New,
    /// It was held before.
    Again,
    /// This attempt is over.
    Over(Payment),
    /// Another payment has this hash, of another agent or of this one.
    Taken,
}

/// The payment of a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    pub node: String,
    pub hash: Hash32,
    pub npub: Npub,
    pub payment_id: String,
    pub attempt: u32,
    pub amount: Msat,
    /// With the fee reserve.
    pub hold: Msat,
    pub payee: Payee,
    pub state: State,
    pub fee: Msat,
    pub preimage: Option<Hash32>,
}

macro_rules! payment_columns {
    () => {
        "SELECT s.node, s.payment_hash, s.npub, s.payment_id, s.attempt, s.amount_msat, s.hold_msat, s.payee, s.state,
            s.fee_msat, s.preimage FROM sub_payment s"
    };
}

impl NewHold {
    fn is(&self, payment: &Payment) -> bool {
        payment.npub == self.npub && payment.payment_id == self.payment_id && payment.attempt == self.attempt
    }
}

/// Whose invoice this is, if it is one of the same node: LND does not pay it.
pub async fn payee(store: &Store, node: &str, hash: Hash32) -> Result<Option<(Payee, Msat)>> {
    if let Some(invoice) = invoice(store, hash).await? {
        return Ok(Some((Payee::Agent, invoice.amount)).filter(|_| invoice.node == node));
    }
    Ok(hosting::invoice(store, hash).await?.map(|invoice| (Payee::Hosting, invoice.amount)))
}

pub async fn payment(store: &Store, node: &str, hash: Hash32) -> Result<Option<Payment>> {
    let sql = concat!(payment_columns!(), " WHERE s.node = ?1 AND s.payment_hash = ?2");
    store.row("read a payment from the node", sql, params![node.to_owned(), hash], payment_row).await
}

/// Holds amount and fee reserve for one attempt, under the fence: a worker that was replaced holds nothing, and so pays nothing.
///
/// # Errors
/// [`Conflict::SubFunds`] when the account has less.
pub async fn hold(store: &Store, fence: Fence, generation: Generation, new: &NewHold) -> Result<Held> {
    for _ in 0..TRIES {
        let known = payment(store, &new.node, new.hash).await?;
        let again = match &known {
            None => None,
            Some(known) if new.is(known) && known.state == State::Held => return Ok(Held::Again),
            Some(known) if new.is(known) => return Ok(Held::Over(known.clone())),
            Some(known) if known.state != State::Failed => return Ok(Held::Taken),
            Some(failed) => Some(failed),
        };
        match put_hold(store, fence, generation, new, again).await {
            // Somebody was faster: what they wrote is read.
            Err(error) if error.is_duplicate() => {}
            Ok(()) => return Ok(Held::New),
            Err(error) => return Err(error),
        }
    }
    Ok(Held::Taken)
}

async fn put_hold(
    store: &Store,
    fence: Fence,
    generation: Generation,
    new: &NewHold,
    failed: Option<&Payment>,
) -> Result<()> {
    let hold = new.amount.saturating_add(new.max_fee);
    let mut draft = Draft::hosted(HOLD, fence, new.npub, generation);
    let mut row = params![
        new.node.clone(),
        new.hash,
        new.npub,
        new.payment_id.clone(),
        new.attempt,
        new.amount,
        hold,
        new.payee.as_str(),
        new.at
    ];
    let sql = match failed {
        None => {
            "INSERT INTO sub_payment (node, payment_hash, npub, payment_id, attempt, amount_msat, hold_msat, payee, state,
                fee_msat, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'held', 0, ?9) ON CONFLICT DO NOTHING"
        }
        Some(failed) => {
            row.extend(params![failed.npub, failed.payment_id.clone(), failed.attempt]);
            "UPDATE sub_payment SET npub = ?3, payment_id = ?4, attempt = ?5, amount_msat = ?6, hold_msat = ?7, payee = ?8,
                state = 'held', fee_msat = 0, created_at = ?9
             WHERE node = ?1 AND payment_hash = ?2 AND npub = ?10 AND payment_id = ?11 AND attempt = ?12
                AND state = 'failed'"
        }
    };
    draft.push(Statement::write(sql, row).one_or(Verdict::Duplicate));
    let amount = hold.as_i64();
    let entry = Entry {
        node: &new.node,
        key: attempt_key("hold", new.hash, new.npub, &new.payment_id, new.attempt),
        kind: "hold",
        npub: Some(new.npub),
        at: new.at,
        lines: vec![(Book::Available(new.npub), amount), (Book::Held(new.npub), -amount)],
    };
    entry.push_to(&mut draft);
    draft.write(store).await.map(|_| ())
}

fn attempt_key(what: &str, hash: Hash32, npub: Npub, payment_id: &str, attempt: u32) -> String {
    format!("{what}:{hash}:{}:{payment_id}:{attempt}", npub.to_hex())
}

/// Ends this attempt as it stands held, else the batch is `Duplicate`.
fn end_statement(payment: &Payment, to: State, fee: Msat, preimage: Option<Hash32>) -> Statement {
    Statement::write(
        "UPDATE sub_payment SET state = ?6, fee_msat = ?7, preimage = ?8
         WHERE node = ?1 AND payment_hash = ?2 AND npub = ?3 AND payment_id = ?4 AND attempt = ?5 AND state = 'held'",
        params![
            payment.node.clone(),
            payment.hash,
            payment.npub,
            payment.payment_id.clone(),
            payment.attempt,
            to.as_str(),
            fee,
            preimage
        ],
    )
    .one_or(Verdict::Duplicate)
}

/// It was paid, and cost so much: amount and fee leave the node, the rest is the agent's again. What it cost beyond the hold
/// is the operator's loss. False: it was not held any more.
pub async fn settle(
    store: &Store,
    fence: Fence,
    generation: Generation,
    payment: &Payment,
    fee: Msat,
    preimage: Option<Hash32>,
    at: UnixMs,
) -> Result<bool> {
    let mut draft = Draft::hosted("book a payment from the node", fence, payment.npub, generation);
    draft.push(end_statement(payment, State::Settled, fee, preimage));
    let (hold, cost) = (payment.hold.as_i64(), payment.amount.saturating_add(fee).as_i64());
    let mut lines = vec![(Book::Held(payment.npub), hold), (Book::Lightning, -cost)];
    match hold - cost {
        0 => {}
        rest @ 1.. => lines.push((Book::Available(payment.npub), -rest)),
        loss => lines.push((Book::Fees, -loss)),
    }
    let entry = Entry {
        node: &payment.node,
        key: format!("settled:{}", payment.hash),
        kind: "paid",
        npub: Some(payment.npub),
        at,
        lines,
    };
    entry.push_to(&mut draft);
    once(draft.write(store).await)
}

/// It was surely not paid: what was held is the agent's again. False: it was not held any more.
pub async fn release(
    store: &Store,
    fence: Fence,
    generation: Generation,
    payment: &Payment,
    at: UnixMs,
) -> Result<bool> {
    let mut draft = Draft::hosted("release an agent's money at the node", fence, payment.npub, generation);
    push_release(&mut draft, payment, at);
    once(draft.write(store).await)
}

fn push_release(draft: &mut Draft, payment: &Payment, at: UnixMs) {
    draft.push(end_statement(payment, State::Failed, Msat::ZERO, None));
    let hold = payment.hold.as_i64();
    let entry = Entry {
        node: &payment.node,
        key: attempt_key("release", payment.hash, payment.npub, &payment.payment_id, payment.attempt),
        kind: "release",
        npub: Some(payment.npub),
        at,
        lines: vec![(Book::Held(payment.npub), hold), (Book::Available(payment.npub), -hold)],
    };
    entry.push_to(draft);
}

fn once(written: Result<Vec<i64>>) -> Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(error) if error.is_duplicate() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Held for attempts of an agent's that its payment machine has concluded as not paid, or is past: to be released.
pub async fn ended_elsewhere(store: &Store, node: &str, npub: Npub) -> Result<Vec<Payment>> {
    let sql = concat!(
        payment_columns!(),
        " JOIN payment p ON p.npub = s.npub AND p.hash = s.payment_hash AND p.step = s.payment_id
          WHERE s.npub = ?1 AND s.node = ?2 AND s.state = 'held' AND s.payee = 'outside'
            AND ((p.attempt = s.attempt AND p.state IN ('failed', 'canceled')) OR p.attempt > s.attempt)
          ORDER BY s.payment_hash LIMIT ?3"
    );
    store.rows("find holds that are over", sql, params![npub, node.to_owned(), MAX_PAGE], payment_row).await
}

/// Held payments to others at the same node, oldest first: to be booked here, since the node does not pay itself.
pub async fn inside(store: &Store, node: &str, limit: u32) -> Result<Vec<Payment>> {
    let sql = concat!(
        payment_columns!(),
        " WHERE s.state = 'held' AND s.payee <> 'outside' AND s.node = ?1 ORDER BY s.created_at, s.payment_hash LIMIT ?2"
    );
    store.rows("find payments within the node", sql, params![node.to_owned(), limit], payment_row).await
}

/// Books a payment to another at the same node, whose invoice the node has cancelled by now: it can't be paid from outside any
/// more. Both sides in one batch, once. False: it was booked before, or its invoice was paid otherwise.
///
/// # Errors
/// [`Conflict::NotFound`] when there is no such invoice.
pub async fn pay_inside(store: &Store, payment: &Payment, preimage: Hash32, at: UnixMs) -> Result<bool> {
    const ATTEMPTED: &str = "book a payment within the node";
    let missing = || StoreError::Conflict { attempted: ATTEMPTED, conflict: Conflict::NotFound };
    let mut draft = Draft::new(ATTEMPTED);
    let (hold, amount) = (payment.hold.as_i64(), payment.amount.as_i64());
    let mut lines = vec![(Book::Held(payment.npub), hold)];
    if hold > amount {
        lines.push((Book::Available(payment.npub), amount - hold));
    }
    match payment.payee {
        Payee::Outside => return Err(missing()),
        Payee::Agent => {
            let found = invoice(store, payment.hash).await?.ok_or_else(missing)?;
            push_paid(&mut draft, &found, payment.amount, Some(preimage), at);
            lines.push((Book::Available(found.npub), -amount));
        }
        Payee::Hosting => {
            // From then on it is the hosting ledger's part of the node's money.
            let found = hosting::invoice(store, payment.hash).await?.ok_or_else(missing)?;
            hosting::push_paid(&mut draft, &found, payment.amount, at);
            lines.push((Book::Lightning, -amount));
        }
    }
    draft.push(end_statement(payment, State::Settled, Msat::ZERO, Some(preimage)));
    let (key, kind, npub) = (paid_key(payment.hash), "inside", Some(payment.npub));
    Entry { node: &payment.node, key, kind, npub, at, lines }.push_to(&mut draft);
    once(draft.write(store).await)
}

/// Its invoice was paid from outside, or is none any more: what was held is the payer's again.
pub async fn refuse_inside(store: &Store, payment: &Payment, at: UnixMs) -> Result<bool> {
    let mut draft = Draft::new("refuse a payment within the node");
    push_release(&mut draft, payment, at);
    once(draft.write(store).await)
}

fn payment_row(row: &mut Columns) -> Result<Payment> {
    Ok(Payment {
        node: row.get()?,
        hash: row.get()?,
        npub: row.get()?,
        payment_id: row.get()?,
        attempt: row.get()?,
        amount: row.get()?,
        hold: row.get()?,
        payee: row.parse(Payee::parse)?,
        state: row.parse(State::parse)?,
        fee: row.get()?,
        preimage: row.get()?,
    })
}
