//! NIP-01, 9, 11, 40 and 70, over a socket.

mod common;

use std::time::Duration;

use common::*;
use nexus_relay::RelayConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn stored_events_come_newest_first_and_live_ones_once() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let (mut writer, mut reader) = (relay.client().await, relay.client().await);
    let author = keys(1);
    let old = build_at(&author, now() - 20, 1, tags([["t", "x"]]), "old");
    let new = build_at(&author, now() - 10, 1, tags([["t", "x"]]), "new");
    for event in [&new, &old] {
        writer.accept(event).await;
    }
    assert_eq!(reader.ask("a", json!({"#t": ["x"], "kinds": [1]})).await, [new.id.to_hex(), old.id.to_hex()]);
    assert_eq!(reader.ask("b", json!({"limit": 1})).await, [new.id.to_hex()]);
    assert_eq!(reader.ask("b", json!({"kinds": []})).await, Vec::<String>::new(), "an empty list matches nothing");
    let live = build(&author, 1, tags([["t", "x"]]), "live");
    writer.accept(&live).await;
    let frame = reader.next().await;
    assert_eq!((frame[0].as_str(), frame[1].as_str()), (Some("EVENT"), Some("a")));
    assert_eq!(frame[2], serde_json::to_value(&live).unwrap());
    reader.nothing().await;
    reader.send(json!(["CLOSE", "a"])).await;
    assert!(reader.ask("c", json!({"kinds": [9]})).await.is_empty());
    writer.accept(&build(&author, 1, tags([["t", "x"]]), "after")).await;
    reader.nothing().await;
}

#[tokio::test]
async fn a_forged_event_is_refused_and_a_known_one_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let mut client = relay.client().await;
    let event = build(&keys(1), 1, vec![], "mine");
    let mut other_text = event.clone();
    other_text.content = "not mine".into();
    assert_eq!(client.publish(&other_text).await, (false, "invalid: the id is not the hash of the event".into()));
    let mut other_author = event.clone();
    other_author.pubkey = keys(2).public_key();
    other_author.id = nostr::event::EventId::compute(
        &other_author.pubkey,
        &other_author.created_at,
        &other_author.kind,
        &other_author.tags,
        &other_author.content,
    );
    assert_eq!(client.publish(&other_author).await, (false, "invalid: the signature does not verify".into()));
    client.accept(&event).await;
    let again = client.publish(&event).await;
    assert_eq!(again, (true, "duplicate: already have this event".into()));
    assert_eq!(client.ask("a", json!({})).await, [event.id.to_hex()]);
}

#[tokio::test]
async fn replaceable_kinds_keep_the_newest_and_of_one_second_the_lowest_id() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let (mut client, mut reader) = (relay.client().await, relay.client().await);
    let (author, at) = (keys(1), now() - 5);
    let mut same_second = ["a", "b"].map(|text| build_at(&author, at, 10_002, vec![], text));
    same_second.sort_by_key(|event| event.id);
    let [low, high] = same_second;
    client.accept(&high).await;
    client.accept(&low).await;
    assert_eq!(reader.ask("a", json!({"kinds": [10_002]})).await, [low.id.to_hex()]);
    let (accepted, why) = client.publish(&high).await;
    assert!(!accepted && why.starts_with("replaced:"), "{why}");
    let newer = build_at(&author, at + 1, 10_002, vec![], "c");
    client.accept(&newer).await;
    client.accept(&build_at(&keys(2), at, 10_002, vec![], "other author")).await;
    let mut reader = relay.client().await;
    assert_eq!(
        reader.ask("b", json!({"kinds": [10_002], "authors": [author.public_key()]})).await,
        [newer.id.to_hex()]
    );
}

#[tokio::test]
async fn addressable_kinds_keep_one_for_each_d_and_a_missing_d_is_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let mut client = relay.client().await;
    let (author, at) = (keys(1), now() - 5);
    let first = build_at(&author, at, 39_210, tags([["d", "1"]]), "");
    let second = build_at(&author, at, 39_210, tags([["d", "2"]]), "");
    let without = build_at(&author, at, 39_210, vec![], "");
    let empty = build_at(&author, at + 1, 39_210, tags([["d", ""]]), "");
    for event in [&first, &second, &without, &empty] {
        client.accept(event).await;
    }
    let found = client.ask("a", json!({"kinds": [39_210]})).await;
    assert_eq!(found.len(), 3);
    assert_eq!(found[0], empty.id.to_hex());
    assert!(!found.contains(&without.id.to_hex()));
}

#[tokio::test]
async fn ephemeral_events_pass_through_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let (mut writer, mut reader) = (relay.client().await, relay.client().await);
    assert!(reader.ask("a", json!({"kinds": [24_133]})).await.is_empty());
    let event = build(&keys(1), 24_133, vec![], "x");
    writer.accept(&event).await;
    assert_eq!(reader.next().await[2]["id"], event.id.to_hex());
    assert!(reader.ask("b", json!({"kinds": [24_133]})).await.is_empty());
    let (accepted, _) = writer.publish(&build_at(&keys(1), now() - 3_600, 24_133, vec![], "x")).await;
    assert!(!accepted, "an old ephemeral event is a replay");
}

#[tokio::test]
async fn authors_delete_their_own_events_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let mut client = relay.client().await;
    let (author, other, at) = (keys(1), keys(2), now() - 5);
    let mine = build_at(&author, at, 1, vec![], "mine");
    let theirs = build_at(&other, at, 1, vec![], "theirs");
    let mine_at_address = build_at(&author, at, 30_023, tags([["d", "x"]]), "article");
    let theirs_at_address = build_at(&other, at, 30_023, tags([["d", "x"]]), "article");
    for event in [&mine, &theirs, &mine_at_address, &theirs_at_address] {
        client.accept(event).await;
    }
    let address = |event: &nostr::event::Event| format!("30023:{}:x", event.pubkey.to_hex());
    let deletion = build(
        &author,
        5,
        tags([
            ["e", &mine.id.to_hex()],
            ["e", &theirs.id.to_hex()],
            ["a", &address(&mine_at_address)],
            ["a", &address(&theirs_at_address)],
        ]),
        "",
    );
    client.accept(&deletion).await;
    let left = client.ask("a", json!({"kinds": [1, 30_023]})).await;
    assert_eq!(left.len(), 2);
    assert!(left.contains(&theirs.id.to_hex()) && left.contains(&theirs_at_address.id.to_hex()));
    let (accepted, _) = client.publish(&mine).await;
    assert!(!accepted, "what was deleted stays away");
}

#[tokio::test]
async fn expired_and_far_away_events_are_refused_and_expiring_ones_vanish() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let mut client = relay.client().await;
    let expiring = |at: i64| build(&keys(1), 1, tags([["expiration", &at.to_string()]]), &at.to_string());
    let (accepted, why) = client.publish(&expiring(now() - 1)).await;
    assert_eq!((accepted, why.as_str()), (false, "invalid: it has expired"));
    let (accepted, _) = client.publish(&build_at(&keys(1), now() + 3_600, 1, vec![], "tomorrow")).await;
    assert!(!accepted);
    let soon = expiring(now() + 2);
    client.accept(&soon).await;
    assert_eq!(client.ask("a", json!({"kinds": [1]})).await, [soon.id.to_hex()]);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(client.ask("b", json!({"kinds": [1]})).await.is_empty());
}

#[tokio::test]
async fn a_protected_event_is_its_authors_to_publish() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let mut client = relay.client().await;
    let event = build(&keys(1), 1, vec![nostr::event::Tag::protected()], "mine to publish");
    let (accepted, why) = client.publish(&event).await;
    assert!(!accepted && why.starts_with("auth-required:"), "{why}");
    assert!(client.authenticate(&keys(1)).await.0);
    client.accept(&event).await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let address = relay.address;
    let event = build(&keys(1), 1, vec![], "kept");
    relay.client().await.accept(&event).await;
    relay.stop().await;
    let relay = TestRelay::start_at(dir.path(), open(), address).await;
    let mut client = relay.client().await;
    assert_eq!(client.ask("a", json!({"kinds": [1]})).await, [event.id.to_hex()]);
    assert_eq!(client.publish(&event).await.1, "duplicate: already have this event");
}

#[tokio::test]
async fn a_client_that_writes_and_asks_at_once_finds_what_it_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let mut client = relay.client().await;
    for n in 0..50 {
        client.send(json!(["EVENT", build(&keys(1), 1, vec![], &n.to_string())])).await;
    }
    client.send(json!(["REQ", "a", {"kinds": [1]}])).await;
    let (mut acknowledged, mut found) = (0, 0);
    loop {
        let frame = client.next().await;
        match frame[0].as_str() {
            Some("OK") => acknowledged += 1,
            Some("EVENT") => found += 1,
            Some("EOSE") => break,
            _ => panic!("{frame}"),
        }
    }
    assert_eq!((acknowledged, found), (50, 50));
}

#[tokio::test]
async fn the_information_document_tells_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), RelayConfig { max_subscriptions: 7, ..open() }).await;
    let mut stream = tokio::net::TcpStream::connect(relay.address).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: x\r\nAccept: application/nostr+json\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("content-type: application/nostr+json"), "{head}");
    assert!(head.to_lowercase().contains("access-control-allow-origin: *"), "{head}");
    let document: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(document["limitation"]["max_subscriptions"], 7);
    assert!(document["supported_nips"].as_array().unwrap().contains(&json!(42)));
}
