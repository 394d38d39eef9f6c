//! What Nexus decides, without doing any of it.
//!
//! Identifiers, money, time as a parameter, the agent's life, its budget, its schedule, the tick machine, the
//! payment machine, placement and the rules of the owner's policy. Nothing here is async, reads a clock, a file,
//! a socket or the environment: time and randomness come in as values or through [`Clock`] and [`Entropy`].

pub mod action;
pub mod agent;
pub mod approval;
pub mod availability;
pub mod budget;
pub mod dispute;
pub mod event;
pub mod gate;
pub mod hosting;
pub mod id;
pub mod lifecycle;
pub mod money;
pub mod net;
pub mod notice;
pub mod payee;
pub mod payment;
pub mod placement;
pub mod policy;
pub mod prompt;
pub mod rent;
pub mod rollback;
pub mod schedule;
pub mod score;
pub mod state;
pub mod status;
pub mod tick;
pub mod time;
pub mod trigger;

pub use agent::AgentConfig;
pub use id::{AccountId, Generation, Hash32, Npub, ParseIdError, TickId, WorkerId};
pub use money::Msat;
pub use time::{Clock, Entropy, MonoMs, UnixMs};
