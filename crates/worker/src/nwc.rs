//! Wallets behind Nostr Wallet Connect: over this worker's relays, by the connection that the owner gave.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_core::policy::WalletChoice;
use nexus_core::{Clock, Entropy, Npub};
use nexus_lightning::lnd::FeeReserve;
use nexus_lightning::nwc::{Connection, Heard, Line, NwcParts, NwcWallet, Patience};
use nexus_lightning::storage::Change;
use nexus_lightning::{Network, WalletDriver};
use nexus_nostr::relay_pool::{Interest, Notice};
use nostr::event::Event;
use nostr::filter::Filter;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::host::Host;
use crate::relays::Relays;
use crate::unlock::Opened;
use crate::wallet::{self, Purse, WalletUnavailable};

/// Where connections are kept among an agent's wallet records, each under its wallet's key in hex: payments in flight at an
/// earlier wallet are looked up there.
const SPACE: &str = "nwc.connection";

/// Relays as a wallet's user needs them. Whose they are is the connection's choice: the pool connects to public addresses
/// over TLS alone, but for relays of its own.
pub struct RelayLine(pub Arc<dyn Relays>);

impl Line for RelayLine {
    fn publish<'a>(&'a self, event: &'a Event, relays: &'a [String], limit: Duration) -> BoxFuture<'a, bool> {
        let publishing = self.0.publish(event, relays, limit);
        Box::pin(async move { publishing.await.iter().any(|report| report.outcome.is_ok()) })
    }

    fn subscribe(&self, relays: &[String], filters: Vec<Filter>) -> BoxStream<'static, Heard> {
        let heard = self.0.notices(Interest { relays: relays.to_vec(), filters, auth: Vec::new() });
        heard
            .filter_map(|notice| async {
                match notice {
                    Notice::Event { event, .. } => Some(Heard::Event(event)),
                    Notice::EndOfStored { .. } => Some(Heard::Standing),
                    Notice::Closed { .. } => None,
                }
            })
            .boxed()
    }
}

/// What wallets are opened with, whoever's they are.
pub struct NwcMeans {
    pub relays: Arc<dyn Relays>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub network: Network,
}

/// Opens an agent's wallet by the connection that its owner gave. It connects to nothing yet.
///
/// # Errors
/// When there is no connection, it is not to the wallet that the policy names, or the storage does not answer.
pub async fn open_nwc(means: NwcMeans, purse: &Purse) -> Result<Arc<dyn WalletDriver>, WalletUnavailable> {
    let unavailable = |why: String| WalletUnavailable(why);
    let WalletChoice::Nwc { wallet } = &purse.choice else {
        return Err(unavailable("the policy names no wallet of Nostr Wallet Connect".to_owned()));
    };
    let stored = purse.storage.get(SPACE, &wallet.to_hex()).await.map_err(|error| unavailable(error.to_string()))?;
    let stored = stored.ok_or_else(|| {
        unavailable(
            "its wallet's connection is not here: `nexus agent wallet A --wallet nwc --nwc-file F` gives it".into(),
        )
    })?;
    let connection = read(&stored, wallet).map_err(unavailable)?;
    Ok(Arc::new(driver(means, connection, purse)))
}

fn driver(means: NwcMeans, connection: Connection, purse: &Purse) -> NwcWallet {
    let NwcMeans { relays, clock, entropy, network } = means;
    NwcWallet::new(NwcParts {
        connection,
        network,
        line: Arc::new(RelayLine(relays)),
        storage: purse.storage.clone(),
        clock,
        entropy,
        fee_reserve: FeeReserve::default(),
        patience: Patience::default(),
    })
}

/// A connection to the wallet that the owner's policy names, and to no other.
fn read(uri: &[u8], wallet: &Npub) -> Result<Connection, String> {
    let text = std::str::from_utf8(uri).map_err(|_| "the connection is not text".to_owned())?;
    let connection = Connection::parse(text).map_err(|error| error.to_string())?;
    if connection.wallet().to_hex() == wallet.to_hex() {
        Ok(connection)
    } else {
        Err("the connection is to another wallet than the policy names".to_owned())
    }
}

#[derive(Deserialize)]
struct Connect {
    /// An age file to the agent's inbox recipient.
    sealed: String,
}

/// Takes a connection from the owner: it has to be to the policy's wallet, and to work. The answer in words or JSON.
pub(crate) async fn connect(host: &Host, opened: &Opened, body: &str) -> Result<String, String> {
    let Connect { sealed } = serde_json::from_str(body).map_err(|_| "not a connection's body".to_owned())?;
    let Some(WalletChoice::Nwc { wallet }) = opened.policy().map(|policy| policy.wallet.clone()) else {
        return Err("the policy in force does not name a wallet of Nostr Wallet Connect: sign one that does".to_owned());
    };
    let uri = opened.keys.inbox.open(sealed.as_bytes()).map_err(|_| {
        "what came is not sealed to this agent's inbox key: fetch the agent again, and seal it anew".to_owned()
    })?;
    let uri = Zeroizing::new(uri.expose().to_vec());
    let connection = read(&uri, &wallet)?;
    let means = NwcMeans {
        relays: host.relays.clone(),
        clock: host.clock.clone(),
        entropy: host.entropy.clone(),
        network: host.wallets.network(),
    };
    let purse = wallet::purse(host, opened, WalletChoice::Nwc { wallet }).await.map_err(|error| error.to_string())?;
    let balance = wallet::balance(&driver(means, connection, &purse)).await;
    let balance = balance.map_err(|why| format!("{why} (its relays have to be wss:// on public addresses)"))?;
    let put = Change::Put { space: SPACE, key: wallet.to_hex(), value: uri };
    purse.storage.write(vec![put]).await.map_err(|error| error.to_string())?;
    Ok(serde_json::json!({ "balance_msat": balance }).to_string())
}
