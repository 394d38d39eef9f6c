//! SIGKILL of a process that pays, or is paid, with Cashu: at each arrow of the payment state machine, before and after
//! each write of the wallet and each request to the mint, then at random. What the payee saw is what is recorded in the
//! end, nothing is paid or credited twice, and what is left and the fee add up.
//!
//! Without a test harness: started with a job in its environment, this program is the process that is killed
//! (`crash_bench`). `NEXUS_CRASH_ROUNDS` is the number of random kills (20).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod crash_bench;
mod file_storage;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crash_bench::{Arrow, Book, Dice, Job, Process, Wallet};
use file_storage::FileStorage;
use futures::future::BoxFuture;
use nexus_core::payment::PaymentState;
use nexus_core::{Clock, Hash32, Msat};
use nexus_lightning::cashu::{
    CashuConfig, CashuWallet, Https, MintAnswer, MintHttp, MintRequest, MintUrl, NoAnswer, Patience, WalletSeed,
};
use nexus_lightning::lnd::{InvoiceMacaroon, LndReceive, NodeConfig, Trust};
use nexus_lightning::storage::{Change, Record};
use nexus_lightning::{
    Driver, Invoice, InvoiceRequest, InvoiceState, Network, Pay, Receive, StorageError, WalletStorage, decode_bolt11,
};
use nexus_testkit::TestClock;
use nexus_testkit::lnd::{Course, FUNDS_MSAT, Pair, Wire};
use nexus_testkit::mint::{Backend, Mint};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const FUNDS: u64 = 3_000;
const AMOUNT: u64 = 700;

/// Where the process waits for death: at its `n`-th write or request, before it or once it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Halt {
    writes: bool,
    n: u64,
    after: bool,
    /// Goes on after a moment, if it still can.
    thaws: bool,
}

impl Halt {
    async fn at(halt: Option<Self>, writes: bool, n: u64, after: bool) {
        if let Some(halt) = halt.filter(|it| it.writes == writes && it.n == n && it.after == after) {
            println!("here");
            match halt.thaws {
                true => tokio::time::sleep(Duration::from_millis(300)).await,
                false => std::future::pending::<()>().await,
            }
        }
    }
}

/// How the process opens its wallet.
#[derive(Clone, Serialize, Deserialize)]
struct AtMint {
    url: String,
    seed: u64,
    dir: PathBuf,
    /// Counts who held the wallet.
    holder: String,
    halt: Option<Halt>,
    /// The invoice of the job is ours, and to be credited.
    receives: bool,
}

struct Halting<T> {
    inner: T,
    halt: Option<Halt>,
    count: AtomicU64,
}

impl<T> Halting<T> {
    fn new(inner: T, halt: Option<Halt>) -> Arc<Self> {
        Arc::new(Self { inner, halt, count: AtomicU64::new(0) })
    }
}

impl MintHttp for Halting<Https> {
    fn ask(&self, request: MintRequest) -> BoxFuture<'_, Result<MintAnswer, NoAnswer>> {
        Box::pin(async move {
            let n = self.count.fetch_add(1, Ordering::SeqCst) + 1;
            Halt::at(self.halt, false, n, false).await;
            let answer = self.inner.ask(request).await;
            Halt::at(self.halt, false, n, true).await;
            answer
        })
    }
}

impl WalletStorage for Halting<FileStorage> {
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
            let n = self.count.fetch_add(1, Ordering::SeqCst) + 1;
            Halt::at(self.halt, true, n, false).await;
            let written = self.inner.write(changes).await;
            Halt::at(self.halt, true, n, true).await;
            written
        })
    }
}

impl AtMint {
    fn wallet(&self, clock: Arc<dyn Clock>) -> CashuWallet {
        let url = MintUrl::parse(&self.url, true).unwrap();
        let config = CashuConfig {
            url: url.clone(),
            network: Network::Regtest,
            most: Msat::sats(1_000_000),
            patience: Patience { answer_ms: 30_000, settle_ms: 500, poll_ms: 100, nudge_ms: 1_000 },
        };
        let mut seed = [0; 64];
        seed[..8].copy_from_slice(&self.seed.to_be_bytes());
        let http = Halting::new(Https::new(url, true, clock.clone()).unwrap(), self.halt);
        let storage = Halting::new(FileStorage::open(&self.dir, &self.holder), self.halt);
        CashuWallet::new(config, WalletSeed::new(seed), http, storage, clock)
    }
}

impl Wallet for AtMint {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Pay> {
        Arc::new(self.wallet(clock))
    }

    fn other(&self, job: &Job<Self>, clock: Arc<dyn Clock>) -> Option<impl Future<Output = ()>> {
        let hash = decode_bolt11(&job.bolt11).unwrap().hash;
        let wallet = self.clone();
        self.receives.then_some(async move {
            let wallet = wallet.wallet(clock);
            wallet.recover().await.unwrap();
            credited(&wallet, hash).await;
        })
    }
}

async fn credited(wallet: &CashuWallet, hash: Hash32) {
    for _ in 0..800 {
        if matches!(wallet.lookup_invoice(hash).await, Ok(InvoiceState::Settled { .. })) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not credited");
}

/// One mint and the nodes behind it, for all scenes.
struct World {
    pair: Pair,
    mint: Mint,
    payee: LndReceive,
    scenes: AtomicU64,
}

impl World {
    async fn new() -> Self {
        let pair = Pair::start().await;
        let node = &pair.payer;
        let (url, certificate, macaroon) = (node.url(), node.certificate_file(), node.admin_macaroon());
        let mint = Mint::start(Backend::Lnd { url, certificate, macaroon }).await;
        let node = &pair.payee;
        let trust = Trust::File(node.certificate_file());
        let config = NodeConfig::new(&node.url(), trust, &node.identity(), Network::Regtest).unwrap();
        let macaroon = InvoiceMacaroon::read(&node.invoice_macaroon_file()).unwrap();
        let payee = LndReceive::new(config, macaroon, Arc::new(TestClock::default()));
        Self { pair, mint, payee, scenes: AtomicU64::new(0) }
    }
}

/// A wallet with some money, and an invoice: of the other node's, or of its own and paid.
struct Scene<'a> {
    world: &'a World,
    dir: tempfile::TempDir,
    seed: u64,
    invoice: Invoice,
    receives: bool,
}

impl<'a> Scene<'a> {
    async fn new(world: &'a World, receives: bool) -> Self {
        let seed = world.scenes.fetch_add(1, Ordering::SeqCst) + 1;
        let dir = tempfile::tempdir().unwrap();
        let request = |sats| InvoiceRequest::new(Msat::sats(sats), "crash");
        let mut scene =
            Self { world, dir, seed, invoice: world.payee.create_invoice(request(AMOUNT)).await.unwrap(), receives };
        let wallet = scene.wallet();
        let funds = wallet.create_invoice(request(FUNDS)).await.unwrap();
        world.pair.payee.pay_by_hand(&funds.bolt11, Course::Plain);
        credited(&wallet, funds.hash).await;
        if receives {
            scene.invoice = wallet.create_invoice(request(AMOUNT)).await.unwrap();
            world.pair.payee.pay_by_hand(&scene.invoice.bolt11, Course::Plain);
        }
        scene
    }

    fn at_mint(&self) -> AtMint {
        AtMint {
            url: self.world.mint.url(),
            seed: self.seed,
            dir: self.dir.path().to_owned(),
            holder: format!("{:?}", TestClock::default().mono())
                + &self.world.scenes.fetch_add(1, Ordering::SeqCst).to_string(),
            halt: None,
            receives: self.receives,
        }
    }

    /// The test's own handle: takes the wallet over.
    fn wallet(&self) -> CashuWallet {
        self.at_mint().wallet(Arc::new(TestClock::default()))
    }

    fn job(&self) -> Job<AtMint> {
        Job::new(self.at_mint(), self.dir.path().join("book"), &self.invoice.bolt11)
    }

    fn start(&self, job: &Job<AtMint>) -> Process {
        Process::start(job, self.dir.path())
    }

    /// Until it is concluded: an heir that has to wait comes again.
    async fn finish(&self) {
        for _ in 0..50 {
            self.start(&self.job()).end().await;
            if self.receives || self.book().last().is_some_and(|it| !it.state.unresolved()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not concluded: {:?}", self.book().last());
    }

    fn book(&self) -> Book {
        Book(self.dir.path().join("book"))
    }

    /// Paid once, with proof, and what is left and the fee add up; or credited once. The seed alone gives the same.
    async fn assert_done(&self) {
        let wallet = self.wallet();
        let left = if self.receives {
            credited(&wallet, self.invoice.hash).await;
            Msat::sats(FUNDS + AMOUNT)
        } else {
            let last = self.book().last().unwrap();
            assert_eq!(last.state, PaymentState::Settled);
            assert_eq!(last.preimage.map(|it| Hash32::sha256(it.as_bytes())), Some(self.invoice.hash));
            let state = self.world.payee.lookup_invoice(self.invoice.hash).await.unwrap();
            assert!(matches!(state, InvoiceState::Settled { .. }), "recorded, and the payee saw nothing: {state:?}");
            assert_eq!(self.world.pair.payer.begun(self.invoice.hash), 1, "begun more than once");
            let fee = last.fee.unwrap();
            assert!(fee <= last.max_fee);
            Msat::sats(FUNDS - AMOUNT).checked_sub(fee).unwrap()
        };
        assert_eq!(wallet.balance().await.unwrap(), left, "what is left and the fee do not add up");
        let anew = tempfile::tempdir().unwrap();
        let rebuilt = AtMint { dir: anew.path().to_owned(), ..self.at_mint() }.wallet(Arc::new(TestClock::default()));
        rebuilt.restore().await.unwrap();
        assert_eq!(rebuilt.balance().await.unwrap(), left, "the mint knows of another balance");
        assert_eq!(self.world.pair.sum_msat(), 2 * FUNDS_MSAT);
    }
}

async fn at_each_arrow(world: &World) {
    for arrow in Arrow::ALL {
        for course in [Course::Plain, Course::SettlesAfter { ms: 800 }] {
            let scene = Scene::new(world, false).await;
            world.pair.payer.rule("/v2/router/send", course, Wire::Whole);
            let mut process = scene.start(&Job { stop_at: Some(arrow), ..scene.job() });
            process.wait_until_there();
            process.kill();
            scene.finish().await;
            scene.assert_done().await;
            world.pair.payer.no_rules();
        }
    }
}

/// Before and after each write and each request, of a payment or of a credit. Says how many points there were.
async fn at_each_point(world: &World, receives: bool) -> u32 {
    let mut points = 0;
    for writes in [true, false] {
        for n in 1.. {
            let mut reached = false;
            for after in [false, true] {
                let scene = Scene::new(world, receives).await;
                let mut job = scene.job();
                job.wallet.halt = Some(Halt { writes, n, after, thaws: false });
                let mut process = scene.start(&job);
                if process.gets_there() {
                    (reached, points) = (true, points + 1);
                    process.kill();
                } else {
                    process.end().await;
                }
                scene.finish().await;
                scene.assert_done().await;
            }
            if !reached {
                break;
            }
        }
    }
    points
}

/// Killed while the mint's node is at work: at once, or when the payment ends later.
async fn while_the_mint_pays(world: &World) {
    for course in [Course::Plain, Course::SettlesAfter { ms: 300 }] {
        for wire in [Wire::Whole, Wire::Slow { ms: 60 }, Wire::Slow { ms: 400 }] {
            let scene = Scene::new(world, false).await;
            world.pair.payer.rule("/v2/router/send", course, wire);
            let process = scene.start(&scene.job());
            world.pair.payer.arrival("/v2/router/send").await;
            process.kill();
            scene.finish().await;
            scene.assert_done().await;
        }
    }
}

/// A sender that froze before a request of its payment, and thaws past its deadline, after its heir has paid.
async fn a_frozen_sender_thaws(world: &World) {
    for n in 1..=6 {
        let scene = Scene::new(world, false).await;
        let mut job = Job { deadline_ms: 1_000, ..scene.job() };
        job.wallet.halt = Some(Halt { writes: false, n, after: false, thaws: true });
        let mut process = scene.start(&job);
        if !process.gets_there() {
            process.end().await;
            continue;
        }
        process.signal("STOP");
        scene.finish().await;
        scene.assert_done().await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        process.signal("CONT");
        // It ends as it likes: with an error, as a rule, because the wallet is another's now.
        let _ = process.ended().await;
        scene.assert_done().await;
    }
}

/// Killed whenever it happens, up to three times in a row.
async fn at_random(world: &World, rounds: u64) {
    let mut dice = Dice::default();
    for round in 0..rounds {
        let receives = round % 4 == 3;
        let scene = Scene::new(world, receives).await;
        if !receives && dice.throw(2) == 0 {
            let ms = dice.throw(200);
            world.pair.payer.rule("/v2/router/send", Course::SettlesAfter { ms }, Wire::Slow { ms: dice.throw(40) });
        }
        for _ in 0..=dice.throw(3) {
            let process = scene.start(&scene.job());
            tokio::time::sleep(Duration::from_millis(dice.throw(160))).await;
            process.kill();
        }
        scene.finish().await;
        scene.assert_done().await;
        world.pair.payer.no_rules();
    }
}

fn main() {
    if crash_bench::perform::<AtMint>() {
        return;
    }
    let rounds = crash_bench::rounds(20);
    crash_bench::runtime().block_on(async {
        let world = World::new().await;
        at_each_arrow(&world).await;
        println!("at_each_arrow ... ok");
        let points = at_each_point(&world, false).await;
        println!("at_each_point of paying, {points} points ... ok");
        let points = at_each_point(&world, true).await;
        println!("at_each_point of being paid, {points} points ... ok");
        while_the_mint_pays(&world).await;
        println!("while_the_mint_pays ... ok");
        a_frozen_sender_thaws(&world).await;
        println!("a_frozen_sender_thaws ... ok");
        at_random(&world, rounds).await;
        println!("at_random, {rounds} rounds ... ok");
    });
}
