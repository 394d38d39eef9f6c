//! Measures this machine: ticks through the store, and what bare SQLite does with the same rows.
//!
//! Both write the same tables with the same batching to the same disk in one run, so that their ratio says what our
//! code costs, whatever the machine.

mod ceiling;
mod host;
mod report;
mod shape;
mod ticks;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nexus_client::file::create_private_dir;
use nexus_core::{Clock, Entropy};
use tempfile::TempDir;

use crate::ambient::{SystemClock, SystemEntropy};
use crate::cli::{BenchArgs, BenchCommand};
use crate::command;
use crate::dev::data_dir::DataDir;
use crate::output::Output;
use report::Report;

/// What to measure, and for how long.
#[derive(Debug, Clone)]
struct Plan {
    /// Agents in flight, each with one tick after another.
    agents: usize,
    /// Counted time of the run with all agents.
    crowd: Duration,
    /// Counted time of the run with one agent.
    alone: Duration,
    /// Not counted, before each: the log grows to its size, pages get into the cache.
    warm_up: Duration,
    directory: PathBuf,
}

/// The ambient things, made once.
#[derive(Clone)]
struct World {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

pub async fn run(command: BenchCommand, output: Output) -> anyhow::Result<()> {
    let world = World { clock: Arc::new(SystemClock::new()), entropy: Arc::new(SystemEntropy) };
    let report = match command {
        BenchCommand::Ticks(args) => ticks(&world, &Plan::of(&args)?).await?,
        BenchCommand::Ceiling(args) => ceiling(&world, &Plan::of(&args)?).await?,
        BenchCommand::Idle(_) | BenchCommand::Wake(_) | BenchCommand::Failover(_) => {
            return command::not_yet("bench", "`nexus bench ticks` and `nexus bench ceiling` measure the store");
        }
    };
    output.either(&report, || report.text(&output));
    Ok(())
}

/// Ticks, one agent alone, and the ceiling of both.
async fn ticks(world: &World, plan: &Plan) -> anyhow::Result<Report> {
    let mut report = Report::new(plan);
    {
        let place = place(&plan.directory)?;
        report.sealing_us_per_tick = Some(shape::sealing_cost(world)?);
        let mut host = host::Host::open(world, place.path(), plan.agents).await?;
        report.ticks = Some(ticks::crowd(&mut host, plan).await?);
        report.alone = Some(ticks::alone(&mut host, plan).await?);
    }
    add_ceiling(world, plan, &mut report).await?;
    Ok(report)
}

async fn ceiling(world: &World, plan: &Plan) -> anyhow::Result<Report> {
    let mut report = Report::new(plan);
    add_ceiling(world, plan, &mut report).await?;
    Ok(report)
}

async fn add_ceiling(world: &World, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let place = place(&plan.directory)?;
    // The tables and agents are the product's: the same rows go into the same indexes.
    let agents = host::Host::open(world, place.path(), plan.agents).await?.into_npubs();
    let plan = plan.clone();
    let path = host::database(place.path());
    let (crowd, alone) = tokio::task::spawn_blocking(move || ceiling::run(&path, &agents, &plan)).await??;
    report.ceiling = Some(crowd);
    report.ceiling_alone = Some(alone);
    Ok(())
}

/// A directory of its own, gone afterwards.
fn place(directory: &Path) -> anyhow::Result<TempDir> {
    create_private_dir(directory)
        .and_then(|()| tempfile::Builder::new().prefix("bench-").tempdir_in(directory))
        .with_context(|| format!("making a directory in {}\n  next: give --data-dir another one", directory.display()))
}

impl Plan {
    fn of(args: &BenchArgs) -> anyhow::Result<Self> {
        let directory = args.data_dir.clone().map_or_else(DataDir::default_path, Ok)?;
        let crowd = Duration::from_secs(args.seconds);
        let warm_up = (crowd / 5).min(Duration::from_secs(2));
        Ok(Self { agents: args.agents as usize, crowd, alone: crowd / 2, warm_up, directory })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn both_measure_and_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let world = World { clock: Arc::new(SystemClock::new()), entropy: Arc::new(SystemEntropy) };
        let time = Duration::from_millis(300);
        let plan =
            Plan { agents: 5, crowd: time, alone: time, warm_up: time / 10, directory: directory.path().to_owned() };
        let report = ticks(&world, &plan).await.unwrap();
        for run in [&report.ticks, &report.alone, &report.ceiling, &report.ceiling_alone] {
            let run = run.as_ref().unwrap();
            assert!(run.ticks > 0 && run.p50_ms > 0.0 && run.p50_ms <= run.p99_ms, "{run:?}");
            assert!((run.appends_per_second / run.ticks_per_second - 7.0).abs() < 1e-6, "{run:?}");
        }
        assert!(report.alone.as_ref().unwrap().appends_per_commit <= 1.01, "one agent has one append in flight");
        assert!(report.ratio().unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(report.text(&Output { json: false, colour: false, terminal: false }).contains("ticks/s"));

        let report = ceiling(&world, &plan).await.unwrap();
        assert!(report.ticks.is_none() && report.ceiling.unwrap().ticks > 0);
    }
}
