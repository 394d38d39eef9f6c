//! The one trait between the vocabulary and a database.

use std::future::Future;
use std::pin::Pin;

use crate::batch::{Batch, Output};
use crate::error::StoreError;

/// A boxed future, so that the trait is object-safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs batches.
///
/// A write is answered only when it is durable, or surely not done, or [`StoreError::Uncertain`]. A batch whose
/// expectation fails is rolled back alone: batches that share its commit are unharmed.
pub trait Executor: Send + Sync + 'static {
    fn write(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Output>, StoreError>>;

    /// For batches that change nothing. Sees every write that was answered before the call.
    fn read(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Output>, StoreError>>;
}
