//! The life of a tick in the store.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, BOB, Kind, NOW, World, record, started, tick_id};
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Msat, TickId};
use nexus_store::inbox::{self, NewItem, Put};
use nexus_store::publication::{self, NewPublication};
use nexus_store::tick::{self, TickStatus};
use nexus_store::{Conflict, Side, agent, event, journal};

fn mention(n: u32) -> NewItem {
    NewItem {
        npub: ALICE,
        external_id: format!("event{n}"),
        trigger: Trigger::Mention,
        sender: Some(BOB),
        received_at: NOW,
        payload: vec![1; 10],
    }
}

async fn a_tick_from_trigger_to_commit(world: World) {
    let store = &world.store;
    for n in 1..=3 {
        assert_eq!(inbox::put(store, mention(n)).await.unwrap(), Put::Stored);
    }
    let pending = inbox::pending(store, ALICE, 10).await.unwrap();
    assert_eq!(inbox::waiting(store, world.fence, 10).await.unwrap(), [ALICE]);
    let mut begin = world.begin(ALICE, 1);
    begin.inbox = pending[..2].iter().map(|item| item.id).collect();
    assert_eq!(tick::begin(store, begin).await.unwrap(), [2]);
    assert_eq!(inbox::pending(store, ALICE, 10).await.unwrap(), pending[2..]);

    journal::append(store, world.append(ALICE, 1, 2, Vec::new())).await.unwrap();
    let again = journal::append(store, world.append(ALICE, 1, 2, Vec::new())).await.unwrap_err();
    assert!(again.is_duplicate(), "{again}");

    let open = tick::open(store, ALICE).await.unwrap().unwrap();
    assert_eq!(open.records, [record(1), record(2)]);
    assert_eq!(open.inbox.iter().map(|item| item.id).collect::<Vec<_>>(), [pending[0].id, pending[1].id]);

    assert_eq!(tick::commit(store, world.commit(ALICE, 1, 2)).await.unwrap(), [3]);
    let done = tick::get(store, ALICE, tick_id(1)).await.unwrap().unwrap();
    assert_eq!((done.status, done.cost), (TickStatus::Completed, Msat::new(7)));
    assert!(journal::load(store, tick_id(1)).await.unwrap().is_empty());
    assert_eq!(inbox::put(store, mention(1)).await.unwrap(), Put::Duplicate, "a handled trigger is remembered");
    assert_eq!(inbox::level(store, ALICE).await.unwrap(), (1, 10));
    let state = agent::state(store, ALICE).await.unwrap().unwrap();
    assert_eq!((state.version, state.generation), (2, world.generation));
    let row = agent::get(store, ALICE).await.unwrap().unwrap();
    assert_eq!((row.balance, row.event_seq), (Some(Msat::sats(5)), 2 + 1), "placed, started, completed");
}

async fn a_commit_happens_once(world: World) {
    let store = &world.store;
    tick::begin(store, world.begin(ALICE, 1)).await.unwrap();
    let error = tick::commit(store, world.commit(ALICE, 1, 3)).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::Version), "state 2 is next, not 3");
    tick::commit(store, world.commit(ALICE, 1, 2)).await.unwrap();
    let error = tick::commit(store, world.commit(ALICE, 1, 3)).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::TickNotOpen));
    let late = journal::append(store, world.append(ALICE, 1, 2, Vec::new())).await.unwrap_err();
    assert_eq!(late.conflict(), Some(&Conflict::TickNotOpen), "no journal after the end");
    assert_eq!(event::after(store, ALICE, 0, 10).await.unwrap().len(), 3);
}

async fn one_open_tick_and_one_claim(world: World) {
    let store = &world.store;
    inbox::put(store, mention(1)).await.unwrap();
    let id = inbox::pending(store, ALICE, 1).await.unwrap()[0].id;
    let mut begin = world.begin(ALICE, 1);
    begin.inbox = vec![id];
    tick::begin(store, begin).await.unwrap();
    let error = tick::begin(store, world.begin(ALICE, 2)).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::TickOpen));
    // Another agent cannot take the row either, nor write into the tick.
    let mut theft = world.begin(BOB, 3);
    theft.inbox = vec![id];
    assert_eq!(tick::begin(store, theft).await.unwrap_err().conflict(), Some(&Conflict::InboxGone));
    assert!(tick::get(store, BOB, tick_id(3)).await.unwrap().is_none(), "nothing of the batch was done");
    let foreign = journal::append(store, world.append(BOB, 1, 2, Vec::new())).await.unwrap_err();
    assert_eq!(foreign.conflict(), Some(&Conflict::TickNotOpen));
    assert_eq!(inbox::discard(store, world.fence, ALICE, world.generation, &[id], "late").await.unwrap(), 0);
}

async fn history_is_paged_and_counted(world: World) {
    let store = &world.store;
    for n in 1..=5 {
        tick::begin(store, world.begin(ALICE, n)).await.unwrap();
        tick::commit(store, world.commit(ALICE, n, i64::from(n) + 1)).await.unwrap();
    }
    let first = tick::list(store, ALICE, None, 2).await.unwrap();
    assert_eq!(first.iter().map(|tick| tick.id).collect::<Vec<_>>(), [tick_id(5), tick_id(4)]);
    let rest = tick::list(store, ALICE, Some(first[1].id), 10).await.unwrap();
    assert_eq!(rest.iter().map(|tick| tick.id).collect::<Vec<TickId>>(), [tick_id(3), tick_id(2), tick_id(1)]);
    assert_eq!(tick::count_since(store, ALICE, NOW).await.unwrap(), 5);
    assert_eq!(tick::count_since(store, ALICE, NOW.plus_ms(1)).await.unwrap(), 0, "by when it started");
    assert_eq!(tick::spent_since(store, ALICE, NOW).await.unwrap(), (Msat::new(35), Some(NOW)));
    assert_eq!(tick::last_committed(store, ALICE).await.unwrap().unwrap().id, tick_id(5));
    assert_eq!(tick::purge(store, NOW.plus_ms(4), 100).await.unwrap(), 3);
}

async fn an_open_tick_survives_a_restart(world: World) {
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    for seq in 2..=5 {
        journal::append(&world.store, world.append(ALICE, 1, seq, vec![])).await.unwrap();
    }
    let world = world.reopen().await;
    let open = tick::open(&world.store, ALICE).await.unwrap().unwrap();
    assert_eq!(open.records.len(), 5);
    assert_eq!(open.tick.status, TickStatus::Open);
    let skip = tick::Skip {
        fence: world.fence,
        npub: ALICE,
        generation: world.generation,
        tick: tick_id(2),
        trigger: Trigger::Heartbeat,
        at: NOW,
        reason: "busy".into(),
        discard: Vec::new(),
        change: agent::Change::default(),
        events: vec![started(2)],
    };
    tick::skip(&world.store, skip).await.unwrap();
    let skipped = tick::get(&world.store, ALICE, tick_id(2)).await.unwrap().unwrap();
    assert_eq!((skipped.status, skipped.reason.as_deref()), (TickStatus::Skipped, Some("busy")));
}

/// Published long ago by whoever looked after the agent then; the tick that wrote it is still open.
async fn what_an_open_tick_published_is_kept(world: World) {
    let store = &world.store;
    tick::begin(store, world.begin(ALICE, 1)).await.unwrap();
    let (mine, other) = (Hash32::from_bytes([1; 32]), Hash32::from_bytes([2; 32]));
    let put = |event_id| {
        Side::PutPublication(NewPublication {
            event_id,
            kind: 1,
            json: "{}".into(),
            relays: vec!["wss://relay.example".into()],
            next_attempt_at: NOW,
        })
    };
    let said = |event_id| Side::PublicationResult { event_id, done: true, relays: "[]".into(), next_attempt_at: None };
    journal::append(store, world.append(ALICE, 1, 2, vec![put(mine)])).await.unwrap();
    let sides = vec![said(mine), put(other), said(other)];
    journal::apply(store, world.fence, ALICE, world.generation, NOW, sides).await.unwrap();
    let later = NOW.plus_ms(30 * 86_400_000);
    assert_eq!(publication::purge(store, later, 100).await.unwrap(), 1, "the one that no tick waits for");
    assert!(publication::get(store, ALICE, mine).await.unwrap().is_some());
    journal::append(store, world.append(ALICE, 1, 3, vec![said(mine)])).await.unwrap();
    tick::commit(store, world.commit(ALICE, 1, 2)).await.unwrap();
    assert_eq!(publication::purge(store, later, 100).await.unwrap(), 1);
}

suite::suite!(
    what_an_open_tick_published_is_kept,
    a_tick_from_trigger_to_commit,
    a_commit_happens_once,
    one_open_tick_and_one_claim,
    history_is_paged_and_counted,
    an_open_tick_survives_a_restart,
);
