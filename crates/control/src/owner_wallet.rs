//! Wallets of owners that control may ask to pay hosting: how one is opened, and where its driver keeps what it must not lose.

use std::sync::Arc;

use futures::future::BoxFuture;
use nexus_core::{AccountId, Clock, Entropy, Hash32};
use nexus_lightning::Pay;
use nexus_lightning::nwc::Connection;
use nexus_lightning::storage::{
    Change, MAX_CHANGES, MAX_RECORDS, MAX_VALUE_BYTES, Record, StorageError, WalletStorage,
};
use nexus_seal::operator::OperatorKey;
use nexus_store::operator_record;
use nexus_store::wallet_record::{WalletRecord, Write};
use nexus_store::{Conflict, Store, StoreError};
use zeroize::Zeroizing;

use crate::app::App;

/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 200;

/// Opens wallets by the connections that owners gave. Which relays may be connected to is decided there.
pub trait OwnerWallets: Send + Sync {
    /// Connects to nothing yet.
    fn open(&self, connection: Connection, storage: Arc<dyn WalletStorage>) -> Arc<dyn Pay>;
}

/// Where a connection is sealed to.
pub(crate) fn purpose(account: AccountId) -> String {
    format!("renewal:{account}")
}

/// What the driver of an account's wallet keeps: closed under the operator's key, each record for its place. Two control
/// planes may write at once: what must happen once is inserted.
pub(crate) struct Kept {
    store: Store,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    key: Arc<OperatorKey>,
    scope: String,
}

impl Kept {
    pub fn new(app: &App, key: Arc<OperatorKey>, account: AccountId) -> Self {
        let (store, clock, entropy) = (app.store.clone(), app.clock.clone(), app.entropy.clone());
        Self { store, clock, entropy, key, scope: purpose(account) }
    }

    fn name(&self, space: &str, key: &str) -> Hash32 {
        Hash32::sha256(format!("{}\0{space}\0{key}", self.scope).as_bytes())
    }

    fn place(&self, space: &str, name: Hash32) -> String {
        format!("record:{}:{space}:{name}", self.scope)
    }

    fn seal(&self, space: &'static str, key: &str, value: &[u8]) -> Result<WalletRecord, StorageError> {
        if key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
            return Err(StorageError::Refused(format!("{space}: a record is too large")));
        }
        let name = self.name(space, key);
        let mut text = Zeroizing::new(Vec::with_capacity(key.len() + value.len() + 1));
        text.extend_from_slice(key.as_bytes());
        text.push(0);
        text.extend_from_slice(value);
        let blob = self.key.seal(&self.place(space, name), &text, &*self.entropy);
        let blob = blob.map_err(|error| StorageError::Refused(error.to_string()))?;
        Ok(WalletRecord { space: space.to_owned(), name, blob })
    }

    fn open(&self, record: &WalletRecord) -> Result<Record, StorageError> {
        let foreign = || StorageError::Refused(format!("a record of {} is not what was kept there", record.space));
        let text = self.key.open(&self.place(&record.space, record.name), &record.blob).map_err(|_| foreign())?;
        let mut parts = text.expose().splitn(2, |byte| *byte == 0);
        let (Some(key), Some(value)) = (parts.next(), parts.next()) else { return Err(foreign()) };
        let key = String::from_utf8(key.to_vec()).map_err(|_| foreign())?;
        if self.name(&record.space, &key) != record.name {
            return Err(foreign());
        }
        Ok(Record { key, value: Zeroizing::new(value.to_vec()) })
    }

    fn sealed(&self, change: Change) -> Result<Write, StorageError> {
        Ok(match change {
            Change::Put { space, key, value } => Write::Put(self.seal(space, &key, &value)?),
            Change::Insert { space, key, value } => Write::Insert(self.seal(space, &key, &value)?),
            Change::Delete { space, key } => Write::Delete { space: space.to_owned(), name: self.name(space, &key) },
        })
    }
}

fn unread(error: StoreError) -> StorageError {
    StorageError::Unavailable(error.to_string())
}

impl WalletStorage for Kept {
    fn list(&self, space: &'static str) -> BoxFuture<'_, Result<Vec<Record>, StorageError>> {
        Box::pin(async move {
            let rows = operator_record::list(&self.store, &self.scope, space).await.map_err(unread)?;
            if rows.len() >= MAX_RECORDS {
                return Err(StorageError::Refused(format!("{space}: more than {MAX_RECORDS} records")));
            }
            let mut records = rows.iter().map(|row| self.open(row)).collect::<Result<Vec<_>, _>>()?;
            records.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(records)
        })
    }

    fn get<'a>(
        &'a self,
        space: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Zeroizing<Vec<u8>>>, StorageError>> {
        Box::pin(async move {
            let name = self.name(space, key);
            let row = operator_record::get(&self.store, &self.scope, space, name).await.map_err(unread)?;
            row.map(|row| self.open(&row).map(|record| record.value)).transpose()
        })
    }

    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            if changes.len() > MAX_CHANGES {
                return Err(StorageError::Refused(format!("more than {MAX_CHANGES} changes at once")));
            }
            let writes = changes.into_iter().map(|change| self.sealed(change)).collect::<Result<Vec<_>, _>>()?;
            match operator_record::write(&self.store, &self.scope, self.clock.now(), writes).await {
                Ok(()) => Ok(()),
                Err(StoreError::Conflict { conflict: Conflict::WalletRecord, .. }) => Err(StorageError::Exists),
                Err(error) => Err(unread(error)),
            }
        })
    }
}
