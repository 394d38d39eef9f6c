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
pub const WALLETS_AWAY: &str = "wallets away for minutes";
pub const WALLET_MISSED: &str = "agent says that its wallet is away";
pub const NODE_AWAY: &str = "operator's node away for long";
pub const DAYS: &str = "hours or days pass";
pub const CREDITED: &str = "hosting credited";
pub const CHARGED: &str = "month charged";
pub const REFUNDED: &str = "rest of a month given back";
pub const SUSPENDED: &str = "agent suspended";
pub const REVIVED: &str = "agent revived";
pub const ALL_SUSPENDED: &str = "nobody ticks unpaid";
pub const FORGOTTEN: &str = "invoice forgotten";
pub const PAID_FOR: &str = "hosting invoice paid";
pub const PAID_AGAIN: &str = "hosting invoice paid again";
pub const OVERPAID: &str = "hosting invoice overpaid";
pub const ARRIVED_LATE: &str = "payment arrives after the expiry";
pub const EXPIRED: &str = "expired invoice not paid";
pub const FOREIGN: &str = "money for no invoice";
pub const RENT: &str = "agent pays its rent";
pub const MADE: &str = "agent made";
pub const DELETED: &str = "agent deleted";

const ACCIDENTS: [&str; 7] = [KILLED, STALLED, PAUSED, CLOCK_JUMP, REGION_LOST, WALLETS_AWAY, NODE_AWAY];
const OPERATIONS: [&str; 49] = [
    WALLET_MISSED,
    DAYS,
    CREDITED,
    CHARGED,
    REFUNDED,
    SUSPENDED,
    REVIVED,
    ALL_SUSPENDED,
    FORGOTTEN,
    PAID_FOR,
    PAID_AGAIN,
    OVERPAID,
    ARRIVED_LATE,
    EXPIRED,
    RENT,
    FOREIGN,
    MADE,
    DELETED,
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
