//! One SQLite connection: groups of batches in, a verdict for each out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags};
use sha2::Digest;

use crate::batch::{Batch, Expect, Fence, Output, Statement, Value};
use crate::dialect;
use crate::error::StoreError;
use crate::migrate;
use crate::row::Row;

/// Times that a whole group is tried again after the engine took its transaction back.
const GROUP_TRIES: u32 = 4;
/// Times that BEGIN or COMMIT is tried while something else holds the file, each waiting [`BUSY_WAIT`].
const BUSY_TRIES: u32 = 20;
const BUSY_WAIT: Duration = Duration::from_millis(250);
/// Prepared statements kept; the vocabulary has about half as many.
const STATEMENTS: usize = 400;
/// Groups during which a kind of batch that had to be undone gets savepoints.
const CAUTION: i64 = 1_000;
/// Pages of write-ahead log between checkpoints.
const CHECKPOINT_PAGES: i64 = 16_000;

/// A batch's fate.
pub(crate) type Verdict = Result<Vec<Output>, StoreError>;

/// How a transaction is ended: a parameter, so that a test can lose the answer.
pub(crate) type Commit = fn(&Connection) -> rusqlite::Result<()>;

/// The connection that writes.
pub(crate) struct Engine {
    connection: Connection,
    path: Option<PathBuf>,
    /// Number of the last group that was surely committed; stored by each group with its own writes.
    marker: i64,
    commit: Commit,
    /// Kinds of batches that get a savepoint, each until a marker: one of them was refused after it had written.
    cautious: HashMap<&'static str, i64>,
    #[cfg(feature = "broken")]
    unfenced: bool,
}

/// The prepared statements of one group. Each text is looked for in the connection's cache once, and here by its
/// address: the vocabulary's texts are static.
struct Prepared<'c> {
    connection: &'c Connection,
    open: HashMap<(usize, usize), CachedStatement<'c>>,
}

/// Why a group has to be run again: its transaction is gone.
enum Lost {
    /// The engine rolled back by itself.
    Engine(String),
    /// A batch of this kind, without a savepoint, wrote rows that it must not keep.
    NeedsSavepoints(&'static str),
}

/// How a try of a group ended.
enum Try {
    Done(Vec<Verdict>),
    Again(Lost),
    Uncertain(String),
}

impl Engine {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path)?;
        Self::prepare(connection, Some(path.to_owned()))
    }

    pub(crate) fn open_memory() -> Result<Self, StoreError> {
        let connection = Connection::open_in_memory().map_err(|error| cannot_open(Path::new(":memory:"), &error))?;
        Self::prepare(connection, None)
    }

    fn prepare(mut connection: Connection, path: Option<PathBuf>) -> Result<Self, StoreError> {
        let shown = path.clone().unwrap_or_else(|| ":memory:".into());
        set_up(&connection).map_err(|error| cannot_open(&shown, &error))?;
        migrate::run(&mut connection)?;
        let marker = read_marker(&connection).map_err(|error| cannot_open(&shown, &error))?;
        Ok(Self {
            connection,
            path,
            marker,
            commit: commit_once,
            cautious: HashMap::new(),
            #[cfg(feature = "broken")]
            unfenced: false,
        })
    }

    #[cfg(feature = "broken")]
    pub(crate) fn unfenced(self) -> Self {
        Self { unfenced: true, ..self }
    }

    #[cfg(test)]
    pub(crate) fn with_commit(mut self, commit: Commit) -> Self {
        self.commit = commit;
        self
    }

    /// Runs batches in one transaction and tells each its own fate, after the commit.
    ///
    /// A savepoint makes SQLite copy every page that it touches. Hardly any batch is refused after its first write, so
    /// none gets one at first; when one would have needed it, the whole group is rolled back and run again with them.
    pub(crate) fn run_group(&mut self, batches: &[Batch]) -> Vec<Verdict> {
        let mut savepoints = false;
        let mut message = String::new();
        for attempt in 0..GROUP_TRIES {
            match self.try_group(batches, savepoints) {
                Try::Done(verdicts) => return verdicts,
                Try::Again(Lost::NeedsSavepoints(kind)) => {
                    savepoints = true;
                    self.cautious.insert(kind, self.marker + CAUTION);
                }
                Try::Again(Lost::Engine(why)) => {
                    tracing::warn!(attempt, batches = batches.len(), error = %why, "group rolled back");
                    message = why;
                }
                Try::Uncertain(message) => {
                    tracing::error!(batches = batches.len(), error = %message, "the fate of a commit is not known");
                    return batches
                        .iter()
                        .map(|batch| {
                            Err(StoreError::Uncertain { attempted: batch.attempted, message: message.clone() })
                        })
                        .collect();
                }
            }
        }
        batches
            .iter()
            .map(|batch| Err(StoreError::Database { attempted: batch.attempted, message: message.clone() }))
            .collect()
    }

    fn try_group(&mut self, batches: &[Batch], savepoints: bool) -> Try {
        // A panic may have left one open.
        self.roll_back();
        if let Err(error) = retry_busy(|| run_plain(&self.connection, "BEGIN IMMEDIATE")) {
            return Try::Again(Lost::Engine(error.to_string()));
        }
        let verdicts = match self.run_batches(batches, savepoints) {
            Ok(verdicts) => verdicts,
            Err(lost) => {
                self.roll_back();
                return Try::Again(lost);
            }
        };
        if verdicts.iter().all(Result::is_err) {
            self.roll_back();
            return Try::Done(verdicts);
        }
        self.finish(verdicts)
    }

    fn run_batches(&self, batches: &[Batch], savepoints: bool) -> Result<Vec<Verdict>, Lost> {
        let mut fences = HashMap::new();
        let mut prepared = Prepared::of(&self.connection);
        let mut verdicts = Vec::with_capacity(batches.len());
        for batch in batches {
            let savepoint = savepoints || self.cautious.get(batch.attempted).is_some_and(|until| *until > self.marker);
            verdicts.push(self.run_batch(batch, savepoint, &mut fences, &mut prepared)?);
        }
        Ok(verdicts)
    }

    /// Commits. When the answer is an error, the marker says what really happened before anyone is told anything.
    fn finish(&mut self, verdicts: Vec<Verdict>) -> Try {
        let marker = self.marker + 1;
        let committed =
            write_marker(&self.connection, marker).and_then(|()| retry_busy(|| (self.commit)(&self.connection)));
        let Err(error) = committed else {
            self.marker = marker;
            return Try::Done(verdicts);
        };
        tracing::warn!(%error, "commit was not confirmed, reading it back");
        self.roll_back();
        match self.reread_marker() {
            Ok(found) if found == marker => {
                self.marker = marker;
                Try::Done(verdicts)
            }
            Ok(_) => Try::Again(Lost::Engine(error.to_string())),
            Err(reread) => Try::Uncertain(format!("{error}; and reading it back: {reread}")),
        }
    }

    /// Through a fresh connection if this one is no longer good for it.
    fn reread_marker(&mut self) -> Result<i64, StoreError> {
        if let Ok(found) = read_marker(&self.connection)
            && self.connection.is_autocommit()
        {
            return Ok(found);
        }
        let Some(path) = &self.path else {
            return Err(StoreError::Closed { attempted: "read back a commit" });
        };
        let connection = connect(path)?;
        set_up(&connection).map_err(|error| cannot_open(path, &error))?;
        let found = read_marker(&connection).map_err(|error| cannot_open(path, &error))?;
        self.connection = connection;
        Ok(found)
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = run_plain(&self.connection, "ROLLBACK")
        {
            tracing::warn!(%error, "rollback failed");
        }
    }

    fn run_batch<'c>(
        &'c self,
        batch: &Batch,
        savepoint: bool,
        fences: &mut HashMap<Fence, bool>,
        prepared: &mut Prepared<'c>,
    ) -> Result<Verdict, Lost> {
        match batch.fence {
            Some(fence) => match self.fence_holds(fence, fences) {
                Ok(true) => {}
                Ok(false) => return Ok(Err(StoreError::Stale { attempted: batch.attempted })),
                Err(error) => return self.unless_lost(batch, &error),
            },
            // The control plane's batches are the ones that move fences.
            None => fences.clear(),
        }
        if !savepoint {
            return self.run_statements(batch, false, prepared);
        }
        if let Err(error) = run_plain(&self.connection, "SAVEPOINT batch") {
            return self.unless_lost(batch, &error);
        }
        let verdict = self.run_statements(batch, true, prepared)?;
        let undo = verdict.is_err().then(|| run_plain(&self.connection, "ROLLBACK TO batch")).transpose();
        match undo.and_then(|_| run_plain(&self.connection, "RELEASE batch")) {
            Ok(()) => Ok(verdict),
            Err(error) => Err(Lost::Engine(error.to_string())),
        }
    }

    fn run_statements<'c>(
        &'c self,
        batch: &Batch,
        savepoint: bool,
        prepared: &mut Prepared<'c>,
    ) -> Result<Verdict, Lost> {
        let mut outputs = Vec::with_capacity(batch.statements.len());
        let mut wrote = false;
        for statement in &batch.statements {
            let refused = match prepared.run(statement) {
                Ok(output) => {
                    wrote |= statement.writes && output.affected > 0;
                    let refused = refusal(batch, statement, &output);
                    // Neither the fence's row nor the generation is looked at.
                    #[cfg(feature = "broken")]
                    let refused = refused.filter(|error| !(self.unfenced && batch.fence.is_some() && error.is_stale()));
                    outputs.push(output);
                    refused
                }
                Err(error) => self.unless_lost(batch, &error)?.err(),
            };
            match refused {
                None => {}
                Some(_) if wrote && !savepoint => return Err(Lost::NeedsSavepoints(batch.attempted)),
                Some(refused) => return Ok(Err(refused)),
            }
        }
        Ok(Ok(outputs))
    }

    /// A failed statement undoes itself; unless the engine has given up the whole transaction, only its batch fails.
    fn unless_lost(&self, batch: &Batch, error: &rusqlite::Error) -> Result<Verdict, Lost> {
        if self.connection.is_autocommit() {
            return Err(Lost::Engine(error.to_string()));
        }
        tracing::warn!(attempted = batch.attempted, %error, "statement failed");
        Ok(Err(StoreError::Database { attempted: batch.attempted, message: error.to_string() }))
    }

    /// One look for each (worker, incarnation) of a group.
    fn fence_holds(&self, fence: Fence, fences: &mut HashMap<Fence, bool>) -> rusqlite::Result<bool> {
        #[cfg(feature = "broken")]
        if self.unfenced {
            return Ok(true);
        }
        if let Some(holds) = fences.get(&fence) {
            return Ok(*holds);
        }
        let mut statement = self.connection.prepare_cached(dialect::FENCE)?;
        let holds = statement.exists(rusqlite::params![fence.worker.as_bytes().as_slice(), fence.incarnation])?;
        fences.insert(fence, holds);
        Ok(holds)
    }

    pub(crate) fn read(&self, batch: &Batch) -> Verdict {
        read(&self.connection, batch)
    }
}

/// The connection of a reader: it cannot write.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let connection = connect(path)?;
    set_up(&connection)
        .and_then(|()| connection.pragma_update(None, "query_only", 1))
        .map_err(|error| cannot_open(path, &error))?;
    Ok(connection)
}

/// Runs statements that change nothing on one snapshot.
pub(crate) fn read(connection: &Connection, batch: &Batch) -> Verdict {
    let database =
        |error: rusqlite::Error| StoreError::Database { attempted: batch.attempted, message: error.to_string() };
    if let [statement] = batch.statements.as_slice() {
        let output = Prepared::of(connection).run(statement).map_err(database)?;
        return refusal(batch, statement, &output).map_or(Ok(vec![output]), Err);
    }
    run_plain(connection, "BEGIN").map_err(database)?;
    let mut outputs = Vec::with_capacity(batch.statements.len());
    let mut prepared = Prepared::of(connection);
    let mut failed = None;
    for statement in &batch.statements {
        match prepared.run(statement) {
            Ok(output) => {
                failed = refusal(batch, statement, &output);
                outputs.push(output);
            }
            Err(error) => failed = Some(database(error)),
        }
        if failed.is_some() {
            break;
        }
    }
    run_plain(connection, "ROLLBACK").map_err(database)?;
    failed.map_or(Ok(outputs), Err)
}

fn refusal(batch: &Batch, statement: &Statement, output: &Output) -> Option<StoreError> {
    match &statement.expect {
        Expect::Rows(rows, verdict) if *rows != output.affected => Some(batch.refused(verdict.clone())),
        Expect::Rows(..) | Expect::Any => None,
    }
}

impl<'c> Prepared<'c> {
    fn of(connection: &'c Connection) -> Self {
        Self { connection, open: HashMap::new() }
    }

    fn run(&mut self, statement: &Statement) -> rusqlite::Result<Output> {
        match &statement.sql {
            Cow::Borrowed(sql) => {
                let prepared = match self.open.entry((sql.as_ptr() as usize, sql.len())) {
                    Entry::Occupied(open) => open.into_mut(),
                    Entry::Vacant(place) => place.insert(self.connection.prepare_cached(sql)?),
                };
                step(prepared, statement)
            }
            // Made to measure: keeping it would push out the ones that come back.
            Cow::Owned(sql) => step(&mut self.connection.prepare(sql)?, statement),
        }
    }
}

fn step(prepared: &mut rusqlite::Statement<'_>, statement: &Statement) -> rusqlite::Result<Output> {
    if prepared.parameter_count() != statement.params.len() {
        return Err(rusqlite::Error::InvalidParameterCount(statement.params.len(), prepared.parameter_count()));
    }
    for (index, value) in (1..).zip(&statement.params) {
        prepared.raw_bind_parameter(index, value)?;
    }
    let columns = prepared.column_count();
    if columns == 0 {
        let affected = prepared.raw_execute()? as u64;
        return Ok(Output { affected, rows: Vec::new() });
    }
    let mut rows = Vec::new();
    let mut cursor = prepared.raw_query();
    while let Some(row) = cursor.next()? {
        let values =
            (0..columns).map(|column| row.get_ref(column).map(from_sqlite)).collect::<rusqlite::Result<_>>()?;
        rows.push(Row(values));
    }
    Ok(Output { affected: rows.len() as u64, rows })
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null | Self::Absent(_) => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn from_sqlite(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        // No column is a floating point number; one that were would be reported as unreadable.
        ValueRef::Real(number) => Value::Text(number.to_string().into()),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned().into()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).map_err(|error| cannot_open(path, &error))
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_WAIT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.pragma_update(None, "cache_size", -32 * 1024)?;
    // Without it a statement whose parameters were compared with a partial index is planned anew at each use.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function(dialect::CHAIN, 2, flags, |context| {
        let mut hasher = sha2::Sha256::new();
        hasher.update(context.get_raw(0).as_blob()?);
        hasher.update(context.get_raw(1).as_blob()?);
        Ok(hasher.finalize().to_vec())
    })
}

fn cannot_open(path: &Path, error: &rusqlite::Error) -> StoreError {
    StoreError::Open { path: path.to_owned(), message: error.to_string() }
}

fn run_plain(connection: &Connection, sql: &'static str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.raw_execute().map(|_| ())
}

pub(crate) fn commit_once(connection: &Connection) -> rusqlite::Result<()> {
    run_plain(connection, "COMMIT")
}

fn retry_busy(mut attempt: impl FnMut() -> rusqlite::Result<()>) -> rusqlite::Result<()> {
    for _ in 1..BUSY_TRIES {
        match attempt() {
            Err(rusqlite::Error::SqliteFailure(failure, _))
                if matches!(failure.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {}
            other => return other,
        }
    }
    attempt()
}

fn read_marker(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("SELECT value FROM commit_marker WHERE id = 1")?.query_row([], |row| row.get(0))
}

fn write_marker(connection: &Connection, marker: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE commit_marker SET value = ?1 WHERE id = 1")?.execute([marker]).map(|_| ())
}

#[cfg(test)]
mod tests;
