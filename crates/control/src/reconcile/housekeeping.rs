//! What has served its time is forgotten, a bounded piece at a time.

use futures::FutureExt;
use futures::future::BoxFuture;
use nexus_core::UnixMs;
use nexus_store::{StoreError, event, idempotency, inbox, publication, relay_event, replay, tick, wallet_request};

use super::pause;
use crate::app::Shared;
use crate::config::EVENTS_KEPT_MS;

const ROUND_MS: u64 = 60_000;
/// Rows of one statement, so that it never holds the writer for long.
const BATCH: u32 = 1_000;
/// Statements of one kind in one round.
const MAX_BATCHES: u32 = 20;
/// Pause between statements: others write, too.
const BREATH_MS: u64 = 5;
const DAY_MS: i64 = 86_400_000;
/// How long it is remembered what was in an inbox, and what was published.
const SEEN_KEPT_MS: i64 = 30 * DAY_MS;
const PUBLISHED_KEPT_MS: i64 = 7 * DAY_MS;
const TICKS_KEPT_MS: i64 = 90 * DAY_MS;

/// Cleans up until the process stops; only where the term is held.
pub async fn run(app: &Shared) {
    loop {
        pause(ROUND_MS).await;
        if !app.reconciler.is_active() {
            continue;
        }
        if let Err(error) = round(app).await {
            tracing::warn!(%error, "housekeeping failed; the next round tries again");
        }
    }
}

/// One round over everything that expires.
pub async fn round(app: &Shared) -> Result<(), StoreError> {
    let (store, now) = (&app.store, app.now());
    replay::purge(store, now).await?;
    idempotency::purge(store, now).await?;
    wallet_request::purge(store, now).await?;
    in_pieces(|| relay_event::purge_expired(store, now, BATCH).boxed()).await?;
    in_pieces(|| inbox::purge(store, now.plus_ms(-SEEN_KEPT_MS), BATCH).boxed()).await?;
    in_pieces(|| publication::purge(store, now.plus_ms(-PUBLISHED_KEPT_MS), BATCH).boxed()).await?;
    in_pieces(|| tick::purge(store, now.plus_ms(-TICKS_KEPT_MS), BATCH).boxed()).await?;
    prune_events(app, now.plus_ms(-EVENTS_KEPT_MS)).await
}

async fn in_pieces<'a>(piece: impl Fn() -> BoxFuture<'a, Result<u64, StoreError>>) -> Result<(), StoreError> {
    for _ in 0..MAX_BATCHES {
        if piece().await? < u64::from(BATCH) {
            break;
        }
        pause(BREATH_MS).await;
    }
    Ok(())
}

/// The last pruned event's hash stays, so that the chain still verifies.
async fn prune_events(app: &Shared, before: UnixMs) -> Result<(), StoreError> {
    for npub in event::agents_to_prune(&app.store, before, BATCH).await? {
        let pruned = event::prune(&app.store, npub, before, BATCH).await?;
        app.metrics.events_pruned.inc_by(pruned);
        pause(BREATH_MS).await;
    }
    Ok(())
}
