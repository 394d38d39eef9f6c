//! Attended custody as the API sees it: nothing stored, closed things passed on, and only the owner's key may ask.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test")]

mod common;

use common::worker::Worker;
use common::{By, Host, Key, recipient_envelope};
use nexus_core::policy::{Custody, Policy};
use nexus_seal::OwnerCommand;
use nexus_seal::event::timestamp;
use nexus_seal::policy::unsigned_policy;
use nexus_store::agent;
use nexus_store::wallet_request::{self, Answer as Said};
use nostr::event::Event;
use serde_json::{Value, json};

fn policy(host: &Host, owner: &Key, agent: &Key, custody: Custody, version: u64) -> Event {
    use nexus_core::Clock;
    let policy = Policy { custody, version, ..Policy::default_for(agent.npub()) };
    owner.sign(unsigned_policy(&owner.npub(), &policy, timestamp(host.clock.now())).unwrap())
}

fn attended(host: &Host, owner: &Key, agent: &Key, name: &str) -> Value {
    let mut body = host.agent_body(owner, agent, name);
    body.as_object_mut().unwrap().remove("sealed_key");
    body["policy"] = json!(policy(host, owner, agent, Custody::Attended, 1));
    body
}

#[tokio::test]
async fn an_attended_agent_stores_no_key() {
    let host = Host::start().await;
    let (owner, key) = (Key::new(1), Key::new(2));
    let create = async |body: &Value| host.create_with(By::Key(&owner), &owner, &key, body, &[]).await;
    let mut with_key = attended(&host, &owner, &key, "ada");
    with_key["sealed_key"] = json!(recipient_envelope());
    assert_eq!(create(&with_key).await.code(), "invalid");
    let mut with_wrap = attended(&host, &owner, &key, "ada");
    let wrap = json!({ "key": "data", "number": 1, "recipient": "pool:main", "ciphertext": "closed to the pool" });
    with_wrap["wraps"].as_array_mut().unwrap().push(wrap);
    assert_eq!(create(&with_wrap).await.code(), "invalid");
    let made = create(&attended(&host, &owner, &key, "ada")).await.ok();
    assert_eq!(made.body["reason"]["code"], "stopped");

    // Nor later; and no policy makes another custody of it.
    let path = format!("/v1/agents/{}", key.npub());
    let body = json!({ "sealed_key": recipient_envelope() }).to_string().into_bytes();
    let sealed = host.send(By::Key(&owner), "PUT", &format!("{path}/sealed-key"), body, &[]).await;
    assert_eq!(sealed.code(), "invalid");
    for custody in [Custody::Sealed, Custody::Bunker] {
        let body = json!(policy(&host, &owner, &key, custody, 2)).to_string().into_bytes();
        let put = host.send(By::Key(&owner), "PUT", &format!("{path}/policy"), body, &[]).await;
        assert_eq!(put.code(), "policy_invalid", "{custody:?}: {}", put.text);
    }
    let stored = agent::sealed(&host.store, key.npub()).await.unwrap().unwrap();
    assert_eq!(stored.sealed_key, None);
}

#[tokio::test]
async fn threshold_is_refused_by_name() {
    let host = Host::start().await;
    let (owner, key) = (Key::new(1), Key::new(2));
    let mut body = attended(&host, &owner, &key, "ada");
    let event = json!(policy(&host, &owner, &key, Custody::Attended, 1)).to_string();
    let event: Value = serde_json::from_str(&event).unwrap();
    let content = event["content"].as_str().unwrap().replace("attended", "threshold");
    let unsigned = nexus_seal::event::unsigned(
        &owner.npub(),
        30_078,
        timestamp(nexus_core::UnixMs(0)),
        vec![nexus_seal::event::tag("d", [format!("nexus-policy:{}", key.npub()).as_str()])],
        content,
    );
    body["policy"] = json!(owner.sign(unsigned));
    let refused = host.create_with(By::Key(&owner), &owner, &key, &body, &[]).await;
    assert_eq!(refused.code(), "policy_invalid");
    assert!(refused.text.contains("threshold"), "{}", refused.text);
}

#[tokio::test]
async fn only_the_owner_asks_for_an_offer_and_what_it_sends_is_passed_on_as_it_is() {
    let host = Host::start_with(|config| config.invoice_wait_ms = 300).await;
    let (owner, key, stranger) = (Key::new(1), Key::new(2), Key::new(3));
    host.create_with(By::Key(&owner), &owner, &key, &attended(&host, &owner, &key, "ada"), &[]).await.ok();
    let npub = key.npub().to_string();
    let path = format!("/v1/agents/{npub}/unlock");
    let body = json!({ "sealed": recipient_envelope() });
    let token = host.token(&owner, &["read", "operate", "configure", "billing"]).await;
    // Somebody else's account, and a token with every scope.
    host.create(&stranger, &Key::new(4), "eve").await;
    assert_eq!(host.get(By::Key(&stranger), &path).await.code(), "not_found");
    assert_eq!(host.post(By::Key(&stranger), &path, &body).await.code(), "not_found");
    assert_eq!(host.get(By::Token(&token), &path).await.code(), "owner_key_required");
    // Stopped, and then with no worker.
    assert_eq!(host.get(By::Key(&owner), &path).await.code(), "not_running");
    host.post(By::Key(&owner), &format!("/v1/agents/{npub}/start"), &json!({})).await.ok();
    assert_eq!(host.get(By::Key(&owner), &path).await.code(), "unavailable");
    assert_eq!(host.post(By::Key(&owner), &path, &json!({ "sealed": "sesame" })).await.code(), "envelope_invalid");
    // An agent whose key is sealed has nothing to unlock.
    host.create(&owner, &Key::new(5), "bob").await;
    let bob = format!("/v1/agents/{}", Key::new(5).npub());
    host.post(By::Key(&owner), &format!("{bob}/start"), &json!({})).await.ok();
    assert_eq!(host.get(By::Key(&owner), &format!("{bob}/unlock")).await.code(), "unlock_refused");

    let worker = Worker::start(&host, 1).await;
    let placed = worker.hosts(&npub).await;
    let told = tokio::spawn({
        let (store, fence, npub, generation) = (host.store.clone(), worker.fence, key.npub(), placed.generation);
        let clock = host.clock.clone();
        async move {
            loop {
                use nexus_core::Clock;
                let waiting = wallet_request::waiting(&store, npub, clock.now()).await.unwrap();
                if let Some(request) = waiting.into_iter().find(|request| request.kind == "unlock") {
                    let said = Said::Failed("no".into());
                    wallet_request::answer(&store, fence, npub, generation, &request.id, said, None).await.unwrap();
                    let kept = wallet_request::get(&store, npub, &request.id).await.unwrap().unwrap();
                    return (request.body, kept.body);
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    });
    let refused = host.post(By::Key(&owner), &path, &body).await;
    let (passed_on, kept) = told.await.unwrap();
    let command: OwnerCommand = serde_json::from_str(&passed_on).unwrap();
    assert_eq!(command.body, body.to_string());
    assert_eq!(nexus_seal::event::npub_of(&command.event.pubkey), owner.npub());
    assert_eq!(kept, "{}", "what was asked is not kept");
    assert!(["unlock_refused", "unavailable"].contains(&refused.code()), "{}", refused.text);
}
