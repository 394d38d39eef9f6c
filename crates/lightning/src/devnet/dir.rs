//! The directory that a network lives in: lock, node key, address.
//!
//! `lock` is held by the serving process, `node.key` signs invoices (0600), `log` is the books, `url` is where the
//! serving process answers, with the node's public key on its second line.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bitcoin::secp256k1::{PublicKey, SecretKey};
use nexus_core::Entropy;

use super::OpenError;
use super::account::secp;

/// The directory, locked: released when this is dropped or the process ends, however it ends.
pub(super) struct Held {
    pub(super) path: PathBuf,
    _lock: File,
}

/// What `url` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) url: String,
    pub(super) node: String,
}

/// A file that only its owner may read, emptied.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Old or new survives, whole.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = create_private(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// Makes the directory if need be and takes its lock, or says who answers there.
pub(super) fn hold(path: &Path) -> Result<Held, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
    let lock = path.join("lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock).map_err(io)?;
    match lock.try_lock() {
        Ok(()) => Ok(Held { path: path.to_owned(), _lock: lock }),
        Err(TryLockError::WouldBlock) => {
            Err(OpenError::Held { dir: path.to_owned(), url: address(path).map(|address| address.url) })
        }
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// Where the directory's network was last served.
pub(super) fn address(path: &Path) -> Option<Address> {
    let text = std::fs::read_to_string(path.join("url")).ok()?;
    let mut lines = text.lines();
    Some(Address { url: lines.next()?.to_owned(), node: lines.next()?.to_owned() })
}

impl Held {
    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(super) fn announce(&self, address: &Address) -> Result<(), OpenError> {
        let path = self.path.join("url");
        replace(&path, format!("{}\n{}\n", address.url, address.node).as_bytes())
            .map_err(|source| OpenError::Io { path, source })
    }

    /// The node's key, made at the network's first start.
    pub(super) fn node_key(&self, entropy: &dyn Entropy) -> Result<(SecretKey, PublicKey), OpenError> {
        let path = self.path.join("node.key");
        let io = |source| OpenError::Io { path: path.clone(), source };
        if !path.try_exists().map_err(io)? {
            let key = std::iter::repeat_with(|| SecretKey::from_slice(&nexus_core::time::random::<32>(entropy)))
                .take(8)
                .find_map(Result::ok)
                .ok_or_else(|| io(io::Error::other("no randomness")))?;
            replace(&path, format!("{}\n", hex::encode(key.secret_bytes())).as_bytes()).map_err(io)?;
        }
        let text = std::fs::read_to_string(&path).map_err(io)?;
        let damaged = |_| OpenError::Damaged { path: path.clone(), line: 1, why: "not a secp256k1 key".to_owned() };
        let key: SecretKey = text.trim().parse().map_err(damaged)?;
        Ok((key, PublicKey::from_secret_key(secp(), &key)))
    }
}
