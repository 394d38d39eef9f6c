//! Events: numbers without gaps, a chain that shows every change, an outbox that forgets nothing.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, BOB, Kind, NOW, World, bytes, sql};
use nexus_core::event::EventBody;
use nexus_store::event::{self, Chain, NewEvent};
use nexus_store::{Conflict, agent};
use proptest::prelude::*;

fn balance(sats: u64) -> NewEvent {
    NewEvent {
        at: NOW.plus_ms(sats as i64),
        body: EventBody::BalanceChanged { balance_sats: sats },
        sealed: sats.is_multiple_of(2).then(|| vec![sats as u8; 3]),
    }
}

async fn relay_all(world: &World) {
    loop {
        let waiting = event::unrelayed(&world.store, 3).await.unwrap();
        if waiting.is_empty() {
            return;
        }
        event::mark_relayed(&world.store, &waiting).await.unwrap();
    }
}

async fn numbers_have_no_gaps_and_resume_anywhere(world: World) {
    let store = &world.store;
    assert_eq!(event::append(store, ALICE, (1..=4).map(balance).collect()).await.unwrap(), [2, 3, 4, 5]);
    assert_eq!(event::append(store, BOB, vec![balance(9)]).await.unwrap(), [2], "each agent counts for itself");
    let all = event::after(store, ALICE, 0, 100).await.unwrap();
    assert_eq!(all.iter().map(|stored| stored.event.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(event::after(store, ALICE, 3, 1).await.unwrap(), all[3..4]);
    assert_eq!(all[2].sealed, Some(vec![2; 3]));
    let agent = agent::get(store, ALICE).await.unwrap().unwrap();
    assert_eq!((agent.event_seq, agent.event_head), (5, all[4].hash));
    let stranger = nexus_core::Npub::from_bytes([7; 32]);
    let error = event::append(store, stranger, vec![balance(1)]).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::NoAgent));
}

async fn the_outbox_is_a_flag(world: World) {
    let store = &world.store;
    event::append(store, ALICE, vec![balance(1)]).await.unwrap();
    let waiting = event::unrelayed(store, 10).await.unwrap();
    assert_eq!(waiting, [(ALICE, 1), (BOB, 1), (ALICE, 2)]);
    event::mark_relayed(store, &waiting[1..]).await.unwrap();
    event::mark_relayed(store, &waiting[1..]).await.unwrap();
    assert_eq!(event::unrelayed(store, 10).await.unwrap(), [(ALICE, 1)], "an older one is not passed over");
}

async fn pruning_keeps_the_chain(world: World) {
    let store = &world.store;
    event::append(store, ALICE, (1..=20).map(balance).collect()).await.unwrap();
    assert_eq!(event::prune(store, ALICE, NOW.plus_ms(100), 100).await.unwrap(), 0, "nothing was announced yet");
    relay_all(&world).await;
    assert_eq!(event::prune(store, ALICE, NOW.plus_ms(6), 3).await.unwrap(), 3);
    assert_eq!(event::prune(store, ALICE, NOW.plus_ms(6), 100).await.unwrap(), 3);
    assert_eq!(event::prune(store, ALICE, NOW.plus_ms(6), 100).await.unwrap(), 0);
    let Chain::Intact { events, first_seq, .. } = event::verify_chain(store, ALICE).await.unwrap() else { panic!() };
    assert_eq!((events, first_seq), (15, 7));
    assert_eq!(event::prune(store, ALICE, NOW.plus_ms(100), 100).await.unwrap(), 15, "all of it");
    assert!(matches!(event::verify_chain(store, ALICE).await.unwrap(), Chain::Intact { events: 0, .. }));
    assert_eq!(event::append(store, ALICE, vec![balance(1)]).await.unwrap(), [22]);
    assert!(matches!(event::verify_chain(store, ALICE).await.unwrap(), Chain::Intact { events: 1, .. }));
}

async fn tampering_shows(world: World) {
    let store = &world.store;
    event::append(store, ALICE, (1..=9).map(balance).collect()).await.unwrap();
    sql(&world, KEEP);
    let tampers = [
        "UPDATE event SET body = replace(body, '3', '4') WHERE seq = 4".to_owned(),
        "UPDATE event SET at = at + 1 WHERE seq = 5".to_owned(),
        format!("UPDATE event SET sealed = {} WHERE seq = 3", bytes(&world, "00")),
        "UPDATE event SET sealed = NULL WHERE seq = 3".to_owned(),
        "DELETE FROM event WHERE seq = 6".to_owned(),
        "DELETE FROM event WHERE seq = 10".to_owned(),
        "DELETE FROM event WHERE seq = 1".to_owned(),
        format!("UPDATE event SET hash = {} || hash WHERE seq = 7", bytes(&world, "0000")),
        "UPDATE agent SET event_head = pruned_head".to_owned(),
        "UPDATE agent SET event_seq = event_seq - 1".to_owned(),
        "UPDATE agent SET pruned_head = event_head".to_owned(),
    ];
    for tamper in tampers {
        sql(&world, &tamper);
        let found = event::verify_chain(store, ALICE).await;
        assert!(!matches!(found, Ok(Chain::Intact { .. })), "{tamper}: {found:?}");
        sql(&world, RESTORE);
        assert!(matches!(event::verify_chain(store, ALICE).await, Ok(Chain::Intact { events: 10, .. })), "{tamper}");
    }
}

const KEEP: &str = "CREATE TABLE kept AS SELECT npub, seq, at, body, sealed, hash, relayed FROM event;
    CREATE TABLE kept_ends AS SELECT npub, event_seq, event_head, pruned_head FROM agent;";

/// Puts events and ends back as they were.
const RESTORE: &str = "DELETE FROM event;
    INSERT INTO event (npub, seq, at, body, sealed, hash, relayed) SELECT * FROM kept;
    UPDATE agent SET event_seq = (SELECT k.event_seq FROM kept_ends k WHERE k.npub = agent.npub),
        event_head = (SELECT k.event_head FROM kept_ends k WHERE k.npub = agent.npub),
        pruned_head = (SELECT k.pruned_head FROM kept_ends k WHERE k.npub = agent.npub);";

/// Pruned piece by piece while others append, announce and prune: after each piece the chain verifies, numbers go on,
/// and a store that is opened anew in between finds it whole.
async fn pruning_beside_appends(world: World) {
    let mut world = world;
    event::append(&world.store, ALICE, (1..=60).map(balance).collect()).await.unwrap();
    relay_all(&world).await;
    for piece in 0..4 {
        let (store, before) = (&world.store, NOW.plus_ms(50));
        let append = event::append(store, ALICE, vec![balance(200), balance(201)]);
        let prune = event::prune(store, ALICE, before, 5);
        let rival = event::prune(store, ALICE, before, 5);
        let verify = event::verify_chain(store, ALICE);
        let (appended, pruned, rival, seen) = tokio::join!(append, prune, rival, verify);
        let first = 62 + piece * 2;
        assert_eq!(appended.unwrap(), [first, first + 1]);
        // Two that found the same piece: one of them did it.
        let done = [pruned, rival].into_iter().filter_map(Result::ok).collect::<Vec<_>>();
        assert!(!done.is_empty() && done.iter().all(|gone| *gone == 5), "{done:?}");
        assert!(matches!(seen.unwrap(), Chain::Intact { .. }));
        world = world.reopen().await;
        let chain = event::verify_chain(&world.store, ALICE).await.unwrap();
        let Chain::Intact { first_seq, .. } = chain else { panic!("piece {piece}: {chain:?}") };
        let (pruned, head) = event::pruned(&world.store, ALICE).await.unwrap();
        assert_eq!(pruned + 1, first_seq);
        let kept = event::after(&world.store, ALICE, 0, 1).await.unwrap();
        assert_eq!(kept[0].event.seq, first_seq);
        assert_ne!(kept[0].hash, head, "the head after the last that went, not of the first that is kept");
    }
}

suite::suite!(
    pruning_beside_appends,
    numbers_have_no_gaps_and_resume_anywhere,
    the_outbox_is_a_flag,
    pruning_keeps_the_chain,
    tampering_shows,
);

/// Many writers at once: still no gap, and the chain holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_of_many_callers() {
    let world = std::sync::Arc::new(World::new(Kind::Thread).await);
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..100 {
        let world = world.clone();
        writers
            .spawn(async move { event::append(&world.store, ALICE, vec![balance(n), balance(n + 1)]).await.unwrap() });
    }
    let mut numbers = Vec::new();
    while let Some(pair) = writers.join_next().await {
        let pair = pair.unwrap();
        assert_eq!(pair[1], pair[0] + 1, "a batch's events are neighbours");
        numbers.extend(pair);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (2..=201).collect::<Vec<i64>>());
    assert!(matches!(event::verify_chain(&world.store, ALICE).await.unwrap(), Chain::Intact { events: 201, .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever is appended, announced and pruned in whatever order: the chain verifies and numbers go on.
    #[test]
    fn the_chain_always_verifies(acts in prop::collection::vec((0_u8..3, 1_u64..20), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = World::new(Kind::Inline).await;
            let mut seq = 1;
            for (act, n) in acts {
                match act {
                    0 => {
                        let events: Vec<_> = (0..n).map(balance).collect();
                        let numbers = event::append(&world.store, ALICE, events).await.unwrap();
                        prop_assert_eq!(numbers, (seq + 1..=seq + n as i64).collect::<Vec<_>>());
                        seq += n as i64;
                    }
                    1 => {
                        let waiting = event::unrelayed(&world.store, n as u32).await.unwrap();
                        event::mark_relayed(&world.store, &waiting).await.unwrap();
                    }
                    _ => { event::prune(&world.store, ALICE, NOW.plus_ms(n as i64), n as u32).await.unwrap(); }
                }
                let chain = event::verify_chain(&world.store, ALICE).await.unwrap();
                let intact = matches!(chain, Chain::Intact { .. });
                prop_assert!(intact, "{chain:?}");
            }
            Ok(())
        })?;
    }
}
