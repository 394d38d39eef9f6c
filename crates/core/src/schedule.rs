//! When a heartbeat is due, and what becomes of the ones that were missed; and the schedules beside it ([`plan`],
//! [`due`]).

mod cron;
pub mod due;
pub mod plan;

#[cfg(test)]
mod tests;

pub use due::{Earlier, Met, Missed, MissedWhy};
pub use plan::{InvalidSchedule, Overlap, Plan, Schedule, When};

use crate::agent::CatchUp;
use crate::time::UnixMs;

/// Heartbeats that `CatchUp::All` runs at most after an outage.
pub const MAX_CATCH_UP: i64 = 100;

/// What a due heartbeat means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Ticks to run now.
    pub run: u32,
    /// Heartbeats that were missed and will not be run: they show in the history.
    pub missed: u64,
    /// When the next one is due, always after now.
    pub next: UnixMs,
}

/// What follows when a heartbeat due at `due` is met at `now`. Nothing is due before its time.
///
/// Beats stay on the grid of `due + n x interval`: an outage does not shift the schedule. The beat is late, but
/// not missed, while less than one interval has passed.
pub fn meet(due: UnixMs, interval_ms: i64, now: UnixMs, catch_up: CatchUp) -> Due {
    let interval = interval_ms.max(1);
    let late = now.0.saturating_sub(due.0);
    if late < 0 {
        return Due { run: 0, missed: 0, next: due };
    }
    let passed = late / interval;
    let next = due.plus_ms(interval.saturating_mul(passed + 1));
    let (run, missed) = match catch_up {
        CatchUp::Once => (1, passed),
        CatchUp::Skip if passed == 0 => (1, 0),
        CatchUp::Skip => (0, passed + 1),
        CatchUp::All => {
            let run = (passed + 1).min(MAX_CATCH_UP);
            (run, passed + 1 - run)
        }
    };
    Due {
        run: u32::try_from(run).unwrap_or(u32::MAX),
        missed: u64::try_from(missed).unwrap_or(0),
        next: if next > now { next } else { now.plus_ms(interval) },
    }
}

#[cfg(test)]
mod heartbeat {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_outage_is_met_as_the_owner_chose() {
        let at = |catch_up| meet(UnixMs(1_000), 100, UnixMs(1_350), catch_up);
        assert_eq!(at(CatchUp::Once), Due { run: 1, missed: 3, next: UnixMs(1_400) });
        assert_eq!(at(CatchUp::Skip), Due { run: 0, missed: 4, next: UnixMs(1_400) });
        assert_eq!(at(CatchUp::All), Due { run: 4, missed: 0, next: UnixMs(1_400) });
    }

    proptest! {
        #[test]
        fn every_beat_is_run_or_missed_and_the_grid_holds(
            due in 0_i64..1_000_000, interval in 1_i64..100_000, late in 0_i64..10_000_000, pick in 0_usize..3,
        ) {
            let policy = [CatchUp::Once, CatchUp::Skip, CatchUp::All][pick];
            let now = UnixMs(due + late);
            let met = meet(UnixMs(due), interval, now, policy);
            prop_assert!(met.next > now);
            prop_assert!(met.next.0 - now.0 <= interval);
            prop_assert_eq!((met.next.0 - due) % interval, 0);
            prop_assert_eq!(i64::from(met.run) + i64::try_from(met.missed).unwrap(), late / interval + 1);
        }
    }
}
