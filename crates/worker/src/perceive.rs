//! What the model is told: the agent's own words, and the words of others, kept apart.

use nexus_core::policy::Policy;
use nexus_core::prompt::{Prompt, PromptGoal, PromptMessage};
use nexus_core::state::AgentState;
use nexus_core::trigger::{Stimulus, Trigger};
use nexus_core::{Msat, Npub, UnixMs};

/// Messages that one tick takes; the rest wait for the next.
pub const MAX_STIMULI: usize = 16;
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

/// The prompt of a tick.
///
/// Memory is shown only when everyone who wrote is known to the policy: a stranger must not talk it out of the
/// agent. A clear request leaves out memory, private messages and goals, whoever wrote.
pub fn prompt(thinker: &Thinker<'_>, trigger: Trigger, stimuli: &[Stimulus], encrypted: bool, now: UnixMs) -> Prompt {
    let trusted = stimuli.iter().all(|stimulus| is_trusted(stimulus, thinker.policy, &thinker.owner));
    let state = thinker.state;
    let goals =
        state.goals.iter().map(|goal| PromptGoal { text: goal.text.clone(), done: goal.done, note: goal.note.clone() });
    let memory = state.memory.iter().map(|memory| memory.text.clone());
    Prompt {
        agent: thinker.name.to_owned(),
        npub: thinker.npub.to_string(),
        now: now.secs(),
        trigger: trigger.to_string(),
        persona: if encrypted { state.persona.clone() } else { String::new() },
        goals: if encrypted { goals.collect() } else { Vec::new() },
        memory: if encrypted && trusted { memory.collect() } else { Vec::new() },
        balance_sats: if encrypted { thinker.balance.whole_sats() } else { 0 },
        messages: stimuli
            .iter()
            .enumerate()
            .filter(|(_, stimulus)| encrypted || is_public(stimulus.trigger))
            .map(|(index, stimulus)| message(index, stimulus))
            .collect(),
    }
}

/// Whether these words are of someone the policy knows. Words that nobody signed are a stranger's.
pub fn is_trusted(stimulus: &Stimulus, policy: &Policy, owner: &Npub) -> bool {
    match stimulus.sender {
        Some(sender) => policy.knows(&sender, owner),
        None => stimulus.text.is_empty(),
    }
}

const fn is_public(trigger: Trigger) -> bool {
    match trigger {
        Trigger::Mention | Trigger::Zap | Trigger::Kind(_) => true,
        Trigger::Heartbeat | Trigger::Dm | Trigger::Webhook | Trigger::Manual | Trigger::Approval => false,
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
    fn strangers_never_see_memory_and_clear_requests_see_less() {
        let policy = Policy::default_for(AGENT);
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
        let clear = from(&mixed, false);
        assert!(clear.goals.is_empty() && clear.persona.is_empty() && clear.memory.is_empty());
        assert_eq!(clear.messages.len(), 1);
        assert_eq!(clear.messages[0].label, "m2");
    }
}
