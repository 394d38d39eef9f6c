//! The fleet as its operators see it, and as nobody else does.

mod common;

use std::time::Duration;

use common::worker::Worker;
use common::{By, Host, Key};
use nexus_control::Operators;
use nexus_core::status::Reason;
use nexus_store::agent::Change;
use serde_json::{Value, json};

async fn running(host: &Host, owner: &Key, agent: u8) -> String {
    let npub = host.create(owner, &Key::new(agent), &format!("agent{agent}")).await;
    host.post(By::Key(owner), &format!("/v1/agents/{npub}/start"), &json!({})).await.ok();
    npub
}

/// Asks until what comes back fits: figures are counted every two seconds.
async fn fleet(host: &Host, by: By<'_>, fits: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..600 {
        last = host.get(by, "/v1/fleet").await.ok().body;
        if fits(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{last:#}");
}

#[tokio::test]
async fn workers_regions_reasons_and_who_places() {
    let operator = Key::new(9);
    let listed = operator.npub();
    let host = Host::start_with(|config| config.operators = Operators::Listed(vec![listed])).await;
    let (owner, by) = (Key::new(1), By::Key(&operator));
    let worker = Worker::of_region(&host, 1, "eu").await;
    let placed = running(&host, &owner, 10).await;
    let agent = worker.hosts(&placed).await;
    worker.fund(&agent, 5_000).await;
    let parked = running(&host, &owner, 11).await;
    let agent = worker.hosts(&parked).await;
    let reason = Reason::new("no_provider", "nobody sells");
    let change =
        Change { reason: Some(Some(reason)), next_attempt_at: Some(Some(agent.created_at)), ..Change::default() };
    worker.change(&agent, change, Vec::new()).await.unwrap();
    let stopped = host.create(&owner, &Key::new(12), "agent12").await;

    let seen = fleet(&host, by, |fleet| fleet["waiting"].as_array().is_some_and(|waiting| !waiting.is_empty())).await;
    let [seen_worker] = seen["workers"].as_array().unwrap().as_slice() else { panic!("{seen:#}") };
    assert_eq!((&seen_worker["region"], &seen_worker["pool"]), (&json!("eu"), &json!("default")));
    assert_eq!((&seen_worker["state"], &seen_worker["capacity"]), (&json!("live"), &json!(100)));
    assert_eq!((&seen_worker["load"], &seen_worker["version"]), (&json!(2), &json!(1)));
    assert!(seen_worker["beat_age_ms"].as_u64().unwrap() < 5_000, "{seen_worker}");
    let region = &seen["regions"][0];
    assert_eq!((&region["region"], &region["workers"], &region["load"]), (&json!("eu"), &json!(1), &json!(2)));
    assert!(region["desired_workers"].as_u64().unwrap() >= 1);
    assert_eq!((&seen["agents"]["all"], &seen["agents"]["running"]), (&json!(3), &json!(2)));
    let placements = json!([
        { "placement": "placed", "desired": "running", "agents": 2 },
        { "placement": "unplaced", "desired": "stopped", "agents": 1 },
    ]);
    assert_eq!(seen["placements"], placements);
    let waiting = json!([{ "code": "no_provider", "text": "nobody sells", "agents": 1, "example": parked }]);
    assert_eq!(seen["waiting"], waiting);
    assert_eq!((&seen["places_agents"], &seen["reconciler"]["term"]), (&json!(true), &json!(1)));
    assert!(!seen["reconciler"]["holder"].as_str().unwrap().is_empty());
    assert_eq!(seen["availability"]["target_percent"], json!(99.9));
    assert_eq!(seen["availability"]["this_month"]["percent"], json!(100.0));

    // Who waits, page by page.
    let page = host.get(by, "/v1/fleet/agents?code=no_provider").await.ok().body;
    assert_eq!(page["agents"][0]["npub"], json!(parked));
    assert_eq!(page["agents"][0]["text"], json!("nobody sells"));
    assert_eq!((page["agents"].as_array().unwrap().len(), &page["next"]), (1, &Value::Null));
    assert_eq!(host.get(by, "/v1/fleet/agents?code=other").await.ok().body["agents"], json!([]));
    assert_eq!(host.get(by, "/v1/fleet/agents?limit=1").await.ok().body["next"], json!(parked));
    let rest = host.get(by, &format!("/v1/fleet/agents?limit=1&after={parked}")).await.ok().body;
    assert_eq!(rest["agents"], json!([]));
    for bad in ["?after=x", "?limit=x", "?nobody=1"] {
        let refused = host.get(by, &format!("/v1/fleet/agents{bad}")).await;
        assert!(refused.status.is_client_error(), "{bad}: {}", refused.text);
    }
    assert!(!seen.to_string().contains("agent1"), "names are their owners'");

    // Without a worker they wait for one.
    drop(worker);
    fleet(&host, by, |fleet| fleet["agents"]["unplaced"] == json!(2)).await;
    let page = host.get(by, "/v1/fleet/agents").await.ok().body;
    let agents = page["agents"].as_array().unwrap();
    let npubs: Vec<&str> = agents.iter().filter_map(|agent| agent["npub"].as_str()).collect();
    assert!(npubs.contains(&placed.as_str()) && !npubs.contains(&stopped.as_str()), "{page}");
    for agent in agents {
        assert_eq!((&agent["placement"], &agent["worker"]), (&json!("unplaced"), &Value::Null));
        let code = agent["code"].as_str().unwrap();
        assert!(!code.is_empty() && !agent["text"].as_str().unwrap().is_empty(), "{agent}");
        let same = host.get(by, &format!("/v1/fleet/agents?code={code}")).await.ok().body;
        assert!(same["agents"].as_array().unwrap().contains(agent), "{same}");
    }
}

#[tokio::test]
async fn nobody_else_finds_anything() {
    let operator = Key::new(9);
    let listed = operator.npub();
    let host = Host::start_with(|config| config.operators = Operators::Listed(vec![listed])).await;
    let owner = Key::new(1);
    host.create(&owner, &Key::new(10), "mine").await;
    let read = host.token(&operator, &["read"]).await;
    let strange = host.token(&owner, &["read", "operate", "configure", "billing"]).await;
    let billing = host.token(&operator, &["billing"]).await;
    for path in ["/v1/fleet", "/v1/fleet/agents"] {
        assert_eq!(host.get(By::Nobody, path).await.status, 401, "{path}");
        assert_eq!(host.get(By::Key(&owner), path).await.code(), "not_found", "{path}");
        assert_eq!(host.get(By::Token(&strange), path).await.status, 404, "{path}");
        assert_eq!(host.get(By::Token(&billing), path).await.status, 403, "{path}");
        host.get(By::Key(&operator), path).await.ok();
        host.get(By::Token(&read), path).await.ok();
    }
}
