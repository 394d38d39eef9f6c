//! Remote signing (NIP-46): an agent's key stays with its owner's signer, which is asked over relays.
//!
//! Each question has its own subscription, as long as it is open, and all of them share the relay pool's connections: a
//! thousand agents at one signer's relay are one connection, and one that asks nothing costs nothing.

mod link;
mod remote;
mod uri;

pub use link::{Line, Link, PERMISSIONS};
pub use remote::RemoteSigner;
pub use uri::{BunkerUri, MAX_RELAYS, UriError, nostr_connect};
