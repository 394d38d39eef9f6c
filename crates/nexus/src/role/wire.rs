//! Each role, made of its parts: the same in one process and in many.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use nexus_control::{Accounts, Billing, ControlConfig, ControlParts, Metrics, Operators, OwnerWallets, Rate};
use nexus_core::{Npub, WorkerId};
use nexus_egress::Egress;
use nexus_lightning::devnet::{AccountKey, Devnet};
use nexus_lightning::{Hold, Network, Pay};
use nexus_nostr::{PoolConfig, RelayPool};
use nexus_provider::{BackendConfig, ProviderParts};
use nexus_relay::{RelayConfig, RelayParts};
use nexus_seal::Signer;
use nexus_seal::operator::OperatorKey;
use nexus_vault::{LocalSigner, PoolIdentity};
use nexus_worker::payout::Payer;
use nexus_worker::{Extras, Faults, Traces, Vitals, Web, WorkerParts};
use nostr::event::Event;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::{Id, JoinError, JoinSet};
use url::Url;
use zeroize::Zeroizing;

use super::base::Base;
use super::owner_wallets::NwcWallets;
use super::wallets::{AgentWallets, Means};
use crate::config::Registration;
use crate::dev::seller;
use crate::telemetry;

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

/// What the control plane is, beside its configuration.
pub struct Front {
    /// Under which callers know the API, and signed requests name it.
    pub origin: Url,
    /// Under which agents and their friends reach the inbox relay.
    pub relay_url: String,
    /// Signed pool documents, oldest first.
    pub pool_documents: Vec<Event>,
    /// The plan of a new account.
    pub plan: String,
    /// What is charged for hosting; none for nothing.
    pub billing: Option<Billing>,
    /// Accounts of agents at the operator's node; none for none.
    pub accounts: Option<Accounts>,
    /// Whether something pays refunds of credit.
    pub refunds: bool,
    /// No other process can place agents on this database.
    pub sole: bool,
    pub operators: Operators,
    /// Whether this host may do what only development may: play money, webhooks to private addresses.
    pub development: bool,
    /// Opens `/metrics` to others than this machine.
    pub metrics_token: Option<Zeroizing<String>>,
    /// Closes the keys of hooks.
    pub operator_key: OperatorKey,
    /// Where the development network is, if wallets may be on one.
    pub devnet_place: Option<String>,
}

/// The API, and the reconcilers that place agents. `registry` holds figures of other roles of this process.
pub fn control(
    base: &Base,
    front: Front,
    registry: Registry,
    listener: TcpListener,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let wallets = front.billing.is_some().then(|| {
        let wallets = NwcWallets::new(base, &front.relay_url, front.development);
        Arc::new(wallets)
    });
    let owner_wallets = wallets.clone().map(|wallets| wallets as Arc<dyn OwnerWallets>);
    let parts = ControlParts {
        store: base.store.clone(),
        bus: base.bus.clone(),
        clock: base.clock.clone(),
        entropy: base.entropy.clone(),
        config: ControlConfig { owner_wallets, ..control_config(base, front) },
        metrics: Arc::new(Metrics::new(registry)),
        stop: base.stop.clone(),
    };
    async move {
        let ended = nexus_control::serve(parts, listener).await;
        if let Some(wallets) = wallets {
            wallets.shutdown().await;
        }
        ended.context("serving the API")
    }
}

fn control_config(base: &Base, front: Front) -> ControlConfig {
    let (api, placement) = (&base.config.api, &base.config.placement);
    let rate = |per_minute: u32| Rate { per_minute, burst: per_minute.div_ceil(5) };
    ControlConfig {
        relay_url: Some(front.relay_url),
        pool_documents: front.pool_documents,
        plan: front.plan,
        billing: front.billing,
        accounts: front.accounts,
        refunds: front.refunds,
        sole_reconciler: front.sole,
        operators: front.operators,
        wallets: super::wallets::offered(&base.config, front.development),
        private_egress: front.development,
        metrics_token: front.metrics_token,
        devnet_place: front.devnet_place,
        operator_key: Some(Arc::new(front.operator_key)),
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
        lease_ms: base.config.worker.lease_ms,
        moves_per_second: placement.moves_per_second,
        home_settle_ms: placement.home_settle_ms,
        scale: placement.scale,
        retention: base.config.retention.clone(),
        object_grace_ms: base.config.objects.grace_ms,
        max_streams: api.max_streams,
        max_streams_per_account: api.max_streams_per_account,
        ..ControlConfig::new(front.origin)
    }
}

/// The inbox relay. On loopback it takes everything; elsewhere only what concerns those who live here, and offers and
/// answers of `providers`.
pub fn relay(
    base: &Base,
    relay_url: String,
    providers: Vec<Npub>,
    development: bool,
    listener: TcpListener,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let defaults =
        if base.config.relay.bind.is_loopback() { RelayConfig::development() } else { RelayConfig::default() };
    let outside = Some(relay_pool(base, &relay_url, development));
    let parts = RelayParts {
        outside,
        store: base.store.clone(),
        bus: base.bus.clone(),
        clock: base.clock.clone(),
        entropy: base.entropy.clone(),
        config: RelayConfig { public_urls: vec![relay_url], providers, ..defaults },
        listener,
        shutdown: base.stop.clone(),
    };
    async move { nexus_relay::serve(parts).await.context("serving the inbox relay") }
}

/// A pool of relay connections of its own. In development it may reach this machine and private networks.
pub fn relay_pool(base: &Base, relay_url: &str, development: bool) -> RelayPool {
    let config = PoolConfig { own_relays: vec![relay_url.to_owned()], development, ..PoolConfig::default() };
    RelayPool::new(config, base.clock.clone(), base.entropy.clone())
}

/// What a worker is, beside its configuration.
pub struct Hosting {
    pub id: WorkerId,
    pub identity: Arc<PoolIdentity>,
    /// Where play money is, if agents may have some.
    pub devnet: Option<Devnet>,
    pub relay_url: String,
    /// Where the API is, if it is known: agents publish addresses there.
    pub origin: Option<Url>,
    pub development: bool,
    /// Ticks are ended and agents handed over within this time; 0 keeps them.
    pub drain_ms: u64,
    pub extras: Extras,
}

/// The worker that hosts agents.
pub fn worker(base: &Base, hosting: Hosting) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let relays = relay_pool(base, &hosting.relay_url, hosting.development);
    let config = base.config.worker.to_worker(&base.config.lifecycle, &hosting.relay_url);
    let address_host = hosting.origin.as_ref().map(nexus_control::address_host);
    let means = Means {
        development: hosting.development,
        devnet: hosting.devnet.as_ref(),
        relays: Arc::new(relays.clone()),
        clock: base.clock.clone(),
        entropy: base.entropy.clone(),
    };
    let wallets = AgentWallets::new(&base.config, means);
    let (store, bus) = (base.store.clone(), base.bus.clone());
    let (clock, entropy) = (base.clock.clone(), base.entropy.clone());
    let web = Some(Arc::new(Egress::new(hosting.development)) as Arc<dyn Web>);
    let (extras, stop) = (Extras { web, ..hosting.extras }, base.stop.clone());
    async move {
        let parts = WorkerParts {
            id: hosting.id,
            store,
            bus,
            clock,
            entropy,
            relays: Arc::new(relays.clone()),
            wallets: Arc::new(wallets?),
            pool: hosting.identity,
            config: nexus_worker::WorkerConfig { drain_ms: hosting.drain_ms, address_host, ..config },
            faults: Faults::from_environment(),
        };
        let ended = nexus_worker::run_with(parts, extras, stop).await;
        relays.shutdown().await;
        ended.context("running the worker")
    }
}

/// Pays refunds of hosting credit out of the operator's node, as control has signed them.
pub fn payouts(
    base: &Base,
    node: Arc<dyn Pay>,
    network: Network,
    signer: Npub,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let payer = Payer {
        store: base.store.clone(),
        clock: base.clock.clone(),
        node,
        network,
        signer,
        id: WorkerId::new(base.clock.now(), nexus_core::time::random(&*base.entropy)),
        faults: Faults::from_environment(),
        sent: std::sync::Mutex::default(),
    };
    let stop = base.stop.clone();
    async move {
        payer.run(stop).await;
        Ok(())
    }
}

/// Where traces of this worker's ticks go, and what sends them, if the configuration asks for them.
pub fn traces(
    base: &Base,
    id: WorkerId,
    registry: &mut Registry,
) -> anyhow::Result<(Option<Arc<dyn Traces>>, Sending)> {
    let worker = &base.config.worker;
    let about = vec![
        ("service.instance.id", id.to_string()),
        ("nexus.region", worker.region.clone()),
        ("nexus.pool", worker.pool.clone()),
    ];
    match telemetry::open(&base.config.telemetry, about, registry, base.entropy.clone(), base.stop.clone())? {
        None => Ok((None, None)),
        Some((traces, exporter)) => {
            let run = async move {
                exporter.run().await;
                Ok(())
            };
            Ok((Some(traces), Some(Box::pin(run))))
        }
    }
}

/// A role of its own: ends when the worker has.
pub type Sending = Option<Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>>;

/// A worker's figures, registered for Prometheus.
pub fn vitals(registry: &mut Registry) -> Arc<Vitals> {
    Arc::new(Vitals::new(registry))
}

/// The provider that sells thinking to the agents here, and keeps its jobs under `dir`.
pub fn provider(
    base: &Base,
    shop: Shop<'_>,
    backend: &BackendConfig,
    dir: &Path,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let relays = vec![shop.relay_url.to_owned()];
    let config = seller::config(&base.config.provider, backend.clone(), relays, dir.to_owned());
    let pool = relay_pool(base, shop.relay_url, true);
    let (devnet, secret) = (shop.devnet.clone(), shop.wallet);
    let wallet = seller::till(&base.config.provider, base.clock.clone(), move || {
        let key = AccountKey::from_secret(secret).context("reading the provider's wallet key")?;
        Ok(Arc::new(devnet.wallet(key)))
    });
    let signer: Arc<dyn Signer> = shop.signer;
    let (clock, entropy, shutdown) = (base.clock.clone(), base.entropy.clone(), base.stop.clone());
    async move {
        let wallet = wallet?;
        let backend = nexus_provider::backend(&config)?;
        let hold: Option<Arc<dyn Hold>> = Some(wallet.clone());
        let parts =
            ProviderParts { signer, pool: pool.clone(), wallet, hold, backend, config, clock, entropy, shutdown };
        let ended = nexus_provider::run(parts).await;
        pool.shutdown().await;
        ended.context("running the provider")
    }
}

/// Where a host's own provider sells and is paid.
pub struct Shop<'a> {
    pub relay_url: &'a str,
    pub devnet: &'a Devnet,
    pub signer: Arc<LocalSigner>,
    pub wallet: [u8; 32],
}
