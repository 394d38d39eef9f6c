//! Who may read an agent beside its owner: whoever the signed policy names, as long as it does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;
#[path = "common/web.rs"]
mod web;

use common::{Friend, Place, eventually, hex_of, list};
use nexus_client::Contexts;
use serde_json::{Value, json};

/// Another person with a key of their own, and a context on the same host.
fn person(place: &Place, name: &str) -> String {
    let pool: Value = serde_json::from_str(&web::get(&place.api(), "/v1/pool").1).unwrap();
    let print = pool["fingerprint"].as_str().unwrap();
    place.ok(&["login", "--url", &place.api(), "--new", "--development", "--name", name, "--fingerprint", print]);
    place.ok(&["context", "use", "dev"]);
    Contexts::at(place.path("config")).select(Some(name)).unwrap().owner.unwrap().npub().to_string()
}

fn ticked(place: &Place, count: usize) -> Vec<String> {
    let done = || {
        let mut ticks = place.ticks("ada");
        ticks.retain(|tick| tick["status"] == "completed" && tick["trigger"] == "mention");
        (ticks.len() >= count).then_some(ticks)
    };
    let ticks = eventually(60, done).unwrap_or_else(|| panic!("{:?}", place.ticks("ada")));
    ticks.iter().map(|tick| tick["id"].as_str().unwrap().to_owned()).collect()
}

fn policy(place: &Place, document: &Value) {
    let file = place.path("policy.json");
    std::fs::write(&file, document.to_string()).unwrap();
    place.ok(&["agent", "policy", "ada", "--file", file.to_str().unwrap()]);
}

#[test]
fn a_reader_reads_as_long_as_the_policy_names_it() {
    let place = Place::new();
    let host = place.start(&[]);
    let npub = place.agent("ada", &["--goal", "Be read", "--heartbeat", "1d"]);
    let (hex, friend) = (hex_of(&npub), Friend::new(&place.relay()));
    let (rita, eve) = (person(&place, "rita"), person(&place, "eve"));
    let reads = |who: &str, tick: &str| place.run(&["--context", who, "agent", "trajectory", &npub, tick]);
    friend.send(1, &hex, "the first");
    let first = ticked(&place, 1).remove(0);
    let (code, _, said) = reads("rita", &first);
    assert_eq!(code, 3, "nobody's agent but the owner's: {said}");

    // Named, she reads what comes, and not what was.
    policy(&place, &json!({ "readers": [rita] }));
    friend.send(1, &hex, "the second");
    let second = ticked(&place, 2).remove(0);
    let opened = eventually(30, || Some(reads("rita", &second)).filter(|(code, ..)| *code == 0));
    let (_, opened, _) = opened.unwrap_or_else(|| panic!("{:?}\n{}", reads("rita", &second), host.logged()));
    assert!(opened.to_string().contains("the second"), "{opened}");
    assert_eq!(list(&place.ok(&["--context", "rita", "agent", "events", &npub])), place.events("ada"));
    // No more than that.
    for refused in [vec!["agent", "stop"], vec!["agent", "balance"], vec!["agent", "status"], vec!["agent", "policy"]] {
        let args: Vec<&str> = ["--context", "rita"].into_iter().chain(refused).chain([npub.as_str()]).collect();
        assert_eq!(place.run(&args).0, 3, "{args:?}");
    }
    assert_eq!(reads("eve", &second).0, 3);

    // Named no more, she reads nothing; the owner reads all of it.
    policy(&place, &json!({ "readers": [eve] }));
    assert_eq!(reads("rita", &second).0, 3);
    friend.send(1, &hex, "the third");
    let third = ticked(&place, 3).remove(0);
    let opened = eventually(30, || Some(reads("eve", &third)).filter(|(code, ..)| *code == 0));
    assert!(opened.unwrap().1.to_string().contains("the third"));
    for (tick, text) in [(&first, "the first"), (&second, "the second"), (&third, "the third")] {
        let opened = place.ok(&["agent", "trajectory", "ada", tick]).to_string();
        assert!(opened.contains(text), "{opened}");
    }
    let (code, _, said) = reads("eve", &second);
    assert!(code != 0 && !said.contains("the second"), "what was before her: {code} {said}");

    // Unless the owner gives that as well.
    policy(&place, &json!({ "readers": [eve], "reader_history": true }));
    let opened = eventually(30, || Some(reads("eve", &second)).filter(|(code, ..)| *code == 0));
    assert!(opened.is_some_and(|(_, opened, _)| opened.to_string().contains("the second")), "{}", host.logged());

    // Whoever writes the database can't bring back the key that a removed reader has.
    assert_eq!(host.interrupt(), 0);
    let database = rusqlite::Connection::open(place.database()).unwrap();
    let newest: u32 =
        database.query_row("SELECT MAX(number) FROM agent_wrap WHERE wrapped = 'view'", [], |row| row.get(0)).unwrap();
    assert_eq!(newest, 2, "one reader was removed once");
    database.execute("DELETE FROM agent_wrap WHERE wrapped = 'view' AND number = 2", []).unwrap();
    drop(database);
    let host = place.start(&[]);
    friend.send(1, &hex, "the fourth");
    let refused = eventually(30, || (place.status("ada")["reason"]["code"] == "keys_refused").then_some(()));
    assert!(refused.is_some(), "{}", place.status("ada"));
    assert_eq!(ticked(&place, 3).len(), 3);
    assert_eq!(host.interrupt(), 0);
}
