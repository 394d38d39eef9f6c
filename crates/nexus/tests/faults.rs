//! Every step of a paid tick goes wrong in every way that the development network can be told to.
//!
//! One host, one agent, one scenario after another; after each, what the wallet says equals what the books say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Friend, Place, eventually, hex_of};
use serde_json::{Value, json};

struct World {
    place: Place,
    host: common::Host,
    friend: Friend,
    hex: String,
}

impl World {
    fn new() -> Self {
        let place = Place::new();
        let host = place.start(&[("NEXUS_PROVIDER_HOLD", "false")]);
        let hex = hex_of(&place.agent("ada", &["--heartbeat", "1d"]));
        let friend = Friend::new(&place.relay());
        let world = Self { place, host, friend, hex };
        world.ended(|tick| tick["trigger"] == "heartbeat" && tick["status"] == "completed", 30);
        world
    }

    /// Tells the development network what goes wrong next.
    fn command(&self, command: &Value) {
        let url = self.host.ready["devnet"].as_str().unwrap();
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = TcpStream::connect(address).unwrap();
        let body = command.to_string();
        let head = format!(
            "POST /v1/faults HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
    }

    fn next_payment(&self, fault: Value) {
        let mut rule = json!({ "command": "rule", "call": "pay", "times": 1 });
        for (key, value) in fault.as_object().unwrap() {
            rule[key] = value.clone();
        }
        self.command(&rule);
    }

    /// The newest tick that ended and fits.
    fn ended(&self, fits: impl Fn(&Value) -> bool, secs: u64) -> Value {
        let found = eventually(secs, || self.place.ticks("ada").into_iter().find(|tick| fits(tick)));
        found.unwrap_or_else(|| panic!("no such tick: {:?}", self.place.ticks("ada")))
    }

    /// Mentions the agent and waits for the end of the tick that follows.
    fn tick(&self, text: &str, secs: u64) -> (String, Value) {
        let before: Vec<Value> = self.place.ticks("ada").iter().map(|tick| tick["id"].clone()).collect();
        let mention = self.friend.send(1, &self.hex, text);
        let tick = self.ended(
            |tick| tick["trigger"] == "mention" && tick["status"] != "open" && !before.contains(&tick["id"]),
            secs,
        );
        (mention, tick)
    }

    fn balance_sats(&self) -> i64 {
        self.place.ok(&["agent", "balance", "ada"])["balance_sats"].as_i64().unwrap()
    }

    fn one<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = rusqlite::Connection::open_with_flags(self.place.database(), flags).unwrap();
        database.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Nothing is held that is not in flight, no step is paid twice, and the wallet agrees with the books.
    fn books_balance(&self, in_flight: i64) {
        let open: i64 = self.one("SELECT COUNT(*) FROM payment WHERE state NOT IN ('settled', 'failed', 'canceled')");
        assert_eq!(open, in_flight);
        let held: i64 = self.one("SELECT CAST(COALESCE(SUM(held_msat), 0) AS INTEGER) FROM budget");
        assert_eq!(held > 0, in_flight > 0, "{held} msat held");
        let twice: i64 = self.one(
            "SELECT COUNT(*) FROM (SELECT step FROM payment WHERE state = 'settled' GROUP BY npub, step HAVING COUNT(*) > 1)",
        );
        assert_eq!(twice, 0);
        if in_flight == 0 {
            let settled: i64 = self.one(
                "SELECT CAST(COALESCE(SUM(amount_msat + fee_msat), 0) AS INTEGER) FROM payment WHERE state = 'settled'",
            );
            let agrees = eventually(15, || (self.balance_sats() == 10_000 - settled / 1000).then_some(()));
            assert!(agrees.is_some(), "wallet {}, books {settled} msat", self.balance_sats());
        }
    }
}

#[test]
fn payments_that_go_wrong() {
    let world = World::new();
    world.books_balance(0);

    // Surely not paid: the job is given up, the budget released, nothing bought.
    world.next_payment(json!({ "fault": "fail", "class": "no_route" }));
    let failed = |tick: &Value| tick["status"] == "failed" && tick["reason"] == "no_provider";
    let (mention, _) = world.tick("one", 30);
    assert_eq!(world.ended(failed, 30)["cost_msat"], 0);
    // The message was not lost with it: another tick takes it, and pays.
    world.friend.answer(1, &world.hex, Some(&mention));
    world.books_balance(0);

    // Slow: it waits, and goes on.
    world.next_payment(json!({ "fault": "delay", "ms": 1_500 }));
    let (mention, tick) = world.tick("two", 30);
    assert_eq!(tick["status"], "completed", "{tick}");
    world.friend.answer(1, &world.hex, Some(&mention));
    world.books_balance(0);

    // Paid, and the answer lost: it looks, and does not pay again.
    world.next_payment(json!({ "fault": "unknown" }));
    let (_, tick) = world.tick("three", 40);
    assert_eq!(tick["status"], "completed", "{tick}");
    world.books_balance(0);

    // The answer lost, and then it fails after all.
    world.next_payment(json!({ "fault": "unknown_then_fail", "ms": 800 }));
    let before = world.place.ticks("ada").iter().filter(|tick| failed(tick)).count();
    let (mention, _) = world.tick("four", 40);
    let again = || (world.place.ticks("ada").iter().filter(|tick| failed(tick)).count() > before).then_some(());
    assert!(eventually(40, again).is_some(), "{:?}", world.place.ticks("ada"));
    world.friend.answer(1, &world.hex, Some(&mention));
    world.books_balance(0);

    // The connection is cut before anything is done.
    world.next_payment(json!({ "fault": "dropped" }));
    let (_, tick) = world.tick("five", 40);
    assert_ne!(tick["status"], "open", "{tick}");
    world.books_balance(0);
    assert!(!world.host.logged().contains("panicked"));
}

#[test]
fn a_payment_that_stays_unknown_is_held_and_later_ticks_run() {
    let world = World::new();
    world.next_payment(json!({ "fault": "stuck" }));
    let (_, tick) = world.tick("one", 60);
    assert_eq!(tick["reason"], "payment_unresolved", "{tick}");
    world.books_balance(1);
    let hash: Vec<u8> = world.one("SELECT hash FROM payment WHERE state IN ('pending', 'unknown', 'dispatched')");

    let (mention, tick) = world.tick("two", 30);
    assert_eq!(tick["status"], "completed", "{tick}");
    world.friend.answer(1, &world.hex, Some(&mention));
    world.books_balance(1);

    // It arrives after all: recovery books it once, also over a restart.
    world.command(&json!({ "command": "settle", "hash": hex::encode(&hash) }));
    let settled =
        || -> String { world.one(&format!("SELECT state FROM payment WHERE hash = x'{}'", hex::encode(&hash))) };
    let booked = eventually(30, || (settled() == "settled").then_some(()));
    assert!(booked.is_some(), "{}", settled());
    world.books_balance(0);
}

#[test]
fn stop_now_is_obeyed_within_two_seconds() {
    let world = World::new();
    world.next_payment(json!({ "fault": "delay", "ms": 6_000 }));
    world.friend.send(1, &world.hex, "one");
    let open = || world.place.ticks("ada").iter().any(|tick| tick["status"] == "open");
    let paying = || -> i64 { world.one("SELECT COUNT(*) FROM payment WHERE state IN ('dispatched', 'pending')") };
    assert!(eventually(20, || (open() && paying() == 1).then_some(())).is_some());
    world.place.ok(&["agent", "stop", "ada", "--now"]);
    assert!(eventually(2, || (!open()).then_some(())).is_some(), "{:?}", world.place.ticks("ada"));
    assert_eq!(world.place.status("ada")["desired"], "stopped");
    // What may have left is still looked after.
    assert!(eventually(30, || (paying() == 0).then_some(())).is_some());
    world.books_balance(0);
}

#[test]
fn nobody_sells_and_nothing_is_lost() {
    let place = Place::new();
    let host = place.start(&[("NEXUS_PROVIDER_ENABLED", "false")]);
    let hex = hex_of(&place.agent("ada", &["--heartbeat", "1d"]));
    let friend = Friend::new(&place.relay());
    let mention = friend.send(1, &hex, "Anybody there?");
    let waits = eventually(20, || (place.status("ada")["reason"]["code"] == "no_provider").then_some(()));
    assert!(waits.is_some(), "{}", place.status("ada"));
    assert_eq!(host.interrupt(), 0);
    let host = place.start(&[]);
    friend.answer(1, &hex, Some(&mention));
    drop(host);
}
