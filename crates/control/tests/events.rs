//! Events over WebSocket and server-sent events: resumed without gaps, live, and only for whom they are.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod common;

use std::time::Duration;

use common::worker::Worker;
use common::{By, Host, Key};
use futures::StreamExt;
use nexus_bus::{Bus, Wake};
use nexus_core::Clock;
use nexus_core::Npub;
use nexus_core::event::EventBody;
use nexus_store::event::{self, NewEvent};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

#[expect(clippy::disallowed_methods, reason = "the tests' own client, to a server of this process")]
async fn connect(
    host: &Host,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<(Socket, Option<String>), (u16, Value)> {
    let url = host.url(path).replacen("http", "ws", 1);
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, response)) => {
            let protocol = response.headers().get("sec-websocket-protocol");
            Ok((socket, protocol.map(|value| value.to_str().unwrap().to_owned())))
        }
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            Err((response.status().as_u16(), serde_json::from_slice(body).unwrap_or(Value::Null)))
        }
        Err(error) => panic!("{error}"),
    }
}

async fn signed(host: &Host, by: By<'_>, path: &str) -> Result<(Socket, Option<String>), (u16, Value)> {
    let authorization = host.authorization(by, "GET", path, b"").unwrap();
    connect(host, path, &[("authorization", &authorization)]).await
}

async fn next(socket: &mut Socket) -> Option<Value> {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(5), socket.next()).await.expect("an event in time");
        match message? {
            Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).unwrap()),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

async fn append(host: &Host, npub: &str, from: u64, count: u64) {
    let npub: Npub = npub.parse().unwrap();
    for n in from..from + count {
        let new = NewEvent::new(host.clock.now(), EventBody::BalanceChanged { balance_sats: n });
        for seq in event::append(&host.store, npub, vec![new]).await.unwrap() {
            host.bus.publish(Wake::Event { npub, seq });
        }
    }
}

#[tokio::test]
async fn a_websocket_resumes_where_it_was_and_misses_nothing_meanwhile() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    append(&host, &npub, 1, 300).await;
    let path = format!("/v1/agents/{npub}/events?after=0");
    let (mut socket, _) = signed(&host, By::Key(&owner), &path).await.unwrap();
    for expected in 1..=300 {
        let event = next(&mut socket).await.unwrap();
        assert_eq!((&event["seq"], &event["type"]), (&json!(expected), &json!("balance_changed")));
        assert_eq!((&event["balance_sats"], &event["npub"]), (&json!(expected), &json!(npub)));
        assert_eq!(event["hash"].as_str().unwrap().len(), 64);
    }
    // Cut off while more is written, and written faster than it is read.
    drop(socket);
    append(&host, &npub, 301, 20).await;
    let (mut socket, _) = signed(&host, By::Key(&owner), &format!("/v1/agents/{npub}/events?after=300")).await.unwrap();
    let (writing, reading) = (append(&host, &npub, 321, 200), async {
        for expected in 301..=520 {
            assert_eq!(next(&mut socket).await.unwrap()["seq"], expected);
        }
    });
    tokio::join!(writing, reading);
    // Live: the wake brings it well before the timer would.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let asked = tokio::time::Instant::now();
    let (event, ()) = tokio::join!(next(&mut socket), append(&host, &npub, 521, 1));
    assert_eq!(event.unwrap()["seq"], 521);
    assert!(asked.elapsed() < Duration::from_millis(1_000));
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn an_event_whose_announcer_crashed_comes_through_the_outbox() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    let (mut socket, _) = signed(&host, By::Key(&owner), &format!("/v1/agents/{npub}/events")).await.unwrap();
    let new = NewEvent::new(host.clock.now(), EventBody::BalanceChanged { balance_sats: 7 });
    event::append(&host.store, npub.parse().unwrap(), vec![new]).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap()["balance_sats"], 7);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(event::unrelayed(&host.store, 10).await.unwrap(), []);
}

#[tokio::test]
async fn server_sent_events_carry_the_same_and_resume_by_their_id() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    append(&host, &npub, 1, 5).await;
    let path = format!("/v1/agents/{npub}/events");
    let token = host.token(&owner, &["read"]).await;
    let request = host.http.get(host.url(&path)).bearer_auth(&token);
    let response = request.header("accept", "text/event-stream").header("last-event-id", "3").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.bytes_stream();
    append(&host, &npub, 6, 1).await;
    let mut text = String::new();
    while !text.contains("id: 6") {
        let chunk = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["4", "5", "6"]);
    assert!(text.contains("event: balance_changed"));
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(data).unwrap()["seq"], 4);
}

#[tokio::test]
async fn pages_hold_what_streams_hold() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    append(&host, &npub, 1, 5).await;
    let page = host.get(By::Key(&owner), &format!("/v1/agents/{npub}/events?limit=3")).await.ok().body;
    assert_eq!((page["events"].as_array().unwrap().len(), &page["next"]), (3, &json!(3)));
    let rest = host.get(By::Key(&owner), &format!("/v1/agents/{npub}/events?after=3")).await.ok().body;
    assert_eq!((&rest["events"][0]["seq"], &rest["next"]), (&json!(4), &json!(5)));
    let end = host.get(By::Key(&owner), &format!("/v1/agents/{npub}/events?after=5")).await.ok().body;
    assert_eq!(end, json!({ "events": [], "next": 5 }));
    let status = host.get(By::Key(&owner), &format!("/v1/agents/{npub}")).await.ok().body;
    assert_eq!((&status["event_seq"], &status["event_head"]), (&json!(5), &rest["events"][1]["hash"]));
}

#[tokio::test]
async fn a_reader_who_was_away_too_long_is_told() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    append(&host, &npub, 1, 10).await;
    let relayed: Vec<_> = (1..=10).map(|seq| (npub.parse().unwrap(), seq)).collect();
    event::mark_relayed(&host.store, &relayed).await.unwrap();
    event::prune(&host.store, npub.parse().unwrap(), host.clock.now().plus_ms(60_000), 6).await.unwrap();
    let (status, problem) =
        signed(&host, By::Key(&owner), &format!("/v1/agents/{npub}/events?after=2")).await.unwrap_err();
    assert_eq!((status, &problem["code"], &problem["oldest_seq"]), (410, &json!("events_pruned"), &json!(7)));
    // What is kept can be had, and what is next after the last pruned follows without a gap.
    for after in [0, 6] {
        let path = format!("/v1/agents/{npub}/events?after={after}");
        let (mut socket, _) = signed(&host, By::Key(&owner), &path).await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap()["seq"], 7);
    }
    let (status, problem) =
        signed(&host, By::Key(&owner), &format!("/v1/agents/{npub}/events?after=11")).await.unwrap_err();
    assert_eq!((status, &problem["code"]), (422, &json!("invalid")));
}

#[tokio::test]
async fn a_browsers_ticket_opens_one_stream_of_one_agent_once() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    let other = host.create(&owner, &Key::new(3), "bob").await;
    let make = async || {
        let made = host.post(By::Key(&owner), &format!("/v1/agents/{npub}/tickets"), &json!({})).await.ok();
        assert!(made.body["expires_at_ms"].as_i64().unwrap() <= host.clock.now().0 + 30_000);
        format!("{}, {}", made.body["protocols"][0].as_str().unwrap(), made.body["protocols"][1].as_str().unwrap())
    };
    let path = format!("/v1/agents/{npub}/events?after=0");
    let protocols = make().await;
    let own = host.origin.clone();
    let headers = [("sec-websocket-protocol", protocols.as_str()), ("origin", own.as_str())];
    let (mut socket, protocol) = connect(&host, &path, &headers).await.unwrap();
    // The ticket is not echoed.
    assert_eq!(protocol.as_deref(), Some("nexus.events"));
    append(&host, &npub, 1, 1).await;
    assert_eq!(next(&mut socket).await.unwrap()["seq"], 1);
    assert_eq!(connect(&host, &path, &headers).await.unwrap_err().0, 401, "a second use");

    let protocols = make().await;
    let headers = [("sec-websocket-protocol", protocols.as_str())];
    assert_eq!(connect(&host, &format!("/v1/agents/{other}/events"), &headers).await.unwrap_err().0, 404);
    // A ticket is for the stream alone.
    let protocols = make().await;
    let answer =
        host.send(By::Nobody, "GET", "/v1/agents", Vec::new(), &[("sec-websocket-protocol", &protocols)]).await;
    assert_eq!(answer.code(), "missing_scope");
    // A page elsewhere may not use it, nor anybody's other access.
    let protocols = make().await;
    let headers = [("sec-websocket-protocol", protocols.as_str()), ("origin", "https://evil.example")];
    let (status, problem) = connect(&host, &path, &headers).await.unwrap_err();
    assert_eq!((status, &problem["code"]), (403, &json!("origin_refused")));
}

#[tokio::test]
async fn streams_are_counted_and_strangers_get_none() {
    let host = Host::start_with(|config| config.max_streams_per_account = 2).await;
    let (owner, stranger) = (Key::new(1), Key::new(3));
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    let path = format!("/v1/agents/{npub}/events");
    assert_eq!(connect(&host, &path, &[]).await.unwrap_err().0, 401);
    assert_eq!(signed(&host, By::Key(&stranger), &path).await.unwrap_err().0, 404);
    let first = signed(&host, By::Key(&owner), &path).await.unwrap();
    let _second = signed(&host, By::Key(&owner), &path).await.unwrap();
    let (status, problem) = signed(&host, By::Key(&owner), &path).await.unwrap_err();
    assert_eq!((status, &problem["code"]), (429, &json!("too_many_streams")));
    drop(first);
    for attempt in 0.. {
        match signed(&host, By::Key(&owner), &path).await {
            Ok(_) => break,
            Err(_) if attempt < 100 => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(refused) => panic!("{refused:?}"),
        }
    }
}

#[tokio::test]
async fn placement_is_told_and_the_end_of_the_host_closes_streams() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let npub = host.create(&owner, &Key::new(2), "ada").await;
    let (mut socket, _) = signed(&host, By::Key(&owner), &format!("/v1/agents/{npub}/events")).await.unwrap();
    host.post(By::Key(&owner), &format!("/v1/agents/{npub}/start"), &json!({})).await.ok();
    let worker = Worker::start(&host, 1).await;
    let placed = next(&mut socket).await.unwrap();
    assert_eq!((&placed["type"], &placed["worker"]), (&json!("placed"), &json!(worker.fence.worker.to_string())));
    host.stop.cancel();
    assert_eq!(next(&mut socket).await, None);
}
