//! Putting a backup back: the only supported way for a database to come from an earlier moment.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nexus_client::{Error, file};
use nexus_core::{Clock, UnixMs};
use nexus_store::backup::{self as store, Contents, Header, Place};
use nexus_vault::{ArchiveKey, PoolIdentity};
use serde_json::json;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::archive;
use crate::ambient::SystemClock;
use crate::cli::RestoreArgs;
use crate::config::{Config, DatabaseKind, Loaded};
use crate::dev::data_dir::{self, DataDir};
use crate::dev::keys;
use crate::output::{Output, group, moment};
use crate::prompt;
use crate::role::{self, base};

const LINES: usize = 64;

type KeyFiles = Vec<(String, Zeroizing<Vec<u8>>)>;

pub async fn run(args: RestoreArgs, loaded: Loaded, output: Output) -> anyhow::Result<()> {
    let key = key(&args)?;
    let (path, opening) = (args.file.clone(), key.clone());
    // To its end, before anything is touched.
    let read = tokio::task::spawn_blocking(move || look(&path, &opening)).await.context("reading the backup")?;
    let (header, agents, keys) = read?;
    let shown = args.file.display();
    let of = format!("{shown} is whole: {} agents as of {} (UTC)", group(agents), moment(header.made_at.0));
    if args.check {
        let document = json!({
            "file": args.file, "whole": true, "made_at": header.made_at, "installation": header.installation,
            "epoch": header.epoch, "agents": agents, "keys": keys.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        });
        output.either(&document, || of);
        return Ok(());
    }
    prompt::say(&of);
    prompt::say("The host that it was made of must never run again: both would act for the same agents.");
    if !args.yes && !prompt::confirm("Is that host stopped for good?") {
        return Err(Error::Usage("nothing was restored\n  next: answer y, or give --yes".to_owned()).into());
    }
    let at = SystemClock::new().now();
    let (header, contents) = put_back(&loaded.config, &args.file, key, keys, at).await?;
    let document = json!({
        "restored": true, "made_at": header.made_at, "at": at, "installation": header.installation,
        "epoch": header.epoch + 1, "agents": contents.agents, "rows": contents.rows, "objects": contents.objects,
    });
    output.either(&document, || {
        format!(
            "Restored {} agents and {} rows.\n\
             What the backup does not know of is not done again: waiting messages are marked handled, open ticks ended, and each\n\
             agent waits until its wallet was compared with its books (`restored`). One that published a newer state waits for\n\
             its owner (`state_rollback`): nexus agent accept-rollback A\n\
             Next: start the host",
            group(contents.agents),
            group(contents.rows)
        )
    });
    Ok(())
}

fn key(args: &RestoreArgs) -> anyhow::Result<ArchiveKey> {
    match &args.identity_file {
        Some(path) => {
            let text = keys::private_text(path)?;
            let identity = PoolIdentity::parse(text.expose()).with_context(|| path.display().to_string())?;
            Ok(ArchiveKey::Identities(identity))
        }
        None => Ok(ArchiveKey::Passphrase(super::passphrase(args.passphrase_file.as_deref())?)),
    }
}

/// Reads all of it: its header, how many agents it has, and the key files in it.
fn look(path: &Path, key: &ArchiveKey) -> anyhow::Result<(Header, u64, KeyFiles)> {
    let (mut agents, mut counting, mut keys) = (0, false, Vec::new());
    let (header, _) = archive::read(path, key, |line| {
        if line.starts_with('[') {
            agents += u64::from(counting);
        } else {
            counting = line.starts_with(r#"{"table":"agent","#) || line.contains(r#""table":"agent""#);
            if let Some((name, bytes)) = store::read_file_line(&line) {
                if !super::is_key_file(&name) {
                    bail!("the backup has a file {name:?}, which is no key file");
                }
                keys.push((name, Zeroizing::new(bytes)));
            }
        }
        Ok(())
    })?;
    Ok((header, agents, keys))
}

async fn put_back(
    config: &Config,
    path: &Path,
    key: ArchiveKey,
    keys: KeyFiles,
    at: UnixMs,
) -> anyhow::Result<(Header, Contents)> {
    let place = super::place(config)?;
    let objects = base::open_objects(config)?;
    let mut held = None;
    if let Place::Sqlite(database) = &place {
        if database.exists() {
            bail!(
                "{} is there already: nothing is restored over a database\n  next: move it away, or give --data-dir another directory",
                database.display()
            );
        }
        let dir = database.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        held = Some(DataDir::open(dir)?);
    }
    if config.database.kind == DatabaseKind::Sqlite {
        put_keys(&data_dir::keys(&role::data_dir(config)?), &keys)?;
    }
    let (lines, taken) = mpsc::channel(LINES);
    let from: PathBuf = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        archive::read(&from, &key, |line| lines.blocking_send(line).context("the database takes no more"))
    });
    let loaded = store::load(place, objects.as_ref(), at, taken).await;
    let read = reading.await.context("reading the backup")?;
    let loaded = loaded.context("restoring")?;
    read?;
    drop(held);
    Ok(loaded)
}

/// Keys that are there already must be the same: another host's are not overwritten.
fn put_keys(dir: &Path, files: &KeyFiles) -> anyhow::Result<()> {
    for (name, bytes) in files {
        let path = dir.join(name);
        if let Ok(found) = std::fs::read(&path).map(Zeroizing::new)
            && *found != **bytes
        {
            bail!(
                "{} is another key than the backup's\n  next: move it away, or give --data-dir another directory",
                path.display()
            );
        }
    }
    for (name, bytes) in files {
        file::create_private_dir(dir).with_context(|| format!("making {}", dir.display()))?;
        file::write_private(&dir.join(name), bytes)?;
    }
    Ok(())
}
