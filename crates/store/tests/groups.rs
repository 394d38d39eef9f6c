//! Group commit: each caller its own verdict, and what was answered is on disk.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;

use std::sync::Arc;

use common::{ALICE, Kind, World, audit, new_agent, open, path, record};
use nexus_core::{Generation, Npub};
use nexus_store::{Conflict, agent, event, journal, tick};
use tokio::task::JoinSet;

/// A caller whose batch fails, in whichever way, beside callers whose batches are fine: all at once, many times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_failure_is_its_own() {
    let world = Arc::new(World::new(Kind::Thread).await);
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    let mut callers = JoinSet::new();
    for n in 0..400_i64 {
        let world = world.clone();
        callers.spawn(async move {
            let seq = 2 + n / 4;
            let mut append = world.append(ALICE, 1, seq, Vec::new());
            match n % 4 {
                // Two for the same number: one of them is the duplicate.
                0 | 1 => {}
                2 => append.generation.0 += 1,
                // Fails after its first writes: those must go too.
                _ => {
                    append.records = vec![record(10_000 + n), record(1)];
                }
            }
            (n, seq, journal::append(&world.store, append).await)
        });
    }
    let (mut stored, mut duplicates) = (Vec::new(), Vec::new());
    while let Some(answer) = callers.join_next().await {
        let (n, seq, result) = answer.unwrap();
        match (n % 4, result) {
            (0 | 1, Ok(_)) => stored.push(seq),
            (0 | 1, Err(error)) if error.is_duplicate() => duplicates.push(seq),
            (2, Err(error)) => assert!(error.is_stale(), "{error}"),
            (3, Err(error)) => assert!(error.is_duplicate(), "{error}"),
            (_, other) => panic!("{n}: {other:?}"),
        }
    }
    stored.sort_unstable();
    duplicates.sort_unstable();
    assert_eq!(stored, (2..102).collect::<Vec<_>>());
    assert_eq!(duplicates, stored);
    let seqs: Vec<i64> = journal::load(&world.store, common::tick_id(1)).await.unwrap().iter().map(|r| r.seq).collect();
    assert_eq!(seqs, (1..102).collect::<Vec<_>>());
}

/// Forty agents' ticks in step, so that groups hold many batches of one shape, and strangers among them: an older
/// generation, a number twice, a tick that is not open. Everyone is told its own, and each agent has its own rows.
async fn in_step(kind: Kind) {
    const AGENTS: u8 = 40;
    let world = Arc::new(World::new(kind).await);
    let npub = |n: u8| Npub::from_bytes([n; 32]);
    for n in 1..=AGENTS {
        agent::create(&world.store, new_agent(npub(n), &format!("a{n}")), None, audit("agent.create")).await.unwrap();
        assert_eq!(world.place(npub(n), Generation(0), None, 1).await, world.generation);
    }
    for round in 0..3_i64 {
        let mut callers = JoinSet::new();
        for n in 1..=AGENTS {
            let world = world.clone();
            callers.spawn(async move {
                // An id for each round and agent.
                let id = n + AGENTS * u8::try_from(round).unwrap();
                let last = 2 + 2 * round + 1;
                assert_eq!(tick::begin(&world.store, world.begin(npub(n), id)).await.unwrap(), [last - 1]);
                let spoil = (i64::from(n) + round) % 7 == 0;
                let mut append = world.append(npub(n), id, 2, Vec::new());
                match (spoil, n % 3) {
                    (true, 0) => append.generation.0 += 1,
                    (true, 1) => append.records = vec![record(9), record(1)],
                    (true, _) => append.tick = common::tick_id(250),
                    (false, _) => {}
                }
                let told = journal::append(&world.store, append).await;
                match (spoil, n % 3) {
                    (true, 0) => assert!(told.unwrap_err().is_stale()),
                    (true, 1) => assert!(told.unwrap_err().is_duplicate()),
                    (true, _) => assert_eq!(told.unwrap_err().conflict(), Some(&Conflict::TickNotOpen)),
                    (false, _) => drop(told.unwrap()),
                }
                let open = tick::open(&world.store, npub(n)).await.unwrap().unwrap();
                let seqs: Vec<i64> = open.records.iter().map(|record| record.seq).collect();
                assert_eq!(seqs, if spoil { vec![1] } else { vec![1, 2] }, "agent {n}");
                assert_eq!(tick::commit(&world.store, world.commit(npub(n), id, round + 2)).await.unwrap(), [last]);
                assert!(tick::open(&world.store, npub(n)).await.unwrap().is_none());
            });
        }
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
    }
    for n in 1..=AGENTS {
        let chain = event::verify_chain(&world.store, npub(n)).await.unwrap();
        assert!(matches!(chain, event::Chain::Intact { events: 7, .. }), "{chain:?}");
        assert_eq!(agent::state(&world.store, npub(n)).await.unwrap().unwrap().version, 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_agents_in_step_on_sqlite() {
    in_step(Kind::Thread).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_agents_in_step_on_postgres() {
    in_step(Kind::Postgres).await;
}

/// A power cut: the files as they are at some moment, with writes under way, hold everything that was answered before it,
/// and each batch whole or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_power_cut() {
    let world = Arc::new(World::new(Kind::Thread).await);
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    let answered = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut writers = JoinSet::new();
    for lane in 0..8_i64 {
        let (world, answered) = (world.clone(), answered.clone());
        writers.spawn(async move {
            for n in 0..60 {
                // Pairs: both or none.
                let first = 2 + (lane * 60 + n) * 2;
                let mut append = world.append(ALICE, 1, first, Vec::new());
                append.records.push(record(first + 1));
                journal::append(&world.store, append).await.unwrap();
                answered.lock().unwrap().push(first);
            }
        });
    }
    for _ in 0..4 {
        tokio::time::sleep(std::time::Duration::from_millis(15)).await;
        let before: Vec<i64> = answered.lock().unwrap().clone();
        let cut = tempfile::tempdir().unwrap();
        // The log before the database: no checkpoint happens in so few pages, so the order is that of a snapshot.
        for suffix in ["-wal", ""] {
            let name = format!("nexus.db{suffix}");
            std::fs::copy(world.dir.path().join(&name), cut.path().join(&name)).unwrap();
        }
        let store = open(Kind::Thread, &cut, "").await;
        let open = tick::open(&store, ALICE).await.unwrap().unwrap();
        let seqs: Vec<i64> = open.records.iter().map(|record| record.seq).collect();
        for first in before {
            assert!(seqs.contains(&first), "{first} was answered");
        }
        for seq in seqs.iter().filter(|seq| **seq > 1) {
            assert!(seqs.contains(&(seq ^ 1)), "half a batch: {seq}");
        }
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
}

/// Dropping the last handle with writes queued: the queue is written, and a caller that gave up loses its answer only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_store_finishes_its_queue() {
    let world = World::new(Kind::Thread).await;
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    for seq in 2..50 {
        let (store, append) = (world.store.clone(), world.append(ALICE, 1, seq, Vec::new()));
        // One poll puts it in the queue; then the caller goes away.
        let mut call = Box::pin(async move { journal::append(&store, append).await });
        assert!(futures_poll(&mut call).await);
    }
    let world = world.reopen().await;
    let seqs = journal::load(&world.store, common::tick_id(1)).await.unwrap();
    assert_eq!(seqs.len(), 49);
}

/// Polls once; whether it is still under way or done.
async fn futures_poll<T>(call: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> bool {
    std::future::poll_fn(|context| {
        let _ = call.as_mut().poll(context);
        std::task::Poll::Ready(true)
    })
    .await
}

#[tokio::test]
async fn a_newer_schema_is_refused_untouched() {
    let world = World::new(Kind::Inline).await;
    let World { dir, store, .. } = world;
    drop(store);
    let connection = rusqlite::Connection::open(path(&dir)).unwrap();
    connection.execute("UPDATE schema_version SET version = 1000", []).unwrap();
    drop(connection);
    let error = nexus_store::Store::open(&path(&dir)).unwrap_err();
    assert!(matches!(error, nexus_store::StoreError::NewerSchema { found: 1_000, .. }), "{error}");
    let missing = nexus_store::Store::open(&dir.path().join("no/such/dir")).unwrap_err();
    assert!(missing.to_string().contains("no/such/dir"), "{missing}");
}
