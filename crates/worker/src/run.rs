//! The worker's loops: beats, wake-ups, turns, and a sweep for what no message announced.

use std::sync::Arc;
use std::time::Duration;

use nexus_bus::{Heard, Wake};
use nexus_core::{Generation, MonoMs, Npub};
use nexus_seal::Signer;
use nexus_store::{agent, inbox, payment, publication};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::beat;
use crate::drain;
use crate::error::WorkerError;
use crate::host::{Extras, Host, WorkerParts};
use crate::turn::{self, After};

/// Time that running turns get to reach a step's end at shutdown.
const DRAIN_MS: u64 = 5_000;
const SWEEP_LIMIT: u32 = 1_000;

/// Runs a worker until `shutdown`. Ticks under way are left in their journals and resumed by whoever comes next.
pub async fn run(parts: WorkerParts, shutdown: CancellationToken) -> Result<(), WorkerError> {
    run_with(parts, Extras::default(), shutdown).await
}

/// The same, with what a production worker is given beside its parts.
pub async fn run_with(parts: WorkerParts, extras: Extras, shutdown: CancellationToken) -> Result<(), WorkerError> {
    let host = Arc::new(Host::new(parts, extras, shutdown));
    let runner = crate::runner::ensure(&host).await?;
    beat::register(&host).await.map_err(WorkerError::Register)?;
    host.vitals.registered();
    let runner = host.runner.get_or_init(|| runner);
    tracing::info!(worker = %host.id, runner = %runner.public_key().short(), region = %host.config.region, pool = %host.config.pool, "worker registered");
    let mut tasks = JoinSet::new();
    tasks.spawn(beat::run(host.clone()));
    tasks.spawn(listen(host.clone()));
    tasks.spawn(sweep(host.clone()));
    take_turns(&host).await;
    tasks.shutdown().await;
    Ok(())
}

async fn take_turns(host: &Arc<Host>) {
    let permits = Arc::new(Semaphore::new(host.config.turns.max(1)));
    let mut turns = JoinSet::new();
    loop {
        while turns.try_join_next().is_some() {}
        let Some(permit) = permit(host, &permits).await else { break };
        // While this worker has fenced itself, nothing is taken.
        let due = if host.fence().is_some() { host.roster().take_due(host.mono()) } else { None };
        match due {
            Some((npub, generation)) => {
                let host = host.clone();
                turns.spawn(async move {
                    one_turn(&host, npub, generation).await;
                    drop(permit);
                });
            }
            None => {
                drop(permit);
                wait(host).await;
            }
        }
        if host.shutdown.is_cancelled() {
            break;
        }
    }
    if host.config.drain_ms > 0 {
        drain::run(host, &mut turns).await;
    }
    host.cut();
    let drained = async { while turns.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_millis(DRAIN_MS), drained).await.is_err() {
        tracing::warn!("turns did not end in time; their journals say where to go on");
        turns.shutdown().await;
    }
}

async fn permit(host: &Host, permits: &Arc<Semaphore>) -> Option<tokio::sync::OwnedSemaphorePermit> {
    tokio::select! {
        biased;
        () = host.shutdown.cancelled() => None,
        permit = permits.clone().acquire_owned() => permit.ok(),
    }
}

/// Until the next timer, a wake-up or the end; at most a second, since a manual clock moves without us.
async fn wait(host: &Host) {
    let now = host.mono();
    let pause = host.roster().next_due().map_or(1_000, |due| due.since(now)).clamp(1, 1_000);
    tokio::select! {
        biased;
        () = host.notify.notified() => {}
        () = tokio::time::sleep(Duration::from_millis(pause)) => {}
        () = host.shutdown.cancelled() => {}
    }
}

async fn one_turn(host: &Arc<Host>, npub: Npub, generation: Generation) {
    let stop = host.enter(npub);
    host.vitals.turn_begun();
    // A task of its own, so that a panic ends this turn and nothing else; it ends with this one.
    let turn = AbortOnDropHandle::new(tokio::spawn({
        let host = host.clone();
        async move { turn::take(&host, npub, generation, &stop).await }
    }));
    let after = match turn.await {
        Ok(after) => after,
        Err(error) => {
            tracing::error!(npub = %npub.short(), panicked = error.is_panic(), "a turn was cut off");
            turn::park_crashed(host, npub, generation).await
        }
    };
    host.leave(&npub);
    host.vitals.turn_ended();
    match after {
        After::At(due) => host.roster().finish(&npub, due, host.mono()),
        After::Drop => {
            tracing::debug!(npub = %npub.short(), "dropped");
            host.roster().lost(&npub, generation, host.mono());
        }
    }
    host.forget_unheld(&npub);
    host.notify.notify_one();
}

/// Bus messages only say where to look.
async fn listen(host: Arc<Host>) {
    let mut heard = host.bus.subscribe();
    loop {
        match heard.recv().await {
            Ok(Heard::Wake(Wake::Agent { npub })) => woken(&host, npub).await,
            Ok(Heard::Wake(Wake::Worker { id })) if id == host.id => host.news.notify_one(),
            Ok(Heard::Wake(Wake::Worker { .. } | Wake::Event { .. } | Wake::Reconcile)) => {}
            Ok(Heard::Lagged) => look_everywhere(&host).await,
            Err(closed) => {
                tracing::debug!(%closed, "no more wake-ups: the sweep goes on");
                return;
            }
        }
    }
}

pub(crate) async fn woken(host: &Host, npub: Npub) {
    if host.is_running(&npub) {
        stop_if_told(host, npub).await;
    }
    host.wake(&npub);
}

/// `stop --now` cuts a running turn short.
pub(crate) async fn stop_if_told(host: &Host, npub: Npub) {
    match agent::get(&host.store, npub).await {
        Ok(Some(agent)) if agent.stop_now => host.interrupt(&npub),
        Ok(Some(_)) => {}
        // Deleted under the turn: its writes are refused anyway.
        Ok(None) => host.interrupt(&npub),
        Err(error) => tracing::warn!(%error, "cannot see whether to stop"),
    }
}

async fn sweep(host: Arc<Host>) {
    let period = Duration::from_millis(host.config.sweep_ms.max(100));
    loop {
        tokio::time::sleep(period).await;
        look_everywhere(&host).await;
    }
}

/// Wakes every agent of ours for which something waits.
async fn look_everywhere(host: &Host) {
    let Some(fence) = host.fence() else { return };
    let mut waiting = Vec::new();
    match inbox::waiting(&host.store, fence, SWEEP_LIMIT).await {
        Ok(found) => waiting.extend(found),
        Err(error) => tracing::warn!(%error, "sweep of inboxes"),
    }
    match payment::agents_unresolved(&host.store, fence, SWEEP_LIMIT).await {
        Ok(found) => waiting.extend(found),
        Err(error) => tracing::warn!(%error, "sweep of payments"),
    }
    match publication::due(&host.store, fence, host.now(), SWEEP_LIMIT).await {
        Ok(found) => waiting.extend(found.into_iter().map(|publication| publication.npub)),
        Err(error) => tracing::warn!(%error, "sweep of publications"),
    }
    let mut roster = host.roster();
    let now = host.mono();
    for npub in waiting {
        // An agent that waits for a known moment has its own timer; being early is harmless but not free.
        roster.wake(&npub, MonoMs(now.0));
    }
    drop(roster);
    host.notify.notify_one();
}
