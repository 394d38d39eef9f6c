//! Why an agent has to wait for a worker.

/// Why an agent gets no worker now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Waiting {
    /// No live worker of its pool.
    NoWorker,
    /// Its region has none and it may not leave.
    NoRegion,
    /// The only live workers are too old for its state.
    TooOld,
    /// All are full.
    NoCapacity,
}

impl Waiting {
    /// The reason in words, as an owner reads it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoWorker => "no live worker in this agent's pool; it is placed as soon as one appears",
            Self::NoRegion => "no live worker in this agent's home region, and it may not run elsewhere",
            Self::TooOld => "the live workers are older than this agent's state; it waits for an upgraded one",
            Self::NoCapacity => "every live worker is full; it is placed as soon as there is room",
        }
    }

    pub const fn code(self) -> &'static str {
        match self {
            Self::NoWorker => "no_worker",
            Self::NoRegion => "no_worker_in_region",
            Self::TooOld => "workers_too_old",
            Self::NoCapacity => "no_capacity",
        }
    }
}
