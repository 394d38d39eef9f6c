//! Spark (experimental): wallets whose keys are shared with the Spark operators, who cannot spend alone.
//!
//! No crate of the SDK is published. So one Python process ([`Sidecar`]) with the package `breez-sdk-spark` serves all
//! wallets of a worker, and speaks JSON-RPC over its stdin and stdout. Keys are in its memory and ours, nowhere else.
//!
//! Exactly-once rests on the SDK's idempotency key, a UUID under which the operators accept one transfer. It is made from the wallet,
//! payment id, hash and attempt, so that losing this wallet's storage does not change it, and what was sent is stored
//! before it is. The deadline is checked when a request is written, when it is read, and once more by the sidecar when the
//! SDK has chosen what to pay with and has told nobody yet.
//!
//! A payment on the main network has never been tried.

mod config;
mod pay;
mod process;
mod receive;
mod record;
mod sidecar;
mod wallet;

pub use config::{ApiKey, ConfigError, MAX_API_KEY_BYTES, Places, Script, SidecarConfig, WalletWords};
pub use sidecar::Sidecar;
pub use wallet::SparkWallet;

#[cfg(test)]
mod tests;
