//! What goes over the wire between a wallet and the network: JSON over HTTP on 127.0.0.1.
//!
//! Every call but `GET /v1/node` is a POST signed by the account's key. The header
//! `authorization: Devnet <account> <unix ms> <nonce> <signature>` carries a BIP-340 signature over the server's boot
//! id, the path, the time, the nonce and the body: a request is good once, for one server run, for half a minute.

use nexus_core::{Hash32, Msat, UnixMs};
use serde::{Deserialize, Serialize};

use super::Party;
use crate::driver::Cursor;

pub(super) const NODE: &str = "/v1/node";
pub(super) const ACCOUNT: &str = "/v1/account";
pub(super) const FAUCET: &str = "/v1/faucet";
pub(super) const INVOICES: &str = "/v1/invoices";
pub(super) const INVOICE: &str = "/v1/invoices/lookup";
pub(super) const HOLD: &str = "/v1/invoices/hold";
pub(super) const SETTLE: &str = "/v1/invoices/settle";
pub(super) const CANCEL: &str = "/v1/invoices/cancel";
pub(super) const SETTLEMENTS: &str = "/v1/settlements";
pub(super) const PAYMENTS: &str = "/v1/payments";
pub(super) const PAYMENT: &str = "/v1/payments/resolve";
pub(super) const QUOTES: &str = "/v1/quotes";
#[cfg(feature = "faults")]
pub(super) const FAULTS: &str = "/v1/faults";

/// Bytes of a request's body.
pub(super) const MAX_REQUEST_BYTES: usize = 16 << 10;
/// Bytes of an answer's body.
pub(super) const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Settlements in one answer.
pub(super) const MAX_SETTLEMENTS: usize = 200;
/// How long a call for settlements may wait for one.
pub(super) const MAX_WAIT_MS: u64 = 25_000;
pub(super) const MAX_PAYMENT_ID_BYTES: usize = 64;
pub(super) const MAX_EXPIRY_S: u32 = 86_400;
/// How old a signed request may be, and how long its nonce is remembered at least.
pub(super) const MAX_AGE_MS: i64 = 30_000;
/// How far a client's clock may be ahead.
pub(super) const MAX_AHEAD_MS: i64 = 5_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) node: String,
    pub(super) boot: String,
    pub(super) network: crate::Network,
    pub(super) fee_base: Msat,
    pub(super) fee_ppm: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AccountAnswer {
    pub(super) party: Party,
    pub(super) balance: Msat,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InvoiceAsk {
    /// A secret; the answer to `lookup` shows it only after settlement.
    pub(super) preimage: Option<Hash32>,
    pub(super) amount: Msat,
    pub(super) memo: Option<String>,
    pub(super) description_hash: Option<Hash32>,
    pub(super) expiry_s: u32,
}

/// An invoice whose preimage the payee keeps to itself until it takes the money.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HoldAsk {
    pub(super) hash: Hash32,
    pub(super) amount: Msat,
    pub(super) memo: Option<String>,
    pub(super) description_hash: Option<Hash32>,
    pub(super) expiry_s: u32,
    /// How long money may be held.
    pub(super) hold_ms: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SettleAsk {
    pub(super) preimage: Hash32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct InvoiceAnswer {
    pub(super) bolt11: String,
    pub(super) hash: Hash32,
    pub(super) expires_at: UnixMs,
    pub(super) cursor: Cursor,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HashAsk {
    pub(super) hash: Hash32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub(super) enum InvoiceStateAnswer {
    Open,
    Accepted,
    Settled { amount: Msat, preimage: Hash32, at: UnixMs },
    Canceled,
    NotFound,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SettlementsAsk {
    pub(super) after: Cursor,
    pub(super) wait_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PaymentAsk {
    pub(super) payment_id: String,
    pub(super) attempt: u32,
    pub(super) bolt11: String,
    pub(super) amount: Option<Msat>,
    pub(super) max_fee: Msat,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResolveAsk {
    pub(super) hash: Hash32,
    pub(super) payment_id: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuoteAsk {
    pub(super) amount: Msat,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct QuoteAnswer {
    pub(super) fee: Msat,
}

/// The fixed errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Code {
    /// The body is not what the call takes.
    BadRequest,
    /// No usable signature.
    Unauthorized,
    /// Signed for another run of the server: ask for the node again. Nothing was done.
    StaleBoot,
    /// Too old, or seen before.
    Replayed,
    /// The preimage is in use with other values.
    Conflict,
    /// No money waits, or it is settled already.
    NotHeld,
    TooManyAccounts,
    TooManyInvoices,
    TooManyRequests,
    /// The server is going away; what became of the request is unknown.
    Stopping,
}

impl Code {
    pub(super) const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized | Self::StaleBoot | Self::Replayed => 401,
            Self::Conflict | Self::NotHeld => 409,
            Self::TooManyAccounts | Self::TooManyInvoices | Self::TooManyRequests => 429,
            Self::Stopping => 503,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Problem {
    pub(super) code: Code,
    pub(super) detail: String,
}

impl Problem {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// What a request's signature covers.
pub(super) fn digest(boot: &str, path: &str, at: UnixMs, nonce: &str, body: &[u8]) -> [u8; 32] {
    let body = Hash32::sha256(body);
    *Hash32::sha256(format!("nexus devnet 1\n{boot}\n{path}\n{at}\n{nonce}\n{body}").as_bytes()).as_bytes()
}
