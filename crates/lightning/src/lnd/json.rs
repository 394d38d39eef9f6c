//! What LND says, as far as it matters: fields that are not named here are ignored, those that are must make sense.
//!
//! 64-bit integers are strings (protobuf's JSON), bytes are base64, and hashes and preimages of payments are hex.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use nexus_core::{Hash32, Msat};
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer};

/// Bytes as base64.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Never the text itself in an error: it may be a preimage.
        STANDARD.decode(&text).map(Self).map_err(|_| D::Error::custom("bytes that are not base64"))
    }
}

impl Bytes {
    pub(super) fn hash(&self) -> Option<Hash32> {
        self.0.as_slice().try_into().ok().map(Hash32::from_bytes)
    }
}

/// For bodies.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// For paths.
pub(super) fn base64_url(bytes: &[u8]) -> String {
    URL_SAFE.encode(bytes)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Text(String),
    Number(u64),
}

/// A 64-bit integer from 0 on, as a string or a number.
fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let bad =
        |text: &str| D::Error::invalid_value(Unexpected::Str(&text.chars().take(24).collect::<String>()), &"a number");
    match Number::deserialize(deserializer).map_err(|_| D::Error::custom("expected a number from 0 on"))? {
        Number::Text(text) => text.parse().map_err(|_| bad(&text)),
        Number::Number(number) => Ok(number),
    }
}

fn msat<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Msat, D::Error> {
    Msat::try_from(integer(deserializer)?).map_err(D::Error::custom)
}

/// An error, bare or wrapped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub(super) struct Said {
    /// gRPC's: 2 unknown, 3 invalid, 5 not found, 6 exists, 7 permission, 14 unavailable, 16 unauthenticated.
    #[serde(default)]
    pub(super) code: u32,
    #[serde(default)]
    pub(super) message: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AnyError {
    Wrapped {
        error: Said,
    },
    /// Older gateways repeat the message under `error`.
    Bare(Said),
}

/// What an error's body says; none if it is not LND's.
pub(super) fn error(body: &[u8]) -> Option<Said> {
    match serde_json::from_slice(body).ok()? {
        AnyError::Wrapped { error } | AnyError::Bare(error) => Some(error).filter(|it| it.code != 0),
    }
}

/// A line of a stream.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line<T> {
    Result(T),
    Error(Said),
}

#[derive(Deserialize)]
pub(super) struct Info {
    pub(super) identity_pubkey: String,
    #[serde(default)]
    pub(super) version: String,
    #[serde(default)]
    pub(super) synced_to_chain: bool,
    #[serde(default)]
    pub(super) chains: Vec<Chain>,
}

#[derive(Deserialize)]
pub(super) struct Chain {
    #[serde(default)]
    pub(super) network: String,
}

#[derive(Deserialize)]
pub(super) struct Balance {
    pub(super) local_balance: Amount,
    pub(super) remote_balance: Amount,
}

#[derive(Deserialize)]
pub(super) struct Amount {
    #[serde(deserialize_with = "msat")]
    pub(super) msat: Msat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Status {
    Initiated,
    InFlight,
    Succeeded,
    Failed,
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) enum Reason {
    #[serde(rename = "FAILURE_REASON_TIMEOUT")]
    Timeout,
    #[serde(rename = "FAILURE_REASON_NO_ROUTE")]
    NoRoute,
    #[serde(rename = "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS")]
    WrongDetails,
    #[serde(rename = "FAILURE_REASON_INSUFFICIENT_BALANCE")]
    NoFunds,
    #[serde(rename = "FAILURE_REASON_CANCELED")]
    Canceled,
    #[default]
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
pub(super) struct Payment {
    /// Hex, unlike an invoice's.
    pub(super) payment_hash: Hash32,
    /// Hex; zeros unless it succeeded.
    #[serde(default)]
    pub(super) payment_preimage: String,
    pub(super) status: Status,
    #[serde(default)]
    pub(super) failure_reason: Reason,
    #[serde(default, deserialize_with = "msat")]
    pub(super) fee_msat: Msat,
    #[serde(default)]
    pub(super) first_hop_custom_records: BTreeMap<String, Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum State {
    Open,
    Accepted,
    Settled,
    Canceled,
}

#[derive(Deserialize)]
pub(super) struct Invoice {
    /// Base64, unlike a payment's.
    pub(super) r_hash: Bytes,
    #[serde(default)]
    pub(super) r_preimage: Bytes,
    pub(super) state: State,
    #[serde(default)]
    pub(super) payment_request: String,
    #[serde(default, deserialize_with = "msat")]
    pub(super) amt_paid_msat: Msat,
    #[serde(default, deserialize_with = "integer")]
    pub(super) settle_index: u64,
    /// Seconds.
    #[serde(default, deserialize_with = "integer")]
    pub(super) settle_date: u64,
}

#[derive(Deserialize)]
pub(super) struct Invoices {
    #[serde(default)]
    pub(super) invoices: Vec<Invoice>,
    #[serde(default, deserialize_with = "integer")]
    pub(super) last_index_offset: u64,
}

#[derive(Deserialize)]
pub(super) struct Added {
    pub(super) payment_request: String,
}

#[derive(Deserialize)]
pub(super) struct Nothing {}
