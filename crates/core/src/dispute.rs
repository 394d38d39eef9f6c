//! Jobs that were paid and not served: which one, where its dispute stands, and until when a late result is asked for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{ParseIdError, TickId};
use crate::time::UnixMs;

/// How long relays are asked for a late result, in milliseconds: a day.
pub const LATE_MS: i64 = 86_400_000;
/// Looks for a late result of one job, at most.
pub const MAX_LOOKS: u32 = 16;
/// Until the first look, in milliseconds; each pause is twice the one before.
const FIRST_LOOK_MS: i64 = 5_000;
/// Between two looks, at most: an hour and a half.
const LONGEST_PAUSE_MS: i64 = 5_400_000;

/// Which job of which tick. Shown as `<tick id>:<attempt>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DisputeId {
    pub tick_id: TickId,
    pub attempt: u8,
}

impl fmt::Display for DisputeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.tick_id, self.attempt)
    }
}

impl FromStr for DisputeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseIdError::new("dispute id", "<tick id>:<attempt>");
        let (tick_id, attempt) = text.split_once(':').ok_or_else(error)?;
        let id = Self { tick_id: tick_id.parse()?, attempt: attempt.parse().map_err(|_| error())? };
        if id.to_string() == text { Ok(id) } else { Err(error()) }
    }
}

impl Serialize for DisputeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DisputeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a dispute stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisputeState {
    /// Nothing came, and it is not known yet whether the money arrived.
    Unsettled,
    /// Paid, and nothing came.
    Open,
    /// The result came after all, too late for its tick.
    Answered,
    /// The owner says that it was made good in another way.
    SettledElsewhere,
    /// The owner let it be, or the money came back.
    Closed,
}

impl DisputeState {
    pub const ALL: [Self; 5] = [Self::Unsettled, Self::Open, Self::Answered, Self::SettledElsewhere, Self::Closed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsettled => "unsettled",
            Self::Open => "open",
            Self::Answered => "answered",
            Self::SettledElsewhere => "settled_elsewhere",
            Self::Closed => "closed",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether one arrow leads from `self` to `to`.
    pub const fn may_become(self, to: Self) -> bool {
        match self {
            Self::Unsettled => matches!(to, Self::Open | Self::Answered | Self::Closed),
            Self::Open => matches!(to, Self::Answered | Self::SettledElsewhere | Self::Closed),
            Self::Answered => matches!(to, Self::SettledElsewhere | Self::Closed),
            Self::SettledElsewhere | Self::Closed => false,
        }
    }
}

/// When relays are asked for a late result again, after so many looks; none when enough was asked.
pub fn next_look(silent_at: UnixMs, looks: u32, now: UnixMs) -> Option<UnixMs> {
    let pause = (FIRST_LOOK_MS << looks.min(20)).min(LONGEST_PAUSE_MS);
    let at = now.plus_ms(pause);
    // A clock that went back does not prolong it: the number of looks is bounded as well.
    (looks < MAX_LOOKS && at.0.saturating_sub(silent_at.0) <= LATE_MS).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_states_have_one_text() {
        let id = DisputeId { tick_id: TickId::new(UnixMs(5), [1; 10]), attempt: 2 };
        assert_eq!(id.to_string().parse::<DisputeId>().unwrap(), id);
        for text in ["", "x", &format!("{}:02", id.tick_id), &format!("{}:256", id.tick_id)] {
            assert!(text.parse::<DisputeId>().is_err(), "{text}");
        }
        for state in DisputeState::ALL {
            assert_eq!(DisputeState::parse(state.as_str()), Some(state));
            assert!(!state.may_become(state), "{state:?}");
            assert!(!state.may_become(DisputeState::Unsettled));
        }
    }

    #[test]
    fn late_results_are_asked_for_some_times_within_a_day() {
        let silent_at = UnixMs(1_000);
        let (mut now, mut looks) = (silent_at, 0);
        while let Some(at) = next_look(silent_at, looks, now) {
            assert!(at > now && at.0 <= silent_at.0 + LATE_MS);
            (now, looks) = (at, looks + 1);
        }
        assert!((8..=MAX_LOOKS).contains(&looks), "{looks}");
        assert_eq!(next_look(silent_at, 0, silent_at.plus_ms(LATE_MS)), None);
        assert_eq!(next_look(silent_at, MAX_LOOKS, UnixMs(0)), None, "whatever the clock says");
    }
}
