//! Schedules beside the heartbeat: at each turn, what is due goes into the inbox, once, and what was missed into the history.

use nexus_core::UnixMs;
use nexus_core::event::EventBody;
use nexus_core::schedule::due::{Earlier, Met, Missed, meet};
use nexus_core::schedule::plan::{Plan, plan_all, run_of};
use nexus_core::trigger::Trigger;
use nexus_store::Conflict;
use nexus_store::agent::Agent;
use nexus_store::event::NewEvent;
use nexus_store::schedule::{self, Looked, OpenRun};

use crate::error::TurnError;
use crate::filter::Taken;
use crate::ledger::Pen;

/// Until a full inbox is tried again.
const FULL_MS: i64 = 60_000;

/// Names of the schedules that a tick runs for.
pub(crate) fn run_for(taken: &[Taken]) -> Vec<String> {
    let runs = taken.iter().filter_map(|taken| taken.run.as_deref().and_then(run_of));
    runs.map(|(name, _)| name.to_owned()).collect()
}

/// Looks at the agent's schedules. `ran`: those whose runs were in a tick up to this moment; what came due of them meanwhile
/// overlapped. Returns when to look again.
pub(crate) async fn look(pen: &Pen<'_>, agent: &mut Agent, ran: &[String]) -> Result<Option<UnixMs>, TurnError> {
    let now = pen.now();
    let plans = match plan_all(&agent.config.schedules) {
        Ok(plans) => plans,
        Err(problem) => return Err(TurnError::parked("schedule_refused", problem.to_string(), 60_000)),
    };
    // What was due before the database was put back may have been run by the host that was lost.
    let cursor = agent.schedules_at.unwrap_or(now).max(agent.restored_at.unwrap_or(UnixMs(0)));
    let next = plans.iter().filter_map(|plan| plan.next_after(cursor)).min();
    if next.is_none_or(|next| next > now) && agent.next_schedule_at == next {
        return Ok(next);
    }
    let open = if plans.is_empty() { Vec::new() } else { schedule::open_runs(&pen.host.store, pen.npub).await? };
    let met = plans.iter().map(|plan| meet(plan, cursor, now, earlier(plan, cursor, &open, ran)));
    let looked = looked(agent.config_version, now, cursor, plans.iter().zip(met));
    let (upto, next) = (looked.upto, looked.next);
    match schedule::looked(&pen.host.store, pen.fence()?, pen.npub, pen.generation, looked).await {
        Ok(seqs) => {
            pen.host.announce(pen.npub, &seqs);
            (agent.schedules_at, agent.next_schedule_at) = (Some(upto), next);
            Ok(next)
        }
        Err(error) if error.conflict() == Some(&Conflict::InboxFull) => Ok(Some(now.plus_ms(FULL_MS))),
        Err(error) => Err(error.into()),
    }
}

/// A run beyond the cursor was put by a look that did not end: it is no earlier one.
fn earlier(plan: &Plan, cursor: UnixMs, open: &[OpenRun], ran: &[String]) -> Earlier {
    let name = &plan.schedule().name;
    let mine = || open.iter().filter(|run| run.name == *name && run.due <= cursor);
    if mine().any(|run| run.tick.is_none()) {
        Earlier::Waiting
    } else if ran.contains(name) || mine().next().is_some() {
        Earlier::Running
    } else {
        Earlier::Done
    }
}

fn looked<'a>(config_version: i64, now: UnixMs, cursor: UnixMs, met: impl Iterator<Item = (&'a Plan, Met)>) -> Looked {
    let mut looked = Looked { config_version, upto: cursor.max(now), next: None, runs: Vec::new(), missed: Vec::new() };
    for (plan, met) in met {
        looked.runs.extend(met.run.iter().map(|at| (plan.run_id(*at), *at)));
        looked.missed.extend(met.missed.map(|missed| NewEvent::new(now, skipped(plan, &missed))));
        looked.next = [looked.next, met.next].into_iter().flatten().min();
    }
    // In the order in which they were due, whichever schedule they are of.
    looked.runs.sort_by_key(|(_, at)| *at);
    looked
}

fn skipped(plan: &Plan, missed: &Missed) -> EventBody {
    let least = if missed.exact { "" } else { "at least " };
    let runs = if missed.count == 1 { "run" } else { "runs" };
    let why = match missed.why {
        nexus_core::schedule::MissedWhy::Late => "while nothing ran",
        nexus_core::schedule::MissedWhy::Overlap => "while an earlier one was not done",
    };
    let name = &plan.schedule().name;
    EventBody::TickSkipped {
        trigger: Trigger::Schedule,
        reason: format!("missed: {least}{} {runs} of {name:?} {why}", missed.count),
    }
}
