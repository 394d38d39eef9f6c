//! What a wallet's answer means for money.

use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Hash32, Msat, UnixMs};

use super::message::{ErrorCode, Response, Transaction, TransactionState};
use crate::checks::proven;
use crate::driver::InvoiceState;

/// How long after an invoice's expiry a wallet's "failed" is believed, in milliseconds. Wallets call a payment failed for
/// an error of their own while it is still in flight.
pub const FAILURE_MARGIN_MS: i64 = 600_000;

/// A payment of ours through a wallet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    pub hash: Hash32,
    /// What was reserved for fees: what they are taken to be where the wallet does not say.
    pub max_fee: Msat,
    /// The invoice's.
    pub expires_at: UnixMs,
}

impl Outgoing {
    fn settled(&self, preimage: Option<Hash32>, fees_paid: Option<Msat>) -> Outcome {
        proven(Outcome::Settled { preimage, fee: fees_paid.unwrap_or(self.max_fee) }, self.hash)
    }

    /// A "no" of the wallet, once nothing can be in flight any more.
    fn no(&self, outcome: Outcome, now: UnixMs) -> Outcome {
        if now >= self.expires_at.plus_ms(FAILURE_MARGIN_MS) {
            return outcome;
        }
        Outcome::Unknown { why: "the wallet says that it did not pay, which is not believed yet".to_owned() }
    }
}

/// What the answer to `pay_invoice` means. Failed only for refusals that come before anything is sent.
pub fn paid(response: &Response, payment: &Outgoing) -> Outcome {
    let failed = |class| Outcome::Failed { class };
    match response {
        Response::Paid { preimage, fees_paid } => payment.settled(*preimage, *fees_paid),
        Response::Error { code, message } => match code {
            ErrorCode::InsufficientBalance => failed(FailureClass::NoFunds),
            ErrorCode::QuotaExceeded | ErrorCode::Restricted => failed(FailureClass::Rejected),
            ErrorCode::Unauthorized => failed(FailureClass::Auth),
            ErrorCode::UnsupportedEncryption => failed(FailureClass::Protocol),
            ErrorCode::RateLimited
            | ErrorCode::NotImplemented
            | ErrorCode::PaymentFailed
            | ErrorCode::NotFound
            | ErrorCode::Internal
            | ErrorCode::Other => Outcome::Unknown { why: format!("the wallet says: {message}") },
        },
        Response::Transaction(_) | Response::Balance(_) | Response::Info { .. } => other(),
    }
}

/// What the answer to `lookup_invoice` means for a payment of ours. `Failed` and `NotFound` from
/// [`FAILURE_MARGIN_MS`] past the invoice's expiry on, and never before.
pub fn looked_up(response: &Response, payment: &Outgoing, now: UnixMs) -> Outcome {
    let told = match response {
        Response::Transaction(told) if told.hash == payment.hash => told,
        Response::Error { code: ErrorCode::NotFound, .. } => return payment.no(Outcome::NotFound, now),
        Response::Error { message, .. } => {
            return Outcome::Unknown { why: format!("the wallet says: {message}") };
        }
        Response::Transaction(_) | Response::Paid { .. } | Response::Balance(_) | Response::Info { .. } => {
            return other();
        }
    };
    if told.outgoing == Some(false) {
        return Outcome::Unknown { why: "the wallet tells of an invoice of its own, not of a payment".to_owned() };
    }
    let preimage = told.preimage.filter(|it| Hash32::sha256(it.as_bytes()) == payment.hash);
    if preimage.is_some() {
        return payment.settled(preimage, told.fees_paid);
    }
    match told.state {
        Some(TransactionState::Pending | TransactionState::Accepted) => Outcome::Pending,
        Some(TransactionState::Settled) => payment.settled(None, told.fees_paid),
        Some(TransactionState::Failed | TransactionState::Expired) => {
            payment.no(Outcome::Failed { class: FailureClass::NoRoute }, now)
        }
        Some(TransactionState::Unknown) => other(),
        None if told.settled_at.is_some() => payment.settled(None, told.fees_paid),
        None => Outcome::Pending,
    }
}

/// Where an invoice of ours stands, by the answer to `lookup_invoice`; none if the answer is not about it.
pub fn invoice_state(response: &Response, hash: Hash32) -> Option<InvoiceState> {
    let told = match response {
        Response::Transaction(told) if told.hash == hash && told.outgoing != Some(true) => told,
        Response::Error { code: ErrorCode::NotFound, .. } => return Some(InvoiceState::NotFound),
        Response::Transaction(_)
        | Response::Error { .. }
        | Response::Paid { .. }
        | Response::Balance(_)
        | Response::Info { .. } => return None,
    };
    let Transaction { amount, settled_at, preimage, .. } = *told;
    let settled = |at| InvoiceState::Settled {
        amount,
        preimage: preimage.filter(|it| Hash32::sha256(it.as_bytes()) == hash),
        at,
    };
    match (told.state, settled_at) {
        (Some(TransactionState::Settled) | None, Some(at)) => Some(settled(at)),
        (Some(TransactionState::Pending) | None, None) | (Some(TransactionState::Pending), Some(_)) => {
            Some(InvoiceState::Open)
        }
        (Some(TransactionState::Accepted), _) => Some(InvoiceState::Accepted),
        (Some(TransactionState::Expired | TransactionState::Failed), _) => Some(InvoiceState::Canceled),
        // Paid, but not when; or a state that is not known here: to be asked again.
        (Some(TransactionState::Settled), None) | (Some(TransactionState::Unknown), _) => None,
    }
}

fn other() -> Outcome {
    Outcome::Unknown { why: "the wallet answered something else than was asked".to_owned() }
}
