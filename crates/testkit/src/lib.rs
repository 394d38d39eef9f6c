//! For tests only: time and randomness under control, and the real ones for tests that talk to real servers.

pub mod fuzz;
#[cfg(feature = "lnd")]
pub mod lnd;
pub mod mint;
pub mod nats;
pub mod postgres;
pub mod proxy;
#[cfg(feature = "s3")]
pub mod s3;
mod time;

pub use time::{ManualClock, SeededEntropy, SystemEntropy, TestClock};
