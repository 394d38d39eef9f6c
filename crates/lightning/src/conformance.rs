//! The suite that every payment driver has to pass, whatever backend is behind it. For tests: its functions panic.
//!
//! A backend is brought in as a [`Bench`]: two accounts, a way to kill and revive it, and, where it can be made to, a way
//! to go wrong on request. Each function is a test of its own; [`all`] runs them one after another.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Clock, Hash32, Msat, UnixMs};

use crate::driver::{
    Cursor, Dispatch, Idempotency, Invoice, InvoiceRequest, InvoiceState, PayRequest, Preimage, PreimageProof,
    WalletDriver,
};

/// An invoice for the main network, from BOLT 11's own examples: every test backend has to refuse it.
pub const MAINNET_INVOICE: &str = "lnbc2500u1pvjluezpp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpusp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygs9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";

/// What goes wrong with the next payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is paid, but the answer is lost.
    Lost,
    /// The answer is lost; soon after (at most 300 ms) it fails for certain.
    LostThenFails,
    /// The request is lost: the backend never hears of it.
    Dropped,
    /// It stays in flight until [`Bench::land`].
    Stuck,
    /// It settles, but only after 200 ms.
    Slow,
}

/// A backend under test. It is alone with its two accounts, the payer has at least 100,000 sats.
pub trait Bench: Send + Sync {
    /// A fresh handle on the paying account, such as a restarted process would have.
    fn payer(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>>;

    fn payee(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>>;

    /// The clock that the handles were made with.
    fn clock(&self) -> Arc<dyn Clock>;

    /// The backend dies and comes back with what it made durable.
    fn restart(&self) -> BoxFuture<'_, ()>;

    /// Asks for a fault; false if this backend cannot be made to.
    fn script(&self, next: Next) -> BoxFuture<'_, bool>;

    /// Ends a payment that is stuck.
    fn land(&self, hash: Hash32, settle: bool) -> BoxFuture<'_, ()>;

    /// Whether both accounts are at one backend, which then knows of a hash that the other uses.
    fn one_backend(&self) -> bool {
        true
    }

    /// Whether an invoice can be made of the caller's own preimage.
    fn own_preimages(&self) -> bool {
        true
    }

    /// Whether a backend's "no" is believed only long after the invoice's expiry; until then such a payment is unknown.
    fn believes_late(&self) -> bool {
        false
    }

    /// Lets that time pass, where it has to.
    fn pass_expiry(&self, _expires_at: UnixMs) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Whether a payment between the two costs a fee that can be limited, however small.
    fn takes_fees(&self) -> bool {
        true
    }
}

/// A test's world: one invoice, and the balances before.
struct Case {
    clock: Arc<dyn Clock>,
    payer: Arc<dyn WalletDriver>,
    payee: Arc<dyn WalletDriver>,
    before: (Msat, Msat),
    invoice: Invoice,
    send: Dispatch,
}

const AMOUNT: Msat = Msat::sats(321);

impl Case {
    async fn new(bench: &dyn Bench) -> Self {
        Self::expiring(bench, 3_600).await
    }

    async fn expiring(bench: &dyn Bench, expiry_s: u32) -> Self {
        let (payer, payee) = (bench.payer().await, bench.payee().await);
        let before = (payer.balance().await.unwrap(), payee.balance().await.unwrap());
        let request = InvoiceRequest { expiry_s, ..InvoiceRequest::new(AMOUNT, "conformance") };
        let invoice = payee.create_invoice(request).await.unwrap();
        let send = send_of(bench, &*payer, &invoice).await;
        Self { clock: bench.clock(), payer, payee, before, invoice, send }
    }

    /// A deadline far enough for a slow machine.
    fn in_time(&self) -> Dispatch {
        Dispatch { deadline: self.clock.mono().plus_ms(60_000), ..self.send.clone() }
    }

    async fn dispatch(&self) -> Outcome {
        self.payer.dispatch(self.in_time()).await
    }

    async fn resolve(&self) -> Outcome {
        self.payer.resolve(self.send.resolve(self.invoice.hash)).await
    }

    /// Asks until the backend knows for certain.
    async fn certain(&self) -> Outcome {
        let mut last = None;
        for _ in 0..200 {
            match self.resolve().await {
                uncertain @ (Outcome::Pending | Outcome::Unknown { .. }) => {
                    last = Some(uncertain);
                    tokio::time::sleep(Duration::from_millis(25)).await;
                }
                certain => return certain,
            }
        }
        panic!("still not certain after five seconds: {last:?}");
    }

    /// The payer has paid exactly once and the payee was paid exactly that.
    async fn assert_paid_once(&self, outcome: &Outcome) {
        let Outcome::Settled { preimage, fee } = outcome else { panic!("expected settled, not {outcome:?}") };
        match (preimage, self.payer.capabilities().preimage) {
            (Some(preimage), _) => assert_eq!(Hash32::sha256(preimage.as_bytes()), self.invoice.hash),
            (None, PreimageProof::Maybe) => {}
            (None, PreimageProof::Always) => panic!("settled without its preimage"),
        }
        assert!(*fee <= self.send.max_fee, "{fee:?} is over {:?}", self.send.max_fee);
        let cost = AMOUNT.checked_add(*fee).unwrap();
        assert_eq!(self.payer.balance().await.unwrap(), self.before.0.checked_sub(cost).unwrap(), "payer");
        assert_eq!(self.payee.balance().await.unwrap(), self.before.1.checked_add(AMOUNT).unwrap(), "payee");
        let state = self.payee.lookup_invoice(self.invoice.hash).await.unwrap();
        assert!(matches!(state, InvoiceState::Settled { amount: AMOUNT, .. }), "{state:?}");
    }

    async fn assert_nothing_moved(&self) {
        assert_eq!(self.payer.balance().await.unwrap(), self.before.0, "payer");
        assert_eq!(self.payee.balance().await.unwrap(), self.before.1, "payee");
    }

    /// What recovery does, with the handle of a new process: looks first, and repeats the identical send only where
    /// nothing is known of it.
    async fn recover(&mut self, bench: &dyn Bench) -> Outcome {
        self.payer = bench.payer().await;
        self.payee = bench.payee().await;
        self.payer.recover().await.unwrap();
        if bench.believes_late() {
            return self.recover_late().await;
        }
        match self.certain().await {
            Outcome::NotFound if self.payer.capabilities().idempotency != Idempotency::None => {
                match self.dispatch().await {
                    Outcome::Unknown { .. } | Outcome::Pending => self.certain().await,
                    certain => certain,
                }
            }
            certain => certain,
        }
    }

    /// As a worker does where a "no" is not believed yet: the identical send is repeated while it is good.
    async fn recover_late(&self) -> Outcome {
        for _ in 0..200 {
            match self.resolve().await {
                Outcome::Pending => tokio::time::sleep(Duration::from_millis(25)).await,
                Outcome::Unknown { .. } | Outcome::NotFound => match self.dispatch().await {
                    Outcome::Unknown { .. } | Outcome::Pending => tokio::time::sleep(Duration::from_millis(25)).await,
                    certain => return certain,
                },
                certain => return certain,
            }
        }
        panic!("still not certain after 200 tries");
    }
}

async fn send_of(bench: &dyn Bench, payer: &dyn WalletDriver, invoice: &Invoice) -> Dispatch {
    let quote = payer.quote(PayRequest { bolt11: invoice.bolt11.clone(), amount: None }).await.unwrap();
    let name = &invoice.hash.to_string()[..32];
    Dispatch {
        payment_id: format!("pay-{name}"),
        attempt: 1,
        key: name.to_owned(),
        bolt11: invoice.bolt11.clone(),
        amount: None,
        max_fee: quote.max_fee,
        deadline: bench.clock().mono().plus_ms(60_000),
        handle: quote.handle,
    }
}

const REFUSED: Outcome = Outcome::Failed { class: FailureClass::Refused };

/// An invoice is paid once, exactly, for no more than the quote, and its preimage proves it.
pub async fn settles_once(bench: &dyn Bench) {
    let case = Case::new(bench).await;
    let outcome = case.dispatch().await;
    case.assert_paid_once(&outcome).await;
    assert_eq!(case.resolve().await, outcome);
}

/// An identical send has the identical outcome and moves nothing, from a new handle and across a restart too.
pub async fn repeats_alike(bench: &dyn Bench) {
    let mut case = Case::new(bench).await;
    if case.payer.capabilities().idempotency == Idempotency::None {
        return;
    }
    let outcome = case.dispatch().await;
    assert_eq!(case.dispatch().await, outcome);
    case.payer = bench.payer().await;
    assert_eq!(case.dispatch().await, outcome);
    bench.restart().await;
    case.payer = bench.payer().await;
    case.payee = bench.payee().await;
    assert_eq!(case.dispatch().await, outcome);
    case.assert_paid_once(&outcome).await;
}

/// Many identical sends at once are one payment, through one handle and through several.
pub async fn at_once_is_once(bench: &dyn Bench) {
    let case = Case::new(bench).await;
    if case.payer.capabilities().idempotency == Idempotency::None {
        return;
    }
    let others = [bench.payer().await, bench.payer().await];
    let sends = (0..8).map(|at| others.get(at).unwrap_or(&case.payer).dispatch(case.in_time()));
    let outcomes = futures::future::join_all(sends).await;
    for outcome in outcomes {
        assert!(
            matches!(outcome, Outcome::Settled { .. } | Outcome::Unknown { .. } | Outcome::Pending),
            "one of several identical sends claims {outcome:?}"
        );
    }
    case.assert_paid_once(&case.certain().await).await;
}

/// An attempt after one that paid, or that is in flight, pays nothing more, whoever asks for it.
pub async fn a_later_attempt_pays_nothing_more(bench: &dyn Bench) {
    let mut case = Case::new(bench).await;
    if case.payer.capabilities().idempotency == Idempotency::None {
        return;
    }
    let outcome = case.dispatch().await;
    for restart in [false, true] {
        if restart {
            bench.restart().await;
            (case.payer, case.payee) = (bench.payer().await, bench.payee().await);
        }
        let later = case.payer.dispatch(Dispatch { attempt: 2, ..case.in_time() }).await;
        assert!(!matches!(later, Outcome::Failed { .. } | Outcome::NotFound), "{later:?} after it was paid");
        case.assert_paid_once(&outcome).await;
    }
    let case = Case::new(bench).await;
    if !bench.script(Next::Stuck).await {
        return;
    }
    assert_eq!(case.dispatch().await, Outcome::Pending);
    let later = case.payer.dispatch(Dispatch { attempt: 2, ..case.in_time() }).await;
    assert!(!matches!(later, Outcome::Settled { .. } | Outcome::Failed { .. }), "{later:?} while it is in flight");
    bench.land(case.invoice.hash, true).await;
    case.assert_paid_once(&case.certain().await).await;
}

/// "Already paid" is a success only for the payment that paid.
pub async fn anothers_success_is_not_mine(bench: &dyn Bench) {
    let case = Case::new(bench).await;
    let outcome = case.dispatch().await;
    let other = Dispatch { payment_id: "another".to_owned(), key: "another".to_owned(), ..case.in_time() };
    let others = case.payer.dispatch(other.clone()).await;
    assert!(!matches!(others, Outcome::Settled { .. }), "{others:?}");
    assert_eq!(case.payer.dispatch(other).await, others);
    case.assert_paid_once(&outcome).await;
}

/// A lost answer is unknown, and looking tells the truth.
pub async fn lost_then_settled(bench: &dyn Bench) {
    let mut case = Case::new(bench).await;
    if !bench.script(Next::Lost).await {
        return;
    }
    let lost = case.dispatch().await;
    assert!(matches!(lost, Outcome::Unknown { .. }), "{lost:?}");
    bench.restart().await;
    let outcome = case.recover(bench).await;
    case.assert_paid_once(&outcome).await;
    assert_eq!(case.dispatch().await, outcome);
    case.assert_paid_once(&outcome).await;
}

/// A lost answer that turns out a failure gives the money back, and the next attempt may pay.
pub async fn lost_then_failed(bench: &dyn Bench) {
    let case = Case::new(bench).await;
    if !bench.script(Next::LostThenFails).await {
        return;
    }
    let lost = case.dispatch().await;
    assert!(matches!(lost, Outcome::Unknown { .. }), "{lost:?}");
    if bench.believes_late() {
        bench.pass_expiry(case.invoice.expires_at).await;
    }
    let failed = case.certain().await;
    assert!(matches!(failed, Outcome::Failed { .. }), "{failed:?}");
    case.assert_nothing_moved().await;
    assert_eq!(case.dispatch().await, failed, "a repeat of the failed attempt");
    case.assert_nothing_moved().await;
    let outcome = case.payer.dispatch(Dispatch { attempt: 2, ..case.in_time() }).await;
    if bench.believes_late() {
        assert_eq!(outcome, REFUSED, "the invoice has expired");
        return case.assert_nothing_moved().await;
    }
    case.assert_paid_once(&outcome).await;
    assert_eq!(case.dispatch().await, outcome, "a late copy of the first attempt");
    case.assert_paid_once(&outcome).await;
}

/// A request that never arrived is unknown, then not found, and its repeat pays.
pub async fn dropped_then_repeated(bench: &dyn Bench) {
    let mut case = Case::new(bench).await;
    if !bench.script(Next::Dropped).await {
        return;
    }
    let lost = case.dispatch().await;
    assert!(matches!(lost, Outcome::Unknown { .. }), "{lost:?}");
    let known = case.resolve().await;
    assert!(
        known == Outcome::NotFound || bench.believes_late() && matches!(known, Outcome::Unknown { .. }),
        "{known:?}"
    );
    case.assert_nothing_moved().await;
    let outcome = case.recover(bench).await;
    case.assert_paid_once(&outcome).await;
}

/// A payment in flight stays so across a restart, holds its money, and ends one way or the other.
pub async fn stuck_then_landed(bench: &dyn Bench) {
    for settle in [true, false] {
        let mut case = Case::new(bench).await;
        if !bench.script(Next::Stuck).await {
            return;
        }
        assert_eq!(case.dispatch().await, Outcome::Pending);
        assert_eq!(case.resolve().await, Outcome::Pending);
        let held = case.before.0.checked_sub(case.payer.balance().await.unwrap()).unwrap();
        assert!(held >= AMOUNT, "money in flight can be spent again");
        bench.restart().await;
        (case.payer, case.payee) = (bench.payer().await, bench.payee().await);
        assert_eq!(case.dispatch().await, Outcome::Pending);
        bench.land(case.invoice.hash, settle).await;
        if !settle && bench.believes_late() {
            let early = case.resolve().await;
            assert!(matches!(early, Outcome::Unknown { .. }), "{early:?}");
            bench.pass_expiry(case.invoice.expires_at).await;
        }
        match (settle, case.certain().await) {
            (true, outcome) => case.assert_paid_once(&outcome).await,
            (false, Outcome::Failed { .. }) => case.assert_nothing_moved().await,
            (false, other) => panic!("expected failed, not {other:?}"),
        }
    }
}

/// A payment that takes its time is pending or unknown, and settles.
pub async fn slow_then_settled(bench: &dyn Bench) {
    let case = Case::new(bench).await;
    if !bench.script(Next::Slow).await {
        return;
    }
    let first = case.dispatch().await;
    assert!(!matches!(first, Outcome::Failed { .. } | Outcome::NotFound), "{first:?}");
    case.assert_paid_once(&case.certain().await).await;
}

/// An expired invoice is refused, and nothing is known of its payment.
pub async fn expired_is_refused(bench: &dyn Bench) {
    let case = Case::expiring(bench, 1).await;
    while case.clock.now() <= case.invoice.expires_at {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(case.dispatch().await, REFUSED);
    assert!(matches!(case.resolve().await, Outcome::NotFound | REFUSED));
    case.assert_nothing_moved().await;
    // By the backend's own clock.
    for _ in 0..200 {
        match case.payee.lookup_invoice(case.invoice.hash).await.unwrap() {
            InvoiceState::Open => tokio::time::sleep(Duration::from_millis(50)).await,
            state => return assert_eq!(state, InvoiceState::Canceled),
        }
    }
    panic!("still open ten seconds after its expiry");
}

/// After the deadline no byte leaves.
pub async fn late_is_refused(bench: &dyn Bench) {
    let case = Case::new(bench).await;
    let late = Dispatch { deadline: case.clock.mono(), ..case.send.clone() };
    assert_eq!(case.payer.dispatch(late.clone()).await, REFUSED);
    assert_eq!(case.resolve().await, Outcome::NotFound);
    case.assert_nothing_moved().await;
    let outcome = case.dispatch().await;
    assert_eq!(case.payer.dispatch(late).await, outcome, "a late repeat of a send that paid");
    case.assert_paid_once(&outcome).await;
}

/// Another network's invoice, and what is no invoice at all, are refused.
pub async fn foreign_is_refused(bench: &dyn Bench) {
    let case = Case::new(bench).await;
    let cut = &case.invoice.bolt11[..case.invoice.bolt11.len() - 1];
    for bolt11 in [MAINNET_INVOICE, cut, "", "lnbcrt1", "not an invoice"] {
        let send = Dispatch { bolt11: bolt11.to_owned(), ..case.in_time() };
        assert_eq!(case.payer.dispatch(send).await, REFUSED, "{bolt11}");
        assert!(case.payer.quote(PayRequest { bolt11: bolt11.to_owned(), amount: None }).await.is_err());
    }
    let with_amount = Dispatch { amount: Some(Msat::sats(1)), ..case.in_time() };
    assert_eq!(case.payer.dispatch(with_amount).await, REFUSED, "an amount for an invoice that names its own");
    case.assert_nothing_moved().await;
}

/// A fee above the limit, and money that is not there, fail for certain; the next attempt may pay.
pub async fn limits_hold(bench: &dyn Bench) {
    let case = Case::new(bench).await;
    if case.send.max_fee > Msat::ZERO && bench.takes_fees() {
        let outcome = case.payer.dispatch(Dispatch { max_fee: Msat::ZERO, ..case.in_time() }).await;
        assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
        case.assert_nothing_moved().await;
    }
    let too_much = InvoiceRequest::new(case.before.0, "all of it, and a fee");
    let too_much = case.payee.create_invoice(too_much).await.unwrap();
    let mut send = send_of(bench, &*case.payer, &too_much).await;
    if send.max_fee > Msat::ZERO {
        send.deadline = case.clock.mono().plus_ms(60_000);
        let outcome = case.payer.dispatch(send).await;
        assert!(matches!(outcome, Outcome::Failed { class: FailureClass::NoFunds }), "{outcome:?}");
    }
    let outcome = case.payer.dispatch(Dispatch { attempt: 2, ..case.in_time() }).await;
    case.assert_paid_once(&outcome).await;
}

/// Nobody pays himself.
pub async fn self_payment_is_refused(bench: &dyn Bench) {
    let case = Case::new(bench).await;
    let own = case.payer.create_invoice(InvoiceRequest::new(AMOUNT, "to myself")).await.unwrap();
    let send = match case.payer.quote(PayRequest { bolt11: own.bolt11.clone(), amount: None }).await {
        Ok(_) => send_of(bench, &*case.payer, &own).await,
        // Refused so early; the send must be too.
        Err(_) => Dispatch { bolt11: own.bolt11, ..case.in_time() },
    };
    let outcome = case.payer.dispatch(send).await;
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    case.assert_nothing_moved().await;
}

/// An own preimage makes an invoice repeatable, and only by its owner with the same values.
pub async fn invoices_repeat(bench: &dyn Bench) {
    let payee = bench.payee().await;
    let secret: [u8; 32] = *Hash32::sha256(format!("{:?}", bench.clock().now()).as_bytes()).as_bytes();
    let preimage = Preimage::from_bytes(secret);
    let request = InvoiceRequest { preimage: Some(preimage.clone()), ..InvoiceRequest::new(AMOUNT, "twice") };
    let made = payee.create_invoice(request.clone()).await;
    if !bench.own_preimages() {
        assert!(matches!(made, Err(crate::WalletError::Unsupported { .. })), "{made:?}");
        return;
    }
    let invoice = made.unwrap();
    assert_eq!(invoice.hash, preimage.hash());
    let again = bench.payee().await.create_invoice(request.clone()).await.unwrap();
    assert_eq!((again.bolt11, again.hash), (invoice.bolt11, invoice.hash));
    let dearer = InvoiceRequest { amount: Msat::sats(322), ..request.clone() };
    assert!(payee.create_invoice(dearer).await.is_err());
    if bench.one_backend() {
        assert!(bench.payer().await.create_invoice(request).await.is_err());
    }
}

/// Settlements come in order, from any cursor, across a restart, and to their owner alone.
pub async fn settlements_follow(bench: &dyn Bench) {
    let first = Case::new(bench).await;
    first.dispatch().await;
    let mut live = first.payee.settlements(first.invoice.cursor);
    let seen = next_settlement(&mut live, first.invoice.hash).await;
    bench.restart().await;
    let second = Case::new(bench).await;
    second.dispatch().await;
    let after = next_settlement(&mut live, second.invoice.hash).await;
    assert!(after > seen);
    let mut again = second.payee.settlements(seen);
    assert_eq!(next_settlement(&mut again, second.invoice.hash).await, after);
    let other = second.payer.lookup_invoice(second.invoice.hash).await.unwrap();
    assert_eq!(other, InvoiceState::NotFound, "an invoice shown to somebody else");
    let stranger = second.payee.resolve(second.send.resolve(second.invoice.hash)).await;
    assert_eq!(stranger, Outcome::NotFound, "a payment shown to somebody else");
}

type Settlements = futures::stream::BoxStream<'static, Result<crate::Settlement, crate::WalletError>>;

/// The next settlement of `hash`; earlier ones may be told again, and errors while the backend is away are no end.
async fn next_settlement(stream: &mut Settlements, hash: Hash32) -> Cursor {
    let next = async {
        loop {
            match stream.next().await {
                Some(Ok(settlement)) if settlement.hash == hash => return settlement,
                Some(Ok(_)) => {}
                Some(Err(_)) => {}
                None => panic!("the stream ended"),
            }
        }
    };
    let settlement = tokio::time::timeout(Duration::from_secs(10), next).await.expect("a settlement within 10 s");
    assert_eq!((settlement.hash, settlement.amount), (hash, AMOUNT));
    settlement.cursor
}

/// Wherever the payer's process dies, before, during or after the send, and the backend with it: one payment.
pub async fn killed_at_each_arrow(bench: &dyn Bench) {
    for micros in [None, Some(0), Some(200), Some(600), Some(1_500), Some(4_000), Some(20_000)] {
        for restart in [false, true] {
            let mut case = Case::new(bench).await;
            if let Some(micros) = micros {
                // A dropped future is a dead process: whatever it had sent is on its way.
                let _ = tokio::time::timeout(Duration::from_micros(micros), case.dispatch()).await;
            }
            if restart {
                bench.restart().await;
            }
            let outcome = case.recover(bench).await;
            case.assert_paid_once(&outcome).await;
        }
    }
}

/// Every test of the suite, for a macro that is called with all of their names.
#[macro_export]
macro_rules! each_conformance_test {
    ($each:ident) => {
        $each! {
            settles_once
            repeats_alike
            at_once_is_once
            a_later_attempt_pays_nothing_more
            anothers_success_is_not_mine
            lost_then_settled
            lost_then_failed
            dropped_then_repeated
            stuck_then_landed
            slow_then_settled
            expired_is_refused
            late_is_refused
            foreign_is_refused
            limits_hold
            self_payment_is_refused
            invoices_repeat
            settlements_follow
            killed_at_each_arrow
        }
    };
}

/// Every test of the suite, one after another.
pub async fn all(bench: &dyn Bench) {
    macro_rules! in_turn {
        ($($name:ident)*) => {
            $($name(bench).await;)*
        };
    }
    each_conformance_test!(in_turn);
}
