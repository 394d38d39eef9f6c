//! Outgoing webhooks: each event has one row for each webhook that wants it, whoever repeats or races it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, BOB, Kind, NOW, World, account_id, audit};
use nexus_core::Npub;
use nexus_core::event::EventBody;
use nexus_store::event::NewEvent;
use nexus_store::webhook::{self, Fate, Level, Webhook};
use nexus_store::{Conflict, Store, event};

async fn happens(store: &Store, npub: Npub, sats: u64) {
    let body = EventBody::BalanceChanged { balance_sats: sats };
    event::append(store, npub, vec![NewEvent::new(NOW, body)]).await.unwrap();
}

async fn make(store: &Store, id: &str) -> Webhook {
    let webhook = Webhook {
        id: id.into(),
        account: account_id(),
        url: "https://hooks.example".into(),
        kinds: vec!["balance_changed".into()],
        sealed_key: vec![1],
        created_at: NOW,
        gone_at: None,
    };
    webhook::create(store, webhook.clone(), audit("webhook.create")).await.unwrap();
    webhook
}

async fn what_happened_before_is_not_told_and_what_happens_after_is_told_once(world: World) {
    let store = &world.store;
    happens(store, ALICE, 1).await;
    let hook = make(store, "a").await;
    assert!(webhook::behind(store, &hook, 9).await.unwrap().is_empty());
    for sats in 2..5 {
        happens(store, ALICE, sats).await;
    }
    happens(store, BOB, 1).await;
    let behind = webhook::behind(store, &hook, 9).await.unwrap();
    assert_eq!(behind.iter().map(|behind| behind.npub).collect::<Vec<_>>(), [ALICE, BOB]);
    let seqs: Vec<i64> =
        event::after(store, ALICE, behind[0].after, 9).await.unwrap().iter().map(|e| e.event.seq).collect();
    assert_eq!(seqs.len(), 3);
    let rows: Vec<(i64, &str)> = seqs.iter().map(|seq| (*seq, "balance_changed")).collect();
    // Two control planes put the same.
    let put = || webhook::put(store, "a", ALICE, &rows, seqs[2], NOW);
    let (one, other) = futures_util::future::join(put(), put()).await;
    one.unwrap();
    other.unwrap();
    webhook::put(store, "a", ALICE, &rows[..1], seqs[0], NOW).await.unwrap();
    assert_eq!(webhook::level(store, "a").await.unwrap(), Level { pending: 3, dead: 0 });
    let behind = webhook::behind(store, &hook, 9).await.unwrap();
    assert_eq!(behind.iter().map(|behind| behind.npub).collect::<Vec<_>>(), [BOB], "the cursor does not go back");
    let gone = webhook::put(store, "none", ALICE, &rows, seqs[2], NOW).await.unwrap_err();
    assert_eq!(gone.conflict(), Some(&Conflict::NotFound));
}

async fn an_attempt_counts_once_and_what_is_given_up_can_be_tried_again(world: World) {
    let store = &world.store;
    make(store, "a").await;
    webhook::put(store, "a", ALICE, &[(7, "payment"), (8, "payment")], 8, NOW).await.unwrap();
    let due = webhook::due(store, "a", NOW, 9).await.unwrap();
    assert_eq!(due.len(), 2);
    let later = NOW.plus_ms(5_000);
    webhook::tried(store, &due[0], Fate::Again(later), "answered 500", NOW).await.unwrap();
    webhook::tried(store, &due[0], Fate::Delivered, "a twin's", NOW).await.unwrap();
    webhook::tried(store, &due[1], Fate::Delivered, "answered 200", NOW).await.unwrap();
    assert!(webhook::due(store, "a", later.plus_ms(-1), 9).await.unwrap().is_empty());
    let again = webhook::due(store, "a", later, 9).await.unwrap().remove(0);
    assert_eq!((again.attempts, again.said.as_deref()), (1, Some("answered 500")));
    webhook::tried(store, &again, Fate::Gone, "answered 410", later).await.unwrap();
    assert_eq!(webhook::level(store, "a").await.unwrap(), Level { pending: 0, dead: 1 });
    assert!(webhook::live(store, "", 9).await.unwrap().is_empty());
    assert_eq!(webhook::deliveries(store, "a", Some("dead"), 9).await.unwrap().len(), 1);
    assert_eq!(webhook::retry(store, "a", later, audit("webhook.retry")).await.unwrap(), 1);
    assert_eq!(webhook::live(store, "", 9).await.unwrap().len(), 1);
    assert_eq!(webhook::due(store, "a", later, 9).await.unwrap()[0].attempts, 0);
    assert_eq!(webhook::purge(store, NOW.plus_ms(1), 9).await.unwrap(), 1, "what waits is kept");
    webhook::remove(store, account_id(), "a", audit("webhook.remove")).await.unwrap();
    assert!(webhook::due(store, "a", later, 9).await.unwrap().is_empty());
    let twice = webhook::remove(store, account_id(), "a", audit("webhook.remove")).await.unwrap_err();
    assert_eq!(twice.conflict(), Some(&Conflict::NotFound));
}

async fn an_account_has_so_many_and_sees_its_own(world: World) {
    let store = &world.store;
    for n in 0..webhook::MAX_WEBHOOKS {
        make(store, &format!("w{n}")).await;
    }
    let one_more = Webhook { id: "more".into(), ..webhook::list(store, account_id()).await.unwrap().remove(0) };
    let refused = webhook::create(store, one_more, audit("webhook.create")).await.unwrap_err();
    assert_eq!(refused.conflict(), Some(&Conflict::TooMany));
    let other = nexus_core::AccountId::new(NOW, [77; 10]);
    assert!(webhook::find(store, other, "w1").await.unwrap().is_none());
    assert!(webhook::find(store, account_id(), "w1").await.unwrap().is_some());
}

suite::suite!(
    what_happened_before_is_not_told_and_what_happens_after_is_told_once,
    an_attempt_counts_once_and_what_is_given_up_can_be_tried_again,
    an_account_has_so_many_and_sees_its_own,
);
