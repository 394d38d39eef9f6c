//! Accounts of agents at the operator's node: double entry, append-only, apart from the hosting ledger.
//!
//! The node's money is the operator's; these books say how much of it is whose. An entry has a key that names what happened,
//! once for a node: a second entry of the key is [`StoreError::Duplicate`], and nothing of its batch is done. Its lines sum
//! to zero. What the node has is positive, what we owe negative: a payment that comes is `lightning` +x, `available` -x; a
//! hold is `available` +x, `held` -x; what is paid out of it is `held` +x, `lightning` -x.
//!
//! [`StoreError::Duplicate`]: crate::StoreError::Duplicate

mod invoice;
mod payment;

pub use invoice::{
    Caps, Invoice, NewInvoice, expects, invoice, look_later, made, put_invoice, received, received_since, to_look_at,
    unexplained,
};
pub use payment::{
    Held, NewHold, Payee, Payment, State, ended_elsewhere, hold, inside, pay_inside, payee, payment, refuse_inside,
    release, settle,
};

use nexus_core::{Msat, Npub, UnixMs};

use crate::batch::params;
use crate::draft::Draft;
use crate::row::Columns;
use crate::{Conflict, Result, Statement, Store, Verdict};

/// Where money stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Book {
    /// What of the node's money belongs to these books.
    Lightning,
    /// What an agent may spend.
    Available(Npub),
    /// What a payment of an agent may take, whose end is not known.
    Held(Npub),
    /// What a payment cost beyond what was held for it: the operator's loss.
    Fees,
    /// Came in, for whom is not known; or was given up.
    Suspense,
}

impl Book {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lightning => "lightning",
            Self::Available(_) => "available",
            Self::Held(_) => "held",
            Self::Fees => "fees",
            Self::Suspense => "suspense",
        }
    }

    const fn npub(self) -> Option<Npub> {
        match self {
            Self::Available(npub) | Self::Held(npub) => Some(npub),
            Self::Lightning | Self::Fees | Self::Suspense => None,
        }
    }
}

/// What happened, with its lines.
pub(crate) struct Entry<'a> {
    pub node: &'a str,
    /// Once in a node's books.
    pub key: String,
    pub kind: &'static str,
    pub npub: Option<Npub>,
    pub at: UnixMs,
    /// Each with what it gains, in msat.
    pub lines: Vec<(Book, i64)>,
}

impl Entry<'_> {
    /// In a batch that has more to say. The batch is `Duplicate` when the key is taken, and [`Conflict::SubFunds`] when it
    /// would take more than an account has.
    pub(crate) fn push_to(&self, draft: &mut Draft) {
        draft.push(
            Statement::write(
                "INSERT INTO sub_entry (node, entry_key, kind, npub, at) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO NOTHING",
                params![self.node.to_owned(), self.key.clone(), self.kind, self.npub, self.at],
            )
            .one_or(Verdict::Duplicate),
        );
        for (place, (book, msat)) in (0_i64..).zip(&self.lines) {
            draft.push(Statement::write(
                "INSERT INTO sub_line (node, entry_key, place, book, npub, amount_msat)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![self.node.to_owned(), self.key.clone(), place, book.as_str(), book.npub(), *msat],
            ));
        }
        for (npub, available, held) in self.accounts() {
            draft.push(
                Statement::write(
                    "UPDATE sub_account SET available_msat = available_msat - ?3, held_msat = held_msat - ?4
                     WHERE node = ?1 AND npub = ?2 AND available_msat - ?3 >= 0 AND held_msat - ?4 >= 0",
                    params![self.node.to_owned(), npub, available, held],
                )
                .one_or_conflict(Conflict::SubFunds),
            );
        }
    }

    /// What it does to each account, in the order of all batches over agents.
    fn accounts(&self) -> Vec<(Npub, i64, i64)> {
        let mut changed = std::collections::BTreeMap::<Npub, (i64, i64)>::new();
        for (book, msat) in &self.lines {
            match book {
                Book::Available(npub) => changed.entry(*npub).or_default().0 += msat,
                Book::Held(npub) => changed.entry(*npub).or_default().1 += msat,
                Book::Lightning | Book::Fees | Book::Suspense => {}
            }
        }
        changed.into_iter().map(|(npub, (available, held))| (npub, available, held)).collect()
    }
}

/// An account with nothing in it, unless there is one.
pub(crate) fn open_statement(node: &str, npub: Npub) -> Statement {
    Statement::write(
        "INSERT INTO sub_account (node, npub, available_msat, held_msat) VALUES (?1, ?2, 0, 0) ON CONFLICT DO NOTHING",
        params![node.to_owned(), npub],
    )
}

/// What an agent has at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    pub available: Msat,
    pub held: Msat,
}

pub async fn account(store: &Store, node: &str, npub: Npub) -> Result<Account> {
    let sql = "SELECT available_msat, held_msat FROM sub_account WHERE node = ?1 AND npub = ?2";
    let read = |row: &mut Columns| Ok(Account { available: row.get()?, held: row.get()? });
    let found = store.row("read an account at the node", sql, params![node.to_owned(), npub], read).await?;
    Ok(found.unwrap_or_default())
}

/// At all nodes that it ever had an account at.
pub(crate) async fn accounts(store: &Store, npub: Npub) -> Result<Vec<(String, Account)>> {
    let sql = "SELECT node, available_msat, held_msat FROM sub_account WHERE npub = ?1 ORDER BY node";
    let read = |row: &mut Columns| Ok((row.get()?, Account { available: row.get()?, held: row.get()? }));
    store.rows("read an agent's accounts at nodes", sql, params![npub], read).await
}

/// Refuses a batch while the agent has money at a node.
pub(crate) fn empty_statement(npub: Npub) -> Statement {
    Statement::read(
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM sub_account WHERE npub = ?1 AND available_msat + held_msat > 0)",
        params![npub],
    )
    .one_or_conflict(Conflict::SubRemains)
}

/// What its owner gives up with the agent is nobody's: it is kept apart. What is in flight stays held.
pub(crate) fn forfeit(draft: &mut Draft, npub: Npub, accounts: &[(String, Account)], at: UnixMs) {
    for (node, account) in accounts.iter().filter(|(_, account)| account.available > Msat::ZERO) {
        let amount = account.available.as_i64();
        let entry = Entry {
            node,
            key: format!("forfeit:{}:{at}", npub.to_hex()),
            kind: "forfeit",
            npub: Some(npub),
            at,
            lines: vec![(Book::Available(npub), amount), (Book::Suspense, -amount)],
        };
        entry.push_to(draft);
    }
}

/// What stands in a book, in msat.
pub async fn balance(store: &Store, node: &str, book: Book) -> Result<i64> {
    let sql = "SELECT CAST(COALESCE(SUM(amount_msat), 0) AS BIGINT) FROM sub_line
        WHERE node = ?1 AND book = ?2 AND (?3 IS NULL OR npub = ?3)";
    let params = params![node.to_owned(), book.as_str(), book.npub()];
    let balance = store.row("sum up a book of the node", sql, params, |row| row.get()).await?;
    Ok(balance.unwrap_or(0))
}

/// What all agents have at a node.
pub async fn sum(store: &Store, node: &str) -> Result<Account> {
    let sql = "SELECT CAST(COALESCE(SUM(available_msat), 0) AS BIGINT), CAST(COALESCE(SUM(held_msat), 0) AS BIGINT)
        FROM sub_account WHERE node = ?1";
    let read = |row: &mut Columns| Ok(Account { available: row.get()?, held: row.get()? });
    Ok(store.row("sum up accounts at the node", sql, params![node.to_owned()], read).await?.unwrap_or_default())
}

/// Whether the books are as they must be: what to look for, and how often it was found. All are zero in sound books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unsound {
    /// Entries whose lines do not sum to zero.
    pub entries: i64,
    /// Accounts that are not what their lines say, or are negative.
    pub accounts: i64,
    /// Accounts that hold other than their open payments do.
    pub holds: i64,
}

impl Unsound {
    pub const fn count(&self) -> i64 {
        self.entries + self.accounts + self.holds
    }
}

pub async fn unsound(store: &Store) -> Result<Unsound> {
    let sql = "SELECT
        (SELECT COUNT(*) FROM (SELECT e.entry_key FROM sub_entry e
            LEFT JOIN sub_line l ON l.node = e.node AND l.entry_key = e.entry_key
            GROUP BY e.node, e.entry_key HAVING COALESCE(SUM(l.amount_msat), 1) <> 0) crooked),
        (SELECT COUNT(*) FROM sub_account a WHERE a.available_msat < 0 OR a.held_msat < 0
            OR a.available_msat <> -(SELECT COALESCE(SUM(l.amount_msat), 0) FROM sub_line l
                WHERE l.node = a.node AND l.book = 'available' AND l.npub = a.npub)
            OR a.held_msat <> -(SELECT COALESCE(SUM(l.amount_msat), 0) FROM sub_line l
                WHERE l.node = a.node AND l.book = 'held' AND l.npub = a.npub)),
        (SELECT COUNT(*) FROM sub_account a WHERE a.held_msat <> (SELECT COALESCE(SUM(p.hold_msat), 0) FROM sub_payment p
            WHERE p.node = a.node AND p.npub = a.npub AND p.state = 'held'))";
    let read = |row: &mut Columns| Ok(Unsound { entries: row.get()?, accounts: row.get()?, holds: row.get()? });
    Ok(store.row("audit the accounts at the node", sql, params![], read).await?.unwrap_or_default())
}
