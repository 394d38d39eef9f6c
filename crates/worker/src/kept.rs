//! What wallet drivers keep, in the database: closed under the agent's data key, written under the fence.
//!
//! A record's row has its space in clear and a name that only the agent's seed leads to. What is in it says again where it
//! belongs, so that a row that was put in another's place is refused.

use std::sync::Arc;

use futures::future::BoxFuture;
use nexus_core::{Generation, Hash32, Npub};
use nexus_lightning::storage::{
    Change, MAX_CHANGES, MAX_RECORDS, MAX_VALUE_BYTES, Record, StorageError, WalletStorage,
};
use nexus_seal::SecretBytes;
use nexus_seal::blob::Purpose;
use nexus_store::agent::Agent;
use nexus_store::wallet_record::{self, WalletRecord, Write};
use nexus_store::{Conflict, StoreError};
use nexus_vault::{AgentKeys, WalletSeed};
use zeroize::Zeroizing;

use crate::error::TurnError;
use crate::host::Host;

/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 200;

/// One agent's records, for one turn.
pub(crate) struct Kept {
    host: Arc<Host>,
    npub: Npub,
    generation: Generation,
    keys: AgentKeys,
    names: SecretBytes,
}

impl Kept {
    pub fn new(host: &Arc<Host>, agent: &Agent, keys: &AgentKeys, seed: &WalletSeed) -> Self {
        let names = seed.key_for("record names");
        Self { host: host.clone(), npub: agent.npub, generation: agent.generation, keys: keys.clone(), names }
    }

    fn name(&self, space: &str, key: &str) -> Hash32 {
        let mut text = Zeroizing::new(self.names.expose().to_vec());
        text.extend_from_slice(space.as_bytes());
        text.push(0);
        text.extend_from_slice(key.as_bytes());
        Hash32::sha256(&text)
    }

    fn seal(&self, space: &'static str, key: &str, value: &[u8]) -> Result<WalletRecord, StorageError> {
        if key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
            return Err(StorageError::Refused(format!("{space}: a record is too large")));
        }
        let mut text = Zeroizing::new(Vec::with_capacity(space.len() + key.len() + value.len() + 2));
        for part in [space.as_bytes(), key.as_bytes()] {
            text.extend_from_slice(part);
            text.push(0);
        }
        text.extend_from_slice(value);
        let blob = self.keys.data.seal(Purpose::Wallet, &text, &*self.host.entropy);
        let blob = blob.map_err(|error| StorageError::Refused(error.to_string()))?;
        Ok(WalletRecord { space: space.to_owned(), name: self.name(space, key), blob })
    }

    fn open(&self, record: &WalletRecord) -> Result<Record, StorageError> {
        let foreign = || StorageError::Refused(format!("a record of {} is not what was kept there", record.space));
        let text = self.keys.data.open(Purpose::Wallet, &record.blob).map_err(|_| foreign())?;
        let mut parts = text.expose().splitn(3, |byte| *byte == 0);
        let (Some(space), Some(key), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(foreign());
        };
        let key = String::from_utf8(key.to_vec()).map_err(|_| foreign())?;
        if space != record.space.as_bytes() || self.name(&record.space, &key) != record.name {
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
            let rows = wallet_record::list(&self.host.store, self.npub, space).await.map_err(unread)?;
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
            let row = wallet_record::get(&self.host.store, self.npub, space, name).await.map_err(unread)?;
            row.map(|row| self.open(&row).map(|record| record.value)).transpose()
        })
    }

    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            if changes.len() > MAX_CHANGES {
                return Err(StorageError::Refused(format!("more than {MAX_CHANGES} changes at once")));
            }
            let writes = changes.into_iter().map(|change| self.sealed(change)).collect::<Result<Vec<_>, _>>()?;
            let fence = self.host.live_fence().map_err(|error| match error {
                TurnError::Stale => StorageError::Stale,
                _ => StorageError::Unavailable("the lease is near its end".to_owned()),
            })?;
            let (store, at) = (&self.host.store, self.host.now());
            match wallet_record::write(store, fence, self.npub, self.generation, at, writes).await {
                Ok(()) => Ok(()),
                Err(StoreError::Stale { .. }) => Err(StorageError::Stale),
                Err(StoreError::Conflict { conflict: Conflict::WalletRecord, .. }) => Err(StorageError::Exists),
                Err(error) => Err(unread(error)),
            }
        })
    }
}
