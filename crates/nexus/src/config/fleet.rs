//! What roles need that run alone: where the database and the bus are, and which keys this role may hold.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use nexus_bus::NatsConfig;
use nexus_core::Npub;
use nexus_core::agent::is_place;
use nexus_core::placement::ScaleRules;
use nexus_store::PostgresConfig;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Config;

/// Where everything is stored.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    pub kind: DatabaseKind,
    /// The SQLite file; `nexus.db` in the data directory when unset. One process at a time.
    pub sqlite_file: Option<PathBuf>,
    pub postgres: PostgresConfig,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatabaseKind {
    #[default]
    Sqlite,
    Postgres,
}

/// How the processes of a fleet wake each other.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    pub kind: BusKind,
    pub nats: NatsConfig,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusKind {
    /// Wakes this process alone; others look on a timer.
    #[default]
    InProcess,
    Nats,
}

/// The pool's keys: documents are public, identities open agents. `nexus pool create` makes both.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolFiles {
    /// JSON array of the signed pool documents, oldest first: for control planes.
    pub document_file: Option<PathBuf>,
    /// The pool's age identity: for workers. A control plane that finds it configured does not start.
    pub identity_file: Option<PathBuf>,
}

/// The operator of this installation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OperatorConfig {
    /// The key that the operator's own secrets are sealed under: for control planes.
    pub key_file: Option<PathBuf>,
    /// Who may look at the fleet as a whole.
    pub npubs: Vec<Npub>,
}

/// `/healthz`, `/readyz` and `/metrics` of roles that have no API. The answers hold no secret, but are not for strangers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    pub bind: IpAddr,
    /// 0 takes any free one.
    pub port: u16,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { bind: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 0 }
    }
}

/// How agents are spread over workers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlacementConfig {
    /// Agents that are moved for a better place, in a second, by all of the fleet. 0: none ever.
    pub moves_per_second: u32,
    /// A home must have lived this long before its agents return to it.
    pub home_settle_ms: u64,
    pub scale: ScaleRules,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self { moves_per_second: 50, home_settle_ms: 15_000, scale: ScaleRules::default() }
    }
}

/// Of `nexus scaler`, which runs workers of `worker.region` and `worker.pool` on its machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScalerConfig {
    /// Origin of the control plane that is asked how many there should be.
    pub api: Option<Url>,
    /// A file with an operator's token, scope `read`.
    pub token_file: Option<PathBuf>,
    /// Workers of this scaler, at least and at most, beside those that others run.
    pub min_workers: u32,
    pub max_workers: u32,
    /// How often it looks.
    pub period_ms: u64,
    /// How long fewer have to be enough before one is drained.
    pub settle_ms: u64,
}

impl Default for ScalerConfig {
    fn default() -> Self {
        Self { api: None, token_file: None, min_workers: 1, max_workers: 4, period_ms: 2_000, settle_ms: 60_000 }
    }
}

impl Config {
    pub(super) fn check_fleet(&self) -> Result<(), String> {
        let scale = &self.placement.scale;
        let rules = [
            (
                self.worker.drain_ms == 0 || (1_000..=600_000).contains(&self.worker.drain_ms),
                "worker.drain_ms: use 0, or 1000 to 600000",
            ),
            (self.placement.moves_per_second <= 10_000, "placement.moves_per_second: at most 10000"),
            (self.placement.home_settle_ms <= 3_600_000, "placement.home_settle_ms: at most 3600000"),
            ((1..=100).contains(&scale.fill_percent), "placement.scale.fill_percent: use 1 to 100"),
            (scale.min_workers <= 1_000, "placement.scale.min_workers: at most 1000"),
            (
                self.scaler.min_workers <= self.scaler.max_workers && self.scaler.max_workers <= 1_000,
                "scaler.max_workers: at least scaler.min_workers, at most 1000",
            ),
            ((500..=600_000).contains(&self.scaler.period_ms), "scaler.period_ms: use 500 to 600000"),
            ((1_000..=86_400_000).contains(&self.scaler.settle_ms), "scaler.settle_ms: use 1000 to 86400000"),
            (scale.default_capacity > 0, "placement.scale.default_capacity: use 1 or more"),
        ];
        if let Some((_, why)) = rules.iter().find(|(holds, _)| !holds) {
            return Err((*why).to_owned());
        }
        for (name, key) in [(&self.worker.region, "worker.region"), (&self.worker.pool, "worker.pool")] {
            if !is_place(name) {
                return Err(format!("{key}: use 1 to 63 of a-z, 0-9, '-' and '_'"));
            }
        }
        if self.database.kind == DatabaseKind::Postgres {
            let postgres = &self.database.postgres;
            postgres.check().map_err(|error| format!("database.postgres: {error}"))?;
            postgres.check_lease(self.worker.lease_ms).map_err(|error| format!("database.postgres: {error}"))?;
        }
        self.objects.check().map_err(|error| format!("objects: {error}"))?;
        self.objects.check_tick(self.worker.tick_timeout_ms).map_err(|error| format!("objects: {error}"))?;
        if self.bus.kind == BusKind::Nats {
            self.bus.nats.validate().map_err(|error| format!("bus.nats: {error}"))?;
        }
        Ok(())
    }
}
