//! Making backups: one, or one every so often, of which the newest are kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nexus_client::{Error, file};
use nexus_core::{Clock, UnixMs};
use nexus_seal::{Passphrase, Recipient};
use nexus_store::backup::{self as store, Contents, LastBackup, Place};
use nexus_vault::{ArchiveKey, ArchiveLock};
use serde_json::json;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::archive::{self, Written};
use crate::ambient::SystemClock;
use crate::cli::BackupArgs;
use crate::config::{Config, DatabaseKind, Loaded};
use crate::dev::data_dir;
use crate::output::{Output, group, moment};
use crate::prompt;
use crate::role::{self, base, stop};

/// Lines on their way to the file.
const LINES: usize = 64;
/// After one that failed.
const RETRY: Duration = Duration::from_secs(60);
const PREFIX: &str = "nexus-";
const SUFFIX: &str = ".age";

/// What is needed for each.
struct Job {
    config: Config,
    place: Place,
    dir: PathBuf,
    lock: ArchiveLock,
    with_keys: bool,
    every_secs: Option<u32>,
    keep: usize,
}

struct Made {
    path: PathBuf,
    at: UnixMs,
    written: Written,
    contents: Contents,
    removed: usize,
}

pub async fn run(args: BackupArgs, loaded: Loaded, output: Output) -> anyhow::Result<()> {
    let place = super::place(&loaded.config)?;
    if let Place::Sqlite(path) = &place
        && !path.exists()
    {
        bail!("there is no database at {}\n  next: give --data-dir the host's", path.display());
    }
    if args.with_keys && loaded.config.database.kind == DatabaseKind::Postgres {
        let why =
            "the keys of a fleet are not in one place\n  next: keep its pool's directory apart, without --with-keys";
        return Err(Error::Usage(why.to_owned()).into());
    }
    let job = Job {
        lock: lock(&args)?,
        config: loaded.config,
        place,
        dir: args.dir,
        with_keys: args.with_keys,
        every_secs: args.every,
        keep: args.keep as usize,
    };
    file::create_private_dir(&job.dir)
        .with_context(|| format!("making {}\n  next: give --dir a directory that you may write", job.dir.display()))?;
    match job.every_secs {
        None => {
            let made = job.make().await?;
            told(&made, &job, output);
            Ok(())
        }
        Some(secs) => job.each(Duration::from_secs(u64::from(secs)), output).await,
    }
}

fn lock(args: &BackupArgs) -> anyhow::Result<ArchiveLock> {
    if args.recipient.is_empty() {
        let text = prompt::secret(
            "passphrase of the backup",
            args.passphrase_file.as_deref(),
            "--passphrase-file or --recipient",
        )?;
        let own = Passphrase::own(&text).map_err(|weak| {
            Error::Usage(format!("{weak}\n  next: choose a longer one, or close backups to a key with --recipient"))
        })?;
        return Ok(ArchiveLock::Passphrase(own));
    }
    let read = |text: &String| {
        text.parse::<Recipient>()
            .map_err(|error| Error::Usage(format!("--recipient {text}: {error}\n  next: `age-keygen` makes one")))
    };
    Ok(ArchiveLock::Recipients(args.recipient.iter().map(read).collect::<Result<_, _>>()?))
}

impl Job {
    /// Until it is told to stop. One that fails is told and tried again; that it is late shows in `nexus doctor` and in the
    /// metrics.
    async fn each(&self, every: Duration, output: Output) -> anyhow::Result<()> {
        loop {
            let made = tokio::select! {
                made = self.make() => made,
                () = stop::requested() => return Ok(()),
            };
            let pause = match made {
                Ok(made) => {
                    told(&made, self, output);
                    every
                }
                Err(error) => {
                    prompt::say(format!("error: {error:#}; tried again in a minute"));
                    RETRY.min(every)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop::requested() => return Ok(()),
            }
        }
    }

    /// Writes one, looks it through, puts it in its place, and takes away those that are older than the newest.
    async fn make(&self) -> anyhow::Result<Made> {
        let at = SystemClock::new().now();
        let name: String = moment(at.0).chars().filter(char::is_ascii_digit).collect();
        let path = self.dir.join(format!("{PREFIX}{name}{SUFFIX}"));
        if path.exists() {
            bail!("{} is there already\n  next: run it again in a second", path.display());
        }
        let beside = self.dir.join(format!(".{PREFIX}{name}{SUFFIX}.part"));
        let _ = std::fs::remove_file(&beside);
        let filled = self.fill(&beside, at).await;
        let done = filled.and_then(|(written, contents)| {
            std::fs::rename(&beside, &path).with_context(|| format!("moving {} to its place", beside.display()))?;
            super::sync_dir(&self.dir)?;
            Ok((written, contents))
        });
        let (written, contents) = done.inspect_err(|_| {
            let _ = std::fs::remove_file(&beside);
        })?;
        let removed = rotate(&self.dir, self.keep)?;
        let last = LastBackup { at, bytes: written.bytes, every_secs: self.every_secs };
        if let Err(error) = store::note(self.place.clone(), last).await {
            prompt::say(format!("{} is good, but was not noted in the database: {error}", path.display()));
        }
        Ok(Made { path, at, written, contents, removed })
    }

    async fn fill(&self, path: &Path, at: UnixMs) -> anyhow::Result<(Written, Contents)> {
        let objects = base::open_objects(&self.config)?;
        let (lines, taken) = mpsc::channel(LINES);
        let (to, lock) = (path.to_owned(), self.lock.clone());
        let writing = tokio::task::spawn_blocking(move || archive::write(&to, &lock, taken));
        let dumped = store::dump(self.place.clone(), objects.as_ref(), at, &lines).await;
        let dumped = match dumped {
            Ok(contents) => self.end(&contents, &lines).await.map(|()| contents),
            Err(error) => Err(error.into()),
        };
        drop(lines);
        // Whoever writes knows best why nobody took the lines.
        let written = writing.await.context("writing the backup")?;
        let contents = match (dumped, &written) {
            (Ok(contents), Ok(_)) => contents,
            (Err(error), Ok(_)) => return Err(error),
            (Err(error), Err(_)) if !is_closed(&error) => return Err(error),
            (_, Err(_)) => Contents::default(),
        };
        let written = written?;
        let (from, lock, check) = (path.to_owned(), self.lock.clone(), written.clone());
        tokio::task::spawn_blocking(move || look_through(&from, lock, &check))
            .await
            .context("reading the backup")??;
        Ok((written, contents))
    }

    /// What is kept beside the rows, and the last line.
    async fn end(&self, contents: &Contents, lines: &mpsc::Sender<String>) -> anyhow::Result<()> {
        let mut count = 1 + store::TABLES as u64 + contents.rows + contents.objects;
        if self.with_keys {
            for (name, path) in super::key_files(&data_dir::keys(&role::data_dir(&self.config)?))? {
                let bytes =
                    Zeroizing::new(std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
                lines.send(store::file_line(&name, &bytes)).await.context("writing the backup")?;
                count += 1;
            }
        }
        lines.send(store::end_line(count)).await.context("writing the backup")
    }
}

fn is_closed(error: &anyhow::Error) -> bool {
    let closed = |error: &nexus_store::StoreError| matches!(error, nexus_store::StoreError::Closed { .. });
    error.downcast_ref().is_some_and(closed) || error.is::<mpsc::error::SendError<String>>()
}

/// The bytes are those that were written; where the passphrase is at hand it is also opened and read to its end.
fn look_through(path: &Path, lock: ArchiveLock, written: &Written) -> anyhow::Result<()> {
    archive::check_bytes(path, written)?;
    let ArchiveLock::Passphrase(passphrase) = lock else { return Ok(()) };
    let (_, lines) = archive::read(path, &ArchiveKey::Passphrase(passphrase), |_| Ok(()))?;
    if lines != written.lines {
        bail!("{} has {lines} lines, {} were written", path.display(), written.lines);
    }
    Ok(())
}

/// Takes away all but the newest. Returns how many.
fn rotate(dir: &Path, keep: usize) -> anyhow::Result<usize> {
    let listed = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut names: Vec<String> =
        listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| is_backup(name)).collect();
    names.sort_unstable();
    let old = names.len().saturating_sub(keep);
    for name in &names[..old] {
        let path = dir.join(name);
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(old)
}

/// A file that this command made: nothing else is ever removed.
fn is_backup(name: &str) -> bool {
    let stamp = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    stamp.is_some_and(|stamp| stamp.len() == 14 && stamp.bytes().all(|byte| byte.is_ascii_digit()))
}

fn told(made: &Made, job: &Job, output: Output) {
    let Made { path, at, written, contents, removed } = made;
    let document = json!({
        "file": path, "at": at, "bytes": written.bytes, "sha256": hex::encode(written.digest), "agents": contents.agents,
        "rows": contents.rows, "objects": contents.objects, "keys": job.with_keys, "removed": removed,
    });
    if output.json {
        output.record(&document);
        return;
    }
    let mut text = format!(
        "Wrote {} ({} bytes): {} agents, {} rows; read back and whole",
        path.display(),
        group(written.bytes),
        group(contents.agents),
        group(contents.rows)
    );
    if !job.with_keys {
        text.push_str(
            "\nNot in it: keys. Without the pool's key no agent in sealed custody can be opened: keep it, too",
        );
    }
    if job.every_secs.is_none() {
        text.push_str(&format!("\nNext, on an empty host: nexus restore {}", path.display()));
    }
    output.line(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_backups_are_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let mine = ["nexus-20261101000000.age", "nexus-20261102000000.age", "nexus-20261103000000.age"];
        let others =
            ["nexus-notes.age", "nexus-20261101000000.age.txt", "other-20261101000000.age", ".nexus-1.age.part"];
        for name in mine.iter().chain(&others) {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        assert_eq!(rotate(dir.path(), 2).unwrap(), 1);
        assert_eq!(rotate(dir.path(), 2).unwrap(), 0);
        assert!(!dir.path().join(mine[0]).exists());
        assert!(mine[1..].iter().chain(&others).all(|name| dir.path().join(name).exists()));
    }
}
