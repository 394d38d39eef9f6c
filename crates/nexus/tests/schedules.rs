//! Schedules wake an agent at their moments, once each, told to the real binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Place, eventually};
use serde_json::Value;

#[expect(clippy::disallowed_methods, reason = "an owner has a clock of their own")]
fn at(ahead_secs: u64) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    jiff::Timestamp::from_second(i64::try_from(since.as_secs() + ahead_secs).unwrap()).unwrap().to_string()
}

fn runs(place: &Place) -> Vec<Value> {
    let of = |tick: &Value| tick["trigger"] == "schedule" && tick["status"] == "completed";
    place.ticks("ada").into_iter().filter(of).collect()
}

fn wait_for(place: &Place, count: usize) -> Vec<Value> {
    let found = eventually(90, || Some(runs(place)).filter(|runs| runs.len() >= count));
    let found = found.unwrap_or_else(|| panic!("{:?}\n{}", place.ticks("ada"), place.status("ada")));
    assert_eq!(found.len(), count, "{found:?}");
    found
}

#[test]
fn schedules_wake_an_agent_once_each() {
    let place = Place::new();
    let host = place.start(&[]);
    place.agent("ada", &["--goal", "On schedule `tea`, say that tea is ready", "--heartbeat", "1d"]);
    let calm = eventually(60, || place.ticks("ada").iter().any(|tick| tick["status"] == "completed").then_some(()));
    assert!(calm.is_some(), "{}", place.status("ada"));

    let made = place.ok(&["agent", "schedule", "add", "ada", "tea", "--at", &at(6)]);
    assert!(made["next_at_ms"].is_i64(), "{made}");
    let shown = place.ok(&["agent", "schedule", "list", "ada"]);
    assert_eq!(shown["schedules"][0]["name"], "tea", "{shown}");
    let run = wait_for(&place, 1).remove(0);
    let heard = place.ok(&["agent", "trajectory", "ada", run["id"].as_str().unwrap()]);
    assert!(heard.to_string().contains(r#"schedule \"tea\", due "#), "{heard}");
    assert!(place.status("ada")["next_schedule_at_ms"].is_null());

    // Due while the host is dead: made once it lives again, once. What was run before is not run again.
    place.ok(&["agent", "schedule", "add", "ada", "supper", "--at", &at(6)]);
    let planned = eventually(30, || place.status("ada")["next_schedule_at_ms"].is_i64().then_some(()));
    assert!(planned.is_some(), "{}", place.status("ada"));
    host.kill();
    std::thread::sleep(Duration::from_secs(7));
    let host = place.start(&[]);
    wait_for(&place, 2);

    // Due while its owner had stopped it: not made.
    place.ok(&["agent", "schedule", "add", "ada", "night", "--at", &at(10)]);
    place.ok(&["agent", "schedule", "add", "ada", "often", "--cron", "* * * * *", "--zone", "Europe/Berlin"]);
    place.ok(&["agent", "stop", "ada"]);
    std::thread::sleep(Duration::from_secs(11));
    place.ok(&["agent", "start", "ada"]);
    // The next one by cron comes, with whatever minute the clock shows.
    let run = eventually(90, || Some(runs(&place)).filter(|runs| runs.len() >= 3)).unwrap().remove(0);
    let heard = place.ok(&["agent", "trajectory", "ada", run["id"].as_str().unwrap()]);
    assert!(heard.to_string().contains(r#"schedule \"often\""#), "{heard}");
    place.ok(&["agent", "schedule", "remove", "ada", "often"]);
    let gone = eventually(30, || place.status("ada")["next_schedule_at_ms"].is_null().then_some(()));
    assert!(gone.is_some(), "{}", place.status("ada"));
    place.ok(&["agent", "events", "ada", "--verify"]);
    assert_eq!(host.interrupt(), 0);
}

#[test]
fn bad_schedules_are_told() {
    let place = Place::new();
    let host = place.start(&[]);
    place.agent("ada", &["--heartbeat", "1d"]);
    let add = |rest: &[&str]| place.run(&[&["agent", "schedule", "add", "ada"], rest].concat());
    for (rest, says) in [
        (&["x"][..], "--cron"),
        (&["x", "--every", "1h", "--at", "2030-01-01T00:00"], "cannot be used with"),
        (&["x", "--every", "30s"], "secs: use 60"),
        (&["x", "--cron", "* * * *"], "five fields"),
        (&["x", "--cron", "0 0 31 2 *"], "no day that exists"),
        (&["x", "--cron", "0 8 * * *", "--zone", "Mars/Olympus"], "no time zone"),
        (&["x", "--at", "tomorrow"], "is no moment"),
        (&["x", "--at", "2020-01-01T00:00"], "never due again"),
        (&["X y", "--every", "1h"], "as its name"),
    ] {
        let (code, _, said) = add(rest);
        assert!(code == 2 && said.contains(says), "{rest:?}: {code} {said}");
    }
    let (code, _, said) = place.run(&["agent", "schedule", "remove", "ada", "x"]);
    assert!(code == 3 && said.contains("schedule list ada"), "{code} {said}");
    assert_eq!(host.interrupt(), 0);
}
