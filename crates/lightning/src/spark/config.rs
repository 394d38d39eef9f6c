//! How the sidecar is started, and the two secrets that it is given.

use std::fmt;
use std::path::PathBuf;

use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::bolt11::Network;

/// Breez's keys are certificates in base64.
pub const MAX_API_KEY_BYTES: usize = 8 * 1024;

/// The program, as it is shipped.
pub(super) const PROGRAM: &str = include_str!("../../sidecar/spark.py");

/// Which program is the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// The one in this binary, written to [`SidecarConfig::storage_dir`] before each start.
    Embedded,
    /// Another file, for tests.
    File(PathBuf),
}

/// Where else than at the public network the SDK asks: all of it, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Every operator's address.
    pub operators: String,
    /// The service provider's, who pays and is paid over Lightning.
    pub provider: String,
    /// An Esplora.
    pub chain: String,
}

/// A key of Breez's, which their services want on the main network.
#[derive(Clone, ZeroizeOnDrop)]
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// Printable and at most [`MAX_API_KEY_BYTES`]; white space around it is left out.
    pub fn new(text: Zeroizing<String>) -> Option<Self> {
        let key = text.trim();
        let fits = !key.is_empty()
            && key.len() <= MAX_API_KEY_BYTES
            && key.bytes().all(|it| it.is_ascii_graphic() && it != b'"' && it != b'\\');
        fits.then(|| Self(Zeroizing::new(key.to_owned())))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// The twelve words of a wallet: the BIP-85 child of the agent's mnemonic, never that itself.
#[derive(Clone, ZeroizeOnDrop)]
pub struct WalletWords(Zeroizing<String>);

impl WalletWords {
    /// Twelve lowercase words with one space between; whether their checksum is right the sidecar says.
    pub fn new(words: Zeroizing<String>) -> Option<Self> {
        let fits = words.split(' ').count() == 12
            && words.split(' ').all(|it| (3..=8).contains(&it.len()) && it.bytes().all(|it| it.is_ascii_lowercase()));
        fits.then_some(Self(words))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for WalletWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WalletWords(…)")
    }
}

/// How the sidecar is started and waited for.
#[derive(Debug, Clone)]
pub struct SidecarConfig {
    /// An interpreter (3.11 or later) that finds the package `breez-sdk-spark`: of a virtual environment, `bin/python`.
    pub python: PathBuf,
    pub script: Script,
    /// Needed on the main network.
    pub api_key: Option<ApiKey>,
    /// The main network or regtest.
    pub network: Network,
    /// A directory of its own: made if it is not there, and closed to others. The SDK keeps there what it knows of each
    /// wallet, in a directory named after its identity. No key is in it.
    pub storage_dir: PathBuf,
    /// For the process to start, and for every answer but a payment's, in milliseconds.
    pub timeout_ms: u64,
    /// For a payment to end before it is called pending, in seconds.
    pub settle_s: u32,
    /// A wallet that was not asked for so many milliseconds is closed in the sidecar.
    pub idle_ms: u64,
    /// Between two looks for settlements, in milliseconds.
    pub poll_ms: u64,
    pub places: Option<Places>,
}

/// Why a sidecar cannot be configured so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("Spark has no {0} network: `bitcoin` or `regtest`")]
    Network(Network),
    #[error("Spark on the main network needs an API key of Breez (https://breez.technology)")]
    NoApiKey,
    #[error("`{0}` must be at least 1")]
    Zero(&'static str),
}

impl SidecarConfig {
    /// The shipped program with the usual patience.
    pub fn new(python: PathBuf, storage_dir: PathBuf, network: Network, api_key: Option<ApiKey>) -> Self {
        Self {
            python,
            script: Script::Embedded,
            api_key,
            network,
            storage_dir,
            timeout_ms: 30_000,
            settle_s: 20,
            idle_ms: 300_000,
            poll_ms: 5_000,
            places: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self.network {
            Network::Bitcoin if self.api_key.is_none() => return Err(ConfigError::NoApiKey),
            Network::Bitcoin | Network::Regtest => {}
            Network::Testnet | Network::Signet | Network::Simnet => return Err(ConfigError::Network(self.network)),
        }
        let counts = [("timeout_ms", self.timeout_ms), ("idle_ms", self.idle_ms), ("poll_ms", self.poll_ms)];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((name, _)) => Err(ConfigError::Zero(name)),
            None => Ok(()),
        }
    }
}
