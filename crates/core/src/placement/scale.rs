//! How many workers there should be: the figure that a scaler follows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::WorkerView;

/// Workers of one pool and region at most, whatever is asked.
const MAX_WORKERS: u32 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScaleRules {
    /// How full workers should be at most, in percent of their capacity: the rest is for those of a worker that dies.
    pub fill_percent: u32,
    /// Workers of each pool and region that has any, or needs any, at least.
    pub min_workers: u32,
    /// What a worker takes where none lives to ask.
    pub default_capacity: u32,
}

impl Default for ScaleRules {
    fn default() -> Self {
        Self { fill_percent: 70, min_workers: 1, default_capacity: 10_000 }
    }
}

/// Agents that need a worker, whether or not they have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub pool: String,
    /// Their home; none for those that may be anywhere.
    pub region: Option<String>,
    pub agents: u32,
}

/// What one pool has in one region, and should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scale {
    pub pool: String,
    pub region: String,
    /// Live workers that are not draining.
    pub workers: u32,
    pub desired_workers: u32,
    /// Agents on them.
    pub load: u32,
    pub capacity: u32,
}

/// By pool and region, in that order. Agents at home count for their region; the others fill what room is left, and then
/// go where there are fewest workers.
pub fn scale(workers: &[WorkerView], needs: &[Need], rules: &ScaleRules) -> Vec<Scale> {
    let mut all: BTreeMap<(&str, &str), Cell> = BTreeMap::new();
    for worker in workers.iter().filter(|worker| !worker.draining) {
        let cell = all.entry((&worker.pool, &worker.region)).or_default();
        cell.workers += 1;
        cell.load = cell.load.saturating_add(worker.load);
        cell.capacity = cell.capacity.saturating_add(worker.capacity);
        cell.smallest = Some(cell.smallest.map_or(worker.capacity, |smallest| smallest.min(worker.capacity)));
    }
    for need in needs {
        if let Some(region) = &need.region {
            let cell = all.entry((&need.pool, region)).or_default();
            cell.agents = cell.agents.saturating_add(need.agents);
        }
    }
    for cell in all.values_mut() {
        cell.desired = cell.agents.div_ceil(cell.room(rules)).max(rules.min_workers).min(MAX_WORKERS);
    }
    for need in needs.iter().filter(|need| need.region.is_none()) {
        spread(&mut all, need, rules);
    }
    let told = |((pool, region), cell): ((&str, &str), Cell)| Scale {
        pool: pool.to_owned(),
        region: region.to_owned(),
        workers: cell.workers,
        desired_workers: cell.desired,
        load: cell.load,
        capacity: cell.capacity,
    };
    all.into_iter().map(told).collect()
}

#[derive(Default)]
struct Cell {
    workers: u32,
    load: u32,
    capacity: u32,
    smallest: Option<u32>,
    /// That have their home here.
    agents: u32,
    desired: u32,
}

impl Cell {
    /// Agents that one more worker should have.
    fn room(&self, rules: &ScaleRules) -> u32 {
        let capacity = u64::from(self.smallest.unwrap_or(rules.default_capacity));
        u32::try_from(capacity * u64::from(rules.fill_percent.clamp(1, 100)) / 100).unwrap_or(u32::MAX).max(1)
    }

    fn spare(&self, rules: &ScaleRules) -> u32 {
        self.desired.saturating_mul(self.room(rules)).saturating_sub(self.agents)
    }
}

/// Room for agents without a home, in regions that have workers of their pool.
fn spread(all: &mut BTreeMap<(&str, &str), Cell>, need: &Need, rules: &ScaleRules) {
    let cells = || all.iter().filter(|((pool, _), _)| *pool == need.pool);
    let spare = cells().fold(0_u32, |sum, (_, cell)| sum.saturating_add(cell.spare(rules)));
    let mut left = need.agents.saturating_sub(spare);
    while left > 0 {
        let fewest = all.iter_mut().filter(|((pool, _), _)| *pool == need.pool).min_by_key(|(_, cell)| cell.desired);
        let Some((_, cell)) = fewest.filter(|(_, cell)| cell.desired < MAX_WORKERS) else { return };
        cell.desired += 1;
        left = left.saturating_sub(cell.room(rules));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::worker_id;
    use super::*;
    use proptest::prelude::*;

    fn worker(n: u8, region: &str, capacity: u32) -> WorkerView {
        let (region, pool) = (region.to_owned(), "p".to_owned());
        WorkerView { id: worker_id(n), region, pool, capacity, load: 0, version: 1, draining: false }
    }

    fn need(region: Option<&str>, agents: u32) -> Need {
        Need { pool: "p".into(), region: region.map(str::to_owned), agents }
    }

    fn desired(scales: &[Scale]) -> Vec<(&str, u32)> {
        scales.iter().map(|scale| (scale.region.as_str(), scale.desired_workers)).collect()
    }

    #[test]
    fn homes_first_then_the_room_that_is_left_then_evenly() {
        let rules = ScaleRules { fill_percent: 50, min_workers: 1, default_capacity: 10 };
        let workers = [worker(1, "eu", 100), worker(2, "us", 100)];
        let needs = [need(Some("eu"), 60), need(None, 30)];
        assert_eq!(desired(&scale(&workers, &needs, &rules)), [("eu", 2), ("us", 1)]);
        let needs = [need(Some("eu"), 60), need(None, 140)];
        assert_eq!(desired(&scale(&workers, &needs, &rules)), [("eu", 2), ("us", 2)]);
        // A region that lost its last worker is still asked for.
        let needs = [need(Some("ap"), 12)];
        assert_eq!(desired(&scale(&workers, &needs, &rules)), [("ap", 3), ("eu", 1), ("us", 1)]);
        // Agents that nobody can serve are asked for nowhere: no region is known.
        assert!(scale(&[], &[need(None, 5)], &rules).is_empty());
    }

    proptest! {
        /// There is room for everyone at the wanted fill, and more agents never want fewer workers.
        #[test]
        fn what_is_desired_is_enough(
            capacities in prop::collection::vec((0_u8..3, 1_u32..50), 1..6),
            homed in 0_u32..300, homeless in 0_u32..300, more in 0_u32..100, fill in 1_u32..=100,
        ) {
            let rules = ScaleRules { fill_percent: fill, min_workers: 1, default_capacity: 7 };
            let workers: Vec<_> = (0..).zip(&capacities).map(|(n, (r, c))| worker(n, &format!("r{r}"), *c)).collect();
            let needs = |homeless| [need(Some("r0"), homed), need(None, homeless)];
            let scales = scale(&workers, &needs(homeless), &rules);
            let room = |scale: &Scale| {
                let smallest = workers.iter().filter(|w| w.region == scale.region).map(|w| w.capacity).min();
                (smallest.unwrap_or(7) * fill / 100).max(1) * scale.desired_workers
            };
            prop_assert!(scales.iter().map(room).sum::<u32>() >= homed + homeless);
            let grown = scale(&workers, &needs(homeless + more), &rules);
            prop_assert!(scales.iter().zip(&grown).all(|(a, b)| a.desired_workers <= b.desired_workers));
        }
    }
}
