//! Told to stop: running ticks come to their end or are parked in their journals, every agent is handed over, and all of
//! that within a deadline. What is left by then is taken over as from a dead worker.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use nexus_bus::Wake;
use nexus_core::{Generation, MonoMs, Npub};
use nexus_store::{placement, worker};
use tokio::task::JoinSet;

use crate::error::TurnError;
use crate::host::Host;

/// Agents handed over at a time.
const PAGE: usize = 1_000;
/// Side by side, so that they share commits.
const WIDTH: usize = 64;
const LOOK: Duration = Duration::from_millis(50);
const RETRY: Duration = Duration::from_millis(250);
/// Of the time there is, the last part is for ticks that have to be cut short: a quarter, at most this.
const CUT_MS: u64 = 5_000;

/// Ends `turns` and hands every agent over. Beats go on meanwhile: this worker still answers for what it holds.
pub(crate) async fn run(host: &Arc<Host>, turns: &mut JoinSet<()>) {
    let limit = host.config.drain_ms;
    let deadline = host.mono().plus_ms(limit);
    let cut = host.mono().plus_ms(limit - (limit / 4).min(CUT_MS));
    host.vitals.draining();
    let all = async {
        say_so(host).await;
        empty(host, turns, cut).await;
    };
    let left = deadline.since(host.mono());
    if tokio::time::timeout(Duration::from_millis(left), all).await.is_err() {
        tracing::warn!(agents = host.roster().len(), "not everything was handed over in time");
    }
    leave(host).await;
}

/// No agent is placed here from now on.
async fn say_so(host: &Host) {
    loop {
        let fence = match host.live_fence() {
            Ok(fence) => fence,
            Err(TurnError::Stale) => return,
            // The database is away: it may be back before the deadline.
            Err(_) => {
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        match worker::set_draining(&host.store, fence, true).await {
            Ok(()) => break,
            // Replaced or declared dead: there is nothing to hand over.
            Err(error) if error.is_stale() => return,
            Err(error) => {
                tracing::warn!(%error, "saying that this worker drains");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    tracing::info!(agents = host.roster().len(), "draining");
    host.bus.publish(Wake::Worker { id: host.id });
    host.bus.publish(Wake::Reconcile);
}

async fn empty(host: &Arc<Host>, turns: &mut JoinSet<()>, cut: MonoMs) {
    let mut is_cut = false;
    loop {
        while turns.try_join_next().is_some() {}
        let idle = host.roster().idle(PAGE);
        hand_over(host, &idle).await;
        if turns.is_empty() && host.roster().is_empty() {
            return;
        }
        if !is_cut && host.mono() >= cut {
            tracing::info!(turns = turns.len(), "turns that take too long are parked in their journals");
            host.cut();
            is_cut = true;
        }
        if idle.len() < PAGE {
            let _ = tokio::time::timeout(LOOK, turns.join_next()).await;
        }
    }
}

async fn hand_over(host: &Host, idle: &[(Npub, Generation)]) {
    // Boxed, since the compiler cannot see that futures which borrow the host may change threads.
    let all: Vec<BoxFuture<'_, bool>> =
        idle.iter().map(|(npub, generation)| give_up(host, *npub, *generation).boxed()).collect();
    let mut running = futures::stream::iter(all).buffer_unordered(WIDTH);
    let mut given = 0_u64;
    while let Some(ours) = running.next().await {
        given += u64::from(ours);
    }
    if given > 0 {
        host.vitals.handed_over(given);
        host.bus.publish(Wake::Reconcile);
    }
}

/// Whether it was ours to give.
async fn give_up(host: &Host, npub: Npub, generation: Generation) -> bool {
    let fence = match host.live_fence() {
        Ok(fence) => fence,
        Err(TurnError::Stale) => {
            host.drop_agent(&npub);
            return false;
        }
        Err(_) => {
            tokio::time::sleep(RETRY).await;
            return false;
        }
    };
    match placement::give_up(&host.store, fence, npub, generation).await {
        Ok(_) => {
            host.drop_agent(&npub);
            true
        }
        Err(error) if error.is_stale() => {
            host.drop_agent(&npub);
            false
        }
        Err(error) => {
            tracing::warn!(npub = %npub.short(), %error, "handing an agent over; tried again");
            tokio::time::sleep(RETRY).await;
            false
        }
    }
}

/// Signs off, so that nobody waits for the lease to end.
async fn leave(host: &Host) {
    let Some(fence) = host.fence() else { return };
    if !host.roster().is_empty() {
        return;
    }
    match tokio::time::timeout(Duration::from_secs(1), worker::sign_off(&host.store, fence)).await {
        Ok(Ok(())) => tracing::info!("signed off"),
        Ok(Err(error)) => tracing::debug!(%error, "not signed off"),
        Err(_) => tracing::debug!("not signed off in time"),
    }
    host.bus.publish(Wake::Reconcile);
}
