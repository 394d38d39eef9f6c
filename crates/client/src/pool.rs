//! The host's pool document, believed only along what was pinned at the first contact.

use nexus_core::{Npub, UnixMs};
use nexus_seal::{PoolPin, SignedPool};
use nostr::event::Event;
use serde::Deserialize;
use serde_json::Value;

use crate::api::Api;
use crate::error::Error;

/// What `/v1/pool` says.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Signed documents, oldest first.
    pub chain: Vec<Event>,
    /// Signs tick requests and results; named in host claims. None until a worker has made it.
    pub runner: Option<Npub>,
    pub public_origin: String,
    /// The inbox relay of this host.
    pub relay_url: Option<String>,
}

#[derive(Deserialize)]
struct Wire {
    pool: Value,
    #[serde(default)]
    runner: Option<Npub>,
    public_origin: String,
    #[serde(default)]
    relay: Option<String>,
}

/// Asks a host for its pool. Nothing of it is believed yet.
pub async fn fetch(api: &Api) -> Result<Offer, Error> {
    read(api.get("/v1/pool").await?)
}

fn read(answer: Value) -> Result<Offer, Error> {
    let odd = |why: String| Error::Protocol { attempted: "reading the pool", why };
    let wire: Wire = serde_json::from_value(answer).map_err(|error| odd(error.to_string()))?;
    // One document, or the chain of them.
    let chain = match wire.pool {
        Value::Array(_) => serde_json::from_value(wire.pool),
        single => serde_json::from_value(single).map(|event| vec![event]),
    };
    let chain = chain.map_err(|error| odd(error.to_string()))?;
    Ok(Offer { chain, runner: wire.runner, public_origin: wire.public_origin, relay_url: wire.relay })
}

impl Offer {
    /// The pool that envelopes may be sealed to. With a pin, only what follows from it; without, the first one seen,
    /// which `expected` (the fingerprint in words, as the operator gave it) may confirm.
    pub fn verify(&self, pin: Option<&PoolPin>, expected: Option<&str>, now: UnixMs) -> Result<SignedPool, Error> {
        let pool = match pin {
            Some(pin) => pin.follow(&self.chain, now),
            None => SignedPool::first_use(&self.chain, now),
        };
        let pool = pool.map_err(|error| {
            Error::NotAllowed(format!(
                "{error}\n  next: do not go on; ask the operator why the pool's keys are not the pinned ones"
            ))
        })?;
        match expected {
            Some(words) if !same_words(words, &pool.fingerprint()) => Err(Error::NotAllowed(format!(
                "the host's root key is `{}`, not the one you gave\n  next: do not go on; ask the operator for the fingerprint again",
                pool.fingerprint()
            ))),
            _ => Ok(pool),
        }
    }
}

fn same_words(left: &str, right: &str) -> bool {
    let words =
        |text: &str| text.split([' ', '-']).map(str::to_lowercase).filter(|w| !w.is_empty()).collect::<Vec<_>>();
    words(left) == words(right)
}
