//! The whole configuration of a host, in one tree: file, then environment, then flags. Checked at boot.

mod fleet;
mod hosting;
mod layer;
mod show;
mod telemetry;
mod wallets;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use nexus_control::Retention;
use nexus_core::lifecycle::LifecycleRules;
use nexus_core::{Msat, Npub};
use nexus_provider::{Encryption, Payment};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::cli::LogForm;

pub use fleet::{
    BusConfig, BusKind, DatabaseConfig, DatabaseKind, HealthConfig, OperatorConfig, PlacementConfig, PoolFiles,
    ScalerConfig,
};
pub use hosting::{HostingConfig, LndNode, PayoutsConfig};
pub use layer::{ConfigError, Loaded, Overrides, environment};
pub use telemetry::{AgentAttribute, TelemetryConfig};
pub use wallets::{AgentWalletsConfig, SparkWallets, WalletsConfig, network_named};

/// Everything that an operator may set. Every key has a default; an unknown one is refused by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where this host keeps its database and keys; the platform's data directory when unset.
    pub data_dir: Option<PathBuf>,
    /// Directory or URL of the development network; beside the data directory when unset.
    pub devnet: Option<String>,
    /// Lets roles that run alone do what only development may: play money, and relays and endpoints on private addresses.
    pub allow_development: bool,
    pub log: LogConfig,
    pub telemetry: TelemetryConfig,
    pub database: DatabaseConfig,
    /// Where blobs go that are too large for the database.
    pub objects: nexus_store::ObjectConfig,
    pub bus: BusConfig,
    pub pool: PoolFiles,
    pub operator: OperatorConfig,
    pub api: ApiConfig,
    pub relay: RelayConfig,
    pub health: HealthConfig,
    pub worker: WorkerConfig,
    pub placement: PlacementConfig,
    pub retention: Retention,
    pub scaler: ScalerConfig,
    pub provider: SellerConfig,
    /// What hosting costs.
    pub hosting: HostingConfig,
    /// Refunds of hosting credit, where a worker pays them.
    pub payouts: Option<PayoutsConfig>,
    /// Which wallets agents may have.
    pub wallets: WalletsConfig,
    /// Accounts of agents at the operator's node, as control planes keep them.
    pub agent_wallets: AgentWalletsConfig,
    /// When funds make an agent active, low, hibernating, dormant.
    pub lifecycle: LifecycleRules,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    pub form: LogForm,
    /// error, warn, info, debug or trace; for our own code, others speak at info at most.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { form: LogForm::Text, level: "warn".to_owned() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    pub bind: IpAddr,
    pub port: u16,
    /// Origin under which callers know this host; what signed requests must name. From `bind` and `port` when unset.
    pub public_origin: Option<Url>,
    /// open, invite or closed.
    pub registration: Registration,
    /// SHA-256 (hex) of each invitation code, for registration by invitation.
    pub invite_codes_sha256: Vec<String>,
    pub max_agents_per_account: Option<u32>,
    pub rate_per_minute_per_key: u32,
    pub rate_per_minute_per_address: u32,
    pub trusted_proxies: Vec<IpAddr>,
    pub allowed_origins: Vec<String>,
    /// File whose first line opens `/metrics` to others than this machine, as a bearer token; without it nothing does.
    pub metrics_token_file: Option<PathBuf>,
    pub max_streams: usize,
    pub max_streams_per_account: usize,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 7777,
            public_origin: None,
            registration: Registration::Open,
            invite_codes_sha256: Vec::new(),
            max_agents_per_account: None,
            rate_per_minute_per_key: 3_000,
            rate_per_minute_per_address: 6_000,
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
            metrics_token_file: None,
            max_streams: 1_024,
            max_streams_per_account: 64,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    Open,
    Invite,
    Closed,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    pub bind: IpAddr,
    pub port: u16,
    /// How others reach the inbox relay, as it stands in the agents' relay lists. From `bind` and `port` when unset.
    pub public_url: Option<String>,
    /// Providers (npubs) whose offers and answers are taken from anywhere, where the relay is not on loopback.
    pub providers: Vec<Npub>,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self { bind: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 7778, public_url: None, providers: Vec::new() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    pub region: String,
    pub pool: String,
    /// File that keeps this worker's id, made if missing: after a crash it is its own heir. Without one each start is a
    /// new worker.
    pub id_file: Option<PathBuf>,
    /// Agents that this worker hosts at most.
    pub capacity: u32,
    /// Ticks that run at the same time.
    pub turns: usize,
    /// A worker whose beat stood still this long is dead; its agents go elsewhere.
    pub lease_ms: u64,
    pub beat_ms: u64,
    /// A tick that has bought nothing by then is given up.
    pub tick_timeout_ms: u64,
    /// From payment to result.
    pub job_timeout_ms: u64,
    /// From request to a provider's first sign.
    pub offer_timeout_ms: u64,
    pub publish_timeout_ms: u64,
    /// How often work is looked for that no message announced.
    pub sweep_ms: u64,
    /// How often providers are looked up.
    pub market_ms: u64,
    /// How long a worker that was told to stop has to end its ticks and hand its agents over. 0: it keeps its agents, for
    /// a host of one worker.
    pub drain_ms: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        let worker = nexus_worker::WorkerConfig::default();
        Self {
            region: worker.region,
            pool: worker.pool,
            id_file: None,
            capacity: worker.capacity,
            turns: worker.turns,
            lease_ms: worker.lease_ms,
            beat_ms: worker.beat_ms,
            tick_timeout_ms: worker.tick_timeout_ms,
            job_timeout_ms: worker.job_timeout_ms,
            offer_timeout_ms: worker.offer_timeout_ms,
            publish_timeout_ms: worker.publish_timeout_ms,
            sweep_ms: worker.sweep_ms,
            market_ms: worker.market_ms,
            drain_ms: 20_000,
        }
    }
}

impl WorkerConfig {
    /// The worker's own settings, with what it shares with other roles.
    pub fn to_worker(&self, lifecycle: &LifecycleRules, own_relay: &str) -> nexus_worker::WorkerConfig {
        nexus_worker::WorkerConfig {
            region: self.region.clone(),
            pool: self.pool.clone(),
            capacity: self.capacity,
            lease_ms: self.lease_ms,
            beat_ms: self.beat_ms,
            turns: self.turns,
            tick_timeout_ms: self.tick_timeout_ms,
            job_timeout_ms: self.job_timeout_ms,
            offer_timeout_ms: self.offer_timeout_ms,
            publish_timeout_ms: self.publish_timeout_ms,
            sweep_ms: self.sweep_ms,
            own_relay: own_relay.to_owned(),
            address_host: None,
            market_ms: self.market_ms,
            drain_ms: self.drain_ms,
            lifecycle: lifecycle.clone(),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SellerConfig {
    /// Whether `nexus dev` runs a provider of its own.
    pub enabled: bool,
    pub name: String,
    /// OpenAI-compatible endpoint, the part before `/chat/completions`.
    pub llm_url: Option<Url>,
    pub llm_model: Option<String>,
    /// File with the endpoint's bearer token alone.
    pub llm_api_key_file: Option<PathBuf>,
    /// Use an Ollama on this machine when there is one and no endpoint is set.
    pub detect_ollama: bool,
    pub price_msat: Msat,
    /// What the price is for: `request`, or `1k_tokens` of prompt and answer together.
    pub price_per: PricePer,
    /// `before` the work, or `after` it (the result carries the invoice).
    pub payment: Payment,
    /// Whether invoices before the work are hold invoices: money is taken with the result, and given back without one.
    pub hold: bool,
    /// `required`, `accepted` or `unsupported`: whether requests come encrypted to the provider.
    pub encryption: Encryption,
    /// The node that it is paid at; without one an account on the development network.
    pub lnd: Option<LndNode>,
}

/// What a price is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PricePer {
    #[serde(rename = "request")]
    Request,
    #[serde(rename = "1k_tokens")]
    ThousandTokens,
}

impl Default for SellerConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            name: "Nexus provider".to_owned(),
            llm_url: None,
            llm_model: None,
            llm_api_key_file: None,
            detect_ollama: true,
            price_msat: Msat::sats(10),
            price_per: PricePer::Request,
            payment: Payment::Before,
            hold: true,
            encryption: Encryption::Accepted,
            lnd: None,
        }
    }
}

impl Config {
    /// Refuses what would fail later, with the key's name.
    fn check(&self) -> Result<(), String> {
        let rules = [
            (crate::log::level(&self.log.level, 0).is_some(), "log.level: use error, warn, info, debug or trace"),
            ((2_000..=60_000).contains(&self.worker.lease_ms), "worker.lease_ms: use 2000 to 60000"),
            (self.worker.beat_ms >= 50, "worker.beat_ms: use 50 or more"),
            (
                self.worker.beat_ms.saturating_mul(3) <= self.worker.lease_ms,
                "worker.beat_ms: at most a third of worker.lease_ms",
            ),
            ((1..=1_000_000).contains(&self.worker.capacity), "worker.capacity: use 1 to 1000000"),
            ((1..=100_000).contains(&self.worker.turns), "worker.turns: use 1 to 100000"),
            (self.worker.tick_timeout_ms >= 1_000, "worker.tick_timeout_ms: use 1000 or more"),
            (
                self.worker.job_timeout_ms <= self.worker.tick_timeout_ms,
                "worker.job_timeout_ms: at most worker.tick_timeout_ms",
            ),
            (self.api.rate_per_minute_per_key > 0, "api.rate_per_minute_per_key: use 1 or more"),
            (self.api.rate_per_minute_per_address > 0, "api.rate_per_minute_per_address: use 1 or more"),
            (
                self.api.registration != Registration::Invite || !self.api.invite_codes_sha256.is_empty(),
                "api.invite_codes_sha256: registration by invitation needs at least one code",
            ),
            (
                self.api.public_origin.as_ref().is_none_or(|url| url.path() == "/" && url.query().is_none()),
                "api.public_origin: scheme, host and port only, like https://nexus.example",
            ),
            (
                self.relay.public_url.as_ref().is_none_or(|url| url.starts_with("ws://") || url.starts_with("wss://")),
                "relay.public_url: a ws:// or wss:// URL",
            ),
            (self.api.port == 0 || self.api.port != self.relay.port, "relay.port: must differ from api.port"),
            (
                self.provider.llm_url.is_none() || self.provider.llm_model.is_some(),
                "provider.llm_model: say which model to ask the endpoint for (--llm-model)",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, why)) => Err((*why).to_owned()),
            None => {
                self.telemetry.check()?;
                self.retention.check()?;
                self.hosting.check()?;
                self.wallets.check()?;
                self.payouts.as_ref().map_or(Ok(()), |payouts| payouts.lnd.check("payouts.lnd"))?;
                self.agent_wallets.check()?;
                self.provider.lnd.as_ref().map_or(Ok(()), |node| node.check("provider.lnd"))?;
                self.check_fleet()
            }
        }
    }
}
