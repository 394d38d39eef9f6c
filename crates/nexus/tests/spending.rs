//! The owner's brakes: freezing, rates, caps on payments, and delegations that cost no more than they say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::{Friend, Host, Place, eventually, hex_of, nostr};
use serde_json::{Value, json};

fn policy(place: &Place, document: &Value) {
    let file = place.path("policy.json");
    std::fs::write(&file, document.to_string()).unwrap();
    place.ok(&["agent", "policy", "ada", "--file", file.to_str().unwrap()]);
}

fn completed(place: &Place, trigger: &str) -> usize {
    let of = |tick: &Value| tick["trigger"] == trigger && tick["status"] == "completed";
    place.ticks("ada").into_iter().filter(of).count()
}

fn waits_for(place: &Place, host: &Host, trigger: &str, count: usize) {
    let done = eventually(60, || (completed(place, trigger) >= count).then_some(()));
    assert!(
        done.is_some(),
        "{count} of {trigger}: {:?}\n{}\n{}",
        place.ticks("ada"),
        place.status("ada"),
        host.logged()
    );
}

fn shows(place: &Place, code: &str) {
    let shown = eventually(30, || (place.status("ada")["reason"]["code"] == code).then_some(()));
    assert!(shown.is_some(), "{code}: {}", place.status("ada"));
}

#[test]
fn a_frozen_agent_does_nothing_and_a_thawed_one_goes_on() {
    let place = Place::new();
    let host = place.start(&[]);
    let npub = place.agent("ada", &["--heartbeat", "1d"]);
    let (hex, friend) = (hex_of(&npub), Friend::new(&place.relay()));
    waits_for(&place, &host, "heartbeat", 1);
    let frozen = place.ok(&["agent", "freeze", "ada"]);
    assert_eq!(frozen["version"], 2, "{frozen}");
    let balance = place.ok(&["agent", "balance", "ada"])["balance_sats"].clone();
    friend.send(1, &hex, "are you there?");
    shows(&place, "frozen");
    // Restarted, it still is; and the owner still gets at the money.
    host.kill();
    let host = place.start(&[]);
    shows(&place, "frozen");
    assert_eq!((completed(&place, "mention"), &place.ok(&["agent", "balance", "ada"])["balance_sats"]), (0, &balance));
    assert_eq!(friend.query(json!({ "kinds": [1], "authors": [hex] })), Vec::<Value>::new());
    assert_eq!(place.ok(&["agent", "freeze", "ada"])["changed"], false);
    place.ok(&["agent", "thaw", "ada"]);
    waits_for(&place, &host, "mention", 1);

    // As many payments as an hour may have, and no more.
    policy(&place, &json!({ "limits": { "payments_per_hour": 3 } }));
    friend.send(1, &hex, "and now?");
    waits_for(&place, &host, "mention", 2);
    friend.send(1, &hex, "and once more?");
    shows(&place, "payment_rate");
    assert_eq!(completed(&place, "mention"), 2);
    // A price above what one payment may be is not paid: there is nobody to buy from.
    policy(&place, &json!({ "limits": { "payment_msat": 5_000 } }));
    shows(&place, "no_provider");
    policy(&place, &json!({ "actions": ["add_memory"] }));
    waits_for(&place, &host, "mention", 3);
    let last = place.ticks("ada").into_iter().find(|tick| tick["trigger"] == "mention").unwrap();
    let tick = place.ok(&["agent", "ticks", "ada", "--id", last["id"].as_str().unwrap()]).to_string();
    assert!(tick.contains("does not allow this kind of action"), "{tick}");
    assert_eq!(host.interrupt(), 0);
}

#[expect(clippy::disallowed_methods, reason = "a parent has a clock of its own")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn a_delegation_is_honoured_as_far_as_it_goes() {
    let place = Place::new();
    let host = place.start(&[]);
    let (parent, stranger) = (Friend::new(&place.relay()), Friend::new(&place.relay()));
    let npub = place.agent("ada", &["--heartbeat", "1d"]);
    let hex = hex_of(&npub);
    waits_for(&place, &host, "heartbeat", 1);
    let config = place.path("config.json");
    std::fs::write(&config, json!({ "triggers": ["heartbeat", "kind:39260"] }).to_string()).unwrap();
    place.ok(&["agent", "set", "ada", "--file", config.to_str().unwrap()]);
    policy(&place, &json!({ "delegations": { &parent.npub: ["digest:1"] } }));

    let delegates = |by: &Friend, d: &str, scope: &str, sats: Option<u64>, exp: u64, text: &str| {
        let mut tags = vec![json!(["d", d]), json!(["scope", "skill", scope]), json!(["exp", exp.to_string()])];
        tags.extend(sats.map(|sats| json!(["max_amount", sats.to_string()])));
        let options = json!({ "relay": by.relay, "sk": by.sk, "to": hex, "text": text, "kind": 39_260, "tags": tags });
        nostr("send", options).unwrap();
    };
    let (later, before) = (now() + 3_600, now() - 10);
    delegates(&stranger, "a", "digest:1", Some(100), later, "by a stranger");
    delegates(&parent, "b", "other:1", Some(100), later, "another skill");
    delegates(&parent, "c", "digest:2", Some(100), later, "another version");
    delegates(&parent, "d", "digest:1", Some(100), before, "over");
    delegates(&parent, "e", "digest:1", None, later, "for nothing");
    delegates(&parent, "f", "digest:1", Some(5), later, "for too little");
    delegates(&parent, "g", "digest:1", Some(15), later, "sum up the news");
    waits_for(&place, &host, "kind:39260", 1);
    let ticks = || {
        let mut ticks = place.ticks("ada");
        ticks.retain(|tick| tick["trigger"] == "kind:39260");
        ticks
    };
    let done = ticks().into_iter().find(|tick| tick["status"] == "completed").unwrap();
    let heard = place.ok(&["agent", "trajectory", "ada", done["id"].as_str().unwrap()]).to_string();
    assert!(heard.contains("sum up the news") && heard.contains("up to 15 sats"), "{heard}");
    // Asked again under the same delegation, there is too little left of it.
    let a_second = || std::thread::sleep(std::time::Duration::from_millis(1_100));
    // A later version of it, which relays tell by its second.
    a_second();
    delegates(&parent, "g", "digest:1", Some(16), later, "and again");
    let spent = |count: usize| {
        let skipped = || ticks().iter().filter(|tick| tick["reason"] == "delegation_spent").count();
        eventually(30, || (skipped() >= count).then_some(()))
    };
    assert!(spent(2).is_some(), "{:?}", ticks());
    // With more, there is.
    a_second();
    delegates(&parent, "g", "digest:1", Some(40), later, "once more");
    waits_for(&place, &host, "kind:39260", 2);
    assert_eq!(ticks().iter().filter(|tick| tick["status"] != "skipped").count(), 2, "{:?}", ticks());
    let counted: i64 = rusqlite::Connection::open(place.database())
        .unwrap()
        .query_row("SELECT settled_msat + held_msat FROM budget WHERE win LIKE 'delegation:%'", [], |row| row.get(0))
        .unwrap();
    assert!((20_000..=40_000).contains(&counted), "{counted}");
    assert_eq!(host.interrupt(), 0);
}
