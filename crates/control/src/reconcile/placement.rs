//! Agents that should run get a worker that lives. One reconciler at a time: the one that holds the term.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use nexus_bus::{Heard, Subscription, Wake};
use nexus_core::placement::{Plan, Snapshot, Step, Waiting, WorkerView, plan};
use nexus_core::status::Reason;
use nexus_core::{Generation, MonoMs, Npub, WorkerId};
use nexus_store::placement::{self as rows, Term};
use nexus_store::worker::{self, Worker};
use nexus_store::{Conflict, StoreError};

use super::liveness::{Observer, Sign};
use super::pause;
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
/// A waiting agent's reason is written again this often.
const RENOTE_MS: u64 = 60_000;

/// Places agents until the process stops.
pub async fn run(app: &Shared) {
    let mut reconciler = Reconciler::new(app);
    let mut bus = app.bus.subscribe();
    loop {
        if let Err(error) = reconciler.round().await {
            reconciler.failed(&error);
        }
        wait(&mut *bus).await;
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
        }
    }

    async fn round(&mut self) -> Result<(), StoreError> {
        let now = self.app.clock.mono();
        if self.last_round.replace(now).is_some_and(|last| now.since(last) > BLIND_MS) {
            self.terms.forget();
            self.workers.forget();
        }
        let Some(term) = self.term(now).await? else {
            self.report(now, 0);
            return Ok(());
        };
        let live = self.watch(term, now).await?;
        self.report(now, live.len());
        self.release(term).await?;
        let agents = rows::unplaced(&self.app.store, self.app.now(), BATCH).await?;
        if agents.is_empty() {
            self.noted.clear();
            self.app.metrics.agents_waiting.set(0);
            return Ok(());
        }
        let snapshot = Snapshot { workers: self.views(live).await?, agents };
        let made = plan(&snapshot);
        self.carry_out(term, &made).await?;
        self.note_waiting(term, &snapshot, &made, now).await
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

    fn step_down(&mut self) {
        self.held = None;
        self.terms.forget();
        self.workers.forget();
        self.noted.clear();
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

    /// Looks at every worker's beat, and declares dead whose stood still for the lease.
    async fn watch(&mut self, term: Term, now: MonoMs) -> Result<Vec<Worker>, StoreError> {
        let mut workers = worker::list(&self.app.store).await?;
        workers.retain(|worker| !worker.dead);
        self.workers.keep(|id| workers.iter().any(|worker| worker.id == *id));
        let mut live = Vec::new();
        for worker in workers {
            match self.workers.observe(worker.id, (worker.incarnation, worker.beat), now) {
                Sign::Alive => live.push(worker),
                Sign::Unknown => {}
                Sign::Dead => self.bury(term, &worker).await?,
            }
        }
        Ok(live)
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

    async fn views(&self, live: Vec<Worker>) -> Result<Vec<WorkerView>, StoreError> {
        let loads: HashMap<WorkerId, u32> = rows::loads(&self.app.store).await?.into_iter().collect();
        let view = |worker: Worker| WorkerView {
            load: loads.get(&worker.id).copied().unwrap_or(0),
            id: worker.id,
            region: worker.region,
            pool: worker.pool,
            capacity: worker.capacity,
            version: worker.version,
            draining: worker.draining,
        };
        Ok(live.into_iter().map(view).collect())
    }

    async fn carry_out(&self, term: Term, plan: &Plan) -> Result<(), StoreError> {
        all(plan.steps.iter().map(|step| self.place(term, step).boxed()).collect()).await?;
        let targets: BTreeSet<WorkerId> = plan.steps.iter().map(|step| step.to).collect();
        for id in targets {
            self.app.bus.publish(Wake::Worker { id });
        }
        Ok(())
    }

    async fn place(&self, term: Term, step: &Step) -> Result<(), StoreError> {
        match rows::place(&self.app.store, term, step, self.app.now()).await {
            Ok(generation) => {
                tracing::debug!(npub = step.npub.short(), generation = generation.0, worker = %step.to, "placed");
                self.app.metrics.placements.inc();
                self.app.bus.publish(Wake::Agent { npub: step.npub });
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
        let waiting: HashMap<Npub, Waiting> = plan.waiting.iter().copied().collect();
        self.noted.retain(|npub, (why, at)| waiting.get(npub) == Some(why) && now.since(*at) < RENOTE_MS);
        for agent in &snapshot.agents {
            let Some(why) = waiting.get(&agent.npub).copied() else { continue };
            if self.noted.contains_key(&agent.npub) {
                continue;
            }
            let reason = Reason::new(why.code(), why.text());
            let next = self.app.now().plus_ms(i64::try_from(RENOTE_MS).unwrap_or(i64::MAX));
            match rows::note_waiting(&self.app.store, term, agent.npub, agent.generation, reason, next).await {
                Ok(()) => drop(self.noted.insert(agent.npub, (why, now))),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
