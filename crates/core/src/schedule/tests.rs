use jiff::Timestamp;
use jiff::tz::TimeZoneDatabase;
use proptest::prelude::*;

use super::due::{Earlier, Met, MissedWhy, meet};
use super::plan::{MAX_MOMENT, MAX_SCHEDULES, Overlap, Plan, Schedule, When, plan_all};
use super::{MAX_CATCH_UP, UnixMs};
use crate::agent::CatchUp;

const MINUTE: i64 = 60_000;
const DAY: i64 = 86_400_000;

fn at(text: &str) -> UnixMs {
    UnixMs(text.parse::<Timestamp>().unwrap().as_millisecond())
}

fn schedule(when: When) -> Schedule {
    Schedule {
        name: "daily".into(),
        when,
        overlap: Overlap::default(),
        catch_up: CatchUp::default(),
        window_secs: 86_400,
    }
}

fn cron_schedule(expression: &str, zone: &str) -> Schedule {
    schedule(When::Cron { expression: expression.into(), zone: zone.into() })
}

fn cron(expression: &str, zone: &str) -> Plan {
    cron_schedule(expression, zone).plan().unwrap()
}

/// The times of a span, in UTC as `MM-DD HH:MM`.
fn times(plan: &Plan, after: &str, until: &str) -> Vec<String> {
    let shown = |at: UnixMs| Timestamp::from_millisecond(at.0).unwrap().strftime("%m-%d %H:%M").to_string();
    plan.between(at(after), at(until), 1_000).into_iter().map(shown).collect()
}

#[test]
fn a_fixed_time_in_a_gap_is_due_once_after_it() {
    // Berlin goes from 02:00 to 03:00 on 29 March 2026, at 01:00 UTC.
    let (from, to) = ("2026-03-27T12:00:00Z", "2026-03-30T12:00:00Z");
    assert_eq!(times(&cron("30 2 * * *", "Europe/Berlin"), from, to), ["03-28 01:30", "03-29 01:00", "03-30 00:30"]);
    // Both of its times fall into the gap: one run, not two.
    let twice = cron("0,30 2 * * *", "Europe/Berlin");
    assert_eq!(times(&twice, from, to), ["03-28 01:00", "03-28 01:30", "03-29 01:00", "03-30 00:00", "03-30 00:30"]);
    // 03:00 is there itself, and is not due twice because 02:30 was moved onto it.
    let both = cron("0 3 * * *", "Europe/Berlin");
    assert_eq!(times(&both, from, to), ["03-28 02:00", "03-29 01:00", "03-30 01:00"]);
    // Times in the gap and after it: the moment after the gap stands for those in it.
    let around = cron("*/20 1-3 * * *", "Europe/Berlin");
    let due = times(&around, "2026-03-29T00:30:00Z", "2026-03-29T03:00:00Z");
    assert_eq!(due, ["03-29 00:40", "03-29 01:00", "03-29 01:20", "03-29 01:40"]);
    // A gap of half an hour: Lord Howe, 4 October 2026, 02:00 becomes 02:30.
    let island = cron("15 2 * * *", "Australia/Lord_Howe");
    assert_eq!(times(&island, "2026-10-03T12:00:00Z", "2026-10-04T12:00:00Z"), ["10-03 15:30"]);
}

#[test]
fn an_hourly_pattern_goes_on_after_a_gap() {
    let plan = cron("*/20 * * * *", "Europe/Berlin");
    let due = times(&plan, "2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z");
    assert_eq!(due, ["03-29 00:40", "03-29 01:00", "03-29 01:20"]);
    // Every hour: 02:00 does not exist, and nothing takes its place.
    let hourly = cron("0 * * * *", "Europe/Berlin");
    assert_eq!(
        times(&hourly, "2026-03-28T23:30:00Z", "2026-03-29T02:30:00Z"),
        ["03-29 00:00", "03-29 01:00", "03-29 02:00"]
    );
}

#[test]
fn a_time_that_comes_twice_is_due_once_unless_it_is_hourly() {
    // Berlin goes from 03:00 back to 02:00 on 25 October 2026, at 01:00 UTC.
    let (from, to) = ("2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
    assert_eq!(times(&cron("30 2 * * *", "Europe/Berlin"), from, to), ["10-25 00:30", "10-26 01:30"]);
    // With a fixed hour the second pass is quiet, whatever the minutes are.
    let fixed = cron("*/30 2-3 * * *", "Europe/Berlin");
    let due = times(&fixed, "2026-10-24T23:00:00Z", "2026-10-25T02:45:00Z");
    assert_eq!(due, ["10-25 00:00", "10-25 00:30", "10-25 02:00", "10-25 02:30"]);
    let plan = cron("*/30 * * * *", "Europe/Berlin");
    let due = times(&plan, "2026-10-24T23:45:00Z", "2026-10-25T02:15:00Z");
    assert_eq!(due, ["10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00"]);
}

#[test]
fn a_day_that_a_zone_left_out_does_not_end_a_schedule() {
    // Samoa had no 30 December 2011.
    let plan = cron("0 12 * * *", "Pacific/Apia");
    let due = times(&plan, "2011-12-28T00:00:00Z", "2012-01-02T00:00:00Z");
    // Noon of the 28th and the 29th at UTC-10; the 30th is due when it is over; the 31st and the 1st at UTC+14.
    assert_eq!(due, ["12-28 22:00", "12-29 22:00", "12-30 10:00", "12-30 22:00", "12-31 22:00", "01-01 22:00"]);
}

#[test]
fn bad_schedules_are_refused_with_a_reason() {
    let refused = |schedule: Schedule| schedule.plan().unwrap_err().to_string();
    for bad in ["", "* * * *", "* * * * * *", "60 * * * *", "@daily", "0 0 30 2 *", "x * * * *", "*/0 * * * *"] {
        refused(cron_schedule(bad, "UTC"));
    }
    assert!(refused(cron_schedule("0 0 31 4 *", "UTC")).contains("no day that exists"));
    assert!(refused(cron_schedule(&format!("{} * * * *", "1,".repeat(100)), "UTC")).contains("128 bytes"));
    for zone in ["", "Mars/Olympus", "CET+1", "../etc/passwd", "Europe/Berlin\0"] {
        assert!(refused(cron_schedule("0 8 * * *", zone)).contains("no time zone"), "{zone:?}");
    }
    assert!(refused(schedule(When::Every { secs: 59, from_ms: UnixMs(0) })).contains("secs: use 60"));
    assert!(refused(schedule(When::Once { at_ms: UnixMs(-1) })).contains("1970 to 2199"));
    assert!(refused(schedule(When::Once { at_ms: MAX_MOMENT.plus_ms(1) })).contains("1970 to 2199"));
    let mut named = cron_schedule("0 8 * * *", "UTC");
    named.name = "Eight O'Clock".into();
    assert!(refused(named).contains("as its name"));
    let one = cron_schedule("0 8 * * *", "UTC");
    assert!(plan_all(&[one.clone(), one.clone()]).unwrap_err().problem.contains("taken"));
    let many: Vec<Schedule> = (0..=MAX_SCHEDULES).map(|n| Schedule { name: format!("s{n}"), ..one.clone() }).collect();
    assert_eq!(plan_all(&many).unwrap_err().name, "s32");
    assert_eq!(plan_all(&many[1..]).unwrap().len(), MAX_SCHEDULES);
    let odd = r#"{"name":"a","when":{"type":"every","secs":60,"from_ms":0,"jitter":1}}"#;
    assert!(serde_json::from_str::<Schedule>(odd).is_err());
}

#[test]
fn a_schedule_reads_back() {
    let text = r#"{"name":"a","when":{"type":"cron","expression":"0 8 * * 1-5","zone":"Europe/Berlin"}}"#;
    let read: Schedule = serde_json::from_str(text).unwrap();
    assert_eq!((read.overlap, read.catch_up, read.window_secs), (Overlap::Skip, CatchUp::Once, 86_400));
    let again: Schedule = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
    assert_eq!(again, read);
    let plan = read.plan().unwrap();
    // A Friday and the Monday after it.
    let (friday, monday) = (at("2026-11-20T07:00:00Z"), at("2026-11-23T07:00:00Z"));
    assert_eq!(plan.between(friday.plus_ms(-1), monday, 9), [friday, monday]);
    assert_eq!(plan.run_id(friday), "schedule:a:1795244400000".replace("1795244400000", &friday.to_string()));
}

fn hourly(catch_up: CatchUp, overlap: Overlap) -> Plan {
    Schedule { catch_up, overlap, ..schedule(When::Every { secs: 3_600, from_ms: UnixMs(0) }) }.plan().unwrap()
}

#[test]
fn an_outage_is_met_as_the_owner_chose() {
    let now = UnixMs(10 * 60 * MINUTE + 30 * MINUTE);
    let cursor = UnixMs(30 * MINUTE);
    let met = |catch_up| meet(&hourly(catch_up, Overlap::Skip), cursor, now, Earlier::Done);
    let hour = |n: i64| UnixMs(n * 60 * MINUTE);
    let once = met(CatchUp::Once);
    assert_eq!((once.run, once.next), (vec![hour(10)], Some(hour(11))));
    let missed = once.missed.unwrap();
    assert_eq!((missed.count, missed.first, missed.last, missed.why), (9, hour(1), hour(9), MissedWhy::Late));
    let skip = met(CatchUp::Skip);
    assert_eq!((skip.run.len(), skip.missed.unwrap().count), (0, 10));
    let all = met(CatchUp::All);
    assert_eq!((all.run, all.missed), ((1..=10).map(hour).collect::<Vec<_>>(), None));
    // On time is not late.
    let on_time = meet(&hourly(CatchUp::Skip, Overlap::Skip), hour(9), hour(10).plus_ms(59_000), Earlier::Done);
    assert_eq!((on_time.run, on_time.missed), (vec![hour(10)], None));
}

#[test]
fn catching_up_has_a_window_and_a_bound() {
    let mut schedule = schedule(When::Every { secs: 60, from_ms: UnixMs(0) });
    schedule.catch_up = CatchUp::All;
    schedule.window_secs = 600;
    let met = meet(&schedule.plan().unwrap(), UnixMs(1), UnixMs(60 * MINUTE), Earlier::Done);
    assert_eq!((met.run.len(), met.run[0]), (11, UnixMs(50 * MINUTE)));
    assert_eq!((met.missed.unwrap().count, met.missed.unwrap().last), (49, UnixMs(49 * MINUTE)));
    schedule.window_secs = 86_400;
    let met = meet(&schedule.plan().unwrap(), UnixMs(1), UnixMs(DAY), Earlier::Done);
    assert_eq!(met.run.len() as i64, MAX_CATCH_UP);
    assert_eq!(met.missed.unwrap().count, 1_440 - 100);
}

#[test]
fn a_run_that_is_not_done_holds_up_its_own_schedule_only_as_chosen() {
    let (cursor, now) = (UnixMs(1), UnixMs(3 * 60 * MINUTE));
    let met = |overlap, earlier| {
        let met = meet(&hourly(CatchUp::All, overlap), cursor, now, earlier);
        (met.run.len(), met.missed.map_or(0, |missed| missed.count), met.missed.map(|missed| missed.why))
    };
    assert_eq!(met(Overlap::Skip, Earlier::Running), (0, 3, Some(MissedWhy::Overlap)));
    assert_eq!(met(Overlap::QueueOne, Earlier::Running), (1, 2, Some(MissedWhy::Overlap)));
    assert_eq!(met(Overlap::QueueOne, Earlier::Waiting), (0, 3, Some(MissedWhy::Overlap)));
    assert_eq!(met(Overlap::QueueOne, Earlier::Done), (3, 0, None));
}

#[test]
fn a_one_off_is_due_once_whatever_the_clock_does() {
    let plan = schedule(When::Once { at_ms: UnixMs(1_000) }).plan().unwrap();
    let early = meet(&plan, UnixMs(0), UnixMs(999), Earlier::Done);
    assert_eq!((early.run.len(), early.next), (0, Some(UnixMs(1_000))));
    let met = meet(&plan, early.cursor, UnixMs(1_000 + 5 * DAY), Earlier::Done);
    assert_eq!((met.run, met.missed, met.next), (vec![UnixMs(1_000)], None, None));
    // The clock goes back, and forth again.
    let back = meet(&plan, met.cursor, UnixMs(500), Earlier::Done);
    assert_eq!(back, Met { run: vec![], missed: None, cursor: met.cursor, next: None });
    assert!(meet(&plan, back.cursor, UnixMs(1_000 + 9 * DAY), Earlier::Done).run.is_empty());
}

#[test]
fn a_very_long_outage_of_a_minutely_cron_stays_bounded() {
    let plan = cron("* * * * *", "Europe/Berlin");
    let (from, now) = (at("2024-01-01T00:00:00Z"), at("2026-06-01T00:00:30Z"));
    let met = meet(&plan, from, now, Earlier::Done);
    assert_eq!(met.run, [at("2026-06-01T00:00:00Z")]);
    let missed = met.missed.unwrap();
    assert!(!missed.exact && missed.count >= 19_000);
    assert_eq!((missed.first, missed.last), (from.plus_ms(MINUTE), at("2026-05-31T23:59:00Z")));
}

/// Minute, hour, day, month and weekday of a pattern whose fields are all plain lists: easy to check by hand.
fn by_hand(fields: &[Vec<i8>; 5], at: UnixMs, zone: &str) -> bool {
    let zone = TimeZoneDatabase::bundled().get(zone).unwrap();
    let local = Timestamp::from_millisecond(at.0).unwrap().to_zoned(zone);
    let is = |field: &Vec<i8>, value: i8| field.is_empty() || field.contains(&value);
    let weekday = local.weekday().to_sunday_zero_offset();
    // With both days given, either counts (POSIX).
    let day = match (fields[2].is_empty(), fields[4].is_empty()) {
        (false, false) => fields[2].contains(&local.day()) || fields[4].contains(&weekday),
        _ => is(&fields[2], local.day()) && is(&fields[4], weekday),
    };
    is(&fields[0], local.minute()) && is(&fields[1], local.hour()) && is(&fields[3], local.month()) && day
}

fn expression(fields: &[Vec<i8>; 5]) -> String {
    let field = |values: &Vec<i8>| match values.is_empty() {
        true => "*".to_owned(),
        false => values.iter().map(i8::to_string).collect::<Vec<_>>().join(","),
    };
    fields.iter().map(field).collect::<Vec<_>>().join(" ")
}

fn fields() -> impl Strategy<Value = [Vec<i8>; 5]> {
    let list = |range: std::ops::Range<i8>| prop::collection::vec(range, 0..3);
    (list(0..60), list(0..24), list(1..29), list(1..13), list(0..7)).prop_map(|(a, b, c, d, e)| [a, b, c, d, e])
}

const ZONES: [&str; 6] =
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"];

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let when = prop_oneof![
        (0_i64..4 * DAY).prop_map(|at| When::Once { at_ms: UnixMs(1_774_656_000_000 + at) }),
        (60_u32..200_000, 0_i64..4 * DAY)
            .prop_map(|(secs, from)| When::Every { secs, from_ms: UnixMs(1_774_656_000_000 + from) }),
        (
            0_usize..6,
            prop::sample::select(vec!["*/15 * * * *", "30 2 * * *", "0,30 1-3 * * *", "5 */2 * * 0", "0 0 1 * *"])
        )
            .prop_map(|(zone, expression)| When::Cron { expression: expression.into(), zone: ZONES[zone].into() }),
    ];
    (when, 0_usize..3, 0_usize..2, 60_u32..200_000).prop_map(|(when, catch_up, overlap, window_secs)| Schedule {
        catch_up: [CatchUp::Once, CatchUp::Skip, CatchUp::All][catch_up],
        overlap: [Overlap::Skip, Overlap::QueueOne][overlap],
        window_secs,
        ..schedule(when)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Away from clock changes, cron says what the calendar says: minute for minute, over two days.
    #[test]
    fn cron_is_what_the_calendar_says(fields in fields(), zone in 0_usize..6, day in 0_i64..28) {
        let Ok(plan) = cron_schedule(&expression(&fields), ZONES[zone]).plan() else { return Ok(()) };
        // July 2026: none of the zones changes its clocks.
        let from = UnixMs(at("2026-07-02T00:00:00Z").0 + day * DAY);
        let until = from.plus_ms(DAY);
        let minutes = (1..=1_440).map(|n| from.plus_ms(n * MINUTE));
        let expected: Vec<UnixMs> = minutes.filter(|at| by_hand(&fields, *at, ZONES[zone])).collect();
        prop_assert_eq!(plan.between(from, until, 2_000), expected, "{}", expression(&fields));
    }

    /// Forward and backward agree, in every zone and across clock changes.
    #[test]
    fn times_are_the_same_in_both_directions(schedule in any_schedule(), start in 0_i64..300, days in 1_i64..5) {
        let plan = schedule.plan().unwrap();
        let from = UnixMs(1_774_656_000_000 + start * DAY);
        let until = from.plus_ms(days * DAY);
        let forward = plan.between(from, until, 10_000);
        prop_assert!(forward.windows(2).all(|pair| pair[0] < pair[1]));
        let mut backward: Vec<UnixMs> =
            std::iter::successors(plan.last_until(until), |at| plan.last_until(at.plus_ms(-1)))
                .take_while(|at| *at > from).take(10_000).collect();
        backward.reverse();
        prop_assert_eq!(forward, backward);
    }

    /// However often and whenever a schedule is looked at, each of its times is run or missed exactly once.
    #[test]
    fn every_time_is_run_or_missed_exactly_once(
        schedule in any_schedule(),
        looks in prop::collection::vec((-2 * DAY..3 * DAY, 0_usize..3), 1..8),
    ) {
        let plan = schedule.plan().unwrap();
        let start = UnixMs(1_774_656_000_000 - DAY);
        let (mut cursor, mut now) = (start, start);
        let (mut run, mut missed) = (Vec::new(), 0);
        for (step, earlier) in looks {
            now = now.plus_ms(step);
            let earlier = [Earlier::Done, Earlier::Running, Earlier::Waiting][earlier];
            let met = meet(&plan, cursor, now, earlier);
            prop_assert_eq!(met.next, plan.next_after(met.cursor));
            prop_assert!(met.run.iter().all(|at| *at > cursor && *at <= now));
            if let Some(span) = met.missed {
                let within = plan.between(span.first.plus_ms(-1), span.last, 100_000);
                prop_assert_eq!(within.len() as u64, span.count);
                prop_assert!(met.run.iter().all(|at| *at > span.last));
                missed += span.count;
            }
            // Looking again at once finds nothing new.
            let again = meet(&plan, met.cursor, now, earlier);
            prop_assert!(again.run.is_empty() && again.missed.is_none());
            run.extend(met.run);
            cursor = met.cursor;
        }
        let all = plan.between(start, cursor, 100_000);
        prop_assert_eq!(run.len() as u64 + missed, all.len() as u64);
        prop_assert!(run.iter().all(|at| all.contains(at)));
        let distinct: std::collections::BTreeSet<_> = run.iter().collect();
        prop_assert_eq!(distinct.len(), run.len());
    }

    #[test]
    fn any_text_is_a_plan_or_an_error(expression in "[-0-9*/,LW#?A-Z ]{0,24}", zone in "[A-Za-z/_+0-9]{0,20}", after: i64) {
        if let Ok(plan) = cron_schedule(&expression, &zone).plan() {
            let _ = (plan.next_after(UnixMs(after)), plan.last_until(UnixMs(after)));
        }
        for zone in ["UTC", "Europe/Berlin"] {
            if let Ok(plan) = cron_schedule(&expression, zone).plan() {
                let _ = meet(&plan, UnixMs(after), UnixMs(after).plus_ms(DAY), Earlier::Done);
            }
        }
    }
}

#[test]
fn a_run_is_named_and_its_name_is_read() {
    use super::plan::{moment, run_of, said};
    assert_eq!(run_of("schedule:tea:1795375448000"), Some(("tea", UnixMs(1_795_375_448_000))));
    assert_eq!(said("schedule:tea:1795375448000").as_deref(), Some("schedule \"tea\", due 2026-11-22T19:24:08Z"));
    for bad in ["", "schedule:tea", "schedule:Tea:1", "schedule:a b:1", "schedule::1", "schedule:tea:-1", "tea:1"] {
        assert_eq!((run_of(bad), said(bad)), (None, None), "{bad}");
    }
    let christmas = Ok(UnixMs(1_798_131_600_000));
    assert_eq!(moment("2026-12-24T17:00:00Z", "UTC"), christmas);
    assert_eq!(moment("2026-12-24T18:00:00+01:00", "UTC"), christmas);
    assert_eq!(moment("2026-12-24T18:00", "Europe/Berlin"), christmas);
    assert!(moment("2026-12-24T18:00", "Europe/Nowhere").is_err());
    assert!(moment("noon", "UTC").is_err());
}
