//! For tests only: time and randomness under control, and the real ones for tests that talk to real servers.

pub mod fuzz;
#[cfg(feature = "lnd")]
pub mod lnd;
pub mod mint;
pub mod nats;
#[cfg(feature = "nwc")]
pub mod nwc;
pub mod postgres;
pub mod proxy;
#[cfg(feature = "s3")]
pub mod s3;
mod time;

pub use time::{AheadClock, ManualClock, SeededEntropy, SystemEntropy, TestClock};
