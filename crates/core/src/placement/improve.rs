//! Agents that are placed, but not where they would be placed today: away from a home that lives again, or on a worker
//! that is fuller than others.
//!
//! A move costs its agent nothing but a moment, so only agents that do nothing right now are offered, few at a time. Every
//! move brings one agent home, or makes the loads strictly more even without leaving home: nothing goes to and fro.

use std::collections::BTreeMap;

use super::{AgentView, Failover, Room, Snapshot, Step, WorkerView, fitting};
use crate::id::{Generation, Npub, WorkerId};

/// A worker is left alone while it has at most one in so many agents too many.
const SLACK: u64 = 20;

/// A worker with more agents than its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surplus {
    pub worker: WorkerId,
    /// How many to look at, at most.
    pub agents: u32,
    /// Only agents without a home can go where there is room.
    pub homeless_only: bool,
}

/// Whose agents to look at, fullest first: workers that another one of their region, or else of their pool, could
/// relieve.
pub fn surplus(workers: &[WorkerView]) -> Vec<Surplus> {
    let mut found: Vec<(&WorkerView, Surplus)> = Vec::new();
    for worker in workers.iter().filter(|worker| !worker.draining) {
        let excess = |near: bool| {
            let others = workers.iter().filter(|other| {
                !other.draining && other.pool == worker.pool && (!near || other.region == worker.region)
            });
            others.map(|other| too_many(worker, worker.load, other, other.load)).max().unwrap_or(0)
        };
        let (near, anywhere) = (excess(true), excess(false));
        let agents = u32::try_from(near.max(anywhere)).unwrap_or(u32::MAX);
        if agents > 0 {
            found.push((worker, Surplus { worker: worker.id, agents, homeless_only: near == 0 }));
        }
    }
    found.sort_by(|(a, x), (b, y)| y.agents.cmp(&x.agents).then(a.id.cmp(&b.id)));
    found.into_iter().map(|(_, surplus)| surplus).collect()
}

/// Take the agent off its worker, if it still stands so: it may not be there, and waits for a place where it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leave {
    pub npub: Npub,
    pub generation: Generation,
    pub from: WorkerId,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    pub steps: Vec<Step>,
    pub leaves: Vec<Leave>,
}

/// At most `budget` moves among these agents, which all have a live worker (`from`) and do nothing right now. Agents that
/// are away from home come first, then npub order.
pub fn improve(snapshot: &Snapshot, budget: usize) -> Moves {
    let mut rooms: BTreeMap<WorkerId, Room<'_>> =
        snapshot.workers.iter().map(|worker| (worker.id, Room { worker, load: worker.load })).collect();
    let mut agents: Vec<(&AgentView, WorkerId)> = snapshot
        .agents
        .iter()
        .filter_map(|agent| agent.from.filter(|from| rooms.contains_key(from)).map(|from| (agent, from)))
        .collect();
    agents.sort_by_key(|(agent, from)| (std::cmp::Reverse(distance(agent, rooms[from].worker)), agent.npub));
    agents.dedup_by_key(|(agent, _)| agent.npub);
    let mut moves = Moves::default();
    for (agent, from) in agents {
        if moves.steps.len() + moves.leaves.len() == budget {
            break;
        }
        let to = better(agent, from, &rooms);
        if to.is_none() && may_stay(agent, rooms[&from].worker) {
            continue;
        }
        let AgentView { npub, generation, purpose, .. } = *agent;
        if let Some(room) = rooms.get_mut(&from) {
            room.load = room.load.saturating_sub(1);
        }
        let Some(to) = to else {
            moves.leaves.push(Leave { npub, generation, from });
            continue;
        };
        if let Some(room) = rooms.get_mut(&to) {
            room.load = room.load.saturating_add(1);
        }
        moves.steps.push(Step { npub, generation, from: Some(from), to, purpose });
    }
    moves
}

/// Whether an agent that is on this worker, say since its configuration or the worker's was another, may be there.
pub fn may_stay(agent: &AgentView, worker: &WorkerView) -> bool {
    match distance(agent, worker) {
        Distance::Home => true,
        Distance::Away => agent.failover == Failover::Anywhere,
        Distance::Stranger => false,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Distance {
    Home,
    /// In another region than its own.
    Away,
    /// On a worker of another pool, which cannot open it.
    Stranger,
}

fn distance(agent: &AgentView, worker: &WorkerView) -> Distance {
    if agent.pool != worker.pool {
        Distance::Stranger
    } else if agent.region.as_ref().is_some_and(|home| *home != worker.region) {
        Distance::Away
    } else {
        Distance::Home
    }
}

/// A worker that suits this agent better than its present one.
fn better(agent: &AgentView, from: WorkerId, rooms: &BTreeMap<WorkerId, Room<'_>>) -> Option<WorkerId> {
    let here = rooms.get(&from)?;
    let fit = fitting(agent, rooms.values().filter(|room| !room.worker.draining)).ok()?;
    let emptiest = fit.into_iter().filter(|room| room.worker.id != from).min_by(|a, b| a.emptier(b))?;
    let (now, then) = (distance(agent, here.worker), distance(agent, emptiest.worker));
    let comes_home = then < now;
    let even = then == now && too_many(here.worker, here.load, emptiest.worker, emptiest.load) > 0;
    (comes_home || even).then_some(emptiest.worker.id)
}

/// How many agents would have to go from one worker to the other until both are equally full; 0 when it is not worth it.
fn too_many(from: &WorkerView, from_load: u32, to: &WorkerView, to_load: u32) -> u64 {
    let wide = u64::from;
    let (here, there) = (wide(from_load) * wide(to.capacity), wide(to_load) * wide(from.capacity));
    let both = wide(from.capacity) + wide(to.capacity);
    let excess = here.saturating_sub(there).checked_div(both).unwrap_or(0);
    if excess >= (wide(from_load) / SLACK).max(1) { excess } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{agents, fits, worker_id, workers};
    use super::*;
    use crate::id::{Generation, Npub};
    use crate::placement::Failover;
    use crate::status::Purpose;
    use proptest::prelude::*;

    fn placed(workers: &[WorkerView], mut agents: Vec<AgentView>) -> Snapshot {
        let mut workers = workers.to_vec();
        for (number, agent) in agents.iter_mut().enumerate() {
            agent.from = (!workers.is_empty()).then(|| {
                let at = number * 7 % workers.len();
                workers[at].load += 1;
                workers[at].id
            });
        }
        Snapshot { workers, agents }
    }

    fn carry_out(snapshot: &mut Snapshot, steps: &[Step]) {
        for step in steps {
            let load = |workers: &mut Vec<WorkerView>, id, by: i64| {
                let worker: &mut WorkerView = workers.iter_mut().find(|worker| worker.id == id).unwrap();
                worker.load = u32::try_from(i64::from(worker.load) + by).unwrap();
            };
            load(&mut snapshot.workers, step.from.unwrap(), -1);
            load(&mut snapshot.workers, step.to, 1);
            let agent = snapshot.agents.iter_mut().find(|agent| agent.npub == step.npub).unwrap();
            agent.from = Some(step.to);
        }
    }

    proptest! {
        /// Few, sound and useful: every move fits, and brings its agent home or evens the loads.
        #[test]
        fn moves_are_sound(workers in workers(), agents in agents(), budget in 0_usize..10) {
            let snapshot = placed(&workers, agents);
            let Moves { steps, leaves } = improve(&snapshot, budget);
            prop_assert!(steps.len() + leaves.len() <= budget);
            let mut now = snapshot.clone();
            // Those that leave make room for those that move.
            for leave in &leaves {
                now.workers.iter_mut().find(|worker| worker.id == leave.from).unwrap().load -= 1;
            }
            for step in &steps {
                let agent = snapshot.agents.iter().find(|agent| agent.npub == step.npub).unwrap();
                let find = |id| now.workers.iter().find(|worker| worker.id == id).unwrap();
                let (here, there) = (find(step.from.unwrap()), find(step.to));
                prop_assert_eq!(agent.from, step.from);
                prop_assert!(fits(agent, there, &snapshot.workers));
                prop_assert!(there.load < there.capacity);
                let (before, after) = (distance(agent, here), distance(agent, there));
                prop_assert!(after <= before);
                prop_assert!(after < before || !leaves.is_empty() || too_many(here, here.load, there, there.load) > 0);
                carry_out(&mut now, std::slice::from_ref(step));
            }
            for leave in &leaves {
                let agent = snapshot.agents.iter().find(|agent| agent.npub == leave.npub).unwrap();
                let here = snapshot.workers.iter().find(|worker| worker.id == leave.from).unwrap();
                prop_assert_eq!((agent.from, agent.generation), (Some(leave.from), leave.generation));
                prop_assert!(!may_stay(agent, here));
                prop_assert!(steps.iter().all(|step| step.npub != leave.npub));
                // As far as can be seen from its end alone: nobody else made room after it had gone.
                let mut rooms = now.workers.iter().filter(|worker| fits(agent, worker, &snapshot.workers));
                let alone = steps.is_empty() && leaves.len() == 1;
                prop_assert!(rooms.all(|worker| worker.load >= worker.capacity || !alone), "it had a place");
            }
        }

        /// Repeated, it comes to rest, and at rest nobody who could be at home is away.
        #[test]
        fn it_comes_to_rest(workers in workers(), agents in agents()) {
            let mut now = placed(&workers, agents);
            let mut rounds = 0;
            loop {
                let Moves { steps, leaves } = improve(&now, 3);
                if steps.is_empty() && leaves.is_empty() { break; }
                carry_out(&mut now, &steps);
                for leave in leaves {
                    now.workers.iter_mut().find(|worker| worker.id == leave.from).unwrap().load -= 1;
                    now.agents.iter_mut().find(|agent| agent.npub == leave.npub).unwrap().from = None;
                }
                rounds += 1;
                prop_assert!(rounds < 500, "it goes to and fro");
            }
            for agent in &now.agents {
                let Some(from) = agent.from else { continue };
                let here = now.workers.iter().find(|worker| worker.id == from).unwrap();
                let room = |worker: &&WorkerView| fits(agent, worker, &now.workers) && worker.load < worker.capacity;
                let nearer = now.workers.iter().filter(room).any(|worker| distance(agent, worker) < distance(agent, here));
                prop_assert!(!nearer);
                prop_assert!(may_stay(agent, here), "it is where it may not be");
            }
        }

        /// A worker that joins gets its share, within the slack; what is asked for leads there.
        #[test]
        fn a_new_worker_is_filled(old in 1_u8..5, each in 0_u32..60, budget in 1_usize..20) {
            let view = |n, load| WorkerView {
                id: worker_id(n), region: "r".into(), pool: "p".into(), capacity: 1_000, load, version: 1, draining: false,
            };
            let mut workers: Vec<_> = (0..old).map(|n| view(n, each)).collect();
            workers.push(view(old, 0));
            let agents = (0..u32::from(old) * each).map(|n| {
                let mut key = [0; 32];
                key[..4].copy_from_slice(&n.to_be_bytes());
                AgentView {
                    npub: Npub::from_bytes(key), generation: Generation(1), purpose: Purpose::Run,
                    from: Some(worker_id(u8::try_from(n % u32::from(old)).unwrap())), last: None, region: None,
                    failover: Failover::Anywhere, pool: "p".into(), version: 1,
                }
            }).collect();
            let mut now = Snapshot { workers, agents };
            while !surplus(&now.workers).is_empty() {
                let asked = surplus(&now.workers);
                prop_assert!(asked.iter().all(|surplus| surplus.agents > 0));
                let Moves { steps, leaves } = improve(&now, budget);
                prop_assert!(!steps.is_empty() && leaves.is_empty(), "a surplus that nothing relieves");
                carry_out(&mut now, &steps);
            }
            let loads: Vec<u32> = now.workers.iter().map(|worker| worker.load).collect();
            let (most, least) = (*loads.iter().max().unwrap(), *loads.iter().min().unwrap());
            prop_assert!(most - least <= 2.max(most / 8), "{:?}", loads);
        }
    }
}
