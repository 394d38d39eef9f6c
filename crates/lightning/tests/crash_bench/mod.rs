//! A paying process that is killed: one payment in a file, each state on disk before what follows from it, decided with
//! the same functions that the worker uses.
//!
//! For test programs without a harness: started with a job in its environment, the program is the process that is
//! killed ([`perform`]); started without, it is the test. What a backend brings is a [`Wallet`]: how the process, which
//! shares nothing with the test but files and addresses, opens the paying wallet.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nexus_core::payment::{Asker, Outcome, PaymentState, conclude};
use nexus_core::{Clock, Hash32, MonoMs, Msat, UnixMs};
use nexus_lightning::{Dispatch, Idempotency, Pay, PayRequest, decode_bolt11};
use nexus_testkit::TestClock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const JOB: &str = "NEXUS_TEST_CRASH_JOB";

/// How the killed process opens its wallet.
pub trait Wallet: Clone + Serialize + DeserializeOwned {
    fn open(&self, clock: Arc<dyn Clock>) -> impl Future<Output = Arc<dyn Pay>>;

    /// Anything else that this program's process is for; nothing by default.
    fn other(&self, _job: &Job<Self>, _clock: Arc<dyn Clock>) -> Option<impl Future<Output = ()>> {
        None::<std::future::Ready<()>>
    }
}

/// What the process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job<W> {
    pub wallet: W,
    pub book: PathBuf,
    pub bolt11: String,
    /// Where to stop and wait for death.
    pub stop_at: Option<Arrow>,
    /// How much later than now it is for this process.
    pub later_ms: i64,
    /// How long a dispatch may take.
    pub deadline_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arrow {
    Reserved,
    Dispatched,
    Answered,
    Recorded,
}

impl Arrow {
    pub const ALL: [Self; 4] = [Self::Reserved, Self::Dispatched, Self::Answered, Self::Recorded];
}

/// A line of the book.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub state: PaymentState,
    /// What the backend quoted, before anything was reserved.
    pub max_fee: Msat,
    pub handle: Option<String>,
    pub preimage: Option<Hash32>,
    pub fee: Option<Msat>,
}

/// One payment's states, each durable before the next step.
pub struct Book(pub PathBuf);

impl Book {
    /// Every whole line; one that a death cut short was never acted on.
    pub fn read(&self) -> Vec<Entry> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.split_inclusive('\n').filter(|it| it.ends_with('\n')).map(|it| serde_json::from_str(it).unwrap()).collect()
    }

    pub fn last(&self) -> Option<Entry> {
        self.read().pop()
    }

    fn state(&self) -> Option<PaymentState> {
        self.last().map(|it| it.state)
    }

    fn reserve(&self, max_fee: Msat, handle: Option<String>) {
        self.push(&Entry { state: PaymentState::Reserved, max_fee, handle, preimage: None, fee: None });
    }

    fn write(&self, outcome: &Outcome, state: PaymentState) {
        let last = self.last().unwrap();
        if last.state == state {
            return;
        }
        assert!(last.state.may_become(state), "{:?} to {state:?}", last.state);
        let (preimage, fee) = match outcome {
            Outcome::Settled { preimage, fee } => (*preimage, Some(*fee)),
            Outcome::Failed { .. } | Outcome::Pending | Outcome::NotFound | Outcome::Unknown { .. } => (None, None),
        };
        self.push(&Entry { state, preimage, fee, ..last });
    }

    fn push(&self, entry: &Entry) {
        let mut text = std::fs::read_to_string(&self.0).unwrap_or_default();
        // What a death left of a line goes.
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text.push_str(&serde_json::to_string(entry).unwrap());
        text.push('\n');
        put_durably(&self.0, text.as_bytes());
    }
}

/// All of it or what was there before, whenever death comes.
pub fn put_durably(path: &Path, bytes: &[u8]) {
    let next = path.with_extension(format!("next{}", std::process::id()));
    let mut file = std::fs::File::create(&next).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
    std::fs::rename(next, path).unwrap();
}

/// The machine's clock, that much later.
struct Later(TestClock, i64);

impl Clock for Later {
    fn now(&self) -> UnixMs {
        self.0.now().plus_ms(self.1)
    }

    fn mono(&self) -> MonoMs {
        self.0.mono()
    }
}

impl<W: Wallet> Job<W> {
    /// The whole way, from now.
    pub fn new(wallet: W, book: PathBuf, bolt11: &str) -> Self {
        Self { wallet, book, bolt11: bolt11.to_owned(), stop_at: None, later_ms: 0, deadline_ms: 60_000 }
    }

    /// Waits for death, if this is where it comes.
    async fn pass(&self, arrow: Arrow) {
        if self.stop_at == Some(arrow) {
            println!("here");
            std::future::pending::<()>().await;
        }
    }

    fn send(&self, book: &Book, clock: &dyn Clock) -> Dispatch {
        let reserved = book.last().unwrap();
        Dispatch {
            payment_id: "the payment".to_owned(),
            attempt: 1,
            key: "key".to_owned(),
            bolt11: self.bolt11.clone(),
            amount: None,
            max_fee: reserved.max_fee,
            deadline: clock.mono().plus_ms(self.deadline_ms),
            handle: reserved.handle,
        }
    }

    async fn run(&self) {
        let clock: Arc<dyn Clock> = Arc::new(Later(TestClock::default(), self.later_ms));
        if let Some(other) = self.wallet.other(self, clock.clone()) {
            return other.await;
        }
        let payer = self.wallet.open(clock.clone()).await;
        self.pay(&*payer, &*clock).await;
    }

    /// Takes the payment as far as it goes: the whole way, or from where the book says that another process left it.
    async fn pay(&self, payer: &dyn Pay, clock: &dyn Clock) {
        payer.recover().await.unwrap();
        let book = Book(self.book.clone());
        let invoice = decode_bolt11(&self.bolt11).unwrap();
        if book.state().is_none() {
            let quote = payer.quote(PayRequest { bolt11: self.bolt11.clone(), amount: None }).await.unwrap();
            book.reserve(quote.max_fee, quote.handle);
            self.pass(Arrow::Reserved).await;
        }
        let mut asker = Asker::Heir;
        if book.state() == Some(PaymentState::Reserved) {
            book.write(&Outcome::Pending, PaymentState::Dispatched);
            self.pass(Arrow::Dispatched).await;
            let outcome = payer.dispatch(self.send(&book, clock)).await;
            self.pass(Arrow::Answered).await;
            asker = if matches!(outcome, Outcome::Unknown { .. }) { Asker::Unsure } else { Asker::Dispatcher };
            if let Some(state) = conclude(&outcome, asker, invoice.expires_at, clock.now()) {
                book.write(&outcome, state);
            }
            self.pass(Arrow::Recorded).await;
        }
        let repeats = payer.capabilities().idempotency != Idempotency::None;
        for _ in 0..400 {
            if !book.state().is_some_and(PaymentState::unresolved) {
                return;
            }
            let mut said = payer.resolve(self.send(&book, clock).resolve(invoice.hash)).await;
            // As the worker does: what an heir may not believe yet is met by the identical send, where that is harmless.
            let doubtful = matches!(said, Outcome::NotFound | Outcome::Unknown { .. });
            if repeats && doubtful && asker == Asker::Heir && clock.now() < invoice.expires_at {
                said = payer.dispatch(self.send(&book, clock)).await;
            }
            match conclude(&said, asker, invoice.expires_at, clock.now()) {
                Some(state) => book.write(&said, state),
                // An heir's patience: money stays held.
                None if asker == Asker::Heir => return,
                None => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The paying process. Killed, at the latest, with whatever holds it.
pub struct Process(Child);

impl Process {
    /// This program again, with a job. `dir` is the scene's own.
    pub fn start<W: Wallet>(job: &Job<W>, dir: &Path) -> Self {
        let path = dir.join("job.json");
        std::fs::write(&path, serde_json::to_string(job).unwrap()).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        Self(command.env(JOB, path).stdout(Stdio::piped()).spawn().unwrap())
    }

    pub fn wait_until_there(&mut self) {
        assert!(self.gets_there(), "the process ended before it was killed");
    }

    /// Whether it came to where it was told to stop; if not, it came to its end.
    pub fn gets_there(&mut self) -> bool {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line == "here\n"
    }

    /// `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub async fn end(self) {
        let status = self.ended().await;
        assert!(status.success(), "{status}");
    }

    /// However it ends, within a minute.
    pub async fn ended(mut self) -> ExitStatus {
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        waited.await.expect("the process ends within a minute")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already waited for, as a rule.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The same throws in every run.
pub struct Dice(u64);

impl Default for Dice {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Dice {
    /// Less than `sides`.
    pub fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// `NEXUS_CRASH_ROUNDS`: how often to kill at random.
pub fn rounds(otherwise: u64) -> u64 {
    std::env::var("NEXUS_CRASH_ROUNDS").map_or(otherwise, |it| it.parse().unwrap())
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// In `main`, first: does its job and says true if this is the process that is killed.
pub fn perform<W: Wallet>() -> bool {
    let Some(path) = std::env::var_os(JOB) else { return false };
    let job: Job<W> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    runtime().block_on(job.run());
    true
}
