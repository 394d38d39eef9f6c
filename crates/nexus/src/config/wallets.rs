//! Which wallets agents may have on this host. Control planes and workers read the same.

use std::path::PathBuf;

use nexus_lightning::Network;
use serde::{Deserialize, Serialize};

/// Largest cap, in sats: more than a mint should be trusted with.
const MAX_CAP_SATS: u64 = 100_000_000;

/// What a policy may name beside the development network, which is offered where development is allowed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WalletsConfig {
    /// The Lightning network that they pay on: bitcoin, testnet, signet, regtest or simnet. Unset: bitcoin, or regtest where
    /// development is allowed.
    pub network: Option<String>,
    pub cashu: CashuWallets,
    pub nwc: NwcWallets,
    pub spark: SparkWallets,
}

/// Ecash at a mint of the owner's choice, which holds the money.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CashuWallets {
    pub offered: bool,
    /// What an agent may have at its mint: invoices beyond it are refused.
    pub cap_sats: u64,
}

impl Default for CashuWallets {
    fn default() -> Self {
        Self { offered: true, cap_sats: 1_000_000 }
    }
}

/// A wallet elsewhere, over Nostr Wallet Connect.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NwcWallets {
    pub offered: bool,
}

impl Default for NwcWallets {
    fn default() -> Self {
        Self { offered: true }
    }
}

/// Spark, through a process beside the worker. Experimental.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SparkWallets {
    pub offered: bool,
    /// The interpreter in whose environment the Breez SDK is installed.
    pub python: PathBuf,
    /// File with the SDK's API key, which the main network needs.
    pub api_key_file: Option<PathBuf>,
    /// Where the SDK keeps what it can fetch again; below the data directory when unset.
    pub storage_dir: Option<PathBuf>,
}

impl Default for SparkWallets {
    fn default() -> Self {
        Self { offered: false, python: "python3".into(), api_key_file: None, storage_dir: None }
    }
}

impl WalletsConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(name) = &self.network
            && network_named(name).is_none()
        {
            return Err(format!("wallets.network: {name:?} is none: use bitcoin, testnet, signet, regtest or simnet"));
        }
        if !(1..=MAX_CAP_SATS).contains(&self.cashu.cap_sats) {
            return Err(format!("wallets.cashu.cap_sats: use 1 to {MAX_CAP_SATS}"));
        }
        Ok(())
    }

    /// The network that agents' invoices must be for.
    pub fn network(&self, development: bool) -> Network {
        let default = if development { Network::Regtest } else { Network::Bitcoin };
        self.network.as_deref().and_then(network_named).unwrap_or(default)
    }
}

/// By the names that LND uses.
pub fn network_named(name: &str) -> Option<Network> {
    let networks = [Network::Bitcoin, Network::Testnet, Network::Signet, Network::Regtest, Network::Simnet];
    networks.into_iter().find(|network| network.as_str() == name)
}
