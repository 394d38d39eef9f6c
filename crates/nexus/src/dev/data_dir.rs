//! The directory that one host keeps everything in, held by one process at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nexus_client::file;

/// A data directory, locked for this process until dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// The platform's data directory of this user.
    pub fn default_path() -> anyhow::Result<PathBuf> {
        directories::ProjectDirs::from("", "", "nexus")
            .map(|dirs| dirs.data_local_dir().to_owned())
            .context("no home directory is known\n  next: give --data-dir")
    }

    /// Makes the directory if it is missing, and locks it. A second process on it is refused with the first one's id.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        file::create_private_dir(path).with_context(|| {
            format!("making {}\n  next: give --data-dir a directory that you may write", path.display())
        })?;
        let lock_path = path.join("nexus.lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .with_context(|| format!("opening {}\n  next: check who owns it", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "another nexus{} already runs on {}\n  next: use that one, stop it, or give --data-dir another directory",
                holder(&mut lock),
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", lock_path.display()));
            }
        }
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn database(&self) -> PathBuf {
        database(&self.path)
    }

    pub fn keys(&self) -> PathBuf {
        keys(&self.path)
    }
}

/// Whether a process holds this data directory now.
pub fn is_held(path: &Path) -> bool {
    let Ok(lock) = File::open(path.join("nexus.lock")) else { return false };
    matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
}

pub fn database(data_dir: &Path) -> PathBuf {
    data_dir.join("nexus.db")
}

/// Of an object store that is a directory.
pub fn objects(data_dir: &Path) -> PathBuf {
    data_dir.join("objects")
}

pub fn keys(data_dir: &Path) -> PathBuf {
    data_dir.join("keys")
}

/// The development network's default place: beside the data directory, so that wallets survive a wiped host.
pub fn default_devnet(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or("nexus".as_ref()).to_owned();
    name.push("-devnet");
    data_dir.with_file_name(name)
}

fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.take(32).read_to_string(&mut text) {
        Ok(_) if text.trim().parse::<u32>().is_ok() => format!(" (process {})", text.trim()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_copy_is_told_who_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host");
        let first = DataDir::open(&path).unwrap();
        assert!(is_held(&path));
        let error = DataDir::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        assert!(!is_held(&path));
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn the_development_network_is_a_sibling() {
        assert_eq!(default_devnet(Path::new("/srv/nexus")), Path::new("/srv/nexus-devnet"));
    }
}
