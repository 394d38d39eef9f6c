//! Statements in, answers out, as many as one likes in one round trip.
//!
//! The server answers statements in order. After one that fails it skips what follows up to the next sync point; a
//! group that has one sync point at its end therefore costs one write and one read, whatever its size.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use postgres_protocol::{IsNull, Oid};

use super::prepared::{
    BOOL, BYTEA, BYTEA_ARRAY, Cache, INT2, INT4, INT8, INT8_ARRAY, Key, Prepared, TEXT, TEXT_ARRAY, VARCHAR, Wanted,
};
use super::wire::{Failure, SqlError, Wire, read_error};
use crate::batch::{Output, Statement, Value};
use crate::dialect::Form;
use crate::row::Row;

/// A connection that knows prepared statements.
pub(crate) struct Connection {
    wire: Wire,
    cache: Cache,
    /// What was written since the last run.
    asked: Vec<Option<Arc<Prepared>>>,
}

/// What became of one statement.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Done {
        output: Output,
        /// The tag says ROLLBACK: what was meant to commit did not.
        rolled_back: bool,
    },
    Failed(SqlError),
    /// An earlier one failed.
    Skipped,
}

impl Connection {
    pub(crate) fn new(wire: Wire) -> Self {
        Self { wire, cache: Cache::default(), asked: Vec::new() }
    }

    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    pub(crate) async fn close(self) {
        self.wire.close().await;
    }

    /// Prepares what is not prepared yet, in one round trip, and only then any. In the order of `statements`.
    pub(crate) async fn prepare(
        &mut self,
        statements: &[(&Statement, Form)],
    ) -> Result<Vec<Result<Arc<Prepared>, SqlError>>, Failure> {
        let keys: Vec<Key> = statements.iter().map(|(statement, form)| Key::new(statement, *form)).collect();
        let mut wanted: Vec<Wanted> = Vec::new();
        for ((statement, form), key) in statements.iter().zip(&keys) {
            if self.cache.get(key).is_none() && wanted.iter().all(|other| other.key != *key) {
                wanted.push(Wanted::new(key.clone(), statement, *form));
            }
        }
        let mut failed = Vec::new();
        if !wanted.is_empty() {
            for (wanted, answer) in self.parse(wanted).await? {
                match answer {
                    Ok(prepared) => self.keep(wanted.key, prepared)?,
                    Err(error) => failed.push((wanted.key, error)),
                }
            }
        }
        let find = |key: &Key| match self.cache.get(key) {
            Some(prepared) => Ok(prepared),
            None => Err(failed.iter().find(|(other, _)| other == key).map_or_else(evicted, |(_, error)| error.clone())),
        };
        Ok(keys.iter().map(find).collect())
    }

    fn keep(&mut self, key: Key, prepared: Prepared) -> Result<(), Failure> {
        if let Some(closed) = self.cache.put(key, prepared) {
            frontend::close(b'S', &closed, self.wire.output())?;
        }
        Ok(())
    }

    async fn parse(&mut self, wanted: Vec<Wanted>) -> Result<Vec<(Wanted, Result<Prepared, SqlError>)>, Failure> {
        let mut made = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let name = self.cache.name(&wanted);
            let output = self.wire.output();
            frontend::parse(&name, &wanted.sql, wanted.types.iter().copied(), output)?;
            frontend::describe(b'S', &name, output)?;
            // One that fails must not take the others with it.
            frontend::sync(output);
            let prepared = Prepared { name, params: Vec::new(), columns: Vec::new(), form: wanted.form };
            made.push((wanted, Ok(prepared)));
        }
        let mut place = 0;
        let count = made.len();
        self.wire
            .exchange(count, |message| {
                if matches!(message, Message::ReadyForQuery(_)) {
                    return Ok(());
                }
                let Some((_, prepared)) = made.get_mut(place) else { return Err(out_of_turn()) };
                match message {
                    Message::ParameterDescription(body) => {
                        if let Ok(prepared) = prepared {
                            prepared.params = body.parameters().collect()?;
                        }
                    }
                    Message::RowDescription(body) => {
                        if let Ok(prepared) = prepared {
                            prepared.columns = body.fields().map(|field| Ok(field.type_oid())).collect()?;
                        }
                        place += 1;
                    }
                    Message::NoData => place += 1,
                    Message::ErrorResponse(body) => {
                        *prepared = Err(read_error(&body)?.0);
                        place += 1;
                    }
                    _ => {}
                }
                Ok(())
            })
            .await?;
        Ok(made)
    }

    /// Writes one execution. `Err` says what does not fit; nothing was written then.
    pub(crate) fn push<'a>(
        &mut self,
        prepared: &Arc<Prepared>,
        params: impl ExactSizeIterator<Item = &'a Value> + Clone,
    ) -> Result<(), String> {
        fits(prepared, params.clone())?;
        let output = self.wire.output();
        let values = params.zip(&prepared.params);
        frontend::bind("", &prepared.name, [1], values, |(param, oid), buf| encode(param, *oid, buf), [1], output)
            .map_err(|_| "a parameter is too large".to_owned())?;
        frontend::execute("", 0, output).map_err(|error| error.to_string())?;
        self.asked.push(Some(prepared.clone()));
        Ok(())
    }

    /// Writes one execution for the parameters of many batches: each parameter goes as an array.
    pub(crate) fn push_together(&mut self, prepared: &Arc<Prepared>, batches: &[&[Value]]) -> Result<(), String> {
        let columns = prepared.params.iter().enumerate();
        for (place, oid) in columns.clone() {
            let element = element_of(*oid).ok_or_else(|| format!("parameter {} is no array", place + 1))?;
            let fits = |params: &&[Value]| params.get(place).is_some_and(|value| fits_one(value, element));
            if !batches.iter().all(fits) {
                return Err(format!("parameter {} does not fit type {element}", place + 1));
            }
        }
        let output = self.wire.output();
        frontend::bind(
            "",
            &prepared.name,
            [1],
            columns,
            |(place, oid), buf| {
                encode_array(batches.iter().filter_map(|params| params.get(place)), batches.len(), *oid, buf)
            },
            [1],
            output,
        )
        .map_err(|_| "a parameter is too large".to_owned())?;
        frontend::execute("", 0, output).map_err(|error| error.to_string())?;
        self.asked.push(Some(prepared.clone()));
        Ok(())
    }

    /// Forgets what was written and not sent.
    pub(crate) fn discard(&mut self) {
        self.wire.output().clear();
        self.asked.clear();
    }

    /// A point at which the server answers and, after a failure, listens again.
    pub(crate) fn sync(&mut self) {
        frontend::sync(self.wire.output());
        self.asked.push(None);
    }

    /// Sends what was pushed (the last of it a sync) and reads one reply for each execution.
    pub(crate) async fn run(&mut self) -> Result<Vec<Reply>, Failure> {
        let mut reader = Reader { asked: std::mem::take(&mut self.asked), place: 0, rows: Vec::new(), replies: vec![] };
        reader.replies.reserve(reader.asked.len());
        let syncs = reader.asked.iter().filter(|asked| asked.is_none()).count();
        self.wire.exchange(syncs, |message| reader.take(message)).await?;
        Ok(reader.replies)
    }
}

/// Matches answers with what was asked.
struct Reader {
    asked: Vec<Option<Arc<Prepared>>>,
    place: usize,
    rows: Vec<Row>,
    replies: Vec<Reply>,
}

impl Reader {
    fn take(&mut self, message: Message) -> Result<(), Failure> {
        match message {
            Message::ReadyForQuery(_) => {
                self.skip();
                self.place += 1;
            }
            Message::DataRow(body) => {
                let prepared = self.asked.get(self.place).and_then(Option::as_ref).ok_or_else(out_of_turn)?;
                self.rows.push(read_row(&body, &prepared.columns)?);
            }
            Message::CommandComplete(body) => {
                let rows = std::mem::take(&mut self.rows);
                let tag = body.tag()?;
                let prepared = self.asked.get(self.place).and_then(Option::as_ref).ok_or_else(out_of_turn)?;
                let output = prepared.form.output(count(tag), rows, prepared.columns.is_empty());
                self.replies.push(Reply::Done { output, rolled_back: tag == "ROLLBACK" });
                self.place += 1;
            }
            Message::EmptyQueryResponse => {
                self.replies.push(Reply::Done { output: Output::default(), rolled_back: false });
                self.place += 1;
            }
            Message::ErrorResponse(body) => {
                self.rows.clear();
                if let Some(Some(_)) = self.asked.get(self.place) {
                    self.place += 1;
                } else {
                    // At the sync point itself: what seemed done before it is not.
                    self.replies.pop();
                }
                self.replies.push(Reply::Failed(read_error(&body)?.0));
                self.skip();
            }
            _ => {}
        }
        Ok(())
    }

    /// Up to the next sync point nothing is executed.
    fn skip(&mut self) {
        while let Some(Some(_)) = self.asked.get(self.place) {
            self.replies.push(Reply::Skipped);
            self.place += 1;
        }
    }
}

fn out_of_turn() -> Failure {
    Failure::Lost("an answer that nothing asked for".into())
}

fn evicted() -> SqlError {
    SqlError { code: "26000".into(), message: "too many statements made to measure at once".into() }
}

/// Rows that a command tag counts: "INSERT 0 1", "UPDATE 3", "BEGIN".
fn count(tag: &str) -> u64 {
    tag.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Whether the server will take these parameters; `Err` says which it will not.
pub(crate) fn fits<'a>(prepared: &Prepared, params: impl ExactSizeIterator<Item = &'a Value>) -> Result<(), String> {
    if prepared.params.len() != params.len() {
        return Err(format!("{} parameters, {} wanted", params.len(), prepared.params.len()));
    }
    for (place, (param, oid)) in (1..).zip(params.zip(&prepared.params)) {
        if !fits_one(param, *oid) {
            return Err(format!("parameter {place} does not fit type {oid}"));
        }
    }
    Ok(())
}

fn fits_one(value: &Value, oid: Oid) -> bool {
    match value {
        Value::Null | Value::Absent(_) => true,
        Value::Int(number) => match oid {
            INT8 => true,
            INT4 => i32::try_from(*number).is_ok(),
            INT2 => i16::try_from(*number).is_ok(),
            _ => false,
        },
        // PostgreSQL's text cannot hold a zero byte.
        Value::Text(text) => matches!(oid, TEXT | VARCHAR) && !text.as_bytes().contains(&0),
        Value::Blob(_) => oid == BYTEA,
    }
}

type Encoded = Result<IsNull, Box<dyn std::error::Error + Send + Sync>>;

fn encode(value: &Value, oid: Oid, buf: &mut BytesMut) -> Encoded {
    match value {
        Value::Null | Value::Absent(_) => return Ok(IsNull::Yes),
        Value::Int(number) => match oid {
            INT4 => buf.put_i32(i32::try_from(*number)?),
            INT2 => buf.put_i16(i16::try_from(*number)?),
            _ => buf.put_i64(*number),
        },
        Value::Text(text) => buf.put_slice(text.as_bytes()),
        Value::Blob(bytes) => buf.put_slice(bytes),
    }
    Ok(IsNull::No)
}

fn element_of(array: Oid) -> Option<Oid> {
    match array {
        INT8_ARRAY => Some(INT8),
        TEXT_ARRAY => Some(TEXT),
        BYTEA_ARRAY => Some(BYTEA),
        _ => None,
    }
}

/// One dimension, counted from 1; each element behind its length, -1 for none.
fn encode_array<'a>(values: impl Iterator<Item = &'a Value>, count: usize, array: Oid, buf: &mut BytesMut) -> Encoded {
    let element = element_of(array).ok_or("no array")?;
    buf.put_i32(1);
    buf.put_i32(1);
    buf.put_u32(element);
    buf.put_i32(i32::try_from(count)?);
    buf.put_i32(1);
    for value in values {
        let place = buf.len();
        buf.put_i32(-1);
        if let IsNull::No = encode(value, element, buf)? {
            let length = i32::try_from(buf.len() - place - 4)?;
            if let Some(space) = buf.get_mut(place..place + 4) {
                space.copy_from_slice(&length.to_be_bytes());
            }
        }
    }
    Ok(IsNull::No)
}

fn read_row(body: &DataRowBody, columns: &[Oid]) -> Result<Row, Failure> {
    let mut values = Vec::with_capacity(columns.len());
    let mut ranges = body.ranges();
    let mut columns = columns.iter();
    while let Some(range) = ranges.next()? {
        let oid = columns.next().ok_or_else(out_of_turn)?;
        let bytes = range.and_then(|range| body.buffer().get(range));
        values.push(bytes.map_or(Some(Value::Null), |bytes| decode(bytes, *oid)).ok_or_else(out_of_turn)?);
    }
    Ok(Row(values))
}

/// `None` for bytes that are not of this type.
fn decode(bytes: &[u8], oid: Oid) -> Option<Value> {
    Some(match oid {
        INT8 => Value::Int(i64::from_be_bytes(bytes.try_into().ok()?)),
        INT4 => Value::Int(i64::from(i32::from_be_bytes(bytes.try_into().ok()?))),
        INT2 => Value::Int(i64::from(i16::from_be_bytes(bytes.try_into().ok()?))),
        BOOL => Value::Int(i64::from(*bytes.first()? != 0)),
        BYTEA => Value::Blob(bytes.to_vec()),
        TEXT | VARCHAR => Value::Text(String::from_utf8_lossy(bytes).into_owned().into()),
        // No column is of another type; one that were would be reported as unreadable.
        _ => Value::Text(format!("a value of type {oid}").into()),
    })
}
