//! The worker: hosts agents, runs their ticks, opens their secrets. It knows no billing and no HTTP API.
//!
//! What is done is decided by the pure machines of `nexus-core`; this crate performs it. Effects leave at one boundary
//! (`perform`), each of them journaled before under a live fence.

mod approval;
mod beat;
mod config;
mod custody;
mod decide;
mod delegation;
mod dispute;
mod drain;
mod error;
mod experience;
mod faults;
mod filter;
mod funds;
mod holding;
mod host;
mod kept;
mod ledger;
mod market;
mod notice;
mod nwc;
mod payable;
pub mod payout;
mod perceive;
mod perform;
mod profile;
mod public;
mod readers;
mod recover;
mod relays;
mod rent;
mod rest;
mod restored;
mod rollback;
mod roster;
mod run;
mod runner;
mod schedules;
mod secrets;
mod sub_account;
mod tick;
mod trace;
mod turn;
mod unlock;
mod vitals;
mod wallet;
mod web;
mod withdraw;
mod zap;
mod zapping;

pub use config::WorkerConfig;
pub use error::WorkerError;
#[cfg(feature = "broken")]
pub use faults::Broken;
pub use faults::{Faults, WIRE_VERSION};
pub use host::{Extras, WorkerParts};
pub use nexus_egress::EgressError;
pub use nwc::{NwcMeans, RelayLine, open_nwc};
pub use relays::Relays;
pub use run::{run, run_with};
pub use runner::RUNNER_PUBKEY;
pub use sub_account::{Holder, LndWallets, StoredBooks};
pub use trace::{StepSpan, TickTrace, Traces};
pub use vitals::Vitals;
pub use wallet::{DevWallets, Purse, WalletUnavailable, Wallets};
pub use web::Web;
