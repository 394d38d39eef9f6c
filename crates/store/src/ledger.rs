//! The hosting ledger: double entry, append-only. What an owner paid in, what hosting took of it, and nothing of the agents'
//! own money.
//!
//! An entry has a key that names what happened, once: a second entry of the key is [`StoreError::Duplicate`], and nothing of
//! its batch is done. Its lines sum to zero. What we hold is positive, what we owe or earned negative: sats that come in
//! are `lightning` +x, `credit` -x; a month is `credit` +x, `income` -x.
//!
//! [`StoreError::Duplicate`]: crate::StoreError::Duplicate

use nexus_core::{AccountId, Msat, Npub, UnixMs};

use crate::batch::params;
use crate::draft::Draft;
use crate::row::Columns;
use crate::{Conflict, Result, Statement, Store, Verdict};

/// Most entries of one page.
pub const MAX_PAGE: u32 = 1_000;

/// Where money stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Book {
    /// On the operator's node.
    Lightning,
    /// Owed to an account: paid in and not used.
    Credit(AccountId),
    /// Earned.
    Income,
    /// Came in, for whom is not known.
    Suspense,
    /// Owed to an account, and on its way to it.
    Refunds(AccountId),
}

impl Book {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lightning => "lightning",
            Self::Credit(_) => "credit",
            Self::Income => "income",
            Self::Suspense => "suspense",
            Self::Refunds(_) => "refunds",
        }
    }

    const fn account(self) -> Option<AccountId> {
        match self {
            Self::Credit(account) | Self::Refunds(account) => Some(account),
            Self::Lightning | Self::Income | Self::Suspense => None,
        }
    }
}

/// What happened, as its key and its readers name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An invoice of an account was paid.
    TopUp,
    /// A month of an agent.
    Month,
    /// What was left of a month when its agent went.
    Unused,
    /// Money that no invoice of ours explains.
    Unknown,
    /// Credit that is to go back to its account.
    Refund,
    /// It went.
    RefundPaid,
    /// Of what was to go back: what did not.
    RefundBack,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TopUp => "top_up",
            Self::Month => "month",
            Self::Unused => "unused",
            Self::Unknown => "unknown",
            Self::Refund => "refund",
            Self::RefundPaid => "refund_paid",
            Self::RefundBack => "refund_back",
        }
    }
}

/// Money that moves from one book to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Of what happened; once in the ledger.
    pub key: String,
    pub kind: Kind,
    pub account: Option<AccountId>,
    pub npub: Option<Npub>,
    /// For people.
    pub note: String,
    pub at: UnixMs,
    pub from: Book,
    pub to: Book,
    pub amount: Msat,
}

impl Transfer {
    /// One entry with its two lines, in a batch that has more to say. The batch is [`StoreError::Duplicate`] when the key is
    /// taken, and [`Conflict::NoCredit`] when it would take more than an account has.
    ///
    /// [`StoreError::Duplicate`]: crate::StoreError::Duplicate
    pub(crate) fn push_to(&self, draft: &mut Draft) {
        draft.push(
            Statement::write(
                "INSERT INTO ledger_entry (entry_key, kind, account_id, npub, note, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO NOTHING",
                params![self.key.clone(), self.kind.as_str(), self.account, self.npub, self.note.clone(), self.at],
            )
            .one_or(Verdict::Duplicate),
        );
        let amount = self.amount.as_i64();
        for (book, msat) in [(self.to, amount), (self.from, -amount)] {
            draft.push(Statement::write(
                "INSERT INTO ledger_line (entry_key, book, account_id, amount_msat) VALUES (?1, ?2, ?3, ?4)",
                params![self.key.clone(), book.as_str(), book.account(), msat],
            ));
            if let Book::Credit(account) = book {
                draft.push(
                    Statement::write(
                        "UPDATE account SET credit_msat = credit_msat - ?2
                         WHERE account_id = ?1 AND credit_msat - ?2 >= 0",
                        params![account, msat],
                    )
                    .one_or_conflict(Conflict::NoCredit),
                );
            }
        }
    }
}

/// One entry as an account's owner reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub kind: String,
    pub npub: Option<Npub>,
    pub note: String,
    pub at: UnixMs,
    /// What the account's credit gained; negative: what it lost.
    pub credit_msat: i64,
}

/// What an account was credited and charged, newest first, before a moment.
pub async fn entries(store: &Store, account: AccountId, before: UnixMs, limit: u32) -> Result<Vec<Entry>> {
    let sql = "SELECT e.entry_key, e.kind, e.npub, e.note, e.at, CAST(-l.amount_msat AS BIGINT)
        FROM ledger_entry e JOIN ledger_line l ON l.entry_key = e.entry_key AND l.book = 'credit'
        WHERE e.account_id = ?1 AND e.at < ?2 ORDER BY e.at DESC, e.entry_key DESC LIMIT ?3";
    let read = |row: &mut Columns| {
        Ok(Entry {
            key: row.get()?,
            kind: row.get()?,
            npub: row.get()?,
            note: row.get()?,
            at: row.get()?,
            credit_msat: row.get()?,
        })
    };
    store.rows("list hosting entries", sql, params![account, before, limit.min(MAX_PAGE)], read).await
}

/// Whether the ledger is as it must be: what to look for, and how often it was found. All are zero in a sound ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unsound {
    /// Entries whose lines do not sum to zero.
    pub entries: i64,
    /// Accounts whose credit is not what their lines say, or is negative.
    pub accounts: i64,
    /// Accounts whose refunds on their way are not what the book holds for them.
    pub refunds: i64,
    /// Accounts with less credit than what agents paid for their own months.
    pub kept: i64,
}

pub async fn unsound(store: &Store) -> Result<Unsound> {
    let sql = "SELECT
        (SELECT COUNT(*) FROM (SELECT e.entry_key FROM ledger_entry e LEFT JOIN ledger_line l ON l.entry_key = e.entry_key
            GROUP BY e.entry_key HAVING COALESCE(SUM(l.amount_msat), 1) <> 0 OR COUNT(*) <> 2) crooked),
        (SELECT COUNT(*) FROM account a WHERE a.credit_msat < 0 OR a.credit_msat <> -(SELECT COALESCE(SUM(l.amount_msat), 0)
            FROM ledger_line l WHERE l.book = 'credit' AND l.account_id = a.account_id)),
        (SELECT COUNT(*) FROM account a WHERE
            (SELECT COALESCE(SUM(p.amount_msat + p.max_fee_msat), 0) FROM hosting_payout p WHERE p.account_id = a.account_id
                AND p.state NOT IN ('settled', 'failed', 'canceled'))
            <> -(SELECT COALESCE(SUM(l.amount_msat), 0) FROM ledger_line l WHERE l.book = 'refunds'
                AND l.account_id = a.account_id)),
        (SELECT COUNT(*) FROM account a WHERE a.credit_msat <
            (SELECT COALESCE(SUM(i.paid_msat), 0) FROM hosting_invoice i WHERE i.account_id = a.account_id
                AND i.npub IS NOT NULL AND i.used = 0 AND i.state = 'paid'))";
    let read = |row: &mut Columns| {
        Ok(Unsound { entries: row.get()?, accounts: row.get()?, refunds: row.get()?, kept: row.get()? })
    };
    Ok(store.row("audit the hosting ledger", sql, params![], read).await?.unwrap_or_default())
}

/// What stands in a book, in msat.
pub async fn balance(store: &Store, book: Book) -> Result<i64> {
    let sql = "SELECT CAST(COALESCE(SUM(amount_msat), 0) AS BIGINT) FROM ledger_line
        WHERE book = ?1 AND (?2 IS NULL OR account_id = ?2)";
    let balance = store.row("sum up a book", sql, params![book.as_str(), book.account()], |row| row.get()).await?;
    Ok(balance.unwrap_or(0))
}
