//! The list of jobs: an append-only file of JSON lines, each on disk before its caller goes on.
//!
//! A line that a crash cut off at the end is dropped; anything else unreadable is refused at start. The file is
//! rewritten (to a new file, renamed into place) at start and when it has grown to twice its size.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nexus_core::{Hash32, Npub, UnixMs};
use nostr::event::Event;
use tokio_util::task::TaskTracker;

use super::record::Record;
use super::{Closed, Job, Stage};

const FILE: &str = "jobs.jsonl";
const LOCK: &str = "jobs.lock";
/// How long a published result can be asked for again.
const RESULT_KEPT_MS: i64 = 3_600_000;
/// How long an id is kept so that the job is not done again. Longer than requests are taken up late (a day), and
/// than clocks ahead of ours are tolerated.
const ID_KEPT_MS: i64 = 48 * 3_600_000;
/// The file is not rewritten below this size, in bytes.
const REWRITE_AT: u64 = 8 * 1024 * 1024;
/// Jobs listed at most; refusals stop being listed at half of it.
const MAX_LISTED: usize = 200_000;
/// Longest line, in bytes: a request or a result, and a notice.
const MAX_LINE: u64 = 1024 * 1024;

/// Why the list of jobs can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("{path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
    #[error("{0}: another provider uses this directory")]
    InUse(PathBuf),
    #[error("{path}: line {line} is damaged; move the file away to start without a list of jobs")]
    Damaged { path: PathBuf, line: usize },
    #[error("job {job} can't go from {from} to {to}")]
    InvalidMove { job: Hash32, from: &'static str, to: &'static str },
    #[error("job {0} is already listed")]
    Known(Hash32),
    #[error("job {0} is not listed")]
    Unknown(Hash32),
    #[error("more than {MAX_LISTED} jobs are listed")]
    Full,
    #[error("an earlier write failed; the list of jobs is closed until a restart")]
    Closed,
}

/// A cheap handle on the list of jobs of one directory, which no other process can open meanwhile.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Mutex<Inner>>,
    writes: TaskTracker,
}

struct Inner {
    dir: PathBuf,
    file: File,
    len: u64,
    rewritten_len: u64,
    broken: bool,
    jobs: HashMap<Hash32, Job>,
    _lock: File,
}

impl Ledger {
    /// Opens or makes the list in a directory (0700, its files 0600), forgetting what is over.
    pub async fn open(dir: &Path, now: UnixMs) -> Result<Self, LedgerError> {
        let dir = dir.to_owned();
        let writes = TaskTracker::new();
        let inner = blocking(&writes, move || Inner::open(dir, now)).await?;
        Ok(Self { inner: Arc::new(Mutex::new(inner)), writes })
    }

    /// Waits for writes whose callers went away. When the last handle is dropped after this, the directory is free.
    pub async fn settle(&self) {
        self.writes.close();
        self.writes.wait().await;
    }

    /// A copy of a job, if it is listed.
    pub fn get(&self, id: &Hash32) -> Option<Job> {
        self.read(|inner| inner.jobs.get(id).cloned())
    }

    /// The ids of jobs that are not over.
    pub fn open_jobs(&self) -> Vec<Hash32> {
        self.read(|inner| inner.jobs.values().filter(|job| job.stage.is_open()).map(|job| job.id).collect())
    }

    /// How many jobs some question is true for.
    pub fn count(&self, is: impl Fn(&Job) -> bool) -> usize {
        self.read(|inner| inner.jobs.values().filter(|job| is(job)).count())
    }

    /// When the last line was written, in a list that has any.
    pub fn last_at(&self) -> Option<UnixMs> {
        self.read(|inner| inner.jobs.values().map(|job| job.at).max())
    }

    /// Lists a new job with its request. Durable when it returns.
    pub async fn begin(&self, request: Box<Event>, stage: Stage, now: UnixMs) -> Result<(), LedgerError> {
        let (id, customer) = (event_id(&request), author(&request));
        self.write(move |inner| match inner.jobs.contains_key(&id) {
            true => Err(LedgerError::Known(id)),
            false if inner.jobs.len() >= MAX_LISTED => Err(LedgerError::Full),
            false => {
                let request = Some(request);
                inner.append(Record { job: id, customer, at: now, stage, request, result: None }, true)
            }
        })
        .await
    }

    /// Lists a refusal, so that it is not repeated after a restart. Not forced to disk, and left out when the list is
    /// half full: it is no loss.
    pub async fn refuse(&self, request: &Event, now: UnixMs) -> Result<(), LedgerError> {
        let (id, customer) = (event_id(request), author(request));
        let stage = Stage::Closed { how: Closed::Refused };
        self.write(move |inner| match inner.jobs.contains_key(&id) {
            true => Err(LedgerError::Known(id)),
            false if inner.jobs.len() >= MAX_LISTED / 2 => Ok(()),
            false => inner.append(Record { job: id, customer, at: now, stage, request: None, result: None }, false),
        })
        .await
    }

    /// Moves a job along one arrow, with its result where there is one. Durable when it returns.
    pub async fn advance(
        &self,
        id: Hash32,
        to: Stage,
        result: Option<Box<Event>>,
        now: UnixMs,
    ) -> Result<(), LedgerError> {
        self.write(move |inner| {
            let job = inner.jobs.get(&id).ok_or(LedgerError::Unknown(id))?;
            if !job.stage.may_become(&to) {
                return Err(LedgerError::InvalidMove { job: id, from: job.stage.as_str(), to: to.as_str() });
            }
            let customer = job.customer;
            inner.append(Record { job: id, customer, at: now, stage: to, request: None, result }, true)?;
            if inner.len > REWRITE_AT && inner.len > inner.rewritten_len.saturating_mul(2) {
                inner.rewrite(now)?;
            }
            Ok(())
        })
        .await
    }

    fn read<T>(&self, ask: impl FnOnce(&Inner) -> T) -> T {
        ask(&self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Inner) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let inner = Arc::clone(&self.inner);
        blocking(&self.writes, move || change(&mut inner.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

async fn blocking<T: Send + 'static>(
    writes: &TaskTracker,
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    writes.spawn_blocking(work).await.unwrap_or(Err(LedgerError::Closed))
}

impl Inner {
    fn open(dir: PathBuf, now: UnixMs) -> Result<Self, LedgerError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |cause| LedgerError::Io { path, cause }
        };
        make_dir(&dir).map_err(at(&dir))?;
        let lock_path = dir.join(LOCK);
        let lock = private_file().create(true).open(&lock_path).map_err(at(&lock_path))?;
        lock.try_lock().map_err(|_| LedgerError::InUse(dir.clone()))?;
        let path = dir.join(FILE);
        let file = private_file().create(true).open(&path).map_err(at(&path))?;
        let (jobs, len) = read_all(&file, &path)?;
        file.set_len(len).map_err(at(&path))?;
        let mut inner = Self { dir, file, len, rewritten_len: len, broken: false, jobs, _lock: lock };
        inner.rewrite(now)?;
        Ok(inner)
    }

    /// Writes a line and then believes it. After a failed write nothing is believed any more: what is on disk is not
    /// known.
    fn append(&mut self, record: Record, sync: bool) -> Result<(), LedgerError> {
        if self.broken {
            return Err(LedgerError::Closed);
        }
        let written = record.line().map_err(io::Error::from).and_then(|line| {
            self.file.write_all(&line)?;
            if sync {
                self.file.sync_data()?;
            }
            Ok(line.len() as u64)
        });
        match written {
            Ok(len) => self.len += len,
            Err(cause) => {
                self.broken = true;
                return Err(LedgerError::Io { path: self.dir.join(FILE), cause });
            }
        }
        let id = record.job;
        let before = self.jobs.remove(&id);
        self.jobs.insert(id, record.apply(before));
        Ok(())
    }

    /// Forgets what is over and writes the rest anew. The old file stays whole until the new one is in its place.
    fn rewrite(&mut self, now: UnixMs) -> Result<(), LedgerError> {
        self.forget(now);
        let path = self.dir.join(FILE);
        let fresh = self.dir.join("jobs.jsonl.new");
        let written = (|| {
            match std::fs::remove_file(&fresh) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                _ => {}
            }
            let mut file = private_file().create_new(true).open(&fresh)?;
            let mut len = 0;
            let mut out = io::BufWriter::new(&mut file);
            for job in self.jobs.values() {
                let line = Record::of(job).line()?;
                out.write_all(&line)?;
                len += line.len() as u64;
            }
            out.flush()?;
            drop(out);
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            File::open(&self.dir)?.sync_all()?;
            Ok((file, len))
        })();
        let (file, len) = written.map_err(|cause| {
            self.broken = true;
            LedgerError::Io { path, cause }
        })?;
        (self.file, self.len, self.rewritten_len) = (file, len, len);
        Ok(())
    }

    fn forget(&mut self, now: UnixMs) {
        self.jobs.retain(|_, job| job.stage.is_open() || job.at.plus_ms(ID_KEPT_MS) > now);
        for job in self.jobs.values_mut() {
            if !job.stage.is_open() && job.result.is_some() && job.at.plus_ms(RESULT_KEPT_MS) <= now {
                job.stage = Stage::Closed { how: Closed::Forgotten };
                job.shed();
            }
        }
    }
}

/// All jobs, and the length up to the last whole line.
fn read_all(file: &File, path: &Path) -> Result<(HashMap<Hash32, Job>, u64), LedgerError> {
    let error = |cause| LedgerError::Io { path: path.to_owned(), cause };
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(0)).map_err(error)?;
    let mut jobs: HashMap<Hash32, Job> = HashMap::new();
    let (mut len, mut number, mut line) = (0, 0, Vec::new());
    loop {
        line.clear();
        let read = io::Read::take(&mut reader, MAX_LINE).read_until(b'\n', &mut line).map_err(error)?;
        if !line.ends_with(b"\n") {
            // Nothing was promised for a line that has no end; one that is merely too long has more behind it.
            return match reader.fill_buf().map_err(error)?.is_empty() {
                true => Ok((jobs, len)),
                false => Err(LedgerError::Damaged { path: path.to_owned(), line: number + 1 }),
            };
        }
        number += 1;
        let record: Record =
            serde_json::from_slice(&line).map_err(|_| LedgerError::Damaged { path: path.to_owned(), line: number })?;
        len += read as u64;
        let id = record.job;
        let before = jobs.remove(&id);
        jobs.insert(id, record.apply(before));
    }
}

fn event_id(event: &Event) -> Hash32 {
    Hash32::from_bytes(*event.id.as_bytes())
}

fn author(event: &Event) -> Npub {
    Npub::from_bytes(event.pubkey.to_bytes())
}

#[cfg(unix)]
fn private_file() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(0o600);
    options
}

#[cfg(not(unix))]
fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    options
}

fn make_dir(dir: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
