//! Agents' accounts at the operator's node: each fact is booked once, nobody spends what is not theirs, and the books are
//! always sound.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, BOB, Kind, NOW, World, account_id, audit, new_payment, sql};
use futures_util::future::join_all;
use nexus_core::payment::PaymentState::{self, Dispatched, Failed, Reserved};
use nexus_core::{Hash32, Msat, Npub};
use nexus_store::hosting::{self, NewInvoice as NewHosting, Origin};
use nexus_store::invoice_watch::{self, InvoiceWatch};
use nexus_store::ledger;
use nexus_store::side::PaymentMove;
use nexus_store::sub_account::{self as books, Account, Book, Caps, Held, NewHold, NewInvoice, Payee, State, Unsound};
use nexus_store::{Conflict, Fence, Side, Store, agent, journal};
use proptest::prelude::*;

const NODE: &str = "02aa";
const CAPS: Caps = Caps { agent: Msat::sats(10_000), total: Msat::sats(15_000), open: 5 };

fn hash(n: u8) -> Hash32 {
    Hash32::from_bytes([n; 32])
}

fn proof(n: u8) -> Hash32 {
    Hash32::from_bytes([n, 1].repeat(16).try_into().unwrap())
}

fn asked(n: u8, npub: Npub, sats: u64) -> NewInvoice {
    NewInvoice {
        node: NODE.into(),
        hash: hash(n),
        npub,
        amount: Msat::sats(sats),
        sealed_preimage: vec![n],
        created_at: NOW,
        expires_at: NOW.plus_ms(600_000),
    }
}

async fn ask(store: &Store, n: u8, npub: Npub, sats: u64) -> nexus_store::Result<()> {
    books::put_invoice(store, asked(n, npub, sats), CAPS, None).await
}

async fn fund(store: &Store, n: u8, npub: Npub, sats: u64) {
    ask(store, n, npub, sats).await.unwrap();
    assert!(books::received(store, hash(n), Msat::sats(sats), Some(proof(n)), NOW).await.unwrap());
}

fn payment(n: u8, npub: Npub, sats: u64, payee: Payee) -> NewHold {
    NewHold {
        node: NODE.into(),
        hash: hash(n),
        npub,
        payment_id: format!("job:{n}"),
        attempt: 1,
        amount: Msat::sats(sats),
        max_fee: if payee == Payee::Outside { Msat::sats(10) } else { Msat::ZERO },
        payee,
        at: NOW,
    }
}

async fn hold(world: &World, new: &NewHold) -> nexus_store::Result<Held> {
    books::hold(&world.store, world.fence, world.generation, new).await
}

async fn has(store: &Store, npub: Npub) -> (u64, u64) {
    let Account { available, held } = books::account(store, NODE, npub).await.unwrap();
    (available.as_u64(), held.as_u64())
}

async fn stored(store: &Store, n: u8) -> books::Payment {
    books::payment(store, NODE, hash(n)).await.unwrap().unwrap()
}

async fn sound(store: &Store) {
    assert_eq!(books::unsound(store).await.unwrap(), Unsound::default());
}

async fn money_is_credited_once(world: World) {
    let store = &world.store;
    ask(store, 1, ALICE, 1_000).await.unwrap();
    let watch = InvoiceWatch { hash: hash(1), made_at: NOW, until: NOW.plus_ms(660_000), zap: None };
    books::made(store, ALICE, "lnbcrt1", NOW.plus_ms(600_000), watch).await.unwrap();
    // It comes late, is more than was asked, and twenty see it at once.
    books::look_later(store, hash(1), true, None).await.unwrap();
    invoice_watch::end(store, world.fence, ALICE, world.generation, [hash(1)], &[], NOW).await.unwrap();
    let (came, late) = (Msat::sats(1_500), NOW.plus_ms(7_200_000));
    let all = join_all((0..20).map(|_| books::received(store, hash(1), came, Some(proof(1)), late))).await;
    assert_eq!(all.into_iter().filter(|credited| *credited.as_ref().unwrap()).count(), 1);
    assert_eq!(has(store, ALICE).await, (1_500_000, 0));
    let invoice = books::invoice(store, hash(1)).await.unwrap().unwrap();
    assert_eq!((&*invoice.state, invoice.paid, invoice.preimage), ("paid", Some(came), Some(proof(1))));
    books::look_later(store, hash(1), true, None).await.unwrap();
    assert_eq!(books::invoice(store, hash(1)).await.unwrap().unwrap().state, "paid", "paid stays paid");
    assert!(books::to_look_at(store, NODE, NOW.plus_ms(i64::MAX / 2), 9).await.unwrap().is_empty());
    // Its worker looks for it again.
    assert_eq!(invoice_watch::open(store, ALICE, late).await.unwrap().len(), 1);

    let unknown = books::received(store, hash(2), came, None, NOW).await.unwrap_err();
    assert_eq!(unknown.conflict(), Some(&Conflict::NotFound));
    assert!(books::unexplained(store, NODE, hash(2), came, NOW).await.unwrap());
    assert!(!books::unexplained(store, NODE, hash(2), came, NOW).await.unwrap());
    assert_eq!(books::balance(store, NODE, Book::Suspense).await.unwrap(), -1_500_000);
    assert_eq!(books::balance(store, NODE, Book::Lightning).await.unwrap(), 3_000_000);
    assert_eq!(books::received_since(store, NODE, NOW, None, 9).await.unwrap().len(), 1);
    sound(store).await;
}

async fn caps_hold_for_new_invoices(world: World) {
    let store = &world.store;
    // Twenty at once for 1,000 of 10,000; five may be open.
    let all = join_all((1..=20).map(|n| ask(store, n, ALICE, 1_000))).await;
    assert_eq!(all.iter().filter(|asked| asked.is_ok()).count(), 5);
    let refused = all.iter().filter_map(|asked| asked.as_ref().err()?.conflict());
    assert!(refused.into_iter().all(|conflict| *conflict == Conflict::TooMany));
    for (n, asked) in (1..=20).zip(&all) {
        if asked.is_ok() {
            books::received(store, hash(n), Msat::sats(1_900), None, NOW).await.unwrap();
        }
    }
    // More came than was asked: it is there, and there is room for 500 more.
    assert_eq!(has(store, ALICE).await.0, 9_500_000);
    let over = ask(store, 30, ALICE, 501).await.unwrap_err();
    assert_eq!(over.conflict(), Some(&Conflict::SubCap));
    // What a payment holds counts too.
    hold(&world, &payment(99, ALICE, 9_000, Payee::Outside)).await.unwrap();
    assert_eq!(ask(store, 30, ALICE, 501).await.unwrap_err().conflict(), Some(&Conflict::SubCap));
    ask(store, 30, ALICE, 500).await.unwrap();
    // All together: 15,000, of which 10,000 are taken.
    let bobs = join_all((40..50).map(|n| ask(store, n, BOB, 1_500))).await;
    assert_eq!(bobs.iter().filter(|asked| asked.is_ok()).count(), 3);
    let total = bobs.iter().filter(|it| it.as_ref().err().and_then(|e| e.conflict()) == Some(&Conflict::SubTotal));
    assert_eq!(total.count(), 7);
    // What expired makes room.
    books::look_later(store, hash(30), true, None).await.unwrap();
    ask(store, 60, BOB, 500).await.unwrap();
    let nobody = ask(store, 61, Npub::from_bytes([7; 32]), 1).await.unwrap_err();
    assert_eq!(nobody.conflict(), Some(&Conflict::NoAgent));
    sound(store).await;
}

async fn fifty_holds_at_once_never_take_more_than_there_is(world: World) {
    let store = &world.store;
    fund(store, 200, ALICE, 1_000).await;
    let holds: Vec<NewHold> = (1..=50).map(|n| payment(n, ALICE, 90, Payee::Outside)).collect();
    let all = join_all(holds.iter().map(|new| hold(&world, new))).await;
    assert_eq!(all.iter().filter(|held| matches!(held, Ok(Held::New))).count(), 10);
    assert!(all.iter().filter_map(|held| held.as_ref().err()).all(|e| e.conflict() == Some(&Conflict::SubFunds)));
    assert_eq!(has(store, ALICE).await, (0, 1_000_000));
    sound(store).await;

    // The same attempt by many is one hold, and each end of it one entry.
    fund(store, 201, BOB, 500).await;
    let one = payment(100, BOB, 100, Payee::Outside);
    let same = join_all((0..20).map(|_| hold(&world, &one))).await;
    assert_eq!(same.iter().filter(|held| matches!(held, Ok(Held::New))).count(), 1);
    assert!(same.iter().all(|held| matches!(held, Ok(Held::New | Held::Again))));
    let held = stored(store, 100).await;
    let (fee, at) = (Msat::new(1_234), NOW.plus_ms(1));
    let settle = || books::settle(store, world.fence, world.generation, &held, fee, Some(proof(100)), at);
    let ends = join_all((0..20).map(|_| settle())).await;
    assert_eq!(ends.iter().filter(|end| *end.as_ref().unwrap()).count(), 1);
    assert!(!books::release(store, world.fence, world.generation, &held, at).await.unwrap(), "it is paid");
    assert_eq!(has(store, BOB).await, (398_766, 0));
    assert!(matches!(hold(&world, &one).await.unwrap(), Held::Over(over) if over.state == State::Settled));
    sound(store).await;
}

async fn one_payment_of_a_hash_whoever_pays(world: World) {
    let store = &world.store;
    fund(store, 200, ALICE, 1_000).await;
    fund(store, 201, BOB, 1_000).await;
    let (alices, bobs) = (payment(1, ALICE, 100, Payee::Outside), payment(1, BOB, 100, Payee::Outside));
    let both = futures_util::future::join(hold(&world, &alices), hold(&world, &bobs)).await;
    let both = [both.0.unwrap(), both.1.unwrap()];
    assert!(both.contains(&Held::New) && both.contains(&Held::Taken), "{both:?}");
    let mine = stored(store, 1).await;
    let (first, second) = if mine.npub == ALICE { (alices, bobs) } else { (bobs, alices) };
    let other = NewHold { payment_id: "job:other".into(), ..first.clone() };
    assert_eq!(hold(&world, &other).await.unwrap(), Held::Taken, "also for another step of the same agent");
    // After it failed the other may, and the first attempt stays over.
    assert!(books::release(store, world.fence, world.generation, &mine, NOW).await.unwrap());
    assert!(matches!(hold(&world, &first).await.unwrap(), Held::Over(over) if over.state == State::Failed));
    assert_eq!(hold(&world, &second).await.unwrap(), Held::New);
    assert_eq!(hold(&world, &first).await.unwrap(), Held::Taken);
    assert_eq!(hold(&world, &NewHold { attempt: 2, ..first }).await.unwrap(), Held::Taken);
    sound(store).await;
}

async fn a_replaced_worker_holds_and_ends_nothing(world: World) {
    let store = &world.store;
    fund(store, 200, ALICE, 1_000).await;
    hold(&world, &payment(1, ALICE, 100, Payee::Outside)).await.unwrap();
    let held = stored(store, 1).await;
    let before = has(store, ALICE).await;
    let stale = Fence { incarnation: world.fence.incarnation - 1, ..world.fence };
    for (fence, generation) in [(stale, world.generation), (world.fence, nexus_core::Generation(0))] {
        let late = books::hold(store, fence, generation, &payment(2, ALICE, 1, Payee::Outside)).await;
        assert!(late.unwrap_err().is_stale());
        assert!(books::release(store, fence, generation, &held, NOW).await.unwrap_err().is_stale());
        assert!(books::settle(store, fence, generation, &held, Msat::ZERO, None, NOW).await.unwrap_err().is_stale());
    }
    assert_eq!(has(store, ALICE).await, before);
    sound(store).await;
}

async fn step(world: &World, n: u8, from: PaymentState, to: PaymentState) {
    let change = PaymentMove { hash: hash(n), from, to, at: NOW, fee: None, preimage: None, note: None };
    journal::apply(&world.store, world.fence, ALICE, world.generation, NOW, vec![Side::Payment(change)]).await.unwrap();
}

async fn holds_follow_the_payment_machine(world: World) {
    let store = &world.store;
    fund(store, 200, ALICE, 1_000).await;
    let new = vec![Side::InsertPayment(new_payment(1, "job:1"))];
    journal::apply(store, world.fence, ALICE, world.generation, NOW, new).await.unwrap();
    step(&world, 1, Reserved, Dispatched).await;
    hold(&world, &payment(1, ALICE, 100, Payee::Outside)).await.unwrap();
    let over = || books::ended_elsewhere(store, NODE, ALICE);
    assert!(over().await.unwrap().is_empty(), "it may have left");
    step(&world, 1, Dispatched, PaymentState::Unknown).await;
    assert!(over().await.unwrap().is_empty(), "unknown is not failed");
    step(&world, 1, PaymentState::Unknown, Failed).await;
    assert_eq!(over().await.unwrap(), [stored(store, 1).await]);
    step(&world, 1, Failed, Reserved).await;
    assert_eq!(over().await.unwrap().len(), 1, "the next attempt is reserved, so this one is over");
    assert!(books::release(store, world.fence, world.generation, &stored(store, 1).await, NOW).await.unwrap());
    assert!(over().await.unwrap().is_empty());
    let next = NewHold { attempt: 2, ..payment(1, ALICE, 100, Payee::Outside) };
    assert_eq!(hold(&world, &next).await.unwrap(), Held::New);
    assert!(over().await.unwrap().is_empty());
    sound(store).await;
}

async fn a_payment_within_the_node_is_booked_once_on_both_sides(world: World) {
    let store = &world.store;
    fund(store, 200, ALICE, 1_000).await;
    ask(store, 1, BOB, 300).await.unwrap();
    assert_eq!(books::payee(store, NODE, hash(1)).await.unwrap(), Some((Payee::Agent, Msat::sats(300))));
    assert_eq!(books::payee(store, "03bb", hash(1)).await.unwrap(), None, "another node's");
    hold(&world, &payment(1, ALICE, 300, Payee::Agent)).await.unwrap();
    let held = books::inside(store, NODE, 9).await.unwrap().pop().unwrap();
    let all = join_all((0..20).map(|_| books::pay_inside(store, &held, proof(1), NOW))).await;
    assert_eq!(all.iter().filter(|booked| *booked.as_ref().unwrap()).count(), 1);
    assert_eq!((has(store, ALICE).await, has(store, BOB).await), ((700_000, 0), (300_000, 0)));
    let done = stored(store, 1).await;
    assert_eq!((done.state, done.preimage, done.fee), (State::Settled, Some(proof(1)), Msat::ZERO));
    // The node says nothing of it, and if it did it would not count again.
    assert!(!books::received(store, hash(1), Msat::sats(300), None, NOW).await.unwrap());
    assert!(!books::refuse_inside(store, &held, NOW).await.unwrap());
    assert!(books::inside(store, NODE, 9).await.unwrap().is_empty());
    assert_eq!(books::balance(store, NODE, Book::Lightning).await.unwrap(), 1_000_000, "nothing left the node");

    // Paid from outside first: the payer has its own back.
    ask(store, 2, BOB, 50).await.unwrap();
    hold(&world, &payment(2, ALICE, 50, Payee::Agent)).await.unwrap();
    let held = stored(store, 2).await;
    assert!(books::received(store, hash(2), Msat::sats(50), None, NOW).await.unwrap());
    assert!(!books::pay_inside(store, &held, proof(2), NOW).await.unwrap());
    assert_eq!(stored(store, 2).await.state, State::Held);
    assert!(books::refuse_inside(store, &held, NOW).await.unwrap());
    assert_eq!((has(store, ALICE).await, has(store, BOB).await), ((700_000, 0), (350_000, 0)));
    sound(store).await;
}

async fn hosting_at_the_same_node_is_paid_within_it(world: World) {
    let store = &world.store;
    fund(store, 200, ALICE, 1_000).await;
    let invoice = NewHosting {
        hash: hash(1),
        account: account_id(),
        amount: Msat::sats(400),
        memo: "Hosting".into(),
        origin: Origin::Account,
        sealed_preimage: vec![1],
        created_at: NOW,
        expires_at: NOW.plus_ms(3_600_000),
    };
    hosting::put_invoice(store, invoice).await.unwrap();
    assert_eq!(books::payee(store, NODE, hash(1)).await.unwrap(), Some((Payee::Hosting, Msat::sats(400))));
    hold(&world, &payment(1, ALICE, 400, Payee::Hosting)).await.unwrap();
    let held = stored(store, 1).await;
    let all = join_all((0..9).map(|_| books::pay_inside(store, &held, proof(1), NOW))).await;
    assert_eq!(all.iter().filter(|booked| *booked.as_ref().unwrap()).count(), 1);
    assert_eq!(has(store, ALICE).await, (600_000, 0));
    assert_eq!(hosting::credit(store, account_id()).await.unwrap().0, Msat::sats(400));
    // What was the agents' part of the node is hosting's now.
    assert_eq!(books::balance(store, NODE, Book::Lightning).await.unwrap(), 600_000);
    assert_eq!(ledger::balance(store, ledger::Book::Lightning).await.unwrap(), 400_000);
    assert_eq!(ledger::unsound(store).await.unwrap(), ledger::Unsound::default());
    assert!(!hosting::paid(store, hash(1), Msat::sats(400), NOW).await.unwrap(), "credited once");
    sound(store).await;
}

async fn what_an_agent_has_outlives_it_unless_given_up(world: World) {
    let store = &world.store;
    fund(store, 200, ALICE, 1_000).await;
    let refused = agent::delete(store, ALICE, false, audit("agent.delete")).await.unwrap_err();
    assert_eq!(refused.conflict(), Some(&Conflict::SubRemains));
    hold(&world, &payment(1, ALICE, 100, Payee::Outside)).await.unwrap();
    agent::delete(store, ALICE, true, audit("agent.delete")).await.unwrap();
    assert_eq!(has(store, ALICE).await, (0, 110_000), "what may be on its way stays held");
    assert_eq!(books::balance(store, NODE, Book::Suspense).await.unwrap(), -890_000);
    // Late money for it is its own still.
    ask(store, 2, BOB, 5).await.unwrap();
    agent::delete(store, BOB, false, audit("agent.delete")).await.unwrap();
    assert!(books::received(store, hash(2), Msat::sats(5), None, NOW).await.unwrap());
    assert_eq!(has(store, BOB).await, (5_000, 0));
    sound(store).await;
}

async fn an_audit_finds_what_does_not_fit(world: World) {
    let store = &world.store;
    fund(store, 200, ALICE, 1_000).await;
    hold(&world, &payment(1, ALICE, 100, Payee::Outside)).await.unwrap();
    sql(&world, "UPDATE sub_account SET available_msat = available_msat + 1; SELECT 1");
    assert_eq!(books::unsound(store).await.unwrap(), Unsound { accounts: 1, ..Unsound::default() });
    sql(&world, "UPDATE sub_account SET available_msat = available_msat - 1; SELECT 1");
    sql(&world, "UPDATE sub_line SET amount_msat = amount_msat + 5 WHERE book = 'lightning'; SELECT 1");
    assert_eq!(books::unsound(store).await.unwrap(), Unsound { entries: 1, ..Unsound::default() });
    sql(&world, "UPDATE sub_line SET amount_msat = amount_msat - 5 WHERE book = 'lightning'; SELECT 1");
    sql(&world, "UPDATE sub_payment SET hold_msat = hold_msat + 1; SELECT 1");
    assert_eq!(books::unsound(store).await.unwrap(), Unsound { holds: 1, ..Unsound::default() });
}

suite::suite!(
    money_is_credited_once,
    caps_hold_for_new_invoices,
    fifty_holds_at_once_never_take_more_than_there_is,
    one_payment_of_a_hash_whoever_pays,
    a_replaced_worker_holds_and_ends_nothing,
    holds_follow_the_payment_machine,
    a_payment_within_the_node_is_booked_once_on_both_sides,
    hosting_at_the_same_node_is_paid_within_it,
    what_an_agent_has_outlives_it_unless_given_up,
    an_audit_finds_what_does_not_fit,
);

#[derive(Debug, Clone, Copy)]
enum Op {
    Ask(u8, bool, u16),
    Expired(u8),
    Received(u8, u16),
    Unknown(u8, u16),
    Hold(u8, bool, u16, u8),
    Settle(u8, u16),
    Release(u8),
    Inside(u8),
    Refuse(u8),
    Delete(bool, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let n = || 0_u8..8;
    prop_oneof![
        (n(), any::<bool>(), 1_u16..3_000).prop_map(|(n, alice, sats)| Op::Ask(n, alice, sats)),
        n().prop_map(Op::Expired),
        (n(), 1_u16..4_000).prop_map(|(n, sats)| Op::Received(n, sats)),
        (n(), 1_u16..4_000).prop_map(|(n, sats)| Op::Unknown(n, sats)),
        (n(), any::<bool>(), 1_u16..3_000, 1_u8..3).prop_map(|(n, alice, sats, try_)| Op::Hold(n, alice, sats, try_)),
        (n(), 0_u16..40).prop_map(|(n, fee)| Op::Settle(n, fee)),
        n().prop_map(Op::Release),
        n().prop_map(Op::Inside),
        n().prop_map(Op::Refuse),
        (any::<bool>(), any::<bool>()).prop_map(|(alice, forfeit)| Op::Delete(alice, forfeit)),
    ]
}

/// What came to the node and what left it, as the test saw it.
#[derive(Default)]
struct Seen {
    came_msat: i64,
    left_msat: i64,
}

async fn perform(world: &World, seen: &mut Seen, op: Op) {
    let store = &world.store;
    let who = |alice: bool| if alice { ALICE } else { BOB };
    let (fence, generation) = (world.fence, world.generation);
    match op {
        Op::Ask(n, alice, sats) => drop(ask(store, n, who(alice), u64::from(sats)).await),
        Op::Expired(n) => books::look_later(store, hash(n), true, None).await.unwrap(),
        Op::Received(n, sats) => {
            let came = Msat::sats(u64::from(sats));
            if books::received(store, hash(n), came, None, NOW).await.unwrap_or(false) {
                seen.came_msat += came.as_i64();
            }
        }
        Op::Unknown(n, sats) => {
            let came = Msat::sats(u64::from(sats));
            if books::invoice(store, hash(n)).await.unwrap().is_none()
                && books::unexplained(store, NODE, hash(n), came, NOW).await.unwrap()
            {
                seen.came_msat += came.as_i64();
            }
        }
        Op::Hold(n, alice, sats, attempt) => {
            let found = books::payee(store, NODE, hash(n)).await.unwrap();
            let (payee, sats) = found.map_or((Payee::Outside, u64::from(sats)), |(it, msat)| (it, msat.whole_sats()));
            let new = NewHold { attempt: u32::from(attempt), ..payment(n, who(alice), sats, payee) };
            drop(hold(world, &new).await);
        }
        Op::Settle(n, fee) => {
            let Some(held) = books::payment(store, NODE, hash(n)).await.unwrap() else { return };
            let fee = Msat::sats(u64::from(fee));
            if books::settle(store, fence, generation, &held, fee, None, NOW).await.unwrap_or(false) {
                seen.left_msat += held.amount.as_i64() + fee.as_i64();
            }
        }
        Op::Release(n) => {
            let Some(held) = books::payment(store, NODE, hash(n)).await.unwrap() else { return };
            drop(books::release(store, fence, generation, &held, NOW).await);
        }
        Op::Inside(n) => {
            let Some(held) = books::payment(store, NODE, hash(n)).await.unwrap() else { return };
            drop(books::pay_inside(store, &held, proof(n), NOW).await);
        }
        Op::Refuse(n) => {
            let Some(held) = books::payment(store, NODE, hash(n)).await.unwrap() else { return };
            drop(books::refuse_inside(store, &held, NOW).await);
        }
        Op::Delete(alice, forfeit) => drop(agent::delete(store, who(alice), forfeit, audit("delete")).await),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: every entry sums to zero, no account is negative, each is what its lines and its
    /// open payments say, and what the node should have is what came less what left.
    #[test]
    fn the_books_are_sound_whatever_happens(ops in prop::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new(Kind::Inline).await;
            let mut seen = Seen::default();
            for op in ops {
                perform(&world, &mut seen, op).await;
                sound(&world.store).await;
                let lightning = books::balance(&world.store, NODE, Book::Lightning).await.unwrap();
                assert_eq!(lightning, seen.came_msat - seen.left_msat, "{op:?}");
                let all = books::sum(&world.store, NODE).await.unwrap();
                let owed = all.available.as_i64() + all.held.as_i64();
                let apart = books::balance(&world.store, NODE, Book::Suspense).await.unwrap();
                let lost = books::balance(&world.store, NODE, Book::Fees).await.unwrap();
                assert_eq!(lightning + lost + apart, owed, "{op:?}");
            }
        });
    }
}
