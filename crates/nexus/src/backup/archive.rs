//! One backup file: lines, closed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use nexus_store::backup::{self, Header, MAX_LINE};
use nexus_vault::{ArchiveKey, ArchiveLock, ArchiveWriter, open_archive};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

/// What a file holds, seen from outside and from inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    pub digest: [u8; 32],
    pub lines: u64,
}

/// Counts and hashes what goes into the file.
struct Counting<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..taken]);
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes every line that comes, until the last; a stream that ends before it makes no backup.
pub fn write(path: &Path, lock: &ArchiveLock, mut lines: mpsc::Receiver<String>) -> anyhow::Result<Written> {
    let attempted = || format!("writing {}", path.display());
    let file = private(path).with_context(attempted)?;
    let out = Counting { inner: BufWriter::with_capacity(1 << 20, file), hasher: Sha256::new(), bytes: 0 };
    let mut archive = ArchiveWriter::new(out, lock).with_context(attempted)?;
    let (mut count, mut ended) = (0, false);
    while let Some(line) = lines.blocking_recv() {
        archive.write_all(line.as_bytes()).and_then(|()| archive.write_all(b"\n")).with_context(attempted)?;
        count += 1;
        ended = backup::read_end_line(&line).is_some();
    }
    if !ended {
        bail!("the database was not read to its end");
    }
    let out = archive.finish().with_context(attempted)?;
    let Counting { inner, hasher, bytes } = out;
    let file = inner.into_inner().map_err(io::IntoInnerError::into_error).with_context(attempted)?;
    file.sync_all().with_context(attempted)?;
    Ok(Written { bytes, digest: hasher.finalize().into(), lines: count })
}

/// Whether what is on the disk is what was written.
pub fn check_bytes(path: &Path, written: &Written) -> anyhow::Result<()> {
    let attempted = || format!("reading back {}", path.display());
    let mut file = File::open(path).with_context(attempted)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(attempted)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    if <[u8; 32]>::from(hasher.finalize()) != written.digest {
        bail!("{} is not what was written: the disk changed it\n  next: back up to another disk", path.display());
    }
    Ok(())
}

/// Reads a backup to its end, handing each line on; returns its header and how many lines it has.
///
/// # Errors
/// For a file that is no backup, does not open, was changed anywhere, or is not whole.
pub fn read(
    path: &Path,
    key: &ArchiveKey,
    mut take: impl FnMut(String) -> anyhow::Result<()>,
) -> anyhow::Result<(Header, u64)> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("opening {shown}"))?;
    let opened = open_archive(BufReader::with_capacity(1 << 20, file), key);
    let mut text = BufReader::with_capacity(1 << 20, opened.with_context(|| format!("opening {shown}"))?);
    let (mut header, mut count, mut ended) = (None, 0_u64, false);
    loop {
        let mut line = String::new();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        let read = (&mut text).take(limit).read_line(&mut line);
        let read = read.with_context(|| format!("{shown} was changed or cut off, after {count} of its lines"))?;
        if read == 0 {
            break;
        }
        if ended {
            bail!("{shown} goes on after its end");
        }
        if line.pop() != Some('\n') {
            bail!("{shown} has a line without an end, or one that is longer than {MAX_LINE} bytes");
        }
        match &header {
            None => header = Some(Header::parse(&line).with_context(|| format!("{shown} is no backup of a host"))?),
            Some(_) => {
                if let Some(before) = backup::read_end_line(&line) {
                    if before != count {
                        bail!("{shown} has {count} lines and says that it has {before}");
                    }
                    ended = true;
                }
            }
        }
        count += 1;
        take(line)?;
    }
    match header {
        Some(header) if ended => Ok((header, count)),
        _ => bail!("{shown} ends before its last line: it is not whole"),
    }
}

/// A new file that nobody else may read.
fn private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
