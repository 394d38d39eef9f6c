//! Traces of ticks: where they are sent, and which.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::Url;

/// OpenTelemetry. Off without an endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Base URL of an OTLP/HTTP collector, like http://127.0.0.1:4318; traces go to `v1/traces` below it.
    pub otlp_endpoint: Option<Url>,
    /// File of request headers for the collector, one `name: value` a line; for its owner alone (0600).
    pub otlp_headers_file: Option<PathBuf>,
    /// Ticks traced, of a thousand. The same ticks on every worker.
    pub sample_per_thousand: u32,
    /// Ticks that wait to be sent at most; what comes after them is not traced, and counted.
    pub queue: usize,
    /// A collector that takes longer has not answered, and what it was sent is given up.
    pub timeout_ms: u64,
    /// Whether spans tell agents apart.
    pub agents: AgentAttribute,
}

/// What spans say of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentAttribute {
    None,
    /// The first half of a hash of its npub: whoever has the npub can recompute it, others cannot read it.
    Hashed,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_headers_file: None,
            sample_per_thousand: 1_000,
            queue: 2_048,
            timeout_ms: 5_000,
            agents: AgentAttribute::None,
        }
    }
}

impl TelemetryConfig {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let plain = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        };
        let rules = [
            (
                self.otlp_endpoint.as_ref().is_none_or(plain),
                "telemetry.otlp_endpoint: an http or https URL without user, query or fragment; secrets go into telemetry.otlp_headers_file",
            ),
            (self.sample_per_thousand <= 1_000, "telemetry.sample_per_thousand: use 0 to 1000"),
            ((1..=100_000).contains(&self.queue), "telemetry.queue: use 1 to 100000"),
            ((100..=60_000).contains(&self.timeout_ms), "telemetry.timeout_ms: use 100 to 60000"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, why)| Err(*why))
    }
}
