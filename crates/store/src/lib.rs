//! The only SQL. Migrations, fence, journal, inbox, outbox, budget counters, payments, accounts, relay events.
//!
//! A [`Store`] is a cheap handle over an [`Executor`]: a batch of prepared statements with expectations goes in, rows
//! or a verdict come out, and a batch that came back `Ok` is durable. There are no interactive transactions. The
//! functions of the noun modules are the vocabulary; nothing outside this crate writes SQL.
//!
//! Never stored here in clear: mnemonics, private keys, data keys, passphrases, state, prompts, message texts. Blobs
//! come in sealed and go out sealed.

mod batch;
#[cfg(feature = "broken")]
pub mod broken;
mod budget;
mod dialect;
mod draft;
mod error;
mod executor;
mod inline;
mod migrate;
mod object;
mod postgres;
mod row;
mod sqlite;
mod thread;

pub mod account;
pub mod agent;
pub mod approval;
pub mod audit;
pub mod availability;
pub mod backup;
pub mod blob;
pub mod dispute;
pub mod event;
pub mod fleet;
pub mod hook;
pub mod hosted;
pub mod hosting;
pub mod idempotency;
pub mod inbox;
pub mod inspect;
pub mod installation;
pub mod invoice_watch;
pub mod journal;
pub mod ledger;
pub mod operator_record;
pub mod outside;
pub mod payment;
pub mod payout;
pub mod placement;
pub mod provider;
pub mod publication;
pub mod relay_event;
pub mod renewal;
pub mod rent;
pub mod replay;
pub mod rest;
pub mod schedule;
pub mod side;
pub mod sub_account;
pub mod tick;
pub mod token;
pub mod wallet_record;
pub mod wallet_request;
pub mod webhook;
pub mod worker;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

pub use audit::Audit;
pub use batch::{Batch, Expect, Fence, Lock, Output, Statement, Value, Verdict};
pub use error::{Conflict, StoreError};
pub use executor::{BoxFuture, Executor};
pub use object::{ObjectConfig, ObjectKind, ObjectProblem, Objects, S3Config};
pub use postgres::{PostgresConfig, PostgresServer, SslMode};
use row::Columns;
pub use row::Row;
pub use side::Side;

/// What every function of this crate returns.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The handle that everyone holds. Cloning it is cheap.
#[derive(Clone)]
pub struct Store {
    executor: Arc<dyn Executor>,
    objects: Option<Arc<Objects>>,
    #[cfg(feature = "broken")]
    defect: Option<broken::Defect>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens or creates the SQLite database at `path`, migrates it forward, and starts its threads: one that writes
    /// in groups, one that reads. `Ok` from a write means that it is on disk (`synchronous=FULL`).
    ///
    /// One process at a time: the caller holds the lock of the data directory.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] when a later version of this program wrote the database; nothing is touched then.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::over(Arc::new(thread::ThreadExecutor::open(path)?)))
    }

    /// As [`Store::open`], but statements run on the caller's thread: for simulation and for tools without a runtime.
    pub fn open_inline(path: &Path) -> Result<Self> {
        Ok(Self::over(Arc::new(inline::InlineExecutor::open(path)?)))
    }

    /// A database in memory, inline, gone when the last handle is dropped: for tests and simulation.
    pub fn open_memory() -> Result<Self> {
        Ok(Self::over(Arc::new(inline::InlineExecutor::open_memory()?)))
    }

    /// [`Store::open_memory`] that lets stale workers write, for a test that has to find out.
    #[cfg(feature = "broken")]
    pub fn open_memory_unfenced() -> Result<Self> {
        Ok(Self::over(Arc::new(inline::InlineExecutor::open_memory_unfenced()?)))
    }

    /// Connects to PostgreSQL 15 or later, migrates forward (unless told not to), and opens the connections that write.
    /// `Ok` from a write means that the server has it on disk; a lost connection is seen through (see
    /// [`PostgresConfig::outage_ms`]), and a commit whose answer was lost is read back before anyone is told.
    ///
    /// Any number of processes at a time. Needs a Tokio runtime as long as the handle lives.
    ///
    /// # Errors
    /// [`StoreError::Settings`], [`StoreError::Unreachable`]; [`StoreError::NewerSchema`] and
    /// [`StoreError::OlderSchema`] leave everything as it is.
    pub async fn open_postgres(config: PostgresConfig) -> Result<Self> {
        Ok(Self::over(Arc::new(postgres::PostgresExecutor::open(config).await?)))
    }

    /// Brings PostgreSQL's schema forward. Processes that do so at once take turns.
    ///
    /// # Errors
    /// As [`Store::open_postgres`], and [`StoreError::Migration`], after which the schema is the one before that step.
    pub async fn migrate_postgres(config: PostgresConfig) -> Result<()> {
        postgres::PostgresExecutor::migrate(config).await
    }

    /// Asks a database server what it is like, and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Settings`], [`StoreError::Unreachable`].
    pub async fn look_at_postgres(config: PostgresConfig) -> Result<PostgresServer> {
        postgres::look(config).await
    }

    /// Over an executor of one's own.
    pub fn over(executor: Arc<dyn Executor>) -> Self {
        Self {
            executor,
            objects: None,
            #[cfg(feature = "broken")]
            defect: None,
        }
    }

    /// Blobs that are too large for a row go there from now on, and are read from there.
    #[must_use]
    pub fn with_objects(self, objects: Option<Objects>) -> Self {
        Self { objects: objects.map(Arc::new), ..self }
    }

    /// With a defect, for a test that has to find it.
    #[cfg(feature = "broken")]
    #[must_use]
    pub fn with_defect(self, defect: Option<broken::Defect>) -> Self {
        Self { defect, ..self }
    }

    pub(crate) fn objects(&self) -> Option<&Objects> {
        self.objects.as_deref()
    }

    /// Runs a batch in one transaction (shared with other callers' batches): all of it or nothing.
    ///
    /// # Errors
    /// [`Conflict::ZeroByte`] for a text that not every engine can hold.
    pub async fn write(&self, batch: Batch) -> Result<Vec<Output>> {
        batch.check_texts()?;
        self.executor.write(batch).await
    }

    /// One statement's rows, each read by `read`.
    pub(crate) async fn rows<T>(
        &self,
        attempted: &'static str,
        sql: impl Into<Cow<'static, str>>,
        params: Vec<Value>,
        read: impl Fn(&mut Columns) -> Result<T>,
    ) -> Result<Vec<T>> {
        let outputs = self.read(Batch::new(attempted).with(Statement::read(sql, params))).await?;
        let rows = outputs.into_iter().flat_map(|output| output.rows);
        rows.map(|row| read(&mut row.columns(attempted))).collect()
    }

    /// The first row, if there is one.
    pub(crate) async fn row<T>(
        &self,
        attempted: &'static str,
        sql: impl Into<Cow<'static, str>>,
        params: Vec<Value>,
        read: impl Fn(&mut Columns) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.rows(attempted, sql, params, read).await?.into_iter().next())
    }

    /// Writes one statement; returns the rows affected.
    pub(crate) async fn change(&self, attempted: &'static str, statement: Statement) -> Result<u64> {
        let outputs = self.write(Batch::new(attempted).with(statement)).await?;
        Ok(outputs.first().map_or(0, |output| output.affected))
    }

    /// Runs statements that change nothing, on one snapshot. Sees every write that was answered before.
    pub async fn read(&self, batch: Batch) -> Result<Vec<Output>> {
        batch.check_texts()?;
        self.executor.read(batch).await
    }
}
