//! PostgreSQL as an executor: a few connections write in groups, a few read.
//!
//! The wire protocol is spoken here and not through a client library, because a group of some hundred statements must be
//! one write and one read (`docs/adr/0005-postgresql.md`).

mod config;
mod evict;
mod group;
mod lock;
mod look;
pub(crate) mod migrate;
mod pipeline;
mod prepared;
mod reader;
mod session;
mod tls;
mod together;
mod wire;
mod writer;

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};

pub use config::{PostgresConfig, SslMode};
pub use look::Server as PostgresServer;
pub(crate) use look::look;
use reader::Readers;
pub(crate) use session::Dialer;
pub(crate) use wire::{Failure, Wire};
use writer::{Job, Writer};

use crate::batch::{Batch, Output};
use crate::error::StoreError;
use crate::executor::{BoxFuture, Executor};

/// Batches that wait for a writer; more callers than this wait for room.
const QUEUE: usize = 4_096;

/// Its tasks end when it is dropped, after what was queued.
pub(crate) struct PostgresExecutor {
    queue: mpsc::Sender<Job>,
    readers: Readers,
}

impl PostgresExecutor {
    /// Migrates (or looks at the schema) and opens the writers' connections.
    pub(crate) async fn open(config: PostgresConfig) -> Result<Self, StoreError> {
        let dialer = Arc::new(Dialer::new(config)?);
        migrate::run(&dialer, dialer.config.migrate).await?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..dialer.config.writers {
            let link = dialer.writer().await.map_err(|failure| dialer.unreachable(&failure))?;
            tokio::spawn(Writer::new(dialer.clone(), link).run(jobs.clone()));
        }
        Ok(Self { queue, readers: Readers::new(dialer) })
    }

    /// Brings the schema forward and leaves.
    pub(crate) async fn migrate(config: PostgresConfig) -> Result<(), StoreError> {
        migrate::run(&Dialer::new(config)?, true).await
    }
}

impl Executor for PostgresExecutor {
    fn write(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Output>, StoreError>> {
        Box::pin(async move {
            let closed = StoreError::Closed { attempted: batch.attempted };
            let (reply, answer) = oneshot::channel();
            let job = Job { batch, reply, tries: 0 };
            self.queue.send(job).await.map_err(|_| closed.clone())?;
            answer.await.unwrap_or(Err(closed))
        })
    }

    fn read(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Output>, StoreError>> {
        Box::pin(async move { self.readers.read(&batch).await })
    }
}
