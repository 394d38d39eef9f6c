//! A wallet over Nostr Wallet Connect as a worker opens it: the policy's or none, over the worker's own relay pool.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;

use nexus_bus::{Bus, LocalBus};
use nexus_core::policy::WalletChoice;
use nexus_core::{Clock, Entropy, Generation, Msat, Npub, UnixMs};
use nexus_lightning::lnd::BooksError;
use nexus_lightning::storage::{Change, MemoryStorage};
use nexus_lightning::{InvoiceRequest, Network, WalletDriver, WalletError, WalletStorage};
use nexus_nostr::{PoolConfig, RelayPool};
use nexus_relay::{RelayConfig, RelayParts};
use nexus_store::{Fence, Store};
use nexus_testkit::nwc::Service;
use nexus_testkit::{SystemEntropy, TestClock};
use nexus_vault::Mnemonic;
use nexus_worker::{Holder, NwcMeans, Purse, StoredBooks, WalletUnavailable, open_nwc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

const WORDS: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
const WALLET: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
const OTHER: &str = "c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5";

/// Holds no agent: the books are not asked here.
struct Nobody;

impl Holder for Nobody {
    fn fence(&self) -> Result<Fence, BooksError> {
        Err(BooksError::Stale)
    }

    fn now(&self) -> UnixMs {
        UnixMs(0)
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(TestClock::default())
}

fn uri(relay: &str) -> String {
    format!("nostr+walletconnect://{WALLET}?relay={relay}&secret={}", "1".repeat(64))
}

async fn opened(
    stored: Option<String>,
    wallet: &str,
    own_relays: Vec<String>,
) -> Result<Arc<dyn WalletDriver>, WalletUnavailable> {
    let (clock, entropy): (_, Arc<dyn Entropy>) = (clock(), Arc::new(SystemEntropy));
    // Strangers' relays are on public addresses, over TLS.
    let config = PoolConfig { own_relays, ..PoolConfig::default() };
    let pool = RelayPool::new(config, clock.clone(), entropy.clone());
    let means = NwcMeans { relays: Arc::new(pool), clock, entropy, network: Network::Regtest };
    let storage = MemoryStorage::default();
    if let Some(uri) = stored {
        let value = Zeroizing::new(uri.into_bytes());
        storage
            .write(vec![Change::Put { space: "nwc.connection", key: wallet.parse::<Npub>().unwrap().to_hex(), value }])
            .await
            .unwrap();
    }
    let npub: Npub = OTHER.parse().unwrap();
    let seed = Mnemonic::parse(WORDS).unwrap().wallet_seed().unwrap();
    let choice = WalletChoice::Nwc { wallet: wallet.parse().unwrap() };
    let store = Store::open_memory().unwrap();
    let books = Arc::new(StoredBooks::new(store, Arc::new(Nobody), npub, Generation(1)));
    let (storage, records_of) = (Arc::new(storage), String::new());
    open_nwc(means, &Purse { npub, choice, seed, storage, records_of, books }).await
}

#[tokio::test]
async fn a_wallet_is_the_policys_or_none() {
    let good = uri("wss://relay.example");
    assert!(opened(Some(good.clone()), WALLET, Vec::new()).await.is_ok());
    for (stored, wallet, why) in [
        (None, WALLET, "--nwc-file"),
        (Some(good.clone()), OTHER, "another wallet than the policy names"),
        (Some("nostr+walletconnect://".to_owned()), WALLET, "connection"),
    ] {
        let error = opened(stored, wallet, Vec::new()).await.err().unwrap();
        assert!(error.0.contains(why), "{error}");
        assert!(!error.0.contains(&"1".repeat(64)), "the secret is shown");
    }
}

/// Whoever made the connection chose its relays: none of them may be on this machine's own network.
#[tokio::test]
async fn nobody_leads_the_worker_to_private_addresses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for relay in [format!("ws://{address}"), format!("wss://{address}"), format!("ws://localhost:{}", address.port())] {
        let wallet = opened(Some(uri(&relay)), WALLET, Vec::new()).await.ok().unwrap();
        let error = wallet.balance().await.unwrap_err();
        assert!(matches!(error, WalletError::Unreachable(_)), "{relay}: {error}");
    }
    let nobody = futures::FutureExt::now_or_never(listener.accept());
    assert!(nobody.is_none(), "somebody connected");
}

#[tokio::test]
async fn it_works_over_the_workers_relays() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let parts = RelayParts {
        outside: None,
        store: Store::open(&dir.path().join("relay.db")).unwrap(),
        bus: LocalBus::new() as Arc<dyn Bus>,
        clock: clock(),
        entropy: Arc::new(SystemEntropy),
        config: RelayConfig { open: true, ..RelayConfig::default() },
        listener,
        shutdown: shutdown.clone(),
    };
    tokio::spawn(async move { nexus_relay::serve(parts).await.unwrap() });
    let service = Service::start(&url, clock(), &[1_000_000]).await;
    let wallet = opened(Some(service.uri(0)), &service.wallet(0), vec![url.clone()]).await.ok().unwrap();
    assert_eq!(wallet.balance().await.unwrap(), Msat::sats(1_000));
    let invoice = wallet.create_invoice(InvoiceRequest::new(Msat::sats(5), "five")).await.unwrap();
    assert_eq!(wallet.lookup_invoice(invoice.hash).await.unwrap(), nexus_lightning::InvoiceState::Open);
    // The worker's own networks are what they are: a wallet on another one is refused.
    let guise = nexus_testkit::nwc::Guise { network: Some("mainnet"), ..Default::default() };
    service.guise(0, guise);
    let other = opened(Some(service.uri(0)), &service.wallet(0), vec![url]).await.ok().unwrap();
    let error = other.balance().await.unwrap_err();
    assert!(error.to_string().contains("the wallet is on bitcoin"), "{error}");
    shutdown.cancel();
}
