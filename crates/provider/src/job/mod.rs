//! A job from the first to the last: its stages, and the list of jobs that survives the process.

mod ledger;
mod record;

pub use ledger::{Ledger, LedgerError};

use nexus_core::{Hash32, Msat, Npub, UnixMs};
use nostr::event::Event;
use serde::{Deserialize, Serialize};

/// An invoice bound to a job.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    pub hash: Hash32,
    pub bolt11: String,
    #[serde(rename = "amount_msat")]
    pub amount: Msat,
    #[serde(rename = "expires_at_ms")]
    pub expires_at: UnixMs,
    /// Of a hold invoice, which its backend does not know: shown to it with the result, and the money is ours. A secret until
    /// then; the file is its user's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preimage: Option<Hash32>,
}

impl std::fmt::Debug for Bill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bill").field("hash", &self.hash).field("amount", &self.amount).finish_non_exhaustive()
    }
}

/// Where a job stands. Each arrow is on disk before anybody is told of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// To be worked on without a payment first.
    Accepted,
    /// Waits for its payment. `notice` is the feedback that asked for it: a repeated request gets the same one.
    Invoiced {
        bill: Bill,
        notice: Box<Event>,
    },
    /// Paid, or its money is held: to be worked on.
    Paid {
        bill: Bill,
    },
    /// The result is signed, and perhaps published. `owed` is what the customer still has to pay for it, or what is held and
    /// to be taken.
    Delivered {
        owed: Option<Bill>,
    },
    /// A relay has the result.
    Published {
        owed: Option<Bill>,
    },
    Closed {
        how: Closed,
    },
}

/// How a job ended without a result, or without its payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closed {
    /// It was told why it is not taken.
    Refused,
    /// Its invoice expired unpaid.
    Expired,
    /// The backend gave no answer. The customer was told.
    Failed,
    /// The result was delivered and never paid.
    Unpaid,
    /// Long over; only its id is kept, so that it is not done again.
    Forgotten,
}

impl Stage {
    /// Whether one arrow leads from this stage to another.
    pub const fn may_become(&self, to: &Self) -> bool {
        match self {
            Self::Accepted | Self::Paid { .. } => {
                matches!(to, Self::Delivered { .. } | Self::Closed { how: Closed::Failed | Closed::Expired })
            }
            Self::Invoiced { .. } => matches!(to, Self::Paid { .. } | Self::Closed { how: Closed::Expired }),
            Self::Delivered { .. } => matches!(to, Self::Published { .. } | Self::Closed { how: Closed::Unpaid }),
            Self::Published { .. } => matches!(to, Self::Published { .. } | Self::Closed { how: Closed::Unpaid }),
            Self::Closed { .. } => false,
        }
    }

    /// Whether the provider still has something to do for it.
    pub const fn is_open(&self) -> bool {
        match self {
            Self::Accepted | Self::Invoiced { .. } | Self::Paid { .. } | Self::Delivered { .. } => true,
            Self::Published { owed } => owed.is_some(),
            Self::Closed { .. } => false,
        }
    }

    /// Whether it waits for money before work.
    pub const fn awaits_payment(&self) -> bool {
        matches!(self, Self::Invoiced { .. })
    }

    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Invoiced { .. } => "invoiced",
            Self::Paid { .. } => "paid",
            Self::Delivered { .. } => "delivered",
            Self::Published { .. } => "published",
            Self::Closed { .. } => "closed",
        }
    }
}

/// One job as the ledger knows it.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: Hash32,
    pub customer: Npub,
    /// When it came to its stage.
    pub at: UnixMs,
    pub stage: Stage,
    /// The signed request, as it came from the wire; dropped when the result is out.
    pub request: Option<Box<Event>>,
    /// The signed result, as it goes over the wire; dropped some time after it was published.
    pub result: Option<Box<Event>>,
}
