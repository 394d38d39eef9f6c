//! An agent is found by its name, zapped by a client that shares no code with us, and woken by what was paid alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;
#[path = "common/pay.rs"]
mod pay;
#[path = "common/web.rs"]
mod web;

use std::time::Duration;

use common::{Friend, Place, eventually, hex_of, nostr};
use nexus_core::Msat;
use nexus_lightning::decode_bolt11;
use serde_json::{Value, json};

fn zapped(place: &Place) -> Vec<Value> {
    let of = |tick: &Value| tick["trigger"] == "zap" && tick["status"] == "completed";
    place.ticks("ada").into_iter().filter(of).collect()
}

#[test]
fn a_zap_wakes_an_agent_once_and_only_if_it_was_paid() {
    let place = Place::new();
    let host = place.start(&[]);
    let api = place.api();
    let npub = place.agent("ada", &["--goal", "Thank people", "--heartbeat", "1d"]);
    let hex = hex_of(&npub);
    let at = api.trim_start_matches("http://").to_owned();
    assert_eq!(place.ok(&["agent", "address", "ada"])["address"], format!("{npub}@{at}"));
    assert_eq!(
        place.ok(&["agent", "address", "ada", "--set", "ada.lovelace"])["address"],
        format!("ada.lovelace@{at}")
    );
    let calm = eventually(60, || place.ticks("ada").iter().any(|tick| tick["status"] == "completed").then_some(()));
    assert!(calm.is_some(), "{}", place.status("ada"));

    // Found by name, and its profile says where it is paid.
    let address = format!("ada.lovelace@{at}");
    let elsewhere = "ada.lovelace@nexus.test";
    let found = nostr("find", json!({ "origin": api, "address": elsewhere })).unwrap().remove(0);
    assert_eq!((&found["pk"], &found["relays"]), (&json!(hex), &json!([place.relay()])));
    let friend = Friend::new(&place.relay());
    let profile = eventually(20, || {
        let found = friend.query(json!({ "kinds": [0], "authors": [hex] }));
        let content: Value = serde_json::from_str(found.first()?["content"].as_str()?).ok()?;
        (content["lud16"] == address && content["nip05"] == address).then_some(())
    });
    assert!(profile.is_some(), "{}", host.logged());

    // The host dies between the invoice and the payment.
    let ask = json!({
        "origin": api, "sk": friend.sk, "address": elsewhere, "to": hex, "msat": 21_000, "text": "for the engine",
        "relay": place.relay(),
    });
    let asked = nostr("zap", ask.clone()).unwrap().remove(0);
    let bolt11 = asked["pr"].as_str().unwrap();
    assert_eq!(decode_bolt11(bolt11).unwrap().amount, Some(Msat::sats(21)));
    host.kill();
    let host = place.start(&[]);
    let before = place.ok(&["agent", "balance", "ada"])["balance_sats"].as_u64().unwrap();
    pay::pays(host.ready["devnet"].as_str().unwrap(), bolt11);
    let ticks = eventually(60, || Some(zapped(&place)).filter(|ticks| !ticks.is_empty()));
    let ticks = ticks.unwrap_or_else(|| panic!("{:?}\n{}", place.ticks("ada"), host.logged()));
    let heard = place.ok(&["agent", "trajectory", "ada", ticks[0]["id"].as_str().unwrap()]);
    assert!(heard.to_string().contains("21 sats: for the engine"), "{heard}");
    assert!(heard.to_string().contains(&friend.npub), "{heard}");
    // Its thinking was paid of it, so that less than the zap is left.
    let after = place.ok(&["agent", "balance", "ada"])["balance_sats"].as_u64().unwrap();
    assert!(after <= before + 21 && after + 21 > before, "{before} {after}");

    // One receipt, by the key that the address names.
    let receipts = friend.query(json!({ "kinds": [9_735], "#p": [hex] }));
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    assert_eq!((&receipts[0]["pubkey"], &receipts[0]["verified"]), (&asked["service"], &json!(true)));
    let tag = |name: &str| {
        let tags = receipts[0]["tags"].as_array().unwrap().iter();
        tags.filter(|tag| tag[0] == name).map(|tag| tag[1].clone()).collect::<Vec<_>>()
    };
    assert_eq!((tag("bolt11"), tag("description")), (vec![json!(bolt11)], vec![asked["request"].clone()]));
    assert_eq!(tag("P"), [json!(friend.pk)]);

    // Spoofed: somebody else's receipt for the zap that was paid, one for an invoice that nobody paid, and the true
    // receipt once more.
    let spoof = |request: &Value, pr: &Value| {
        let options = json!({ "relay": place.relay(), "sk": friend.sk, "request": request, "pr": pr });
        nostr("spoof", options).unwrap();
    };
    spoof(&asked["request"], &asked["pr"]);
    let unpaid = nostr("zap", ask).unwrap().remove(0);
    spoof(&unpaid["request"], &unpaid["pr"]);
    let mut again = receipts[0].clone();
    again.as_object_mut().unwrap().remove("verified");
    let _ = nostr("publish", json!({ "relay": place.relay(), "event": again }));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(zapped(&place).len(), 1, "{:?}", place.ticks("ada"));
    assert_eq!(place.status("ada")["inbox_waiting"], 0);

    // Bad questions are answered in LUD-06's words.
    let (status, said) = web::get(&api, &format!("/v1/agents/{npub}/pay?amount=1"));
    assert!(status == 400 && said.contains(r#""status":"ERROR""#) && said.contains("1000 to"), "{said}");
    assert_eq!(web::get(&api, &format!("/v1/agents/{npub}/pay?amount=x")).0, 400);
    let (status, said) = web::get(&api, &format!("/v1/agents/{npub}/pay?amount=5000&nostr=%7B%7D"));
    assert!(status == 400 && said.contains("nostr:"), "{said}");
    assert_eq!(web::get(&api, "/.well-known/lnurlp/nobody").0, 404);
    let (status, said) = web::get(&api, &format!("/.well-known/lnurlp/{npub}"));
    assert!(status == 200 && said.contains(r#""tag":"payRequest""#), "{said}");
    let (_, nobody) = web::get(&api, "/.well-known/nostr.json?name=nobody");
    assert_eq!(serde_json::from_str::<Value>(&nobody).unwrap()["names"], json!({}));

    // A name is one agent's; released, it is anybody's.
    place.agent("eve", &["--goal", "Be ada", "--heartbeat", "1d"]);
    let (code, _, said) = place.run(&["agent", "address", "eve", "--set", "ada.lovelace"]);
    assert!(code == 1 && said.contains("taken"), "{code} {said}");
    let (code, _, said) = place.run(&["agent", "address", "eve", "--set", "support"]);
    assert!(code != 0 && said.contains("choose another"), "{code} {said}");
    assert_eq!(place.ok(&["agent", "address", "ada", "--release"])["address"], format!("{npub}@{at}"));
    place.ok(&["agent", "address", "eve", "--set", "ada.lovelace"]);
    assert_eq!(host.interrupt(), 0);
}
