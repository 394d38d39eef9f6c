//! The agent's compute funds decide how alive it is. It is never dead.

use serde::{Deserialize, Serialize};

use crate::money::Msat;
use crate::status::axis;
use crate::time::UnixMs;
use crate::trigger::Trigger;
use std::fmt;

axis!(
    /// How the agent's wallet stands.
    Lifecycle {
        /// Created, never funded: nothing ticks.
        Spawning = "spawning",
        Active = "active",
        /// Less than seven days of runway.
        LowBalance = "low_balance",
        /// Too little to think: only a zap, a manual tick, an approval or funding wakes it.
        Hibernating = "hibernating",
        /// Hibernating for 30 days: only funding wakes it.
        Dormant = "dormant",
    }
);

/// The thresholds, in the units of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LifecycleRules {
    pub low_balance_days: u32,
    pub hibernate_below_msat: Msat,
    pub first_funding_msat: Msat,
    pub dormant_after_ms: i64,
}

impl Default for LifecycleRules {
    fn default() -> Self {
        Self {
            low_balance_days: 7,
            hibernate_below_msat: Msat::sats(1_000),
            first_funding_msat: Msat::sats(1_000),
            dormant_after_ms: 30 * 86_400_000,
        }
    }
}

/// What is known of an agent's money at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Funds {
    pub balance: Msat,
    /// Mean spend of a day, or none before there is a history or a quote.
    pub daily_spend: Option<Msat>,
    /// When the present lifecycle began.
    pub since: UnixMs,
    pub now: UnixMs,
}

impl Funds {
    /// Whole days that the balance lasts; none when nothing is spent.
    pub fn runway_days(&self) -> Option<u64> {
        let daily = self.daily_spend?.as_u64();
        (daily > 0).then(|| self.balance.as_u64() / daily)
    }
}

/// The lifecycle that follows from the funds.
pub fn next(current: Lifecycle, funds: &Funds, rules: &LifecycleRules) -> Lifecycle {
    let enough = funds.balance >= rules.hibernate_below_msat;
    let low = funds.runway_days().is_some_and(|days| days < u64::from(rules.low_balance_days));
    let awake = if low { Lifecycle::LowBalance } else { Lifecycle::Active };
    match current {
        Lifecycle::Spawning if funds.balance >= rules.first_funding_msat && funds.balance > Msat::ZERO => awake,
        Lifecycle::Spawning => Lifecycle::Spawning,
        Lifecycle::Active | Lifecycle::LowBalance if enough => awake,
        Lifecycle::Active | Lifecycle::LowBalance => Lifecycle::Hibernating,
        Lifecycle::Hibernating | Lifecycle::Dormant if enough => awake,
        Lifecycle::Hibernating if funds.now.0.saturating_sub(funds.since.0) >= rules.dormant_after_ms => {
            Lifecycle::Dormant
        }
        Lifecycle::Hibernating => Lifecycle::Hibernating,
        Lifecycle::Dormant => Lifecycle::Dormant,
    }
}

/// Whether a trigger may start a tick in a lifecycle.
pub const fn admits(lifecycle: Lifecycle, trigger: Trigger) -> bool {
    match lifecycle {
        Lifecycle::Spawning | Lifecycle::Dormant => false,
        Lifecycle::Active | Lifecycle::LowBalance => true,
        Lifecycle::Hibernating => match trigger {
            Trigger::Zap | Trigger::Manual | Trigger::Approval => true,
            Trigger::Heartbeat
            | Trigger::Schedule
            | Trigger::Mention
            | Trigger::Dm
            | Trigger::Webhook
            | Trigger::Kind(_) => false,
        },
    }
}

/// Whether this change makes the heartbeat due at once: the first funds, or waking up.
pub const fn wakes_now(from: Lifecycle, to: Lifecycle) -> bool {
    matches!(from, Lifecycle::Spawning | Lifecycle::Hibernating | Lifecycle::Dormant)
        && matches!(to, Lifecycle::Active | Lifecycle::LowBalance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn funds(balance: u64, daily: Option<u64>, since: i64, now: i64) -> Funds {
        Funds {
            balance: Msat::sats(balance),
            daily_spend: daily.map(Msat::sats),
            since: UnixMs(since),
            now: UnixMs(now),
        }
    }

    #[test]
    fn a_life() {
        let rules = LifecycleRules::default();
        let day = 86_400_000;
        assert_eq!(next(Lifecycle::Spawning, &funds(999, None, 0, 0), &rules), Lifecycle::Spawning);
        assert_eq!(next(Lifecycle::Spawning, &funds(1_000, None, 0, 0), &rules), Lifecycle::Active);
        assert_eq!(next(Lifecycle::Active, &funds(6_999, Some(1_000), 0, 0), &rules), Lifecycle::LowBalance);
        assert_eq!(next(Lifecycle::LowBalance, &funds(7_000, Some(1_000), 0, 0), &rules), Lifecycle::Active);
        assert_eq!(next(Lifecycle::Active, &funds(999, Some(10), 0, 0), &rules), Lifecycle::Hibernating);
        assert_eq!(next(Lifecycle::Hibernating, &funds(5, None, 0, 30 * day), &rules), Lifecycle::Dormant);
        assert_eq!(next(Lifecycle::Dormant, &funds(5_000, None, 0, 0), &rules), Lifecycle::Active);
    }

    proptest! {
        /// Enough money always wakes, too little never leaves an agent awake, and asking twice changes nothing.
        #[test]
        fn funds_decide(index in 0_usize..5, balance in 0_u64..20_000, daily in prop::option::of(0_u64..5_000), waited in 0_i64..5_000_000_000) {
            let rules = LifecycleRules::default();
            let current = Lifecycle::ALL[index];
            let funds = funds(balance, daily, 0, waited);
            let after = next(current, &funds, &rules);
            let awake = matches!(after, Lifecycle::Active | Lifecycle::LowBalance);
            prop_assert_eq!(awake, balance >= 1_000);
            prop_assert_eq!(next(after, &funds, &rules), if after == Lifecycle::Hibernating && waited >= rules.dormant_after_ms { Lifecycle::Dormant } else { after });
            prop_assert!(wakes_now(current, after) == (awake && !admits(current, Trigger::Heartbeat)));
        }
    }
}
