//! The worker's sign of life, and how it learns which agents are its own.

use std::sync::Arc;
use std::time::Duration;

use nexus_core::MonoMs;
use nexus_store::worker::Changed;
use nexus_store::{StoreError, worker};

use crate::host::Host;
use crate::run::woken;
use crate::turn::until;

/// Between beats at least, however much there is to hear.
const CALM: Duration = Duration::from_millis(20);

/// A new incarnation: every write of an earlier one is stale from now on.
pub async fn register(host: &Host) -> Result<(), StoreError> {
    let sent = host.mono();
    let config = &host.config;
    let me = worker::NewWorker {
        id: host.id,
        region: config.region.clone(),
        pool: config.pool.clone(),
        capacity: config.capacity,
        version: host.version,
    };
    let fence = worker::register(&host.store, me, host.now()).await?;
    host.set_fence(Some(fence));
    host.note_beat(sent);
    host.bus.publish(nexus_bus::Wake::Reconcile);
    Ok(())
}

/// Beats each second, sooner when it is told that there is something to hear, and takes in what changed.
pub async fn run(host: Arc<Host>) {
    let mut applied = 0;
    let mut wall = WallClock::new(&host);
    let period = Duration::from_millis(host.config.beat_ms.max(10));
    loop {
        wall.look(&host);
        let sent = host.mono();
        // Also after the lease ended: only the database knows whether it still holds.
        let fence = host.raw_fence();
        let told = match fence {
            Some(fence) => worker::beat(&host.beats, fence, applied, host.now()).await,
            None => Err(StoreError::Stale { attempted: "beat" }),
        };
        match told {
            Ok(changed) => {
                host.note_beat(sent);
                if take_in_all(&host, &mut applied, changed, sent, period).await {
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
        tokio::time::sleep(CALM.min(period)).await;
        let _ = tokio::time::timeout(period.saturating_sub(CALM), host.news.notified()).await;
    }
}

/// Takes a beat's page in, and the pages behind it, until the next beat is due. Returns whether more is left.
async fn take_in_all(
    host: &Host,
    applied: &mut i64,
    mut changed: Vec<Changed>,
    sent: MonoMs,
    period: Duration,
) -> bool {
    loop {
        // A page that was cut before its last revision is shorter by at most one revision's agents.
        let more = changed.len() > worker::MAX_CHANGED as usize / 2;
        take_in(host, applied, changed).await;
        if !more {
            return false;
        }
        if u128::from(host.mono().since(sent)) >= period.as_millis() {
            return true;
        }
        changed = match worker::changed(&host.store, host.id, *applied, host.now()).await {
            Ok(changed) => changed,
            Err(error) => {
                tracing::warn!(%error, "reading changed agents");
                return false;
            }
        };
    }
}

async fn take_in(host: &Host, applied: &mut i64, changed: Vec<Changed>) {
    for change in changed {
        *applied = (*applied).max(change.rev);
        if change.worker != Some(host.id) {
            host.interrupt(&change.npub);
            host.drop_agent(&change.npub);
            continue;
        }
        let rests = change.rests_until.filter(|_| !host.is_running(&change.npub));
        host.roster().seat(change.npub, change.generation, rests.map_or(host.mono(), |at| until(host, Some(at))));
        if rests.is_none() {
            woken(host, change.npub).await;
        }
    }
    host.notify.notify_one();
}

/// How far the wall clock is ahead of the monotonic one, by which timers run.
struct WallClock(i64);

impl WallClock {
    /// Less is a clock being set right bit by bit: timers are as little off.
    const JUMP_MS: i64 = 1_000;

    fn new(host: &Host) -> Self {
        Self(Self::ahead(host))
    }

    fn ahead(host: &Host) -> i64 {
        host.now().0.saturating_sub(i64::try_from(host.mono().0).unwrap_or(i64::MAX))
    }

    /// After a jump ahead timers are early rather than late. After one back they are early by themselves.
    fn look(&mut self, host: &Host) {
        let ahead = Self::ahead(host);
        let jump = ahead.saturating_sub(self.0);
        if jump < 0 {
            self.0 = ahead;
        } else if jump >= Self::JUMP_MS {
            tracing::info!(jump_ms = jump, "the wall clock jumped ahead");
            host.roster().hurry(jump.unsigned_abs());
            host.notify.notify_one();
            self.0 = ahead;
        }
    }
}

fn fence_self(host: &Host) {
    host.set_fence(None);
    host.interrupt_all();
    let dropped = host.drop_all();
    if dropped > 0 {
        tracing::warn!(agents = dropped, "agents dropped");
    }
}
