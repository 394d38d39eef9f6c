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
    /// Its first moment.
    pub fn start(self) -> UnixMs {
        // Howard Hinnant's days_from_civil, the inverse of what `of` does.
        let (year, month) = (self.0.div_euclid(100), self.0.rem_euclid(100));
        let (year, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * from_march + 2) / 5;
        UnixMs((days - 719_468) * DAY_MS)
    }

    pub const fn before(self) -> Self {
        if self.0 % 100 <= 1 { Self(self.0 - 89) } else { Self(self.0 - 1) }
    }

    pub const fn after(self) -> Self {
        if self.0 % 100 >= 12 { Self(self.0 + 89) } else { Self(self.0 + 1) }
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

/// Beats that were due and never met: `count` of them from `first` on, `interval_ms` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    pub count: u64,
    pub first: UnixMs,
    pub interval_ms: i64,
}

impl Missed {
    pub const NONE: Self = Self { count: 0, first: UnixMs(0), interval_ms: 1 };

    /// How many were due in this month, and in the one before it. What is longer ago is shown nowhere.
    pub fn by_month(&self, month: Month) -> (u64, u64) {
        let before = |at: UnixMs| {
            let span = at.0.saturating_sub(self.first.0).max(0).unsigned_abs();
            span.div_ceil(self.interval_ms.max(1).unsigned_abs()).min(self.count)
        };
        let (old, earlier) = (before(month.before().start()), before(month.start()));
        (self.count - earlier, earlier - old)
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

    /// With so many more that were due and not met.
    pub const fn and_missed(self, missed: u64) -> Self {
        Self { due: self.due.saturating_add(missed), on_time: self.on_time }
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
    fn a_month_begins_where_the_one_before_ends() {
        for month in [197_001, 200_002, 200_003, 202_512, 202_601, 202_603, 202_612] {
            let start = Month(month).start();
            assert_eq!((Month::of(start), Month::of(start.plus_ms(-1))), (Month(month), Month(month).before()));
        }
    }

    #[test]
    fn missed_beats_belong_to_the_month_in_which_they_were_due() {
        let start = Month(202_603).start();
        let missed = |count, first: i64| Missed { count, first: start.plus_ms(first), interval_ms: 1_000 };
        assert_eq!(missed(5, 0).by_month(Month(202_603)), (5, 0));
        assert_eq!(missed(5, -2_000).by_month(Month(202_603)), (3, 2));
        assert_eq!(missed(5, -1_999).by_month(Month(202_603)), (3, 2));
        assert_eq!(missed(5, -60_000).by_month(Month(202_603)), (0, 5));
        assert_eq!(missed(5, 0).by_month(Month(202_604)), (0, 5));
        assert_eq!(missed(5, -2_000).by_month(Month(202_604)), (0, 3), "two months ago is shown nowhere");
        assert_eq!(Missed::NONE.by_month(Month(202_604)), (0, 0));
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
