//! The roles of a host, each alone in a process, and the configuration that every role reads.

pub mod base;
pub mod control;
pub mod devnet;
pub mod health;
pub mod listen;
pub mod migrate;
pub mod owner_wallets;
pub mod provider;
pub mod relay;
pub mod scaler;
pub mod stop;
pub mod wallets;
pub mod wire;
pub mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nexus_client::file;
use nexus_lightning::Receive;
use nexus_lightning::devnet::AccountKey;
use nexus_seal::operator::OperatorKey;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;
use url::Url;
use zeroize::Zeroizing;

use crate::cli::{Cli, Command};
use crate::config::{Config, ConfigError, Loaded, Overrides, environment};
use crate::dev::data_dir::{self, DataDir};
use crate::output::Output;
use base::Base;
use wire::Roles;

/// How long a role has to end what it is at, once told to stop.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Where hosting is paid to on a development network: an account that only the operator's key gives, and the network's node.
pub fn till(network: &nexus_lightning::devnet::Devnet, key: &OperatorKey) -> (Arc<dyn Receive>, Option<String>) {
    (Arc::new(till_wallet(network, key)), network.node())
}

/// The same account, which can also pay out of it.
pub fn till_wallet(network: &nexus_lightning::devnet::Devnet, key: &OperatorKey) -> nexus_lightning::devnet::Wallet {
    let seed = zeroize::Zeroizing::new(format!("hosting till\n{}", key.expose_text().expose()));
    network.wallet(AccountKey::from_wallet_seed(seed.as_bytes()))
}

/// One role that runs alone, from its start to its end.
pub struct Role {
    base: Base,
    name: &'static str,
    roles: Roles,
    limit: Duration,
    /// Answers to the end: that a role stops, and at what it still is, is asked while it does.
    health: Option<AbortOnDropHandle<()>>,
}

impl Role {
    pub fn new(base: Base, name: &'static str) -> Self {
        Self { base, name, roles: Roles::default(), limit: STOP_TIMEOUT, health: None }
    }

    /// What it stands on.
    pub const fn base(&self) -> &Base {
        &self.base
    }

    /// For a role that takes longer to stop.
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    pub fn start<F>(&mut self, role: impl FnOnce(&Base) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.roles.start(self.name, role(&self.base));
    }

    /// Its health listener.
    pub fn serve_beside(&mut self, health: impl Future<Output = ()> + Send + 'static) {
        self.health = Some(AbortOnDropHandle::new(tokio::spawn(health)));
    }

    /// What ends with it, such as where its traces leave.
    pub fn start_beside(
        &mut self,
        name: &'static str,
        beside: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.roles.start(name, beside);
    }

    /// Waits for something, unless the role is told to stop before: then false.
    pub async fn until(&mut self, done: impl Future<Output = ()>) -> anyhow::Result<bool> {
        tokio::select! {
            () = done => Ok(true),
            failed = self.roles.first_end() => Err(failed),
            () = stop::requested() => {
                self.base.stop.cancel();
                Ok(false)
            }
        }
    }

    /// The one line that says that it is ready.
    pub fn announce(&self, document: &Value, text: String, output: Output) {
        if output.json { output.record(document) } else { output.line(text) }
    }

    /// Runs until it is told to stop, or fails; then gives it its time to end.
    pub async fn until_stopped(mut self, output: Output) -> anyhow::Result<()> {
        let already = self.base.stop.is_cancelled();
        let ended = tokio::select! {
            failed = self.roles.first_end(), if !already => Err(failed),
            () = stop::requested(), if !already => Ok(()),
            else => Ok(()),
        };
        if ended.is_ok() {
            if !output.json {
                output.line("Stopping. Ctrl-C again cuts it off.");
            }
            tokio::spawn(stop::at_once_when_asked_again());
        }
        self.base.stop.cancel();
        let finished = self.roles.finish(self.limit).await;
        ended.and(finished)
    }
}

/// The configuration, for the commands that run or check a host; none for the owner's commands.
pub fn settings(cli: &Cli) -> Result<Option<Loaded>, ConfigError> {
    let flags = match &cli.command {
        Command::Dev(args) => flags(vec![
            ("data_dir", args.data_dir.as_ref().map(|dir| json!(dir))),
            ("devnet", args.devnet.as_ref().map(|place| json!(place))),
            ("api.port", args.api_port.map(Value::from)),
            ("relay.port", args.relay_port.map(Value::from)),
            ("provider.llm_url", args.llm_url.as_ref().map(|url| json!(url))),
            ("provider.llm_model", args.llm_model.as_ref().map(|model| json!(model))),
        ]),
        Command::Provider(args) => flags(vec![
            ("devnet", args.devnet.as_ref().map(|place| json!(place))),
            ("provider.llm_url", args.llm_url.as_ref().map(|url| json!(url))),
            ("provider.llm_model", args.llm_model.as_ref().map(|model| json!(model))),
            ("provider.price_msat", args.price.map(|sats| json!(sats.saturating_mul(1_000)))),
        ]),
        Command::Control(args) => flags(vec![
            ("data_dir", args.data_dir.as_ref().map(|dir| json!(dir))),
            ("api.port", args.api_port.map(Value::from)),
            ("allow_development", args.allow_development.then_some(Value::Bool(true))),
        ]),
        Command::Worker(args) => flags(vec![
            ("data_dir", args.data_dir.as_ref().map(|dir| json!(dir))),
            ("worker.region", args.region.as_ref().map(|region| json!(region))),
            ("worker.pool", args.pool.as_ref().map(|pool| json!(pool))),
            ("health.port", args.health_port.map(Value::from)),
            ("allow_development", args.allow_development.then_some(Value::Bool(true))),
        ]),
        Command::Scaler(args) => flags(vec![
            ("worker.region", args.region.as_ref().map(|region| json!(region))),
            ("worker.pool", args.pool.as_ref().map(|pool| json!(pool))),
            ("scaler.min_workers", args.min.map(Value::from)),
            ("scaler.max_workers", args.max.map(Value::from)),
            ("health.port", args.health_port.map(Value::from)),
        ]),
        Command::Relay(args) => flags(vec![
            ("data_dir", args.data_dir.as_ref().map(|dir| json!(dir))),
            ("relay.port", args.relay_port.map(Value::from)),
            ("health.port", args.health_port.map(Value::from)),
        ]),
        Command::Backup(args) => flags(vec![("data_dir", args.data_dir.as_ref().map(|dir| json!(dir)))]),
        Command::Restore(args) => flags(vec![("data_dir", args.data_dir.as_ref().map(|dir| json!(dir)))]),
        Command::Migrate(args) => flags(vec![("data_dir", args.data_dir.as_ref().map(|dir| json!(dir)))]),
        Command::Devnet(args) => flags(vec![("devnet", args.dir.as_ref().map(|dir| json!(dir)))]),
        Command::Doctor(args) => flags(vec![("data_dir", args.data_dir.as_ref().map(|dir| json!(dir)))]),
        Command::Config { .. } => Vec::new(),
        _ => return Ok(None),
    };
    Loaded::read(cli.global.config.as_deref(), environment(), flags).map(Some)
}

fn flags(given: Vec<(&'static str, Option<Value>)>) -> Overrides {
    given.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// The data directory in use.
pub fn data_dir(config: &Config) -> anyhow::Result<PathBuf> {
    config.data_dir.clone().map_or_else(DataDir::default_path, Ok)
}

/// Where the development network is: directory or URL.
pub fn devnet_place(config: &Config) -> anyhow::Result<String> {
    match &config.devnet {
        Some(place) => Ok(place.clone()),
        None => Ok(data_dir::default_devnet(&data_dir(config)?).display().to_string()),
    }
}

/// Under which callers know the API of a listener at this address.
pub fn origin(config: &Config, at: SocketAddr) -> anyhow::Result<Url> {
    match &config.api.public_origin {
        Some(origin) => Ok(origin.clone()),
        None => format!("http://{at}/").parse().context("writing this host's address"),
    }
}

/// Under which others reach the inbox relay of a listener at this address.
pub fn relay_url_at(config: &Config, at: SocketAddr) -> String {
    config.relay.public_url.clone().unwrap_or_else(|| format!("ws://{at}"))
}

/// Under which the inbox relay of another process is reached.
pub fn relay_url(config: &Config) -> anyhow::Result<String> {
    if config.relay.public_url.is_none() && config.relay.port == 0 {
        bail!("nothing says where the inbox relay is\n  next: set relay.public_url, or relay.port");
    }
    Ok(relay_url_at(config, listen::reachable(SocketAddr::new(config.relay.bind, config.relay.port))))
}

/// What opens a control plane's `/metrics` to others than this machine, if anything does.
pub fn metrics_token(config: &Config) -> anyhow::Result<Option<Zeroizing<String>>> {
    const SHORTEST: usize = 16;
    let Some(path) = &config.api.metrics_token_file else { return Ok(None) };
    let text = file::read_secret(path)?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.len() < SHORTEST {
        bail!(
            "{}: a token for metrics has {SHORTEST} characters or more\n  next: `openssl rand -hex 16` makes one",
            path.display()
        );
    }
    Ok(Some(Zeroizing::new(token.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_for_metrics_is_long_enough_to_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let mut config = Config::default();
        assert!(metrics_token(&config).unwrap().is_none());
        config.api.metrics_token_file = Some(path.clone());
        assert!(metrics_token(&config).unwrap_err().to_string().contains("token"));
        std::fs::write(&path, "short\n").unwrap();
        assert!(metrics_token(&config).unwrap_err().to_string().contains("16 characters"));
        std::fs::write(&path, "0123456789abcdef\nmore\n").unwrap();
        assert_eq!(metrics_token(&config).unwrap().unwrap().as_str(), "0123456789abcdef");
    }
}
