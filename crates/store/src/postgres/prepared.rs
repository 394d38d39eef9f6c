//! Prepared statements of one connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use postgres_protocol::Oid;

use super::together;
use crate::batch::{Kind, Lock, Statement, Value};
use crate::dialect::{self, Form};

pub(crate) const BOOL: Oid = 16;
pub(crate) const BYTEA: Oid = 17;
pub(crate) const INT8: Oid = 20;
pub(crate) const INT2: Oid = 21;
pub(crate) const INT4: Oid = 23;
pub(crate) const TEXT: Oid = 25;
pub(crate) const VARCHAR: Oid = 1043;
pub(crate) const BYTEA_ARRAY: Oid = 1001;
pub(crate) const TEXT_ARRAY: Oid = 1009;
pub(crate) const INT8_ARRAY: Oid = 1016;

/// Statements made to measure that stay prepared; the oldest goes.
const MADE_TO_MEASURE: usize = 128;

/// A statement as the server knows it.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Of a name that says what it is: a reader of a network trace can tell COMMIT.
    pub(crate) name: String,
    pub(crate) params: Vec<Oid>,
    pub(crate) columns: Vec<Oid>,
    pub(crate) form: Form,
}

/// What makes two statements the same prepared one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    text: Text,
    lock: Lock,
    form: Form,
}

/// A vocabulary statement is known by its place in the program, one made to measure by its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Text {
    Static(usize, usize),
    Made(String),
}

impl Key {
    pub(crate) fn new(statement: &Statement, form: Form) -> Self {
        let text = match &statement.sql {
            std::borrow::Cow::Borrowed(sql) => Text::Static(sql.as_ptr() as usize, sql.len()),
            std::borrow::Cow::Owned(sql) => Text::Made(sql.clone()),
        };
        Self { text, lock: statement.lock, form }
    }
}

/// What to ask the server to prepare.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) key: Key,
    pub(crate) sql: String,
    pub(crate) types: Vec<Oid>,
    pub(crate) form: Form,
    label: &'static str,
}

impl Wanted {
    /// `values` are the parameters of the first call: their types are the statement's.
    pub(crate) fn new(key: Key, statement: &Statement, form: Form) -> Self {
        let types = statement.params.iter().map(type_of);
        let (sql, types) = match (form, together::sql(statement)) {
            (Form::Together, Some(sql)) => (sql, types.map(array_of).collect()),
            _ => (dialect::postgres(statement, form), types.collect()),
        };
        Self { key, sql, types, form, label: label(&statement.sql) }
    }
}

fn type_of(value: &Value) -> Oid {
    match value {
        Value::Null => 0,
        Value::Int(_) | Value::Absent(Kind::Int) => INT8,
        Value::Text(_) | Value::Absent(Kind::Text) => TEXT,
        Value::Blob(_) | Value::Absent(Kind::Blob) => BYTEA,
    }
}

/// The type of arrays of these.
fn array_of(element: Oid) -> Oid {
    match element {
        INT8 => INT8_ARRAY,
        TEXT => TEXT_ARRAY,
        BYTEA => BYTEA_ARRAY,
        _ => 0,
    }
}

fn label(sql: &str) -> &'static str {
    match sql {
        "BEGIN" => "begin",
        "COMMIT" => "commit",
        "ROLLBACK" => "rollback",
        _ => "s",
    }
}

#[derive(Default)]
pub(crate) struct Cache {
    known: HashMap<Key, Arc<Prepared>>,
    made: VecDeque<Key>,
    count: u64,
}

impl Cache {
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Prepared>> {
        self.known.get(key).cloned()
    }

    pub(crate) fn name(&mut self, wanted: &Wanted) -> String {
        self.count += 1;
        format!("{}{}", wanted.label, self.count)
    }

    /// Keeps it; returns the name of one to close.
    pub(crate) fn put(&mut self, key: Key, prepared: Prepared) -> Option<String> {
        let mut closed = None;
        if matches!(key.text, Text::Made(_)) {
            self.made.push_back(key.clone());
            if self.made.len() > MADE_TO_MEASURE {
                let oldest = self.made.pop_front();
                closed = oldest.and_then(|oldest| self.known.remove(&oldest)).map(|prepared| prepared.name.clone());
            }
        }
        self.known.insert(key, Arc::new(prepared));
        closed
    }
}
