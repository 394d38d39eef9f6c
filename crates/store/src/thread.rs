//! SQLite on its own threads.
use crate::{Batch, BoxFuture, Executor, Output, Result};
use std::path::Path;
pub(crate) struct ThreadExecutor;
impl ThreadExecutor {
    pub(crate) fn open(_path: &Path) -> Result<Self> {
        todo!()
    }
}
impl Executor for ThreadExecutor {
    fn write(&self, _batch: Batch) -> BoxFuture<'_, Result<Vec<Output>>> {
        todo!()
    }
    fn read(&self, _batch: Batch) -> BoxFuture<'_, Result<Vec<Output>>> {
        todo!()
    }
}
