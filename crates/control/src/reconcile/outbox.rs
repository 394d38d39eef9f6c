//! Events are announced on the bus by whoever stores them; this announces those whose announcer crashed.

use nexus_bus::Wake;
use nexus_store::{StoreError, event};

use super::pause;
use crate::app::Shared;

const ROUND_MS: u64 = 1_000;
const BATCH: u32 = 1_000;
/// Batches of one round; the rest comes with the next.
const MAX_BATCHES: u32 = 50;

/// Empties the outbox until the process stops.
pub async fn run(app: &Shared) {
    loop {
        if let Err(error) = round(app).await {
            tracing::warn!(%error, "the outbox was not emptied; the next round tries again");
        }
        pause(ROUND_MS).await;
    }
}

/// Announces first, marks after: a crash in between announces twice, which is harmless.
pub async fn round(app: &Shared) -> Result<(), StoreError> {
    for _ in 0..MAX_BATCHES {
        let waiting = event::unrelayed(&app.store, BATCH).await?;
        for (npub, seq) in &waiting {
            app.bus.publish(Wake::Event { npub: *npub, seq: *seq });
        }
        if !waiting.is_empty() {
            event::mark_relayed(&app.store, &waiting).await?;
        }
        if waiting.len() < BATCH as usize {
            break;
        }
    }
    Ok(())
}
