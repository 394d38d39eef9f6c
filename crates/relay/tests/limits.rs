//! Every bound holds, and who breaks one hurts nobody else.

mod common;

use std::time::Duration;

use common::*;
use nexus_relay::RelayConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn large_events_and_frames_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let mut client = relay.client().await;
    let (accepted, why) = client.publish(&build(&keys(1), 1, vec![], &"x".repeat(66_000))).await;
    assert!(!accepted && why.starts_with("invalid: larger than 65536"), "{why}");
    client.accept(&build(&keys(1), 1, vec![], &"x".repeat(60_000))).await;
    let _ = client.socket.close(None).await;
    let mut client = relay.client().await;
    client.send_text("x".repeat(200_000)).await;
    assert_eq!(client.try_next().await, None, "a frame over the bound ends the connection");
    relay.client().await.accept(&build(&keys(1), 1, vec![], "others go on")).await;
}

#[tokio::test]
async fn subscriptions_and_results_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let config = RelayConfig { max_subscriptions: 2, max_results: 5, ..open() };
    let relay = TestRelay::start(dir.path(), config).await;
    let mut client = relay.client().await;
    let start = now();
    for n in 0..8 {
        client.accept(&build_at(&keys(1), start - n, 1, vec![], &n.to_string())).await;
    }
    assert_eq!(client.ask("a", json!({"kinds": [1], "limit": 1_000})).await.len(), 5);
    assert_eq!(client.ask("b", json!({"kinds": [1], "limit": 0})).await.len(), 0);
    assert!(client.refused("c", json!({})).await.starts_with("rate-limited:"));
    assert_eq!(client.ask("a", json!({"limit": 3})).await.len(), 3, "a name may be used again");
    client.send(json!(["CLOSE", "a"])).await;
    assert_eq!(client.ask("c", json!({"limit": 2})).await.len(), 2);
}

#[tokio::test]
async fn writes_of_an_address_and_of_a_key_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let counted = RelayConfig { trust_loopback: false, ..open() };
    let relay = TestRelay::start(dir.path(), RelayConfig { writes_per_minute_key: 3, ..counted.clone() }).await;
    let mut client = relay.client().await;
    for n in 0..3 {
        client.accept(&build(&keys(1), 1, vec![], &n.to_string())).await;
    }
    assert!(client.publish(&build(&keys(1), 1, vec![], "one too many")).await.1.starts_with("rate-limited:"));
    client.accept(&build(&keys(2), 1, vec![], "another key")).await;
    relay.stop().await;
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), RelayConfig { writes_per_minute_address: 2, ..counted }).await;
    let mut client = relay.client().await;
    for n in 1..3 {
        client.accept(&build(&keys(n), 1, vec![], "x")).await;
    }
    let mut client = relay.client().await;
    assert!(client.publish(&build(&keys(3), 1, vec![], "x")).await.1.starts_with("rate-limited:"));
}

#[tokio::test]
async fn a_forger_loses_its_connection_and_uses_up_nobody_elses_minute() {
    let dir = tempfile::tempdir().unwrap();
    let config = RelayConfig {
        trust_loopback: false,
        frames_per_minute: 300,
        writes_per_minute_key: 5,
        writes_per_minute_address: 1_000,
        ..open()
    };
    let relay = TestRelay::start(dir.path(), config).await;
    let mut client = relay.client().await;
    let mut forged = build(&keys(1), 1, vec![], "x");
    forged.sig = build(&keys(1), 1, vec![], "y").sig;
    let mut refused = 0;
    for _ in 0..50 {
        client.send(json!(["EVENT", forged])).await;
        match client.try_next().await {
            Some(frame) if frame[0] == "OK" => refused += 1,
            Some(_) => {}
            None => break,
        }
    }
    assert!((3..10).contains(&refused), "{refused}");
    relay.client().await.accept(&build(&keys(1), 1, vec![], "the real one")).await;
}

#[tokio::test]
async fn connections_of_an_address_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let config = RelayConfig { trust_loopback: false, max_connections_per_address: 2, ..open() };
    let relay = TestRelay::start(dir.path(), config).await;
    let (first, _second) = (relay.client().await, relay.client().await);
    let mut third = tokio::net::TcpStream::connect(relay.address).await.unwrap();
    assert_eq!(third.read(&mut [0]).await.unwrap_or(0), 0, "the third is turned away without a word");
    drop(first);
    tokio::time::sleep(Duration::from_millis(200)).await;
    relay.client().await;
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let config = RelayConfig { handshake_timeout_secs: 1, ..open() };
    let relay = TestRelay::start(dir.path(), config).await;
    let mut slow = tokio::net::TcpStream::connect(relay.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    let mut client = relay.client().await;
    let ended = tokio::time::timeout(Duration::from_secs(5), slow.read(&mut [0; 64])).await;
    assert_eq!(ended.expect("it ends").unwrap_or(0), 0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.accept(&build(&keys(1), 1, vec![], "a WebSocket goes on")).await;
}

#[tokio::test]
async fn a_silent_client_is_disconnected() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), RelayConfig { idle_timeout_secs: 2, ..open() }).await;
    let mut client = relay.silent_client().await;
    // It reads nothing, so it never answers a ping.
    tokio::time::sleep(Duration::from_millis(2_600)).await;
    assert_eq!(client.next().await[0], "AUTH");
    assert_eq!(client.try_next().await, None);
}

#[tokio::test]
async fn results_come_in_pages_also_when_they_are_of_one_second_or_somebody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), RelayConfig { max_results: 150, ..open() }).await;
    let (mut client, start) = (relay.client().await, now() - 1_000);
    for n in 0..300 {
        let second = start + if n < 100 { n } else { 200 };
        client.send(json!(["EVENT", build_at(&keys(1), second, 1, vec![], &n.to_string())])).await;
    }
    for n in 0..200 {
        let to = tags([["p", &keys(9).public_key().to_hex()]]);
        client.send(json!(["EVENT", build_at(&keys(1), start + 300, 4, to, &n.to_string())])).await;
    }
    for _ in 0..500 {
        assert_eq!(client.next().await[2], true);
    }
    let found = client.ask("a", json!({"kinds": [1]})).await;
    assert_eq!(found.iter().collect::<std::collections::HashSet<_>>().len(), 150);
    assert_eq!(found.len(), 150, "nothing comes twice");
    assert_eq!(client.ask("b", json!({"kinds": [1], "until": start + 99})).await.len(), 100);
    assert_eq!(client.ask("c", json!({"limit": 70})).await.len(), 70, "behind private messages of others");
}

#[tokio::test]
async fn a_slow_reader_is_disconnected_and_others_get_everything() {
    const EVENTS: usize = 400;
    let dir = tempfile::tempdir().unwrap();
    let config = RelayConfig { live_queue_frames: 64, live_queue_bytes: 256 * 1024, write_timeout_secs: 2, ..open() };
    let relay = TestRelay::start(dir.path(), config).await;
    let (mut slow, mut quick) = (relay.client().await, relay.client().await);
    for client in [&mut slow, &mut quick] {
        assert!(client.ask("a", json!({"kinds": [1]})).await.is_empty());
    }
    let reading = tokio::spawn(async move {
        for n in 0..EVENTS {
            let frame = quick.next().await;
            assert_eq!(frame[2]["content"].as_str().map(str::len), Some(30_000), "event {n}");
        }
    });
    let mut writer = relay.client().await;
    let (text, start) = ("x".repeat(30_000), now());
    for n in 0..EVENTS {
        writer.accept(&build_at(&keys(1), start - i64::try_from(n).unwrap(), 1, vec![], &text)).await;
    }
    tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap().unwrap();
    // What had left before the queue filled may still be read; then the connection ends, short of everything.
    let mut got = 0;
    while slow.try_next().await.is_some() {
        got += 1;
    }
    assert!(got < EVENTS, "{got}");
}
