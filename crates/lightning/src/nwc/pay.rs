//! Paying through a wallet: stored, published, and asked about.

use futures::future::BoxFuture;
use nexus_core::payment::Outcome;
use nexus_core::{Hash32, Msat, UnixMs};

use super::book::{Entry, Sent};
use super::finality::{Outgoing, looked_up, paid};
use super::message::{ErrorCode, Request, Response, Transaction};
use super::wallet::{Inner, NwcWallet, Silence};
use crate::bolt11::{Bolt11, without_scheme};
use crate::checks::{payable, refused};
use crate::driver::{Dispatch, Pay, PayRequest, Quote, Resolve, WalletError};
use crate::storage::StorageError;

const MAX_PAYMENT_ID_BYTES: usize = 64;
/// The longest that a wallet may take to begin, in milliseconds. It may finish later.
const MAX_HEEDED_MS: u64 = 60_000;
/// Identical sends that are stored first by another, before one gives up.
const MAX_RACES: u32 = 8;

/// What the wallet knows of a hash that nothing was stored for here.
enum Known {
    Nothing,
    /// An invoice of its own.
    Own,
    /// It pays, or paid, and not for a request that is known here.
    Paying,
}

fn unknown(why: impl ToString) -> Outcome {
    Outcome::Unknown { why: why.to_string() }
}

/// The newest request that answers for an attempt: its own, or a later one of the same payment.
fn own<'a>(entries: &'a [Entry], payment_id: &str, attempt: u32) -> Option<&'a Entry> {
    entries.iter().rev().find(|it| it.sent.payment_id == payment_id && it.sent.attempt >= attempt)
}

impl Entry {
    fn outgoing(&self, hash: Hash32) -> Outgoing {
        Outgoing { hash, max_fee: self.sent.max_fee, expires_at: self.sent.expires_at }
    }
}

impl Inner {
    fn payable(&self, bolt11: &str, amount: Option<Msat>) -> Result<Bolt11, WalletError> {
        payable(bolt11, amount, self.network)
    }

    /// A connection that can pay, and tell afterwards what became of it.
    async fn can_pay(&self) -> Result<super::Encryption, WalletError> {
        let terms = self.terms().await?;
        for method in ["pay_invoice", "lookup_invoice"] {
            if !terms.methods.iter().any(|it| it == method) {
                let why = format!("this connection does not allow `{method}`: make one that does");
                return Err(WalletError::Refused(why));
            }
        }
        Ok(terms.encryption)
    }

    async fn known(&self, hash: Hash32) -> Result<Known, WalletError> {
        match self.ask(&Request::LookupInvoice { hash }).await? {
            Response::Error { code: ErrorCode::NotFound, .. } => Ok(Known::Nothing),
            Response::Transaction(Transaction { hash: told, outgoing, .. }) if told == hash => {
                Ok(if outgoing == Some(false) { Known::Own } else { Known::Paying })
            }
            Response::Error { code, message } => Err(super::wallet::said(code, &message)),
            Response::Transaction(_) | Response::Paid { .. } | Response::Balance(_) | Response::Info { .. } => {
                Err(super::wallet::unasked())
            }
        }
    }

    /// Asks the wallet what became of a request.
    async fn look(&self, hash: Hash32, entry: &Entry) -> Outcome {
        match self.look_up(hash, entry).await {
            Ok((outcome, _)) => self.finish(hash, entry.serial, outcome).await,
            Err(outcome) => outcome,
        }
    }

    /// With the outcome, whether the wallet knows nothing of it.
    async fn look_up(&self, hash: Hash32, entry: &Entry) -> Result<(Outcome, bool), Outcome> {
        if let Some(end) = &entry.end {
            return Err(end.clone());
        }
        // Another connection may not see it, and its "not found" would be no word about this payment.
        if entry.sent.event.pubkey != self.connection.client() {
            return Err(unknown(
                "it was asked for over another connection to the wallet: give that one back to learn more",
            ));
        }
        let response = self.ask(&Request::LookupInvoice { hash }).await.map_err(unknown)?;
        let absent = matches!(response, Response::Error { code: ErrorCode::NotFound, .. });
        Ok((looked_up(&response, &entry.outgoing(hash), self.clock.now()), absent))
    }

    /// Remembers an end before anybody acts on it.
    async fn finish(&self, hash: Hash32, serial: u32, outcome: Outcome) -> Outcome {
        match self.book.end(hash, serial, &outcome).await {
            Ok(()) => outcome,
            // The preimage proves it, whoever remembers.
            Err(error) if matches!(outcome, Outcome::Settled { .. }) => {
                tracing::warn!(payment_hash = %hash, %error, "a settled payment could not be noted");
                outcome
            }
            Err(error) => unknown(error),
        }
    }

    async fn send(&self, send: Dispatch) -> Outcome {
        let Ok(invoice) = self.payable(&send.bolt11, send.amount) else { return refused() };
        if send.payment_id.is_empty() || send.payment_id.len() > MAX_PAYMENT_ID_BYTES || send.attempt == 0 {
            return refused();
        }
        let outcome = self.begin(&send, &invoice).await;
        if let Outcome::Unknown { .. } = outcome
            && let Ok(entries) = self.book.of(invoice.hash).await
            && let Some(end) = own(&entries, &send.payment_id, send.attempt).and_then(|entry| entry.end.clone())
        {
            // Somebody else learned it meanwhile: a sender that froze may wake up late.
            return end;
        }
        outcome
    }

    async fn begin(&self, send: &Dispatch, invoice: &Bolt11) -> Outcome {
        for _ in 0..MAX_RACES {
            let entries = match self.book.of(invoice.hash).await {
                Ok(entries) => entries,
                Err(error) => return unknown(error),
            };
            if let Some(entry) = own(&entries, &send.payment_id, send.attempt) {
                return self.repeat(entry, send, invoice).await;
            }
            if let Some(last) = entries.last() {
                if last.sent.payment_id != send.payment_id && !matches!(last.end, Some(Outcome::Failed { .. })) {
                    // Paid, or being paid, for somebody else.
                    return Outcome::Failed { class: nexus_core::payment::FailureClass::Rejected };
                }
                match self.look(invoice.hash, last).await {
                    Outcome::Failed { .. } | Outcome::NotFound => {}
                    // An earlier attempt is not over, or paid after all.
                    before @ (Outcome::Settled { .. } | Outcome::Pending | Outcome::Unknown { .. }) => return before,
                }
            }
            let serial = entries.last().map_or(0, |last| last.serial.saturating_add(1));
            if let Some(outcome) = self.first(send, invoice, serial).await {
                return outcome;
            }
        }
        unknown("the same payment is begun elsewhere at the same time")
    }

    fn late(&self, send: &Dispatch, invoice: &Bolt11) -> bool {
        invoice.expired(self.clock.now()) || self.clock.mono() >= send.deadline
    }

    /// Until when the wallet may heed a request: whole seconds, within the deadline and the invoice's life. None if that
    /// is over.
    fn heeded_until(&self, send: &Dispatch, invoice: &Bolt11) -> Option<UnixMs> {
        let now = self.clock.now();
        let left_ms = send.deadline.since(self.clock.mono()).min(MAX_HEEDED_MS);
        let until = now.plus_ms(i64::try_from(left_ms).unwrap_or(0)).min(invoice.expires_at).secs();
        (until > now.secs()).then_some(UnixMs::from_secs(until))
    }

    /// Sends what was never sent; none if another, identical send was stored meanwhile.
    async fn first(&self, send: &Dispatch, invoice: &Bolt11, serial: u32) -> Option<Outcome> {
        let hash = invoice.hash;
        if self.late(send, invoice) {
            return Some(refused());
        }
        let encryption = match self.can_pay().await {
            Ok(encryption) => encryption,
            Err(WalletError::Refused(why)) => {
                tracing::info!(payment_hash = %hash, %why, "not sent");
                return Some(refused());
            }
            Err(error) => return Some(unknown(error)),
        };
        // Only what was tried before may be known there.
        if serial == 0 {
            match self.known(hash).await {
                Ok(Known::Nothing) => {}
                Ok(Known::Own) => return Some(refused()),
                Ok(Known::Paying) => return Some(unrequested()),
                Err(error) => return Some(unknown(error)),
            }
        }
        if let Err(error) = self.book.tidy(self.clock.now()).await {
            tracing::warn!(%error, "old payments of a wallet could not be forgotten");
        }
        let Some(until) = self.heeded_until(send, invoice) else { return Some(refused()) };
        let request = Request::PayInvoice { bolt11: without_scheme(&send.bolt11).to_owned(), amount: send.amount };
        let Ok(event) = self.seal(&request, encryption, until) else { return Some(refused()) };
        let sent = Sent {
            payment_id: send.payment_id.clone(),
            attempt: send.attempt,
            event,
            max_fee: send.max_fee,
            heeded_until: until,
            expires_at: invoice.expires_at,
        };
        match self.book.insert(hash, serial, &sent).await {
            Ok(()) => Some(self.publish(hash, &Entry { serial, sent, end: None }, send).await),
            Err(StorageError::Exists) => None,
            Err(StorageError::Refused(why)) => {
                tracing::warn!(payment_hash = %hash, %why, "a payment could not be stored, and was not sent");
                Some(refused())
            }
            Err(error @ (StorageError::Stale | StorageError::Unavailable(_))) => Some(unknown(error)),
        }
    }

    /// Looks, and publishes the same event again if the wallet knows nothing of it and would still heed it.
    async fn repeat(&self, entry: &Entry, send: &Dispatch, invoice: &Bolt11) -> Outcome {
        let hash = invoice.hash;
        let (outcome, absent) = match self.look_up(hash, entry).await {
            Ok(found) => found,
            Err(outcome) => return outcome,
        };
        let heeded = self.clock.now() < entry.sent.heeded_until;
        if !absent || !heeded || self.late(send, invoice) {
            return self.finish(hash, entry.serial, outcome).await;
        }
        if let Err(error) = self.book.again(hash, entry.serial).await {
            return unknown(error);
        }
        self.publish(hash, entry, send).await
    }

    async fn publish(&self, hash: Hash32, entry: &Entry, send: &Dispatch) -> Outcome {
        let settle_ms = self.patience.settle_ms;
        let asked = self.exchange(&entry.sent.event, "pay_invoice", Some(send.deadline), settle_ms).await;
        let why = match asked {
            Ok(response) => {
                if matches!(response, Response::Error { code: ErrorCode::UnsupportedEncryption, .. }) {
                    self.forget_terms().await;
                }
                match paid(&response, &entry.outgoing(hash)) {
                    settled @ Outcome::Settled { .. } => return self.finish(hash, entry.serial, settled).await,
                    failed @ Outcome::Failed { .. } => match self.book.was_again(hash, entry.serial).await {
                        Ok(false) => return self.finish(hash, entry.serial, failed).await,
                        // Whether it refuses the first copy or a later one is not told.
                        Ok(true) => "the wallet refused a request that it may have heard before".to_owned(),
                        Err(error) => error.to_string(),
                    },
                    Outcome::Unknown { why } => why,
                    Outcome::Pending | Outcome::NotFound => "the wallet has not paid yet".to_owned(),
                }
            }
            // Another copy may be on its way.
            Err(Silence::Unsent(why)) => return unknown(why),
            Err(Silence::Late) => return unknown("too late to publish it; an identical request may have left in time"),
            Err(Silence::Lost(why)) => why,
        };
        match self.look(hash, entry).await {
            Outcome::Unknown { .. } => unknown(why),
            known => known,
        }
    }

    async fn resolve(&self, question: Resolve) -> Outcome {
        let hash = question.hash;
        let entries = match self.book.of(hash).await {
            Ok(entries) => entries,
            Err(error) => return unknown(error),
        };
        match own(&entries, &question.payment_id, question.attempt) {
            Some(entry) => self.look(hash, entry).await,
            // Requests for this hash, none of them for this send.
            None if !entries.is_empty() => Outcome::NotFound,
            None => match self.known(hash).await {
                Ok(Known::Nothing | Known::Own) => Outcome::NotFound,
                Ok(Known::Paying) => unrequested(),
                Err(error) => unknown(error),
            },
        }
    }
}

fn unrequested() -> Outcome {
    unknown("the wallet pays, or paid, this invoice, and not for a request that is known here: look into the wallet")
}

impl Pay for NwcWallet {
    /// The configured reserve: NIP-47 has no word for a fee limit, nor for what a payment would cost.
    fn quote(&self, request: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>> {
        Box::pin(async move {
            let invoice = self.0.payable(&request.bolt11, request.amount)?;
            self.0.can_pay().await?;
            let amount = invoice.amount.or(request.amount).unwrap_or(Msat::ZERO);
            Ok(Quote { max_fee: self.0.fee_reserve.of(amount), handle: None, expires_at: None })
        })
    }

    fn dispatch(&self, send: Dispatch) -> BoxFuture<'_, Outcome> {
        Box::pin(self.0.send(send))
    }

    fn resolve(&self, question: Resolve) -> BoxFuture<'_, Outcome> {
        Box::pin(self.0.resolve(question))
    }
}
