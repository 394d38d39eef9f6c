//! Tick events, signed by the runner: the request (39210) and the result (39211). Opt-in, and public metadata.
//!
//! Relays treat all of 30000 to 39999 as addressable, so both carry the tick's id as `d`, and an expiration because
//! they are meant to be ephemeral. Read are also the older series and OpenAgents' form, in which the agent signs and
//! `runner` names who runs it.

use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Msat, Npub, TickId};
use nostr::event::{Event, UnsignedEvent};

use crate::budget::{self, Budget};
use crate::event::{self, EventError, Head, tag};
use crate::schedule::{read_trigger, trigger_tag};
use crate::sealed::Sealed;
use crate::{kinds, series};

/// Seconds after which relays may forget a tick event.
const EXPIRES_AFTER: i64 = 86_400;
/// Most references of one kind that are read.
const MAX_REFERENCES: usize = 64;

/// The runner says that it starts a tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TickRequest {
    pub agent: Npub,
    pub tick_id: TickId,
    pub trigger: Trigger,
    /// The event that pulled the trigger, and a relay that has it.
    pub cause: Option<(Hash32, String)>,
    pub budgets: Vec<Budget>,
    pub max_steps: Option<u32>,
    /// Above this an action asks, and whom.
    pub approval: Option<(Msat, Npub)>,
    /// The `d` of a credit envelope.
    pub credit: Option<String>,
}

pub fn tick_request(head: Head, request: &TickRequest) -> UnsignedEvent {
    let mut tags = vec![
        tag(["d", &request.tick_id.to_string()]),
        tag(["p", &request.agent.to_hex()]),
        trigger_tag(request.trigger),
    ];
    if let Some((id, relay)) = &request.cause {
        tags.push(tag(["e", &id.to_string(), relay]));
    }
    if let Some(steps) = request.max_steps {
        tags.push(tag(["max_steps", &steps.to_string()]));
    }
    tags.extend(request.budgets.iter().map(|budget| budget.to_tag("budget")));
    if let Some((threshold, guardian)) = &request.approval {
        tags.push(tag(["approval_threshold", &threshold.whole_sats().to_string()]));
        tags.push(tag(["guardian", &guardian.to_hex()]));
    }
    if let Some(credit) = &request.credit {
        tags.push(tag(["credit", credit]));
    }
    tags.push(tag(["expiration", &head.created_at.saturating_add(EXPIRES_AFTER).to_string()]));
    head.unsigned(kinds::TICK_REQUEST, tags, "")
}

/// A tick request as it was read. Whether its author may ask, and everything it proposes, is the caller's question: the
/// guardian and the threshold in it are what the runner says, not what the owner signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenTickRequest {
    pub event_id: Hash32,
    pub runner: Npub,
    pub agent: Npub,
    /// The `d`: our own runners put the tick's id there.
    pub identifier: String,
    pub trigger: Option<Trigger>,
    pub cause: Option<Hash32>,
    pub budgets: Vec<Budget>,
    pub max_steps: Option<u32>,
    pub threshold: Option<Msat>,
    pub guardian: Option<Npub>,
    pub credit: Option<String>,
}

/// Reads a tick request of either series, or OpenAgents'.
pub fn read_tick_request(event: &Event) -> Result<SeenTickRequest, EventError> {
    series::expect(event, kinds::TICK_REQUEST)?;
    let (agent, runner) = parties(event)?;
    let text = |name| event::first(event, name);
    let number = |name, why| match text(name) {
        Some(text) => text.parse().map(Some).map_err(|_| EventError::Invalid(why)),
        None => Ok(None),
    };
    let threshold = match text("approval_threshold") {
        Some(sats) => {
            Some(budget::read_sats(sats).ok_or(EventError::Invalid("a threshold that is no amount of sats"))?)
        }
        None => None,
    };
    Ok(SeenTickRequest {
        event_id: event::hash(&event.id),
        runner,
        agent,
        identifier: text("d").unwrap_or_default().to_owned(),
        trigger: event::rows(event, "trigger").next().and_then(read_trigger),
        cause: text("e").and_then(|hex| hex.parse().ok()),
        budgets: budget::read(event, "budget")?,
        max_steps: number("max_steps", "max_steps is no number")?,
        threshold,
        guardian: text("guardian").and_then(|hex| hex.parse().ok()),
        credit: text("credit").map(str::to_owned),
    })
}

/// Agent and runner. In the draft the runner signs and `p` is the agent; OpenAgents' agents sign and name the runner.
fn parties(event: &Event) -> Result<(Npub, Npub), EventError> {
    let author = event::npub(&event.pubkey);
    match (event::mentioned(event, 1).pop(), event::first(event, "runner")) {
        (Some(agent), _) => Ok((agent, author)),
        (None, Some(runner)) => {
            let runner = runner.parse().map_err(|_| EventError::Invalid("the runner is no public key"))?;
            Ok((author, runner))
        }
        (None, None) => Err(EventError::Invalid("a tick event without an agent")),
    }
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

    fn read(text: &str) -> Result<Self, EventError> {
        match text {
            "success" => Ok(Self::Success),
            "partial" => Ok(Self::Partial),
            // OpenAgents has the last two.
            "error" | "failure" | "timeout" => Ok(Self::Error),
            _ => Err(EventError::Invalid("an unknown status of a tick")),
        }
    }
}

/// By what a tick's spending was approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovedBy {
    /// It stayed below the threshold.
    Auto,
    /// The guardian's 39213.
    Guardian(Hash32),
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
    pub approved: Option<ApprovedBy>,
    /// Credit receipts (39244) and job results (6050), each with a relay.
    pub receipts: Vec<(Hash32, String)>,
    pub results: Vec<(Hash32, String)>,
    /// A summary, encrypted by the runner to the agent (NIP-44); empty for none.
    pub summary: String,
}

pub fn tick_result(head: Head, result: &TickResult) -> UnsignedEvent {
    let mut tags = vec![tag(["d", &result.tick_id.to_string()]), tag(["p", &result.agent.to_hex()])];
    // The first `e`, unmarked, is the request; the others say what they are.
    tags.extend(result.request.map(|id| tag(["e", &id.to_string()])));
    tags.extend([
        tag(["status", result.outcome.as_str()]),
        tag(["actions", &result.actions.to_string()]),
        tag(["cost", &result.cost.sats_ceil().to_string()]),
        tag(["duration", &result.duration_ms.to_string()]),
    ]);
    tags.extend(result.approved.map(|by| match by {
        ApprovedBy::Auto => tag(["guardian_approved", "auto"]),
        ApprovedBy::Guardian(id) => tag(["guardian_approved", &id.to_string()]),
    }));
    for (marker, references) in [("receipt", &result.receipts), ("result", &result.results)] {
        tags.extend(references.iter().map(|(id, relay)| tag(["e", &id.to_string(), relay, marker])));
    }
    tags.push(tag(["expiration", &head.created_at.saturating_add(EXPIRES_AFTER).to_string()]));
    head.unsigned(kinds::TICK_RESULT, tags, result.summary.as_str())
}

/// A tick result as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenTickResult {
    pub runner: Npub,
    pub agent: Npub,
    pub identifier: String,
    pub request: Option<Hash32>,
    pub outcome: Outcome,
    pub actions: u64,
    pub cost: Option<Msat>,
    pub duration_ms: Option<u64>,
    pub approved: Option<ApprovedBy>,
    pub receipts: Vec<Hash32>,
    pub results: Vec<Hash32>,
    /// OpenAgents': [`crate::trajectory::hash_contents`] of the tick's trajectory.
    pub trajectory_hash: Option<Hash32>,
    pub summary: Summary,
}

/// What a tick result carries beside its tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Summary {
    None,
    /// To be opened by the agent, or by the runner.
    Sealed(Sealed),
    /// OpenAgents': counters in clear JSON.
    Clear(serde_json::Value),
}

/// Reads a tick result of either series, or OpenAgents'.
pub fn read_tick_result(event: &Event) -> Result<SeenTickResult, EventError> {
    series::expect(event, kinds::TICK_RESULT)?;
    let (agent, runner) = parties(event)?;
    let text = |name| event::first(event, name);
    let marked = |marker: &'static str| {
        let rows = event::rows(event, "e").filter(move |row| row.get(3).is_some_and(|found| found == marker));
        rows.filter_map(|row| row.get(1)?.parse().ok()).take(MAX_REFERENCES).collect::<Vec<Hash32>>()
    };
    let unmarked = event::rows(event, "e").find(|row| row.get(3).is_none_or(|marker| marker.is_empty()));
    let request = unmarked.and_then(|row| row.get(1)).map(String::as_str).or_else(|| text("request"));
    let approved = match text("guardian_approved") {
        Some("auto") => Some(ApprovedBy::Auto),
        Some(id) => {
            Some(ApprovedBy::Guardian(id.parse().map_err(|_| EventError::Invalid("an approval that is no id"))?))
        }
        None => None,
    };
    let summary = if event.content.is_empty() {
        Summary::None
    } else if let Ok(clear @ serde_json::Value::Object(_)) = serde_json::from_str(&event.content) {
        Summary::Clear(clear)
    } else {
        Summary::Sealed(Sealed::new(runner, &event.content))
    };
    Ok(SeenTickResult {
        runner,
        agent,
        identifier: text("d").unwrap_or_default().to_owned(),
        request: request.and_then(|hex| hex.parse().ok()),
        outcome: Outcome::read(text("status").ok_or(EventError::Invalid("a tick result without a status"))?)?,
        actions: text("actions").and_then(|n| n.parse().ok()).unwrap_or(0),
        cost: text("cost").and_then(budget::read_sats),
        duration_ms: text("duration").or_else(|| text("duration_ms")).and_then(|n| n.parse().ok()),
        approved,
        receipts: marked("receipt"),
        results: marked("result"),
        trajectory_hash: text("trajectory_hash").and_then(|hex| hex.parse().ok()),
        summary,
    })
}
