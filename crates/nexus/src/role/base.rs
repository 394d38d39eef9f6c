//! What every role stands on: the database, the bus, the clocks, and the word to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use nexus_bus::{LocalBus, NatsBus, SharedBus, Topic};
use nexus_core::time::random;
use nexus_core::{Clock, Entropy};
use nexus_store::{ObjectKind, Objects, PostgresConfig, Store, installation};
use tokio_util::sync::CancellationToken;

use crate::ambient::{SystemClock, SystemEntropy};
use crate::config::{BusKind, Config, DatabaseKind};
use crate::dev::data_dir::{self, DataDir};
use crate::role;

/// The parts that all roles of a process share.
pub struct Base {
    pub store: Store,
    pub bus: SharedBus,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub config: Config,
    /// Ends every role.
    pub stop: CancellationToken,
    /// Of an SQLite database: this process alone has it.
    _lock: Option<DataDir>,
}

impl Base {
    /// Of a host in one process: its data directory is held by the caller.
    pub fn embedded(store: Store, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>, config: Config) -> Self {
        let (bus, stop) = (LocalBus::new(), CancellationToken::new());
        Self { store, bus, clock, entropy, config, stop, _lock: None }
    }

    /// Of a role that runs alone and reads or collects large blobs. `topics` are the wakes that it listens for.
    ///
    /// # Errors
    /// Also when the database has not this program's schema: `nexus migrate` brings it there.
    pub async fn open_with_objects(config: Config, topics: &[Topic]) -> anyhow::Result<Self> {
        let base = Self::open(config, topics).await?;
        let store = with_objects(base.store, &base.config)?;
        Ok(Self { store, ..base })
    }

    /// Of a role that runs alone and reads no large blobs.
    ///
    /// # Errors
    /// Also when the database has not this program's schema: `nexus migrate` brings it there.
    pub async fn open(config: Config, topics: &[Topic]) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let (store, lock) = open_store(&config).await?;
        installation::ensure(&store, random(&*entropy), clock.now()).await.context("naming this installation")?;
        let bus = open_bus(&config, topics, &entropy)?;
        Ok(Self { store, bus, clock, entropy, config, stop: CancellationToken::new(), _lock: lock })
    }
}

/// Where large blobs go, for the roles that write and collect them: nothing is reached yet.
pub fn with_objects(store: Store, config: &Config) -> anyhow::Result<Store> {
    Ok(store.with_objects(open_objects(config)?))
}

/// None when every blob stays in the database.
pub fn open_objects(config: &Config) -> anyhow::Result<Option<Objects>> {
    if config.objects.kind == ObjectKind::None {
        return Ok(None);
    }
    let directory = data_dir::objects(&role::data_dir(config)?);
    Objects::open(&config.objects, &directory).context("opening the object store\n  next: correct [objects]")
}

/// Brings a database to this program's schema, making it if it is missing; the only place that does.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    match config.database.kind {
        DatabaseKind::Sqlite => {
            let (path, _lock) = hold_sqlite(config)?;
            let opening = path.clone();
            tokio::task::spawn_blocking(move || Store::open(&opening)).await??;
            nexus_client::file::keep_private(&path)?;
            Ok(())
        }
        DatabaseKind::Postgres => Ok(Store::migrate_postgres(config.database.postgres.clone()).await?),
    }
}

async fn open_store(config: &Config) -> anyhow::Result<(Store, Option<DataDir>)> {
    match config.database.kind {
        DatabaseKind::Sqlite => {
            let (path, lock) = hold_sqlite(config)?;
            if !path.exists() {
                bail!("there is no database at {}\n  next: `nexus migrate` makes it", path.display());
            }
            let store = tokio::task::spawn_blocking(move || Store::open(&path)).await?.context(UNMIGRATED)?;
            Ok((store, Some(lock)))
        }
        DatabaseKind::Postgres => {
            // Only `nexus migrate` changes a schema.
            let postgres = PostgresConfig { migrate: false, ..config.database.postgres.clone() };
            Ok((Store::open_postgres(postgres).await?, None))
        }
    }
}

/// A second handle, for writes that must not queue behind others: a worker's beats.
pub async fn open_alone(config: &Config) -> anyhow::Result<Option<Store>> {
    match config.database.kind {
        DatabaseKind::Sqlite => Ok(None),
        DatabaseKind::Postgres => Ok(Some(Store::open_postgres(config.database.postgres.alone()).await?)),
    }
}

const UNMIGRATED: &str = "opening the database\n  next: if its schema is older than this program, run `nexus migrate`";

/// The file of an SQLite database, and the lock of the directory that it is in: it is one process's at a time.
fn hold_sqlite(config: &Config) -> anyhow::Result<(PathBuf, DataDir)> {
    let path = sqlite_file(config)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let lock = DataDir::open(dir).context(
        "an SQLite database serves one process: `nexus dev` runs every role in one, several processes need PostgreSQL",
    )?;
    Ok((path, lock))
}

pub fn sqlite_file(config: &Config) -> anyhow::Result<PathBuf> {
    match &config.database.sqlite_file {
        Some(path) => Ok(path.clone()),
        None => Ok(data_dir::database(&role::data_dir(config)?)),
    }
}

fn open_bus(config: &Config, topics: &[Topic], entropy: &Arc<dyn Entropy>) -> anyhow::Result<SharedBus> {
    match config.bus.kind {
        BusKind::InProcess => Ok(LocalBus::new()),
        BusKind::Nats => {
            let bus = NatsBus::open(config.bus.nats.clone(), topics, Arc::clone(entropy));
            Ok(bus.context("setting up the bus\n  next: correct [bus.nats]")?)
        }
    }
}
