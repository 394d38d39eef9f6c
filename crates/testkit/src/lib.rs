//! For tests only: time and randomness under control, and the real ones for tests that talk to real servers.

pub mod fuzz;
#[cfg(feature = "lnd")]
pub mod lnd;
pub mod nats;
pub mod postgres;
pub mod proxy;
mod time;

pub use time::{ManualClock, SeededEntropy, SystemEntropy, TestClock};
