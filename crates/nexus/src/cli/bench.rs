//! What can be measured.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Agents in flight
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub agents: u32,
    /// Counted seconds of the run with all agents; warm-up and the other runs take about as long again
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// Where to write, on the disk to measure; the platform's data directory by default. Nothing stays there
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct TicksArgs {
    #[command(flatten)]
    pub bench: BenchArgs,
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Whole ticks instead, with signatures, relay, provider and payment
    #[arg(long)]
    pub full: bool,
    #[command(flatten)]
    pub whole: FullArgs,
}

#[derive(Debug, Args)]
pub struct FullArgs {
    /// With --full: agents that tick at once
    #[arg(long, value_name = "N", default_value_t = 16, requires = "full", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub full_agents: u32,
    /// With --full: ticks of each
    #[arg(long, value_name = "N", default_value_t = 40, requires = "full", value_parser = clap::value_parser!(u32).range(1..=50))]
    pub each: u32,
}

#[derive(Debug, Args)]
pub struct IdleArgs {
    /// Agents to place on one worker
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub agents: u32,
    /// Their heartbeat, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 900, value_parser = clap::value_parser!(u32).range(10..=86_400))]
    pub heartbeat: u32,
    /// Seconds of heartbeats to count
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=900))]
    pub seconds: u64,
    #[command(flatten)]
    pub place: BenchPlace,
}

#[derive(Debug, Args)]
pub struct TimersArgs {
    /// Ticks that come due
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub ticks: u32,
    /// Within so many seconds
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    #[command(flatten)]
    pub place: BenchPlace,
}

#[derive(Debug, Args)]
pub struct WakeArgs {
    /// Mentions, one after another
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub wakes: u32,
    /// Agents that are mentioned in turn; each ticks 60 times an hour at most
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub agents: u32,
    #[command(flatten)]
    pub place: BenchPlace,
}

#[derive(Debug, Args)]
pub struct FailoverArgs {
    /// Agents of the worker that is lost
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub agents: u32,
    #[command(flatten)]
    pub place: BenchPlace,
}

#[derive(Debug, Args)]
pub struct BenchPlace {
    /// Where to write, on the disk to measure; the platform's data directory by default. Nothing stays there
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DatabaseArgs {
    /// What to measure
    #[arg(long, value_enum, default_value = "sqlite", conflicts_with = "full")]
    pub database: Database,
    /// With --database postgres: an empty database of a server that is there, as postgres://user@host:port/name or
    /// postgres://user@%2Fsocket%2Fdirectory/name. Without it a private server is started, and removed afterwards
    #[arg(long, value_name = "URL")]
    pub postgres_url: Option<url::Url>,
    /// File whose first line is the password for that URL
    #[arg(long, value_name = "FILE", requires = "postgres_url")]
    pub postgres_password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Database {
    Sqlite,
    Postgres,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Ticks a second through the store, one agent's latency, and the ceiling of both
    Ticks(TicksArgs),
    /// The same rows without our code: what the machine can do at most
    Ceiling(BenchArgs),
    /// A million idle agents on one worker: memory, placing, lag
    Idle(IdleArgs),
    /// How late many heartbeats are that come due within seconds
    Timers(TimersArgs),
    /// From a mention at the relay to the tick on a WebSocket
    Wake(WakeArgs),
    /// How long agents are without a worker when theirs is lost
    Failover(FailoverArgs),
}
