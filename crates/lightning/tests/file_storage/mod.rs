//! A wallet's records in one file, for a process that is killed: all of a write or nothing, and only the newest holder
//! writes, as behind the workers' fence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use nexus_lightning::storage::{Change, Record};
use nexus_lightning::{StorageError, WalletStorage};
use zeroize::Zeroizing;

use super::crash_bench::put_durably;

type Records = BTreeMap<String, BTreeMap<String, String>>;

pub struct FileStorage {
    dir: PathBuf,
    holder: String,
}

impl FileStorage {
    /// Takes the wallet over from whoever held it. `holder` is new each time.
    pub fn open(dir: &Path, holder: &str) -> Self {
        put_durably(&dir.join("holder"), holder.as_bytes());
        Self { dir: dir.to_owned(), holder: holder.to_owned() }
    }

    fn load(&self) -> Records {
        match std::fs::read(self.dir.join("records")) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
            Err(_) => Records::new(),
        }
    }

    fn apply(&self, changes: Vec<Change>) -> Result<(), StorageError> {
        if std::fs::read_to_string(self.dir.join("holder")).unwrap() != self.holder {
            return Err(StorageError::Stale);
        }
        let mut records = self.load();
        for change in changes {
            match change {
                Change::Put { space, key, value } => {
                    records.entry(space.to_owned()).or_default().insert(key, hex::encode(&*value));
                }
                Change::Insert { space, key, value } => {
                    if records.entry(space.to_owned()).or_default().insert(key, hex::encode(&*value)).is_some() {
                        return Err(StorageError::Exists);
                    }
                }
                Change::Delete { space, key } => {
                    records.entry(space.to_owned()).or_default().remove(&key);
                }
            }
        }
        put_durably(&self.dir.join("records"), &serde_json::to_vec(&records).unwrap());
        Ok(())
    }
}

fn value(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(hex::decode(text).unwrap())
}

impl WalletStorage for FileStorage {
    fn list(&self, space: &'static str) -> BoxFuture<'_, Result<Vec<Record>, StorageError>> {
        Box::pin(async move {
            let records = self.load();
            let found = records.get(space).into_iter().flatten();
            Ok(found.map(|(key, text)| Record { key: key.clone(), value: value(text) }).collect())
        })
    }

    fn get<'a>(
        &'a self,
        space: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Zeroizing<Vec<u8>>>, StorageError>> {
        Box::pin(async move { Ok(self.load().get(space).and_then(|it| it.get(key)).map(|text| value(text))) })
    }

    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move { self.apply(changes) })
    }
}
