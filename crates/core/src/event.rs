//! What an owner sees happen, live or later: the events of the API.
//!
//! Bodies hold no text and no recipient of a message: those are under the view key, in the sealed part of an event.

use serde::{Deserialize, Serialize};

use crate::action::ActionKind;
use crate::approval::ApprovalId;
use crate::dispute::DisputeId;
use crate::id::{Generation, Hash32, Npub, TickId, WorkerId};
use crate::lifecycle::Lifecycle;
use crate::status::Hosting;
use crate::time::UnixMs;
use crate::trigger::Trigger;

/// One event of one agent. `seq` counts from 1 without gaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentEvent {
    pub seq: i64,
    pub at: UnixMs,
    pub npub: Npub,
    #[serde(flatten)]
    pub body: EventBody,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventBody {
    TickStarted {
        tick_id: TickId,
    },
    TickCompleted {
        tick_id: TickId,
        actions: Vec<ActionView>,
    },
    TickFailed {
        tick_id: TickId,
        reason: String,
    },
    TickSkipped {
        trigger: Trigger,
        reason: String,
    },
    BalanceChanged {
        balance_sats: u64,
    },
    LifecycleChanged {
        state: Lifecycle,
    },
    HostingChanged {
        state: Hosting,
    },
    /// Its hosting ends in so many days, and the account's credit does not cover the next month.
    HostingEnds {
        days: u16,
        paid_until: UnixMs,
    },
    Payment {
        payment_hash: Hash32,
        state: String,
        amount_sats: u64,
        fee_sats: u64,
    },
    /// A job was paid and not served, or what became of that: `unsettled`, `open`, `answered`, `settled_elsewhere`, `closed`.
    Dispute {
        dispute_id: DisputeId,
        provider: Npub,
        amount_sats: u64,
        state: String,
    },
    ApprovalRequested {
        approval_id: ApprovalId,
        action: ActionKind,
    },
    /// What became of it: `approved`, `denied`, `expired` or `executed`.
    ApprovalChanged {
        approval_id: ApprovalId,
        state: String,
    },
    Placed {
        worker: WorkerId,
        generation: Generation,
    },
    /// The host's database was put back from a backup, and the agent's wallet compared with its books: so much was missing.
    Restored {
        missing_sats: u64,
    },
}

impl EventBody {
    /// Every `type` there is.
    pub const KINDS: [&str; 14] = [
        "tick_started",
        "tick_completed",
        "tick_failed",
        "tick_skipped",
        "balance_changed",
        "lifecycle_changed",
        "hosting_changed",
        "hosting_ends",
        "payment",
        "dispute",
        "approval_requested",
        "approval_changed",
        "placed",
        "restored",
    ];

    /// The `type` field.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TickStarted { .. } => "tick_started",
            Self::TickCompleted { .. } => "tick_completed",
            Self::TickFailed { .. } => "tick_failed",
            Self::TickSkipped { .. } => "tick_skipped",
            Self::BalanceChanged { .. } => "balance_changed",
            Self::LifecycleChanged { .. } => "lifecycle_changed",
            Self::HostingChanged { .. } => "hosting_changed",
            Self::HostingEnds { .. } => "hosting_ends",
            Self::Payment { .. } => "payment",
            Self::Dispute { .. } => "dispute",
            Self::ApprovalRequested { .. } => "approval_requested",
            Self::ApprovalChanged { .. } => "approval_changed",
            Self::Placed { .. } => "placed",
            Self::Restored { .. } => "restored",
        }
    }
}

/// An action as everyone may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionView {
    #[serde(rename = "type")]
    pub kind: ActionKind,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub event_id: Option<Hash32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub amount_sats: Option<u64>,
    /// `done`, `failed: …`, `refused: …`, or `parked: …` until the owner has spoken. Of a zap `paid`, `failed: …`, `refused: …` or
    /// `unresolved: …`.
    pub outcome: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_shape_is_flat() {
        let event = AgentEvent {
            seq: 4,
            at: UnixMs(9),
            npub: Npub::from_bytes([7; 32]),
            body: EventBody::BalanceChanged { balance_sats: 12_345 },
        };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["type"], "balance_changed");
        assert_eq!(json["balance_sats"], 12_345);
        assert_eq!(json["seq"], 4);
        assert_eq!(serde_json::from_value::<AgentEvent>(json).unwrap(), event);
        assert_eq!(event.body.kind(), "balance_changed");
    }
}
