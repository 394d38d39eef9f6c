//! An agent that leaves, and one that comes: on every executor.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, BOB, Kind, NOW, World, account_id, audit, new_agent, tick_id};
use nexus_core::budget::Window;
use nexus_core::state::WindowSpend;
use nexus_core::status::{Desired, Placement};
use nexus_core::trigger::Trigger;
use nexus_core::{AccountId, Generation, Msat, Npub};
use nexus_store::agent::{self, Arrival, Departure, NewAgent, Wrap};
use nexus_store::inbox::{self, NewItem, Put};
use nexus_store::tick::TickStatus;
use nexus_store::{Conflict, StoreError, hosted, journal, payment, placement, tick};

const CAROL: Npub = Npub::from_bytes([0xc0; 32]);

fn departure(held: Option<&str>, claim: &str) -> Departure {
    Departure { url: "https://other.example".into(), claim: claim.into(), held: held.map(str::to_owned) }
}

fn arriving(agent: NewAgent, generation: i64, held: Option<&str>) -> Arrival {
    let mut agent = agent;
    agent.sealed.sealed_key = Some("sealed anew".into());
    agent.sealed.claim = Some("claim 3".into());
    agent.wraps = vec![Wrap { key: "data".into(), number: 1, recipient: "self".into(), ciphertext: "c".into() }];
    Arrival {
        agent,
        generation: Generation(generation),
        next_tick_at: Some(NOW),
        state_version: 7,
        wallet: Vec::new(),
        spent: Some(WindowSpend { day: 20_000, settled: Msat::sats(5) }),
        held: held.map(str::to_owned),
    }
}

fn conflict(result: Result<impl Sized, StoreError>) -> Conflict {
    result.err().expect("refused").conflict().cloned().expect("a conflict")
}

fn item(id: &str) -> NewItem {
    NewItem {
        npub: ALICE,
        trigger: Trigger::Manual,
        external_id: id.into(),
        sender: None,
        received_at: NOW,
        payload: vec![1],
    }
}

async fn who_leaves_takes_everything_along_and_its_worker_is_stale(world: World) {
    let store = &world.store;
    tick::begin(store, world.begin(ALICE, 1)).await.unwrap();
    assert_eq!(inbox::put(store, item("before")).await.unwrap(), Put::Stored);
    assert_eq!(
        conflict(agent::leave(store, ALICE, departure(Some("another"), "claim 2"), audit("x")).await),
        Conflict::Version
    );
    assert_eq!(conflict(agent::leave(store, CAROL, departure(None, "claim 2"), audit("x")).await), Conflict::NoAgent);
    agent::leave(store, ALICE, departure(None, "claim 2"), audit("agent.left")).await.unwrap();

    let stale = journal::append(store, world.append(ALICE, 1, 2, Vec::new())).await.unwrap_err();
    assert!(matches!(stale, StoreError::Stale { .. }), "{stale}");
    let left = agent::get(store, ALICE).await.unwrap().unwrap();
    assert_eq!(left.moved_to.as_deref(), Some("https://other.example"));
    assert_eq!((left.desired, left.placement, left.worker), (Desired::Stopped, Placement::Unplaced, None));
    assert_eq!((left.generation.0, left.balance), (world.generation.0 + 1, None));
    assert_eq!(left.reason.unwrap().code, "moved");
    let sealed = agent::sealed(store, ALICE).await.unwrap().unwrap();
    assert_eq!((sealed.sealed_key, sealed.claim.as_deref()), (None, Some("claim 2")));
    assert!(agent::wraps(store, ALICE).await.unwrap().is_empty());
    let ended = tick::get(store, ALICE, tick_id(1)).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.reason.as_deref()), (TickStatus::Failed, Some("moved")));
    assert!(journal::load(store, tick_id(1)).await.unwrap().is_empty());
    // Nothing more is taken in for it, and nobody places it.
    assert!(inbox::pending(store, ALICE, 10).await.unwrap().is_empty());
    assert_eq!(inbox::put(store, item("after")).await.unwrap(), Put::NoAgent);
    assert!(!agent::is_hosted(store, ALICE).await.unwrap());
    let hosted = hosted::agents_among(store, &[ALICE, BOB]).await.unwrap();
    assert_eq!(hosted.iter().map(|agent| agent.npub).collect::<Vec<_>>(), [BOB]);
    assert!(placement::unplaced(store, NOW, 10).await.unwrap().is_empty());
}

async fn who_comes_begins_above_every_generation(world: World) {
    let store = &world.store;
    let here = arriving(new_agent(ALICE, "alice"), 0, None);
    assert_eq!(
        conflict(agent::arrive(store, here, None, None, audit("x")).await),
        Conflict::NpubTaken,
        "it lives here"
    );
    agent::leave(store, ALICE, departure(None, "claim 2"), audit("agent.left")).await.unwrap();
    let mut foreign = arriving(new_agent(ALICE, "alice"), 0, Some("claim 2"));
    foreign.agent.account = AccountId::from_bytes([7; 16]);
    assert_eq!(conflict(agent::arrive(store, foreign, None, None, audit("x")).await), Conflict::NoAccount);
    let named = arriving(new_agent(ALICE, "bob"), 0, Some("claim 2"));
    assert_eq!(conflict(agent::arrive(store, named, None, None, audit("x")).await), Conflict::NameTaken);
    let weighed = arriving(new_agent(ALICE, "alice"), 0, None);
    assert_eq!(conflict(agent::arrive(store, weighed, None, None, audit("x")).await), Conflict::Version);

    let before = agent::get(store, ALICE).await.unwrap().unwrap().generation;
    let back = arriving(new_agent(ALICE, "alice"), 0, Some("claim 2"));
    let back = agent::arrive(store, back, None, None, audit("agent.import")).await.unwrap();
    assert_eq!((back.generation.0, back.moved_to, back.desired), (before.0 + 1, None, Desired::Stopped));
    let full = arriving(new_agent(CAROL, "carol"), 41, None);
    assert_eq!(conflict(agent::arrive(store, full, Some(2), None, audit("x")).await), Conflict::TooManyAgents);
    let new = arriving(new_agent(CAROL, "carol"), 41, None);
    let new = agent::arrive(store, new, None, None, audit("agent.import")).await.unwrap();
    assert_eq!((new.generation.0, new.next_tick_at, new.account), (42, Some(NOW), account_id()));
    for npub in [ALICE, CAROL] {
        let state = agent::state(store, npub).await.unwrap().unwrap();
        assert_eq!((state.version, state.blob), (7, vec![1]));
        let sealed = agent::sealed(store, npub).await.unwrap().unwrap();
        assert_eq!((sealed.sealed_key.as_deref(), sealed.claim.as_deref()), (Some("sealed anew"), Some("claim 3")));
        assert_eq!(agent::wraps(store, npub).await.unwrap().len(), 1);
        assert_eq!(payment::counter(store, npub, Window::Day(20_000)).await.unwrap().settled, Msat::sats(5));
        assert!(agent::is_hosted(store, npub).await.unwrap());
    }
}

suite::suite!(who_leaves_takes_everything_along_and_its_worker_is_stale, who_comes_begins_above_every_generation);
