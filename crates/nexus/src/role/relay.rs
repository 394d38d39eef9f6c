//! `nexus relay`: the inbox relay, alone.

use nexus_bus::Topic;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::base::Base;
use super::health::{self, Health};
use super::wire;
use super::{Role, listen};
use crate::config::Loaded;
use crate::output::Output;
use crate::role;

pub async fn run(loaded: Loaded, output: Output) -> anyhow::Result<()> {
    let config = loaded.config;
    let (listener, at) = listen::bind("inbox relay", "--relay-port", config.relay.bind, config.relay.port).await?;
    let (status, status_at) = listen::bind("health", "--health-port", config.health.bind, config.health.port).await?;
    let url = role::relay_url_at(&config, listen::reachable(at));
    let providers = config.relay.providers.clone();
    // It wakes others, and listens for nothing itself.
    let base = Base::open(config, &[Topic::Reconcile]).await?;
    let health = Health::new(&base, Registry::default(), None);
    let mut role = Role::new(base, "relay");
    role.serve_beside(health::serve(health, status));
    role.start(|base| wire::relay(base, url.clone(), providers, base.config.allow_development, listener));
    let document = json!({
        "ready": true, "role": "relay", "relay": url, "health": health::url(status_at), "process": std::process::id(),
    });
    role.announce(&document, format!("Inbox relay at {url}\nHealth at {}", health::url(status_at)), output);
    role.until_stopped(output).await
}
