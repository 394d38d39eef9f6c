//! Cron expressions in a time zone.
//!
//! Five fields (minute, hour, day of month, month, day of week), read in a zone of the IANA database, which is compiled
//! in. When both days are given, either counts (POSIX). What happens when a zone changes its clocks depends on the hour
//! field. An expression is *hourly* when that field is a star or a step over one; else its hours are fixed.
//!
//! - Forward: a fixed time that does not exist that day (`30 2 * * *` where 02:00 becomes 03:00) is due at the first
//!   moment after the gap; once, however many of its times fell into it. An hourly one goes on after the gap as if
//!   nothing happened.
//! - Back: a fixed time that comes twice is due the first time only. An hourly one is due both times, so that "every 20
//!   minutes" stays every 20 minutes.

use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};

use super::plan::MAX_MOMENT;
use crate::time::UnixMs;

const MAX_EXPRESSION: usize = 128;
/// Longer than any day of the calendar takes to come again: 29 February, across 2100, is eight years.
const HORIZON_MS: i64 = 9 * 366 * 86_400_000;
/// Changes of a zone's clock within the horizon: at most four a year are known.
const MAX_SPANS: usize = 64;

/// A cron expression that was checked.
#[derive(Debug, Clone)]
pub(super) struct Cron {
    pattern: croner::Cron,
    zone: TimeZone,
    hourly: bool,
}

/// A time between two changes of the zone's clock.
struct Span {
    /// Its first moment, and the offset before it, in milliseconds.
    start: Option<(i64, i64)>,
    /// Local time is UTC plus this, in milliseconds.
    offset: i64,
    /// The first moment after it.
    end: Option<i64>,
}

impl Span {
    /// Local times that this span's start left out: from, and to before.
    fn gap(&self) -> Option<(i64, i64)> {
        let (start, before) = self.start?;
        (self.offset > before).then_some((start + before, start + self.offset))
    }

    /// The first local time of the span that was not there just before it as well.
    fn first_fresh(&self) -> Option<i64> {
        self.start.map(|(start, before)| start + before.max(self.offset))
    }
}

/// A zone of the IANA database, by its name.
pub(super) fn zone_of(name: &str) -> Result<TimeZone, String> {
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZoneDatabase::bundled().get(name).map_err(|_| {
        let shown: String = name.chars().take(64).collect();
        format!("{shown:?} is no time zone of the IANA database: use one such as Europe/Berlin")
    })
}

impl Cron {
    pub(super) fn parse(expression: &str, zone: &str) -> Result<Self, String> {
        let fields: Vec<&str> = expression.split_whitespace().collect();
        // Nicknames such as `@daily` are left out: one way to write a thing.
        let [_, hour, _, _, _] = fields.as_slice() else {
            return Err("a cron expression has five fields: minute hour day month weekday".into());
        };
        if expression.len() > MAX_EXPRESSION {
            return Err(format!("a cron expression has at most {MAX_EXPRESSION} bytes"));
        }
        let hourly = hour.starts_with('*');
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let pattern = parser.parse(expression).map_err(|error| format!("cron expression: {error}"))?;
        let cron = Self { pattern, zone: zone_of(zone)?, hourly };
        // 1 March 2024: what has no time before the 29 February after the next one has none at all.
        match cron.next_after(UnixMs(1_709_251_200_000)) {
            Some(_) => Ok(cron),
            None => Err("the cron expression names no day that exists".into()),
        }
    }

    pub(super) fn next_after(&self, after: UnixMs) -> Option<UnixMs> {
        let mut from = after.0.checked_add(1)?;
        let horizon = after.0.saturating_add(HORIZON_MS);
        for _ in 0..MAX_SPANS {
            let span = self.span(from)?;
            if let Some((gap, end)) = span.gap().filter(|_| !self.hourly && span.start.is_some_and(|s| s.0 == from))
                && self.next_local(gap)? < end
            {
                return Some(UnixMs(from));
            }
            let fresh = span.first_fresh().filter(|_| !self.hourly).unwrap_or(i64::MIN);
            let at = self.next_local((from + span.offset).max(fresh))? - span.offset;
            match span.end {
                Some(end) if at >= end && end <= horizon => from = end,
                _ => return (at <= horizon).then_some(UnixMs(at)),
            }
        }
        None
    }

    pub(super) fn last_until(&self, until: UnixMs) -> Option<UnixMs> {
        let mut upto = until.0;
        let horizon = until.0.saturating_sub(HORIZON_MS);
        for _ in 0..MAX_SPANS {
            let span = self.span(upto)?;
            let fresh = span.first_fresh().filter(|_| !self.hourly);
            let first = fresh.or(span.start.map(|(start, _)| start + span.offset)).unwrap_or(i64::MIN);
            let local = self.last_local(upto + span.offset)?;
            if local >= first {
                return Some(UnixMs(local - span.offset)).filter(|at| at.0 >= horizon);
            }
            let (start, _) = span.start?;
            if let Some((gap, end)) = span.gap().filter(|_| !self.hourly)
                && self.next_local(gap)? < end
            {
                return Some(UnixMs(start));
            }
            if start <= horizon {
                return None;
            }
            upto = start - 1;
        }
        None
    }

    fn span(&self, at: i64) -> Option<Span> {
        let moment = moment(at)?;
        let offset = |at: Timestamp| i64::from(self.zone.to_offset(at).seconds()) * 1_000;
        // A change at this very moment belongs to it.
        let start = self.zone.preceding(self::moment(at.checked_add(1)?)?).next().map(|change| {
            let start = change.timestamp().as_millisecond();
            let before = self::moment(start - 1).map_or(0, offset);
            (start, before)
        });
        let end = self.zone.following(moment).next().map(|change| change.timestamp().as_millisecond());
        Some(Span { start, offset: offset(moment), end })
    }

    /// The first local time at or after one. The pattern is asked in UTC, where every time of day exists once.
    fn next_local(&self, local: i64) -> Option<i64> {
        let whole = local.checked_add(999)?.div_euclid(1_000) * 1_000;
        let found = self.pattern.find_next_occurrence(&utc(whole)?, true).ok()?;
        Some(found.timestamp().as_millisecond())
    }

    /// The last local time at or before one.
    fn last_local(&self, local: i64) -> Option<i64> {
        let found = self.pattern.find_previous_occurrence(&utc(local.div_euclid(1_000) * 1_000)?, true).ok()?;
        Some(found.timestamp().as_millisecond())
    }
}

/// A moment, if it is one that a schedule may name, or a little beside it.
fn moment(at: i64) -> Option<Timestamp> {
    let within = (-86_400_000..=MAX_MOMENT.0 + HORIZON_MS).contains(&at);
    within.then(|| Timestamp::from_millisecond(at).ok()).flatten()
}

fn utc(at: i64) -> Option<Zoned> {
    Some(moment(at)?.to_zoned(TimeZone::UTC))
}
