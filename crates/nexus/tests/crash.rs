//! The plug is pulled at every effect point of a tick, and nothing is lost or doubled.
//!
//! The host runs with one planned fault: it stops for good at a named point, is killed with SIGKILL there, and is
//! started again without a fault. Then: one settled payment a job, one id for each published event, the message
//! answered exactly once, the state as if nothing had happened.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use common::{Friend, Host, Place, eventually, hex_of, list};
use serde_json::json;

/// Every point of a paid tick that answers one mention, in order.
const POINTS: [&str; 30] = [
    "before:append:began",
    "after:append:began",
    "before:append:requested",
    "after:append:requested",
    "before:publish_request",
    "before:append:published",
    "after:append:published",
    "after:publish_request",
    "before:await_offer",
    "before:append:invoiced",
    "after:append:invoiced",
    "after:await_offer",
    "before:pay",
    "before:append:paying",
    "after:append:paying",
    "before:dispatch",
    "after:dispatch",
    "before:append:paid",
    "after:append:paid",
    "after:pay",
    "before:await_result",
    "before:append:answered",
    "after:append:answered",
    "before:append:decided",
    "after:append:decided",
    "before:act",
    "before:append:acted",
    "after:append:acted",
    "before:commit",
    "after:commit",
];

/// Where else it can be struck when the provider holds the money: sent and in flight, the answer there before its payment
/// has ended, or the other way round.
const HOLD_POINTS: [&str; 9] = [
    "after:append:paying",
    "before:dispatch",
    "after:dispatch",
    "after:pay",
    "before:pay#2",
    "before:append:answered",
    "after:append:answered",
    "before:append:paid",
    "after:append:paid",
];

/// What must hold after any crash, from the agent's, the payee's and the reader's side.
fn nothing_lost_or_doubled(place: &Place, host: &Host, friend: &Friend, hex: &str, mention: &str, point: &str) {
    friend.answer(1, hex, Some(mention));
    let settled = eventually(40, || {
        let ticks = place.ticks("ada");
        let done = ticks.iter().filter(|tick| tick["trigger"] == "mention" && tick["status"] == "completed").count();
        (done == 1 && ticks.iter().all(|tick| tick["status"] != "open")).then_some(ticks)
    });
    let ticks = settled.unwrap_or_else(|| panic!("{point}: {:?}", place.ticks("ada")));
    let for_mention = ticks.iter().filter(|tick| tick["trigger"] == "mention").count();
    assert_eq!(for_mention, 1, "{point}: acted on once, not lost: {ticks:?}");

    // One answer, one id.
    let answers = friend.query(json!({ "authors": [hex], "kinds": [1], "#e": [mention] }));
    assert_eq!(answers.len(), 1, "{point}: {answers:?}");

    // Money: what the database says, what the wallet says and what the payee got are one and the same.
    let books = Books::read(place);
    assert_eq!(books.double_steps, 0, "{point}: a step was paid twice");
    assert_eq!(books.held, 0, "{point}: budget still held");
    assert_eq!(books.open, 0, "{point}: payments unresolved");
    assert_eq!(books.spent, books.settled, "{point}: budget and payments disagree");
    let balance = place.ok(&["agent", "balance", "ada"]);
    let balance = balance["balance_msat"].as_i64().or_else(|| balance["balance_sats"].as_i64().map(|s| s * 1000));
    assert_eq!(balance, Some(10_000_000 - books.settled), "{point}: wallet and books disagree");
    // The mention's tick is one job; the tick before it was another: nothing was bought twice.
    assert_eq!(
        books.jobs_paid,
        ticks.iter().filter(|tick| tick["cost_msat"].as_i64().unwrap_or(0) > 0).count() as i64,
        "{point}"
    );
    assert!(books.jobs_paid <= 2, "{point}: {} jobs paid", books.jobs_paid);

    // Events without a gap.
    let seqs: Vec<i64> = place.events("ada").iter().filter_map(|event| event["seq"].as_i64()).collect();
    assert_eq!(seqs, (1..=seqs.len() as i64).collect::<Vec<_>>(), "{point}");
    assert!(!host.logged().contains("panicked"), "{point}: {}", host.logged());
}

/// The books as the database has them.
struct Books {
    settled: i64,
    jobs_paid: i64,
    double_steps: i64,
    open: i64,
    held: i64,
    spent: i64,
}

impl Books {
    fn read(place: &Place) -> Self {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = rusqlite::Connection::open_with_flags(place.database(), flags).unwrap();
        let one = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        Self {
            settled: one(
                "SELECT CAST(COALESCE(SUM(amount_msat + fee_msat), 0) AS INTEGER) FROM payment WHERE state = 'settled'",
            ),
            jobs_paid: one("SELECT COUNT(*) FROM payment WHERE state = 'settled'"),
            double_steps: one(
                "SELECT COUNT(*) FROM (SELECT step FROM payment WHERE state = 'settled' GROUP BY npub, step HAVING COUNT(*) > 1)",
            ),
            open: one("SELECT COUNT(*) FROM payment WHERE state NOT IN ('settled', 'failed', 'canceled')"),
            held: one("SELECT CAST(COALESCE(SUM(held_msat), 0) AS INTEGER) FROM budget"),
            spent: one("SELECT CAST(COALESCE(SUM(settled_msat), 0) AS INTEGER) FROM budget WHERE win LIKE 'day:%'"),
        }
    }
}

fn killed_at(point: &str, hold: &str) {
    let hold = ("NEXUS_PROVIDER_HOLD", hold);
    let place = Place::new();
    // First a quiet host: the agent is created, funded and has had its first tick.
    let host = place.start(&[hold]);
    let hex = hex_of(&place.agent("ada", &["--heartbeat", "1d"]));
    let first = eventually(30, || place.ticks("ada").iter().any(|tick| tick["status"] == "completed").then_some(()));
    assert!(first.is_some(), "{point}: {:?}", place.ticks("ada"));
    assert_eq!(host.interrupt(), 0);

    let host = place.start(&[hold, ("NEXUS_FAULT", point)]);
    let friend = Friend::new(&place.relay());
    let mention = friend.send(1, &hex, "Hello, who are you?");
    let named = point.split('#').next().unwrap();
    assert!(host.says(&format!("fault reached: {named}"), 30), "{point} was not reached");
    host.kill();

    let host = place.start(&[hold]);
    nothing_lost_or_doubled(&place, &host, &friend, &hex, &mention, point);
}

/// Half of the points in each of two tests, so that they run side by side.
#[test]
fn killed_at_every_even_point() {
    POINTS.iter().step_by(2).for_each(|point| killed_at(point, "false"));
}

#[test]
fn killed_at_every_odd_point() {
    POINTS.iter().skip(1).step_by(2).for_each(|point| killed_at(point, "false"));
}

#[test]
fn killed_while_the_money_is_held() {
    HOLD_POINTS.iter().for_each(|point| killed_at(point, "true"));
}

#[test]
fn another_program_opens_and_closes_the_database_of_a_running_host() {
    let place = Place::new();
    let host = place.start(&[]);
    let passphrase = place.path("passphrase");
    for name in ["ada", "bob"] {
        // Whoever believes to be the last to close a log takes it away: what the host wrote then would be lost.
        let database = rusqlite::Connection::open(place.database()).unwrap();
        let agents: i64 = database.query_row("SELECT COUNT(*) FROM agent", [], |row| row.get(0)).unwrap();
        assert_eq!(agents, i64::from(name == "bob"), "what the host wrote is there for others");
        drop(database);
        place.ok(&["agent", "create", name, "--passphrase-file", passphrase.to_str().unwrap()]);
    }
    host.kill();
    let host = place.start(&[]);
    assert_eq!(list(&place.ok(&["agent", "list"])).len(), 2);
    drop(host);
}
