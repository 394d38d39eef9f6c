//! What happened in a run: hashed as it goes, its end kept for people.
//!
//! Lines hold virtual times, transitions, counts and labels; never ciphertext, signatures, or ids made of them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// Lines kept for the report of a violation.
const TAIL: usize = 4_000;
/// Violations kept; the first one is what counts.
const MAX_VIOLATIONS: usize = 8;

#[derive(Debug)]
pub struct Trace {
    start: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    hasher: Sha256,
    lines: u64,
    tail: VecDeque<String>,
    violations: Vec<String>,
}

/// A finished trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub hash: String,
    pub lines: u64,
    pub tail: Vec<String>,
    pub violations: Vec<String>,
}

impl Trace {
    pub fn new(start: Instant) -> Self {
        Self { start, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, what: impl std::fmt::Display) {
        let at = Instant::now().duration_since(self.start).as_millis();
        let line = format!("{:>4}.{:03} {what}", at / 1_000, at % 1_000);
        let mut inner = self.inner();
        inner.hasher.update(line.as_bytes());
        inner.hasher.update(b"\n");
        inner.lines += 1;
        if inner.tail.len() == TAIL {
            inner.tail.pop_front();
        }
        inner.tail.push_back(line);
    }

    /// Something that must never be.
    pub fn violated(&self, what: impl std::fmt::Display) {
        let text = what.to_string();
        self.note(format_args!("VIOLATED {text}"));
        let mut inner = self.inner();
        if inner.violations.len() < MAX_VIOLATIONS {
            inner.violations.push(text);
        }
    }

    pub fn is_violated(&self) -> bool {
        !self.inner().violations.is_empty()
    }

    pub fn finish(&self) -> Recorded {
        let inner = self.inner();
        Recorded {
            hash: hex::encode(inner.hasher.clone().finalize()),
            lines: inner.lines,
            tail: inner.tail.iter().cloned().collect(),
            violations: inner.violations.clone(),
        }
    }
}
