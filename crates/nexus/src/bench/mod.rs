//! Measures this machine.
//!
//! `ticks` and `ceiling`: ticks through the store, and what bare SQLite does with the same rows. Both write the same tables
//! with the same batching to the same disk in one run, so that their ratio says what our code costs, whatever the machine.
//! `idle`, `timers` and `failover`: the reconciler and workers on a database full of agents at rest. `wake` and
//! `ticks --full`: a whole host, through real sockets.

mod ceiling;
mod ceiling_postgres;
mod failover;
mod full;
mod host;
mod idle;
mod live;
mod memory;
mod postgres;
mod profile;
mod report;
mod resting;
mod shape;
mod spread;
mod ticks;
mod timers;
mod wake;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nexus_client::file::create_private_dir;
use nexus_core::{Clock, Entropy};
use tempfile::TempDir;

use crate::ambient::{SystemClock, SystemEntropy};
use crate::cli::{
    BenchArgs, BenchCommand, BenchPlace, Database, DatabaseArgs, FailoverArgs, IdleArgs, TimersArgs, WakeArgs,
};
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
    match command {
        BenchCommand::Ticks(args) if args.full => {
            let full = full::run(&world, &args.whole, &directory(args.bench.data_dir.as_ref())?).await?;
            output.either(&full, || full.text(&output));
        }
        BenchCommand::Ticks(args) => {
            let plan = Plan::of(&args.bench)?;
            let report = match args.database.database {
                Database::Sqlite => ticks(&world, &plan).await?,
                Database::Postgres => ticks_postgres(&world, &plan, &args.database).await?,
            };
            output.either(&report, || report.text(&output));
        }
        BenchCommand::Ceiling(args) => {
            let report = ceiling(&world, &Plan::of(&args)?).await?;
            output.either(&report, || report.text(&output));
        }
        BenchCommand::Idle(args) => {
            let idle = idle::run(&world, &args).await?;
            output.either(&idle, || idle.text(&output));
        }
        BenchCommand::Timers(args) => {
            let timers = timers::run(&world, &args).await?;
            output.either(&timers, || timers.text(&output));
        }
        BenchCommand::Wake(args) => {
            let wake = wake::run(&world, &args).await?;
            output.either(&wake, || wake.text(&output));
        }
        BenchCommand::Failover(args) => {
            let failover = failover::run(&world, &args).await?;
            output.either(&failover, || failover.text(&output));
        }
    }
    Ok(())
}

/// Where to measure, if it was not said.
fn directory(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    given.cloned().map_or_else(DataDir::default_path, Ok)
}

/// Each has a place.
macro_rules! directory_of {
    ($($args:ty),*) => {
        $(impl $args {
            fn directory(&self) -> anyhow::Result<PathBuf> {
                let BenchPlace { data_dir } = &self.place;
                directory(data_dir.as_ref())
            }
        })*
    };
}
directory_of!(IdleArgs, TimersArgs, WakeArgs, FailoverArgs);

/// Ticks, one agent alone, and the ceiling of both.
async fn ticks(world: &World, plan: &Plan) -> anyhow::Result<Report> {
    let mut report = Report::new(plan);
    {
        let place = place(&plan.directory)?;
        report.sealing_us_per_tick = Some(shape::sealing_cost(world)?);
        let mut host = host::Host::open(world, place.path(), plan.agents).await?;
        report.ticks = Some(ticks::crowd(&mut host, plan).await?);
        report.alone = Some(ticks::alone(&mut host, plan).await?);
        report.memory_bytes = Some(memory::peak()?);
    }
    add_ceiling(world, plan, &mut report).await?;
    Ok(report)
}

/// The same on PostgreSQL, server included in what the machine has to do.
async fn ticks_postgres(world: &World, plan: &Plan, args: &DatabaseArgs) -> anyhow::Result<Report> {
    let mut report = Report::on_postgres(plan);
    let source = postgres::Source::open(args, &plan.directory).await?;
    report.sealing_us_per_tick = Some(shape::sealing_cost(world)?);
    {
        let mut host = host::Host::connect(world, source.database().await?, plan.agents).await?;
        report.ticks = Some(ticks::crowd(&mut host, plan).await?);
        report.alone = Some(ticks::alone(&mut host, plan).await?);
        report.memory_bytes = Some(memory::peak()?);
    }
    let config = source.database().await?;
    let agents = host::Host::connect(world, config.clone(), plan.agents).await?.into_npubs();
    let (crowd, alone) = ceiling_postgres::run(&config, &agents, plan).await?;
    report.ceiling = Some(crowd);
    report.ceiling_alone = Some(alone);
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
        let directory = directory(args.data_dir.as_ref())?;
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
