//! What the relay takes, and how much of it.

use std::time::Duration;

use nexus_core::Npub;
use serde::{Deserialize, Serialize};

/// The relay's configuration. Every bound is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    pub name: String,
    pub description: String,
    /// The URLs that clients reach it at, beside the address it listens on: NIP-42 names one of them.
    pub public_urls: Vec<String>,
    /// Takes every valid event, not only those from or to hosted agents and owners.
    pub open: bool,
    /// Providers whose offers, profiles and job answers are taken from anywhere.
    pub providers: Vec<Npub>,
    /// Does not count connections and writes by loopback addresses. Not behind a proxy, where everyone is loopback.
    pub trust_loopback: bool,
    /// Largest event, in bytes of JSON.
    pub max_event_bytes: usize,
    /// Largest frame that a client may send, in bytes.
    pub max_frame_bytes: usize,
    pub max_tags: usize,
    pub max_subscriptions: usize,
    pub max_filters: usize,
    /// Values in one field of a filter.
    pub max_filter_values: usize,
    /// Events that one filter gets from what is stored.
    pub max_results: u32,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    /// Events in a minute from one address (an IPv6 /64), unless they are a hosted agent's.
    pub writes_per_minute_address: u32,
    /// Events in a minute from one key, unless it is a hosted agent's.
    pub writes_per_minute_key: u32,
    /// Frames in a minute on one connection: requests cost more than events.
    pub frames_per_minute: u32,
    /// Events that one connection may have in work at once.
    pub writes_in_flight: usize,
    /// Live events that may wait for a slow reader, in frames and bytes. One that does not keep up is disconnected.
    pub live_queue_frames: usize,
    pub live_queue_bytes: usize,
    /// How long a connection may take to become a WebSocket. Seconds.
    pub handshake_timeout_secs: u64,
    /// A client that says nothing for this long, not even a pong, is disconnected. Seconds.
    pub idle_timeout_secs: u64,
    /// How long one frame may take to leave. Seconds.
    pub write_timeout_secs: u64,
    /// How far ahead of our clock an event may be. Seconds.
    pub max_future_secs: i64,
    /// How old an ephemeral event may be. Seconds.
    pub max_ephemeral_age_secs: i64,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            name: "Nexus inbox relay".into(),
            description: "Takes what is addressed to the agents that live here.".into(),
            public_urls: Vec::new(),
            open: false,
            providers: Vec::new(),
            trust_loopback: false,
            max_event_bytes: nexus_nostr::event::MAX_EVENT,
            max_frame_bytes: 128 * 1024,
            max_tags: nexus_nostr::event::MAX_TAGS,
            max_subscriptions: 20,
            max_filters: 10,
            max_filter_values: 1_024,
            max_results: 500,
            max_connections: 10_000,
            max_connections_per_address: 64,
            writes_per_minute_address: 600,
            writes_per_minute_key: 120,
            frames_per_minute: 6_000,
            writes_in_flight: 64,
            live_queue_frames: 1_024,
            live_queue_bytes: 4 * 1024 * 1024,
            handshake_timeout_secs: 15,
            idle_timeout_secs: 120,
            write_timeout_secs: 10,
            max_future_secs: 900,
            max_ephemeral_age_secs: 300,
        }
    }
}

/// A setting that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("relay.{field}: {problem}")]
pub struct InvalidConfig {
    pub field: &'static str,
    pub problem: &'static str,
}

impl RelayConfig {
    /// For `nexus dev`: everyone on this machine may write, and nobody is counted.
    pub fn development() -> Self {
        Self { open: true, trust_loopback: true, name: "Nexus development relay".into(), ..Self::default() }
    }

    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let sizes = [
            ("max_subscriptions", self.max_subscriptions),
            ("max_filters", self.max_filters),
            ("max_filter_values", self.max_filter_values),
            ("max_connections", self.max_connections),
            ("max_connections_per_address", self.max_connections_per_address),
            ("writes_in_flight", self.writes_in_flight),
            ("live_queue_frames", self.live_queue_frames),
            ("max_results", usize::try_from(self.max_results).unwrap_or(usize::MAX)),
        ];
        if let Some((field, _)) = sizes.into_iter().find(|(_, size)| !(1..=1_000_000).contains(size)) {
            return Err(InvalidConfig { field, problem: "use 1 to 1000000" });
        }
        if !(1_024..=1_048_576).contains(&self.max_event_bytes) {
            return Err(InvalidConfig { field: "max_event_bytes", problem: "use 1024 to 1048576" });
        }
        if self.max_frame_bytes < self.max_event_bytes + 1_024 || self.max_frame_bytes > 4 * 1_048_576 {
            return Err(InvalidConfig { field: "max_frame_bytes", problem: "use an event and 1024 bytes, to 4 MiB" });
        }
        if self.live_queue_bytes < self.max_frame_bytes {
            return Err(InvalidConfig { field: "live_queue_bytes", problem: "use at least one frame" });
        }
        if self.idle_timeout_secs < 2 || self.write_timeout_secs == 0 {
            return Err(InvalidConfig {
                field: "idle_timeout_secs",
                problem: "use 2 seconds or more, and 1 for writes",
            });
        }
        Ok(())
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_secs)
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(self.handshake_timeout_secs)
    }

    pub(crate) fn write_timeout(&self) -> Duration {
        Duration::from_secs(self.write_timeout_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_unknown_keys_are_refused() {
        RelayConfig::default().validate().unwrap();
        RelayConfig::development().validate().unwrap();
        assert!(serde_json::from_str::<RelayConfig>(r#"{"opened":true}"#).is_err());
        let config = RelayConfig { max_frame_bytes: 1_000, ..RelayConfig::default() };
        assert_eq!(config.validate().unwrap_err().field, "max_frame_bytes");
    }
}
