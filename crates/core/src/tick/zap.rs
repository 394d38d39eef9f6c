//! A zap within a tick: asked for once with a request that was signed once, then one invoice, one payment.
//!
//! ```text
//! asking ──> invoiced ──> paying ──> paid | failed | unresolved
//!    └───────────┴──> refused | failed
//! ```
//!
//! Whatever became of an earlier question, the payee's service is asked again only while no invoice of it is on record: an
//! invoice that nobody recorded can't be paid. Of what was sent only the wallet's word decides, and where that does not come in
//! time the tick goes on and recovery keeps the hold.

use serde::{Deserialize, Serialize};

use super::{Bill, Effect, InvalidRecord, SignedEvent};
use crate::id::{Hash32, Npub};
use crate::money::Msat;
use crate::payee::LightningAddress;
use crate::payment::FailureClass;
use crate::time::UnixMs;

/// A zap that was decided: what its payee's service is asked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zap {
    pub to: Npub,
    pub address: LightningAddress,
    pub amount: Msat,
    /// The request (9734). The invoice has to commit to its text, to the byte.
    pub request: SignedEvent,
}

impl Zap {
    /// What the invoice's description hash has to be (NIP-57).
    pub fn description_hash(&self) -> Hash32 {
        Hash32::sha256(self.request.json.as_bytes())
    }
}

/// What happened to a zap: one journal entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "move", rename_all = "snake_case")]
pub enum ZapMove {
    /// The one invoice that is ever paid for it, with its payment's intent and its budget.
    Invoiced {
        bill: Bill,
    },
    /// The payment is about to leave. Committed before its bytes do.
    Paying,
    Paid {
        fee: Msat,
        preimage: Option<Hash32>,
        at: UnixMs,
    },
    /// Surely not paid, by the wallet's word.
    NotPaid {
        class: FailureClass,
    },
    /// It may have arrived: recovery goes on asking, the tick goes on without it.
    Unresolved,
    /// By a rule of ours. Nothing had left.
    Refused {
        why: String,
    },
    /// By the payee's service, or because there was no reaching it. Nothing had left.
    Failed {
        why: String,
    },
}

impl ZapMove {
    /// The journal row's `kind`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Invoiced { .. } => "zap_invoiced",
            Self::Paying => "zap_paying",
            Self::Paid { .. } => "zap_paid",
            Self::NotPaid { .. } => "zap_not_paid",
            Self::Unresolved => "zap_unresolved",
            Self::Refused { .. } => "zap_refused",
            Self::Failed { .. } => "zap_failed",
        }
    }

    /// As [`super::Record::idempotency`].
    pub const fn idempotency(&self) -> &'static str {
        match self {
            Self::Invoiced { .. } | Self::Paying => "resolve",
            Self::Paid { .. }
            | Self::NotPaid { .. }
            | Self::Unresolved
            | Self::Refused { .. }
            | Self::Failed { .. } => "none",
        }
    }
}

/// How a zap ended, as far as its tick is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZapEnd {
    Paid,
    Refused(String),
    Failed(String),
    Unresolved,
}

/// Where a zap stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Zapping {
    Asking,
    Invoiced { bill: Bill },
    Paying { bill: Bill },
    Over(ZapEnd),
}

impl Zapping {
    /// The state that follows, and what it spent.
    pub(super) fn apply(&self, step: &ZapMove) -> Result<(Self, Msat), InvalidRecord> {
        let over = |end| (Self::Over(end), Msat::ZERO);
        Ok(match (self, step) {
            (Self::Asking, ZapMove::Invoiced { bill }) => (Self::Invoiced { bill: bill.clone() }, Msat::ZERO),
            (Self::Invoiced { bill }, ZapMove::Paying) => (Self::Paying { bill: bill.clone() }, Msat::ZERO),
            (Self::Paying { bill }, ZapMove::Paid { fee, .. }) => {
                (Self::Over(ZapEnd::Paid), bill.amount.saturating_add(*fee))
            }
            (Self::Paying { .. }, ZapMove::NotPaid { class }) => over(ZapEnd::Failed(class.to_string())),
            (Self::Paying { .. }, ZapMove::Unresolved) => over(ZapEnd::Unresolved),
            (Self::Asking | Self::Invoiced { .. }, ZapMove::Refused { why }) => over(ZapEnd::Refused(why.clone())),
            (Self::Asking | Self::Invoiced { .. }, ZapMove::Failed { why }) => over(ZapEnd::Failed(why.clone())),
            (Self::Asking | Self::Invoiced { .. } | Self::Paying { .. } | Self::Over(_), _) => {
                return Err(InvalidRecord { record: step.kind(), state: self.state() });
            }
        })
    }

    const fn state(&self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Invoiced { .. } => "invoiced",
            Self::Paying { .. } => "paying",
            Self::Over(ZapEnd::Paid) => "paid",
            Self::Over(ZapEnd::Refused(_)) => "refused",
            Self::Over(ZapEnd::Failed(_)) => "failed",
            Self::Over(ZapEnd::Unresolved) => "unresolved",
        }
    }

    /// What to do for it now; none when it is over.
    pub(super) fn next(&self, index: usize, zap: &Zap) -> Option<Effect> {
        let pay = |bill: &Bill, dispatched| Effect::PayZap { index, zap: zap.clone(), bill: bill.clone(), dispatched };
        match self {
            Self::Asking => Some(Effect::AskZap { index, zap: zap.clone() }),
            Self::Invoiced { bill } => Some(pay(bill, false)),
            Self::Paying { bill } => Some(pay(bill, true)),
            Self::Over(_) => None,
        }
    }

    /// How it is told.
    pub(super) fn outcome(&self) -> String {
        match self {
            Self::Asking | Self::Invoiced { .. } | Self::Paying { .. } => "open".to_owned(),
            Self::Over(ZapEnd::Paid) => "paid".to_owned(),
            Self::Over(ZapEnd::Refused(why)) => format!("refused: {why}"),
            Self::Over(ZapEnd::Failed(why)) => format!("failed: {why}"),
            Self::Over(ZapEnd::Unresolved) => {
                "unresolved: it may have been paid, which is looked up until it is known".to_owned()
            }
        }
    }
}
