//! Wallets at the operator's node: its books in the database, for one agent, under the fence.

use std::sync::Arc;

use futures::future::BoxFuture;
use nexus_core::policy::WalletChoice;
use nexus_core::{Clock, Generation, Hash32, Msat, Npub, UnixMs};
use nexus_lightning::lnd::{Booked, Books, BooksError, Held, Hold, LndPay, LndSubAccount, NodeConfig, PayerMacaroon};
use nexus_lightning::{InvoiceState, Network, Pay, WalletDriver};
use nexus_store::sub_account::{self, NewHold, Payee, Payment, State};
use nexus_store::{Conflict, Fence, Store, StoreError};

use crate::error::TurnError;
use crate::host::Host;
use crate::wallet::{Purse, WalletUnavailable, Wallets};

/// Who may write now.
pub trait Holder: Send + Sync {
    /// The fence, while it may be used.
    fn fence(&self) -> Result<Fence, BooksError>;

    fn now(&self) -> UnixMs;
}

impl Holder for Host {
    fn fence(&self) -> Result<Fence, BooksError> {
        self.live_fence().map_err(|error| match error {
            TurnError::Stale => BooksError::Stale,
            _ => BooksError::Unavailable("the lease is near its end".to_owned()),
        })
    }

    fn now(&self) -> UnixMs {
        Self::now(self)
    }
}

/// One agent's part of the books, for one turn.
pub struct StoredBooks {
    store: Store,
    holder: Arc<dyn Holder>,
    npub: Npub,
    generation: Generation,
}

impl StoredBooks {
    pub fn new(store: Store, holder: Arc<dyn Holder>, npub: Npub, generation: Generation) -> Self {
        Self { store, holder, npub, generation }
    }

    /// The payment of a hash, if it is this agent's.
    async fn own(&self, node: &str, hash: Hash32) -> Result<Option<Payment>, BooksError> {
        let found = sub_account::payment(&self.store, node, hash).await.map_err(unread)?;
        Ok(found.filter(|payment| payment.npub == self.npub))
    }

    async fn give_back(&self, payment: &Payment) -> Result<(), BooksError> {
        let (fence, now) = (self.holder.fence()?, self.holder.now());
        sub_account::release(&self.store, fence, self.generation, payment, now).await.map_err(unread).map(drop)
    }

    /// What its payments no longer hold.
    async fn tidy(&self, node: &str) -> Result<(), BooksError> {
        for payment in sub_account::ended_elsewhere(&self.store, node, self.npub).await.map_err(unread)? {
            self.give_back(&payment).await?;
        }
        Ok(())
    }
}

fn unread(error: StoreError) -> BooksError {
    match error {
        StoreError::Stale { .. } => BooksError::Stale,
        StoreError::Conflict { conflict: Conflict::SubFunds, .. } => BooksError::Funds,
        error => BooksError::Unavailable(error.to_string()),
    }
}

fn booked(payment: &Payment) -> Booked {
    match payment.state {
        State::Held => Booked::Held { inside: payment.payee != Payee::Outside },
        State::Settled => Booked::Settled { fee: payment.fee, preimage: payment.preimage },
        State::Failed => Booked::Failed,
    }
}

impl Books for StoredBooks {
    fn mark(&self, payment_id: &str) -> String {
        let mut text = self.npub.as_bytes().to_vec();
        text.extend_from_slice(payment_id.as_bytes());
        Hash32::sha256(&text).to_string()
    }

    fn available<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Msat, BooksError>> {
        Box::pin(async move {
            self.tidy(node).await?;
            let account = sub_account::account(&self.store, node, self.npub).await.map_err(unread)?;
            Ok(account.available)
        })
    }

    fn inside<'a>(&'a self, node: &'a str, hash: Hash32) -> BoxFuture<'a, Result<Option<Msat>, BooksError>> {
        Box::pin(async move {
            let found = sub_account::payee(&self.store, node, hash).await.map_err(unread)?;
            Ok(found.map(|(_, amount)| amount))
        })
    }

    fn hold<'a>(&'a self, node: &'a str, hold: Hold) -> BoxFuture<'a, Result<Held, BooksError>> {
        Box::pin(async move {
            self.tidy(node).await?;
            let Hold { hash, payment_id, attempt, amount, max_fee, inside } = hold;
            let found = sub_account::payee(&self.store, node, hash).await.map_err(unread)?;
            let payee = found.map_or(Payee::Outside, |(payee, _)| payee);
            let payee = if inside { payee } else { Payee::Outside };
            let (node, npub, at) = (node.to_owned(), self.npub, self.holder.now());
            let new = NewHold { node, hash, npub, payment_id, attempt, amount, max_fee, payee, at };
            let held = sub_account::hold(&self.store, self.holder.fence()?, self.generation, &new).await;
            Ok(match held.map_err(unread)? {
                sub_account::Held::New => Held::New,
                sub_account::Held::Again => Held::Again,
                sub_account::Held::Over(payment) => Held::Over(booked(&payment)),
                sub_account::Held::Taken => Held::Taken,
            })
        })
    }

    fn payment<'a>(
        &'a self,
        node: &'a str,
        hash: Hash32,
        payment_id: &'a str,
        attempt: u32,
    ) -> BoxFuture<'a, Result<Option<Booked>, BooksError>> {
        Box::pin(async move {
            let found = self.own(node, hash).await?;
            let this = found.filter(|payment| payment.payment_id == payment_id && payment.attempt == attempt);
            Ok(this.map(|payment| booked(&payment)))
        })
    }

    fn settle<'a>(
        &'a self,
        node: &'a str,
        hash: Hash32,
        fee: Msat,
        preimage: Option<Hash32>,
    ) -> BoxFuture<'a, Result<(), BooksError>> {
        Box::pin(async move {
            let missing = || BooksError::Unavailable("they hold nothing for a payment that the node made".to_owned());
            let payment = self.own(node, hash).await?.ok_or_else(missing)?;
            let (fence, now) = (self.holder.fence()?, self.holder.now());
            let (store, generation) = (&self.store, self.generation);
            if sub_account::settle(store, fence, generation, &payment, fee, preimage, now).await.map_err(unread)? {
                return Ok(());
            }
            match self.own(node, hash).await?.map(|payment| payment.state) {
                Some(State::Settled) => Ok(()),
                state => {
                    tracing::error!(npub = %self.npub.short(), payment_hash = %hash, ?state, "the node paid what the books had released");
                    Err(missing())
                }
            }
        })
    }

    fn release<'a>(&'a self, node: &'a str, hash: Hash32) -> BoxFuture<'a, Result<(), BooksError>> {
        Box::pin(async move {
            match self.own(node, hash).await? {
                Some(payment) => self.give_back(&payment).await,
                None => Ok(()),
            }
        })
    }

    fn invoice<'a>(&'a self, node: &'a str, hash: Hash32) -> BoxFuture<'a, Result<InvoiceState, BooksError>> {
        Box::pin(async move {
            let found = sub_account::invoice(&self.store, hash).await.map_err(unread)?;
            let Some(invoice) = found.filter(|it| it.npub == self.npub && it.node == node) else {
                return Ok(InvoiceState::NotFound);
            };
            Ok(match (invoice.paid, invoice.paid_at) {
                (Some(amount), Some(at)) => InvoiceState::Settled { amount, preimage: invoice.preimage, at },
                // Also an expired one: should its money still come, its watch begins anew.
                _ if invoice.state == "open" => InvoiceState::Open,
                _ => InvoiceState::Canceled,
            })
        })
    }
}

/// Wallets at the operator's node, for agents whose policy says `lnd`.
pub struct LndWallets {
    node: Arc<dyn Pay>,
    identity: String,
    network: Network,
    clock: Arc<dyn Clock>,
}

impl LndWallets {
    pub fn new(node: NodeConfig, macaroon: PayerMacaroon, clock: Arc<dyn Clock>) -> Self {
        let (identity, network) = (node.identity().to_owned(), node.network());
        let node = Arc::new(LndPay::new(node, macaroon, clock.clone()));
        Self { node, identity, network, clock }
    }

    /// The agent's account.
    pub fn account(&self, books: Arc<dyn Books>) -> LndSubAccount {
        LndSubAccount::new(self.node.clone(), self.identity.clone(), self.network, books, self.clock.clone())
    }
}

impl Wallets for LndWallets {
    fn open(&self, purse: Purse) -> BoxFuture<'_, Result<Arc<dyn WalletDriver>, WalletUnavailable>> {
        let opened: Result<Arc<dyn WalletDriver>, _> = match purse.choice {
            WalletChoice::Lnd {} => Ok(Arc::new(self.account(purse.books))),
            WalletChoice::Dev {} | WalletChoice::Cashu { .. } | WalletChoice::Nwc { .. } | WalletChoice::Spark {} => {
                Err(WalletUnavailable("this host has only accounts at its operator's node: use `wallet: lnd`".into()))
            }
        };
        Box::pin(async { opened })
    }

    fn network(&self) -> Network {
        self.network
    }

    fn home(&self, choice: &WalletChoice) -> Option<String> {
        match choice {
            WalletChoice::Lnd {} => Some(format!("lnd:{}", self.identity)),
            WalletChoice::Dev {} | WalletChoice::Cashu { .. } | WalletChoice::Nwc { .. } | WalletChoice::Spark {} => {
                None
            }
        }
    }
}
