//! An agent pays its own hosting: by itself, never beyond its cap, never twice, and nobody but the node that its owner pinned.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::{Host, Place, eventually, list};
use serde_json::{Value, json};

const CHARGED: (&str, &str) = ("NEXUS_HOSTING_CHARGE", "true");

/// Nothing is free: no trial, and a fee of 1,000 sats.
fn start(place: &Place, fault: Option<&str>) -> Host {
    let path = place.path("host.toml");
    let plan = "[hosting.plans.hosted]\nfee_sats = 1000\nstate_kib = 64\nretention_days = 30\n";
    std::fs::write(&path, format!("{plan}[hosting.rules]\ntrial_days = 0\n")).unwrap();
    let mut environment = vec![CHARGED];
    environment.extend(fault.map(|point| ("NEXUS_FAULT", point)));
    place.start_with(&environment, &["--config", path.to_str().unwrap()])
}

fn hosting(place: &Place) -> Value {
    place.ok(&["hosting", "status"])
}

fn agent(place: &Place, name: &str) -> Value {
    let all = list(&hosting(place)["agents"]);
    all.into_iter().find(|agent| agent["name"] == name).unwrap()
}

fn becomes_paid(place: &Place, host: &Host, name: &str) {
    let paid = eventually(90, || (agent(place, name)["hosting"] == "paid").then_some(()));
    assert!(paid.is_some(), "{}\n{}", hosting(place), host.logged());
}

fn balance(place: &Place, name: &str) -> i64 {
    place.ok(&["agent", "balance", name])["balance_sats"].as_i64().unwrap()
}

fn kinds(place: &Place) -> Vec<String> {
    let entries = list(&place.ok(&["hosting", "history"])["entries"]);
    entries.iter().map(|entry| entry["kind"].as_str().unwrap().to_owned()).collect()
}

fn database(place: &Place) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(place.database()).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    connection
}

fn number(place: &Place, sql: &str) -> i64 {
    database(place).query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn an_agent_pays_its_own_hosting_up_to_its_cap() {
    let place = Place::new();
    let host = start(&place, None);
    let plans = place.ok(&["hosting", "plans"]);
    assert_eq!((&plans["plans"][0]["state_kib"], &plans["plans"][0]["retention_days"]), (&json!(64), &json!(30)));
    place.agent("ada", &["--goal", "Live", "--heartbeat", "1d"]);
    let suspended = eventually(30, || (place.status("ada")["reason"]["code"] == "suspended").then_some(()));
    assert!(suspended.is_some(), "{}\n{}", place.status("ada"), host.logged());
    let before = balance(&place, "ada");

    // Too little for a month: nothing is paid, and it says why.
    assert_eq!(place.ok(&["agent", "rent", "ada", "--month-cap", "900"])["version"], 2);
    let why = eventually(30, || agent(&place, "ada")["rent_problem"].as_str().map(str::to_owned));
    assert!(why.as_ref().is_some_and(|why| why.contains("its policy allows 900")), "{why:?}");
    // Enough for the month, and not for the network's fee beside it: the worker refuses.
    place.ok(&["agent", "rent", "ada", "--month-cap", "1000"]);
    let refused = eventually(40, || {
        let shown = place.ok(&["agent", "rent", "ada"]);
        shown["problem"].as_str().filter(|why| why.contains("are left")).map(str::to_owned)
    });
    assert!(refused.is_some(), "{}\n{}", place.ok(&["agent", "rent", "ada"]), host.logged());
    assert_eq!((agent(&place, "ada")["hosting"].clone(), balance(&place, "ada")), (json!("suspended"), before));

    // A frozen agent pays nothing, whatever its cap.
    place.ok(&["agent", "freeze", "ada"]);
    place.ok(&["agent", "rent", "ada", "--month-cap", "1100"]);
    let frozen = eventually(20, || agent(&place, "ada")["rent_problem"].as_str().map(str::to_owned));
    assert!(frozen.as_ref().is_some_and(|why| why.contains("frozen")), "{frozen:?}");
    assert_eq!(agent(&place, "ada")["hosting"], "suspended");

    // Thawed, it revives itself, and thinks.
    place.ok(&["agent", "thaw", "ada"]);
    becomes_paid(&place, &host, "ada");
    assert_eq!(kinds(&place), ["month", "top_up"]);
    let ticked = || place.ticks("ada").iter().any(|tick| tick["status"] == "completed").then_some(());
    assert!(eventually(60, ticked).is_some(), "{}\n{}", place.status("ada"), host.logged());
    let paid =
        number(&place, "SELECT amount_msat + fee_msat FROM payment WHERE purpose = 'rent' AND state = 'settled'");
    assert!((1_000_000..=1_010_000).contains(&paid), "{paid}");
    let counted = number(&place, "SELECT settled_msat FROM budget WHERE win LIKE 'rent:%' AND held_msat = 0");
    assert_eq!(counted, paid);
    assert_eq!(hosting(&place)["credit_msat"], 0);
    let shown = place.ok(&["agent", "rent", "ada"]);
    assert_eq!((&shown["month_cap_sats"], &shown["problem"]), (&json!(1_100), &Value::Null));
    assert_eq!(place.ok(&["agent", "rent", "ada", "--off"])["changed"], true);
    assert!(place.ok(&["agent", "policy", "ada"])["rent"].is_null());
    assert_eq!(host.interrupt(), 0);
}

#[test]
fn killed_at_every_point_of_it_the_rent_is_paid_once() {
    let place = Place::new();
    let points = ["before:rent", "after:rent", "before:dispatch", "after:dispatch"];
    for (n, point) in points.into_iter().enumerate() {
        let host = start(&place, Some(point));
        let name = format!("agent-{n}");
        place.agent(&name, &["--heartbeat", "1d"]);
        let before = balance(&place, &name);
        place.ok(&["agent", "rent", &name, "--month-cap", "5000"]);
        assert!(host.says(&format!("fault reached: {point}"), 60), "{point} was not reached\n{}", host.logged());
        host.kill();
        let host = start(&place, None);
        becomes_paid(&place, &host, &name);
        let settled = "SELECT COUNT(*) FROM payment WHERE purpose = 'rent' AND state = 'settled'";
        let done = eventually(30, || (number(&place, settled) == i64::try_from(n + 1).unwrap()).then_some(()));
        assert!(done.is_some(), "{point}: {}", number(&place, settled));
        let left = eventually(30, || Some(before - balance(&place, &name)).filter(|paid| *paid >= 1_000)).unwrap_or(0);
        // It ticks by now, for some sats; a second month would be as much again.
        assert!((1_000..1_900).contains(&left), "{point}: {left}");
        assert_eq!(kinds(&place).iter().filter(|kind| *kind == "top_up").count(), n + 1, "{point}");
        assert_eq!(host.interrupt(), 0);
    }
}

/// What somebody who writes the database asks of the agent's worker.
#[expect(clippy::disallowed_methods, reason = "an intruder has a clock of his own")]
fn forge(place: &Place, bolt11: &str, id: &str) {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let insert = "INSERT INTO wallet_request (request_id, npub, kind, body, created_at, expires_at)
        SELECT ?1, npub, 'rent', ?2, ?3, ?3 + 600000 FROM agent";
    let body = json!({ "invoice": bolt11 }).to_string();
    assert_eq!(database(place).execute(insert, rusqlite::params![id, body, now]).unwrap(), 1);
}

fn answers(place: &Place, id: &str) -> (String, String) {
    let read = || {
        let sql = "SELECT outcome, answer FROM wallet_request WHERE request_id = ?1 AND outcome IS NOT NULL";
        database(place).query_row(sql, [id], |row| Ok((row.get(0)?, row.get(1)?))).ok()
    };
    eventually(60, read).unwrap_or_else(|| panic!("{id} was not answered"))
}

#[test]
fn whoever_writes_the_database_gets_the_cap_of_a_month_and_no_more() {
    let place = Place::new();
    let host = start(&place, None);
    place.agent("ada", &["--heartbeat", "1d"]);
    // Its own month is paid by its owner, so that all that it pays is what is forged.
    place.ok(&["hosting", "invoice", "--sats", "1000"]);
    becomes_paid(&place, &host, "ada");
    let invoices: Vec<String> = (0..5)
        .map(|_| {
            place.ok(&["hosting", "invoice", "--sats", "1000", "--invoice-only"])["bolt11"].as_str().unwrap().to_owned()
        })
        .collect();
    // Without rent in the policy nothing is paid.
    assert_eq!(host.interrupt(), 0);
    forge(&place, &invoices[0], "without");
    let host = start(&place, None);
    let (outcome, why) = answers(&place, "without");
    assert!(outcome == "failed" && why.contains("pays no rent"), "{why}");

    // Nor to another node than the pinned one.
    let other = format!("02{}", "ab".repeat(32));
    let file = place.path("policy.json");
    std::fs::write(&file, json!({ "rent": { "month_msat": 9_000_000, "payee": other } }).to_string()).unwrap();
    place.ok(&["agent", "policy", "ada", "--file", file.to_str().unwrap()]);
    assert_eq!(host.interrupt(), 0);
    forge(&place, &invoices[0], "stranger");
    let host = start(&place, None);
    let (outcome, why) = answers(&place, "stranger");
    assert!(outcome == "failed" && why.contains("not from the node"), "{why}");

    // Two fit into the cap, whatever is asked for.
    place.ok(&["agent", "rent", "ada", "--month-cap", "2100"]);
    assert_eq!(host.interrupt(), 0);
    for (n, invoice) in invoices.iter().enumerate().take(3) {
        forge(&place, invoice, &format!("forged-{n}"));
    }
    let host = start(&place, None);
    let paid: Vec<_> = (0..3).map(|n| answers(&place, &format!("forged-{n}"))).collect();
    assert_eq!(paid.iter().filter(|(outcome, _)| outcome == "done").count(), 2, "{paid:?}");
    let before = eventually(30, || Some(balance(&place, "ada"))).unwrap();
    assert_eq!(host.interrupt(), 0);

    // The database forgets what was paid and counted; the agent does not.
    let connection = database(&place);
    connection.execute("DELETE FROM payment WHERE purpose = 'rent'", []).unwrap();
    connection.execute("DELETE FROM budget WHERE win LIKE 'rent:%'", []).unwrap();
    for (n, invoice) in invoices.iter().enumerate() {
        forge(&place, invoice, &format!("again-{n}"));
    }
    drop(connection);
    let host = start(&place, None);
    for n in 0..5 {
        let (outcome, why) = answers(&place, &format!("again-{n}"));
        assert!(outcome == "failed" && !why.is_empty(), "{n}: {why}");
    }
    assert!(before - balance(&place, "ada") < 500, "{before} {}", balance(&place, "ada"));
    assert_eq!(number(&place, "SELECT COUNT(*) FROM payment WHERE purpose = 'rent'"), 0);
    assert_eq!(host.interrupt(), 0);
}
