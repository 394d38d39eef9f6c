//! What a wallet service says and leaves unsaid, and what that means for money: over a real relay, with a service of our
//! own that does each of it on request.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod nwc_bench;

use std::sync::Arc;
use std::time::Duration;

use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Clock, Hash32, Msat};
use nexus_lightning::nwc::{FAILURE_MARGIN_MS, NwcWallet};
use nexus_lightning::storage::MemoryStorage;
use nexus_lightning::{
    Description, Dispatch, Driver, Invoice, InvoiceRequest, InvoiceState, Pay, PayRequest, Receive, WalletError,
    WalletStorage,
};
use nexus_testkit::AheadClock;
use nexus_testkit::nwc::{Course, Guise, Service, Wire};
use nwc_bench::{PoolLine, TestRelay, wallet};

const FUNDS_MSAT: u64 = 100_000_000;
const PAYER: usize = 0;
const PAYEE: usize = 1;

struct World {
    clock: AheadClock,
    service: Service,
    line: Arc<PoolLine>,
    storage: MemoryStorage,
    payer: NwcWallet,
    payee: NwcWallet,
    relay: Option<TestRelay>,
}

impl World {
    async fn new() -> Self {
        let clock = AheadClock::default();
        let relay = TestRelay::start(Arc::new(clock.clone())).await;
        let service = Service::start(&relay.url, Arc::new(clock.clone()), &[FUNDS_MSAT, FUNDS_MSAT, FUNDS_MSAT]).await;
        let line = PoolLine::new(Arc::new(clock.clone()));
        let storage = MemoryStorage::default();
        let payer = wallet(&service.uri(PAYER), line.clone(), Arc::new(storage.clone()), Arc::new(clock.clone()));
        let payee =
            wallet(&service.uri(PAYEE), line.clone(), Arc::new(MemoryStorage::default()), Arc::new(clock.clone()));
        Self { clock, service, line, storage, payer, payee, relay: Some(relay) }
    }

    async fn invoice(&self) -> Invoice {
        self.payee.create_invoice(InvoiceRequest::new(Msat::sats(700), "faults")).await.unwrap()
    }

    fn send(&self, invoice: &Invoice) -> Dispatch {
        Dispatch {
            payment_id: "the payment".to_owned(),
            attempt: 1,
            key: "key".to_owned(),
            bolt11: invoice.bolt11.clone(),
            amount: None,
            max_fee: Msat::sats(10),
            deadline: self.clock.mono().plus_ms(60_000),
            handle: None,
        }
    }

    fn pays(&self, course: Course, wire: Wire) {
        self.service.rule(PAYER, "pay_invoice", course, wire);
    }

    /// Event ids of the payments that the wallet heard of since the last look.
    fn payments(&self) -> Vec<String> {
        self.service.heard().into_iter().filter(|(method, _)| method == "pay_invoice").map(|(_, id)| id).collect()
    }

    async fn settled(&self, send: &Dispatch, hash: Hash32) -> Outcome {
        for _ in 0..200 {
            match self.payer.resolve(send.resolve(hash)).await {
                Outcome::Pending | Outcome::Unknown { .. } => tokio::time::sleep(Duration::from_millis(25)).await,
                certain => return certain,
            }
        }
        panic!("not certain");
    }

    async fn assert_paid_once(&self, hash: Hash32) {
        assert!(matches!(self.payee.lookup_invoice(hash).await.unwrap(), InvoiceState::Settled { .. }));
        assert_eq!(self.service.begun(hash), 1);
        assert_eq!(self.service.sum_msat(), 3 * FUNDS_MSAT);
    }
}

fn is_unknown(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unknown { .. })
}

/// Refusals that come before anything is sent are failures at once, for this attempt and for good; the next one pays.
#[tokio::test]
async fn a_clear_refusal_is_a_failure() {
    for (code, class) in [
        ("QUOTA_EXCEEDED", FailureClass::Rejected),
        ("RESTRICTED", FailureClass::Rejected),
        ("INSUFFICIENT_BALANCE", FailureClass::NoFunds),
        ("UNAUTHORIZED", FailureClass::Auth),
        ("UNSUPPORTED_ENCRYPTION", FailureClass::Protocol),
    ] {
        let world = World::new().await;
        let invoice = world.invoice().await;
        world.pays(Course::Plain, Wire::Refused(code));
        let send = world.send(&invoice);
        let failed = Outcome::Failed { class };
        assert_eq!(world.payer.dispatch(send.clone()).await, failed, "{code}");
        assert_eq!(world.payments().len(), 1);
        assert_eq!(world.payer.dispatch(send.clone()).await, failed, "{code}, repeated");
        assert_eq!(world.payer.resolve(send.resolve(invoice.hash)).await, failed);
        assert_eq!(world.payments(), Vec::<String>::new(), "a failed attempt was sent again");
        let again = world.payer.dispatch(Dispatch { attempt: 2, ..send }).await;
        assert!(matches!(again, Outcome::Settled { .. }), "{code}: {again:?}");
        world.assert_paid_once(invoice.hash).await;
    }
}

/// Every other error says nothing certain: the same event may still be published, and no other.
#[tokio::test]
async fn any_other_error_is_unknown() {
    for code in ["INTERNAL", "RATE_LIMITED", "PAYMENT_FAILED", "OTHER", "NOT_FOUND", "NOT_IMPLEMENTED", "WHATEVER"] {
        let world = World::new().await;
        let invoice = world.invoice().await;
        world.pays(Course::Plain, Wire::Refused(code));
        let send = world.send(&invoice);
        let outcome = world.payer.dispatch(send.clone()).await;
        assert!(is_unknown(&outcome), "{code}: {outcome:?}");
        assert!(is_unknown(&world.payer.resolve(send.resolve(invoice.hash)).await), "{code}");
        // It heard that event, and does not answer it again; another attempt is not made meanwhile.
        let second = world.payer.dispatch(Dispatch { attempt: 2, ..send.clone() }).await;
        assert!(is_unknown(&second), "{code}: {second:?}");
        assert!(is_unknown(&world.payer.dispatch(send.clone()).await), "{code}");
        let mut heard = world.payments();
        heard.dedup();
        assert_eq!(heard.len(), 1, "{code}: one event, however often");
        assert_eq!(world.service.begun(invoice.hash), 0);
        // Ten minutes after the invoice's expiry it is over.
        let left_ms = invoice.expires_at.plus_ms(FAILURE_MARGIN_MS).0 - world.clock.now().0;
        world.clock.advance_ms(left_ms - 5_000);
        assert!(is_unknown(&world.payer.resolve(send.resolve(invoice.hash)).await), "{code}: believed early");
        world.clock.advance_ms(6_000);
        assert_eq!(world.payer.resolve(send.resolve(invoice.hash)).await, Outcome::NotFound, "{code}");
    }
}

/// A wallet that calls a payment failed, and pays it.
#[tokio::test]
async fn failed_and_yet_paid() {
    let world = World::new().await;
    let invoice = world.invoice().await;
    world.pays(Course::CalledFailed { settles_after_ms: 1_000 }, Wire::Whole);
    let send = world.send(&invoice);
    let outcome = world.payer.dispatch(send.clone()).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    assert!(matches!(world.settled(&send, invoice.hash).await, Outcome::Settled { .. }));
    world.assert_paid_once(invoice.hash).await;
}

/// A wallet that takes a repeated event for a new one, and says INTERNAL since the invoice is paid already.
#[tokio::test]
async fn an_error_to_a_repeat_is_no_failure() {
    let world = World::new().await;
    world.service.guise(PAYER, Guise { answers_repeats: true, ..Guise::default() });
    let invoice = world.invoice().await;
    // Its answer is lost, and the two questions after it: what is published next is the same event.
    world.pays(Course::Stuck, Wire::Lost { deaf: 1 });
    let send = world.send(&invoice);
    assert!(is_unknown(&world.payer.dispatch(send.clone()).await));
    assert_eq!(world.payer.dispatch(send.clone()).await, Outcome::Pending);
    assert!(world.service.land(invoice.hash, true));
    assert!(matches!(world.payer.dispatch(send.clone()).await, Outcome::Settled { .. }));
    world.assert_paid_once(invoice.hash).await;
}

/// A refusal of a request that was published twice may answer the second copy: it is not believed.
#[tokio::test]
async fn a_refusal_of_a_repeat_is_not_believed() {
    let world = World::new().await;
    world.service.guise(PAYER, Guise { answers_repeats: true, ..Guise::default() });
    let invoice = world.invoice().await;
    world.pays(Course::Plain, Wire::Dropped);
    let send = world.send(&invoice);
    assert!(is_unknown(&world.payer.dispatch(send.clone()).await));
    world.pays(Course::Plain, Wire::Refused("INSUFFICIENT_BALANCE"));
    let outcome = world.payer.dispatch(send.clone()).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    assert!(matches!(world.payer.dispatch(send).await, Outcome::Settled { .. }));
    world.assert_paid_once(invoice.hash).await;
}

/// Garbage and a weaker encryption are no answers; looking tells what was done.
#[tokio::test]
async fn unreadable_answers_are_looked_up() {
    for wire in [Wire::Garbled, Wire::Weaker, Wire::Late { ms: 4_000 }] {
        let world = World::new().await;
        let invoice = world.invoice().await;
        world.pays(Course::Plain, wire);
        let outcome = world.payer.dispatch(world.send(&invoice)).await;
        assert!(matches!(outcome, Outcome::Settled { .. }), "{wire:?}: {outcome:?}");
        world.assert_paid_once(invoice.hash).await;
        world.service.rule(PAYER, "get_balance", Course::Plain, wire);
        assert!(matches!(world.payer.balance().await, Err(WalletError::Unreachable(_))), "{wire:?}");
    }
}

/// A wallet that only knows NIP-04, tells nothing by itself and names no network.
#[tokio::test]
async fn an_old_wallet_pays_and_is_paid() {
    let world = World::new().await;
    let old = Guise { network: None, modern: false, tells: false, ..Guise::default() };
    world.service.guise(PAYER, old.clone());
    world.service.guise(PAYEE, old);
    world.service.restart().await;
    let invoice = world.invoice().await;
    let mut told = world.payee.settlements(invoice.cursor);
    assert!(matches!(world.payer.dispatch(world.send(&invoice)).await, Outcome::Settled { .. }));
    let told = tokio::time::timeout(Duration::from_secs(20), futures::StreamExt::next(&mut told)).await;
    assert_eq!(told.unwrap().unwrap().unwrap().hash, invoice.hash);
    world.assert_paid_once(invoice.hash).await;
}

/// A wallet on another network, a connection that may not look, and no relay at all: nothing is sent.
#[tokio::test]
async fn what_cannot_pay_is_refused_before() {
    let mut world = World::new().await;
    let invoice = world.invoice().await;
    let refused = Outcome::Failed { class: FailureClass::Refused };
    world.service.guise(PAYER, Guise { network: Some("mainnet"), ..Guise::default() });
    assert_eq!(world.payer.dispatch(world.send(&invoice)).await, refused);
    assert!(matches!(world.payer.health().await, Err(WalletError::Refused(why)) if why.contains("bitcoin")));
    world.service.guise(PAYER, Guise { methods: vec!["pay_invoice", "get_balance"], ..Guise::default() });
    world.service.restart().await;
    let request = || PayRequest { bolt11: invoice.bolt11.clone(), amount: None };
    let error = world.payer.quote(request()).await.unwrap_err();
    assert!(error.to_string().contains("lookup_invoice"), "{error}");
    assert_eq!(world.payer.dispatch(world.send(&invoice)).await, refused);
    assert_eq!(world.payments(), Vec::<String>::new());
    world.relay.take();
    world.service.stop().await;
    let outcome = world.payer.dispatch(world.send(&invoice)).await;
    assert!(is_unknown(&outcome) || outcome == refused, "{outcome:?}");
}

/// Over another connection the wallet may not see a payment: its "no" is no word about it.
#[tokio::test]
async fn another_connection_does_not_end_a_payment() {
    let world = World::new().await;
    let invoice = world.invoice().await;
    world.pays(Course::Stuck, Wire::Lost { deaf: 1 });
    let send = world.send(&invoice);
    assert!(is_unknown(&world.payer.dispatch(send.clone()).await));
    let storage = Arc::new(world.storage.clone());
    let other = wallet(&world.service.uri(2), world.line.clone(), storage, Arc::new(world.clock.clone()));
    let outcome = other.dispatch(send.clone()).await;
    assert!(matches!(&outcome, Outcome::Unknown { why } if why.contains("another connection")), "{outcome:?}");
    let left_ms = invoice.expires_at.plus_ms(2 * FAILURE_MARGIN_MS).0 - world.clock.now().0;
    world.clock.advance_ms(left_ms);
    assert!(is_unknown(&other.resolve(send.resolve(invoice.hash)).await));
    assert!(world.service.land(invoice.hash, true));
    assert!(matches!(world.payer.resolve(send.resolve(invoice.hash)).await, Outcome::Settled { .. }));
}

/// The request is not heeded after the deadline, whatever delays it.
#[tokio::test]
async fn a_late_copy_is_not_heeded() {
    let world = World::new().await;
    let invoice = world.invoice().await;
    world.pays(Course::Plain, Wire::Dropped);
    let send = Dispatch { deadline: world.clock.mono().plus_ms(4_500), ..world.send(&invoice) };
    assert!(is_unknown(&world.payer.dispatch(send.clone()).await));
    // After its time it is not published again, however late the caller's next deadline is.
    world.clock.advance_ms(10_000);
    let outcome = world.payer.dispatch(Dispatch { deadline: world.clock.mono().plus_ms(60_000), ..send }).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    assert_eq!(world.payments(), Vec::<String>::new());
    assert_eq!(world.service.begun(invoice.hash), 0);
}

/// Invoices that nobody follows do not pile up.
#[tokio::test]
async fn what_is_long_over_is_forgotten() {
    let world = World::new().await;
    let request = || InvoiceRequest { expiry_s: 1, ..InvoiceRequest::new(Msat::sats(1), "soon over") };
    for _ in 0..5 {
        world.payer.create_invoice(request()).await.unwrap();
    }
    assert_eq!(world.storage.list("nwc.invoice").await.unwrap().len(), 5);
    world.clock.advance_ms(3_700_000);
    world.payer.create_invoice(request()).await.unwrap();
    assert_eq!(world.storage.list("nwc.invoice").await.unwrap().len(), 1);
}

/// An invoice that commits to a text told elsewhere, and what a driver does not take.
#[tokio::test]
async fn invoices_are_what_was_asked_for() {
    let world = World::new().await;
    let text = Hash32::sha256(b"told elsewhere");
    let mut request = InvoiceRequest::new(Msat::new(5_001), "");
    request.description = Description::Hash(text);
    let invoice = world.payee.create_invoice(request).await.unwrap();
    let read = nexus_lightning::decode_bolt11(&invoice.bolt11).unwrap();
    assert_eq!((read.description_hash, read.amount), (Some(text), Some(Msat::new(5_001))));
    for request in [
        InvoiceRequest::new(Msat::ZERO, "nothing"),
        InvoiceRequest::new(Msat::sats(1), "x".repeat(640)),
        InvoiceRequest { expiry_s: 0, ..InvoiceRequest::new(Msat::sats(1), "now") },
    ] {
        assert!(matches!(world.payee.create_invoice(request).await, Err(WalletError::Refused(_))));
    }
}
