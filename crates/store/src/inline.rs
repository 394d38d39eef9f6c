//! SQLite on the caller's thread: the same SQL, no pool, no queue. Each write is a group of its own.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::batch::{Batch, Output};
use crate::error::StoreError;
use crate::executor::{BoxFuture, Executor};
use crate::sqlite::Engine;

pub(crate) struct InlineExecutor {
    engine: Mutex<Engine>,
}

impl InlineExecutor {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { engine: Mutex::new(Engine::open(path)?) })
    }

    pub(crate) fn open_memory() -> Result<Self, StoreError> {
        Ok(Self { engine: Mutex::new(Engine::open_memory()?) })
    }

    #[cfg(feature = "broken")]
    pub(crate) fn open_memory_unfenced() -> Result<Self, StoreError> {
        Ok(Self { engine: Mutex::new(Engine::open_memory()?.unfenced()) })
    }

    /// Each group begins with a rollback of what a panic may have left open, so a poisoned lock is no harm.
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor for InlineExecutor {
    fn write(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Output>, StoreError>> {
        Box::pin(async move {
            let attempted = batch.attempted;
            let verdict = self.engine().run_group(std::slice::from_ref(&batch)).pop();
            verdict.unwrap_or(Err(StoreError::Closed { attempted }))
        })
    }

    fn read(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Output>, StoreError>> {
        Box::pin(async move { self.engine().read(&batch) })
    }
}
