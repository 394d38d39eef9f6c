//! Disputes and what is known of providers: under the fence, by compare-and-set, for one account alone.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, BOB, Kind, NOW, World, audit, new_agent, sql, tick_id};
use nexus_core::dispute::{DisputeId, DisputeState};
use nexus_core::event::EventBody;
use nexus_core::score::{Week, trust, week_of};
use nexus_core::status::Hosting;
use nexus_core::{AccountId, Generation, Hash32, Msat, Npub, UnixMs};
use nexus_store::account::{self, Account};
use nexus_store::dispute::{self, Dispute, DisputeMove};
use nexus_store::event::NewEvent;
use nexus_store::provider::{self, Fact};
use nexus_store::{Conflict, Side, StoreError, agent, journal, tick};

const CHEAT: Npub = Npub::from_bytes([0xcc; 32]);
const CAROL: Npub = Npub::from_bytes([0xca; 32]);

fn id(n: u8) -> DisputeId {
    DisputeId { tick_id: tick_id(n), attempt: 1 }
}

fn opened(n: u8, state: DisputeState) -> Dispute {
    Dispute {
        id: id(n),
        provider: CHEAT,
        request: Hash32::from_bytes([n; 32]),
        payment_hash: Hash32::from_bytes([n + 1; 32]),
        bolt11: "lnbcrt1".into(),
        amount: Msat::sats(10),
        fee: Msat::sats(1),
        paid_at: (state != DisputeState::Unsettled).then_some(NOW),
        silent_at: NOW.plus_ms(5),
        state,
        changed_at: NOW.plus_ms(5),
        look_at: Some(NOW.plus_ms(10)),
        looks: 0,
        sealed: vec![7; 300],
    }
}

fn moved(n: u8, from: DisputeState, to: DisputeState) -> DisputeMove {
    DisputeMove { id: id(n), from, to, fee: None, paid_at: None, look_at: None, looks: 1, sealed: None }
}

async fn apply(world: &World, npub: Npub, at: UnixMs, side: Vec<Side>) -> Result<(), StoreError> {
    journal::apply(&world.store, world.fence, npub, world.generation, at, side).await.map(drop)
}

fn is_state(error: &StoreError) -> bool {
    matches!(error.conflict(), Some(Conflict::DisputeState { .. }))
}

async fn a_dispute_opens_with_its_tick_and_ends_once(world: World) {
    let store = &world.store;
    tick::begin(store, world.begin(ALICE, 1)).await.unwrap();
    let dispute = opened(1, DisputeState::Open);
    let side =
        || vec![Side::OpenDispute(Box::new(dispute.clone())), Side::Provider { provider: CHEAT, fact: Fact::Disputed }];
    let commit = nexus_store::tick::Commit { side: side(), ..world.commit(ALICE, 1, 2) };
    tick::commit(store, commit).await.unwrap();
    assert_eq!(dispute::get(store, ALICE, id(1)).await.unwrap(), Some(dispute.clone()));
    let listed = Dispute { sealed: Vec::new(), ..dispute.clone() };
    assert_eq!(dispute::list(store, ALICE, false, 10).await.unwrap(), [listed]);
    assert_eq!(dispute::of_payment(store, ALICE, dispute.payment_hash).await.unwrap(), Some(dispute.clone()));
    assert_eq!(dispute::get(store, BOB, id(1)).await.unwrap(), None, "another agent's is not found");

    // Looked after when it is due, and not before.
    assert!(dispute::due(store, ALICE, NOW.plus_ms(9), 4).await.unwrap().is_empty());
    assert_eq!(dispute::due(store, ALICE, NOW.plus_ms(10), 4).await.unwrap().len(), 1);
    let look = DisputeMove { look_at: Some(NOW.plus_ms(50)), ..moved(1, DisputeState::Open, DisputeState::Open) };
    apply(&world, ALICE, NOW.plus_ms(11), vec![Side::Dispute(Box::new(look))]).await.unwrap();
    assert!(dispute::due(store, ALICE, NOW.plus_ms(49), 4).await.unwrap().is_empty());
    let found = dispute::get(store, ALICE, id(1)).await.unwrap().unwrap();
    assert_eq!((found.changed_at, found.looks), (dispute.changed_at, 1), "a look changes no state");

    // The late result is recorded with it, once.
    let answer = || DisputeMove { sealed: Some(vec![8; 10]), ..moved(1, DisputeState::Open, DisputeState::Answered) };
    apply(&world, ALICE, NOW.plus_ms(60), vec![Side::Dispute(Box::new(answer()))]).await.unwrap();
    let again = apply(&world, ALICE, NOW.plus_ms(61), vec![Side::Dispute(Box::new(answer()))]).await.unwrap_err();
    assert!(is_state(&again), "{again}");
    let found = dispute::get(store, ALICE, id(1)).await.unwrap().unwrap();
    assert_eq!((found.state, found.sealed, found.look_at), (DisputeState::Answered, vec![8; 10], None));

    // The owner's word, once, whatever else happens.
    let end = (DisputeState::Answered, DisputeState::SettledElsewhere);
    let event = |ms| NewEvent::new(NOW.plus_ms(ms), EventBody::BalanceChanged { balance_sats: 1 });
    assert!(dispute::conclude(store, ALICE, id(1), end, &event(70), &audit("dispute")).await.unwrap());
    assert!(!dispute::conclude(store, ALICE, id(1), end, &event(71), &audit("dispute")).await.unwrap());
    let back = dispute::conclude(store, ALICE, id(1), (end.1, DisputeState::Open), &event(72), &audit("dispute")).await;
    assert!(is_state(&back.unwrap_err()));
    assert!(dispute::list(store, ALICE, false, 10).await.unwrap().is_empty());
    assert_eq!(dispute::list(store, ALICE, true, 10).await.unwrap().len(), 1);
    let world = world.reopen().await;
    assert_eq!(dispute::list(&world.store, ALICE, true, 10).await.unwrap()[0].state, DisputeState::SettledElsewhere);
    assert_eq!(dispute::purge(&world.store, NOW.plus_ms(70), 10).await.unwrap(), 0);
    assert_eq!(dispute::purge(&world.store, NOW.plus_ms(71), 10).await.unwrap(), 1);
}

async fn only_the_arrows_of_a_dispute(world: World) {
    for (n, from) in (1..).zip(DisputeState::ALL) {
        apply(&world, ALICE, NOW, vec![Side::OpenDispute(Box::new(opened(n, from)))]).await.unwrap();
    }
    for (n, stands) in (1..).zip(DisputeState::ALL) {
        for from in DisputeState::ALL {
            for to in DisputeState::ALL {
                if from == stands && (from.may_become(to) || from == to) {
                    continue;
                }
                let error = apply(&world, ALICE, NOW, vec![Side::Dispute(Box::new(moved(n, from, to)))]).await;
                assert!(is_state(&error.unwrap_err()), "{stands:?}: {from:?} {to:?}");
            }
        }
        assert_eq!(dispute::get(&world.store, ALICE, id(n)).await.unwrap().unwrap().state, stands);
    }
    // What may be paid yet is never forgotten.
    assert_eq!(dispute::purge(&world.store, UnixMs(i64::MAX), 10).await.unwrap(), 4);
    assert_eq!(dispute::list(&world.store, ALICE, true, 10).await.unwrap()[0].state, DisputeState::Unsettled);
}

async fn a_stale_worker_disputes_nothing(world: World) {
    let stale = Generation(world.generation.0 - 1);
    let side = vec![
        Side::OpenDispute(Box::new(opened(1, DisputeState::Open))),
        Side::Provider { provider: CHEAT, fact: Fact::Disputed },
    ];
    let error = journal::apply(&world.store, world.fence, ALICE, stale, NOW, side).await.unwrap_err();
    assert!(matches!(error, StoreError::Stale { .. }), "{error}");
    assert!(dispute::list(&world.store, ALICE, true, 10).await.unwrap().is_empty());
    assert!(provider::own(&world.store, ALICE, NOW).await.unwrap().is_empty());
}

async fn an_account_shares_experience_and_no_other_sees_it(world: World) {
    let store = &world.store;
    let other = AccountId::from_bytes([2; 16]);
    let stranger = Account {
        id: other,
        owner: Npub::from_bytes([8; 32]),
        name: "them".into(),
        plan: "local".into(),
        hosting: Hosting::Paid,
        created_at: NOW,
    };
    account::ensure(store, stranger, audit("account.create")).await.unwrap();
    let carol = agent::NewAgent { account: other, ..new_agent(CAROL, "carol") };
    agent::create(store, carol, None, audit("agent.create")).await.unwrap();
    let generation = world.place(CAROL, Generation(0), None, 1).await;

    let fact = |fact| vec![Side::Provider { provider: CHEAT, fact }];
    for what in [Fact::Done, Fact::Done, Fact::Disputed] {
        apply(&world, ALICE, NOW, fact(what)).await.unwrap();
    }
    apply(&world, BOB, NOW, fact(Fact::Abandoned)).await.unwrap();
    apply(&world, BOB, NOW.plus_ms(7 * 86_400_000), fact(Fact::Answered)).await.unwrap();
    journal::apply(store, world.fence, CAROL, generation, NOW, fact(Fact::Done)).await.unwrap();

    let week = week_of(NOW);
    let own = provider::own(store, ALICE, NOW).await.unwrap();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].week, Week { week, done: 2, refused: 0, disputed: 1, answered: 0 });
    let known = provider::of_account(store, world.account, NOW).await.unwrap();
    let weeks: Vec<Week> = known.iter().map(|known| known.week).collect();
    let expected = [
        Week { week: week + 1, done: 0, refused: 0, disputed: 0, answered: 1 },
        Week { week, done: 2, refused: 1, disputed: 1, answered: 0 },
    ];
    assert_eq!(weeks, expected, "the sum of both agents, and nothing of the stranger's");
    assert!(known.iter().all(|known| known.provider == CHEAT));
    let theirs: Vec<Week> = provider::of_account(store, other, NOW).await.unwrap().iter().map(|it| it.week).collect();
    assert_eq!(theirs, [Week { week, done: 1, ..Week::default() }]);
    assert_eq!(trust(&theirs, NOW), 100);
    assert!(trust(&weeks, NOW) < 40);

    // Old weeks count no more, and are forgotten.
    let later = NOW.plus_ms(9 * 7 * 86_400_000);
    assert_eq!(provider::of_account(store, world.account, later).await.unwrap().len(), 1);
    assert_eq!(provider::purge(store, later, 100).await.unwrap(), 3);
    agent::delete(store, BOB, true, audit("agent.delete")).await.unwrap();
    assert_eq!(
        sql(&world, "SELECT COUNT(*) FROM provider_week").trim_start_matches("Integer(").trim_end_matches(')'),
        "0"
    );
}

suite::suite!(
    a_dispute_opens_with_its_tick_and_ends_once,
    only_the_arrows_of_a_dispute,
    a_stale_worker_disputes_nothing,
    an_account_shares_experience_and_no_other_sees_it,
);
