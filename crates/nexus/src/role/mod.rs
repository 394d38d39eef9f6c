//! Roles of a host that run alone, and the configuration that every role reads.

pub mod devnet;
pub mod provider;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cli::{Cli, Command};
use crate::config::{Config, ConfigError, Loaded, Overrides, environment};
use crate::dev::data_dir::{self, DataDir};

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
