//! SQLite on the caller's thread.
use crate::{Batch, BoxFuture, Executor, Output, Result};
use std::path::Path;
pub(crate) struct InlineExecutor;
impl InlineExecutor {
    pub(crate) fn open(_path: &Path) -> Result<Self> {
        todo!()
    }
    pub(crate) fn open_memory() -> Result<Self> {
        todo!()
    }
}
impl Executor for InlineExecutor {
    fn write(&self, _batch: Batch) -> BoxFuture<'_, Result<Vec<Output>>> {
        todo!()
    }
    fn read(&self, _batch: Batch) -> BoxFuture<'_, Result<Vec<Output>>> {
        todo!()
    }
}
