//! Balance, runway and lifecycle: what the wallet says, and what follows.

use nexus_core::event::EventBody;
use nexus_core::lifecycle::{self, Funds, Lifecycle};
use nexus_core::{Hash32, Msat, UnixMs};
use nexus_lightning::{InvoiceState, WalletDriver};
use nexus_store::agent::{Agent, Change};
use nexus_store::event::NewEvent;
use nexus_store::invoice_watch::InvoiceWatch;
use nexus_store::tick;

use crate::error::TurnError;
use crate::ledger::Pen;
use crate::market::fee_allowance;
use crate::{notice, wallet, zap};

const DAY_MS: i64 = 86_400_000;
/// Between looks at an old invoice, at most.
pub(crate) const MAX_PAUSE_MS: u64 = 5_000;

/// What a new balance changes, for a batch of its own or a tick's commit.
pub(crate) struct Funded {
    pub change: Change,
    pub events: Vec<NewEvent>,
    pub lifecycle: Lifecycle,
}

/// Works out what follows from a balance. `spent` is what this tick spent and the history does not show yet.
pub(crate) async fn follow(pen: &Pen<'_>, agent: &Agent, balance: Msat, spent: Msat) -> Result<Funded, TurnError> {
    let now = pen.now();
    let funds =
        Funds { balance, daily_spend: daily_spend(pen, agent, spent).await?, since: agent.lifecycle_since, now };
    let next = lifecycle::next(agent.lifecycle, &funds, &pen.host.config.lifecycle);
    let mut change = Change { balance: Some(balance), ..Change::default() };
    let mut events = Vec::new();
    if agent.balance.map(Msat::whole_sats) != Some(balance.whole_sats()) {
        events.push(NewEvent::new(now, EventBody::BalanceChanged { balance_sats: balance.whole_sats() }));
    }
    if next != agent.lifecycle {
        change.lifecycle = Some(next);
        events.push(NewEvent::new(now, EventBody::LifecycleChanged { state: next }));
        if lifecycle::wakes_now(agent.lifecycle, next) {
            change.next_tick_at = Some(Some(now));
            change.reason = Some(None);
            change.next_attempt_at = Some(None);
        }
    }
    Ok(Funded { change, events, lifecycle: next })
}

/// Mean spend of a day over the last seven; before three days of history, heartbeats at the last quote.
async fn daily_spend(pen: &Pen<'_>, agent: &Agent, spent: Msat) -> Result<Option<Msat>, TurnError> {
    let now = pen.now();
    let (sum, earliest) = tick::spent_since(&pen.host.store, pen.npub, UnixMs(now.0 - 7 * DAY_MS)).await?;
    let days = earliest.map_or(0, |first| (now.0 - first.0).div_euclid(DAY_MS) + 1);
    if days >= 3 {
        let mean = sum.saturating_add(spent).as_u64() / u64::try_from(days).unwrap_or(1);
        return Ok(Msat::try_from(mean).ok());
    }
    let Some(quote) = agent.last_quote else { return Ok(None) };
    let beats = 86_400 / u64::from(agent.config.heartbeat_secs.max(1));
    Ok(quote.saturating_add(fee_allowance(quote)).as_u64().checked_mul(beats).and_then(|m| Msat::try_from(m).ok()))
}

/// Asks the wallet and stores what follows. Nothing is written when nothing changed.
pub(crate) async fn refresh(
    pen: &Pen<'_>,
    agent: &mut Agent,
    driver: &dyn WalletDriver,
) -> Result<Option<Msat>, TurnError> {
    let balance = match wallet::balance(driver).await {
        Ok(balance) => balance,
        Err(error) => {
            tracing::info!(npub = %pen.npub.short(), %error, "wallet unreachable");
            return Ok(None);
        }
    };
    let funded = follow(pen, agent, balance, Msat::ZERO).await?;
    if agent.balance == Some(balance) && funded.lifecycle == agent.lifecycle {
        return Ok(Some(balance));
    }
    if let Some(next) = funded.change.next_tick_at {
        agent.next_tick_at = next;
    }
    if funded.change.reason.is_some() {
        agent.reason = None;
        agent.next_attempt_at = None;
    }
    pen.change(funded.change, funded.events).await?;
    if funded.lifecycle != agent.lifecycle {
        agent.lifecycle = funded.lifecycle;
        agent.lifecycle_since = pen.now();
        // At once: an agent with nothing new is not looked at for a while.
        notice::tend(pen, agent).await?;
    }
    agent.balance = Some(balance);
    Ok(Some(balance))
}

/// An invoice that was paid.
pub(crate) struct Paid {
    pub watch: InvoiceWatch,
    pub preimage: Option<Hash32>,
    pub at: UnixMs,
}

/// What a look at the open invoices showed.
#[derive(Default)]
pub(crate) struct Looked {
    pub paid: Vec<Paid>,
    /// Paid, cancelled or unknown to the wallet: not to be looked at again once what follows is stored.
    pub over: Vec<Hash32>,
    /// In how many ms to look again.
    pub again: Option<u64>,
}

/// Looks up the open invoices of an agent.
pub(crate) async fn look_at_invoices(now: UnixMs, driver: &dyn WalletDriver, open: Vec<InvoiceWatch>) -> Looked {
    let mut looked = Looked::default();
    for watch in open {
        match tokio::time::timeout(wallet::WALLET_TIMEOUT, driver.lookup_invoice(watch.hash)).await {
            Ok(Ok(InvoiceState::Settled { preimage, at, .. })) => {
                looked.over.push(watch.hash);
                let at = zap::paid_at(at, watch.made_at, now);
                looked.paid.push(Paid { watch, preimage, at });
            }
            Ok(Ok(InvoiceState::Canceled | InvoiceState::NotFound)) => looked.over.push(watch.hash),
            Ok(Ok(InvoiceState::Open | InvoiceState::Accepted) | Err(_)) | Err(_) => {
                let pause = pause_ms(watch.made_at, now);
                looked.again = Some(looked.again.map_or(pause, |again| again.min(pause)));
            }
        }
    }
    looked
}

/// A quarter of the invoice's age, so that whoever pays at once is seen at once: 200 ms at first, at most 5 s.
fn pause_ms(made_at: UnixMs, now: UnixMs) -> u64 {
    u64::try_from(now.0.saturating_sub(made_at.0) / 4).map_or(MAX_PAUSE_MS, |ms| ms.clamp(200, MAX_PAUSE_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invoice_is_looked_up_ever_more_seldom() {
        let at = |ms: i64| pause_ms(UnixMs(1_000_000), UnixMs(1_000_000 + ms));
        assert_eq!([at(0), at(799), at(4_000), at(20_000), at(600_000)], [200, 200, 1_000, 5_000, 5_000]);
        assert_eq!(at(-1_000), 5_000, "a clock that was set back makes no one ask without end");
    }
}
