//! What an operator may set for the control plane, and every limit in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use nexus_core::hosting::{HostingRules, Plan};
use nexus_core::placement::ScaleRules;
use nexus_core::{Msat, Npub};
use nexus_lightning::{Hold, Receive};
use nexus_seal::operator::OperatorKey;
use nostr::event::Event;
use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroizing;

use crate::owner_wallet::OwnerWallets;

/// Largest body of `POST /v1/agents`, in bytes.
pub const MAX_CREATE_BODY: usize = 1024 * 1024;
/// Largest body of any other call, in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// A body must have arrived within this time.
pub const BODY_TIMEOUT_MS: u64 = 10_000;
/// An answer must be ready within this time (streams aside).
pub const REQUEST_TIMEOUT_MS: u64 = 30_000;
/// How long a WebSocket ticket lives.
pub const TICKET_MS: i64 = 30_000;
/// How long an Idempotency-Key is remembered.
pub const IDEMPOTENCY_MS: i64 = 24 * 3_600_000;
/// Largest and default page.
pub const MAX_PAGE: u32 = 200;
pub const DEFAULT_PAGE: u32 = 50;

/// Who may get an account here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "mode")]
pub enum Registration {
    #[default]
    Open,
    /// A code from this list, each good for one account. Held as SHA-256 (hex), so that the configuration shows none.
    Invite {
        codes_sha256: Vec<String>,
    },
    Closed,
}

/// Who may look at the fleet as a whole: workers, loads, and what agents of all accounts wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operators {
    /// Everyone with an account, on a host of one's own.
    Anyone,
    Listed(Vec<Npub>),
}

impl Operators {
    pub fn includes(&self, npub: &Npub) -> bool {
        match self {
            Self::Anyone => true,
            Self::Listed(listed) => listed.contains(npub),
        }
    }
}

/// How long things are kept, in days. What is older goes within a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Events of agents. The hash of the last one that went stays, so that the chain still verifies.
    pub events_days: u32,
    /// The history of ticks, with their concluded payments and budget windows.
    pub ticks_days: u32,
    /// What was in an inbox: a repetition after that would be new.
    pub inbox_days: u32,
    /// What was published.
    pub publications_days: u32,
    /// Who changed what.
    pub audit_days: u32,
    /// Regular events of the inbox relay. Those that a later one replaces stay.
    pub relay_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { events_days: 30, ticks_days: 90, inbox_days: 30, publications_days: 7, audit_days: 400, relay_days: 400 }
    }
}

impl Retention {
    /// At most ten years; at least what others rely on.
    pub fn check(&self) -> Result<(), &'static str> {
        let within = |days: u32, least: u32| (least..=3_650).contains(&days);
        let rules = [
            (within(self.events_days, 1), "retention.events_days: use 1 to 3650"),
            (within(self.ticks_days, 8), "retention.ticks_days: use 8 to 3650; a runway looks back a week"),
            (within(self.inbox_days, 7), "retention.inbox_days: use 7 to 3650"),
            (within(self.publications_days, 1), "retention.publications_days: use 1 to 3650"),
            (within(self.audit_days, 30), "retention.audit_days: use 30 to 3650"),
            (within(self.relay_days, 7), "retention.relay_days: use 7 to 3650"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, why)| Err(*why))
    }
}

/// Token buckets: `per_minute` sustained, `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub per_minute: u32,
    pub burst: u32,
}

/// What hosting costs, and where it is paid to.
#[derive(Clone)]
pub struct Billing {
    pub rules: HostingRules,
    /// By name. [`ControlConfig::plan`] is among them, and stands for every plan that is not.
    pub plans: BTreeMap<String, Plan>,
    /// The operator's node: it makes invoices, and can't pay.
    pub node: Arc<dyn Receive>,
    /// The node's public key, as its invoices name it: owners pin it in policies that pay rent.
    pub identity: Option<String>,
}

/// Accounts at the operator's node, for agents whose policy chooses one. The money is in the operator's custody.
#[derive(Clone)]
pub struct Accounts {
    /// Makes and cancels invoices, and can't pay.
    pub node: Arc<dyn Hold>,
    /// Its public key, in hex: the books are kept by it.
    pub identity: String,
    /// What one agent may have, open invoices included, when another invoice is made.
    pub cap: Msat,
    /// And all together.
    pub total_cap: Msat,
    /// Hosting is paid to the same node.
    pub shared: bool,
}

/// The control plane's configuration.
#[derive(Clone)]
pub struct ControlConfig {
    /// Scheme, host and port under which callers know this host: what signed requests must name. Never taken from `Host`.
    pub public_origin: Url,
    /// The relay that hosted agents read, as callers reach it.
    pub relay_url: Option<String>,
    /// The signed pool documents, oldest first: each names the one before it.
    pub pool_documents: Vec<Event>,
    /// The plan of a new account. `local` in development.
    pub plan: String,
    pub registration: Registration,
    /// Agents in one account; none for no bound.
    pub max_agents_per_account: Option<u32>,
    pub rate_per_key: Rate,
    pub rate_per_address: Rate,
    /// Reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// Web origins that may open streams, beside the public one.
    pub allowed_origins: Vec<String>,
    /// Opens `/metrics` to others than loopback, as a bearer token.
    pub metrics_token: Option<Zeroizing<String>>,
    /// No other process can place agents on this database (a data directory's lock says so): the term is taken at once.
    pub sole_reconciler: bool,
    /// A worker whose beat stood still this long is dead.
    pub lease_ms: u64,
    /// Agents moved to a better place, in a second; 0 for none.
    pub moves_per_second: u32,
    /// A home must have lived this long before its agents return to it.
    pub home_settle_ms: u64,
    pub scale: ScaleRules,
    pub retention: Retention,
    /// How long an object that no row names is kept; longer than any tick.
    pub object_grace_ms: u64,
    pub operators: Operators,
    /// The wallets that a policy may name, by their backends' names: `cashu`, `nwc`, and `dev` for play money.
    pub wallets: BTreeSet<&'static str>,
    /// Whether webhooks may go to this machine and to private networks: on a host of one's own.
    pub private_egress: bool,
    /// Where the development network is: backups of agents whose wallet is on it name it.
    pub devnet_place: Option<String>,
    /// Closes what control itself keeps secret: the keys of hooks. Without it there are none.
    pub operator_key: Option<Arc<OperatorKey>>,
    /// What hosting costs. Without it every account is paid.
    pub billing: Option<Billing>,
    /// Accounts that agents may have at the operator's node. None: there are none.
    pub accounts: Option<Accounts>,
    /// Opens owners' own wallets, for hosting that renews itself. None: there is no such thing.
    pub owner_wallets: Option<Arc<dyn OwnerWallets>>,
    /// Whether something pays refunds of credit: a process that has a key to the node which can pay.
    pub refunds: bool,
    /// How long `POST …/invoices` waits for a worker; at most 10 s.
    pub invoice_wait_ms: u64,
    /// Event streams open at once, in all and for one account.
    pub max_streams: usize,
    pub max_streams_per_account: usize,
}

impl std::fmt::Debug for ControlConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlConfig")
            .field("public_origin", &self.public_origin.as_str())
            .field("registration", &self.registration)
            .finish_non_exhaustive()
    }
}

impl ControlConfig {
    /// Defaults for a host known under `public_origin`.
    pub fn new(public_origin: Url) -> Self {
        Self {
            public_origin,
            relay_url: None,
            pool_documents: Vec::new(),
            plan: "hosted".to_owned(),
            registration: Registration::Open,
            max_agents_per_account: None,
            rate_per_key: Rate { per_minute: 3_000, burst: 600 },
            rate_per_address: Rate { per_minute: 6_000, burst: 1_200 },
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
            metrics_token: None,
            sole_reconciler: false,
            lease_ms: 5_000,
            moves_per_second: 50,
            home_settle_ms: 15_000,
            scale: ScaleRules::default(),
            retention: Retention::default(),
            object_grace_ms: 3_600_000,
            operators: Operators::Listed(Vec::new()),
            wallets: BTreeSet::new(),
            private_egress: false,
            devnet_place: None,
            operator_key: None,
            billing: None,
            accounts: None,
            owner_wallets: None,
            refunds: false,
            invoice_wait_ms: 10_000,
            max_streams: 1_024,
            max_streams_per_account: 64,
        }
    }

    /// The public origin without a trailing slash, as signed requests and host claims name it.
    pub fn origin(&self) -> String {
        self.public_origin.origin().ascii_serialization()
    }

    /// What stands behind the `@` of agents' addresses.
    pub fn address_host(&self) -> String {
        address_host(&self.public_origin)
    }
}

/// Host and port of an origin, the port only where it is none of its scheme's.
pub fn address_host(origin: &Url) -> String {
    let host = origin.host_str().unwrap_or_default();
    origin.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

impl ControlConfig {
    /// Whether this can be served at all.
    pub fn validate(&self) -> Result<(), String> {
        if !matches!(self.public_origin.scheme(), "http" | "https") || self.public_origin.host_str().is_none() {
            return Err("public_origin must be an http or https URL".to_owned());
        }
        if self.public_origin.path() != "/" || self.public_origin.query().is_some() {
            return Err("public_origin has no path and no query".to_owned());
        }
        if !(2_000..=60_000).contains(&self.lease_ms) {
            return Err("lease_ms: use 2000 to 60000".to_owned());
        }
        self.retention.check()?;
        if self.invoice_wait_ms > 10_000 {
            return Err("invoice_wait_ms: at most 10000".to_owned());
        }
        if self.billing.as_ref().is_some_and(|billing| !billing.plans.contains_key(&self.plan)) {
            return Err(format!("hosting.plan: there is no plan {:?}", self.plan));
        }
        if self.billing.is_some() && self.operator_key.is_none() {
            return Err("hosting: the operator's key is needed to keep invoices".to_owned());
        }
        if self.accounts.is_none() && self.wallets.contains("lnd") {
            return Err("agent_wallets.lnd: set it, or no agent's wallet can be at the operator's node".to_owned());
        }
        if let Some(accounts) = &self.accounts {
            if self.operator_key.is_none() {
                return Err("agent_wallets: the operator's key is needed to keep invoices".to_owned());
            }
            if accounts.cap == Msat::ZERO || accounts.total_cap < accounts.cap {
                return Err("agent_wallets: cap_sats is at least 1, total_cap_sats at least cap_sats".to_owned());
            }
        }
        if self.pool_documents.iter().any(|event| nexus_seal::pool::verify_pool(event).is_err()) {
            return Err("a pool document is not signed by its root key".to_owned());
        }
        Ok(())
    }
}
