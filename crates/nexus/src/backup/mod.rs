//! `nexus backup` and `nexus restore`: a host's database in one closed file, and back.

mod archive;
mod make;
mod restore;

use std::path::{Path, PathBuf};

use anyhow::Context;
use nexus_client::Error;
use nexus_seal::Passphrase;
use nexus_store::backup::Place;

pub use make::run as backup;
pub use restore::run as restore;

use crate::config::{Config, DatabaseKind};
use crate::prompt;
use crate::role::base;

/// The database that this configuration names.
pub fn place(config: &Config) -> anyhow::Result<Place> {
    Ok(match config.database.kind {
        DatabaseKind::Sqlite => Place::Sqlite(base::sqlite_file(config)?),
        DatabaseKind::Postgres => Place::Postgres(Box::new(config.database.postgres.clone())),
    })
}

/// The passphrase that opens a backup.
fn passphrase(file: Option<&Path>) -> Result<Passphrase, Error> {
    let text = prompt::secret("passphrase of the backup", file, "--passphrase-file")?;
    Ok(Passphrase::existing(text.as_str()))
}

/// Makes a rename or a new file last.
fn sync_dir(dir: &Path) -> anyhow::Result<()> {
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| format!("writing to {}", dir.display()))
}

/// Everything under the keys' directory of a host in one process.
fn key_files(dir: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    let listed = match std::fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error).with_context(|| format!("reading {}", dir.display())),
    };
    for entry in listed {
        let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_file() && is_key_file(&name) {
            files.push((name, path));
        }
    }
    files.sort();
    Ok(files)
}

/// A file of the keys' directory, and nothing that could lead out of it.
fn is_key_file(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_has_a_plain_name() {
        for name in ["pool.age", "provider-wallet.key", "pool.json", "worker.id"] {
            assert!(is_key_file(name), "{name}");
        }
        for name in ["", "..", ".hidden", "../pool.age", "a/b", "A", "a\\b", "a\0b", &"a".repeat(65)] {
            assert!(!is_key_file(name), "{name}");
        }
    }
}
