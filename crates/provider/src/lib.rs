//! A seller of thinking on the open market (NIP-90 kind 5050, announced by NIP-89): an OpenAI-compatible model server
//! or the demo planner behind it, paid over Lightning.
//!
//! [`run`] listens on relays, takes requests that are addressed to it, asks for payment, works and delivers. Each step
//! of a job is in a durable list before anybody is told of it, so that a restart at any moment neither does a paid job
//! twice nor forgets one, and a repeated request gets the same invoice and the same result.

mod announce;
pub mod backend;
pub mod config;
pub mod demo;
mod http;
mod intake;
pub mod job;
pub mod ollama;
mod order;
mod pause;
pub mod price;
mod run;
mod seats;
mod seller;
mod shop;
mod till;

use std::sync::Arc;

pub use backend::{Backend, BackendError, Completion, OpenAiBackend, Prompt};
pub use config::{BackendConfig, ConfigError, Encryption, Endpoint, Limits, Network, Payment, Price, ProviderConfig};
pub use demo::{DEMO_MODEL, DemoBackend};
pub use ollama::detect_ollama;
pub use run::{ProviderError, ProviderParts, run};

/// The backend that a configuration names. Reads the key file; does not connect.
pub fn backend(config: &ProviderConfig) -> Result<Arc<dyn Backend>, ConfigError> {
    Ok(match &config.backend {
        BackendConfig::Demo => Arc::new(DemoBackend),
        BackendConfig::OpenAi(endpoint) => Arc::new(OpenAiBackend::new(endpoint, config.limits.answer_bytes)?),
    })
}
