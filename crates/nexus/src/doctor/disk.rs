//! What lies on disk.

use std::path::Path;
use std::time::UNIX_EPOCH;

use nexus_client::file;
use nexus_core::Clock;
use nexus_seal::SignedPool;
use nexus_store::{Store, StoreError, worker};
use nostr::event::Event;

use super::Finding;
use crate::cli::Global;
use crate::config::Loaded;
use crate::dev::{data_dir, keys};
use crate::output::moment;

/// A clock before this is certainly wrong: 2026-01-01.
const EARLIEST_MS: i64 = 1_767_225_600_000;
/// Files may be a little newer than the clock after a small correction.
const TOLERANCE_MS: i64 = 60_000;

pub fn configuration(global: &Global, loaded: &Loaded) -> Finding {
    let from = global.config.as_ref().map_or("defaults".to_owned(), |path| path.display().to_string());
    Finding::ok("configuration", format!("{from}, {} values set", loaded.sources.len()))
}

pub fn directory(dir: &Path) -> Finding {
    let shown = dir.display();
    if !dir.exists() {
        return Finding::warn("data directory", format!("{shown} does not exist yet"), "`nexus dev` makes it");
    }
    if let Err(error) = tempfile::tempfile_in(dir) {
        return Finding::fail(
            "data directory",
            format!("{shown} can't be written ({error})"),
            "check its owner and the free space",
        );
    }
    if file::readable_by_others(dir) {
        return Finding::warn(
            "data directory",
            format!("{shown} can be entered by others"),
            format!("chmod 700 {shown}"),
        );
    }
    Finding::ok("data directory", shown.to_string())
}

/// Key files that others may read, and a pool document that does not verify.
pub fn keys(dir: &Path, clock: &dyn Clock) -> Vec<Finding> {
    let dir = data_dir::keys(dir);
    let open: Vec<String> = keys::PRIVATE
        .iter()
        .map(|name| dir.join(name))
        .filter(|path| file::readable_by_others(path))
        .map(|path| path.display().to_string())
        .collect();
    let missing: Vec<&str> = keys::PRIVATE.into_iter().filter(|name| !dir.join(name).exists()).collect();
    let files = match (open.as_slice(), missing.as_slice()) {
        ([], []) => Finding::ok("key files", format!("{}, for their owner alone", dir.display())),
        ([], missing) if missing.len() == keys::PRIVATE.len() => {
            Finding::warn("key files", "none yet", "`nexus dev` makes them")
        }
        ([], missing) => Finding::fail(
            "key files",
            format!("missing: {}", missing.join(", ")),
            "restore them from a backup: without the pool key no agent here can be opened",
        ),
        (open, _) => Finding::fail("key files", "others can read them", format!("chmod 600 {}", open.join(" "))),
    };
    vec![files, pool(&dir.join("pool.json"), clock)]
}

fn pool(path: &Path, clock: &dyn Clock) -> Finding {
    let Ok(text) = file::read_secret(path) else {
        return Finding::warn("pool document", "none yet", "`nexus dev` makes it");
    };
    let chain: Result<Vec<Event>, _> = serde_json::from_str(&text);
    let chain = chain.map_err(|error| error.to_string());
    match chain.and_then(|chain| SignedPool::first_use(&chain, clock.now()).map_err(|error| error.to_string())) {
        Ok(pool) => Finding::ok("pool document", format!("root key: {}", pool.fingerprint())),
        Err(why) => Finding::fail("pool document", format!("{}: {why}", path.display()), "restore it from a backup"),
    }
}

pub fn clock(dir: &Path, clock: &dyn Clock) -> Finding {
    let now = clock.now().0;
    if now < EARLIEST_MS {
        let detail = format!("the clock says {} (UTC)", moment(now));
        return Finding::fail("clock", detail, "set it (NTP): signed requests are refused at 60 s off");
    }
    let modified = std::fs::metadata(data_dir::database(dir)).and_then(|meta| meta.modified()).ok();
    let modified = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let modified = modified.and_then(|at| i64::try_from(at.as_millis()).ok()).unwrap_or(0);
    if modified > now + TOLERANCE_MS {
        let detail = format!("the clock says {} (UTC), the database was written later", moment(now));
        return Finding::fail("clock", detail, "the clock went back: set it (NTP)");
    }
    Finding::ok("clock", format!("{} (UTC)", moment(now)))
}

/// Opens the database when no host does.
pub async fn database(dir: &Path, running: bool) -> Finding {
    let path = data_dir::database(dir);
    let shown = path.display().to_string();
    if !path.exists() {
        return Finding::warn("database", "none yet", "`nexus dev` makes it");
    }
    if running {
        return Finding::ok("database", format!("{shown}, in use by the running host"));
    }
    match Store::open_inline(&path) {
        Ok(store) => match worker::list(&store).await {
            Ok(workers) => Finding::ok("database", format!("{shown}, schema known, {} workers", workers.len())),
            Err(error) => Finding::fail("database", error.to_string(), "restore the data directory from a backup"),
        },
        Err(error @ StoreError::NewerSchema { .. }) => {
            Finding::fail("database", error.to_string(), "run the newer version of nexus that wrote it")
        }
        Err(error) => Finding::fail("database", error.to_string(), "restore the data directory from a backup"),
    }
}
