//! After a restore, and before anything else: what the database does not know of.
//!
//! A database that was put back from a backup is of an earlier moment. What the agent paid since then was paid by its
//! wallet, which knows. So payments of which it is not known whether they were sent are looked up until they are known, and
//! never sent; what is missing from the wallet beyond that was spent, and counts against today's limit; and what waited
//! for its owner is over, since it may have been answered and done.

use nexus_core::approval::State;
use nexus_core::budget::Window;
use nexus_core::event::EventBody;
use nexus_core::payment::PaymentState;
use nexus_core::rent::Begun;
use nexus_core::{Hash32, Msat, UnixMs};
use nexus_store::agent::{self, Agent, Settle};
use nexus_store::backup::RESTORED;
use nexus_store::event::NewEvent;
use nexus_store::payment;
use nexus_store::side::Side;

use crate::error::TurnError;
use crate::faults::At;
use crate::ledger::Pen;
use crate::recover;
use crate::unlock::{Opened, seal_state};
use crate::wallet;

const RETRY_MS: u64 = 5_000;

/// Compares wallet and books, once. Until that is done the agent waits, and its reason says for what.
pub(crate) async fn reconcile(pen: &Pen<'_>, agent: &mut Agent, opened: &mut Opened) -> Result<(), TurnError> {
    let (store, now) = (&pen.host.store, pen.now());
    let driver = wallet::open(pen.host, opened).await?;
    recover::payments(pen, &*driver, opened, None).await?;
    let open = payment::open(store, pen.npub).await?.len();
    if open > 0 {
        let text = format!("it was restored from a backup: {open} of its payments are looked up until they are known");
        return Err(TurnError::parked(RESTORED, text, RETRY_MS));
    }
    let Ok(balance) = wallet::balance(&*driver).await else {
        let text = "it was restored from a backup: its wallet is asked what it has, and does not answer";
        return Err(TurnError::parked(RESTORED, text, RETRY_MS));
    };
    let at = agent.restored_at.unwrap_or(UnixMs(0));
    let explained = payment::list(store, pen.npub, None, payment::MAX_PAGE).await?;
    let explained =
        explained.iter().filter(|payment| payment.state == PaymentState::Settled && payment.updated_at >= at);
    let explained =
        explained.fold(Msat::ZERO, |sum, payment| sum.saturating_add(payment.amount).saturating_add(payment.fee));
    let known = agent.balance.unwrap_or(balance);
    let missing = known.saturating_sub(balance).saturating_sub(explained);
    let mut side = vec![Side::Reconciled { balance }];
    if missing > Msat::ZERO {
        let window = Window::day_of(now);
        if let Window::Day(day) = window {
            opened.state.add_spend(day, missing);
        }
        side.push(Side::CountSpent { window, amount: missing });
        if opened.policy().is_some_and(|policy| policy.rent.is_some()) {
            // It may have been rent: counted as that, and never given back.
            let (hash, expires_at) = (Hash32::sha256(format!("restored:{}", at.0).as_bytes()), UnixMs(i64::MAX));
            let begun = Begun { hash, cost: missing, attempt: 1, expires_at };
            let month = opened.state.rent.month_at(now);
            if opened.state.rent.begin(month, begun, Msat::MAX).is_err() {
                tracing::warn!(npub = %pen.npub.short(), "the month has begun too many payments of rent to count another");
            }
        }
    }
    let over = State::Expired { at: now };
    let mut events = vec![NewEvent::new(now, EventBody::Restored { missing_sats: missing.sats_ceil() })];
    if known.whole_sats() != balance.whole_sats() {
        events.push(NewEvent::new(now, EventBody::BalanceChanged { balance_sats: balance.whole_sats() }));
    }
    for waiting in std::mem::take(&mut opened.state.waiting) {
        let id = waiting.asked.id();
        side.push(Side::Approval { id, state: over });
        let body = EventBody::ApprovalChanged { approval_id: id, state: over.as_str().to_owned() };
        events.push(NewEvent::new(now, body));
    }
    let state = seal_state(pen.host, pen.generation, opened).await?;
    let version = state.version;
    let (fence, npub, generation) = (pen.fence()?, pen.npub, pen.generation);
    let settle = Settle { fence, npub, generation, at: now, state, inbox: Vec::new(), side, events };
    pen.host.faults.pass(At::Before, "restored").await;
    let seqs = agent::settle(store, settle).await?;
    pen.host.faults.pass(At::After, "restored").await;
    opened.stored_version = version;
    pen.host.announce(pen.npub, &seqs);
    agent.unreconciled = false;
    agent.balance = Some(balance);
    agent.reason = None;
    tracing::warn!(npub = %pen.npub.short(), missing = %missing, "restored from a backup; wallet and books compared");
    Ok(())
}
