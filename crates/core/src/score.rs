//! What experience says of a provider. Facts are counted by week, and count half as much with each week that passes, so
//! that whoever did badly can come back.
//!
//! A success counts one for a provider, a refusal one against it, money taken in silence twenty; a result that came late
//! after all takes back fourteen of these. Nobody begins with nothing: four good jobs are assumed of everyone, so that a
//! single refusal hardly weighs and a single dispute does.

use crate::time::UnixMs;

const WEEK_MS: i64 = 7 * 86_400_000;
/// Weeks that count: what is older weighs less than a hundredth.
pub const WEEKS: i64 = 8;
/// Below this, a provider is asked only when there is no other.
pub const FLOOR: u32 = 40;

const ASSUMED_GOOD: u64 = 4;
const AGAINST_DISPUTE: u64 = 20;
const BACK_FOR_ANSWER: u64 = 14;

/// What happened with a provider in one week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Week {
    /// Weeks since 1970.
    pub week: i64,
    pub done: u32,
    /// Silent before payment, too dear, not acceptable, money given back.
    pub refused: u32,
    /// Paid, and nothing came in time.
    pub disputed: u32,
    /// Of the disputed: came late.
    pub answered: u32,
}

/// The week of a moment.
pub const fn week_of(at: UnixMs) -> i64 {
    at.0.div_euclid(WEEK_MS)
}

/// 0 to 100: how much a provider is worth asking, after all that is known of it; 100 when nothing is. What is listed
/// twice (an agent's own, beside its account's) counts twice.
pub fn trust<'a>(known: impl IntoIterator<Item = &'a Week>, now: UnixMs) -> u32 {
    let whole = 1_u64 << WEEKS;
    let (mut good, mut bad) = (ASSUMED_GOOD * whole, 0_u64);
    for week in known {
        // A week that is ahead of this clock is this one.
        let age = week_of(now).saturating_sub(week.week).clamp(0, WEEKS);
        let weight = whole >> age;
        let disputed = u64::from(week.disputed).saturating_mul(AGAINST_DISPUTE);
        let answered = u64::from(week.answered.min(week.disputed)).saturating_mul(BACK_FOR_ANSWER);
        let against = disputed.saturating_sub(answered).saturating_add(u64::from(week.refused));
        good = good.saturating_add(u64::from(week.done).saturating_mul(weight));
        bad = bad.saturating_add(against.saturating_mul(weight));
    }
    let share = u128::from(good) * 100 / (u128::from(good) + u128::from(bad));
    u32::try_from(share).unwrap_or(100)
}

/// How a choice sees a trust: 0 is best. Within a band the price decides.
pub const fn band(trust: u32) -> u8 {
    match trust {
        80.. => 0,
        60..80 => 1,
        FLOOR..60 => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixMs = UnixMs(3_000 * WEEK_MS + 5);

    fn week(age: i64, done: u32, refused: u32, disputed: u32, answered: u32) -> Week {
        Week { week: 3_000 - age, done, refused, disputed, answered }
    }

    fn one(week: Week) -> u32 {
        trust([&week], NOW)
    }

    #[test]
    fn money_taken_in_silence_weighs_and_a_refusal_hardly_does() {
        assert_eq!(trust([], NOW), 100);
        assert_eq!((band(one(week(0, 0, 1, 0, 0))), band(one(week(0, 0, 3, 0, 0)))), (0, 2));
        assert!(one(week(0, 0, 0, 1, 0)) < FLOOR);
        assert!(one(week(0, 9, 0, 1, 0)) < FLOOR, "a few good jobs do not buy one off");
        assert!(one(week(0, 500, 0, 1, 0)) >= 80, "many do");
    }

    #[test]
    fn a_late_answer_restores_a_part_and_time_the_rest() {
        let (silent, late) = (one(week(0, 0, 0, 1, 0)), one(week(0, 0, 0, 1, 1)));
        assert!(silent < FLOOR && (FLOOR..80).contains(&late), "{silent} {late}");
        let ages: Vec<u32> = (0..=WEEKS).map(|age| one(week(age, 0, 0, 1, 0))).collect();
        assert!(ages.is_sorted() && ages[2] >= FLOOR && *ages.last().unwrap() >= 95, "{ages:?}");
    }

    #[test]
    fn a_clock_that_is_behind_makes_nothing_weigh_more_than_now() {
        assert_eq!(one(week(-50, 0, 0, 1, 0)), one(week(0, 0, 0, 1, 0)));
    }

    fn any_week() -> impl Strategy<Value = Week> {
        (-3_i64..20, any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>())
            .prop_map(|(age, done, refused, disputed, answered)| week(age, done, refused, disputed, answered))
    }

    proptest! {
        /// Whatever is counted: within bounds; success never lowers, failure never raises, and a dispute lowers at least
        /// as much as a refusal.
        #[test]
        fn facts_pull_in_their_own_direction(mut known in prop::collection::vec(any_week(), 0..12), fact in 0_i64..8) {
            let before = trust(&known, NOW);
            prop_assert!(before <= 100);
            let with = |week: Week, known: &mut Vec<Week>| { known.push(week); let t = trust(&*known, NOW); known.pop(); t };
            let done = with(week(fact, 1, 0, 0, 0), &mut known);
            let refused = with(week(fact, 0, 1, 0, 0), &mut known);
            let disputed = with(week(fact, 0, 0, 1, 0), &mut known);
            let answered = with(week(fact, 0, 0, 1, 1), &mut known);
            prop_assert!(done >= before && refused <= before && disputed <= answered && answered <= refused);
        }
    }
}
