//! What an operator sees: traces, figures, logs, the fleet, and what the doctor finds.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod collector;
mod doctor;
mod metrics;
mod roles;
mod traces;
#[path = "../common/web.rs"]
mod web;
