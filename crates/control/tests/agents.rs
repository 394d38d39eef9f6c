//! The life of an agent over the API.

mod common;

use std::time::Duration;

use common::worker::Worker;
use common::{Answer, By, Host, INBOX_RECIPIENT, Key, recipient_envelope};
use nexus_core::trigger::Trigger;
use nexus_core::{Clock, Hash32, Npub, TickId, UnixMs};
use nexus_seal::claim::unsigned_claim;
use nexus_seal::event::timestamp;
use nexus_store::tick::{self, Skip};
use nexus_store::wallet_request::{self, Answer as Said};
use nexus_store::{agent::Change, inbox, installation};
use serde_json::{Value, json};

async fn patch(host: &Host, by: By<'_>, path: &str, etag: Option<&str>, body: &Value) -> Answer {
    let headers: Vec<(&str, &str)> = etag.map(|etag| ("if-match", etag)).into_iter().collect();
    host.send(by, "PATCH", path, body.to_string().into_bytes(), &headers).await
}

#[tokio::test]
async fn creating_is_proved_unique_and_repeatable() {
    let host = Host::start().await;
    let (owner, agent) = (Key::new(1), Key::new(2));
    let body = host.agent_body(&owner, &agent, "ada");
    let key = [("idempotency-key", "create-ada")];
    let first = host.create_with(By::Key(&owner), &owner, &agent, &body, &key).await.ok();
    assert_eq!(first.status, 201);
    assert_eq!(first.headers["location"], format!("/v1/agents/{}", agent.npub()).as_str());
    assert_eq!((&first.body["desired"], &first.body["lifecycle"]), (&json!("stopped"), &json!("spawning")));
    assert_eq!(first.body["reason"]["code"], "stopped");

    // The retry, freshly signed, is given the first answer; another body under the same key is a mistake.
    let again = host.create_with(By::Key(&owner), &owner, &agent, &body, &key).await.ok();
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    let mut other = body.clone();
    other["name"] = json!("bob");
    assert_eq!(host.create_with(By::Key(&owner), &owner, &agent, &other, &key).await.code(), "idempotency_mismatch");
    // Without the key it is another request.
    assert_eq!(host.create_with(By::Key(&owner), &owner, &agent, &body, &[]).await.code(), "agent_exists");
    let body = host.agent_body(&owner, &Key::new(3), "ada");
    assert_eq!(host.create_with(By::Key(&owner), &owner, &Key::new(3), &body, &[]).await.code(), "name_taken");

    // A proof is good once, too.
    let body = host.agent_body(&owner, &Key::new(4), "eve").to_string().into_bytes();
    let proof = Key::new(4).proof(&owner.npub(), "POST", &host.url("/v1/agents"), &body, host.clock.now());
    let headers = [("nexus-proof", proof.as_str())];
    let send = |body: Vec<u8>| host.send(By::Key(&owner), "POST", "/v1/agents", body, &headers);
    send(body.clone()).await.ok();
    assert_eq!(send(body.clone()).await.code(), "proof_replayed");
    assert_eq!(host.send(By::Key(&owner), "POST", "/v1/agents", body, &[]).await.code(), "proof_invalid");
}

#[tokio::test]
async fn an_account_never_has_more_agents_than_it_may() {
    let host = Host::start_with(|config| config.max_agents_per_account = Some(2)).await;
    let owner = Key::new(1);
    host.get(By::Key(&owner), "/v1/account").await.ok();
    let create = async |number: u8| {
        let agent = Key::new(number);
        let body = host.agent_body(&owner, &agent, &format!("agent{number}"));
        host.create_with(By::Key(&owner), &owner, &agent, &body, &[]).await
    };
    let all = tokio::join!(create(2), create(3), create(4), create(5));
    let (made, refused): (Vec<_>, Vec<_>) =
        [all.0, all.1, all.2, all.3].into_iter().partition(|answer| answer.status.is_success());
    assert_eq!((made.len(), refused.len()), (2, 2));
    for answer in &refused {
        assert_eq!((answer.code(), &answer.body["limit"]), ("quota_exceeded", &json!(2)));
    }
    assert_eq!(host.get(By::Key(&owner), "/v1/account").await.ok().body["agents"], 2);
    // Another account has its own two.
    host.create(&Key::new(9), &Key::new(10), "agent2").await;
}

#[tokio::test]
async fn creating_checks_all_that_can_be_checked_without_opening() {
    let host = Host::start().await;
    let (owner, agent, stranger) = (Key::new(1), Key::new(2), Key::new(9));
    let (npub, now) = (agent.npub(), host.clock.now());
    let runner = Key::new(7).npub();
    installation::put(&host.store, nexus_control::RUNNER_PUBKEY, runner.to_hex()).await.unwrap();
    let claim =
        |runner: &Npub, url: &str| json!(agent.sign(unsigned_claim(&npub, runner, url, 1, None, timestamp(now))));
    let cases = [
        ("name", json!("Ada Lovelace"), "invalid"),
        ("config", json!({ "heartbeat_secs": 1 }), "invalid"),
        ("config", json!({ "goals": ["rule"] }), "invalid_json"),
        ("mnemonic_encrypted", json!("sesame"), "envelope_invalid"),
        ("mnemonic_encrypted", json!(recipient_envelope()), "envelope_invalid"),
        ("sealed_key", json!("sesame"), "envelope_invalid"),
        ("sealed_key", json!(null), "invalid"),
        ("wraps", json!([]), "envelope_invalid"),
        ("policy", json!(stranger.policy(npub, 1, now)), "policy_invalid"),
        ("policy", json!(owner.policy(stranger.npub(), 1, now)), "policy_invalid"),
        ("claim", claim(&runner, "http://elsewhere.example"), "claim_invalid"),
        ("claim", claim(&stranger.npub(), &host.origin), "claim_invalid"),
        ("state", json!("AAAA"), "envelope_invalid"),
        ("colour", json!("red"), "invalid_json"),
    ];
    for (field, value, code) in cases {
        let mut body = host.agent_body(&owner, &agent, "ada");
        body[field] = value;
        let answer = host.create_with(By::Key(&owner), &owner, &agent, &body, &[]).await;
        assert_eq!(answer.code(), code, "{field}: {}", answer.text);
    }
    // The agent's proof by another key.
    let body = host.agent_body(&owner, &agent, "ada");
    assert_eq!(host.create_with(By::Key(&owner), &owner, &stranger, &body, &[]).await.code(), "proof_invalid");
    // And with a claim for this very host it is fine.
    let mut body = body;
    body["claim"] = claim(&runner, &host.origin);
    host.create_with(By::Key(&owner), &owner, &agent, &body, &[]).await.ok();
}

#[tokio::test]
async fn the_seeds_plain_body_makes_an_agent_that_says_what_it_lacks() {
    let host = Host::start().await;
    let (owner, agent) = (Key::new(1), Key::new(2));
    let full = host.agent_body(&owner, &agent, "ada");
    let body = json!({
        "name": "ada", "npub": agent.npub(), "mnemonic_encrypted": full["mnemonic_encrypted"], "config": {},
    });
    let made = host.create_with(By::Key(&owner), &owner, &agent, &body, &[]).await.ok();
    assert_eq!(made.body["reason"]["code"], "key_missing");
    let path = format!("/v1/agents/{}", agent.npub());
    let sealed = json!({ "sealed_key": recipient_envelope() });
    let put =
        host.send(By::Key(&owner), "PUT", &format!("{path}/sealed-key"), sealed.to_string().into_bytes(), &[]).await;
    put.ok();
    // Started without a policy: 200, and the reason.
    let started = host.post(By::Key(&owner), &format!("{path}/start"), &json!({})).await.ok();
    assert_eq!(
        (&started.body["desired"], &started.body["reason"]["code"]),
        (&json!("running"), &json!("policy_missing"))
    );
    let policy = json!(owner.policy(agent.npub(), 1, host.clock.now()));
    host.send(By::Key(&owner), "PUT", &format!("{path}/policy"), policy.to_string().into_bytes(), &[]).await.ok();
    let status = host.get(By::Key(&owner), &path).await.ok().body;
    assert_eq!(status["policy_version"], 1);
    assert_ne!(status["reason"]["code"], "policy_missing");
}

#[tokio::test]
async fn starting_and_stopping_are_idempotent_and_say_why() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    let path = format!("/v1/agents/{npub}");
    let started = host.post(By::Key(&owner), &format!("{path}/start"), &json!({})).await.ok();
    assert_eq!((&started.body["desired"], &started.body["reason"]["code"]), (&json!("running"), &json!("spawning")));
    assert!(started.body["reason"]["text"].as_str().unwrap().contains("fund"));
    assert!(started.body["next_tick_at_ms"].is_i64() && started.body["next_attempt_at_ms"].is_i64());
    let again = host.post(By::Key(&owner), &format!("{path}/start"), &json!({})).await.ok();
    assert_eq!(again.body["desired"], "running");

    // Without a worker it says so, with a next attempt.
    let waiting = eventually(&host, &owner, &path, |status| status["reason"]["code"] == "no_worker").await;
    assert!(waiting["next_attempt_at_ms"].as_i64().unwrap() > host.clock.now().0);

    let worker = Worker::start(&host, 1).await;
    let agent = worker.hosts(&npub).await;
    worker.fund(&agent, 5_000).await;
    let status = host.get(By::Key(&owner), &path).await.ok().body;
    assert_eq!((&status["placement"], &status["reason"]["code"]), (&json!("placed"), &json!("running")));
    assert_eq!((&status["balance_sats"], &status["lifecycle"]), (&json!(5_000), &json!("active")));
    assert_eq!((&status["worker"], &status["purpose"]), (&json!(worker.fence.worker.to_string()), &json!("run")));

    assert_eq!(
        host.post(By::Key(&owner), &format!("{path}/stop"), &json!({ "when": "later" })).await.code(),
        "invalid_json"
    );
    let stopped = host.post(By::Key(&owner), &format!("{path}/stop"), &json!({ "when": "now" })).await.ok();
    assert_eq!(stopped.body["desired"], "stopped");
    assert!(nexus_store::agent::get(&host.store, agent.npub).await.unwrap().unwrap().stop_now);
    // Nothing is in flight, so it leaves its worker.
    let gone = eventually(&host, &owner, &path, |status| status["placement"] == "unplaced").await;
    assert_eq!(gone["reason"]["code"], "stopped");
    // An empty body means after the tick.
    let stop = host.send(By::Key(&owner), "POST", &format!("{path}/stop"), Vec::new(), &[]).await.ok();
    assert_eq!(stop.body["desired"], "stopped");
}

async fn eventually(host: &Host, owner: &Key, path: &str, is: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..200 {
        last = host.get(By::Key(owner), path).await.ok().body;
        if is(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never came: {last}");
}

#[tokio::test]
async fn a_change_needs_what_was_read_and_lists_filter() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    let other = host.create(&owner, &Key::new(3), "bob").await;
    let path = format!("/v1/agents/{npub}");
    let etag = host.get(By::Key(&owner), &path).await.ok().headers["etag"].to_str().unwrap().to_owned();
    let change = json!({ "config": { "heartbeat_secs": 60, "labels": { "team": "red" }, "region": "eu" } });
    assert_eq!(patch(&host, By::Key(&owner), &path, None, &change).await.code(), "precondition_required");
    assert_eq!(patch(&host, By::Key(&owner), &path, Some("\"99\""), &change).await.code(), "precondition_failed");
    let changed = patch(&host, By::Key(&owner), &path, Some(&etag), &change).await.ok();
    assert_eq!((&changed.body["config"]["heartbeat_secs"], &changed.body["region"]), (&json!(60), &json!("eu")));
    assert_ne!(changed.headers["etag"], etag.as_str());
    assert_eq!(patch(&host, By::Key(&owner), &path, Some(&etag), &change).await.code(), "precondition_failed");
    // Limits are not configuration; names stay unique.
    for (bad, code) in [
        (json!({ "config": { "limits": {} } }), "invalid"),
        (json!({ "config": { "heartbeat_secs": 1 } }), "invalid"),
        (json!({ "name": "bob" }), "name_taken"),
        (json!({ "name": "Bob" }), "invalid"),
        (json!({ "owner": "x" }), "invalid_json"),
    ] {
        assert_eq!(patch(&host, By::Key(&owner), &path, Some("*"), &bad).await.code(), code, "{bad}");
    }

    let names = |answer: Answer| {
        let agents = answer.ok().body["agents"].as_array().unwrap().clone();
        agents.iter().map(|agent| agent["npub"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for query in ["label=team%3Dred", "region=eu", "name=ada"] {
        assert_eq!(
            names(host.get(By::Key(&owner), &format!("/v1/agents?{query}")).await),
            std::slice::from_ref(&npub),
            "{query}"
        );
    }
    host.post(By::Key(&owner), &format!("/v1/agents/{other}/start"), &json!({})).await.ok();
    assert_eq!(names(host.get(By::Key(&owner), "/v1/agents?state=running").await), std::slice::from_ref(&other));
    assert_eq!(names(host.get(By::Key(&owner), "/v1/agents?state=spawning").await).len(), 2);
    // Pages meet without a gap.
    let first = host.get(By::Key(&owner), "/v1/agents?limit=1").await.ok();
    let next = first.body["next"].as_str().unwrap().to_owned();
    let second = host.get(By::Key(&owner), &format!("/v1/agents?limit=1&after={next}")).await.ok();
    let third = second.body["next"].as_str().unwrap().to_owned();
    assert_eq!(
        host.get(By::Key(&owner), &format!("/v1/agents?after={third}")).await.ok().body,
        json!({ "agents": [], "next": null })
    );
    let mut both = [names(first), names(second)].concat();
    both.sort();
    let mut all = [npub, other];
    all.sort();
    assert_eq!(both, all);
}

#[tokio::test]
async fn only_the_owner_replaces_the_policy_and_only_forward() {
    let host = Host::start().await;
    let (owner, agent, stranger) = (Key::new(1), Key::new(2), Key::new(3));
    let npub = host.create(&owner, &agent, "ada").await;
    let path = format!("/v1/agents/{npub}/policy");
    let policy = |key: &Key, version| json!(key.policy(agent.npub(), version, host.clock.now()));
    let put = async |by: By<'_>, body: &Value| host.send(by, "PUT", &path, body.to_string().into_bytes(), &[]).await;
    assert_eq!(put(By::Key(&owner), &policy(&owner, 1)).await.code(), "policy_too_old");
    assert_eq!(put(By::Key(&owner), &policy(&stranger, 2)).await.code(), "policy_invalid");
    let token = host.token(&owner, &["read", "operate", "configure", "billing"]).await;
    assert_eq!(put(By::Token(&token), &policy(&owner, 2)).await.code(), "owner_key_required");
    let through_patch = json!({ "policy": policy(&owner, 2) });
    let agent_path = format!("/v1/agents/{npub}");
    assert_eq!(
        patch(&host, By::Token(&token), &agent_path, Some("*"), &through_patch).await.code(),
        "owner_key_required"
    );
    let mixed = json!({ "policy": policy(&owner, 2), "name": "bob" });
    assert_eq!(patch(&host, By::Key(&owner), &agent_path, Some("*"), &mixed).await.code(), "invalid");
    let mut forged = policy(&owner, 2);
    forged["content"] = json!(forged["content"].as_str().unwrap().replace("1000000", "9000000"));
    assert_eq!(put(By::Key(&owner), &forged).await.code(), "policy_invalid");

    let second = policy(&owner, 2);
    put(By::Key(&owner), &second).await.ok();
    patch(&host, By::Key(&owner), &agent_path, Some("*"), &json!({ "policy": policy(&owner, 5) })).await.ok();
    assert_eq!(put(By::Key(&owner), &second).await.code(), "policy_too_old");
    let read = host.get(By::Token(&token), &path).await.ok();
    assert_eq!((&read.body["version"], &read.body["event"]["kind"]), (&json!(5), &json!(30_078)));
}

#[tokio::test]
async fn a_manual_tick_is_in_the_inbox_once_and_its_text_is_sealed() {
    let host = Host::start().await;
    let (owner, agent) = (Key::new(1), Key::new(2));
    let npub = host.create(&owner, &agent, "ada").await;
    let path = format!("/v1/agents/{npub}/ticks");
    assert_eq!(
        host.get(By::Key(&owner), &format!("/v1/agents/{npub}")).await.ok().body["inbox_recipient"],
        INBOX_RECIPIENT
    );
    let body = json!({ "sealed_text": recipient_envelope() });
    let ask = async |key: &str, body: &Value| {
        host.send(By::Key(&owner), "POST", &path, body.to_string().into_bytes(), &[("idempotency-key", key)]).await
    };
    let first = ask("one", &body).await.ok();
    assert_eq!((first.status.as_u16(), &first.body["reason"]["code"]), (202, &json!("stopped")));
    assert_eq!(ask("one", &body).await.ok().body, first.body);
    assert_eq!(ask("one", &json!({})).await.code(), "idempotency_mismatch");
    let waiting = inbox::pending(&host.store, agent.npub(), 10).await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!((waiting[0].trigger, waiting[0].sender), (Trigger::Manual, Some(owner.npub())));
    assert_eq!(waiting[0].payload, recipient_envelope().into_bytes());
    let view = host.get(By::Key(&owner), &format!("/v1/agents/{npub}/inbox")).await.ok();
    assert_eq!((&view.body["rows"], &view.body["oldest"][0]["trigger"]), (&json!(1), &json!("manual")));
    // Clear text has no business here.
    assert_eq!(ask("two", &json!({ "sealed_text": "buy milk" })).await.code(), "envelope_invalid");
    for n in 1..inbox::MAX_ROWS {
        let item = inbox::NewItem {
            npub: agent.npub(),
            external_id: n.to_string(),
            trigger: Trigger::Manual,
            sender: None,
            received_at: UnixMs(n),
            payload: Vec::new(),
        };
        inbox::put(&host.store, item).await.unwrap();
    }
    let full = host.post(By::Key(&owner), &path, &json!({})).await;
    assert_eq!((full.status.as_u16(), full.code()), (429, "inbox_full"));
}

#[tokio::test]
async fn history_is_paged_with_its_reasons() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    host.post(By::Key(&owner), &format!("/v1/agents/{npub}/start"), &json!({})).await.ok();
    let worker = Worker::start(&host, 1).await;
    let agent = worker.hosts(&npub).await;
    let mut ids = Vec::new();
    for n in 0..3_u8 {
        let (fence, at) = worker.at();
        let id = TickId::new(at.plus_ms(i64::from(n)), [n; 10]);
        let skip = Skip {
            fence,
            npub: agent.npub,
            generation: agent.generation,
            tick: id,
            trigger: Trigger::Heartbeat,
            at,
            reason: "nothing_new".into(),
            discard: Vec::new(),
            change: Change::default(),
            events: Vec::new(),
        };
        tick::skip(&host.store, skip).await.unwrap();
        ids.push(id.to_string());
    }
    let path = format!("/v1/agents/{npub}/ticks");
    let page = host.get(By::Key(&owner), &format!("{path}?limit=2")).await.ok().body;
    assert_eq!((&page["ticks"][0]["id"], &page["next"]), (&json!(ids[2]), &json!(ids[1])));
    assert_eq!((&page["ticks"][0]["status"], &page["ticks"][0]["reason"]), (&json!("skipped"), &json!("nothing_new")));
    let rest = host.get(By::Key(&owner), &format!("{path}?limit=2&before={}", ids[1])).await.ok().body;
    assert_eq!((rest["ticks"].as_array().unwrap().len(), &rest["ticks"][0]["id"]), (1, &json!(ids[0])));
    assert_eq!(host.get(By::Key(&owner), &format!("{path}/{}", ids[1])).await.ok().body["trigger"], "heartbeat");
    assert_eq!(host.get(By::Key(&owner), &format!("{path}/nonsense")).await.code(), "not_found");
    assert_eq!(host.get(By::Key(&owner), &format!("{path}?before=x")).await.code(), "invalid");
    let status = host.get(By::Key(&owner), &format!("/v1/agents/{npub}")).await.ok().body;
    assert_eq!(status["last_ticks"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn an_invoice_comes_from_a_worker_or_says_why_not() {
    let host = Host::start_with(|config| config.invoice_wait_ms = 300).await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    let path = format!("/v1/agents/{npub}/invoices");
    let ask = |sats: u64| {
        let (host, path, owner) = (&host, &path, &owner);
        async move { host.post(By::Key(owner), path, &json!({ "amount_sats": sats, "memo": "hi" })).await }
    };
    assert_eq!(ask(0).await.code(), "invalid");
    let nobody = ask(1_000).await;
    assert_eq!((nobody.status.as_u16(), nobody.code()), (503, "wallet_unavailable"));
    assert!(nobody.body["detail"].as_str().unwrap().contains("no worker"), "{}", nobody.text);

    // The request alone places a stopped agent, for service.
    let worker = Worker::start(&host, 1).await;
    let answer = async |said: Said| {
        let agent = worker.hosts(&npub).await;
        loop {
            let asked = wallet_request::waiting(&host.store, agent.npub, UnixMs(0)).await.unwrap();
            if let Some(request) = asked.iter().find(|request| request.body.contains("2000000")) {
                assert_eq!(agent.purpose.as_str(), "service");
                let (fence, id) = (worker.fence, &request.id);
                return wallet_request::answer(&host.store, fence, agent.npub, agent.generation, id, said, None)
                    .await
                    .unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    worker.hosts(&npub).await;
    let hash = Hash32::from_bytes([7; 32]);
    let made =
        json!({ "bolt11": "lnbcrt1", "payment_hash": hash, "amount_msat": 2_000_000, "expires_at": 99 }).to_string();
    let (invoice, ()) = tokio::join!(ask(2_000), answer(Said::Done(made)));
    assert_eq!(invoice.status, 201);
    let expected = json!({ "bolt11": "lnbcrt1", "payment_hash": hash, "amount_sats": 2_000, "expires_at_ms": 99 });
    assert_eq!(invoice.body, expected);
    let (failed, ()) = tokio::join!(ask(2_000), answer(Said::Failed("the mint is down".into())));
    assert_eq!((failed.code(), &failed.body["detail"]), ("wallet_unavailable", &json!("the mint is down")));
    assert_eq!(failed.headers["retry-after"], "5");
}

#[tokio::test]
async fn a_wallets_connection_reaches_the_worker_sealed_or_not_at_all() {
    let host = Host::start_with(|config| config.invoice_wait_ms = 300).await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    let path = format!("/v1/agents/{npub}/wallet");
    let uri = format!("nostr+walletconnect://{}?relay=wss://r.example&secret={}", "7".repeat(64), "1".repeat(64));
    let sealed = recipient_envelope();
    let put = async |by: By<'_>, sealed: &str| {
        host.send(by, "PUT", &path, json!({ "sealed": sealed }).to_string().into_bytes(), &[]).await
    };
    let clear = put(By::Key(&owner), &uri).await;
    assert!(clear.status.is_client_error() && !clear.text.contains(&"1".repeat(64)), "{}", clear.text);
    let nobody = put(By::Key(&owner), &sealed).await;
    assert_eq!((nobody.status.as_u16(), nobody.code()), (503, "wallet_unavailable"));

    // That one is never answered.
    let missed = wallet_request::waiting(&host.store, Key::new(2).npub(), UnixMs(0)).await.unwrap();
    let missed: Vec<String> = missed.into_iter().map(|request| request.id).collect();
    let worker = Worker::start(&host, 1).await;
    worker.hosts(&npub).await;
    let answer = async |said: Said| {
        let agent = worker.hosts(&npub).await;
        loop {
            let asked = wallet_request::waiting(&host.store, agent.npub, UnixMs(0)).await.unwrap();
            let new =
                |request: &&wallet_request::WalletRequest| request.kind == "connect" && !missed.contains(&request.id);
            if let Some(request) = asked.iter().find(new) {
                assert!(request.body.contains("BEGIN AGE"), "{}", request.body);
                let (fence, id) = (worker.fence, &request.id);
                wallet_request::answer(&host.store, fence, agent.npub, agent.generation, id, said, None).await.unwrap();
                return id.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let token = host.token(&owner, &["configure"]).await;
    let done = Said::Done(json!({ "balance_msat": 21_000 }).to_string());
    let (kept, id) = tokio::join!(put(By::Token(&token), &sealed), answer(done));
    assert_eq!((kept.status.as_u16(), &kept.body), (200, &json!({ "balance_msat": 21_000 })));
    // What was sealed does not stay in the row.
    let agent = worker.hosts(&npub).await;
    let row = wallet_request::get(&host.store, agent.npub, &id).await.unwrap().unwrap();
    assert_eq!(row.body, "{}");
    let why = "the connection is to another wallet than the policy names";
    let (refused, _) = tokio::join!(put(By::Key(&owner), &sealed), answer(Said::Failed(why.into())));
    assert_eq!((refused.status.as_u16(), refused.code()), (422, "wallet_refused"));
    assert_eq!(refused.body["detail"], why);
}

#[tokio::test]
async fn sats_keep_an_agent_from_being_deleted_unless_given_up_by_the_key() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    let path = format!("/v1/agents/{npub}");
    host.post(By::Key(&owner), &format!("{path}/start"), &json!({})).await.ok();
    let worker = Worker::start(&host, 1).await;
    worker.fund(&worker.hosts(&npub).await, 1_234).await;
    let delete =
        async |by: By<'_>, query: &str| host.send(by, "DELETE", &format!("{path}{query}"), Vec::new(), &[]).await;
    let refused = delete(By::Key(&owner), "").await;
    assert_eq!((refused.code(), &refused.body["balance_sats"]), ("balance_remains", &json!(1_234)));
    let token = host.token(&owner, &["read", "operate", "configure", "billing"]).await;
    assert_eq!(delete(By::Token(&token), "").await.code(), "balance_remains");
    assert_eq!(delete(By::Token(&token), "?forfeit=true").await.code(), "owner_key_required");
    assert_eq!(delete(By::Key(&owner), "?forfeit=yes").await.code(), "bad_request");
    assert_eq!(delete(By::Key(&owner), "?forfeit=true").await.status, 204);
    assert_eq!(host.get(By::Key(&owner), &path).await.code(), "not_found");
    // A stale worker's write finds nothing to write to, and an empty agent goes without more ado.
    let npub = host.create(&owner, &Key::new(3), "bob").await;
    let answer = host.send(By::Token(&token), "DELETE", &format!("/v1/agents/{npub}"), Vec::new(), &[]).await;
    assert_eq!(answer.status, 204);
}

#[tokio::test]
async fn a_reader_gets_its_own_wraps_and_no_others() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    let token = host.token(&owner, &["read"]).await;
    for by in [By::Key(&owner), By::Token(&token)] {
        let wraps = host.get(by, &format!("/v1/agents/{npub}/wraps")).await.ok().body;
        let own =
            json!([{ "key": "view", "number": 1, "recipient": owner.npub(), "ciphertext": "closed to the owner" }]);
        assert_eq!(wraps["wraps"], own);
    }
}

#[tokio::test]
async fn every_change_is_in_the_audit_with_who_did_it() {
    let host = Host::start().await;
    let (owner, agent) = (Key::new(1), Key::new(2));
    let npub = host.create(&owner, &agent, "ada").await;
    let path = format!("/v1/agents/{npub}");
    let token = host.token(&owner, &["operate", "configure"]).await;
    host.post(By::Token(&token), &format!("{path}/start"), &json!({})).await.ok();
    host.post(By::Token(&token), &format!("{path}/ticks"), &json!({})).await.ok();
    host.post(By::Key(&owner), &format!("{path}/stop"), &json!({})).await.ok();
    patch(&host, By::Token(&token), &path, Some("*"), &json!({ "config": { "heartbeat_secs": 60 } })).await.ok();
    let policy = json!({ "policy": owner.policy(agent.npub(), 2, host.clock.now()) });
    patch(&host, By::Key(&owner), &path, Some("*"), &policy).await.ok();
    host.send(By::Key(&owner), "DELETE", &path, Vec::new(), &[]).await.ok();
    let rows = host.get(By::Key(&owner), "/v1/account/audit").await.ok().body["rows"].clone();
    let actions: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect();
    let expected = [
        "account.create",
        "agent.create",
        "token.create",
        "agent.start",
        "agent.tick",
        "agent.stop",
        "agent.change",
        "agent.policy",
        "agent.delete",
    ];
    assert_eq!(actions, expected);
    assert!(rows[3]["actor"].as_str().unwrap().starts_with("token:"));
    assert_eq!((&rows[5]["actor"], &rows[5]["target"]), (&json!(owner.npub()), &json!(npub)));
    // A refused call changes nothing, so it leaves nothing.
    host.post(By::Key(&owner), &format!("{path}/start"), &json!({})).await;
    let after = host.get(By::Key(&owner), "/v1/account/audit?limit=200").await.ok().body["rows"].clone();
    assert_eq!(after.as_array().unwrap().len(), expected.len());
}
