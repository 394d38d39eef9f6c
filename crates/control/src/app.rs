//! What every handler is given.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use nexus_bus::{Bus, Wake};
use nexus_core::{AccountId, Clock, Entropy, MonoMs, Npub, UnixMs};
use nexus_egress::Egress;
use nexus_store::Store;
use tokio_util::sync::CancellationToken;

use crate::config::ControlConfig;
use crate::fleet::FleetCache;
use crate::idempotency::UnderWay;
use crate::metrics::Metrics;
use crate::problem::{Code, Problem};
use crate::rate::RateLimiter;
use crate::reconcile::ReconcilerHealth;

/// Handlers hold it as `State<Shared>`.
pub type Shared = Arc<App>;

pub struct App {
    pub store: Store,
    pub bus: Arc<dyn Bus>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub config: ControlConfig,
    pub metrics: Arc<Metrics>,
    pub by_key: RateLimiter<Npub>,
    pub by_address: RateLimiter<IpAddr>,
    pub under_way: UnderWay,
    pub reconciler: ReconcilerHealth,
    pub fleet: FleetCache,
    pub egress: Egress,
    pub stop: CancellationToken,
    pub started: MonoMs,
    /// The OpenAPI document and the page made of it.
    pub openapi: String,
    pub docs: String,
    streams: Mutex<HashMap<AccountId, usize>>,
}

impl App {
    pub(crate) fn new(parts: crate::ControlParts, openapi: String, docs: String) -> Self {
        let crate::ControlParts { store, bus, clock, entropy, config, metrics, stop } = parts;
        Self {
            by_key: RateLimiter::new(config.rate_per_key),
            by_address: RateLimiter::new(config.rate_per_address),
            under_way: UnderWay::default(),
            reconciler: ReconcilerHealth::default(),
            fleet: FleetCache::default(),
            egress: Egress::new(config.private_egress),
            started: clock.mono(),
            streams: Mutex::default(),
            store,
            bus,
            clock,
            entropy,
            config,
            metrics,
            stop,
            openapi,
            docs,
        }
    }

    pub fn now(&self) -> UnixMs {
        self.clock.now()
    }

    pub fn random<const N: usize>(&self) -> [u8; N] {
        nexus_core::time::random(&*self.entropy)
    }

    /// Tells whoever hosts this agent, and the placement, to look at it now.
    pub fn wake_agent(&self, npub: Npub) {
        self.bus.publish(Wake::Agent { npub });
        self.bus.publish(Wake::Reconcile);
    }

    /// Room for one more open stream of this account, held until the guard is dropped.
    pub fn open_stream(self: &Arc<Self>, account: AccountId) -> Result<StreamGuard, Problem> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = streams.values().sum();
        let own = streams.entry(account).or_default();
        if all >= self.config.max_streams || *own >= self.config.max_streams_per_account {
            return Err(Problem::new(Code::TooManyStreams).retry_after_secs(10));
        }
        *own += 1;
        self.metrics.streams.inc();
        Ok(StreamGuard { app: Arc::clone(self), account })
    }
}

/// One open stream, counted while this lives.
pub struct StreamGuard {
    app: Shared,
    account: AccountId,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut streams = self.app.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = streams.get_mut(&self.account) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                streams.remove(&self.account);
            }
        }
        self.app.metrics.streams.dec();
    }
}
