//! A store with agents on one registered worker, made through the store's own functions.

use std::path::{Path, PathBuf};

use anyhow::Context;
use nexus_core::placement::Step;
use nexus_core::status::{Desired, Hosting, Purpose as Placed};
use nexus_core::time::random;
use nexus_core::{AccountId, AgentConfig, Generation, Npub, WorkerId};
use nexus_seal::blob::Purpose;
use nexus_store::account::{self, Account};
use nexus_store::agent::{self, NewAgent, Sealed};
use nexus_store::placement::{self, Term};
use nexus_store::worker::{self, NewWorker};
use nexus_store::{Audit, Fence, PostgresConfig, Store};
use nexus_vault::DataKey;
use tokio::task::JoinSet;

use super::shape::STATE_BYTES;
use super::{World, ceiling, ceiling_postgres, postgres};

/// Agents that are made at a time.
const AT_ONCE: usize = 256;

pub struct Host {
    pub world: World,
    pub store: Store,
    commits: Commits,
    pub fence: Fence,
    pub agents: Vec<Agent>,
}

/// Who counts the store's commits.
enum Commits {
    Sqlite(PathBuf),
    Postgres(tokio_postgres::Client),
}

/// An agent that ticks.
pub struct Agent {
    pub npub: Npub,
    pub generation: Generation,
    pub key: DataKey,
    /// Of the stored state.
    pub version: i64,
}

/// Who makes the agents, and where they go.
#[derive(Clone, Copy)]
struct Owner {
    account: AccountId,
    worker: WorkerId,
    term: Term,
}

pub fn database(directory: &Path) -> PathBuf {
    directory.join("nexus.db")
}

impl Host {
    /// On SQLite.
    pub async fn open(world: &World, directory: &Path, count: usize) -> anyhow::Result<Self> {
        let path = database(directory);
        Self::fill(world, Store::open(&path)?, Commits::Sqlite(path), count).await
    }

    /// On PostgreSQL.
    pub async fn connect(world: &World, config: PostgresConfig, count: usize) -> anyhow::Result<Self> {
        let commits = Commits::Postgres(postgres::connect(&config).await?);
        Self::fill(world, Store::open_postgres(config).await?, commits, count).await
    }

    /// Transactions that the store has committed so far.
    pub async fn commits(&self) -> anyhow::Result<u64> {
        match &self.commits {
            Commits::Sqlite(path) => ceiling::commits(path),
            Commits::Postgres(client) => ceiling_postgres::commits(client).await,
        }
    }

    async fn fill(world: &World, store: Store, commits: Commits, count: usize) -> anyhow::Result<Self> {
        let now = world.clock.now();
        let (owner, fence) = found(world, &store, count).await?;
        let mut agents = Vec::with_capacity(count);
        while agents.len() < count {
            let mut more = JoinSet::new();
            for n in agents.len()..count.min(agents.len() + AT_ONCE) {
                let (world, store) = (world.clone(), store.clone());
                more.spawn(async move { make(&world, &store, owner, n).await });
            }
            while let Some(made) = more.join_next().await {
                agents.push(made?.context("making agents")?);
            }
        }
        tracing::debug!(count, elapsed_ms = world.clock.now().0 - now.0, "agents made");
        Ok(Self { world: world.clone(), store, commits, fence, agents })
    }

    /// Closes the store.
    pub fn into_npubs(self) -> Vec<Npub> {
        self.agents.iter().map(|agent| agent.npub).collect()
    }
}

/// Account, worker and the right to place.
async fn found(world: &World, store: &Store, count: usize) -> anyhow::Result<(Owner, Fence)> {
    let now = world.clock.now();
    let account = Account {
        id: AccountId::new(now, random(&*world.entropy)),
        owner: Npub::from_bytes(random(&*world.entropy)),
        name: "bench".into(),
        plan: "local".into(),
        hosting: Hosting::Paid,
        created_at: now,
    };
    let account = account::ensure(store, account, audit(world, None, "account.create")).await?.id;
    let worker = NewWorker {
        id: WorkerId::new(now, random(&*world.entropy)),
        region: "local".into(),
        pool: agent::DEFAULT_POOL.into(),
        capacity: u32::try_from(count)?,
        version: 1,
    };
    let id = worker.id;
    let fence = worker::register(store, worker, now).await?;
    let term = placement::take_term(store, "bench", now).await?;
    Ok((Owner { account, worker: id, term }, fence))
}

/// One agent: created with a state, started, placed.
async fn make(world: &World, store: &Store, owner: Owner, n: usize) -> anyhow::Result<Agent> {
    let now = world.clock.now();
    let npub = Npub::from_bytes(random(&*world.entropy));
    let key = DataKey::generate(npub, 1, &*world.entropy);
    let new = NewAgent {
        npub,
        account: owner.account,
        name: format!("agent{n}"),
        config: AgentConfig::default(),
        sealed: Sealed::default(),
        wraps: Vec::new(),
        state: Some(key.seal(Purpose::State, &[0; STATE_BYTES], &*world.entropy)?),
        hosting: Hosting::Paid,
        reason: None,
        created_at: now,
    };
    let account = Some(owner.account);
    agent::create(store, new, None, audit(world, account, "agent.create")).await?;
    let audit = audit(world, account, "agent.start");
    let made = agent::set_desired(store, npub, Desired::Running, false, None, audit).await?;
    let step = Step { npub, generation: made.generation, from: None, to: owner.worker, purpose: Placed::Run };
    let generation = placement::place(store, owner.term, &step, now).await?;
    Ok(Agent { npub, generation, key, version: 1 })
}

fn audit(world: &World, account: Option<AccountId>, action: &str) -> Audit {
    Audit {
        at: world.clock.now(),
        account,
        actor: "bench".into(),
        action: action.into(),
        target: "bench".into(),
        detail: "{}".into(),
    }
}
