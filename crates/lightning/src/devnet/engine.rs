//! The one thread that changes the books: it decides, writes, waits for the disk, and only then answers.
//!
//! Requests that arrive while the disk is busy share the next write. After any error of the disk the thread ends, and
//! with it the server: what is durable is then read anew by whoever serves next.

use std::sync::Arc;

use nexus_core::{Clock, UnixMs};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Party;
use super::dir::Held;
use super::ledger::{Entry, Impossible, Ledger};
use super::log::Log;

const MAX_QUEUED: usize = 1_024;
const MAX_BATCH: usize = 256;
const MAX_UNREAD_WAKES: usize = 1_024;

/// The engine ended before it could say what became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// The books, as one request sees them.
pub(super) struct Books<'e> {
    ledger: &'e mut Ledger,
    batch: &'e mut Vec<Entry>,
    failed: &'e mut Option<Impossible>,
    now: UnixMs,
}

impl Books<'_> {
    pub(super) fn ledger(&self) -> &Ledger {
        self.ledger
    }

    pub(super) fn now(&self) -> UnixMs {
        self.now
    }

    /// Applies entries; they are durable before the request is answered.
    pub(super) fn post(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if let Err(impossible) = self.ledger.apply(&entry) {
                *self.failed = Some(impossible);
                return;
            }
            self.batch.push(entry);
        }
    }
}

type Answer = Box<dyn FnOnce() + Send>;
type Job = Box<dyn FnOnce(&mut Books<'_>) -> Answer + Send>;

/// The way to the thread. Cheap to clone; the thread ends when the last one is dropped.
#[derive(Clone)]
pub(super) struct Engine {
    jobs: mpsc::Sender<Job>,
    settled: broadcast::Sender<Party>,
    ended: CancellationToken,
    #[cfg(feature = "faults")]
    pub(super) crash: super::faults::CrashSwitch,
}

impl Engine {
    /// Starts the thread, which keeps the directory's lock until it ends.
    pub(super) fn start(held: Held, log: Log, ledger: Ledger, clock: Arc<dyn Clock>, compact_bytes: u64) -> Self {
        let (jobs, queue) = mpsc::channel(MAX_QUEUED);
        let (settled, _) = broadcast::channel(MAX_UNREAD_WAKES);
        let (alarm, _) = watch::channel(ledger.next_due());
        let engine = Self {
            jobs,
            settled: settled.clone(),
            ended: CancellationToken::new(),
            #[cfg(feature = "faults")]
            crash: super::faults::CrashSwitch::default(),
        };
        tokio::spawn(ring(engine.jobs.downgrade(), alarm.subscribe(), clock.clone()));
        let writer = Writer {
            _held: held,
            log,
            ledger,
            clock,
            settled,
            alarm,
            compact_bytes,
            #[cfg(feature = "faults")]
            crash: engine.crash.clone(),
        };
        let ended = engine.ended.clone().drop_guard();
        std::thread::spawn(move || {
            // Declared last, dropped first: the lock is free before anybody hears that the thread is over.
            let _ended = ended;
            writer.run(queue);
        });
        engine
    }

    /// Runs a request against the books. Its value comes back only when all it posted, and all it saw, is durable.
    pub(super) async fn transact<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Books<'_>) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |books| {
            let value = request(books);
            Box::new(move || drop(answer.send(value)))
        });
        self.jobs.send(job).await.map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }

    /// Tells of every account that was paid, once it is durable.
    pub(super) fn settled(&self) -> broadcast::Receiver<Party> {
        self.settled.subscribe()
    }

    /// Cancelled when the thread is over and the lock free.
    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}

/// Wakes the engine when a payment in flight is due, for nobody else may ask just then.
async fn ring(jobs: mpsc::WeakSender<Job>, mut alarm: watch::Receiver<Option<UnixMs>>, clock: Arc<dyn Clock>) {
    loop {
        let due = *alarm.borrow_and_update();
        let wait_ms = due.map(|at| u64::try_from(at.0 - clock.now().0).unwrap_or(0).clamp(1, 1_000));
        let sleep = async {
            match wait_ms {
                Some(ms) => tokio::time::sleep(std::time::Duration::from_millis(ms)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = alarm.changed() => if changed.is_err() { return },
            () = sleep => {
                let Some(jobs) = jobs.upgrade() else { return };
                if jobs.send(Box::new(|_| Box::new(|| {}))).await.is_err() { return }
            }
        }
    }
}

struct Writer {
    _held: Held,
    log: Log,
    ledger: Ledger,
    clock: Arc<dyn Clock>,
    settled: broadcast::Sender<Party>,
    alarm: watch::Sender<Option<UnixMs>>,
    compact_bytes: u64,
    #[cfg(feature = "faults")]
    crash: super::faults::CrashSwitch,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let mut batch = Vec::new();
            let Some(answers) = self.decide(first, &mut queue, &mut batch) else { return };
            if !batch.is_empty() && !self.write(&batch) {
                return;
            }
            answers.into_iter().for_each(|answer| answer());
            self.tell(&batch);
            if self.log.wants_compaction(self.compact_bytes) {
                self.ledger.prune(self.clock.now());
                if let Err(error) = self.log.compact(&self.ledger) {
                    tracing::error!(%error, "the development network cannot compact its log and stops");
                    return;
                }
            }
        }
    }

    fn decide(&mut self, first: Job, queue: &mut mpsc::Receiver<Job>, batch: &mut Vec<Entry>) -> Option<Vec<Answer>> {
        let mut failed = None;
        let now = self.clock.now();
        let due = self.ledger.due(now);
        let mut books = Books { ledger: &mut self.ledger, batch, failed: &mut failed, now };
        books.post(due);
        let mut answers = vec![first(&mut books)];
        while answers.len() < MAX_BATCH
            && let Ok(job) = queue.try_recv()
        {
            answers.push(job(&mut books));
        }
        match failed {
            None => Some(answers),
            Some(error) => {
                tracing::error!(%error, "the development network's books are wrong; it stops");
                None
            }
        }
    }

    fn write(&mut self, batch: &[Entry]) -> bool {
        #[cfg(feature = "faults")]
        if let Some(point) = self.crash.take() {
            return point.strike(&mut self.log, batch);
        }
        match self.log.append(batch) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "the development network cannot write its log and stops");
                false
            }
        }
    }

    fn tell(&self, batch: &[Entry]) {
        for entry in batch {
            if let Entry::Settle { key, .. } = entry
                && let Some(invoice) = self.ledger.invoice(key.hash)
            {
                // Nobody listening is no error.
                let _ = self.settled.send(invoice.payee);
            }
        }
        let next = self.ledger.next_due();
        self.alarm.send_if_modified(|due| std::mem::replace(due, next) != next);
    }
}
