//! The fleet as an operator sees it, counted now and then.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use nexus_core::availability::{Availability, Month, ON_TIME_MS};
use nexus_core::placement::{Need, Scale, WorkerView, scale};
use nexus_core::status::Placement;
use nexus_core::{MonoMs, Npub, UnixMs};
use nexus_store::availability::{self, Total};
use nexus_store::backup::{self, LastBackup};
use nexus_store::fleet::{self, Census, Holder, Waiting};
use nexus_store::worker::{self, Worker};
use nexus_store::{StoreError, placement};

use crate::app::Shared;
use crate::metrics::{Metrics, MonthLabel, PlaceLabels, ReasonLabel};

/// A count is used for so long.
const FRESH_MS: u64 = 2_000;
/// Where the term is held, figures are counted this often.
const ROUND_MS: u64 = 10_000;
/// Agents named that were worst off.
const WORST: u32 = 20;

/// Everything at one moment.
#[derive(Debug)]
pub struct Fleet {
    pub at: UnixMs,
    pub backup: Option<LastBackup>,
    pub workers: Vec<(Worker, u32)>,
    pub scale: Vec<Scale>,
    pub census: Census,
    pub waiting: Vec<Waiting>,
    pub placements: Vec<(Placement, bool, u64)>,
    pub holder: Option<Holder>,
    pub month: Month,
    pub this_month: Total,
    pub last_month: Total,
    pub worst: Vec<(Npub, Availability)>,
}

/// The last count, shared by all who ask.
#[derive(Debug, Default)]
pub struct FleetCache {
    last: Mutex<Option<(MonoMs, Arc<Fleet>)>>,
    /// One count at a time.
    counting: tokio::sync::Mutex<()>,
}

impl FleetCache {
    fn fresh(&self, now: MonoMs) -> Option<Arc<Fleet>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| now.since(*at) < FRESH_MS).map(|(_, fleet)| Arc::clone(fleet))
    }
}

/// The fleet, counted at most two seconds ago.
pub async fn look(app: &Shared) -> Result<Arc<Fleet>, StoreError> {
    if let Some(fleet) = app.fleet.fresh(app.clock.mono()) {
        return Ok(fleet);
    }
    let _one = app.fleet.counting.lock().await;
    if let Some(fleet) = app.fleet.fresh(app.clock.mono()) {
        return Ok(fleet);
    }
    let fleet = Arc::new(count(app).await?);
    measure(&app.metrics, &fleet, app.config.lease_ms);
    *app.fleet.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((app.clock.mono(), Arc::clone(&fleet)));
    Ok(fleet)
}

/// Keeps the figures fresh where the term is held, so that they are told once.
pub async fn run(app: &Shared) {
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(ROUND_MS)).await;
        if !app.reconciler.is_active() {
            continue;
        }
        if let Err(error) = look(app).await {
            tracing::warn!(%error, "the fleet was not counted; the next round tries again");
        }
    }
}

async fn count(app: &Shared) -> Result<Fleet, StoreError> {
    let (store, at) = (&app.store, app.now());
    let workers = worker::list(store).await?;
    let loads: std::collections::HashMap<_, _> = placement::loads(store).await?.into_iter().collect();
    let workers: Vec<(Worker, u32)> = workers
        .into_iter()
        .map(|worker| (loads.get(&worker.id).copied().unwrap_or(0), worker))
        .map(|(load, worker)| (worker, load))
        .collect();
    let needs = known(fleet::needs(store).await?, &workers);
    let live: Vec<WorkerView> =
        workers.iter().filter(|(worker, _)| is_live(worker, at, app.config.lease_ms)).map(view).collect();
    let (month, census) = (Month::of(at), fleet::census(store, at.plus_ms(-ON_TIME_MS)).await?);
    let mut this_month = availability::total(store, month).await?;
    // Whoever is overdue now has missed one at least; how many, its next tick will say.
    this_month.all = this_month.all.and_missed(census.overdue);
    Ok(Fleet {
        at,
        backup: backup::last(store).await?,
        scale: scale(&live, &needs, &app.config.scale),
        workers,
        census,
        waiting: fleet::waiting(store).await?,
        placements: fleet::placements(store).await?,
        holder: fleet::holder(store).await?,
        month,
        this_month,
        last_month: availability::total(store, month.before()).await?,
        worst: availability::worst(store, month, WORST).await?,
    })
}

/// By wall clocks, for display and for scaling; who is declared dead is another matter.
pub fn is_live(worker: &Worker, now: UnixMs, lease_ms: u64) -> bool {
    !worker.dead && beat_age_ms(worker, now) < lease_ms
}

pub fn beat_age_ms(worker: &Worker, now: UnixMs) -> u64 {
    u64::try_from(now.0.saturating_sub(worker.seen_at.0)).unwrap_or(0)
}

/// A home that no worker was ever seen in is no place to start workers for: anyone can write one down.
fn known(needs: Vec<Need>, workers: &[(Worker, u32)]) -> Vec<Need> {
    let places: BTreeSet<(&str, &str)> =
        workers.iter().map(|(worker, _)| (worker.pool.as_str(), worker.region.as_str())).collect();
    let place = |mut need: Need| {
        need.region = need.region.take().filter(|region| places.contains(&(need.pool.as_str(), region.as_str())));
        need
    };
    needs.into_iter().map(place).collect()
}

fn view((worker, load): &(Worker, u32)) -> WorkerView {
    WorkerView {
        id: worker.id,
        region: worker.region.clone(),
        pool: worker.pool.clone(),
        capacity: worker.capacity,
        load: *load,
        version: worker.version,
        draining: worker.draining,
    }
}

fn measure(metrics: &Metrics, fleet: &Fleet, lease_ms: u64) {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    metrics.agents_placed.set(count(fleet.workers.iter().map(|(_, load)| u64::from(*load)).sum()));
    metrics.agents_unplaced.set(count(fleet.census.unplaced));
    metrics.agents_overdue.set(count(fleet.census.overdue));
    metrics.agents_away.set(count(fleet.census.away));
    metrics.below_promise.set(count(fleet.this_month.below));
    metrics.last_backup.set(fleet.backup.map_or(0, |last| last.at.secs()));
    metrics.backup_stale.set(i64::from(fleet.backup.is_none_or(|last| last.is_stale(fleet.at))));
    metrics.availability.get_or_create(&MonthLabel { month: "this" }).set(share(fleet.this_month.all));
    metrics.availability.get_or_create(&MonthLabel { month: "last" }).set(share(fleet.last_month.all));
    // What is gone must not stay in the figures.
    for family in [&metrics.workers_desired, &metrics.workers_there, &metrics.load] {
        family.clear();
    }
    metrics.agents_by_reason.clear();
    for place in &fleet.scale {
        let labels = PlaceLabels { pool: place.pool.clone(), region: place.region.clone() };
        metrics.workers_desired.get_or_create(&labels).set(i64::from(place.desired_workers));
        metrics.workers_there.get_or_create(&labels).set(i64::from(place.workers));
        metrics.load.get_or_create(&labels).set(i64::from(place.load));
    }
    for waiting in &fleet.waiting {
        metrics
            .agents_by_reason
            .get_or_create(&ReasonLabel { reason: waiting.code.clone() })
            .set(count(waiting.agents));
    }
    let live = fleet.workers.iter().filter(|(worker, _)| is_live(worker, fleet.at, lease_ms));
    let oldest = live.map(|(worker, _)| beat_age_ms(worker, fleet.at)).max().unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "at most a lease")]
    metrics.beat_age_seconds.set(oldest as f64 / 1_000.0);
}

/// 1 for all.
#[expect(clippy::cast_precision_loss, reason = "at most a hundred thousand")]
fn share(availability: Availability) -> f64 {
    availability.per_100k() as f64 / 100_000.0
}

#[cfg(test)]
mod tests {
    use nexus_core::availability::Missed;
    use nexus_core::lifecycle::Lifecycle;
    use nexus_core::placement::Step;
    use nexus_core::status::{Desired, Purpose};
    use nexus_core::{Clock, Generation, WorkerId};
    use nexus_store::agent::{self, Change};
    use nexus_store::worker::NewWorker;
    use nexus_store::{Fence, Side, Store, journal};
    use nexus_testkit::ManualClock;

    use super::*;
    use crate::testing::{AGENT, app, hosted};

    const QUARTER_MS: i64 = 900_000;

    struct World {
        store: Store,
        clock: Arc<ManualClock>,
        app: Shared,
        fence: Fence,
        generation: Generation,
    }

    impl World {
        /// One worker with one agent, whose heartbeat is every quarter of an hour.
        async fn at(start: UnixMs) -> Self {
            let store = Store::open_memory().unwrap();
            let clock = Arc::new(ManualClock::at(start));
            let app = app(&store, &clock);
            hosted(&store).await;
            let id = WorkerId::new(start, [1; 10]);
            let new = NewWorker { id, region: "eu".into(), pool: "default".into(), capacity: 10, version: 1 };
            let fence = worker::register(&store, new, start).await.unwrap();
            let term = placement::take_term(&store, "test", start).await.unwrap();
            let step = Step { npub: AGENT, generation: Generation(0), from: None, to: id, purpose: Purpose::Run };
            let generation = placement::place(&store, term, &step, start).await.unwrap();
            let audit = crate::testing::audit("agent.start");
            agent::set_desired(&store, AGENT, Desired::Running, false, None, audit).await.unwrap();
            Self { store, clock, app, fence, generation }
        }

        async fn due(&self, at: UnixMs) {
            let change =
                Change { next_tick_at: Some(Some(at)), lifecycle: Some(Lifecycle::Active), ..Change::default() };
            let (npub, now) = (AGENT, self.clock.now());
            agent::change(&self.store, self.fence, npub, self.generation, now, change, Vec::new()).await.unwrap();
        }

        /// What a worker writes down when a tick starts now.
        async fn ticks(&self, due: UnixMs, missed: Missed) {
            let now = self.clock.now();
            let month = Month::of(now);
            let (missed, missed_before) = missed.by_month(month);
            let kept = Availability::started(due, now, missed);
            let side = vec![Side::Promise { month, kept, missed_before }];
            journal::apply(&self.store, self.fence, AGENT, self.generation, now, side).await.unwrap();
        }

        /// Due and on time: the fleet's this month and last, the agent's own.
        async fn seen(&self) -> [(u64, u64); 4] {
            self.clock.advance_ms(FRESH_MS);
            let fleet = look(&self.app).await.unwrap();
            let agent = agent::get(&self.store, AGENT).await.unwrap().unwrap();
            let own = crate::api::status::availability(&self.app, &agent).await.unwrap();
            [
                (fleet.this_month.all.due, fleet.this_month.all.on_time),
                (fleet.last_month.all.due, fleet.last_month.all.on_time),
                (own.this_month.due, own.this_month.on_time),
                (own.last_month.due, own.last_month.on_time),
            ]
        }
    }

    #[tokio::test]
    async fn an_outage_over_the_end_of_a_month_counts_against_both() {
        let month = Month(202_610);
        let begin = month.start().plus_ms(-2 * QUARTER_MS);
        let world = World::at(begin).await;
        world.due(begin).await;
        world.ticks(begin, Missed::NONE).await;
        world.due(begin.plus_ms(QUARTER_MS)).await;
        assert_eq!(world.seen().await, [(1, 1), (0, 0), (1, 1), (0, 0)]);

        // Nobody is there for 75 minutes: one beat is due in the old month, and at 0:00, 0:15, 0:30 and 0:45 four more.
        world.clock.advance_ms(5 * QUARTER_MS as u64);
        let seen = world.seen().await;
        assert_eq!(seen[1..], [(1, 1), (3, 0), (2, 1)], "the beat at 0:45 is not a minute old");
        assert_eq!(seen[0], (1, 0), "overdue: one at least");
        assert_eq!(look(&world.app).await.unwrap().census.overdue, 1);
        let text = world.app.metrics.render().unwrap();
        assert!(text.contains("nexus_agents_overdue 1"), "{text}");
        assert!(text.contains("nexus_availability_ratio{month=\"this\"} 0.0"), "{text}");

        // A worker is there again: the beat that it meets is late, the others were missed, each in its month.
        let first = begin.plus_ms(QUARTER_MS);
        world.ticks(first, Missed { count: 4, first, interval_ms: QUARTER_MS }).await;
        world.due(begin.plus_ms(6 * QUARTER_MS)).await;
        assert_eq!(world.seen().await, [(4, 0), (2, 1), (4, 0), (2, 1)]);
        world.clock.advance_ms(QUARTER_MS as u64);
        world.ticks(begin.plus_ms(6 * QUARTER_MS), Missed::NONE).await;
        world.due(begin.plus_ms(7 * QUARTER_MS)).await;
        assert_eq!(world.seen().await[0], (5, 1));
        let fleet = look(&world.app).await.unwrap();
        assert_eq!((fleet.this_month.below, fleet.worst.len(), fleet.worst[0].0), (1, 1, AGENT));

        // Two months on, this one is the last, and the one before it is shown no more.
        world.clock.advance_ms(31 * 86_400_000);
        let next = world.clock.now();
        world.ticks(next, Missed::NONE).await;
        world.due(next.plus_ms(QUARTER_MS)).await;
        assert_eq!(world.seen().await, [(1, 1), (5, 1), (1, 1), (5, 1)]);
    }
}
