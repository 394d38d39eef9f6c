//! An agent's account at the operator's node: the real driver and books against nodes of our own that answer as LND does,
//! with a database that fails at every step.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nexus_core::payment::{FailureClass, Outcome, PaymentState};
use nexus_core::placement::Step;
use nexus_core::status::{Hosting, Purpose};
use nexus_core::{AccountId, AgentConfig, Clock, Generation, Hash32, Msat, Npub, UnixMs, WorkerId};
use nexus_lightning::lnd::{BooksError, InvoiceMacaroon, LndReceive, LndSubAccount, NodeConfig, PayerMacaroon, Trust};
use nexus_lightning::{
    Custody, Description, Dispatch, Driver, Hold, Invoice, InvoiceRequest, InvoiceState, Network, Pay, PayRequest,
    Preimage, Receive, Resolve,
};
use nexus_store::account::{self, Account};
use nexus_store::agent::{self, NewAgent, Sealed};
use nexus_store::payment::NewPayment;
use nexus_store::side::PaymentMove;
use nexus_store::sub_account::{self as books, Book, Caps, NewInvoice, State, Unsound};
use nexus_store::worker::{self, NewWorker};
use nexus_store::{Audit, Batch, BoxFuture, Executor, Fence, Output, Side, Store, StoreError, journal, placement};
use nexus_testkit::TestClock;
use nexus_testkit::lnd::{Course, FEE_MSAT, Node, Pair, Wire};
use nexus_worker::{Holder, LndWallets, StoredBooks};

const ALICE: Npub = Npub::from_bytes([0xa1; 32]);
const BOB: Npub = Npub::from_bytes([0xb0; 32]);
const FUNDS: Msat = Msat::sats(10_000);
const AMOUNT: Msat = Msat::sats(321);

/// A database that fails once, at its nth write: before it is done, or after.
struct Failing {
    inner: Store,
    left: AtomicUsize,
    after: bool,
}

impl Executor for Failing {
    fn write(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Output>, StoreError>> {
        Box::pin(async move {
            let fails = self.left.fetch_sub(1, Ordering::SeqCst) == 1;
            let lost = || StoreError::Uncertain { attempted: "a test", message: "the answer was lost".into() };
            if fails && !self.after {
                return Err(lost());
            }
            let done = self.inner.write(batch).await;
            if fails { Err(lost()) } else { done }
        })
    }

    fn read(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Output>, StoreError>> {
        Box::pin(self.inner.read(batch))
    }
}

struct Held {
    fence: Fence,
    clock: Arc<TestClock>,
}

impl Holder for Held {
    fn fence(&self) -> Result<Fence, BooksError> {
        Ok(self.fence)
    }

    fn now(&self) -> UnixMs {
        self.clock.now()
    }
}

struct World {
    pair: Pair,
    store: Store,
    fence: Fence,
    generation: Generation,
    clock: Arc<TestClock>,
    wallets: LndWallets,
}

fn config(node: &Node) -> NodeConfig {
    NodeConfig::new(&node.url(), Trust::File(node.certificate_file()), &node.identity(), Network::Regtest).unwrap()
}

fn biller(node: &Node) -> LndReceive {
    let macaroon = InvoiceMacaroon::read(&node.invoice_macaroon_file()).unwrap();
    LndReceive::new(config(node), macaroon, Arc::<TestClock>::default())
}

fn audit(at: UnixMs) -> Audit {
    let actor = "test".to_owned();
    Audit { at, account: None, actor, action: "x".into(), target: String::new(), detail: "{}".into() }
}

impl World {
    /// Alice and Bob are with one worker; both have funds in the books.
    async fn new() -> Self {
        let (pair, clock) = (Pair::start().await, Arc::<TestClock>::default());
        let (store, now) = (Store::open_memory().unwrap(), clock.now());
        let account = AccountId::from_bytes([1; 16]);
        let (name, plan, hosting) = (String::new(), "local".to_owned(), Hosting::Paid);
        let row = Account { id: account, owner: Npub::from_bytes([9; 32]), name, plan, hosting, created_at: now };
        account::ensure(&store, row, audit(now)).await.unwrap();
        let id = WorkerId::from_bytes([1; 16]);
        let new = NewWorker { id, region: "eu".into(), pool: "default".into(), capacity: 10, version: 1 };
        let fence = worker::register(&store, new, now).await.unwrap();
        let term = placement::take_term(&store, "test", now).await.unwrap();
        let mut generation = Generation(0);
        for (npub, name) in [(ALICE, "alice"), (BOB, "bob")] {
            let new = NewAgent {
                npub,
                account,
                name: name.into(),
                config: AgentConfig::default(),
                sealed: Sealed::default(),
                wraps: Vec::new(),
                state: None,
                hosting,
                reason: None,
                created_at: now,
            };
            agent::create(&store, new, None, audit(now)).await.unwrap();
            let step = Step { npub, generation: Generation(0), from: None, to: id, purpose: Purpose::Run };
            generation = placement::place(&store, term, &step, now).await.unwrap();
        }
        let payer = PayerMacaroon::read(&pair.payer.payer_macaroon_file()).unwrap();
        let wallets = LndWallets::new(config(&pair.payer), payer, clock.clone());
        let world = Self { pair, store, fence, generation, clock, wallets };
        for npub in [ALICE, BOB] {
            let hash = Hash32::sha256(npub.as_bytes());
            world.row(npub, hash, FUNDS).await;
            assert!(books::received(&world.store, hash, FUNDS, None, now).await.unwrap());
        }
        world
    }

    fn node(&self) -> String {
        self.pair.payer.identity()
    }

    async fn row(&self, npub: Npub, hash: Hash32, amount: Msat) {
        let now = self.clock.now();
        let (node, sealed_preimage, expires_at) = (self.node(), Vec::new(), now.plus_ms(3_600_000));
        let new = NewInvoice { node, hash, npub, amount, sealed_preimage, created_at: now, expires_at };
        let caps = Caps { agent: Msat::sats(100_000), total: Msat::sats(1_000_000), open: 100 };
        books::put_invoice(&self.store, new, caps, None).await.unwrap();
    }

    /// The wallet, as a process that begins anew opens it.
    fn wallet(&self, npub: Npub) -> LndSubAccount {
        self.wallet_over(npub, self.store.clone())
    }

    fn wallet_over(&self, npub: Npub, store: Store) -> LndSubAccount {
        let holder = Arc::new(Held { fence: self.fence, clock: self.clock.clone() });
        self.wallets.account(Arc::new(StoredBooks::new(store, holder, npub, self.generation)))
    }

    async fn asked(&self) -> Invoice {
        biller(&self.pair.payee).create_invoice(InvoiceRequest::new(AMOUNT, "x")).await.unwrap()
    }

    async fn send(&self, wallet: &LndSubAccount, invoice: &Invoice) -> Dispatch {
        let quote = wallet.quote(PayRequest { bolt11: invoice.bolt11.clone(), amount: None }).await.unwrap();
        Dispatch {
            payment_id: "job:1".into(),
            attempt: 1,
            key: "job:1".into(),
            bolt11: invoice.bolt11.clone(),
            amount: None,
            max_fee: quote.max_fee,
            deadline: self.clock.mono().plus_ms(60_000),
            handle: None,
        }
    }

    async fn has(&self, npub: Npub) -> (u64, u64) {
        let account = books::account(&self.store, &self.node(), npub).await.unwrap();
        (account.available.as_u64(), account.held.as_u64())
    }

    async fn sound(&self) {
        assert_eq!(books::unsound(&self.store).await.unwrap(), Unsound::default());
    }

    /// Paid once, and booked as that.
    async fn paid_once(&self, hash: Hash32) {
        let cost = AMOUNT.as_u64() + FEE_MSAT;
        assert_eq!(self.pair.payer.begun(hash), 1);
        assert_eq!(self.has(ALICE).await, (FUNDS.as_u64() - cost, 0));
        let lightning = books::balance(&self.store, &self.node(), Book::Lightning).await.unwrap();
        assert_eq!(lightning, 2 * FUNDS.as_i64() - i64::try_from(cost).unwrap());
        let state = biller(&self.pair.payee).lookup_invoice(hash).await.unwrap();
        assert!(matches!(state, InvoiceState::Settled { amount: AMOUNT, .. }), "{state:?}");
        self.sound().await;
    }

    async fn certain(&self, wallet: &LndSubAccount, question: &Resolve) -> Outcome {
        for _ in 0..400 {
            match wallet.resolve(question.clone()).await {
                Outcome::Pending | Outcome::Unknown { .. } => {
                    tokio::time::sleep(std::time::Duration::from_millis(25)).await;
                }
                certain => return certain,
            }
        }
        panic!("still not certain");
    }
}

#[tokio::test]
async fn a_payment_takes_amount_and_fee_out_of_the_account_once() {
    let world = World::new().await;
    let (wallet, invoice) = (world.wallet(ALICE), world.asked().await);
    assert_eq!(wallet.capabilities().custody, Custody::Custodial);
    let send = world.send(&wallet, &invoice).await;
    let outcome = wallet.dispatch(send.clone()).await;
    let Outcome::Settled { preimage: Some(preimage), fee } = outcome else { panic!("{outcome:?}") };
    assert_eq!((Hash32::sha256(preimage.as_bytes()), fee.as_u64()), (invoice.hash, FEE_MSAT));
    world.paid_once(invoice.hash).await;
    assert_eq!(wallet.balance().await.unwrap().as_u64(), world.has(ALICE).await.0);
    let again = futures::future::join_all((0..8).map(|_| world.wallet(ALICE).dispatch_owned(send.clone()))).await;
    assert!(again.iter().all(|said| *said == outcome), "{again:?}");
    assert_eq!(wallet.resolve(send.resolve(invoice.hash)).await, outcome);
    // Another's question of the same payment is no answer to it.
    assert_eq!(world.wallet(BOB).resolve(send.resolve(invoice.hash)).await, Outcome::NotFound);
    world.paid_once(invoice.hash).await;
}

/// Keeps a wallet for as long as its call.
trait Owned {
    async fn dispatch_owned(self, send: Dispatch) -> Outcome;
}

impl Owned for LndSubAccount {
    async fn dispatch_owned(self, send: Dispatch) -> Outcome {
        self.dispatch(send).await
    }
}

#[tokio::test]
async fn whatever_write_fails_it_is_paid_once_and_booked_once() {
    for after in [false, true] {
        for nth in 1..=3 {
            let world = World::new().await;
            let invoice = world.asked().await;
            let failing = Failing { inner: world.store.clone(), left: AtomicUsize::new(nth), after };
            let wallet = world.wallet_over(ALICE, Store::over(Arc::new(failing)));
            let send = world.send(&wallet, &invoice).await;
            let first = wallet.dispatch(send.clone()).await;
            assert!(!matches!(first, Outcome::Failed { .. } | Outcome::NotFound), "{nth} {after}: {first:?}");
            // The next process looks first, and repeats what nobody knows of.
            let wallet = world.wallet(ALICE);
            let mut said = world.certain(&wallet, &send.resolve(invoice.hash)).await;
            if said == Outcome::NotFound {
                assert_eq!(world.pair.payer.begun(invoice.hash), 0);
                said = wallet.dispatch(send.clone()).await;
            }
            assert!(matches!(said, Outcome::Settled { .. }), "{nth} {after}: {said:?}");
            world.paid_once(invoice.hash).await;
        }
    }
}

#[tokio::test]
async fn a_lost_answer_is_looked_up_and_booked() {
    for wire in [Wire::Cut { lines: 0, within: false }, Wire::Cut { lines: 1, within: true }, Wire::Dropped] {
        let world = World::new().await;
        let (wallet, invoice) = (world.wallet(ALICE), world.asked().await);
        let send = world.send(&wallet, &invoice).await;
        world.pair.payer.rule("/v2/router/send", Course::Plain, wire);
        let said = wallet.dispatch(send.clone()).await;
        assert!(matches!(said, Outcome::Unknown { .. }), "{said:?}");
        assert_eq!(world.has(ALICE).await.1, send.max_fee.as_u64() + AMOUNT.as_u64(), "it stays held");
        world.sound().await;
        let mut said = world.certain(&wallet, &send.resolve(invoice.hash)).await;
        if said == Outcome::NotFound {
            said = wallet.dispatch(send).await;
        }
        assert!(matches!(said, Outcome::Settled { .. }), "{said:?}");
        world.paid_once(invoice.hash).await;
    }
}

#[tokio::test]
async fn what_failed_is_released_at_once_and_what_is_not_known_only_when_it_is_concluded() {
    let world = World::new().await;
    let (wallet, invoice) = (world.wallet(ALICE), world.asked().await);
    let send = world.send(&wallet, &invoice).await;
    world.pair.payer.rule("/v2/router/send", Course::FailsAfter { ms: 5 }, Wire::Whole);
    let said = wallet.dispatch(send.clone()).await;
    assert!(matches!(said, Outcome::Failed { .. }), "{said:?}");
    assert_eq!(world.has(ALICE).await, (FUNDS.as_u64(), 0));
    assert!(matches!(wallet.dispatch(send.clone()).await, Outcome::Failed { .. }), "a repeat sends nothing");
    assert_eq!(world.pair.payer.begun(invoice.hash), 1);

    // Its answer is lost, and it fails: the heir's look does not release, the machine's conclusion does.
    let invoice = world.asked().await;
    let send = world.send(&wallet, &invoice).await;
    let hold = send.max_fee.as_u64() + AMOUNT.as_u64();
    let row = NewPayment {
        hash: invoice.hash,
        step: send.payment_id.clone(),
        purpose: "inference".into(),
        bolt11: invoice.bolt11.clone(),
        amount: AMOUNT,
        max_fee: send.max_fee,
        expires_at: invoice.expires_at,
        windows: Vec::new(),
        payee: None,
    };
    let step = async |side: Side| {
        journal::apply(&world.store, world.fence, ALICE, world.generation, world.clock.now(), vec![side])
            .await
            .unwrap();
    };
    let (hash, at) = (invoice.hash, world.clock.now());
    let moved = |from, to| Side::Payment(PaymentMove { hash, from, to, at, fee: None, preimage: None, note: None });
    step(Side::InsertPayment(row)).await;
    step(moved(PaymentState::Reserved, PaymentState::Dispatched)).await;
    world.pair.payer.rule("/v2/router/send", Course::Stuck, Wire::Cut { lines: 0, within: false });
    let said = wallet.dispatch(send.clone()).await;
    assert!(matches!(said, Outcome::Unknown { .. }), "{said:?}");
    assert_eq!(wallet.resolve(send.resolve(hash)).await, Outcome::Pending);
    assert!(world.pair.payer.land(hash, false));
    let said = world.certain(&world.wallet(ALICE), &send.resolve(hash)).await;
    assert!(matches!(said, Outcome::Failed { .. }), "{said:?}");
    assert_eq!(wallet.balance().await.unwrap().as_u64(), FUNDS.as_u64() - hold, "still held");
    step(moved(PaymentState::Dispatched, PaymentState::Failed)).await;
    assert_eq!(wallet.balance().await.unwrap(), FUNDS);
    assert_eq!(world.has(ALICE).await, (FUNDS.as_u64(), 0));
    world.sound().await;
}

#[tokio::test]
async fn two_agents_pay_one_invoice_once_and_nobody_pays_with_what_they_lack() {
    let world = World::new().await;
    let invoice = world.asked().await;
    let (alice, bob) = (world.wallet(ALICE), world.wallet(BOB));
    let (one, two) = (world.send(&alice, &invoice).await, world.send(&bob, &invoice).await);
    let (one, two) = futures::future::join(alice.dispatch(one), bob.dispatch(two)).await;
    let settled = |said: &Outcome| matches!(said, Outcome::Settled { .. });
    assert!(settled(&one) != settled(&two), "{one:?} {two:?}");
    let rejected = Outcome::Failed { class: FailureClass::Rejected };
    assert!(one == rejected || two == rejected, "{one:?} {two:?}");
    assert_eq!(world.pair.payer.begun(invoice.hash), 1);
    let sum = world.has(ALICE).await.0 + world.has(BOB).await.0;
    assert_eq!(sum, 2 * FUNDS.as_u64() - AMOUNT.as_u64() - FEE_MSAT);

    // The node has more, the agent has not.
    let dear = InvoiceRequest::new(Msat::sats(9_950), "all of it, and no fee");
    let dear = biller(&world.pair.payee).create_invoice(dear).await.unwrap();
    let send = world.send(&alice, &dear).await;
    assert_eq!(alice.dispatch(send).await, Outcome::Failed { class: FailureClass::NoFunds });
    assert_eq!(world.pair.payer.begun(dear.hash), 0);
    world.sound().await;
}

#[tokio::test]
async fn what_is_paid_within_the_node_never_reaches_it() {
    let world = World::new().await;
    let node = biller(&world.pair.payer);
    let preimage = Preimage::from_bytes([7; 32]);
    let (hash, proof) = (preimage.hash(), Hash32::from_bytes([7; 32]));
    let request = InvoiceRequest {
        preimage: Some(preimage),
        amount: AMOUNT,
        description: Description::Memo("to bob".into()),
        expiry_s: 600,
    };
    let invoice = node.create_invoice(request).await.unwrap();
    let wallet = world.wallet(ALICE);
    let asked = PayRequest { bolt11: invoice.bolt11.clone(), amount: None };
    assert!(wallet.quote(asked.clone()).await.is_err(), "nobody's, as far as the books know");
    world.row(BOB, hash, AMOUNT).await;
    assert_eq!(wallet.quote(asked).await.unwrap().max_fee, Msat::ZERO);
    let send = world.send(&wallet, &invoice).await;
    // What control does, once it sees the hold.
    let control = async {
        loop {
            if let Some(held) = books::inside(&world.store, &world.node(), 9).await.unwrap().pop() {
                node.cancel_invoice(hash).await.unwrap();
                assert!(books::pay_inside(&world.store, &held, proof, world.clock.now()).await.unwrap());
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let (said, ()) = futures::future::join(wallet.dispatch(send.clone()), control).await;
    assert_eq!(said, Outcome::Settled { preimage: Some(proof), fee: Msat::ZERO });
    assert_eq!(wallet.resolve(send.resolve(hash)).await, said);
    assert_eq!(world.has(ALICE).await, (FUNDS.as_u64() - AMOUNT.as_u64(), 0));
    assert_eq!(world.has(BOB).await, (FUNDS.as_u64() + AMOUNT.as_u64(), 0));
    let seen = world.wallet(BOB).lookup_invoice(hash).await.unwrap();
    assert!(matches!(seen, InvoiceState::Settled { amount: AMOUNT, preimage: Some(_), .. }), "{seen:?}");
    assert_eq!(world.wallet(ALICE).lookup_invoice(hash).await.unwrap(), InvoiceState::NotFound);
    assert_eq!(world.pair.payer.begun(hash), 0);
    assert_eq!(books::payment(&world.store, &world.node(), hash).await.unwrap().unwrap().state, State::Settled);
    world.sound().await;
}

#[tokio::test]
async fn a_worker_that_was_replaced_pays_nothing() {
    let world = World::new().await;
    let invoice = world.asked().await;
    let holder =
        Held { fence: Fence { incarnation: world.fence.incarnation - 1, ..world.fence }, clock: world.clock.clone() };
    let stale = StoredBooks::new(world.store.clone(), Arc::new(holder), ALICE, world.generation);
    let wallet = world.wallets.account(Arc::new(stale));
    let send = world.send(&wallet, &invoice).await;
    assert!(matches!(wallet.dispatch(send.clone()).await, Outcome::Unknown { .. }));
    let late = Dispatch { deadline: world.clock.mono(), ..send };
    assert_eq!(
        world.wallet(ALICE).dispatch(late).await,
        Outcome::Failed { class: FailureClass::Refused },
        "past its deadline, and nothing held"
    );
    assert_eq!(world.pair.payer.begun(invoice.hash), 0);
    assert_eq!(world.has(ALICE).await, (FUNDS.as_u64(), 0));
}
