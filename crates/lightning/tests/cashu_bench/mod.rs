//! A real mint over a node of ours that answers as LND does, wallets at it, and what goes wrong on the way to it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use nexus_core::{Clock, Hash32, Msat};
use nexus_lightning::cashu::{
    CashuConfig, CashuWallet, Https, MintAnswer, MintHttp, MintRequest, MintUrl, NoAnswer, Patience, WalletSeed,
};
use nexus_lightning::{Driver, Invoice, InvoiceRequest, InvoiceState, Network, Receive, WalletStorage};
use nexus_testkit::TestClock;
use nexus_testkit::lnd::{Course, Node};
use nexus_testkit::mint::{Backend, Mint};
use serde_json::Value;

/// What the wire does with the next request whose path begins so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// The mint hears nothing, and the sender does not know.
    Dropped,
    /// The mint does it; the sender never hears of it.
    Mute,
    /// The same, and the mint is still at work when the sender gives up.
    MuteEarly,
}

/// The way to a mint, with faults on request.
pub struct Way {
    inner: Arc<Https>,
    rules: Mutex<VecDeque<(&'static str, Wire)>>,
    pub asked: Mutex<Vec<String>>,
}

impl Way {
    pub fn to(url: &str, clock: Arc<dyn Clock>) -> Arc<Self> {
        let inner = Https::new(MintUrl::parse(url, true).unwrap(), true, clock).unwrap();
        Arc::new(Self { inner: Arc::new(inner), rules: Mutex::default(), asked: Mutex::default() })
    }

    pub fn rule(&self, path: &'static str, wire: Wire) {
        self.rules.lock().unwrap().push_back((path, wire));
    }
}

impl MintHttp for Way {
    fn ask(&self, request: MintRequest) -> BoxFuture<'_, Result<MintAnswer, NoAnswer>> {
        self.asked.lock().unwrap().push(request.path.clone());
        let rule = {
            let mut rules = self.rules.lock().unwrap();
            let at = rules.iter().position(|(path, _)| request.path.starts_with(path));
            at.and_then(|at| rules.remove(at)).map(|(_, wire)| wire)
        };
        let lost = || NoAnswer::Lost("the wire was cut".to_owned());
        let inner = self.inner.clone();
        Box::pin(async move {
            match rule {
                None => inner.ask(request).await,
                Some(Wire::Dropped) => Err(lost()),
                Some(Wire::Mute) => inner.ask(request).await.and(Err(lost())),
                Some(Wire::MuteEarly) => {
                    let melt: Value = serde_json::from_slice(request.body.as_ref().unwrap()).unwrap();
                    let path = format!("/v1/melt/quote/bolt11/{}", melt["quote"].as_str().unwrap());
                    let paying = inner.clone();
                    tokio::spawn(async move { paying.ask(request).await });
                    loop {
                        let look = MintRequest { path: path.clone(), body: None, deadline: None, timeout_ms: 30_000 };
                        let told: Value = serde_json::from_slice(&inner.ask(look).await?.body).unwrap();
                        if told["state"] == "PENDING" {
                            return Err(lost());
                        }
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        })
    }
}

/// A mint that pays and is paid through `node`.
pub async fn mint_at(node: &Node) -> Mint {
    let (url, certificate, macaroon) = (node.url(), node.certificate_file(), node.admin_macaroon());
    Mint::start(Backend::Lnd { url, certificate, macaroon }).await
}

pub const PATIENCE: Patience = Patience { answer_ms: 30_000, settle_ms: 2_000, poll_ms: 100, nudge_ms: 1_000 };

pub fn config(url: &str) -> CashuConfig {
    CashuConfig {
        url: MintUrl::parse(url, true).unwrap(),
        network: Network::Regtest,
        most: Msat::sats(10_000_000),
        patience: PATIENCE,
    }
}

pub fn wallet(url: &str, seed: u8, way: Arc<dyn MintHttp>, storage: Arc<dyn WalletStorage>) -> CashuWallet {
    let clock: Arc<TestClock> = Arc::default();
    CashuWallet::new(config(url), WalletSeed::new([seed; 64]), way, storage, clock)
}

/// An invoice of the wallet's, paid out of `from` and turned into proofs.
pub async fn fund(wallet: &CashuWallet, from: &Node, sats: u64) -> Invoice {
    let before = wallet.balance().await.unwrap();
    let invoice = wallet.create_invoice(InvoiceRequest::new(Msat::sats(sats), "funds")).await.unwrap();
    from.pay_by_hand(&invoice.bolt11, Course::Plain);
    settled(wallet, invoice.hash).await;
    assert_eq!(wallet.balance().await.unwrap(), before.checked_add(Msat::sats(sats)).unwrap());
    invoice
}

pub async fn settled(wallet: &CashuWallet, hash: Hash32) {
    for _ in 0..400 {
        if matches!(wallet.lookup_invoice(hash).await, Ok(InvoiceState::Settled { .. })) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not settled within ten seconds");
}
