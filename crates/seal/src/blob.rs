//! The form of everything encrypted under one of an agent's keys.
//!
//! ```text
//! format (1 byte) | key number (4 bytes, big endian) | nonce (24 bytes) | XChaCha20-Poly1305 ciphertext and tag
//! ```
//!
//! The associated data is `npub | purpose | format`, so that a blob opens only where it was put: not as another
//! agent's, not as another kind of entry, not at another place of the same journal. Closing and opening need a key and
//! are in `nexus-vault`; the form is here, because those who only store blobs check it.

use std::fmt;

use nexus_core::{Npub, TickId};

/// The first byte of every blob.
pub const BLOB_FORMAT: u8 = 1;
/// Bytes of a blob beside its plaintext.
pub const BLOB_OVERHEAD: usize = 1 + 4 + 24 + 16;
/// Largest blob, in bytes.
pub const MAX_BLOB: usize = 4 * 1024 * 1024;

/// Bytes that are no blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    #[error("the ciphertext is too short or too long")]
    Length,
    #[error("the ciphertext has format {0}, this version reads {BLOB_FORMAT}")]
    Format(u8),
}

/// A blob taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob<'a> {
    /// Which of the agent's keys of this kind it is under; counts from 1.
    pub key_number: u32,
    pub nonce: &'a [u8; 24],
    pub ciphertext: &'a [u8],
}

impl<'a> Blob<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BlobError> {
        if bytes.len() > MAX_BLOB {
            return Err(BlobError::Length);
        }
        let (format, rest) = bytes.split_first().ok_or(BlobError::Length)?;
        if *format != BLOB_FORMAT {
            return Err(BlobError::Format(*format));
        }
        let (number, rest) = rest.split_first_chunk::<4>().ok_or(BlobError::Length)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<24>().ok_or(BlobError::Length)?;
        if ciphertext.len() < 16 {
            return Err(BlobError::Length);
        }
        Ok(Self { key_number: u32::from_be_bytes(*number), nonce, ciphertext })
    }

    /// Puts the parts together.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + 4 + 24 + self.ciphertext.len());
        bytes.push(BLOB_FORMAT);
        bytes.extend_from_slice(&self.key_number.to_be_bytes());
        bytes.extend_from_slice(self.nonce);
        bytes.extend_from_slice(self.ciphertext);
        bytes
    }
}

/// What an encrypted blob is for. Part of its associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The agent's state. Under the data key.
    State,
    /// One record of a tick's journal. Under the data key.
    Journal { tick_id: TickId, seq: u32 },
    /// The wallet's connection and other things that drivers keep. Under the data key.
    Wallet,
    /// A preimage, an invoice's private part. Under the data key.
    Payment,
    /// The wrap of another of the agent's keys. Under the data key.
    Wrap,
    /// The readable content of an event. Under the view key.
    Event,
    /// The steps of a tick, as people read them. Under the view key.
    Trajectory,
    /// What an approval is about. Under the view key.
    Approval,
    /// What proves that a job was paid and not served. Under the view key.
    Dispute,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State => f.write_str("state"),
            Self::Journal { tick_id, seq } => write!(f, "journal:{tick_id}:{seq}"),
            Self::Wallet => f.write_str("wallet"),
            Self::Payment => f.write_str("payment"),
            Self::Wrap => f.write_str("wrap"),
            Self::Event => f.write_str("event"),
            Self::Trajectory => f.write_str("trajectory"),
            Self::Approval => f.write_str("approval"),
            Self::Dispute => f.write_str("dispute"),
        }
    }
}

/// The associated data of a blob.
pub fn associated_data(npub: &Npub, purpose: Purpose) -> Vec<u8> {
    format!("{npub}|{purpose}|{BLOB_FORMAT}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_blob_survives_its_bytes(key_number: u32, nonce: [u8; 24], ciphertext in prop::collection::vec(any::<u8>(), 16..200)) {
            let blob = Blob { key_number, nonce: &nonce, ciphertext: &ciphertext };
            let bytes = blob.to_bytes();
            prop_assert_eq!(Blob::parse(&bytes).unwrap(), blob);
            for cut in 0..45 {
                prop_assert!(Blob::parse(&bytes[..cut]).is_err());
            }
        }
    }

    #[test]
    fn another_format_is_named() {
        assert_eq!(Blob::parse(&[2; 100]), Err(BlobError::Format(2)));
    }
}
