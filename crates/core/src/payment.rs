//! The payment state machine: at most one settled payment for each payable step.
//!
//! Unknown is not failed. Money that may have left is held until a backend says for certain that it has not.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Generation, Hash32};
use crate::money::Msat;
use crate::time::UnixMs;

/// Seconds past an invoice's expiry before an heir may believe `failed` or `not found`: until then a frozen
/// sender could still pay.
pub const HEIR_FINALITY_MARGIN_MS: i64 = 60_000;

/// An invoice must live at least this much longer than the moment its payment is dispatched.
pub const EXPIRY_MARGIN_MS: i64 = 30_000;

/// Where a payment stands. `SETTLED` and `CANCELED` never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentState {
    /// Budget held, nothing sent.
    Reserved,
    /// The bytes may have left.
    Dispatched,
    /// The backend has it in flight.
    Pending,
    /// The backend's answer was lost or said nothing.
    Unknown,
    Settled,
    Failed,
    Canceled,
}

impl PaymentState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Dispatched => "dispatched",
            Self::Pending => "pending",
            Self::Unknown => "unknown",
            Self::Settled => "settled",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Reserved, Self::Dispatched, Self::Pending, Self::Unknown, Self::Settled, Self::Failed, Self::Canceled]
            .into_iter()
            .find(|state| state.as_str() == text)
    }

    /// Whether the held budget must stay held.
    pub const fn holds(self) -> bool {
        match self {
            Self::Reserved | Self::Dispatched | Self::Pending | Self::Unknown => true,
            Self::Settled | Self::Failed | Self::Canceled => false,
        }
    }

    /// Whether recovery still owes an answer.
    pub const fn unresolved(self) -> bool {
        match self {
            Self::Dispatched | Self::Pending | Self::Unknown => true,
            Self::Reserved | Self::Settled | Self::Failed | Self::Canceled => false,
        }
    }

    /// Whether one arrow of the machine leads from `self` to `to`.
    pub const fn may_become(self, to: Self) -> bool {
        match self {
            Self::Reserved => matches!(to, Self::Dispatched | Self::Canceled),
            Self::Dispatched => matches!(to, Self::Settled | Self::Failed | Self::Unknown | Self::Pending),
            Self::Pending => matches!(to, Self::Settled | Self::Failed | Self::Unknown),
            Self::Unknown => matches!(to, Self::Settled | Self::Failed | Self::Pending),
            // By policy, as the next attempt of the same row.
            Self::Failed => matches!(to, Self::Reserved),
            Self::Settled | Self::Canceled => false,
        }
    }
}

/// What a backend said of a payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// Paid. The preimage's hash was checked by the driver where the backend gives one.
    Settled {
        preimage: Option<Hash32>,
        fee: Msat,
    },
    /// Surely not paid, and nothing in flight.
    Failed {
        class: FailureClass,
    },
    Pending,
    NotFound,
    /// Anything else: a timeout, a cut stream, an error whose meaning is not certain.
    Unknown {
        why: String,
    },
}

/// Why a payment failed for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// Nothing was sent: expired, over a limit, not an invoice we can pay.
    Refused,
    NoRoute,
    NoFunds,
    FeeTooHigh,
    Rejected,
    Auth,
    Unreachable,
    Protocol,
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the wallet did not send it: expired, over a limit, or not payable",
            Self::NoRoute => "there is no route to the payee",
            Self::NoFunds => "the wallet has too little",
            Self::FeeTooHigh => "routing would cost more than allowed",
            Self::Rejected => "the payee rejected it",
            Self::Auth => "the wallet's backend did not accept its credentials",
            Self::Unreachable => "the wallet's backend cannot be reached",
            Self::Protocol => "the wallet's backend answered something unreadable",
        })
    }
}

/// Who asks: the generation that dispatched and knows that its own request is over, or one that took the agent over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Sent it once and had a definite answer: its request is over.
    Dispatcher,
    /// Sent it once and had no answer: late bytes may still arrive. What failed had arrived; what is not found may yet.
    Unsure,
    /// Took the agent over, or sent it more than once.
    Heir,
}

impl Asker {
    pub fn of(dispatched_by: Generation, now: Generation) -> Self {
        if dispatched_by == now { Self::Dispatcher } else { Self::Heir }
    }
}

/// The state that an outcome leads to, or none if it must be asked again later.
pub fn conclude(outcome: &Outcome, asker: Asker, invoice_expires_at: UnixMs, now: UnixMs) -> Option<PaymentState> {
    let believed = match (asker, outcome) {
        (Asker::Dispatcher, _) | (Asker::Unsure, Outcome::Failed { .. }) => true,
        (Asker::Unsure | Asker::Heir, _) => now >= invoice_expires_at.plus_ms(HEIR_FINALITY_MARGIN_MS),
    };
    match outcome {
        Outcome::Settled { .. } => Some(PaymentState::Settled),
        Outcome::Pending => Some(PaymentState::Pending),
        Outcome::Unknown { .. } => Some(PaymentState::Unknown),
        Outcome::Failed { .. } | Outcome::NotFound if believed => Some(PaymentState::Failed),
        Outcome::Failed { .. } | Outcome::NotFound => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [PaymentState; 7] = [
        PaymentState::Reserved,
        PaymentState::Dispatched,
        PaymentState::Pending,
        PaymentState::Unknown,
        PaymentState::Settled,
        PaymentState::Failed,
        PaymentState::Canceled,
    ];

    #[test]
    fn texts_round_trip() {
        for state in ALL {
            assert_eq!(PaymentState::parse(state.as_str()), Some(state));
        }
        assert_eq!(PaymentState::parse("paid"), None);
    }

    proptest! {
        /// Along any walk of arrows: settled at most once and then never left, and money once dispatched is
        /// released only by settled or failed.
        #[test]
        fn money_that_may_have_left_stays_held(walk in prop::collection::vec(0_usize..7, 1..40)) {
            let mut state = PaymentState::Reserved;
            let mut settled = 0;
            for pick in walk {
                let to = ALL[pick];
                if !state.may_become(to) { continue; }
                if state.unresolved() && !to.holds() {
                    prop_assert!(matches!(to, PaymentState::Settled | PaymentState::Failed));
                }
                if to == PaymentState::Settled { settled += 1; }
                state = to;
            }
            prop_assert!(settled <= 1);
        }

        /// An heir never believes that nothing was paid while a frozen sender could still pay.
        #[test]
        fn an_heir_waits(expires in 0_i64..10_000_000, now in 0_i64..20_000_000) {
            for outcome in [Outcome::NotFound, Outcome::Failed { class: FailureClass::NoRoute }] {
                let said = conclude(&outcome, Asker::Heir, UnixMs(expires), UnixMs(now));
                prop_assert_eq!(said.is_some(), now >= expires + 60_000);
                prop_assert_eq!(conclude(&outcome, Asker::Dispatcher, UnixMs(expires), UnixMs(now)), Some(PaymentState::Failed));
                let unsure = conclude(&outcome, Asker::Unsure, UnixMs(expires), UnixMs(now));
                prop_assert_eq!(unsure.is_some(), outcome != Outcome::NotFound || now >= expires + 60_000);
            }
        }
    }
}
