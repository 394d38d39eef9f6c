//! A webhook wakes an agent, told to the real binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;
#[path = "common/web.rs"]
mod web;

use std::time::Duration;

use common::{Place, eventually, list};
use nexus_seal::webhook::WebhookKey;
use serde_json::Value;

const TEXT: &str = r#"{"zebra": "the third build is green"}"#;

fn woken(place: &Place) -> Vec<Value> {
    let of = |tick: &Value| tick["trigger"] == "webhook" && tick["status"] == "completed";
    place.ticks("ada").into_iter().filter(of).collect()
}

#[test]
fn a_webhook_wakes_an_agent_once() {
    let place = Place::new();
    let host = place.start(&[]);
    place.agent("ada", &["--goal", "Watch the builds", "--heartbeat", "1d"]);
    let made = place.ok(&["agent", "hook", "add", "ada", "ci"]);
    let (url, id) = (made["url"].as_str().unwrap(), made["id"].as_str().unwrap());
    let key = WebhookKey::parse(made["secret"].as_str().unwrap()).unwrap();
    let calm = eventually(60, || place.ticks("ada").iter().any(|tick| tick["status"] == "completed").then_some(()));
    assert!(calm.is_some(), "{}", place.status("ada"));

    assert_eq!(web::signed(url, "msg_1", &key, TEXT), 202);
    assert_eq!(web::signed(url, "msg_1", &key, TEXT), 202, "sent again");
    let ticks = eventually(60, || Some(woken(&place)).filter(|ticks| !ticks.is_empty()));
    let ticks = ticks.unwrap_or_else(|| panic!("{:?}\n{}", place.ticks("ada"), host.logged()));
    let heard = place.ok(&["agent", "trajectory", "ada", ticks[0]["id"].as_str().unwrap()]);
    assert!(heard.to_string().contains("the third build is green"), "{heard}");
    assert!(heard.to_string().contains("webhook"), "{heard}");

    // Killed with one in the inbox: it is not lost, and not taken twice.
    assert_eq!(web::signed(url, "msg_2", &key, TEXT), 202);
    host.kill();
    let host = place.start(&[]);
    assert_eq!(web::signed(url, "msg_2", &key, TEXT), 202, "the sender never heard that it was taken");
    let both = eventually(60, || (woken(&place).len() >= 2).then_some(()));
    assert!(both.is_some(), "{:?}\n{}", place.ticks("ada"), host.logged());

    // A forged one is refused, a removed hook is gone.
    assert_eq!(web::signed(url, "msg_3", &WebhookKey::parse(&format!("whsec_{}", "A".repeat(44))).unwrap(), TEXT), 401);
    let hooks = place.ok(&["agent", "hook", "list", "ada"]);
    assert_eq!(list(&hooks)[0]["name"], "ci", "{hooks}");
    place.ok(&["agent", "hook", "remove", "ada", id]);
    assert_eq!(web::signed(url, "msg_4", &key, TEXT), 404);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(woken(&place).len(), 2);

    // Neither the secret nor what came is in clear anywhere.
    let secret = made["secret"].as_str().unwrap().trim_start_matches("whsec_").to_owned();
    let mut places = vec![place.database(), place.path("log-1"), place.path("log-2")];
    places.push(place.database().with_extension("db-wal"));
    for path in places {
        let Ok(bytes) = std::fs::read(&path) else { continue };
        for clear in [secret.as_str(), "the third build is green"] {
            let found = bytes.windows(clear.len()).any(|window| window == clear.as_bytes());
            assert!(!found, "{clear} is in {}", path.display());
        }
    }
    assert_eq!(host.interrupt(), 0);
}
