//! What may be typed. Secrets are never arguments: they come from a terminal or a file.

mod agent;
mod bench;
mod host;
mod owner;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub use agent::{
    AcceptArgs, AddressArgs, AgentCommand, AnswerArgs, ApprovalsArgs, Backend, CatchUpArg, ConfigArgs, CreateArgs,
    CustodyArg, DeleteArgs, DisputesArgs, DisputesCommand, EventsArgs, ExportArgs, ExportFormat, FundArgs, HookCommand,
    ImportArgs, OverlapArg, PolicyArgs, RentArgs, ScheduleArgs, ScheduleCommand, StopArgs, TickArgs, TicksArgs,
    TrajectoryArgs, UnlockArgs, WalletArgs, WithdrawArgs,
};
pub use bench::{
    BenchArgs, BenchCommand, BenchPlace, Database, DatabaseArgs, FailoverArgs, FullArgs, IdleArgs, TimersArgs, WakeArgs,
};
pub use host::{
    BackupArgs, ControlArgs, DevArgs, DevnetArgs, DoctorArgs, FleetCommand, MigrateArgs, ParkedArgs, PoolCommand,
    ProviderArgs, RelayArgs, RestoreArgs, ScalerArgs, SimArgs, WorkerArgs,
};
pub use owner::{
    ContextCommand, HostingCommand, HostingInvoiceArgs, HostingRefundArgs, HostingRenewArgs, LoginArgs, Scope,
    TokenCommand, WebhookCommand,
};

/// Hosts sovereign AI agents: a Nostr identity and a Lightning wallet each, thinking around the clock.
#[derive(Debug, Parser)]
#[command(name = "nexus", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Answer with JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Use this context instead of the chosen one
    #[arg(long, global = true, value_name = "NAME", env = "NEXUS_CONTEXT")]
    pub context: Option<String>,
    /// File with the passphrase of this context's owner key, where there is no terminal
    #[arg(long, global = true, value_name = "FILE")]
    pub key_passphrase_file: Option<PathBuf>,
    /// Configuration file of the host roles
    #[arg(long, global = true, value_name = "FILE", env = "NEXUS_CONFIG")]
    pub config: Option<PathBuf>,
    /// Form of the log on standard error
    #[arg(long, global = true, value_name = "FORM")]
    pub log: Option<LogForm>,
    /// Log more: -v for our own debug lines, -vv for traces
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogForm {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole host in this process: nothing to install, no account
    Dev(DevArgs),
    /// Create, run and look after agents
    #[command(subcommand, visible_alias = "agents")]
    Agent(AgentCommand),
    /// Join a host: make or take an owner key and get a token
    Login(LoginArgs),
    /// Which host the commands talk to, and as whom
    #[command(subcommand)]
    Context(ContextCommand),
    /// Tokens for programs, with limited scopes
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show the host's pool document, and check it against the pinned root key; or make the keys of a new pool
    Pool {
        #[command(subcommand)]
        command: Option<PoolCommand>,
    },
    /// Sell compute over NIP-90: an OpenAI-compatible endpoint, or the demo planner
    Provider(ProviderArgs),
    /// Run a development Lightning network alone
    Devnet(DevnetArgs),
    /// Check a host: data directory, database, ports, clock, relay, provider, worker
    Doctor(DoctorArgs),
    /// Print the whole configuration that a host role would run with
    Config {
        /// Also say where each value comes from
        #[arg(long)]
        sources: bool,
    },
    /// Measure this machine
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Run a control plane of a fleet: the API and the placement of agents
    Control(ControlArgs),
    /// Run a worker of a fleet: it hosts agents
    Worker(WorkerArgs),
    /// Run as many workers on this machine as the fleet says there should be
    Scaler(ScalerArgs),
    /// Run the inbox relay of a fleet
    Relay(RelayArgs),
    /// Bring the fleet's database to this program's schema
    Migrate(MigrateArgs),
    /// Workers, regions and load, and what agents wait for
    Fleet {
        #[command(subcommand)]
        command: Option<FleetCommand>,
    },
    /// Back a host's database up into a closed file, once or every so often, while it runs
    Backup(BackupArgs),
    /// Put a backup back, on a host that has no database: the only safe way
    Restore(RestoreArgs),
    /// Where to be told what happens to your agents (Standard Webhooks)
    #[command(subcommand, visible_alias = "webhooks")]
    Webhook(WebhookCommand),
    /// What hosting costs, how far it is paid, and paying for more
    #[command(subcommand)]
    Hosting(HostingCommand),
    /// Bring many agents to what a manifest says: shows the plan, then does it
    Apply(ApplyArgs),
    /// Run control and worker code in a world that a seed decides, and check what must hold
    Sim(SimArgs),
}

#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// The manifest (TOML); `-` for standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// Show what would be done, and do nothing
    #[arg(long, conflicts_with = "yes")]
    pub plan: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// File with the passphrase for the mnemonics of new agents
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("nexus").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_line_parses() {
        for line in [
            "dev --data-dir /d --devnet http://127.0.0.1:9 --api-port 0 --relay-port 0 --json",
            "login --new",
            "login --url https://host --key-file k",
            "login --bunker-file f",
            "context list",
            "context use dev",
            "context show",
            "agent create bob --goal one --goal two --heartbeat 15m --custody sealed --passphrase-file p --start",
            "agent create bob --mnemonic-file m --persona-file p --label team=a --relay wss://r",
            "agent create bob --region eu --failover never",
            "agent set bob --region eu --failover anywhere",
            "agent list --json",
            "agents list",
            "agent status bob",
            "agent start bob",
            "agent stop bob --now",
            "agent tick bob",
            "agent tick bob --text-file note",
            "agent ticks bob --limit 5",
            "agent events bob --follow --after 3",
            "agent events bob --verify",
            "agent fund bob --sats 5000",
            "agent balance bob",
            "agent set bob --heartbeat 1h",
            "agent policy bob",
            "agent policy bob --edit",
            "agent policy bob --file p.json",
            "agent delete bob --yes",
            "agent delete bob --forfeit",
            "agent withdraw bob --sats 5 --to lnbcrt1",
            "agent accept-rollback bob --yes",
            "agent wallet bob",
            "agent wallet bob --wallet cashu=https://mint",
            "agent wallet bob --wallet nwc --nwc-file f",
            "agent export bob --move",
            "agent import --passphrase-file p",
            "agent import identity.enc config.toml --identity-password-file w --passphrase-file p --name bob --start",
            "agent export bob --format pylon --out d --passphrase-file p --with-clear-words",
            "agent approvals bob",
            "agent approve bob 12",
            "agent deny bob 12",
            "agent trajectory bob t",
            "agent hook add bob ci",
            "agent hook list bob",
            "agent hook remove bob id",
            "hosting plans",
            "hosting status",
            "webhook add https://x --event payment --event tick_failed",
            "webhook list",
            "webhook deliveries id --state dead",
            "webhook retry id",
            "webhook remove id",
            "hosting invoice --sats 10000 --invoice-only",
            "hosting history --limit 5",
            "apply -f x --yes",
            "apply -f x --plan",
            "control --api-port 0 --allow-development",
            "pool",
            "pool create --dir d",
            "fleet --json",
            "migrate --data-dir d",
            "backup --dir d --passphrase-file p --with-keys",
            "backup --dir d --recipient age1x --recipient age1y --every 1h --keep 24",
            "restore f --passphrase-file p --data-dir d --yes",
            "restore f --identity-file i --check",
            "worker --region R --pool P",
            "scaler --region R --pool P --min 1 --max 4 --health-port 0",
            "relay --relay-port 0 --health-port 0",
            "provider --relay ws://127.0.0.1:7778 --llm-url http://127.0.0.1:11434/v1",
            "devnet --dir /d",
            "doctor --json",
            "config",
            "config --sources",
            "bench ticks --agents 8 --seconds 3 --data-dir /d --json",
            "bench ceiling",
            "bench wake",
            "sim --seed 7",
            "sim --seed 7 --seeds 100 --threads 2 --json",
            "completions bash",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn misuse_is_a_usage_error() {
        for line in
            ["", "agent", "agent create", "dev --api-port 70000", "agent stop", "nonsense", "agent fund a --sats 0"]
        {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn no_argument_takes_a_secret() {
        fn names(command: &clap::Command, into: &mut Vec<String>) {
            into.extend(command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned));
            command.get_subcommands().for_each(|sub| names(sub, into));
        }
        let mut all = Vec::new();
        names(&Cli::command(), &mut all);
        for name in all {
            let secret = ["passphrase", "mnemonic", "nsec", "seed", "secret", "key", "token", "password"]
                .iter()
                .any(|word| name == *word || name.ends_with(&format!("-{word}")));
            assert!(!secret || name == "seed", "--{name} would put a secret on the command line");
        }
    }
}
