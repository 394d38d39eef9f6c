//! Which agents to offer for a better place, and how many at a time.

use std::collections::HashMap;

use nexus_core::placement::{AgentView, Moves, Snapshot, WorkerView, improve, may_stay, surplus};
use nexus_core::{MonoMs, Npub};
use nexus_store::{StoreError, fleet};

use crate::app::Shared;

/// Looks this often.
const ROUND_MS: u64 = 1_000;
/// Agents away from home that are looked at in one round.
const PAGE: u32 = 500;

/// Pool and region.
type Place = (String, String);

/// What is remembered from one round to the next.
#[derive(Debug, Default)]
pub struct Spread {
    last: Option<MonoMs>,
    /// Since when workers are watched.
    since: Option<MonoMs>,
    /// Since when each place has had a live worker.
    alive: HashMap<Place, MonoMs>,
    /// Behind whom the next page of agents away from home begins.
    after: Option<Npub>,
}

impl Spread {
    /// At most the moves that the time since the last round allows.
    pub async fn plan(&mut self, app: &Shared, workers: &[WorkerView], now: MonoMs) -> Result<Moves, StoreError> {
        self.watch(workers, now);
        let passed = self.last.map_or(ROUND_MS, |last| now.since(last));
        if passed < ROUND_MS {
            return Ok(Moves::default());
        }
        self.last = Some(now);
        // Time spent elsewhere is no licence for a burst.
        let allowed = u64::from(app.config.moves_per_second) * passed.min(2 * ROUND_MS) / 1_000;
        let budget = usize::try_from(allowed).unwrap_or(usize::MAX);
        if budget == 0 {
            return Ok(Moves::default());
        }
        let mut agents = self.homecomers(app, workers, now).await?;
        for crowded in surplus(workers) {
            let limit = crowded.agents.min(u32::try_from(budget).unwrap_or(u32::MAX));
            let found = fleet::movable(&app.store, crowded.worker, crowded.homeless_only, app.now(), limit).await?;
            agents.extend(found.into_iter().filter(|agent| !self.is_unsettled(app, agent, workers, now)));
            if agents.len() >= budget.saturating_mul(2) {
                break;
            }
        }
        Ok(improve(&Snapshot { workers: workers.to_vec(), agents }, budget))
    }

    fn watch(&mut self, workers: &[WorkerView], now: MonoMs) {
        self.since.get_or_insert(now);
        let places = || workers.iter().filter(|worker| !worker.draining).map(place_of);
        self.alive.retain(|place, _| places().any(|there| there == *place));
        for place in places() {
            self.alive.entry(place).or_insert(now);
        }
    }

    /// A page of agents that are away from a home which has lived for a while, or that may not be where they are.
    async fn homecomers(
        &mut self,
        app: &Shared,
        workers: &[WorkerView],
        now: MonoMs,
    ) -> Result<Vec<AgentView>, StoreError> {
        let page = fleet::away(&app.store, self.after, app.now(), PAGE).await?;
        self.after = page.last().map(|agent| agent.npub).filter(|_| page.len() >= PAGE as usize);
        let offered = |agent: &AgentView| self.is_settled(app, agent, now) || self.is_astray(app, agent, workers, now);
        Ok(page.into_iter().filter(offered).collect())
    }

    /// It may not be where it is, and nobody lives in its home, after a time in which who lives there would have shown.
    fn is_astray(&self, app: &Shared, agent: &AgentView, workers: &[WorkerView], now: MonoMs) -> bool {
        let home = agent.region.clone().map(|region| (agent.pool.clone(), region));
        if home.is_some_and(|home| self.alive.contains_key(&home)) {
            return false;
        }
        let here = agent.from.and_then(|from| workers.iter().find(|worker| worker.id == from));
        let watched = self.since.map_or(0, |since| now.since(since));
        let enough = app.config.home_settle_ms.max(app.config.lease_ms);
        watched >= enough && here.is_some_and(|here| !may_stay(agent, here))
    }

    fn is_settled(&self, app: &Shared, agent: &AgentView, now: MonoMs) -> bool {
        let Some(home) = &agent.region else { return false };
        let since = self.alive.get(&(agent.pool.clone(), home.clone()));
        since.is_some_and(|since| now.since(*since) >= app.config.home_settle_ms)
    }

    /// Away from a home that has just come back: it stays where it is for now.
    fn is_unsettled(&self, app: &Shared, agent: &AgentView, workers: &[WorkerView], now: MonoMs) -> bool {
        let here = agent.from.and_then(|from| workers.iter().find(|worker| worker.id == from));
        let away = here.is_some_and(|here| agent.region.as_ref().is_some_and(|home| *home != here.region));
        away && !self.is_settled(app, agent, now)
    }
}

fn place_of(worker: &WorkerView) -> Place {
    (worker.pool.clone(), worker.region.clone())
}
