//! What a worker tells of itself: whether it is ready, and figures for Prometheus. Labels are words of our own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nexus_core::MonoMs;
use nexus_core::payment::PaymentState;
use nexus_store::Side;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

const LAG_BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];
const STEP_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0, 120.0];

const PAYMENT_STATES: [PaymentState; 7] = [
    PaymentState::Reserved,
    PaymentState::Dispatched,
    PaymentState::Pending,
    PaymentState::Unknown,
    PaymentState::Settled,
    PaymentState::Failed,
    PaymentState::Canceled,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepName {
    step: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

/// Written by the worker, read by whoever serves its health and metrics.
#[derive(Debug)]
pub struct Vitals {
    registered: AtomicBool,
    draining: AtomicBool,
    beat_sent: AtomicU64,
    lease_ends: AtomicU64,
    agents: Gauge,
    turns: Gauge,
    beat_age: Gauge<f64, AtomicU64>,
    ticks: Family<Outcome, Counter>,
    resumed: Counter,
    lag: Histogram,
    steps: Family<StepName, Histogram>,
    payments: Family<State, Counter>,
    parked: Family<Code, Counter>,
    failures: Counter,
    crashes: Counter,
    handed_over: Counter,
}

impl Default for Vitals {
    fn default() -> Self {
        Self::new(&mut Registry::default())
    }
}

impl Vitals {
    /// Registers the worker's figures.
    pub fn new(registry: &mut Registry) -> Self {
        let made = Self {
            registered: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            beat_sent: AtomicU64::new(0),
            lease_ends: AtomicU64::new(0),
            agents: Gauge::default(),
            turns: Gauge::default(),
            beat_age: Gauge::default(),
            ticks: Family::default(),
            resumed: Counter::default(),
            lag: Histogram::new(LAG_BUCKETS),
            steps: Family::new_with_constructor(|| Histogram::new(STEP_BUCKETS)),
            payments: Family::default(),
            parked: Family::default(),
            failures: Counter::default(),
            crashes: Counter::default(),
            handed_over: Counter::default(),
        };
        // Each from the start: what is not there yet can't be watched.
        for outcome in ["completed", "failed", "skipped"] {
            drop(made.ticks.get_or_create(&Outcome { outcome }));
        }
        for state in PAYMENT_STATES {
            drop(made.payments.get_or_create(&State { state: state.as_str() }));
        }
        registry.register("nexus_worker_agents", "Agents that this worker holds", made.agents.clone());
        registry.register("nexus_worker_turns", "Turns under way", made.turns.clone());
        registry.register("nexus_worker_beat_age_seconds", "Since the last beat was sent", made.beat_age.clone());
        registry.register("nexus_ticks", "Ticks that ended, by outcome", made.ticks.clone());
        registry.register("nexus_ticks_resumed", "Ticks taken up from their journal", made.resumed.clone());
        registry.register("nexus_tick_lag_seconds", "From due to started", made.lag.clone());
        registry.register("nexus_tick_step_seconds", "Until a step's record is durable, by step", made.steps.clone());
        registry.register("nexus_payments", "Payments that reached a state", made.payments.clone());
        registry.register("nexus_turns_parked", "Turns that parked their agent, by reason", made.parked.clone());
        registry.register("nexus_turns_failed", "Turns that the database cut short", made.failures.clone());
        registry.register("nexus_turns_crashed", "Turns that hit a bug", made.crashes.clone());
        registry.register("nexus_agents_handed_over", "Agents given up while draining", made.handed_over.clone());
        made
    }

    /// None when agents can run here; else why not.
    pub fn problem(&self, now: MonoMs) -> Option<&'static str> {
        if !self.registered.load(Ordering::Relaxed) {
            return Some("the worker has not registered yet");
        }
        if self.draining.load(Ordering::Relaxed) {
            return Some("the worker hands its agents over");
        }
        let lease_ends = MonoMs(self.lease_ends.load(Ordering::Relaxed));
        (now >= lease_ends).then_some("no beat came through for a lease: this worker has fenced itself")
    }

    pub fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Relaxed)
    }

    /// Brings figures that follow the clock up to date, before they are read.
    pub fn refresh(&self, now: MonoMs) {
        let sent = MonoMs(self.beat_sent.load(Ordering::Relaxed));
        let age_ms = if self.is_registered() { now.since(sent) } else { 0 };
        self.beat_age.set(seconds(age_ms));
    }

    pub(crate) fn registered(&self) {
        self.registered.store(true, Ordering::Relaxed);
    }

    pub(crate) fn beat(&self, sent: MonoMs, lease_ends: MonoMs) {
        self.beat_sent.store(sent.0, Ordering::Relaxed);
        self.lease_ends.store(lease_ends.0, Ordering::Relaxed);
    }

    pub(crate) fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn holds(&self, agents: usize) {
        self.agents.set(i64::try_from(agents).unwrap_or(i64::MAX));
    }

    pub(crate) fn turn_begun(&self) {
        self.turns.inc();
    }

    pub(crate) fn turn_ended(&self) {
        self.turns.dec();
    }

    /// `lag_ms` from the moment it was due to its start.
    pub(crate) fn tick_started(&self, lag_ms: u64) {
        self.lag.observe(seconds(lag_ms));
    }

    pub(crate) fn tick_resumed(&self) {
        self.resumed.inc();
    }

    /// `completed`, `failed` or `skipped`.
    pub(crate) fn tick_ended(&self, outcome: &'static str) {
        self.ticks.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn step(&self, step: &'static str, took_ms: u64) {
        self.steps.get_or_create(&StepName { step }).observe(seconds(took_ms));
    }

    /// Counts the payments among what was just made durable.
    pub(crate) fn committed(&self, sides: &[&'static str]) {
        for state in sides {
            self.payments.get_or_create(&State { state }).inc();
        }
    }

    pub(crate) fn parked(&self, code: &'static str) {
        self.parked.get_or_create(&Code { code }).inc();
    }

    pub(crate) fn failed(&self) {
        self.failures.inc();
    }

    pub(crate) fn crashed(&self) {
        self.crashes.inc();
    }

    pub(crate) fn handed_over(&self, agents: u64) {
        self.handed_over.inc_by(agents);
    }
}

/// The states that payments reach with these.
pub(crate) fn payment_states(sides: &[Side]) -> Vec<&'static str> {
    let state = |side: &Side| match side {
        Side::InsertPayment(_) => Some("reserved"),
        Side::Payment(change) => Some(change.to.as_str()),
        _ => None,
    };
    sides.iter().filter_map(state).collect()
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a process stay below 2^52")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_why() {
        let vitals = Vitals::default();
        assert!(vitals.problem(MonoMs(5)).unwrap().contains("not registered"));
        vitals.registered();
        vitals.beat(MonoMs(10), MonoMs(4_010));
        assert_eq!(vitals.problem(MonoMs(4_009)), None);
        assert!(vitals.problem(MonoMs(4_010)).unwrap().contains("fenced itself"));
        vitals.draining();
        assert!(vitals.problem(MonoMs(20)).unwrap().contains("hands"));
    }
}
