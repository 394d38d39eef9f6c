//! The clear configuration of an agent: nothing private.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::placement::Failover;
use crate::schedule::plan::{Schedule, plan_all};
use crate::trigger::Trigger;

/// Longest name, in characters.
pub const MAX_NAME: usize = 64;
/// Shortest and longest heartbeat, in seconds.
pub const HEARTBEAT_SECS: std::ops::RangeInclusive<u32> = 10..=30 * 86_400;
const MAX_RELAYS: usize = 16;
const MAX_LABELS: usize = 32;
const MAX_TRIGGERS: usize = 16;

/// Whether a heartbeat ticks when nothing is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeartbeatWhen {
    #[default]
    Changed,
    Always,
}

/// What becomes of heartbeats that were due while nothing ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    #[default]
    Once,
    Skip,
    All,
}

/// Schedule, triggers, relays, labels and region. Stored in clear; goals and persona are not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// Seconds between heartbeats, 10 to 2,592,000.
    pub heartbeat_secs: u32,
    pub heartbeat_when: HeartbeatWhen,
    pub catch_up: CatchUp,
    pub triggers: BTreeSet<Trigger>,
    /// Relays to write to and read from, beside the host's own inbox relay. At most 16.
    pub relays: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// Its home: where it runs while a worker lives there.
    pub region: Option<String>,
    /// What becomes of it while none does.
    pub failover: Failover,
    /// Triggers taken from one sender in a minute.
    pub sender_rate_per_minute: u32,
    /// Ticks in an hour, whatever wakes them.
    pub ticks_per_hour: u32,
    /// Shown in the public profile (kind 39200 and kind 0).
    pub about: String,
    /// What wakes it beside its heartbeat. At most 32; no two of one name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<Schedule>,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            heartbeat_secs: 900,
            heartbeat_when: HeartbeatWhen::default(),
            catch_up: CatchUp::default(),
            triggers: [Trigger::Heartbeat, Trigger::Mention, Trigger::Dm, Trigger::Zap].into(),
            relays: Vec::new(),
            labels: BTreeMap::new(),
            region: None,
            failover: Failover::default(),
            sender_rate_per_minute: 5,
            ticks_per_hour: 60,
            about: String::new(),
            schedules: Vec::new(),
        }
    }
}

/// A configuration or name that is not accepted, with what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidConfig {
    pub field: &'static str,
    pub problem: String,
}

impl InvalidConfig {
    fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

impl AgentConfig {
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        if !HEARTBEAT_SECS.contains(&self.heartbeat_secs) {
            return Err(InvalidConfig::new("heartbeat_secs", "use 10 to 2592000 seconds"));
        }
        if self.triggers.len() > MAX_TRIGGERS {
            return Err(InvalidConfig::new("triggers", format!("at most {MAX_TRIGGERS}")));
        }
        if self.relays.len() > MAX_RELAYS {
            return Err(InvalidConfig::new("relays", format!("at most {MAX_RELAYS}")));
        }
        if let Some(url) = self.relays.iter().find(|url| !is_relay_url(url)) {
            let shown: String = url.chars().take(80).collect();
            return Err(InvalidConfig::new("relays", format!("{shown:?} is not a ws:// or wss:// URL")));
        }
        if self.labels.len() > MAX_LABELS {
            return Err(InvalidConfig::new("labels", format!("at most {MAX_LABELS}")));
        }
        if self.labels.iter().any(|(key, value)| key.is_empty() || key.len() > 63 || value.len() > 256) {
            return Err(InvalidConfig::new("labels", "keys of 1 to 63 bytes, values of at most 256"));
        }
        if self.region.as_deref().is_some_and(|region| !is_place(region)) {
            return Err(InvalidConfig::new("region", "use 1 to 63 of a-z, 0-9, '-' and '_'"));
        }
        if self.about.len() > 2_000 {
            return Err(InvalidConfig::new("about", "at most 2000 bytes"));
        }
        if self.sender_rate_per_minute == 0 || self.sender_rate_per_minute > 600 {
            return Err(InvalidConfig::new("sender_rate_per_minute", "use 1 to 600"));
        }
        if self.ticks_per_hour == 0 || self.ticks_per_hour > 3_600 {
            return Err(InvalidConfig::new("ticks_per_hour", "use 1 to 3600"));
        }
        plan_all(&self.schedules).map_err(|invalid| InvalidConfig::new("schedules", invalid.to_string()))?;
        Ok(())
    }
}

/// Whether this can name a region or a pool of workers.
pub fn is_place(name: &str) -> bool {
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    (1..=63).contains(&name.len()) && name.chars().all(known)
}

fn is_relay_url(url: &str) -> bool {
    url.len() <= 256
        && url.strip_prefix("wss://").or_else(|| url.strip_prefix("ws://")).is_some_and(|rest| !rest.is_empty())
        && !url.contains(char::is_whitespace)
}

/// Checks an agent's name: 1 to 64 of `a-z 0-9 - _ .`, starting with a letter or digit.
///
/// The set is the local part of a lightning address (LUD-16), so that every name can become one.
pub fn validate_name(name: &str) -> Result<(), InvalidConfig> {
    let fine = (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
        && !name.starts_with("npub1");
    if fine {
        Ok(())
    } else {
        Err(InvalidConfig::new("name", "use 1 to 64 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_configuration_is_named() {
        let mut config = AgentConfig::default();
        config.validate().unwrap();
        config.heartbeat_secs = 9;
        assert_eq!(config.validate().unwrap_err().field, "heartbeat_secs");
        config.heartbeat_secs = 10;
        config.relays = vec!["http://relay".into()];
        assert_eq!(config.validate().unwrap_err().field, "relays");
        assert!(serde_json::from_str::<AgentConfig>(r#"{"goal":"x"}"#).is_err());
    }

    #[test]
    fn names_are_lightning_address_names() {
        for good in ["a", "my-agent", "7up", "a.b_c"] {
            validate_name(good).unwrap();
        }
        for bad in ["", "-a", "A", "a b", "é", "npub1abc", &"a".repeat(65)] {
            assert!(validate_name(bad).is_err(), "{bad:?}");
        }
    }
}
