//! Hosting months: when one begins and ends, what a part of it costs, when its end is announced, and what follows when
//! it is not paid.
//!
//! Months are calendar months in UTC, counted from the day and time of the start. Where a month has no such day its
//! last day is taken; the next month has the start's day again, so that nothing drifts.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::money::Msat;
use crate::status::Hosting;
use crate::time::UnixMs;

const DAY_MS: i64 = 86_400_000;
/// A hundred years.
const MAX_MONTHS: u32 = 1_200;

/// From the first moment to before the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Month {
    pub from: UnixMs,
    pub until: UnixMs,
}

/// The `number`-th month (from 0) of what started then. None past a hundred years, or where the calendar ends.
pub fn month(start: UnixMs, number: u32) -> Option<Month> {
    if number >= MAX_MONTHS {
        return None;
    }
    Some(Month { from: begins(start, number)?, until: begins(start, number + 1)? })
}

fn begins(start: UnixMs, number: u32) -> Option<UnixMs> {
    let start = Timestamp::from_millisecond(start.0).ok()?.to_zoned(TimeZone::UTC);
    let months = Span::new().try_months(number).ok()?;
    Some(UnixMs(start.checked_add(months).ok()?.timestamp().as_millisecond()))
}

impl Month {
    /// What is left of it at `at`, of what was paid for it: by the millisecond, rounded down to a millisat.
    pub fn unused(&self, paid: Msat, at: UnixMs) -> Msat {
        let used = self.prorated(paid, UnixMs(self.from.0 + (self.until.0 - at.0.clamp(self.from.0, self.until.0))));
        paid.checked_sub(used).unwrap_or(Msat::ZERO)
    }

    /// What is left of it at `at` costs so much of a month's fee: by the millisecond, rounded up to a millisat.
    pub fn prorated(&self, fee: Msat, at: UnixMs) -> Msat {
        let whole = i128::from(self.until.0) - i128::from(self.from.0);
        let left = (i128::from(self.until.0) - i128::from(at.0)).clamp(0, whole);
        let product = i128::from(fee.as_i64()) * left;
        let part = (product + whole - 1).checked_div(whole).unwrap_or(0);
        u64::try_from(part).ok().and_then(|msat| Msat::try_from(msat).ok()).unwrap_or(fee)
    }
}

/// What an account pays for each of its agents, and what that includes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Sats a month for each agent, 0 to 10,000,000.
    pub fee_sats: u64,
    /// Agents in one account; none for no bound.
    pub agents: Option<u32>,
    /// Ticks that an agent may have in a UTC day; none for no bound.
    pub ticks_per_day: Option<u32>,
    /// Largest private state of an agent, in KiB, 16 to 256; none for as much as the program keeps.
    pub state_kib: Option<u32>,
    /// Days for which events and ticks of an agent are kept, 8 to 3,650; none for the host's own.
    pub retention_days: Option<u32>,
}

/// What a plan includes for one agent, as its row has it. Workers and housekeeping know this much of a plan, and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Included {
    pub ticks_per_day: Option<u32>,
    pub state_kib: Option<u32>,
    pub retention_days: Option<u32>,
}

/// What `state_kib` and `retention_days` may be. A runway looks back a week.
pub const STATE_KIB: std::ops::RangeInclusive<u32> = 16..=256;
pub const RETENTION_DAYS: std::ops::RangeInclusive<u32> = 8..=3_650;

/// The largest fee of the network that a refund may cost: 1 %, at least 10 sats, as payers quote it.
pub const fn refund_fee(amount: Msat) -> Msat {
    let percent = amount.as_u64() / 100;
    Msat::new(if percent < 10_000 { 10_000 } else { percent })
}

/// Largest fee of a plan, in sats a month.
pub const MAX_FEE_SATS: u64 = 10_000_000;

impl Default for Plan {
    fn default() -> Self {
        Self { fee_sats: 10_000, agents: None, ticks_per_day: None, state_kib: None, retention_days: None }
    }
}

impl Plan {
    pub const fn fee(&self) -> Msat {
        Msat::sats(self.fee_sats)
    }

    pub const fn included(&self) -> Included {
        Included { ticks_per_day: self.ticks_per_day, state_kib: self.state_kib, retention_days: self.retention_days }
    }

    /// Whether its numbers can be kept; the field that cannot, and why.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.fee_sats > MAX_FEE_SATS {
            return Err("fee_sats: use 0 to 10000000");
        }
        if self.state_kib.is_some_and(|kib| !STATE_KIB.contains(&kib)) {
            return Err("state_kib: use 16 to 256");
        }
        if self.retention_days.is_some_and(|days| !RETENTION_DAYS.contains(&days)) {
            return Err("retention_days: use 8 to 3650; a runway looks back a week");
        }
        Ok(())
    }
}

/// How far an agent is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// From where its months count.
    pub from: UnixMs,
    /// Months paid since then; none yet in the trial.
    pub months: u32,
    pub paid_until: UnixMs,
}

impl Term {
    /// Of an agent that is first seen at a moment, in an account whose trial ends at another: nothing is due before either.
    pub fn begin(seen: UnixMs, trial_until: UnixMs) -> Self {
        let from = seen.max(trial_until);
        Self { from, months: 0, paid_until: from }
    }

    /// What is left of its month is worth so much of what was paid for it.
    pub fn unused(&self, paid: Msat, now: UnixMs) -> Msat {
        let last = self.months.checked_sub(1).and_then(|number| month(self.from, number));
        last.map_or(Msat::ZERO, |month| month.unused(paid, now))
    }
}

/// What happens around the end of what is paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostingRules {
    /// How long an account's agents run before the first fee, from its first agent on.
    pub trial_days: u16,
    /// Days before the end at which it is announced.
    pub notice_days: Vec<u16>,
    /// How long what is not paid goes on ticking.
    pub grace_days: u16,
    /// So long before a month begins an agent is asked for its own rent, where its policy pays it.
    pub rent_lead_hours: u16,
    /// So long before a month begins it is paid out of the owner's wallet, where the owner has connected one.
    pub renew_lead_hours: u16,
}

impl Default for HostingRules {
    fn default() -> Self {
        Self { trial_days: 3, notice_days: vec![7, 3, 1], grace_days: 7, rent_lead_hours: 24, renew_lead_hours: 24 }
    }
}

impl HostingRules {
    /// From when on an agent is asked to pay what begins at the end of what is paid.
    pub fn rent_from(&self, paid_until: UnixMs) -> UnixMs {
        paid_until.plus_ms(-i64::from(self.rent_lead_hours) * 3_600_000)
    }

    /// From when on the owner's wallet pays what begins at the end of what is paid.
    pub fn renew_from(&self, paid_until: UnixMs) -> UnixMs {
        paid_until.plus_ms(-i64::from(self.renew_lead_hours) * 3_600_000)
    }

    fn grace_ms(&self) -> i64 {
        i64::from(self.grace_days) * DAY_MS
    }

    /// The standing at `now` of what is paid until then.
    pub fn standing(&self, paid_until: UnixMs, now: UnixMs) -> Hosting {
        if now < paid_until {
            Hosting::Paid
        } else if now < paid_until.plus_ms(self.grace_ms()) {
            Hosting::Grace
        } else {
            Hosting::Suspended
        }
    }

    /// The standing of an agent. What was never paid has no grace: its trial was that.
    pub fn hosting(&self, term: &Term, now: UnixMs) -> Hosting {
        match (term.months, now < term.paid_until) {
            (0, true) => Hosting::Trial,
            (0, false) => Hosting::Suspended,
            _ => self.standing(term.paid_until, now),
        }
    }

    /// The month that an agent's next payment buys.
    pub fn next(&self, term: &Term, now: UnixMs) -> Option<Renewal> {
        if term.months == 0 && now >= term.paid_until.plus_ms(self.grace_ms()) {
            return Some(Renewal { start: now, number: 0, month: month(now, 0)? });
        }
        self.renewal(term.from, term.months, now)
    }

    /// When something about an agent changes next, if nothing is paid: a notice, the end, the end of grace.
    pub fn look_at(&self, term: &Term, now: UnixMs) -> UnixMs {
        let notices = self.notice_days.iter().map(|days| -i64::from(*days) * DAY_MS);
        let ahead = notices.chain([0, self.grace_ms()]).map(|ms| term.paid_until.plus_ms(ms)).filter(|at| *at > now);
        ahead.min().unwrap_or(now.plus_ms(DAY_MS))
    }

    /// The notice that is due at `now`, in days, if the last one given for this end was `given`. Of several that were
    /// missed only the nearest to the end is due, and none once it has come.
    pub fn notice(&self, paid_until: UnixMs, given: Option<u16>, now: UnixMs) -> Option<u16> {
        let due = |days: &u16| now >= paid_until.plus_ms(-i64::from(*days) * DAY_MS) && now < paid_until;
        let nearest = self.notice_days.iter().copied().filter(due).min()?;
        given.is_none_or(|given| nearest < given).then_some(nearest)
    }

    /// The month that a payment at `now` buys. `start` and `number` are those of the first month that is not paid.
    ///
    /// Paid early or in grace, it is that month: grace is not free. Paid after suspension, months start anew now: for
    /// what did not tick nothing is owed.
    pub fn renewal(&self, start: UnixMs, number: u32, now: UnixMs) -> Option<Renewal> {
        let next = month(start, number)?;
        let renewal = match self.standing(next.from, now) {
            Hosting::Trial | Hosting::Paid | Hosting::Grace => Renewal { start, number, month: next },
            Hosting::Suspended => Renewal { start: now, number: 0, month: month(now, 0)? },
        };
        Some(renewal)
    }
}

/// A month that is paid, and where months count from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    pub start: UnixMs,
    pub number: u32,
    pub month: Month,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> UnixMs {
        UnixMs(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    fn first_days(start: &str, months: u32) -> Vec<String> {
        let shown = |number| {
            let from = month(at(start), number).unwrap().from;
            Timestamp::from_millisecond(from.0).unwrap().strftime("%y-%m-%d").to_string()
        };
        (0..months).map(shown).collect()
    }

    #[test]
    fn two_years_of_months_across_a_leap_year() {
        assert_eq!(
            first_days("2027-01-31T12:00:00Z", 25).join(" "),
            "27-01-31 27-02-28 27-03-31 27-04-30 27-05-31 27-06-30 27-07-31 27-08-31 27-09-30 27-10-31 27-11-30 \
             27-12-31 28-01-31 28-02-29 28-03-31 28-04-30 28-05-31 28-06-30 28-07-31 28-08-31 28-09-30 28-10-31 \
             28-11-30 28-12-31 29-01-31"
        );
        let leap = first_days("2028-02-29T00:00:00Z", 49);
        assert_eq!((leap[12].as_str(), leap[48].as_str()), ("29-02-28", "32-02-29"));
        assert_eq!(month(at("2027-01-31T12:00:00Z"), MAX_MONTHS), None);
        assert_eq!(month(UnixMs(i64::MAX), 0), None);
    }

    #[test]
    fn a_part_of_a_month_costs_a_part() {
        let april = month(at("2027-04-01T00:00:00Z"), 0).unwrap();
        let fee = Msat::sats(3_000);
        assert_eq!(april.prorated(fee, at("2027-04-01T00:00:00Z")), fee);
        assert_eq!(april.prorated(fee, at("2027-04-16T00:00:00Z")), Msat::sats(1_500));
        assert_eq!(april.prorated(fee, at("2027-04-30T23:59:59.999Z")), Msat::new(1), "rounded up");
        assert_eq!(april.prorated(fee, at("2027-05-01T00:00:00Z")), Msat::ZERO);
    }

    #[test]
    fn the_end_is_announced_three_times_and_a_missed_notice_is_not_made_up_for() {
        let (rules, end) = (HostingRules::default(), at("2027-03-31T00:00:00Z"));
        let mut given = Vec::new();
        for hour in 0..24 * 14 {
            let now = end.plus_ms(-10 * DAY_MS + hour * 3_600_000);
            if let Some(days) = rules.notice(end, given.last().map(|(days, _)| *days), now) {
                given.push((days, now));
            }
        }
        assert_eq!(given, [7, 3, 1].map(|days: u16| (days, end.plus_ms(-i64::from(days) * DAY_MS))));
        assert_eq!(rules.notice(end, None, end.plus_ms(-DAY_MS / 2)), Some(1));
        assert_eq!(rules.notice(end, None, end), None);
    }

    #[test]
    fn grace_suspension_and_late_payments() {
        let (rules, start) = (HostingRules::default(), at("2027-01-31T00:00:00Z"));
        let end = month(start, 0).unwrap().until;
        assert_eq!(rules.standing(end, end.plus_ms(-1)), Hosting::Paid);
        assert_eq!(rules.standing(end, end), Hosting::Grace);
        assert_eq!(rules.standing(end, end.plus_ms(7 * DAY_MS - 1)), Hosting::Grace);
        assert_eq!(rules.standing(end, end.plus_ms(7 * DAY_MS)), Hosting::Suspended);
        let late = rules.renewal(start, 1, end.plus_ms(6 * DAY_MS)).unwrap();
        assert_eq!((late.start, late.month), (start, month(start, 1).unwrap()));
        let revived = end.plus_ms(40 * DAY_MS);
        let anew = rules.renewal(start, 1, revived).unwrap();
        assert_eq!((anew.start, anew.number, anew.month.from), (revived, 0, revived));
        assert_eq!(rules.standing(anew.month.until, revived), Hosting::Paid);
    }

    #[test]
    fn a_trial_ends_without_grace_and_what_is_unused_comes_back() {
        let (rules, made) = (HostingRules::default(), at("2027-01-10T00:00:00Z"));
        let term = Term::begin(made, made.plus_ms(3 * DAY_MS));
        assert_eq!(term, Term::begin(made.plus_ms(DAY_MS), made.plus_ms(3 * DAY_MS)));
        assert_eq!(rules.hosting(&term, made), Hosting::Trial);
        assert_eq!(rules.hosting(&term, term.paid_until), Hosting::Suspended);
        assert_eq!(rules.look_at(&term, made), made.plus_ms(3 * DAY_MS - DAY_MS), "a day before");
        let first = rules.next(&term, term.paid_until.plus_ms(DAY_MS)).unwrap();
        assert_eq!((first.start, first.number), (term.from, 0));
        let late = rules.next(&term, term.paid_until.plus_ms(40 * DAY_MS)).unwrap();
        assert_eq!(late.start, term.paid_until.plus_ms(40 * DAY_MS), "what did not tick is not owed");
        let paid = Term { from: first.start, months: 1, paid_until: first.month.until };
        let fee = Msat::sats(3_100);
        assert_eq!(paid.unused(fee, paid.from), fee);
        assert_eq!(paid.unused(fee, paid.from.plus_ms(DAY_MS)), Msat::sats(3_000));
        assert_eq!((paid.unused(fee, paid.paid_until), term.unused(fee, made)), (Msat::ZERO, Msat::ZERO));
    }

    proptest! {
        /// Whatever is paid, what is used and what comes back are all of it.
        #[test]
        fn nothing_is_refunded_twice(fee in 0_u64..1_000_000_000, into in 0_i64..3_000_000_000, more in 0_i64..3_000_000_000) {
            let month = month(UnixMs(1_800_000_000_000), 0).unwrap();
            let (fee, at) = (Msat::new(fee), month.from.plus_ms(into));
            prop_assert!(month.unused(fee, at) <= fee);
            prop_assert!(month.unused(fee, at.plus_ms(more)) <= month.unused(fee, at));
            prop_assert_eq!(month.unused(fee, month.until.plus_ms(more)), Msat::ZERO);
        }

        /// Months follow each other without a gap or an overlap, and each has 28 to 31 days.
        #[test]
        fn months_are_seamless(start in 0_i64..4_000_000_000_000, number in 0_u32..600) {
            let (this, next) = (month(UnixMs(start), number).unwrap(), month(UnixMs(start), number + 1).unwrap());
            prop_assert_eq!(this.until, next.from);
            let days = (this.until.0 - this.from.0) / DAY_MS;
            prop_assert!((28..=31).contains(&days));
            prop_assert_eq!((this.until.0 - this.from.0) % DAY_MS, 0);
        }

        /// A part never costs more than the whole, later never more than earlier, and what is used and what is left
        /// add up to the fee, but for the rounding.
        #[test]
        fn proration_is_fair(fee in 0_u64..=Msat::MAX.as_u64(), early in 0_i64..3_000_000_000, more in 0_i64..3_000_000_000) {
            let month = month(UnixMs(1_800_000_000_000), 0).unwrap();
            let fee = Msat::try_from(fee).unwrap();
            let (first, then) = (month.from.plus_ms(early), month.from.plus_ms(early + more));
            prop_assert!(month.prorated(fee, first) <= fee);
            prop_assert!(month.prorated(fee, then) <= month.prorated(fee, first));
            let mirrored = UnixMs((month.from.0 + month.until.0) - first.0.min(month.until.0));
            let sum = u128::from(month.prorated(fee, first).as_u64()) + u128::from(month.prorated(fee, mirrored).as_u64());
            prop_assert!(sum >= u128::from(fee.as_u64()) && sum <= u128::from(fee.as_u64()) + 1);
        }

        /// Whenever it is paid, what is bought ends after the payment, and it ticks again.
        #[test]
        fn paying_always_revives(start in 0_i64..4_000_000_000_000, number in 0_u32..100, days in -20_i64..400) {
            let rules = HostingRules::default();
            let owed = month(UnixMs(start), number).unwrap();
            let now = owed.from.plus_ms(days * DAY_MS);
            let renewal = rules.renewal(UnixMs(start), number, now).unwrap();
            prop_assert_eq!(rules.standing(renewal.month.until, now), Hosting::Paid);
            prop_assert_eq!(Some(renewal.month), month(renewal.start, renewal.number));
            prop_assert_eq!(renewal.start == UnixMs(start), days < 7);
        }
    }
}
