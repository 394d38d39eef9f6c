//! Schedule and triggers in public (39202, `d` = `schedule` and `d` = `triggers`). Published only when the owner opts in.
//!
//! Cron schedules are not in the draft and stay private: what is published is the heartbeat and the next tick.

use std::collections::BTreeSet;

use nexus_core::trigger::Trigger;
use nostr::event::{Event, Tag, UnsignedEvent};

use crate::event::{self, EventError, Head, tag};
use crate::{kinds, series};

/// Most triggers of one event that are read.
const MAX_TRIGGERS: usize = 64;

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

/// Reads a schedule of either series. The same kind also holds triggers and host claims, which are none.
pub fn read_schedule(event: &Event) -> Result<Schedule, EventError> {
    series::expect(event, kinds::SCHEDULE)?;
    series::expect_identifier(event, "schedule", "not a schedule")?;
    let heartbeat_secs = event::first(event, "heartbeat").and_then(|text| text.parse().ok());
    Ok(Schedule {
        heartbeat_secs: heartbeat_secs.ok_or(EventError::Invalid("no heartbeat"))?,
        next_tick: event::first(event, "next_tick").and_then(|text| text.parse().ok()),
        active: event::first(event, "active") == Some("true"),
    })
}

/// The triggers that events can pull: mention, dm, zap and kinds. Others stay private.
pub fn triggers(head: Head, triggers: &BTreeSet<Trigger>) -> UnsignedEvent {
    let public = triggers.iter().filter(|trigger| match trigger {
        Trigger::Mention | Trigger::Dm | Trigger::Zap | Trigger::Kind(_) => true,
        Trigger::Heartbeat | Trigger::Schedule | Trigger::Webhook | Trigger::Manual | Trigger::Approval => false,
    });
    let tags = std::iter::once(tag(["d", "triggers"])).chain(public.map(|trigger| trigger_tag(*trigger)));
    head.unsigned(kinds::SCHEDULE, tags.collect(), "")
}

/// What others publish of what wakes their agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeenTriggers {
    pub triggers: BTreeSet<Trigger>,
    /// Triggers with names that are not known here.
    pub unknown: Vec<String>,
    /// OpenAgents': `mon,tue 09:00-17:00`, as written.
    pub business_hours: Option<String>,
}

/// Reads the triggers of either series. OpenAgents puts them into the schedule.
pub fn read_triggers(event: &Event) -> Result<SeenTriggers, EventError> {
    series::expect(event, kinds::SCHEDULE)?;
    let in_schedule = event::first(event, "d") == Some("schedule") && event::first(event, "trigger").is_some();
    if !in_schedule {
        series::expect_identifier(event, "triggers", "not a list of triggers")?;
    }
    let mut seen =
        SeenTriggers { business_hours: event::first(event, "business_hours").map(short), ..Default::default() };
    for row in event::rows(event, "trigger").take(MAX_TRIGGERS) {
        match read_trigger(row) {
            Some(trigger) => drop(seen.triggers.insert(trigger)),
            None => seen.unknown.push(short(&row[1..].join(" "))),
        }
    }
    Ok(seen)
}

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

/// `trigger`, then its name; a kind is `kind` and its number.
pub(crate) fn trigger_tag(trigger: Trigger) -> Tag {
    match trigger {
        Trigger::Kind(kind) => tag(["trigger", "kind", &kind.to_string()]),
        other => tag(["trigger", &other.to_string()]),
    }
}

/// Reads a `trigger` row: ours, the draft's, or OpenAgents' `custom:N`.
pub(crate) fn read_trigger(row: &[String]) -> Option<Trigger> {
    let name = row.get(1)?;
    if name == "kind" {
        return row.get(2)?.parse().ok().map(Trigger::Kind);
    }
    if let Some(kind) = name.strip_prefix("custom:") {
        return kind.parse().ok().map(Trigger::Kind);
    }
    name.parse().ok()
}
