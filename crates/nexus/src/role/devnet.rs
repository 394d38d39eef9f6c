//! `nexus devnet`: the development Lightning network, alone.

use std::sync::Arc;

use nexus_lightning::devnet::{self, Parts, Place};
use serde_json::json;

use crate::ambient::{SystemClock, SystemEntropy};
use crate::cli::DevnetArgs;
use crate::config::Loaded;
use crate::output::Output;
use crate::role::{self, stop};

/// What every user of the network in this process shares.
pub fn parts() -> Parts {
    Parts::new(Arc::new(SystemClock::new()), Arc::new(SystemEntropy))
}

pub async fn run(_: DevnetArgs, loaded: Loaded, output: Output) -> anyhow::Result<()> {
    let place = role::devnet_place(&loaded.config)?;
    let Place::Dir(dir) = place.parse()? else {
        anyhow::bail!("{place} is an address, and this command serves a directory\n  next: give --dir DIR");
    };
    let server = devnet::Server::start(dir.clone(), 0, parts()).await?;
    if output.json {
        output.record(&json!({ "ready": true, "url": server.url(), "dir": dir }));
    } else {
        output.line(format!("Development network at {url}\nNext: nexus dev --devnet {url}", url = server.url()));
    }
    stop::requested().await;
    server.shutdown().await;
    Ok(())
}
