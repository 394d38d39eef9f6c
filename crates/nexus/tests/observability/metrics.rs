//! Every role's figures: what has to be there is there, with words of our own as labels, and nobody's name in it. And every
//! role's log as JSON, with other people's code kept quiet.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::common::{self, Place, eventually, hex_of};
use crate::roles::{self, Running};
use crate::web::{figure, get};

/// One family of an OpenMetrics text.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    /// Label sets, without the buckets' bounds.
    series: BTreeSet<Vec<(String, String)>>,
}

/// Reads the text format, and takes nothing malformed.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("no end: {text}"));
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let (what, rest) = rest.split_once(' ').unwrap();
            let (name, rest) = rest.split_once(' ').unwrap();
            let family = families.entry(name.to_owned()).or_default();
            match what {
                "TYPE" => family.kind = rest.to_owned(),
                "HELP" => family.help = rest.to_owned(),
                other => panic!("{other} in {line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|_| panic!("no number: {line}"));
        let (name, labels) =
            series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest.trim_end_matches('}')));
        let ends = ["_total", "_bucket", "_sum", "_count"];
        let family = ends.iter().find_map(|end| name.strip_suffix(end).filter(|name| families.contains_key(*name)));
        let family = families.get_mut(family.unwrap_or(name)).unwrap_or_else(|| panic!("undeclared: {line}"));
        let mut set = Vec::new();
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once("=\"").unwrap();
            if key != "le" {
                set.push((key.to_owned(), value.trim_end_matches('"').to_owned()));
            }
        }
        family.series.insert(set);
    }
    families
}

/// Labels, and how many values each may have at most.
const LABELS: [(&str, usize); 14] = [
    ("method", 10),
    ("route", 80),
    ("status", 40),
    ("name", 64),
    ("reason", 64),
    ("pool", 16),
    ("region", 16),
    ("month", 2),
    ("outcome", 3),
    ("step", 16),
    ("state", 7),
    ("code", 64),
    ("fate", 3),
    ("result", 3),
];

/// Names, units, helps and labels of everything that a role tells.
fn well_formed(text: &str, secrets: &[String]) -> BTreeMap<String, Family> {
    let families = parse(text);
    for (name, family) in &families {
        assert!(name.starts_with("nexus_"), "{name}");
        assert!(["counter", "gauge", "histogram"].contains(&family.kind.as_str()), "{name}: {}", family.kind);
        assert!(family.help.len() > 8, "{name} says nothing: {}", family.help);
        let timed = name.split('_').any(|word| ["age", "uptime", "lag", "latency", "ms", "millis"].contains(&word));
        assert!(!timed || name.ends_with("_seconds"), "{name} has no unit, or another");
        let mut values = BTreeMap::<&str, BTreeSet<&str>>::new();
        for (key, value) in family.series.iter().flatten() {
            values.entry(key).or_default().insert(value);
            assert!(value.len() <= 64, "{name} {key}={value}");
            let ours = value.chars().all(|c| c.is_ascii_alphanumeric() || "_-/{}.*:".contains(c));
            assert!(ours && !value.contains("npub1") && !value.contains("://"), "{name} {key}={value}");
            let hex = value.len() >= 32 && value.chars().all(|c| c.is_ascii_hexdigit());
            assert!(!hex, "{name} {key}={value} is a key or an id");
        }
        for (key, values) in values {
            let bound = LABELS.iter().find(|(label, _)| *label == key).unwrap_or_else(|| panic!("{name} {key}")).1;
            assert!(values.len() <= bound, "{name} {key}: {values:?}");
        }
    }
    for secret in secrets {
        assert!(!text.contains(secret.as_str()), "{secret} in the figures");
    }
    families
}

fn has(families: &BTreeMap<String, Family>, names: &[&str]) {
    for name in names {
        let family = families.get(*name).unwrap_or_else(|| panic!("no {name} in {:?}", families.keys()));
        assert!(!family.series.is_empty(), "{name} has no figure");
    }
}

const OF_ALL: [&str; 7] = [
    "nexus_store_up",
    "nexus_store_seconds",
    "nexus_bus_connected",
    "nexus_bus_connects",
    "nexus_bus_published",
    "nexus_bus_dropped",
    "nexus_bus_received",
];
const OF_WORKERS: [&str; 10] = [
    "nexus_worker_agents",
    "nexus_worker_turns",
    "nexus_worker_beat_age_seconds",
    "nexus_ticks",
    "nexus_ticks_resumed",
    "nexus_tick_lag_seconds",
    "nexus_payments",
    "nexus_turns_failed",
    "nexus_turns_crashed",
    "nexus_agents_handed_over",
];
const OF_CONTROL: [&str; 16] = [
    "nexus_http_requests",
    "nexus_http_request_seconds",
    "nexus_event_streams",
    "nexus_agents_placed",
    "nexus_agents_waiting",
    "nexus_agents_unplaced",
    "nexus_agents_overdue",
    "nexus_agents_away",
    "nexus_agents_below_promise",
    "nexus_workers_live",
    "nexus_workers_declared_dead",
    "nexus_placements",
    "nexus_reconciler_active",
    "nexus_beat_age_seconds",
    "nexus_events_pruned",
    "nexus_uptime_seconds",
];

/// One JSON object a line, bounded; other people's code says nothing below `info`, whatever was asked for.
fn json_log(text: &str, quiet: bool, secrets: &[String]) {
    let mut levels = BTreeSet::new();
    for line in text.lines() {
        assert!(line.len() < 16 * 1024, "a long line: {}", &line[..200]);
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        let (level, target) = (entry["level"].as_str().unwrap(), entry["target"].as_str().unwrap());
        assert!(entry["timestamp"].is_string() && entry["fields"].is_object(), "{line}");
        if !target.starts_with("nexus") {
            assert!(["INFO", "WARN", "ERROR"].contains(&level), "{line}");
        }
        levels.insert(level.to_owned());
    }
    let spoke = levels.contains("DEBUG") || levels.contains("TRACE");
    assert!(spoke || quiet, "our own code speaks: {levels:?}");
    for secret in secrets {
        assert!(!text.contains(secret.as_str()), "{secret} in the log");
    }
}

#[test]
fn a_host_tells_all_of_it() {
    let place = Place::new();
    let host = place.start(&[("NEXUS_LOG_FORM", "json")]);
    let npub = place.agent("ada", &["--heartbeat", "1d", "--goal", "zebra-goal: keep the light"]);
    let ticked = || place.ticks("ada").iter().any(|tick| tick["status"] == "completed").then_some(());
    eventually(60, ticked).expect("a tick");
    let secrets = [npub.clone(), hex_of(&npub), common::PASSPHRASE.to_owned(), "zebra".to_owned(), "lnbc".to_owned()];
    // Counted every ten seconds, or when somebody asks.
    place.ok(&["fleet"]);
    // How many agents it holds, a worker notes with each beat.
    let held =
        || Some(get(&place.api(), "/metrics")).filter(|(_, text)| figure(text, "nexus_worker_agents") == Some(1.0));
    let (status, text) = eventually(30, held).unwrap_or_else(|| panic!("{}", get(&place.api(), "/metrics").1));
    assert_eq!(status, 200);
    let families = well_formed(&text, &secrets);
    has(&families, &OF_ALL);
    has(&families, &OF_WORKERS);
    has(&families, &OF_CONTROL);
    has(
        &families,
        &[
            "nexus_tick_step_seconds",
            "nexus_availability_ratio",
            "nexus_workers",
            "nexus_workers_desired",
            "nexus_load",
        ],
    );
    for (name, at_least) in [
        ("nexus_ticks_total{outcome=\"completed\"}", 1.0),
        ("nexus_payments_total{state=\"settled\"}", 1.0),
        ("nexus_tick_lag_seconds_count", 1.0),
        ("nexus_tick_step_seconds_count{step=\"paid\"}", 1.0),
        ("nexus_availability_ratio{month=\"this\"}", 1.0),
        ("nexus_store_up", 1.0),
        ("nexus_bus_connected", 1.0),
        ("nexus_agents_placed", 1.0),
        ("nexus_worker_agents", 1.0),
        ("nexus_reconciler_active", 1.0),
    ] {
        let found = figure(&text, name).unwrap_or_else(|| panic!("no {name} in {text}"));
        assert!(found >= at_least, "{name} {found}");
    }
    for (name, states) in [("nexus_ticks", 3), ("nexus_payments", 7)] {
        assert_eq!(
            families[name].series.len(),
            states,
            "{name}: each from the start, so that none is missed by an alert"
        );
    }
    let age = figure(&text, "nexus_worker_beat_age_seconds").unwrap();
    assert!((0.0..60.0).contains(&age), "{age}");
    json_log(&host.logged(), false, &secrets[2..4]);
}

#[test]
fn each_role_alone_tells_its_own() {
    let place = Place::new();
    let environment = roles::environment(&place);
    let told = |role: &str| roles::of_role(role, &environment);
    let mut migrate = place.command();
    migrate.arg("migrate").envs(told("migrate"));
    assert!(migrate.output().unwrap().status.success());
    // An SQLite database is one process's at a time.
    for (role, own) in [("relay", &[][..]), ("worker", &OF_WORKERS), ("control", &OF_CONTROL)] {
        let running = Running::start(&place, role, &told(role));
        let (status, text) = get(running.origin(), "/metrics");
        assert_eq!(status, 200, "{role}: {text}");
        let families = well_formed(&text, &[]);
        has(&families, &OF_ALL);
        // Figures that follow requests have none before the first.
        let own: Vec<&str> = own.iter().copied().filter(|name| *name != "nexus_http_requests").collect();
        has(&families, &own);
        assert_eq!(figure(&text, "nexus_store_up"), Some(1.0), "{role}");
        let (status, ready) = get(running.origin(), "/readyz");
        assert_eq!(status, 200, "{role}: {ready}");
        // Without callers and agents there is little to say.
        json_log(&running.logged(), true, &[]);
    }
}
