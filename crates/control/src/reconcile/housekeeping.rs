//! What has served its time is forgotten, a bounded piece at a time.

use futures::FutureExt;
use futures::future::BoxFuture;
use nexus_core::UnixMs;
use nexus_store::relay_event::Walk;
use nexus_store::{
    StoreError, approval, audit, blob, dispute, event, idempotency, inbox, invoice_watch, provider, publication,
    relay_event, replay, tick, wallet_request, webhook, worker,
};

use super::pause;
use crate::app::Shared;

const ROUND_MS: u64 = 60_000;
/// Rows of one statement, so that it never holds the writer for long.
const BATCH: u32 = 1_000;
/// Statements of one kind in one round.
const MAX_BATCHES: u32 = 20;
/// Pause between statements: others write, too.
const BREATH_MS: u64 = 5;
const DAY_MS: i64 = 86_400_000;

/// Cleans up until the process stops; only where the term is held.
pub async fn run(app: &Shared) {
    let mut walk = Walk::default();
    loop {
        pause(ROUND_MS).await;
        if !app.reconciler.is_active() {
            continue;
        }
        if let Err(error) = round(app, &mut walk).await {
            tracing::warn!(%error, "housekeeping failed; the next round tries again");
        }
    }
}

/// One round over everything that expires; what fails keeps nothing after it from its turn, and the first failure is told.
/// `walk` is where the look over the relay's events has got to.
pub async fn round(app: &Shared, walk: &mut Walk) -> Result<(), StoreError> {
    let (store, now, kept) = (&app.store, app.now(), &app.config.retention);
    let before = |days: u32| now.plus_ms(-i64::from(days) * DAY_MS);
    let steps = [
        worker::purge(store, now.plus_ms(-DAY_MS)).map(|gone| gone.map(drop)).boxed(),
        in_pieces(|| replay::purge(store, now, BATCH).boxed()).boxed(),
        in_pieces(|| idempotency::purge(store, now, BATCH).boxed()).boxed(),
        in_pieces(|| wallet_request::purge(store, now, BATCH).boxed()).boxed(),
        in_pieces(|| invoice_watch::purge(store, now, BATCH).boxed()).boxed(),
        in_pieces(|| relay_event::purge_expired(store, now, BATCH).boxed()).boxed(),
        in_pieces(|| inbox::purge(store, before(kept.inbox_days), BATCH).boxed()).boxed(),
        in_pieces(|| publication::purge(store, before(kept.publications_days), BATCH).boxed()).boxed(),
        in_pieces(|| webhook::purge(store, before(kept.events_days), BATCH).boxed()).boxed(),
        in_pieces(|| approval::purge(store, before(kept.ticks_days), BATCH).boxed()).boxed(),
        in_pieces(|| dispute::purge(store, before(kept.ticks_days), BATCH).boxed()).boxed(),
        in_pieces(|| provider::purge(store, now, BATCH).boxed()).boxed(),
        in_pieces(|| tick::purge(store, before(kept.ticks_days), BATCH).boxed()).boxed(),
        in_pieces(|| audit::purge(store, before(kept.audit_days), BATCH).boxed()).boxed(),
        purge_relay(app, before(kept.relay_days), walk).boxed(),
        prune_events(app, before(kept.events_days)).boxed(),
        as_planned(app, now).boxed(),
        collect_blobs(app, now).boxed(),
    ];
    let mut done = Ok(());
    for step in steps {
        done = done.and(step.await);
    }
    done
}

/// Objects that no row names, or that were put for a row that never came to be.
async fn collect_blobs(app: &Shared, now: UnixMs) -> Result<(), StoreError> {
    let before = now.plus_ms(-i64::try_from(app.config.object_grace_ms).unwrap_or(i64::MAX));
    for _ in 0..MAX_BATCHES {
        let collected = blob::collect(&app.store, before, BATCH).await?;
        app.metrics.blobs_collected.inc_by(collected);
        if collected < u64::from(BATCH) {
            break;
        }
        pause(BREATH_MS).await;
    }
    Ok(())
}

/// Again and again while there was something.
async fn in_pieces<'a>(piece: impl Fn() -> BoxFuture<'a, Result<u64, StoreError>>) -> Result<(), StoreError> {
    for _ in 0..MAX_BATCHES {
        if piece().await? == 0 {
            break;
        }
        pause(BREATH_MS).await;
    }
    Ok(())
}

async fn purge_relay(app: &Shared, before: UnixMs, walk: &mut Walk) -> Result<(), StoreError> {
    for _ in 0..MAX_BATCHES {
        (_, *walk) = relay_event::purge_old(&app.store, before, *walk, BATCH).await?;
        if walk.done {
            break;
        }
        pause(BREATH_MS).await;
    }
    Ok(())
}

/// The last pruned event's hash stays, so that the chain still verifies. An agent's turn comes when its oldest event is a
/// day past its time: each agent is visited once a day, for a day's events at once.
async fn prune_events(app: &Shared, before: UnixMs) -> Result<(), StoreError> {
    for _ in 0..MAX_BATCHES {
        let mut gone = 0;
        for npub in event::agents_to_prune(&app.store, before.plus_ms(-DAY_MS), BATCH).await? {
            let pruned = event::prune(&app.store, npub, before, BATCH).await?;
            app.metrics.events_pruned.inc_by(pruned);
            gone += pruned;
            pause(BREATH_MS).await;
        }
        if gone == 0 {
            break;
        }
    }
    Ok(())
}

/// Events and ticks of agents whose plan says how long they are kept, shorter or longer than the host's own.
async fn as_planned(app: &Shared, now: UnixMs) -> Result<(), StoreError> {
    for _ in 0..MAX_BATCHES {
        let mut gone = 0;
        for (npub, before) in event::agents_past_plan(&app.store, now, BATCH).await? {
            let pruned = event::prune(&app.store, npub, before, BATCH).await?;
            app.metrics.events_pruned.inc_by(pruned);
            gone += pruned;
            pause(BREATH_MS).await;
        }
        for (npub, before) in tick::agents_past_plan(&app.store, now, BATCH).await? {
            gone += tick::purge_of(&app.store, npub, before, BATCH).await?;
            pause(BREATH_MS).await;
        }
        if gone == 0 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nexus_core::event::EventBody;
    use nexus_core::placement::Step;
    use nexus_core::status::Purpose;
    use nexus_core::{Generation, Hash32, WorkerId};
    use nexus_store::agent::{self, Made};
    use nexus_store::event::{Chain, NewEvent};
    use nexus_store::tick::NewState;
    use nexus_store::worker::NewWorker;
    use nexus_store::{Batch, Objects, Statement, Store, placement};
    use nexus_testkit::ManualClock;

    use super::*;
    use crate::testing::{AGENT, START, app, hosted};

    #[tokio::test]
    async fn an_object_that_no_row_names_goes_after_its_grace() {
        let store = Store::open_memory().unwrap().with_objects(Some(Objects::in_memory(0)));
        let clock = Arc::new(ManualClock::at(START));
        let app = app(&store, &clock);
        hosted(&store).await;
        let id = WorkerId::from_bytes([1; 16]);
        let new = NewWorker { id, region: "eu".into(), pool: "default".into(), capacity: 9, version: 1 };
        let fence = worker::register(&store, new, START).await.unwrap();
        let term = placement::take_term(&store, "test", START).await.unwrap();
        let step = Step { npub: AGENT, generation: Generation(0), from: None, to: id, purpose: Purpose::Run };
        let generation = placement::place(&store, term, &step, START).await.unwrap();
        let stage = |bytes: u8| blob::stage(&store, fence, AGENT, generation, START, vec![bytes; 10]);
        let named = stage(1).await.unwrap();
        stage(2).await.unwrap();
        let made = Made { state: Some(NewState { version: 1, after: 0, blob: named }), ..Made::default() };
        agent::put_made(&store, fence, AGENT, generation, START, made).await.unwrap();
        clock.advance_ms(app.config.object_grace_ms - 1);
        round(&app, &mut Walk::default()).await.unwrap();
        assert_eq!(app.metrics.blobs_collected.get(), 0);
        clock.advance_ms(2);
        round(&app, &mut Walk::default()).await.unwrap();
        assert_eq!(app.metrics.blobs_collected.get(), 1);
        clock.advance_ms(100 * app.config.object_grace_ms);
        round(&app, &mut Walk::default()).await.unwrap();
        assert_eq!(app.metrics.blobs_collected.get(), 1);
        assert_eq!(agent::state(&store, AGENT).await.unwrap().unwrap().blob, vec![1; 10]);
    }

    #[tokio::test]
    async fn what_fails_keeps_nothing_behind_it_from_its_turn() {
        let store = Store::open_memory().unwrap().with_objects(Some(Objects::in_memory(0)));
        let clock = Arc::new(ManualClock::at(START));
        let app = app(&store, &clock);
        hosted(&store).await;
        let id = WorkerId::from_bytes([1; 16]);
        let new = NewWorker { id, region: "eu".into(), pool: "default".into(), capacity: 9, version: 1 };
        let fence = worker::register(&store, new, START).await.unwrap();
        let term = placement::take_term(&store, "test", START).await.unwrap();
        let step = Step { npub: AGENT, generation: Generation(0), from: None, to: id, purpose: Purpose::Run };
        let generation = placement::place(&store, term, &step, START).await.unwrap();
        blob::stage(&store, fence, AGENT, generation, START, vec![1; 10]).await.unwrap();
        clock.advance_ms(app.config.object_grace_ms + 1);
        let lose = Statement::write("ALTER TABLE replay RENAME TO lost", Vec::new());
        store.write(Batch::new("lose a table").with(lose)).await.unwrap();
        assert!(round(&app, &mut Walk::default()).await.is_err());
        assert_eq!(app.metrics.blobs_collected.get(), 1);
    }

    #[tokio::test]
    async fn a_plan_keeps_history_shorter_or_longer_than_the_host() {
        for (days, kept_events) in [(9_i64, 10), (35, 36)] {
            let store = Store::open_memory().unwrap();
            let clock = Arc::new(ManualClock::at(START));
            let app = app(&store, &clock);
            hosted(&store).await;
            let plan = Statement::write("UPDATE agent SET retention_days = ?1", vec![days.into()]);
            store.write(Batch::new("a plan").with(plan)).await.unwrap();
            for day in 0..40 {
                let at = START.plus_ms(day * DAY_MS);
                let new = NewEvent::new(at, EventBody::BalanceChanged { balance_sats: 1 });
                event::append(&store, AGENT, vec![new]).await.unwrap();
                let tick = Statement::write(
                    "INSERT INTO tick (tick_id, npub, cause, status, generation, started_at, cost_msat, actions, steps)
                     VALUES (?1, ?2, '{}', 'completed', 0, ?3, 0, '[]', '[]')",
                    vec![nexus_core::TickId::new(at, [0; 10]).into(), AGENT.into(), at.into()],
                );
                store.write(Batch::new("a tick").with(tick)).await.unwrap();
            }
            clock.advance_ms(39 * 86_400_000);
            super::super::outbox::round(&app).await.unwrap();
            round(&app, &mut Walk::default()).await.unwrap();
            assert_eq!(event::after(&store, AGENT, 0, 100).await.unwrap().len(), kept_events, "{days}");
            let ticks = tick::count_since(&store, AGENT, UnixMs(0)).await.unwrap();
            assert_eq!(usize::try_from(ticks).unwrap(), kept_events, "{days}");
            assert!(matches!(event::verify_chain(&store, AGENT).await.unwrap(), Chain::Intact { .. }));
        }
    }

    #[tokio::test]
    async fn what_served_its_time_goes_and_the_chain_still_verifies() {
        let store = Store::open_memory().unwrap();
        let clock = Arc::new(ManualClock::at(START));
        let app = app(&store, &clock);
        hosted(&store).await;
        let used = Hash32::from_bytes([9; 32]);
        assert!(replay::use_once(&store, "nip98", used, START.plus_ms(120_000)).await.unwrap());
        for day in 0..40 {
            let at = START.plus_ms(day * DAY_MS);
            let new = NewEvent::new(at, EventBody::BalanceChanged { balance_sats: 1 });
            event::append(&store, AGENT, vec![new]).await.unwrap();
        }
        round(&app, &mut Walk::default()).await.unwrap();
        assert!(!replay::use_once(&store, "nip98", used, START.plus_ms(120_000)).await.unwrap());

        clock.advance_ms(39 * 86_400_000);
        // Not announced yet: nothing may go.
        round(&app, &mut Walk::default()).await.unwrap();
        assert_eq!(event::after(&store, AGENT, 0, 100).await.unwrap().len(), 40);
        super::super::outbox::round(&app).await.unwrap();
        round(&app, &mut Walk::default()).await.unwrap();
        let kept = event::after(&store, AGENT, 0, 100).await.unwrap();
        assert_eq!((kept.len(), kept[0].event.seq), (31, 10));
        let chain = event::verify_chain(&store, AGENT).await.unwrap();
        assert!(matches!(chain, Chain::Intact { events: 31, first_seq: 10, .. }), "{chain:?}");
        assert!(replay::use_once(&store, "nip98", used, START.plus_ms(i64::MAX / 2)).await.unwrap());
    }
}
