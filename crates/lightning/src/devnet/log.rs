//! The network's memory: an append-only file of its own, synced before anybody is answered.
//!
//! ```text
//! <16 hex digits> <JSON>\n
//! ```
//!
//! The digits begin SHA-256(sum of the line before || JSON), so a line that was lost, changed or moved is noticed. The
//! first line says how many snapshot rows follow; each later line is one batch of entries that became durable together.
//! A last line that is not whole was never answered and is cut off; damage before that refuses the file. Compaction
//! writes a new file and renames it over the old one.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nexus_core::Hash32;
use serde::{Deserialize, Serialize};

use super::OpenError;
use super::ledger::{Entry, Ledger, Row};

const FORMAT: u32 = 1;
/// Longer than any batch: 256 requests of 8 KiB.
const MAX_LINE_BYTES: u64 = 4 << 20;
/// The log is compacted when what was appended exceeds both this and twice the snapshot, so the cost per entry is bounded.
pub(super) const COMPACT_BYTES: u64 = 8 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    nexus_devnet: u32,
    rows: u64,
}

/// The open log, at its end.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    sum: Hash32,
    snapshot_bytes: u64,
    appended_bytes: u64,
}

fn line(sum: &mut Hash32, json: &[u8]) -> Vec<u8> {
    *sum = next_sum(*sum, json);
    let mut line = hex::encode(&sum.as_bytes()[..8]).into_bytes();
    line.push(b' ');
    line.extend_from_slice(json);
    line.push(b'\n');
    line
}

fn next_sum(sum: Hash32, json: &[u8]) -> Hash32 {
    Hash32::sha256(&[sum.as_bytes().as_slice(), json].concat())
}

/// The JSON of a whole line, if its sum is right.
fn check(sum: &mut Hash32, line: &[u8]) -> Option<Vec<u8>> {
    let (digits, rest) = line.split_at_checked(16)?;
    let json = rest.strip_prefix(b" ")?.strip_suffix(b"\n")?;
    let next = next_sum(*sum, json);
    if hex::encode(&next.as_bytes()[..8]).as_bytes() != digits {
        return None;
    }
    *sum = next;
    Some(json.to_vec())
}

/// Whether a line that fails its sum was cut off in writing: a whole line with a wrong sum is another matter.
fn torn(line: &[u8]) -> bool {
    let json = line.strip_suffix(b"\n").and_then(|line| line.get(17..));
    json.is_none_or(|json| serde_json::from_slice::<serde::de::IgnoredAny>(json).is_err())
}

impl Log {
    /// Opens or makes the log and reads the books from it.
    pub(super) fn open(path: PathBuf) -> Result<(Self, Ledger), OpenError> {
        let io = |source| OpenError::Io { path: path.clone(), source };
        if !path.try_exists().map_err(io)? {
            let ledger = Ledger::default();
            return Ok((Self::write_snapshot(&path, &ledger).map_err(io)?, ledger));
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io)?;
        let mut loading = Loading { path: &path, sum: Hash32::ZERO, good: 0, line: 0 };
        let (ledger, snapshot_bytes) = loading.read(BufReader::new(&file))?;
        let (sum, good) = (loading.sum, loading.good);
        if file.metadata().map_err(io)?.len() > good {
            tracing::warn!(path = %path.display(), "dropping the torn last line of the development network's log");
            file.set_len(good).map_err(io)?;
            file.sync_all().map_err(io)?;
        }
        let mut file = file;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        Ok((Self { sum, snapshot_bytes, appended_bytes: good - snapshot_bytes, path, file }, ledger))
    }

    /// Writes a batch and waits until it is on the disk. After an error the log must not be used again: what reached
    /// the disk is unknown until it is opened anew.
    pub(super) fn append(&mut self, batch: &[Entry]) -> io::Result<()> {
        let line = self.encode(batch)?;
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.appended_bytes += line.len() as u64;
        Ok(())
    }

    fn encode(&mut self, batch: &[Entry]) -> io::Result<Vec<u8>> {
        let line = line(&mut self.sum, &serde_json::to_vec(batch)?);
        if line.len() as u64 > MAX_LINE_BYTES {
            return Err(io::Error::other("a batch larger than a line may be"));
        }
        Ok(line)
    }

    /// For tests of a crash in mid-write: half of the line, or all of it without waiting for the disk.
    #[cfg(feature = "faults")]
    pub(super) fn append_torn(&mut self, batch: &[Entry], whole: bool) -> io::Result<()> {
        let line = self.encode(batch)?;
        let end = if whole { line.len() } else { line.len() / 2 };
        self.file.write_all(&line[..end])
    }

    pub(super) fn wants_compaction(&self, threshold_bytes: u64) -> bool {
        self.appended_bytes > threshold_bytes.max(self.snapshot_bytes.saturating_mul(2))
    }

    /// Replaces the log by a snapshot of `ledger`, which must hold everything appended. Old or new survives, whole.
    pub(super) fn compact(&mut self, ledger: &Ledger) -> io::Result<()> {
        *self = Self::write_snapshot(&self.path, ledger)?;
        Ok(())
    }

    fn write_snapshot(path: &Path, ledger: &Ledger) -> io::Result<Self> {
        let temporary = path.with_extension("new");
        let mut sum = Hash32::ZERO;
        let mut out = BufWriter::new(super::dir::create_private(&temporary)?);
        let header = Header { nexus_devnet: FORMAT, rows: ledger.rows().count() as u64 };
        out.write_all(&line(&mut sum, &serde_json::to_vec(&header)?))?;
        for row in ledger.rows() {
            out.write_all(&line(&mut sum, &serde_json::to_vec(&row)?))?;
        }
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        super::dir::sync_parent(path)?;
        let snapshot_bytes = file.seek(SeekFrom::End(0))?;
        Ok(Self { path: path.to_owned(), file, sum, snapshot_bytes, appended_bytes: 0 })
    }
}

struct Loading<'p> {
    path: &'p Path,
    sum: Hash32,
    good: u64,
    line: usize,
}

impl Loading<'_> {
    fn damaged(&self, why: impl ToString) -> OpenError {
        OpenError::Damaged { path: self.path.to_owned(), line: self.line, why: why.to_string() }
    }

    /// The books, and where the snapshot ends. Leaves `good` after the last whole line.
    fn read(&mut self, mut input: BufReader<&File>) -> Result<(Ledger, u64), OpenError> {
        let mut ledger = Ledger::default();
        let header = self.next(&mut input)?.ok_or_else(|| self.damaged("the first line is missing"))?;
        let header: Header = serde_json::from_slice(&header).map_err(|error| self.damaged(error))?;
        if header.nexus_devnet != FORMAT {
            return Err(self.damaged(format!("format {} is not {FORMAT}", header.nexus_devnet)));
        }
        for _ in 0..header.rows {
            let row = self.next(&mut input)?.ok_or_else(|| self.damaged("the snapshot is cut short"))?;
            let row: Row = serde_json::from_slice(&row).map_err(|error| self.damaged(error))?;
            ledger.restore(row);
        }
        let snapshot_bytes = self.good;
        while let Some(json) = self.next(&mut input)? {
            let batch: Vec<Entry> = serde_json::from_slice(&json).map_err(|error| self.damaged(error))?;
            for entry in &batch {
                ledger.apply(entry).map_err(|error| self.damaged(error))?;
            }
        }
        if ledger.sum() != 0 {
            return Err(self.damaged("the books do not balance"));
        }
        Ok((ledger, snapshot_bytes))
    }

    /// The next whole line; none at the end, or where only a torn last line is left.
    fn next(&mut self, input: &mut BufReader<&File>) -> Result<Option<Vec<u8>>, OpenError> {
        let io = |source| OpenError::Io { path: self.path.to_owned(), source };
        self.line += 1;
        let mut line = Vec::new();
        let length = input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(io)?;
        if length == 0 {
            return Ok(None);
        }
        match check(&mut self.sum, &line) {
            Some(json) => {
                self.good += length as u64;
                Ok(Some(json))
            }
            None if input.fill_buf().map_err(io)?.is_empty() && torn(&line) => Ok(None),
            None => Err(self.damaged("the line's sum is wrong")),
        }
    }
}

#[cfg(test)]
mod tests;
