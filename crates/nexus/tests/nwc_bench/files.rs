//! Wallet storage in a directory: what one process stored, the next one finds.

use std::path::PathBuf;

use futures::future::BoxFuture;
use nexus_lightning::storage::{Change, Record, StorageError, WalletStorage};
use zeroize::Zeroizing;

use crate::crash_bench::put_durably;

/// A file for each record: created whole or not at all.
pub struct Files(pub PathBuf);

impl Files {
    fn path(&self, space: &str, key: &str) -> PathBuf {
        let dir = self.0.join(space);
        std::fs::create_dir_all(&dir).unwrap();
        dir.join(hex::encode(key))
    }

    fn change(&self, change: Change) -> Result<(), StorageError> {
        match change {
            Change::Put { space, key, value } => put_durably(&self.path(space, &key), &value),
            Change::Insert { space, key, value } => {
                let path = self.path(space, &key);
                let whole = path.with_extension(format!("new{}", std::process::id()));
                put_durably(&whole, &value);
                // A link is made by one of several at once.
                let linked = std::fs::hard_link(&whole, &path);
                std::fs::remove_file(&whole).unwrap();
                linked.map_err(|_| StorageError::Exists)?;
            }
            Change::Delete { space, key } => drop(std::fs::remove_file(self.path(space, &key))),
        }
        Ok(())
    }
}

impl WalletStorage for Files {
    fn list(&self, space: &'static str) -> BoxFuture<'_, Result<Vec<Record>, StorageError>> {
        let mut found = Vec::new();
        let dir = std::fs::read_dir(self.0.join(space)).into_iter().flatten();
        for path in dir.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_none()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let key = String::from_utf8(hex::decode(name).unwrap()).unwrap();
            let Ok(value) = std::fs::read(&path) else { continue };
            found.push(Record { key, value: Zeroizing::new(value) });
        }
        found.sort_by(|one, other| one.key.cmp(&other.key));
        Box::pin(async { Ok(found) })
    }

    fn get<'a>(
        &'a self,
        space: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Zeroizing<Vec<u8>>>, StorageError>> {
        let found = std::fs::read(self.path(space, key)).ok().map(Zeroizing::new);
        Box::pin(async { Ok(found) })
    }

    /// One after another: this driver's changes are good in their order.
    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StorageError>> {
        let done = changes.into_iter().try_for_each(|change| self.change(change));
        Box::pin(async { done })
    }
}
