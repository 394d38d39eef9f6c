//! How a worker behaves. All times are milliseconds.

use serde::{Deserialize, Serialize};

use nexus_core::lifecycle::LifecycleRules;

/// A worker's settings, with the defaults of a production worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    pub region: String,
    pub pool: String,
    /// Agents it takes at most.
    pub capacity: u32,
    /// A worker whose beat was not seen for so long is declared dead.
    pub lease_ms: u64,
    pub beat_ms: u64,
    /// Turns (and so ticks) under way at once.
    pub turns: usize,
    /// A tick that has bought nothing by then is given up.
    pub tick_timeout_ms: u64,
    /// From payment to result; then the job is disputed.
    pub job_timeout_ms: u64,
    /// From request to a first sign of the provider; then another one is asked.
    pub offer_timeout_ms: u64,
    /// For relays to take an event.
    pub publish_timeout_ms: u64,
    /// Looks for work that no message announced.
    pub sweep_ms: u64,
    /// The inbox relay of this host, which agents read from and write to first.
    pub own_relay: String,
    /// What stands behind the `@` of agents' addresses: host and port of the API. None: agents publish no address.
    pub address_host: Option<String>,
    /// How often providers are looked up.
    pub market_ms: u64,
    /// How long a worker that was told to stop has to hand its agents over. 0: it keeps them, and comes back for them.
    pub drain_ms: u64,
    pub lifecycle: LifecycleRules,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            region: "local".into(),
            pool: "default".into(),
            capacity: 1_000_000,
            lease_ms: 5_000,
            beat_ms: 1_000,
            turns: 256,
            tick_timeout_ms: 300_000,
            job_timeout_ms: 120_000,
            offer_timeout_ms: 20_000,
            publish_timeout_ms: 5_000,
            sweep_ms: 5_000,
            own_relay: "ws://127.0.0.1:7778".into(),
            address_host: None,
            market_ms: 30_000,
            drain_ms: 0,
            lifecycle: LifecycleRules::default(),
        }
    }
}
