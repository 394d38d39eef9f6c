//! The heartbeat of an agent at rest: skipped by what the row says, without opening the agent.

use nexus_core::event::EventBody;
use nexus_core::trigger::Trigger;
use nexus_core::{Generation, Npub, TickId, UnixMs, schedule};
use nexus_store::agent::{Agent, Change};
use nexus_store::event::NewEvent;
use nexus_store::rest::{self, Resting, Seen};
use nexus_store::tick::{self, Skip};

use crate::error::TurnError;
use crate::host::Host;
use crate::ledger::Pen;
use crate::turn::{After, until};

/// What a heartbeat is refused with when there is nothing to think about.
pub(crate) const NOTHING_NEW: &str = "nothing_new";

/// Ends the turn of an agent at rest; none for every other agent, which is to be opened.
pub(crate) async fn pass_by(host: &Host, npub: Npub, generation: Generation) -> Result<Option<After>, TurnError> {
    let now = host.now();
    let Some(resting) = rest::resting(&host.store, host.id, npub, now).await? else { return Ok(None) };
    if resting.generation < generation {
        return Ok(None);
    }
    let beat = if resting.next_tick_at <= now { skip(host, npub, &resting, now).await? } else { resting.next_tick_at };
    let next = resting.next_schedule_at.map_or(beat, |at| at.min(beat));
    Ok(Some(After::At(until(host, Some(next)))))
}

/// Records the heartbeat as skipped. Returns when the next is due.
async fn skip(host: &Host, npub: Npub, resting: &Resting, now: UnixMs) -> Result<UnixMs, TurnError> {
    let pen = Pen { host, npub, generation: resting.generation };
    let interval = i64::from(resting.config.heartbeat_secs) * 1_000;
    let next = schedule::meet(resting.next_tick_at, interval, now, resting.config.catch_up).next;
    let skip = Skip {
        fence: pen.fence()?,
        npub,
        generation: resting.generation,
        tick: TickId::new(now, nexus_core::time::random(&*host.entropy)),
        trigger: Trigger::Heartbeat,
        at: now,
        reason: NOTHING_NEW.to_owned(),
        discard: Vec::new(),
        change: Change { next_attempt_at: Some(Some(next)), next_tick_at: Some(Some(next)), ..Change::default() },
        events: vec![NewEvent::new(
            now,
            EventBody::TickSkipped { trigger: Trigger::Heartbeat, reason: NOTHING_NEW.to_owned() },
        )],
    };
    let seqs = tick::skip(&host.store, skip).await?;
    host.vitals.tick_ended("skipped");
    host.announce(npub, &seqs);
    Ok(next)
}

/// Marks an agent that was opened, and for which nothing is new.
pub(crate) async fn mark(pen: &Pen<'_>, agent: &Agent, policy_version: u64, now: UnixMs) -> Result<(), TurnError> {
    // A stored policy that is not the one obeyed is looked at again each time.
    if agent.policy_version != i64::try_from(policy_version).ok() {
        return Ok(());
    }
    let seen = Seen {
        config_version: agent.config_version,
        policy_version: agent.policy_version.unwrap_or_default(),
        at: now,
    };
    rest::mark(&pen.host.store, pen.fence()?, pen.npub, pen.generation, seen).await?;
    Ok(())
}
