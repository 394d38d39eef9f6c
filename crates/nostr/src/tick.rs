//! Tick events, signed by the runner: the request (39210) and the result (39211). Opt-in, and public metadata.
//!
//! Relays treat all of 30000 to 39999 as addressable, so both carry the tick's id as `d`, and an expiration because
//! they are meant to be ephemeral.

use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Msat, Npub, TickId};
use nostr::event::{Event, UnsignedEvent};

use crate::event::{self, EventError, Head, tag};
use crate::kinds;

/// Seconds after which relays may forget a tick event.
const EXPIRES_AFTER: i64 = 86_400;

/// The runner says that it starts a tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TickRequest {
    pub agent: Npub,
    pub tick_id: TickId,
    pub trigger: Trigger,
    /// The event that pulled the trigger, and a relay that has it.
    pub cause: Option<(Hash32, String)>,
    pub budget: Msat,
}

pub fn tick_request(head: Head, request: &TickRequest) -> UnsignedEvent {
    let mut tags = vec![
        tag(["d", &request.tick_id.to_string()]),
        tag(["p", &request.agent.to_hex()]),
        tag(["trigger", &request.trigger.to_string()]),
        tag(["budget", &request.budget.whole_sats().to_string(), "lightning"]),
        tag(["expiration", &head.created_at.saturating_add(EXPIRES_AFTER).to_string()]),
    ];
    if let Some((id, relay)) = &request.cause {
        tags.push(tag(["e", &id.to_string(), relay]));
    }
    head.unsigned(kinds::TICK_REQUEST, tags, "")
}

/// Reads a tick request: who it is for. Whether its author may ask is the caller's question.
pub fn read_tick_request(event: &Event) -> Result<Npub, EventError> {
    event::expect_kind(event, kinds::TICK_REQUEST)?;
    event::mentioned(event, 1).pop().ok_or(EventError::Invalid("a tick request without an agent"))
}

/// How a tick went, in public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Partial,
    Error,
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Partial => "partial",
            Self::Error => "error",
        }
    }
}

/// The runner says how a tick went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TickResult {
    pub agent: Npub,
    pub tick_id: TickId,
    pub request: Option<Hash32>,
    pub outcome: Outcome,
    pub actions: usize,
    pub cost: Msat,
    pub duration_ms: u64,
}

pub fn tick_result(head: Head, result: &TickResult) -> UnsignedEvent {
    let mut tags = vec![
        tag(["d", &result.tick_id.to_string()]),
        tag(["p", &result.agent.to_hex()]),
        tag(["status", result.outcome.as_str()]),
        tag(["actions", &result.actions.to_string()]),
        tag(["cost", &result.cost.sats_ceil().to_string()]),
        tag(["duration", &result.duration_ms.to_string()]),
        tag(["expiration", &head.created_at.saturating_add(EXPIRES_AFTER).to_string()]),
    ];
    if let Some(id) = result.request {
        tags.push(tag(["e", &id.to_string()]));
    }
    head.unsigned(kinds::TICK_RESULT, tags, "")
}
