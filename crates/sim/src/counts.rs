//! How often each thing happened: faults, and what people and operators did.

use std::collections::BTreeMap;

use crate::plan::Fault;
use crate::provider::Manner;

pub const KILLED: &str = "process killed";
pub const STALLED: &str = "stall past the lease";
pub const PAUSED: &str = "stall within the lease";
pub const CLOCK_JUMP: &str = "clock jumps";
pub const REGION_LOST: &str = "region lost";

pub const SCHEDULED: &str = "run of a schedule";
pub const LEFT: &str = "agent moves away";
pub const RETURNED: &str = "agent comes back";
pub const SIGNER_AWAY: &str = "signer goes away";
pub const WEBHOOK: &str = "webhook";
pub const MENTION: &str = "mention";
pub const DM: &str = "direct message";
pub const MANUAL: &str = "manual trigger";
pub const REPEATED: &str = "message comes again";
pub const STOPPED: &str = "agent stopped";
pub const STOPPED_NOW: &str = "agent stopped at once";
pub const STARTED: &str = "agent started";
pub const POLICY: &str = "policy changed";
pub const WEEK: &str = "a week passes";
pub const ASKED: &str = "owner is asked";
pub const APPROVED: &str = "owner approves";
pub const DENIED: &str = "owner refuses";
pub const TOO_LATE: &str = "owner answers too late";
pub const ANSWERS: &str = "owner's answer";
pub const EXECUTED: &str = "approved action carried out";
pub const FUNDED: &str = "agent funded";
pub const WITHDRAWAL: &str = "owner withdraws";
pub const WITHDRAWN: &str = "sats withdrawn";
pub const DRAINED: &str = "process asked to stop";
pub const REGION_BACK: &str = "region back";
pub const AWAY: &str = "agent away from home";
pub const HOME: &str = "agent home again";
pub const TAKEOVER: &str = "takeover of the term";
pub const MOVED: &str = "agent taken over";
pub const ANSWERED: &str = "note answered";
pub const ANSWERED_DM: &str = "direct message answered";

const ACCIDENTS: [&str; 5] = [KILLED, STALLED, PAUSED, CLOCK_JUMP, REGION_LOST];
const OPERATIONS: [&str; 31] = [
    SIGNER_AWAY,
    LEFT,
    RETURNED,
    WEBHOOK,
    SCHEDULED,
    ANSWERS,
    WEEK,
    ASKED,
    APPROVED,
    DENIED,
    TOO_LATE,
    EXECUTED,
    MENTION,
    DM,
    MANUAL,
    REPEATED,
    STOPPED,
    STOPPED_NOW,
    STARTED,
    POLICY,
    FUNDED,
    WITHDRAWAL,
    WITHDRAWN,
    DRAINED,
    REGION_BACK,
    AWAY,
    HOME,
    TAKEOVER,
    MOVED,
    ANSWERED,
    ANSWERED_DM,
];

/// Counts under fixed names, all of them there from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Default for Counts {
    fn default() -> Self {
        let all = Fault::names().chain(Manner::odd()).chain(ACCIDENTS).chain(OPERATIONS);
        Self(all.map(|name| (name, 0)).collect())
    }
}

impl Counts {
    pub(crate) fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Name and number, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, count)| (*name, *count))
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for (name, count) in other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }
}
