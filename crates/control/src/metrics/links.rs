//! The database and the bus, as every role sees them.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use nexus_bus::BusHealth;
use nexus_core::Clock;
use nexus_store::{Store, fleet};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A database that takes longer to answer is not there.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a role tells of the two.
#[derive(Default)]
pub struct Links {
    store_up: Gauge,
    store_seconds: Gauge<f64, AtomicU64>,
    bus_connected: Gauge,
    bus_connects: Gauge,
    bus_published: Gauge,
    bus_dropped: Gauge,
    bus_received: Gauge,
    bus_ignored: Gauge,
}

impl Links {
    /// Registers its figures in `registry`.
    pub fn new(registry: &mut Registry) -> Self {
        let made = Self::default();
        registry.register("nexus_store_up", "1 while the database answers", made.store_up.clone());
        registry.register("nexus_store_seconds", "How long it took to answer", made.store_seconds.clone());
        registry.register("nexus_bus_connected", "1 while wakes go out and come in", made.bus_connected.clone());
        registry.register("nexus_bus_connects", "Connections made to the bus", made.bus_connects.clone());
        registry.register("nexus_bus_published", "Wakes sent", made.bus_published.clone());
        registry.register("nexus_bus_dropped", "Wakes given up before they left", made.bus_dropped.clone());
        registry.register("nexus_bus_received", "Wakes that came in", made.bus_received.clone());
        registry.register("nexus_bus_ignored", "Messages that were no wake of this version", made.bus_ignored.clone());
        made
    }

    /// Asks the database whether it is there, and notes what came of it.
    pub async fn store_answers(&self, store: &Store, clock: &dyn Clock) -> bool {
        let asked = clock.mono();
        let answered = tokio::time::timeout(STORE_TIMEOUT, fleet::ping(store)).await;
        #[expect(clippy::cast_precision_loss, reason = "at most the timeout")]
        self.store_seconds.set(clock.mono().since(asked) as f64 / 1_000.0);
        let up = matches!(answered, Ok(Ok(())));
        self.store_up.set(i64::from(up));
        up
    }

    /// Notes how the bus is.
    pub fn bus(&self, health: &BusHealth) {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.bus_connected.set(i64::from(health.connected));
        self.bus_connects.set(count(health.connects));
        self.bus_published.set(count(health.published));
        self.bus_dropped.set(count(health.dropped));
        self.bus_received.set(count(health.received));
        self.bus_ignored.set(count(health.ignored));
    }
}
