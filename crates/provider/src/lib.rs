//! A seller of thinking on the open market (NIP-90 kind 5050, announced by NIP-89): an OpenAI-compatible model server
//! or the demo planner behind it, paid over Lightning.

pub mod backend;
pub mod config;
pub mod demo;
mod http;
pub mod job;
pub mod ollama;
pub mod price;

pub use backend::{Backend, BackendError, Completion, OpenAiBackend, Prompt};
pub use config::{BackendConfig, ConfigError, Encryption, Endpoint, Limits, Network, Payment, Price, ProviderConfig};
pub use demo::DemoBackend;
pub use ollama::detect_ollama;
