//! `nexus dev`: a whole host in one process, on embedded parts.

pub mod address;
mod context;
pub mod data_dir;
pub mod keys;
mod ready;
pub mod seller;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nexus_core::time::random;
use nexus_core::{Clock, Entropy};
use nexus_lightning::{Network, devnet};
use nexus_seal::Signer;
use nexus_seal::payout::PayoutKey;
use nexus_store::{Store, installation};
use nexus_worker::Extras;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use url::Url;

use crate::ambient::{SystemClock, SystemEntropy};
use crate::cli::{DevArgs, Global};
use crate::config::{Config, Loaded};
use crate::output::Output;
use crate::role;
use address::Addresses;
use data_dir::DataDir;
use keys::Keys;
use role::base::Base;
use role::wire::{self, Front, Hosting, Roles, Shop};
use role::{listen, stop};

/// How long the roles have to park what they are at, once told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A whole host: what its roles share, and what in production is on different machines.
pub struct Host {
    pub base: Base,
    pub devnet: devnet::Devnet,
    pub keys: Keys,
    pub data_dir: PathBuf,
    /// Under which callers know the API, and signed requests name it.
    pub origin: Url,
    /// Under which agents and their friends reach the inbox relay.
    pub relay_url: String,
}

pub async fn run(args: DevArgs, loaded: Loaded, _: &Global, output: Output) -> anyhow::Result<()> {
    let config = loaded.config;
    let dir = DataDir::open(&role::data_dir(&config)?)?;
    Addresses::remove(dir.path());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let keys = Keys::open(&dir.keys(), &*clock, &entropy).await?;
    let (api, api_at) = listen::bind("API", "--api-port", config.api.bind, config.api.port).await?;
    let (relay, relay_at) = listen::bind("inbox relay", "--relay-port", config.relay.bind, config.relay.port).await?;
    let store = role::base::with_objects(open_store(&dir, &*clock, &*entropy).await?, &config)?;
    let host = Host {
        devnet: open_devnet(&config).await?,
        origin: role::origin(&config, listen::reachable(api_at))?,
        relay_url: role::relay_url_at(&config, listen::reachable(relay_at)),
        data_dir: dir.path().to_owned(),
        keys,
        base: Base::embedded(store, clock, entropy, config),
    };
    let backend = seller::backend(&host.base.config.provider).await;
    let mut roles = start(&host, &backend, api, relay)?;
    let ended = serve(&host, &mut roles, args.write_context.as_deref(), &backend, output).await;
    Addresses::remove(&host.data_dir);
    host.base.stop.cancel();
    let parked = roles.finish(STOP_TIMEOUT).await;
    host.devnet.shutdown().await;
    ended.and(parked)
}

fn start(
    host: &Host,
    backend: &nexus_provider::BackendConfig,
    api: TcpListener,
    relay: TcpListener,
) -> anyhow::Result<Roles> {
    let (base, mut registry) = (&host.base, Registry::default());
    let vitals = wire::vitals(&mut registry);
    let (traces, exporter) = wire::traces(base, host.keys.worker, &mut registry)?;
    let front = Front {
        origin: host.origin.clone(),
        relay_url: host.relay_url.clone(),
        pool_documents: host.keys.pool_chain.clone(),
        plan: if host.base.config.hosting.charge { host.base.config.hosting.plan.clone() } else { "local".to_owned() },
        billing: host
            .base
            .config
            .hosting
            .billing(Some(role::till(&host.devnet, &host.keys.operator_key()?)), host.base.clock.clone())?,
        accounts: host.base.config.agent_wallets.accounts(&host.base.config.hosting, host.base.clock.clone())?,
        refunds: pays_refunds(&host.base.config),
        // The lock of the data directory is held.
        sole: true,
        operators: nexus_control::Operators::Anyone,
        development: true,
        metrics_token: role::metrics_token(&host.base.config)?,
        devnet_place: Some(context::place(&host.base.config)?),
        operator_key: host.keys.operator_key()?,
    };
    let hosting = Hosting {
        id: host.keys.worker,
        identity: host.keys.identity.clone(),
        devnet: Some(host.devnet.clone()),
        relay_url: host.relay_url.clone(),
        origin: Some(host.origin.clone()),
        development: true,
        // There is nobody to hand over to.
        drain_ms: 0,
        extras: Extras { vitals, traces, ..Extras::default() },
    };
    let providers = vec![host.keys.provider.public_key()];
    let mut roles = Roles::default();
    if let Some(exporter) = exporter {
        roles.start("trace exporter", exporter);
    }
    roles.start("control", wire::control(base, front, registry, api));
    roles.start("relay", wire::relay(base, host.relay_url.clone(), providers, true, relay));
    roles.start("worker", wire::worker(base, hosting));
    if pays_refunds(&base.config) {
        let key = host.keys.operator_key()?;
        let till = Arc::new(role::till_wallet(&host.devnet, &key));
        let signer = PayoutKey::of(&key)?.public();
        roles.start("refunds", wire::payouts(base, till, Network::Regtest, signer));
    }
    if base.config.provider.enabled {
        let shop = Shop {
            relay_url: &host.relay_url,
            devnet: &host.devnet,
            signer: host.keys.provider.clone(),
            wallet: host.keys.provider_wallet,
        };
        roles.start("provider", wire::provider(base, shop, backend, &host.data_dir.join("provider")));
    }
    Ok(roles)
}

/// On the development network the operator's account is here, and can pay.
const fn pays_refunds(config: &Config) -> bool {
    config.hosting.charge && config.hosting.lnd.is_none()
}

/// Says that the host is ready, then waits: for being told to stop, or for a role that ends by itself.
async fn serve(
    host: &Host,
    roles: &mut Roles,
    context: Option<&str>,
    backend: &nexus_provider::BackendConfig,
    output: Output,
) -> anyhow::Result<()> {
    let announced = async {
        ready::wait(host).await?;
        let context = context::write(host, context)?;
        addresses(host).write(&host.data_dir)?;
        ready::announce(host, &context, backend, output);
        std::future::pending().await
    };
    tokio::select! {
        failed = announced => failed,
        failed = roles.first_end() => Err(failed),
        () = stop::requested() => {
            if !output.json {
                output.line("\nStopping: running ticks are parked and go on at the next start. Ctrl-C again cuts them off.");
            }
            tokio::spawn(stop::at_once_when_asked_again());
            Ok(())
        }
    }
}

fn addresses(host: &Host) -> Addresses {
    Addresses {
        api: host.origin.clone(),
        relay: host.relay_url.clone(),
        devnet: host.devnet.url(),
        process: std::process::id(),
    }
}

async fn open_store(dir: &DataDir, clock: &dyn Clock, entropy: &dyn Entropy) -> anyhow::Result<Store> {
    let path = dir.database();
    let opening = path.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&opening)).await?.with_context(|| {
        format!("opening the database\n  next: `nexus doctor --data-dir {}` says more", dir.path().display())
    })?;
    nexus_client::file::keep_private(&path)?;
    installation::ensure(&store, random(entropy), clock.now()).await.context("naming this installation")?;
    Ok(store)
}

async fn open_devnet(config: &Config) -> anyhow::Result<devnet::Devnet> {
    let place = role::devnet_place(config)?;
    devnet::open(place.parse()?, role::devnet::parts())
        .await
        .with_context(|| format!("opening the development network {place}\n  next: check --devnet"))
}
