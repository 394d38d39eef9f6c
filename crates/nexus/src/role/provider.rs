//! `nexus provider`: sells compute, alone.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use nexus_client::file;
use nexus_core::{Clock, Entropy};
use nexus_lightning::devnet::{self, AccountKey};
use nexus_nostr::{PoolConfig, RelayPool};
use nexus_provider::{BackendConfig, ProviderParts};
use nexus_seal::Signer;
use nexus_vault::LocalSigner;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::ambient::{SystemClock, SystemEntropy};
use crate::cli::ProviderArgs;
use crate::config::{Config, Loaded};
use crate::dev::data_dir::DataDir;
use crate::dev::{keys, seller};
use crate::output::Output;
use crate::role::{self, stop};

pub async fn run(args: ProviderArgs, loaded: Loaded, output: Output) -> anyhow::Result<()> {
    let config = loaded.config;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    // Beside a host's own directory, so that both may run on one machine.
    let dir = DataDir::open(&directory(&config)?)?;
    let signer = Arc::new(key(&args, &dir, &entropy)?);
    let network = match config.provider.lnd {
        Some(_) => None,
        None => Some(devnet::open(role::devnet_place(&config)?.parse()?, role::devnet::parts()).await?),
    };
    let wallet = seller::till(&config.provider, clock.clone(), || {
        let network = network.as_ref().context("there is no development network")?;
        Ok(Arc::new(network.wallet(AccountKey::from_wallet_seed(signer.expose_secret().expose()))))
    })?;
    let backend = seller::backend(&config.provider).await;
    announce(&*signer, &backend, &args, output);
    let parts_config = seller::config(&config.provider, backend, args.relay.clone(), dir.path().join("jobs"));
    let pool_config = PoolConfig { development: true, ..PoolConfig::default() };
    let shutdown = CancellationToken::new();
    let parts = ProviderParts {
        signer,
        pool: RelayPool::new(pool_config, clock.clone(), entropy.clone()),
        hold: Some(wallet.clone()),
        wallet,
        backend: nexus_provider::backend(&parts_config)?,
        config: parts_config,
        clock,
        entropy,
        shutdown: shutdown.clone(),
    };
    let stopping = async {
        stop::requested().await;
        shutdown.cancel();
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = nexus_provider::run(parts) => ended.context("running the provider"),
        () = stopping => Ok(()),
    };
    if let Some(network) = network {
        network.shutdown().await;
    }
    ended
}

fn directory(config: &Config) -> anyhow::Result<PathBuf> {
    let host = role::data_dir(config)?;
    let mut name = host.file_name().unwrap_or("nexus".as_ref()).to_owned();
    name.push("-provider");
    Ok(host.with_file_name(name))
}

fn key(args: &ProviderArgs, dir: &DataDir, entropy: &Arc<dyn Entropy>) -> anyhow::Result<LocalSigner> {
    match &args.key_file {
        None => keys::nsec(&dir.keys(), "provider.nsec", entropy),
        Some(path) => LocalSigner::parse(&file::read_secret(path)?, entropy.clone()).with_context(|| {
            format!("{} holds no key\n  next: put an nsec1… or 64 hex digits into it", path.display())
        }),
    }
}

fn announce(signer: &dyn Signer, backend: &BackendConfig, args: &ProviderArgs, output: Output) {
    let npub = signer.public_key();
    let thinks = match backend {
        BackendConfig::Demo => "the demo planner".to_owned(),
        BackendConfig::OpenAi(endpoint) => format!("{} at {}", endpoint.model, endpoint.url),
    };
    let document = json!({ "ready": true, "provider": npub, "thinks_with": thinks, "relays": args.relay });
    if output.json {
        output.record(&document);
    } else {
        output.line(format!("Selling {thinks} as {npub}\non {}. Ctrl-C stops.", args.relay.join(", ")));
    }
}
