//! What the model is told: the agent's own words, and the words of others, kept apart.

use nexus_core::policy::Policy;
use nexus_core::prompt::{MAX_PROMPT, Prompt, PromptGoal, PromptMessage};
use nexus_core::state::{AgentState, Memory};
use nexus_core::trigger::{Stimulus, Trigger};
use nexus_core::{Msat, Npub, UnixMs};

/// Messages that one tick takes. An answer holds 16 actions at most, and is refused whole above that: each message
/// can have its reply, and six actions are left for memory, goals and posts.
pub const MAX_STIMULI: usize = 10;
/// Messages, goals and persona of a tick, in bytes, beside the instructions and the rest of a prompt.
const MAX_SHOWN: usize = MAX_PROMPT - 4 * 1024;
/// What stands in a prompt beside a message's text: its label, kind, sender, id and their names.
const SAID_BESIDE: usize = 272;
/// Longest message shown, in bytes.
const MAX_MESSAGE: usize = 4 * 1024;

/// Who thinks, and with what.
pub struct Thinker<'a> {
    pub npub: Npub,
    pub owner: Npub,
    pub name: &'a str,
    pub policy: &'a Policy,
    pub state: &'a AgentState,
    pub balance: Msat,
}

/// The label under which a message stands in the prompt and is answered.
pub fn label(index: usize) -> String {
    format!("m{}", index + 1)
}

/// How much one tick takes, so that its prompt shows every message and its answer can hold a reply to each. The rest
/// waits for the next tick.
pub struct Room {
    messages: usize,
    bytes: usize,
}

impl Room {
    /// What is left beside goals and persona; memory gives way to messages.
    pub fn beside(state: &AgentState) -> Self {
        let goals: usize = state.goals.iter().map(|goal| json_bytes(&goal.text) + json_bytes(&goal.note) + 64).sum();
        Self { messages: MAX_STIMULI, bytes: MAX_SHOWN.saturating_sub(goals + json_bytes(&state.persona)) }
    }

    pub const fn is_full(&self) -> bool {
        self.messages == 0
    }

    /// Whether there is room for this one, which is then taken. The first of a tick always has room.
    pub fn take(&mut self, stimulus: &Stimulus) -> bool {
        let shown = message(MAX_STIMULI, stimulus);
        let bytes = json_bytes(&shown.text) + SAID_BESIDE;
        if self.is_full() || (self.messages < MAX_STIMULI && bytes > self.bytes) {
            return false;
        }
        *self = Self { messages: self.messages - 1, bytes: self.bytes.saturating_sub(bytes) };
        true
    }
}

fn json_bytes(text: &str) -> usize {
    serde_json::to_string(text).map_or(usize::MAX / 4, |json| json.len())
}

/// The prompt of a tick.
///
/// Memory is shown only when everyone who wrote is known to the policy: a stranger must not talk it out of the
/// agent. A clear request leaves out memory, private messages and goals, whoever wrote.
pub fn prompt(thinker: &Thinker<'_>, trigger: Trigger, stimuli: &[Stimulus], encrypted: bool, now: UnixMs) -> Prompt {
    let trusted = stimuli.iter().all(|stimulus| is_trusted(stimulus, thinker.policy, &thinker.owner));
    let state = thinker.state;
    let goals =
        state.goals.iter().map(|goal| PromptGoal { text: goal.text.clone(), done: goal.done, note: goal.note.clone() });
    let (older, newer) = state.memory.split_at(state.to_condense());
    let texts = |memory: &[Memory]| memory.iter().map(|memory| memory.text.clone()).collect();
    Prompt {
        agent: thinker.name.to_owned(),
        npub: thinker.npub.to_string(),
        now: now.secs(),
        trigger: trigger.to_string(),
        persona: if encrypted { state.persona.clone() } else { String::new() },
        goals: if encrypted { goals.collect() } else { Vec::new() },
        memory: if encrypted && trusted { texts(newer) } else { Vec::new() },
        condense: if encrypted && trusted { texts(older) } else { Vec::new() },
        balance_sats: if encrypted { thinker.balance.whole_sats() } else { 0 },
        messages: stimuli
            .iter()
            .enumerate()
            .filter(|(_, stimulus)| encrypted || is_public(stimulus.trigger))
            .map(|(index, stimulus)| message(index, stimulus))
            .collect(),
    }
}

/// Whether these words are of someone the policy knows. Words that nobody signed are a stranger's; those of a schedule are
/// this program's own.
pub fn is_trusted(stimulus: &Stimulus, policy: &Policy, owner: &Npub) -> bool {
    match stimulus.sender {
        Some(sender) => policy.knows(&sender, owner),
        None => stimulus.text.is_empty() || stimulus.trigger == Trigger::Schedule,
    }
}

const fn is_public(trigger: Trigger) -> bool {
    match trigger {
        Trigger::Mention | Trigger::Zap | Trigger::Kind(_) => true,
        Trigger::Heartbeat
        | Trigger::Schedule
        | Trigger::Dm
        | Trigger::Webhook
        | Trigger::Manual
        | Trigger::Approval => false,
    }
}

/// Whether what woke the agent is an event that others see: private messages have none, and a receipt is nobody's note.
pub(crate) const fn may_be_zapped(trigger: Trigger) -> bool {
    match trigger {
        Trigger::Mention | Trigger::Kind(_) => true,
        Trigger::Heartbeat
        | Trigger::Schedule
        | Trigger::Dm
        | Trigger::Zap
        | Trigger::Webhook
        | Trigger::Manual
        | Trigger::Approval => false,
    }
}

fn message(index: usize, stimulus: &Stimulus) -> PromptMessage {
    let mut text = stimulus.text.clone();
    if text.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    PromptMessage {
        label: label(index),
        kind: stimulus.trigger.to_string(),
        from: stimulus.sender.map(|sender| sender.to_string()),
        id: stimulus.event_id.filter(|_| may_be_zapped(stimulus.trigger)).map(|id| id.to_string()),
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: Npub = Npub::from_bytes([1; 32]);
    const OWNER: Npub = Npub::from_bytes([2; 32]);
    const STRANGER: Npub = Npub::from_bytes([3; 32]);

    fn stimulus(sender: Npub, trigger: Trigger) -> Stimulus {
        Stimulus {
            trigger,
            sender: Some(sender),
            event_id: None,
            event_kind: None,
            root_id: None,
            at: UnixMs(0),
            text: "hello".into(),
        }
    }

    #[test]
    fn a_tick_takes_what_its_prompt_shows_and_its_answer_can_hold() {
        let policy = Policy::default_for(AGENT);
        let goals = (0..8).map(|n| format!("goal {n} {}", "g".repeat(1_000))).collect();
        let mut state = AgentState::new("p".repeat(4_000), goals);
        state.remember(UnixMs(0), "m".repeat(4_000));
        let thinker =
            Thinker { npub: AGENT, owner: OWNER, name: "a", policy: &policy, state: &state, balance: Msat::sats(5) };
        for text in ["hello".to_owned(), "x".repeat(3_000), "\u{1}".repeat(4_096), "ä".repeat(9_000)] {
            let mut waiting: Vec<Stimulus> =
                (0..30).map(|_| Stimulus { text: text.clone(), ..stimulus(STRANGER, Trigger::Mention) }).collect();
            let mut ticks = 0;
            while !waiting.is_empty() {
                let mut room = Room::beside(&state);
                let rest = waiting.iter().position(|waiting| !room.take(waiting)).unwrap_or(waiting.len());
                let later = waiting.split_off(rest);
                let shown = nexus_core::prompt::render(&prompt(&thinker, Trigger::Mention, &waiting, true, UnixMs(0)));
                let shown = nexus_core::prompt::parse(&shown).unwrap().messages;
                let labels: Vec<_> = shown.into_iter().map(|message| message.label).collect();
                assert_eq!(labels, (0..waiting.len()).map(label).collect::<Vec<_>>(), "every one is shown");
                assert!(!waiting.is_empty() && waiting.len() + 6 <= nexus_core::action::MAX_ACTIONS);
                (waiting, ticks) = (later, ticks + 1);
            }
            assert!(ticks >= 3);
        }
    }

    #[test]
    fn strangers_never_see_memory_and_clear_requests_see_less() {
        let policy = Policy::default_for(AGENT);
        let mut state_full = AgentState::default();
        let mut state = AgentState::new("calm".into(), vec!["learn".into()]);
        state.remember(UnixMs(0), "the safe is behind the picture".into());
        let thinker =
            Thinker { npub: AGENT, owner: OWNER, name: "a", policy: &policy, state: &state, balance: Msat::sats(5) };
        let from = |stimuli: &[Stimulus], encrypted| prompt(&thinker, Trigger::Dm, stimuli, encrypted, UnixMs(0));
        assert_eq!(from(&[stimulus(OWNER, Trigger::Dm)], true).memory.len(), 1);
        let mixed = [stimulus(OWNER, Trigger::Dm), stimulus(STRANGER, Trigger::Mention)];
        assert!(from(&mixed, true).memory.is_empty());
        let unsigned = Stimulus { sender: None, ..stimulus(OWNER, Trigger::Manual) };
        assert!(from(&[unsigned], true).memory.is_empty(), "words that nobody signed are a stranger's");
        (0..160).for_each(|n| state_full.remember(UnixMs(n), format!("memory {n}")));
        let full = Thinker { state: &state_full, ..thinker };
        let shown = prompt(&full, Trigger::Heartbeat, &[], true, UnixMs(0));
        assert_eq!((shown.condense.len(), shown.condense.len() + shown.memory.len()), (state_full.to_condense(), 160));
        assert_eq!((shown.condense[0].as_str(), shown.memory.last().unwrap().as_str()), ("memory 0", "memory 159"));
        assert!(prompt(&full, Trigger::Dm, &mixed, true, UnixMs(0)).condense.is_empty());
        let clear = from(&mixed, false);
        assert!(clear.goals.is_empty() && clear.persona.is_empty() && clear.memory.is_empty());
        assert_eq!(clear.messages.len(), 1);
        assert_eq!(clear.messages[0].label, "m2");
    }
}
