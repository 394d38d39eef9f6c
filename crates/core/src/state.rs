//! The agent's private state. It exists in clear only in a worker's memory, while a tick needs it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::approval::Waiting;
use crate::availability::Month;
use crate::id::{Hash32, Npub};
use crate::money::Msat;
use crate::policy::WalletChoice;
use crate::rent::RentBook;
use crate::time::UnixMs;

/// Largest encoded state, in bytes.
pub const MAX_STATE: usize = 256 * 1024;
/// Memory is bounded to this many entries and bytes; the oldest go first.
pub const MAX_MEMORY: usize = 200;
pub const MAX_MEMORY_BYTES: usize = 64 * 1024;
/// Memories that are summed up at once, in bytes.
const MAX_CONDENSED: usize = 12 * 1024;
const MAX_GOALS: usize = 64;
const MAX_RECENT: usize = 256;
const MAX_COMMANDS: usize = 256;

/// Something the agent works towards.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    pub text: String,
    #[serde(default)]
    pub done: bool,
    #[serde(default)]
    pub note: String,
}

/// Something the agent wanted to remember.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub at: UnixMs,
    pub text: String,
}

/// What was spent in a window, as the state last knew it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WindowSpend {
    /// Days since 1970 (UTC).
    pub day: i64,
    pub settled: Msat,
}

/// The private state: goals, persona, memory, and what the worker must not be talked out of by a database.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentState {
    /// Counts up with every commit; anchored in public as a hash.
    pub version: u64,
    pub persona: String,
    pub goals: Vec<Goal>,
    pub memory: Vec<Memory>,
    /// Highest policy version ever obeyed, and its digest: a lower one, or another of the same number, is refused.
    pub policy_version: u64,
    pub policy_digest: Option<Hash32>,
    /// Spend of the current day at the last commit. The worker believes the larger of this and the counter.
    pub spend: WindowSpend,
    /// The same of the calendar month (`day` is `yyyymm`), where the policy limits it.
    pub month: WindowSpend,
    /// What was begun of its own rent in the calendar month, where the policy pays it.
    pub rent: RentBook,
    /// The last `created_at` signed for each address (`kind:d`), in seconds: strictly increasing.
    pub created_at: BTreeMap<String, i64>,
    /// Messages already acted on, by inner id (a gift wrap has a fresh outer id each time it is sent).
    pub seen: Vec<Hash32>,
    /// When each peer last had an answer, for the loop cooldown. Seconds.
    pub answered: BTreeMap<Npub, Vec<i64>>,
    /// Owner commands already carried out, by event id.
    pub commands: Vec<Hash32>,
    /// Actions that wait for the owner, or were approved and not carried out yet. What is over is not kept.
    pub waiting: Vec<Waiting>,
    pub last_tick_at: Option<UnixMs>,
    /// Digest of goals, persona and policy at the last committed tick: a heartbeat has something new when it differs.
    pub intent_digest: Option<Hash32>,
    /// The key number that new view-key entries are under.
    pub view_key: u32,
    /// Digest of the profile and relay lists that were last published.
    pub profile_digest: Option<Hash32>,
    /// What was last published at each address (`kind:d`) that the policy opens, as a digest.
    pub published: BTreeMap<String, Hash32>,
    /// The wallet in force, once a worker has opened it: the policy's, except while payments of an earlier one are in flight.
    pub wallet: Option<WalletChoice>,
    /// Which network or mint its wallet is on, once a worker has opened it: `<kind>:<what>`.
    pub wallet_home: Option<String>,
    /// What the host gives it room for, in bytes, beside [`MAX_STATE`]. No part of the document.
    #[serde(skip)]
    pub room: Option<usize>,
}

impl std::fmt::Debug for AgentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentState").field("version", &self.version).finish_non_exhaustive()
    }
}

/// What a policy's wallet is to the one in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wallet {
    Same,
    /// It is in force from now on.
    Changed,
    /// The earlier one stays in force until its payments are known: another could not say what became of them.
    Waits,
}

/// State that grew over its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("state is {size} bytes, more than {most}: shorten goals or persona")]
pub struct StateTooLarge {
    pub size: usize,
    pub most: usize,
}

impl AgentState {
    /// Whether a wallet at `home` is the one that this state knows. The first one is, and the first of another kind: the
    /// owner has signed for that.
    pub fn take_wallet_home(&mut self, home: &str) -> bool {
        fn kind(home: &str) -> Option<&str> {
            home.split_once(':').map(|(kind, _)| kind)
        }
        match self.wallet_home.as_deref() {
            Some(known) if kind(known) == kind(home) => known == home,
            Some(_) | None => {
                self.wallet_home = Some(home.to_owned());
                true
            }
        }
    }

    /// Takes the wallet that the policy names; `resolved`: no payment is in flight, and no tick is open.
    pub fn take_wallet(&mut self, named: &WalletChoice, resolved: bool) -> Wallet {
        match &self.wallet {
            Some(held) if held == named => Wallet::Same,
            Some(_) if !resolved => Wallet::Waits,
            Some(_) => {
                self.wallet = Some(named.clone());
                self.wallet_home = None;
                Wallet::Changed
            }
            None => {
                self.wallet = Some(named.clone());
                Wallet::Same
            }
        }
    }

    /// A first state.
    pub fn new(persona: String, goals: Vec<String>) -> Self {
        let goals = goals.into_iter().take(MAX_GOALS).map(|text| Goal { text, done: false, note: String::new() });
        Self { persona, goals: goals.collect(), view_key: 1, ..Self::default() }
    }

    /// The document as bytes, within its bound.
    pub fn encode(&self) -> Result<Vec<u8>, StateTooLarge> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let size = bytes.len();
        if size > MAX_STATE { Err(StateTooLarge { size, most: MAX_STATE }) } else { Ok(bytes) }
    }

    /// Whether it is, or by forgetting becomes, as small as the host gives room for. Goals that are not done and the persona
    /// are the owner's, and never forgotten for that.
    pub fn fits_room(&self) -> Result<(), StateTooLarge> {
        let Some(most) = self.room else { return Ok(()) };
        if self.size() <= most {
            return Ok(());
        }
        let mut least = self.clone();
        while least.size() > most && least.forget() {}
        let size = least.size();
        if size > most { Err(StateTooLarge { size, most }) } else { Ok(()) }
    }

    fn size(&self) -> usize {
        serde_json::to_vec(self).unwrap_or_default().len()
    }

    /// Memories before they are the oldest: the room for them is the document's half where the host gives less.
    fn memory_room(&self) -> usize {
        self.room.map_or(MAX_MEMORY_BYTES, |most| MAX_MEMORY_BYTES.min(most / 2))
    }

    /// Forgets until it fits: the oldest memory first, then notes, then goals that are done, then the newest goals, these
    /// only for what can't be stored at all.
    ///
    /// A model's answers, and so a provider, fill memory and goals. They must not grow a state that can't be stored.
    pub fn fit(&mut self) {
        let most = self.room.unwrap_or(MAX_STATE);
        while self.size() > most && self.forget() {}
        while self.encode().is_err() {
            if !self.forget() && self.goals.pop().is_none() {
                return;
            }
        }
    }

    /// Forgets some of what is not the owner's; false when nothing of that is left.
    fn forget(&mut self) -> bool {
        if !self.memory.is_empty() {
            self.memory.drain(..self.memory.len().div_ceil(4));
        } else if self.goals.iter().any(|goal| !goal.note.is_empty()) {
            self.goals.iter_mut().for_each(|goal| goal.note.clear());
        } else if self.goals.iter().any(|goal| goal.done) {
            self.goals.retain(|goal| !goal.done);
        } else {
            return false;
        }
        true
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    pub fn remember(&mut self, at: UnixMs, text: String) {
        self.memory.push(Memory { at, text });
        let mut bytes: usize = self.memory.iter().map(|entry| entry.text.len()).sum();
        let mut drop = 0;
        while self.memory.len() - drop > MAX_MEMORY || (bytes > self.memory_room() && drop + 1 < self.memory.len()) {
            bytes -= self.memory[drop].text.len();
            drop += 1;
        }
        self.memory.drain(..drop);
    }

    /// How many of the oldest memories should be summed up now, so that none is forgotten unread: none until three quarters
    /// of the room are taken.
    pub fn to_condense(&self) -> usize {
        let bytes: usize = self.memory.iter().map(|entry| entry.text.len()).sum();
        if self.memory.len() * 4 < MAX_MEMORY * 3 && bytes * 4 < self.memory_room() * 3 {
            return 0;
        }
        let mut shown = 0;
        let oldest = self.memory.iter().take(self.memory.len() / 2).take_while(|entry| {
            shown += entry.text.len();
            shown <= MAX_CONDENSED
        });
        let count = oldest.count();
        if count < 2 { 0 } else { count }
    }

    /// Puts a summary in the place of the oldest memories.
    pub fn condense(&mut self, covers: usize, text: String) {
        let covers = covers.min(self.memory.len());
        let Some(last) = covers.checked_sub(1).and_then(|last| self.memory.get(last)) else { return };
        let at = last.at;
        self.memory.splice(..covers, [Memory { at, text }]);
    }

    /// Marks a goal done or annotates it; an unknown one is added while there is room.
    pub fn update_goal(&mut self, text: &str, done: bool, note: String) {
        if let Some(goal) = self.goals.iter_mut().find(|goal| goal.text == text) {
            goal.done = done;
            goal.note = note;
        } else if self.goals.len() < MAX_GOALS {
            self.goals.push(Goal { text: text.to_owned(), done, note });
        }
    }

    /// Notes a message as acted on; false if it already was.
    pub fn note_seen(&mut self, id: Hash32) -> bool {
        if self.seen.contains(&id) {
            return false;
        }
        self.seen.push(id);
        let excess = self.seen.len().saturating_sub(MAX_RECENT);
        self.seen.drain(..excess);
        true
    }

    /// Notes an owner command as carried out; false if it already was.
    pub fn note_command(&mut self, id: Hash32) -> bool {
        if self.commands.contains(&id) {
            return false;
        }
        self.commands.push(id);
        let excess = self.commands.len().saturating_sub(MAX_COMMANDS);
        self.commands.drain(..excess);
        true
    }

    /// The next `created_at` for an address: now, but always after the last.
    pub fn next_created_at(&mut self, address: &str, now: UnixMs) -> i64 {
        let last = self.created_at.get(address).copied().unwrap_or(i64::MIN);
        let next = now.secs().max(last.saturating_add(1));
        self.created_at.insert(address.to_owned(), next);
        next
    }

    /// What was settled on a day, as this state knows it.
    pub fn spent_on(&self, day: i64) -> Msat {
        if self.spend.day == day { self.spend.settled } else { Msat::ZERO }
    }

    /// Believes the larger of a month's counter and what this state remembers; what the counter lacks, if it lacks some.
    pub fn believe_month(&mut self, month: Month, counter: Msat) -> Option<Msat> {
        if self.month.day > month.0 {
            return None;
        }
        let known = if self.month.day == month.0 { self.month.settled } else { Msat::ZERO };
        self.month = WindowSpend { day: month.0, settled: known.max(counter) };
        (known > counter).then(|| known.saturating_sub(counter))
    }

    pub fn add_spend(&mut self, day: i64, amount: Msat) {
        if self.spend.day < day {
            self.spend = WindowSpend { day, settled: Msat::ZERO };
        }
        if self.spend.day == day {
            self.spend.settled = self.spend.settled.saturating_add(amount);
        }
    }

    /// The digest of what the owner asked for.
    pub fn digest_intent(&self, policy_version: u64) -> Hash32 {
        let document = serde_json::json!([self.persona, self.goals, policy_version]);
        Hash32::sha256(document.to_string().as_bytes())
    }
}

/// A peer gets at most this many answers in the cooldown window: two agents must not talk each other broke.
pub const LOOP_ANSWERS: usize = 10;
const LOOP_WINDOW_SECS: i64 = 600;
const MAX_PEERS: usize = 512;

impl AgentState {
    /// Whether a peer has had too many answers lately.
    pub fn in_cooldown(&self, peer: &Npub, now: UnixMs) -> bool {
        let since = now.secs() - LOOP_WINDOW_SECS;
        self.answered.get(peer).is_some_and(|at| at.iter().filter(|at| **at > since).count() >= LOOP_ANSWERS)
    }

    pub fn note_answer(&mut self, peer: Npub, now: UnixMs) {
        let since = now.secs() - LOOP_WINDOW_SECS;
        self.answered.retain(|_, at| {
            at.retain(|at| *at > since);
            !at.is_empty()
        });
        if self.answered.len() < MAX_PEERS || self.answered.contains_key(&peer) {
            self.answered.entry(peer).or_default().push(now.secs());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stamps_of_an_address_always_increase() {
        let mut state = AgentState::default();
        let stamps = [5_000, 5_000, 4_000, 9_000].map(|now| state.next_created_at("39201:state", UnixMs(now)));
        assert_eq!(stamps, [5, 6, 7, 9]);
    }

    #[test]
    fn a_wallet_is_changed_when_nothing_is_in_flight_at_the_earlier_one() {
        let (dev, mint) = (WalletChoice::Dev {}, WalletChoice::Cashu { mint: "https://mint.example".into() });
        let mut state = AgentState::default();
        assert_eq!(state.take_wallet(&dev, false), Wallet::Same, "the first");
        assert!(state.take_wallet_home("devnet:a"));
        assert_eq!(state.take_wallet(&mint, false), Wallet::Waits);
        assert_eq!((state.wallet.as_ref(), state.wallet_home.as_deref()), (Some(&dev), Some("devnet:a")));
        assert_eq!(state.take_wallet(&mint, true), Wallet::Changed);
        assert_eq!((state.wallet.as_ref(), state.wallet_home.as_deref()), (Some(&mint), None));
        assert_eq!(state.take_wallet(&mint, false), Wallet::Same);
    }

    #[test]
    fn memory_is_summed_up_before_it_is_forgotten() {
        let mut state = AgentState::default();
        let mut summed = 0;
        for n in 0..2_000 {
            state.remember(UnixMs(n), format!("memory {n} {}", "m".repeat(usize::try_from(n % 700).unwrap())));
            let covers = state.to_condense();
            if covers > 0 {
                let before = state.memory.len();
                let first = state.memory[covers - 1].at;
                state.condense(covers, format!("summary of {covers}"));
                assert_eq!((state.memory.len(), state.memory[0].at), (before - covers + 1, first));
                summed += 1;
            }
        }
        assert!(summed > 5 && state.memory.len() < MAX_MEMORY * 3 / 4 + 1);
        // Each is in a summary or still there: nothing fell out unread.
        assert_eq!(state.memory.last().unwrap().at, UnixMs(1_999));
        let mut large = AgentState::default();
        for n in 0..8 {
            large.remember(UnixMs(n), "x".repeat(8 * 1024));
        }
        assert_eq!(large.to_condense(), 0, "two do not fit: the oldest goes, as before");
        large.condense(0, "nothing".into());
        assert_eq!(large.memory.len(), 8);
    }

    #[test]
    fn whatever_a_model_writes_a_state_can_be_stored() {
        let mut state = AgentState::new("persona".into(), vec!["the owner's".into()]);
        for n in 0..40 {
            state.remember(UnixMs(n), "\u{1}".repeat(16 * 1024));
            state.update_goal(&format!("{n}{}", "\u{1}".repeat(8 * 1024)), n % 2 == 0, "\u{1}".repeat(8 * 1024));
        }
        assert!(state.encode().is_err(), "otherwise this test shows nothing");
        state.fit();
        state.encode().unwrap();
        assert_eq!(state.goals[0].text, "the owner's");
        assert_eq!(state.persona, "persona");
    }

    #[test]
    fn a_smaller_room_is_kept_and_costs_no_open_goal() {
        let mut state = AgentState::new("persona".into(), vec!["the owner's".into()]);
        state.room = Some(16 * 1024);
        let mut summed = 0;
        for n in 0..300 {
            state.remember(UnixMs(n), format!("{n} {}", "m".repeat(300)));
            state.update_goal(&format!("done {}", n % 8), true, "n".repeat(200));
            let covers = state.to_condense();
            if covers > 0 {
                state.condense(covers, "a summary".into());
                summed += 1;
            }
            state.fit();
            assert!(state.fits_room().is_ok() && state.encode().unwrap().len() <= 16 * 1024, "{n}");
        }
        assert!(summed > 5, "summed up before it is forgotten");
        assert_eq!(state.goals[0].text, "the owner's");
        // What the owner wrote is not forgotten, and is too much: that is said.
        state.persona = "p".repeat(17 * 1024);
        state.fit();
        assert_eq!((state.persona.len(), state.goals[0].text.as_str()), (17 * 1024, "the owner's"));
        assert!(state.fits_room().unwrap_err().size > 17 * 1024);
        let read = AgentState::decode(&state.encode().unwrap()).unwrap();
        assert_eq!(AgentState { room: state.room, ..read }, state, "room is no part of the document");
    }

    #[test]
    fn a_peer_cools_down_and_comes_back() {
        let mut state = AgentState::default();
        let peer = Npub::from_bytes([9; 32]);
        for second in 0..10 {
            assert!(!state.in_cooldown(&peer, UnixMs::from_secs(second)));
            state.note_answer(peer, UnixMs::from_secs(second));
        }
        assert!(state.in_cooldown(&peer, UnixMs::from_secs(10)));
        assert!(!state.in_cooldown(&peer, UnixMs::from_secs(700)));
    }

    proptest! {
        #[test]
        fn memory_stays_in_bounds(sizes in prop::collection::vec(0_usize..9_000, 0..260)) {
            let mut state = AgentState::default();
            for size in sizes {
                state.remember(UnixMs(0), "x".repeat(size));
            }
            prop_assert!(state.memory.len() <= MAX_MEMORY);
            let bytes: usize = state.memory.iter().map(|m| m.text.len()).sum();
            prop_assert!(bytes <= MAX_MEMORY_BYTES || state.memory.len() == 1);
        }
    }
}
