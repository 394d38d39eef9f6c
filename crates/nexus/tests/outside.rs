//! Agents hear what is said to them on relays of others, once, also of what was said while nobody listened.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use common::{Friend, Host, Place, eventually, hex_of};
use serde_json::{Value, json};

fn elsewhere(place: &Place) -> Host {
    place.start(&[("NEXUS_PROVIDER_ENABLED", "false")])
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

#[test]
fn an_agent_hears_what_is_said_on_relays_of_others() {
    let (place, other) = (Place::new(), Place::new());
    let theirs = elsewhere(&other);
    let host = place.start(&[]);
    let npub = place.agent("ada", &["--goal", "Listen", "--heartbeat", "1d", "--relay", &other.relay()]);
    let hex = hex_of(&npub);
    waits_for(&place, &host, "heartbeat", 1);
    let relay = || place.status("ada")["relays"][0].clone();
    let heard = eventually(30, || relay()["heard_at_ms"].is_i64().then_some(()));
    assert!(heard.is_some(), "{}\n{}", relay(), host.logged());

    // A mention, on the other relay alone.
    let friend = Friend::new(&other.relay());
    let asked = friend.send(1, &hex, "do you hear me over there?");
    let answer = friend.answer(1, &hex, Some(&asked));
    assert!(!answer["text"].as_str().unwrap().is_empty());
    waits_for(&place, &host, "mention", 1);
    // The same event, brought here by somebody: nobody is woken twice.
    let note = friend.query(json!({ "ids": [asked] })).remove(0);
    let mut event = note.clone();
    event.as_object_mut().unwrap().remove("verified");
    common::nostr("publish", json!({ "relay": place.relay(), "event": event })).unwrap();

    // Said while this host was down.
    host.kill();
    let missed = friend.send(1, &hex, "and while you slept?");
    let host = place.start(&[]);
    friend.answer(1, &hex, Some(&missed));
    waits_for(&place, &host, "mention", 2);

    // The other relay goes away, which shows, and comes back, which does too.
    theirs.kill();
    let shown = eventually(60, || relay()["problem"].is_string().then_some(()));
    assert!(shown.is_some(), "{}\n{}", relay(), host.logged());
    let theirs = elsewhere(&other);
    let back = friend.send(1, &hex, "and now?");
    friend.answer(1, &hex, Some(&back));
    let shown = eventually(60, || relay()["problem"].is_null().then_some(()));
    assert!(shown.is_some(), "{}\n{}", relay(), host.logged());

    // Who names it no more hears nothing there.
    let config = place.path("config.json");
    std::fs::write(&config, json!({ "relays": [] }).to_string()).unwrap();
    place.ok(&["agent", "set", "ada", "--file", config.to_str().unwrap()]);
    assert_eq!(place.status("ada")["relays"], json!([]));
    std::thread::sleep(std::time::Duration::from_secs(6));
    friend.send(1, &hex, "and after that?");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(completed(&place, "mention"), 3, "{:?}", place.ticks("ada"));
    assert_eq!((host.interrupt(), theirs.interrupt()), (0, 0));
}
