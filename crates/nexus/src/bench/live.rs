//! A whole host in one process of its own (`nexus dev`, this very binary), with funded agents, and somebody who talks to
//! them through real sockets.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nexus_client::api::{Api, Auth};
use nexus_client::events::{Heard, follow};
use nexus_client::{Context, Contexts};
use nexus_core::Npub;
use nexus_nostr::{Head, PoolConfig, RelayPool, event, kinds};
use nexus_seal::Signer;
use nexus_vault::LocalSigner;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use url::Url;

use super::World;
use super::watch::Watch;

const READY: Duration = Duration::from_secs(60);
/// For the relay's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// For an agent's first tick.
const FIRST: Duration = Duration::from_secs(60);
const SATS: &str = "50000";

/// A running host.
pub struct Live {
    world: World,
    directory: PathBuf,
    child: Child,
    api: Api,
    pub relay: String,
    pool: RelayPool,
}

/// One of its agents, and what its stream tells.
pub struct Agent {
    pub npub: Npub,
    told: mpsc::UnboundedReceiver<Told>,
    listening: tokio::task::JoinHandle<()>,
}

/// An event of an agent, and when it came over the WebSocket.
pub struct Told {
    pub name: String,
    pub at: Duration,
}

impl Live {
    pub async fn start(world: &World, directory: &Path) -> anyhow::Result<Self> {
        let passphrase = "walnut orbit tulip marble cactus violin";
        std::fs::write(directory.join("passphrase"), passphrase)?;
        let mut child = command(directory)?
            .args(["dev", "--json", "--api-port", "0", "--relay-port", "0", "--data-dir"])
            .arg(directory.join("data"))
            .arg("--devnet")
            .arg(directory.join("devnet"))
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(directory.join("log"))?)
            .spawn()
            .context("starting the host")?;
        let stdout = child.stdout.take().context("the host has no output")?;
        let mut line = String::new();
        let read = tokio::time::timeout(READY, BufReader::new(stdout).read_line(&mut line)).await;
        if !matches!(read, Ok(Ok(read)) if read > 0) {
            let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
            bail!("the host did not get ready:\n{log}");
        }
        let ready: Value = serde_json::from_str(&line).context("reading what the host said")?;
        let relay = ready["relay"].as_str().context("the host named no relay")?.to_owned();
        let context: Context = Contexts::at(directory.join("config")).select(None)?;
        let owner = context.owner.as_ref().context("the context has no owner")?.open(None, world.entropy.clone())?;
        let api = Api::new(context.url, Auth::Signer(owner.signer()), world.clock.clone(), world.entropy.clone())?;
        let config = PoolConfig { own_relays: vec![relay.clone()], development: true, ..PoolConfig::default() };
        let pool = RelayPool::new(config, world.clock.clone(), world.entropy.clone());
        Ok(Self { world: world.clone(), directory: directory.to_owned(), child, api, relay, pool })
    }

    /// Where its API listens.
    pub fn api(&self) -> &Url {
        self.api.origin()
    }

    pub fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// Creates, starts and funds an agent, and listens to it. Its first tick is over when this returns.
    pub async fn agent(&self, name: &str, watch: Watch) -> anyhow::Result<Agent> {
        let passphrase = self.directory.join("passphrase");
        let passphrase = passphrase.to_str().context("an odd directory")?;
        let made = self.ask(&["agent", "create", name, "--start", "--passphrase-file", passphrase]).await?;
        let npub: Npub = made["npub"].as_str().context("no npub in the answer")?.parse()?;
        let mut agent = self.listen(npub, watch);
        self.ask(&["agent", "fund", name, "--sats", SATS]).await?;
        agent.wait("tick_completed", FIRST).await.context("an agent's first tick")?;
        Ok(agent)
    }

    fn listen(&self, npub: Npub, watch: Watch) -> Agent {
        let (tell, told) = mpsc::unbounded_channel();
        let api = self.api.clone();
        let listening = tokio::spawn(async move {
            let heard = |heard: Heard<'_>| {
                let at = watch.elapsed();
                if let Heard::Event(event) = heard {
                    let name = event["type"].as_str().unwrap_or_default().to_owned();
                    if tell.send(Told { name, at }).is_err() {
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            };
            if let Err(error) = follow(&api, &npub, Some(0), heard).await {
                tracing::error!(%error, "following an agent");
            }
        });
        Agent { npub, told, listening }
    }

    /// A stranger mentions an agent. Returns when the relay has said that it has the event.
    pub async fn mention(&self, agent: &Npub, text: &str) -> anyhow::Result<()> {
        let stranger = LocalSigner::generate(Arc::clone(&self.world.entropy));
        let head = Head::new(stranger.public_key(), self.world.clock.now().secs());
        let note = head.unsigned(kinds::NOTE, vec![event::tag(["p", &agent.to_hex()])], text);
        let signed = stranger.sign_now(note)?;
        let relays = [self.relay.clone()];
        let published = self.pool.publish(&signed, &relays, ANSWER).await;
        for one in published {
            one.outcome.context("publishing a mention")?;
        }
        Ok(())
    }

    async fn ask(&self, args: &[&str]) -> anyhow::Result<Value> {
        let output = command(&self.directory)?.arg("--json").args(args).stderr(Stdio::piped()).output().await?;
        if !output.status.success() {
            bail!("nexus {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    pub async fn stop(mut self) {
        self.pool.shutdown().await;
        let _ = self.child.kill().await;
    }
}

impl Agent {
    /// The next event of that name.
    pub async fn wait(&mut self, name: &str, limit: Duration) -> anyhow::Result<Told> {
        let next = async {
            while let Some(told) = self.told.recv().await {
                if told.name == name {
                    return Ok(told);
                }
                if matches!(told.name.as_str(), "tick_skipped" | "tick_failed") {
                    tracing::info!(npub = %self.npub.short(), what = told.name, "instead of a tick");
                }
            }
            bail!("the stream ended")
        };
        tokio::time::timeout(limit, next).await.with_context(|| format!("no {name} in time"))?
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// This binary, with nothing of the user's.
fn command(directory: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .env_clear()
        .env("HOME", directory)
        .env("NEXUS_CONFIG_DIR", directory.join("config"))
        .env("NEXUS_PROVIDER_DETECT_OLLAMA", "false")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}
