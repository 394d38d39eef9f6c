//! A Cashu wallet when things go wrong: storage that fails at each write, a mint that is down, slow or killed, requests
//! that cannot be met, and the seed alone. Against a real mint (Nutshell) over a node of ours that answers as LND does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cashu_bench;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cashu_bench::{Way, Wire, config, fund, mint_at, settled, wallet};
use futures::future::BoxFuture;
use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Clock, Hash32, Msat};
use nexus_lightning::cashu::{CashuConfig, CashuWallet, WalletSeed};
use nexus_lightning::lnd::{InvoiceMacaroon, LndReceive, NodeConfig, Trust};
use nexus_lightning::storage::{Change, MemoryStorage, Record};
use nexus_lightning::{
    Description, Dispatch, Driver, InvoiceRequest, InvoiceState, Network, Pay, PayRequest, Preimage, Receive,
    StorageError, WalletError, WalletStorage, decode_bolt11,
};
use nexus_testkit::TestClock;
use nexus_testkit::lnd::{Course, FUNDS_MSAT, Pair, Wire as NodeWire};
use nexus_testkit::mint::Mint;
use zeroize::Zeroizing;

struct World {
    pair: Pair,
    mint: Mint,
    way: Arc<Way>,
    payee: LndReceive,
    clock: Arc<TestClock>,
}

impl World {
    async fn new() -> Self {
        let pair = Pair::start().await;
        let mint = mint_at(&pair.payer).await;
        let clock: Arc<TestClock> = Arc::default();
        let way = Way::to(&mint.url(), clock.clone());
        let node = &pair.payee;
        let trust = Trust::File(node.certificate_file());
        let config = NodeConfig::new(&node.url(), trust, &node.identity(), Network::Regtest).unwrap();
        let macaroon = InvoiceMacaroon::read(&node.invoice_macaroon_file()).unwrap();
        Self { payee: LndReceive::new(config, macaroon, clock.clone()), pair, mint, way, clock }
    }

    fn wallet(&self, seed: u8, storage: Arc<dyn WalletStorage>) -> CashuWallet {
        wallet(&self.mint.url(), seed, self.way.clone(), storage)
    }

    async fn invoice(&self, msat: u64) -> String {
        let request = InvoiceRequest::new(Msat::new(msat), "faults");
        self.payee.create_invoice(request).await.unwrap().bolt11
    }

    async fn quoted(&self, wallet: &CashuWallet, bolt11: &str) -> Result<Dispatch, WalletError> {
        let quote = wallet.quote(PayRequest { bolt11: bolt11.to_owned(), amount: None }).await?;
        Ok(Dispatch {
            payment_id: "the payment".to_owned(),
            attempt: 1,
            key: "key".to_owned(),
            bolt11: bolt11.to_owned(),
            amount: None,
            max_fee: quote.max_fee,
            deadline: self.clock.mono().plus_ms(60_000),
            handle: quote.handle,
        })
    }

    async fn paid(&self, hash: Hash32) -> bool {
        matches!(self.payee.lookup_invoice(hash).await.unwrap(), InvoiceState::Settled { .. })
    }
}

fn hash_of(bolt11: &str) -> Hash32 {
    decode_bolt11(bolt11).unwrap().hash
}

/// Fails one write, before or after it took effect.
struct Failing {
    inner: MemoryStorage,
    count: AtomicU64,
    at: u64,
    after: bool,
}

impl Failing {
    fn new(inner: &MemoryStorage, at: u64, after: bool) -> Arc<Self> {
        Arc::new(Self { inner: inner.clone(), count: AtomicU64::new(0), at, after })
    }

    fn failed(&self) -> bool {
        self.count.load(Ordering::SeqCst) >= self.at
    }
}

impl WalletStorage for Failing {
    fn list(&self, space: &'static str) -> BoxFuture<'_, Result<Vec<Record>, StorageError>> {
        self.inner.list(space)
    }

    fn get<'a>(
        &'a self,
        space: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Zeroizing<Vec<u8>>>, StorageError>> {
        self.inner.get(space, key)
    }

    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            if self.count.fetch_add(1, Ordering::SeqCst) + 1 != self.at {
                return self.inner.write(changes).await;
            }
            if self.after {
                self.inner.write(changes).await?;
            }
            Err(StorageError::Unavailable("the disk is away".to_owned()))
        })
    }
}

async fn certain(wallet: &CashuWallet, send: &Dispatch, hash: Hash32) -> Outcome {
    for _ in 0..400 {
        match wallet.resolve(send.resolve(hash)).await {
            Outcome::Pending | Outcome::Unknown { .. } => tokio::time::sleep(Duration::from_millis(25)).await,
            certain => return certain,
        }
    }
    panic!("not certain within ten seconds");
}

/// Whichever write of a payment fails, the heir ends it: paid once, and the balance is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_fails_while_paying() {
    let world = World::new().await;
    let records = MemoryStorage::default();
    fund(&world.wallet(1, Arc::new(records.clone())), &world.pair.payee, 20_000).await;
    let mut reached = true;
    let mut at = 0;
    while std::mem::take(&mut reached) {
        at += 1;
        for after in [false, true] {
            let bolt11 = world.invoice(321_000).await;
            let hash = hash_of(&bolt11);
            let before = world.wallet(1, Arc::new(records.clone())).balance().await.unwrap();
            let failing = Failing::new(&records, at, after);
            let first = world.wallet(1, failing.clone());
            if let Ok(send) = world.quoted(&first, &bolt11).await {
                let outcome = first.dispatch(send).await;
                assert!(matches!(outcome, Outcome::Settled { .. } | Outcome::Unknown { .. }), "{outcome:?}");
            }
            reached |= failing.failed();
            let heir = world.wallet(1, Arc::new(records.clone()));
            heir.recover().await.unwrap();
            let outcome = match world.quoted(&heir, &bolt11).await {
                Ok(send) => match certain(&heir, &send, hash).await {
                    Outcome::NotFound => heir.dispatch(send).await,
                    outcome => outcome,
                },
                Err(error) => panic!("{error}"),
            };
            let Outcome::Settled { fee, .. } = outcome else { panic!("write {at}: {outcome:?}") };
            assert!(world.paid(hash).await);
            assert_eq!(world.pair.payer.begun(hash), 1);
            let cost = Msat::sats(321).checked_add(fee).unwrap();
            assert_eq!(heir.balance().await.unwrap(), before.checked_sub(cost).unwrap(), "write {at}, {after}");
        }
    }
    assert!(at > 3, "only {at} writes");
    assert_eq!(world.pair.sum_msat(), 2 * FUNDS_MSAT);
}

/// Whichever write of a credit fails: credited once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_fails_while_being_paid() {
    let world = World::new().await;
    for (seed, at) in [(1, 1), (2, 2), (3, 3)] {
        for after in [false, true] {
            let seed = seed * 2 + u8::from(after);
            let records = MemoryStorage::default();
            let failing = Failing::new(&records, at, after);
            let first = world.wallet(seed, failing.clone());
            let invoice = match first.create_invoice(InvoiceRequest::new(Msat::sats(500), "funds")).await {
                Ok(invoice) => invoice,
                // Not handed out, so that nobody pays it.
                Err(error) => {
                    assert_eq!(at, 1, "{error}");
                    continue;
                }
            };
            world.pair.payee.pay_by_hand(&invoice.bolt11, Course::Plain);
            for _ in 0..400 {
                if failing.failed() {
                    break;
                }
                let _ = first.lookup_invoice(invoice.hash).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(failing.failed());
            let heir = world.wallet(seed, Arc::new(records));
            heir.recover().await.unwrap();
            settled(&heir, invoice.hash).await;
            assert_eq!(heir.balance().await.unwrap(), Msat::sats(500), "write {at}, {after}");
            settled(&heir, invoice.hash).await;
            assert_eq!(heir.balance().await.unwrap(), Msat::sats(500));
        }
    }
}

/// The seed alone gives the balance, at a host that knows nothing; and what it then makes does not collide.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seed_is_enough() {
    let world = World::new().await;
    let first = world.wallet(1, Arc::new(MemoryStorage::default()));
    fund(&first, &world.pair.payee, 5_000).await;
    let bolt11 = world.invoice(777_000).await;
    let send = world.quoted(&first, &bolt11).await.unwrap();
    assert!(matches!(first.dispatch(send).await, Outcome::Settled { .. }));
    let left = first.balance().await.unwrap();
    let records = MemoryStorage::default();
    let second = world.wallet(1, Arc::new(records.clone()));
    assert_eq!(second.balance().await.unwrap(), Msat::ZERO);
    let found = second.restore().await.unwrap();
    assert_eq!((Msat::sats(found.sats), found.pending_sats), (left, 0));
    assert_eq!(second.balance().await.unwrap(), left);
    assert_eq!(second.restore().await.unwrap().sats, 0, "found twice");
    fund(&second, &world.pair.payee, 300).await;
    let bolt11 = world.invoice(4_000_000).await;
    let send = world.quoted(&second, &bolt11).await.unwrap();
    let Outcome::Settled { fee, .. } = second.dispatch(send).await else { panic!("not settled") };
    let spent = Msat::sats(4_000).checked_add(fee).unwrap();
    let whole = left.checked_add(Msat::sats(300)).unwrap();
    assert_eq!(second.balance().await.unwrap(), whole.checked_sub(spent).unwrap());
    // A host with secrets that were used already: the mint refuses them, and others are taken.
    let behind = world.wallet(1, Arc::new(MemoryStorage::default()));
    let invoice = behind.create_invoice(InvoiceRequest::new(Msat::sats(64), "behind")).await.unwrap();
    world.pair.payee.pay_by_hand(&invoice.bolt11, Course::Plain);
    settled(&behind, invoice.hash).await;
    let now = second.balance().await.unwrap().checked_add(Msat::sats(64)).unwrap();
    assert_eq!(behind.balance().await.unwrap(), now);
    // The first host does not know that its proofs are spent; the mint does, and then it knows too.
    let bolt11 = world.invoice(4_000_000).await;
    let send = world.quoted(&first, &bolt11).await.unwrap();
    let outcome = first.dispatch(send).await;
    assert_eq!(outcome, Outcome::Failed { class: FailureClass::Protocol });
    assert!(first.balance().await.unwrap() < left);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_met_is_refused() {
    let world = World::new().await;
    let storage = Arc::new(MemoryStorage::default());
    let clock = world.clock.clone();
    let made = |config: CashuConfig| {
        CashuWallet::new(config, WalletSeed::new([1; 64]), world.way.clone(), storage.clone(), clock.clone())
    };
    let capped = made(CashuConfig { most: Msat::sats(1_000), ..config(&world.mint.url()) });
    let refusal = |result: Result<_, WalletError>| match result {
        Err(WalletError::Refused(why)) => why,
        Err(WalletError::Unsupported { what, .. }) => what.to_owned(),
        other => panic!("{other:?}"),
    };
    let ask = InvoiceRequest::new(Msat::sats(600), "ask");
    let too_much = InvoiceRequest { amount: Msat::sats(1_001), ..ask.clone() };
    assert!(refusal(capped.create_invoice(too_much).await).contains("1000 sats"));
    fund(&capped, &world.pair.payee, 600).await;
    assert!(refusal(capped.create_invoice(ask.clone()).await).contains("holds 600"));
    let odd = InvoiceRequest { amount: Msat::new(1_500), ..ask.clone() };
    assert!(refusal(capped.create_invoice(odd).await).contains("whole sats"));
    let own = InvoiceRequest { preimage: Some(Preimage::from_bytes([1; 32])), ..ask.clone() };
    assert!(refusal(capped.create_invoice(own).await).contains("preimage"));
    let zap = InvoiceRequest { description: Description::Hash(Hash32::sha256(b"zap")), ..ask.clone() };
    assert!(refusal(capped.create_invoice(zap).await).contains("description"));
    let elsewhere = made(CashuConfig { network: Network::Bitcoin, ..config(&world.mint.url()) });
    let small = InvoiceRequest { amount: Msat::sats(10), ..ask };
    assert!(refusal(elsewhere.create_invoice(small).await).contains("regtest"));
    let health = capped.health().await.unwrap();
    assert_eq!((health.spendable, health.receivable), (Msat::sats(600), Some(Msat::sats(400))));
    assert_eq!(health.identity.len(), 66, "the mint names its key");
    let shown = format!("{capped:?} {:?}", WalletSeed::new([1; 64]));
    assert!(!shown.contains("01") && !shown.contains("[1"), "{shown}");
}

/// Part of a sat is paid as a whole one, and counts as fee.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_sat_are_rounded_up() {
    let world = World::new().await;
    let payer = world.wallet(1, Arc::new(MemoryStorage::default()));
    fund(&payer, &world.pair.payee, 1_000).await;
    let bolt11 = world.invoice(1_500).await;
    let send = world.quoted(&payer, &bolt11).await.unwrap();
    let max_fee = send.max_fee;
    let Outcome::Settled { fee, .. } = payer.dispatch(send).await else { panic!("not settled") };
    assert!(fee <= max_fee && fee.as_u64() % 1_000 == 500, "{fee:?}");
    let spent = Msat::new(1_500 + fee.as_u64());
    assert_eq!(payer.balance().await.unwrap(), Msat::sats(1_000).checked_sub(spent).unwrap());
}

/// Two handles on the same records, at once: no proof is spent twice, and the sums are right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handles_spend_no_proof_twice() {
    let world = World::new().await;
    let records = MemoryStorage::default();
    fund(&world.wallet(1, Arc::new(records.clone())), &world.pair.payee, 10_000).await;
    let mut left = Msat::sats(10_000);
    for _ in 0..4 {
        let handles = [(); 2].map(|()| world.wallet(1, Arc::new(records.clone())));
        let bills = [world.invoice(400_000).await, world.invoice(500_000).await];
        let (first, second) = (world.quoted(&handles[0], &bills[0]).await, world.quoted(&handles[1], &bills[1]).await);
        let both = futures::future::join(handles[0].dispatch(first.unwrap()), handles[1].dispatch(second.unwrap()));
        let (first, second) = both.await;
        for (outcome, sats) in [(first, 400), (second, 500)] {
            let Outcome::Settled { fee, .. } = outcome else { panic!("{outcome:?}") };
            left = left.checked_sub(Msat::sats(sats)).unwrap().checked_sub(fee).unwrap();
        }
    }
    assert_eq!(world.wallet(1, Arc::new(records)).balance().await.unwrap(), left);
}

/// A mint that is down costs nothing; one that was killed in the middle of a payment is never taken for a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mint_goes_away() {
    let world = World::new().await;
    let payer = world.wallet(1, Arc::new(MemoryStorage::default()));
    fund(&payer, &world.pair.payee, 10_000).await;
    let bolt11 = world.invoice(400_000).await;
    let send = world.quoted(&payer, &bolt11).await.unwrap();
    world.mint.kill();
    assert_eq!(payer.dispatch(send.clone()).await, Outcome::Failed { class: FailureClass::Unreachable });
    assert!(matches!(payer.health().await, Err(WalletError::Unreachable(_))));
    assert_eq!(payer.balance().await.unwrap(), Msat::sats(10_000));
    world.mint.resume().await;
    // In flight at its node when it dies, and settled while it is away.
    world.pair.payer.rule("/v2/router/send", Course::Stuck, NodeWire::Whole);
    let hash = hash_of(&bolt11);
    let later = Dispatch { deadline: world.clock.mono().plus_ms(60_000), ..send.clone() };
    assert_eq!(payer.dispatch(later).await, Outcome::Pending);
    world.mint.kill();
    assert!(matches!(payer.resolve(send.resolve(hash)).await, Outcome::Unknown { .. }));
    assert!(world.pair.payer.land(hash, true));
    assert!(payer.balance().await.unwrap() < Msat::sats(9_601), "held while nobody answers");
    world.mint.resume().await;
    let Outcome::Settled { fee, .. } = certain(&payer, &send, hash).await else { panic!("not settled") };
    let spent = Msat::sats(400).checked_add(fee).unwrap();
    assert_eq!(payer.balance().await.unwrap(), Msat::sats(10_000).checked_sub(spent).unwrap());
    // Refused by its node: a failure, and the money is back.
    let bolt11 = world.invoice(300_000).await;
    let send = world.quoted(&payer, &bolt11).await.unwrap();
    let before = payer.balance().await.unwrap();
    world.pair.payer.rule("/v2/router/send", Course::FailsAfter { ms: 50 }, NodeWire::Whole);
    assert_eq!(payer.dispatch(send.clone()).await, Outcome::Failed { class: FailureClass::NoRoute });
    assert_eq!(payer.balance().await.unwrap(), before);
    // The request is lost on the way, and the identical one pays.
    let again = Dispatch { attempt: 2, ..send };
    world.way.rule("/v1/melt/bolt11", Wire::Dropped);
    assert!(matches!(payer.dispatch(again.clone()).await, Outcome::Unknown { .. }));
    assert_eq!(payer.resolve(again.resolve(hash_of(&bolt11))).await, Outcome::NotFound);
    assert!(matches!(payer.dispatch(again).await, Outcome::Settled { .. }));
    // The answer is lost, at the end and on the way.
    for (wire, course) in [(Wire::Mute, Course::Plain), (Wire::MuteEarly, Course::SettlesAfter { ms: 1_000 })] {
        let bolt11 = world.invoice(50_000).await;
        let send = world.quoted(&payer, &bolt11).await.unwrap();
        world.pair.payer.rule("/v2/router/send", course, NodeWire::Whole);
        world.way.rule("/v1/melt/bolt11", wire);
        assert!(matches!(payer.dispatch(send.clone()).await, Outcome::Unknown { .. }));
        assert!(matches!(certain(&payer, &send, hash_of(&bolt11)).await, Outcome::Settled { .. }));
    }
    let asked = world.way.asked.lock().unwrap().iter().filter(|path| *path == "/v1/melt/quote/bolt11").count();
    assert_eq!(asked, 4, "one quote for each invoice");
}
