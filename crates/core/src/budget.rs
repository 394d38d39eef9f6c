//! The windows in which spending is counted. A window is one counter row: settled and held.

use crate::availability::Month;
use crate::id::{Hash32, TickId};
use crate::money::Msat;
use crate::time::UnixMs;

const DAY_MS: i64 = 86_400_000;

/// A span of spending with a limit. A hold stays in the window it was made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Window {
    /// One UTC day, counted from 1970.
    Day(i64),
    Tick(TickId),
    /// One calendar month (UTC): counted where the policy limits it.
    Month(Month),
    /// The agent's own rent in one calendar month (UTC).
    Rent(Month),
    /// What is done under one delegation, over its whole life.
    Delegation(Hash32),
}

impl Window {
    pub const fn day_of(now: UnixMs) -> Self {
        Self::Day(now.0.div_euclid(DAY_MS))
    }

    /// The key of its row.
    pub fn key(&self) -> String {
        match self {
            Self::Day(day) => format!("day:{day}"),
            Self::Tick(id) => format!("tick:{id}"),
            Self::Month(month) => format!("month:{}", month.0),
            Self::Rent(month) => format!("rent:{}", month.0),
            Self::Delegation(hash) => format!("delegation:{hash}"),
        }
    }

    /// The window of a key.
    pub fn parse(key: &str) -> Option<Self> {
        let (kind, value) = key.split_once(':')?;
        match kind {
            "day" => value.parse().ok().map(Self::Day),
            "tick" => value.parse().ok().map(Self::Tick),
            "month" => value.parse().ok().map(|month| Self::Month(Month(month))),
            "rent" => value.parse().ok().map(|month| Self::Rent(Month(month))),
            "delegation" => value.parse().ok().map(Self::Delegation),
            _ => None,
        }
    }
}

/// What a window has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    pub settled: Msat,
    pub held: Msat,
}

impl Counter {
    pub fn used(&self) -> Msat {
        self.settled.saturating_add(self.held)
    }

    /// Whether `amount` fits under `limit`. The store's guarded update says the same in one statement.
    pub fn admits(&self, amount: Msat, limit: Msat) -> bool {
        self.settled.checked_add(self.held).and_then(|used| used.checked_add(amount)).is_some_and(|sum| sum <= limit)
    }
}

/// The counter has less than the encrypted state remembers: someone took spending out of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the day's counter shows {counter}, the agent's own state {state}: the counter was lowered")]
pub struct BudgetTampered {
    pub counter: Msat,
    pub state: Msat,
}

/// The spending to believe, or the finding that the counter was tampered with.
pub fn believe(counter: Msat, state: Msat) -> Result<Msat, BudgetTampered> {
    if counter < state { Err(BudgetTampered { counter, state }) } else { Ok(counter) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn days_are_utc() {
        assert_eq!(Window::day_of(UnixMs(86_399_999)), Window::Day(0));
        assert_eq!(Window::day_of(UnixMs(86_400_000)), Window::Day(1));
        let hash = Hash32::from_bytes([7; 32]);
        for window in
            [Window::Day(20_780), Window::Month(Month(202_402)), Window::Rent(Month(202_402)), Window::Delegation(hash)]
        {
            assert_eq!(Window::parse(&window.key()), Some(window), "{}", window.key());
        }
        assert_eq!(Window::Day(20_780).key(), "day:20780");
        assert_eq!(Window::parse("year:1"), None);
    }

    proptest! {
        #[test]
        fn reservations_never_pass_the_limit(limit in 0_u64..10_000, asks in prop::collection::vec(0_u64..5_000, 0..50)) {
            let limit = Msat::new(limit);
            let mut counter = Counter::default();
            for ask in asks.into_iter().map(Msat::new) {
                if counter.admits(ask, limit) {
                    counter.held = counter.held.checked_add(ask).unwrap();
                }
                prop_assert!(counter.used() <= limit);
            }
        }
    }
}
