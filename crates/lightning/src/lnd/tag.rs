//! For whom LND paid: a mark that it keeps with the payment.

use nexus_core::Hash32;

use super::json::Payment;

/// Where the mark stands among the first hop's custom records: from 65,536 on they are free, and an odd number may be
/// ignored by whoever does not know it (BOLT 1). Our own node keeps it and its direct peer sees it: 32 bytes that say
/// which attempts belong together, which their payment hash says anyway.
pub(super) const RECORD: &str = "1314390017";

const DIGEST_BYTES: usize = 28;

/// Whose payment, and the how manieth attempt at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    owner: [u8; DIGEST_BYTES],
    pub(super) attempt: u32,
}

impl Tag {
    pub(super) fn new(payment_id: &str, hash: Hash32, attempt: u32) -> Self {
        let digest = Hash32::sha256(format!("nexus payment {hash} {payment_id}").as_bytes());
        let mut owner = [0; DIGEST_BYTES];
        owner.copy_from_slice(&digest.as_bytes()[..DIGEST_BYTES]);
        Self { owner, attempt }
    }

    pub(super) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..DIGEST_BYTES].copy_from_slice(&self.owner);
        bytes[DIGEST_BYTES..].copy_from_slice(&self.attempt.to_be_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (owner, attempt) = bytes.split_first_chunk::<DIGEST_BYTES>()?;
        Some(Self { owner: *owner, attempt: u32::from_be_bytes(attempt.try_into().ok()?) })
    }

    /// Whose `payment` is.
    pub(super) fn whose(&self, payment: &Payment) -> Whose {
        match payment.first_hop_custom_records.get(RECORD).and_then(|record| Self::read(&record.0)) {
            None => Whose::Unmarked,
            Some(tag) if tag.owner == self.owner => Whose::Ours(tag.attempt),
            Some(_) => Whose::Anothers,
        }
    }
}

/// Whose a payment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Which attempt.
    Ours(u32),
    Anothers,
    /// Made by hand, or its mark was lost: who knows.
    Unmarked,
}
