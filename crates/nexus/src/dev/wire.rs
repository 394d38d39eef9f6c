//! Each role of a host, made of its parts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use nexus_bus::LocalBus;
use nexus_control::{ControlConfig, ControlParts, Metrics, Rate};
use nexus_core::{Clock, Entropy};
use nexus_lightning::devnet::{AccountKey, Devnet};
use nexus_nostr::{PoolConfig, RelayPool};
use nexus_provider::{BackendConfig, ProviderParts};
use nexus_relay::{RelayConfig, RelayParts};
use nexus_seal::Signer;
use nexus_store::Store;
use nexus_worker::{DevWallets, Faults, WorkerParts};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::keys::Keys;
use super::seller;
use crate::config::{Config, Registration};

/// What the roles of one host share.
pub struct Host {
    pub store: Store,
    pub bus: Arc<LocalBus>,
    pub devnet: Devnet,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub keys: Keys,
    pub config: Config,
    pub data_dir: PathBuf,
    /// Under which callers know the API, and signed requests name it.
    pub origin: Url,
    /// Under which agents and their friends reach the inbox relay.
    pub relay_url: String,
    /// Ends every role.
    pub stop: CancellationToken,
}

/// Running roles, by name.
#[derive(Default)]
pub struct Roles {
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, &'static str>,
}

impl Roles {
    pub fn start(&mut self, name: &'static str, role: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let task = self.tasks.spawn(role);
        self.names.insert(task.id(), name);
    }

    /// Waits for a role to end although nobody told it to, and says which and why.
    pub async fn first_end(&mut self) -> anyhow::Error {
        match self.tasks.join_next_with_id().await {
            Some(ended) => match self.outcome(ended) {
                (name, Ok(())) => {
                    anyhow!("the {name} ended by itself\n  next: run it again with -v, and look at the log")
                }
                (name, Err(error)) => error.context(format!("the {name} failed")),
            },
            None => std::future::pending().await,
        }
    }

    /// Waits for all to end, after they were told to. What is not done by then is cut off: the database says where to
    /// go on.
    pub async fn finish(mut self, limit: Duration) -> anyhow::Result<()> {
        let mut first = Ok(());
        let all = async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                let (name, result) = self.outcome(ended);
                if let (Ok(()), Err(error)) = (&first, result) {
                    first = Err(error.context(format!("stopping the {name}")));
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("not every role ended in time; what was under way goes on at the next start");
        }
        first
    }

    fn outcome(&self, ended: Result<(Id, anyhow::Result<()>), JoinError>) -> (&'static str, anyhow::Result<()>) {
        let name = |id: Id| self.names.get(&id).copied().unwrap_or("role");
        match ended {
            Ok((id, result)) => (name(id), result),
            Err(error) => (name(error.id()), Err(anyhow!("it panicked"))),
        }
    }
}

/// The API, and the reconcilers that place agents.
pub fn control(host: &Host, listener: TcpListener) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let parts = ControlParts {
        store: host.store.clone(),
        bus: host.bus.clone(),
        clock: host.clock.clone(),
        entropy: host.entropy.clone(),
        config: control_config(host),
        metrics: Arc::new(Metrics::new(Registry::default())),
        stop: host.stop.clone(),
    };
    async move { nexus_control::serve(parts, listener).await.context("serving the API") }
}

fn control_config(host: &Host) -> ControlConfig {
    let api = &host.config.api;
    let rate = |per_minute: u32| Rate { per_minute, burst: per_minute.div_ceil(5) };
    ControlConfig {
        relay_url: Some(host.relay_url.clone()),
        pool_documents: host.keys.pool_chain.clone(),
        plan: "local".to_owned(),
        // The lock of the data directory is held.
        sole_reconciler: true,
        registration: match api.registration {
            Registration::Open => nexus_control::Registration::Open,
            Registration::Closed => nexus_control::Registration::Closed,
            Registration::Invite => {
                nexus_control::Registration::Invite { codes_sha256: api.invite_codes_sha256.clone() }
            }
        },
        max_agents_per_account: api.max_agents_per_account,
        rate_per_key: rate(api.rate_per_minute_per_key),
        rate_per_address: rate(api.rate_per_minute_per_address),
        trusted_proxies: api.trusted_proxies.clone(),
        allowed_origins: api.allowed_origins.clone(),
        lease_ms: host.config.worker.lease_ms,
        max_streams: api.max_streams,
        max_streams_per_account: api.max_streams_per_account,
        ..ControlConfig::new(host.origin.clone())
    }
}

/// The inbox relay. On loopback it takes everything; elsewhere only what concerns those who live here.
pub fn relay(host: &Host, listener: TcpListener) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let base = if host.config.relay.bind.is_loopback() { RelayConfig::development() } else { RelayConfig::default() };
    let parts = RelayParts {
        store: host.store.clone(),
        bus: host.bus.clone(),
        clock: host.clock.clone(),
        entropy: host.entropy.clone(),
        config: RelayConfig {
            public_urls: vec![host.relay_url.clone()],
            providers: vec![host.keys.provider.public_key()],
            ..base
        },
        listener,
        shutdown: host.stop.clone(),
    };
    async move { nexus_relay::serve(parts).await.context("serving the inbox relay") }
}

/// A pool of relay connections of its own, which may reach this machine.
fn relay_pool(host: &Host) -> RelayPool {
    let config = PoolConfig { own_relays: vec![host.relay_url.clone()], development: true, ..PoolConfig::default() };
    RelayPool::new(config, host.clock.clone(), host.entropy.clone())
}

/// The worker that hosts the agents.
pub fn worker(host: &Host) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let relays = relay_pool(host);
    let parts = WorkerParts {
        id: host.keys.worker,
        store: host.store.clone(),
        bus: host.bus.clone(),
        clock: host.clock.clone(),
        entropy: host.entropy.clone(),
        relays: Arc::new(relays.clone()),
        wallets: Arc::new(DevWallets(host.devnet.clone())),
        pool: host.keys.identity.clone(),
        config: host.config.worker.to_worker(&host.config.lifecycle, &host.relay_url),
        faults: Faults::from_environment(),
    };
    let stop = host.stop.clone();
    async move {
        let ended = nexus_worker::run(parts, stop).await;
        relays.shutdown().await;
        ended.context("running the worker")
    }
}

/// The provider that sells thinking to the agents here.
pub fn provider(host: &Host, backend: &BackendConfig) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let relays = vec![host.relay_url.clone()];
    let config = seller::config(&host.config.provider, backend.clone(), relays, host.data_dir.join("provider"));
    let pool = relay_pool(host);
    let wallet = AccountKey::from_secret(host.keys.provider_wallet).map(|key| host.devnet.wallet(key));
    let signer: Arc<dyn Signer> = host.keys.provider.clone();
    let (clock, entropy, shutdown) = (host.clock.clone(), host.entropy.clone(), host.stop.clone());
    async move {
        let wallet = Arc::new(wallet.context("reading the provider's wallet key")?);
        let backend = nexus_provider::backend(&config)?;
        let parts = ProviderParts { signer, pool: pool.clone(), wallet, backend, config, clock, entropy, shutdown };
        let ended = nexus_provider::run(parts).await;
        pool.shutdown().await;
        ended.context("running the provider")
    }
}
