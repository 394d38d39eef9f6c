//! One gate on every wake path. A refusal is recorded and shown with its reason.

use crate::budget::Counter;
use crate::lifecycle::{self, Lifecycle};
use crate::money::Msat;
use crate::policy::Policy;
use crate::status::{CustodyState, Desired, Hosting};
use crate::time::UnixMs;
use crate::trigger::Trigger;

/// All that the gate looks at.
#[derive(Debug, Clone)]
pub struct Standing<'a> {
    pub desired: Desired,
    pub custody: CustodyState,
    pub hosting: Hosting,
    pub lifecycle: Lifecycle,
    /// None while no valid policy is at hand: then nothing may be spent, so nothing is thought.
    pub policy: Option<&'a Policy>,
    pub day: Counter,
    /// Of the calendar month, where the policy limits it, and when the next begins.
    pub month: Counter,
    pub next_month_at: UnixMs,
    /// Payments begun in the last hour.
    pub payments_last_hour: u32,
    pub balance: Msat,
    /// Price of the cheapest known inference, fee reserve included; none when no quote is known yet.
    pub cheapest: Option<Msat>,
    /// Ticks started in the last hour, and how many may be.
    pub ticks_last_hour: u32,
    pub ticks_per_hour: u32,
    /// When the oldest of those leaves the hour.
    pub hour_frees_at: UnixMs,
    /// For a heartbeat: whether anything is new since the last committed tick.
    pub something_new: bool,
    /// When the day's budget starts anew.
    pub next_day_at: UnixMs,
    /// Ticks that the plan leaves for this day; none for no bound.
    pub ticks_left_today: Option<u32>,
    /// What its owner gave it to keep fits into what the plan gives its state.
    pub has_room: bool,
}

/// Why a trigger starts no tick.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    pub code: &'static str,
    pub text: &'static str,
    /// When the same trigger could pass, if time alone can change it.
    pub retry_at: Option<UnixMs>,
    /// Whether the trigger waits in the inbox for that (true) or is answered by this refusal (false).
    pub keep: bool,
}

/// Reasons that the gate gives and that stand until it is asked again. Others end when a turn gets as far as the gate.
pub const STANDING_REASONS: [&str; 15] = [
    "frozen",
    "month_limit",
    "payment_rate",
    "stopped",
    "locked",
    "signer_offline",
    "suspended",
    "spawning",
    "dormant",
    "hibernating",
    "tick_rate",
    "plan_ticks",
    "plan_state",
    "day_limit",
    "reserve",
];

const fn refuse(code: &'static str, text: &'static str) -> Refusal {
    Refusal { code, text, retry_at: None, keep: true }
}

/// Whether a trigger may start a tick now.
pub fn pass(standing: &Standing<'_>, trigger: Trigger) -> Result<(), Refusal> {
    match standing.desired {
        Desired::Running => {}
        Desired::Stopped => return Err(refuse("stopped", "the owner stopped this agent: `nexus agent start`")),
    }
    match standing.custody {
        CustodyState::Ready => {}
        CustodyState::Locked => return Err(refuse("locked", "the agent is locked: its owner has to unlock it")),
        CustodyState::SignerOffline => return Err(refuse("signer_offline", "the agent's signer does not answer")),
    }
    match standing.hosting {
        Hosting::Trial | Hosting::Paid | Hosting::Grace => {}
        Hosting::Suspended => return Err(refuse("suspended", "hosting is not paid: `nexus hosting invoice`")),
    }
    let Some(policy) = standing.policy else {
        return Err(refuse("policy_missing", "no policy signed by the owner: the agent may not spend"));
    };
    if policy.frozen {
        return Err(refuse("frozen", "its owner froze it: `nexus agent thaw`"));
    }
    if !lifecycle::admits(standing.lifecycle, trigger) {
        return Err(match standing.lifecycle {
            Lifecycle::Spawning => refuse("spawning", "not funded yet: `nexus agent fund`"),
            Lifecycle::Dormant => refuse("dormant", "out of funds for long: only funding wakes it"),
            Lifecycle::Hibernating | Lifecycle::Active | Lifecycle::LowBalance => Refusal {
                keep: false,
                ..refuse(
                    "hibernating",
                    "too little money to think: only a zap, a manual tick, an approval or funding wakes it",
                )
            },
        });
    }
    if trigger == Trigger::Heartbeat && !standing.something_new {
        return Err(Refusal { keep: false, ..refuse("nothing_new", "nothing is new since the last tick") });
    }
    if standing.ticks_last_hour >= standing.ticks_per_hour {
        let text = "as many ticks as an hour may have";
        return Err(Refusal { retry_at: Some(standing.hour_frees_at), ..refuse("tick_rate", text) });
    }
    if standing.ticks_left_today == Some(0) {
        let text = "as many ticks as the account's plan allows in a day";
        return Err(Refusal { retry_at: Some(standing.next_day_at), ..refuse("plan_ticks", text) });
    }
    if !standing.has_room {
        let text =
            "persona and goals are more than the account's plan keeps of an agent: shorten them, or change the plan";
        return Err(refuse("plan_state", text));
    }
    if trigger == Trigger::Approval {
        // Nothing is thought: whatever the action itself costs is reserved when it is carried out.
        return Ok(());
    }
    let cost = standing.cheapest.unwrap_or(Msat::ZERO);
    if !standing.day.admits(cost, policy.limits.day_msat) || standing.day.used() >= policy.limits.day_msat {
        let text = "the day's limit leaves no room for an inference";
        return Err(Refusal { retry_at: Some(standing.next_day_at), ..refuse("day_limit", text) });
    }
    if let Some(limit) = policy.limits.month_msat
        && (!standing.month.admits(cost, limit) || standing.month.used() >= limit)
    {
        let text = "the month's limit leaves no room for an inference";
        return Err(Refusal { retry_at: Some(standing.next_month_at), ..refuse("month_limit", text) });
    }
    if policy.limits.payments_per_hour.is_some_and(|most| standing.payments_last_hour >= most) {
        let text = "as many payments as an hour may have";
        return Err(Refusal { retry_at: Some(standing.hour_frees_at), ..refuse("payment_rate", text) });
    }
    if standing.balance < policy.limits.reserve_msat.saturating_add(cost) {
        return Err(refuse("reserve", "the balance above the policy's reserve does not pay for an inference"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Npub;
    use proptest::prelude::*;

    proptest! {
        /// Whatever passes is wanted, unlocked, hosted, alive, under a policy and within its limits.
        #[test]
        fn nothing_passes_that_must_not(
            desired in 0_usize..2, custody in 0_usize..3, hosting in 0_usize..4, life in 0_usize..5, has_policy: bool,
            settled in 0_u64..20_000_000, held in 0_u64..20_000_000, balance in 0_u64..20_000_000,
            cheapest in prop::option::of(0_u64..2_000_000), ticks in 0_u32..100, new: bool, pick in 0_usize..5,
            left in prop::option::of(0_u32..2), frozen in prop::bool::weighted(0.2),
            month in 0_u64..40_000_000, month_limit in prop::option::of(10_000_000_u64..40_000_000),
            payments in 0_u32..20, rate in prop::option::of(1_u32..20), has_room: bool,
        ) {
            let mut policy = Policy { frozen, ..Policy::default_for(Npub::from_bytes([1; 32])) };
            (policy.limits.month_msat, policy.limits.payments_per_hour) = (month_limit.map(Msat::new), rate);
            let trigger = [Trigger::Heartbeat, Trigger::Mention, Trigger::Dm, Trigger::Zap, Trigger::Manual][pick];
            let standing = Standing {
                desired: Desired::ALL[desired], custody: CustodyState::ALL[custody], hosting: Hosting::ALL[hosting],
                lifecycle: Lifecycle::ALL[life], policy: has_policy.then_some(&policy),
                day: Counter { settled: Msat::new(settled), held: Msat::new(held) }, balance: Msat::new(balance),
                cheapest: cheapest.map(Msat::new), ticks_last_hour: ticks, ticks_per_hour: 60,
                hour_frees_at: UnixMs(1), something_new: new, next_day_at: UnixMs(2), ticks_left_today: left,
                month: Counter { settled: Msat::new(month), held: Msat::ZERO }, next_month_at: UnixMs(3),
                payments_last_hour: payments, has_room,
            };
            if pass(&standing, trigger).is_ok() {
                prop_assert_eq!(standing.desired, Desired::Running);
                prop_assert_eq!(standing.custody, CustodyState::Ready);
                prop_assert_ne!(standing.hosting, Hosting::Suspended);
                prop_assert!(has_policy && lifecycle::admits(standing.lifecycle, trigger));
                prop_assert!(has_room && ticks < 60 && left != Some(0));
                prop_assert!(settled + held + cheapest.unwrap_or(0) <= policy.limits.day_msat.as_u64());
                prop_assert!(!frozen);
                prop_assert!(month_limit.is_none_or(|limit| month + cheapest.unwrap_or(0) <= limit));
                prop_assert!(rate.is_none_or(|rate| payments < rate));
                prop_assert!(balance >= cheapest.unwrap_or(0));
                prop_assert!(new || trigger != Trigger::Heartbeat);
            }
        }
    }
}
