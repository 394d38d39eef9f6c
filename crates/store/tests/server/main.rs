//! What needs a PostgreSQL server of one's own: it is killed, it speaks TLS, it asks for passwords.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod access;
#[path = "../common/mod.rs"]
mod common;
mod outage;
mod schema;
