//! The agents' wallets of a worker: a driver for each backend that this host offers.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use futures_util::future::BoxFuture;
use nexus_client::file;
use nexus_core::policy::WalletChoice;
use nexus_core::{Clock, Entropy, Msat, Npub};
use nexus_lightning::cashu::{CashuConfig, CashuMemory, CashuWallet, Https, MintUrl, Patience, WalletSeed};
use nexus_lightning::devnet::Devnet;
use nexus_lightning::spark::{ApiKey, Sidecar, SidecarConfig, SparkWallet, WalletWords};
use nexus_lightning::storage::Scoped;
use nexus_lightning::{Network, WalletDriver};
use nexus_worker::{DevWallets, LndWallets, NwcMeans, Purse, Relays, WalletUnavailable, Wallets, open_nwc};
use zeroize::Zeroizing;

use crate::config::{Config, SparkWallets};
use crate::role;

/// Cashu wallets that a process remembers something of.
const MAX_REMEMBERED: usize = 65_536;

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
    development: bool,
    dev: Option<DevWallets>,
    lnd: Option<LndWallets>,
    spark: Option<Sidecar>,
    cashu_cap: Msat,
    remembered: Mutex<HashMap<(Npub, String), CashuMemory>>,
    relays: Arc<dyn Relays>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// What they are made of, beside the configuration.
pub struct Means<'a> {
    pub development: bool,
    pub devnet: Option<&'a Devnet>,
    /// Over which wallets elsewhere are spoken to.
    pub relays: Arc<dyn Relays>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

impl AgentWallets {
    /// Inside a Tokio runtime: the process that has Spark's wallets is kept by a task.
    pub fn new(config: &Config, means: Means<'_>) -> anyhow::Result<Self> {
        let Means { development, devnet, relays, clock, entropy } = means;
        let network = config.wallets.network(development);
        let offered = offered(config, development);
        let spark = match offered.contains("spark") {
            true => Some(sidecar(config, network, clock.clone())?),
            false => None,
        };
        Ok(Self {
            offered,
            network,
            development,
            dev: devnet.cloned().map(DevWallets),
            lnd: config.wallets.accounts(development, clock.clone())?,
            spark,
            cashu_cap: Msat::from_sats(config.wallets.cashu.cap_sats).context("wallets.cashu.cap_sats is too large")?,
            remembered: Mutex::default(),
            relays,
            clock,
            entropy,
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
            WalletChoice::Cashu { mint } => self.cashu(&purse, mint).await,
            WalletChoice::Nwc { .. } => {
                let (relays, clock, entropy) = (self.relays.clone(), self.clock.clone(), self.entropy.clone());
                open_nwc(NwcMeans { relays, clock, entropy, network: self.network }, &purse).await
            }
            WalletChoice::Spark {} => spark(self.spark.as_ref().ok_or_else(missing)?, &purse),
        }
    }

    async fn cashu(&self, purse: &Purse, mint: &str) -> Result<Arc<dyn WalletDriver>, WalletUnavailable> {
        let unavailable = |error: nexus_lightning::WalletError| WalletUnavailable(format!("its mint: {error}"));
        let url = MintUrl::parse(mint, self.development).map_err(unavailable)?;
        let seed = purse.seed.expose_seed();
        let seed: [u8; 64] =
            seed.expose().try_into().map_err(|_| WalletUnavailable("the wallet's seed is no BIP-39 seed".into()))?;
        let http = Https::new(url.clone(), self.development, self.clock.clone()).map_err(unavailable)?;
        let storage = Scoped::new(purse.storage.clone(), url.as_str());
        let memory = self.memory(purse.npub, url.as_str());
        let config = CashuConfig { url, network: self.network, most: self.cashu_cap, patience: Patience::default() };
        let (http, storage, clock) = (Arc::new(http), Arc::new(storage), self.clock.clone());
        let wallet = CashuWallet::again(config, WalletSeed::new(seed), http, storage, clock, memory);
        wallet.settle_records(&purse.records_of).await.map_err(unavailable)?;
        Ok(Arc::new(wallet))
    }

    fn memory(&self, npub: Npub, mint: &str) -> CashuMemory {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            // Whoever is forgotten finds out anew.
            remembered.clear();
        }
        remembered.entry((npub, mint.to_owned())).or_default().clone()
    }
}

fn spark(sidecar: &Sidecar, purse: &Purse) -> Result<Arc<dyn WalletDriver>, WalletUnavailable> {
    let words = Zeroizing::new(purse.seed.expose_words().expose().to_owned());
    let words = WalletWords::new(words).ok_or_else(|| WalletUnavailable("the wallet's words are not twelve".into()))?;
    Ok(Arc::new(SparkWallet::new(sidecar.clone(), words, purse.storage.clone())))
}

/// The process that has Spark's wallets; started with the first of them.
fn sidecar(config: &Config, network: Network, clock: Arc<dyn Clock>) -> anyhow::Result<Sidecar> {
    let SparkWallets { python, api_key_file, storage_dir, .. } = &config.wallets.spark;
    let storage = match storage_dir {
        Some(dir) => dir.clone(),
        None => role::data_dir(config)?.join("spark"),
    };
    let key = api_key_file.as_deref().map(api_key).transpose()?;
    let config = SidecarConfig::new(python.clone(), storage, network, key);
    Sidecar::new(config, clock).context("wallets.spark\n  next: correct it, or set wallets.spark.offered = false")
}

fn api_key(path: &Path) -> anyhow::Result<ApiKey> {
    let text = Zeroizing::new(file::read_secret(path)?.to_string());
    match ApiKey::new(text) {
        Some(key) => Ok(key),
        None => bail!("{} holds no API key\n  next: put the key alone into it", path.display()),
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
