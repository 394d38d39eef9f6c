//! Whether an agent did what was due when it was due: by agent and month, against a promise.

use serde::{Deserialize, Serialize};

use crate::time::UnixMs;

/// A tick that starts later than this after it was due was late.
pub const ON_TIME_MS: i64 = 60_000;
/// The promise: so many of a hundred thousand due ticks are on time.
pub const TARGET_PER_100K: u64 = 99_900;

const DAY_MS: i64 = 86_400_000;

/// A month (UTC), as `yyyymm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Month(pub i64);

impl Month {
    pub const fn before(self) -> Self {
        if self.0 % 100 <= 1 { Self(self.0 - 89) } else { Self(self.0 - 1) }
    }

    pub fn of(at: UnixMs) -> Self {
        // Howard Hinnant's civil_from_days: days since 0000-03-01, in eras of 400 years.
        let days = at.0.div_euclid(DAY_MS) + 719_468;
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let (month, carry) = if from_march < 10 { (from_march + 3, 0) } else { (from_march - 9, 1) };
        Self((year_of_era + era * 400 + carry) * 100 + month)
    }
}

/// Due ticks of one agent, or of many, in one month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Availability {
    pub due: u64,
    pub on_time: u64,
}

impl Availability {
    /// A tick that was due at `due` and started at `started`, after `missed` others that never did.
    pub fn started(due: UnixMs, started: UnixMs, missed: u64) -> Self {
        let on_time = u64::from(started.0.saturating_sub(due.0) <= ON_TIME_MS);
        Self { due: missed.saturating_add(1), on_time }
    }

    /// Of a hundred thousand; whoever had nothing due kept every promise.
    pub const fn per_100k(self) -> u64 {
        match self.on_time.saturating_mul(100_000).checked_div(self.due) {
            Some(share) => share,
            None => 100_000,
        }
    }

    pub const fn keeps_promise(self) -> bool {
        self.per_100k() >= TARGET_PER_100K
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        let month = |ms| Month::of(UnixMs(ms)).0;
        assert_eq!(month(0), 197_001);
        assert_eq!(month(951_782_399_999), 200_002); // 28 February 2000, the day before a leap day
        assert_eq!(month(951_868_799_999), 200_002);
        assert_eq!(month(951_868_800_000), 200_003);
        assert_eq!(month(1_767_225_599_999), 202_512);
        assert_eq!(month(1_767_225_600_000), 202_601);
        assert_eq!(month(-1), 196_912);
        assert_eq!((Month(202_601).before().0, Month(202_612).before().0), (202_512, 202_611));
    }

    #[test]
    fn late_and_missed_ticks_count_against_the_promise() {
        let at = |late: i64| Availability::started(UnixMs(1_000), UnixMs(1_000 + late), 0);
        assert_eq!(at(60_000), Availability { due: 1, on_time: 1 });
        assert_eq!(at(60_001), Availability { due: 1, on_time: 0 });
        assert_eq!(Availability::started(UnixMs(0), UnixMs(5), 3), Availability { due: 4, on_time: 1 });
        assert!(Availability::default().keeps_promise());
        assert!(Availability { due: 1_000, on_time: 999 }.keeps_promise());
        assert!(!Availability { due: 1_000, on_time: 998 }.keeps_promise());
    }
}
