use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use nexus_core::{Clock, Hash32, Msat};
use nexus_lightning::{
    Capabilities, Cursor, Custody, Driver, Health, Idempotency, Invoice, InvoiceRequest, InvoiceState, Kind, Network,
    PreimageProof, Receive, Settlement, WalletError,
};
use nexus_testkit::TestClock;

/// A wallet for the faults that a working one can't be told to have: silence and unreachability.
#[derive(Clone, Default)]
pub struct FlakyWallet {
    invoices: Arc<Mutex<HashMap<Hash32, (Msat, Fate)>>>,
    pub moods: Arc<Moods>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Open,
    Settled,
    Canceled,
}

#[derive(Default)]
pub struct Moods {
    pub unreachable: AtomicBool,
}

impl FlakyWallet {
    /// Settles an invoice as if somebody had paid it. Nobody is told: only a lookup shows it.
    pub fn settle(&self, hash: Hash32) {
        self.invoices.lock().unwrap().get_mut(&hash).unwrap().1 = Fate::Settled;
    }

    /// Ends all open invoices, as their expiry would.
    pub fn cancel_all(&self) {
        let mut invoices = self.invoices.lock().unwrap();
        invoices.values_mut().filter(|(_, fate)| *fate == Fate::Open).for_each(|(_, fate)| *fate = Fate::Canceled);
    }

    /// All invoices that were made.
    pub fn hashes(&self) -> Vec<Hash32> {
        self.invoices.lock().unwrap().keys().copied().collect()
    }

    fn check(&self) -> Result<(), WalletError> {
        match self.moods.unreachable.load(Ordering::SeqCst) {
            true => Err(WalletError::Unreachable("told to be".into())),
            false => Ok(()),
        }
    }
}

impl Driver for FlakyWallet {
    fn kind(&self) -> Kind {
        Kind::Dev
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: true,
            hold: false,
            lookup_out: false,
            idempotency: Idempotency::None,
            preimage: PreimageProof::Maybe,
            custody: Custody::Own,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        let health = Health {
            identity: String::new(),
            network: Network::Regtest,
            synced: true,
            spendable: Msat::ZERO,
            receivable: None,
        };
        async move { self.check().map(|()| health) }.boxed()
    }
}

impl Receive for FlakyWallet {
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        async move {
            self.check()?;
            let mut invoices = self.invoices.lock().unwrap();
            let hash = Hash32::sha256(&[u8::try_from(invoices.len()).unwrap()]);
            invoices.insert(hash, (request.amount, Fate::Open));
            let expires_at = TestClock::default().now().plus_ms(i64::from(request.expiry_s) * 1_000);
            Ok(Invoice { bolt11: format!("lnbcrt1{}", hash), hash, expires_at, cursor: Cursor(0) })
        }
        .boxed()
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        async move {
            self.check()?;
            Ok(match self.invoices.lock().unwrap().get(&hash) {
                Some((amount, Fate::Settled)) => {
                    InvoiceState::Settled { amount: *amount, preimage: None, at: TestClock::default().now() }
                }
                Some((_, Fate::Open)) => InvoiceState::Open,
                Some((_, Fate::Canceled)) => InvoiceState::Canceled,
                None => InvoiceState::NotFound,
            })
        }
        .boxed()
    }

    fn settlements(&self, _: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        futures::stream::pending().boxed()
    }
}
