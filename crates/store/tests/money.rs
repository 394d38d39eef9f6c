//! Budgets and payments: limits hold, one intent for each step, no arrow that the machine does not have.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, Kind, NOW, World, new_payment, sql, tick_id};
use nexus_core::availability::Month;
use nexus_core::budget::{Counter, Window};
use nexus_core::payment::PaymentState::{self, *};
use nexus_core::{Hash32, Msat};
use nexus_store::side::PaymentMove;
use nexus_store::{Conflict, Side, StoreError, journal, payment, tick};
use proptest::prelude::*;

async fn apply(world: &World, side: Vec<Side>) -> Result<(), StoreError> {
    journal::apply(&world.store, world.fence, ALICE, world.generation, NOW, side).await.map(drop)
}

fn step(hash: u8, from: PaymentState, to: PaymentState) -> Side {
    Side::Payment(PaymentMove {
        hash: Hash32::from_bytes([hash; 32]),
        from,
        to,
        at: NOW.plus_ms(1),
        fee: (to == Settled).then_some(Msat::new(3)),
        preimage: (to == Settled).then(|| vec![1, 2, 3]),
        note: None,
    })
}

fn reserve(amount: u64, limit: u64) -> Side {
    Side::ReserveBudget { window: Window::Day(1), amount: Msat::new(amount), limit: Msat::new(limit) }
}

async fn a_payment_from_hold_to_settlement(world: World) {
    let store = &world.store;
    tick::begin(store, world.begin(ALICE, 1)).await.unwrap();
    let side = vec![reserve(110, 1_000), Side::InsertPayment(new_payment(1, "job:1"))];
    journal::append(store, world.append(ALICE, 1, 2, side)).await.unwrap();
    assert_eq!(payment::open(store, ALICE).await.unwrap().len(), 1);
    assert!(payment::unresolved(store, ALICE).await.unwrap().is_empty(), "nothing has left yet");

    journal::append(store, world.append(ALICE, 1, 3, vec![step(1, Reserved, Dispatched)])).await.unwrap();
    let sent = payment::unresolved(store, ALICE).await.unwrap().pop().unwrap();
    assert_eq!(sent.dispatched_by, Some(world.generation));
    assert_eq!(sent.tick, Some(tick_id(1)));
    assert_eq!(sent.windows, new_payment(1, "").windows);
    assert_eq!(payment::agents_unresolved(store, world.fence, 5).await.unwrap(), [ALICE]);

    let settle = Side::SettleBudget { window: Window::Day(1), held: sent.hold(), spent: Msat::new(103) };
    apply(&world, vec![step(1, Dispatched, Settled), settle]).await.unwrap();
    let done = payment::get(store, ALICE, sent.hash).await.unwrap().unwrap();
    assert_eq!((done.state, done.fee, done.preimage), (Settled, Msat::new(3), Some(vec![1, 2, 3])));
    let counter = payment::counter(store, ALICE, Window::Day(1)).await.unwrap();
    assert_eq!(counter, Counter { settled: Msat::new(103), held: Msat::ZERO });
    assert_eq!(payment::list(store, ALICE, None, 10).await.unwrap().len(), 1);
}

async fn one_intent_for_each_step_and_hash(world: World) {
    apply(&world, vec![Side::InsertPayment(new_payment(1, "job:1"))]).await.unwrap();
    let again = apply(&world, vec![Side::InsertPayment(new_payment(2, "job:1"))]).await.unwrap_err();
    assert_eq!(again.conflict(), Some(&Conflict::PaymentStep));
    let twin = apply(&world, vec![Side::InsertPayment(new_payment(1, "job:2"))]).await.unwrap_err();
    assert_eq!(twin.conflict(), Some(&Conflict::PaymentHash));
    // Within one batch too.
    let both = vec![Side::InsertPayment(new_payment(3, "job:3")), Side::InsertPayment(new_payment(4, "job:3"))];
    assert_eq!(apply(&world, both).await.unwrap_err().conflict(), Some(&Conflict::PaymentStep));
    assert!(payment::get(&world.store, ALICE, Hash32::from_bytes([3; 32])).await.unwrap().is_none());

    // A failed one makes room; the failed one may then not come back beside its successor.
    apply(&world, vec![step(1, Reserved, Dispatched), step(1, Dispatched, Failed)]).await.unwrap();
    apply(&world, vec![Side::InsertPayment(new_payment(2, "job:1"))]).await.unwrap();
    let back = apply(&world, vec![step(1, Failed, Reserved)]).await.unwrap_err();
    assert_eq!(back.conflict(), Some(&Conflict::PaymentStep));
    apply(&world, vec![step(2, Reserved, Canceled), step(1, Failed, Reserved)]).await.unwrap();
    let retried = payment::get(&world.store, ALICE, Hash32::from_bytes([1; 32])).await.unwrap().unwrap();
    assert_eq!((retried.state, retried.attempt), (Reserved, 2));
}

async fn only_the_machines_arrows(world: World) {
    const ALL: [PaymentState; 7] = [Reserved, Dispatched, Pending, Unknown, Settled, Failed, Canceled];
    apply(&world, vec![Side::InsertPayment(new_payment(1, "job:1"))]).await.unwrap();
    for from in ALL {
        for to in ALL {
            let error = match apply(&world, vec![step(1, from, to)]).await {
                Ok(()) => {
                    assert_eq!((from, to), (Reserved, Dispatched), "the only legal one at this point");
                    continue;
                }
                Err(error) => error,
            };
            match error.conflict() {
                Some(Conflict::PaymentArrow { .. }) => assert!(!from.may_become(to), "{from:?} {to:?}"),
                Some(Conflict::PaymentState { expected }) => {
                    assert!(from.may_become(to) && from.as_str() == expected, "{from:?} {to:?}");
                }
                other => panic!("{from:?} {to:?}: {other:?}"),
            }
            // Walks on from Dispatched by itself.
            if from == Dispatched {
                break;
            }
        }
    }
    let state = payment::get(&world.store, ALICE, Hash32::from_bytes([1; 32])).await.unwrap().unwrap().state;
    assert_eq!(state, Dispatched);
}

async fn a_refused_hold_undoes_its_whole_batch(world: World) {
    let store = &world.store;
    tick::begin(store, world.begin(ALICE, 1)).await.unwrap();
    let side = vec![
        Side::InsertPayment(new_payment(1, "job:1")),
        reserve(900, 1_000),
        Side::AppendEvent(common::started(1)),
        reserve(101, 1_000),
    ];
    let error = journal::append(store, world.append(ALICE, 1, 2, side)).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::Budget { window: "day:1".into() }));
    assert_eq!(payment::counter(store, ALICE, Window::Day(1)).await.unwrap(), Counter::default());
    assert!(payment::open(store, ALICE).await.unwrap().is_empty());
    assert_eq!(journal::load(store, tick_id(1)).await.unwrap().len(), 1);
    // Nothing was held, so nothing can be released.
    let release = Side::ReleaseBudget { window: Window::Day(1), amount: Msat::new(1) };
    let error = apply(&world, vec![release]).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::BudgetHold { window: "day:1".into() }));
    // A first hold above the limit, and amounts at the end of the range.
    for (amount, limit) in [(2, 1), (i64::MAX as u64, i64::MAX as u64 - 1)] {
        assert!(apply(&world, vec![reserve(amount, limit)]).await.is_err());
    }
    apply(&world, vec![reserve(i64::MAX as u64, i64::MAX as u64)]).await.unwrap();
    assert!(apply(&world, vec![reserve(1, i64::MAX as u64)]).await.is_err());
}

async fn windows_are_forgotten_when_nothing_holds(world: World) {
    tick::begin(&world.store, world.begin(ALICE, 1)).await.unwrap();
    let tick_window =
        Side::ReserveBudget { window: Window::Tick(tick_id(1)), amount: Msat::new(5), limit: Msat::new(9) };
    apply(&world, vec![reserve(5, 10), tick_window]).await.unwrap();
    let today = Window::day_of(NOW);
    let hold = Side::ReserveBudget { window: today, amount: Msat::new(7), limit: Msat::new(9) };
    apply(&world, vec![hold, Side::InsertPayment(new_payment(1, "job:1"))]).await.unwrap();
    let later = NOW.plus_ms(864_000_000);
    assert_eq!(tick::purge(&world.store, later, 100).await.unwrap(), 0, "an open tick");
    tick::commit(&world.store, world.commit(ALICE, 1, 2)).await.unwrap();
    assert_eq!(tick::purge(&world.store, NOW, 100).await.unwrap(), 0, "not old enough");
    assert_eq!(tick::purge(&world.store, later, 100).await.unwrap(), 1);
    let kept = |window| payment::counter(&world.store, ALICE, window);
    assert_eq!(kept(Window::Tick(tick_id(1))).await.unwrap().held, Msat::new(5), "what is held stays");
    assert_eq!(kept(today).await.unwrap().held, Msat::new(7));
    assert_eq!(payment::open(&world.store, ALICE).await.unwrap().len(), 1, "what is not concluded stays");

    // Of a tick whose payment is concluded and whose windows hold nothing, nothing stays.
    tick::begin(&world.store, world.begin(ALICE, 2)).await.unwrap();
    let window = Window::Tick(tick_id(2));
    let reserve = Side::ReserveBudget { window, amount: Msat::new(5), limit: Msat::new(9) };
    let release = |window, msat| Side::ReleaseBudget { window, amount: Msat::new(msat) };
    let append = world.append(ALICE, 2, 2, vec![reserve, Side::InsertPayment(new_payment(2, "job:2"))]);
    let hash = new_payment(2, "job:2").hash;
    journal::append(&world.store, append).await.unwrap();
    let at = NOW;
    let cancel = PaymentMove {
        hash,
        from: PaymentState::Reserved,
        to: PaymentState::Canceled,
        at,
        fee: None,
        preimage: None,
        note: None,
    };
    let sides = vec![Side::Payment(cancel), release(window, 5), release(today, 7)];
    journal::append(&world.store, world.append(ALICE, 2, 3, sides)).await.unwrap();
    tick::commit(&world.store, world.commit(ALICE, 2, 3)).await.unwrap();
    assert!(payment::get(&world.store, ALICE, hash).await.unwrap().is_some());
    assert_eq!(tick::purge(&world.store, later, 100).await.unwrap(), 1);
    assert_eq!(payment::get(&world.store, ALICE, hash).await.unwrap(), None);
    let windows = sql(&world, "SELECT COUNT(*) FROM budget WHERE win <> 'day:1'");
    assert!(windows.contains('1'), "the first tick's alone: {windows}");
}

/// Fifty at once: as many as the rate and the month allow, on every engine, also when it is opened again.
async fn a_rate_and_a_month_hold_against_a_crowd(world: World) {
    let month = Window::Month(Month(202_611));
    let begin = |n: u8| {
        let payment = new_payment(n, &format!("job:{n}"));
        vec![
            Side::PaymentsWithin { since: NOW.plus_ms(-3_600_000), most: 7 },
            Side::ReserveBudget { window: month, amount: Msat::new(10), limit: Msat::new(1_000) },
            Side::InsertPayment(payment),
        ]
    };
    let crowd = (1..=50).map(|n| apply(&world, begin(n)));
    let begun = futures_util::future::join_all(crowd).await;
    let granted = begun.iter().filter(|result| result.is_ok()).count();
    for refused in begun.into_iter().filter_map(Result::err) {
        assert!(matches!(refused.conflict(), Some(Conflict::Budget { .. })), "{refused}");
    }
    let hour_ago = NOW.plus_ms(-3_600_000);
    assert_eq!((granted, payment::begun_since(&world.store, ALICE, hour_ago).await.unwrap()), (7, 7));
    assert_eq!(payment::counter(&world.store, ALICE, month).await.unwrap().held, Msat::new(70));
    assert_eq!(payment::begun_since(&world.store, ALICE, NOW.plus_ms(60_000)).await.unwrap(), 0);

    let hold = |amount| vec![Side::ReserveBudget { window: month, amount: Msat::new(amount), limit: Msat::new(100) }];
    let crowd = (0..50).map(|_| apply(&world, hold(4)));
    let granted = futures_util::future::join_all(crowd).await.into_iter().filter(Result::is_ok).count();
    assert_eq!((granted, payment::counter(&world.store, ALICE, month).await.unwrap().held), (7, Msat::new(98)));
}

suite::suite!(
    a_rate_and_a_month_hold_against_a_crowd,
    a_payment_from_hold_to_settlement,
    one_intent_for_each_step_and_hash,
    only_the_machines_arrows,
    a_refused_hold_undoes_its_whole_batch,
    windows_are_forgotten_when_nothing_holds,
);

/// What a caller may do to a window.
#[derive(Debug, Clone)]
enum Do {
    Reserve(u64),
    Release(u64),
    Settle { held: u64, less: u64 },
}

fn doing() -> impl Strategy<Value = Do> {
    prop_oneof![
        (0_u64..400).prop_map(Do::Reserve),
        (0_u64..400).prop_map(Do::Release),
        (0_u64..400, 0_u64..400).prop_map(|(held, less)| Do::Settle { held, less }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The statement agrees with the pure rule, step by step: never above the limit, never below zero.
    #[test]
    fn counters_follow_the_rule(limit in 0_u64..1_000, acts in prop::collection::vec(doing(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = World::new(Kind::Inline).await;
            let window = Window::Day(1);
            let mut expected = Counter::default();
            for act in acts {
                let (side, next) = match act {
                    Do::Reserve(amount) => {
                        let amount = Msat::new(amount);
                        let held = expected.held.saturating_add(amount);
                        let fits = expected.admits(amount, Msat::new(limit));
                        (reserve(amount.as_u64(), limit), fits.then_some(Counter { held, ..expected }))
                    }
                    Do::Release(amount) => {
                        let amount = Msat::new(amount);
                        let held = expected.held.checked_sub(amount);
                        let known = expected != Counter::default();
                        let next = held.filter(|_| known).map(|held| Counter { held, ..expected });
                        (Side::ReleaseBudget { window, amount }, next)
                    }
                    Do::Settle { held, less } => {
                        let (held, spent) = (Msat::new(held), Msat::new(held.saturating_sub(less)));
                        let known = expected != Counter::default();
                        let next = expected.held.checked_sub(held).filter(|_| known)
                            .map(|rest| Counter { held: rest, settled: expected.settled.saturating_add(spent) });
                        (Side::SettleBudget { window, held, spent }, next)
                    }
                };
                let done = apply(&world, vec![side]).await;
                let counter = payment::counter(&world.store, ALICE, window).await.unwrap();
                if let Some(next) = next {
                    // Whether a row of zeros is there is nobody's business.
                    if done.is_ok() { expected = next; }
                    else { prop_assert_eq!(next, expected); }
                } else if expected != Counter::default() {
                    prop_assert!(done.is_err());
                }
                prop_assert_eq!(counter, expected);
                prop_assert!(counter.used() <= Msat::new(limit));
            }
            Ok(())
        })?;
    }
}

/// Many at once for little room: the holds that were granted are exactly the held sum, and it never passes the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_for_the_last_sats() {
    let world = std::sync::Arc::new(World::new(Kind::Thread).await);
    let mut racers = tokio::task::JoinSet::new();
    for n in 0..64_u64 {
        let world = world.clone();
        racers.spawn(async move { apply(&world, vec![reserve(10 + n % 3, 300)]).await.map(|()| 10 + n % 3) });
    }
    let mut granted = 0;
    while let Some(result) = racers.join_next().await {
        match result.unwrap() {
            Ok(amount) => granted += amount,
            Err(error) => assert!(matches!(error.conflict(), Some(Conflict::Budget { .. })), "{error}"),
        }
    }
    let counter = payment::counter(&world.store, ALICE, Window::Day(1)).await.unwrap();
    assert_eq!(counter.held, Msat::new(granted));
    assert!(granted <= 300 && granted > 288, "{granted}");
}
