//! The relay pool against the real relay.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use nexus_nostr::relay_pool::{Interest, Notice, PublishError};
use nexus_nostr::{PoolConfig, RelayPool, Subscription};
use nexus_testkit::SeededEntropy;
use nostr::event::{Event, Kind};
use nostr::filter::Filter;

const SOON: Duration = Duration::from_secs(5);

fn pool(config: PoolConfig) -> RelayPool {
    let backoff = (Duration::from_millis(20), Duration::from_millis(100));
    RelayPool::new(PoolConfig { development: true, backoff, ..config }, clock(), Arc::new(SeededEntropy::new(3)))
}

fn interest(relays: &[String], filter: Filter) -> Interest {
    Interest { relays: relays.to_vec(), filters: vec![filter], auth: Vec::new() }
}

async fn next(subscription: &mut Subscription) -> Arc<Event> {
    tokio::time::timeout(SOON, subscription.next_event()).await.expect("an event in time").expect("the pool lives")
}

async fn end_of_stored(subscription: &mut Subscription) {
    let wait = async {
        loop {
            if let Some(Notice::EndOfStored { .. }) = subscription.next().await {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, wait).await.expect("the end of what is stored");
}

#[tokio::test]
async fn each_relay_answers_for_itself() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (open, closed) = (TestRelay::start(one.path(), open()).await, TestRelay::start(two.path(), closed()).await);
    let pool = pool(PoolConfig::default());
    let relays = [open.url(), closed.url(), "ws://127.0.0.1:1".into(), "http://x".into(), format!("{}/", open.url())];
    let event = build(&keys(1), 1, vec![], "hello");
    let reports = pool.publish(&event, &relays, SOON).await;
    assert_eq!(reports.len(), 4, "one relay is asked once: {reports:?}");
    assert_eq!(reports[0].outcome, Ok(()));
    assert!(matches!(&reports[1].outcome, Err(PublishError::Refused(why)) if why.starts_with("blocked:")));
    assert!(matches!(&reports[2].outcome, Err(PublishError::Unreachable(_))));
    assert!(matches!(&reports[3].outcome, Err(PublishError::NotAllowed(_))));
    let again = pool.publish(&event, &relays[..1], SOON).await;
    assert_eq!(again[0].outcome, Ok(()), "a relay that has it is fine");
    let found = pool.fetch(interest(&relays, Filter::new().kind(Kind::TextNote)), SOON).await.events;
    assert_eq!(found.iter().map(|event| event.id).collect::<Vec<_>>(), [event.id]);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_subscription_survives_the_relays_restart() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let (address, url) = (relay.address, relay.url());
    let pool = pool(PoolConfig::default());
    let mut subscription = pool.subscribe(interest(std::slice::from_ref(&url), Filter::new().kind(Kind::TextNote)));
    end_of_stored(&mut subscription).await;
    let (before, after) = (build(&keys(1), 1, vec![], "before"), build(&keys(1), 1, vec![], "after"));
    relay.client().await.accept(&before).await;
    assert_eq!(next(&mut subscription).await.id, before.id);
    relay.stop().await;
    let refused = pool.publish(&after, std::slice::from_ref(&url), SOON).await;
    assert!(matches!(refused[0].outcome, Err(PublishError::Unreachable(_))), "{refused:?}");
    let relay = TestRelay::start_at(dir.path(), open(), address).await;
    relay.client().await.accept(&after).await;
    assert_eq!(next(&mut subscription).await.id, after.id, "and the first one does not come twice");
    pool.shutdown().await;
    assert!(subscription.next_event().await.is_none());
}

#[tokio::test]
async fn it_proves_who_reads_where_a_relay_asks() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let (reader, stranger) = (keys(2), keys(3));
    let wrap = |n: u8| build(&keys(n), 1_059, tags([["p", &reader.public_key().to_hex()]]), "ciphertext");
    let (stored, live) = (wrap(71), wrap(72));
    relay.client().await.accept(&stored).await;
    let pool = pool(PoolConfig::default());
    let wraps = || interest(&[relay.url()], Filter::new().kind(Kind::GiftWrap).pubkey(reader.public_key()));
    let auth =
        |keys: &nostr::key::Keys| -> Vec<Arc<dyn nexus_seal::Signer>> { vec![Arc::new(KeySigner(keys.clone()))] };
    let mut ours = pool.subscribe(Interest { auth: auth(&reader), ..wraps() });
    assert_eq!(next(&mut ours).await.id, stored.id);
    relay.client().await.accept(&live).await;
    assert_eq!(next(&mut ours).await.id, live.id);
    pool.shutdown().await;

    // Pools of their own: what one key proved on a connection, all of its subscriptions may use.
    let pool = self::pool(PoolConfig::default());
    let theirs = Interest { auth: auth(&stranger), ..wraps() };
    assert!(pool.fetch(theirs, Duration::from_secs(1)).await.events.is_empty());
    pool.shutdown().await;
    let pool = self::pool(PoolConfig::default());
    let mut nobody = pool.subscribe(wraps());
    let notice = tokio::time::timeout(SOON, nobody.next()).await.unwrap();
    assert!(matches!(notice, Some(Notice::Closed { reason, .. }) if reason.starts_with("auth-required")));
    pool.shutdown().await;
}

#[tokio::test]
async fn more_subscriptions_than_a_connection_takes_open_another() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let pool = pool(PoolConfig::default());
    let mut subscriptions: Vec<Subscription> = (0..50)
        .map(|n: u16| pool.subscribe(interest(&[relay.url()], Filter::new().kind(Kind::from_u16(40_000 + n)))))
        .collect();
    for subscription in &mut subscriptions {
        end_of_stored(subscription).await;
    }
    let mut client = relay.client().await;
    for (n, subscription) in subscriptions.iter_mut().enumerate() {
        let event = build(&keys(1), 40_000 + u16::try_from(n).unwrap(), vec![], "x");
        client.accept(&event).await;
        assert_eq!(next(subscription).await.id, event.id);
    }
    drop(subscriptions);
    let mut again = pool.subscribe(interest(&[relay.url()], Filter::new().kind(Kind::TextNote)));
    end_of_stored(&mut again).await;
    assert_eq!(pool.relays(), [(relay.url(), true)]);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_slow_subscriber_gets_everything_in_the_end() {
    const EVENTS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let pool = pool(PoolConfig { subscription_queue: 32, ..PoolConfig::default() });
    let mut subscription = pool.subscribe(interest(&[relay.url()], Filter::new().kind(Kind::TextNote)));
    end_of_stored(&mut subscription).await;
    let (mut client, start) = (relay.client().await, now());
    for n in 0..EVENTS {
        client.accept(&build_at(&keys(1), start - i64::try_from(n).unwrap(), 1, vec![], "x")).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut seen = std::collections::HashSet::new();
    while seen.len() < EVENTS {
        assert!(seen.insert(next(&mut subscription).await.id), "nothing comes twice");
    }
    pool.shutdown().await;
}

#[tokio::test]
async fn many_events_at_once_are_all_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), open()).await;
    let (pool, relays) = (pool(PoolConfig::default()), [relay.url()]);
    let events: Vec<Event> = (0..200).map(|n| build(&keys(1), 1, vec![], &n.to_string())).collect();
    let reports = futures::future::join_all(events.iter().map(|event| pool.publish(event, &relays, SOON))).await;
    assert!(reports.iter().flatten().all(|report| report.outcome.is_ok()));
    pool.shutdown().await;
}
