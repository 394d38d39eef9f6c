//! Unlocking an agent in attended custody: to a key that a worker of the pinned pool made, and to nobody else.

use nexus_core::Npub;
use nexus_core::policy::{Custody, Policy};
use nexus_seal::unlock::{Offered, Unlock, path};
use nexus_seal::{SealedKey, SignedPool, UnlockError, seal_unlock, verify_offer};
use nexus_vault::Mnemonic;
use reqwest::Method;

use crate::api::{Api, Call};
use crate::error::Error;
use crate::owner::OwnerKeys;

/// How often a host whose worker does not answer is asked: a placement takes its time.
const ATTEMPTS: u32 = 6;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlocked {
    Now,
    /// Nothing was sent.
    Already,
}

/// What is delivered, and to whom it may be.
pub struct Key<'a> {
    /// Whose signed policy this is; its version is the lowest that the worker will obey.
    pub policy: &'a Policy,
    /// As followed along the pin.
    pub pool: &'a SignedPool,
    pub mnemonic: &'a Mnemonic,
}

/// Refuses what is not unlocked this way, before anybody is asked for a passphrase.
pub fn check(policy: &Policy) -> Result<(), Error> {
    match policy.custody {
        Custody::Attended => Ok(()),
        Custody::Sealed | Custody::Bunker | Custody::Threshold => Err(Error::Refused(format!(
            "the agent's custody is {:?}: there is nothing to unlock\n  next: `nexus agent status A` says what it waits for",
            policy.custody
        ))),
    }
}

/// Asks for the worker's offer, checks it, and delivers the key. `api` must be asked by the owner key.
pub async fn unlock(api: &Api, owner: &OwnerKeys, key: Key<'_>) -> Result<Unlocked, Error> {
    check(key.policy)?;
    let npub = key.policy.agent;
    if key.mnemonic.npub().ok() != Some(npub) {
        return Err(Error::Usage(format!(
            "these words are not {npub}'s\n  next: give the mnemonic that this agent was made with"
        )));
    }
    let mut attempt = 1;
    loop {
        match once(api, owner, &key, &npub).await {
            Err(Error::Api(problem)) if problem.status == 503 && attempt < ATTEMPTS => {
                tracing::info!(attempt, detail = problem.detail, "no worker answers yet; asking again");
                tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                attempt += 1;
            }
            ended => return ended,
        }
    }
}

async fn once(api: &Api, owner: &OwnerKeys, key: &Key<'_>, npub: &Npub) -> Result<Unlocked, Error> {
    let path = path(npub);
    let offered: Offered = api.call(Call::new(Method::GET, &path)).await?.read("reading the worker's offer")?;
    let Some(event) = offered.offer.filter(|_| !offered.unlocked) else { return Ok(Unlocked::Already) };
    let offer = verify_offer(&event, key.pool, npub, api.clock.now()).map_err(distrusted)?;
    let sealed_key = SealedKey {
        npub: *npub,
        owner: owner.npub(),
        custody: Custody::Attended,
        pool_id: key.pool.document.pool_id.clone(),
        mnemonic: key.mnemonic.expose(),
        stretched: None,
        min_policy_version: key.policy.version,
        with_state: true,
    };
    let sealed = seal_unlock(&offer, &sealed_key, api.clock.now()).map_err(distrusted)?;
    let body = serde_json::to_vec(&Unlock { sealed });
    let body = body.map_err(|error| Error::Failed(format!("writing the key: {error}")))?;
    api.call(Call::new(Method::POST, &path).bytes(body).about(*npub)).await?;
    Ok(Unlocked::Now)
}

fn distrusted(error: UnlockError) -> Error {
    match error {
        UnlockError::Expired | UnlockError::Ahead { .. } => {
            Error::Failed(format!("{error}\n  next: check this machine's clock, and run the command again"))
        }
        other => Error::NotAllowed(format!(
            "{other}; nothing was sent\n  next: do not go on; ask the operator why the host offers a key that its pool did not sign"
        )),
    }
}
