//! What wakes an agent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{Hash32, Npub};
use crate::time::UnixMs;

/// What caused a tick. `Kind` is a Nostr kind that the owner chose to listen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trigger {
    Heartbeat,
    Mention,
    Dm,
    Zap,
    Webhook,
    /// One of the schedules beside the heartbeat.
    Schedule,
    Manual,
    Approval,
    Kind(u16),
}

impl Trigger {
    /// The inbox class under which a wake-up is deduplicated.
    pub const fn class(self) -> Class {
        match self {
            Self::Heartbeat | Self::Schedule => Class::Schedule,
            Self::Mention | Self::Dm | Self::Zap | Self::Kind(_) => Class::Nostr,
            Self::Webhook => Class::Webhook,
            Self::Manual => Class::Manual,
            Self::Approval => Class::Approval,
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heartbeat => f.write_str("heartbeat"),
            Self::Mention => f.write_str("mention"),
            Self::Dm => f.write_str("dm"),
            Self::Zap => f.write_str("zap"),
            Self::Webhook => f.write_str("webhook"),
            Self::Schedule => f.write_str("schedule"),
            Self::Manual => f.write_str("manual"),
            Self::Approval => f.write_str("approval"),
            Self::Kind(kind) => write!(f, "kind:{kind}"),
        }
    }
}

/// A text that names no trigger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown trigger: use heartbeat, mention, dm, zap, webhook, schedule, manual, approval or kind:N")]
pub struct UnknownTrigger;

impl FromStr for Trigger {
    type Err = UnknownTrigger;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "heartbeat" => Self::Heartbeat,
            "mention" => Self::Mention,
            "dm" => Self::Dm,
            "zap" => Self::Zap,
            "webhook" => Self::Webhook,
            "schedule" => Self::Schedule,
            "manual" => Self::Manual,
            "approval" => Self::Approval,
            other => Self::Kind(other.strip_prefix("kind:").and_then(|n| n.parse().ok()).ok_or(UnknownTrigger)?),
        })
    }
}

impl Serialize for Trigger {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Trigger {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The namespace in which an external id is unique. The inbox holds one row for each (npub, class, external id).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    Nostr,
    Webhook,
    Schedule,
    Manual,
    Approval,
}

impl Class {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nostr => "nostr",
            Self::Webhook => "webhook",
            Self::Schedule => "schedule",
            Self::Manual => "manual",
            Self::Approval => "approval",
        }
    }
}

/// What the filter made of an inbox row: something the agent should see, in the clear, in memory only.
///
/// `text` was written by somebody outside. It is data, never instructions.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stimulus {
    pub trigger: Trigger,
    /// Who wrote it; none for a heartbeat or a manual tick.
    pub sender: Option<Npub>,
    /// The Nostr event to answer to (for a gift wrap, the inner event).
    pub event_id: Option<Hash32>,
    /// Kind of that event: decides the format of an answer (4 is answered with 4, a gift wrap with a gift wrap).
    pub event_kind: Option<u16>,
    /// The root of its thread (NIP-10), when it has one.
    pub root_id: Option<Hash32>,
    pub at: UnixMs,
    pub text: String,
}

impl fmt::Debug for Stimulus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stimulus")
            .field("trigger", &self.trigger)
            .field("sender", &self.sender)
            .field("event_id", &self.event_id)
            .field("text", &"[redacted]")
            .finish_non_exhaustive()
    }
}
