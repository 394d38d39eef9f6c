//! Commands that run or check a host.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Where everything is kept; the platform's data directory by default
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Development network: a directory to serve or join, or the URL of a running one
    #[arg(long, value_name = "DIR|URL")]
    pub devnet: Option<String>,
    /// Port of the API; 0 takes any free one
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<u16>,
    /// Port of the inbox relay; 0 takes any free one
    #[arg(long, value_name = "PORT")]
    pub relay_port: Option<u16>,
    /// OpenAI-compatible endpoint to think with, instead of a local Ollama or the demo planner
    #[arg(long, value_name = "URL")]
    pub llm_url: Option<url::Url>,
    /// Model to ask that endpoint for
    #[arg(long, value_name = "NAME")]
    pub llm_model: Option<String>,
    /// Name of the context that is written
    #[arg(long, value_name = "NAME")]
    pub write_context: Option<String>,
}

#[derive(Debug, Args)]
pub struct SimArgs {
    /// First seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How many seeds; ends at the first in which something does not hold
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Seeds run side by side
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: u8,
}

#[derive(Debug, Args)]
pub struct ProviderArgs {
    /// Relay to sell on; may be repeated
    #[arg(long, value_name = "URL", required = true)]
    pub relay: Vec<String>,
    /// OpenAI-compatible endpoint; the demo planner without one
    #[arg(long, value_name = "URL")]
    pub llm_url: Option<url::Url>,
    /// Model to ask that endpoint for
    #[arg(long, value_name = "NAME")]
    pub llm_model: Option<String>,
    /// Price of a request, in sats
    #[arg(long, value_name = "SATS")]
    pub price: Option<u64>,
    /// Development network to be paid on: directory or URL
    #[arg(long, value_name = "DIR|URL")]
    pub devnet: Option<String>,
    /// File with the provider's secret key; made if missing
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DevnetArgs {
    /// Where its log is kept
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ControlArgs {
    /// Where an SQLite database is kept; PostgreSQL stands in the configuration
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the API; 0 takes any free one
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<u16>,
    /// Allow wallets of play money and everything else that only development may
    #[arg(long)]
    pub allow_development: bool,
}

#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Where an SQLite database is kept; PostgreSQL stands in the configuration
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Region that this worker is in
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// Pool whose identity it holds
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Port of health and metrics; 0 takes any free one
    #[arg(long, value_name = "PORT")]
    pub health_port: Option<u16>,
    /// Allow play money, and relays on this machine and private networks
    #[arg(long)]
    pub allow_development: bool,
}

#[derive(Debug, Args)]
pub struct ScalerArgs {
    /// Region of its workers
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// Pool of its workers
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Workers that it runs at least
    #[arg(long, value_name = "N")]
    pub min: Option<u32>,
    /// Workers that it runs at most
    #[arg(long, value_name = "N")]
    pub max: Option<u32>,
    /// Port of its health; 0 takes any free one
    #[arg(long, value_name = "PORT")]
    pub health_port: Option<u16>,
}

#[derive(Debug, Args)]
pub struct RelayArgs {
    /// Where an SQLite database is kept; PostgreSQL stands in the configuration
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the relay; 0 takes any free one
    #[arg(long, value_name = "PORT")]
    pub relay_port: Option<u16>,
    /// Port of health and metrics; 0 takes any free one
    #[arg(long, value_name = "PORT")]
    pub health_port: Option<u16>,
}

#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Where an SQLite database is kept; PostgreSQL stands in the configuration
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Where backups are written
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The host's data directory; PostgreSQL stands in the configuration
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// File with the passphrase that closes them; asked for on a terminal
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    pub passphrase_file: Option<PathBuf>,
    /// Close them to this age key (age1…) instead; may be repeated
    #[arg(long, value_name = "KEY")]
    pub recipient: Vec<String>,
    /// Put the host's keys in as well: then the file and its passphrase are all that a new machine needs
    #[arg(long)]
    pub with_keys: bool,
    /// Make one every so often (15m, 1h, 1d), until stopped
    #[arg(long, value_name = "TIME", value_parser = backup_every)]
    pub every: Option<u32>,
    /// How many are kept; older ones of the same directory are removed
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub keep: u32,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The new host's data directory; PostgreSQL stands in the configuration
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// File with the passphrase that it was closed with; asked for on a terminal
    #[arg(long, value_name = "FILE", conflicts_with = "identity_file")]
    pub passphrase_file: Option<PathBuf>,
    /// File with the age identity (AGE-SECRET-KEY-1…) that it was closed to
    #[arg(long, value_name = "FILE")]
    pub identity_file: Option<PathBuf>,
    /// Only read it to its end, and say what it holds
    #[arg(long)]
    pub check: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

fn backup_every(text: &str) -> Result<u32, String> {
    match super::agent::duration_secs(text)? {
        secs @ 60..=2_592_000 => Ok(secs),
        _ => Err("use one minute to 30 days".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make the keys of a new fleet: root, pool identity, pool document, operator key
    Create {
        /// Where to put them; keys that are there stay
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// Agents that should run and do not, and what each waits for
    Agents(ParkedArgs),
}

#[derive(Debug, Args)]
pub struct ParkedArgs {
    /// Those that wait for this alone, as `nexus fleet` names it; `unplaced` for those that wait for a worker
    #[arg(long, value_name = "CODE")]
    pub code: Option<String>,
    /// Where to go on: the last npub of the page before
    #[arg(long, value_name = "NPUB")]
    pub after: Option<String>,
    /// Agents of the page
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Data directory to check
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where a role of the fleet serves /readyz; may be repeated
    #[arg(long, value_name = "URL")]
    pub role: Vec<url::Url>,
}
