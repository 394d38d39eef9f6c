//! How many workers a scaler runs, of those that its pool and region should have.
//!
//! More are started at once; fewer are wanted only after a while of it, one at a time, so that a load that comes and goes
//! moves nobody. What ends by itself is replaced after a pause that grows while that goes on.

use crate::time::MonoMs;

/// A pause after a crash: from the first to the longest, doubled each time.
const FIRST_PAUSE_MS: u64 = 1_000;
const LONGEST_PAUSE_MS: u64 = 60_000;
/// A worker that lived this long did not crash for what the one before it crashed for.
const SOUND_MS: u64 = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrewRules {
    /// Workers of this scaler, at least and at most.
    pub min: u32,
    pub max: u32,
    /// How long fewer have to be enough before one is drained.
    pub settle_ms: u64,
}

/// What was seen a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Workers that pool and region should have.
    pub desired: u32,
    /// Live ones that others run.
    pub others: u32,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrewStep {
    Start(u32),
    /// Have so many hand their agents over and end.
    Drain(u32),
    Stay,
}

/// What a scaler remembers from one look to the next.
#[derive(Debug, Clone)]
pub struct Crew {
    rules: CrewRules,
    target: u32,
    low_since: Option<MonoMs>,
    crashes: u32,
    start_at: MonoMs,
}

impl Crew {
    /// `min` and `max` in the wrong order count as the same: `min`.
    pub fn new(rules: CrewRules) -> Self {
        let rules = CrewRules { max: rules.max.max(rules.min), ..rules };
        Self { rules, target: rules.min, low_since: None, crashes: 0, start_at: MonoMs(0) }
    }

    /// How many there should be.
    pub const fn target(&self) -> u32 {
        self.target
    }

    /// `running` of ours, without those that drain. Whoever sees nothing changes nothing but replaces what is missing.
    pub fn look(&mut self, seen: Option<Seen>, running: u32, now: MonoMs) -> CrewStep {
        if let Some(seen) = seen {
            self.aim(seen.desired.saturating_sub(seen.others).clamp(self.rules.min, self.rules.max), now);
        }
        if running > self.target {
            CrewStep::Drain(running - self.target)
        } else if running < self.target && now >= self.start_at {
            CrewStep::Start(self.target - running)
        } else {
            CrewStep::Stay
        }
    }

    fn aim(&mut self, wanted: u32, now: MonoMs) {
        if wanted >= self.target {
            self.target = wanted;
            self.low_since = None;
            return;
        }
        let since = *self.low_since.get_or_insert(now);
        if now.since(since) >= self.rules.settle_ms {
            self.target -= 1;
            self.low_since = (wanted < self.target).then_some(now);
        }
    }

    /// One of ours ended by itself, having lived so long. None is started for a while: `jitter` from 0 to 255 of the second
    /// half of it. Returns how long, in milliseconds.
    pub fn crashed(&mut self, lived_ms: u64, jitter: u8, now: MonoMs) -> u64 {
        self.crashes = if lived_ms >= SOUND_MS { 1 } else { self.crashes.saturating_add(1) };
        let whole = (FIRST_PAUSE_MS << self.crashes.saturating_sub(1).min(10)).min(LONGEST_PAUSE_MS);
        let pause = whole / 2 + whole * u64::from(jitter) / 510;
        self.start_at = self.start_at.max(now.plus_ms(pause));
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: CrewRules = CrewRules { min: 1, max: 4, settle_ms: 1_000 };

    fn seen(desired: u32, others: u32) -> Option<Seen> {
        Some(Seen { desired, others })
    }

    #[test]
    fn up_at_once_down_after_a_while_one_at_a_time() {
        let mut crew = Crew::new(RULES);
        assert_eq!(crew.look(None, 0, MonoMs(0)), CrewStep::Start(1));
        assert_eq!(crew.look(seen(9, 2), 1, MonoMs(10)), CrewStep::Start(3), "at most four");
        assert_eq!(crew.look(seen(4, 2), 4, MonoMs(20)), CrewStep::Stay);
        assert_eq!(crew.look(seen(9, 2), 4, MonoMs(900)), CrewStep::Stay, "it was wanted again");
        assert_eq!(crew.look(seen(4, 2), 4, MonoMs(1_100)), CrewStep::Stay);
        assert_eq!(crew.look(seen(4, 2), 4, MonoMs(2_100)), CrewStep::Drain(1));
        assert_eq!(crew.look(seen(4, 2), 3, MonoMs(2_200)), CrewStep::Stay);
        assert_eq!(crew.look(None, 3, MonoMs(9_000)), CrewStep::Stay, "who sees nothing drains nobody");
        assert_eq!(crew.look(seen(4, 2), 3, MonoMs(9_100)), CrewStep::Drain(1));
        assert_eq!(crew.look(seen(0, 9), 2, MonoMs(99_000)), CrewStep::Stay);
    }

    #[test]
    fn who_crashes_is_replaced_ever_more_slowly() {
        let mut crew = Crew::new(RULES);
        assert_eq!(crew.crashed(10, 0, MonoMs(0)), 500);
        assert_eq!(crew.look(None, 0, MonoMs(499)), CrewStep::Stay);
        assert_eq!(crew.look(None, 0, MonoMs(500)), CrewStep::Start(1));
        assert_eq!(crew.crashed(10, 255, MonoMs(600)), 2_000);
        let pauses: Vec<u64> = (0..9).map(|_| crew.crashed(10, 255, MonoMs(1_000))).collect();
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE_MS));
        assert!(pauses.is_sorted());
        assert_eq!(crew.crashed(SOUND_MS, 255, MonoMs(1_000)), 1_000);
    }

    proptest! {
        /// Whatever is seen, the target stays within its bounds, and falls by one at most in each settling time.
        #[test]
        fn bounded_and_calm(
            looks in prop::collection::vec((prop::option::of((0_u32..20, 0_u32..20)), 0_u64..700), 1..100),
            min in 0_u32..4, more in 0_u32..6,
        ) {
            let rules = CrewRules { min, max: min + more, settle_ms: 1_000 };
            let mut crew = Crew::new(rules);
            let (mut now, mut fell, mut before) = (0, None::<u64>, crew.target());
            for (told, passed) in looks {
                now += passed;
                crew.look(told.map(|(desired, others)| Seen { desired, others }), before, MonoMs(now));
                prop_assert!((rules.min..=rules.max).contains(&crew.target()));
                if crew.target() < before {
                    prop_assert_eq!(crew.target(), before - 1);
                    prop_assert!(fell.is_none_or(|last| now - last >= 1_000));
                    fell = Some(now);
                }
                before = crew.target();
            }
        }
    }
}
