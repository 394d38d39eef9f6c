//! Owner commands: signed for the request, and checked once more by the agent's worker.

use nexus_core::Npub;
use nexus_core::rollback::Accepted;
use nexus_seal::withdrawal::Withdrawal;
use nexus_seal::{rollback, withdrawal};
use reqwest::Method;
use serde_json::Value;

use crate::api::{Api, Call};
use crate::error::Error;

/// Pays an invoice from the agent's wallet; `api` must be asked by the owner key. Returns what became of it.
pub async fn withdraw(api: &Api, npub: &Npub, withdrawal: &Withdrawal) -> Result<Value, Error> {
    let body =
        serde_json::to_vec(withdrawal).map_err(|error| Error::Failed(format!("writing the command: {error}")))?;
    Ok(api.call(Call::new(Method::POST, withdrawal::path(npub)).bytes(body).about(*npub)).await?.body)
}

/// What stands against the stored state, in words, and what an acceptance has to name.
pub async fn rollback(api: &Api, npub: &Npub) -> Result<rollback::Offered, Error> {
    api.call(Call::new(Method::GET, rollback::path(npub))).await?.read("reading the rollback")
}

/// Accepts exactly this state in spite of exactly this anchor; `api` must be asked by the owner key.
pub async fn accept_rollback(api: &Api, npub: &Npub, accepted: &Accepted) -> Result<(), Error> {
    let body = serde_json::to_vec(accepted).map_err(|error| Error::Failed(format!("writing the command: {error}")))?;
    api.call(Call::new(Method::POST, rollback::path(npub)).bytes(body).about(*npub)).await.map(drop)
}
