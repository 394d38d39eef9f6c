//! The relay's store: kinds kept as NIP-01 says, filters, deletions, and the inbox row in the same batch.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, Kind, NOW, World};
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Npub};
use nexus_store::inbox::{self, NewItem};
use nexus_store::relay_event::{self, Filter, NewRelayEvent, Stored, Walk};
use nexus_store::{Conflict, Store};

const AUTHOR: Npub = Npub::from_bytes([3; 32]);
const T: i64 = 1_700_000_000;

fn note(id: u8, kind: u16, created_at: i64) -> NewRelayEvent {
    NewRelayEvent {
        id: Hash32::from_bytes([id; 32]),
        pubkey: AUTHOR,
        kind,
        created_at,
        d: None,
        expires_at: None,
        tags: Vec::new(),
        json: format!("{{\"id\":{id}}}"),
        received_at: NOW,
    }
}

async fn put(store: &Store, event: NewRelayEvent) -> Stored {
    relay_event::put(store, event, Vec::new()).await.unwrap()
}

async fn ids(store: &Store, filter: Filter) -> Vec<u8> {
    let found = relay_event::query(store, &filter, NOW).await.unwrap();
    assert_eq!(relay_event::count(store, &filter, NOW).await.unwrap(), found.len() as u64);
    found.iter().map(|event| event.id.as_bytes()[0]).collect()
}

async fn replaceable_and_addressable(world: World) {
    let store = &world.store;
    assert_eq!(put(store, note(5, 0, T)).await, Stored::Stored);
    assert_eq!(put(store, note(5, 0, T)).await, Stored::Duplicate);
    assert_eq!(put(store, note(4, 0, T - 1)).await, Stored::Superseded, "older");
    assert_eq!(put(store, note(6, 0, T)).await, Stored::Superseded, "same second, higher id");
    assert_eq!(put(store, note(3, 0, T)).await, Stored::Stored, "same second, lower id");
    assert_eq!(put(store, note(7, 0, T + 1)).await, Stored::Stored);
    assert_eq!(ids(store, Filter::default()).await, [7]);
    let at = |id, d: &str, time| NewRelayEvent { d: Some(d.into()), ..note(id, 30_023, time) };
    for (event, expected) in [
        (at(10, "a", T), Stored::Stored),
        (at(11, "b", T), Stored::Stored),
        (at(12, "a", T + 5), Stored::Stored),
        (at(13, "a", T + 4), Stored::Superseded),
        (NewRelayEvent { pubkey: ALICE, ..at(14, "a", T) }, Stored::Stored),
        (NewRelayEvent { d: None, ..at(15, "", T) }, Stored::Stored),
        (at(16, "", T + 1), Stored::Stored),
    ] {
        assert_eq!(put(store, event.clone()).await, expected, "{event:?}");
    }
    assert_eq!(ids(store, Filter { kinds: vec![30_023], ..Filter::default() }).await, [12, 16, 11, 14]);
    for id in [20, 21] {
        assert_eq!(put(store, note(id, 1, T)).await, Stored::Stored, "regular events stay side by side");
    }
    assert_eq!(relay_event::usage(store, AUTHOR).await.unwrap().0, 6);
}

async fn filters(world: World) {
    let store = &world.store;
    let tagged = |id, tags: &[(char, &str)], time| NewRelayEvent {
        tags: tags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        ..note(id, 1, time)
    };
    put(store, tagged(1, &[('p', "x"), ('t', "a")], T)).await;
    put(store, tagged(2, &[('p', "y"), ('t', "a")], T + 1)).await;
    put(store, tagged(3, &[('p', "y"), ('p', "y"), ('t', "b")], T + 2)).await;
    put(store, NewRelayEvent { pubkey: ALICE, ..tagged(4, &[], T + 3) }).await;
    put(store, NewRelayEvent { expires_at: Some(NOW.secs()), ..note(5, 1, T) }).await;
    put(store, NewRelayEvent { expires_at: Some(NOW.secs() + 1), ..note(6, 7, T - 9) }).await;
    let all = Filter::default();
    assert_eq!(ids(store, all.clone()).await, [4, 3, 2, 1, 6], "newest first, expired ones not");
    let tag = |name, values: &[&str]| (name, values.iter().map(|value| (*value).to_owned()).collect());
    for (filter, expected) in [
        (Filter { limit: Some(2), ..all.clone() }, vec![4, 3]),
        (Filter { limit: Some(0), ..all.clone() }, vec![]),
        (Filter { tags: vec![tag('p', &["y"])], ..all.clone() }, vec![3, 2]),
        (Filter { tags: vec![tag('p', &["x", "y"]), tag('t', &["a"])], ..all.clone() }, vec![2, 1]),
        (Filter { authors: vec![ALICE], ..all.clone() }, vec![4]),
        (Filter { since: Some(T + 1), until: Some(T + 2), ..all.clone() }, vec![3, 2]),
        (Filter { ids: vec![Hash32::from_bytes([1; 32]), Hash32::from_bytes([5; 32])], ..all.clone() }, vec![1]),
        (Filter { kinds: vec![7, 9], ..all.clone() }, vec![6]),
    ] {
        let found = relay_event::query(store, &filter, NOW).await.unwrap();
        assert_eq!(found.iter().map(|event| event.id.as_bytes()[0]).collect::<Vec<_>>(), expected, "{filter:?}");
    }
    assert_eq!(relay_event::purge_expired(store, NOW, 10).await.unwrap(), 1);
}

async fn deleted_stays_deleted(world: World) {
    let store = &world.store;
    put(store, note(1, 1, T)).await;
    assert_eq!(relay_event::delete(store, ALICE, &[note(1, 1, T).id], NOW).await.unwrap(), 0, "not hers");
    assert_eq!(relay_event::delete(store, AUTHOR, &[note(1, 1, T).id], NOW).await.unwrap(), 1);
    assert_eq!(put(store, note(1, 1, T)).await, Stored::Superseded);
    let at = |id, time| NewRelayEvent { d: Some("a".into()), ..note(id, 30_023, time) };
    put(store, at(2, T)).await;
    assert_eq!(relay_event::delete_address(store, AUTHOR, 30_023, "a", T).await.unwrap(), 1);
    assert_eq!(put(store, at(2, T)).await, Stored::Superseded);
    assert_eq!(put(store, at(3, T + 1)).await, Stored::Stored, "a later one may come");
    assert_eq!(ids(store, Filter::default()).await, [3]);
}

async fn the_inbox_row_comes_with_the_event(world: World) {
    let store = &world.store;
    let item = |n: u8, bytes| NewItem {
        npub: ALICE,
        external_id: n.to_string(),
        trigger: Trigger::Mention,
        sender: Some(AUTHOR),
        received_at: NOW,
        payload: vec![0; bytes],
    };
    let with = |n: u8, bytes| (note(n, 1, T), inbox::put_statements(&item(n, bytes)).to_vec());
    let (event, also) = with(1, 10);
    assert_eq!(relay_event::put(store, event, also).await.unwrap(), Stored::Stored);
    let (event, also) = with(1, 10);
    assert_eq!(relay_event::put(store, event, also).await.unwrap(), Stored::Duplicate);
    let (event, also) = with(2, 1_048_576);
    let error = relay_event::put(store, event, also).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::InboxFull));
    assert_eq!(ids(store, Filter::default()).await, [1], "no room in the inbox, no event");
    assert_eq!(inbox::pending(store, ALICE, 10).await.unwrap().len(), 1);
}

/// Values beyond what an index of PostgreSQL holds, and with zero bytes, which its texts do not.
async fn any_text_is_a_tag(world: World) {
    let store = &world.store;
    let long = "\u{e9}".repeat(40_000);
    let values = [
        long.clone(),
        format!("{long}x"),
        "a\0b".into(),
        "a b".into(),
        "\0".into(),
        "x".repeat(1_000),
        "x".repeat(1_001),
    ];
    for (id, value) in (1..).zip(&values) {
        let tagged = NewRelayEvent { tags: vec![('t', value.clone())], ..note(id, 1, T) };
        assert_eq!(put(store, tagged).await, Stored::Stored);
    }
    for (id, value) in (1..).zip(&values) {
        let filter = Filter { tags: vec![('t', vec![value.clone()])], ..Filter::default() };
        assert_eq!(ids(store, filter).await, [id], "found by its own value alone");
    }
    // An address may be as long.
    for d in [&long, "a\0b"] {
        let at = |id, time| NewRelayEvent { d: Some(d.to_owned()), ..note(id, 30_023, time) };
        assert_eq!(put(store, at(20, T)).await, Stored::Stored);
        assert_eq!(put(store, at(21, T + 1)).await, Stored::Stored);
        assert_eq!(put(store, at(20, T)).await, Stored::Superseded);
        assert_eq!(relay_event::delete_address(store, AUTHOR, 30_023, d, T + 1).await.unwrap(), 1);
        assert_eq!(put(store, at(22, T + 1)).await, Stored::Superseded);
        let other = Filter { kinds: vec![30_023], ..Filter::default() };
        assert!(ids(store, other).await.is_empty());
    }
}

async fn old_regular_events_go_in_pieces_and_what_is_replaced_stays(world: World) {
    let store = &world.store;
    let at = |id, kind, received: i64| NewRelayEvent {
        received_at: NOW.plus_ms(received),
        tags: vec![('t', "a".into())],
        ..note(id, kind, T + i64::from(id))
    };
    for id in 1..=5 {
        put(store, at(id, 1, i64::from(id))).await;
    }
    put(store, at(6, 0, 6)).await;
    put(store, at(7, 1, 7)).await;
    put(store, at(8, 1, 100)).await;
    let mut walk = Walk::default();
    let mut gone = 0;
    for _ in 0..3 {
        assert!(!walk.done);
        let piece;
        (piece, walk) = relay_event::purge_old(store, NOW.plus_ms(50), walk, 3).await.unwrap();
        gone += piece;
    }
    assert!(gone == 6 && walk.done, "{gone} {walk:?}");
    assert_eq!(ids(store, Filter::default()).await, [8, 6]);
    let tagged = Filter { tags: vec![('t', vec!["a".into()])], ..Filter::default() };
    assert_eq!(ids(store, tagged).await, [8, 6], "tags go with their events");
    assert_eq!(relay_event::purge_old(store, NOW.plus_ms(50), Walk::default(), 3).await.unwrap().0, 0);
}

suite::suite!(
    replaceable_and_addressable,
    filters,
    deleted_stays_deleted,
    the_inbox_row_comes_with_the_event,
    any_text_is_a_tag,
    old_regular_events_go_in_pieces_and_what_is_replaced_stays,
);
