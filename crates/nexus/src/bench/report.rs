//! The figures, for people and for programs.

use comfy_table::Cell;
use serde::Serialize;

use super::Plan;
use super::shape::{APPENDS, EFFECT_BYTES, EFFECTS, STATE_BYTES};
use super::watch::Figures;
use crate::output::{Output, group};

/// Ticks a second with 256 agents in flight, on two cores.
const GOAL_TICKS: f64 = 5_000.0;
/// Of the ceiling.
const GOAL_RATIO: f64 = 0.5;
/// Half of one agent's ticks take less, in milliseconds: on SQLite, and on PostgreSQL.
const GOAL_ALONE_MS: f64 = 2.0;
const GOAL_ALONE_POSTGRES_MS: f64 = 3.0;
/// Of seven single-row commits, on PostgreSQL.
const GOAL_ALONE_RATIO: f64 = 1.3;
/// Of this process, which holds all that ticks hold but their agents' secrets.
const GOAL_MEMORY: u64 = 300 * 1_048_576;

#[derive(Debug, Serialize)]
pub struct Report {
    database: &'static str,
    agents: usize,
    seconds: f64,
    cores: usize,
    directory: String,
    effects: usize,
    effect_bytes: usize,
    appends: usize,
    state_bytes: usize,
    synchronous: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealing_us_per_tick: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticks: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alone: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling_alone: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

impl Report {
    pub fn new(plan: &Plan) -> Self {
        Self {
            database: "sqlite",
            agents: plan.agents,
            seconds: plan.crowd.as_secs_f64(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            directory: plan.directory.display().to_string(),
            effects: EFFECTS,
            effect_bytes: EFFECT_BYTES,
            appends: APPENDS,
            state_bytes: STATE_BYTES,
            synchronous: "full",
            sealing_us_per_tick: None,
            ticks: None,
            alone: None,
            ceiling: None,
            ceiling_alone: None,
            memory_bytes: None,
        }
    }

    pub fn on_postgres(plan: &Plan) -> Self {
        Self { database: "postgres", synchronous: "on", ..Self::new(plan) }
    }

    fn is_postgres(&self) -> bool {
        self.database == "postgres"
    }

    /// Ticks through the store for each tick of the ceiling.
    pub fn ratio(&self) -> Option<f64> {
        let (ticks, ceiling) = (self.ticks.as_ref()?, self.ceiling.as_ref()?);
        Some(ticks.ticks_per_second / ceiling.ticks_per_second)
    }

    pub fn text(&self, output: &Output) -> String {
        let many = format!("{} agents", self.agents);
        let rows = [
            (many.as_str(), &self.ticks),
            ("one agent", &self.alone),
            (if self.is_postgres() { "ceiling, 64 ticks a commit" } else { "ceiling, as many" }, &self.ceiling),
            (if self.is_postgres() { "seven rows, each committed" } else { "ceiling, one" }, &self.ceiling_alone),
        ];
        let rows = rows.into_iter().filter_map(|(name, figures)| Some(row(name, figures.as_ref()?)));
        let table = output.table(["", "ticks/s", "appends/s", "p50 ms", "p99 ms", "appends/commit"], rows);
        let mut lines = vec![self.head(), String::new(), table];
        lines.extend(self.goals(output));
        lines.join("\n")
    }

    fn head(&self) -> String {
        format!(
            "{} effects of {} bytes ({} durable appends) and {} bytes of state a tick\n{}, synchronous={}, {} s, {} cores, {}",
            self.effects,
            self.effect_bytes,
            self.appends,
            self.state_bytes,
            self.database,
            self.synchronous,
            self.seconds,
            self.cores,
            self.directory
        )
    }

    fn goals(&self, output: &Output) -> Vec<String> {
        let mut rows = Vec::new();
        let mut goal = |name: &'static str, figure: String, goal: &str, reached: bool| {
            let reached = output.state(if reached { "ok" } else { "warn" });
            rows.push([Cell::new(name), Cell::new(figure), Cell::new(goal), reached]);
        };
        let ratio = self.ratio();
        if let Some(ticks) = &self.ticks {
            let rate = ticks.ticks_per_second;
            // On PostgreSQL one of both is the goal; on SQLite both are.
            let instead = self.is_postgres() && ratio.is_some_and(|ratio| ratio >= GOAL_RATIO);
            goal("ticks/s", format!("{rate:.0}"), "5,000 on two cores", rate >= GOAL_TICKS || instead);
            if let Some(ratio) = ratio {
                let instead = self.is_postgres() && rate >= GOAL_TICKS;
                goal("of the ceiling", format!("{ratio:.2}"), "0.50", ratio >= GOAL_RATIO || instead);
            }
        }
        if let Some(alone) = &self.alone {
            let most = if self.is_postgres() { GOAL_ALONE_POSTGRES_MS } else { GOAL_ALONE_MS };
            goal("one agent, p50 ms", format!("{:.2}", alone.p50_ms), &format!("{most:.2}"), alone.p50_ms < most);
        }
        if let (true, Some(alone), Some(rows)) = (self.is_postgres(), &self.alone, &self.ceiling_alone) {
            let ratio = alone.p50_ms / rows.p50_ms;
            goal("of seven commits", format!("{ratio:.2}"), "1.30", ratio <= GOAL_ALONE_RATIO);
        }
        if let Some(bytes) = self.memory_bytes {
            let mib = bytes as f64 / 1_048_576.0;
            goal("memory at most, MiB", format!("{mib:.0}"), "300", bytes < GOAL_MEMORY);
        }
        if rows.is_empty() {
            return Vec::new();
        }
        let mut lines = vec![String::new(), output.table(["", "here", "goal", ""], rows)];
        if let (Some(cost), Some(ticks)) = (self.sealing_us_per_tick, &self.ticks) {
            let share = cost * ticks.ticks_per_second / 1e4;
            lines.push(format!("\nencrypting a tick takes {cost:.0} us: {share:.0} % of one core at this rate"));
        }
        lines
    }
}

fn row(name: &str, figures: &Figures) -> [Cell; 6] {
    [
        Cell::new(name),
        Cell::new(group(figures.ticks_per_second as u64)),
        Cell::new(group(figures.appends_per_second as u64)),
        Cell::new(format!("{:.2}", figures.p50_ms)),
        Cell::new(format!("{:.2}", figures.p99_ms)),
        Cell::new(format!("{:.1}", figures.appends_per_commit)),
    ]
}
