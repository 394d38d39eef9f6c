//! What is addressed to a hosted agent is stored with its inbox row, or not at all.

mod common;

use common::*;
use nexus_bus::{Bus, Heard, Wake};
use nexus_core::AgentConfig;
use nexus_core::trigger::Trigger;
use nexus_nostr::parse_event;
use nexus_store::inbox::{self, NewItem};
use serde_json::json;

#[tokio::test]
async fn an_acknowledged_mention_is_in_the_inbox_and_wakes() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), closed()).await;
    let (agent, owner, stranger) = (keys(1), keys(2), keys(3));
    let npub = relay.host(&agent, &owner, AgentConfig::default()).await;
    let mut wakes = relay.bus.subscribe();
    let mut client = relay.client().await;
    let to_agent = || tags([["p", &agent.public_key().to_hex()]]);
    let mention = build(&stranger, 1, to_agent(), "hello");
    let wrap = build(&keys(77), 1_059, to_agent(), "ciphertext");
    client.accept(&mention).await;
    client.accept(&wrap).await;
    assert_eq!(wakes.recv().await, Ok(Heard::Wake(Wake::Agent { npub })));
    let rows = inbox::pending(&relay.store, npub, 10).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.trigger).collect::<Vec<_>>(), [Trigger::Mention, Trigger::Dm]);
    assert_eq!(rows[0].external_id, mention.id.to_hex());
    assert_eq!((rows[0].sender, rows[1].sender), (Some(common::npub(&stranger)), None));
    assert_eq!(parse_event(&rows[0].payload).unwrap(), mention);

    assert_eq!(client.publish(&mention).await, (true, "duplicate: already have this event".into()));
    assert_eq!(inbox::pending(&relay.store, npub, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn only_chosen_triggers_wake_and_never_ones_own_event() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), closed()).await;
    let (agent, owner) = (keys(1), keys(2));
    let triggers = [Trigger::Dm, Trigger::Kind(30_023), Trigger::Kind(20_001)].into();
    let npub = relay.host(&agent, &owner, AgentConfig { triggers, ..AgentConfig::default() }).await;
    let mut client = relay.client().await;
    let to_agent = || tags([["p", &agent.public_key().to_hex()], ["d", "x"]]);
    client.accept(&build(&keys(3), 1, to_agent(), "mentions are off")).await;
    client.accept(&build(&agent, 4, to_agent(), "to itself")).await;
    client.accept(&build(&keys(3), 30_023, to_agent(), "an article")).await;
    client.accept(&build(&keys(3), 20_001, to_agent(), "ephemeral")).await;
    let rows = inbox::pending(&relay.store, npub, 10).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.trigger).collect::<Vec<_>>(), [Trigger::Kind(30_023), Trigger::Kind(20_001)]);
}

#[tokio::test]
async fn a_full_inbox_refuses_the_event_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), closed()).await;
    let agent = keys(1);
    let npub = relay.host(&agent, &keys(2), AgentConfig::default()).await;
    let filler = |n: u8| NewItem {
        npub,
        external_id: n.to_string(),
        trigger: Trigger::Manual,
        sender: None,
        received_at: nexus_core::UnixMs(0),
        payload: vec![n; 262_100],
    };
    for n in 0..4 {
        assert_eq!(inbox::put(&relay.store, filler(n)).await.unwrap(), inbox::Put::Stored);
    }
    let mut client = relay.client().await;
    let mention = build(&keys(3), 1, tags([["p", &agent.public_key().to_hex()]]), &"x".repeat(1_000));
    let (accepted, why) = client.publish(&mention).await;
    assert!(!accepted && why.starts_with("rate-limited:"), "{why}");
    assert!(client.ask("a", json!({"kinds": [1]})).await.is_empty(), "nor is it stored");
}

#[tokio::test]
async fn strangers_write_to_those_who_live_here_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, owner, provider, stranger) = (keys(1), keys(2), keys(4), keys(3));
    let config = nexus_relay::RelayConfig { providers: vec![npub(&provider)], ..closed() };
    let relay = TestRelay::start(dir.path(), config).await;
    relay.host(&agent, &owner, AgentConfig::default()).await;
    let mut client = relay.client().await;
    let to = |keys: &nostr::key::Keys| tags([["p", &keys.public_key().to_hex()]]);
    let mention = build(&stranger, 1, to(&agent), "hello");
    for welcome in [
        &build(&agent, 1, vec![], "an agent's post"),
        &build(&owner, 30_078, tags([["d", "x"]]), "an owner's"),
        &build(&stranger, 24_133, to(&owner), "to an owner"),
        &build(&provider, 31_990, tags([["d", "x"]]), "{}"),
        &mention,
        &build(&stranger, 5, tags([["e", &mention.id.to_hex()]]), ""),
    ] {
        client.accept(welcome).await;
    }
    for unwelcome in [
        build(&stranger, 1, vec![], "hello world"),
        build(&stranger, 1, to(&keys(9)), "to somebody else"),
        build(&stranger, 0, vec![], "{}"),
        build(&provider, 1, vec![], "advertising"),
        build(&stranger, 5, tags([["e", &"ab".repeat(32)]]), ""),
    ] {
        let (accepted, why) = client.publish(&unwelcome).await;
        assert!(!accepted && why.starts_with("blocked:"), "kind {}: {why}", unwelcome.kind);
    }
}

#[tokio::test]
async fn inbox_rows_survive_a_restart_with_their_events() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), closed()).await;
    let agent = keys(1);
    let npub = relay.host(&agent, &keys(2), AgentConfig::default()).await;
    let mention = build(&keys(3), 1, tags([["p", &agent.public_key().to_hex()]]), "hello");
    relay.client().await.accept(&mention).await;
    relay.stop().await;
    let relay = TestRelay::start(dir.path(), closed()).await;
    assert_eq!(inbox::pending(&relay.store, npub, 10).await.unwrap().len(), 1);
    let mut client = relay.client().await;
    assert_eq!(client.publish(&mention).await, (true, "duplicate: already have this event".into()));
    assert_eq!(inbox::pending(&relay.store, npub, 10).await.unwrap().len(), 1);
}
