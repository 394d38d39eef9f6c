//! A host full of agents at rest: each has ticked before, and its next heartbeat will have nothing new.
//!
//! The first is made by the store's own functions. The others are copies of its row under keys of their own, and what their
//! first tick would have left behind (funds, marks, the next heartbeat) is written by one plain statement: making a million
//! agents, and their first ticks, would be benchmarks of their own. Their sealed parts are left out, since a heartbeat
//! with nothing new reads none of them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use futures_util::future::BoxFuture;
use nexus_bus::LocalBus;
use nexus_control::{ControlConfig, ControlParts, Metrics};
use nexus_core::status::Hosting;
use nexus_core::time::random;
use nexus_core::{AccountId, AgentConfig, Clock, Npub, UnixMs, WorkerId};
use nexus_lightning::{Network, WalletDriver};
use nexus_nostr::{PoolConfig, RelayPool};
use nexus_store::account::{self, Account};
use nexus_store::agent::{self, NewAgent, Sealed};
use nexus_store::{Audit, Store, placement};
use nexus_vault::PoolIdentity;
use nexus_worker::{Faults, Purse, WalletUnavailable, Wallets, WorkerConfig, WorkerParts};
use rusqlite::{Connection, params};
use tokio_util::sync::CancellationToken;

use super::World;
use super::host::database;

const LOOK: Duration = Duration::from_millis(20);

/// Which agents to make.
#[derive(Debug, Clone)]
pub struct Crowd {
    pub agents: usize,
    pub heartbeat_secs: u32,
    /// When their next heartbeats are due, evenly, in milliseconds from the moment that they are all made.
    pub due_ms: Range<i64>,
}

/// A host on one database, made of the same parts as `nexus dev`, without API, relay and money.
pub struct Place {
    world: World,
    pub store: Store,
    pub bus: Arc<LocalBus>,
    pub path: PathBuf,
    identity: Arc<PoolIdentity>,
}

/// A running role.
pub struct Running {
    pub id: WorkerId,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// No agent at rest opens its wallet.
struct NoWallets;

impl Wallets for NoWallets {
    fn open(&self, _: Purse) -> BoxFuture<'_, Result<Arc<dyn WalletDriver>, WalletUnavailable>> {
        Box::pin(async { Err(WalletUnavailable("there is no money in this measurement".into())) })
    }

    fn network(&self) -> Network {
        Network::Regtest
    }
}

impl Place {
    pub fn open(world: &World, directory: &Path) -> anyhow::Result<Self> {
        let path = database(directory);
        let store = Store::open(&path)?;
        let identity = Arc::new(PoolIdentity::generate(&*world.entropy));
        Ok(Self { world: world.clone(), store, bus: LocalBus::new(), path, identity })
    }

    /// Places agents until it is stopped.
    pub fn reconciler(&self) -> anyhow::Result<Running> {
        let stop = CancellationToken::new();
        let parts = ControlParts {
            store: self.store.clone(),
            bus: self.bus.clone(),
            clock: self.world.clock.clone(),
            entropy: self.world.entropy.clone(),
            config: ControlConfig { sole_reconciler: true, ..ControlConfig::new("http://127.0.0.1/".parse()?) },
            metrics: Arc::new(Metrics::default()),
            stop: stop.clone(),
        };
        let task = tokio::spawn(nexus_control::reconcile_only(parts));
        Ok(Running { id: self.worker_id(), stop, task })
    }

    pub fn worker(&self) -> Running {
        self.worker_on(&tokio::runtime::Handle::current())
    }

    /// On another runtime, which may be taken away.
    pub fn worker_on(&self, runtime: &tokio::runtime::Handle) -> Running {
        let (id, stop) = (self.worker_id(), CancellationToken::new());
        let task = runtime.spawn(self.hosting(id, stop.clone()));
        Running { id, stop, task }
    }

    fn worker_id(&self) -> WorkerId {
        WorkerId::new(self.world.clock.now(), random(&*self.world.entropy))
    }

    fn hosting(&self, id: WorkerId, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let (clock, entropy) = (self.world.clock.clone(), self.world.entropy.clone());
        let parts = WorkerParts {
            id,
            store: self.store.clone(),
            bus: self.bus.clone(),
            relays: Arc::new(RelayPool::new(PoolConfig::default(), clock.clone(), entropy.clone())),
            wallets: Arc::new(NoWallets),
            pool: self.identity.clone(),
            config: WorkerConfig::default(),
            faults: Faults::from_environment(),
            clock,
            entropy,
        };
        async move {
            if let Err(error) = nexus_worker::run(parts, stop).await {
                tracing::error!(%error, "the worker failed");
            }
        }
    }

    /// Agents placed on this worker.
    async fn placed(&self, worker: WorkerId) -> anyhow::Result<usize> {
        let loads = placement::loads(&self.store).await?;
        Ok(loads.into_iter().find(|(id, _)| *id == worker).map_or(0, |(_, load)| load as usize))
    }

    /// Waits until a worker has so many; returns how long that took, in milliseconds.
    pub async fn wait_placed(
        &self,
        worker: &Running,
        agents: usize,
        most_ms: u64,
        look: Duration,
    ) -> anyhow::Result<u64> {
        let began = self.world.clock.mono();
        loop {
            let placed = self.placed(worker.id).await?;
            let passed = self.world.clock.mono().since(began);
            if placed >= agents {
                return Ok(passed);
            }
            if worker.task.is_finished() {
                bail!("the worker ended\n  next: run it again with -v, and look at the log");
            }
            if passed > most_ms {
                bail!("only {placed} of {agents} agents were placed after {passed} ms");
            }
            tracing::debug!(placed, passed, "placing");
            tokio::time::sleep(look).await;
        }
    }

    /// Makes the agents, and returns when they were all there. Closes and opens the store meanwhile.
    pub async fn fill(self, crowd: &Crowd) -> anyhow::Result<(Self, UnixMs)> {
        let first = self.first(crowd.heartbeat_secs).await?;
        let Self { world, store, path, identity, .. } = self;
        drop(store);
        let (file, crowd, clock) = (path.clone(), crowd.clone(), world.clock.clone());
        let made_at = tokio::task::spawn_blocking(move || multiply(&file, first, &crowd, &*clock)).await??;
        let store = Store::open(&path)?;
        Ok((Self { world, store, bus: LocalBus::new(), path, identity }, made_at))
    }

    /// The agent that all others are copies of.
    async fn first(&self, heartbeat_secs: u32) -> anyhow::Result<Npub> {
        let account = self.account().await?;
        let npub = Npub::from_bytes(random(&*self.world.entropy));
        let new = NewAgent {
            npub,
            account,
            name: "agent".into(),
            config: AgentConfig { heartbeat_secs, ..AgentConfig::default() },
            sealed: Sealed::default(),
            wraps: Vec::new(),
            state: None,
            hosting: Hosting::Paid,
            reason: None,
            created_at: self.world.clock.now(),
        };
        agent::create(&self.store, new, None, audit(&self.world, "agent.create")).await?;
        Ok(npub)
    }

    async fn account(&self) -> anyhow::Result<AccountId> {
        let now = self.world.clock.now();
        let account = Account {
            id: AccountId::new(now, random(&*self.world.entropy)),
            owner: Npub::from_bytes(random(&*self.world.entropy)),
            name: "bench".into(),
            plan: "local".into(),
            hosting: Hosting::Paid,
            created_at: now,
        };
        Ok(account::ensure(&self.store, account, audit(&self.world, "account.create")).await?.id)
    }
}

/// Copies of the first agent, and what the owner's start and a first tick leave behind.
fn multiply(path: &Path, first: Npub, crowd: &Crowd, clock: &dyn Clock) -> anyhow::Result<UnixMs> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(60))?;
    let columns: Vec<String> = connection
        .prepare("SELECT name FROM pragma_table_info('agent') WHERE name NOT IN ('npub', 'name')")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let columns = columns.join(", ");
    // In the order of the key, so that pages fill one after another.
    connection.execute_batch("CREATE TEMP TABLE number (n INTEGER PRIMARY KEY, npub BLOB NOT NULL)")?;
    connection.execute(
        "INSERT INTO number WITH RECURSIVE up (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM up WHERE n < ?1)
         SELECT n, randomblob(32) FROM up WHERE n <= ?1",
        params![i64::try_from(crowd.agents)?],
    )?;
    let copy = format!(
        "INSERT INTO agent (npub, name, {columns})
         SELECT number.npub, 'agent' || number.n, {columns} FROM (SELECT * FROM number ORDER BY npub) number,
            (SELECT {columns} FROM agent WHERE npub = ?1) a"
    );
    connection.execute(&copy, params![first.as_bytes()])?;
    let now = clock.now();
    let span = (crowd.due_ms.end - crowd.due_ms.start).max(1);
    connection.execute(
        "UPDATE agent SET desired = 'running', purpose = 'run', custody = 'ready', lifecycle = 'active',
            policy_version = 1, balance_msat = 5000000, balance_at = ?1, last_tick_at = ?1, rest_at = ?1, rest_policy = 1,
            rest_config = config_version, reason_code = NULL, reason_text = NULL,
            next_tick_at = ?1 + ?2 + abs(random() % ?3)",
        params![now.0, crowd.due_ms.start, span],
    )?;
    let _: (i64, i64, i64) = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(now)
}

/// Waits until a moment of the wall clock.
pub async fn wait_until(world: &World, at: UnixMs) {
    while world.clock.now() < at {
        tokio::time::sleep(LOOK).await;
    }
}

fn audit(world: &World, action: &str) -> Audit {
    Audit {
        at: world.clock.now(),
        account: None,
        actor: "bench".into(),
        action: action.into(),
        target: "bench".into(),
        detail: "{}".into(),
    }
}
