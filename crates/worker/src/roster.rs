//! The agents this worker holds, and when each is to be looked at.
//!
//! An idle agent is one map entry and one timer entry: no task, no connection, no decrypted state.

use std::collections::{BTreeSet, HashMap};

use nexus_core::{Generation, MonoMs, Npub};

/// Never due by time alone.
pub const NEVER: MonoMs = MonoMs(u64::MAX);

#[derive(Debug, Clone, Copy)]
struct Seat {
    generation: Generation,
    due: MonoMs,
    /// A turn is being taken: at most one at a time for an agent.
    taken: bool,
    /// Woken during its turn: look again right after.
    woken: bool,
    /// Given up during its turn, which ends first: should the agent come back meanwhile, it has one turn at a time still.
    gone: bool,
}

/// Seats of agents, ordered by when they are due.
#[derive(Debug, Default)]
pub struct Roster {
    seats: HashMap<Npub, Seat>,
    timers: BTreeSet<(MonoMs, Npub)>,
}

impl Roster {
    /// Takes an agent in, or notes its new generation, and has it looked at by `due`.
    pub fn seat(&mut self, npub: Npub, generation: Generation, due: MonoMs) {
        match self.seats.get_mut(&npub) {
            Some(seat) if seat.taken => {
                seat.generation = seat.generation.max(generation);
                seat.woken = true;
                seat.gone = false;
            }
            Some(seat) => {
                self.timers.remove(&(seat.due, npub));
                seat.generation = seat.generation.max(generation);
                seat.due = seat.due.min(due);
                self.timers.insert((seat.due, npub));
            }
            None => {
                self.seats.insert(npub, Seat { generation, due, taken: false, woken: false, gone: false });
                self.timers.insert((due, npub));
            }
        }
    }

    /// Gives an agent up. A turn under way finds its writes refused by the fence.
    pub fn drop_agent(&mut self, npub: &Npub) {
        match self.seats.get_mut(npub) {
            Some(seat) if seat.taken => seat.gone = true,
            Some(seat) => {
                self.timers.remove(&(seat.due, *npub));
                self.seats.remove(npub);
            }
            None => {}
        }
    }

    /// Gives all up. Returns how many they were.
    pub fn drop_all(&mut self) -> usize {
        let all: Vec<Npub> = self.seats.iter().filter(|(_, seat)| !seat.gone).map(|(npub, _)| *npub).collect();
        all.iter().for_each(|npub| self.drop_agent(npub));
        all.len()
    }

    /// Has an agent looked at now; right after its turn if one is under way. False if it is not held here.
    pub fn wake(&mut self, npub: &Npub, now: MonoMs) -> bool {
        let Some(seat) = self.seats.get_mut(npub).filter(|seat| !seat.gone) else { return false };
        if seat.taken {
            seat.woken = true;
        } else if seat.due > now {
            self.timers.remove(&(seat.due, *npub));
            seat.due = now;
            self.timers.insert((now, *npub));
        }
        true
    }

    /// The next agent that is due, its turn taken.
    pub fn take_due(&mut self, now: MonoMs) -> Option<(Npub, Generation)> {
        let (due, npub) = *self.timers.first()?;
        if due > now {
            return None;
        }
        self.timers.pop_first();
        let seat = self.seats.get_mut(&npub)?;
        seat.taken = true;
        seat.woken = false;
        Some((npub, seat.generation))
    }

    /// Ends a turn. The agent is due again at `due`, or now if it was woken meanwhile.
    pub fn finish(&mut self, npub: &Npub, due: MonoMs, now: MonoMs) {
        let Some(seat) = self.seats.get_mut(npub) else { return };
        if !seat.taken {
            return;
        }
        if seat.gone {
            self.seats.remove(npub);
            return;
        }
        seat.taken = false;
        seat.due = if seat.woken { now } else { due };
        self.timers.insert((seat.due, *npub));
    }

    /// Ends a turn that found its agent to be no longer ours at `generation`. One that came back meanwhile, at a later
    /// generation, is due now.
    pub fn lost(&mut self, npub: &Npub, generation: Generation, now: MonoMs) {
        if let Some(seat) = self.seats.get_mut(npub).filter(|seat| seat.taken) {
            seat.gone |= seat.generation <= generation;
        }
        self.finish(npub, now, now);
    }

    /// The wall clock jumped ahead: every timer but the never ones fires so much sooner. Being early is harmless.
    pub fn hurry(&mut self, ms: u64) {
        let hurried = |due: MonoMs| if due < NEVER { MonoMs(due.0.saturating_sub(ms)) } else { due };
        self.timers = self.timers.iter().map(|(due, npub)| (hurried(*due), *npub)).collect();
        for seat in self.seats.values_mut().filter(|seat| !seat.taken) {
            seat.due = hurried(seat.due);
        }
    }

    /// Whether an agent is held here, and not given up during its turn.
    pub fn holds(&self, npub: &Npub) -> bool {
        self.seats.get(npub).is_some_and(|seat| !seat.gone)
    }

    /// Agents that are not in their turn, soonest due first.
    pub fn idle(&self, limit: usize) -> Vec<(Npub, Generation)> {
        let seat = |(_, npub): &(MonoMs, Npub)| Some((*npub, self.seats.get(npub)?.generation));
        self.timers.iter().filter_map(seat).take(limit).collect()
    }

    pub fn len(&self) -> usize {
        self.seats.len()
    }

    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// When the first timer fires.
    pub fn next_due(&self) -> Option<MonoMs> {
        self.timers.first().map(|(due, _)| *due).filter(|due| *due < NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_wake_during_a_turn_is_not_lost() {
        let npub = Npub::from_bytes([1; 32]);
        let mut roster = Roster::default();
        roster.seat(npub, Generation(1), MonoMs(10));
        assert_eq!(roster.take_due(MonoMs(9)), None);
        assert_eq!(roster.take_due(MonoMs(10)), Some((npub, Generation(1))));
        assert!(roster.wake(&npub, MonoMs(11)));
        assert_eq!(roster.take_due(MonoMs(12)), None, "one turn at a time");
        roster.finish(&npub, MonoMs(500), MonoMs(12));
        assert_eq!(roster.take_due(MonoMs(12)), Some((npub, Generation(1))));
    }

    #[test]
    fn an_agent_that_comes_back_during_its_turn_is_not_lost() {
        let npub = Npub::from_bytes([1; 32]);
        let mut roster = Roster::default();
        roster.seat(npub, Generation(1), MonoMs(0));
        assert_eq!(roster.take_due(MonoMs(0)), Some((npub, Generation(1))));
        // Declared dead, registered again, given the agent again: all while a turn of old is still ending.
        assert_eq!(roster.drop_all(), 1);
        assert!(!roster.wake(&npub, MonoMs(1)));
        roster.seat(npub, Generation(3), MonoMs(1));
        assert_eq!(roster.take_due(MonoMs(2)), None, "one turn at a time");
        roster.lost(&npub, Generation(1), MonoMs(2));
        assert_eq!(roster.take_due(MonoMs(2)), Some((npub, Generation(3))));
        // And one that does not come back is forgotten.
        roster.lost(&npub, Generation(3), MonoMs(3));
        assert!(roster.is_empty());
    }

    proptest! {
        /// Every held agent is either in its turn or has exactly one timer.
        #[test]
        fn nobody_is_forgotten(steps in prop::collection::vec((0_u8..9, 0_u8..4, 0_u64..50), 1..200)) {
            let mut roster = Roster::default();
            let mut now = 0;
            for (step, who, amount) in steps {
                let npub = Npub::from_bytes([who; 32]);
                match step {
                    0 => roster.seat(npub, Generation(1), MonoMs(now + amount)),
                    1 => roster.drop_agent(&npub),
                    2 => { roster.wake(&npub, MonoMs(now)); }
                    3 => { roster.take_due(MonoMs(now)); }
                    4 => roster.hurry(amount),
                    6 => roster.lost(&npub, Generation(i64::try_from(amount % 3).unwrap()), MonoMs(now)),
                    7 => { roster.drop_all(); }
                    8 => roster.seat(npub, Generation(i64::try_from(amount % 3).unwrap()), MonoMs(now + amount)),
                    5 => roster.finish(&npub, MonoMs(now + amount), MonoMs(now)),
                    _ => now += amount,
                }
                for (npub, seat) in &roster.seats {
                    prop_assert_eq!(roster.timers.contains(&(seat.due, *npub)), !seat.taken);
                }
                let waiting = roster.seats.values().filter(|seat| !seat.taken).count();
                prop_assert_eq!(roster.timers.len(), waiting);
            }
        }
    }
}
