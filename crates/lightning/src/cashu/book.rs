//! What the wallet keeps: proofs, which of them are held for a payment, invoices, payments, and which secrets were used.
//!
//! Nothing is cached: each step reads what it needs and writes all of its changes at once, so that a death leaves either
//! the step before or the step after.

use std::fmt;

use cdk::nuts::{Id, Proof};
use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Hash32, Msat, UnixMs};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Wallet;
use super::keys::Range;
use crate::driver::WalletError;
use crate::storage::{Change, StorageError};

const PROOFS: &str = "cashu.proof";
const HELD: &str = "cashu.held";
const RANGES: &str = "cashu.range";
const INVOICES: &str = "cashu.invoice";
const PAYMENTS: &str = "cashu.payment";

/// Used ranges that are remembered for a keyset. The last alone says where to go on; the others catch a second handle
/// that read a little earlier.
const RANGES_KEPT: usize = 64;

impl From<StorageError> for WalletError {
    fn from(error: StorageError) -> Self {
        let text = error.to_string();
        match error {
            StorageError::Stale | StorageError::Refused(_) => Self::Refused(text),
            StorageError::Exists => Self::Protocol(text),
            StorageError::Unavailable(_) => Self::Unreachable(text),
        }
    }
}

/// An invoice of ours: a mint quote under its payment hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Issue {
    pub(super) hash: Hash32,
    pub(super) quote: String,
    pub(super) bolt11: String,
    pub(super) sats: u64,
    pub(super) expires_at: UnixMs,
    pub(super) stage: IssueStage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum IssueStage {
    Open,
    /// Paid; these outputs are being signed.
    Issuing {
        range: Range,
        amounts: Vec<u64>,
    },
    /// The proofs are stored.
    Issued {
        at: UnixMs,
        cursor: u64,
    },
}

/// A payment: a melt quote under its payment hash.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Payment {
    pub(super) hash: Hash32,
    pub(super) quote: String,
    pub(super) amount: Msat,
    pub(super) sats: u64,
    pub(super) fee_reserve: u64,
    /// When the mint's quote ends.
    pub(super) quote_ends: Option<UnixMs>,
    pub(super) expires_at: UnixMs,
    pub(super) payment_id: String,
    pub(super) attempt: u32,
    pub(super) stage: PaymentStage,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PaymentStage {
    Quoted,
    Sent(Sent),
    Settled { preimage: Option<Hash32>, fee: Msat },
    Failed { class: FailureClass },
}

/// The one request that this payment is: a repeat sends the same proofs and the same blank outputs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent {
    /// Keys of proofs, and what they are worth.
    pub(super) inputs: Vec<(String, u64)>,
    pub(super) change: Option<Range>,
    /// How often its bytes may have left.
    pub(super) times: u32,
    /// The mint was seen to work on it.
    pub(super) seen: bool,
    /// When last asked, the mint knew nothing of it.
    pub(super) absent: bool,
}

impl Sent {
    pub(super) fn sats(&self) -> u64 {
        self.inputs.iter().map(|(_, sats)| sats).sum()
    }
}

impl Payment {
    /// What is known without asking; none while the mint has to be asked.
    pub(super) fn known(&self) -> Option<Outcome> {
        match &self.stage {
            PaymentStage::Quoted => Some(Outcome::NotFound),
            PaymentStage::Sent(_) => None,
            PaymentStage::Settled { preimage, fee } => Some(Outcome::Settled { preimage: *preimage, fee: *fee }),
            PaymentStage::Failed { class } => Some(Outcome::Failed { class: *class }),
        }
    }
}

/// A proof of ours and its key.
#[derive(Clone)]
pub(super) struct Owned {
    pub(super) key: String,
    pub(super) proof: Proof,
}

impl Owned {
    pub(super) fn new(proof: Proof) -> Self {
        Self { key: Hash32::sha256(proof.secret.as_bytes()).to_string(), proof }
    }

    pub(super) fn sats(&self) -> u64 {
        u64::from(self.proof.amount)
    }
}

impl fmt::Debug for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proof of {} sats", self.sats())
    }
}

fn put<T: Serialize>(space: &'static str, key: String, value: &T) -> Result<Change, StorageError> {
    Ok(Change::Put { space, key, value: bytes(value)? })
}

fn bytes<T: Serialize>(value: &T) -> Result<Zeroizing<Vec<u8>>, StorageError> {
    let bytes = serde_json::to_vec(value).map_err(|_| StorageError::Refused("a record that is no JSON".to_owned()))?;
    Ok(Zeroizing::new(bytes))
}

fn read<T: DeserializeOwned>(space: &str, bytes: &[u8]) -> Result<T, StorageError> {
    // Never serde's own words: they repeat what was read.
    serde_json::from_slice(bytes).map_err(|_| StorageError::Refused(format!("a record of {space} cannot be read")))
}

pub(super) fn put_issue(issue: &Issue) -> Result<Change, StorageError> {
    put(INVOICES, issue.hash.to_string(), issue)
}

pub(super) fn new_issue(issue: &Issue) -> Result<Change, StorageError> {
    Ok(Change::Insert { space: INVOICES, key: issue.hash.to_string(), value: bytes(issue)? })
}

pub(super) fn put_payment(payment: &Payment) -> Result<Change, StorageError> {
    put(PAYMENTS, payment.hash.to_string(), payment)
}

pub(super) fn put_proof(owned: &Owned) -> Result<Change, StorageError> {
    put(PROOFS, owned.key.clone(), &owned.proof)
}

pub(super) fn delete_proof(key: &str) -> Change {
    Change::Delete { space: PROOFS, key: key.to_owned() }
}

/// Refused as a whole if another payment holds it.
pub(super) fn hold(key: &str, hash: Hash32) -> Result<Change, StorageError> {
    Ok(Change::Insert { space: HELD, key: key.to_owned(), value: bytes(&hash)? })
}

pub(super) fn release(key: &str) -> Change {
    Change::Delete { space: HELD, key: key.to_owned() }
}

impl Wallet {
    async fn all<T: DeserializeOwned>(&self, space: &'static str) -> Result<Vec<T>, StorageError> {
        self.storage.list(space).await?.iter().map(|record| read(space, &record.value)).collect()
    }

    pub(super) async fn proofs(&self) -> Result<Vec<Owned>, StorageError> {
        let records = self.storage.list(PROOFS).await?;
        records.into_iter().map(|it| Ok(Owned { proof: read(PROOFS, &it.value)?, key: it.key })).collect()
    }

    /// Proofs that no payment holds.
    pub(super) async fn free(&self) -> Result<Vec<Owned>, StorageError> {
        let held = self.storage.list(HELD).await?;
        let mut proofs = self.proofs().await?;
        proofs.retain(|owned| !held.iter().any(|record| record.key == owned.key));
        Ok(proofs)
    }

    pub(super) async fn proof(&self, key: &str) -> Result<Option<Proof>, StorageError> {
        self.storage.get(PROOFS, key).await?.map(|value| read(PROOFS, &value)).transpose()
    }

    pub(super) async fn issue(&self, hash: Hash32) -> Result<Option<Issue>, StorageError> {
        self.storage.get(INVOICES, &hash.to_string()).await?.map(|value| read(INVOICES, &value)).transpose()
    }

    pub(super) async fn issues(&self) -> Result<Vec<Issue>, StorageError> {
        self.all(INVOICES).await
    }

    pub(super) async fn payment(&self, hash: Hash32) -> Result<Option<Payment>, StorageError> {
        self.storage.get(PAYMENTS, &hash.to_string()).await?.map(|value| read(PAYMENTS, &value)).transpose()
    }

    pub(super) async fn payments(&self) -> Result<Vec<Payment>, StorageError> {
        self.all(PAYMENTS).await
    }

    /// What is there, and how much of it payments in flight have. What a lost request holds counts as there once the mint
    /// has said that it knows nothing of it; it stays held for the repeat.
    pub(super) async fn sums(&self) -> Result<(u64, u64), StorageError> {
        let all: u64 = self.proofs().await?.iter().map(Owned::sats).sum();
        let flying = self.payments().await?.into_iter().map(|payment| match payment.stage {
            PaymentStage::Sent(sent) if !sent.absent => sent.sats(),
            PaymentStage::Sent(_)
            | PaymentStage::Quoted
            | PaymentStage::Settled { .. }
            | PaymentStage::Failed { .. } => 0,
        });
        Ok((all, flying.sum()))
    }

    pub(super) async fn write(&self, changes: Vec<Change>) -> Result<(), StorageError> {
        self.storage.write(changes).await
    }

    /// The next unused secrets of a keyset, and the changes that mark them as used. Refused as a whole if somebody else
    /// took them meanwhile.
    pub(super) async fn next_range(&self, keyset: Id, count: u32) -> Result<(Range, Vec<Change>), StorageError> {
        let mut used: Vec<Range> = self.all::<Range>(RANGES).await?;
        used.retain(|range| range.keyset == keyset);
        let start = used.iter().map(Range::end).max().unwrap_or(0);
        self.range_at(used, Range { keyset, start, count })
    }

    /// Marks everything below `end` as used.
    pub(super) async fn used_up_to(&self, keyset: Id, end: u32) -> Result<Vec<Change>, StorageError> {
        let mut used: Vec<Range> = self.all::<Range>(RANGES).await?;
        used.retain(|range| range.keyset == keyset);
        let known = used.iter().map(Range::end).max().unwrap_or(0);
        if end <= known {
            return Ok(Vec::new());
        }
        Ok(self.range_at(used, Range { keyset, start: known, count: end - known })?.1)
    }

    fn range_at(&self, mut used: Vec<Range>, range: Range) -> Result<(Range, Vec<Change>), StorageError> {
        if range.start.checked_add(range.count).is_none() {
            return Err(StorageError::Refused("the keyset's secrets are used up".to_owned()));
        }
        let key = |range: &Range| format!("{}:{:010}", range.keyset, range.start);
        let mut changes = vec![Change::Insert { space: RANGES, key: key(&range), value: bytes(&range)? }];
        used.sort_by_key(|range| std::cmp::Reverse(range.start));
        changes.extend(used.iter().skip(RANGES_KEPT).map(|old| Change::Delete { space: RANGES, key: key(old) }));
        Ok((range, changes))
    }
}

pub(super) fn delete_issue(issue: &Issue) -> Change {
    Change::Delete { space: INVOICES, key: issue.hash.to_string() }
}
