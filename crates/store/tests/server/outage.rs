//! The server is killed, stopped and started under load: nothing that was answered is lost, nothing is done twice, every caller
//! hears what became of its write, and the connections come back by themselves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nexus_core::budget::Window;
use nexus_core::{Hash32, Msat};
use nexus_store::event::{self, Chain};
use nexus_store::journal::Append;
use nexus_store::{PostgresConfig, Side, Store, StoreError, journal, payment, tick};
use nexus_testkit::postgres::{Postgres, Stop};
use tokio::task::JoinSet;

use crate::common::{ALICE, BOB, Kind, World, record, started, tick_id};

const LANES: i64 = 12;
/// Writes that are answered between two blows.
const BETWEEN: u64 = 150;

/// A world on a server of its own.
async fn world(server: &Postgres, change: impl FnOnce(PostgresConfig) -> PostgresConfig) -> World {
    let database = server.database();
    let config = PostgresConfig {
        host: server.socket_dir().into(),
        database: database.clone(),
        user: nexus_testkit::postgres::USER.into(),
        ..PostgresConfig::default()
    };
    let store = Store::open_postgres(change(config)).await.unwrap();
    World::on(store, Kind::Postgres, database).await
}

/// What a lane did: the records that were stored, and its events' numbers.
type Done = (Vec<i64>, Vec<i64>);

/// Writes until it is told to stop. Each record is of a lane and a number; with it an event, and a millisat reserved.
async fn lane(world: Arc<World>, lane: i64, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Done {
    let (mut records, mut events) = (Vec::new(), Vec::new());
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let seq = 10 + lane * 100_000 + n;
        let reserve =
            Side::ReserveBudget { window: Window::Day(1), amount: Msat::new(1), limit: Msat::new(u32::MAX.into()) };
        // Some in one round trip, some in two.
        let side = if n % 2 == 0 { vec![reserve, Side::AppendEvent(started(1))] } else { vec![reserve] };
        let append = Append { records: vec![record(seq)], ..world.append(ALICE, 1, seq, side) };
        let numbers = journal::append(&world.store, append).await.unwrap_or_else(|error| panic!("{seq}: {error}"));
        assert_eq!(numbers.len(), usize::from(n % 2 == 0));
        records.push(seq);
        events.extend(numbers);
        answered.fetch_add(1, Ordering::Relaxed);
    }
    (records, events)
}

/// Reads see what was answered before, or wait.
async fn reader(world: Arc<World>, stop: Arc<AtomicBool>) {
    let mut last = 0;
    while !stop.load(Ordering::Relaxed) {
        let held = payment::counter(&world.store, ALICE, Window::Day(1)).await.unwrap().held.as_i64();
        assert!(held >= last, "{held} after {last}");
        last = held;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_under_load_loses_and_doubles_nothing() {
    let server = Arc::new(Postgres::start());
    // Two writers, so that they also meet each other; and patience for a slow machine.
    let world = world(&server, |config| PostgresConfig { writers: 2, outage_ms: 300_000, ..config }).await;
    let world = Arc::new(world);
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut lanes = JoinSet::new();
    for number in 0..LANES {
        lanes.spawn(lane(world.clone(), number, stop.clone(), answered.clone()));
    }
    let reading = tokio::spawn(reader(world.clone(), stop.clone()));
    for how in [Stop::Immediate, Stop::Fast, Stop::Immediate] {
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) < before + BETWEEN {
            assert!(!lanes.is_empty());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let server = server.clone();
        let blow = tokio::task::spawn_blocking(move || {
            server.stop(how);
            server.start_again();
        });
        blow.await.unwrap();
    }
    let before = answered.load(Ordering::Relaxed);
    while answered.load(Ordering::Relaxed) < before + BETWEEN {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut records, mut events) = (BTreeSet::from([1]), BTreeSet::new());
    while let Some(lane) = lanes.join_next().await {
        let (stored, numbers) = lane.unwrap();
        records.extend(stored);
        for number in numbers {
            assert!(events.insert(number), "event {number} was told twice");
        }
    }
    reading.await.unwrap();
    let found: Vec<i64> = journal::load(&world.store, tick_id(1)).await.unwrap().iter().map(|r| r.seq).collect();
    assert_eq!(found, records.iter().copied().collect::<Vec<_>>(), "what was answered is there, and nothing else");
    let held = payment::counter(&world.store, ALICE, Window::Day(1)).await.unwrap().held;
    assert_eq!(held, Msat::new(records.len() as u64 - 1), "each reserved once");
    // Two came before: placed, and the tick.
    assert_eq!(events.iter().copied().collect::<Vec<_>>(), (3..3 + events.len() as i64).collect::<Vec<_>>());
    let chain = event::verify_chain(&world.store, ALICE).await.unwrap();
    assert!(matches!(chain, Chain::Intact { events: all, .. } if all == events.len() as u64 + 2), "{chain:?}");
}

/// Longer than callers put up with: they are told, the ones after them at once, and it works again as soon as it can.
#[tokio::test]
async fn a_server_that_stays_away_is_named() {
    let server = Arc::new(Postgres::start());
    let world = world(&server, |config| PostgresConfig { outage_ms: 200, ..config }).await;
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    server.stop(Stop::Fast);
    for seq in [2, 3] {
        let error = journal::append(&world.store, world.append(ALICE, 1, seq, Vec::new())).await.unwrap_err();
        assert!(matches!(error, StoreError::Database { .. }), "surely not done: {error}");
    }
    let read = payment::counter(&world.store, BOB, Window::Day(1)).await.unwrap_err();
    assert!(matches!(read, StoreError::Database { .. }), "{read}");
    server.start_again();
    journal::append(&world.store, world.append(ALICE, 1, 2, Vec::new())).await.unwrap();
    let records = journal::load(&world.store, tick_id(1)).await.unwrap();
    assert_eq!(
        records.iter().map(|record| record.digest).collect::<Vec<Hash32>>(),
        [record(1).digest, record(2).digest]
    );
}
