//! What can go wrong, and what was attempted when it did.

use std::path::PathBuf;

use crate::object::ObjectProblem;

/// A batch that was not done, or whose fate is not known. `attempted` names the operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The fence, the generation or the reconciler's term has moved on. Nothing was changed. Drop the agent (or
    /// the term), never retry.
    #[error("{attempted}: stale, someone else is responsible now")]
    Stale { attempted: &'static str },
    /// It was done before under the same key. Nothing was changed.
    #[error("{attempted}: already done")]
    Duplicate { attempted: &'static str },
    /// A rule of the data forbids it. Nothing was changed.
    #[error("{attempted}: {conflict}")]
    Conflict { attempted: &'static str, conflict: Conflict },
    /// Nothing was changed: the database refused or failed, also after the bounded retries.
    #[error("{attempted}: database: {message}")]
    Database { attempted: &'static str, message: String },
    /// The commit's answer was lost and the database could not be re-read: it may or may not have happened.
    #[error("{attempted}: it is not known whether this was stored: {message}")]
    Uncertain { attempted: &'static str, message: String },
    /// The executor is gone. A write that was under way may or may not have happened.
    #[error("{attempted}: the database is closed")]
    Closed { attempted: &'static str },
    /// The object store failed, or has not what a row names.
    #[error("{attempted}: {problem}")]
    Object { attempted: &'static str, problem: ObjectProblem },
    /// A row that this version cannot read: damage, or a value from a later version.
    #[error("{attempted}: unreadable row: {what}")]
    Corrupt { attempted: &'static str, what: String },
    #[error("cannot open the database {}: {message}", path.display())]
    Open { path: PathBuf, message: String },
    #[error("cannot open the database at {place}: {message}")]
    Unreachable { place: String, message: String },
    #[error("database settings: {message}")]
    Settings { message: String },
    #[error("the database has schema {found}, this program needs {known}: run `nexus migrate`")]
    OlderSchema { found: i64, known: i64 },
    #[error(
        "the database has schema {found}, this program knows up to {known}: use the version that wrote it, or a newer one"
    )]
    NewerSchema { found: i64, known: i64 },
    #[error("migration {version} failed: {message}")]
    Migration { version: i64, message: String },
}

impl StoreError {
    pub const fn is_stale(&self) -> bool {
        matches!(self, Self::Stale { .. })
    }

    pub const fn is_duplicate(&self) -> bool {
        matches!(self, Self::Duplicate { .. })
    }

    pub const fn conflict(&self) -> Option<&Conflict> {
        match self {
            Self::Conflict { conflict, .. } => Some(conflict),
            _ => None,
        }
    }

    /// What is wrong with an object, if that is what failed.
    pub const fn object(&self) -> Option<ObjectProblem> {
        match self {
            Self::Object { problem, .. } => Some(*problem),
            _ => None,
        }
    }
}

/// The rule that forbids a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    #[error("no such agent")]
    NoAgent,
    #[error("this npub is already hosted here")]
    NpubTaken,
    #[error("this invitation was used before")]
    Invite,
    #[error("the account already has an agent of this name")]
    NameTaken,
    #[error("it was changed meanwhile: read it again")]
    Version,
    #[error("a tick of this agent is already open")]
    TickOpen,
    #[error("this tick is not open")]
    TickNotOpen,
    #[error("an inbox row of this tick is gone or already handled")]
    InboxGone,
    #[error("the agent's inbox is full")]
    InboxFull,
    #[error("payments or publications of this agent are not resolved yet")]
    Unresolved,
    /// The limit of this window would be passed.
    #[error("no room in the budget window {window}")]
    Budget { window: String },
    /// A release or settlement of more than is held.
    #[error("the budget window {window} does not hold that much")]
    BudgetHold { window: String },
    /// The payable step already has an intent that is neither failed nor canceled.
    #[error("this step already has an open payment")]
    PaymentStep,
    /// This wallet already has a payment of this hash.
    #[error("this wallet already has a payment of this invoice")]
    PaymentHash,
    #[error("the wallet keeps this already")]
    WalletRecord,
    /// The payment is not in the state that the transition starts from.
    #[error("the payment is not {expected}")]
    PaymentState { expected: String },
    #[error("the payment machine has no way from {from} to {to}")]
    PaymentArrow { from: &'static str, to: &'static str },
    /// It stands elsewhere, or disputes have no such arrow.
    #[error("the dispute is not {expected}, or does not end so")]
    DisputeState { expected: String },
    #[error("too many requests of this kind are waiting")]
    TooMany,
    #[error("the worker is not registered, or not live")]
    NoWorker,
    #[error("the account does not exist")]
    NoAccount,
    #[error("the account has as many agents as it may")]
    TooManyAgents,
    /// It was put so long ago that it is being deleted: seal and put it again.
    #[error("the blob was put too long ago and is gone")]
    BlobGone,
    #[error("the account's hosting credit does not suffice")]
    NoCredit,
    #[error("its account at the node does not hold that much")]
    SubFunds,
    #[error("its account at the node would hold more than it may")]
    SubCap,
    #[error("all accounts at the node together would hold more than they may")]
    SubTotal,
    #[error("its account at the node still holds money")]
    SubRemains,
    #[error("it is too soon after the last payment")]
    TooSoon,
    #[error("there is no such row")]
    NotFound,
    #[error("an equal or newer event holds this place")]
    Superseded,
    /// PostgreSQL cannot store it, so no engine does.
    #[error("a text holds a zero byte (U+0000): leave it out")]
    ZeroByte,
    /// PostgreSQL cannot index it.
    #[error("a text by which it would be found is too long: shorten it")]
    TooLong,
}
