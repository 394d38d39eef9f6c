//! Saying that the host is ready, and what to type next.

use std::time::Duration;

use nexus_client::Context;
use nexus_provider::BackendConfig;
use nexus_seal::Signer;
use nexus_store::installation;
use serde_json::json;

use super::Host;
use crate::output::Output;
use crate::session;

/// The worker makes the runner key at its first start, and a new agent's host claim names it.
const RUNNER_TIMEOUT_MS: u64 = 10_000;
const LOOK_MS: u64 = 20;

/// Returns when an agent can be created: the worker has registered.
pub async fn wait(host: &Host) -> anyhow::Result<()> {
    let deadline = host.base.clock.mono().plus_ms(RUNNER_TIMEOUT_MS);
    while installation::get(&host.base.store, nexus_control::RUNNER_PUBKEY).await?.is_none() {
        if host.base.clock.mono() >= deadline {
            anyhow::bail!("the worker did not register in time\n  next: run it again with -v, and look at the log");
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
    Ok(())
}

/// Prints the addresses and the next command.
pub fn announce(host: &Host, context: &Context, backend: &BackendConfig, output: Output) {
    let thinks = thinks(host, backend);
    if output.json {
        output.record(&json!({
            "ready": true,
            "api": host.origin,
            "docs": host.origin.join("docs").ok(),
            "relay": host.relay_url,
            "devnet": host.devnet.url(),
            "data_dir": host.data_dir,
            "context": context.name,
            "owner": context.owner.as_ref().map(nexus_client::OwnerKey::npub),
            "root_fingerprint": host.keys.pool.fingerprint(),
            "provider": host.base.config.provider.enabled.then(|| host.keys.provider.public_key()),
            "thinks_with": thinks,
            "process": std::process::id(),
        }));
        return;
    }
    output.line(format!(
        "Nexus is ready.\n\n  API      {origin}  (how to use it: {origin}docs)\n  Relay    {relay}\n  Devnet   {devnet}\n  Thinking {thinks}\n  Data     {data}\n  Context  {context}\n\nNow, in a second terminal:\n\n  nexus agent create my-agent --goal \"Say good morning\" --start{flag}\n\nCtrl-C stops.",
        origin = host.origin,
        relay = host.relay_url,
        devnet = host.devnet.url(),
        data = host.data_dir.display(),
        context = context.name,
        flag = flag(context),
    ));
}

/// What the next command needs where another context was chosen.
fn flag(context: &Context) -> String {
    let used = session::contexts().and_then(|contexts| contexts.select(None)).ok();
    let ours = used.is_some_and(|used| used.name == context.name);
    if ours { String::new() } else { format!(" --context {}", context.name) }
}

fn thinks(host: &Host, backend: &BackendConfig) -> String {
    match backend {
        _ if !host.base.config.provider.enabled => {
            "with whatever provider is on the relays (none runs here)".to_owned()
        }
        BackendConfig::Demo => "with the demo planner (deterministic; --llm-url takes a real model)".to_owned(),
        BackendConfig::OpenAi(endpoint) => format!("with {} at {}", endpoint.model, endpoint.url),
    }
}
