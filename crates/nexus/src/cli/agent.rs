//! `nexus agent …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use nexus_core::placement::Failover;

#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Make an agent: its keys are made here, and leave this machine only sealed
    Create(CreateArgs),
    /// Every agent of this account
    List {
        /// Only those in this state, for example running, stopped, active, hibernating
        #[arg(long)]
        state: Option<String>,
        /// Only those with this label, as key=value
        #[arg(long)]
        label: Option<String>,
    },
    /// Everything about one agent, with the reason for its state
    Status {
        /// Name or npub
        agent: String,
    },
    /// Let it tick
    Start {
        /// Name or npub
        agent: String,
    },
    /// Let it tick no more
    Stop(StopArgs),
    /// Tick now
    Tick(TickArgs),
    /// Past ticks: cause, cost, result
    Ticks(TicksArgs),
    /// What happened to it, and what happens now
    Events(EventsArgs),
    /// Put sats into its wallet
    Fund(FundArgs),
    /// Its lightning address and Nostr name on this host
    Address(AddressArgs),
    /// What is in its wallet
    Balance {
        /// Name or npub
        agent: String,
    },
    /// Change schedule, relays, labels
    Set(ConfigArgs),
    /// Show or change the signed policy: limits, autonomy, allow-lists
    Policy(PolicyArgs),
    /// Let it pay its own hosting out of its wallet, up to so much a month, by your signature
    Rent(RentArgs),
    /// Stop everything it does, by your signature: it thinks, signs and spends no more
    Freeze {
        /// Name or npub
        agent: String,
    },
    /// Let a frozen agent go on
    Thaw {
        /// Name or npub
        agent: String,
    },
    /// Give its key to the worker that has it now (attended custody)
    Unlock(UnlockArgs),
    /// What waits for your decision
    Approvals(ApprovalsArgs),
    /// Allow an action that waits: signed by you, for exactly that action
    Approve(AnswerArgs),
    /// Refuse an action that waits
    #[command(alias = "deny")]
    Refuse(AnswerArgs),
    /// What it paid for and was not served, with the evidence; `verify FILE` checks somebody's evidence
    Disputes(DisputesArgs),
    /// Remove it from this host
    Delete(DeleteArgs),
    /// Take sats out of its wallet: pays a Lightning invoice of yours
    Withdraw(WithdrawArgs),
    /// Let it go on with a state that is older than what it published
    AcceptRollback(AcceptArgs),
    /// Show its wallet, or give it another one: signed by you
    Wallet(WalletArgs),
    /// Write its backup: one file, everything private in it encrypted
    Export(ExportArgs),
    /// Take an agent in from its backup, and tell its old host
    Import(ImportArgs),
    /// What it heard and decided in one tick, opened with your key
    Trajectory(TrajectoryArgs),
    /// What wakes an agent beside its heartbeat: at a moment, at an interval, or by cron in a time zone
    #[command(subcommand, visible_alias = "schedules")]
    Schedule(ScheduleCommand),
    /// Addresses that wake an agent when something is posted there (Standard Webhooks)
    #[command(subcommand, visible_alias = "hooks")]
    Hook(HookCommand),
}

#[derive(Debug, Args)]
pub struct RentArgs {
    /// Name or npub
    pub agent: String,
    /// Most that it may pay in a calendar month, in sats, fees included
    #[arg(long, value_name = "SATS", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub month_cap: Option<u64>,
    /// It pays no more rent
    #[arg(long, conflicts_with = "month_cap")]
    pub off: bool,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// 1 to 64 of a-z, 0-9, '-', '_', '.'
    pub name: String,
    /// Something it works towards; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub goal: Vec<String>,
    /// File with more goals, one a line, so that they stay out of the shell's history
    #[arg(long, value_name = "FILE")]
    pub goals_file: Option<PathBuf>,
    /// File that says who it is and how it speaks
    #[arg(long, value_name = "FILE")]
    pub persona_file: Option<PathBuf>,
    /// Public description, shown in its profile
    #[arg(long, value_name = "TEXT")]
    pub about: Option<String>,
    /// Time between heartbeats: 30s, 15m, 2h, 1d
    #[arg(long, value_name = "TIME", value_parser = duration_secs)]
    pub heartbeat: Option<u32>,
    /// Tick at every heartbeat, even when nothing is new
    #[arg(long)]
    pub always: bool,
    /// Relay to use beside the host's own; may be repeated
    #[arg(long, value_name = "URL")]
    pub relay: Vec<String>,
    /// Label as key=value; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// Region it is at home in; anywhere without one
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// Where it goes while no worker lives in its region
    #[arg(long, value_enum, requires = "region")]
    pub failover: Option<FailoverArg>,
    /// Who can use its key
    #[arg(long, value_enum, default_value_t = CustodyArg::Sealed)]
    pub custody: CustodyArg,
    /// File with the bunker:// URI of your signer (custody bunker)
    #[arg(long, value_name = "FILE", conflicts_with = "nostrconnect")]
    pub bunker_file: Option<PathBuf>,
    /// Show a nostrconnect:// URI over this relay and wait for your signer (custody bunker); may be repeated
    #[arg(long, value_name = "URL")]
    pub nostrconnect: Vec<String>,
    /// File with the passphrase for the mnemonic's envelope
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// File with a BIP-39 mnemonic to use instead of a new one
    #[arg(long, value_name = "FILE")]
    pub mnemonic_file: Option<PathBuf>,
    /// File with the policy (JSON) to sign instead of the default one
    #[arg(long, value_name = "FILE")]
    pub policy_file: Option<PathBuf>,
    /// Start it at once
    #[arg(long)]
    pub start: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CustodyArg {
    Sealed,
    Attended,
    Bunker,
    Threshold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailoverArg {
    /// To any other region, and home again later
    Anywhere,
    /// It waits for its home
    Never,
}

impl From<FailoverArg> for Failover {
    fn from(arg: FailoverArg) -> Self {
        match arg {
            FailoverArg::Anywhere => Self::Anywhere,
            FailoverArg::Never => Self::Never,
        }
    }
}

#[derive(Debug, Args)]
pub struct StopArgs {
    /// Name or npub
    pub agent: String,
    /// Do not wait for the running tick: signing is revoked first
    #[arg(long)]
    pub now: bool,
}

#[derive(Debug, Args)]
pub struct TickArgs {
    /// Name or npub
    pub agent: String,
    /// File with something to tell it; it is sealed to the agent before it leaves this machine
    #[arg(long, value_name = "FILE")]
    pub text_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct TicksArgs {
    /// Name or npub
    pub agent: String,
    /// How many, newest first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub limit: u32,
    /// Show this tick with its steps
    #[arg(long, value_name = "TICK")]
    pub id: Option<String>,
}

#[derive(Debug, Args)]
pub struct TrajectoryArgs {
    /// Name or npub
    pub agent: String,
    /// The tick; the last one that thought without
    pub tick: Option<String>,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Name or npub
    pub agent: String,
    /// Stay and show what happens
    #[arg(long)]
    pub follow: bool,
    /// Only events after this number
    #[arg(long, value_name = "SEQ")]
    pub after: Option<u64>,
    /// Check that the chain of events has no gap and no change
    #[arg(long, conflicts_with = "follow")]
    pub verify: bool,
    /// Open what only the owner can read, with the owner key
    #[arg(long)]
    pub open: bool,
}

#[derive(Debug, Args)]
pub struct FundArgs {
    /// Name or npub
    pub agent: String,
    /// How many sats
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub sats: u64,
    /// Print the invoice and do not wait or pay
    #[arg(long)]
    pub invoice_only: bool,
}

#[derive(Debug, Args)]
pub struct AddressArgs {
    /// Name or npub
    pub agent: String,
    /// Take this name before the @, if nobody has it
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
    /// Give the name up; the npub stands for it again
    #[arg(long, conflicts_with = "set")]
    pub release: bool,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Name or npub
    pub agent: String,
    /// Time between heartbeats: 30s, 15m, 2h, 1d
    #[arg(long, value_name = "TIME", value_parser = duration_secs)]
    pub heartbeat: Option<u32>,
    /// Public description, shown in its profile
    #[arg(long, value_name = "TEXT")]
    pub about: Option<String>,
    /// Replace the relays; may be repeated
    #[arg(long, value_name = "URL")]
    pub relay: Vec<String>,
    /// Add or change a label, as key=value; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// Region it is at home in
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// Where it goes while no worker lives in its region
    #[arg(long, value_enum)]
    pub failover: Option<FailoverArg>,
    /// Any field of the configuration, as JSON merged over it
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Name or npub
    pub agent: String,
    /// Change it in $EDITOR and sign the next version
    #[arg(long, conflicts_with = "file")]
    pub edit: bool,
    /// Sign this document (JSON) as the next version
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct WithdrawArgs {
    /// Name or npub
    pub agent: String,
    /// How many sats; the invoice has to ask for as many
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub sats: u64,
    /// The invoice to pay (BOLT 11)
    #[arg(long, value_name = "INVOICE")]
    pub to: String,
}

#[derive(Debug, Args)]
pub struct AcceptArgs {
    /// Name or npub
    pub agent: String,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct WalletArgs {
    /// Name or npub
    pub agent: String,
    /// The wallet it is to use: dev, cashu=URL, nwc, spark or lnd
    #[arg(long, value_name = "WALLET", value_parser = backend)]
    pub wallet: Option<Backend>,
    /// File with the nostr+walletconnect:// URI of the wallet (wallet nwc)
    #[arg(long, value_name = "FILE", requires = "wallet")]
    pub nwc_file: Option<PathBuf>,
}

/// Which wallet, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    Dev,
    /// The mint's URL.
    Cashu(String),
    Nwc,
    Spark,
    Lnd,
}

fn backend(text: &str) -> Result<Backend, String> {
    match text.split_once('=') {
        Some(("cashu", mint)) if mint.starts_with("https://") || mint.starts_with("http://") => {
            Ok(Backend::Cashu(mint.to_owned()))
        }
        None if text == "dev" => Ok(Backend::Dev),
        None if text == "nwc" => Ok(Backend::Nwc),
        None if text == "spark" => Ok(Backend::Spark),
        None if text == "lnd" => Ok(Backend::Lnd),
        Some(_) | None => Err("expected dev, cashu=https://MINT, nwc, spark or lnd".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct UnlockArgs {
    /// Name or npub
    pub agent: String,
    /// File with the passphrase of the mnemonic's envelope
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The envelope, if it is not where `create` kept it
    #[arg(long, value_name = "FILE", conflicts_with = "mnemonic_file")]
    pub envelope_file: Option<PathBuf>,
    /// File with the mnemonic itself
    #[arg(long, value_name = "FILE")]
    pub mnemonic_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ApprovalsArgs {
    /// Name or npub
    pub agent: String,
    /// Those that are over, too
    #[arg(long)]
    pub all: bool,
    /// Show what they are about, opened with the owner key
    #[arg(long)]
    pub open: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct DisputesArgs {
    #[command(subcommand)]
    pub command: Option<DisputesCommand>,
    /// Name or npub
    #[arg(required = true)]
    pub agent: Option<String>,
    /// Show this one, opened with the owner key: its id, or a beginning of it that no other has
    pub id: Option<String>,
    /// Those that are over, too
    #[arg(long)]
    pub all: bool,
    /// Write the evidence of this one into a new file, for whoever is to check it
    #[arg(long, value_name = "FILE", requires = "id")]
    pub out: Option<PathBuf>,
    /// It was made good in another way: it is over
    #[arg(long, requires = "id", conflicts_with_all = ["out", "close"])]
    pub settled: bool,
    /// Let it be: it is over
    #[arg(long, requires = "id", conflicts_with = "out")]
    pub close: bool,
}

#[derive(Debug, Subcommand)]
pub enum DisputesCommand {
    /// Check a file of evidence: signatures, invoice and preimage. Asks nobody
    Verify {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct AnswerArgs {
    /// Name or npub
    pub agent: String,
    /// Its id, or a beginning of it that no other has
    pub id: String,
    /// Why, in the signed answer
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Name or npub
    pub agent: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Delete even though sats remain in its wallet: they are then reachable only with its mnemonic
    #[arg(long)]
    pub forfeit: bool,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Name or npub
    pub agent: String,
    /// Stop it first, and wait until nothing of it is in flight
    #[arg(long = "move")]
    pub stop: bool,
    /// File to write; standard output without. Of format pylon: a directory
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// For another host of ours, or for Pylon and OpenAgents: the key and its configuration alone
    #[arg(long, value_name = "FORMAT", default_value = "nexus")]
    pub format: ExportFormat,
    /// File with the passphrase of the agent's mnemonic (format pylon)
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// File with the password that identity.enc gets (format pylon); the passphrase without
    #[arg(long, value_name = "FILE")]
    pub identity_password_file: Option<PathBuf>,
    /// Write identity.mnemonic too, which is the key in clear: Pylon reads no other form
    #[arg(long)]
    pub with_clear_words: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    Nexus,
    Pylon,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The backup; standard input without. Or files of Pylon's and OpenAgents': identity.enc, identity.mnemonic,
    /// agents/<npub>.toml, config.toml
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// File with the password of identity.enc
    #[arg(long, value_name = "FILE")]
    pub identity_password_file: Option<PathBuf>,
    /// Name it has here, if not the backup's
    #[arg(long)]
    pub name: Option<String>,
    /// File with the passphrase of the agent's mnemonic
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// File with the bunker:// URI of its signer (custody bunker)
    #[arg(long, value_name = "FILE", conflicts_with = "nostrconnect")]
    pub bunker_file: Option<PathBuf>,
    /// Show a nostrconnect:// URI over this relay and wait for its signer (custody bunker); may be repeated
    #[arg(long, value_name = "URL")]
    pub nostrconnect: Vec<String>,
    /// The host that has it does not answer and never will again
    #[arg(long)]
    pub old_host_is_gone: bool,
    /// Start it once its old host knows
    #[arg(long)]
    pub start: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Add one, or change the one of this name
    Add(ScheduleArgs),
    /// What there is, and when each is due next
    List {
        /// Name or npub
        agent: String,
    },
    /// Take one away
    Remove {
        /// Name or npub
        agent: String,
        /// Of the schedule
        name: String,
    },
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("when").required(true).args(["cron", "every", "at"])))]
pub struct ScheduleArgs {
    /// Name or npub
    pub agent: String,
    /// 1 to 32 of a-z, 0-9, '-', '_': what the agent is told, and its goals can speak of
    pub name: String,
    /// Five fields: minute, hour, day of month, month, day of week
    #[arg(long, value_name = "EXPRESSION")]
    pub cron: Option<String>,
    /// Time between runs, from now on: 30m, 2h, 1d
    #[arg(long, value_name = "TIME", value_parser = duration_secs)]
    pub every: Option<u32>,
    /// Once: 2026-12-24T18:00 in the zone, or with an offset of its own (…Z, …+01:00)
    #[arg(long, value_name = "MOMENT")]
    pub at: Option<String>,
    /// Time zone of the expression or moment, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub zone: String,
    /// What becomes of a run that is due while an earlier one is not done
    #[arg(long, value_enum, default_value_t = OverlapArg::Skip)]
    pub overlap: OverlapArg,
    /// What becomes of runs that were due while nothing ran
    #[arg(long, value_enum, default_value_t = CatchUpArg::Once)]
    pub catch_up: CatchUpArg,
    /// With `--catch-up all`: how old a run may be that is caught up
    #[arg(long, value_name = "TIME", value_parser = duration_secs, default_value = "1d")]
    pub window: u32,
}

/// See `nexus_core::schedule::Overlap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OverlapArg {
    /// It is missed
    Skip,
    /// The newest waits
    QueueOne,
}

/// See `nexus_core::agent::CatchUp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CatchUpArg {
    /// One run for all of them
    Once,
    /// None, unless it is less than a minute late
    Skip,
    /// Each of them, within the window
    All,
}

#[derive(Debug, Subcommand)]
pub enum HookCommand {
    /// Make one: its address, and the secret that senders sign with, shown once
    Add {
        /// Name or npub
        agent: String,
        /// What the agent is told that it comes from
        name: String,
    },
    /// What there is
    List {
        /// Name or npub
        agent: String,
    },
    /// Take one away
    Remove {
        /// Name or npub
        agent: String,
        /// From the list
        id: String,
    },
}

/// `90`, `30s`, `15m`, `2h`, `1d` in seconds.
pub(super) fn duration_secs(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("use a number and s, m, h or d, for example 15m".to_owned()),
    };
    let secs = number.parse::<u32>().ok().and_then(|number| number.checked_mul(factor));
    secs.ok_or_else(|| "use a number and s, m, h or d, for example 15m".to_owned())
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("use key=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(duration_secs("15m"), Ok(900));
        assert_eq!(duration_secs("90"), Ok(90));
        assert_eq!(duration_secs("2h"), Ok(7_200));
        assert_eq!(duration_secs("1d"), Ok(86_400));
        for bad in ["", "m", "1w", "-1s", "99999999d", "1.5h"] {
            assert!(duration_secs(bad).is_err(), "{bad}");
        }
    }
}
