//! What only PostgreSQL can get wrong: two connections to one database, one of which stops at the worst moment.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

#[path = "../common/mod.rs"]
mod common;
mod frozen;
mod pauses;
mod second;
