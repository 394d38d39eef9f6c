//! Schedule and triggers in public (39202, `d` = `schedule` and `d` = `triggers`). Published only when the owner opts in.

use std::collections::BTreeSet;

use nexus_core::trigger::Trigger;
use nostr::event::{Event, UnsignedEvent};

use crate::event::{self, EventError, Head, tag};
use crate::kinds;

/// When an agent ticks by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    pub heartbeat_secs: u32,
    /// Seconds since 1970.
    pub next_tick: Option<i64>,
    pub active: bool,
}

pub fn schedule(head: Head, schedule: &Schedule) -> UnsignedEvent {
    let mut tags = vec![tag(["d", "schedule"]), tag(["heartbeat", &schedule.heartbeat_secs.to_string()])];
    if let Some(at) = schedule.next_tick {
        tags.push(tag(["next_tick", &at.to_string()]));
    }
    tags.push(tag(["active", if schedule.active { "true" } else { "false" }]));
    head.unsigned(kinds::SCHEDULE, tags, "")
}

/// Reads a schedule. The same kind also holds triggers and host claims, which are none.
pub fn read_schedule(event: &Event) -> Result<Schedule, EventError> {
    event::expect_kind(event, kinds::SCHEDULE)?;
    if event::first(event, "d").is_some_and(|d| d != "schedule") {
        return Err(EventError::Invalid("not a schedule"));
    }
    let heartbeat_secs = event::first(event, "heartbeat").and_then(|text| text.parse().ok());
    Ok(Schedule {
        heartbeat_secs: heartbeat_secs.ok_or(EventError::Invalid("no heartbeat"))?,
        next_tick: event::first(event, "next_tick").and_then(|text| text.parse().ok()),
        active: event::first(event, "active") == Some("true"),
    })
}

/// The triggers that events can pull: mention, dm, zap and kinds. Others stay private.
pub fn triggers(head: Head, triggers: &BTreeSet<Trigger>) -> UnsignedEvent {
    let public = triggers.iter().filter_map(|trigger| match trigger {
        Trigger::Mention | Trigger::Dm | Trigger::Zap => Some(tag(["trigger", &trigger.to_string()])),
        Trigger::Kind(kind) => Some(tag(["trigger", "kind", &kind.to_string()])),
        Trigger::Heartbeat | Trigger::Webhook | Trigger::Manual | Trigger::Approval => None,
    });
    let tags = std::iter::once(tag(["d", "triggers"])).chain(public);
    head.unsigned(kinds::SCHEDULE, tags.collect(), "")
}
