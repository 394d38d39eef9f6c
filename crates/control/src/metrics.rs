//! What an operator's Prometheus reads. Labels are routes, methods and codes of our own: never a key or a name.

mod links;

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use links::Links;

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

/// A reason's code: words of our own, of which there are few.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    pub reason: String,
}

/// Where workers are: names that the operator gave them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PlaceLabels {
    pub pool: String,
    pub region: String,
}

/// `this` or `last`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MonthLabel {
    pub month: &'static str,
}

/// The control plane's own figures, and a registry that other roles of the process may add theirs to.
pub struct Metrics {
    registry: Registry,
    pub links: Links,
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
    pub blobs_collected: Counter,
    pub agents_moved: Counter,
    pub agents_unplaced: Gauge,
    pub agents_overdue: Gauge,
    pub agents_away: Gauge,
    pub agents_by_reason: Family<ReasonLabel, Gauge>,
    pub workers_desired: Family<PlaceLabels, Gauge>,
    pub workers_there: Family<PlaceLabels, Gauge>,
    pub load: Family<PlaceLabels, Gauge>,
    pub beat_age_seconds: Gauge<f64, AtomicU64>,
    pub availability: Family<MonthLabel, Gauge<f64, AtomicU64>>,
    pub below_promise: Gauge,
    pub last_backup: Gauge,
    pub backup_stale: Gauge,
    pub ledger_unsound: Gauge,
    pub node_differences: Gauge,
    pub accounts_unsound: Gauge,
    pub accounts_differences: Gauge,
    pub accounts_short_msat: Gauge,
    pub uptime_seconds: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Registers the control plane's figures in `registry`.
    pub fn new(mut registry: Registry) -> Self {
        let buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
        let mut made = Self {
            registry: Registry::default(),
            links: Links::new(&mut registry),
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
            blobs_collected: Counter::default(),
            agents_moved: Counter::default(),
            agents_unplaced: Gauge::default(),
            agents_overdue: Gauge::default(),
            agents_away: Gauge::default(),
            agents_by_reason: Family::default(),
            workers_desired: Family::default(),
            workers_there: Family::default(),
            load: Family::default(),
            beat_age_seconds: Gauge::default(),
            availability: Family::default(),
            below_promise: Gauge::default(),
            last_backup: Gauge::default(),
            backup_stale: Gauge::default(),
            ledger_unsound: Gauge::default(),
            node_differences: Gauge::default(),
            accounts_unsound: Gauge::default(),
            accounts_differences: Gauge::default(),
            accounts_short_msat: Gauge::default(),
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
        registry.register("nexus_blobs_collected", "Objects deleted that no row names", made.blobs_collected.clone());
        registry.register("nexus_uptime_seconds", "Since this process started", made.uptime_seconds.clone());
        made.register_fleet(&mut registry);
        made.registry = registry;
        made
    }

    fn register_fleet(&self, registry: &mut Registry) {
        registry.register("nexus_agents_moved", "Agents moved to a better place", self.agents_moved.clone());
        registry.register(
            "nexus_agents_unplaced",
            "Agents that should run, without a worker",
            self.agents_unplaced.clone(),
        );
        registry.register(
            "nexus_agents_overdue",
            "Agents due for a minute and not started",
            self.agents_overdue.clone(),
        );
        registry.register("nexus_agents_away", "Agents outside their home region", self.agents_away.clone());
        registry.register("nexus_agents_by_reason", "Agents that wait, by reason", self.agents_by_reason.clone());
        registry.register("nexus_workers_desired", "Workers that there should be", self.workers_desired.clone());
        registry.register("nexus_workers", "Workers that live and take agents", self.workers_there.clone());
        registry.register("nexus_load", "Agents placed", self.load.clone());
        let oldest = "Of the live worker that was silent longest, by wall clocks";
        registry.register("nexus_beat_age_seconds", oldest, self.beat_age_seconds.clone());
        let promise = "Due ticks that started within a minute, as a share of all";
        registry.register("nexus_availability_ratio", promise, self.availability.clone());
        let last = "When the last backup was made, in seconds since 1970; 0 for never";
        registry.register("nexus_last_backup_timestamp_seconds", last, self.last_backup.clone());
        let stale = "1 when there is no backup, or the next one is late";
        registry.register("nexus_backup_stale", stale, self.backup_stale.clone());
        let unsound =
            "Hosting entries that do not sum to zero, and accounts whose credit is not what their entries say";
        registry.register("nexus_ledger_unsound", unsound, self.ledger_unsound.clone());
        let different = "Credited invoices of which the operator's node says something else";
        registry.register("nexus_node_differences", different, self.node_differences.clone());
        let unsound = "Accounts at the operator's node, and entries of their books, that do not fit together";
        registry.register("nexus_accounts_unsound", unsound, self.accounts_unsound.clone());
        let different = "Invoices of agents that were credited, of which the operator's node says something else";
        registry.register("nexus_accounts_differences", different, self.accounts_differences.clone());
        let short = "By how much the operator's node has less than its books owe";
        registry.register("nexus_accounts_short_msat", short, self.accounts_short_msat.clone());
        registry.register("nexus_agents_below_promise", "Agents under 99.9 % this month", self.below_promise.clone());
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
