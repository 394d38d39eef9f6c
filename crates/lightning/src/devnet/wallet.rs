//! One account of the network, behind the traits of every wallet.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use nexus_core::payment::Outcome;
use nexus_core::{Hash32, Msat};

use super::api::{self, Code};
use super::link::{CallError, Limits, Link};
use super::{AccountKey, Party};
use crate::Network;
use crate::checks::{payable, proven, refused};
use crate::driver::{
    Capabilities, Cursor, Custody, Description, Dispatch, Driver, Health, Hold, HoldRequest, Idempotency, Invoice,
    InvoiceRequest, InvoiceState, Kind, Pay, PayRequest, Preimage, PreimageProof, Quote, Receive, Resolve, Settlement,
    WalletError,
};

/// Between two tries to follow settlements, when the network cannot be reached.
const FOLLOW_AGAIN_MS: u64 = 500;

/// A block of the chain that this network does not have: what holds money for a number of them holds it for so long.
const BLOCK_MS: i64 = 600_000;

/// One account of the network. Cheap to clone.
#[derive(Clone)]
pub struct Wallet {
    link: Arc<Link>,
    key: Arc<AccountKey>,
}

impl From<CallError> for WalletError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Late => Self::Unreachable("too late".to_owned()),
            CallError::Unsent(why) | CallError::Lost(why) => Self::Unreachable(why),
            CallError::Refused(problem) => match problem.code {
                Code::Unauthorized | Code::Replayed => Self::Auth,
                Code::BadRequest | Code::Conflict | Code::NotHeld | Code::TooManyAccounts | Code::TooManyInvoices => {
                    Self::Refused(problem.detail)
                }
                Code::StaleBoot | Code::TooManyRequests | Code::Stopping => Self::Unreachable(problem.detail),
            },
        }
    }
}

fn unknown(error: CallError) -> Outcome {
    let why = match error {
        CallError::Late => "too late to ask".to_owned(),
        CallError::Unsent(why) | CallError::Lost(why) => why,
        CallError::Refused(problem) => problem.detail,
    };
    Outcome::Unknown { why }
}

impl Wallet {
    pub(super) fn new(link: Arc<Link>, key: AccountKey) -> Self {
        Self { link, key: Arc::new(key) }
    }

    /// The account's public name.
    pub fn party(&self) -> Party {
        self.key.party()
    }

    /// Asks for the account's [`super::FAUCET`] money; repeating it gives nothing more. Returns the balance.
    pub async fn faucet(&self) -> Result<Msat, WalletError> {
        let answer: api::AccountAnswer = self.call(api::FAUCET, &api::Nothing {}).await?;
        Ok(answer.balance)
    }

    /// The public key of the network's node, compressed, in hex: the payee of all its invoices.
    pub async fn node(&self) -> Result<String, WalletError> {
        let endpoint = self.link.endpoint().await.map_err(|error| WalletError::Unreachable(error.to_string()))?;
        Ok(endpoint.node.node)
    }

    fn limits(&self) -> Limits {
        Limits { deadline: None, timeout_ms: self.link.parts().timeout_ms }
    }

    async fn call<Ask, T>(&self, path: &str, ask: &Ask) -> Result<T, CallError>
    where
        Ask: serde::Serialize + Sync,
        T: serde::de::DeserializeOwned,
    {
        self.link.call(&self.key, path, ask, self.limits()).await
    }

    async fn look(&self, hash: Hash32, payment_id: String) -> Outcome {
        match self.call(api::PAYMENT, &api::ResolveAsk { hash, payment_id }).await {
            Ok(outcome) => proven(outcome, hash),
            Err(error) => unknown(error),
        }
    }

    /// Too late for this send. An earlier, identical one may have left in time: only a network that knows of none makes
    /// the refusal certain.
    async fn refuse_late(&self, hash: Hash32, payment_id: String) -> Outcome {
        match self.look(hash, payment_id).await {
            Outcome::NotFound => refused(),
            known => known,
        }
    }

    async fn send(&self, send: Dispatch) -> Outcome {
        let Ok(invoice) = payable(&send.bolt11, send.amount, Network::Regtest) else { return refused() };
        if send.payment_id.is_empty() || send.payment_id.len() > api::MAX_PAYMENT_ID_BYTES || send.attempt == 0 {
            return refused();
        }
        let hash = invoice.hash;
        if invoice.expired(self.link.parts().clock.now()) {
            return self.refuse_late(hash, send.payment_id).await;
        }
        let ask = api::PaymentAsk {
            payment_id: send.payment_id.clone(),
            attempt: send.attempt,
            bolt11: send.bolt11,
            amount: send.amount,
            max_fee: send.max_fee,
        };
        let limits = Limits { deadline: Some(send.deadline), ..self.limits() };
        match self.link.call(&self.key, api::PAYMENTS, &ask, limits).await {
            Ok(outcome) => proven(outcome, hash),
            Err(CallError::Late) => self.refuse_late(hash, send.payment_id).await,
            // Even if this one never left: an earlier, identical one may have.
            Err(error) => unknown(error),
        }
    }
}

impl Driver for Wallet {
    fn kind(&self) -> Kind {
        Kind::Dev
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: true,
            hold: true,
            lookup_out: true,
            idempotency: Idempotency::ByHash,
            preimage: PreimageProof::Always,
            custody: Custody::Custodial,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        Box::pin(async {
            let answer: api::AccountAnswer = self.call(api::ACCOUNT, &api::Nothing {}).await?;
            if answer.party != self.party() {
                return Err(WalletError::Protocol("the network answered for another account".to_owned()));
            }
            let identity = answer.party.to_string();
            let spendable = answer.balance;
            Ok(Health { identity, network: Network::Regtest, synced: true, spendable, receivable: None })
        })
    }
}

impl Receive for Wallet {
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        Box::pin(async move {
            let preimage = request.preimage.as_ref();
            let (memo, description_hash) = match request.description {
                Description::Memo(memo) => (Some(memo), None),
                Description::Hash(hash) => (None, Some(hash)),
            };
            let ask = api::InvoiceAsk {
                preimage: preimage.map(|it| Hash32::from_bytes(*it.expose())),
                amount: request.amount,
                memo,
                description_hash,
                expiry_s: request.expiry_s,
            };
            let answer: api::InvoiceAnswer = self.call(api::INVOICES, &ask).await?;
            if preimage.is_some_and(|preimage| preimage.hash() != answer.hash) {
                return Err(WalletError::Protocol("an invoice under another hash".to_owned()));
            }
            let api::InvoiceAnswer { bolt11, hash, expires_at, cursor } = answer;
            Ok(Invoice { bolt11, hash, expires_at, cursor })
        })
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        Box::pin(async move {
            Ok(match self.call(api::INVOICE, &api::HashAsk { hash }).await? {
                api::InvoiceStateAnswer::Open => InvoiceState::Open,
                api::InvoiceStateAnswer::Accepted => InvoiceState::Accepted,
                api::InvoiceStateAnswer::Settled { amount, preimage, at } => {
                    InvoiceState::Settled { amount, preimage: Some(preimage), at }
                }
                api::InvoiceStateAnswer::Canceled => InvoiceState::Canceled,
                api::InvoiceStateAnswer::NotFound => InvoiceState::NotFound,
            })
        })
    }

    /// Never ends: after an error it is tried again half a second later, from the last cursor.
    fn settlements(&self, cursor: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        let wallet = self.clone();
        let pages = futures::stream::unfold((wallet, cursor, false), |(wallet, after, again)| async move {
            if again {
                tokio::time::sleep(Duration::from_millis(FOLLOW_AGAIN_MS)).await;
            }
            let ask = api::SettlementsAsk { after, wait_ms: api::MAX_WAIT_MS };
            let limits = Limits { deadline: None, timeout_ms: api::MAX_WAIT_MS + 5_000 };
            let page: Result<Vec<Settlement>, _> = wallet.link.call(&wallet.key, api::SETTLEMENTS, &ask, limits).await;
            match page {
                Ok(page) => {
                    let after = page.last().map_or(after, |last| last.cursor);
                    Some((page.into_iter().map(Ok).collect::<Vec<_>>(), (wallet, after, false)))
                }
                Err(error) => Some((vec![Err(error.into())], (wallet, after, true))),
            }
        });
        pages.flat_map(futures::stream::iter).boxed()
    }
}

impl Hold for Wallet {
    fn create_hold_invoice(&self, request: HoldRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        Box::pin(async move {
            let (memo, description_hash) = match request.description {
                Description::Memo(memo) => (Some(memo), None),
                Description::Hash(hash) => (None, Some(hash)),
            };
            let ask = api::HoldAsk {
                hash: request.hash,
                amount: request.amount,
                memo,
                description_hash,
                expiry_s: request.expiry_s,
                hold_ms: i64::from(request.cltv_expiry) * BLOCK_MS,
            };
            let api::InvoiceAnswer { bolt11, hash, expires_at, cursor } = self.call(api::HOLD, &ask).await?;
            if hash != request.hash {
                return Err(WalletError::Protocol("an invoice under another hash".to_owned()));
            }
            Ok(Invoice { bolt11, hash, expires_at, cursor })
        })
    }

    fn settle_hold_invoice(&self, preimage: Preimage) -> BoxFuture<'_, Result<(), WalletError>> {
        Box::pin(async move {
            let ask = api::SettleAsk { preimage: Hash32::from_bytes(*preimage.expose()) };
            let api::Nothing {} = self.call(api::SETTLE, &ask).await?;
            Ok(())
        })
    }

    fn cancel_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<(), WalletError>> {
        Box::pin(async move {
            let api::Nothing {} = self.call(api::CANCEL, &api::HashAsk { hash }).await?;
            Ok(())
        })
    }
}

impl Pay for Wallet {
    fn quote(&self, request: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>> {
        Box::pin(async move {
            let invoice = payable(&request.bolt11, request.amount, Network::Regtest)?;
            let amount = invoice.amount.or(request.amount).unwrap_or(Msat::ZERO);
            let answer: api::QuoteAnswer = self.call(api::QUOTES, &api::QuoteAsk { amount }).await?;
            Ok(Quote { max_fee: answer.fee, handle: None, expires_at: None })
        })
    }

    fn dispatch(&self, send: Dispatch) -> BoxFuture<'_, Outcome> {
        Box::pin(self.send(send))
    }

    fn resolve(&self, question: Resolve) -> BoxFuture<'_, Outcome> {
        Box::pin(self.look(question.hash, question.payment_id))
    }
}
