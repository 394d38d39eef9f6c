//! What an operator's Prometheus reads. Labels are routes, methods and codes of our own: never a key or a name.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// One kind of request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub method: String,
    /// The route's pattern, such as `/v1/agents/{npub}`, or `unmatched`.
    pub route: String,
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NameLabel {
    pub name: &'static str,
}

/// The control plane's own figures, and a registry that other roles of the process may add theirs to.
pub struct Metrics {
    registry: Registry,
    pub requests: Family<RequestLabels, Counter>,
    pub request_seconds: Histogram,
    pub refused: Family<NameLabel, Counter>,
    pub streams: Gauge,
    pub agents_placed: Gauge,
    pub workers_live: Gauge,
    pub workers_declared_dead: Counter,
    pub placements: Counter,
    pub placements_lost: Counter,
    pub agents_waiting: Gauge,
    pub reconciler_active: Gauge,
    pub reconcile_failures: Counter,
    pub events_pruned: Counter,
    pub uptime_seconds: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Registers the control plane's figures in `registry`.
    pub fn new(mut registry: Registry) -> Self {
        let buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
        let mut made = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_seconds: Histogram::new(buckets),
            refused: Family::default(),
            streams: Gauge::default(),
            agents_placed: Gauge::default(),
            workers_live: Gauge::default(),
            workers_declared_dead: Counter::default(),
            placements: Counter::default(),
            placements_lost: Counter::default(),
            agents_waiting: Gauge::default(),
            reconciler_active: Gauge::default(),
            reconcile_failures: Counter::default(),
            events_pruned: Counter::default(),
            uptime_seconds: Gauge::default(),
        };
        registry.register("nexus_http_requests", "Requests answered", made.requests.clone());
        registry.register("nexus_http_request_seconds", "Time to answer, streams aside", made.request_seconds.clone());
        registry.register("nexus_http_refused", "Requests refused, by code", made.refused.clone());
        registry.register("nexus_event_streams", "Open event streams", made.streams.clone());
        registry.register("nexus_agents_placed", "Agents that a worker has", made.agents_placed.clone());
        registry.register("nexus_workers_live", "Workers whose beat moves", made.workers_live.clone());
        registry.register("nexus_workers_declared_dead", "Workers declared dead", made.workers_declared_dead.clone());
        registry.register("nexus_placements", "Agents given to a worker", made.placements.clone());
        registry.register("nexus_placements_lost", "Planned steps that fell away", made.placements_lost.clone());
        registry.register("nexus_agents_waiting", "Agents that no worker fits", made.agents_waiting.clone());
        registry.register(
            "nexus_reconciler_active",
            "1 where the reconciler's term is held",
            made.reconciler_active.clone(),
        );
        registry.register("nexus_reconcile_failures", "Rounds that ended in an error", made.reconcile_failures.clone());
        registry.register("nexus_events_pruned", "Events past their keeping time", made.events_pruned.clone());
        registry.register("nexus_uptime_seconds", "Since this process started", made.uptime_seconds.clone());
        made.registry = registry;
        made
    }

    /// The OpenMetrics text.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub fn refuse(&self, code: &'static str) {
        self.refused.get_or_create(&NameLabel { name: code }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Registry::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rendered() {
        let metrics = Metrics::new(Registry::default());
        metrics.refuse("unauthorized");
        let text = metrics.render().unwrap();
        assert!(text.contains("nexus_http_refused_total{name=\"unauthorized\"} 1"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
