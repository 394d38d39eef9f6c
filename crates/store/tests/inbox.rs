//! The inbox: bounded, deduplicated, and acknowledged only when stored.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, Kind, NOW, World};
use nexus_core::Npub;
use nexus_core::trigger::Trigger;
use nexus_store::inbox::{self, MAX_BYTES, MAX_ROWS, NewItem, Put};
use nexus_store::tick::{self, Commit};
use nexus_store::{Batch, Conflict};

fn item(n: i64, bytes: usize) -> NewItem {
    NewItem {
        npub: ALICE,
        external_id: n.to_string(),
        trigger: Trigger::Webhook,
        sender: None,
        received_at: NOW.plus_ms(n),
        payload: vec![1; bytes],
    }
}

/// Many in one batch, to be quick.
async fn fill(world: &World, items: impl IntoIterator<Item = NewItem>) {
    let mut batch = Batch::new("fill");
    for item in items {
        batch.extend(inbox::put_statements(&item));
    }
    world.store.write(batch).await.unwrap();
}

async fn rows_are_bounded(world: World) {
    let store = &world.store;
    fill(&world, (0..MAX_ROWS).map(|n| item(n, 1))).await;
    assert_eq!(inbox::put(store, item(MAX_ROWS, 1)).await.unwrap(), Put::Full);
    assert_eq!(inbox::put(store, item(5, 1)).await.unwrap(), Put::Duplicate, "known is known, full or not");
    let first = inbox::pending(store, ALICE, 1).await.unwrap().remove(0);
    let discarded = inbox::discard(store, world.fence, ALICE, world.generation, &[first.id], "spam").await.unwrap();
    assert_eq!(discarded, 1);
    assert_eq!(inbox::put(store, item(MAX_ROWS, 1)).await.unwrap(), Put::Stored, "handled rows make room");
    assert_eq!(inbox::put(store, item(0, 1)).await.unwrap(), Put::Duplicate, "and stay known");
    assert_eq!(inbox::level(store, ALICE).await.unwrap(), (MAX_ROWS, MAX_ROWS));
    let other = NewItem { npub: common::BOB, ..item(1, 1) };
    assert_eq!(inbox::put(store, other).await.unwrap(), Put::Stored, "another agent's inbox is another");
}

async fn bytes_are_bounded(world: World) {
    let store = &world.store;
    let half = usize::try_from(MAX_BYTES / 2).unwrap();
    assert_eq!(inbox::put(store, item(1, half)).await.unwrap(), Put::Stored);
    assert_eq!(inbox::put(store, item(2, half)).await.unwrap(), Put::Stored, "exactly full");
    assert_eq!(inbox::put(store, item(3, 1)).await.unwrap(), Put::Full);
    assert_eq!(inbox::put(store, item(4, 0)).await.unwrap(), Put::Stored, "no bytes, no limit");
    assert_eq!(inbox::level(store, ALICE).await.unwrap(), (3, MAX_BYTES));
}

async fn classes_are_namespaces(world: World) {
    let store = &world.store;
    for (trigger, expected) in [
        (Trigger::Mention, Put::Stored),
        (Trigger::Dm, Put::Duplicate),
        (Trigger::Webhook, Put::Stored),
        (Trigger::Kind(7), Put::Duplicate),
        (Trigger::Manual, Put::Stored),
    ] {
        assert_eq!(inbox::put(store, NewItem { trigger, ..item(1, 1) }).await.unwrap(), expected, "{trigger}");
    }
    let nobody = NewItem { npub: Npub::from_bytes([1; 32]), ..item(1, 1) };
    assert_eq!(inbox::put(store, nobody).await.unwrap(), Put::NoAgent);
}

async fn a_full_inbox_undoes_what_came_with_it(world: World) {
    fill(&world, (0..MAX_ROWS).map(|n| item(n, 0))).await;
    let mut batch = Batch::new("event with inbox row");
    batch.extend(inbox::put_statements(&NewItem { npub: common::BOB, ..item(1, 1) }));
    batch.extend(inbox::put_statements(&item(MAX_ROWS, 0)));
    let error = world.store.write(batch).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::InboxFull));
    assert_eq!(inbox::level(&world.store, common::BOB).await.unwrap(), (0, 0));
}

async fn old_handled_rows_are_forgotten(world: World) {
    let store = &world.store;
    fill(&world, (0..10).map(|n| item(n, 1))).await;
    let ids: Vec<i64> = inbox::pending(store, ALICE, 6).await.unwrap().iter().map(|item| item.id).collect();
    inbox::discard(store, world.fence, ALICE, world.generation, &ids, "spam").await.unwrap();
    assert_eq!(inbox::purge(store, NOW.plus_ms(4), 100).await.unwrap(), 4);
    assert_eq!(inbox::purge(store, NOW.plus_ms(100), 1).await.unwrap(), 1, "bounded");
    assert_eq!(inbox::level(store, ALICE).await.unwrap().0, 4, "waiting rows are never purged");
}

/// What a tick took and bought nothing for is taken by others, as often as that may be.
async fn what_nothing_was_bought_for_is_given_back(world: World) {
    let store = &world.store;
    let waiting =
        async || inbox::pending(store, ALICE, 10).await.unwrap().into_iter().map(|item| item.id).collect::<Vec<_>>();
    let put = inbox::put(store, item(1, 8)).await.unwrap();
    assert_eq!(put, Put::Stored);
    let rows = waiting().await;
    for n in 1..=4_u8 {
        let mut begin = world.begin(ALICE, n);
        begin.inbox = rows.clone();
        tick::begin(store, begin).await.unwrap();
        assert!(waiting().await.is_empty());
        let failed =
            Commit { failed: Some("no_provider".into()), again: true, ..world.commit(ALICE, n, i64::from(n) + 1) };
        tick::commit(store, failed).await.unwrap();
        let back = n < 4;
        assert_eq!(waiting().await, if back { rows.clone() } else { Vec::new() }, "after tick {n}");
    }
    assert_eq!(inbox::put(store, item(1, 8)).await.unwrap(), Put::Duplicate);
}

suite::suite!(
    what_nothing_was_bought_for_is_given_back,
    rows_are_bounded,
    bytes_are_bounded,
    classes_are_namespaces,
    a_full_inbox_undoes_what_came_with_it,
    old_handled_rows_are_forgotten,
);
