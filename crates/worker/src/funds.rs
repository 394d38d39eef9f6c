//! Balance, runway and lifecycle: what the wallet says, and what follows.

use nexus_core::event::EventBody;
use nexus_core::lifecycle::{self, Funds, Lifecycle};
use nexus_core::{Msat, UnixMs};
use nexus_lightning::{InvoiceState, WalletDriver};
use nexus_store::agent::{Agent, Change};
use nexus_store::event::NewEvent;
use nexus_store::tick;

use crate::error::TurnError;
use crate::host::Watch;
use crate::ledger::Pen;
use crate::market::fee_allowance;
use crate::wallet;

const DAY_MS: i64 = 86_400_000;

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
    }
    agent.balance = Some(balance);
    Ok(Some(balance))
}

/// Looks up the open invoices of an agent. Returns whether one was paid, and in how many ms to look again.
pub(crate) async fn look_at_watches(pen: &Pen<'_>, driver: &dyn WalletDriver) -> (bool, Option<u64>) {
    let watches = pen.host.watches(&pen.npub);
    let mut left: Vec<Watch> = Vec::new();
    let mut paid = false;
    for mut watch in watches {
        match tokio::time::timeout(wallet::WALLET_TIMEOUT, driver.lookup_invoice(watch.hash)).await {
            Ok(Ok(InvoiceState::Settled { .. })) => paid = true,
            Ok(Ok(InvoiceState::Canceled | InvoiceState::NotFound)) => {}
            Ok(Ok(InvoiceState::Open | InvoiceState::Accepted) | Err(_)) | Err(_) => {
                watch.looks = watch.looks.saturating_add(1);
                if pen.now() < watch.expires_at.plus_ms(60_000) {
                    left.push(watch);
                }
            }
        }
    }
    // 200 ms at first, then slower, at most every 5 s.
    let again = left.iter().map(|watch| (200 * u64::from(watch.looks).pow(2)).clamp(200, 5_000)).min();
    pen.host.set_watches(pen.npub, left);
    (paid, again)
}
