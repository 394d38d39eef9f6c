//! The development network: a small Lightning world with money of its own, for working and testing without a node.
//!
//! Its invoices are real BOLT 11 on regtest, signed by the network's own node key. Its accounts belong to keys, its
//! payments are transfers between them, and everything that was answered survives a crash. It is not custody and not
//! Bitcoin: production roles refuse it.
//!
//! A network lives in a directory. Whichever process gets the directory's lock serves it on a port of 127.0.0.1 and
//! writes the address into the file `url`; the others connect there, and one of them takes over when that process dies.

mod account;
mod wallet;

use std::path::PathBuf;
use std::sync::Arc;

use nexus_core::{Clock, Entropy, Msat};

pub use account::{AccountKey, Party};
pub use wallet::Wallet;

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
    pub fee: Fee,
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
pub struct Devnet {}

/// Opens a network: serves the directory if nobody does, else connects. Must be called within a Tokio runtime.
pub async fn open(place: Place, parts: Parts) -> Result<Devnet, OpenError> {
    todo!()
}

impl Devnet {
    /// The account of a key. Nothing is created until it is used.
    pub fn wallet(&self, key: AccountKey) -> Wallet {
        todo!()
    }

    /// Where it answers now: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        todo!()
    }

    /// Whether this process serves it.
    pub fn serving(&self) -> bool {
        todo!()
    }

    /// Stops serving, if this process does, after the requests that were accepted. Releases the directory.
    pub async fn shutdown(&self) {
        todo!()
    }
}

/// The network served by this process. Dropping it stops it.
pub struct Server {}

impl Server {
    /// Takes the directory's lock and serves it on 127.0.0.1 (`port` 0: any free one). [`OpenError::Held`] when another
    /// process does already.
    pub async fn start(dir: PathBuf, port: u16, parts: Parts) -> Result<Self, OpenError> {
        todo!()
    }

    pub fn url(&self) -> String {
        todo!()
    }

    pub async fn shutdown(self) {
        todo!()
    }
}
