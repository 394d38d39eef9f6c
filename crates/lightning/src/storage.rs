//! Where a wallet driver keeps what it must not lose: quotes, proofs, requests that were signed.
//!
//! Drivers know no database. Whoever opens a wallet brings its storage, which closes what it stores (values and keys are
//! ciphertext at rest) and refuses every write of a holder that was replaced.

use std::sync::Arc;

use futures::future::BoxFuture;
use nexus_core::Hash32;
use zeroize::Zeroizing;

/// Largest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;
/// Records of one wallet at most.
pub const MAX_RECORDS: usize = 20_000;
/// Changes in one write at most.
pub const MAX_CHANGES: usize = 1_000;

/// One thing kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// At most 200 bytes.
    pub key: String,
    pub value: Zeroizing<Vec<u8>>,
}

/// Part of a write.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// Stores, whether or not there was something.
    Put { space: &'static str, key: String, value: Zeroizing<Vec<u8>> },
    /// Stores what is new: the whole write is refused with [`StorageError::Exists`] if the key is there.
    Insert { space: &'static str, key: String, value: Zeroizing<Vec<u8>> },
    /// Forgets; what is not there stays so.
    Delete { space: &'static str, key: String },
}

/// Why nothing was read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// Somebody else holds this wallet now. Nothing may be done with it any more.
    #[error("this wallet is held by another worker now")]
    Stale,
    /// An [`Change::Insert`] met a record.
    #[error("it is stored already")]
    Exists,
    /// A bound of this module, or what is stored does not open.
    #[error("wallet storage: {0}")]
    Refused(String),
    /// Whether it was written is not known; reading tells.
    #[error("wallet storage does not answer: {0}")]
    Unavailable(String),
}

/// One wallet's records, in named spaces. One holder at a time writes; it may read what it wrote at once.
pub trait WalletStorage: Send + Sync {
    /// All records of a space, in the order of their keys.
    fn list(&self, space: &'static str) -> BoxFuture<'_, Result<Vec<Record>, StorageError>>;

    fn get<'a>(
        &'a self,
        space: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Zeroizing<Vec<u8>>>, StorageError>>;

    /// All changes or none, durable when it returns. In their order, at most [`MAX_CHANGES`].
    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StorageError>>;
}

/// A part of one wallet's storage: the records of one mint beside another's.
pub struct Scoped {
    all: Arc<dyn WalletStorage>,
    /// In front of each key.
    scope: String,
}

impl Scoped {
    /// `of` names the part; it may be of any length.
    pub fn new(all: Arc<dyn WalletStorage>, of: &str) -> Self {
        let scope: String = Hash32::sha256(of.as_bytes()).to_string().chars().take(16).collect();
        Self { all, scope: format!("{scope}/") }
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.scope)
    }
}

impl WalletStorage for Scoped {
    fn list(&self, space: &'static str) -> BoxFuture<'_, Result<Vec<Record>, StorageError>> {
        Box::pin(async move {
            let all = self.all.list(space).await?;
            let own = all.into_iter().filter_map(|record| {
                let key = record.key.strip_prefix(&self.scope)?.to_owned();
                Some(Record { key, value: record.value })
            });
            Ok(own.collect())
        })
    }

    fn get<'a>(
        &'a self,
        space: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Zeroizing<Vec<u8>>>, StorageError>> {
        Box::pin(async move { self.all.get(space, &self.key(key)).await })
    }

    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StorageError>> {
        let scoped = changes.into_iter().map(|change| match change {
            Change::Put { space, key, value } => Change::Put { space, key: self.key(&key), value },
            Change::Insert { space, key, value } => Change::Insert { space, key: self.key(&key), value },
            Change::Delete { space, key } => Change::Delete { space, key: self.key(&key) },
        });
        self.all.write(scoped.collect())
    }
}

#[cfg(any(test, feature = "conformance"))]
pub use memory::MemoryStorage;

#[cfg(any(test, feature = "conformance"))]
mod memory {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex, PoisonError};

    use futures::future::BoxFuture;
    use zeroize::Zeroizing;

    use super::{Change, Record, StorageError, WalletStorage};

    type Records = BTreeMap<(&'static str, String), Zeroizing<Vec<u8>>>;

    /// Records in memory, for tests: clones are the same records, as after a restart.
    #[derive(Clone, Default)]
    pub struct MemoryStorage(Arc<Mutex<Records>>);

    impl WalletStorage for MemoryStorage {
        fn list(&self, space: &'static str) -> BoxFuture<'_, Result<Vec<Record>, StorageError>> {
            let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let found = records.iter().filter(|((in_space, _), _)| *in_space == space);
            let found = found.map(|((_, key), value)| Record { key: key.clone(), value: value.clone() }).collect();
            Box::pin(async move { Ok(found) })
        }

        fn get<'a>(
            &'a self,
            space: &'static str,
            key: &'a str,
        ) -> BoxFuture<'a, Result<Option<Zeroizing<Vec<u8>>>, StorageError>> {
            let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let found = records.get(&(space, key.to_owned())).cloned();
            Box::pin(async move { Ok(found) })
        }

        fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StorageError>> {
            let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let mut next = records.clone();
            for change in changes {
                match change {
                    Change::Put { space, key, value } => drop(next.insert((space, key), value)),
                    Change::Insert { space, key, value } => {
                        if next.insert((space, key), value).is_some() {
                            return Box::pin(async { Err(StorageError::Exists) });
                        }
                    }
                    Change::Delete { space, key } => drop(next.remove(&(space, key))),
                }
            }
            *records = next;
            Box::pin(async { Ok(()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_of_a_wallets_storage_do_not_meet() {
        let all = Arc::new(MemoryStorage::default());
        let (one, other) = (Scoped::new(all.clone(), "https://one"), Scoped::new(all.clone(), "https://other"));
        let put = |value: u8| vec![Change::Insert { space: "s", key: "k".into(), value: vec![value].into() }];
        one.write(put(1)).await.unwrap();
        assert_eq!(one.write(put(1)).await, Err(StorageError::Exists));
        other.write(put(2)).await.unwrap();
        assert_eq!(one.get("s", "k").await.unwrap().unwrap().to_vec(), [1]);
        let listed = other.list("s").await.unwrap();
        assert_eq!(listed.iter().map(|it| (it.key.as_str(), it.value.to_vec())).collect::<Vec<_>>(), [("k", vec![2])]);
        one.write(vec![Change::Delete { space: "s", key: "k".into() }]).await.unwrap();
        assert_eq!((one.list("s").await.unwrap().len(), other.list("s").await.unwrap().len()), (0, 1));
        assert_eq!(all.list("s").await.unwrap().len(), 1);
    }
}
