//! Hosting money: each fact is booked once, whoever repeats or races it, and the books are always sound.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, BOB, Kind, NOW, World, account_id, audit, sql};
use nexus_core::hosting::{HostingRules, Included, Plan, Term, month};
use nexus_core::payment::PaymentState;
use nexus_core::status::Hosting;
use nexus_core::{Hash32, Msat};
use nexus_store::hosting::{self, Billed, Looked, NewInvoice, Origin};
use nexus_store::ledger::{self, Book, Unsound};
use nexus_store::payout::{self, NewPayout, Payout};
use nexus_store::rent::{self, NewRent};
use nexus_store::{Conflict, Store, agent};
use proptest::prelude::*;

const DAY_MS: i64 = 86_400_000;

fn hash(n: u8) -> Hash32 {
    Hash32::from_bytes([n; 32])
}

async fn ask(store: &Store, n: u8, sats: u64) {
    let invoice = NewInvoice {
        hash: hash(n),
        account: account_id(),
        amount: Msat::sats(sats),
        memo: "Hosting".into(),
        origin: Origin::Account,
        sealed_preimage: vec![n],
        created_at: NOW,
        expires_at: NOW.plus_ms(3_600_000),
    };
    hosting::put_invoice(store, invoice).await.unwrap();
}

async fn top_up(store: &Store, n: u8, sats: u64) {
    ask(store, n, sats).await;
    assert!(hosting::paid(store, hash(n), Msat::sats(sats), NOW).await.unwrap());
}

fn plan(fee_sats: u64) -> Plan {
    Plan { fee_sats, ..Plan::default() }
}

async fn sound(store: &Store) {
    assert_eq!(ledger::unsound(store).await.unwrap(), Unsound::default());
}

async fn credit(store: &Store) -> u64 {
    hosting::credit(store, account_id()).await.unwrap().0.whole_sats()
}

async fn billed(store: &Store, npub: nexus_core::Npub) -> Billed {
    hosting::billed(store, npub).await.unwrap().unwrap()
}

/// The next month of an agent that was never billed, or was up to `Billed::term`.
async fn charge(store: &Store, billed: &Billed, fee: u64) -> nexus_store::Result<Vec<i64>> {
    let term = billed.term.unwrap_or_else(|| Term::begin(NOW, NOW));
    let bought = HostingRules::default().next(&term, term.paid_until).unwrap();
    hosting::charge(store, billed, bought, &plan(fee), NOW.plus_ms(DAY_MS), NOW).await
}

async fn a_payment_is_credited_once(world: World) {
    let store = &world.store;
    ask(store, 1, 1_000).await;
    hosting::made(store, hash(1), "lnbcrt1", NOW.plus_ms(1)).await.unwrap();
    // It came late, and is more than was asked; twenty see it at once, and again later.
    hosting::look_later(store, hash(1), true, None).await.unwrap();
    let came = Msat::sats(1_500);
    let all = futures_util::future::join_all((0..20).map(|_| hosting::paid(store, hash(1), came, NOW))).await;
    assert_eq!(all.into_iter().filter(|credited| *credited.as_ref().unwrap()).count(), 1);
    assert!(!hosting::paid(store, hash(1), came, NOW.plus_ms(9)).await.unwrap());
    assert_eq!(credit(store).await, 1_500);
    let invoice = hosting::invoice(store, hash(1)).await.unwrap().unwrap();
    assert_eq!((invoice.state.as_str(), invoice.paid, invoice.amount), ("paid", Some(came), Msat::sats(1_000)));
    hosting::look_later(store, hash(1), true, None).await.unwrap();
    assert_eq!(hosting::invoice(store, hash(1)).await.unwrap().unwrap().state, "paid", "paid stays paid");
    assert!(hosting::to_look_at(store, NOW.plus_ms(i64::MAX / 2), 9).await.unwrap().is_empty());

    let unknown = hosting::paid(store, hash(2), came, NOW).await.unwrap_err();
    assert_eq!(unknown.conflict(), Some(&Conflict::NotFound));
    assert!(hosting::unexplained(store, hash(2), came, NOW).await.unwrap());
    assert!(!hosting::unexplained(store, hash(2), came, NOW).await.unwrap());
    assert_eq!(ledger::balance(store, Book::Suspense).await.unwrap(), -1_500_000);
    assert_eq!(ledger::balance(store, Book::Lightning).await.unwrap(), 3_000_000);
    assert_eq!(ledger::balance(store, Book::Credit(account_id())).await.unwrap(), -1_500_000);
    sound(store).await;
}

async fn a_month_is_charged_once_and_never_beyond_the_credit(world: World) {
    let store = &world.store;
    top_up(store, 1, 2_500).await;
    let alice = billed(store, ALICE).await;
    let all = futures_util::future::join_all((0..50).map(|_| charge(store, &alice, 1_000))).await;
    let done = all.iter().filter(|charged| charged.is_ok()).count();
    let lost = all.iter().filter_map(|charged| charged.as_ref().err());
    assert!(lost.into_iter().all(|error| error.is_duplicate() || error.conflict() == Some(&Conflict::Version)));
    assert_eq!((done, credit(store).await), (1, 1_500));
    let paid = billed(store, ALICE).await;
    assert_eq!((paid.hosting, paid.term.unwrap().paid_until), (Hosting::Paid, month(NOW, 0).unwrap().until));

    // Two agents, and credit for one more month.
    let bob = billed(store, BOB).await;
    let both = futures_util::future::join(charge(store, &paid, 1_000), charge(store, &bob, 1_000)).await;
    let short = [&both.0, &both.1].into_iter().filter_map(|charged| charged.as_ref().err());
    assert_eq!(short.map(|error| error.conflict().cloned()).collect::<Vec<_>>(), [Some(Conflict::NoCredit)]);
    assert_eq!(credit(store).await, 500);
    assert_eq!(ledger::balance(store, Book::Income).await.unwrap(), -2_000_000);
    sound(store).await;
    assert_eq!(ledger::entries(store, account_id(), NOW.plus_ms(1), 9).await.unwrap().len(), 3);
}

async fn what_is_unused_comes_back(world: World) {
    let store = &world.store;
    top_up(store, 1, 3_000).await;
    for npub in [ALICE, BOB] {
        charge(store, &billed(store, npub).await, 1_500).await.unwrap();
    }
    assert_eq!(credit(store).await, 0);
    let month = month(NOW, 0).unwrap();
    let half = NOW.plus_ms((month.until.0 - month.from.0) / 2);
    let gone = nexus_store::Audit { at: half, ..audit("agent.delete") };
    agent::delete(store, ALICE, false, gone.clone()).await.unwrap();
    assert_eq!(credit(store).await, 750);
    agent::delete(store, BOB, false, nexus_store::Audit { at: month.until, ..gone }).await.unwrap();
    assert_eq!(credit(store).await, 750, "its month was over");
    sound(store).await;
}

async fn standing_and_notices_are_told_once(world: World) {
    let store = &world.store;
    let alice = billed(store, ALICE).await;
    let term = Term::begin(NOW, NOW.plus_ms(DAY_MS));
    let look = Looked {
        term,
        hosting: Hosting::Trial,
        notice: Some(1),
        covered: false,
        look_at: NOW.plus_ms(5),
        included: Included { ticks_per_day: Some(7), state_kib: Some(64), retention_days: Some(9) },
    };
    assert_eq!(hosting::looked(store, &alice, look, NOW).await.unwrap().len(), 2, "standing and notice");
    let again = hosting::looked(store, &alice, look, NOW).await.unwrap_err();
    assert_eq!(again.conflict(), Some(&Conflict::Version), "what was read is not so any more");
    let row = agent::get(store, ALICE).await.unwrap().unwrap();
    assert_eq!((row.hosting, row.hosting_notice, row.ticks_per_day), (Hosting::Trial, Some(1), Some(7)));
    assert_eq!(row.state_kib, Some(64));
    let due = |ms| hosting::due(store, NOW.plus_ms(ms), 9);
    assert!(!due(4).await.unwrap().iter().any(|billed| billed.npub == ALICE));
    assert!(due(5).await.unwrap().iter().any(|billed| billed.npub == ALICE));
    // Money makes it due at once.
    top_up(store, 1, 1).await;
    assert!(due(0).await.unwrap().iter().any(|billed| billed.npub == ALICE));
    let covered = Looked { notice: None, covered: true, ..look };
    assert!(hosting::looked(store, &billed(store, ALICE).await, covered, NOW).await.unwrap().is_empty());
    assert_eq!(agent::get(store, ALICE).await.unwrap().unwrap().hosting_notice, None);
}

async fn what_is_not_charged_any_more_is_paid(world: World) {
    let store = &world.store;
    top_up(store, 1, 1_000).await;
    charge(store, &billed(store, ALICE).await, 400).await.unwrap();
    let look = Looked {
        term: Term::begin(NOW, NOW),
        hosting: Hosting::Suspended,
        notice: None,
        covered: false,
        look_at: NOW,
        included: Included { ticks_per_day: Some(1), ..Included::default() },
    };
    hosting::looked(store, &billed(store, BOB).await, look, NOW).await.unwrap();
    assert_eq!((hosting::forget(store).await.unwrap(), hosting::forget(store).await.unwrap()), (2, 0));
    let bob = agent::get(store, BOB).await.unwrap().unwrap();
    assert_eq!((bob.hosting, bob.ticks_per_day, credit(store).await), (Hosting::Paid, None, 600));
    sound(store).await;
}

async fn open_invoices_are_bounded(world: World) {
    let store = &world.store;
    for n in 0..u8::try_from(hosting::MAX_OPEN).unwrap() {
        ask(store, n, 1).await;
    }
    let more = |origin| NewInvoice {
        hash: hash(200),
        account: account_id(),
        amount: Msat::sats(1),
        memo: String::new(),
        origin,
        sealed_preimage: Vec::new(),
        created_at: NOW,
        expires_at: NOW,
    };
    let refused = hosting::put_invoice(store, more(Origin::Account)).await.unwrap_err();
    assert_eq!(refused.conflict(), Some(&Conflict::TooMany));
    hosting::put_invoice(store, more(Origin::Anybody)).await.unwrap();
    assert!(!sql(&world, "SELECT payment_hash FROM hosting_invoice").is_empty());
}

fn rent_of(npub: nexus_core::Npub, n: u8) -> NewRent {
    NewRent {
        hash: hash(n),
        account: account_id(),
        npub,
        month: "1:0".into(),
        policy: 1,
        amount: Msat::sats(500),
        memo: "Rent".into(),
        sealed_preimage: vec![n],
        created_at: NOW,
        expires_at: NOW.plus_ms(600_000),
    }
}

fn refund(n: u8, sats: u64, at: nexus_core::UnixMs) -> NewPayout {
    NewPayout {
        hash: hash(n),
        account: account_id(),
        bolt11: "lnbcrt1".into(),
        amount: Msat::sats(sats),
        max_fee: Msat::sats(10),
        expires_at: at.plus_ms(3_600_000),
        order: "{}".into(),
        created_at: at,
    }
}

/// One arrow of a refund, by what was read of it.
async fn step(store: &Store, seen: &Payout, to: u8, fee: u8) {
    let (by, later) = (nexus_core::WorkerId::from_bytes([fee; 16]), NOW.plus_ms(DAY_MS));
    let _ = match to {
        0 => payout::moved(store, seen, PaymentState::Dispatched, by, NOW, later).await,
        1 => payout::moved(store, seen, PaymentState::Unknown, by, NOW, later).await,
        2 => payout::moved(store, seen, PaymentState::Pending, by, NOW, later).await,
        3 => payout::settled(store, seen, Msat::sats(u64::from(fee)), NOW).await,
        4 => payout::not_paid(store, seen, PaymentState::Failed, "no route".into(), NOW).await,
        _ => payout::not_paid(store, seen, PaymentState::Canceled, "too late".into(), NOW).await,
    };
}

async fn one_invoice_of_a_rent_may_be_paid_and_what_came_is_that_agents(world: World) {
    let store = &world.store;
    rent::put(store, rent_of(ALICE, 1)).await.unwrap();
    let second = rent::put(store, rent_of(ALICE, 2)).await.unwrap_err();
    assert_eq!(second.conflict(), Some(&Conflict::TooMany));
    rent::put(store, rent_of(BOB, 3)).await.unwrap();
    // Dead by the node's word, and for a while after: no other yet.
    hosting::look_later(store, hash(1), true, None).await.unwrap();
    let soon = NewRent { created_at: NOW.plus_ms(600_000 + rent::MARGIN_MS - 1), ..rent_of(ALICE, 2) };
    assert_eq!(rent::put(store, soon).await.unwrap_err().conflict(), Some(&Conflict::TooMany));
    let later = NewRent { created_at: NOW.plus_ms(600_000 + rent::MARGIN_MS), ..rent_of(ALICE, 2) };
    rent::put(store, later.clone()).await.unwrap();
    let latest = rent::latest(store, ALICE).await.unwrap().unwrap();
    assert_eq!((latest.hash, latest.unpaid, latest.may_be_paid(later.created_at)), (hash(2), 1, true));

    // Paid: it is Alice's month, and nobody else's, until it is charged.
    assert!(hosting::paid(store, hash(2), Msat::sats(500), NOW).await.unwrap());
    let (alice, bob) = (billed(store, ALICE).await, billed(store, BOB).await);
    assert_eq!((alice.credit, bob.credit, credit(store).await), (Msat::sats(500), Msat::ZERO, 500));
    let refused = charge(store, &bob, 500).await.unwrap_err();
    assert_eq!(refused.conflict(), Some(&Conflict::NoCredit));
    let early = payout::order(store, refund(20, 100, NOW.plus_ms(9 * DAY_MS))).await.unwrap_err();
    assert_eq!(early.conflict(), Some(&Conflict::NoCredit), "nor is it refunded");
    charge(store, &alice, 400).await.unwrap();
    assert_eq!((billed(store, BOB).await.credit, credit(store).await), (Msat::sats(100), 100));
    // Of an agent that goes it is its account's.
    assert!(hosting::paid(store, hash(3), Msat::sats(500), NOW).await.unwrap());
    assert_eq!(billed(store, ALICE).await.credit, Msat::sats(100));
    agent::delete(store, BOB, true, audit("delete")).await.unwrap();
    assert_eq!(billed(store, ALICE).await.credit, Msat::sats(600));
    sound(store).await;
}

async fn a_refund_is_ordered_once_and_comes_to_one_end(world: World) {
    let store = &world.store;
    top_up(store, 1, 1_000).await;
    let (day, order) = (NOW.plus_ms(DAY_MS), |n, sats, at| payout::order(store, refund(n, sats, at)));
    let why = |refused: nexus_store::Result<()>| refused.unwrap_err().conflict().cloned();
    assert_eq!(why(order(20, 100, NOW.plus_ms(DAY_MS - 1)).await), Some(Conflict::TooSoon));
    assert_eq!(why(order(20, 991, day).await), Some(Conflict::NoCredit), "the fee is taken from it");
    let all = futures_util::future::join_all((20..30).map(|n| order(n, 300, day))).await;
    assert_eq!(all.iter().filter(|ordered| ordered.is_ok()).count(), 1, "one at a time");
    let seen = payout::due(store, day, 9).await.unwrap();
    assert_eq!((seen.len(), credit(store).await), (1, 690));
    assert_eq!(ledger::balance(store, Book::Refunds(account_id())).await.unwrap(), -310_000);
    sound(store).await;
    let seen = seen.into_iter().next().unwrap();
    // Ten processes want to send it; ten settle it.
    let by = |n: u8| nexus_core::WorkerId::from_bytes([n; 16]);
    let moves = (0..10).map(|n| payout::moved(store, &seen, PaymentState::Dispatched, by(n), day, day));
    let moves = futures_util::future::join_all(moves).await;
    assert_eq!(moves.iter().filter(|moved| moved.is_ok()).count(), 1);
    let sent = payout::get(store, seen.hash).await.unwrap().unwrap();
    let ends = futures_util::future::join_all((0..10).map(|_| payout::settled(store, &sent, Msat::sats(4), day))).await;
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1);
    assert!(payout::not_paid(store, &sent, PaymentState::Failed, String::new(), day).await.is_err());
    assert_eq!((credit(store).await, ledger::balance(store, Book::Lightning).await.unwrap()), (696, 696_000));
    assert_eq!(ledger::balance(store, Book::Refunds(account_id())).await.unwrap(), 0);
    sound(store).await;
    let again = payout::order(store, NewPayout { hash: seen.hash, ..refund(19, 1, day) }).await;
    assert_eq!(why(again), Some(Conflict::PaymentHash));
    // Three in a day.
    for n in [40, 41] {
        order(n, 10, day).await.unwrap();
        let open = payout::get(store, hash(n)).await.unwrap().unwrap();
        payout::not_paid(store, &open, PaymentState::Canceled, String::new(), day).await.unwrap();
    }
    assert_eq!(why(order(42, 10, day).await), Some(Conflict::TooMany));
    order(42, 10, day.plus_ms(DAY_MS)).await.unwrap();
    let open = payout::get(store, hash(42)).await.unwrap().unwrap();
    payout::not_paid(store, &open, PaymentState::Canceled, String::new(), day).await.unwrap();
    // A row that nobody ordered gives nobody anything.
    let forged = Payout { hash: hash(77), state: PaymentState::Reserved, ..sent };
    assert!(payout::not_paid(store, &forged, PaymentState::Canceled, String::new(), day).await.is_err());
    assert_eq!(credit(store).await, 696);
}

suite::suite!(
    one_invoice_of_a_rent_may_be_paid_and_what_came_is_that_agents,
    a_refund_is_ordered_once_and_comes_to_one_end,
    a_payment_is_credited_once,
    a_month_is_charged_once_and_never_beyond_the_credit,
    what_is_unused_comes_back,
    standing_and_notices_are_told_once,
    what_is_not_charged_any_more_is_paid,
    open_invoices_are_bounded,
);

#[derive(Debug, Clone, Copy)]
enum Op {
    Ask(u8, u16),
    Paid(u8, u16),
    Unknown(u8, u16),
    Charge(bool, u16),
    Delete(bool, u8),
    Rent(bool, u8, u16),
    Refund(u8, u16, u8),
    /// Moves a refund on, by what somebody read of it: perhaps long ago.
    Payout(u8, u8, u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0_u8..6, 1_u16..5_000).prop_map(|(n, sats)| Op::Ask(n, sats)),
        (0_u8..12, 1_u16..5_000).prop_map(|(n, sats)| Op::Paid(n, sats)),
        (0_u8..8, 1_u16..5_000).prop_map(|(n, sats)| Op::Unknown(n, sats)),
        (any::<bool>(), 0_u16..3_000).prop_map(|(alice, fee)| Op::Charge(alice, fee)),
        (any::<bool>(), 0_u8..40).prop_map(|(alice, days)| Op::Delete(alice, days)),
        (any::<bool>(), 8_u8..12, 1_u16..3_000).prop_map(|(alice, n, sats)| Op::Rent(alice, n, sats)),
        (20_u8..26, 1_u16..3_000, 0_u8..9).prop_map(|(n, sats, day)| Op::Refund(n, sats, day)),
        (20_u8..26, 0_u8..6, 0_u8..30).prop_map(|(n, to, fee)| Op::Payout(n, to, fee)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, every entry sums to zero, no credit is negative, and each is what its lines say.
    #[test]
    fn the_books_are_sound_whatever_happens(ops in prop::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new(Kind::Inline).await;
            let store = &world.store;
            let mut asked = std::collections::BTreeSet::new();
            let mut read = std::collections::BTreeMap::new();
            for op in ops {
                match op {
                    Op::Ask(n, sats) => {
                        if asked.insert(n) {
                            ask(store, n, u64::from(sats)).await;
                        }
                    }
                    Op::Paid(n, sats) => {
                        let _ = hosting::paid(store, hash(n), Msat::sats(u64::from(sats)), NOW).await;
                    }
                    Op::Unknown(n, sats) => {
                        if !asked.contains(&n) {
                            let _ = hosting::unexplained(store, hash(n), Msat::sats(u64::from(sats)), NOW).await;
                        }
                    }
                    Op::Charge(alice, fee) => {
                        if let Some(billed) = hosting::billed(store, if alice { ALICE } else { BOB }).await.unwrap() {
                            let _ = charge(store, &billed, u64::from(fee)).await;
                        }
                    }
                    Op::Delete(alice, days) => {
                        let at = nexus_store::Audit { at: NOW.plus_ms(i64::from(days) * DAY_MS), ..audit("delete") };
                        let _ = agent::delete(store, if alice { ALICE } else { BOB }, true, at).await;
                    }
                    Op::Rent(alice, n, sats) => {
                        let new = NewRent { amount: Msat::sats(u64::from(sats)), ..rent_of(if alice { ALICE } else { BOB }, n) };
                        let _ = rent::put(store, new).await;
                    }
                    Op::Refund(n, sats, day) => {
                        let at = NOW.plus_ms(i64::from(day) * DAY_MS);
                        if payout::order(store, refund(n, u64::from(sats), at)).await.is_ok() {
                            read.insert(n, payout::get(store, hash(n)).await.unwrap().unwrap());
                        }
                    }
                    Op::Payout(n, to, fee) => {
                        if let Some(seen) = read.get(&n).cloned() {
                            step(store, &seen, to, fee).await;
                            if fee % 3 > 0 {
                                read.insert(n, payout::get(store, hash(n)).await.unwrap().unwrap());
                            }
                        }
                    }
                }
                sound(store).await;
                let owed = ledger::balance(store, Book::Refunds(account_id())).await.unwrap();
                prop_assert!(owed <= 0, "{owed}");
            }
            // Every refund comes to an end, and then nothing is owed.
            for seen in read.keys().copied().collect::<Vec<_>>() {
                for to in [0, 3, 4] {
                    let now = payout::get(store, hash(seen)).await.unwrap().unwrap();
                    step(store, &now, to, 1).await;
                }
            }
            prop_assert_eq!(ledger::balance(store, Book::Refunds(account_id())).await.unwrap(), 0);
            sound(store).await;
            Ok(())
        })?;
    }
}
