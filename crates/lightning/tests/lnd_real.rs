//! The LND driver against a real pair of nodes, wherever `NEXUS_TEST_LND` names one: the suite for all drivers, hold
//! invoices, settlements. Where it names none, this says so and does nothing.
//!
//! `NEXUS_TEST_LND` is the path of a JSON file:
//!
//! ```json
//! {
//!   "network": "regtest",
//!   "payer": {
//!     "url": "https://127.0.0.1:8080",
//!     "certificate": "/path/to/tls.cert",
//!     "identity": "02…",
//!     "payer_macaroon": "/path/to/payer.macaroon.hex",
//!     "invoice_macaroon": "/path/to/invoice.macaroon.hex"
//!   },
//!   "payee": { }
//! }
//! ```
//!
//! with the payee's fields like the payer's. The two share a channel in which the payer has at least 100,000 sats; the
//! macaroons are in hex, mode 0600, with the permissions that the driver's two types name. Never a node with money that
//! counts: the suite pays some thousands of sats from one to the other.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lnd_bench;
mod lnd_send;
mod lnd_stories;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use lnd_bench::Whole;
use nexus_core::payment::Outcome;
use nexus_core::{Clock, Hash32, Msat};
use nexus_lightning::conformance::{self, Bench, Next};
use nexus_lightning::driver::WalletDriver;
use nexus_lightning::lnd::{NodeConfig, Trust};
use nexus_lightning::{
    Capabilities, Cursor, Dispatch, Driver, Health, Invoice, InvoiceRequest, InvoiceState, Kind, Network, Pay,
    PayRequest, Quote, Receive, Resolve, Settlement, WalletError,
};
use nexus_testkit::TestClock;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    network: Network,
    payer: NodeNamed,
    payee: NodeNamed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeNamed {
    url: String,
    certificate: PathBuf,
    identity: String,
    payer_macaroon: PathBuf,
    invoice_macaroon: PathBuf,
}

struct RealBench {
    named: Named,
    clock: Arc<TestClock>,
    /// What both have when nothing is on its way.
    total: Msat,
}

impl RealBench {
    fn wallet(&self, node: &NodeNamed) -> Whole {
        let trust = Trust::File(node.certificate.clone());
        let mut config = NodeConfig::new(&node.url, trust, &node.identity, self.named.network).unwrap();
        config.patience.settle_ms = 5_000;
        Whole::new(&config, &node.payer_macaroon, &node.invoice_macaroon, self.clock.clone())
    }

    fn settled(&self, node: &NodeNamed, other: &NodeNamed) -> Arc<dyn WalletDriver> {
        Arc::new(Settled { own: self.wallet(node), other: self.wallet(other), total: self.total })
    }
}

/// A wallet whose balance is read when nothing is on its way any more: two nodes agree on a payment's end a moment after
/// it. Over one channel without fees, both then have together what they had at first.
struct Settled {
    own: Whole,
    other: Whole,
    total: Msat,
}

async fn together(one: &Whole, other: &Whole) -> Result<(Msat, Msat), WalletError> {
    let (own, others) = (one.balance().await?, other.balance().await?);
    Ok((own, own.saturating_add(others)))
}

impl Driver for Settled {
    fn kind(&self) -> Kind {
        self.own.kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.own.capabilities()
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        self.own.health()
    }

    fn balance(&self) -> BoxFuture<'_, Result<Msat, WalletError>> {
        Box::pin(async {
            for _ in 0..300 {
                let (own, total) = together(&self.own, &self.other).await?;
                if total == self.total {
                    return Ok(own);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(WalletError::Unreachable("something is on its way between the nodes, or was lost".to_owned()))
        })
    }

    fn recover(&self) -> BoxFuture<'_, Result<(), WalletError>> {
        self.own.recover()
    }
}

impl Receive for Settled {
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        self.own.create_invoice(request)
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        self.own.lookup_invoice(hash)
    }

    fn settlements(&self, cursor: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        self.own.settlements(cursor)
    }
}

impl Pay for Settled {
    fn quote(&self, request: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>> {
        self.own.quote(request)
    }

    fn dispatch(&self, send: Dispatch) -> BoxFuture<'_, Outcome> {
        self.own.dispatch(send)
    }

    fn resolve(&self, question: Resolve) -> BoxFuture<'_, Outcome> {
        self.own.resolve(question)
    }
}

impl Bench for RealBench {
    fn payer(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>> {
        Box::pin(async { self.settled(&self.named.payer, &self.named.payee) })
    }

    fn payee(&self) -> BoxFuture<'_, Arc<dyn WalletDriver>> {
        Box::pin(async { self.settled(&self.named.payee, &self.named.payer) })
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    /// Somebody else's nodes are not killed.
    fn restart(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn script(&self, _: Next) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    fn land(&self, _: Hash32, _: bool) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn one_backend(&self) -> bool {
        false
    }

    /// Not over a channel of one's own.
    fn takes_fees(&self) -> bool {
        false
    }
}

fn main() {
    let Some(path) = std::env::var_os("NEXUS_TEST_LND") else {
        println!("not run: NEXUS_TEST_LND names no pair of LND nodes, so the driver was not tried against real ones");
        return;
    };
    let text = std::fs::read_to_string(&path).expect("the file that NEXUS_TEST_LND names");
    let named: Named = serde_json::from_str(&text).expect("the format that this file's head shows");
    let bench = RealBench { named, clock: Arc::default(), total: Msat::ZERO };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(all(bench));
}

async fn all(mut bench: RealBench) {
    let (payer, payee) = (bench.wallet(&bench.named.payer), bench.wallet(&bench.named.payee));
    let health = payer.health().await.unwrap();
    println!("payer: {} on {}, synced {}, {}", health.identity, health.network, health.synced, health.spendable);
    bench.total = together(&payer, &payee).await.unwrap().1;
    lnd_stories::settlements_are_found(&payer, &payee, &*bench.clock).await;
    println!("settlements_are_found ... ok");
    lnd_stories::holds(&payer, &payee, &*bench.clock).await;
    println!("holds ... ok");
    macro_rules! suite {
        ($($name:ident)*) => {
            $(
                conformance::$name(&bench).await;
                println!(concat!(stringify!($name), " ... ok"));
            )*
        };
    }
    suite! {
        settles_once
        repeats_alike
        at_once_is_once
        anothers_success_is_not_mine
        expired_is_refused
        late_is_refused
        foreign_is_refused
        limits_hold
        self_payment_is_refused
        invoices_repeat
        settlements_follow
        killed_at_each_arrow
    }
}
