//! Recovery: resolving payments in flight and publishing what is journaled. It is not a tick, and starts nothing new.

use std::time::Duration;

use nexus_core::payment::{Asker, EXPIRY_MARGIN_MS, Outcome, PaymentState, conclude};
use nexus_core::{Msat, TickId};
use nexus_lightning::{Dispatch, Idempotency, Resolve, WalletDriver};
use nexus_seal::Signer;
use nexus_store::payment::{self, Payment};
use nexus_store::publication::{self, Publication};
use nexus_store::side::{PaymentMove, Side};

use crate::dispute;
use crate::error::TurnError;
use crate::ledger::{Pen, settle_sides};
use crate::unlock::Opened;
use crate::wallet::WALLET_TIMEOUT;

/// Between attempts to publish an event that no relay took: 5 s at first, at most 10 minutes.
const PUBLISH_RETRY_MS: (i64, i64) = (5_000, publication::MAX_PAUSE_MS);
const MAX_PUBLISH: usize = 64;
/// Between looks at rent that was reserved and not sent.
const RENT_WAITS_MS: u64 = 30_000;
/// How far ahead a first attempt is planned while a tick makes it itself.
pub(crate) const FIRST_PLANNED_MS: i64 = 15_000;

/// What a backend said, and where that leaves the payment.
pub(crate) struct Resolved {
    pub state: PaymentState,
    pub fee: Msat,
    pub preimage: Option<nexus_core::Hash32>,
}

/// Asks what became of a payment. With `repeat`, an answer that an heir may not believe yet is met by sending the
/// identical payment again, where the backend recognises it and the invoice is still good.
pub(crate) async fn ask(pen: &Pen<'_>, wallet: &dyn WalletDriver, payment: &Payment, repeat: bool) -> Resolved {
    let asker = pen.host.asker(payment.hash, pen.generation);
    let question = Resolve {
        payment_id: payment.step.clone(),
        attempt: payment.attempt.max(1),
        hash: payment.hash,
        key: payment.step.clone(),
        handle: None,
    };
    let said = match tokio::time::timeout(WALLET_TIMEOUT, wallet.resolve(question)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Unknown { why: "no answer in time".into() },
    };
    #[cfg(feature = "broken")]
    if pen.host.faults.is_broken(crate::faults::Broken::ResentWhenUnknown) && !matches!(said, Outcome::Settled { .. }) {
        let again = send(pen, wallet, payment).await;
        if let Some(state) = conclude(&again, Asker::Dispatcher, payment.expires_at, pen.now()) {
            return read(state, &again);
        }
    }
    let concluded = conclude(&said, asker, payment.expires_at, pen.now());
    if let Some(state) = concluded {
        return read(state, &said);
    }
    let good = pen.now().plus_ms(EXPIRY_MARGIN_MS) < payment.expires_at;
    if repeat && good && wallet.capabilities().idempotency != Idempotency::None {
        // Sent more than once: only an heir's patience is left.
        pen.host.forget_dispatched(payment.hash, pen.generation);
        let again = send(pen, wallet, payment).await;
        if let Some(state) = conclude(&again, Asker::Heir, payment.expires_at, pen.now()) {
            return read(state, &again);
        }
    }
    Resolved { state: payment.state, fee: Msat::ZERO, preimage: None }
}

fn read(state: PaymentState, outcome: &Outcome) -> Resolved {
    match outcome {
        Outcome::Settled { preimage, fee } => Resolved { state, fee: *fee, preimage: *preimage },
        Outcome::Failed { .. } | Outcome::Pending | Outcome::NotFound | Outcome::Unknown { .. } => {
            Resolved { state, fee: Msat::ZERO, preimage: None }
        }
    }
}

/// Sends a payment whose dispatch is journaled. The driver checks the deadline right before its bytes leave.
pub(crate) async fn send(pen: &Pen<'_>, wallet: &dyn WalletDriver, payment: &Payment) -> Outcome {
    let host = pen.host;
    let until_expiry = payment.expires_at.0.saturating_sub(EXPIRY_MARGIN_MS).saturating_sub(pen.now().0);
    let expiry = host.mono().plus_ms(u64::try_from(until_expiry).unwrap_or(0));
    let dispatch = Dispatch {
        payment_id: payment.step.clone(),
        attempt: payment.attempt.max(1),
        key: payment.step.clone(),
        bolt11: payment.bolt11.clone(),
        amount: None,
        max_fee: payment.max_fee,
        deadline: host.lease_ends().min(expiry),
        handle: None,
    };
    wallet.dispatch(dispatch).await
}

/// What became of the payments in flight.
#[derive(Default)]
pub(crate) struct Payments {
    /// In how many ms to ask again.
    pub again: Option<u64>,
    /// One of them ended: the balance is another.
    pub concluded: bool,
}

/// Resolves the payments of an agent that no open tick looks after.
pub(crate) async fn payments(
    pen: &Pen<'_>,
    wallet: &dyn WalletDriver,
    opened: &Opened,
    open_tick: Option<TickId>,
) -> Result<Payments, TurnError> {
    let mut found = Payments::default();
    for payment in payment::open(&pen.host.store, pen.npub).await? {
        if open_tick.is_some() && payment.tick == open_tick {
            continue;
        }
        if payment.state == PaymentState::Reserved {
            if payment.step.starts_with("rent:") && pen.now().plus_ms(EXPIRY_MARGIN_MS) < payment.expires_at {
                // Whoever asked for it asks again, and it goes on.
                found.again = Some(RENT_WAITS_MS);
                continue;
            }
            // Held, never sent, and its tick is over.
            let sides = settle_sides(&payment, PaymentState::Canceled, PaymentState::Reserved, Msat::ZERO, pen.now());
            pen.apply(sides).await?;
            continue;
        }
        let resolved = ask(pen, wallet, &payment, false).await;
        let follows = dispute::concluded(pen, opened, &payment, &resolved).await?;
        store_with(pen, &payment, &resolved, follows).await?;
        if resolved.state.unresolved() {
            found.again = Some(1_000);
        } else {
            found.concluded = true;
        }
    }
    Ok(found)
}

/// Stores what was learned of a payment outside its tick.
pub(crate) async fn store(pen: &Pen<'_>, payment: &Payment, resolved: &Resolved) -> Result<(), TurnError> {
    store_with(pen, payment, resolved, Vec::new()).await
}

/// The same, with what follows from it.
async fn store_with(
    pen: &Pen<'_>,
    payment: &Payment,
    resolved: &Resolved,
    follows: Vec<Side>,
) -> Result<(), TurnError> {
    if resolved.state == payment.state {
        return Ok(());
    }
    let mut sides = if resolved.state.unresolved() {
        vec![moved(payment, resolved.state, pen.now())]
    } else {
        pen.host.forget_dispatched(payment.hash, pen.generation);
        settle_sides(payment, resolved.state, payment.state, resolved.fee, pen.now())
    };
    sides.extend(follows);
    pen.apply(sides).await
}

/// An arrow that releases nothing.
pub(crate) fn moved(payment: &Payment, to: PaymentState, at: nexus_core::UnixMs) -> Side {
    let (hash, from) = (payment.hash, payment.state);
    Side::Payment(PaymentMove { hash, from, to, at, fee: None, preimage: None, note: None })
}

/// Publishes what is due of an agent. Returns in how many ms the next one is.
pub(crate) async fn publications(pen: &Pen<'_>) -> Result<Option<u64>, TurnError> {
    let pending = publication::pending(&pen.host.store, pen.npub).await?;
    let mut next: Option<i64> = None;
    for publication in pending.into_iter().take(MAX_PUBLISH) {
        let now = pen.now();
        let wait = publication.next_attempt_at.0.saturating_sub(now.0);
        if waits(wait, publication.attempts) {
            next = Some(next.map_or(wait, |known| known.min(wait)));
            continue;
        }
        if let Some(wait) = publish(pen, &publication).await? {
            next = Some(next.map_or(wait, |known| known.min(wait)));
        }
    }
    Ok(next.map(|ms| u64::try_from(ms).unwrap_or(0)))
}

/// Whether an attempt so many ms ahead is waited for. One further ahead than the pause after so many attempts was planned
/// by a clock that was wrong, and is made now.
fn waits(ahead_ms: i64, attempts: u32) -> bool {
    0 < ahead_ms && ahead_ms <= pause_ms(attempts).max(FIRST_PLANNED_MS)
}

/// After so many attempts before this one.
fn pause_ms(attempts: u32) -> i64 {
    let (first, last) = PUBLISH_RETRY_MS;
    (first << attempts.min(8)).min(last)
}

async fn publish(pen: &Pen<'_>, publication: &Publication) -> Result<Option<i64>, TurnError> {
    // What is not what this worker wrote never leaves, and is not looked at again.
    let refuse = |why: &str| Side::PublicationResult {
        event_id: publication.event_id,
        done: true,
        relays: format!(r#"["refused: {why}"]"#),
        next_attempt_at: None,
    };
    let Ok(event) = nexus_nostr::parse_event(publication.json.as_bytes()) else {
        pen.apply(vec![refuse("the stored event does not verify")]).await?;
        return Ok(None);
    };
    if !is_own(pen, &event) {
        tracing::error!(npub = %pen.npub.short(), "a stored event of another author is not published");
        pen.apply(vec![refuse("the stored event has another author")]).await?;
        return Ok(None);
    }
    let timeout = Duration::from_millis(pen.host.config.publish_timeout_ms);
    let reports = pen.host.relays.publish(&event, &publication.relays, timeout).await;
    let done = reports.iter().any(|report| report.outcome.is_ok());
    let wait = pause_ms(publication.attempts);
    let next = if done { None } else { Some(pen.now().plus_ms(wait)) };
    let relays = serde_json::to_string(&words(&reports)).unwrap_or_default();
    let side = Side::PublicationResult { event_id: publication.event_id, done, relays, next_attempt_at: next };
    pen.apply(vec![side]).await?;
    Ok(if done { None } else { Some(wait) })
}

/// Whether an event is one that this worker writes for an agent: its own, a wrap's (whose author is nobody), or the
/// installation's: questions to the owner, receipts for zaps, its word of ticks.
fn is_own(pen: &Pen<'_>, event: &nostr::event::Event) -> bool {
    let author = nexus_nostr::event::npub(&event.pubkey);
    match event.kind.as_u16() {
        nexus_nostr::kinds::GIFT_WRAP => true,
        nexus_nostr::kinds::APPROVAL_REQUEST
        | nexus_nostr::kinds::TICK_REQUEST
        | nexus_nostr::kinds::TICK_RESULT
        | nexus_nostr::kinds::ZAP_RECEIPT => pen.host.runner.get().is_some_and(|runner| runner.public_key() == author),
        _ => author == pen.npub,
    }
}

/// Each relay's answer in words.
pub(crate) fn words(reports: &[nexus_nostr::Published]) -> Vec<String> {
    let word = |report: &nexus_nostr::Published| match &report.outcome {
        Ok(()) => format!("{}: ok", report.relay),
        Err(error) => format!("{}: {error}", report.relay),
    };
    reports.iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_planned_by_a_clock_that_was_ahead_is_made_now() {
        assert!(!waits(0, 0) && !waits(-1, 0), "due");
        assert!(waits(1, 0) && waits(FIRST_PLANNED_MS, 0) && waits(40_000, 3) && waits(PUBLISH_RETRY_MS.1, 20));
        assert!(!waits(FIRST_PLANNED_MS + 1, 0) && !waits(456_000, 1), "minutes ahead");
        assert!(!waits(PUBLISH_RETRY_MS.1 + 1, 20) && !waits(3 * 3_600_000, 20));
    }
}
