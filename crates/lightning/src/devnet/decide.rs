//! What the network answers to a request: pure, from the books and the time.

use nexus_core::payment::FailureClass;
use nexus_core::{Hash32, Msat, UnixMs};

use super::ledger::{
    Entry, Flight, InvoiceRow, InvoiceRowState, Ledger, MAX_ACCOUNTS, MAX_OPEN_INVOICES, PaymentKey, PaymentRow,
    PaymentRowState,
};
use super::{FAUCET, Fee, Party};

/// Why the network refuses what is not a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    TooManyAccounts,
    TooManyInvoices,
    /// The preimage is in use with other values, or by somebody else.
    Conflict,
}

/// A payment as the payer sent it, its invoice decoded.
#[derive(Debug, Clone)]
pub(super) struct Payment {
    pub(super) key: PaymentKey,
    pub(super) attempt: u32,
    pub(super) bolt11: String,
    /// When the invoice that was sent expires, by its own word.
    pub(super) expires_at: UnixMs,
    /// What the payer wants to pay for an invoice that leaves it open.
    pub(super) amount: Option<Msat>,
    pub(super) max_fee: Msat,
}

/// How a payment is to go. Without the feature `faults` it is always as the books say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    Plain,
    #[cfg_attr(not(feature = "faults"), expect(dead_code, reason = "only faults stray from the plain course"))]
    Flight(Flight),
    #[cfg_attr(not(feature = "faults"), expect(dead_code, reason = "only faults stray from the plain course"))]
    Refuse(FailureClass),
}

/// The faucet's gift, the first time.
pub(super) fn faucet(ledger: &Ledger, party: Party, now: UnixMs) -> Result<Vec<Entry>, Refusal> {
    if ledger.account(party).faucet {
        return Ok(Vec::new());
    }
    if ledger.accounts() >= MAX_ACCOUNTS {
        return Err(Refusal::TooManyAccounts);
    }
    Ok(vec![Entry::Faucet { party, amount: FAUCET, at: now }])
}

/// A new invoice, or the one that this very request made before.
pub(super) fn invoice(ledger: &Ledger, hash: Hash32, row: InvoiceRow) -> Result<(Vec<Entry>, InvoiceRow), Refusal> {
    if let Some(known) = ledger.invoice(hash) {
        let same = known.payee == row.payee && known.amount == row.amount && known.hold_ms == row.hold_ms;
        return if same { Ok((Vec::new(), known.clone())) } else { Err(Refusal::Conflict) };
    }
    if ledger.account(row.payee).open_invoices >= MAX_OPEN_INVOICES {
        return Err(Refusal::TooManyInvoices);
    }
    if ledger.accounts() >= MAX_ACCOUNTS {
        return Err(Refusal::TooManyAccounts);
    }
    Ok((vec![Entry::Invoice { hash, row: row.clone() }], row))
}

/// Pays, once. A payment that the books know is answered from the books: only a later attempt of a failed one begins
/// again, so a late copy of an earlier attempt moves nothing.
pub(super) fn pay(ledger: &Ledger, payment: &Payment, fee: Fee, course: Course, now: UnixMs) -> Vec<Entry> {
    match ledger.payment(&payment.key) {
        Some(PaymentRow { state: PaymentRowState::Failed(_), attempt, .. }) if payment.attempt > *attempt => {}
        Some(_) => return Vec::new(),
        None => {}
    }
    let (key, attempt) = (payment.key.clone(), payment.attempt);
    let hold_ms = ledger.invoice(payment.key.hash).and_then(|invoice| invoice.hold_ms);
    let flight = match course {
        Course::Plain => hold_ms.map_or(Flight::Landed, |ms| Flight::Held { until: now.plus_ms(ms) }),
        // Whatever a fault says, nothing settles without the payee's preimage.
        Course::Flight(flight @ Flight::Settles { .. }) => {
            hold_ms.map_or(flight, |ms| Flight::Held { until: now.plus_ms(ms) })
        }
        Course::Flight(flight) => flight,
        Course::Refuse(class) => {
            return vec![Entry::Refuse { key, attempt, class, at: now, expires_at: kept_until(payment, now) }];
        }
    };
    let invoice = match payable(ledger, payment, fee, now) {
        Ok(invoice) => invoice,
        Err(class) => {
            return vec![Entry::Refuse { key, attempt, class, at: now, expires_at: kept_until(payment, now) }];
        }
    };
    let begin = Entry::Begin {
        key: key.clone(),
        attempt,
        amount: invoice.amount,
        fee: fee.of(invoice.amount),
        flight,
        at: now,
        expires_at: invoice.expires_at,
    };
    match flight {
        Flight::Landed => vec![begin, Entry::Settle { key, at: now }],
        Flight::Settles { .. } | Flight::Fails { .. } | Flight::Stuck | Flight::Held { .. } => vec![begin],
    }
}

/// The payee takes what is held for a preimage; again, once it has it. None when no money waits.
pub(super) fn settle_held(ledger: &Ledger, party: Party, preimage: Hash32, now: UnixMs) -> Option<Vec<Entry>> {
    let hash = Hash32::sha256(preimage.as_bytes());
    let invoice = ledger.invoice(hash).filter(|row| row.payee == party)?;
    if matches!(invoice.state, InvoiceRowState::Settled { .. }) {
        return Some(Vec::new());
    }
    let key = ledger.held_for(hash)?;
    Some(vec![Entry::Reveal { hash, preimage }, Entry::Settle { key, at: now }])
}

/// The payee gives back what is held, or ends an open invoice; again, once it is over. None when it is too late.
pub(super) fn cancel(ledger: &Ledger, party: Party, hash: Hash32, now: UnixMs) -> Option<Vec<Entry>> {
    let invoice = ledger.invoice(hash).filter(|row| row.payee == party)?;
    let over = Entry::Cancel { hash, at: now };
    match invoice.state {
        InvoiceRowState::Canceled => Some(Vec::new()),
        InvoiceRowState::Open => Some(vec![over]),
        InvoiceRowState::InFlight => {
            let key = ledger.held_for(hash)?;
            Some(vec![Entry::Return { key, class: FailureClass::Rejected, at: now }, over])
        }
        InvoiceRowState::Settled { .. } => None,
    }
}

/// A foreign invoice may claim any expiry; a verdict on it is kept no longer than one of ours.
fn kept_until(payment: &Payment, now: UnixMs) -> UnixMs {
    payment.expires_at.min(now.plus_ms(super::ledger::KEEP_MS))
}

fn payable<'l>(ledger: &'l Ledger, payment: &Payment, fee: Fee, now: UnixMs) -> Result<&'l InvoiceRow, FailureClass> {
    let invoice = ledger.invoice(payment.key.hash).ok_or(FailureClass::NoRoute)?;
    // Another text under the same hash is not our invoice, whatever amount it names.
    if invoice.bolt11 != payment.bolt11 || payment.amount.is_some() || invoice.payee == payment.key.payer {
        return Err(FailureClass::Refused);
    }
    if invoice.state != InvoiceRowState::Open {
        return Err(FailureClass::Rejected);
    }
    if now >= invoice.expires_at {
        return Err(FailureClass::Refused);
    }
    let fee = fee.of(invoice.amount);
    if fee > payment.max_fee {
        return Err(FailureClass::FeeTooHigh);
    }
    let cost = invoice.amount.checked_add(fee).ok_or(FailureClass::NoFunds)?;
    if ledger.account(payment.key.payer).balance < cost.as_u64() {
        return Err(FailureClass::NoFunds);
    }
    Ok(invoice)
}

#[cfg(test)]
mod tests;
