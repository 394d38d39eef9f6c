//! LND over its REST API, two halves apart: [`LndPay`] holds the macaroon that may pay, [`LndReceive`] the one that may
//! make invoices, and neither can be made from the other's.
//!
//! The node is pinned three times: its certificate (LND makes its own, which no public authority knows), its public key
//! and its network. Every connection is asked who it is before anything else is asked on it, so no answer, and above all
//! no "not found", is ever taken from another node.
//!
//! LND knows a payment by its hash and refuses a second one unless the first failed. What it does not know is for whom
//! it pays: so each payment carries a tag made from [`Dispatch::payment_id`](crate::Dispatch::payment_id) and the
//! attempt, kept by LND with the payment itself. "Already paid" is a success only under the same tag.
//!
//! Needs LND 0.19 or later, built with `invoicesrpc` for hold invoices (all releases are).

mod client;
mod json;
mod pay;
mod receive;
mod secret;
mod sub_account;
mod tag;
mod trust;

use std::path::PathBuf;

use nexus_core::{Hash32, Msat};
use url::Url;

use crate::bolt11::Network;

pub use pay::LndPay;
pub use receive::LndReceive;
pub use secret::{InvoiceMacaroon, MacaroonError, PayerMacaroon};
pub use sub_account::{Booked, Books, BooksError, Held, Hold, LndSubAccount};

/// The oldest LND whose payments stay what they were called: (major, minor).
pub const OLDEST: (u32, u32) = (0, 19);

/// By what the node's certificate is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Exactly the certificate in this PEM file, LND's `tls.cert`. Read at each connection: LND may renew it.
    File(PathBuf),
    /// Exactly the certificate whose DER has this SHA-256.
    Fingerprint(Hash32),
    /// Whatever a public authority vouches for under the host's name: for nodes behind a proxy.
    PublicRoots,
}

/// The most that may be paid in fees for an amount: what is held beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeReserve {
    /// However small the payment.
    pub floor: Msat,
    /// Millionths of the amount.
    pub ppm: u32,
}

impl Default for FeeReserve {
    /// One in a hundred, and at least 10 sats.
    fn default() -> Self {
        Self { floor: Msat::sats(10), ppm: 10_000 }
    }
}

impl FeeReserve {
    pub fn of(self, amount: Msat) -> Msat {
        let share = (u128::from(amount.as_u64()) * u128::from(self.ppm)).div_ceil(1_000_000);
        let share = u64::try_from(share).ok().and_then(|share| Msat::try_from(share).ok()).unwrap_or(Msat::MAX);
        share.max(self.floor)
    }
}

/// How long the driver waits, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For TCP and TLS to stand.
    pub connect_ms: u64,
    /// For each answer, and for the first word of each stream.
    pub answer_ms: u64,
    /// For a payment to end, before it is called pending.
    pub settle_ms: u64,
    /// For a settlement, before the subscription is made anew: a connection can die without a word.
    pub idle_ms: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect_ms: 5_000, answer_ms: 15_000, settle_ms: 30_000, idle_ms: 60_000 }
    }
}

/// Which node, and how to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    url: Url,
    host: String,
    port: u16,
    trust: Trust,
    identity: String,
    network: Network,
    pub patience: Patience,
    pub fee_reserve: FeeReserve,
}

/// Why a node cannot be configured so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("`{0}` is not the address of LND's REST API: expected https://HOST:PORT")]
    Url(String),
    #[error("`{0}` is not a node's public key: expected 66 hex digits, `identity_pubkey` of `lncli getinfo`")]
    Identity(String),
}

impl NodeConfig {
    /// `url` is `https://HOST[:PORT]`, 8080 unless named; `identity` the node's compressed public key in hex.
    pub fn new(url: &str, trust: Trust, identity: &str, network: Network) -> Result<Self, ConfigError> {
        // An address may carry a password: only what was understood to be harmless is repeated.
        let bad = || ConfigError::Url(url.split('@').next_back().unwrap_or_default().chars().take(200).collect());
        let parsed: Url = url.parse().map_err(|_| bad())?;
        let plain = parsed.scheme() == "https"
            && parsed.path() == "/"
            && parsed.query().is_none()
            && parsed.fragment().is_none()
            && parsed.username().is_empty()
            && parsed.password().is_none();
        let host = parsed.host_str().filter(|_| plain).ok_or_else(bad)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let identity = identity.to_ascii_lowercase();
        if !public_key(&identity) {
            return Err(ConfigError::Identity(identity.chars().take(80).collect()));
        }
        // The url crate leaves out a port that is the scheme's own, even where it was written.
        let written = url.trim_end_matches('/').ends_with(":443");
        let port = parsed.port().unwrap_or(if written { 443 } else { 8080 });
        let (patience, fee_reserve) = (Patience::default(), FeeReserve::default());
        Ok(Self { url: parsed, host, port, trust, identity, network, patience, fee_reserve })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    pub fn identity(&self) -> &str {
        &self.identity
    }

    pub const fn network(&self) -> Network {
        self.network
    }
}

fn public_key(hex: &str) -> bool {
    hex.len() == 66 && (hex.starts_with("02") || hex.starts_with("03")) && hex.bytes().all(|it| it.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
