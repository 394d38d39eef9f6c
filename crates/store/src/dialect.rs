//! What differs between the engines that the same statements run on.

use crate::batch::{Expect, Lock, Output, Statement, Value};
use crate::row::Row;

/// Words of the migrations that stand for an engine's own.
const SQLITE_DDL: [(&str, &str); 3] =
    [(" BYTES", " BLOB"), (" SERIAL", " INTEGER PRIMARY KEY AUTOINCREMENT"), (" CLUSTERED", " WITHOUT ROWID")];

/// Texts sort by their bytes everywhere, whatever the database's locale.
const POSTGRES_DDL: [(&str, &str); 4] = [
    (" BYTES", " BYTEA"),
    (" SERIAL", " BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    (" CLUSTERED", ""),
    (" TEXT", " TEXT COLLATE \"C\""),
];

/// A migration in SQLite's words.
pub(crate) fn sqlite_ddl(migration: &str) -> String {
    SQLITE_DDL.iter().fold(migration.to_owned(), |text, (word, own)| text.replace(word, own))
}

/// A migration in PostgreSQL's words.
pub(crate) fn postgres_ddl(migration: &str) -> String {
    POSTGRES_DDL.iter().fold(migration.to_owned(), |text, (word, own)| text.replace(word, own))
}

/// The hash chain's step, a function of this name in every engine: SHA-256 of head and digest, one after the other.
pub(crate) const CHAIN: &str = "chain";

/// Whether the fence holds, under a shared lock where the engine has row locks.
pub(crate) const FENCE: &str = "SELECT 1 FROM worker_fence WHERE worker_id = ?1 AND incarnation = ?2";

/// The incarnation that a fence stands at: PostgreSQL takes one lock for all batches of a worker.
pub(crate) const FENCE_STANDS: &str = "SELECT incarnation FROM worker_fence WHERE worker_id = ?1";

/// The row that orders revisions: whoever raises it holds it until the commit.
pub(crate) const COUNTER: &str = "SELECT 1 FROM counter WHERE name = 'desired_rev'";

/// SQLSTATE of an expectation that was not met: raised by the function `refuse()`.
pub(crate) const REFUSED: &str = "NX001";

/// How PostgreSQL is given a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// As it is.
    Plain,
    /// A guard (`SELECT 1 …`) that raises unless it finds so many rows.
    Guard(u64),
    /// A change that raises unless it affects so many rows.
    Change(u64),
    /// Rows that somebody reads, raising unless there are so many.
    Rows(u64),
    /// For the parameters of many batches, each parameter an array.
    Together,
}

impl Form {
    /// The form in which the statement's expectation is the server's to check.
    pub(crate) fn exact(statement: &Statement) -> Self {
        match statement.expect {
            Expect::Any => Self::Plain,
            Expect::Rows(rows, _) if statement.writes && !returns(statement) => Self::Change(rows),
            Expect::Rows(rows, _) if !statement.writes && statement.sql.starts_with("SELECT 1 ") => Self::Guard(rows),
            Expect::Rows(rows, _) => Self::Rows(rows),
        }
    }

    /// Whether success alone tells everything that the statement has to say.
    pub(crate) const fn is_foretold(self) -> bool {
        matches!(self, Self::Guard(_) | Self::Change(_))
    }

    /// What the statement itself would have answered.
    pub(crate) fn output(self, count: u64, rows: Vec<Row>, no_columns: bool) -> Output {
        match self {
            Self::Plain | Self::Together if no_columns => Output { affected: count, rows },
            Self::Plain | Self::Together => Output { affected: rows.len() as u64, rows },
            Self::Rows(affected) => Output { affected, rows },
            Self::Change(affected) => Output { affected, rows: Vec::new() },
            Self::Guard(affected) => {
                Output { affected, rows: (0..affected).map(|_| Row(vec![Value::Int(1)])).collect() }
            }
        }
    }
}

fn returns(statement: &Statement) -> bool {
    statement.sql.contains(" RETURNING ")
}

/// A statement in PostgreSQL's words: `$1` for `?1`, row locks, and its expectation if the form has one.
pub(crate) fn postgres(statement: &Statement, form: Form) -> String {
    let mut sql = numbered(&statement.sql);
    match statement.lock {
        Lock::None => {}
        Lock::Share => sql += " FOR SHARE",
        Lock::Update => sql += " FOR UPDATE",
    }
    let expected =
        |rows: u64| format!("SELECT CASE WHEN count(*) = {rows} THEN count(*) ELSE refuse() END AS rows FROM q");
    match form {
        // What has no such form is never asked for it.
        Form::Plain | Form::Together => sql,
        Form::Guard(rows) => format!("WITH q AS ({sql}) {}", expected(rows)),
        Form::Change(rows) => format!("WITH q AS ({sql} RETURNING 1) {}", expected(rows)),
        // The count is on the side of the join that is always read.
        Form::Rows(rows) => {
            format!("WITH q AS ({sql}) SELECT q.* FROM ({}) c LEFT JOIN q ON c.rows IS NOT NULL", expected(rows))
        }
    }
}

/// Ends a subquery that takes the rows of a change in order: where there are row locks they are locked in that order, so that
/// two changes of many rows never wait in a circle. A comment elsewhere.
macro_rules! in_order {
    () => {
        "/*locked*/"
    };
}
pub(crate) use in_order;

/// No text of the vocabulary holds a question mark but as a parameter.
fn numbered(sql: &str) -> String {
    sql.replace('?', "$").replace(in_order!(), "FOR UPDATE")
}

/// A row that other connections may want too. Every group takes such locks in one order: fences, the counter, agents
/// by npub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locked<'a> {
    /// The fence of this worker.
    Fence(&'a [u8]),
    Counter,
    /// The row of this agent.
    Agent(&'a [u8]),
}

/// What a statement locks, by its first words. Statements name the worker or the agent as `?1`; the few that change
/// many agents lock them in order themselves.
pub(crate) fn locked(statement: &Statement) -> Option<Locked<'_>> {
    let first = || match statement.params.first() {
        Some(Value::Blob(id)) => Some(id.as_slice()),
        _ => None,
    };
    let sql = statement.sql.as_ref();
    if statement.lock == Lock::Update && sql.starts_with("SELECT 1 FROM worker_fence")
        || sql.starts_with("INSERT INTO worker_fence")
        || sql.starts_with("DELETE FROM worker_fence")
    {
        first().map(Locked::Fence)
    } else if sql.starts_with("UPDATE counter") {
        Some(Locked::Counter)
    } else if statement.lock == Lock::Update && sql.starts_with("SELECT 1 FROM agent")
        || sql.starts_with("UPDATE agent SET")
        || sql.starts_with("DELETE FROM agent WHERE")
    {
        first().filter(|id| id.len() == 32).map(Locked::Agent)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Verdict, params};

    #[test]
    fn expectations_become_sql() {
        let change = Statement::write("UPDATE a SET b = ?2 WHERE c = ?1", params![1, 2]).one_or(Verdict::Stale);
        assert_eq!(
            postgres(&change, Form::exact(&change)),
            "WITH q AS (UPDATE a SET b = $2 WHERE c = $1 RETURNING 1) \
             SELECT CASE WHEN count(*) = 1 THEN count(*) ELSE refuse() END AS rows FROM q"
        );
        let any = Statement::write("DELETE FROM a", params![]);
        assert_eq!(Form::exact(&any), Form::Plain);
        let guard = Statement::read("SELECT 1 FROM a", params![]).lock(Lock::Share).one_or(Verdict::Stale);
        assert_eq!(Form::exact(&guard), Form::Guard(1));
        assert!(postgres(&guard, Form::Plain).ends_with("FROM a FOR SHARE"));
        let rows = Statement::write("DELETE FROM a RETURNING b", params![]).one_or(Verdict::Stale);
        assert!(!Form::exact(&rows).is_foretold());
    }
}
