//! Two connections to one PostgreSQL, one of them stopped at the worst moment: right before its commit. The other is seen
//! waiting for it by the server's own word before the first goes on.

use std::future::Future;
use std::sync::Arc;

use crate::common::{
    ALICE, BOB, Kind, NOW, World, account_id, audit, bytes, config, new_agent, new_payment, new_worker, sql, started,
    tick_id, worker_id,
};
use crate::second::{COMMIT, Second, patient, until_waiting};
use nexus_core::budget::{Counter, Window};
use nexus_core::payment::PaymentState::{Dispatched, Reserved, Settled};
use nexus_core::placement::Step;
use nexus_core::status::{Hosting, Purpose};
use nexus_core::trigger::Trigger;
use nexus_core::{Generation, Hash32, Msat, Npub};
use nexus_store::account::{self, Account};
use nexus_store::event::{self, Chain};
use nexus_store::inbox::{self, MAX_ROWS, NewItem, Put};
use nexus_store::side::PaymentMove;
use nexus_store::token::{self, MAX_TOKENS, Token};
use nexus_store::worker::Worker;
use nexus_store::{
    Batch, Conflict, Lock, PostgresConfig, Side, Statement, Store, StoreError, agent, journal, payment, placement,
    tick, worker,
};
use nexus_testkit::proxy::Rule;
use tokio::task::{JoinHandle, JoinSet};

async fn world() -> World {
    let world = World::new(Kind::Postgres).await;
    let store = Store::open_postgres(patient(config(&world.database))).await.unwrap();
    World { store, ..world }
}

/// It waits for somebody.
async fn waits<T>(world: &World, call: &JoinHandle<T>) {
    until_waiting(world, 1).await;
    assert!(!call.is_finished());
}

fn place(store: &Store, world: &World, generation: Generation) -> JoinHandle<Result<Generation, StoreError>> {
    let (store, term) = (store.clone(), world.term);
    let step = Step { npub: ALICE, generation, from: Some(worker_id(1)), to: worker_id(2), purpose: Purpose::Run };
    tokio::spawn(async move { placement::place(&store, term, &step, NOW).await })
}

fn append(store: &Store, world: &World, seq: i64) -> impl Future<Output = Result<Vec<i64>, StoreError>> + 'static {
    let (store, append) = (store.clone(), world.append(ALICE, 1, seq, Vec::new()));
    async move { journal::append(&store, append).await }
}

async fn seqs(world: &World) -> Vec<i64> {
    journal::load(&world.store, tick_id(1)).await.unwrap().iter().map(|record| record.seq).collect()
}

#[tokio::test]
async fn a_placement_waits_for_a_fenced_write() {
    let world = world().await;
    let second = Second::of(&world).await;
    worker::register(&world.store, new_worker(2), NOW).await.unwrap();
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    let write = second.hold(append(&second.store, &world, 2)).await;
    let placing = place(&world.store, &world, world.generation);
    waits(&world, &placing).await;
    second.release();
    write.await.unwrap().unwrap();
    let generation = placing.await.unwrap().unwrap();
    assert_eq!(generation.0, world.generation.0 + 1);
    assert_eq!(seqs(&world).await, [1, 2], "it came before the placement, so it counts");
    assert!(append(&second.store, &world, 3).await.unwrap_err().is_stale());
    assert_eq!(seqs(&world).await, [1, 2]);
}

#[tokio::test]
async fn a_fenced_write_waits_for_a_placement_and_is_stale() {
    let world = world().await;
    let second = Second::of(&world).await;
    worker::register(&world.store, new_worker(2), NOW).await.unwrap();
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    let store = second.store.clone();
    let step = Step {
        npub: ALICE,
        generation: world.generation,
        from: Some(worker_id(1)),
        to: worker_id(2),
        purpose: Purpose::Run,
    };
    let term = world.term;
    let placing = second.hold(async move { placement::place(&store, term, &step, NOW).await }).await;
    let write = tokio::spawn(append(&world.store, &world, 2));
    waits(&world, &write).await;
    second.release();
    placing.await.unwrap().unwrap();
    assert!(write.await.unwrap().unwrap_err().is_stale());
    assert_eq!(seqs(&world).await, [1]);
}

fn declare_dead(store: &Store, world: &World, seen: &Worker) -> JoinHandle<Result<u64, StoreError>> {
    let (store, term, seen) = (store.clone(), world.term, seen.clone());
    tokio::spawn(async move { placement::declare_dead(&store, term, seen.id, seen.incarnation, seen.beat, NOW).await })
}

#[tokio::test]
async fn declaring_dead_waits_for_a_fenced_write() {
    let world = world().await;
    let second = Second::of(&world).await;
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    let seen = worker::get(&world.store, world.fence.worker).await.unwrap().unwrap();
    let write = second.hold(append(&second.store, &world, 2)).await;
    let declaring = declare_dead(&world.store, &world, &seen);
    waits(&world, &declaring).await;
    second.release();
    write.await.unwrap().unwrap();
    assert_eq!(declaring.await.unwrap().unwrap(), 2, "Alice and Bob");
    assert!(append(&second.store, &world, 3).await.unwrap_err().is_stale());
    assert!(worker::beat(&second.store, world.fence, 0, NOW).await.unwrap_err().is_stale());
    assert_eq!(seqs(&world).await, [1, 2], "it came before, so it counts; what came after does not");
}

#[tokio::test]
async fn a_fenced_write_waits_for_its_workers_death_and_is_stale() {
    let world = world().await;
    let second = Second::of(&world).await;
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    let seen = worker::get(&world.store, world.fence.worker).await.unwrap().unwrap();
    let (store, term) = (second.store.clone(), world.term);
    let declaring =
        async move { placement::declare_dead(&store, term, seen.id, seen.incarnation, seen.beat, NOW).await };
    let declaring = second.hold(declaring).await;
    let write = tokio::spawn(append(&world.store, &world, 2));
    waits(&world, &write).await;
    second.release();
    assert_eq!(declaring.await.unwrap().unwrap(), 2);
    assert!(write.await.unwrap().unwrap_err().is_stale());
    assert_eq!(seqs(&world).await, [1]);
}

/// A drained worker hands an agent over while another of its tasks still writes for it.
#[tokio::test]
async fn giving_up_waits_for_a_fenced_write() {
    let world = world().await;
    let second = Second::of(&world).await;
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    let write = second.hold(append(&second.store, &world, 2)).await;
    let (store, fence, generation) = (world.store.clone(), world.fence, world.generation);
    let leaving = tokio::spawn(async move { placement::give_up(&store, fence, ALICE, generation).await });
    waits(&world, &leaving).await;
    second.release();
    write.await.unwrap().unwrap();
    leaving.await.unwrap().unwrap();
    assert!(append(&second.store, &world, 3).await.unwrap_err().is_stale());
    assert_eq!(seqs(&world).await, [1, 2]);
}

/// Nothing of a deleted agent stays, also of what a worker is writing in that moment.
#[tokio::test]
async fn deleting_waits_for_a_fenced_write() {
    let world = world().await;
    let second = Second::of(&world).await;
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    let write = second.hold(append(&second.store, &world, 2)).await;
    let store = world.store.clone();
    let deleting = tokio::spawn(async move { agent::delete(&store, ALICE, true, audit("agent.delete")).await });
    waits(&world, &deleting).await;
    second.release();
    write.await.unwrap().unwrap();
    deleting.await.unwrap().unwrap();
    assert!(append(&second.store, &world, 3).await.unwrap_err().is_stale());
    let left = sql(&world, "SELECT (SELECT count(*) FROM journal) + (SELECT count(*) FROM tick)");
    assert_eq!(left, "0");
}

async fn apply(store: Store, world: &World, side: Vec<Side>) -> Result<(), StoreError> {
    journal::apply(&store, world.fence, ALICE, world.generation, NOW, side).await.map(drop)
}

fn reserve(amount: u64) -> Side {
    Side::ReserveBudget { window: Window::Day(1), amount: Msat::new(amount), limit: Msat::new(300) }
}

type Applied = JoinHandle<Result<(), StoreError>>;

/// Two reservations, and room for one: the first stands right before its commit, the other waits for it.
async fn rivals(world: &Arc<World>, second: &Second) -> (Applied, Applied) {
    let rival = |store: Store| {
        let world = world.clone();
        async move { apply(store, &world, vec![reserve(200)]).await }
    };
    let held = second.hold(rival(second.store.clone())).await;
    let other = tokio::spawn(rival(world.store.clone()));
    waits(world, &other).await;
    (held, other)
}

#[tokio::test]
async fn of_two_reservations_one_gets_the_rest() {
    let world = Arc::new(world().await);
    let second = Second::of(&world).await;
    let (held, other) = rivals(&world, &second).await;
    second.release();
    held.await.unwrap().unwrap();
    let refused = other.await.unwrap().unwrap_err();
    assert_eq!(refused.conflict(), Some(&Conflict::Budget { window: "day:1".into() }));
    let counter = payment::counter(&world.store, ALICE, Window::Day(1)).await.unwrap();
    assert_eq!(counter, Counter { held: Msat::new(200), settled: Msat::ZERO });
}

/// The first is cut off before its commit arrives: the other gets the room, and the first, tried again, does not.
#[tokio::test]
async fn a_reservation_that_was_cut_off_leaves_the_room() {
    let world = Arc::new(world().await);
    let second = Second::of(&world).await;
    let (held, other) = rivals(&world, &second).await;
    second.proxy.set(Rule::Cut);
    other.await.unwrap().unwrap();
    second.release();
    let refused = held.await.unwrap().unwrap_err();
    assert_eq!(refused.conflict(), Some(&Conflict::Budget { window: "day:1".into() }));
    let counter = payment::counter(&world.store, ALICE, Window::Day(1)).await.unwrap();
    assert_eq!(counter.held, Msat::new(200));
}

#[tokio::test]
async fn a_late_commit_is_still_in_the_outbox() {
    let world = world().await;
    let second = Second::of(&world).await;
    let waiting = event::unrelayed(&world.store, 10).await.unwrap();
    event::mark_relayed(&world.store, &waiting).await.unwrap();
    let store = second.store.clone();
    let late = second.hold(async move { event::append(&store, ALICE, vec![started(1)]).await }).await;
    event::append(&world.store, BOB, vec![started(2)]).await.unwrap();
    let early = event::unrelayed(&world.store, 10).await.unwrap();
    assert_eq!(early, [(BOB, 2)]);
    event::mark_relayed(&world.store, &early).await.unwrap();
    second.release();
    assert_eq!(late.await.unwrap().unwrap(), [2]);
    assert_eq!(event::unrelayed(&world.store, 10).await.unwrap(), [(ALICE, 2)], "its number is the lower one");
}

#[tokio::test]
async fn a_payment_settles_once() {
    let world = Arc::new(world().await);
    let second = Second::of(&world).await;
    let step = |from, to| {
        Side::Payment(PaymentMove {
            hash: Hash32::from_bytes([1; 32]),
            from,
            to,
            at: NOW,
            fee: None,
            preimage: None,
            note: None,
        })
    };
    let intent = vec![reserve(110), Side::InsertPayment(new_payment(1, "job:1")), step(Reserved, Dispatched)];
    apply(world.store.clone(), &world, intent).await.unwrap();
    let settle = |store: Store| {
        let world = world.clone();
        let counted = Side::SettleBudget { window: Window::Day(1), held: Msat::new(55), spent: Msat::new(50) };
        let side = vec![counted, step(Dispatched, Settled)];
        async move { apply(store, &world, side).await }
    };
    let held = second.hold(settle(second.store.clone())).await;
    let other = tokio::spawn(settle(world.store.clone()));
    waits(&world, &other).await;
    second.release();
    held.await.unwrap().unwrap();
    let refused = other.await.unwrap().unwrap_err();
    assert_eq!(refused.conflict(), Some(&Conflict::PaymentState { expected: "dispatched".into() }));
    let counter = payment::counter(&world.store, ALICE, Window::Day(1)).await.unwrap();
    assert_eq!(counter, Counter { held: Msat::new(55), settled: Msat::new(50) }, "counted once");
}

#[tokio::test]
async fn a_new_reconciler_waits_for_the_old_ones_step() {
    let world = world().await;
    let second = Second::of(&world).await;
    worker::register(&world.store, new_worker(2), NOW).await.unwrap();
    let (store, term) = (second.store.clone(), world.term);
    let step = |generation| Step {
        npub: ALICE,
        generation,
        from: Some(worker_id(1)),
        to: worker_id(2),
        purpose: Purpose::Run,
    };
    let first = step(world.generation);
    let placing = second.hold(async move { placement::place(&store, term, &first, NOW).await }).await;
    let store = world.store.clone();
    let taking = tokio::spawn(async move { placement::take_term(&store, "other", NOW).await });
    waits(&world, &taking).await;
    second.release();
    let generation = placing.await.unwrap().unwrap();
    let new = taking.await.unwrap().unwrap();
    assert!(new.0 > term.0);
    let back = Step { to: worker_id(1), from: Some(worker_id(2)), ..step(generation) };
    let old = placement::place(&second.store, term, &back, NOW).await;
    assert!(old.unwrap_err().is_stale());
}

#[tokio::test]
async fn the_old_reconciler_waits_for_the_new_one_and_is_stale() {
    let world = world().await;
    let second = Second::of(&world).await;
    worker::register(&world.store, new_worker(2), NOW).await.unwrap();
    let store = second.store.clone();
    let taking = second.hold(async move { placement::take_term(&store, "other", NOW).await }).await;
    let placing = place(&world.store, &world, world.generation);
    waits(&world, &placing).await;
    second.release();
    taking.await.unwrap().unwrap();
    assert!(placing.await.unwrap().unwrap_err().is_stale());
}

/// The commit arrives, its answer does not. Whether the outputs were heard before it (events have numbers) or not.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_told_as_it_was() {
    let world = world().await;
    let second = Second::of(&world).await;
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    second.proxy.set(Rule::Mute(COMMIT.to_vec()));
    let write = tokio::spawn(append(&second.store, &world, 2));
    second.proxy.met(1).await;
    while seqs(&world).await != [1, 2] {
        tokio::task::yield_now().await;
    }
    assert!(!write.is_finished());
    second.release();
    second.proxy.cut();
    write.await.unwrap().unwrap();
    assert_eq!(seqs(&world).await, [1, 2]);

    // A lone one with two events: nothing of it was heard, and its numbers are read back.
    second.proxy.set(Rule::Mute(COMMIT.to_vec()));
    let store = second.store.clone();
    let write = tokio::spawn(async move { event::append(&store, ALICE, vec![started(1), started(2)]).await });
    second.proxy.met(2).await;
    let last = async || agent::get(&world.store, ALICE).await.unwrap().unwrap().event_seq;
    while last().await == 2 {
        tokio::task::yield_now().await;
    }
    event::append(&world.store, ALICE, vec![started(3)]).await.unwrap();
    second.release();
    second.proxy.cut();
    assert_eq!(write.await.unwrap().unwrap(), [3, 4]);

    second.proxy.set(Rule::Mute(COMMIT.to_vec()));
    let mut writes = JoinSet::new();
    for n in 0..20 {
        let store = second.store.clone();
        writes.spawn(async move { event::append(&store, ALICE, vec![started(n)]).await });
    }
    second.proxy.met(3).await;
    while last().await == 5 {
        tokio::task::yield_now().await;
    }
    second.release();
    second.proxy.cut();
    let mut numbers = Vec::new();
    while let Some(write) = writes.join_next().await {
        numbers.extend(write.unwrap().unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (6..26).collect::<Vec<i64>>());
    assert!(matches!(event::verify_chain(&world.store, ALICE).await.unwrap(), Chain::Intact { events: 25, .. }));
}

/// Its bytes never arrive: it is done again, once.
#[tokio::test]
async fn a_commit_that_did_not_arrive_is_done_again() {
    let world = world().await;
    let second = Second::of(&world).await;
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    let write = second.hold(append(&second.store, &world, 2)).await;
    second.proxy.cut();
    second.release();
    write.await.unwrap().unwrap();
    assert_eq!(seqs(&world).await, [1, 2]);
}

/// The database does not come back in time: callers are told that it is not known, later ones that nothing was done.
#[tokio::test]
async fn what_cannot_be_read_back_is_uncertain() {
    let world = world().await;
    let second = Second::with(&world, |config| PostgresConfig { outage_ms: 600, ..config }).await;
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    second.proxy.set(Rule::Mute(COMMIT.to_vec()));
    let write = tokio::spawn(append(&second.store, &world, 2));
    second.proxy.met(1).await;
    second.proxy.set(Rule::Cut);
    let error = write.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Uncertain { .. }), "{error}");
    let error = append(&second.store, &world, 3).await.unwrap_err();
    assert!(matches!(error, StoreError::Database { .. }), "{error}");
    second.release();
    append(&second.store, &world, 3).await.unwrap();
}

/// Two callers lock the same rows against each other's order: both get there.
#[tokio::test]
async fn a_deadlock_is_tried_again() {
    let world = world().await;
    let second = Second::of(&world).await;
    for npub in [ALICE, BOB] {
        let window = Side::ReserveBudget { window: Window::Day(1), amount: Msat::new(1), limit: Msat::new(9) };
        journal::apply(&world.store, world.fence, npub, world.generation, NOW, vec![window]).await.unwrap();
    }
    let touch = |order: [Npub; 2]| {
        let mut batch = Batch::new("touch both");
        for npub in order {
            let sql = "UPDATE budget SET held_msat = held_msat + 1 WHERE npub = ?1";
            batch.push(Statement::write(sql, vec![npub.into()]).one_or_conflict(Conflict::NotFound));
        }
        batch
    };
    let store = second.store.clone();
    let first = async move { store.write(touch([ALICE, BOB])).await };
    let first = second.hold_before(BOB.as_bytes(), first).await;
    let store = world.store.clone();
    let other = tokio::spawn(async move { store.write(touch([BOB, ALICE])).await });
    waits(&world, &other).await;
    second.release();
    first.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    for npub in [ALICE, BOB] {
        assert_eq!(payment::counter(&world.store, npub, Window::Day(1)).await.unwrap().held, Msat::new(3));
    }
}

/// Two connections at the last place: one gets it.
#[tokio::test]
async fn the_last_place_in_an_inbox_is_given_once() {
    let world = world().await;
    let second = Second::of(&world).await;
    let item = |n: i64| NewItem {
        npub: ALICE,
        external_id: n.to_string(),
        trigger: Trigger::Webhook,
        sender: None,
        received_at: NOW,
        payload: vec![1],
    };
    let mut full = Batch::new("fill");
    full.extend((1..MAX_ROWS).flat_map(|n| inbox::put_statements(&item(n))));
    world.store.write(full).await.unwrap();
    let store = second.store.clone();
    let (first, last) = (item(5_000), item(5_001));
    let first = second.hold(async move { inbox::put(&store, first).await }).await;
    let store = world.store.clone();
    let other = tokio::spawn(async move { inbox::put(&store, last).await });
    waits(&world, &other).await;
    second.release();
    assert_eq!(first.await.unwrap().unwrap(), Put::Stored);
    assert_eq!(other.await.unwrap().unwrap(), Put::Full);
    assert_eq!(inbox::level(&world.store, ALICE).await.unwrap().0, MAX_ROWS);
}

#[tokio::test]
async fn the_last_token_is_given_once() {
    let world = world().await;
    let second = Second::of(&world).await;
    let make = |store: Store, n: i64| async move {
        let token = Token {
            id: format!("t{n}"),
            account: account_id(),
            hash: Hash32::sha256(&n.to_be_bytes()),
            name: "cli".into(),
            scopes: Vec::new(),
            created_at: NOW,
            expires_at: NOW.plus_ms(1_000),
            last_used_at: None,
        };
        token::create(&store, token, audit("token.create")).await
    };
    for n in 1..MAX_TOKENS {
        make(world.store.clone(), n).await.unwrap();
    }
    let first = second.hold(make(second.store.clone(), 500)).await;
    let other = tokio::spawn(make(world.store.clone(), 501));
    waits(&world, &other).await;
    second.release();
    first.await.unwrap().unwrap();
    assert_eq!(other.await.unwrap().unwrap_err().conflict(), Some(&Conflict::TooMany));
    assert_eq!(token::list(&world.store, account_id(), NOW).await.unwrap().len() as i64, MAX_TOKENS);
}

/// Whoever changes many agents waits for the first of them before it locks the next, in whatever order they lie on the disk.
#[tokio::test]
async fn many_agents_are_locked_in_one_order() {
    for change in ["drain", "standing", "register", "declare dead"] {
        let world = world().await;
        let second = Second::of(&world).await;
        // The last by revision and by place.
        agent::make_due(&world.store, ALICE, NOW).await.unwrap();
        let row = "SELECT npub FROM agent WHERE npub = ?1";
        let hold = Batch::new("hold Alice").with(Statement::read(row, vec![ALICE.into()]).lock(Lock::Update));
        let store = second.store.clone();
        let held = second.hold(async move { store.write(hold).await }).await;
        let (store, fence, term) = (world.store.clone(), world.fence, world.term);
        let changing = tokio::spawn(async move {
            match change {
                "drain" => worker::set_draining(&store, fence, true).await,
                "standing" => {
                    let account = account::get(&store, account_id()).await?.unwrap();
                    account::update(&store, Account { hosting: Hosting::Grace, ..account }, audit("hosting")).await
                }
                "register" => worker::register(&store, new_worker(1), NOW).await.map(drop),
                _ => placement::declare_dead(&store, term, fence.worker, fence.incarnation, 0, NOW).await.map(drop),
            }
        });
        waits(&world, &changing).await;
        let free = format!("SELECT 1 FROM agent WHERE npub = {} FOR UPDATE NOWAIT", bytes(&world, &"b0".repeat(32)));
        assert_eq!(sql(&world, &free), "1", "{change}");
        second.release();
        held.await.unwrap().unwrap();
        changing.await.unwrap().unwrap();
    }
}

/// Two control planes create the last agent of an account: the second waits for the first, and then counts it.
#[tokio::test]
async fn the_last_place_of_an_account_is_given_once() {
    let world = world().await;
    let second = Second::of(&world).await;
    let create = |store: &Store, n: u8| {
        let (store, new) = (store.clone(), new_agent(Npub::from_bytes([n; 32]), &format!("agent{n}")));
        async move { agent::create_within(&store, new, Some(3), None, audit("agent.create")).await }
    };
    let first = second.hold(create(&second.store, 1)).await;
    let late = tokio::spawn(create(&world.store, 2));
    waits(&world, &late).await;
    second.release();
    first.await.unwrap().unwrap();
    let refused = late.await.unwrap().unwrap_err();
    assert_eq!(refused.conflict(), Some(&Conflict::TooManyAgents));
    assert_eq!(agent::count(&world.store, account_id()).await.unwrap(), 3);
}
