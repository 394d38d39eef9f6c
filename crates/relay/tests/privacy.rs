//! Private messages leave only to their reader (NIP-42).

mod common;

use common::*;
use nexus_nostr::event::{Head, sign};
use serde_json::json;

#[tokio::test]
async fn private_messages_are_for_the_reader_who_proved_it() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let (sender, reader, stranger) = (keys(1), keys(2), keys(3));
    let reader_key = reader.public_key().to_hex();
    let message = build(&sender, 4, tags([["p", &reader_key]]), "ciphertext");
    let wrap = build(&keys(77), 1_059, tags([["p", &reader_key]]), "ciphertext");
    let mut client = relay.client().await;
    client.accept(&message).await;
    client.accept(&wrap).await;

    let filter = json!({"kinds": [4, 1_059]});
    assert!(client.refused("a", filter.clone()).await.starts_with("auth-required:"));
    assert!(client.ask("b", json!({})).await.is_empty(), "nor by asking for everything");
    assert!(client.ask("c", json!({"ids": [wrap.id]})).await.is_empty(), "nor by its id");

    assert_eq!(client.authenticate(&stranger).await, (true, String::new()));
    assert!(client.ask("a", filter.clone()).await.is_empty());

    let mut client = relay.client().await;
    client.authenticate(&reader).await;
    let mut found = client.ask("a", filter.clone()).await;
    found.sort();
    let mut both = vec![message.id.to_hex(), wrap.id.to_hex()];
    both.sort();
    assert_eq!(found, both);

    let mut client = relay.client().await;
    client.authenticate(&sender).await;
    assert_eq!(client.ask("a", filter).await, [message.id.to_hex()], "an author of kind 4 reads it, too");
}

#[tokio::test]
async fn live_private_messages_pass_strangers_by() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let (reader, stranger) = (keys(2), keys(3));
    let mut everyone = relay.client().await;
    assert!(everyone.ask("a", json!({})).await.is_empty());
    let mut theirs = relay.client().await;
    theirs.authenticate(&stranger).await;
    assert!(theirs.ask("a", json!({"kinds": [1_059]})).await.is_empty());
    let mut ours = relay.client().await;
    ours.authenticate(&reader).await;
    assert!(ours.ask("a", json!({"kinds": [1_059]})).await.is_empty());
    let wrap = build(&keys(77), 1_059, tags([["p", &reader.public_key().to_hex()]]), "ciphertext");
    relay.client().await.accept(&wrap).await;
    assert_eq!(ours.next().await[2]["id"], wrap.id.to_hex());
    everyone.nothing().await;
    theirs.nothing().await;
}

#[tokio::test]
async fn an_answer_counts_for_this_connection_this_relay_and_now() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let reader = keys(2);
    let mut client = relay.client().await;
    let other_challenge = relay.client().await.challenge;
    let answer = |at: i64, url: &str, challenge: &str| {
        let answer = nexus_nostr::auth::answer(Head::new(npub(&reader), at), url, challenge);
        sign(answer, &reader, &[1; 32]).unwrap()
    };
    let (url, challenge) = (relay.url(), client.challenge.clone());
    assert_ne!(challenge, other_challenge);
    for bad in [
        answer(now(), &url, &other_challenge),
        answer(now(), "ws://evil.example:7778", &challenge),
        answer(now() - 3_600, &url, &challenge),
        build(&reader, 1, tags([["relay", &url], ["challenge", &challenge]]), ""),
    ] {
        let (accepted, why) = client.send_auth(&bad).await;
        assert!(!accepted && why.starts_with("restricted:"), "{why}");
    }
    let mut forged = answer(now(), &url, &challenge);
    forged.pubkey = keys(3).public_key();
    assert!(!client.send_auth(&forged).await.0);
    assert!(client.refused("a", json!({"kinds": [4]})).await.starts_with("auth-required:"));
    let localhost = format!("ws://localhost:{}/", relay.address.port());
    assert!(client.send_auth(&answer(now(), &localhost, &challenge)).await.0);
    let (accepted, _) = client.publish(&answer(now(), &url, &challenge)).await;
    assert!(!accepted, "an authentication is not an event to store");
}
