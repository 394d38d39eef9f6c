//! The free filter: before anything is paid for, inbox rows are opened, verified and judged.

use nexus_core::schedule::plan as schedule;
use nexus_core::tick::Claimed;
use nexus_core::trigger::{Class, Stimulus, Trigger};
use nexus_core::{AgentConfig, Hash32, UnixMs};
use nexus_nostr::trigger::{self as nostr_trigger, TriggerError};
use nexus_seal::SignerError;
use nexus_store::agent::Agent;
use nexus_store::inbox::Item;
use nostr::event::Event;

use crate::delegation;
use crate::error::TurnError;
use crate::host::Host;
use crate::secrets::signer_problem;
use crate::unlock::Opened;
use crate::zap;

/// A row that passed: what it says, and the event to answer to.
#[derive(Clone)]
pub(crate) struct Taken {
    pub row: i64,
    /// Of what the row said when it was read.
    pub digest: Hash32,
    pub stimulus: Stimulus,
    /// When it was stored here.
    pub received_at: UnixMs,
    pub event: Option<Event>,
    /// What is remembered as acted on, for Nostr events.
    pub effect: Option<Hash32>,
    /// The run of a schedule that it is.
    pub run: Option<String>,
}

impl Taken {
    /// A row that an open tick claimed and that cannot be read any more: nothing to answer, and nobody.
    pub fn gone(row: i64, at: UnixMs) -> Self {
        let stimulus = Stimulus {
            trigger: Trigger::Manual,
            sender: None,
            event_id: None,
            event_kind: None,
            root_id: None,
            at,
            text: "(this message cannot be read any more)".into(),
        };
        Self { row, digest: Hash32::sha256(b""), stimulus, received_at: at, event: None, effect: None, run: None }
    }

    pub const fn claim(&self) -> Claimed {
        Claimed { row: self.row, digest: self.digest }
    }
}

/// What a row says, class and trigger included, as the journal remembers it.
pub(crate) fn digest(item: &Item) -> Hash32 {
    let mut said = format!("{}\n{}\n", item.class.as_str(), item.trigger).into_bytes();
    said.extend_from_slice(&item.payload);
    if item.class == Class::Schedule {
        said.extend_from_slice(item.external_id.as_bytes());
    }
    Hash32::sha256(&said)
}

/// What becomes of a row.
pub(crate) enum Sifted {
    Keep(Box<Taken>),
    Discard(&'static str),
    /// Nobody could open it now: it waits.
    Unread(TurnError),
}

/// Why a row was not opened.
pub(crate) enum Closed {
    /// It never will be.
    For(&'static str),
    /// The agent's signer does not answer.
    Now(TurnError),
}

impl From<&'static str> for Closed {
    fn from(why: &'static str) -> Self {
        Self::For(why)
    }
}

fn closed(error: TriggerError) -> Closed {
    match error {
        TriggerError::Signer(error @ SignerError::Offline(_)) => Closed::Now(signer_problem(&error)),
        TriggerError::Signer(_) | TriggerError::Event(_) | TriggerError::Ignored(_) => Closed::For("not_readable"),
    }
}

/// Opens one row without judging it: for a tick that already claimed it.
pub(crate) async fn open(opened: &Opened, item: &Item) -> Result<Taken, Closed> {
    let digest = digest(item);
    match item.class {
        Class::Nostr => {
            let event = nexus_nostr::parse_event(&item.payload).map_err(|_| "not_verified")?;
            let stimulus = nostr_trigger::receive(&event, &*opened.signer).await.map_err(closed)?;
            let (stimulus, effect) = if stimulus.trigger == Trigger::Zap {
                // A zap is known by what was paid: another receipt for it is no other zap.
                let invoice = zap::invoice(&event)?;
                let text = zap::said(&invoice, &stimulus.text);
                (Stimulus { text, ..stimulus }, invoice.hash)
            } else {
                let effect = nostr_trigger::effect_id(&stimulus, &event);
                let text = match delegation::read(&event) {
                    Some(read) => delegation::said(&read?),
                    None => stimulus.text,
                };
                let stimulus = Stimulus { text, ..stimulus };
                (stimulus, effect)
            };
            let effect = Some(effect);
            Ok(Taken {
                row: item.id,
                digest,
                stimulus,
                received_at: item.received_at,
                event: Some(event),
                effect,
                run: None,
            })
        }
        Class::Manual | Class::Webhook | Class::Schedule | Class::Approval => {
            let text = if item.class == Class::Schedule {
                // Nothing of what the row says but which schedule, and when.
                schedule::said(&item.external_id).ok_or("not_readable")?
            } else if item.payload.is_empty() {
                String::new()
            } else {
                let bytes = opened.keys.inbox.open(&item.payload).map_err(|_| "not_readable")?;
                String::from_utf8_lossy(bytes.expose()).into_owned()
            };
            let stimulus = Stimulus {
                trigger: if item.class == Class::Schedule { Trigger::Schedule } else { item.trigger },
                // Sealed to the agent by anyone who knows its inbox recipient: no proof of who wrote it.
                sender: None,
                event_id: None,
                event_kind: None,
                root_id: None,
                at: item.received_at,
                text,
            };
            let run = (item.class == Class::Schedule).then(|| item.external_id.clone());
            Ok(Taken { row: item.id, digest, stimulus, received_at: item.received_at, event: None, effect: None, run })
        }
    }
}

/// Opens and judges one row. `taken` are those that passed before it in this turn.
pub(crate) async fn sift(host: &Host, opened: &Opened, agent: &Agent, item: &Item, taken: &[Taken]) -> Sifted {
    let row = match open(opened, item).await {
        Ok(row) => row,
        Err(Closed::For(why)) => return Sifted::Discard(why),
        Err(Closed::Now(problem)) => return Sifted::Unread(problem),
    };
    // It was sent before the restore, and may have been answered by the host that was lost. Events count in seconds, and
    // nobody answered in the second in which the database was put back.
    if row.event.is_some() && agent.restored_at.is_some_and(|at| row.stimulus.at.secs() < at.secs()) {
        return Sifted::Discard("sent_before_restore");
    }
    let event = row.event.as_ref();
    let judged = event
        .map_or(Ok(()), |event| {
            zap::check(host, opened, event).and_then(|()| delegation::check(opened, event, host.now()))
        })
        .and_then(|()| judge(host, opened, &agent.config, &row, taken, host.now()));
    if let Err(why) = judged {
        return Sifted::Discard(why);
    }
    let paid = match event {
        Some(event) => zap::paid(host, opened, event).await,
        None => Ok(()),
    };
    match paid {
        Ok(()) => Sifted::Keep(Box::new(row)),
        Err(Closed::For(why)) => Sifted::Discard(why),
        Err(Closed::Now(problem)) => Sifted::Unread(problem),
    }
}

fn judge(
    host: &Host,
    opened: &Opened,
    config: &AgentConfig,
    row: &Taken,
    taken: &[Taken],
    now: UnixMs,
) -> Result<(), &'static str> {
    let trigger = row.stimulus.trigger;
    let asked_for = matches!(trigger, Trigger::Manual | Trigger::Schedule | Trigger::Approval)
        || config.triggers.contains(&trigger);
    if !asked_for {
        return Err("trigger_not_wanted");
    }
    if let Some(effect) = row.effect {
        let known = opened.state.seen.contains(&effect) || taken.iter().any(|other| other.effect == Some(effect));
        if known {
            return Err("seen_before");
        }
    }
    let Some(sender) = row.stimulus.sender else { return Ok(()) };
    if sender == opened.npub {
        return Err("own_event");
    }
    if !opened.policy().is_none_or(|policy| policy.admits(&sender, &opened.owner)) {
        return Err("sender_not_admitted");
    }
    if matches!(trigger, Trigger::Manual | Trigger::Approval) {
        return Ok(());
    }
    if opened.state.in_cooldown(&sender, now) {
        return Err("loop_cooldown");
    }
    if !host.admit_sender(opened.npub, sender, row.row, config.sender_rate_per_minute, now) {
        return Err("sender_rate");
    }
    Ok(())
}
