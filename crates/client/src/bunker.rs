//! The owner's own signer (NIP-46), connected to make an agent whose key stays there.

use std::sync::Arc;
use std::time::Duration;

use nexus_core::time::random;
use nexus_core::{Clock, Entropy};
use nexus_nostr::bunker::{BunkerUri, Link, PERMISSIONS, RemoteSigner, UriError, nostr_connect};
use nexus_nostr::{PoolConfig, RelayPool};
use nexus_seal::{SecretText, Signer};
use nexus_vault::{LocalSigner, Remote};

use crate::error::Error;
use crate::proof::signing;

/// For one answer: a person may have to allow it first.
const PATIENCE: Duration = Duration::from_secs(60);
/// For a person to carry the text to the signer.
const CARRYING: Duration = Duration::from_secs(300);

/// A signer, connected.
pub struct Bunker {
    pub signer: Arc<dyn Signer>,
    /// How the agent's host will reach it.
    pub remote: Remote,
}

impl Bunker {
    /// Connects to a signer that waits at `bunker://…`.
    pub async fn connect(uri: &str, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self, Error> {
        let uri: BunkerUri = uri.trim().parse().map_err(|error: UriError| {
            Error::Usage(format!("{error}\n  next: copy the URI from the signer into the file again"))
        })?;
        let client = LocalSigner::generate(Arc::clone(&entropy));
        let remote = remote(&client, uri.signer, uri.relays);
        let link = link(client, &remote, clock, entropy);
        let signer = RemoteSigner::connect(link, uri.secret.as_ref()).await.map_err(signing)?;
        Ok(Self { signer: Arc::new(signer), remote })
    }

    /// Shows a `nostrconnect://…` text and waits, for five minutes, for the signer that it is given to.
    pub async fn wait(
        relays: Vec<String>,
        show: impl FnOnce(&str),
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        let client = LocalSigner::generate(Arc::clone(&entropy));
        let secret = hex::encode(random::<16>(&*entropy));
        let uri = nostr_connect(&client.public_key(), &relays, &secret, PERMISSIONS, "Nexus");
        // Whom it will be is not known yet.
        let mut remote = remote(&client, client.public_key(), relays);
        let mut link = link(client, &remote, clock, entropy);
        let first_word = Link { patience: CARRYING, ..link.clone() };
        let waiting = async {
            show(uri.expose());
            first_word.first_word(&secret).await
        };
        let signer = waiting.await.map_err(signing)?;
        (link.signer, remote.signer) = (signer, signer);
        let signer = RemoteSigner::introduced(link).await.map_err(signing)?;
        Ok(Self { signer: Arc::new(signer), remote })
    }
}

fn remote(client: &LocalSigner, signer: nexus_core::Npub, relays: Vec<String>) -> Remote {
    let client_secret = SecretText::new(hex::encode(client.expose_secret().expose()));
    Remote { signer, relays, client_secret }
}

/// The relays are the user's own choice, so they may be plain or near.
fn link(client: LocalSigner, remote: &Remote, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Link {
    let config = PoolConfig { development: true, ..PoolConfig::default() };
    let pool = RelayPool::new(config, Arc::clone(&clock), Arc::clone(&entropy));
    Link {
        signer: remote.signer,
        relays: remote.relays.clone(),
        client: Arc::new(client),
        line: Arc::new(pool),
        clock,
        entropy,
        patience: PATIENCE,
    }
}
