//! Identifiers. Each is a newtype, so that one cannot be passed for another.

use std::fmt;
use std::str::FromStr;

use bech32::{Bech32, Hrp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::time::UnixMs;

/// Why a text is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}")]
pub struct ParseIdError {
    what: &'static str,
    expected: &'static str,
}

impl ParseIdError {
    pub(crate) const fn new(what: &'static str, expected: &'static str) -> Self {
        Self { what, expected }
    }
}

/// A Nostr public key (x-only, BIP-340), shown as `npub1…` (NIP-19). An agent's primary key.
///
/// Holds any 32 bytes: whether they are a point on the curve is checked where signatures are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Npub([u8; 32]);

const NPUB: Hrp = Hrp::parse_unchecked("npub");

impl Npub {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lowercase hex digits, the form that Nostr events carry.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first characters, for logs.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(13);
        text
    }
}

impl fmt::Display for Npub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_lower_to_fmt::<Bech32, _>(f, NPUB, &self.0).map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for Npub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Npub {
    type Err = ParseIdError;

    /// Takes `npub1…` or 64 hex digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = ParseIdError { what: "public key", expected: "npub1… or 64 hex digits" };
        if text.len() == 64 {
            let mut bytes = [0; 32];
            hex::decode_to_slice(text, &mut bytes).map_err(|_| error)?;
            return Ok(Self(bytes));
        }
        let (hrp, data) = bech32::decode(text).map_err(|_| error.clone())?;
        let bytes: [u8; 32] = data.try_into().map_err(|_| error.clone())?;
        if hrp == NPUB { Ok(Self(bytes)) } else { Err(error) }
    }
}

impl Serialize for Npub {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Npub {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// 32 bytes shown as hex: an event id, a payment hash, a digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash32([u8; 32]);

impl Hash32 {
    pub const ZERO: Self = Self([0; 32]);

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The SHA-256 of some bytes.
    pub fn sha256(bytes: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash32 {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError { what: "hash", expected: "64 hex digits" })?;
        Ok(Self(bytes))
    }
}

impl Serialize for Hash32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A UUIDv7 (RFC 9562) of this millisecond and these random bytes.
            pub fn new(now: UnixMs, random: [u8; 10]) -> Self {
                let ms = u64::try_from(now.0).unwrap_or(0);
                Self(uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid())
            }

            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The column form.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_| ParseIdError { what: $what, expected: "a UUID" })
            }
        }
    };
}

uuid_id!(
    /// One run of an agent's loop. UUIDv7, so ids sort by time.
    TickId,
    "tick id"
);
uuid_id!(
    /// What agents and invoices hang off.
    AccountId,
    "account id"
);
uuid_id!(
    /// A process that hosts agents. New at each first start of a data directory, kept across restarts.
    WorkerId,
    "worker id"
);

/// The number that makes a stale worker's write impossible: raised whenever an agent changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub i64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_npub_survives_both_of_its_texts() {
        // NIP-19's own example.
        let hex = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e";
        let npub = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg";
        let parsed: Npub = hex.parse().unwrap();
        assert_eq!(parsed.to_string(), npub);
        assert_eq!(npub.parse::<Npub>().unwrap(), parsed);
        assert_eq!(parsed.to_hex(), hex);
        assert!("npub1qqq".parse::<Npub>().is_err());
        assert!("nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5".parse::<Npub>().is_err());
    }

    #[test]
    fn tick_ids_sort_by_time() {
        let early = TickId::new(UnixMs(1_000), [255; 10]);
        let late = TickId::new(UnixMs(1_001), [0; 10]);
        assert!(early < late);
        assert_eq!(late.to_string().parse::<TickId>().unwrap(), late);
    }
}
