//! Reading a row back into typed values. A column that does not fit is reported, never guessed.

use nexus_core::{AccountId, Generation, Hash32, Msat, Npub, TickId, UnixMs, WorkerId};

use crate::batch::Value;
use crate::error::StoreError;

/// One row of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row(pub(crate) Vec<Value>);

/// Walks a row's columns from left to right.
pub(crate) struct Columns {
    attempted: &'static str,
    position: usize,
    values: std::vec::IntoIter<Value>,
}

impl Row {
    pub(crate) fn columns(self, attempted: &'static str) -> Columns {
        Columns { attempted, position: 0, values: self.0.into_iter() }
    }
}

impl Columns {
    /// The next column as a `T`.
    pub(crate) fn get<T: FromColumn>(&mut self) -> Result<T, StoreError> {
        self.position += 1;
        let value = self.values.next().unwrap_or(Value::Null);
        T::from_column(value).ok_or_else(|| self.corrupt(std::any::type_name::<T>()))
    }

    /// The next column, a text, read by `parse`.
    pub(crate) fn parse<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, StoreError> {
        let text: String = self.get()?;
        parse(&text).ok_or_else(|| self.corrupt(std::any::type_name::<T>()))
    }

    /// As [`Self::parse`], for a column that may be null.
    pub(crate) fn parse_opt<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, StoreError> {
        match self.get::<Option<String>>()? {
            None => Ok(None),
            Some(text) => parse(&text).map(Some).ok_or_else(|| self.corrupt(std::any::type_name::<T>())),
        }
    }

    fn corrupt(&self, expected: &str) -> StoreError {
        StoreError::Corrupt { attempted: self.attempted, what: format!("column {} is not a {expected}", self.position) }
    }
}

/// A type that a column can become.
pub(crate) trait FromColumn: Sized {
    fn from_column(value: Value) -> Option<Self>;
}

impl<T: FromColumn> FromColumn for Option<T> {
    fn from_column(value: Value) -> Option<Self> {
        match value {
            Value::Null | Value::Absent(_) => Some(None),
            other => T::from_column(other).map(Some),
        }
    }
}

impl FromColumn for i64 {
    fn from_column(value: Value) -> Option<Self> {
        if let Value::Int(number) = value { Some(number) } else { None }
    }
}

impl FromColumn for bool {
    fn from_column(value: Value) -> Option<Self> {
        i64::from_column(value).map(|number| number != 0)
    }
}

impl FromColumn for String {
    fn from_column(value: Value) -> Option<Self> {
        if let Value::Text(text) = value { Some(text.into_owned()) } else { None }
    }
}

impl FromColumn for Vec<u8> {
    fn from_column(value: Value) -> Option<Self> {
        if let Value::Blob(bytes) = value { Some(bytes) } else { None }
    }
}

impl FromColumn for UnixMs {
    fn from_column(value: Value) -> Option<Self> {
        i64::from_column(value).map(Self)
    }
}

impl FromColumn for Generation {
    fn from_column(value: Value) -> Option<Self> {
        i64::from_column(value).map(Self)
    }
}

impl FromColumn for Msat {
    fn from_column(value: Value) -> Option<Self> {
        i64::from_column(value).and_then(|msat| Self::try_from(msat).ok())
    }
}

macro_rules! small_ints {
    ($($type:ty),+) => { $(impl FromColumn for $type {
        fn from_column(value: Value) -> Option<Self> {
            i64::from_column(value).and_then(|number| Self::try_from(number).ok())
        }
    })+ };
}
small_ints!(i32, u16, u32, u64);

macro_rules! byte_ids {
    ($($type:ty),+) => { $(impl FromColumn for $type {
        fn from_column(value: Value) -> Option<Self> {
            Vec::<u8>::from_column(value).and_then(|bytes| bytes.try_into().ok()).map(Self::from_bytes)
        }
    })+ };
}
byte_ids!(Npub, Hash32, TickId, AccountId, WorkerId);
