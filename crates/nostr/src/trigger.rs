//! Which agents an event wakes, and what it says to them.
//!
//! Everything read here was written by somebody outside: it is data for a filter and a gate, never an instruction.

use std::collections::BTreeSet;

use nexus_core::trigger::{Stimulus, Trigger};
use nexus_core::{Hash32, Npub, UnixMs};
use nexus_seal::{Signer, SignerError};
use nostr::event::{Event, Kind};
use nostr::filter::Filter;
use nostr::types::Timestamp;

use crate::event::{self, EventError};
use crate::gift_wrap::{self, Rumor, WrapError};
use crate::sealed::Sealed;
use crate::{kinds, note, zap};

/// Most agents that one event wakes.
pub const MAX_TARGETS: usize = 64;

/// Why an event does not wake the agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    #[error(transparent)]
    Event(#[from] EventError),
    #[error("{0}")]
    Ignored(&'static str),
    #[error("the message could not be opened: {0}")]
    Signer(#[from] SignerError),
}

impl From<WrapError> for TriggerError {
    fn from(error: WrapError) -> Self {
        match error {
            WrapError::Event(error) => Self::Event(error),
            WrapError::Signer(error) => Self::Signer(error),
            WrapError::Invalid(why) => Self::Ignored(why),
        }
    }
}

/// The trigger that a kind pulls.
pub const fn of_kind(kind: u16) -> Trigger {
    match kind {
        kinds::NOTE | kinds::COMMENT => Trigger::Mention,
        kinds::LEGACY_DM | kinds::GIFT_WRAP => Trigger::Dm,
        kinds::ZAP_RECEIPT => Trigger::Zap,
        kinds::APPROVAL => Trigger::Approval,
        other => Trigger::Kind(other),
    }
}

/// The keys that an event could wake, and its trigger. None for one's own events and for kinds that never wake anyone.
pub fn targets(event: &Event) -> (Trigger, Vec<Npub>) {
    let author = event::npub(&event.pubkey);
    let mut keys = event::mentioned(event, MAX_TARGETS);
    keys.retain(|key| *key != author);
    (of_kind(event.kind.as_u16()), keys)
}

/// What an event says, as far as it can be read without a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Clear(Stimulus),
    /// Kind 4: everything but its text is known.
    Legacy(Stimulus, Sealed),
    /// Kind 1059: nothing is known but that it is for us.
    Wrapped,
}

/// Reads a verified event that was taken into the inbox of `me`.
pub fn read(event: &Event, me: &Npub) -> Result<Message, TriggerError> {
    let (trigger, targets) = targets(event);
    if !targets.contains(me) {
        return Err(TriggerError::Ignored("not addressed to this agent by somebody else"));
    }
    match event.kind.as_u16() {
        kinds::GIFT_WRAP => Ok(Message::Wrapped),
        kinds::LEGACY_DM => {
            let sealed = Sealed::new(event::npub(&event.pubkey), &event.content);
            Ok(Message::Legacy(stimulus(event, trigger, String::new()), sealed))
        }
        kinds::ZAP_RECEIPT => zap_stimulus(event, me).map(Message::Clear),
        _ => Ok(Message::Clear(stimulus(event, trigger, event.content.clone()))),
    }
}

/// Reads a verified event as the agent that holds `signer`, decrypting where needed.
///
/// The id of the result is the one to deduplicate on: for a gift wrap that of the inner message.
pub async fn receive(event: &Event, signer: &dyn Signer) -> Result<Stimulus, TriggerError> {
    let me = signer.public_key();
    match read(event, &me)? {
        Message::Clear(stimulus) => Ok(stimulus),
        Message::Legacy(stimulus, sealed) => Ok(Stimulus { text: sealed.open(signer).await?, ..stimulus }),
        Message::Wrapped => rumor_stimulus(gift_wrap::unwrap(signer, event).await?, &me),
    }
}

fn stimulus(event: &Event, trigger: Trigger, text: String) -> Stimulus {
    Stimulus {
        trigger,
        sender: Some(event::npub(&event.pubkey)),
        event_id: Some(event::hash(&event.id)),
        event_kind: Some(event.kind.as_u16()),
        root_id: if event.kind.as_u16() == kinds::NOTE { note::thread_root(event) } else { None },
        at: UnixMs::from_secs(event::created_at(event)),
        text,
    }
}

/// A direct message out of its wrap. Its outer kind is kept, so that the answer takes the same form.
pub fn rumor_stimulus(rumor: Rumor, me: &Npub) -> Result<Stimulus, TriggerError> {
    if rumor.sender == *me {
        return Err(TriggerError::Ignored("a copy of one's own message"));
    }
    if rumor.kind != kinds::DM {
        return Err(TriggerError::Ignored("a wrapped event that is not a text message"));
    }
    if !rumor.to.is_empty() && !rumor.to.contains(me) {
        return Err(TriggerError::Ignored("a message to somebody else"));
    }
    Ok(Stimulus {
        trigger: Trigger::Dm,
        sender: Some(rumor.sender),
        event_id: Some(rumor.id),
        event_kind: Some(kinds::GIFT_WRAP),
        root_id: None,
        at: UnixMs::from_secs(rumor.created_at),
        text: rumor.text,
    })
}

fn zap_stimulus(receipt: &Event, me: &Npub) -> Result<Stimulus, TriggerError> {
    let zap = zap::read_receipt(receipt, me)?;
    Ok(Stimulus { sender: Some(zap.sender), text: zap.comment, ..stimulus(receipt, Trigger::Zap, String::new()) })
}

/// What to ask a relay of others for on behalf of some agents, at most 500 keys a filter: public kinds and those that the
/// agents ask for, or private messages alone, which many relays show to nobody but their reader.
///
/// Gift wraps have their own filter: their times are blurred, so theirs always reaches three days back.
pub fn filters(agents: &[Npub], kinds: &BTreeSet<u16>, private: bool, since: i64, now: i64) -> Vec<Filter> {
    const SHARD: usize = 500;
    let seconds = |at: i64| Timestamp::from_secs(u64::try_from(at).unwrap_or(0));
    let public = [kinds::NOTE, kinds::COMMENT, kinds::ZAP_RECEIPT, kinds::APPROVAL];
    let open: BTreeSet<Kind> = public.iter().chain(kinds).copied().map(Kind::from_u16).collect();
    let mut filters = Vec::new();
    for shard in agents.chunks(SHARD) {
        let to = Filter::new().pubkeys(shard.iter().map(event::public_key));
        if private {
            filters.push(to.clone().kind(Kind::from_u16(kinds::LEGACY_DM)).since(seconds(since)));
            filters.push(to.kind(Kind::from_u16(kinds::GIFT_WRAP)).since(seconds(now - 3 * 86_400)));
        } else {
            filters.push(to.kinds(open.clone()).since(seconds(since)));
        }
    }
    filters
}

/// The inner id of an opened message, or the event's own: what is remembered as acted on.
pub fn effect_id(stimulus: &Stimulus, event: &Event) -> Hash32 {
    stimulus.event_id.unwrap_or_else(|| event::hash(&event.id))
}
