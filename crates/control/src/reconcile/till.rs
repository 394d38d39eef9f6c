//! What a node of the operator's is paid, whatever for: which invoices are looked up when, and who follows what it settles.
//!
//! Settlements only wake: what is booked is what the look-up says, once for a hash. One node may be paid for hosting and by
//! agents; each asks whether a hash is the other's before it calls it unexplained.

use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use nexus_core::{Hash32, UnixMs};
use nexus_lightning::{Cursor, InvoiceState, Receive, Settlement};
use nexus_store::{StoreError, installation};

use super::pause;
use crate::app::Shared;

/// The node's time to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Between looks at an open invoice: a quarter of its age, within these.
const LOOK_MS: std::ops::RangeInclusive<i64> = 1_000..=30_000;
/// A node that was away may settle late: an expired invoice is looked at for so long, so often.
const LATE_MS: i64 = 86_400_000;
const LATE_LOOK_MS: i64 = 600_000;
/// Pause before the node's settlements are followed again.
pub(super) const FOLLOW_MS: u64 = 5_000;
/// How far the node's clock may be behind ours.
const SKEW_MS: i64 = 60_000;

/// Asks the node about an invoice. None: it does not answer.
pub(super) async fn look_up(node: &dyn Receive, hash: Hash32) -> Option<InvoiceState> {
    match tokio::time::timeout(PATIENCE, node.lookup_invoice(hash)).await {
        Ok(Ok(state)) => Some(state),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the operator's node does not say which invoices are paid; asked again");
            None
        }
        Err(_) => {
            tracing::warn!("the operator's node does not answer in time; asked again");
            None
        }
    }
}

/// When an invoice that is not paid is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Again {
    /// It is past its expiry, and the node knows it as over.
    pub expired: bool,
    /// None: never.
    pub at: Option<UnixMs>,
}

/// `gone`: the node has cancelled it, or does not know it.
pub(super) fn again(gone: bool, created_at: UnixMs, expires_at: UnixMs, now: UnixMs) -> Again {
    if !gone {
        let age = now.0.saturating_sub(created_at.0);
        let wait = (age / 4).clamp(*LOOK_MS.start(), *LOOK_MS.end());
        return Again { expired: false, at: Some(now.plus_ms(wait)) };
    }
    let over = now.0.saturating_sub(expires_at.0);
    let at = match over {
        ..=0 => now.plus_ms(*LOOK_MS.end()),
        _ => now.plus_ms(LATE_LOOK_MS),
    };
    Again { expired: over > 0, at: (over < LATE_MS).then_some(at) }
}

/// Under which names it is stored how far a node was followed, and since when.
pub(super) struct Place {
    pub cursor: String,
    pub since: String,
}

/// Follows what a node settles, as long as this process holds the term. `told` also hears whether the settlement is from
/// before this host followed the node: that is none of its business.
pub(super) async fn follow<'a>(
    app: &Shared,
    node: &dyn Receive,
    place: &Place,
    told: impl Fn(Settlement, bool) -> BoxFuture<'a, Result<(), StoreError>> + Send + Sync,
) {
    loop {
        if app.reconciler.is_active()
            && let Err(error) = settlements(app, node, place, &told).await
        {
            tracing::warn!(%error, "the operator's node is not followed; tried again");
        }
        pause(FOLLOW_MS).await;
    }
}

/// Whether it is from before this host followed the node, whose clock may be behind ours.
fn is_before(settlement: &Settlement, since: UnixMs) -> bool {
    settlement.at < since.plus_ms(-SKEW_MS)
}

/// Until they end, or the term does.
pub(super) async fn settlements<'a>(
    app: &Shared,
    node: &dyn Receive,
    place: &Place,
    told: &(impl Fn(Settlement, bool) -> BoxFuture<'a, Result<(), StoreError>> + Send + Sync),
) -> Result<(), StoreError> {
    let since = installation::put_first(&app.store, &place.since, app.now().0.to_string()).await?;
    let since = UnixMs(since.parse().unwrap_or(0));
    let stored = installation::get(&app.store, &place.cursor).await?;
    let cursor = Cursor(stored.and_then(|text| text.parse().ok()).unwrap_or(0));
    let mut coming = node.settlements(cursor);
    while app.reconciler.is_active() {
        let Ok(next) = tokio::time::timeout(PATIENCE, coming.next()).await else { continue };
        match next {
            Some(Ok(settlement)) => {
                let (cursor, before) = (settlement.cursor, is_before(&settlement, since));
                told(settlement, before).await?;
                installation::put(&app.store, &place.cursor, cursor.0.to_string()).await?;
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "the node's settlements ended");
                break;
            }
            None => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invoice_is_looked_at_for_a_day_after_it_expired() {
        let (made, expires) = (UnixMs(0), UnixMs(600_000));
        let at = |now: i64, gone| again(gone, made, expires, UnixMs(now));
        assert_eq!(at(0, false), Again { expired: false, at: Some(UnixMs(1_000)) });
        assert_eq!(at(40_000, false), Again { expired: false, at: Some(UnixMs(50_000)) });
        assert_eq!(at(900_000, false).at, Some(UnixMs(930_000)), "open past its expiry is open");
        assert_eq!(at(500_000, true), Again { expired: false, at: Some(UnixMs(530_000)) });
        assert_eq!(at(700_000, true), Again { expired: true, at: Some(UnixMs(1_300_000)) });
        assert_eq!(at(600_000 + LATE_MS, true), Again { expired: true, at: None });
    }
}
