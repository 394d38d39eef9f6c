//! What an owner is told without having asked: that an agent needs them.

use crate::lifecycle::Lifecycle;
use crate::status::{CustodyState, Desired, Hosting};
use crate::time::UnixMs;

/// Between two notices of one agent, at least.
pub const BETWEEN_MS: i64 = 600_000;

/// Reasons that pass only when the owner, or somebody for them, does something.
const NEEDS_OWNER: [&str; 14] = [
    "policy_missing",
    "policy_refused",
    "state_rollback",
    "state_refused",
    "state_missing",
    "state_generation",
    "keys_refused",
    "sealed_key_refused",
    "budget_tampered",
    "rows_conflict",
    "crash_loop",
    "wallet_unreachable",
    "wallet_unavailable",
    "no_provider",
];

/// How an agent stands, as its row shows it.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    pub desired: Desired,
    pub custody: CustodyState,
    pub lifecycle: Lifecycle,
    pub reason: Option<&'a str>,
    pub hosting: Hosting,
    /// Its hosting ends in less than so many days, and is not covered.
    pub hosting_notice: Option<u16>,
    /// What the owner was last told, and when something was.
    pub noticed: Option<&'a str>,
    pub noticed_at: Option<UnixMs>,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice<'a> {
    /// Tell the owner this.
    Tell(&'a str),
    /// What was told is over.
    Over,
}

/// What an agent needs its owner for: hosting first, since it ends everything; then a key, what its reason says, and money.
pub fn concern<'a>(shown: &Shown<'a>) -> Option<&'a str> {
    match (shown.hosting, shown.hosting_notice) {
        (Hosting::Suspended, _) => return Some("hosting_suspended"),
        (Hosting::Grace, _) => return Some("hosting_grace"),
        (Hosting::Trial | Hosting::Paid, Some(0..=1)) => return Some("hosting_ends_1"),
        (Hosting::Trial | Hosting::Paid, Some(2..=3)) => return Some("hosting_ends_3"),
        (Hosting::Trial | Hosting::Paid, Some(_)) => return Some("hosting_ends_7"),
        (Hosting::Trial | Hosting::Paid, None) => {}
    }
    if shown.desired == Desired::Stopped {
        return None;
    }
    match shown.custody {
        CustodyState::Locked => return Some("locked"),
        CustodyState::SignerOffline => return Some("signer_offline"),
        _ => {}
    }
    if let Some(code) = shown.reason.filter(|code| NEEDS_OWNER.contains(code)) {
        return Some(code);
    }
    match shown.lifecycle {
        Lifecycle::LowBalance => Some("low_balance"),
        Lifecycle::Hibernating => Some("hibernating"),
        Lifecycle::Dormant => Some("dormant"),
        Lifecycle::Spawning | Lifecycle::Active => None,
    }
}

/// Whether something is to be told now. What comes too soon after the last notice is told later, if it is still so.
pub fn due<'a>(shown: &Shown<'a>, now: UnixMs) -> Option<Notice<'a>> {
    match (concern(shown), shown.noticed) {
        (None, None) => None,
        (None, Some(_)) => Some(Notice::Over),
        (Some(code), Some(told)) if code == told => None,
        (Some(code), _) => {
            let soon = shown.noticed_at.is_some_and(|at| (0..BETWEEN_MS).contains(&now.0.saturating_sub(at.0)));
            (!soon).then_some(Notice::Tell(code))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Shown<'static> = Shown {
        desired: Desired::Running,
        custody: CustodyState::Ready,
        lifecycle: Lifecycle::Active,
        reason: None,
        hosting: Hosting::Paid,
        hosting_notice: None,
        noticed: None,
        noticed_at: None,
    };

    #[test]
    fn each_need_is_told_once_and_not_in_a_row() {
        let now = UnixMs(10_000_000);
        assert_eq!(due(&QUIET, now), None);
        let low = Shown { lifecycle: Lifecycle::LowBalance, ..QUIET };
        assert_eq!(due(&low, now), Some(Notice::Tell("low_balance")));
        let told = Shown { noticed: Some("low_balance"), noticed_at: Some(now), ..low };
        assert_eq!(due(&told, now.plus_ms(BETWEEN_MS * 9)), None, "told before");
        let worse = Shown { lifecycle: Lifecycle::Dormant, ..told };
        assert_eq!(due(&worse, now.plus_ms(1)), None, "too soon");
        assert_eq!(due(&worse, now.plus_ms(BETWEEN_MS)), Some(Notice::Tell("dormant")));
        assert_eq!(due(&worse, UnixMs(0)), Some(Notice::Tell("dormant")), "a clock that went back silences nobody");
        assert_eq!(due(&Shown { lifecycle: Lifecycle::Active, ..told }, now), Some(Notice::Over));
    }

    #[test]
    fn a_key_comes_before_money_and_what_passes_is_not_told() {
        let now = UnixMs(0);
        let poor = Shown { lifecycle: Lifecycle::Dormant, ..QUIET };
        assert_eq!(due(&Shown { custody: CustodyState::Locked, ..poor }, now), Some(Notice::Tell("locked")));
        let reason = |code| Shown { reason: Some(code), ..poor };
        assert_eq!(due(&reason("state_rollback"), now), Some(Notice::Tell("state_rollback")));
        assert_eq!(due(&reason("database"), now), Some(Notice::Tell("dormant")));
        let ending = Shown { desired: Desired::Stopped, hosting_notice: Some(3), ..poor };
        assert_eq!(due(&ending, now), Some(Notice::Tell("hosting_ends_3")), "a stopped agent's, too");
        let over = Shown { hosting: Hosting::Suspended, ..ending };
        assert_eq!(due(&over, now), Some(Notice::Tell("hosting_suspended")));
        assert_eq!(due(&Shown { desired: Desired::Stopped, ..reason("policy_missing") }, now), None);
    }
}
