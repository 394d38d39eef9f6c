//! A stale generation or a stale incarnation changes nothing durable, on any path of a worker.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use std::future::Future;
use std::pin::Pin;

use common::{ALICE, BOB, Kind, NOW, World, dump, new_payment, record, started, tick_id};
use nexus_core::budget::Window;
use nexus_core::payment::PaymentState;
use nexus_core::trigger::Trigger;
use nexus_core::{Generation, Hash32, Msat, UnixMs};
use nexus_store::agent::{self, Change, Made, Wrap};
use nexus_store::inbox::{self, NewItem};
use nexus_store::invoice_watch;
use nexus_store::publication::NewPublication;
use nexus_store::side::PaymentMove;
use nexus_store::tick::{self, Skip};
use nexus_store::wallet_request::{self, Answer, WalletRequest};
use nexus_store::{Fence, Side, StoreError, journal, placement, worker};

type Attempt<'a> = Pin<Box<dyn Future<Output = Result<(), StoreError>> + 'a>>;

/// Every function by which a worker changes something, attempted with this fence and generation.
fn paths(world: &World, fence: Fence, generation: Generation) -> Vec<(&'static str, Attempt<'_>)> {
    let store = &world.store;
    let mut begin = world.begin(BOB, 9);
    (begin.fence, begin.generation) = (fence, generation);
    let mut append = world.append(ALICE, 1, 2, sides());
    (append.fence, append.generation) = (fence, generation);
    let mut plain = world.append(ALICE, 1, 2, Vec::new());
    (plain.fence, plain.generation) = (fence, generation);
    let mut commit = world.commit(ALICE, 1, 2);
    (commit.fence, commit.generation) = (fence, generation);
    let skip = Skip {
        fence,
        npub: BOB,
        generation,
        tick: tick_id(8),
        trigger: Trigger::Heartbeat,
        at: NOW,
        reason: "no funds".into(),
        discard: vec![1],
        change: Change { next_tick_at: Some(Some(NOW)), ..Change::default() },
        events: vec![started(8)],
    };
    let change = Change { balance: Some(Msat::sats(1)), reason: Some(None), ..Change::default() };
    let made = Made {
        wraps: vec![Wrap { key: "data".into(), number: 1, recipient: "self".into(), ciphertext: "c".into() }],
        inbox_recipient: Some("age1".into()),
        state: Some(tick::NewState { version: 2, after: 1, blob: vec![5].into() }),
    };
    vec![
        ("begin", Box::pin(async move { tick::begin(store, begin).await.map(drop) })),
        ("append with sides", Box::pin(async move { journal::append(store, append).await.map(drop) })),
        ("append", Box::pin(async move { journal::append(store, plain).await.map(drop) })),
        ("commit", Box::pin(async move { tick::commit(store, commit).await.map(drop) })),
        ("skip", Box::pin(async move { tick::skip(store, skip).await.map(drop) })),
        (
            "apply",
            Box::pin(async move { journal::apply(store, fence, ALICE, generation, NOW, sides()).await.map(drop) }),
        ),
        ("change", Box::pin(agent_change(world, fence, generation, change))),
        ("made", Box::pin(async move { agent::put_made(store, fence, ALICE, generation, NOW, made).await })),
        ("readers", Box::pin(async move { agent::set_readers(store, fence, ALICE, generation, vec![], &[]).await })),
        (
            "discard",
            Box::pin(async move { inbox::discard(store, fence, ALICE, generation, &[1], "spam").await.map(drop) }),
        ),
        (
            "answer",
            Box::pin(async move {
                wallet_request::answer(store, fence, ALICE, generation, "r1", Answer::Done("{}".into()), None).await
            }),
        ),
        (
            "invoices",
            Box::pin(async move {
                invoice_watch::end(store, fence, ALICE, generation, [Hash32::from_bytes([9; 32])], &[], NOW).await
            }),
        ),
        ("give up", Box::pin(async move { placement::give_up(store, fence, ALICE, generation).await.map(drop) })),
    ]
}

async fn agent_change(world: &World, fence: Fence, generation: Generation, change: Change) -> Result<(), StoreError> {
    agent::change(&world.store, fence, ALICE, generation, NOW, change, vec![started(1)]).await.map(drop)
}

/// One of each.
fn sides() -> Vec<Side> {
    let publication = NewPublication {
        event_id: Hash32::from_bytes([3; 32]),
        kind: 1,
        json: "{}".into(),
        relays: vec!["ws://x".into()],
        next_attempt_at: NOW,
    };
    vec![
        Side::ReserveBudget { window: Window::Day(1), amount: Msat::new(110), limit: Msat::new(1_000) },
        Side::InsertPayment(new_payment(7, "job:2")),
        Side::Payment(PaymentMove {
            hash: Hash32::from_bytes([7; 32]),
            from: PaymentState::Reserved,
            to: PaymentState::Dispatched,
            at: NOW,
            fee: None,
            preimage: None,
            note: None,
        }),
        Side::SettleBudget { window: Window::Day(1), held: Msat::new(110), spent: Msat::new(105) },
        Side::AppendEvent(started(1)),
        Side::PutPublication(publication),
        Side::PublicationResult {
            event_id: Hash32::from_bytes([3; 32]),
            done: false,
            relays: "{}".into(),
            next_attempt_at: Some(UnixMs(1)),
        },
        Side::Provider { provider: BOB, fact: nexus_store::provider::Fact::Abandoned },
    ]
}

/// An open tick of Alice, an inbox row and a wallet request of hers: something to change on every path.
async fn something_to_change(world: &World) {
    let item = NewItem {
        npub: ALICE,
        external_id: "e1".into(),
        trigger: Trigger::Mention,
        sender: None,
        received_at: NOW,
        payload: vec![1],
    };
    inbox::put(&world.store, item).await.unwrap();
    let request = WalletRequest {
        id: "r1".into(),
        npub: ALICE,
        kind: "invoice".into(),
        body: "{}".into(),
        created_at: NOW,
        expires_at: NOW.plus_ms(10_000),
        answer: None,
    };
    wallet_request::put(&world.store, request, None).await.unwrap();
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
}

async fn nothing_durable(world: &World, fence: Fence, generation: Generation) {
    let before = dump(world);
    for (name, attempt) in paths(world, fence, generation) {
        let error = attempt.await.expect_err(name);
        assert!(error.is_stale(), "{name}: {error}");
        assert_eq!(dump(world), before, "{name} left something");
    }
}

async fn a_stale_generation_changes_nothing(world: World) {
    something_to_change(&world).await;
    for stale in [world.generation.0 - 1, world.generation.0 + 1] {
        nothing_durable(&world, world.fence, Generation(stale)).await;
    }
    // Moved to another worker: the generation is right, but not for the old one.
    worker::register(&world.store, common::new_worker(2), NOW).await.unwrap();
    let moved = world.place(ALICE, world.generation, Some(common::worker_id(1)), 2).await;
    world.place(BOB, world.generation, Some(common::worker_id(1)), 2).await;
    nothing_durable(&world, world.fence, moved).await;
    nothing_durable(&world, world.fence, world.generation).await;
}

async fn a_stale_incarnation_changes_nothing(world: World) {
    something_to_change(&world).await;
    let old = world.fence;
    let new = worker::register(&world.store, common::new_worker(1), NOW).await.unwrap();
    assert_eq!(new.incarnation, old.incarnation + 1);
    // Also when it guesses the generation that its heir has.
    for generation in [world.generation, Generation(world.generation.0 + 1)] {
        nothing_durable(&world, old, generation).await;
    }
    let error = worker::beat(&world.store, old, 0, NOW).await.unwrap_err();
    assert!(error.is_stale());
    // The heir goes on where it stopped.
    let open = tick::open(&world.store, ALICE).await.unwrap().unwrap();
    assert_eq!(open.records, [record(1)]);
    let mut append = world.append(ALICE, 1, 2, Vec::new());
    (append.fence, append.generation) = (new, Generation(world.generation.0 + 1));
    journal::append(&world.store, append).await.unwrap();
}

async fn a_dead_worker_changes_nothing(world: World) {
    something_to_change(&world).await;
    let seen = worker::get(&world.store, world.fence.worker).await.unwrap().unwrap();
    let (id, incarnation) = (seen.id, seen.incarnation);
    let stale = placement::declare_dead(&world.store, world.term, id, incarnation, seen.beat + 1, NOW).await;
    assert!(stale.is_err(), "it has beaten since");
    let released = placement::declare_dead(&world.store, world.term, id, incarnation, seen.beat, NOW).await.unwrap();
    assert_eq!(released, 2);
    for generation in [world.generation, Generation(world.generation.0 + 1)] {
        nothing_durable(&world, world.fence, generation).await;
    }
    assert!(worker::beat(&world.store, world.fence, 0, NOW).await.unwrap_err().is_stale());
    assert!(worker::set_draining(&world.store, world.fence, true).await.unwrap_err().is_stale());
}

async fn every_path_works_under_a_live_fence(world: World) {
    something_to_change(&world).await;
    let before = dump(&world);
    // The same attempts that stale workers make, one after another; some exclude each other, none is stale.
    for (name, attempt) in paths(&world, world.fence, world.generation) {
        match attempt.await {
            Ok(()) => {}
            Err(error) => assert!(!error.is_stale(), "{name}: {error}"),
        }
    }
    assert_ne!(dump(&world), before);
    assert!(tick::open(&world.store, ALICE).await.unwrap().is_none(), "committed");
}

suite::suite!(
    a_stale_generation_changes_nothing,
    a_stale_incarnation_changes_nothing,
    a_dead_worker_changes_nothing,
    every_path_works_under_a_live_fence,
);
