//! One agent's writes under the fence: shorthand for what every step of a turn does.

use nexus_core::availability::Month;
use nexus_core::budget::Window;
use nexus_core::event::EventBody;
use nexus_core::payment::PaymentState;
use nexus_core::status::Reason;
use nexus_core::{Generation, Hash32, Msat, Npub, UnixMs};
use nexus_store::agent::{self, Agent, Change};
use nexus_store::event::NewEvent;
use nexus_store::payment::Payment;
use nexus_store::side::{PaymentMove, Side};
use nexus_store::{Fence, journal};

use crate::delegation;
use crate::error::TurnError;
use crate::host::Host;
use crate::tick::Run;
use crate::vitals::payment_states;

/// Who writes, for whom, at which generation.
#[derive(Clone, Copy)]
pub(crate) struct Pen<'a> {
    pub host: &'a Host,
    pub npub: Npub,
    pub generation: Generation,
}

impl Pen<'_> {
    /// The fence to write under. None of it holds once the lease is near its end.
    pub fn fence(&self) -> Result<Fence, TurnError> {
        self.host.live_fence()
    }

    pub fn now(&self) -> UnixMs {
        self.host.now()
    }

    /// Side effects outside a tick's journal.
    pub async fn apply(&self, side: Vec<Side>) -> Result<(), TurnError> {
        let store = &self.host.store;
        let states = payment_states(&side);
        let seqs = journal::apply(store, self.fence()?, self.npub, self.generation, self.now(), side).await?;
        self.host.vitals.committed(&states);
        self.host.announce(self.npub, &seqs);
        Ok(())
    }

    pub async fn change(&self, change: Change, events: Vec<NewEvent>) -> Result<(), TurnError> {
        let store = &self.host.store;
        let seqs = agent::change(store, self.fence()?, self.npub, self.generation, self.now(), change, events).await?;
        self.host.announce(self.npub, &seqs);
        Ok(())
    }

    /// Shows why the agent is as it is; writes nothing when that is shown already, with an attempt that is still ahead.
    pub async fn reason(&self, agent: &Agent, reason: Option<Reason>, next: Option<UnixMs>) -> Result<(), TurnError> {
        if agent.reason == reason && still_holds(reason.is_some(), agent.next_attempt_at, next, self.now()) {
            return Ok(());
        }
        let change = Change { reason: Some(reason), next_attempt_at: Some(next), ..Change::default() };
        self.change(change, Vec::new()).await
    }
}

/// Whether the next attempt that is shown need not be written anew: under a reason any that is still ahead will do.
fn still_holds(reasoned: bool, shown: Option<UnixMs>, next: Option<UnixMs>, now: UnixMs) -> bool {
    shown == next || (reasoned && shown.is_some_and(|at| at > now))
}

/// What a payment's end means for its budget windows and the owner's view.
pub(crate) fn settle_sides(
    payment: &Payment,
    to: PaymentState,
    from: PaymentState,
    fee: Msat,
    at: UnixMs,
) -> Vec<Side> {
    let mut sides = vec![Side::Payment(PaymentMove {
        hash: payment.hash,
        from,
        to,
        at,
        fee: (to == PaymentState::Settled).then_some(fee),
        preimage: None,
        note: None,
    })];
    for window in &payment.windows {
        match to {
            PaymentState::Settled => sides.push(Side::SettleBudget {
                window: *window,
                held: payment.hold(),
                spent: payment.amount.saturating_add(fee),
            }),
            PaymentState::Failed | PaymentState::Canceled => {
                sides.push(Side::ReleaseBudget { window: *window, amount: payment.hold() });
            }
            PaymentState::Reserved | PaymentState::Dispatched | PaymentState::Pending | PaymentState::Unknown => {}
        }
    }
    if !to.holds() {
        let view = payment_event(payment.hash, to, payment.amount, fee);
        sides.push(Side::AppendEvent(NewEvent::new(at, view)));
    }
    sides
}

pub(crate) fn payment_event(hash: Hash32, state: PaymentState, amount: Msat, fee: Msat) -> EventBody {
    EventBody::Payment {
        payment_hash: hash,
        state: state.as_str().to_owned(),
        amount_sats: amount.sats_ceil(),
        fee_sats: fee.sats_ceil(),
    }
}

/// The windows that a payment of a tick is counted in, with their limits: its own, the day and, where that is limited, the
/// month in which it began, and the delegation that it is for. The state that it commits counts the same day, also when
/// midnight passes on the way.
pub(crate) fn windows(run: &Run<'_>) -> Vec<(Window, Msat)> {
    let Some(policy) = run.opened.policy() else { return Vec::new() };
    let (limits, began_at) = (&policy.limits, run.tick.began_at);
    let mut windows = vec![(Window::Tick(run.id), limits.tick_msat), (Window::day_of(began_at), limits.day_msat)];
    windows.extend(limits.month_msat.map(|limit| (Window::Month(Month::of(began_at)), limit)));
    windows.extend(
        delegation::of(&run.taken)
            .map(|delegation| (delegation::window(&delegation), delegation.max_amount.unwrap_or_default())),
    );
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_is_past_is_not_shown_on() {
        let (past, now, ahead, later) = (UnixMs(5), UnixMs(10), UnixMs(15), UnixMs(20));
        assert!(still_holds(true, Some(ahead), Some(later), now), "told once");
        assert!(!still_holds(true, Some(past), Some(later), now));
        assert!(!still_holds(true, None, Some(later), now));
        assert!(!still_holds(false, Some(ahead), Some(later), now));
        assert!(still_holds(false, None, None, now));
    }
}
