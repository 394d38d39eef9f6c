//! Stands beside every write: who wrote, might they, and what did it change.

use nexus_core::tick::{Plan, Record};
use nexus_seal::blob::Purpose;
use nexus_store::inspect::{self, Mark};
use nexus_store::publication;
use nexus_store::tick as ticks;
use nexus_store::{Batch, Fence, Output, StoreError};

use crate::agents::Agent;
use crate::counts;
use crate::money;
use crate::process::Process;
use crate::world::World;

/// Writes to the real store, and checks what a worker's write did.
pub async fn write(world: &World, process: &Process, batch: Batch) -> Result<Vec<Output>, StoreError> {
    let (attempted, fence) = (batch.attempted(), batch.fence());
    let Some(fence) = fence else {
        let held = money::before(world, attempted).await?;
        if attempted == money::LEAVE {
            remember_pending(world).await?;
        }
        let answer = world.store.write(batch).await;
        if answer.is_ok() && attempted == "take the reconciler's term" {
            let before = world.seen().reconciler.replace(process.name.clone());
            if before.is_some_and(|before| before != process.name) {
                world.count(counts::TAKEOVER);
            }
        }
        if process.name.starts_with('c') || answer.is_err() {
            world.trace.note(format_args!("{} {attempted}: {}", process.name, verdict(&answer)));
        }
        if let (Ok(_), Some(held)) = (&answer, held) {
            money::after(world, process, attempted, &held).await?;
        }
        return answer;
    };
    if attempted == "beat" {
        let held = inspect::fence_holds(&world.store, fence).await;
        let answer = world.store.write(batch).await;
        if answer.is_ok() && held != Ok(true) {
            world.trace.violated(format_args!("{} beats without its fence", process.name));
        }
        return answer;
    }
    let before = look(world, fence).await?;
    let answer = world.store.write(batch).await;
    world.trace.note(format_args!("{} {attempted}: {}", process.name, verdict(&answer)));
    if answer.is_ok() {
        compare(world, process, attempted, fence, &before).await?;
    }
    answer
}

/// What is about to be published is forgotten with an agent that goes; a worker may have it in hand.
async fn remember_pending(world: &World) -> Result<(), StoreError> {
    for owned in &world.agents {
        let pending = publication::pending(&world.store, owned.npub).await?;
        world.seen().journaled.extend(pending.iter().map(|one| one.event_id));
    }
    Ok(())
}

fn verdict(answer: &Result<Vec<Output>, StoreError>) -> String {
    match answer {
        Ok(_) => "done".into(),
        Err(StoreError::Stale { .. }) => "stale".into(),
        Err(StoreError::Duplicate { .. }) => "duplicate".into(),
        // Names of budget windows hold the ids of ticks.
        Err(StoreError::Conflict { conflict, .. }) => {
            let text = conflict.to_string();
            format!("conflict: {}", text.split(" window ").next().unwrap_or_default())
        }
        Err(error) => error.to_string(),
    }
}

/// The database before a worker's write.
struct Before {
    held: bool,
    marks: Vec<Mark>,
}

async fn look(world: &World, fence: Fence) -> Result<Before, StoreError> {
    let held = inspect::fence_holds(&world.store, fence).await?;
    Ok(Before { held, marks: inspect::marks(&world.store).await? })
}

/// Whatever a worker changed must have been its own.
async fn compare(
    world: &World,
    process: &Process,
    attempted: &'static str,
    fence: Fence,
    before: &Before,
) -> Result<(), StoreError> {
    if !before.held {
        world.trace.violated(format_args!("{} writes without its fence: {attempted}", process.name));
    }
    let after = inspect::marks(&world.store).await?;
    for (old, new) in before.marks.iter().zip(&after) {
        if old == new {
            continue;
        }
        let name = world.label(&new.npub);
        if attempted == "begin a tick" {
            money::begins(world, process, new.npub);
        }
        if old.worker != Some(fence.worker) {
            world.trace.violated(format_args!("{} changes {name}, which it does not hold: {attempted}", process.name));
        }
        if new.journal > old.journal
            && let Some(agent) = world.agents.iter().find(|agent| agent.npub == new.npub)
        {
            read_journal(world, agent, usize::try_from(old.journal).unwrap_or(0)).await?;
        }
        if new.journal == 0 && old.journal > 0 {
            world.trace.note(format_args!("  {name} tick is over"));
        }
        world.trace.note(format_args!(
            "  {name} g{} events {} state {} handled {} payments {}",
            new.generation.0, new.event_seq, new.state_version, new.handled, new.payments
        ));
    }
    Ok(())
}

/// Opens the records that were appended: their kinds go into the trace, the ids of what they sign are remembered.
async fn read_journal(world: &World, agent: &Agent, known: usize) -> Result<(), StoreError> {
    let Some(open) = ticks::open(&world.store, agent.npub).await? else { return Ok(()) };
    for row in open.records.iter().skip(known) {
        world.trace.note(format_args!("  {} journal {}: {}", world.label(&agent.npub), row.seq, row.kind));
        let purpose = Purpose::Journal { tick_id: open.tick.id, seq: u32::try_from(row.seq).unwrap_or(u32::MAX) };
        let Ok(json) = agent.data.open(purpose, &row.blob) else {
            world.trace.violated("a journal record does not open");
            continue;
        };
        let mut seen = world.seen();
        match serde_json::from_slice::<Record>(json.expose()) {
            Ok(Record::Requested(request)) => drop(seen.journaled.insert(request.event.id)),
            Ok(Record::Decided { actions, .. }) => {
                for action in actions {
                    if let Plan::Publish { events, .. } = action.plan {
                        seen.journaled.extend(events.iter().map(|event| event.id));
                    }
                }
            }
            Ok(_) => {}
            Err(_) => {
                drop(seen);
                world.trace.violated("a journal record cannot be read");
            }
        }
    }
    Ok(())
}
