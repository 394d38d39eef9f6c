//! What the bus knows about itself: written by its connection, read by anyone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::BusHealth;

const MAX_PROBLEM: usize = 300;

#[derive(Debug, Default)]
pub(super) struct State {
    connected: AtomicBool,
    connects: AtomicU64,
    published: AtomicU64,
    dropped: AtomicU64,
    received: AtomicU64,
    ignored: AtomicU64,
    problem: Mutex<Option<String>>,
}

/// A counter that logs with itself gets 64 lines at most.
fn is_worth_a_line(count: u64) -> bool {
    count.is_power_of_two()
}

fn add(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

impl State {
    pub(super) fn health(&self) -> BusHealth {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BusHealth {
            connected: self.connected.load(Ordering::Relaxed),
            problem: self.problem().clone(),
            connects: read(&self.connects),
            published: read(&self.published),
            dropped: read(&self.dropped),
            received: read(&self.received),
            ignored: read(&self.ignored),
        }
    }

    /// A connection was made; whether it carries anything is not known yet.
    pub(super) fn connecting(&self) {
        add(&self.connects);
        self.connected.store(false, Ordering::Relaxed);
        *self.problem() = None;
    }

    pub(super) fn up(&self) {
        self.connected.store(true, Ordering::Relaxed);
        tracing::info!("bus connected");
    }

    pub(super) fn down(&self, why: &str) {
        self.connected.store(false, Ordering::Relaxed);
        self.trouble(why);
    }

    /// Something does not work. The same thing again is not worth a line.
    pub(super) fn trouble(&self, what: &str) {
        let end = (0..=MAX_PROBLEM.min(what.len())).rev().find(|end| what.is_char_boundary(*end)).unwrap_or(0);
        let what = &what[..end];
        let mut problem = self.problem();
        if problem.as_deref() != Some(what) {
            tracing::warn!(problem = what, "bus");
            *problem = Some(what.to_owned());
        }
    }

    pub(super) fn has_trouble(&self) -> bool {
        self.problem().is_some()
    }

    pub(super) fn published(&self) {
        add(&self.published);
    }

    pub(super) fn dropped(&self) {
        let count = add(&self.dropped);
        if is_worth_a_line(count) {
            tracing::warn!(count, "bus: wakes dropped");
        }
    }

    pub(super) fn received(&self) {
        add(&self.received);
    }

    pub(super) fn ignored(&self, why: &dyn std::fmt::Display) {
        let count = add(&self.ignored);
        if is_worth_a_line(count) {
            tracing::warn!(count, %why, "bus: message ignored");
        }
    }

    fn problem(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
