//! A simulated process: it runs, stands still, or is dead; and its clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nexus_core::{Clock, MonoMs, UnixMs};
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Running,
    /// As under SIGSTOP: whatever reaches the outside waits.
    Frozen,
    /// As after SIGKILL: nothing reaches the outside any more.
    Dead,
}

/// One life of a process. A restart is another one.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    pub clock: Arc<SimClock>,
    phase: Mutex<Phase>,
    /// How long it stood still in all, and since when it does now.
    still: Mutex<(u64, Option<u64>)>,
    changed: Notify,
}

impl Process {
    pub fn new(name: impl Into<String>, clock: Arc<SimClock>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            clock,
            phase: Mutex::new(Phase::Running),
            still: Mutex::default(),
            changed: Notify::new(),
        })
    }

    pub fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Freezes or thaws. The dead stay dead.
    pub fn freeze(&self, frozen: bool) {
        let to = if frozen { Phase::Frozen } else { Phase::Running };
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase != Phase::Dead {
            *phase = to;
        }
        drop(phase);
        let now = self.clock.mono().0;
        let mut still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        match (still.1, frozen) {
            (None, true) => still.1 = Some(now),
            (Some(since), false) => *still = (still.0 + now.saturating_sub(since), None),
            (None, false) | (Some(_), true) => {}
        }
        drop(still);
        self.changed.notify_waiters();
    }

    /// Virtual ms in which it stood still.
    pub fn stood_still_ms(&self) -> u64 {
        let (before, since) = *self.still.lock().unwrap_or_else(PoisonError::into_inner);
        before + since.map_or(0, |since| self.clock.mono().0.saturating_sub(since))
    }

    pub fn kill(&self) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = Phase::Dead;
    }

    /// Everything that touches the outside passes here: at once, after the thaw, or never.
    pub async fn pass(&self) {
        loop {
            let changed = self.changed.notified();
            match self.phase() {
                Phase::Running => return,
                Phase::Frozen => changed.await,
                Phase::Dead => std::future::pending().await,
            }
        }
    }
}

/// Virtual time. The monotonic clock is the run's own; the wall clock may be off.
#[derive(Debug)]
pub struct SimClock {
    start: Instant,
    wall: i64,
    off_ms: AtomicI64,
    /// Wall time in which nothing happened to anybody, the same for all clocks of a world.
    passed_ms: Arc<AtomicI64>,
}

impl SimClock {
    pub fn new(start: Instant, wall: UnixMs) -> Arc<Self> {
        Arc::new(Self { start, wall: wall.0, off_ms: AtomicI64::new(0), passed_ms: Arc::default() })
    }

    /// Another clock of the same world, right at first.
    pub fn twin(&self) -> Arc<Self> {
        let (start, wall, passed_ms) = (self.start, self.wall, self.passed_ms.clone());
        Arc::new(Self { start, wall, off_ms: AtomicI64::new(0), passed_ms })
    }

    /// Lets so much time pass at once on every clock of the world.
    pub fn pass_ms(&self, ms: i64) {
        self.passed_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Sets how far this wall clock is from the true one.
    pub fn set_off(&self, ms: i64) {
        self.off_ms.store(ms, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> UnixMs {
        let mono = i64::try_from(self.mono().0).unwrap_or(i64::MAX);
        let off = self.off_ms.load(Ordering::SeqCst).saturating_add(self.passed_ms.load(Ordering::SeqCst));
        UnixMs(self.wall.saturating_add(mono).saturating_add(off))
    }

    fn mono(&self) -> MonoMs {
        MonoMs(u64::try_from(Instant::now().duration_since(self.start).as_millis()).unwrap_or(u64::MAX))
    }
}
