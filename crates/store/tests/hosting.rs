//! Hosting money: each fact is booked once, whoever repeats or races it, and the books are always sound.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, BOB, Kind, NOW, World, account_id, audit, sql};
use nexus_core::hosting::{HostingRules, Plan, Term, month};
use nexus_core::status::Hosting;
use nexus_core::{Hash32, Msat};
use nexus_store::hosting::{self, Billed, Looked, NewInvoice, Origin};
use nexus_store::ledger::{self, Book, Unsound};
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
        ticks_per_day: Some(7),
    };
    assert_eq!(hosting::looked(store, &alice, look, NOW).await.unwrap().len(), 2, "standing and notice");
    let again = hosting::looked(store, &alice, look, NOW).await.unwrap_err();
    assert_eq!(again.conflict(), Some(&Conflict::Version), "what was read is not so any more");
    let row = agent::get(store, ALICE).await.unwrap().unwrap();
    assert_eq!((row.hosting, row.hosting_notice, row.ticks_per_day), (Hosting::Trial, Some(1), Some(7)));
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
        ticks_per_day: Some(1),
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

suite::suite!(
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
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0_u8..6, 1_u16..5_000).prop_map(|(n, sats)| Op::Ask(n, sats)),
        (0_u8..8, 1_u16..5_000).prop_map(|(n, sats)| Op::Paid(n, sats)),
        (0_u8..8, 1_u16..5_000).prop_map(|(n, sats)| Op::Unknown(n, sats)),
        (any::<bool>(), 0_u16..3_000).prop_map(|(alice, fee)| Op::Charge(alice, fee)),
        (any::<bool>(), 0_u8..40).prop_map(|(alice, days)| Op::Delete(alice, days)),
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
                }
                sound(store).await;
            }
        });
    }
}
