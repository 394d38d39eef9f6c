//! The provider that a host runs for itself, or that runs alone.

use std::path::PathBuf;
use std::sync::Arc;

use nexus_core::Clock;
use nexus_lightning::Hold;
use nexus_provider::{BackendConfig, Endpoint, Network, Price, ProviderConfig, detect_ollama};

use crate::config::{LndNode, PricePer, SellerConfig};

/// What thinks: the configured endpoint, else a local Ollama, else the demo planner.
pub async fn backend(config: &SellerConfig) -> BackendConfig {
    if let (Some(url), Some(model)) = (&config.llm_url, &config.llm_model) {
        let endpoint =
            Endpoint { url: url.clone(), model: model.clone(), api_key_file: config.llm_api_key_file.clone() };
        return BackendConfig::OpenAi(endpoint);
    }
    let found = if config.detect_ollama { detect_ollama().await } else { None };
    found.map_or(BackendConfig::Demo, BackendConfig::OpenAi)
}

/// A seller's configuration. `data_dir` keeps its list of jobs.
pub fn config(config: &SellerConfig, backend: BackendConfig, relays: Vec<String>, data_dir: PathBuf) -> ProviderConfig {
    ProviderConfig {
        name: config.name.clone(),
        relays,
        backend,
        price: match config.price_per {
            PricePer::Request => Price::PerRequest { msat: config.price_msat },
            PricePer::ThousandTokens => Price::Per1kTokens { msat: config.price_msat },
        },
        payment: config.payment,
        hold: config.hold,
        encryption: config.encryption,
        network: config.lnd.as_ref().map_or(Network::Regtest, network),
        data_dir,
        ..ProviderConfig::default()
    }
}

/// In the words of announcements.
fn network(node: &LndNode) -> Network {
    match node.network.as_str() {
        "bitcoin" => Network::Mainnet,
        "testnet" => Network::Testnet,
        "signet" => Network::Signet,
        _ => Network::Regtest,
    }
}

/// Where it is paid: at its node, if it has one.
pub fn till(
    config: &SellerConfig,
    clock: Arc<dyn Clock>,
    development: impl FnOnce() -> anyhow::Result<Arc<dyn Hold>>,
) -> anyhow::Result<Arc<dyn Hold>> {
    match &config.lnd {
        Some(node) => Ok(Arc::new(node.open("provider.lnd", clock)?)),
        None => development(),
    }
}
