//! Years of months under a manual clock, with a node that pays when told to.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_core::event::EventBody;
use nexus_core::hosting::{HostingRules, Plan};
use nexus_core::policy::Policy;
use nexus_core::rent::Rent;
use nexus_core::status::Hosting;
use nexus_core::{AccountId, Clock, Hash32, Msat, UnixMs};
use nexus_lightning::{
    Capabilities, Cursor, Custody, Driver, Health, Idempotency, Invoice, InvoiceRequest, InvoiceState, Kind,
    PreimageProof, Receive, Settlement, WalletError,
};
use nexus_seal::operator::OperatorKey;
use nexus_store::agent::StoredPolicy;
use nexus_store::hosting::{self, NewInvoice, Origin};
use nexus_store::ledger::{self, Unsound};
use nexus_store::{Store, agent, event, wallet_request};
use nexus_testkit::{ManualClock, SeededEntropy};

use super::*;
use crate::ControlConfig;
use crate::testing::{AGENT, START, app_with, hosted};

const DAY_MS: i64 = 86_400_000;
const FEE: u64 = 1_000;
const NODE: &str = "02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// What each invoice is said to be; what is not here was never made.
#[derive(Default)]
struct Node {
    invoices: Mutex<HashMap<Hash32, InvoiceState>>,
    told: Mutex<Vec<Settlement>>,
    making: Mutex<Making>,
    clock: Mutex<Option<Arc<ManualClock>>>,
}

/// What becomes of a call that makes an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Making {
    #[default]
    Away,
    /// Made, and the answer is lost.
    Lost,
    Makes,
}

impl Node {
    fn says(&self, hash: Hash32, state: InvoiceState) {
        self.invoices.lock().unwrap().insert(hash, state);
    }
}

impl Driver for Node {
    fn kind(&self) -> Kind {
        Kind::Dev
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: true,
            hold: false,
            lookup_out: false,
            idempotency: Idempotency::None,
            preimage: PreimageProof::Maybe,
            custody: Custody::Own,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        Box::pin(async { Err(WalletError::Unreachable("a test".into())) })
    }
}

impl Receive for Node {
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        let making = *self.making.lock().unwrap();
        let hash = request.preimage.as_ref().unwrap().hash();
        if making != Making::Away {
            self.invoices.lock().unwrap().entry(hash).or_insert(InvoiceState::Open);
        }
        let now = self.clock.lock().unwrap().as_ref().unwrap().now();
        let expires_at = now.plus_ms(i64::from(request.expiry_s) * 1_000);
        let made = Invoice { bolt11: format!("lnbcrt-{hash}"), hash, expires_at, cursor: Cursor(0) };
        Box::pin(async move {
            match making {
                Making::Makes => Ok(made),
                Making::Away | Making::Lost => Err(WalletError::Unreachable("a test".into())),
            }
        })
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        let found = self.invoices.lock().unwrap().get(&hash).cloned();
        Box::pin(async move { Ok(found.unwrap_or(InvoiceState::NotFound)) })
    }

    fn settlements(&self, _: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        Box::pin(futures::stream::iter(std::mem::take(&mut *self.told.lock().unwrap()).into_iter().map(Ok)))
    }
}

struct World {
    store: Store,
    clock: Arc<ManualClock>,
    node: Arc<Node>,
    app: Shared,
    invoices: u8,
}

impl World {
    async fn at(text: &str) -> Self {
        let start = UnixMs(text.parse::<jiff::Timestamp>().unwrap().as_millisecond());
        let store = Store::open_memory().unwrap();
        let clock = Arc::new(ManualClock::at(start));
        let node = Arc::new(Node::default());
        *node.clock.lock().unwrap() = Some(clock.clone());
        let plans = BTreeMap::from([("hosted".to_owned(), Plan { fee_sats: FEE, ..Plan::default() })]);
        let billing =
            Billing { rules: HostingRules::default(), plans, node: node.clone(), identity: Some(NODE.to_owned()) };
        let config = ControlConfig::new("http://127.0.0.1".parse().unwrap());
        let operator_key = Some(Arc::new(OperatorKey::generate(&SeededEntropy::new(1))));
        let app = app_with(&store, &clock, ControlConfig { billing: Some(billing), operator_key, ..config });
        hosted(&store).await;
        Self { store, clock, node, app, invoices: 0 }
    }

    async fn round(&self) {
        round(&self.app, self.app.config.billing.as_ref().unwrap()).await.unwrap();
        assert_eq!(ledger::unsound(&self.store).await.unwrap(), Unsound::default());
    }

    /// One round every six hours.
    async fn days(&self, days: i64) {
        for _ in 0..days * 4 {
            self.clock.advance_ms(DAY_MS as u64 / 4);
            self.round().await;
        }
    }

    async fn invoice(&mut self) -> Hash32 {
        self.invoices += 1;
        let (hash, now) = (Hash32::from_bytes([self.invoices; 32]), self.clock.now());
        let invoice = NewInvoice {
            hash,
            account: AccountId::new(START, [1; 10]),
            amount: Msat::sats(FEE),
            memo: "Hosting".into(),
            origin: Origin::Account,
            sealed_preimage: Vec::new(),
            created_at: now,
            expires_at: now.plus_ms(3_600_000),
        };
        hosting::put_invoice(&self.store, invoice).await.unwrap();
        self.node.says(hash, InvoiceState::Open);
        hash
    }

    fn pays(&self, hash: Hash32, sats: u64) {
        let state = InvoiceState::Settled { amount: Msat::sats(sats), preimage: None, at: self.clock.now() };
        self.node.says(hash, state);
    }

    async fn is(&self) -> Hosting {
        agent::get(&self.store, AGENT).await.unwrap().unwrap().hosting
    }

    /// Standings and notices as they were told, each with its day.
    async fn told(&self) -> Vec<String> {
        let events = event::after(&self.store, AGENT, 0, event::MAX_PAGE).await.unwrap();
        let told = events.into_iter().filter_map(|stored| {
            let what = match stored.event.body {
                EventBody::HostingChanged { state } => state.as_str().to_owned(),
                EventBody::HostingEnds { days, .. } => format!("ends in {days}"),
                _ => return None,
            };
            let at = jiff::Timestamp::from_millisecond(stored.event.at.0).unwrap();
            Some(format!("{} {what}", at.strftime("%y-%m-%d")))
        });
        told.collect()
    }
}

#[tokio::test]
async fn two_years_of_months_then_notices_grace_the_end_and_revival() {
    let mut world = World::at("2027-01-28T00:00:00Z").await;
    let hash = world.invoice().await;
    world.pays(hash, FEE * 24);
    world.round().await;
    assert_eq!(world.is().await, Hosting::Trial);
    // The trial ends on the 31st: 24 months from there, across a leap year.
    world.days(3 + 731 + 30).await;
    assert_eq!(world.is().await, Hosting::Suspended);
    let entries = ledger::entries(&world.store, AccountId::new(START, [1; 10]), UnixMs(i64::MAX), 99).await.unwrap();
    let months = entries.iter().filter(|entry| entry.kind == "month");
    let days: Vec<String> = months
        .map(|entry| jiff::Timestamp::from_millisecond(entry.at.0).unwrap().strftime("%y-%m-%d").to_string())
        .collect();
    assert_eq!(days.len(), 24);
    assert!(
        ["27-01-31", "27-02-28", "28-02-29", "28-12-31"].iter().all(|day| days.contains(&(*day).to_owned())),
        "{days:?}"
    );
    assert_eq!(
        world.told().await,
        [
            "27-01-28 trial",
            "27-01-31 paid",
            "29-01-24 ends in 7",
            "29-01-28 ends in 3",
            "29-01-30 ends in 1",
            "29-01-31 grace",
            "29-02-07 suspended"
        ]
    );

    // Paid again: it lives in the next round, and owes nothing for the time that it did not tick.
    let hash = world.invoice().await;
    world.round().await;
    assert_eq!(world.is().await, Hosting::Suspended);
    world.pays(hash, FEE);
    world.clock.advance_ms(1_000);
    world.round().await;
    assert_eq!(world.is().await, Hosting::Paid);
    let billed = hosting::billed(&world.store, AGENT).await.unwrap().unwrap();
    let term = billed.term.unwrap();
    assert_eq!((term.from, term.months, billed.credit), (world.clock.now(), 1, Msat::ZERO));
}

#[tokio::test]
async fn what_is_paid_in_grace_is_the_month_that_is_owed() {
    let mut world = World::at("2027-03-01T00:00:00Z").await;
    let hash = world.invoice().await;
    world.pays(hash, FEE);
    world.round().await;
    world.days(3 + 31 + 4).await;
    assert_eq!(world.is().await, Hosting::Grace);
    let hash = world.invoice().await;
    world.pays(hash, FEE + 1);
    world.clock.advance_ms(1_000);
    world.round().await;
    let billed = hosting::billed(&world.store, AGENT).await.unwrap().unwrap();
    let until = jiff::Timestamp::from_millisecond(billed.term.unwrap().paid_until.0).unwrap();
    assert_eq!((until.to_string().as_str(), billed.credit), ("2027-05-04T00:00:00Z", Msat::sats(1)));
    assert_eq!(world.is().await, Hosting::Paid);
}

#[tokio::test]
async fn a_trial_that_nobody_pays_for_ends_at_once() {
    let world = World::at("2027-03-01T00:00:00Z").await;
    world.round().await;
    world.days(5).await;
    assert_eq!(world.told().await, ["27-03-01 trial", "27-03-03 ends in 1", "27-03-04 suspended"]);
}

#[tokio::test]
async fn a_late_payment_and_a_node_that_is_away() {
    let mut world = World::at("2027-03-01T00:00:00Z").await;
    let hash = world.invoice().await;
    world.node.says(hash, InvoiceState::Canceled);
    world.clock.advance_ms(3_600_000 + 30_000);
    world.round().await;
    assert_eq!(hosting::invoice(&world.store, hash).await.unwrap().unwrap().state, "expired");
    // It was paid in the last moment, and the node says so only now.
    world.pays(hash, FEE);
    world.clock.advance_ms(600_000);
    world.round().await;
    let billed = hosting::billed(&world.store, AGENT).await.unwrap().unwrap();
    assert_eq!(billed.credit, Msat::sats(FEE));
    // Nothing is asked for ever.
    let never = world.invoice().await;
    world.node.says(never, InvoiceState::NotFound);
    world.days(3).await;
    assert!(hosting::to_look_at(&world.store, world.clock.now().plus_ms(DAY_MS * 99), 9).await.unwrap().is_empty());
    // The months were forgotten for a year while no control plane ran: one is charged, from now on.
    world.clock.advance_ms(365 * DAY_MS as u64);
    world.round().await;
    let billed = hosting::billed(&world.store, AGENT).await.unwrap().unwrap();
    assert_eq!((billed.hosting, billed.credit), (Hosting::Suspended, Msat::ZERO), "its one month was charged in time");
}

#[tokio::test]
async fn an_audit_finds_a_planted_difference() {
    let mut world = World::at("2027-03-01T00:00:00Z").await;
    let billing = world.app.config.billing.clone().unwrap();
    let hash = world.invoice().await;
    world.pays(hash, FEE);
    world.round().await;
    assert_eq!(audit(&world.app, &billing).await.unwrap(), (0, 0));
    // The node never had the money, or not all of it.
    world.node.says(hash, InvoiceState::Canceled);
    assert_eq!(audit(&world.app, &billing).await.unwrap(), (0, 1));
    world.pays(hash, FEE - 1);
    assert_eq!(audit(&world.app, &billing).await.unwrap(), (0, 1));
    let text = world.app.metrics.render().unwrap();
    assert!(text.contains("nexus_node_differences 1") && text.contains("nexus_ledger_unsound 0"), "{text}");
}

#[tokio::test]
async fn what_the_node_was_paid_before_is_none_of_ours() {
    let world = World::at("2027-03-01T00:00:00Z").await;
    let (billing, since) = (world.app.config.billing.clone().unwrap(), world.clock.now());
    let of = |n: u8, ms: i64| Settlement {
        cursor: Cursor(u64::from(n)),
        hash: Hash32::from_bytes([n; 32]),
        amount: Msat::sats(5),
        at: since.plus_ms(ms),
    };
    let app = &world.app;
    app.reconciler.round(nexus_core::MonoMs(1), true, 0);
    let place = Place { cursor: CURSOR.to_owned(), since: SINCE.to_owned() };
    let follow = async |told: Vec<Settlement>| {
        *world.node.told.lock().unwrap() = told;
        let told = |told, before| settled(app, &billing, told, before).boxed();
        till::settlements(app, &*billing.node, &place, &told).await.unwrap();
    };
    follow(vec![of(1, -DAY_MS)]).await;
    assert_eq!(ledger::balance(&world.store, ledger::Book::Suspense).await.unwrap(), 0);
    follow(vec![of(2, 1), of(2, 1)]).await;
    assert_eq!(ledger::balance(&world.store, ledger::Book::Suspense).await.unwrap(), -5_000);
    assert_eq!(nexus_store::installation::get(&world.store, CURSOR).await.unwrap().as_deref(), Some("2"));
}

impl World {
    /// The owner signs the next version, with this much of rent a month.
    async fn signs(&self, version: u64, rent: Option<(u64, &str)>) {
        let mut policy = Policy { version, ..Policy::default_for(AGENT) };
        policy.rent = rent.map(|(sats, payee)| Rent { month_msat: Msat::sats(sats), payee: payee.to_owned() });
        let event = serde_json::json!({
            "id": "11".repeat(32), "pubkey": "22".repeat(32), "created_at": 1, "kind": 30078, "tags": [],
            "content": serde_json::to_string(&policy).unwrap(), "sig": "33".repeat(64),
        });
        let stored = StoredPolicy { version: i64::try_from(version).unwrap(), event: event.to_string() };
        agent::set_policy(&self.store, AGENT, stored, crate::testing::audit("agent.policy")).await.unwrap();
        nexus_store::rent::look_now(&self.store, AGENT).await.unwrap();
    }

    /// Invoices that control has asked the agent's worker to pay and that are not answered, each once.
    async fn asked(&self) -> std::collections::BTreeSet<String> {
        let waiting = wallet_request::waiting(&self.store, AGENT, self.clock.now()).await.unwrap();
        waiting.into_iter().filter(|request| request.kind == "rent").map(|request| request.body).collect()
    }

    async fn latest(&self) -> nexus_store::rent::Rent {
        nexus_store::rent::latest(&self.store, AGENT).await.unwrap().unwrap()
    }

    async fn problem(&self) -> String {
        let billing = self.app.config.billing.as_ref().unwrap();
        rent::problem(&self.app, billing, AGENT, Msat::sats(FEE)).await.unwrap().unwrap_or_default()
    }

    fn made(&self) -> usize {
        self.node.invoices.lock().unwrap().len()
    }

    async fn seconds(&self, seconds: u64) {
        for _ in 0..seconds.div_ceil(5) {
            self.clock.advance_ms(5_000);
            self.round().await;
        }
    }
}

#[tokio::test]
async fn rent_is_asked_for_a_day_ahead_once_and_its_month_is_charged_from_it() {
    let world = World::at("2027-03-01T00:00:00Z").await;
    *world.node.making.lock().unwrap() = Making::Makes;
    world.signs(1, Some((FEE + 10, NODE))).await;
    world.round().await;
    world.clock.advance_ms(2 * DAY_MS as u64 - 1);
    world.round().await;
    assert_eq!((world.made(), world.asked().await.len()), (0, 0), "the trial goes on for a day and a bit");
    world.clock.advance_ms(2);
    world.round().await;
    world.seconds(60).await;
    assert_eq!((world.made(), world.asked().await.len()), (1, 1), "one invoice, whatever is asked how often");
    let first = world.latest().await;
    assert_eq!((first.amount, first.state.as_str()), (Msat::sats(FEE), "open"));
    world.pays(first.hash, FEE);
    world.seconds(30).await;
    // Paid ahead: credit until the month begins.
    let billed = hosting::billed(&world.store, AGENT).await.unwrap().unwrap();
    assert_eq!((billed.hosting, billed.credit), (Hosting::Trial, Msat::sats(FEE)));
    world.days(2).await;
    let billed = hosting::billed(&world.store, AGENT).await.unwrap().unwrap();
    assert_eq!((billed.hosting, billed.credit, world.made()), (Hosting::Paid, Msat::ZERO, 1));
    // A month later, again; and nobody was warned.
    world.days(29).await;
    assert_eq!(world.made(), 2);
    world.pays(world.latest().await.hash, FEE);
    world.days(2).await;
    let told = world.told().await;
    assert!(told.iter().all(|told| !["ends", "grace", "suspended"].iter().any(|bad| told.contains(bad))), "{told:?}");
}

#[tokio::test]
async fn with_a_cap_too_low_grace_goes_by_and_a_higher_one_revives() {
    let mut world = World::at("2027-03-01T00:00:00Z").await;
    *world.node.making.lock().unwrap() = Making::Makes;
    let hash = world.invoice().await;
    world.pays(hash, FEE);
    world.round().await;
    world.signs(1, Some((FEE - 1, NODE))).await;
    world.days(3 + 31 + 4).await;
    assert_eq!((world.is().await, world.made()), (Hosting::Grace, 1), "no invoice that nobody will pay");
    assert!(world.problem().await.contains("its policy allows"), "{}", world.problem().await);
    world.days(7).await;
    assert_eq!(world.is().await, Hosting::Suspended);
    world.signs(2, Some((FEE * 2, "03bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"))).await;
    world.seconds(30).await;
    assert_eq!((world.made(), world.problem().await.contains("another node")), (1, true));
    world.signs(3, Some((FEE * 2, NODE))).await;
    world.seconds(20).await;
    assert_eq!((world.made(), world.asked().await.len()), (2, 1));
    world.pays(world.latest().await.hash, FEE);
    world.seconds(10).await;
    assert_eq!(world.is().await, Hosting::Paid);
    world.signs(4, None).await;
    world.days(40).await;
    assert_eq!((world.is().await, world.made()), (Hosting::Suspended, 2));
}

#[tokio::test]
async fn there_is_no_second_invoice_while_the_first_may_be_paid() {
    let world = World::at("2027-03-01T00:00:00Z").await;
    world.signs(1, Some((FEE * 3, NODE))).await;
    // The node is away, then makes it and loses its answer, then says which it made.
    world.days(3).await;
    for _ in 0..100 {
        world.seconds(30).await;
        if world.latest().await.state == "expired" {
            break;
        }
    }
    let first = world.latest().await;
    assert_eq!((first.bolt11.as_str(), world.made(), world.asked().await.len()), ("", 0, 0));
    // That one was never made, and by the node's word never will be.
    *world.node.making.lock().unwrap() = Making::Lost;
    for _ in 0..300 {
        world.seconds(30).await;
        if world.latest().await.hash != first.hash {
            break;
        }
    }
    let second = world.latest().await;
    assert!(second.hash != first.hash && second.bolt11.is_empty());
    // Asked again it makes the same one.
    *world.node.making.lock().unwrap() = Making::Makes;
    world.seconds(20).await;
    let open = world.latest().await;
    assert_eq!((open.hash, open.bolt11.is_empty(), world.made()), (second.hash, false, 1));
    assert_eq!(world.asked().await.len(), 1);
    // Nobody pays, and the node still calls it open long after: it may yet be paid.
    let (made, open) = (world.made(), world.latest().await);
    world.seconds(3_600).await;
    assert_eq!((world.made(), world.latest().await.hash), (made, open.hash));
    // Dead by the node's word: another is made, later each time.
    world.node.says(open.hash, InvoiceState::Canceled);
    world.seconds(4_000).await;
    let next = world.latest().await;
    assert_ne!(next.hash, open.hash);
    // Late money for the dead one is credit, and then nothing more is asked for.
    world.pays(open.hash, FEE);
    world.seconds(700).await;
    assert_eq!(hosting::billed(&world.store, AGENT).await.unwrap().unwrap().credit, Msat::sats(FEE));
    let last = world.made();
    world.node.says(next.hash, InvoiceState::Canceled);
    world.days(3).await;
    assert_eq!((world.is().await, world.made()), (Hosting::Paid, last));
}
