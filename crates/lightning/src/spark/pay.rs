//! Paying.

use futures::future::BoxFuture;
use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Hash32, Msat, UnixMs};
use serde::Deserialize;
use serde_json::json;

use super::record::{self, INVOICES, Made, PAYMENTS, Sent};
use super::sidecar::CallError;
use super::wallet::{SparkWallet, sats, stored};
use crate::bolt11::{Bolt11, without_scheme};
use crate::checks::{payable, refused};
use crate::driver::{Dispatch, Pay, PayRequest, Quote, Resolve, WalletError};
use crate::storage::StorageError;

const MAX_PAYMENT_ID_BYTES: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    Completed,
    Pending,
    Failed,
}

/// Where the locked money is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Htlc {
    Waiting,
    Shared,
    Returned,
}

/// A payment as the sidecar tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Told {
    pub status: Status,
    pub amount_sats: u64,
    pub fee_sats: u64,
    pub at_s: i64,
    pub outgoing: bool,
    pub hash: Option<Hash32>,
    pub preimage: Option<Hash32>,
    pub htlc: Option<Htlc>,
    pub htlc_expiry_s: Option<i64>,
}

#[derive(Deserialize)]
struct Price {
    amount_sats: u64,
    fee_sats: u64,
}

impl Told {
    pub fn completed(&self) -> bool {
        match self.status {
            Status::Completed => true,
            Status::Pending | Status::Failed => false,
        }
    }

    /// What it means for the payment of `hash`. `amount` is what the payee was to get, where that is known.
    pub fn outcome(&self, hash: Hash32, amount: Option<Msat>, now: UnixMs) -> Outcome {
        let unknown = |why: &str| Outcome::Unknown { why: why.to_owned() };
        if !self.outgoing || self.hash.is_some_and(|it| it != hash) {
            return unknown("under this payment's key Spark has another");
        }
        let proof = self.preimage.map(|it| Hash32::sha256(it.as_bytes()) == hash);
        match (self.status, proof) {
            (_, Some(false)) => unknown("called paid with a wrong preimage"),
            (Status::Completed, proof) => match self.fee(amount) {
                Some(fee) => Outcome::Settled { preimage: self.preimage.filter(|_| proof == Some(true)), fee },
                None => unknown("paid, with a fee beyond reason"),
            },
            // The preimage came first, as it does.
            (Status::Pending | Status::Failed, Some(true)) => unknown("not called paid, but the preimage is there"),
            (Status::Pending, None) => Outcome::Pending,
            // The provider says that it could not pay. Until the operators gave the money back it could still be taken.
            (Status::Failed, None) => match (self.htlc, self.htlc_expiry_s) {
                (None | Some(Htlc::Returned), _) => Outcome::Failed { class: FailureClass::NoRoute },
                (Some(Htlc::Waiting), Some(expiry_s)) if now >= UnixMs::from_secs(expiry_s) => {
                    Outcome::Failed { class: FailureClass::NoRoute }
                }
                (Some(Htlc::Waiting), _) => Outcome::Pending,
                (Some(Htlc::Shared), _) => unknown("called failed, but the preimage was given"),
            },
        }
    }

    /// What it cost beyond the invoice: Spark moves whole sats, so part of a sat is a fee.
    fn fee(&self, amount: Option<Msat>) -> Option<Msat> {
        let paid = sats(self.amount_sats.checked_add(self.fee_sats)?)?;
        match amount {
            Some(amount) => Some(paid.checked_sub(amount).unwrap_or(Msat::ZERO)),
            None => sats(self.fee_sats),
        }
    }
}

/// An invoice that this wallet can pay, and for how much.
struct Payable {
    invoice: Bolt11,
    amount: Msat,
}

impl Payable {
    fn sats(&self) -> u64 {
        self.amount.as_u64().div_ceil(1_000)
    }

    /// What is paid beyond the amount because there are no parts of a sat.
    fn rounding_msat(&self) -> u64 {
        self.sats() * 1_000 - self.amount.as_u64()
    }
}

fn unsure(error: CallError) -> Outcome {
    Outcome::Unknown { why: WalletError::from(error).to_string() }
}

fn unstored(error: StorageError) -> Outcome {
    unsure(stored(error))
}

impl SparkWallet {
    async fn payable(&self, bolt11: &str, amount: Option<Msat>) -> Result<Payable, WalletError> {
        let invoice = payable(bolt11, amount, self.inner.sidecar.config().network)?;
        let named = invoice.amount.or(amount).unwrap_or(Msat::ZERO);
        if amount.is_some_and(|it| !it.as_u64().is_multiple_of(1_000)) {
            return Err(WalletError::Refused("Spark pays whole sats".to_owned()));
        }
        let own: Option<Made> = record::read(&*self.inner.storage, INVOICES, &invoice.hash.to_string())
            .await
            .map_err(|error| WalletError::from(stored(error)))?;
        if own.is_some() {
            return Err(WalletError::Refused("an invoice of the paying wallet itself".to_owned()));
        }
        Ok(Payable { invoice, amount: named })
    }

    async fn sent(&self, hash: Hash32) -> Result<Option<Sent>, StorageError> {
        record::read(&*self.inner.storage, PAYMENTS, &hash.to_string()).await
    }

    async fn keep(&self, hash: Hash32, sent: &Sent) -> Result<(), StorageError> {
        let change = record::put(PAYMENTS, hash.to_string(), sent)?;
        self.inner.storage.write(vec![change]).await
    }

    /// What Spark knows of a send, in step with the operators; `NotFound` is theirs too.
    async fn known(&self, payment_id: &str, hash: Hash32, attempt: u32, amount: Option<Msat>) -> Outcome {
        let identity = match self.identity().await {
            Ok(identity) => identity,
            Err(error) => return unsure(error),
        };
        let ask = json!({ "key": record::key(identity, payment_id, hash, attempt) });
        let told: Result<Option<Told>, _> = self.ask("payment", ask, None).await;
        match told {
            Ok(Some(told)) => told.outcome(hash, amount, self.inner.sidecar.clock().now()),
            Ok(None) => Outcome::NotFound,
            Err(error) => unsure(error),
        }
    }

    /// The same, of a send that is on record.
    async fn known_of(&self, sent: &Sent, hash: Hash32) -> Outcome {
        match (self.known(&sent.payment_id, hash, sent.attempt, Some(sent.amount)).await, sent.failed) {
            (Outcome::NotFound, Some(class)) => Outcome::Failed { class },
            (known, _) => known,
        }
    }

    async fn look(&self, payment_id: &str, hash: Hash32, attempt: u32) -> Outcome {
        match self.sent(hash).await {
            // Even what is not on record may have been sent: an older state of this storage was put back.
            Ok(None) => self.known(payment_id, hash, attempt, None).await,
            Ok(Some(sent)) if sent.payment_id != payment_id => Outcome::NotFound,
            Ok(Some(sent)) if sent.attempt >= attempt => self.known_of(&sent, hash).await,
            Ok(Some(sent)) => self.known(payment_id, hash, attempt, Some(sent.amount)).await,
            Err(error) => unstored(error),
        }
    }

    /// Too late for this send; an earlier, identical one may have left in time.
    async fn refuse_late(&self, hash: Hash32, send: &Dispatch) -> Outcome {
        match self.look(&send.payment_id, hash, send.attempt).await {
            Outcome::NotFound => refused(),
            known => known,
        }
    }

    /// Puts the send on record, before anything of it leaves, and gives its key. An error is the answer to it.
    async fn begin(&self, payable: &Payable, send: &Dispatch) -> Result<String, Outcome> {
        let hash = payable.invoice.hash;
        let identity = self.identity().await.map_err(unsure)?;
        self.claim(identity, payable, send).await?;
        Ok(record::key(identity, &send.payment_id, hash, send.attempt))
    }

    async fn claim(&self, identity: &str, payable: &Payable, send: &Dispatch) -> Result<(), Outcome> {
        let hash = payable.invoice.hash;
        let lock = self.inner.sidecar.lock(identity, hash);
        let _alone = lock.lock().await;
        let next = Sent {
            payment_id: send.payment_id.clone(),
            attempt: send.attempt,
            amount: payable.amount,
            expires_at: payable.invoice.expires_at,
            failed: None,
        };
        let Some(sent) = self.sent(hash).await.map_err(unstored)? else {
            let now = self.inner.sidecar.clock().now();
            let over = |it: &Sent| Some(it.expires_at).filter(|at| at.plus_ms(30 * 86_400_000) < now);
            record::prune(&*self.inner.storage, PAYMENTS, over).await.map_err(unstored)?;
            return self.keep(hash, &next).await.map_err(unstored);
        };
        let ours = sent.payment_id == send.payment_id;
        if ours && sent.attempt == send.attempt && matches!(sent.failed, None | Some(FailureClass::Refused)) {
            return Ok(());
        }
        match self.known_of(&sent, hash).await {
            // A repeat of what failed, or a late copy of an earlier attempt, sends nothing.
            known if ours && sent.attempt >= send.attempt => Err(match known {
                Outcome::NotFound => Outcome::Unknown { why: "a later attempt of it was begun".to_owned() },
                known => known,
            }),
            Outcome::Failed { .. } => self.keep(hash, &next).await.map_err(unstored),
            Outcome::NotFound if ours => self.keep(hash, &next).await.map_err(unstored),
            // An earlier attempt is not over, or paid after all.
            known if ours => Err(known),
            Outcome::Unknown { why } => Err(Outcome::Unknown { why }),
            // Paid, or being paid, for somebody else.
            Outcome::Settled { .. } | Outcome::Pending | Outcome::NotFound => {
                Err(Outcome::Failed { class: FailureClass::Rejected })
            }
        }
    }

    /// Remembers that an attempt came to nothing before anybody heard of it.
    async fn fail(&self, hash: Hash32, send: &Dispatch, class: FailureClass) -> Outcome {
        let failed = async {
            let Some(mut sent) = self.sent(hash).await? else { return Ok(()) };
            if (sent.payment_id.as_str(), sent.attempt) == (send.payment_id.as_str(), send.attempt) {
                sent.failed = Some(class);
                self.keep(hash, &sent).await?;
            }
            Ok::<_, StorageError>(())
        };
        match failed.await {
            Ok(()) => Outcome::Failed { class },
            // Whoever repeats this must be told the same.
            Err(error) => unstored(error),
        }
    }

    async fn send(&self, send: Dispatch) -> Outcome {
        let payable = match self.payable(&send.bolt11, send.amount).await {
            Ok(payable) => payable,
            Err(WalletError::Refused(_)) => return refused(),
            Err(error) => return Outcome::Unknown { why: error.to_string() },
        };
        if send.payment_id.is_empty() || send.payment_id.len() > MAX_PAYMENT_ID_BYTES || send.attempt == 0 {
            return refused();
        }
        let (hash, clock) = (payable.invoice.hash, self.inner.sidecar.clock());
        if payable.invoice.expired(clock.now()) || clock.mono() >= send.deadline {
            return self.refuse_late(hash, &send).await;
        }
        let key = match self.begin(&payable, &send).await {
            Ok(key) => key,
            Err(outcome) => return outcome,
        };
        let mut ask = json!({
            "key": key,
            "bolt11": without_scheme(&send.bolt11),
            "at_most_sats": payable.sats(),
            "max_fee_sats": send.max_fee.as_u64().saturating_sub(payable.rounding_msat()) / 1_000,
            "settle_s": self.inner.sidecar.config().settle_s,
        });
        if send.amount.is_some() {
            ask["amount_sats"] = payable.sats().into();
        }
        let told: Result<Told, _> = self.ask("pay", ask, Some(send.deadline)).await;
        match told {
            Ok(told) => told.outcome(hash, Some(payable.amount), clock.now()),
            Err(CallError::Late) => self.refuse_late(hash, &send).await,
            // The sidecar was in step with the operators, knew of no earlier send under this key, and sent none.
            Err(CallError::NoFunds) => self.fail(hash, &send, FailureClass::NoFunds).await,
            Err(CallError::FeeTooHigh) => self.fail(hash, &send, FailureClass::FeeTooHigh).await,
            Err(error @ (CallError::Closed | CallError::Wallet(_) | CallError::Lost(_))) => unsure(error),
        }
    }
}

impl Pay for SparkWallet {
    /// The provider's price, and a tenth more in case it rises.
    fn quote(&self, request: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>> {
        Box::pin(async move {
            let payable = self.payable(&request.bolt11, request.amount).await?;
            let mut ask = json!({ "bolt11": without_scheme(&request.bolt11) });
            if request.amount.is_some() {
                ask["amount_sats"] = payable.sats().into();
            }
            let price: Price = self.ask("quote", ask, None).await?;
            let fee = price.fee_sats.saturating_add(price.fee_sats.div_ceil(10));
            let rounding = Msat::try_from(payable.rounding_msat()).ok();
            let max_fee = sats(fee).zip(rounding).and_then(|(fee, rounding)| fee.checked_add(rounding));
            match max_fee {
                Some(max_fee) if price.amount_sats <= payable.sats() => {
                    Ok(Quote { max_fee, handle: None, expires_at: None })
                }
                Some(_) | None => Err(WalletError::Protocol("a price for something else".to_owned())),
            }
        })
    }

    fn dispatch(&self, send: Dispatch) -> BoxFuture<'_, Outcome> {
        Box::pin(self.send(send))
    }

    fn resolve(&self, question: Resolve) -> BoxFuture<'_, Outcome> {
        Box::pin(async move { self.look(&question.payment_id, question.hash, question.attempt).await })
    }
}
