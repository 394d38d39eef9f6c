//! What an owner may schedule beside the heartbeat: at a moment, at an interval, or by cron in a time zone.
//!
//! Cron expressions are in [`cron`].

use serde::{Deserialize, Serialize};

use super::cron::{Cron, zone_of};
use crate::agent::CatchUp;
use crate::time::UnixMs;

/// Most schedules of one agent.
pub const MAX_SCHEDULES: usize = 32;
/// Shortest and longest interval, in seconds. Cron has no seconds, so a minute is its shortest too.
pub const INTERVAL_SECS: std::ops::RangeInclusive<u32> = 60..=366 * 86_400;
/// Longest window in which missed runs are caught up, in seconds.
pub const MAX_WINDOW_SECS: u32 = 7 * 86_400;
/// Latest moment that can be named: the end of 2199.
pub const MAX_MOMENT: UnixMs = UnixMs(7_258_118_399_999);
const MAX_NAME: usize = 32;
const RUN: &str = "schedule:";
/// When a schedule is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum When {
    /// Once, at a moment.
    Once { at_ms: UnixMs },
    /// At `from_ms` and every `secs` seconds after it, on that grid whatever happens.
    Every { secs: u32, from_ms: UnixMs },
    /// By a cron expression of five fields, in a zone such as `Europe/Berlin` or `UTC`.
    Cron { expression: String, zone: String },
}

/// What becomes of a run that is due while an earlier one of the same schedule is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is missed.
    #[default]
    Skip,
    /// The newest waits, one at most; the others are missed.
    QueueOne,
}

const fn day() -> u32 {
    86_400
}

/// One schedule of an agent. Stored in clear: no text for the agent is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// 1 to 32 of `a-z 0-9 - _`, unique for the agent: names its runs in the history.
    pub name: String,
    pub when: When,
    #[serde(default)]
    pub overlap: Overlap,
    #[serde(default)]
    pub catch_up: CatchUp,
    /// For `catch_up: all`: runs older than this are missed, not caught up. 60 to 604,800; a day by default.
    #[serde(default = "day")]
    pub window_secs: u32,
}

/// A schedule that is not accepted, with what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schedule {name:?}: {problem}")]
pub struct InvalidSchedule {
    /// At most 32 characters of its name.
    pub name: String,
    pub problem: String,
}

/// Reads all schedules of an agent: each valid, no name twice, at most 32.
pub fn plan_all(schedules: &[Schedule]) -> Result<Vec<Plan>, InvalidSchedule> {
    if let Some(extra) = schedules.get(MAX_SCHEDULES) {
        return Err(extra.invalid(format!("an agent has at most {MAX_SCHEDULES} schedules")));
    }
    for (at, schedule) in schedules.iter().enumerate() {
        if schedules[..at].iter().any(|other| other.name == schedule.name) {
            return Err(schedule.invalid("the name is taken by another schedule of this agent"));
        }
    }
    schedules.iter().map(Schedule::plan).collect()
}

impl Schedule {
    fn invalid(&self, problem: impl Into<String>) -> InvalidSchedule {
        InvalidSchedule { name: self.name.chars().take(MAX_NAME).collect(), problem: problem.into() }
    }

    /// Checks the schedule and makes it ready to be asked.
    pub fn plan(&self) -> Result<Plan, InvalidSchedule> {
        if !is_name(&self.name) {
            return Err(self.invalid("use 1 to 32 of a-z, 0-9, '-' and '_' as its name"));
        }
        if !(60..=MAX_WINDOW_SECS).contains(&self.window_secs) {
            return Err(self.invalid(format!("window_secs: use 60 to {MAX_WINDOW_SECS}")));
        }
        let moment = |at: UnixMs| {
            let fine = (UnixMs(0)..=MAX_MOMENT).contains(&at);
            fine.then_some(at).ok_or_else(|| self.invalid("use a moment from 1970 to 2199, in milliseconds"))
        };
        let times = match &self.when {
            When::Once { at_ms } => Times::Once(moment(*at_ms)?),
            When::Every { secs, .. } if !INTERVAL_SECS.contains(secs) => {
                let (min, max) = (INTERVAL_SECS.start(), INTERVAL_SECS.end());
                return Err(self.invalid(format!("secs: use {min} to {max}")));
            }
            When::Every { secs, from_ms } => {
                Times::Every { from: moment(*from_ms)?, step_ms: i64::from(*secs) * 1_000 }
            }
            When::Cron { expression, zone } => {
                Times::Cron(Box::new(Cron::parse(expression, zone).map_err(|problem| self.invalid(problem))?))
            }
        };
        Ok(Plan { schedule: self.clone(), times })
    }
}

/// A schedule that was checked, ready to be asked when it is due.
#[derive(Debug, Clone)]
pub struct Plan {
    schedule: Schedule,
    times: Times,
}

#[derive(Debug, Clone)]
enum Times {
    Once(UnixMs),
    Every { from: UnixMs, step_ms: i64 },
    Cron(Box<Cron>),
}

impl Plan {
    pub const fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The first time it is due after a moment; none if it never is again.
    pub fn next_after(&self, after: UnixMs) -> Option<UnixMs> {
        self.times.next_after(after)
    }

    /// The last time it was due at or before a moment.
    pub fn last_until(&self, until: UnixMs) -> Option<UnixMs> {
        self.times.last_until(until)
    }

    /// The times after `after`, up to and with `until`, oldest first, at most `max`: what a history shows of a span of
    /// missed runs.
    pub fn between(&self, after: UnixMs, until: UnixMs, max: usize) -> Vec<UnixMs> {
        let next = |at: &UnixMs| self.next_after(*at);
        std::iter::successors(self.next_after(after), next).take_while(|at| *at <= until).take(max).collect()
    }

    /// How many times there are after `after`, up to and with `until`, if that can be said without looking at each.
    pub(super) fn count_between(&self, after: UnixMs, until: UnixMs) -> Option<u64> {
        match &self.times {
            Times::Once(at) => Some(u64::from(after < *at && *at <= until)),
            Times::Every { from, step_ms } => {
                let upto = |moment: UnixMs| {
                    let since = moment.0.saturating_sub(from.0);
                    if since < 0 { 0 } else { since / step_ms + 1 }
                };
                Some(u64::try_from(upto(until).saturating_sub(upto(after))).unwrap_or(0))
            }
            Times::Cron(_) => None,
        }
    }

    /// The external id of a run: one inbox row for each, however often the schedule is looked at.
    pub fn run_id(&self, at: UnixMs) -> String {
        format!("{RUN}{}:{at}", self.schedule.name)
    }
}

/// Reads a moment: RFC 3339 with its offset, or without one as the clocks of a zone show it. A time that the zone leaves out
/// is taken as the first moment after the gap, one that comes twice as the first.
pub fn moment(text: &str, zone: &str) -> Result<UnixMs, String> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(UnixMs(at.as_millisecond()));
    }
    let zone = zone_of(zone)?;
    let civil: jiff::civil::DateTime =
        text.parse().map_err(|_| format!("{text:?} is no moment: use 2026-12-24T18:00 or 2026-12-24T18:00:00Z"))?;
    let at = zone.to_ambiguous_timestamp(civil).compatible();
    at.map(|at| UnixMs(at.as_millisecond())).map_err(|_| format!("{text:?} is out of range"))
}

/// The schedule and the moment that a run's external id names.
pub fn run_of(id: &str) -> Option<(&str, UnixMs)> {
    let (name, at) = id.strip_prefix(RUN)?.split_once(':')?;
    let at = UnixMs(at.parse().ok()?);
    (is_name(name) && (UnixMs(0)..=MAX_MOMENT).contains(&at)).then_some((name, at))
}

/// What an agent is told of a run: which schedule, and when it was due.
pub fn said(id: &str) -> Option<String> {
    let (name, at) = run_of(id)?;
    let due = jiff::Timestamp::from_millisecond(at.0).ok()?;
    Some(format!("schedule \"{name}\", due {due}"))
}

fn is_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(known)
}

impl Times {
    fn next_after(&self, after: UnixMs) -> Option<UnixMs> {
        match self {
            Self::Once(at) => (*at > after).then_some(*at),
            Self::Every { from, .. } if *from > after => Some(*from),
            Self::Every { from, step_ms } => {
                let passed = after.0.saturating_sub(from.0) / step_ms;
                Some(from.plus_ms(passed.saturating_add(1).saturating_mul(*step_ms))).filter(|at| *at > after)
            }
            Self::Cron(cron) => cron.next_after(after),
        }
    }

    fn last_until(&self, until: UnixMs) -> Option<UnixMs> {
        match self {
            Self::Once(at) => (*at <= until).then_some(*at),
            Self::Every { from, .. } if *from > until => None,
            Self::Every { from, step_ms } => {
                Some(from.plus_ms((until.0.saturating_sub(from.0) / step_ms).saturating_mul(*step_ms)))
            }
            Self::Cron(cron) => cron.last_until(until),
        }
    }
}
