//! Both halves of the LND driver as one wallet, and benches made of them.

use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_core::payment::Outcome;
use nexus_core::{Clock, Hash32};
use nexus_lightning::lnd::{InvoiceMacaroon, LndPay, LndReceive, NodeConfig, PayerMacaroon};
use nexus_lightning::{
    Capabilities, Cursor, Dispatch, Driver, Health, Invoice, InvoiceRequest, InvoiceState, Kind, Pay, PayRequest,
    Quote, Receive, Resolve, Settlement, WalletError,
};

/// The two halves of one node. Production never holds both.
pub struct Whole {
    pub pay: LndPay,
    pub receive: LndReceive,
}

impl Whole {
    pub fn new(node: &NodeConfig, payer: &Path, invoice: &Path, clock: Arc<dyn Clock>) -> Self {
        let pay = LndPay::new(node.clone(), PayerMacaroon::read(payer).unwrap(), clock.clone());
        let receive = LndReceive::new(node.clone(), InvoiceMacaroon::read(invoice).unwrap(), clock);
        Self { pay, receive }
    }
}

impl Driver for Whole {
    fn kind(&self) -> Kind {
        Kind::Lnd
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { receive: true, hold: true, ..self.pay.capabilities() }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        self.pay.health()
    }

    fn recover(&self) -> BoxFuture<'_, Result<(), WalletError>> {
        self.pay.recover()
    }
}

impl Receive for Whole {
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        self.receive.create_invoice(request)
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        self.receive.lookup_invoice(hash)
    }

    fn settlements(&self, cursor: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        self.receive.settlements(cursor)
    }
}

impl Pay for Whole {
    fn quote(&self, request: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>> {
        self.pay.quote(request)
    }

    fn dispatch(&self, send: Dispatch) -> BoxFuture<'_, Outcome> {
        self.pay.dispatch(send)
    }

    fn resolve(&self, question: Resolve) -> BoxFuture<'_, Outcome> {
        self.pay.resolve(question)
    }
}
