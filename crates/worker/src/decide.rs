//! From a model's answer to actions: read, judged by the policy, and signed once.

use std::time::Duration;

use nexus_core::action::{Action, parse_answer};
use nexus_core::policy::{Ground, Verdict, judge};
use nexus_core::state::AgentState;
use nexus_core::tick::{Plan, Planned};
use nexus_core::trigger::Stimulus;
use nexus_core::{Npub, UnixMs};
use nexus_nostr::gift_wrap::WrapError;
use nexus_nostr::relay_pool::Interest;
use nexus_nostr::{Head, gift_wrap, kinds, note, profile as lists};
use nexus_seal::SignerError;
use nexus_store::agent::Agent;
use nostr::event::{Event, Kind};
use nostr::filter::Filter;

use crate::approval;
use crate::error::TurnError;
use crate::filter::Taken;
use crate::host::Host;
use crate::perceive::{is_trusted, label};
use crate::profile::{address, relays, sign, signed};
use crate::secrets::signer_problem;
use crate::unlock::Opened;
use crate::zapping;

/// How long to look for the relays that a receiver of messages named.
const RELAY_LOOKUP: Duration = Duration::from_millis(800);
/// Relays of others that a message goes to, beside our own.
const MAX_PEER_RELAYS: usize = 4;

/// The actions of a tick and, when the answer was not taken, why.
pub(crate) struct Decision {
    pub planned: Vec<Planned>,
    pub note: Option<String>,
}

/// Reads, judges and signs. What needs an approval is parked, as long as there is room for it.
pub(crate) async fn decide(
    host: &Host,
    agent: &Agent,
    opened: &mut Opened,
    taken: &[Taken],
    answer: &str,
) -> Result<Decision, TurnError> {
    let actions = match parse_answer(answer) {
        Ok(actions) => actions,
        Err(why) => return Ok(Decision { planned: Vec::new(), note: Some(why.to_string()) }),
    };
    let mut planned = Vec::with_capacity(actions.len());
    for action in actions {
        let plan = plan(host, agent, opened, taken, &action, &planned).await?;
        planned.push(Planned { action, plan });
    }
    Ok(Decision { planned, note: None })
}

/// Longest summary of memories, in bytes.
const MAX_SUMMARY: usize = 4 * 1024;

pub(crate) fn refused(why: &str) -> Plan {
    Plan::Refused { why: why.to_owned() }
}

async fn plan(
    host: &Host,
    agent: &Agent,
    opened: &mut Opened,
    taken: &[Taken],
    action: &Action,
    before: &[Planned],
) -> Result<Plan, TurnError> {
    let message = answered_by(action, taken).map(|index| &taken[index]);
    let (verdict, trusted) = match opened.policy() {
        Some(policy) => {
            let trusted = taken.iter().all(|taken| is_trusted(&taken.stimulus, policy, &opened.owner));
            (judge(policy, &opened.owner, action, Ground { answers_sender: message.is_some(), trusted }), trusted)
        }
        None => return Ok(refused("policy_missing")),
    };
    let replied = message.and_then(Replied::to);
    // What can't be done is not worth a question.
    match (action, &verdict) {
        (Action::Reply { .. }, _) if message.is_none() => return Ok(refused("no such message to reply to")),
        (Action::Reply { .. }, _) if replied.is_none() => {
            return Ok(refused("that message has no address to reply to"));
        }
        (Action::SummariseMemory { covers, text }, _) => {
            if let Err(why) = fits_memory(&opened.state, *covers, text, before) {
                return Ok(refused(why));
            }
        }
        (Action::Zap { .. }, Verdict::Allow | Verdict::Ask(_)) => {
            return zapping::decide(host, agent, opened, taken, action, (verdict, trusted), before).await;
        }
        (_, _) => {}
    }
    match verdict {
        Verdict::Refuse(why) => Ok(refused(why)),
        Verdict::Ask(why) => Ok(approval::park(opened, action, replied.as_ref(), trusted, why, before)),
        Verdict::Allow => carry_out(host, agent, opened, action, replied.as_ref()).await,
    }
}

/// Whether a summary is what was asked for. Whoever answers could otherwise wipe the memory with one word.
fn fits_memory(state: &AgentState, covers: u32, text: &str, before: &[Planned]) -> Result<(), &'static str> {
    let asked = state.to_condense();
    if asked == 0 || usize::try_from(covers) != Ok(asked) {
        return Err("it does not cover the memories that were to be summed up");
    }
    let covered: usize = state.memory.iter().take(asked).map(|memory| memory.text.len()).sum();
    if text.len() > MAX_SUMMARY.min(covered) {
        return Err("a summary is at most 4 KiB, and shorter than what it sums up");
    }
    if before.iter().any(|planned| matches!(planned.action, Action::SummariseMemory { .. })) {
        return Err("memory is summed up once in a tick");
    }
    Ok(())
}

/// Signs what an allowed action publishes.
pub(crate) async fn carry_out(
    host: &Host,
    agent: &Agent,
    opened: &mut Opened,
    action: &Action,
    replied: Option<&Replied>,
) -> Result<Plan, TurnError> {
    let now = host.now();
    match action {
        Action::UpdateGoal { .. } | Action::AddMemory { .. } | Action::SummariseMemory { .. } | Action::None => {
            Ok(Plan::Local)
        }
        Action::Post { text } => {
            let event = sign(opened, &address(kinds::NOTE), now, |head| note::post(head, text)).await?;
            Ok(Plan::Publish { events: vec![event], relays: relays(host, agent) })
        }
        Action::Reply { text, .. } => match replied {
            Some(replied) => reply(host, agent, opened, replied, text, now).await,
            None => Ok(refused("no such message to reply to")),
        },
        Action::Dm { to, text } => {
            let legacy = replied.is_some_and(|replied| replied.kind == kinds::LEGACY_DM);
            message(host, agent, opened, to, text, None, legacy, now).await
        }
        Action::Zap { .. } => zapping::plan(host, agent, opened, action).await,
    }
}

/// What an answer needs to know of the message that it answers.
pub(crate) struct Replied {
    pub id: nexus_core::Hash32,
    pub author: Npub,
    pub kind: u16,
    /// A public one, whose thread goes on.
    pub event: Option<Event>,
}

impl Replied {
    /// None for what nobody can be answered on: a manual text, a webhook.
    fn to(taken: &Taken) -> Option<Self> {
        let (event, author) = (taken.event.as_ref()?, taken.stimulus.sender?);
        let kind = event.kind.as_u16();
        let private = matches!(kind, kinds::LEGACY_DM | kinds::GIFT_WRAP);
        let id = taken.stimulus.event_id.unwrap_or_else(|| nexus_nostr::event::hash(&event.id));
        Some(Self { id, author, kind, event: (!private).then(|| event.clone()) })
    }
}

/// The message of this tick that an action answers.
fn answered_by(action: &Action, taken: &[Taken]) -> Option<usize> {
    match action {
        Action::Reply { to, .. } => (0..taken.len()).find(|index| label(*index) == *to),
        Action::Dm { to, .. } => taken.iter().position(|taken| is_dm_of(&taken.stimulus, to)),
        Action::Post { .. }
        | Action::Zap { .. }
        | Action::UpdateGoal { .. }
        | Action::AddMemory { .. }
        | Action::SummariseMemory { .. }
        | Action::None => None,
    }
}

fn is_dm_of(stimulus: &Stimulus, who: &Npub) -> bool {
    stimulus.sender.as_ref() == Some(who) && stimulus.trigger == nexus_core::trigger::Trigger::Dm
}

/// Answers in the form of what is answered: a note in its thread, a message as a message.
async fn reply(
    host: &Host,
    agent: &Agent,
    opened: &mut Opened,
    to: &Replied,
    text: &str,
    now: UnixMs,
) -> Result<Plan, TurnError> {
    match (to.kind, &to.event) {
        (kinds::LEGACY_DM, _) => message(host, agent, opened, &to.author, text, Some(to.id), true, now).await,
        (kinds::GIFT_WRAP, _) => message(host, agent, opened, &to.author, text, Some(to.id), false, now).await,
        (_, None) => Ok(refused("that message has no address to reply to")),
        (kind, Some(parent)) => {
            let own = host.config.own_relay.clone();
            let kind = if kind == kinds::NOTE { kinds::NOTE } else { kinds::COMMENT };
            let event = sign(opened, &address(kind), now, |head| note::answer(head, text, parent, &own)).await?;
            Ok(Plan::Publish { events: vec![event], relays: relays(host, agent) })
        }
    }
}

/// A private message: NIP-17, or kind 4 to one who wrote in kind 4.
#[expect(clippy::too_many_arguments, reason = "one message, all its parts")]
async fn message(
    host: &Host,
    agent: &Agent,
    opened: &mut Opened,
    to: &Npub,
    text: &str,
    answers: Option<nexus_core::Hash32>,
    legacy: bool,
    now: UnixMs,
) -> Result<Plan, TurnError> {
    let mut relays = relays(host, agent);
    if legacy {
        let ciphertext = match opened.signer.nip04_encrypt(to, text).await {
            Ok(ciphertext) => ciphertext,
            Err(error @ SignerError::Offline(_)) => return Err(signer_problem(&error)),
            Err(_) => return Ok(refused("the receiver's key is not a key")),
        };
        let event =
            sign(opened, &address(kinds::LEGACY_DM), now, |head| note::legacy_dm(head, to, &ciphertext, answers))
                .await?;
        return Ok(Plan::Publish { events: vec![event], relays });
    }
    let created_at = opened.state.next_created_at(&address(kinds::DM), now);
    let rumor = gift_wrap::rumor(Head::new(opened.npub, created_at), to, text, answers);
    let mut events = Vec::with_capacity(2);
    for reader in [*to, opened.npub] {
        match gift_wrap::gift_wrap(&*opened.signer, &rumor, &reader, now.secs(), &*host.entropy).await {
            Ok(wrapped) => events.push(signed(&wrapped)),
            Err(WrapError::Signer(error @ SignerError::Offline(_))) => return Err(signer_problem(&error)),
            Err(error) => return Ok(refused(&format!("the message could not be wrapped: {error}"))),
        }
    }
    for relay in peer_relays(host, to).await {
        if !relays.contains(&relay) {
            relays.push(relay);
        }
    }
    Ok(Plan::Publish { events, relays })
}

/// Where a receiver wants messages (10050), as far as our own relay knows.
async fn peer_relays(host: &Host, to: &Npub) -> Vec<String> {
    let filter =
        Filter::new().kind(Kind::from_u16(kinds::DM_RELAYS)).author(nexus_nostr::event::public_key(to)).limit(1);
    let interest = Interest { relays: vec![host.config.own_relay.clone()], filters: vec![filter], auth: Vec::new() };
    let found = host.relays.fetch(interest, RELAY_LOOKUP).await.events;
    let list = found.first().and_then(|event| lists::read_dm_relays(event).ok()).unwrap_or_default();
    list.into_iter().take(MAX_PEER_RELAYS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_summary_that_was_asked_for_replaces_memories() {
        let mut state = AgentState::default();
        (0..160).for_each(|n| state.remember(UnixMs(n), format!("memory {n}")));
        let asked = u32::try_from(state.to_condense()).unwrap();
        assert!(asked > 10);
        fits_memory(&state, asked, "a summary", &[]).unwrap();
        for covers in [0, 1, asked - 1, asked + 1, 160, u32::MAX] {
            assert!(fits_memory(&state, covers, "a summary", &[]).is_err(), "{covers}");
        }
        assert!(fits_memory(&state, asked, &"x".repeat(MAX_SUMMARY + 1), &[]).is_err());
        let action = Action::SummariseMemory { covers: asked, text: "a summary".into() };
        let before = [Planned { action, plan: Plan::Local }];
        assert!(fits_memory(&state, asked, "another", &before).is_err(), "once");
        state.memory.truncate(5);
        assert!(fits_memory(&state, 0, "", &[]).is_err(), "not asked for");
    }
}
