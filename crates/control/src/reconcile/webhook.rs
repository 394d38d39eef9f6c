//! Outgoing webhooks: what happened to an account's agents is posted where the account said, signed, until it is taken.
//!
//! At least once, in no promised order: the same `webhook-id` comes again when an answer was lost.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nexus_core::UnixMs;
use nexus_egress::EgressError;
use nexus_seal::webhook::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, WebhookKey, sign_webhook};
use nexus_store::event::{self, StoredEvent};
use nexus_store::webhook::{self, Delivery, Fate, Webhook};
use nexus_store::{Conflict, StoreError, agent};
use serde_json::json;
use tokio::time::MissedTickBehavior;

use crate::app::Shared;

const ROUND_MS: u64 = 500;
/// Webhooks, agents and events of one page.
const PAGE: u32 = 200;
/// Deliveries that a webhook gets in a row, and webhooks that get some at once. One that is slow holds up itself alone.
const IN_A_ROW: u32 = 16;
const AT_ONCE: usize = 256;
/// Pauses before the second attempt and those after, as Standard Webhooks suggests; then it is given up.
const PAUSES_MS: [i64; 8] = [5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 50_400_000, 86_400_000];
const GONE: u16 = 410;

/// Delivers until the process stops; only where the term is held.
pub async fn run(app: &Shared) {
    let (mut under_way, mut busy) = (FuturesUnordered::new(), BTreeSet::new());
    let mut rounds = tokio::time::interval(Duration::from_millis(ROUND_MS));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some((id, ended)) = under_way.next() => {
                busy.remove(&id);
                if let Err(error) = ended {
                    tracing::warn!(%error, "a webhook's deliveries were not noted; the next round tries again");
                }
            }
            _ = rounds.tick() => {
                if !app.reconciler.is_active() {
                    continue;
                }
                match round(app, &busy).await {
                    Ok(due) => for (id, deliveries) in due.into_iter().take(AT_ONCE.saturating_sub(busy.len())) {
                        busy.insert(id.clone());
                        under_way.push(deliver(app, id, deliveries));
                    },
                    Err(error) => tracing::warn!(%error, "webhooks were not looked at; the next round tries again"),
                }
            }
        }
    }
}

/// What is due to each webhook that is not being delivered to.
async fn round(app: &Shared, busy: &BTreeSet<String>) -> Result<Vec<(String, Vec<Delivery>)>, StoreError> {
    let (mut after, mut all) = (String::new(), Vec::new());
    loop {
        let page = webhook::live(&app.store, &after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(all) };
        after.clone_from(&last.id);
        for webhook in &page {
            collect(app, webhook).await?;
            if !busy.contains(&webhook.id) {
                let due = webhook::due(&app.store, &webhook.id, app.now(), IN_A_ROW).await?;
                if !due.is_empty() {
                    all.push((webhook.id.clone(), due));
                }
            }
        }
    }
}

async fn deliver(app: &Shared, id: String, deliveries: Vec<Delivery>) -> (String, Result<(), StoreError>) {
    for delivery in deliveries {
        match attempt(app, delivery).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return (id, Err(error)),
        }
    }
    (id, Ok(()))
}

/// Puts a row for each event that the webhook wants.
async fn collect(app: &Shared, webhook: &Webhook) -> Result<(), StoreError> {
    for behind in webhook::behind(&app.store, webhook, PAGE).await? {
        let events = event::after(&app.store, behind.npub, behind.after, PAGE).await?;
        let Some(last) = events.last() else { continue };
        let wanted = |kind: &str| webhook.kinds.is_empty() || webhook.kinds.iter().any(|wanted| wanted == kind);
        let wanted: Vec<(i64, &str)> = events
            .iter()
            .map(|stored| (stored.event.seq, stored.event.body.kind()))
            .filter(|(_, kind)| wanted(kind))
            .collect();
        match webhook::put(&app.store, &webhook.id, behind.npub, &wanted, last.event.seq, app.now()).await {
            // Removed meanwhile.
            Err(error) if error.conflict() == Some(&Conflict::NotFound) => return Ok(()),
            done => done?,
        }
    }
    Ok(())
}

/// False when its receiver does not take it.
async fn attempt(app: &Shared, delivery: Delivery) -> Result<bool, StoreError> {
    let Some(webhook) = webhook::get(&app.store, &delivery.webhook).await? else { return Ok(false) };
    let stored = event::after(&app.store, delivery.npub, delivery.seq - 1, 1).await?;
    let stored = stored.into_iter().find(|stored| stored.event.seq == delivery.seq);
    let (fate, said) = match (webhook.gone_at, stored) {
        (Some(_), _) => (Fate::Dead, "the receiver is gone".to_owned()),
        (None, None) => (Fate::Dead, "the event is not kept any more".to_owned()),
        (None, Some(stored)) => send(app, &webhook, &delivery, &stored).await?,
    };
    webhook::tried(&app.store, &delivery, fate, &said, app.now()).await?;
    Ok(fate == Fate::Delivered)
}

async fn send(
    app: &Shared,
    webhook: &Webhook,
    delivery: &Delivery,
    stored: &StoredEvent,
) -> Result<(Fate, String), StoreError> {
    let name = agent::get(&app.store, delivery.npub).await?.map(|agent| agent.name);
    let now = app.now();
    let again = |said: String| (next(delivery.attempts, now), said);
    let Some(key) = key(app, webhook) else { return Ok(again("its key does not open".to_owned())) };
    let event = &stored.event;
    let body = json!({
        "type": event.body.kind(), "timestamp": moment(event.at), "data": event, "agent": { "npub": event.npub, "name": name },
    });
    let (id, body) = (message_id(stored), body.to_string());
    let signature = match sign_webhook(&id, now, body.as_bytes(), &[key]) {
        Ok(signature) => signature,
        Err(error) => return Ok(again(error.to_string())),
    };
    let seconds = now.secs().to_string();
    let headers =
        [(ID_HEADER, id.as_str()), (TIMESTAMP_HEADER, seconds.as_str()), (SIGNATURE_HEADER, signature.as_str())];
    Ok(match app.egress.post(&webhook.url, &headers, body).await {
        Ok(status @ 200..=299) => (Fate::Delivered, format!("answered {status}")),
        Ok(GONE) => (Fate::Gone, format!("answered {GONE}: it wants nothing any more")),
        Ok(status) => again(format!("answered {status}")),
        Err(error @ EgressError::Refused(_)) => (Fate::Dead, error.to_string()),
        Err(error @ EgressError::Unanswered(_)) => again(error.to_string()),
    })
}

fn next(attempts: u32, now: UnixMs) -> Fate {
    let pause = usize::try_from(attempts).ok().and_then(|attempts| PAUSES_MS.get(attempts));
    pause.map_or(Fate::Dead, |pause| Fate::Again(now.plus_ms(*pause)))
}

/// The event's place in its agent's chain: the same at each attempt, and of no other event, not even after a restore.
fn message_id(stored: &StoredEvent) -> String {
    let hash = stored.hash.to_string();
    format!("evt_{}", &hash[..32.min(hash.len())])
}

fn key(app: &Shared, webhook: &Webhook) -> Option<WebhookKey> {
    let opened = app.config.operator_key.as_deref()?.open(&purpose(&webhook.id), &webhook.sealed_key).ok()?;
    WebhookKey::parse(std::str::from_utf8(opened.expose()).ok()?).ok()
}

/// Under which its key is closed.
pub(crate) fn purpose(id: &str) -> String {
    format!("outgoing-webhook:{id}")
}

/// RFC 3339, in UTC.
fn moment(at: UnixMs) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |at| at.to_string())
}
