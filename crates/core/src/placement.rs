//! Which worker hosts which agent: a snapshot in, a plan out, nothing done.
//!
//! Whoever carries the plan out does so by compare-and-set and chooses nothing: a step whose agent has changed
//! meanwhile falls away, and the next snapshot shows it again.

mod crew;
mod improve;
mod scale;
mod wait;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{Generation, Npub, WorkerId};
use crate::status::Purpose;

pub use crew::{Crew, CrewRules, CrewStep, Seen};
pub use improve::{Leave, Moves, Surplus, improve, may_stay, surplus};
pub use scale::{Need, Scale, ScaleRules, scale};
pub use wait::Waiting;

/// Steps of one plan. More agents than this wait for the next snapshot.
pub const MAX_STEPS: usize = 1_000;

/// A worker whose beat was seen to move within the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    pub id: WorkerId,
    pub region: String,
    pub pool: String,
    /// Agents it takes at most.
    pub capacity: u32,
    /// Agents it has now, whether or not they need anything.
    pub load: u32,
    /// What it can read: state written by a newer version is never given to an older worker.
    pub version: u32,
    /// It hands its agents over and takes no new ones.
    pub draining: bool,
}

/// Where an agent may live when its home region has no live worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failover {
    #[default]
    Anywhere,
    /// It waits for its home.
    Never,
}

/// An agent that should have a live worker and has none, or whose worker is draining.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    pub npub: Npub,
    pub generation: Generation,
    pub purpose: Purpose,
    /// Who has it now: dead or draining.
    pub from: Option<WorkerId>,
    /// Who had it last: preferred when it lives and fits.
    pub last: Option<WorkerId>,
    /// Its home; none means anywhere.
    pub region: Option<String>,
    pub failover: Failover,
    pub pool: String,
    /// The lowest worker version that reads its state.
    pub version: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Live workers only.
    pub workers: Vec<WorkerView>,
    pub agents: Vec<AgentView>,
}

/// Give the agent to `to`, if it still stands at `generation` with `from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub npub: Npub,
    pub generation: Generation,
    pub from: Option<WorkerId>,
    pub to: WorkerId,
    pub purpose: Purpose,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub waiting: Vec<(Npub, Waiting)>,
}

/// Plans for every agent of the snapshot, in npub order, each at most once.
///
/// An agent goes back to the worker that had it last, when that one lives and has room; else to the emptiest (by
/// share of its capacity) of its home region, else of any region it may go to. Agents that run come before agents
/// that only need a service.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let mut rooms: BTreeMap<WorkerId, Room<'_>> = snapshot
        .workers
        .iter()
        .filter(|worker| !worker.draining)
        .map(|worker| (worker.id, Room { worker, load: worker.load }))
        .collect();
    let mut agents: Vec<&AgentView> = snapshot.agents.iter().collect();
    agents.sort_by_key(|agent| (agent.purpose != Purpose::Run, agent.npub));
    agents.dedup_by_key(|agent| agent.npub);
    let mut plan = Plan::default();
    for agent in agents {
        if plan.steps.len() == MAX_STEPS {
            break;
        }
        match choose(agent, &rooms) {
            Ok(to) => {
                if let Some(room) = rooms.get_mut(&to) {
                    room.load = room.load.saturating_add(1);
                }
                let AgentView { npub, generation, purpose, from, .. } = *agent;
                plan.steps.push(Step { npub, generation, from, to, purpose });
            }
            Err(why) => plan.waiting.push((agent.npub, why)),
        }
    }
    plan
}

struct Room<'a> {
    worker: &'a WorkerView,
    load: u32,
}

impl Room<'_> {
    fn has_room(&self) -> bool {
        self.load < self.worker.capacity
    }

    /// Orders by share of capacity in use, without division.
    fn emptier(&self, other: &Self) -> std::cmp::Ordering {
        let mine = u64::from(self.load) * u64::from(other.worker.capacity);
        let its = u64::from(other.load) * u64::from(self.worker.capacity);
        mine.cmp(&its).then(self.worker.id.cmp(&other.worker.id))
    }
}

fn choose(agent: &AgentView, rooms: &BTreeMap<WorkerId, Room<'_>>) -> Result<WorkerId, Waiting> {
    let fit = fitting(agent, rooms.values())?;
    if let Some(sticky) = fit.iter().find(|room| Some(room.worker.id) == agent.last) {
        return Ok(sticky.worker.id);
    }
    fit.iter().min_by(|a, b| a.emptier(b)).map(|room| room.worker.id).ok_or(Waiting::NoCapacity)
}

/// Workers that may have this agent and have room: those at home as long as any lives there that can read it.
fn fitting<'r, 'w: 'r>(
    agent: &AgentView,
    rooms: impl Iterator<Item = &'r Room<'w>>,
) -> Result<Vec<&'r Room<'w>>, Waiting> {
    let mut fit: Vec<&Room<'_>> = rooms.filter(|room| room.worker.pool == agent.pool).collect();
    if fit.is_empty() {
        return Err(Waiting::NoWorker);
    }
    let is_home = |room: &&Room<'_>| agent.region.as_ref().is_some_and(|home| room.worker.region == *home);
    let stays = agent.region.is_some() && agent.failover == Failover::Never;
    if stays {
        fit.retain(is_home);
        if fit.is_empty() {
            return Err(Waiting::NoRegion);
        }
    }
    // Who can't read it is no home: during an upgrade it goes on elsewhere, if it may.
    fit.retain(|room| room.worker.version >= agent.version);
    if fit.is_empty() {
        return Err(Waiting::TooOld);
    }
    if fit.iter().any(is_home) {
        fit.retain(is_home);
    }
    fit.retain(|room| room.has_room());
    Ok(fit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixMs;
    use proptest::prelude::*;

    pub(super) fn worker_id(n: u8) -> WorkerId {
        WorkerId::new(UnixMs(1_000), [n; 10])
    }

    pub(super) fn workers() -> impl Strategy<Value = Vec<WorkerView>> {
        let one = (0_u8..2, 0_u8..2, 0_u32..6, 0_u32..8, 1_u32..3, prop::bool::weighted(0.2));
        prop::collection::vec(one, 0..6).prop_map(|all| {
            let view = |(n, (region, pool, capacity, load, version, draining))| WorkerView {
                id: worker_id(u8::try_from(n).unwrap()),
                region: format!("r{region}"),
                pool: format!("p{pool}"),
                capacity,
                load,
                version,
                draining,
            };
            all.into_iter().enumerate().map(view).collect()
        })
    }

    pub(super) fn agents() -> impl Strategy<Value = Vec<AgentView>> {
        let one =
            (prop::option::of(0_u8..3), 0_u8..2, prop::option::of(0_u8..7), any::<bool>(), any::<bool>(), 1_u32..3);
        prop::collection::vec(one, 0..20).prop_map(|all| {
            type Drawn = (Option<u8>, u8, Option<u8>, bool, bool, u32);
            let view = |(n, (region, pool, last, stays, service, version)): (usize, Drawn)| AgentView {
                npub: Npub::from_bytes([u8::try_from(n).unwrap(); 32]),
                generation: Generation(3),
                purpose: if service { Purpose::Service } else { Purpose::Run },
                from: None,
                last: last.map(worker_id),
                region: region.map(|r| format!("r{r}")),
                failover: if stays { Failover::Never } else { Failover::Anywhere },
                pool: format!("p{pool}"),
                version,
            };
            all.into_iter().enumerate().map(view).collect()
        })
    }

    pub(super) fn fits(agent: &AgentView, worker: &WorkerView, all: &[WorkerView]) -> bool {
        let reads = |w: &WorkerView| w.version >= agent.version;
        let home_lives =
            |home: &String| all.iter().any(|w| !w.draining && w.pool == agent.pool && w.region == *home && reads(w));
        let region = agent
            .region
            .as_ref()
            .is_none_or(|home| worker.region == *home || (agent.failover == Failover::Anywhere && !home_lives(home)));
        !worker.draining && worker.pool == agent.pool && region && worker.version >= agent.version
    }

    proptest! {
        /// Every agent is answered once; every step fits; nobody is over capacity; who waits had nowhere to go.
        #[test]
        fn a_plan_is_sound_and_complete(workers in workers(), agents in agents()) {
            let made = plan(&Snapshot { workers: workers.clone(), agents: agents.clone() });
            prop_assert_eq!(made.steps.len() + made.waiting.len(), agents.len());
            let mut load: BTreeMap<WorkerId, u32> = workers.iter().map(|w| (w.id, w.load)).collect();
            for step in &made.steps {
                let agent = agents.iter().find(|a| a.npub == step.npub).unwrap();
                let worker = workers.iter().find(|w| w.id == step.to).unwrap();
                prop_assert!(fits(agent, worker, &workers));
                let now = load.entry(step.to).or_default();
                *now += 1;
                prop_assert!(*now <= worker.capacity);
            }
            for (npub, why) in &made.waiting {
                let agent = agents.iter().find(|a| a.npub == *npub).unwrap();
                let open = workers.iter().filter(|w| fits(agent, w, &workers)).any(|w| load[&w.id] < w.capacity);
                prop_assert!(!open);
                if *why == Waiting::NoWorker {
                    prop_assert!(!workers.iter().any(|w| !w.draining && w.pool == agent.pool));
                }
            }
        }

        /// Where there is room for everyone, everyone goes back to where it was, if it still may.
        #[test]
        fn with_room_agents_go_back(workers in workers(), agents in agents()) {
            let workers: Vec<_> = workers.into_iter().map(|worker| WorkerView { capacity: 1_000, ..worker }).collect();
            let made = plan(&Snapshot { workers: workers.clone(), agents: agents.clone() });
            for agent in &agents {
                let Some(last) = workers.iter().find(|worker| Some(worker.id) == agent.last) else { continue };
                if fits(agent, last, &workers) {
                    let step = made.steps.iter().find(|step| step.npub == agent.npub);
                    prop_assert_eq!(step.map(|step| step.to), Some(last.id));
                }
            }
        }

        /// Who waits is told the first rule that left nobody.
        #[test]
        fn a_reason_is_the_rule_that_left_nobody(workers in workers(), agents in agents()) {
            let made = plan(&Snapshot { workers: workers.clone(), agents: agents.clone() });
            for (npub, why) in &made.waiting {
                let agent = agents.iter().find(|a| a.npub == *npub).unwrap();
                let pool: Vec<_> = workers.iter().filter(|w| !w.draining && w.pool == agent.pool).collect();
                let at_home = |w: &WorkerView| agent.region.as_ref().is_none_or(|home| *home == w.region);
                let stays = agent.failover == Failover::Never;
                let allowed: Vec<_> = pool.iter().filter(|w| !stays || at_home(w)).collect();
                let expected = if pool.is_empty() {
                    Waiting::NoWorker
                } else if allowed.is_empty() {
                    Waiting::NoRegion
                } else if allowed.iter().all(|w| w.version < agent.version) {
                    Waiting::TooOld
                } else {
                    Waiting::NoCapacity
                };
                prop_assert_eq!(*why, expected);
            }
        }

        /// Nobody that should run waits for a place that a service took.
        #[test]
        fn those_that_run_come_first(workers in workers(), agents in agents()) {
            let made = plan(&Snapshot { workers: workers.clone(), agents: agents.clone() });
            for (npub, _) in &made.waiting {
                let agent = agents.iter().find(|a| a.npub == *npub && a.purpose == Purpose::Run);
                let Some(agent) = agent else { continue };
                for step in made.steps.iter().filter(|step| step.purpose == Purpose::Service) {
                    let taken = workers.iter().find(|w| w.id == step.to).unwrap();
                    prop_assert!(!fits(agent, taken, &workers));
                }
            }
        }

        /// The order in which rows happen to come decides nothing.
        #[test]
        fn a_plan_has_no_order(workers in workers(), agents in agents()) {
            let forward = plan(&Snapshot { workers: workers.clone(), agents: agents.clone() });
            let backward = plan(&Snapshot {
                workers: workers.into_iter().rev().collect(),
                agents: agents.into_iter().rev().collect(),
            });
            prop_assert_eq!(forward, backward);
        }

        /// Equal workers end up equally full, within one agent.
        #[test]
        fn agents_spread(count in 1_u8..5, agents in 1_u8..40) {
            let workers: Vec<_> = (0..count).map(|n| WorkerView {
                id: worker_id(n), region: "r".into(), pool: "p".into(), capacity: 100, load: 0, version: 1, draining: false,
            }).collect();
            let agents = (0..agents).map(|n| AgentView {
                npub: Npub::from_bytes([n; 32]), generation: Generation(0), purpose: Purpose::Run, from: None, last: None,
                region: None, failover: Failover::Anywhere, pool: "p".into(), version: 1,
            }).collect();
            let made = plan(&Snapshot { workers: workers.clone(), agents });
            let loads: Vec<usize> = workers.iter().map(|w| made.steps.iter().filter(|s| s.to == w.id).count()).collect();
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn during_an_upgrade_an_agent_goes_to_whoever_reads_it() {
        let worker = |n, region: &str, version| WorkerView {
            id: worker_id(n),
            region: region.into(),
            pool: "p".into(),
            capacity: 10,
            load: 0,
            version,
            draining: false,
        };
        let mut agent = AgentView {
            npub: Npub::from_bytes([1; 32]),
            generation: Generation(1),
            purpose: Purpose::Run,
            from: None,
            last: Some(worker_id(1)),
            region: Some("eu".into()),
            failover: Failover::Anywhere,
            pool: "p".into(),
            version: 2,
        };
        let workers = vec![worker(1, "eu", 1), worker(2, "us", 2)];
        let made = |agent: &AgentView| plan(&Snapshot { workers: workers.clone(), agents: vec![agent.clone()] });
        assert_eq!(made(&agent).steps[0].to, worker_id(2), "its home can't read it");
        agent.failover = Failover::Never;
        assert_eq!(made(&agent).waiting[0].1, Waiting::TooOld);
        agent.region = Some("ap".into());
        assert_eq!(made(&agent).waiting[0].1, Waiting::NoRegion);
        agent.version = 1;
        agent.region = Some("eu".into());
        assert_eq!(made(&agent).steps[0].to, worker_id(1));
    }

    #[test]
    fn a_plan_is_bounded() {
        let worker = WorkerView {
            id: worker_id(1),
            region: "r".into(),
            pool: "p".into(),
            capacity: 10_000,
            load: 0,
            version: 1,
            draining: false,
        };
        let agents = (0..MAX_STEPS as u64 + 200).map(|number| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            AgentView {
                npub: Npub::from_bytes(key),
                generation: Generation(0),
                purpose: Purpose::Run,
                from: None,
                last: None,
                region: None,
                failover: Failover::Anywhere,
                pool: "p".into(),
                version: 1,
            }
        });
        let made = plan(&Snapshot { workers: vec![worker], agents: agents.collect() });
        assert_eq!((made.steps.len(), made.waiting.len()), (MAX_STEPS, 0), "the rest comes with the next snapshot");
    }

    #[test]
    fn an_agent_goes_back_to_where_it_was() {
        let worker = |n, load| WorkerView {
            id: worker_id(n),
            region: "r".into(),
            pool: "p".into(),
            capacity: 10,
            load,
            version: 1,
            draining: false,
        };
        let mut agent = AgentView {
            npub: Npub::from_bytes([1; 32]),
            generation: Generation(1),
            purpose: Purpose::Run,
            from: None,
            last: Some(worker_id(2)),
            region: None,
            failover: Failover::Anywhere,
            pool: "p".into(),
            version: 1,
        };
        let snapshot = |agent: &AgentView, load| Snapshot {
            workers: vec![worker(1, 0), worker(2, load)],
            agents: vec![agent.clone()],
        };
        assert_eq!(plan(&snapshot(&agent, 9)).steps[0].to, worker_id(2));
        assert_eq!(plan(&snapshot(&agent, 10)).steps[0].to, worker_id(1));
        agent.version = 2;
        assert_eq!(plan(&snapshot(&agent, 0)).waiting[0].1, Waiting::TooOld);
    }
}
