//! An owner's command to a worker: the request's own NIP-98 event and its raw body.
//!
//! Control passes both on as they came; the worker checks them again, so that whoever runs the API cannot make a command
//! up. Which key is the owner's is for the worker to say, from what was sealed to it.

use nexus_core::{Hash32, Npub, UnixMs};
use nostr::event::Event;
use serde::{Deserialize, Serialize};

use crate::event::{EventError, created_at_secs, event_id, expect_tag, npub_of, single_tag, verify_from};
use crate::proof::PROOF_KIND;

/// Seconds that a command is good for: a worker may be a while away.
pub const COMMAND_SECS: i64 = 600;
/// How far ahead of the worker's clock it may be, in seconds.
pub const COMMAND_SKEW_SECS: i64 = 60;

/// Why a command is not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("the command: {0}")]
    Event(#[from] EventError),
    #[error("the command is {off_secs} seconds off; at most {COMMAND_SECS} are allowed: check the clocks")]
    Time { off_secs: i64 },
    #[error("the command was signed for another request")]
    OtherRequest,
    #[error("the command's `payload` is not the SHA-256 of its body")]
    Payload,
}

/// A command as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerCommand {
    /// Kind 27235, with `p` = the agent.
    pub event: Event,
    /// To the byte.
    pub body: String,
}

/// Who signed a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedCommand {
    pub by: Npub,
    /// To be obeyed once.
    pub id: Hash32,
    /// Seconds since 1970. The id may be forgotten [`COMMAND_SECS`] after this.
    pub created_at: i64,
}

impl OwnerCommand {
    /// Checks kind, time, method, path, agent, body and signature. The origin before the path is control's to check.
    pub fn verify(&self, method: &str, path: &str, agent: &Npub, now: UnixMs) -> Result<VerifiedCommand, CommandError> {
        let event = &self.event;
        let by = npub_of(&event.pubkey);
        verify_from(event, PROOF_KIND, &by)?;
        let created_at = created_at_secs(event);
        let off_secs = now.secs().saturating_sub(created_at);
        if !(-COMMAND_SKEW_SECS..=COMMAND_SECS).contains(&off_secs) {
            return Err(CommandError::Time { off_secs });
        }
        expect_tag(event, "p", &agent.to_hex())?;
        let origin = single_tag(event, "u")?.strip_suffix(path).ok_or(CommandError::OtherRequest)?;
        if single_tag(event, "method")? != method || origin.contains(['?', '#']) {
            return Err(CommandError::OtherRequest);
        }
        let payload: Option<Hash32> = single_tag(event, "payload")?.parse().ok();
        if payload != Some(Hash32::sha256(self.body.as_bytes())) {
            return Err(CommandError::Payload);
        }
        Ok(VerifiedCommand { by, id: event_id(event), created_at })
    }
}
