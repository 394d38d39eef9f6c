//! The pool against relays that lie, stall, ask and vanish.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use nexus_nostr::relay_pool::{Interest, Notice, PublishError};
use nexus_nostr::{PoolConfig, RelayPool, Subscription};
use nexus_testkit::SeededEntropy;
use nostr::event::{Event, Kind};
use nostr::filter::Filter;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(5);

fn pool() -> RelayPool {
    let backoff = (Duration::from_millis(20), Duration::from_millis(50));
    let config = PoolConfig { development: true, backoff, ..PoolConfig::default() };
    RelayPool::new(config, clock(), Arc::new(SeededEntropy::new(1)))
}

fn notes(url: &str) -> Interest {
    Interest { relays: vec![url.to_owned()], filters: vec![Filter::new().kind(Kind::TextNote)], auth: Vec::new() }
}

async fn next(subscription: &mut Subscription) -> Notice {
    tokio::time::timeout(SOON, subscription.next()).await.expect("something in time").expect("the pool lives")
}

fn event_of(notice: Notice) -> Arc<Event> {
    match notice {
        Notice::Event { event, .. } => event,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nothing_forged_unwanted_or_unreadable_gets_through() {
    let (relay, pool) = (Puppet::new().await, pool());
    let mut subscription = pool.subscribe(notes(&relay.url));
    let mut side = relay.accept().await;
    let name = side.next().await[1].clone();
    let good = build(&keys(1), 1, vec![], "good");
    let mut other_text = good.clone();
    other_text.content = "forged".into();
    let mut other_signature = build(&keys(1), 1, vec![], "other");
    other_signature.sig = good.sig;
    let unwanted = build(&keys(1), 7, vec![], "+");
    for event in [&other_text, &other_signature, &unwanted] {
        side.send(json!(["EVENT", name, event])).await;
    }
    side.send(json!(["EVENT", "somebody else's", build(&keys(1), 1, vec![], "stray")])).await;
    for garbage in ["", "[]", "{", "[\"EVENT\"]", "[\"OK\",1,2,3]", "[\"AUTH\"]", "[[[[[[[["] {
        side.send_text(garbage).await;
    }
    side.send(json!(["EVENT", name, good])).await;
    side.send(json!(["EVENT", name, good])).await;
    side.send(json!(["EOSE", name])).await;
    assert_eq!(event_of(next(&mut subscription).await).id, good.id, "a forgery under its id did not take its place");
    assert!(matches!(next(&mut subscription).await, Notice::EndOfStored { .. }));
    pool.shutdown().await;
}

#[tokio::test]
async fn a_relay_that_does_not_answer_is_a_timeout_and_one_that_hangs_up_is_unreachable() {
    let (relay, pool) = (Puppet::new().await, pool());
    let (event, relays) = (build(&keys(1), 1, vec![], "x"), [relay.url.clone()]);
    let (reports, mut side) = tokio::join!(pool.publish(&event, &relays, Duration::from_millis(300)), async {
        let mut side = relay.accept().await;
        assert_eq!(side.next().await[1]["id"], event.id.to_hex());
        side
    });
    assert_eq!(reports[0].outcome, Err(PublishError::Timeout));
    let (reports, ()) = tokio::join!(pool.publish(&event, &relays, SOON), async {
        assert_eq!(side.next().await[0], "EVENT");
        drop(side);
    });
    assert!(matches!(reports[0].outcome, Err(PublishError::Unreachable(_))), "{reports:?}");
    pool.shutdown().await;
}

#[tokio::test]
async fn a_relay_asks_again_from_where_it_was_heard_and_wraps_from_three_days_back() {
    let (relay, pool) = (Puppet::new().await, pool());
    let wraps = Filter::new().kind(Kind::GiftWrap).since(nostr::types::Timestamp::from_secs(now().unsigned_abs()));
    let filters = vec![Filter::new().kind(Kind::TextNote), wraps];
    let _subscription = pool.subscribe(Interest { filters, ..notes(&relay.url) });
    let mut side = relay.accept().await;
    let request = side.next().await;
    let three_days_back = |filter: &Value| (filter["since"].as_i64().unwrap() - (now() - 3 * 86_400)).abs() < 5;
    assert_eq!(request[2].get("since"), None);
    assert!(three_days_back(&request[3]), "{request}");
    side.send(json!(["EOSE", request[1]])).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(side);
    let mut side = relay.accept().await;
    let again = side.next().await;
    assert!((again[2]["since"].as_i64().unwrap() - (now() - 3_600)).abs() < 5, "{again}");
    assert!(three_days_back(&again[3]), "{again}");
    pool.shutdown().await;
}

#[tokio::test]
async fn an_event_is_sent_again_once_the_relay_knows_its_author() {
    let (relay, pool) = (Puppet::new().await, pool());
    let author = keys(1);
    let (event, relays) = (build(&author, 1, vec![], "x"), [relay.url.clone()]);
    let signer = Arc::new(KeySigner(author.clone()));
    let (reports, ()) = tokio::join!(pool.publish_as(&event, &relays, SOON, Some(signer)), async {
        let mut side = relay.accept().await;
        side.send(json!(["AUTH", "prove it"])).await;
        assert_eq!(side.next().await[0], "EVENT");
        side.send(json!(["OK", event.id, false, "auth-required: who are you?"])).await;
        let proof = side.next().await;
        let answer: Event = serde_json::from_value(proof[1].clone()).unwrap();
        let key = nexus_nostr::auth::check(&answer, "prove it", now(), |url| url == relay.url);
        assert_eq!((proof[0].as_str(), key.unwrap()), (Some("AUTH"), npub(&author)));
        side.send(json!(["OK", answer.id, true, ""])).await;
        assert_eq!(side.next().await[1]["id"], event.id.to_hex());
        side.send(json!(["OK", event.id, true, ""])).await;
    });
    assert_eq!(reports[0].outcome, Ok(()));
    pool.shutdown().await;
}

#[tokio::test]
async fn a_dropped_subscription_ends_on_the_wire() {
    let (relay, pool) = (Puppet::new().await, pool());
    let subscription = pool.subscribe(notes(&relay.url));
    let mut side = relay.accept().await;
    let name = side.next().await[1].clone();
    drop(subscription);
    assert_eq!(side.next().await, json!(["CLOSE", name]));
    pool.shutdown().await;
}

#[tokio::test]
async fn a_relay_that_ends_a_subscription_is_heard_and_an_unreachable_one_does_not_hold_a_question_up() {
    let (relay, pool) = (Puppet::new().await, pool());
    let mut subscription = pool.subscribe(notes(&relay.url));
    let mut side = relay.accept().await;
    let name = side.next().await[1].clone();
    side.send(json!(["CLOSED", name, "error: no"])).await;
    assert!(matches!(next(&mut subscription).await, Notice::Closed { reason, .. } if reason == "error: no"));
    let gone = Interest { relays: vec!["ws://127.0.0.1:1".into(), "wss://no-such-name.invalid".into()], ..notes("") };
    let asked = tokio::time::timeout(SOON, pool.fetch(gone, Duration::from_secs(60))).await;
    assert_eq!(asked.map(|found| (found.events.len(), found.answered, found.asked)), Ok((0, 0, 2)));
    pool.shutdown().await;
}

#[tokio::test]
async fn strangers_relays_on_this_machine_are_not_connected_to() {
    let relay = Puppet::new().await;
    let pool = RelayPool::new(PoolConfig::default(), clock(), Arc::new(SeededEntropy::new(1)));
    let event = build(&keys(1), 1, vec![], "x");
    let private = [relay.url.clone(), relay.url.replace("ws://", "wss://")];
    let reports = pool.publish(&event, &private, SOON).await;
    assert!(matches!(reports[0].outcome, Err(PublishError::NotAllowed(_))), "{reports:?}");
    assert_eq!(reports[1].outcome, Err(PublishError::Unreachable("a private address".into())));
    pool.shutdown().await;
}
