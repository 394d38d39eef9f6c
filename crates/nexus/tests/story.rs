//! The story of the README, told to the real binary: create, fund, start, mention, message, answer, restart.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use common::secrets::secrets_are_nowhere;
use common::{Friend, Place, eventually, find, hex_of, list};
use serde_json::{Value, json};

/// Told to the agent in private; must be found nowhere in clear.
const GOAL: &str = "zebra-goal: keep the lighthouse keepers company";
const SECRET_DM: &str = "zebra-message: the key is under the third stone";
const OLD_DM: &str = "zebra-old-message: the boat leaves at five";

fn completed(place: &Place, agent: &str) -> usize {
    place.ticks(agent).iter().filter(|tick| tick["status"] == "completed").count()
}

#[test]
fn a_living_agent() {
    let place = Place::new();
    let host = place.start(&[]);
    assert_eq!(host.ready["ready"], true);
    // The cheapest seller around reads only clear text: it must never be asked.
    let cheap = [("NEXUS_PROVIDER_ENCRYPTION", "unsupported"), ("NEXUS_PROVIDER_PRICE_MSAT", "1000")];
    let (clear_only, clear_npub) = place.provider("clear", &cheap);

    // Created and started, not funded: it says so.
    let passphrase = place.path("passphrase");
    let passphrase = passphrase.to_str().unwrap();
    let created = place.ok(&["agent", "create", "ada", "--goal", GOAL, "--start", "--passphrase-file", passphrase]);
    let npub = find(&created, "npub").unwrap();
    let hex = hex_of(&npub);
    let mut reasons = Vec::new();
    let waiting = eventually(10, || {
        let status = place.status("ada");
        let reason = status["reason"]["text"].as_str().map(str::to_owned);
        reasons.extend(reason.filter(|reason| reasons.last() != Some(reason)));
        (status["lifecycle"] == "spawning" && !reasons.is_empty()).then_some(status)
    });
    waiting.expect("an unfunded agent has a reason");
    // The first that is told, and no other before it.
    assert!(reasons[0].contains("fund"), "{reasons:?}");

    // Funded: it wakes at once and thinks about its goal.
    place.ok(&["agent", "fund", "ada", "--sats", "10000"]);
    let active = eventually(20, || (place.status("ada")["lifecycle"] == "active").then_some(()));
    assert!(active.is_some(), "{}", place.status("ada"));
    eventually(30, || (completed(&place, "ada") >= 1).then_some(())).expect("a first tick");

    // Mentioned by an independent client: it answers in the thread.
    let friend = Friend::new(&place.relay());
    let mention = friend.send(1, &hex, "Hello there, how are you?");
    let answer = friend.answer(1, &hex, Some(&mention));
    assert!(answer["text"].as_str().unwrap().to_lowercase().contains("demo"), "it says what it is: {answer}");

    // Messaged, in both ways: it answers in kind.
    friend.send(17, &hex, SECRET_DM);
    let answer = friend.answer(17, &hex, None);
    assert!(!answer["text"].as_str().unwrap().is_empty());
    friend.send(4, &hex, OLD_DM);
    friend.answer(4, &hex, None);

    // It paid for its thinking, and the history says how much.
    let ticks = place.ticks("ada");
    assert!(ticks.iter().any(|tick| tick["cost_msat"].as_u64().unwrap_or(0) > 0), "{ticks:?}");
    let balance = place.status("ada")["balance_sats"].as_u64().unwrap();
    assert!(balance < 10_000, "{balance}");

    // What it heard and decided is read by its owner, and is nowhere in clear.
    let thought = eventually(20, || place.ticks("ada").into_iter().find(|tick| tick["trigger"] == "mention"));
    let id = thought.unwrap()["id"].as_str().unwrap().to_owned();
    assert!(!place.ok(&["agent", "ticks", "ada", "--id", &id]).to_string().contains("how are you"));
    let opened = place.ok(&["agent", "trajectory", "ada", &id]);
    assert_eq!(opened["trajectory"]["messages"][0]["text"], "Hello there, how are you?", "{opened}");
    assert!(!opened["trajectory"]["actions"].as_array().unwrap().is_empty(), "{opened}");
    assert_eq!(opened["tick"]["status"], "completed", "{opened}");
    assert!(place.ok(&["agent", "trajectory", "ada"])["trajectory"]["tick_id"].is_string());
    assert_eq!(place.run(&["agent", "trajectory", "ada", "01a207b8-8c1c-7ebe-8605-2f0935ce7458"]).0, 3);

    // Events: no gap, and the chain verifies.
    let events = place.events("ada");
    let seqs: Vec<i64> = events.iter().filter_map(|event| event["seq"].as_i64()).collect();
    assert_eq!(seqs, (1..=seqs.len() as i64).collect::<Vec<_>>());
    for kind in ["tick_started", "tick_completed", "balance_changed", "lifecycle_changed", "payment"] {
        assert!(events.iter().any(|event| event["type"] == kind), "no {kind} in {events:?}");
    }
    let completed_event = events.iter().rev().find(|event| event["type"] == "tick_completed").unwrap();
    let mut keys: Vec<&String> = completed_event.as_object().unwrap().keys().collect();
    keys.sort();
    assert!(!completed_event.to_string().contains("zebra"), "{completed_event}");

    // Its public face is there for anyone.
    let kinds: Vec<u64> = friend
        .query(json!({ "authors": [hex], "kinds": [0, 10002, 10050, 39200, 39201] }))
        .iter()
        .filter(|event| event["verified"] == true)
        .filter_map(|event| event["kind"].as_u64())
        .collect();
    for kind in [0, 10_002, 10_050, 39_200, 39_201] {
        assert!(kinds.contains(&kind), "kind {kind} is not published: {kinds:?}");
    }

    // Stop means stop; a mention waits, and is answered after the start.
    place.ok(&["agent", "stop", "ada"]);
    let before = place.ticks("ada").len();
    let waiting = friend.send(1, &hex, "Are you asleep?");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(place.ticks("ada").len(), before, "a stopped agent does not tick");
    place.ok(&["agent", "start", "ada"]);
    friend.answer(1, &hex, Some(&waiting));

    // Ctrl-C and a restart: everything is as it was, and it goes on.
    let shown = place.status("ada");
    let code = host.interrupt();
    assert_eq!(code, 0);
    let host = place.start(&[]);
    let again = place.status("ada");
    assert_eq!(again["npub"], shown["npub"]);
    assert_eq!(again["balance_sats"], shown["balance_sats"]);
    let mention = friend.send(1, &hex, "Still there?");
    friend.answer(1, &hex, Some(&mention));

    let asked = friend.query(json!({ "kinds": [5050], "#p": [hex_of(&clear_npub)] }));
    assert!(asked.is_empty(), "a provider that reads clear text was asked: {asked:?}");
    assert!(!friend.query(json!({ "kinds": [31990], "authors": [hex_of(&clear_npub)] })).is_empty(), "it is announced");
    secrets_are_nowhere(&place, &host, &npub, &friend);
    drop((host, clear_only));
}

#[test]
fn a_seller_that_is_paid_afterwards_and_by_the_token() {
    let place = Place::new();
    let host = place.start(&[("NEXUS_PROVIDER_ENABLED", "false")]);
    let terms = [
        ("NEXUS_PROVIDER_PAYMENT", "after"),
        ("NEXUS_PROVIDER_PRICE_PER", "1k_tokens"),
        ("NEXUS_PROVIDER_PRICE_MSAT", "3000"),
        ("NEXUS_PROVIDER_ENCRYPTION", "required"),
    ];
    let (seller, _) = place.provider("seller", &terms);
    let hex = hex_of(&place.agent("ada", &["--goal", GOAL]));
    let friend = Friend::new(&place.relay());
    let mention = friend.send(1, &hex, "What do you work on?");
    friend.answer(1, &hex, Some(&mention));
    let paid = eventually(20, || place.ticks("ada").into_iter().find(|tick| tick["cost_msat"].as_u64() > Some(0)));
    assert!(paid.is_some(), "{:?}", place.ticks("ada"));
    drop((host, seller));
}

#[test]
fn misuse_is_told_with_the_next_step() {
    let place = Place::new();
    let (code, _, errors) = place.run(&["agent", "list"]);
    assert_ne!(code, 0);
    assert!(errors.contains("next") || errors.contains("nexus"), "{errors}");
    let host = place.start(&[]);
    let (code, _, errors) = place.run(&["agent", "create", "bob"]);
    assert_eq!(code, 2, "no terminal and no passphrase file: {errors}");
    let (code, _, _) = place.run(&["agent", "status", "nobody"]);
    assert_eq!(code, 3);
    let (code, _, errors) = place.run(&["agent", "wallet", "x"]);
    assert_eq!(code, 3, "{errors}");
    let (code, _, errors) =
        place.run(&["agent", "create", "Bad Name", "--passphrase-file", place.path("passphrase").to_str().unwrap()]);
    assert_ne!(code, 0, "{errors}");
    assert_eq!(list(&place.ok(&["agent", "list"])), Vec::<Value>::new());

    // A second copy on the same data directory, and a taken port.
    let second = place.command().args(["dev", "--data-dir"]).arg(place.path("data")).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("already runs"));
    let other = place
        .command()
        .args(["dev", "--data-dir"])
        .arg(place.path("other"))
        .args(["--api-port", &place.api_port.to_string(), "--relay-port", "0"])
        .output()
        .unwrap();
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains(&place.api_port.to_string()));
    drop(host);
}
