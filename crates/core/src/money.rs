//! Integer millisats. There is no floating point money anywhere.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount in millisats, from 0 to [`Msat::MAX`].
///
/// The bound is `i64::MAX`, so that every amount fits a `BIGINT` column; all bitcoin there will ever be is
/// 2.1 x 10^18 msat, below it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Msat(u64);

/// An amount that does not fit [`Msat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("amount out of range: expected 0 to 9223372036854775807 msat")]
pub struct AmountOutOfRange;

impl Msat {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(i64::MAX as u64);

    /// An amount known at compile time; panics at compile time if it is out of range.
    pub const fn new(msat: u64) -> Self {
        assert!(msat <= i64::MAX as u64);
        Self(msat)
    }

    /// `sats` known at compile time.
    pub const fn sats(sats: u64) -> Self {
        Self::new(sats * 1000)
    }

    pub fn from_sats(sats: u64) -> Option<Self> {
        sats.checked_mul(1000).and_then(|msat| Self::try_from(msat).ok())
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The column form.
    pub const fn as_i64(self) -> i64 {
        self.0 as i64
    }

    /// Whole sats, rounded down: what a balance shows.
    pub const fn whole_sats(self) -> u64 {
        self.0 / 1000
    }

    /// Whole sats, rounded up: what a price shows.
    pub const fn sats_ceil(self) -> u64 {
        self.0.div_ceil(1000)
    }

    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(|sum| Self::try_from(sum).ok())
    }

    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// For limits, where the largest amount means "no room left to count".
    pub fn saturating_add(self, other: Self) -> Self {
        self.checked_add(other).unwrap_or(Self::MAX)
    }

    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl TryFrom<u64> for Msat {
    type Error = AmountOutOfRange;

    fn try_from(msat: u64) -> Result<Self, Self::Error> {
        if msat <= i64::MAX as u64 { Ok(Self(msat)) } else { Err(AmountOutOfRange) }
    }
}

impl TryFrom<i64> for Msat {
    type Error = AmountOutOfRange;

    fn try_from(msat: i64) -> Result<Self, Self::Error> {
        u64::try_from(msat).map(Self).map_err(|_| AmountOutOfRange)
    }
}

impl From<Msat> for u64 {
    fn from(amount: Msat) -> Self {
        amount.0
    }
}

impl fmt::Display for Msat {
    /// Whole sats as `12 sats`, otherwise `12.345 sats`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 1000 {
            0 => write!(f, "{} sats", self.0 / 1000),
            rest => write!(f, "{}.{rest:03} sats", self.0 / 1000),
        }
    }
}

impl fmt::Debug for Msat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} msat", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_never_wraps() {
        assert_eq!(Msat::MAX.checked_add(Msat::new(1)), None);
        assert_eq!(Msat::ZERO.checked_sub(Msat::new(1)), None);
        assert_eq!(Msat::from_sats(u64::MAX), None);
        assert_eq!(Msat::MAX.saturating_add(Msat::MAX), Msat::MAX);
        assert!(serde_json::from_str::<Msat>("9223372036854775808").is_err());
        assert!(serde_json::from_str::<Msat>("-1").is_err());
    }

    #[test]
    fn shows_sats() {
        assert_eq!(Msat::sats(12).to_string(), "12 sats");
        assert_eq!(Msat::new(12_045).to_string(), "12.045 sats");
    }
}
