//! What the owner's commands do.

pub mod agent;
pub mod apply;
pub mod completions;
pub mod config;
pub mod context;
pub mod fleet;
pub mod hosting;
pub mod login;
pub mod pool;
pub mod sim;
pub mod token;
pub mod webhook;

use crate::failure::NotYet;

/// Ends a command that is planned and not there, by its name.
pub fn not_yet(name: &str, instead: &'static str) -> anyhow::Result<()> {
    Err(NotYet { name: name.to_owned(), instead }.into())
}
