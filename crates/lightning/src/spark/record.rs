//! What a Spark wallet keeps in its storage: what it sent, what it asks for, what came.

use bitcoin::hashes::{Hash as _, sha1};
use nexus_core::payment::FailureClass;
use nexus_core::{Hash32, Msat, UnixMs};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::driver::Settlement;
use crate::storage::{Change, StorageError, WalletStorage};

/// One record: whose words these are.
pub(super) const WALLET: &str = "spark_wallet";
/// By payment hash: [`Sent`].
pub(super) const PAYMENTS: &str = "spark_payments";
/// By payment hash: [`Made`].
pub(super) const INVOICES: &str = "spark_invoices";
/// By place: [`Settlement`].
pub(super) const SETTLED: &str = "spark_settled";

/// Sends, invoices and settlements that are kept at most; the oldest that are over go first.
pub(super) const MAX_KEPT: usize = 5_000;

/// The send of an invoice that was begun last. Stored before it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent {
    pub payment_id: String,
    pub attempt: u32,
    /// What the payee gets.
    pub amount: Msat,
    pub expires_at: UnixMs,
    /// The attempt surely failed before the operators heard of it.
    pub failed: Option<FailureClass>,
}

/// An invoice of ours.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    pub bolt11: String,
    pub amount: Msat,
    pub memo: String,
    pub expiry_s: u32,
    pub made_at: UnixMs,
    pub expires_at: UnixMs,
    /// The caller's own.
    pub preimage: Option<Hash32>,
    pub came: Option<Came>,
}

/// How an invoice was paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Came {
    pub amount: Msat,
    pub preimage: Option<Hash32>,
    pub at: UnixMs,
}

/// The idempotency key of a send: a UUID (RFC 9562, version 5 under the OID namespace, as the SDK makes its own) of whose
/// it is and what for. The same wherever it is made again.
pub(super) fn key(identity: &str, payment_id: &str, hash: Hash32, attempt: u32) -> String {
    const OID: [u8; 16] =
        [0x6b, 0xa7, 0xb8, 0x12, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8];
    // Through SHA-256: nobody who makes invoices can make two names of the same SHA-1.
    let name = Hash32::sha256(format!("nexus spark payment\n{identity}\n{hash}\n{attempt}\n{payment_id}").as_bytes());
    let digest = sha1::Hash::hash(&[OID.as_slice(), name.as_bytes()].concat()).to_byte_array();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x50;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex::encode(bytes);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// A settlement's place, so that places sort as numbers do.
pub(super) fn place(cursor: u64) -> String {
    format!("{cursor:020}")
}

fn unreadable() -> StorageError {
    StorageError::Refused("a record that cannot be read".to_owned())
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, StorageError> {
    serde_json::from_slice(value).map_err(|_| unreadable())
}

fn bytes(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, StorageError> {
    serde_json::to_vec(value).map(Zeroizing::new).map_err(|_| unreadable())
}

pub(super) async fn read<T: DeserializeOwned>(
    storage: &dyn WalletStorage,
    space: &'static str,
    key: &str,
) -> Result<Option<T>, StorageError> {
    storage.get(space, key).await?.map(|value| parse(&value)).transpose()
}

pub(super) async fn list<T: DeserializeOwned>(
    storage: &dyn WalletStorage,
    space: &'static str,
) -> Result<Vec<(String, T)>, StorageError> {
    let records = storage.list(space).await?;
    records.into_iter().map(|it| parse(&it.value).map(|value| (it.key, value))).collect()
}

pub(super) fn put(space: &'static str, key: String, value: &impl Serialize) -> Result<Change, StorageError> {
    Ok(Change::Put { space, key, value: bytes(value)? })
}

pub(super) fn insert(space: &'static str, key: String, value: &impl Serialize) -> Result<Change, StorageError> {
    Ok(Change::Insert { space, key, value: bytes(value)? })
}

/// Makes room in a space: forgets the earliest of what is over.
pub(super) async fn prune<T: DeserializeOwned>(
    storage: &dyn WalletStorage,
    space: &'static str,
    ended: impl Fn(&T) -> Option<UnixMs>,
) -> Result<(), StorageError> {
    let records = list::<T>(storage, space).await?;
    if records.len() < MAX_KEPT {
        return Ok(());
    }
    let mut over: Vec<_> = records.into_iter().filter_map(|(key, it)| ended(&it).map(|at| (at, key))).collect();
    over.sort();
    over.truncate(MAX_KEPT / 10);
    storage.write(over.into_iter().map(|(_, key)| Change::Delete { space, key }).collect()).await
}

/// The last place that something came to.
pub(super) async fn last_place(storage: &dyn WalletStorage) -> Result<u64, StorageError> {
    let settled = list::<Settlement>(storage, SETTLED).await?;
    Ok(settled.last().map_or(0, |(_, last)| last.cursor.0))
}
