//! Approvals: the runner asks (39212), the guardian answers (39213). The answer's form and its check are in
//! [`nexus_seal::decision`]; here is what crosses relays.
//!
//! A guardian named in a request was named by the runner. Who may answer is decided by the owner's key and policy.

use nexus_core::approval::ApprovalId;
use nexus_core::{Hash32, Msat, Npub};
use nostr::event::{Event, UnsignedEvent};

use crate::budget::{self, Budget};
use crate::event::{self, EventError, Head, tag};
use crate::kinds;

/// The runner asks for an approval. It says how much, not what: details are for readers, under the view key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRequest {
    pub agent: Npub,
    pub guardian: Npub,
    pub id: ApprovalId,
    /// The digest of the action: an answer that names this event's id is bound to it.
    pub digest: Hash32,
    /// The tick's own request (39210), where one was published, and a relay that has it.
    pub tick_request: Option<(Hash32, String)>,
    pub requested: Option<Budget>,
    pub threshold: Option<Msat>,
    /// What kind of thing is asked, and which: `action`, `zap`.
    pub scope: Option<(String, String)>,
    /// The `d` of a credit envelope.
    pub credit: Option<String>,
    pub reason: String,
    /// Seconds since 1970. Without an answer until then, the answer is no.
    pub expires_at: i64,
}

/// Kind 39212, to be signed by the runner. `d` = `<tick id>:<index>`, and NIP-40's expiration beside `exp`.
pub fn request(head: Head, asked: &ApprovalRequest) -> UnsignedEvent {
    let mut tags = vec![tag(["d", &asked.id.to_string()]), tag(["p", &asked.guardian.to_hex()])];
    if let Some((id, relay)) = &asked.tick_request {
        tags.push(tag(["e", &id.to_string(), relay]));
    }
    if let Some(requested) = &asked.requested {
        tags.push(requested.to_tag("budget_requested"));
    }
    if let Some(threshold) = asked.threshold {
        tags.push(tag(["approval_threshold", &threshold.whole_sats().to_string()]));
    }
    if let Some((kind, which)) = &asked.scope {
        tags.push(tag(["scope", kind, which]));
    }
    if let Some(credit) = &asked.credit {
        tags.push(tag(["credit", credit]));
    }
    if !asked.reason.is_empty() {
        tags.push(tag(["reason", &asked.reason]));
    }
    let until = asked.expires_at.to_string();
    tags.extend([tag(["exp", &until]), tag(["expiration", &until])]);
    tags.extend([tag(["x", &asked.digest.to_string()]), tag(["agent", &asked.agent.to_hex()])]);
    head.unsigned(kinds::APPROVAL_REQUEST, tags, "")
}

/// A verified request as it was read: of ours, or of another runner that knows nothing of our own tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRequest {
    pub event_id: Hash32,
    pub runner: Npub,
    pub guardian: Npub,
    pub tick_request: Option<Hash32>,
    pub requested: Option<Budget>,
    pub threshold: Option<Msat>,
    pub credit: Option<String>,
    pub reason: String,
    pub expires_at: Option<i64>,
    pub id: Option<ApprovalId>,
    pub digest: Option<Hash32>,
    pub agent: Option<Npub>,
}

/// Reads a 39212.
pub fn read_request(event: &Event) -> Result<SeenRequest, EventError> {
    event::expect_kind(event, kinds::APPROVAL_REQUEST)?;
    let text = |name| event::first(event, name);
    let requested = budget::read(event, "budget_requested")?;
    let threshold = match text("approval_threshold") {
        Some(sats) => {
            Some(budget::read_sats(sats).ok_or(EventError::Invalid("a threshold that is no amount of sats"))?)
        }
        None => None,
    };
    Ok(SeenRequest {
        event_id: event::hash(&event.id),
        runner: event::npub(&event.pubkey),
        guardian: event::mentioned(event, 1).pop().ok_or(EventError::Invalid("an approval request to nobody"))?,
        tick_request: text("e").and_then(|hex| hex.parse().ok()),
        requested: requested.into_iter().next(),
        threshold,
        credit: text("credit").map(str::to_owned),
        reason: text("reason").unwrap_or_default().chars().take(1_024).collect(),
        expires_at: text("exp").and_then(|at| at.parse().ok()),
        id: text("d").and_then(|d| d.parse().ok()),
        digest: text("x").and_then(|hex| hex.parse().ok()),
        agent: text("agent").and_then(|hex| hex.parse().ok()),
    })
}

/// What a 39213 says, before anyone knows what it answers: which parked action to look for. Whether it counts is for
/// [`nexus_seal::verify_decision`] to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenAnswer {
    pub guardian: Npub,
    pub id: Option<ApprovalId>,
    pub digest: Option<Hash32>,
    /// The first `e`: the request that it answers.
    pub request: Option<Hash32>,
    /// Whom it is to: runner, agent.
    pub to: Vec<Npub>,
}

/// Reads a 39213.
pub fn read_answer(event: &Event) -> Result<SeenAnswer, EventError> {
    event::expect_kind(event, kinds::APPROVAL)?;
    let text = |name| event::first(event, name);
    Ok(SeenAnswer {
        guardian: event::npub(&event.pubkey),
        id: text("d").and_then(|d| d.parse().ok()),
        digest: text("x").and_then(|hex| hex.parse().ok()),
        request: text("e").and_then(|hex| hex.parse().ok()),
        to: event::mentioned(event, 8),
    })
}
