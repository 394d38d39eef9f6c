//! Renewal under a manual clock, with a node and a wallet that do as they are told.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_core::Hash32;
use nexus_core::hosting::{HostingRules, Plan};
use nexus_core::status::Hosting;
use nexus_lightning::{
    Capabilities, Cursor, Custody, Driver, Health, Idempotency, InvoiceRequest, InvoiceState, Kind, PreimageProof,
    Quote, Receive, Settlement, WalletStorage,
};
use nexus_seal::operator::OperatorKey;
use nexus_store::renewal::NewRenewal;
use nexus_store::{Store, agent};
use nexus_testkit::{ManualClock, SeededEntropy};

use super::*;
use crate::ControlConfig;
use crate::testing::{AGENT, START, app_with, audit, hosted};

const FEE: u64 = 1_000;

/// What the wallet does with the next request to pay.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Pays,
    /// Pays, and the answer is lost.
    PaysSilently,
    /// Never hears of it.
    Lost,
    Refuses(FailureClass),
}

struct Both {
    clock: Arc<ManualClock>,
    /// The node: none while it is away.
    up: Mutex<bool>,
    invoices: Mutex<HashMap<Hash32, (InvoiceState, UnixMs)>>,
    act: Mutex<Act>,
    balance: Mutex<Result<Msat, WalletError>>,
    /// What the wallet paid, by hash, and how often it was asked to pay anything.
    paid: Mutex<HashMap<Hash32, u32>>,
    asked: Mutex<u32>,
}

fn able(pay: bool) -> Capabilities {
    Capabilities {
        receive: !pay,
        hold: false,
        lookup_out: true,
        idempotency: Idempotency::ByHash,
        preimage: PreimageProof::Always,
        custody: Custody::Custodial,
    }
}

struct Node(Arc<Both>);
struct Wallet(Arc<Both>);

impl Driver for Node {
    fn kind(&self) -> Kind {
        Kind::Dev
    }

    fn capabilities(&self) -> Capabilities {
        able(false)
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        Box::pin(async { Err(WalletError::Unreachable("a test".into())) })
    }
}

impl Receive for Node {
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<nexus_lightning::Invoice, WalletError>> {
        let hash = request.preimage.as_ref().unwrap().hash();
        let expires_at = self.0.now().plus_ms(i64::from(request.expiry_s) * 1_000);
        let up = *self.0.up.lock().unwrap();
        if up {
            self.0.invoices.lock().unwrap().entry(hash).or_insert((InvoiceState::Open, expires_at));
        }
        let made = nexus_lightning::Invoice { bolt11: hash.to_string(), hash, expires_at, cursor: Cursor(0) };
        Box::pin(async move { if up { Ok(made) } else { Err(WalletError::Unreachable("away".into())) } })
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        let found = self.0.invoices.lock().unwrap().get(&hash).cloned();
        let now = self.0.now();
        Box::pin(async move {
            Ok(match found {
                Some((InvoiceState::Open, expires_at)) if now >= expires_at => InvoiceState::Canceled,
                Some((state, _)) => state,
                None => InvoiceState::NotFound,
            })
        })
    }

    fn settlements(&self, _: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        Box::pin(futures::stream::empty())
    }
}

impl Driver for Wallet {
    fn kind(&self) -> Kind {
        Kind::Nwc
    }

    fn capabilities(&self) -> Capabilities {
        able(true)
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        Box::pin(async { Err(WalletError::Unreachable("a test".into())) })
    }

    fn balance(&self) -> BoxFuture<'_, Result<Msat, WalletError>> {
        let balance = self.0.balance.lock().unwrap().clone();
        Box::pin(async move { balance })
    }
}

impl Pay for Wallet {
    fn quote(&self, _: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>> {
        Box::pin(async { Ok(Quote { max_fee: Msat::sats(10), handle: None, expires_at: None }) })
    }

    fn dispatch(&self, send: Dispatch) -> BoxFuture<'_, Outcome> {
        *self.0.asked.lock().unwrap() += 1;
        let hash: Hash32 = send.bolt11.parse().unwrap();
        let unknown = Outcome::Unknown { why: "no answer".into() };
        let outcome = match *self.0.act.lock().unwrap() {
            Act::Pays => self.0.pay(hash),
            Act::PaysSilently => {
                self.0.pay(hash);
                unknown
            }
            Act::Lost => unknown,
            Act::Refuses(class) => Outcome::Failed { class },
        };
        Box::pin(async move { outcome })
    }

    fn resolve(&self, question: Resolve) -> BoxFuture<'_, Outcome> {
        let outcome = match self.0.paid.lock().unwrap().contains_key(&question.hash) {
            true => Outcome::Settled { preimage: None, fee: Msat::sats(1) },
            // As the driver says of what was never stored: whether to believe it is the caller's.
            false => Outcome::NotFound,
        };
        Box::pin(async move { outcome })
    }
}

impl Both {
    fn now(&self) -> UnixMs {
        nexus_core::Clock::now(&*self.clock)
    }

    fn pay(&self, hash: Hash32) -> Outcome {
        *self.paid.lock().unwrap().entry(hash).or_default() += 1;
        let settled = InvoiceState::Settled { amount: Msat::sats(FEE), preimage: None, at: self.now() };
        self.invoices.lock().unwrap().insert(hash, (settled, self.now()));
        Outcome::Settled { preimage: None, fee: Msat::sats(1) }
    }
}

struct Wallets(Arc<Both>);

impl OwnerWallets for Wallets {
    fn open(&self, _: Connection, _: Arc<dyn WalletStorage>) -> Arc<dyn Pay> {
        Arc::new(Wallet(self.0.clone()))
    }
}

struct World {
    store: Store,
    both: Arc<Both>,
    app: Shared,
}

fn account() -> AccountId {
    AccountId::new(START, [1; 10])
}

impl World {
    /// An agent whose trial is over at once.
    async fn new(cap: u64) -> Self {
        let store = Store::open_memory().unwrap();
        let clock = Arc::new(ManualClock::at(UnixMs(1_800_000_000_000)));
        let both = Arc::new(Both {
            clock: clock.clone(),
            up: Mutex::new(true),
            invoices: Mutex::default(),
            act: Mutex::new(Act::Pays),
            balance: Mutex::new(Ok(Msat::sats(50_000))),
            paid: Mutex::default(),
            asked: Mutex::default(),
        });
        let plans = BTreeMap::from([("hosted".to_owned(), Plan { fee_sats: FEE, ..Plan::default() })]);
        let rules = HostingRules { trial_days: 0, ..HostingRules::default() };
        let billing = Billing { rules, plans, node: Arc::new(Node(both.clone())), identity: None };
        let operator_key = Some(Arc::new(OperatorKey::generate(&SeededEntropy::new(1))));
        let config = ControlConfig {
            billing: Some(billing),
            operator_key,
            owner_wallets: Some(Arc::new(Wallets(both.clone()))),
            ..ControlConfig::new("http://127.0.0.1".parse().unwrap())
        };
        let app = app_with(&store, &clock, config);
        hosted(&store).await;
        let world = Self { store, both, app };
        world.connect(cap).await;
        world
    }

    async fn connect(&self, cap: u64) {
        let uri = format!(
            "nostr+walletconnect://{}?relay=wss%3A%2F%2Frelay.example&secret={}",
            "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
            "1".repeat(64)
        );
        let key = self.app.config.operator_key.as_ref().unwrap();
        let sealed = key.seal(&purpose(account()), uri.as_bytes(), &*self.app.entropy).unwrap();
        let new = NewRenewal { account: account(), sealed, wallet: "w".into(), cap: Msat::sats(cap) };
        renewal::put(&self.store, new, self.both.now(), audit("renewal.put")).await.unwrap();
    }

    fn billing(&self) -> &Billing {
        self.app.config.billing.as_ref().unwrap()
    }

    /// Rounds of both, a second between them.
    async fn seconds(&self, seconds: u64) {
        for _ in 0..seconds {
            hosting::round(&self.app, self.billing()).await.unwrap();
            round(&self.app, self.billing(), &Wallets(self.both.clone())).await.unwrap();
            self.both.clock.advance_ms(1_000);
        }
    }

    /// The same, a minute between them.
    async fn minutes(&self, minutes: u64) {
        for _ in 0..minutes {
            self.seconds(1).await;
            self.both.clock.advance_ms(59_000);
        }
    }

    async fn row(&self) -> Renewal {
        renewal::get(&self.store, account()).await.unwrap().unwrap()
    }

    async fn is(&self) -> Hosting {
        agent::get(&self.store, AGENT).await.unwrap().unwrap().hosting
    }

    fn asked(&self) -> u32 {
        *self.both.asked.lock().unwrap()
    }

    fn payments(&self) -> Vec<u32> {
        self.both.paid.lock().unwrap().values().copied().collect()
    }

    fn act(&self, act: Act) {
        *self.both.act.lock().unwrap() = act;
    }
}

#[tokio::test]
async fn what_is_owed_is_paid_once_and_the_next_month_a_day_before() {
    let world = World::new(5_000).await;
    world.seconds(20).await;
    assert_eq!((world.is().await, world.payments()), (Hosting::Paid, vec![1]));
    let row = world.row().await;
    assert_eq!((row.stage, row.spent, row.problem), (Stage::None, Msat::sats(FEE + 1), None));
    // Nothing more until a day before the end.
    let until = books::billed(&world.store, AGENT).await.unwrap().unwrap().term.unwrap().paid_until;
    world.both.clock.advance_ms((until.0 - world.both.now().0 - 86_400_000 - 120_000) as u64);
    world.seconds(60).await;
    assert_eq!(world.asked(), 1);
    world.minutes(3).await;
    assert_eq!((world.asked(), world.payments()), (2, vec![1, 1]));
    world.both.clock.advance_ms(86_400_000);
    world.seconds(3).await;
    assert_eq!((world.is().await, world.asked()), (Hosting::Paid, 2));
}

#[tokio::test]
async fn a_lost_answer_is_looked_up_and_never_asked_again() {
    let world = World::new(5_000).await;
    world.act(Act::PaysSilently);
    world.seconds(30).await;
    assert_eq!((world.is().await, world.asked(), world.payments()), (Hosting::Paid, 1, vec![1]));
    assert_eq!(world.row().await.stage, Stage::None);
}

#[tokio::test]
async fn no_second_invoice_before_the_first_is_surely_dead() {
    let world = World::new(5_000).await;
    world.act(Act::Lost);
    world.seconds(5).await;
    assert_eq!((world.row().await.stage, world.asked()), (Stage::Sent, 1));
    let first = world.row().await.hash;
    // Ten minutes of its life, and the margin after it.
    world.minutes(19).await;
    assert_eq!((world.row().await.hash, world.asked()), (first, 1));
    world.act(Act::Pays);
    world.minutes(10).await;
    assert_eq!((world.is().await, world.asked(), world.payments()), (Hosting::Paid, 2, vec![1]));
    assert_ne!(world.both.paid.lock().unwrap().keys().next().copied(), first);
    assert_eq!(world.row().await.spent, Msat::sats(FEE + 1), "what was held for the first is free");
}

#[tokio::test]
async fn a_crash_at_each_step_pays_once() {
    // Begun, and the node was not asked.
    let world = World::new(5_000).await;
    *world.both.up.lock().unwrap() = false;
    world.seconds(3).await;
    assert_eq!((world.row().await.stage, world.asked()), (Stage::Begun, 0));
    *world.both.up.lock().unwrap() = true;
    world.seconds(30).await;
    assert_eq!((world.is().await, world.payments()), (Hosting::Paid, vec![1]));

    // Sent by one that died before it asked the wallet: the heir only looks up.
    let world = World::new(5_000).await;
    *world.both.up.lock().unwrap() = false;
    world.seconds(3).await;
    renewal::send(&world.store, &world.row().await, world.both.now()).await.unwrap();
    *world.both.up.lock().unwrap() = true;
    world.minutes(15).await;
    assert_eq!((world.row().await.stage, world.asked()), (Stage::Sent, 0));
    world.minutes(15).await;
    assert_eq!((world.is().await, world.asked(), world.payments()), (Hosting::Paid, 1, vec![1]));
}

#[tokio::test]
async fn two_control_planes_pay_once() {
    let world = World::new(5_000).await;
    hosting::round(&world.app, world.billing()).await.unwrap();
    let wallets = Wallets(world.both.clone());
    for _ in 0..30 {
        let rounds = (0..4).map(|_| round(&world.app, world.billing(), &wallets));
        for done in futures::future::join_all(rounds).await {
            done.unwrap();
        }
        world.both.clock.advance_ms(1_000);
    }
    assert_eq!((world.asked(), world.payments()), (1, vec![1]));
    assert_eq!(books::invoices(&world.store, account(), 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_cap_the_balance_and_refusals_are_told() {
    let world = World::new(1_005).await;
    world.seconds(5).await;
    let row = world.row().await;
    assert!(row.problem.as_ref().is_some_and(|why| why.contains("raise the cap")), "{row:?}");
    assert_eq!((world.asked(), row.spent, row.enabled), (0, Msat::ZERO, true));
    assert_eq!(books::invoices(&world.store, account(), 9).await.unwrap(), []);

    *world.both.balance.lock().unwrap() = Ok(Msat::sats(3));
    world.connect(5_000).await;
    world.seconds(5).await;
    assert!(world.row().await.problem.unwrap().contains("the wallet has 3"));

    *world.both.balance.lock().unwrap() = Ok(Msat::sats(50_000));
    world.act(Act::Refuses(FailureClass::NoFunds));
    world.connect(5_000).await;
    world.minutes(60).await;
    let row = world.row().await;
    // After 1, 2, 4, 8, 16 minutes, and so on.
    assert!(row.enabled && (4..=7).contains(&row.failures), "{row:?}");
    assert_eq!((row.spent, world.payments()), (Msat::ZERO, vec![]));

    world.act(Act::Refuses(FailureClass::Auth));
    world.connect(5_000).await;
    world.minutes(5).await;
    let (row, asked) = (world.row().await, world.asked());
    assert!(!row.enabled && row.problem.as_ref().unwrap().contains("make another"), "{row:?}");
    world.minutes(600).await;
    assert_eq!(world.asked(), asked, "what was refused is not tried again");

    // A new connection is tried at once.
    world.act(Act::Pays);
    world.connect(5_000).await;
    world.seconds(20).await;
    assert_eq!((world.is().await, world.payments()), (Hosting::Paid, vec![1]));
}
