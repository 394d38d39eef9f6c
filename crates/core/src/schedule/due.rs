//! Which runs of a schedule are to be made now, and which are missed.

use super::MAX_CATCH_UP;
use super::plan::{Overlap, Plan};
use crate::agent::CatchUp;
use crate::time::UnixMs;

/// A run is on time this long after its moment, in milliseconds: what a worker needs to get to it.
pub const ON_TIME_MS: i64 = 60_000;
/// Times of a cron expression that are looked at one by one; beyond, they are counted as "at least".
const MAX_LOOK: u64 = 20_000;
/// `MAX_CATCH_UP` as a length.
const KEEP: usize = MAX_CATCH_UP as usize;

/// What the schedule's earlier runs are doing. A tick with another cause is no overlap: the run waits in the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Earlier {
    /// All done.
    #[default]
    Done,
    /// One is in a tick now.
    Running,
    /// One waits, whether another is running or not.
    Waiting,
}

/// Why runs are missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissedWhy {
    /// Nothing looked at the schedule when they were due, and its catch-up policy leaves them out.
    Late,
    /// An earlier run of the schedule was not done.
    Overlap,
}

impl MissedWhy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Overlap => "overlap",
        }
    }
}

/// Runs that will not be made: one entry of the history. [`Plan::between`] names them one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    pub count: u64,
    /// Whether `count` is exact; if not, it is at least that.
    pub exact: bool,
    pub first: UnixMs,
    pub last: UnixMs,
    pub why: MissedWhy,
}

/// What follows from looking at a schedule. Every time after the cursor up to now is in `run` or counted in `missed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// Moments whose runs go into the inbox now, oldest first, at most [`MAX_CATCH_UP`].
    pub run: Vec<UnixMs>,
    pub missed: Option<Missed>,
    /// To be kept: the schedule was looked at up to here.
    pub cursor: UnixMs,
    /// When to look again; none if it is never due again.
    pub next: Option<UnixMs>,
}

/// Looks at a schedule that was last looked at up to `cursor` (for a new one: when it was made).
///
/// A clock that goes back runs nothing twice: nothing is due until it has passed the cursor again.
pub fn meet(plan: &Plan, cursor: UnixMs, now: UnixMs, earlier: Earlier) -> Met {
    let upto = cursor.max(now);
    let found = if now > cursor { Found::between(plan, cursor, now) } else { Found::default() };
    let (run, why) = match (earlier, plan.schedule().overlap) {
        (Earlier::Done, _) => (found.recent(caught_up(plan, &found.newest, now)), MissedWhy::Late),
        (Earlier::Running, Overlap::QueueOne) => (found.recent(1), MissedWhy::Overlap),
        (Earlier::Running, Overlap::Skip) | (Earlier::Waiting, _) => (Vec::new(), MissedWhy::Overlap),
    };
    let missed = found.missed(plan, &run, why, cursor, now);
    Met { run, missed, cursor: upto, next: plan.next_after(upto) }
}

/// How many of the newest times are run after all.
fn caught_up(plan: &Plan, newest: &[UnixMs], now: UnixMs) -> usize {
    let since = |ms: i64| newest.iter().filter(|at| now.0.saturating_sub(at.0) <= ms).count();
    match plan.schedule().catch_up {
        CatchUp::Once => newest.len().min(1),
        CatchUp::Skip => since(ON_TIME_MS).min(1),
        CatchUp::All => since(i64::from(plan.schedule().window_secs) * 1_000).min(KEEP),
    }
}

#[derive(Default)]
struct Found {
    count: u64,
    exact: bool,
    /// The newest, oldest first, at most `KEEP`.
    newest: Vec<UnixMs>,
}

impl Found {
    fn between(plan: &Plan, after: UnixMs, until: UnixMs) -> Self {
        let newest = || {
            let before = |at: &UnixMs| plan.last_until(at.plus_ms(-1));
            let mut newest: Vec<UnixMs> =
                std::iter::successors(plan.last_until(until), before).take_while(|at| *at > after).take(KEEP).collect();
            newest.reverse();
            newest
        };
        if let Some(count) = plan.count_between(after, until) {
            return Self { count, exact: true, newest: newest() };
        }
        let mut kept = std::collections::VecDeque::with_capacity(KEEP);
        let (mut at, mut count) = (after, 0);
        while let Some(next) = plan.next_after(at).filter(|next| *next <= until) {
            if count == MAX_LOOK {
                return Self { count, exact: false, newest: newest() };
            }
            if kept.len() == KEEP {
                kept.pop_front();
            }
            kept.push_back(next);
            (at, count) = (next, count + 1);
        }
        Self { count, exact: true, newest: kept.into() }
    }

    /// The newest `n`, oldest first.
    fn recent(&self, n: usize) -> Vec<UnixMs> {
        self.newest[self.newest.len() - n.min(self.newest.len())..].to_vec()
    }

    /// Whatever is not run: always the oldest.
    fn missed(&self, plan: &Plan, run: &[UnixMs], why: MissedWhy, after: UnixMs, until: UnixMs) -> Option<Missed> {
        let count = self.count.saturating_sub(run.len() as u64);
        let last = run.first().map_or(until, |first| first.plus_ms(-1));
        let (first, last) = (plan.next_after(after)?, plan.last_until(last)?);
        (count > 0).then_some(Missed { count, exact: self.exact, first, last, why })
    }
}
