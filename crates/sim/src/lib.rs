//! The deterministic simulation: real control and worker code in a world that a seed decides.
//!
//! One thread, virtual time, the real store on SQLite in memory, the in-process bus; relays, wallets, sellers and
//! people are simulated. Processes are killed and frozen, clocks jump, answers are lost. Then the trouble ends, what
//! is under way comes to its end, and what must always hold is checked. A seed gives the same run every time.

mod agents;
mod approvals;
mod books;
#[cfg(feature = "broken")]
pub mod broken;
mod bus;
mod check;
mod counts;
mod database;
mod dice;
mod fleet;
mod ledger;
mod many;
mod money;
mod moves;
mod node;
mod outage;
mod payers;
mod people;
mod plan;
mod process;
mod provider;
mod relays;
mod run;
mod shelves;
mod signer;
mod trace;
mod wallet;
mod withdrawals;
mod witness;
mod world;

pub use counts::Counts;
pub use many::{Seeds, Summary, run_many};
pub use run::{Fault, Report, Totals, run};
