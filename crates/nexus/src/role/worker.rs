//! `nexus worker`: hosts agents, alone. Told to stop, it hands them over.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nexus_bus::Topic;
use nexus_core::time::random;
use nexus_core::{Clock, Entropy, WorkerId};
use nexus_lightning::devnet::{self, Devnet};
use nexus_vault::PoolIdentity;
use nexus_worker::{Extras, Vitals};
use prometheus_client::registry::Registry;
use serde_json::json;

use super::base::{self, Base};
use super::health::{self, Health};
use super::wire::{self, Hosting};
use super::{Role, listen};
use crate::config::{Config, Loaded};
use crate::dev::keys;
use crate::output::Output;
use crate::role;

/// Between looks at whether the worker has registered.
const LOOK: Duration = Duration::from_millis(20);

pub async fn run(loaded: Loaded, output: Output) -> anyhow::Result<()> {
    let config = loaded.config;
    let identity = identity(&config)?;
    let relay_url = role::relay_url(&config)?;
    let devnet = open_devnet(&config).await?;
    let (listener, at) = listen::bind("health", "--health-port", config.health.bind, config.health.port).await?;
    let beats = base::open_alone(&config).await?;
    let base = Base::open_with_objects(config, &[Topic::Agent, Topic::Worker]).await?;
    let (id, _held) = worker_id(&base.config, &*base.clock, &*base.entropy)?;
    let mut registry = Registry::default();
    let vitals = wire::vitals(&mut registry);
    let (traces, exporter) = wire::traces(&base, id, &mut registry)?;
    let health = Health::new(&base, registry, Some(vitals.clone()));
    let hosting = Hosting {
        id,
        identity: Arc::new(identity),
        devnet: devnet.clone(),
        relay_url,
        origin: base.config.api.public_origin.clone(),
        development: base.config.allow_development,
        drain_ms: base.config.worker.drain_ms,
        extras: Extras { beats, vitals: vitals.clone(), traces, web: None },
    };
    let payer = match &base.config.payouts {
        Some(payouts) => {
            let (node, network) = payouts.open(base.clock.clone())?;
            Some((node, network, payouts.signer))
        }
        None => None,
    };
    let (region, pool) = (base.config.worker.region.clone(), base.config.worker.pool.clone());
    let limit = base.config.worker.drain_ms;
    let mut role = Role::new(base, "worker").with_limit(Duration::from_millis(limit) + role::STOP_TIMEOUT);
    role.serve_beside(health::serve(health, listener));
    if let Some(exporter) = exporter {
        role.start_beside("trace exporter", exporter);
    }
    if let Some((node, network, signer)) = payer {
        role.start_beside("refunds", wire::payouts(role.base(), node, network, signer));
    }
    role.start(|base| wire::worker(base, hosting));
    let registered = registered(&vitals);
    if !role.until(registered).await? {
        return role.until_stopped(output).await;
    }
    let document = json!({
        "ready": true, "role": "worker", "worker": id, "region": region, "pool": pool,
        "health": health::url(at), "process": std::process::id(),
    });
    role.announce(&document, format!("Worker {id} in {region}, pool {pool}\nHealth at {}", health::url(at)), output);
    let ended = role.until_stopped(output).await;
    if let Some(devnet) = devnet {
        devnet.shutdown().await;
    }
    ended
}

async fn registered(vitals: &Vitals) {
    while !vitals.is_registered() {
        tokio::time::sleep(LOOK).await;
    }
}

fn identity(config: &Config) -> anyhow::Result<PoolIdentity> {
    let Some(path) = &config.pool.identity_file else {
        bail!(
            "a worker needs the pool's identity to open agents\n  next: set pool.identity_file (NEXUS_POOL_IDENTITY_FILE); `nexus pool create` makes one"
        );
    };
    let text = keys::private_text(path)?;
    PoolIdentity::parse(text.expose()).with_context(|| format!("reading {}", path.display()))
}

/// The development network, if this worker may use it and was told where it is.
async fn open_devnet(config: &Config) -> anyhow::Result<Option<Devnet>> {
    let Some(place) = &config.devnet else { return Ok(None) };
    if !config.allow_development {
        bail!(
            "the development network holds play money\n  next: take `devnet` out of this worker's configuration, or set allow_development for a host of your own"
        );
    }
    let network = devnet::open(place.parse()?, role::devnet::parts()).await;
    Ok(Some(network.with_context(|| format!("opening the development network {place}\n  next: check `devnet`"))?))
}

/// New at each start, or kept in a file that one process holds at a time.
fn worker_id(config: &Config, clock: &dyn Clock, entropy: &dyn Entropy) -> anyhow::Result<(WorkerId, Option<File>)> {
    let fresh = || WorkerId::new(clock.now(), random(entropy));
    let Some(path) = &config.worker.id_file else { return Ok((fresh(), None)) };
    let held = hold(path)?;
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    if text.trim().is_empty() {
        let id = fresh();
        std::fs::write(path, format!("{id}\n")).with_context(|| format!("writing {}", path.display()))?;
        return Ok((id, Some(held)));
    }
    let id = text.trim().parse();
    Ok((id.with_context(|| format!("{} holds no worker's id\n  next: remove it", path.display()))?, Some(held)))
}

fn hold(path: &Path) -> anyhow::Result<File> {
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let file = opened.with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => bail!(
            "another worker already runs under the id in {}\n  next: give each its own worker.id_file",
            path.display()
        ),
    }
}
