//! Code that is broken on purpose, one way at a time: a check that finds nothing wrong with it is no check.
//!
//! Only a test binary has the feature. Nothing that is shipped can be built with it by accident: no other crate asks
//! for it, and without it the switches are not there.

use nexus_store::broken::{Broken as BrokenBooks, Defect};
use nexus_worker::{Broken, Faults};

use crate::many::{Seeds, Summary, run_each};
use crate::run::{Fault, Report, Variant, run_with};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The store does not look whether a worker's fence holds.
    FenceRemoved,
    /// A payment leaves before the journal says so.
    IntentNotJournaled,
    /// A payment whose fate is not known is sent again, and the second answer believed.
    ResentWhenUnknown,
    /// Another invoice for a job that is paid is paid too.
    SecondInvoicePaid,
    /// What comes for hosting is credited each time that it is seen.
    CreditedEachTime,
    /// A month of hosting is charged without a look whether it was.
    MonthUnguarded,
    /// Whoever goes gets back twice what is left of its month.
    RefundDoubled,
}

impl Way {
    pub const ALL: [Self; 7] = [
        Self::FenceRemoved,
        Self::IntentNotJournaled,
        Self::ResentWhenUnknown,
        Self::SecondInvoicePaid,
        Self::CreditedEachTime,
        Self::MonthUnguarded,
        Self::RefundDoubled,
    ];

    fn variant(self) -> Variant {
        let worker = |broken| Variant { faults: Faults::broken(broken), ..Variant::default() };
        let books = |broken| Variant { defect: Some(Defect::new(broken)), ..Variant::default() };
        match self {
            Self::FenceRemoved => Variant { unfenced: true, ..Variant::default() },
            Self::IntentNotJournaled => worker(Broken::IntentNotJournaled),
            Self::ResentWhenUnknown => worker(Broken::ResentWhenUnknown),
            Self::SecondInvoicePaid => worker(Broken::SecondInvoicePaid),
            Self::CreditedEachTime => books(BrokenBooks::CreditedEachTime),
            Self::MonthUnguarded => books(BrokenBooks::MonthUnguarded),
            Self::RefundDoubled => books(BrokenBooks::RefundDoubled),
        }
    }
}

/// Runs one seed with broken code.
pub fn run(seed: u64, way: Way) -> Result<Report, Fault> {
    run_with(seed, way.variant())
}

/// Runs seeds with broken code until something is found.
pub fn search(way: Way, seeds: Seeds) -> Result<Summary, Fault> {
    run_each(Seeds { stop_at_violation: true, ..seeds }, |seed| run(seed, way), |_| {})
}
