//! Which wallets agents may have on this host. Control planes and workers read the same.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use nexus_control::Accounts;
use nexus_core::{Clock, Msat};
use nexus_lightning::Network;
use nexus_worker::LndWallets;
use serde::{Deserialize, Serialize};

use super::HostingConfig;
use super::hosting::LndNode;

/// Where the paying half of the operator's node stands.
const LND: &str = "wallets.lnd";

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
    /// For workers: the operator's node, with a macaroon that may pay. Off unless set; control planes have `agent_wallets`.
    pub lnd: Option<LndNode>,
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

/// For control planes: accounts at the operator's node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentWalletsConfig {
    /// The node of `wallets.lnd`, with a macaroon that may make invoices. Without it there are no accounts.
    pub lnd: Option<LndNode>,
    /// What one agent may have there, open invoices included, when another invoice is made.
    pub cap_sats: u64,
    /// And all together.
    pub total_cap_sats: u64,
}

impl Default for AgentWalletsConfig {
    fn default() -> Self {
        Self { lnd: None, cap_sats: 50_000, total_cap_sats: 2_000_000 }
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
        self.lnd.as_ref().map_or(Ok(()), |node| node.check(LND))
    }

    /// Accounts at the operator's node, as a worker opens them.
    pub fn accounts(&self, development: bool, clock: Arc<dyn Clock>) -> anyhow::Result<Option<LndWallets>> {
        let Some(node) = &self.lnd else { return Ok(None) };
        let (config, macaroon) = node.payer(LND)?;
        let network = self.network(development);
        if config.network() != network {
            bail!(
                "{LND} is on {}, and wallets here pay on {network}\n  next: set wallets.network to the node's",
                config.network()
            );
        }
        Ok(Some(LndWallets::new(config, macaroon, clock)))
    }

    /// The network that agents' invoices must be for.
    pub fn network(&self, development: bool) -> Network {
        let default = if development { Network::Regtest } else { Network::Bitcoin };
        self.network.as_deref().and_then(network_named).unwrap_or(default)
    }
}

impl AgentWalletsConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if !(1..=MAX_CAP_SATS).contains(&self.cap_sats) || self.total_cap_sats < self.cap_sats {
            return Err(format!(
                "agent_wallets.cap_sats: use 1 to {MAX_CAP_SATS}, and at least as much for total_cap_sats"
            ));
        }
        if Msat::from_sats(self.total_cap_sats).is_none() {
            return Err("agent_wallets.total_cap_sats: that is more than there is".to_owned());
        }
        self.lnd.as_ref().map_or(Ok(()), |node| node.check("agent_wallets.lnd"))
    }

    /// What a control plane keeps accounts at.
    pub fn accounts(&self, hosting: &HostingConfig, clock: Arc<dyn Clock>) -> anyhow::Result<Option<Accounts>> {
        let Some(node) = &self.lnd else { return Ok(None) };
        let identity = node.identity.to_ascii_lowercase();
        let shared =
            hosting.charge && hosting.lnd.as_ref().is_some_and(|lnd| lnd.identity.eq_ignore_ascii_case(&identity));
        Ok(Some(Accounts {
            node: Arc::new(node.open("agent_wallets.lnd", clock)?),
            identity,
            cap: Msat::from_sats(self.cap_sats).unwrap_or(Msat::MAX),
            total_cap: Msat::from_sats(self.total_cap_sats).unwrap_or(Msat::MAX),
            shared,
        }))
    }
}

/// By the names that LND uses.
pub fn network_named(name: &str) -> Option<Network> {
    let networks = [Network::Bitcoin, Network::Testnet, Network::Signet, Network::Regtest, Network::Simnet];
    networks.into_iter().find(|network| network.as_str() == name)
}
