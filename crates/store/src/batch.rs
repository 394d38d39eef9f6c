//! A batch: prepared statements, their parameters, and what each must do.

use std::borrow::Cow;

use nexus_core::{AccountId, Generation, Hash32, Msat, Npub, TickId, UnixMs, WorkerId};

use crate::error::{Conflict, StoreError};
use crate::row::Row;

/// A parameter or a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    /// A parameter that is null, and what it would be: PostgreSQL wants to know.
    Absent(Kind),
    Int(i64),
    Text(Cow<'static, str>),
    Blob(Vec<u8>),
}

/// The types that parameters have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int,
    Text,
    Blob,
}

/// A type whose values are of one kind.
pub trait OfKind {
    const KIND: Kind;
}

/// What a batch is told when an expectation fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Stale,
    Duplicate,
    Conflict(Conflict),
}

/// How many rows a statement must affect, or return if it returns rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    Any,
    /// Exactly so many, else the whole batch is rolled back with this verdict.
    Rows(u64, Verdict),
}

/// A row lock that a read takes on engines that have row locks (SQLite has one writer and needs none).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lock {
    None,
    Share,
    Update,
}

/// One statement. Parameters are `?1`, `?2`… by position.
#[derive(Debug, Clone)]
pub struct Statement {
    pub(crate) sql: Cow<'static, str>,
    pub(crate) params: Vec<Value>,
    pub(crate) expect: Expect,
    pub(crate) lock: Lock,
    pub(crate) writes: bool,
}

impl Statement {
    /// A statement that changes rows.
    pub fn write(sql: impl Into<Cow<'static, str>>, params: Vec<Value>) -> Self {
        Self { sql: sql.into(), params, expect: Expect::Any, lock: Lock::None, writes: true }
    }

    /// A statement that only reads.
    pub fn read(sql: impl Into<Cow<'static, str>>, params: Vec<Value>) -> Self {
        Self { sql: sql.into(), params, expect: Expect::Any, lock: Lock::None, writes: false }
    }

    /// Exactly one row, else `verdict` and nothing of the batch.
    pub fn one_or(mut self, verdict: Verdict) -> Self {
        self.expect = Expect::Rows(1, verdict);
        self
    }

    /// Exactly one row, else this conflict.
    pub fn one_or_conflict(self, conflict: Conflict) -> Self {
        self.one_or(Verdict::Conflict(conflict))
    }

    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    pub fn lock(mut self, lock: Lock) -> Self {
        self.lock = lock;
        self
    }
}

/// Who writes as a worker: valid while the worker's fence row shows this incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    pub worker: WorkerId,
    pub incarnation: i64,
}

/// Statements that happen together or not at all.
#[derive(Debug, Clone)]
pub struct Batch {
    pub(crate) attempted: &'static str,
    pub(crate) fence: Option<Fence>,
    pub(crate) statements: Vec<Statement>,
    /// If nothing of its outputs is read but these.
    pub(crate) numbers: Option<Numbers>,
}

/// The numbers of events that a batch appends to one agent's: which of its statements return them, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Numbers {
    /// None if it appends none.
    pub(crate) npub: Option<Npub>,
    pub(crate) places: Vec<usize>,
}

impl Batch {
    /// `attempted` names the operation in errors.
    pub fn new(attempted: &'static str) -> Self {
        Self { attempted, fence: None, statements: Vec::new(), numbers: None }
    }

    /// The whole batch is stale unless this fence holds.
    pub fn fenced(attempted: &'static str, fence: Fence) -> Self {
        Self { attempted, fence: Some(fence), statements: Vec::new(), numbers: None }
    }

    pub fn push(&mut self, statement: Statement) -> &mut Self {
        self.statements.push(statement);
        self
    }

    pub fn extend(&mut self, statements: impl IntoIterator<Item = Statement>) -> &mut Self {
        self.statements.extend(statements);
        self
    }

    /// For a batch of one.
    pub fn with(mut self, statement: Statement) -> Self {
        self.statements.push(statement);
        self
    }

    /// The operation's name.
    pub const fn attempted(&self) -> &'static str {
        self.attempted
    }

    /// As whom it writes, if as a worker.
    pub const fn fence(&self) -> Option<Fence> {
        self.fence
    }

    pub fn len(&self) -> usize {
        self.statements.len()
    }

    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// No engine is given what another cannot store.
    pub(crate) fn check_texts(&self) -> Result<(), StoreError> {
        let zero = |value: &Value| matches!(value, Value::Text(text) if text.as_bytes().contains(&0));
        if self.statements.iter().flat_map(|statement| &statement.params).any(zero) {
            return Err(self.refused(Verdict::Conflict(Conflict::ZeroByte)));
        }
        Ok(())
    }

    pub(crate) fn refused(&self, verdict: Verdict) -> StoreError {
        let attempted = self.attempted;
        match verdict {
            Verdict::Stale => StoreError::Stale { attempted },
            Verdict::Duplicate => StoreError::Duplicate { attempted },
            Verdict::Conflict(conflict) => StoreError::Conflict { attempted, conflict },
        }
    }
}

/// What one statement did.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// Rows changed, or returned if the statement returns rows.
    pub affected: u64,
    pub rows: Vec<Row>,
}

macro_rules! into_value {
    ($($type:ty: $kind:ident => |$v:ident| $value:expr;)+) => {
        $(impl From<$type> for Value {
            fn from($v: $type) -> Self { Value::$kind($value) }
        }
        impl OfKind for $type {
            const KIND: Kind = Kind::$kind;
        })+
    };
}

into_value! {
    i64: Int => |v| v;
    i32: Int => |v| i64::from(v);
    u32: Int => |v| i64::from(v);
    u16: Int => |v| i64::from(v);
    u8: Int => |v| i64::from(v);
    bool: Int => |v| i64::from(v);
    &'static str: Text => |v| Cow::Borrowed(v);
    String: Text => |v| Cow::Owned(v);
    Vec<u8>: Blob => |v| v;
    Npub: Blob => |v| v.as_bytes().to_vec();
    Hash32: Blob => |v| v.as_bytes().to_vec();
    TickId: Blob => |v| v.as_bytes().to_vec();
    AccountId: Blob => |v| v.as_bytes().to_vec();
    WorkerId: Blob => |v| v.as_bytes().to_vec();
    UnixMs: Int => |v| v.0;
    Msat: Int => |v| v.as_i64();
    Generation: Int => |v| v.0;
}

impl<T: Into<Value> + OfKind> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Absent(T::KIND), Into::into)
    }
}

/// Somebody else's words, for people to read: what cannot be stored of them must not keep an agent from going on.
pub(crate) fn words(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// `params![a, b]`: each converted to a [`Value`].
macro_rules! params {
    ($($value:expr),* $(,)?) => { vec![$($crate::batch::Value::from($value)),*] };
}
pub(crate) use params;
