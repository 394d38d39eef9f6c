//! The development network: a small Lightning world with money of its own, for working and testing without a node.
//!
//! Its invoices are real BOLT 11 on regtest, signed by the network's own node key. Its accounts belong to keys, its
//! payments are transfers between them, and everything that was answered survives a crash. It is not custody and not
//! Bitcoin: production roles refuse it.
//!
//! A network lives in a directory. Whichever process gets the directory's lock serves it on a port of 127.0.0.1 and
//! writes the address into the file `url`; the others connect there, and one of them takes over when that process dies.

mod account;
mod api;
mod auth;
mod decide;
mod dir;
mod engine;
#[cfg(feature = "faults")]
pub mod faults;
mod handlers;
mod ledger;
mod link;
mod log;
mod server;
mod wallet;

use std::path::PathBuf;
use std::sync::Arc;

use nexus_core::{Clock, Entropy, Msat};

pub use account::{AccountKey, Party};
pub use server::Server;
pub use wallet::Wallet;

use link::Link;

/// Given once to each account that asks.
pub const FAUCET: Msat = Msat::sats(1_000_000);

/// What the network takes for a payment, from the payer, beside the amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fee {
    pub base: Msat,
    /// Millionths of the amount, rounded up to a msat.
    pub ppm: u32,
}

impl Default for Fee {
    /// 1 sat flat: small, but never zero, so that fee handling is real.
    fn default() -> Self {
        Self { base: Msat::sats(1), ppm: 0 }
    }
}

impl Fee {
    pub fn of(self, amount: Msat) -> Msat {
        let parts = (u128::from(amount.as_u64()) * u128::from(self.ppm)).div_ceil(1_000_000);
        let parts = u64::try_from(parts).ok().and_then(|parts| Msat::try_from(parts).ok()).unwrap_or(Msat::MAX);
        self.base.saturating_add(parts)
    }
}

/// Where a network is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Serve it if nobody does, else connect; take over if the server dies.
    Dir(PathBuf),
    /// Connect only: `http://127.0.0.1:PORT`.
    Url(url::Url),
}

impl std::str::FromStr for Place {
    type Err = OpenError;

    /// `http://…` is an address, anything else a directory.
    fn from_str(text: &str) -> Result<Self, OpenError> {
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Ok(Self::Dir(PathBuf::from(text)));
        }
        text.parse().map(Self::Url).map_err(|_| OpenError::Address(text.to_owned()))
    }
}

/// What a network is made with.
#[derive(Clone)]
pub struct Parts {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// Taken by the process that serves; others learn it from the quote.
    pub fee: Fee,
    /// How long a wallet waits for an answer before it calls the outcome unknown.
    pub timeout_ms: u64,
}

impl Parts {
    /// The default fee, and 10 s for an answer.
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { clock, entropy, fee: Fee::default(), timeout_ms: 10_000 }
    }
}

/// Why a network cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("`{0}` is not the address of a development network: expected http://127.0.0.1:PORT or a directory")]
    Address(String),
    #[error("cannot use {path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} is damaged at line {line}: {why}", path = .path.display())]
    Damaged { path: PathBuf, line: usize, why: String },
    #[error("another process serves {dir} already{}", .url.as_deref().map(|url| format!(" at {url}")).unwrap_or_default(), dir = .dir.display())]
    Held { dir: PathBuf, url: Option<String> },
    #[error("no development network answers at {0}")]
    Unreachable(String),
}

/// A development network, served here or elsewhere. Cheap to clone.
#[derive(Clone)]
pub struct Devnet {
    link: Arc<Link>,
}

/// Opens a network: serves the directory if nobody does, else connects. Must be called within a Tokio runtime.
pub async fn open(place: Place, parts: Parts) -> Result<Devnet, OpenError> {
    Ok(Devnet { link: Link::open(place, parts).await? })
}

impl Devnet {
    /// The account of a key. Nothing is created until it is used.
    pub fn wallet(&self, key: AccountKey) -> Wallet {
        Wallet::new(self.link.clone(), key)
    }

    /// Where it answered last: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.link.url()
    }

    /// The public key of the network's node, compressed, in hex: which network it is, wherever it is served.
    pub fn node(&self) -> Option<String> {
        self.link.node()
    }

    /// Whether this process serves it.
    pub fn serving(&self) -> bool {
        self.link.serving()
    }

    /// All accounts, money in flight and fees less what the faucet gave, in msat: zero. None unless this process
    /// serves.
    pub async fn sum_msat(&self) -> Option<i128> {
        self.link.sum_msat().await
    }

    /// Stops serving, if this process does, after the requests that were accepted. Releases the directory.
    pub async fn shutdown(&self) {
        self.link.shutdown().await;
    }

    /// The switches for faults, if this process serves.
    #[cfg(feature = "faults")]
    pub fn faults(&self) -> Option<faults::Faults> {
        self.link.faults()
    }
}

#[cfg(test)]
mod tests;
