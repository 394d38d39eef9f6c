//! A task that writes: takes what waits, runs it as a group, answers, and sees every lost connection through.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::group::{self, Broken, Fate, Link};
use super::session::{self, Dialer};
use super::wire::Failure;
use crate::batch::{Batch, Output};
use crate::error::StoreError;

/// Batches in one transaction at most.
const GROUP: usize = 512;
/// Statements in one transaction at most, but for a batch that alone has more.
const STATEMENTS: usize = 8_192;
/// Times that a batch is run before a database that keeps taking it back is reported.
const TRIES: u32 = 6;
/// Waits between tries: from the first to the longest, doubled each time, and up to half of it more or less.
const FIRST_WAIT_MS: u64 = 10;
const LONGEST_WAIT_MS: u64 = 1_000;

pub(crate) struct Job {
    pub(crate) batch: Batch,
    pub(crate) reply: oneshot::Sender<Result<Vec<Output>, StoreError>>,
    pub(crate) tries: u32,
}

/// What waits for the writers, whichever is free first.
pub(crate) type Queue = Arc<Mutex<mpsc::Receiver<Job>>>;

pub(crate) struct Writer {
    dialer: Arc<Dialer>,
    link: Option<Link>,
    /// The server was away for so long that callers were told: until it is back, nobody waits for it again.
    away: bool,
    waits: Waits,
}

impl Writer {
    pub(crate) fn new(dialer: Arc<Dialer>, link: Link) -> Self {
        let waits = Waits { seed: link.marker.unsigned_abs() };
        Self { dialer, link: Some(link), away: false, waits }
    }

    /// Until the queue is closed and empty.
    pub(crate) async fn run(mut self, queue: Queue) {
        let mut jobs: Vec<Job> = Vec::with_capacity(GROUP);
        loop {
            if !gather(&queue, &mut jobs).await && jobs.is_empty() {
                break;
            }
            let fates = self.run_group(&jobs).await;
            let tries = jobs.iter().map(|job| job.tries).max().unwrap_or(0);
            let mut left = Vec::new();
            for (mut job, fate) in jobs.drain(..).zip(fates) {
                match fate {
                    // A caller that went away has lost its answer, not its write.
                    Fate::Told(verdict) => drop(job.reply.send(verdict)),
                    Fate::Again(why) if job.tries + 1 >= TRIES => {
                        tracing::warn!(attempted = job.batch.attempted, %why, "given up after the last try");
                        let error = StoreError::Database { attempted: job.batch.attempted, message: why };
                        drop(job.reply.send(Err(error)));
                    }
                    Fate::Again(why) => {
                        tracing::debug!(attempted = job.batch.attempted, %why, "another try");
                        job.tries += 1;
                        left.push(job);
                    }
                }
            }
            jobs = left;
            if !jobs.is_empty() {
                sleep(self.waits.next(tries)).await;
            }
        }
        if let Some(link) = self.link.take() {
            link.close().await;
        }
    }

    /// A fate for each job. Reconnects and reads back what is in doubt, within the outage that callers put up with.
    async fn run_group(&mut self, jobs: &[Job]) -> Vec<Fate> {
        let batches: Vec<&Batch> = jobs.iter().map(|job| &job.batch).collect();
        let deadline = Instant::now() + if self.away { Duration::ZERO } else { self.dialer.config.outage() };
        loop {
            if let Err(failure) = self.connect(deadline).await {
                self.away = true;
                tracing::error!(error = %failure, batches = jobs.len(), "the database is away");
                let message = failure.to_string();
                return told(&batches, |attempted| StoreError::Database { attempted, message: message.clone() });
            }
            self.away = false;
            let Some(link) = self.link.as_mut() else { continue };
            let broken = match link.run_group(&batches).await {
                Ok(fates) => return fates,
                Err(broken) => broken,
            };
            let (marker, commits) = (link.marker, link.commits);
            tracing::warn!(error = %broken.why, batches = jobs.len(), doubt = broken.doubt.is_some(), "connection lost");
            self.link = None;
            let Broken { why, doubt: Some(mut fates), numbers } = broken else { continue };
            match self.settle(marker, commits + 1, deadline).await {
                Ok(Some(last)) => {
                    group::tell_numbers(&mut fates, &numbers, last);
                    return fates;
                }
                Ok(None) => {}
                Err(reread) => {
                    self.away = true;
                    let message = format!("{why}; and reading it back: {reread}");
                    tracing::error!(error = %message, batches = jobs.len(), "the fate of a commit is not known");
                    return told(&batches, |attempted| StoreError::Uncertain { attempted, message: message.clone() });
                }
            }
        }
    }

    /// Whether the commit that its marker would count as `number` happened. The old marker is deleted: whatever of the lost
    /// transaction still lingers on the server has either ended by then, or will find its marker gone. `Some` says that it
    /// happened, and the number of the last event if it appended any.
    async fn settle(&mut self, marker: i64, number: i64, deadline: Instant) -> Result<Option<i64>, String> {
        let mut tries = 0;
        loop {
            self.connect(deadline).await.map_err(|failure| failure.to_string())?;
            let Some(link) = self.link.as_mut() else { continue };
            let failure = match session::settle(link, marker).await {
                Ok(Some(found)) => return Ok((found.commits == number).then_some(found.last_event)),
                Ok(None) => return Err("its marker is gone".into()),
                Err(failure) => failure,
            };
            // The lost transaction may hold the marker's row until the server notices; then asking times out.
            if matches!(failure, Failure::Lost(_)) {
                self.link = None;
            }
            if Instant::now() >= deadline {
                return Err(failure.to_string());
            }
            sleep(self.waits.next(tries)).await;
            tries += 1;
        }
    }

    /// Has a link afterwards, or says why there was none until `deadline`. One try is always made.
    async fn connect(&mut self, deadline: Instant) -> Result<(), Failure> {
        let mut tries = 0;
        while self.link.is_none() {
            match self.dialer.writer().await {
                Ok(link) => self.link = Some(link),
                Err(failure) if !failure.is_passing() || Instant::now() >= deadline => return Err(failure),
                Err(failure) => {
                    tracing::debug!(error = %failure, "no connection yet");
                    sleep(self.waits.next(tries)).await;
                    tries += 1;
                }
            }
        }
        Ok(())
    }
}

/// Adds what waits to what is there. `false` when nothing more will come.
async fn gather(queue: &Queue, jobs: &mut Vec<Job>) -> bool {
    let mut queue = queue.lock().await;
    if jobs.is_empty() {
        match queue.recv().await {
            Some(job) => jobs.push(job),
            None => return false,
        }
    }
    let mut statements: usize = jobs.iter().map(|job| job.batch.len()).sum();
    while jobs.len() < GROUP && statements < STATEMENTS {
        let Ok(job) = queue.try_recv() else { break };
        statements += job.batch.len();
        jobs.push(job);
    }
    true
}

fn told(batches: &[&Batch], error: impl Fn(&'static str) -> StoreError) -> Vec<Fate> {
    batches.iter().map(|batch| Fate::Told(Err(error(batch.attempted)))).collect()
}

/// Growing waits with jitter. Two writers differ by their markers; this is politeness, not cryptography.
struct Waits {
    seed: u64,
}

impl Waits {
    fn next(&mut self, tries: u32) -> Duration {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let base = FIRST_WAIT_MS.saturating_mul(1 << tries.min(10)).min(LONGEST_WAIT_MS);
        Duration::from_millis(base / 2 + (self.seed >> 33) % (base + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_differ() {
        let mut waits = Waits { seed: 7 };
        let first: Vec<Duration> = (0..8).map(|_| waits.next(0)).collect();
        assert!(first.iter().all(|wait| *wait <= Duration::from_millis(15)));
        assert!(first.windows(2).any(|pair| pair[0] != pair[1]));
        for tries in [10, 20, u32::MAX] {
            let wait = waits.next(tries);
            assert!(wait >= Duration::from_millis(500) && wait <= Duration::from_millis(1_500), "{wait:?}");
        }
    }
}
