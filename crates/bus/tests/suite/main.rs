//! What a bus does, shown on each bus that there is; then what only one with a server must do.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod access;
mod cut;
mod every;
mod follower;
mod rig;
mod server;
mod settings;
