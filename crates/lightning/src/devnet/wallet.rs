//! One account of the network, behind the traits of every wallet.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_core::payment::Outcome;
use nexus_core::{Hash32, Msat};

use super::Party;
use crate::driver::{
    Capabilities, Cursor, Custody, Dispatch, Driver, Health, Idempotency, Invoice, InvoiceRequest, InvoiceState, Kind,
    Pay, PayRequest, PreimageProof, Quote, Receive, Resolve, Settlement, WalletError,
};

/// One account of the network. Cheap to clone.
#[derive(Clone)]
pub struct Wallet {}

impl Wallet {
    /// The account's public name.
    pub fn party(&self) -> Party {
        todo!()
    }

    /// Asks for the account's [`super::FAUCET`] money; repeating it gives nothing more. Returns the balance.
    pub async fn faucet(&self) -> Result<Msat, WalletError> {
        todo!()
    }

    /// The public key of the network's node, compressed, in hex: the payee of all its invoices.
    pub async fn node(&self) -> Result<String, WalletError> {
        todo!()
    }
}

impl Driver for Wallet {
    fn kind(&self) -> Kind {
        Kind::Dev
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: true,
            hold: false,
            lookup_out: true,
            idempotency: Idempotency::ByHash,
            preimage: PreimageProof::Always,
            custody: Custody::Custodial,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        todo!()
    }
}

impl Receive for Wallet {
    fn create_invoice(&self, _request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        todo!()
    }

    fn lookup_invoice(&self, _hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        todo!()
    }

    fn settlements(&self, _cursor: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        todo!()
    }
}

impl Pay for Wallet {
    fn quote(&self, _request: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>> {
        todo!()
    }

    fn dispatch(&self, _send: Dispatch) -> BoxFuture<'_, Outcome> {
        todo!()
    }

    fn resolve(&self, _question: Resolve) -> BoxFuture<'_, Outcome> {
        todo!()
    }
}
