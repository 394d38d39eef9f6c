//! Nostr for Nexus: events that Nexus writes and reads, and a pool of relay connections.
//!
//! Builders return unsigned events with the author and time they are given; the caller signs. Readers take events that
//! were verified at the boundary ([`event::parse_event`], [`relay_pool`]), are bounded, and never panic. There are no
//! business rules here: who may wake an agent, what may be paid and what is published is decided elsewhere.

pub mod approval;
pub mod auth;
pub mod budget;
pub mod bunker;
pub mod delegation;
pub mod dispute;
pub mod event;
pub mod filter;
pub mod fuzz;
pub mod gift_wrap;
pub mod goals;
pub mod handler;
pub mod job;
pub mod kinds;
pub mod note;
pub mod profile;
pub mod relay_pool;
pub mod schedule;
pub mod sealed;
pub mod series;
pub mod session;
pub mod state;
pub mod tick;
pub mod trajectory;
pub mod trigger;
pub mod zap;

pub use event::{EventError, Head, parse_event, verify};
pub use handler::{HandlerInfo, Offer, Price};
pub use job::{Feedback, Job, JobError, JobResult, Quote, Request, Status, Update, UpdateBody};
pub use relay_pool::{PoolConfig, Published, RelayPool, Subscription};
pub use sealed::Sealed;
