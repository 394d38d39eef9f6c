//! Moving, told to the real binary: exported, wiped and imported elsewhere; moved away in the middle of a paid tick.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{Friend, Place, eventually, hex_of};
use serde_json::Value;

/// Every effect of a paid tick, before and after it and its record: where the agent is moved away. The old host goes on from
/// there, seconds later.
const POINTS: [&str; 20] = [
    "after:append:began",
    "after:append:requested",
    "before:publish_request",
    "after:append:published",
    "before:await_offer",
    "after:append:invoiced",
    "after:await_offer",
    "before:pay",
    "after:append:paying",
    "before:dispatch",
    "after:dispatch",
    "after:append:paid",
    "after:pay",
    "before:await_result",
    "after:append:answered",
    "after:append:decided",
    "before:act",
    "after:append:acted",
    "before:commit",
    "after:commit",
];

fn completed(place: &Place) -> usize {
    place.ticks("ada").iter().filter(|tick| tick["status"] == "completed").count()
}

fn ticked(place: &Place, least: usize) {
    let done = eventually(60, || (completed(place) >= least).then_some(()));
    assert!(done.is_some(), "{:?}\n{}", place.ticks("ada"), place.status("ada"));
}

fn balance(place: &Place) -> u64 {
    eventually(30, || place.status("ada")["balance_sats"].as_u64()).expect("a balance")
}

fn import(place: &Place, file: &str, more: &[&str]) -> (i32, Value, String) {
    let passphrase = place.path("passphrase");
    let mut args = vec!["agent", "import", file, "--passphrase-file", passphrase.to_str().unwrap(), "--start"];
    args.extend(more);
    place.run(&args)
}

fn database(place: &Place) -> rusqlite::Connection {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    rusqlite::Connection::open_with_flags(place.database(), flags).unwrap()
}

fn number(place: &Place, sql: &str) -> i64 {
    database(place).query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Every text and blob of every row.
fn everything(place: &Place) -> Vec<Vec<u8>> {
    let database = database(place);
    let mut tables = database.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut all = Vec::new();
    for table in tables {
        let mut rows = database.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
        let columns = rows.column_count();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                match row.get_ref(column).unwrap() {
                    rusqlite::types::ValueRef::Text(bytes) | rusqlite::types::ValueRef::Blob(bytes) => {
                        all.push(bytes.to_vec());
                    }
                    _ => {}
                }
            }
        }
    }
    all
}

/// What opens the agent: its sealed key and every wrap of its keys.
fn keys_of(place: &Place) -> Vec<String> {
    let database = database(place);
    let mut keys: Vec<String> = Vec::new();
    for sql in ["SELECT sealed_key FROM agent_sealed WHERE sealed_key IS NOT NULL", "SELECT ciphertext FROM agent_wrap"]
    {
        let mut rows = database.prepare(sql).unwrap();
        keys.extend(rows.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap));
    }
    keys
}

/// It answers 410 with the new address, whatever is asked, and no key of the agent is in any row.
fn holds_nothing(old: &Place, new: &Place, keys: &[String], npub: &str) {
    assert!(keys.len() >= 4, "{} keys", keys.len());
    for args in [
        &["agent", "status", npub][..],
        &["agent", "start", npub],
        &["agent", "tick", npub],
        &["agent", "export", npub],
    ] {
        let (code, _, errors) = old.run(args);
        assert_eq!(code, 3, "{args:?}: {errors}");
        assert!(errors.contains("[moved]") && errors.contains(&new.api()), "{args:?}: {errors}");
    }
    let everything = everything(old);
    for key in keys {
        let found = everything.iter().any(|hay| hay.windows(key.len()).any(|window| window == key.as_bytes()));
        assert!(!found, "a key is still in the old host's database");
    }
    assert_eq!(number(old, "SELECT COUNT(*) FROM tick WHERE status = 'open'"), 0);
    assert_eq!(number(old, "SELECT COUNT(*) FROM agent WHERE worker_id IS NOT NULL"), 0);
}

/// Settled payments of both hosts, by job and by invoice: none twice.
fn no_job_is_paid_twice(hosts: [&Place; 2], point: &str) {
    let (mut steps, mut hashes) = (BTreeMap::<String, u32>::new(), BTreeMap::<Vec<u8>, u32>::new());
    for place in hosts {
        let database = database(place);
        let mut rows = database.prepare("SELECT step, hash FROM payment WHERE state = 'settled'").unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        for (step, hash) in rows.map(Result::unwrap) {
            *steps.entry(step).or_default() += 1;
            *hashes.entry(hash).or_default() += 1;
        }
    }
    assert!(!steps.is_empty(), "{point}: nothing was paid");
    assert!(steps.values().chain(hashes.values()).all(|times| *times == 1), "{point}: {steps:?}");
}

#[test]
fn killed_exported_wiped_and_imported_elsewhere() {
    let place = Place::new();
    let host = place.start(&[]);
    let npub = place.agent("ada", &["--goal", "Keep the lighthouse lit"]);
    ticked(&place, 1);
    host.kill();
    let host = place.start(&[]);
    place.ok(&["agent", "tick", "ada"]);
    ticked(&place, 2);

    let file = place.path("ada.backup");
    let file = file.to_str().unwrap();
    place.ok(&["agent", "export", "ada", "--move", "--out", file]);
    let (_, printed, _) = place.run(&["agent", "export", "ada"]);
    let mut written: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut printed = printed;
    for document in [&mut written, &mut printed] {
        // When it was made is all that may differ.
        document.as_object_mut().unwrap().retain(|name, _| name != "made_at" && name != "digest");
    }
    assert_eq!(written, printed, "the file is what the API answers");
    let (sats, version) = (balance(&place), number(&place, "SELECT version FROM agent_state"));
    assert_eq!(host.interrupt(), 0);
    std::fs::remove_dir_all(place.path("data")).unwrap();

    let other = Place::beside(&place);
    let there = other.start(&[]);
    let (code, _, errors) = import(&other, file, &[]);
    assert_eq!(code, 5, "{errors}");
    assert!(errors.contains("--old-host-is-gone") && errors.contains(&place.api()), "{errors}");
    let (code, _, errors) = import(&other, file, &["--old-host-is-gone"]);
    assert_eq!(code, 0, "{errors}");
    let status = other.status("ada");
    assert_eq!(status["npub"], npub.as_str());
    other.ok(&["agent", "tick", "ada"]);
    ticked(&other, 1);
    assert!(number(&other, "SELECT version FROM agent_state") > version, "the state counts on");
    let spent = "SELECT CAST(COALESCE(SUM(amount_msat + fee_msat), 0) AS INTEGER) FROM payment WHERE state = 'settled'";
    let spent = || u64::try_from(number(&other, spent)).unwrap();
    let settled = eventually(30, || (balance(&other) * 1_000 + spent() == sats * 1_000).then_some(()));
    assert!(settled.is_some(), "{sats} sats before, {} now, {} msat spent", balance(&other), spent());
    let friend = Friend::new(&other.relay());
    let mention = friend.send(1, &hex_of(&npub), "Are you still you?");
    friend.answer(1, &hex_of(&npub), Some(&mention));
    drop(there);
}

/// Two hosts share a development network and so the balance; a third that is on another says that it can't reach it.
#[test]
fn a_host_that_cannot_reach_the_wallet_says_so() {
    let place = Place::new();
    let host = place.start(&[]);
    let npub = place.agent("ada", &["--heartbeat", "1d"]);
    ticked(&place, 1);
    let file = place.path("ada.backup");
    let file = file.to_str().unwrap();
    place.ok(&["agent", "export", "ada", "--move", "--out", file]);
    let sats = balance(&place);

    // The same owner's, with a development network of its own.
    let mut third = Place::beside(&place);
    third.devnet = place.path("another-devnet");
    let there = third.start(&[]);
    let (code, _, errors) = import(&third, file, &[]);
    assert_eq!(code, 0, "{errors}");
    let reason = |place: &Place| place.status("ada")["reason"].clone();
    let said = eventually(60, || Some(reason(&third)).filter(|reason| reason["code"] == "wallet_unreachable"));
    let said = said.unwrap_or_else(|| panic!("{}", third.status("ada")));
    assert!(said["text"].as_str().unwrap().contains("unreachable from here"), "{said}");
    third.ok(&["agent", "tick", "ada"]);
    let (code, _, errors) = third.run(&["agent", "balance", "ada"]);
    assert!(code != 0 || !errors.is_empty() || reason(&third)["code"] == "wallet_unreachable", "{errors}");
    assert!(third.ticks("ada").is_empty(), "{:?}", third.ticks("ada"));

    // It goes on from there to one that can, with its money.
    let file = place.path("ada-again.backup");
    let file = file.to_str().unwrap();
    third.ok(&["agent", "export", "ada", "--move", "--out", file]);
    assert_eq!(host.interrupt(), 0);
    std::fs::remove_dir_all(place.path("data")).unwrap();
    let fourth = Place::beside(&place);
    let here = fourth.start(&[]);
    let (code, _, errors) = import(&fourth, file, &[]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(fourth.status("ada")["npub"], npub.as_str());
    let same = eventually(60, || (fourth.status("ada")["balance_sats"] == sats).then_some(()));
    assert!(same.is_some(), "{sats}: {}", fourth.status("ada"));
    fourth.ok(&["agent", "tick", "ada"]);
    ticked(&fourth, 1);
    drop((there, here));
}

#[test]
fn a_changed_byte_is_refused_with_what_is_wrong() {
    let place = Place::new();
    let host = place.start(&[]);
    place.agent("ada", &[]);
    ticked(&place, 1);
    let file = place.path("ada.backup");
    place.ok(&["agent", "export", "ada", "--out", file.to_str().unwrap()]);
    let bytes = std::fs::read(&file).unwrap();
    let damaged = place.path("damaged.backup");
    for at in (0..bytes.len()).step_by(bytes.len() / 12) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        std::fs::write(&damaged, changed).unwrap();
        let (code, _, errors) = import(&place, damaged.to_str().unwrap(), &[]);
        assert_eq!(code, 4, "byte {at}: {errors}");
        assert!(errors.contains("\"next\""), "byte {at}: {errors}");
    }
    // And whole, it does not take the place of the one that lives here.
    let (code, _, errors) = import(&place, file.to_str().unwrap(), &[]);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("agent_exists"), "{errors}");
    drop(host);
}

/// The old host was not told, and comes back with the agent's key and plans: the agent's own claim on a relay of its tells.
#[test]
fn a_host_that_comes_back_finds_that_its_agent_lives_elsewhere() {
    let old = Place::new();
    let host = old.start(&[]);
    let npub = old.agent("ada", &["--heartbeat", "1d"]);
    ticked(&old, 1);
    let new = Place::beside(&old);
    let there = new.start(&[]);
    old.ok(&["agent", "set", "ada", "--relay", &new.relay()]);
    let file = new.path("ada.backup");
    let file = file.to_str().unwrap();
    old.ok(&["agent", "export", "ada", "--out", file]);
    host.kill();
    let keys = keys_of(&old);
    let (code, _, errors) = import(&new, file, &["--old-host-is-gone"]);
    assert_eq!(code, 0, "{errors}");
    new.ok(&["agent", "tick", "ada"]);
    ticked(&new, 1);

    let (ticks, events) = (number(&old, "SELECT COUNT(*) FROM tick"), number(&old, "SELECT event_seq FROM agent"));
    let host = old.start(&[]);
    // Whatever opens it there: here somebody who still writes to the old address.
    let friend = Friend::new(&old.relay());
    friend.send(1, &hex_of(&npub), "Are you still there?");
    let left = eventually(30, || old.run(&["agent", "status", &npub]).2.contains("[moved]").then_some(()));
    assert!(left.is_some(), "{}", old.status(&npub));
    holds_nothing(&old, &new, &keys, &npub);
    assert_eq!(number(&old, "SELECT COUNT(*) FROM tick"), ticks, "it thought no more");
    assert_eq!(number(&old, "SELECT event_seq FROM agent"), events);
    drop((host, there));
}

/// The agent is moved while the old host stands at `point`, which then goes on.
fn moved_at(point: &str) {
    let old = Place::new();
    let host = old.start(&[]);
    let npub = old.agent("ada", &["--heartbeat", "1d"]);
    ticked(&old, 1);
    assert_eq!(host.interrupt(), 0);
    let fault = format!("slow-12000:{point}");
    let host = old.start(&[("NEXUS_FAULT", &fault), ("NEXUS_PROVIDER_HOLD", "false")]);
    let friend = Friend::new(&old.relay());
    friend.send(1, &hex_of(&npub), "Hello, who are you?");
    assert!(host.says(&format!("fault reached: {point}"), 60), "{point} was not reached");
    let keys = keys_of(&old);

    let new = Place::beside(&old);
    let there = new.start(&[]);
    let file = new.path("ada.backup");
    let file = file.to_str().unwrap();
    old.ok(&["agent", "export", "ada", "--out", file]);
    let (code, answer, errors) = import(&new, file, &[]);
    assert_eq!(code, 0, "{point}: {errors}");
    assert_eq!(answer["old_hosts"][0]["outcome"], "fenced", "{point}: {answer}");
    holds_nothing(&old, &new, &keys, &npub);
    new.ok(&["agent", "tick", "ada"]);
    ticked(&new, 1);
    assert!(number(&new, "SELECT generation FROM agent") > 1);

    // What the old host does when it goes on (if it did not drop the tick at once) changes nothing durable.
    let events = number(&old, "SELECT event_seq FROM agent");
    host.says(&format!("fault passed: {point}"), 15);
    assert_eq!(host.interrupt(), 0);
    let host = old.start(&[]);
    holds_nothing(&old, &new, &keys, &npub);
    assert_eq!(number(&old, "SELECT event_seq FROM agent"), events, "{point}: the old host wrote of it");
    no_job_is_paid_twice([&old, &new], point);

    // It comes back to the row that it left, and the other host is told in its turn.
    let keys = keys_of(&new);
    let (code, answer, errors) = import(&old, file, &[]);
    assert_eq!(code, 0, "{point}: {errors}");
    assert_eq!(answer["old_hosts"][0]["outcome"], "fenced", "{point}: {answer}");
    holds_nothing(&new, &old, &keys, &npub);
    assert_eq!(old.status("ada")["npub"], npub.as_str());
    drop((host, there));
}

/// A quarter of the points in each of four tests, so that they run side by side.
fn moved_at_every_fourth(first: usize) {
    POINTS.iter().skip(first).step_by(4).for_each(|point| moved_at(point));
}

#[test]
fn moved_in_the_middle_of_a_paid_tick_at_every_first_point_of_four() {
    moved_at_every_fourth(0);
}

#[test]
fn moved_in_the_middle_of_a_paid_tick_at_every_second_point_of_four() {
    moved_at_every_fourth(1);
}

#[test]
fn moved_in_the_middle_of_a_paid_tick_at_every_third_point_of_four() {
    moved_at_every_fourth(2);
}

#[test]
fn moved_in_the_middle_of_a_paid_tick_at_every_last_point_of_four() {
    moved_at_every_fourth(3);
}
