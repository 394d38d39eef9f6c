//! SQLite on its own threads: one writes in groups, a few read.
//!
//! Callers wait for durability, the writer batches whatever waits: the group grows with the load by itself, because
//! everything that arrives during one commit is in the next. Callers who have just been answered often come back at
//! once with their next step; the writer gives them a moment, because a group of all costs hardly more than one of half.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::batch::{Batch, Output};
use crate::error::StoreError;
use crate::executor::{BoxFuture, Executor};
use crate::sqlite::{self, Engine, Verdict};

/// Batches that wait for a thread; more callers than this wait for room.
const QUEUE: usize = 4_096;
/// Batches in one commit at most.
const GROUP: usize = 512;
const READERS: usize = 2;
/// Fewer callers than this are not waited for: a small group is cheap.
const WORTH_WAITING: usize = 16;
/// The wait goes on, so long at a time, while callers keep coming.
const MOMENT: Duration = Duration::from_micros(100);
/// Moments that a group waits at most.
const MOMENTS: u32 = 20;

struct Job {
    batch: Batch,
    reply: oneshot::Sender<Verdict>,
}

/// The threads end when this is dropped, after what was queued.
pub(crate) struct ThreadExecutor {
    writer: Option<mpsc::Sender<Job>>,
    readers: Vec<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl ThreadExecutor {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::over(Engine::open(path)?, path)
    }

    pub(crate) fn over(engine: Engine, path: &Path) -> Result<Self, StoreError> {
        let mut executor = Self { writer: None, readers: Vec::new(), threads: Vec::new() };
        let (sender, jobs) = mpsc::channel(QUEUE);
        executor.threads.push(spawn(path, "store-write", move || write_loop(engine, jobs))?);
        executor.writer = Some(sender);
        for _ in 0..READERS {
            let connection = sqlite::open_reader(path)?;
            let (sender, jobs) = mpsc::channel(QUEUE);
            executor.threads.push(spawn(path, "store-read", move || read_loop(&connection, jobs))?);
            executor.readers.push(sender);
        }
        Ok(executor)
    }
}

fn spawn(path: &Path, name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| StoreError::Open { path: path.to_owned(), message: error.to_string() })
}

fn write_loop(mut engine: Engine, mut jobs: mpsc::Receiver<Job>) {
    let (mut batches, mut replies) = (Vec::with_capacity(GROUP), Vec::with_capacity(GROUP));
    let mut expected = 0;
    while let Some(first) = jobs.blocking_recv() {
        await_callers(&jobs, expected);
        let mut next = Some(first);
        while let Some(job) = next {
            batches.push(job.batch);
            replies.push(job.reply);
            next = if batches.len() < GROUP { jobs.try_recv().ok() } else { None };
        }
        let verdicts = engine.run_group(&batches);
        // Whoever is answered now may be back, beside those who came meanwhile.
        expected = (batches.len() + jobs.len()).min(GROUP);
        batches.clear();
        for (reply, verdict) in replies.drain(..).zip(verdicts) {
            // A caller that went away has lost its answer, not its write.
            let _ = reply.send(verdict);
        }
    }
}

/// Until as many wait as last time, or no more come. One caller has been received already.
fn await_callers(jobs: &mpsc::Receiver<Job>, expected: usize) {
    if expected < WORTH_WAITING {
        return;
    }
    let mut waiting = jobs.len();
    for _ in 0..MOMENTS {
        if waiting + 1 >= expected {
            return;
        }
        std::thread::sleep(MOMENT);
        let before = std::mem::replace(&mut waiting, jobs.len());
        if waiting <= before {
            return;
        }
    }
}

fn read_loop(connection: &Connection, mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.blocking_recv() {
        let _ = job.reply.send(sqlite::read(connection, &job.batch));
    }
}

async fn ask(queue: Option<&mpsc::Sender<Job>>, batch: Batch) -> Result<Vec<Output>, StoreError> {
    let closed = StoreError::Closed { attempted: batch.attempted };
    let Some(queue) = queue else { return Err(closed) };
    let (reply, answer) = oneshot::channel();
    queue.send(Job { batch, reply }).await.map_err(|_| closed.clone())?;
    answer.await.unwrap_or(Err(closed))
}

impl Executor for ThreadExecutor {
    fn write(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Output>, StoreError>> {
        Box::pin(ask(self.writer.as_ref(), batch))
    }

    fn read(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Output>, StoreError>> {
        let emptiest = self.readers.iter().max_by_key(|queue| queue.capacity());
        Box::pin(ask(emptiest, batch))
    }
}

impl Drop for ThreadExecutor {
    fn drop(&mut self) {
        self.writer = None;
        self.readers.clear();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a database thread has panicked");
            }
        }
    }
}
