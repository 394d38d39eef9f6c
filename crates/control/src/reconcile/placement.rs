//! Agents that should run get a worker that lives. One reconciler at a time: the one that holds the term.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use nexus_bus::{Heard, Subscription, Wake};
use nexus_core::placement::{Leave, Moves, Plan, Snapshot, Step, Waiting, WorkerView, plan};
use nexus_core::status::Reason;
use nexus_core::{Generation, MonoMs, Npub, WorkerId};
use nexus_store::placement::{self as rows, Term};
use nexus_store::worker::{self, Worker};
use nexus_store::{Conflict, StoreError};

use super::liveness::{Observer, Sign};
use super::pause;
use super::spread::Spread;
use crate::app::Shared;

/// Looks this often whatever the bus says.
const ROUND_MS: u64 = 500;
/// And at most this often, however often it is woken.
const CALM_MS: u64 = 20;
const TERM_BEAT_MS: u64 = 1_000;
/// A round later than this after the one before has not watched: liveness starts from zero.
const BLIND_MS: u64 = 2_000;
/// Agents looked at in one round.
const BATCH: u32 = 1_000;
/// Steps carried out side by side, so that they share commits.
const WIDTH: usize = 64;
/// How long counted loads are used.
const LOADS_MS: u64 = 5_000;
/// A waiting agent's reason is written again this often.
const RENOTE_MS: u64 = 60_000;

/// Places agents until the process stops; then another may at once.
pub async fn run(app: &Shared) {
    let mut reconciler = Reconciler::new(app);
    tokio::select! {
        () = rounds(app, &mut reconciler) => {}
        () = app.stop.cancelled() => reconciler.resign().await,
    }
}

async fn rounds(app: &Shared, reconciler: &mut Reconciler<'_>) {
    let mut bus = app.bus.subscribe();
    loop {
        match reconciler.round().await {
            // A full page: there are more behind it.
            Ok(true) => {}
            Ok(false) => wait(&mut *bus).await,
            Err(error) => {
                reconciler.failed(&error);
                wait(&mut *bus).await;
            }
        }
        pause(CALM_MS).await;
    }
}

async fn wait(bus: &mut dyn Subscription) {
    let woken = async {
        loop {
            match bus.recv().await {
                Ok(Heard::Wake(Wake::Reconcile | Wake::Worker { .. }) | Heard::Lagged) => return,
                Ok(Heard::Wake(Wake::Agent { .. } | Wake::Event { .. })) => {}
                Err(_) => std::future::pending().await,
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(ROUND_MS), woken).await;
}

struct Held {
    term: Term,
    beaten_at: MonoMs,
}

struct Reconciler<'a> {
    app: &'a Shared,
    holder: String,
    held: Option<Held>,
    terms: Observer<(), (Term, i64)>,
    workers: Observer<WorkerId, (i64, i64)>,
    last_round: Option<MonoMs>,
    noted: HashMap<Npub, (Waiting, MonoMs)>,
    /// Behind which agent the next page begins; none at the first.
    after: Option<Npub>,
    loads: Option<Loads>,
    spread: Spread,
}

/// Agents on each worker: counted now and then, and our own steps added meanwhile.
struct Loads {
    counted: HashMap<WorkerId, u32>,
    at: MonoMs,
}

impl<'a> Reconciler<'a> {
    fn new(app: &'a Shared) -> Self {
        Self {
            app,
            holder: hex::encode(app.random::<8>()),
            held: None,
            terms: Observer::new(app.config.lease_ms),
            workers: Observer::new(app.config.lease_ms),
            last_round: None,
            noted: HashMap::new(),
            after: None,
            loads: None,
            spread: Spread::default(),
        }
    }

    /// Looks at one page of the agents that need a worker. Returns whether there are more.
    async fn round(&mut self) -> Result<bool, StoreError> {
        let now = self.app.clock.mono();
        if self.last_round.replace(now).is_some_and(|last| now.since(last) > BLIND_MS) {
            self.terms.forget();
            self.workers.forget();
        }
        let Some(term) = self.term(now).await? else {
            self.report(now, 0);
            return Ok(false);
        };
        let (live, unsure) = self.watch(term, now).await?;
        self.report(now, live.len());
        self.release(term).await?;
        let workers = self.views(live, now).await?;
        self.improve(term, &workers, now).await?;
        let agents = rows::unplaced_after(&self.app.store, self.app.now(), self.after, BATCH).await?;
        if agents.is_empty() {
            if self.after.take().is_none() {
                self.noted.clear();
                self.app.metrics.agents_waiting.set(0);
            }
            return Ok(false);
        }
        let more = agents.len() >= BATCH as usize;
        // Who was placed is gone from the pages; who waits is passed by, and seen again from the front.
        self.after = agents.last().map(|agent| agent.npub).filter(|_| more);
        let snapshot = Snapshot { workers, agents };
        let made = plan(&snapshot);
        self.carry_out(term, &made.steps).await?;
        // A worker not yet seen to beat may be what they need: nobody is told that there is none before a lease is over.
        if !unsure {
            self.note_waiting(term, &snapshot, &made, now).await?;
        }
        Ok(more)
    }

    fn report(&self, now: MonoMs, live: usize) {
        let active = self.held.is_some();
        self.app.reconciler.round(now, active, live);
        self.app.metrics.reconciler_active.set(i64::from(active));
        self.app.metrics.workers_live.set(i64::try_from(live).unwrap_or(i64::MAX));
    }

    fn failed(&mut self, error: &StoreError) {
        self.app.metrics.reconcile_failures.inc();
        if error.is_stale() {
            tracing::info!("another reconciler took the term");
            self.step_down();
        } else {
            tracing::warn!(%error, "a placement round failed; the next one tries again");
        }
    }

    /// Leaves the term to whoever wants it, without waiting for a lease.
    async fn resign(&mut self) {
        let Some(held) = self.held.take() else { return };
        let left = rows::resign_term(&self.app.store, held.term, self.app.now());
        match tokio::time::timeout(Duration::from_secs(1), left).await {
            Ok(Ok(())) => self.app.bus.publish(Wake::Reconcile),
            Ok(Err(error)) => tracing::debug!(%error, "the term was not given back"),
            Err(_) => tracing::debug!("the term was not given back in time"),
        }
    }

    fn step_down(&mut self) {
        self.held = None;
        self.terms.forget();
        self.workers.forget();
        self.noted.clear();
        self.after = None;
        self.loads = None;
        self.spread = Spread::default();
    }

    /// The term, if we hold it or may take it.
    async fn term(&mut self, now: MonoMs) -> Result<Option<Term>, StoreError> {
        if let Some(held) = &mut self.held {
            if now.since(held.beaten_at) >= TERM_BEAT_MS {
                rows::beat_term(&self.app.store, held.term, self.app.now()).await?;
                held.beaten_at = now;
            }
            return Ok(Some(held.term));
        }
        let free = match rows::current_term(&self.app.store).await? {
            None => true,
            Some(_) if self.app.config.sole_reconciler => true,
            Some(current) => self.terms.observe((), current, now) == Sign::Dead,
        };
        if !free {
            return Ok(None);
        }
        let term = rows::take_term(&self.app.store, &self.holder, self.app.now()).await?;
        tracing::info!(term = term.0, "this process places agents now");
        self.held = Some(Held { term, beaten_at: now });
        Ok(Some(term))
    }

    /// Looks at every worker's beat, and declares dead whose stood still for the lease. Returns those that live, and
    /// whether there are others of which that is not known yet.
    async fn watch(&mut self, term: Term, now: MonoMs) -> Result<(Vec<Worker>, bool), StoreError> {
        let mut workers = worker::list(&self.app.store).await?;
        workers.retain(|worker| !worker.dead);
        self.workers.keep(|id| workers.iter().any(|worker| worker.id == *id));
        let mut live = Vec::new();
        let mut unsure = false;
        for worker in workers {
            match self.workers.observe(worker.id, (worker.incarnation, worker.beat), now) {
                Sign::Alive => live.push(worker),
                Sign::Unknown => unsure = true,
                Sign::Dead => self.bury(term, &worker).await?,
            }
        }
        Ok((live, unsure))
    }

    async fn bury(&mut self, term: Term, worker: &Worker) -> Result<(), StoreError> {
        let Worker { id, incarnation, beat, .. } = *worker;
        match rows::declare_dead(&self.app.store, term, id, incarnation, beat, self.app.now()).await {
            Ok(agents) => {
                tracing::warn!(worker = %id, agents, "a worker's beat stood still: it is declared dead");
                self.app.metrics.workers_declared_dead.inc();
                Ok(())
            }
            // It beat or registered again meanwhile.
            Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes agents off their workers that have nothing to do there any more.
    async fn release(&self, term: Term) -> Result<(), StoreError> {
        let idle = rows::idle(&self.app.store, self.app.now(), BATCH).await?;
        let release = |(npub, generation, from)| self.unplace(term, npub, generation, from).boxed();
        all(idle.into_iter().map(release).collect()).await
    }

    async fn unplace(&self, term: Term, npub: Npub, generation: Generation, from: WorkerId) -> Result<(), StoreError> {
        match rows::unplace(&self.app.store, term, npub, generation, from, None).await {
            Ok(_) => self.app.bus.publish(Wake::Worker { id: from }),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn views(&mut self, live: Vec<Worker>, now: MonoMs) -> Result<Vec<WorkerView>, StoreError> {
        if self.loads.as_ref().is_none_or(|loads| now.since(loads.at) >= LOADS_MS) {
            let counted = rows::loads(&self.app.store).await?.into_iter().collect();
            self.loads = Some(Loads { counted, at: now });
        }
        let loads = self.loads.as_ref().map(|loads| &loads.counted);
        let loads = |id: &WorkerId| loads.and_then(|loads| loads.get(id)).copied().unwrap_or(0);
        let view = |worker: Worker| WorkerView {
            load: loads(&worker.id),
            id: worker.id,
            region: worker.region,
            pool: worker.pool,
            capacity: worker.capacity,
            version: worker.version,
            draining: worker.draining,
        };
        Ok(live.into_iter().map(view).collect())
    }

    /// Many steps share a transaction; one that does not hold any more makes its neighbours go alone.
    async fn carry_out(&mut self, term: Term, steps: &[Step]) -> Result<(), StoreError> {
        for steps in steps.chunks(rows::MAX_STEPS) {
            match rows::place_all(&self.app.store, term, steps, self.app.now()).await {
                Ok(()) => drop(self.app.metrics.placements.inc_by(steps.len() as u64)),
                Err(StoreError::Conflict { .. }) => {
                    all(steps.iter().map(|step| self.place(term, step).boxed()).collect()).await?;
                }
                Err(error) => return Err(error),
            }
            for step in steps {
                if let Some(loads) = &mut self.loads {
                    *loads.counted.entry(step.to).or_default() += 1;
                    if let Some(from) = step.from.and_then(|from| loads.counted.get_mut(&from)) {
                        *from = from.saturating_sub(1);
                    }
                }
            }
            // Each hears of its agents in the answer to its next beat, which is now.
            let targets: BTreeSet<WorkerId> =
                steps.iter().flat_map(|step| step.from.into_iter().chain([step.to])).collect();
            for id in targets {
                self.app.bus.publish(Wake::Worker { id });
            }
        }
        Ok(())
    }

    /// Moves a few agents that do nothing right now to where they would be placed today. Who may not be where it is and
    /// fits nowhere waits, as if it had never been placed.
    async fn improve(&mut self, term: Term, workers: &[WorkerView], now: MonoMs) -> Result<(), StoreError> {
        let Moves { steps, leaves } = self.spread.plan(self.app, workers, now).await?;
        if !leaves.is_empty() {
            tracing::debug!(agents = leaves.len(), "taking agents from where they may not be");
            let leave = |leave: &Leave| self.unplace(term, leave.npub, leave.generation, leave.from).boxed();
            all(leaves.iter().map(leave).collect()).await?;
        }
        if steps.is_empty() {
            return Ok(());
        }
        tracing::debug!(agents = steps.len(), "moving agents to a better place");
        self.carry_out(term, &steps).await?;
        self.app.metrics.agents_moved.inc_by(steps.len() as u64);
        Ok(())
    }

    async fn place(&self, term: Term, step: &Step) -> Result<(), StoreError> {
        match rows::place(&self.app.store, term, step, self.app.now()).await {
            Ok(generation) => {
                tracing::debug!(npub = step.npub.short(), generation = generation.0, worker = %step.to, "placed");
                self.app.metrics.placements.inc();
                Ok(())
            }
            // It changed since the snapshot: the next one shows it again.
            Err(StoreError::Conflict {
                conflict: Conflict::Version | Conflict::NoWorker | Conflict::NoAgent, ..
            }) => {
                self.app.metrics.placements_lost.inc();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn note_waiting(
        &mut self,
        term: Term,
        snapshot: &Snapshot,
        plan: &Plan,
        now: MonoMs,
    ) -> Result<(), StoreError> {
        self.app.metrics.agents_waiting.set(i64::try_from(plan.waiting.len()).unwrap_or(i64::MAX));
        if plan.waiting.is_empty() {
            return Ok(());
        }
        let waiting: HashMap<Npub, Waiting> = plan.waiting.iter().copied().collect();
        // What was noted of agents on other pages stays until its time.
        self.noted.retain(|npub, (why, at)| {
            now.since(*at) < RENOTE_MS && waiting.get(npub).is_none_or(|current| current == why)
        });
        let new: Vec<(Npub, Generation, Waiting)> = snapshot
            .agents
            .iter()
            .filter(|agent| !self.noted.contains_key(&agent.npub))
            .filter_map(|agent| Some((agent.npub, agent.generation, *waiting.get(&agent.npub)?)))
            .collect();
        all(new.iter().map(|(npub, generation, why)| self.note(term, *npub, *generation, *why).boxed()).collect())
            .await?;
        self.noted.extend(new.into_iter().map(|(npub, _, why)| (npub, (why, now))));
        Ok(())
    }

    async fn note(&self, term: Term, npub: Npub, generation: Generation, why: Waiting) -> Result<(), StoreError> {
        let reason = Reason::new(why.code(), why.text());
        let next = self.app.now().plus_ms(i64::try_from(RENOTE_MS).unwrap_or(i64::MAX));
        match rows::note_waiting(&self.app.store, term, npub, generation, reason, next).await {
            // It changed since the snapshot: whatever it is now, the next one shows it.
            Ok(()) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Runs them [`WIDTH`] at a time; the first error ends it.
async fn all(futures: Vec<BoxFuture<'_, Result<(), StoreError>>>) -> Result<(), StoreError> {
    let mut running = futures::stream::iter(futures).buffer_unordered(WIDTH);
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
