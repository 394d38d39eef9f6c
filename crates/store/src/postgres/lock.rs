//! Which rows a group locks before its batches run, so that groups of different connections never wait in a circle.

use std::collections::BTreeMap;

use super::pipeline::Reply;
use crate::batch::{Batch, Lock, Statement, Value};
use crate::dialect::{self, Locked};

/// Statements of the opening before the locks: BEGIN and the marker.
const BEFORE: usize = 2;

#[derive(Debug, Default)]
pub(crate) struct Locks {
    /// By worker: whether someone in the group moves the fence.
    fences: BTreeMap<Vec<u8>, bool>,
    counter: bool,
}

/// The agent whose row the batch locks; groups run their batches in this order.
pub(crate) fn agent_of(batch: &Batch) -> Option<&[u8]> {
    batch.statements.iter().find_map(|statement| match dialect::locked(statement) {
        Some(Locked::Agent(npub)) => Some(npub),
        Some(Locked::Fence(_) | Locked::Counter) | None => None,
    })
}

impl Locks {
    pub(crate) fn of(batches: &[&Batch]) -> Self {
        let mut locks = Self::default();
        for batch in batches {
            if let Some(fence) = batch.fence {
                locks.fences.entry(fence.worker.as_bytes().to_vec()).or_default();
            }
            for statement in &batch.statements {
                match dialect::locked(statement) {
                    Some(Locked::Fence(worker)) => *locks.fences.entry(worker.to_vec()).or_default() = true,
                    Some(Locked::Counter) => locks.counter = true,
                    Some(Locked::Agent(_)) | None => {}
                }
            }
        }
        locks
    }

    /// Nothing but the shared lock of the batch's own fence.
    pub(crate) fn only_share(&self, batch: &Batch) -> bool {
        let own = usize::from(batch.fence.is_some());
        self.fences.len() == own && self.fences.values().all(|moves| !moves) && !self.counter
    }

    /// In the one order.
    pub(crate) fn statements(&self) -> Vec<Statement> {
        let fence = |(worker, moves): (&Vec<u8>, &bool)| {
            let lock = if *moves { Lock::Update } else { Lock::Share };
            Statement::read(dialect::FENCE_STANDS, vec![Value::Blob(worker.clone())]).lock(lock)
        };
        let mut statements: Vec<Statement> = self.fences.iter().map(fence).collect();
        if self.counter {
            statements.push(Statement::read(dialect::COUNTER, Vec::new()).lock(Lock::Update));
        }
        statements
    }

    /// The incarnation at which each locked fence stands, from the replies to the opening.
    pub(crate) fn stands(&self, opening: &[Reply]) -> Vec<(Vec<u8>, i64)> {
        let read = |(worker, reply): (&Vec<u8>, &Reply)| match reply {
            Reply::Done { output, .. } => match output.rows.first().and_then(|row| row.0.first()) {
                Some(Value::Int(incarnation)) => Some((worker.clone(), *incarnation)),
                _ => None,
            },
            Reply::Failed(_) | Reply::Skipped => None,
        };
        self.fences.keys().zip(opening.iter().skip(BEFORE)).filter_map(read).collect()
    }
}
