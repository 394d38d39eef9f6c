//! The worker's sign of life, and how it learns which agents are its own.

use std::sync::Arc;
use std::time::Duration;

use nexus_store::{StoreError, worker};

use crate::host::Host;
use crate::run::woken;

/// What this version reads: state and journals up to this format.
pub const WIRE_VERSION: u32 = 1;

/// A new incarnation: every write of an earlier one is stale from now on.
pub async fn register(host: &Host) -> Result<(), StoreError> {
    let sent = host.mono();
    let config = &host.config;
    let me = worker::NewWorker {
        id: host.id,
        region: config.region.clone(),
        pool: config.pool.clone(),
        capacity: config.capacity,
        version: WIRE_VERSION,
    };
    let fence = worker::register(&host.store, me, host.now()).await?;
    host.set_fence(Some(fence));
    host.note_beat(sent);
    host.bus.publish(nexus_bus::Wake::Reconcile);
    Ok(())
}

/// Beats each second, and takes in what changed.
pub async fn run(host: Arc<Host>) {
    let mut applied = 0;
    let period = Duration::from_millis(host.config.beat_ms.max(10));
    loop {
        let sent = host.mono();
        // Also after the lease ended: only the database knows whether it still holds.
        let fence = host.raw_fence();
        let told = match fence {
            Some(fence) => worker::beat(&host.store, fence, applied, host.now()).await,
            None => Err(StoreError::Stale { attempted: "beat" }),
        };
        match told {
            Ok(changed) => {
                host.note_beat(sent);
                let more = changed.len() >= worker::MAX_CHANGED as usize;
                for change in changed {
                    applied = applied.max(change.rev);
                    if change.worker == Some(host.id) {
                        let due = host.mono();
                        host.roster().seat(change.npub, change.generation, due);
                        woken(&host, change.npub).await;
                    } else {
                        host.interrupt(&change.npub);
                        host.roster().drop_agent(&change.npub);
                    }
                }
                host.notify.notify_one();
                if more {
                    continue;
                }
            }
            Err(error) if error.is_stale() => {
                tracing::warn!("this worker was declared dead or replaced: it drops its agents and registers again");
                fence_self(&host);
                match register(&host).await {
                    Ok(()) => {
                        applied = 0;
                        continue;
                    }
                    Err(error) => tracing::error!(%error, "registering again"),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "beat");
                if host.mono() >= host.lease_ends() {
                    host.interrupt_all();
                }
            }
        }
        tokio::time::sleep(period).await;
    }
}

fn fence_self(host: &Host) {
    host.set_fence(None);
    host.interrupt_all();
    let dropped = host.roster().drop_all();
    if !dropped.is_empty() {
        tracing::warn!(agents = dropped.len(), "agents dropped");
    }
}
