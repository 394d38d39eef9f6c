//! An agent's account at the operator's node: the node pays, and [`Books`] say whose money it is.
//!
//! Money is held in the books before the node is asked, under the holder's fence: who was replaced holds nothing, and so pays
//! nothing. A hash has one payment at a node, whoever's. What is paid to another account of the same node never reaches it
//! (LND refuses to pay itself): it is held here, and booked where the invoice can be cancelled first.
//!
//! This wallet makes no invoices: that takes the other macaroon, which is not where this one is.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Clock, Hash32, Msat};

use crate::bolt11::{Bolt11, Network};
use crate::checks::{payable, proven, refused};
use crate::driver::{
    Capabilities, Cursor, Custody, Dispatch, Driver, Health, Idempotency, Invoice, InvoiceRequest, InvoiceState, Kind,
    Pay, PayRequest, PreimageProof, Quote, Receive, Resolve, Settlement, WalletError,
};

/// How long a payment within the node is waited for before it is called pending, and between looks, in ms.
const INSIDE_MS: u64 = 5_000;
const INSIDE_LOOK_MS: u64 = 100;

/// Why nothing was read or booked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BooksError {
    /// Somebody else holds this agent now. Nothing may be done for it any more.
    #[error("this account is held by another worker now")]
    Stale,
    /// The account has less.
    #[error("the account has too little")]
    Funds,
    /// Whether it was booked is not known; reading tells.
    #[error("the books do not answer: {0}")]
    Unavailable(String),
}

/// Money to be held for one attempt of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    pub hash: Hash32,
    pub payment_id: String,
    pub attempt: u32,
    pub amount: Msat,
    pub max_fee: Msat,
    /// The payee has an account at the same node.
    pub inside: bool,
}

/// What became of holding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// For the first time: nobody has sent this attempt.
    New,
    Again,
    /// This attempt is over.
    Over(Booked),
    /// Another payment has this hash.
    Taken,
}

/// Where the books have a payment of this agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Booked {
    Held { inside: bool },
    Settled { fee: Msat, preimage: Option<Hash32> },
    Failed,
}

/// One agent's part of the node's books. Every change is durable when it returns, and refused to a holder that was replaced.
pub trait Books: Send + Sync {
    /// What the node is told as the payment's id, in 64 bytes: of all agents that pay from it, only this one's.
    fn mark(&self, payment_id: &str) -> String;

    /// What the agent may spend, after what its payments no longer hold was released.
    fn available<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Msat, BooksError>>;

    /// What an invoice of the same node asks for; none if it is no account's there.
    fn inside<'a>(&'a self, node: &'a str, hash: Hash32) -> BoxFuture<'a, Result<Option<Msat>, BooksError>>;

    /// Takes amount and fee reserve out of what is available. May be repeated.
    fn hold<'a>(&'a self, node: &'a str, hold: Hold) -> BoxFuture<'a, Result<Held, BooksError>>;

    /// This attempt; none if the books know of no such one.
    fn payment<'a>(
        &'a self,
        node: &'a str,
        hash: Hash32,
        payment_id: &'a str,
        attempt: u32,
    ) -> BoxFuture<'a, Result<Option<Booked>, BooksError>>;

    /// It was paid. May be repeated.
    fn settle<'a>(
        &'a self,
        node: &'a str,
        hash: Hash32,
        fee: Msat,
        preimage: Option<Hash32>,
    ) -> BoxFuture<'a, Result<(), BooksError>>;

    /// It was surely not paid, and nobody else ever sent it. May be repeated.
    fn release<'a>(&'a self, node: &'a str, hash: Hash32) -> BoxFuture<'a, Result<(), BooksError>>;

    /// An invoice of the agent's.
    fn invoice<'a>(&'a self, node: &'a str, hash: Hash32) -> BoxFuture<'a, Result<InvoiceState, BooksError>>;
}

/// The agent's wallet. Cheap to make: connects to nothing.
pub struct LndSubAccount {
    /// The operator's node, as who may pay from it.
    node: Arc<dyn Pay>,
    /// Its public key, in hex.
    identity: String,
    network: Network,
    books: Arc<dyn Books>,
    clock: Arc<dyn Clock>,
}

impl LndSubAccount {
    /// `node` pays, and is the one of this public key and network.
    pub fn new(
        node: Arc<dyn Pay>,
        identity: impl Into<String>,
        network: Network,
        books: Arc<dyn Books>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { node, identity: identity.into(), network, books, clock }
    }

    /// The invoice with its amount, and whether it is paid within the node.
    async fn read(&self, bolt11: &str, amount: Option<Msat>) -> Result<(Bolt11, Msat, bool), WalletError> {
        let invoice = payable(bolt11, amount, self.network)?;
        let asked = invoice.amount.or(amount).unwrap_or(Msat::ZERO);
        if invoice.payee != self.identity {
            return Ok((invoice, asked, false));
        }
        match self.books.inside(&self.identity, invoice.hash).await.map_err(unread)? {
            Some(known) if known == asked => Ok((invoice, asked, true)),
            Some(_) => Err(WalletError::Refused("an invoice for another amount than was asked for".to_owned())),
            None => Err(WalletError::Refused("an invoice of the paying node itself".to_owned())),
        }
    }

    async fn send(&self, send: Dispatch) -> Outcome {
        let (invoice, amount, inside) = match self.read(&send.bolt11, send.amount).await {
            Ok(read) => read,
            Err(WalletError::Unreachable(why)) => return Outcome::Unknown { why },
            Err(_) => return refused(),
        };
        let hash = invoice.hash;
        if invoice.expired(self.clock.now()) || self.clock.mono() >= send.deadline {
            // Too late for this one; an earlier, identical one may have left in time.
            return match self.look(&send.resolve(hash)).await {
                Outcome::NotFound => refused(),
                known => known,
            };
        }
        let (payment_id, attempt, max_fee) = (send.payment_id.clone(), send.attempt, send.max_fee);
        let hold = Hold { hash, payment_id, attempt, amount, max_fee, inside };
        let fresh = match self.books.hold(&self.identity, hold).await {
            Ok(Held::New) => true,
            Ok(Held::Again) => false,
            Ok(Held::Over(booked)) => return self.told(booked),
            Ok(Held::Taken) => return Outcome::Failed { class: FailureClass::Rejected },
            Err(BooksError::Funds) => return Outcome::Failed { class: FailureClass::NoFunds },
            Err(error) => return unknown(&error),
        };
        if inside {
            return self.wait(&send.resolve(hash)).await;
        }
        let payment_id = self.books.mark(&send.payment_id);
        let outcome = self.node.dispatch(Dispatch { payment_id, ..send }).await;
        match outcome {
            Outcome::Settled { preimage, fee } => self.settle(hash, fee, preimage).await,
            // Nobody else ever sent it. Should this not be booked, it is once the payment's own end is.
            Outcome::Failed { .. } if fresh => {
                if let Err(error) = self.books.release(&self.identity, hash).await {
                    tracing::info!(payment_hash = %hash, %error, "what was held is released later");
                }
                outcome
            }
            Outcome::Failed { .. } | Outcome::Pending | Outcome::NotFound | Outcome::Unknown { .. } => outcome,
        }
    }

    /// Paid is what is booked as paid: until then it is asked about again.
    async fn settle(&self, hash: Hash32, fee: Msat, preimage: Option<Hash32>) -> Outcome {
        match self.books.settle(&self.identity, hash, fee, preimage).await {
            Ok(()) => proven(Outcome::Settled { preimage, fee }, hash),
            Err(error) => unknown(&error),
        }
    }

    fn told(&self, booked: Booked) -> Outcome {
        match booked {
            Booked::Held { .. } => Outcome::Pending,
            Booked::Settled { fee, preimage } => Outcome::Settled { preimage, fee },
            Booked::Failed => Outcome::Failed { class: FailureClass::Rejected },
        }
    }

    async fn look(&self, question: &Resolve) -> Outcome {
        let Resolve { payment_id, attempt, hash, .. } = question;
        let marked = Resolve { payment_id: self.books.mark(payment_id), ..question.clone() };
        match self.books.payment(&self.identity, *hash, payment_id, *attempt).await {
            // Nothing is ever sent that was not held first. Only books of an earlier moment know less than the node.
            Ok(None) => match self.node.resolve(marked).await {
                Outcome::Settled { .. } | Outcome::Pending => Outcome::Unknown {
                    why: "the node pays, or paid, what the books do not hold: its operator looks at it".to_owned(),
                },
                other => other,
            },
            Ok(Some(Booked::Held { inside: false })) => match self.node.resolve(marked).await {
                Outcome::Settled { preimage, fee } => self.settle(*hash, fee, preimage).await,
                other => other,
            },
            Ok(Some(booked)) => self.told(booked),
            Err(error) => unknown(&error),
        }
    }

    /// A payment within the node is booked by whoever may cancel its invoice, within a second.
    async fn wait(&self, question: &Resolve) -> Outcome {
        let until = self.clock.mono().plus_ms(INSIDE_MS);
        loop {
            let said = self.look(question).await;
            if said != Outcome::Pending || self.clock.mono() >= until {
                return said;
            }
            tokio::time::sleep(Duration::from_millis(INSIDE_LOOK_MS)).await;
        }
    }
}

fn unknown(error: &BooksError) -> Outcome {
    Outcome::Unknown { why: error.to_string() }
}

fn unread(error: BooksError) -> WalletError {
    WalletError::Unreachable(error.to_string())
}

impl Driver for LndSubAccount {
    fn kind(&self) -> Kind {
        Kind::Lnd
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
        Box::pin(async {
            let spendable = self.books.available(&self.identity).await.map_err(unread)?;
            self.node.health().await.map(|health| Health { spendable, receivable: None, ..health })
        })
    }

    /// The books' word: the node is not asked.
    fn balance(&self) -> BoxFuture<'_, Result<Msat, WalletError>> {
        Box::pin(async { self.books.available(&self.identity).await.map_err(unread) })
    }

    fn recover(&self) -> BoxFuture<'_, Result<(), WalletError>> {
        self.node.recover()
    }
}

impl Receive for LndSubAccount {
    fn create_invoice(&self, _: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        let what = "make invoices here: the control plane makes them";
        Box::pin(async move { Err(WalletError::Unsupported { kind: Kind::Lnd, what }) })
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        Box::pin(async move { self.books.invoice(&self.identity, hash).await.map_err(unread) })
    }

    /// None: whoever credits the account tells the agent.
    fn settlements(&self, _: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        futures::stream::empty().boxed()
    }
}

impl Pay for LndSubAccount {
    fn quote(&self, request: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>> {
        Box::pin(async move {
            match self.read(&request.bolt11, request.amount).await? {
                (_, _, true) => Ok(Quote { max_fee: Msat::ZERO, handle: None, expires_at: None }),
                (_, _, false) => self.node.quote(request).await,
            }
        })
    }

    fn dispatch(&self, send: Dispatch) -> BoxFuture<'_, Outcome> {
        Box::pin(self.send(send))
    }

    fn resolve(&self, question: Resolve) -> BoxFuture<'_, Outcome> {
        Box::pin(async move { self.look(&question).await })
    }
}
