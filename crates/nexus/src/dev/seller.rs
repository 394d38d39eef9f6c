//! The provider that a host runs for itself, or that runs alone.

use std::path::PathBuf;

use nexus_provider::{BackendConfig, Endpoint, Price, ProviderConfig, detect_ollama};

use crate::config::{PricePer, SellerConfig};

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
        encryption: config.encryption,
        data_dir,
        ..ProviderConfig::default()
    }
}
