//! Lightning: one trait for receiving, one for paying, and the drivers behind them.
//!
//! A driver knows a backend and nothing else: no budgets, no policy, no database. Exactly-once is made by the caller,
//! who stores each payment under its hash before [`Pay::dispatch`] is called; a driver supplies a repeatable send and
//! the state of a hash. What is not certain is [`Outcome::Unknown`](nexus_core::payment::Outcome::Unknown), never failed.

pub mod bolt11;
pub mod cashu;
mod checks;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod devnet;
pub mod driver;
pub mod lnd;
pub mod lnurl;
pub mod nwc;
pub mod spark;
pub mod storage;
mod wire;

pub use bolt11::{Bolt11, Bolt11Error, Network, commitment, decode_bolt11};
pub use driver::{
    Capabilities, Cursor, Custody, Description, Dispatch, Driver, Health, Hold, HoldRequest, Idempotency, Invoice,
    InvoiceRequest, InvoiceState, Kind, Pay, PayRequest, Preimage, PreimageProof, Quote, Receive, Resolve, Settlement,
    WalletDriver, WalletError,
};
pub use storage::{StorageError, WalletStorage};
