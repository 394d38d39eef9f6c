//! Payments that a provider holds: in flight while it works, taken with its result or given back.
//!
//! The tick waits for whichever comes first, the result or the payment's end. A result is taken while the money is still in
//! flight; the payment is then seen through for a moment, and left to recovery after that. Nobody else is asked before the
//! money is surely back.

use std::time::Duration;

use nexus_core::payment::{FailureClass, PaymentState};
use nexus_core::tick::{Job, Record, Request};
use nexus_store::payment::Payment;

use crate::error::TurnError;
use crate::ledger::Pen;
use crate::payable::Payable;
use crate::perform::{Heard, listen, not_paid, result_wait, settled, unresolved};
use crate::recover::{Resolved, ask, moved};
use crate::tick::Run;

/// How long the payment of an answer that is there is waited for.
const SEE_THROUGH_MS: u64 = 10_000;
/// Between two questions to the wallet, at first and at most.
const PAUSE_MS: (u64, u64) = (100, 2_000);

/// What came first.
enum First {
    Money(Resolved),
    Heard(Option<Heard>),
}

/// Waits for the result of a job whose payment is in flight, or for the payment's end.
pub(crate) async fn follow(run: &mut Run<'_>, request: &Request, mut payment: Payment) -> Result<(), TurnError> {
    let attempt = request.attempt;
    let payable = Payable::Job { attempt };
    let first = if matches!(run.tick.jobs().last(), Some(Job::Paying { answer: Some(_), .. })) {
        tokio::select! {
            biased;
            money = end_of(&run.pen, run, &mut payment) => First::Money(money?),
            () = run.stop.cancelled() => return Err(TurnError::Interrupted),
            () = tokio::time::sleep(Duration::from_millis(SEE_THROUGH_MS)) => First::Heard(None),
        }
    } else {
        let timeout = i64::try_from(run.pen.host.config.job_timeout_ms).unwrap_or(i64::MAX);
        // Counted from when the money left, or was seen in flight: a restart does not begin anew.
        let left = result_wait(payment.updated_at, run.pen.now(), timeout);
        let mut said = Vec::new();
        let heard = listen(run, request, left, left, true, &mut said);
        tokio::select! {
            biased;
            money = end_of(&run.pen, run, &mut payment) => First::Money(money?),
            heard = heard => First::Heard(heard?),
        }
    };
    match first {
        First::Money(Resolved { state: PaymentState::Settled, fee, preimage }) => {
            settled(run, payable, &payment, fee, preimage).await
        }
        First::Money(_) => not_paid(run, payable, &payment, FailureClass::Rejected).await,
        First::Heard(Some(Heard::Answer { content, .. })) => {
            run.append(Record::Answered { attempt, content }, Vec::new()).await
        }
        First::Heard(None | Some(Heard::Busy | Heard::Bill { .. } | Heard::Refused(_))) => {
            run.append(unresolved(run, payable), Vec::new()).await
        }
    }
}

/// Asks the wallet until the payment has settled, or has surely failed. What is learned on the way is stored.
async fn end_of(pen: &Pen<'_>, run: &Run<'_>, payment: &mut Payment) -> Result<Resolved, TurnError> {
    let mut pause = PAUSE_MS.0;
    loop {
        let resolved = ask(pen, &*run.wallet, payment, true).await;
        if matches!(resolved.state, PaymentState::Settled | PaymentState::Failed) {
            return Ok(resolved);
        }
        if resolved.state != payment.state {
            pen.apply(vec![moved(payment, resolved.state, pen.now())]).await?;
            payment.state = resolved.state;
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        pause = (pause * 2).min(PAUSE_MS.1);
    }
}
