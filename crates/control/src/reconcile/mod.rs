//! Loops that make what is wanted true. They take no orders: a wake makes them look sooner, the store says what to
//! do, and a timer covers lost wakes.

pub(crate) mod hosting;
mod housekeeping;
mod liveness;
mod outbox;
mod placement;
pub(crate) mod renewal;
pub(crate) mod rent;
mod spread;
pub(crate) mod sub_account;
mod till;
pub(crate) mod webhook;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nexus_core::MonoMs;

use crate::app::Shared;

/// A round is late when none ended for so long.
const FRESH_MS: u64 = 10_000;

/// What readiness tells of the reconciler.
#[derive(Debug, Default)]
pub struct ReconcilerHealth {
    last_round_ms: AtomicU64,
    live_workers: AtomicUsize,
    active: AtomicBool,
}

impl ReconcilerHealth {
    /// Whether a round ended lately, be it as a standby.
    pub fn is_fresh(&self, now: MonoMs) -> bool {
        let last = self.last_round_ms.load(Ordering::Relaxed);
        last != 0 && now.since(MonoMs(last)) < FRESH_MS
    }

    pub fn live_workers(&self) -> usize {
        self.live_workers.load(Ordering::Relaxed)
    }

    /// Whether this process holds the term.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    fn round(&self, now: MonoMs, active: bool, live_workers: usize) {
        self.last_round_ms.store(now.0.max(1), Ordering::Relaxed);
        self.live_workers.store(live_workers, Ordering::Relaxed);
        self.active.store(active, Ordering::Relaxed);
    }
}

/// Runs every loop until the process stops.
pub async fn run(app: Shared) {
    let loops = async {
        tokio::join!(
            placement::run(&app),
            outbox::run(&app),
            housekeeping::run(&app),
            hosting::run(&app),
            renewal::run(&app),
            sub_account::run(&app),
            webhook::run(&app),
            crate::fleet::run(&app)
        );
    };
    tokio::select! {
        biased;
        () = app.stop.cancelled() => {}
        () = loops => {}
    }
}

/// Sleeps between rounds. Stopping ends it with everything else.
async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
