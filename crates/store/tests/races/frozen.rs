//! A worker that freezes (SIGSTOP, a page of swap, a dead network) somewhere in what it says to PostgreSQL: its agents move all
//! the same, as often as it is tried, and what it then says is stale, or was done before.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{
    ALICE, Kind, NOW, World, audit, config, new_agent, new_worker, record, started, tick_id, worker_id,
};
use crate::second::Second;
use nexus_core::placement::Step;
use nexus_core::status::Purpose;
use nexus_core::{Generation, Npub};
use nexus_store::journal::Append;
use nexus_store::tick::Begin;
use nexus_store::{Fence, PostgresConfig, Side, Store, StoreError, agent, journal, placement, tick, worker};
use nexus_testkit::proxy::Rule;
use tokio::task::JoinSet;

/// Half a lease, in miniature.
const SHORT_MS: u64 = 600;
/// Of a Sync message: the commit before it is executed whether it has arrived or not.
const SYNC: usize = 5;
/// Where agents go.
const REFUGE: u8 = 2;
/// Frozen at the same time.
const AT_ONCE: usize = 12;

fn short(config: PostgresConfig) -> PostgresConfig {
    PostgresConfig { idle_in_transaction_timeout_ms: SHORT_MS, ..config }
}

/// An agent with a tick, on a worker of its own, whose connection can be held.
struct Host {
    npub: Npub,
    fence: Fence,
    generation: Generation,
    n: u8,
    second: Second,
}

impl Host {
    async fn new(world: &World, n: u8) -> Self {
        let npub = Npub::from_bytes([n; 32]);
        let fence = worker::register(&world.store, new_worker(n), NOW).await.unwrap();
        agent::create(&world.store, new_agent(npub, &format!("agent{n}")), None, audit("agent.create")).await.unwrap();
        let generation = world.place(npub, Generation(0), None, n).await;
        let second = Second::with(world, short).await;
        let host = Self { npub, fence, generation, n, second };
        let begin = Begin { fence, npub, generation, ..world.begin(npub, n) };
        tick::begin(&host.second.store, begin).await.unwrap();
        host
    }

    async fn write(&self, seq: i64, event: bool) -> Result<(), StoreError> {
        let Self { npub, fence, generation, n, .. } = *self;
        // With an event, whose number somebody wants to know.
        let side = if event { vec![Side::AppendEvent(started(n))] } else { Vec::new() };
        let append = Append { fence, npub, generation, tick: tick_id(n), at: NOW, records: vec![record(seq)], side };
        journal::append(&self.second.store, append).await.map(drop)
    }

    /// How many bytes the write is, and where its messages end.
    async fn measure(&self, seq: i64, event: bool) -> Vec<usize> {
        self.second.release();
        self.write(seq, event).await.unwrap();
        let said = self.second.proxy.said();
        let mut ends = Vec::new();
        let mut at = 0;
        // A message: its type, then its length, which does not count the type.
        while let Some(length) = said.get(at + 1..at + 5) {
            at += 1 + u32::from_be_bytes(length.try_into().unwrap()) as usize;
            ends.push(at);
        }
        assert_eq!(at, said.len());
        ends
    }

    /// Freezes after `place` bytes of a write; returns whether it was stored.
    async fn freeze(self, world: &World, place: usize, all: usize, event: bool) -> bool {
        let host = Arc::new(self);
        host.write(2, event).await.unwrap();
        host.second.proxy.set(Rule::HoldAfter(place));
        let writer = host.clone();
        let write = tokio::spawn(async move { writer.write(3, event).await });
        host.second.proxy.met(1).await;
        let control = Store::open_postgres(short(config(&world.database))).await.unwrap();
        let Host { npub, generation, n, .. } = *host;
        let from = Some(worker_id(n));
        let step = Step { npub, generation, from, to: worker_id(REFUGE), purpose: Purpose::Run };
        let placed = tokio::time::timeout(Duration::from_secs(60), placement::place(&control, world.term, &step, NOW));
        placed.await.unwrap_or_else(|_| panic!("frozen after {place} of {all} bytes: nobody else gets on")).unwrap();
        assert!(!write.is_finished(), "it still stands");
        host.second.release();
        let stored = match write.await.unwrap() {
            Ok(()) => true,
            Err(error) => {
                assert!(error.is_stale(), "frozen after {place} of {all} bytes: {error}");
                false
            }
        };
        let seqs: Vec<i64> = journal::load(&control, tick_id(n)).await.unwrap().iter().map(|r| r.seq).collect();
        assert_eq!(seqs, if stored { vec![1, 2, 3] } else { vec![1, 2] }, "frozen after {place} of {all} bytes");
        stored
    }
}

/// At the end of each message of a write and in the middle of the next one's head.
async fn everywhere(event: bool) {
    let world = Arc::new(World::new(Kind::Postgres).await);
    worker::register(&world.store, new_worker(REFUGE), NOW).await.unwrap();
    let first = Host::new(&world, 3).await;
    first.measure(2, event).await;
    let ends = first.measure(3, event).await;
    assert!(ends.len() > 12, "{ends:?}");
    let all = *ends.last().unwrap();
    let places = ends.iter().flat_map(|end| [*end, end + 3]).filter(|place| *place < all);
    let mut places: Vec<(u8, usize)> = (10..).zip(places).collect();
    let mut hosts = JoinSet::new();
    while !places.is_empty() || !hosts.is_empty() {
        if hosts.len() < AT_ONCE
            && let Some((n, place)) = places.pop()
        {
            let world = world.clone();
            hosts.spawn(async move { (place, Host::new(&world, n).await.freeze(&world, place, all, event).await) });
            continue;
        }
        let Some(done) = hosts.join_next().await else { break };
        let (place, stored) = done.unwrap();
        assert_eq!(stored, place >= all - SYNC, "frozen after {place} of {all} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_anywhere() {
    everywhere(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_anywhere_with_an_event() {
    everywhere(true).await;
}

/// Whose answer is read before it commits: here the server itself ends it, or whoever waits, whichever is first.
#[tokio::test]
async fn frozen_between_two_trips() {
    let world = World::new(Kind::Postgres).await;
    worker::register(&world.store, new_worker(REFUGE), NOW).await.unwrap();
    let second = Second::with(&world, short).await;
    let (store, fence) = (second.store.clone(), world.fence);
    let beat = second.hold(async move { worker::beat(&store, fence, 0, NOW).await }).await;
    let control = Store::open_postgres(short(config(&world.database))).await.unwrap();
    let from = Some(worker_id(1));
    let generation = world.generation;
    let step = Step { npub: ALICE, generation, from, to: worker_id(REFUGE), purpose: Purpose::Run };
    let placed = tokio::time::timeout(Duration::from_secs(60), placement::place(&control, world.term, &step, NOW));
    placed.await.unwrap().unwrap();
    assert!(!beat.is_finished());
    second.release();
    // Its fence stands: it hears that Alice left.
    let changed = beat.await.unwrap().unwrap();
    assert!(changed.iter().any(|agent| agent.npub == ALICE && agent.worker == Some(worker_id(REFUGE))));
}
