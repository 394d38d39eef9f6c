//! The agents' wallets of a worker: a driver for each backend that this host offers.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use nexus_core::Clock;
use nexus_core::policy::WalletChoice;
use nexus_lightning::devnet::Devnet;
use nexus_lightning::{Network, WalletDriver};
use nexus_worker::{DevWallets, LndWallets, Purse, WalletUnavailable, Wallets};

use crate::config::Config;

/// What a policy may name on this host.
pub fn offered(config: &Config, development: bool) -> BTreeSet<&'static str> {
    let wallets = &config.wallets;
    let all = [
        ("dev", development),
        ("cashu", wallets.cashu.offered),
        ("nwc", wallets.nwc.offered),
        ("spark", wallets.spark.offered),
        // The two halves of a node: workers have the one, control planes the other.
        ("lnd", wallets.lnd.is_some() || config.agent_wallets.lnd.is_some()),
    ];
    all.into_iter().filter_map(|(name, offered)| offered.then_some(name)).collect()
}

/// Opens whatever the policy names, if it is offered.
pub struct AgentWallets {
    offered: BTreeSet<&'static str>,
    network: Network,
    dev: Option<DevWallets>,
    lnd: Option<LndWallets>,
}

impl AgentWallets {
    pub fn new(
        config: &Config,
        development: bool,
        devnet: Option<&Devnet>,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            offered: offered(config, development),
            network: config.wallets.network(development),
            dev: devnet.cloned().map(DevWallets),
            lnd: config.wallets.accounts(development, clock)?,
        })
    }

    async fn open_offered(&self, purse: Purse) -> Result<Arc<dyn WalletDriver>, WalletUnavailable> {
        let backend = purse.choice.as_str();
        let missing = || {
            let offered = self.offered.iter().copied().collect::<Vec<_>>().join(", ");
            WalletUnavailable(format!("this worker has no driver for {backend} wallets; it has: {offered}"))
        };
        if !self.offered.contains(backend) {
            return Err(missing());
        }
        match &purse.choice {
            WalletChoice::Dev {} => self.dev.as_ref().ok_or_else(missing)?.open(purse).await,
            WalletChoice::Lnd {} => self.lnd.as_ref().ok_or_else(missing)?.open(purse).await,
            WalletChoice::Cashu { .. } | WalletChoice::Nwc { .. } | WalletChoice::Spark {} => Err(missing()),
        }
    }
}

impl Wallets for AgentWallets {
    fn open(&self, purse: Purse) -> BoxFuture<'_, Result<Arc<dyn WalletDriver>, WalletUnavailable>> {
        Box::pin(self.open_offered(purse))
    }

    fn network(&self) -> Network {
        self.network
    }

    fn home(&self, choice: &WalletChoice) -> Option<String> {
        match choice {
            WalletChoice::Dev {} => self.dev.as_ref()?.home(choice),
            // The policy itself names the mint, or the wallet service.
            WalletChoice::Cashu { .. } | WalletChoice::Nwc { .. } => None,
            WalletChoice::Lnd {} => self.lnd.as_ref()?.home(choice),
            WalletChoice::Spark {} => Some(format!("{}:{}", choice.as_str(), self.network)),
        }
    }
}
