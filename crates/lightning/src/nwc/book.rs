//! What the driver remembers of its payments: each signed request before it is published, and what became of it.

use std::sync::Arc;

use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Hash32, Msat, UnixMs};
use nostr::event::Event;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::driver::WalletError;
use crate::storage::{Change, StorageError, WalletStorage};

/// `<hash>/<serial>`: the request, written once.
const REQUESTS: &str = "nwc.request";
/// Same keys: the preimage and the fee. Beside `FAILED`, it wins.
const SETTLED: &str = "nwc.settled";
/// Same keys: why it surely was not paid.
const FAILED: &str = "nwc.failed";
/// Same keys: it was published more than once, or may have been.
const AGAIN: &str = "nwc.again";
/// `<day of the invoice's expiry>/<hash>`: what can be forgotten one day.
const DUE: &str = "nwc.due";
/// When what was due was last forgotten.
const STATE: &str = "nwc.state";

const DAY_MS: i64 = 86_400_000;
/// An invoice that expired so long ago is not asked about any more.
const KEPT_DAYS: i64 = 30;
/// Requests for one hash: each but the last has failed.
const MAX_SERIALS: u32 = 64;
/// Hashes forgotten at once: each in a write of its own bounded size.
const MAX_FORGOTTEN: usize = 500;

/// A request to pay, as it was signed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Sent {
    pub(super) payment_id: String,
    pub(super) attempt: u32,
    pub(super) event: Event,
    pub(super) max_fee: Msat,
    /// When the wallet is to heed the request no more.
    pub(super) heeded_until: UnixMs,
    /// The invoice's.
    pub(super) expires_at: UnixMs,
}

#[derive(Serialize, Deserialize)]
struct Settled {
    preimage: Hash32,
    fee: Msat,
}

#[derive(Serialize, Deserialize)]
struct Failed {
    class: FailureClass,
}

/// A request and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) serial: u32,
    pub(super) sent: Sent,
    /// Settled or failed for certain.
    pub(super) end: Option<Outcome>,
}

pub(super) struct Book(Arc<dyn WalletStorage>);

fn key(hash: Hash32, serial: u32) -> String {
    format!("{hash}/{serial:04}")
}

/// The value of what is there or not.
fn mark() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(b"1".to_vec())
}

pub(super) fn write<T: Serialize>(value: &T) -> Result<Zeroizing<Vec<u8>>, StorageError> {
    serde_json::to_vec(value).map(Zeroizing::new).map_err(|error| StorageError::Refused(error.to_string()))
}

pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StorageError> {
    serde_json::from_slice(bytes).map_err(|_| StorageError::Refused("a record that cannot be read".to_owned()))
}

/// What a caller that moves no money out is told.
pub(super) fn stored(error: StorageError) -> WalletError {
    match error {
        StorageError::Stale | StorageError::Exists | StorageError::Refused(_) => {
            WalletError::Refused(error.to_string())
        }
        StorageError::Unavailable(why) => WalletError::Unreachable(why),
    }
}

impl Book {
    pub(super) fn new(storage: Arc<dyn WalletStorage>) -> Self {
        Self(storage)
    }

    async fn get<T: DeserializeOwned>(&self, space: &'static str, key: &str) -> Result<Option<T>, StorageError> {
        self.0.get(space, key).await?.map(|bytes| read(&bytes)).transpose()
    }

    /// Every request that was made for a hash, in order.
    pub(super) async fn of(&self, hash: Hash32) -> Result<Vec<Entry>, StorageError> {
        let mut found = Vec::new();
        for serial in 0..MAX_SERIALS {
            let key = key(hash, serial);
            let Some(sent) = self.get::<Sent>(REQUESTS, &key).await? else { return Ok(found) };
            let settled = self.get::<Settled>(SETTLED, &key).await?;
            let end = match settled {
                Some(Settled { preimage, fee }) => Some(Outcome::Settled { preimage: Some(preimage), fee }),
                None => self.get::<Failed>(FAILED, &key).await?.map(|Failed { class }| Outcome::Failed { class }),
            };
            found.push(Entry { serial, sent, end });
        }
        Ok(found)
    }

    /// Stores a request before it is published. Of several at once, one is stored and the others meet
    /// [`StorageError::Exists`].
    pub(super) async fn insert(&self, hash: Hash32, serial: u32, sent: &Sent) -> Result<(), StorageError> {
        if serial >= MAX_SERIALS {
            return Err(StorageError::Refused("this invoice was tried too often".to_owned()));
        }
        let due = format!("{:08}/{hash}", sent.expires_at.0.max(0) / DAY_MS);
        let changes = vec![
            Change::Insert { space: REQUESTS, key: key(hash, serial), value: write(sent)? },
            Change::Put { space: DUE, key: due, value: mark() },
        ];
        self.0.write(changes).await
    }

    /// Marks a request before it is published once more: from then on no refusal of it is believed.
    pub(super) async fn again(&self, hash: Hash32, serial: u32) -> Result<(), StorageError> {
        self.0.write(vec![Change::Put { space: AGAIN, key: key(hash, serial), value: mark() }]).await
    }

    pub(super) async fn was_again(&self, hash: Hash32, serial: u32) -> Result<bool, StorageError> {
        Ok(self.0.get(AGAIN, &key(hash, serial)).await?.is_some())
    }

    /// Stores how a request ended, if it did.
    pub(super) async fn end(&self, hash: Hash32, serial: u32, outcome: &Outcome) -> Result<(), StorageError> {
        let key = key(hash, serial);
        let change = match outcome {
            Outcome::Settled { preimage: Some(preimage), fee } => {
                Change::Put { space: SETTLED, key, value: write(&Settled { preimage: *preimage, fee: *fee })? }
            }
            Outcome::Failed { class } => Change::Put { space: FAILED, key, value: write(&Failed { class: *class })? },
            Outcome::Settled { preimage: None, .. }
            | Outcome::Pending
            | Outcome::NotFound
            | Outcome::Unknown { .. } => return Ok(()),
        };
        self.0.write(vec![change]).await
    }

    /// Once a day, forgets what ended and whose invoice expired long ago.
    pub(super) async fn tidy(&self, now: UnixMs) -> Result<(), StorageError> {
        let today = now.0.max(0) / DAY_MS;
        if self.get::<i64>(STATE, "tidied").await?.is_some_and(|day| day >= today) {
            return Ok(());
        }
        let old: Vec<(String, Hash32)> = self
            .0
            .list(DUE)
            .await?
            .into_iter()
            .filter_map(|record| {
                let (day, hash) = record.key.split_once('/')?;
                let old = day.parse::<i64>().ok()? + KEPT_DAYS < today;
                old.then_some(hash.parse().ok()?).map(|hash| (record.key.clone(), hash))
            })
            .take(MAX_FORGOTTEN)
            .collect();
        for (due, hash) in old {
            let entries = self.of(hash).await?;
            if entries.iter().any(|entry| entry.end.is_none()) {
                continue;
            }
            let mut changes = vec![Change::Delete { space: DUE, key: due }];
            for entry in entries.iter().rev() {
                let key = key(hash, entry.serial);
                changes
                    .extend([REQUESTS, SETTLED, FAILED, AGAIN].map(|space| Change::Delete { space, key: key.clone() }));
            }
            self.0.write(changes).await?;
        }
        self.0.write(vec![Change::Put { space: STATE, key: "tidied".to_owned(), value: write(&today)? }]).await
    }
}
