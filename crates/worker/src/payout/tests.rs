//! A payer that dies at each step, loses answers, and has rivals: a refund is paid at most once, and what is not paid is
//! credit again.

use std::collections::{HashMap, VecDeque};

use futures::future::BoxFuture;
use nexus_core::payment::FailureClass;
use nexus_core::status::Hosting;
use nexus_core::{AccountId, Msat};
use nexus_lightning::devnet::{self, AccountKey, Parts};
use nexus_lightning::{
    Capabilities, Custody, Driver, Health, Idempotency, InvoiceRequest, Kind, PayRequest, PreimageProof, Quote,
    Receive, WalletError,
};
use nexus_seal::operator::OperatorKey;
use nexus_seal::payout::PayoutKey;
use nexus_store::Audit;
use nexus_store::account::{self, Account};
use nexus_store::hosting::{self, NewInvoice, Origin};
use nexus_store::ledger::{self, Book, Unsound};
use nexus_store::payout::NewPayout;
use nexus_testkit::{ManualClock, SeededEntropy, SystemEntropy};

use super::*;

const START: UnixMs = UnixMs(1_790_000_000_000);
const DAY_MS: u64 = 86_400_000;
const CREDIT: u64 = 5_000;

/// What becomes of one send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Settles,
    Fails,
    /// Paid, and the answer never comes: whoever waits for it dies.
    DiesPaid,
    /// Not paid, and the sender dies.
    DiesUnpaid,
    UnknownPaid,
    UnknownUnpaid,
}

#[derive(Default)]
struct Node {
    fates: Mutex<VecDeque<Fate>>,
    paid: Mutex<HashMap<Hash32, u32>>,
    sends: Mutex<u32>,
}

impl Node {
    fn times_paid(&self) -> u32 {
        self.paid.lock().unwrap().values().sum()
    }

    fn sends(&self) -> u32 {
        *self.sends.lock().unwrap()
    }
}

impl Driver for Node {
    fn kind(&self) -> Kind {
        Kind::Dev
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: false,
            hold: false,
            lookup_out: true,
            idempotency: Idempotency::ByHash,
            preimage: PreimageProof::Maybe,
            custody: Custody::Own,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        Box::pin(async { Err(WalletError::Unreachable("a test".into())) })
    }
}

impl Pay for Node {
    fn quote(&self, _: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>> {
        Box::pin(async { Err(WalletError::Unreachable("a test".into())) })
    }

    fn dispatch(&self, send: Dispatch) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            *self.sends.lock().unwrap() += 1;
            let fate = self.fates.lock().unwrap().pop_front().unwrap_or(Fate::Settles);
            let hash = Bolt11::decode(&send.bolt11).unwrap().hash;
            if matches!(fate, Fate::Settles | Fate::DiesPaid | Fate::UnknownPaid) {
                *self.paid.lock().unwrap().entry(hash).or_default() += 1;
            }
            match fate {
                Fate::Settles => Outcome::Settled { preimage: None, fee: Msat::sats(3) },
                Fate::Fails => Outcome::Failed { class: FailureClass::NoRoute },
                Fate::UnknownPaid | Fate::UnknownUnpaid => Outcome::Unknown { why: "a test".into() },
                Fate::DiesPaid | Fate::DiesUnpaid => std::future::pending().await,
            }
        })
    }

    fn resolve(&self, question: Resolve) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            match self.paid.lock().unwrap().get(&question.hash) {
                Some(_) => Outcome::Settled { preimage: None, fee: Msat::sats(3) },
                None => Outcome::NotFound,
            }
        })
    }
}

struct World {
    store: Store,
    clock: Arc<ManualClock>,
    node: Arc<Node>,
    key: PayoutKey,
    network: devnet::Devnet,
    _dir: tempfile::TempDir,
    payers: u8,
}

fn account_id() -> AccountId {
    AccountId::new(START, [1; 10])
}

impl World {
    async fn new() -> Self {
        let store = Store::open_memory().unwrap();
        let clock = Arc::new(ManualClock::at(START));
        let owner = Npub::from_bytes([1; 32]);
        let account = Account {
            id: account_id(),
            owner,
            name: String::new(),
            plan: "hosted".into(),
            hosting: Hosting::Paid,
            created_at: START,
        };
        let audit = Audit {
            at: START,
            account: Some(account_id()),
            actor: "test".into(),
            action: "account.create".into(),
            target: String::new(),
            detail: "{}".into(),
        };
        account::ensure(&store, account, audit).await.unwrap();
        let paid = Hash32::from_bytes([9; 32]);
        let invoice = NewInvoice {
            hash: paid,
            account: account_id(),
            amount: Msat::sats(CREDIT),
            memo: String::new(),
            origin: Origin::Account,
            sealed_preimage: Vec::new(),
            created_at: START,
            expires_at: START,
        };
        hosting::put_invoice(&store, invoice).await.unwrap();
        hosting::paid(&store, paid, Msat::sats(CREDIT), START).await.unwrap();
        clock.advance_ms(DAY_MS);
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap().parse().unwrap();
        let network = devnet::open(place, Parts::new(clock.clone(), Arc::new(SystemEntropy))).await.unwrap();
        let key = PayoutKey::of(&OperatorKey::generate(&SeededEntropy::new(1))).unwrap();
        Self { store, clock, node: Arc::new(Node::default()), key, network, _dir: dir, payers: 0 }
    }

    /// A process that pays, as after a start.
    fn payer(&mut self) -> Payer {
        self.payers += 1;
        Payer {
            store: self.store.clone(),
            clock: self.clock.clone(),
            node: self.node.clone(),
            network: Network::Regtest,
            signer: self.key.public(),
            id: WorkerId::from_bytes([self.payers; 16]),
            faults: Faults::default(),
            sent: Mutex::default(),
        }
    }

    /// The account's owner has an invoice of somebody's, and control orders that it is paid.
    async fn order(&self, sats: u64) -> NewPayout {
        let wallet = self.network.wallet(AccountKey::from_wallet_seed(b"the owner's own"));
        let made = wallet.create_invoice(InvoiceRequest::new(Msat::sats(sats), "refund")).await.unwrap();
        let invoice = Bolt11::decode(&made.bolt11).unwrap();
        let order = PayoutOrder {
            hash: invoice.hash,
            account: account_id(),
            bolt11: made.bolt11.clone(),
            amount: Msat::sats(sats),
            max_fee: Msat::sats(10),
            expires_at: invoice.expires_at,
        };
        NewPayout {
            hash: invoice.hash,
            account: account_id(),
            bolt11: made.bolt11,
            amount: order.amount,
            max_fee: order.max_fee,
            expires_at: order.expires_at,
            order: self.key.sign(&order).unwrap(),
            created_at: self.clock.now(),
        }
    }

    async fn is(&self, hash: Hash32) -> PaymentState {
        payout::get(&self.store, hash).await.unwrap().unwrap().state
    }

    async fn credit(&self) -> u64 {
        hosting::credit(&self.store, account_id()).await.unwrap().0.whole_sats()
    }

    async fn sound(&self) {
        assert_eq!(ledger::unsound(&self.store).await.unwrap(), Unsound::default());
    }
}

/// A round of somebody who is dead soon.
async fn dies(payer: &Payer) {
    assert!(tokio::time::timeout(Duration::from_millis(300), payer.round()).await.is_err(), "it should have hung");
}

#[tokio::test]
async fn whatever_becomes_of_a_send_it_is_paid_at_most_once() {
    for fate in [Fate::Settles, Fate::Fails, Fate::DiesPaid, Fate::DiesUnpaid, Fate::UnknownPaid, Fate::UnknownUnpaid] {
        let mut world = World::new().await;
        world.node.fates.lock().unwrap().push_back(fate);
        let new = world.order(1_000).await;
        let hash = new.hash;
        payout::order(&world.store, new).await.unwrap();
        world.sound().await;
        assert_eq!(world.credit().await, CREDIT - 1_010);
        let first = world.payer();
        if matches!(fate, Fate::DiesPaid | Fate::DiesUnpaid) {
            dies(&first).await;
            assert_eq!(world.is(hash).await, PaymentState::Dispatched);
        } else {
            first.round().await.unwrap();
        }
        world.sound().await;
        // Whoever comes after only asks, and believes in no "no" before the invoice is long over.
        let second = world.payer();
        for _ in 0..3 {
            world.clock.advance_ms(60_000);
            second.round().await.unwrap();
            first.round().await.unwrap();
            world.sound().await;
        }
        let paid = matches!(fate, Fate::Settles | Fate::DiesPaid | Fate::UnknownPaid);
        if !paid && fate != Fate::Fails {
            assert!(world.is(hash).await.unresolved(), "{fate:?}");
            assert_eq!(world.credit().await, CREDIT - 1_010, "{fate:?}: unknown is not failed");
            world.clock.advance_ms(2 * 3_600_000);
            second.round().await.unwrap();
        }
        let (state, credit) = match paid {
            true => (PaymentState::Settled, CREDIT - 1_003),
            false => (PaymentState::Failed, CREDIT),
        };
        assert_eq!((world.is(hash).await, world.credit().await), (state, credit), "{fate:?}");
        assert_eq!((world.node.sends(), world.node.times_paid()), (1, u32::from(paid)), "{fate:?}");
        let left = ledger::balance(&world.store, Book::Refunds(account_id())).await.unwrap();
        assert_eq!(left, 0, "{fate:?}");
        world.sound().await;
    }
}

#[tokio::test]
async fn before_it_is_sent_it_is_sent_by_whoever_comes() {
    let mut world = World::new().await;
    let new = world.order(700).await;
    let hash = new.hash;
    payout::order(&world.store, new.clone()).await.unwrap();
    // Ten processes at once: one of them sends.
    let payers: Vec<Payer> = (0..10).map(|_| world.payer()).collect();
    let all = futures::future::join_all(payers.iter().map(Payer::round)).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!((world.is(hash).await, world.node.sends(), world.node.times_paid()), (PaymentState::Settled, 1, 1));
    // The same again is refused: by its hash.
    let again = payout::order(&world.store, NewPayout { created_at: world.clock.now(), ..new }).await.unwrap_err();
    assert_eq!(again.conflict(), Some(&nexus_store::Conflict::PaymentHash));
    world.sound().await;
}

#[tokio::test]
async fn what_control_did_not_sign_is_not_paid() {
    let mut world = World::new().await;
    let good = world.order(1_000).await;
    let stranger = PayoutKey::of(&OperatorKey::generate(&SeededEntropy::new(2))).unwrap();
    let forged = verify(&good.order, &world.key.public()).unwrap();
    let bad = [
        NewPayout { order: stranger.sign(&forged).unwrap(), ..good.clone() },
        NewPayout { order: "{}".into(), ..good.clone() },
        NewPayout { amount: Msat::sats(900), ..good.clone() },
        NewPayout { max_fee: Msat::sats(900), ..good.clone() },
        NewPayout { hash: Hash32::from_bytes([3; 32]), ..good.clone() },
    ];
    for (n, bad) in bad.into_iter().enumerate() {
        let mut world = World { node: Arc::new(Node::default()), ..World::new().await };
        world.key = PayoutKey::of(&OperatorKey::generate(&SeededEntropy::new(1))).unwrap();
        let hash = bad.hash;
        payout::order(&world.store, bad).await.unwrap();
        let payer = world.payer();
        payer.round().await.unwrap();
        assert_eq!((world.is(hash).await, world.node.sends()), (PaymentState::Reserved, 0), "{n}");
        // Never sent, it gives its credit back when its invoice is over.
        world.clock.advance_ms(3 * 3_600_000);
        payer.round().await.unwrap();
        assert_eq!((world.is(hash).await, world.credit().await), (PaymentState::Canceled, CREDIT), "{n}");
        world.sound().await;
    }
    payout::order(&world.store, good).await.unwrap();
    let payer = world.payer();
    // Too late to be sent.
    world.clock.advance_ms(3_600_000);
    payer.round().await.unwrap();
    assert_eq!((world.node.sends(), world.credit().await), (0, CREDIT));
}
