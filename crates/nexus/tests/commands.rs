//! Owner commands to a running host: an older state accepted, money taken out, an agent deleted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::process::Stdio;

use common::{Friend, Host, Place, eventually, hex_of};

fn balance(place: &Place, agent: &str) -> i64 {
    place.ok(&["agent", "balance", agent])["balance_sats"].as_i64().unwrap()
}

fn completed(place: &Place, times: usize) {
    let done = || place.ticks("ada").iter().filter(|tick| tick["status"] == "completed").count() >= times;
    assert!(eventually(40, || done().then_some(())).is_some(), "{:?}", place.ticks("ada"));
}

/// An agent that has ticked once, and nothing of whose is on its way.
fn settled() -> (Place, Host, String) {
    let place = Place::new();
    let host = place.start(&[]);
    let hex = hex_of(&place.agent("ada", &["--heartbeat", "1d"]));
    completed(&place, 1);
    (place, host, hex)
}

#[test]
fn a_state_that_was_put_back_waits_for_its_owner() {
    let (place, host, hex) = settled();
    assert_eq!(host.interrupt(), 0);
    let saved = place.path("saved.db");
    // What is still in its log belongs to it.
    let database = rusqlite::Connection::open(place.database()).unwrap();
    database.execute("VACUUM INTO ?1", [saved.to_str().unwrap()]).unwrap();
    drop(database);

    // A tick later, its state of before is put back, with every counter and policy of its time.
    let host = place.start(&[]);
    let friend = Friend::new(&place.relay());
    let mention = friend.send(1, &hex, "Hello, who are you?");
    friend.answer(1, &hex, Some(&mention));
    completed(&place, 2);
    let anchored = || friend.query(serde_json::json!({ "kinds": [39201], "authors": [hex] })).pop();
    let newest = eventually(20, || anchored().filter(|event| event.to_string().contains("version")));
    let newest = newest.unwrap_or_else(|| panic!("no anchor: {:?} {:?}", anchored(), publications(&place)));
    assert_eq!(host.interrupt(), 0);
    let database = rusqlite::Connection::open(place.database()).unwrap();
    database.execute("ATTACH DATABASE ?1 AS old", [saved.to_str().unwrap()]).unwrap();
    for table in ["agent_state", "agent_sealed", "budget", "payment", "tick"] {
        database.execute(&format!("DELETE FROM main.{table}"), []).unwrap();
        database.execute(&format!("INSERT INTO main.{table} SELECT * FROM old.{table}"), []).unwrap();
    }
    drop(database);

    let host = place.start(&[]);
    let spent = balance_of_devnet(&place);
    let second = friend.send(1, &hex, "And now?");
    let parked = eventually(30, || {
        let status = place.status("ada");
        (status["reason"]["code"] == "state_rollback" && !status["next_attempt_at_ms"].is_null()).then_some(())
    });
    assert!(parked.is_some(), "{}", place.status("ada"));
    assert_eq!(balance_of_devnet(&place), spent);
    // It stays so over a restart, and only the owner's word ends it.
    host.kill();
    let _host = place.start(&[]);
    let accepted = place.ok(&["agent", "accept-rollback", "ada", "--yes"]);
    assert_eq!(accepted["accepted"], true, "{accepted}");
    friend.answer(1, &hex, Some(&second));
    assert_eq!(place.ok(&["agent", "accept-rollback", "ada", "--yes"])["accepted"], false);
    // Its next anchor stands above the one that was overruled.
    let version = |event: &serde_json::Value| {
        let tags = event["tags"].as_array().unwrap();
        let tag = tags.iter().find(|tag| tag[0] == "version").unwrap();
        tag[1].as_str().unwrap().parse::<i64>().unwrap()
    };
    let above = eventually(20, || anchored().filter(|event| version(event) > version(&newest)));
    assert!(above.is_some(), "{newest} {:?}", anchored());
}

/// What the status shows: asking the wallet is the worker's, and the worker holds back.
fn balance_of_devnet(place: &Place) -> serde_json::Value {
    place.status("ada")["balance_sats"].clone()
}

#[test]
fn sats_are_withdrawn_once_and_only_by_the_owner() {
    let (place, _host, _) = settled();
    let passphrase = place.path("passphrase");
    place.ok(&["agent", "create", "bob", "--passphrase-file", passphrase.to_str().unwrap()]);
    let invoice = |sats: &str| {
        let made = place.ok(&["agent", "fund", "bob", "--sats", sats, "--invoice-only"]);
        made["bolt11"].as_str().unwrap().to_owned()
    };
    let (before, to) = (balance(&place, "ada"), invoice("1500"));
    let (code, _, errors) = place.run(&["agent", "withdraw", "ada", "--sats", "1600", "--to", &to]);
    assert_eq!(code, 2, "{errors}");
    let paid = place.ok(&["agent", "withdraw", "ada", "--sats", "1500", "--to", &to]);
    assert_eq!(paid["state"], "settled", "{paid}");
    let fee = paid["fee_sats"].as_i64().unwrap();
    let arrived = eventually(20, || (balance(&place, "bob") == 1_500).then_some(()));
    assert!(arrived.is_some(), "{}", place.status("bob"));
    let left = eventually(20, || (balance(&place, "ada") == before - 1_500 - fee).then_some(()));
    assert!(left.is_some(), "{before} {fee} {}", place.status("ada"));
    // Again is refused, and so is more than there is.
    let (code, _, errors) = place.run(&["agent", "withdraw", "ada", "--sats", "1500", "--to", &to]);
    assert_ne!(code, 0);
    assert!(errors.contains("met before"), "{errors}");
    let (code, _, errors) = place.run(&["agent", "withdraw", "ada", "--sats", "50000", "--to", &invoice("50000")]);
    assert_ne!(code, 0);
    assert!(errors.contains("takes up to"), "{errors}");
    assert_eq!(balance(&place, "bob"), 1_500);

    // With sats left it is not deleted; without, it is.
    let (code, _, errors) = place.run(&["agent", "delete", "ada", "--yes"]);
    assert_eq!(code, 4, "{errors}");
    place.ok(&["agent", "delete", "ada", "--yes", "--forfeit"]);
    assert_eq!(place.run(&["agent", "status", "ada"]).0, 3);
}

#[test]
fn killed_at_every_point_of_a_withdrawal_it_is_paid_at_most_once() {
    let (place, host, _) = settled();
    let passphrase = place.path("passphrase");
    place.ok(&["agent", "create", "bob", "--passphrase-file", passphrase.to_str().unwrap()]);
    assert_eq!(host.interrupt(), 0);
    let (mut received, mut hung) = (0, 0);
    for point in ["before:withdraw", "after:withdraw", "before:dispatch", "after:dispatch"] {
        let host = place.start(&[("NEXUS_FAULT", point)]);
        let before = balance(&place, "ada");
        let made = place.ok(&["agent", "fund", "bob", "--sats", "700", "--invoice-only"]);
        let mut command = place.command();
        command.args(["agent", "withdraw", "ada", "--sats", "700", "--to", made["bolt11"].as_str().unwrap()]);
        let mut command = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        assert!(host.says(&format!("fault reached: {point}"), 40), "{point} was not reached");
        host.kill();
        command.wait().unwrap();
        let host = place.start(&[]);
        // Whatever was sent comes to its end; what was only reserved, or not even that, is not paid. Of what may have left
        // and did not, an heir is certain only when the invoice has expired.
        if point != "before:dispatch" {
            let quiet = eventually(60, || (open_payments(&place) == hung).then_some(()));
            assert!(quiet.is_some(), "{point}: {}", place.status("ada"));
        }
        hung = open_payments(&place);
        // A command that no worker had taken up is still there for a while, and is carried out once by the next.
        let paid = eventually(18, || Some(before - balance(&place, "ada")).filter(|paid| *paid > 0)).unwrap_or(0);
        assert!(paid == 0 || (700..=720).contains(&paid), "{point}: {paid}");
        received += if paid > 0 { 700 } else { 0 };
        let arrived = eventually(20, || (balance(&place, "bob") == received).then_some(()));
        assert!(arrived.is_some(), "{point}: {received} {}", place.status("bob"));
        assert_eq!(host.interrupt(), 0);
    }
    assert!(received >= 700, "what was dispatched before the crash had arrived");
}

/// Kind, whether it is out, attempts, and what the relays said.
fn publications(place: &Place) -> Vec<(i64, i64, i64, String)> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = rusqlite::Connection::open_with_flags(place.database(), flags).unwrap();
    let mut rows = database.prepare("SELECT kind, done, attempts, results FROM publication").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn open_payments(place: &Place) -> i64 {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = rusqlite::Connection::open_with_flags(place.database(), flags).unwrap();
    let sql = "SELECT COUNT(*) FROM payment WHERE state NOT IN ('settled', 'failed', 'canceled')";
    database.query_row(sql, [], |row| row.get(0)).unwrap()
}
