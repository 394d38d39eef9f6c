//! Defects that a test wants in the hosting ledger, to see them found. Only a test binary has the feature.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Store;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A settlement is credited under a key of its own each time that it is seen.
    CreditedEachTime,
    /// A month is charged without a look whether it was charged meanwhile, and under a key of its own.
    MonthUnguarded,
    /// Of whoever goes, twice what is left of its month is given back.
    RefundDoubled,
}

/// A defect, shared by all handles that have it.
#[derive(Debug, Clone)]
pub struct Defect {
    what: Broken,
    keys: Arc<AtomicU64>,
}

impl Defect {
    pub fn new(what: Broken) -> Self {
        Self { what, keys: Arc::default() }
    }
}

impl Store {
    pub(crate) fn is_broken(&self, what: Broken) -> bool {
        self.defect.as_ref().is_some_and(|defect| defect.what == what)
    }

    /// A key that is not there yet, whatever it names.
    pub(crate) fn another_key(&self, key: String) -> String {
        let made = self.defect.as_ref().map_or(0, |defect| defect.keys.fetch_add(1, Ordering::SeqCst));
        format!("{key}:{made}")
    }
}
