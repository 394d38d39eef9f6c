//! Payments within the node, with a node whose answers are lost at each point and a database that fails at each write; and
//! audits that must find what was planted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_core::placement::Step;
use nexus_core::status::{Hosting, Purpose};
use nexus_core::{AccountId, AgentConfig, Clock, Generation, Npub, UnixMs, WorkerId};
use nexus_lightning::{
    Capabilities, Cursor, Custody, Driver, Health, Hold, HoldRequest, Idempotency, Invoice as Made, InvoiceRequest,
    Kind, Network, Preimage, PreimageProof, WalletError,
};
use nexus_seal::operator::OperatorKey;
use nexus_store::agent::{self, NewAgent, Sealed};
use nexus_store::sub_account::{Account, Caps, NewHold, NewInvoice, Unsound};
use nexus_store::worker::{self, NewWorker};
use nexus_store::{Batch, Executor, Fence, Output, Store, placement};
use nexus_testkit::{ManualClock, SystemEntropy};

use super::*;
use crate::ControlConfig;
use crate::testing::{AGENT, START, app_with, audit as who, hosted};

const NODE: &str = "02aa";
const BOB: Npub = Npub::from_bytes([0xb0; 32]);
const AMOUNT: Msat = Msat::sats(300);
const FUNDS: Msat = Msat::sats(1_000);

/// What is lost of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// Nothing.
    None,
    /// The request.
    Request,
    /// The answer of what was done.
    Answer,
}

/// A node that is told what its invoices are, and loses answers.
struct Scripted {
    invoices: Mutex<HashMap<Hash32, InvoiceState>>,
    cancels: Mutex<Vec<Lost>>,
    lookups: Mutex<Vec<Lost>>,
    spendable: Mutex<Msat>,
}

impl Default for Scripted {
    fn default() -> Self {
        let (invoices, cancels, lookups) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { invoices, cancels, lookups, spendable: Mutex::new(Msat::sats(1_000_000)) }
    }
}

fn away<T>() -> Result<T, WalletError> {
    Err(WalletError::Unreachable("a test".into()))
}

impl Scripted {
    fn says(&self, hash: Hash32, state: InvoiceState) {
        self.invoices.lock().unwrap().insert(hash, state);
    }

    fn said(&self, hash: Hash32) -> InvoiceState {
        self.invoices.lock().unwrap().get(&hash).cloned().unwrap_or(InvoiceState::NotFound)
    }

    fn next(script: &Mutex<Vec<Lost>>) -> Lost {
        script.lock().unwrap().pop().unwrap_or(Lost::None)
    }

    /// Somebody pays from outside; true if the node took it.
    fn paid(&self, hash: Hash32, amount: Msat, at: UnixMs) -> bool {
        let mut invoices = self.invoices.lock().unwrap();
        let open = invoices.get(&hash) == Some(&InvoiceState::Open);
        if open {
            invoices.insert(hash, InvoiceState::Settled { amount, preimage: None, at });
        }
        open
    }
}

impl Driver for Scripted {
    fn kind(&self) -> Kind {
        Kind::Lnd
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: true,
            hold: true,
            lookup_out: false,
            idempotency: Idempotency::None,
            preimage: PreimageProof::Always,
            custody: Custody::Custodial,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        let spendable = *self.spendable.lock().unwrap();
        let (identity, network) = (NODE.to_owned(), Network::Regtest);
        Box::pin(async move { Ok(Health { identity, network, synced: true, spendable, receivable: None }) })
    }
}

impl Receive for Scripted {
    fn create_invoice(&self, _: InvoiceRequest) -> BoxFuture<'_, Result<Made, WalletError>> {
        Box::pin(async { away() })
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        let lost = Self::next(&self.lookups) != Lost::None;
        Box::pin(async move { if lost { away() } else { Ok(self.said(hash)) } })
    }

    fn settlements(&self, _: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        Box::pin(futures::stream::empty())
    }
}

impl Hold for Scripted {
    fn create_hold_invoice(&self, _: HoldRequest) -> BoxFuture<'_, Result<Made, WalletError>> {
        Box::pin(async { away() })
    }

    fn settle_hold_invoice(&self, _: Preimage) -> BoxFuture<'_, Result<(), WalletError>> {
        Box::pin(async { away() })
    }

    fn cancel_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<(), WalletError>> {
        let lost = Self::next(&self.cancels);
        let done = if lost == Lost::Request {
            away()
        } else {
            match self.said(hash) {
                InvoiceState::Settled { .. } => Err(WalletError::Refused("invoice already settled".into())),
                InvoiceState::NotFound => Err(WalletError::Refused("unable to locate invoice".into())),
                InvoiceState::Open | InvoiceState::Accepted | InvoiceState::Canceled => {
                    self.says(hash, InvoiceState::Canceled);
                    Ok(())
                }
            }
        };
        let said = if lost == Lost::Answer { away() } else { done };
        Box::pin(async { said })
    }
}

/// A database that fails once, at its nth write: before it is done, or after.
struct Failing {
    inner: Store,
    left: AtomicUsize,
    after: bool,
}

impl Executor for Failing {
    fn write(&self, batch: Batch) -> nexus_store::BoxFuture<'_, Result<Vec<Output>, StoreError>> {
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

    fn read(&self, batch: Batch) -> nexus_store::BoxFuture<'_, Result<Vec<Output>, StoreError>> {
        Box::pin(self.inner.read(batch))
    }
}

struct World {
    store: Store,
    clock: Arc<ManualClock>,
    node: Arc<Scripted>,
    key: Arc<OperatorKey>,
    fence: Fence,
    generation: Generation,
}

fn proof() -> Hash32 {
    Hash32::from_bytes([5; 32])
}

fn hash() -> Hash32 {
    Hash32::sha256(proof().as_bytes())
}

impl World {
    /// Ada has funds, and holds what Bob's open invoice asks for.
    async fn new() -> Self {
        let (store, clock) = (Store::open_memory().unwrap(), Arc::new(ManualClock::at(START)));
        hosted(&store).await;
        let (node, key) = (Arc::new(Scripted::default()), Arc::new(OperatorKey::generate(&SystemEntropy)));
        let id = WorkerId::from_bytes([1; 16]);
        let new = NewWorker { id, region: "eu".into(), pool: "default".into(), capacity: 10, version: 1 };
        let fence = worker::register(&store, new, START).await.unwrap();
        let bob = NewAgent {
            npub: BOB,
            account: AccountId::new(START, [1; 10]),
            name: "bob".into(),
            config: AgentConfig::default(),
            sealed: Sealed::default(),
            wraps: Vec::new(),
            state: None,
            hosting: Hosting::Paid,
            reason: None,
            created_at: START,
        };
        agent::create(&store, bob, None, who("agent.create")).await.unwrap();
        let term = placement::take_term(&store, "test", START).await.unwrap();
        let step = Step { npub: AGENT, generation: Generation(0), from: None, to: id, purpose: Purpose::Run };
        let generation = placement::place(&store, term, &step, START).await.unwrap();
        let world = Self { store, clock, node, key, fence, generation };
        world.asks(AGENT, Hash32::from_bytes([1; 32]), FUNDS).await;
        sub_account::received(&world.store, Hash32::from_bytes([1; 32]), FUNDS, None, START).await.unwrap();
        world.asks(BOB, hash(), AMOUNT).await;
        let new = NewHold {
            node: NODE.into(),
            hash: hash(),
            npub: AGENT,
            payment_id: "job:1".into(),
            attempt: 1,
            amount: AMOUNT,
            max_fee: Msat::sats(10),
            payee: Payee::Agent,
            at: START,
        };
        sub_account::hold(&world.store, world.fence, world.generation, &new).await.unwrap();
        world
    }

    async fn asks(&self, npub: Npub, hash: Hash32, amount: Msat) {
        let sealed_preimage =
            self.key.seal(&format!("agent-invoice:{hash}"), proof().as_bytes(), &SystemEntropy).unwrap();
        let (node, created_at, expires_at) = (NODE.to_owned(), START, START.plus_ms(600_000));
        let new = NewInvoice { node, hash, npub, amount, sealed_preimage, created_at, expires_at };
        let caps = Caps { agent: Msat::sats(10_000), total: Msat::sats(10_000), open: 9 };
        sub_account::put_invoice(&self.store, new, caps, None).await.unwrap();
        self.node.says(hash, InvoiceState::Open);
    }

    /// A control plane, as one that starts anew.
    fn app(&self, store: &Store) -> Shared {
        let accounts = Accounts {
            node: self.node.clone(),
            identity: NODE.into(),
            cap: Msat::sats(10_000),
            total_cap: Msat::sats(10_000),
            shared: false,
        };
        let config = ControlConfig::new("http://127.0.0.1".parse().unwrap());
        let (accounts, operator_key) = (Some(accounts), Some(self.key.clone()));
        app_with(store, &self.clock, ControlConfig { accounts, operator_key, ..config })
    }

    /// Rounds of control planes that begin anew, until nothing is held.
    async fn until_over(&self) {
        for _ in 0..20 {
            let app = self.app(&self.store);
            round(&app, app.config.accounts.as_ref().unwrap()).await.unwrap();
            assert_eq!(sub_account::unsound(&self.store).await.unwrap(), Unsound::default());
            self.clock.advance_ms(31_000);
            if self.has(AGENT).await.held == Msat::ZERO {
                return;
            }
        }
        panic!("it is held for ever");
    }

    async fn has(&self, npub: Npub) -> Account {
        sub_account::account(&self.store, NODE, npub).await.unwrap()
    }

    async fn paid_once(&self) {
        let rest = FUNDS.saturating_sub(AMOUNT);
        assert_eq!(self.has(AGENT).await, Account { available: rest, held: Msat::ZERO });
        assert_eq!(self.has(BOB).await, Account { available: AMOUNT, held: Msat::ZERO });
        let payment = sub_account::payment(&self.store, NODE, hash()).await.unwrap().unwrap();
        assert_eq!((payment.state, payment.preimage), (State::Settled, Some(proof())));
        assert!(!self.node.paid(hash(), AMOUNT, START), "nobody can pay it from outside any more");
    }
}

#[tokio::test]
async fn whatever_answer_is_lost_it_is_paid_once() {
    use Lost::{Answer, None, Request};
    for cancels in [[None, None], [Request, None], [Answer, None], [Request, Answer]] {
        for lookups in [[None, None], [Request, None], [Answer, Request]] {
            let world = World::new().await;
            world.node.cancels.lock().unwrap().extend(cancels.into_iter().rev());
            world.node.lookups.lock().unwrap().extend(lookups.into_iter().rev());
            world.until_over().await;
            world.paid_once().await;
        }
    }
}

#[tokio::test]
async fn whatever_write_fails_it_is_paid_once() {
    for after in [false, true] {
        for nth in 1..=4 {
            let world = World::new().await;
            let failing = Failing { inner: world.store.clone(), left: AtomicUsize::new(nth), after };
            let app = world.app(&Store::over(Arc::new(failing)));
            drop(round(&app, app.config.accounts.as_ref().unwrap()).await);
            world.until_over().await;
            world.paid_once().await;
        }
    }
}

#[tokio::test]
async fn a_payment_from_outside_that_was_first_counts_and_the_other_is_given_back() {
    // Before the cancel, and between a cancel that was lost and its repeat.
    for cancels in [vec![], vec![Lost::Request]] {
        let world = World::new().await;
        world.node.cancels.lock().unwrap().extend(cancels);
        let came = AMOUNT.saturating_add(Msat::sats(1));
        assert!(world.node.paid(hash(), came, START));
        world.until_over().await;
        assert_eq!(world.has(AGENT).await, Account { available: FUNDS, held: Msat::ZERO });
        assert_eq!(world.has(BOB).await, Account { available: came, held: Msat::ZERO });
        let payment = sub_account::payment(&world.store, NODE, hash()).await.unwrap().unwrap();
        assert_eq!(payment.state, State::Failed);
        // However the sweep and the round come about.
        world.until_over().await;
        assert_eq!(world.has(BOB).await.available, came);
    }
}

#[tokio::test]
async fn a_node_that_dropped_the_cancelled_invoice_is_believed() {
    let world = World::new().await;
    world.node.invoices.lock().unwrap().remove(&hash());
    world.until_over().await;
    world.paid_once().await;
}

#[tokio::test]
async fn late_money_is_credited_and_a_day_after_expiry_nobody_asks() {
    let world = World::new().await;
    world.until_over().await;
    let late = Hash32::from_bytes([9; 32]);
    world.asks(BOB, late, AMOUNT).await;
    world.clock.advance_ms(700_000);
    world.node.says(late, InvoiceState::Canceled);
    let app = world.app(&world.store);
    let accounts = app.config.accounts.as_ref().unwrap();
    assert!(round(&app, accounts).await.unwrap());
    let invoice = sub_account::invoice(&world.store, late).await.unwrap().unwrap();
    assert_eq!(invoice.state, "expired");
    world.node.says(late, InvoiceState::Settled { amount: AMOUNT, preimage: None, at: world.clock.now() });
    world.clock.advance_ms(700_000);
    assert!(round(&app, accounts).await.unwrap());
    assert_eq!(world.has(BOB).await.available, AMOUNT.saturating_add(AMOUNT));
    // A node that is away is asked again.
    let other = Hash32::from_bytes([10; 32]);
    world.asks(BOB, other, AMOUNT).await;
    world.clock.advance_ms(700_000);
    world.node.lookups.lock().unwrap().push(Lost::Request);
    assert!(!round(&app, accounts).await.unwrap());
    assert!(round(&app, accounts).await.unwrap());
}

#[tokio::test]
async fn an_audit_finds_what_was_planted() {
    let world = World::new().await;
    world.until_over().await;
    let app = world.app(&world.store);
    let accounts = app.config.accounts.as_ref().unwrap();
    let first = Hash32::from_bytes([1; 32]);
    let settled = |amount| InvoiceState::Settled { amount, preimage: None, at: START };
    world.node.says(first, settled(FUNDS));
    assert_eq!(audit(&app, accounts).await.unwrap(), Found::default());
    // The node says less than was credited.
    world.node.says(first, settled(Msat::sats(999)));
    assert_eq!(audit(&app, accounts).await.unwrap(), Found { different: 1, ..Found::default() });
    world.node.says(first, settled(FUNDS));
    // Somebody paid from the node by hand: 1,000 are owed.
    *world.node.spendable.lock().unwrap() = Msat::sats(940);
    assert_eq!(audit(&app, accounts).await.unwrap(), Found { short: Msat::sats(60), ..Found::default() });
    assert_eq!(app.metrics.accounts_short_msat.get(), 60_000);
    // Money that nothing explains is owed as well, and stands apart.
    sub_account::unexplained(&world.store, NODE, Hash32::from_bytes([77; 32]), Msat::sats(40), START).await.unwrap();
    assert_eq!(audit(&app, accounts).await.unwrap().short, Msat::sats(100));
    *world.node.spendable.lock().unwrap() = Msat::sats(1_040);
    assert_eq!(audit(&app, accounts).await.unwrap(), Found::default());
}

#[tokio::test]
async fn hosting_and_agents_at_one_node_do_not_take_each_others_money_for_unexplained() {
    let world = World::new().await;
    let app = world.app(&world.store);
    let accounts = app.config.accounts.as_ref().unwrap();
    let told = |hash| Settlement { cursor: Cursor(1), hash, amount: AMOUNT, at: START };
    // An agent's own wakes the look-up.
    assert!(world.node.paid(hash(), AMOUNT, START));
    settled(&app, accounts, told(hash()), false).await.unwrap();
    assert_eq!(world.has(BOB).await.available, AMOUNT);
    // Nobody's, from before, and with hosting at the same node: not ours to book.
    let nobodys = Hash32::from_bytes([44; 32]);
    settled(&app, accounts, told(nobodys), true).await.unwrap();
    settled(&app, &Accounts { shared: true, ..accounts.clone() }, told(nobodys), false).await.unwrap();
    assert_eq!(sub_account::balance(&world.store, NODE, Book::Suspense).await.unwrap(), 0);
    settled(&app, accounts, told(nobodys), false).await.unwrap();
    settled(&app, accounts, told(nobodys), false).await.unwrap();
    assert_eq!(sub_account::balance(&world.store, NODE, Book::Suspense).await.unwrap(), -AMOUNT.as_i64());
    assert_eq!(sub_account::unsound(&world.store).await.unwrap(), Unsound::default());
}
