//! The installation's runner key: made by the first worker, kept sealed to the pool, the same for all workers.
//!
//! It signs what the host says of ticks (kinds 39210 to 39212) and nothing of an agent's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_seal::Signer;
use nexus_store::installation;
use nexus_vault::{LocalSigner, open_runner_key, seal_runner_key};

use crate::error::WorkerError;
use crate::host::Host;

/// Where the sealed key stands among the installation's values.
const SEALED: &str = "runner_key_sealed";
/// Where its public half stands, as an npub: what clients name in host claims.
pub const RUNNER_PUBKEY: &str = "runner_pubkey";

/// Opens the runner key, or makes it if this is the installation's first worker.
pub(crate) async fn ensure(host: &Host) -> Result<LocalSigner, WorkerError> {
    let runner = |error: String| WorkerError::Runner(error);
    let stored = installation::get(&host.store, SEALED).await.map_err(|error| runner(error.to_string()))?;
    let stored = match stored {
        Some(stored) => stored,
        None => {
            let fresh = LocalSigner::generate(host.entropy.clone());
            let sealed = seal_runner_key(&fresh, &host.pool.recipient()).map_err(|error| runner(error.to_string()))?;
            // Another worker may be first: the key that stands is the one.
            installation::put_first(&host.store, SEALED, STANDARD.encode(sealed))
                .await
                .map_err(|error| runner(error.to_string()))?
        }
    };
    let sealed = STANDARD.decode(&stored).map_err(|_| runner("it is not base64".into()))?;
    let key = open_runner_key(&sealed, &host.pool, host.entropy.clone()).map_err(|error| runner(error.to_string()))?;
    let public = key.public_key();
    let known = installation::put_first(&host.store, RUNNER_PUBKEY, public.to_string())
        .await
        .map_err(|error| runner(error.to_string()))?;
    if known != public.to_string() {
        return Err(runner(format!("the sealed key is {public}, but {known} is on record")));
    }
    Ok(key)
}
