//! `nexus dev`: a whole host in one process, on embedded parts.

pub mod address;
mod context;
pub mod data_dir;
pub mod keys;
mod listen;
mod ready;
pub mod seller;
pub mod stop;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nexus_bus::LocalBus;
use nexus_core::time::random;
use nexus_core::{Clock, Entropy};
use nexus_lightning::devnet;
use nexus_store::{Store, installation};
use tokio_util::sync::CancellationToken;

use crate::ambient::{SystemClock, SystemEntropy};
use crate::cli::{DevArgs, Global};
use crate::config::{Config, Loaded};
use crate::output::Output;
use crate::role;
use address::Addresses;
use data_dir::DataDir;
use keys::Keys;
use wire::{Host, Roles};

/// How long the roles have to park what they are at, once told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

pub async fn run(args: DevArgs, loaded: Loaded, _: &Global, output: Output) -> anyhow::Result<()> {
    let config = loaded.config;
    let dir = DataDir::open(&role::data_dir(&config)?)?;
    Addresses::remove(dir.path());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let keys = Keys::open(&dir.keys(), &*clock, &entropy).await?;
    let (api, api_at) = listen::bind("API", "--api-port", config.api.bind, config.api.port).await?;
    let (relay, relay_at) = listen::bind("inbox relay", "--relay-port", config.relay.bind, config.relay.port).await?;
    let host = Host {
        store: open_store(&dir, &*clock, &*entropy).await?,
        bus: LocalBus::new(),
        devnet: open_devnet(&config).await?,
        origin: origin(&config, listen::reachable(api_at))?,
        relay_url: relay_url(&config, listen::reachable(relay_at)),
        stop: CancellationToken::new(),
        data_dir: dir.path().to_owned(),
        clock,
        entropy,
        keys,
        config,
    };
    let backend = seller::backend(&host.config.provider).await;
    let mut roles = Roles::default();
    roles.start("control", wire::control(&host, api));
    roles.start("relay", wire::relay(&host, relay));
    roles.start("worker", wire::worker(&host));
    if host.config.provider.enabled {
        roles.start("provider", wire::provider(&host, &backend));
    }
    let ended = serve(&host, &mut roles, args.write_context.as_deref(), &backend, output).await;
    Addresses::remove(&host.data_dir);
    host.stop.cancel();
    let parked = roles.finish(STOP_TIMEOUT).await;
    host.devnet.shutdown().await;
    ended.and(parked)
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

fn origin(config: &Config, at: std::net::SocketAddr) -> anyhow::Result<url::Url> {
    match &config.api.public_origin {
        Some(origin) => Ok(origin.clone()),
        None => format!("http://{at}/").parse().context("writing this host's address"),
    }
}

fn relay_url(config: &Config, at: std::net::SocketAddr) -> String {
    config.relay.public_url.clone().unwrap_or_else(|| format!("ws://{at}"))
}
