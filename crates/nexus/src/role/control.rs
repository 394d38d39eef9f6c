//! `nexus control`: the API and the reconcilers, alone. It can open no agent, and holds nothing that could.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use nexus_bus::Topic;
use nexus_client::file;
use nexus_control::Operators;
use nexus_core::UnixMs;
use nexus_lightning::{Receive, devnet};
use nexus_seal::SignedPool;
use nexus_seal::operator::OperatorKey;
use nexus_seal::payout::PayoutKey;
use nostr::event::Event;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::base::Base;
use super::wire::{self, Front};
use super::{Role, listen};
use crate::config::{Config, Loaded};
use crate::dev::keys;
use crate::output::Output;
use crate::role;

pub async fn run(loaded: Loaded, output: Output) -> anyhow::Result<()> {
    let config = loaded.config;
    refuse_what_is_not_its_own(&config)?;
    let operator_key = operator_key(&config)?;
    let relay_url = role::relay_url(&config)?;
    let (listener, at) = listen::bind("API", "--api-port", config.api.bind, config.api.port).await?;
    let base = Base::open_with_objects(config, &[Topic::Worker, Topic::Reconcile, Topic::Event, Topic::Agent]).await?;
    let config = &base.config;
    let till = match &config.devnet {
        Some(place) if config.hosting.charge && config.hosting.lnd.is_none() => Some(till(place, &operator_key).await?),
        Some(_) | None => None,
    };
    let billing = config.hosting.billing(till, base.clock.clone())?;
    let accounts = config.agent_wallets.accounts(&config.hosting, base.clock.clone())?;
    let front = Front {
        origin: role::origin(config, listen::reachable(at))?,
        relay_url,
        pool_documents: pool_documents(config, base.clock.now())?,
        plan: match config.allow_development && !config.hosting.charge {
            true => "local".to_owned(),
            false => config.hosting.plan.clone(),
        },
        billing,
        accounts,
        refunds: config.hosting.refunds,
        sole: false,
        operators: Operators::Listed(config.operator.npubs.clone()),
        development: config.allow_development,
        metrics_token: role::metrics_token(config)?,
        devnet_place: config.devnet.clone(),
        operator_key,
    };
    let origin = front.origin.clone();
    let signer = PayoutKey::of(&front.operator_key)?.public();
    let mut role = Role::new(base, "control");
    role.start(|base| wire::control(base, front, Registry::default(), listener));
    let document = json!({
        "ready": true, "role": "control", "api": origin, "payouts_signer": signer, "process": std::process::id(),
    });
    let text =
        format!("Control plane at {origin}\nOrders refunds as {signer} (payouts.signer of the worker that pays them)");
    role.announce(&document, text, output);
    role.until_stopped(output).await
}

/// The operator's account on a development network that somebody else keeps.
async fn till(place: &str, key: &OperatorKey) -> anyhow::Result<(Arc<dyn Receive>, Option<String>)> {
    let network = devnet::open(place.parse()?, role::devnet::parts()).await;
    let network =
        network.with_context(|| format!("opening the development network {place}\n  next: check `devnet`"))?;
    Ok(role::till(&network, key))
}

/// A control plane that could open agents would be the one machine to rob.
fn refuse_what_is_not_its_own(config: &Config) -> anyhow::Result<()> {
    if config.pool.identity_file.is_some() {
        bail!(
            "a control plane may not hold the pool's identity\n  next: take pool.identity_file (NEXUS_POOL_IDENTITY_FILE) out of its configuration; it belongs to workers"
        );
    }
    if config.payouts.is_some() {
        bail!(
            "a control plane may not hold the macaroon that pays\n  next: take payouts out of its configuration; it belongs to workers"
        );
    }
    if config.wallets.lnd.is_some() {
        bail!(
            "a control plane may not hold the macaroon that pays\n  next: take wallets.lnd out of its configuration; it belongs to workers. Invoices are made with agent_wallets.lnd"
        );
    }
    if config.devnet.is_some() && !config.allow_development {
        bail!(
            "a control plane does not serve the development network: its money is play money\n  next: take `devnet` out of its configuration, or set allow_development for a host of your own"
        );
    }
    Ok(())
}

/// Read at start, so that a wrong file is noticed now.
fn operator_key(config: &Config) -> anyhow::Result<OperatorKey> {
    let Some(path) = &config.operator.key_file else {
        bail!(
            "a control plane needs the operator's key\n  next: set operator.key_file (NEXUS_OPERATOR_KEY_FILE); `nexus pool create` makes one"
        );
    };
    let text = keys::private_text(path)?;
    OperatorKey::parse(text.expose()).with_context(|| format!("reading {}", path.display()))
}

fn pool_documents(config: &Config, now: UnixMs) -> anyhow::Result<Vec<Event>> {
    let Some(path) = &config.pool.document_file else {
        bail!(
            "a control plane needs the pool's signed documents\n  next: set pool.document_file (NEXUS_POOL_DOCUMENT_FILE); `nexus pool create` makes one"
        );
    };
    read_documents(path, now).with_context(|| format!("reading {}", path.display()))
}

fn read_documents(path: &Path, now: UnixMs) -> anyhow::Result<Vec<Event>> {
    let documents: Vec<Event> = serde_json::from_str(&file::read_secret(path)?)?;
    SignedPool::first_use(&documents, now)?;
    Ok(documents)
}
