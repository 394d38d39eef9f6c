//! Commands about the owner: keys, hosts, tokens.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("key").required(true).args(["new", "key_file", "bunker_file"]))]
pub struct LoginArgs {
    /// Origin of the host's API; that of the present context by default
    #[arg(long, value_name = "URL")]
    pub url: Option<url::Url>,
    /// Make a new owner key
    #[arg(long)]
    pub new: bool,
    /// File with the owner key: nsec, hex or ncryptsec
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// File with a bunker:// address of a remote signer (not yet)
    #[arg(long, value_name = "FILE", alias = "bunker")]
    pub bunker_file: Option<PathBuf>,
    /// Name of the context to write; the host's name by default
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Fingerprint of the host's root key, as the operator gave it to you
    #[arg(long, value_name = "WORDS")]
    pub fingerprint: Option<String>,
    /// Keep the key without a passphrase: for development only
    #[arg(long)]
    pub development: bool,
}

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// All contexts
    List,
    /// Use this one from now on
    Use { name: String },
    /// One context, without its secrets
    Show { name: Option<String> },
}

#[derive(Debug, Subcommand)]
pub enum HostingCommand {
    /// What it costs
    Plans,
    /// How far each agent is paid, and what credit there is
    Status,
    /// Pay for hosting: an invoice of the operator's, which becomes credit
    Invoice(HostingInvoiceArgs),
    /// Take unused credit back: pays a Lightning invoice of yours
    Refund(HostingRefundArgs),
    /// Have hosting paid out of a wallet of yours (Nostr Wallet Connect); shows how that stands without flags
    Renew(HostingRenewArgs),
    /// What was credited and charged, newest first
    History {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
    },
}

#[derive(Debug, Args)]
pub struct HostingRefundArgs {
    /// How much; the invoice has to ask for exactly this
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub sats: u64,
    /// The invoice (BOLT 11)
    #[arg(long, value_name = "INVOICE")]
    pub to: String,
}

#[derive(Debug, Args)]
pub struct HostingRenewArgs {
    /// File with the nostr+walletconnect:// URI of the wallet
    #[arg(long, value_name = "FILE", requires = "month_cap")]
    pub nwc_file: Option<PathBuf>,
    /// At most so many sats in a UTC month, fees included
    #[arg(long, value_name = "SATS", requires = "nwc_file", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub month_cap: Option<u64>,
    /// Forget the wallet
    #[arg(long, conflicts_with = "nwc_file")]
    pub off: bool,
}

#[derive(Debug, Args)]
pub struct HostingInvoiceArgs {
    /// How much; what the next month of all agents needs beyond the credit, if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub sats: Option<u64>,
    /// Print the invoice and do not wait
    #[arg(long)]
    pub invoice_only: bool,
}

#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// Make one: the secret that it is signed with is shown once
    Add {
        /// Where to post to: https://…
        url: String,
        /// Kind of event, such as tick_failed; may be repeated; all without it
        #[arg(long, value_name = "KIND")]
        event: Vec<String>,
    },
    /// What there is, what waits and what was given up
    List,
    /// What was, is or could not be delivered, newest first
    Deliveries {
        /// From the list
        id: String,
        /// pending, delivered or dead
        #[arg(long, value_name = "STATE", value_parser = ["pending", "delivered", "dead"])]
        state: Option<String>,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
    },
    /// Try again what was given up
    Retry {
        /// From the list
        id: String,
    },
    /// Take one away, with what waits for it
    Remove {
        /// From the list
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token; it is shown once
    Create {
        /// What it may do; may be repeated
        #[arg(long, value_enum, required = true)]
        scope: Vec<Scope>,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "nexus token")]
        name: String,
        /// Days until it expires
        #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=366))]
        days: u32,
    },
    /// All tokens, without their secrets
    List,
    /// End a token
    Revoke { id: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    Read,
    Operate,
    Configure,
    Billing,
}

impl Scope {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Configure => "configure",
            Self::Billing => "billing",
        }
    }
}
