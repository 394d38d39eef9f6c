//! An owner's answer to a parked action (NIP-SA kind 39213), bound to exactly that action.
//!
//! Our own clients sign the action's digest (`x`). A guardian's client that knows NIP-SA only names the request (39212)
//! instead: that was signed by the runner over the same digest, so naming its id binds as well. Whatever an answer names
//! has to fit.

use nexus_core::approval::{Answer, ApprovalId, Decision};
use nexus_core::{Hash32, Npub, UnixMs};
use nostr::event::{Event, UnsignedEvent};
use nostr::types::Timestamp;

use crate::event::{EventError, created_at_secs, event_id, single_tag, tag, unsigned, verify_from};

/// NIP-SA: approval.
pub const DECISION_KIND: u16 = 39_213;
/// How far ahead of now an answer may be dated, in seconds.
pub const MAX_AHEAD_SECS: i64 = 15 * 60;
/// Longest reason, in bytes.
pub const MAX_REASON: usize = 1_024;

/// Why an answer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecisionError {
    #[error("approval: {0}")]
    Event(#[from] EventError),
    #[error("approval: the decision must be `approved` or `denied`")]
    Answer,
    #[error("approval: it is for {found}, not for {expected}")]
    OtherApproval { expected: ApprovalId, found: String },
    #[error("approval: it names the digest of another action than {expected}")]
    OtherAction { expected: Hash32 },
    #[error("approval: it names another request than the one that was published")]
    OtherRequest,
    #[error("approval: it names neither the action's digest nor the request: it could be for anything")]
    Unbound,
    #[error("approval: dated {ahead_secs} seconds ahead: check the clock")]
    Ahead { ahead_secs: i64 },
    #[error("approval: the reason has more than {MAX_REASON} bytes")]
    Reason,
}

/// What is to be answered, from the verified request and the worker's own record: nothing here comes from the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    pub agent: Npub,
    pub id: ApprovalId,
    /// [`nexus_core::approval::Asked::digest`].
    pub digest: Hash32,
    /// The id of the published 39212, if one was.
    pub request: Option<Hash32>,
}

/// The event for the owner to sign. `runner` is who published the request, when one was.
pub fn unsigned_decision(
    owner: &Npub,
    pending: &Pending,
    answer: Answer,
    reason: &str,
    runner: Option<&Npub>,
    created_at: Timestamp,
) -> Result<UnsignedEvent, DecisionError> {
    if reason.len() > MAX_REASON {
        return Err(DecisionError::Reason);
    }
    let mut tags = vec![tag("d", [pending.id.to_string().as_str()])];
    tags.extend(runner.map(|runner| tag("p", [runner.to_hex().as_str()])));
    tags.push(tag("p", [pending.agent.to_hex().as_str()]));
    tags.extend(pending.request.map(|id| tag("e", [id.to_string().as_str(), "", "request"])));
    tags.push(tag("x", [pending.digest.to_string().as_str()]));
    tags.push(tag("decision", [answer.as_str()]));
    if !reason.is_empty() {
        tags.push(tag("reason", [reason]));
    }
    Ok(unsigned(owner, DECISION_KIND, created_at, tags, String::new()))
}

/// Checks that the owner signed this answer and that it is to this action. Whether it comes in time and first is for
/// [`nexus_core::approval::Parked::decide`] to say.
pub fn verify_decision(event: &Event, owner: &Npub, pending: &Pending, now: UnixMs) -> Result<Decision, DecisionError> {
    verify_from(event, DECISION_KIND, owner)?;
    let ahead_secs = created_at_secs(event).saturating_sub(now.secs());
    if ahead_secs > MAX_AHEAD_SECS {
        return Err(DecisionError::Ahead { ahead_secs });
    }
    let answer = Answer::parse(single_tag(event, "decision")?).ok_or(DecisionError::Answer)?;
    let by_digest = match has(event, "x") {
        false => false,
        true if single_tag(event, "x")?.parse().ok() == Some(pending.digest) => true,
        true => return Err(DecisionError::OtherAction { expected: pending.digest }),
    };
    // The draft has two: the request first, then the tick's request.
    let first = event.tags.iter().find(|tag| tag.kind() == "e").and_then(|tag| tag.content());
    let by_request = match (first, pending.request) {
        (Some(named), Some(request)) if named.parse().ok() == Some(request) => true,
        (Some(_), Some(_)) => return Err(DecisionError::OtherRequest),
        (Some(_), None) | (None, _) => false,
    };
    if by_digest && has(event, "d") {
        let found = single_tag(event, "d")?;
        if found != pending.id.to_string() {
            let found = found.chars().take(80).collect();
            return Err(DecisionError::OtherApproval { expected: pending.id, found });
        }
    }
    if by_digest || by_request {
        Ok(Decision { event_id: event_id(event), digest: pending.digest, answer })
    } else {
        Err(DecisionError::Unbound)
    }
}

fn has(event: &Event, name: &str) -> bool {
    event.tags.iter().any(|tag| tag.kind() == name)
}
