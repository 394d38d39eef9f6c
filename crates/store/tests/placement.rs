//! Placement: compare-and-set all the way, and a beat that tells a worker everything it must hear.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, BOB, Kind, NOW, World, audit, new_worker, worker_id};
use nexus_core::placement::Step;
use nexus_core::status::{Desired, Placement, Purpose, Reason};
use nexus_core::{Generation, Hash32, Npub};
use nexus_store::invoice_watch::InvoiceWatch;
use nexus_store::wallet_request::{self, Answer, WalletRequest};
use nexus_store::{Conflict, agent, event, placement, worker};

async fn run(world: &World, npub: Npub) -> agent::Agent {
    agent::set_desired(&world.store, npub, Desired::Running, false, None, audit("agent.start")).await.unwrap()
}

async fn stop(world: &World, npub: Npub) -> agent::Agent {
    agent::set_desired(&world.store, npub, Desired::Stopped, false, None, audit("agent.stop")).await.unwrap()
}

async fn a_beat_tells_what_changed_and_nothing_twice(world: World) {
    let store = &world.store;
    let first = worker::beat(store, world.fence, 0, NOW).await.unwrap();
    assert_eq!(first.iter().map(|changed| changed.npub).collect::<Vec<_>>(), [ALICE, BOB]);
    let applied = first.last().unwrap().rev;
    assert!(worker::beat(store, world.fence, applied, NOW).await.unwrap().is_empty());
    let started = run(&world, BOB).await;
    let told = worker::beat(store, world.fence, applied, NOW).await.unwrap();
    assert_eq!((told.len(), told[0].npub, told[0].rev), (1, BOB, started.desired_rev));
    run(&world, BOB).await;
    assert_eq!(
        worker::beat(store, world.fence, told[0].rev, NOW).await.unwrap().len(),
        1,
        "a repeated call wakes again"
    );
    // Moved away: the old worker hears that it must drop it.
    worker::register(store, new_worker(2), NOW).await.unwrap();
    let applied = worker::beat(store, world.fence, 0, NOW).await.unwrap().last().unwrap().rev;
    let generation = world.place(ALICE, world.generation, Some(worker_id(1)), 2).await;
    let told = worker::beat(store, world.fence, applied, NOW).await.unwrap();
    assert_eq!((told[0].npub, told[0].worker, told[0].generation), (ALICE, Some(worker_id(2)), generation));
}

async fn a_plan_is_carried_out_only_on_what_it_saw(world: World) {
    let store = &world.store;
    worker::register(store, new_worker(2), NOW).await.unwrap();
    let step = |generation, from, to| Step { npub: ALICE, generation, from, to: worker_id(to), purpose: Purpose::Run };
    let (now, here) = (world.generation, Some(worker_id(1)));
    for (name, step) in [
        ("an older generation", step(Generation(now.0 - 1), here, 2)),
        ("another holder", step(now, Some(worker_id(2)), 2)),
        ("nobody holding it", step(now, None, 2)),
    ] {
        let error = placement::place(store, world.term, &step, NOW).await.unwrap_err();
        assert_eq!(error.conflict(), Some(&Conflict::Version), "{name}");
    }
    let error = placement::place(store, world.term, &step(now, here, 3), NOW).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::NoWorker));
    let newer = placement::take_term(store, "other", NOW).await.unwrap();
    let error = placement::place(store, world.term, &step(now, here, 2), NOW).await.unwrap_err();
    assert!(error.is_stale(), "an old term places nothing");
    assert!(placement::beat_term(store, world.term, NOW).await.unwrap_err().is_stale());
    assert_eq!(placement::current_term(store).await.unwrap().unwrap().0, newer);
    let events = event::after(store, ALICE, 0, 10).await.unwrap().len();
    let next = placement::place(store, newer, &step(now, here, 2), NOW).await.unwrap();
    assert_eq!(next, Generation(now.0 + 1));
    assert_eq!(event::after(store, ALICE, 0, 10).await.unwrap().len(), events + 1);
}

async fn stopped_agents_are_placed_only_for_service(world: World) {
    let store = &world.store;
    stop(&world, ALICE).await;
    run(&world, BOB).await;
    let idle = placement::idle(store, NOW, 10).await.unwrap();
    assert_eq!(idle, [(ALICE, world.generation, worker_id(1))]);
    let generation = placement::unplace(store, world.term, ALICE, world.generation, worker_id(1), None).await.unwrap();
    assert!(placement::unplaced(store, NOW, 10).await.unwrap().is_empty(), "she needs nobody");
    let request = WalletRequest {
        id: "r".into(),
        npub: ALICE,
        kind: "invoice".into(),
        body: "{}".into(),
        created_at: NOW,
        expires_at: NOW.plus_ms(1_000),
        answer: None,
    };
    wallet_request::put(store, request, None).await.unwrap();
    let view = placement::unplaced(store, NOW, 10).await.unwrap().remove(0);
    assert_eq!((view.npub, view.purpose, view.last, view.from), (ALICE, Purpose::Service, Some(worker_id(1)), None));
    assert!(placement::unplaced(store, NOW.plus_ms(1_000), 10).await.unwrap().is_empty(), "the request has expired");
    run(&world, ALICE).await;
    let view = placement::unplaced(store, NOW, 10).await.unwrap().remove(0);
    assert_eq!((view.purpose, view.generation), (Purpose::Run, generation));
    let why = Reason::new("no_capacity", "full");
    placement::note_waiting(store, world.term, ALICE, generation, why.clone(), NOW.plus_ms(5)).await.unwrap();
    assert_eq!(agent::get(store, ALICE).await.unwrap().unwrap().reason, Some(why));
    world.place(ALICE, generation, None, 1).await;
    assert_eq!(agent::get(store, ALICE).await.unwrap().unwrap().reason, None);
}

async fn an_open_invoice_keeps_a_stopped_agent_in_service(world: World) {
    let store = &world.store;
    stop(&world, ALICE).await;
    stop(&world, BOB).await;
    let request = WalletRequest {
        id: "r".into(),
        npub: ALICE,
        kind: "invoice".into(),
        body: "{}".into(),
        created_at: NOW,
        expires_at: NOW.plus_ms(10),
        answer: None,
    };
    wallet_request::put(store, request, None).await.unwrap();
    let watch = InvoiceWatch { hash: Hash32::from_bytes([1; 32]), made_at: NOW, until: NOW.plus_ms(1_000), zap: None };
    let said = Answer::Done("lnbcrt".into());
    wallet_request::answer(store, world.fence, ALICE, world.generation, "r", said, Some(watch)).await.unwrap();
    let idle = async |at| placement::idle(store, at, 10).await.unwrap().iter().any(|(npub, ..)| *npub == ALICE);
    assert!(!idle(NOW.plus_ms(999)).await, "it may be paid any moment");
    assert!(idle(NOW.plus_ms(1_000)).await);
    let seen = worker::get(store, worker_id(1)).await.unwrap().unwrap();
    placement::declare_dead(store, world.term, seen.id, seen.incarnation, seen.beat, NOW).await.unwrap();
    let waiting = async |at| placement::unplaced(store, at, 10).await.unwrap();
    let view = waiting(NOW.plus_ms(999)).await.remove(0);
    assert_eq!((view.npub, view.purpose), (ALICE, Purpose::Service));
    assert!(waiting(NOW.plus_ms(1_000)).await.is_empty());
}

async fn a_dead_workers_agents_are_found(world: World) {
    let store = &world.store;
    run(&world, ALICE).await;
    run(&world, BOB).await;
    let seen = worker::get(store, worker_id(1)).await.unwrap().unwrap();
    placement::declare_dead(store, world.term, seen.id, seen.incarnation, seen.beat, NOW).await.unwrap();
    let waiting = placement::unplaced(store, NOW, 10).await.unwrap();
    assert_eq!(waiting.iter().map(|view| view.npub).collect::<Vec<_>>(), [ALICE, BOB]);
    assert!(worker::list(store).await.unwrap()[0].dead);
    // It was only frozen: it registers again and is a worker like any other.
    let back = worker::register(store, new_worker(1), NOW).await.unwrap();
    assert!(back.incarnation > world.fence.incarnation + 1);
    assert!(worker::hosted(store, worker_id(1)).await.unwrap().is_empty());
    world.place(ALICE, waiting[0].generation, None, 1).await;
    assert_eq!(placement::loads(store).await.unwrap(), [(worker_id(1), 1)]);
}

async fn draining_hands_over(world: World) {
    let store = &world.store;
    run(&world, ALICE).await;
    worker::register(store, new_worker(2), NOW).await.unwrap();
    worker::set_draining(store, world.fence, true).await.unwrap();
    assert_eq!(agent::get(store, ALICE).await.unwrap().unwrap().placement, Placement::Draining);
    let view = placement::unplaced(store, NOW, 10).await.unwrap().remove(0);
    assert_eq!((view.npub, view.from), (ALICE, Some(worker_id(1))));
    let generation = placement::give_up(store, world.fence, ALICE, world.generation).await.unwrap();
    assert!(placement::give_up(store, world.fence, ALICE, world.generation).await.unwrap_err().is_stale());
    world.place(ALICE, generation, None, 2).await;
}

async fn a_restarted_worker_inherits_its_agents(world: World) {
    let world = world.reopen().await;
    let fence = worker::register(&world.store, new_worker(1), NOW).await.unwrap();
    let hosted = worker::hosted(&world.store, fence.worker).await.unwrap();
    assert_eq!(hosted.iter().map(|agent| agent.npub).collect::<Vec<_>>(), [ALICE, BOB]);
    assert!(hosted.iter().all(|agent| agent.generation == Generation(world.generation.0 + 1)));
    assert_eq!(hosted[0].placement, Placement::Placed);
}

suite::suite!(
    a_beat_tells_what_changed_and_nothing_twice,
    a_plan_is_carried_out_only_on_what_it_saw,
    stopped_agents_are_placed_only_for_service,
    an_open_invoice_keeps_a_stopped_agent_in_service,
    a_dead_workers_agents_are_found,
    draining_hands_over,
    a_restarted_worker_inherits_its_agents,
);
