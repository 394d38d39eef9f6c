//! What a tick pays for: a job, or a zap. One machine pays both; this says under which name, and what is written down.

use nexus_core::payment::FailureClass;
use nexus_core::tick::zap::ZapMove;
use nexus_core::tick::{Failure, Record};
use nexus_core::{Hash32, Msat, TickId, UnixMs};

/// One payable step of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payable {
    Job { attempt: u8 },
    Zap { index: usize },
}

impl Payable {
    /// At most one open intent has this name. Drivers take up to 64 bytes.
    pub fn step(self, tick: TickId) -> String {
        match self {
            Self::Job { attempt } => format!("job:{tick}:{attempt}"),
            Self::Zap { index } => format!("zap:{tick}:{index}"),
        }
    }

    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Job { .. } => "inference",
            Self::Zap { .. } => "zap",
        }
    }

    pub const fn paying(self) -> Record {
        match self {
            Self::Job { attempt } => Record::Paying { attempt },
            Self::Zap { index } => Record::Zap { index, step: ZapMove::Paying },
        }
    }

    pub const fn paid(self, fee: Msat, preimage: Option<Hash32>, at: UnixMs) -> Record {
        match self {
            Self::Job { attempt } => Record::Paid { attempt, fee, preimage, at },
            Self::Zap { index } => Record::Zap { index, step: ZapMove::Paid { fee, preimage, at } },
        }
    }

    pub const fn not_paid(self, class: FailureClass) -> Record {
        match self {
            Self::Job { attempt } => Record::NotPaid { attempt, class },
            Self::Zap { index } => Record::Zap { index, step: ZapMove::NotPaid { class } },
        }
    }

    /// It may have left and stays with recovery: a job's tick ends with that, a zap's goes on without it.
    pub const fn unresolved(self) -> Record {
        match self {
            Self::Job { .. } => Record::Failed { reason: Failure::PaymentUnresolved },
            Self::Zap { index } => Record::Zap { index, step: ZapMove::Unresolved },
        }
    }

    /// Given up before anything left.
    pub const fn given_up(self, why: String) -> Record {
        match self {
            Self::Job { attempt } => Record::Abandoned { attempt, why },
            Self::Zap { index } => Record::Zap { index, step: ZapMove::Failed { why } },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steps_name_is_its_own_and_short_enough() {
        let tick = TickId::new(UnixMs(1_800_000_000_000), [0xff; 10]);
        let names = [
            Payable::Job { attempt: 0 }.step(tick),
            Payable::Job { attempt: 2 }.step(tick),
            Payable::Zap { index: 0 }.step(tick),
            Payable::Zap { index: nexus_core::action::MAX_ACTIONS - 1 }.step(tick),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(names.iter().all(|name| name.len() <= 64), "{names:?}");
    }
}
