//! What an agent shows in public beyond its profile: only what its signed policy names, nothing private in it, and taken back
//! (NIP-09) when the policy names it no more.

use nexus_core::action::Action;
use nexus_core::policy::Public;
use nexus_core::status::Desired;
use nexus_core::tick::zap::ZapEnd;
use nexus_core::tick::{End, Plan, SignedEvent, Tick};
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Msat, TickId, UnixMs};
use nexus_nostr::budget::Budget;
use nexus_nostr::goals::{PublicGoal, goals};
use nexus_nostr::note::withdrawal;
use nexus_nostr::schedule::{Schedule, schedule, triggers};
use nexus_nostr::session::{Session, session};
use nexus_nostr::state::MAX_PUBLISHED;
use nexus_nostr::tick::{self as tick_events, ApprovedBy, Outcome, TickRequest, TickResult};
use nexus_nostr::trajectory::{Audit, Place, StepType, content, hash_contents, step};
use nexus_nostr::{Head, kinds};
use nexus_seal::Signer;
use nexus_store::agent::{Agent, Change};
use nexus_store::{Side, publication};
use nostr::event::UnsignedEvent;
use serde_json::{Map, Value, json};

use crate::error::TurnError;
use crate::filter::Taken;
use crate::host::Host;
use crate::ledger::Pen;
use crate::profile::{publication, relays, sign, signed};
use crate::unlock::{Opened, save_state};

const SCHEDULE: &str = "39202:schedule";
const TRIGGERS: &str = "39202:triggers";
const GOALS: &str = "39203:goals";
/// The address that deletions are signed along.
const DELETIONS: &str = "5";
/// Longest text of a published step, in bytes.
const MAX_STEP: usize = 8 * 1024;

fn names(opened: &Opened, what: Public) -> bool {
    opened.policy().is_some_and(|policy| policy.publish.contains(&what))
}

/// Puts schedule, triggers and goals on their way if they are not what was last published; takes back what should not be
/// out any more.
pub(crate) async fn announce(pen: &Pen<'_>, agent: &mut Agent, opened: &mut Opened) -> Result<(), TurnError> {
    if opened.policy().is_none() {
        return Ok(());
    }
    let active = agent.desired == Desired::Running;
    let heartbeat = Schedule { heartbeat_secs: agent.config.heartbeat_secs, next_tick: None, active };
    let held: Vec<_> = opened.state.goals.iter().map(|goal| (goal.text.clone(), goal.done)).collect();
    let wanted = [
        (Public::Schedule, SCHEDULE, json!([heartbeat.heartbeat_secs, active])),
        (Public::Triggers, TRIGGERS, json!(agent.config.triggers)),
        (Public::Goals, GOALS, json!(held)),
    ];
    let (now, to) = (pen.now(), relays(pen.host, agent));
    let (mut sides, mut over) = (Vec::new(), Vec::new());
    for (what, address, content) in wanted {
        if !names(opened, what) {
            if opened.state.published.remove(address).is_some() {
                over.push(address);
            }
            continue;
        }
        let digest = Hash32::sha256(json!([content, to]).to_string().as_bytes());
        if opened.state.published.get(address) == Some(&digest) {
            continue;
        }
        let event = sign(opened, address, now, |head| match what {
            Public::Schedule => schedule(head, &heartbeat),
            Public::Triggers => triggers(head, &agent.config.triggers),
            _ => {
                let shown = held.iter().map(|(text, done)| PublicGoal { text: text.clone(), done: *done });
                goals(head, &shown.collect::<Vec<_>>())
            }
        })
        .await?;
        sides.push(publication(&event, &to, now));
        opened.state.published.insert(address.to_owned(), digest);
    }
    if !over.is_empty() {
        let event = sign(opened, DELETIONS, now, |head| withdrawal(head, &over)).await?;
        sides.push(publication(&event, &to, now));
    }
    if sides.is_empty() {
        return Ok(());
    }
    pen.apply(sides).await?;
    let shown = active && opened.state.published.contains_key(SCHEDULE);
    if agent.shown_active != shown {
        pen.change(Change { shown_active: Some(shown), ..Change::default() }, Vec::new()).await?;
        agent.shown_active = shown;
    }
    save_state(pen.host, pen.generation, opened).await
}

/// The runner's word that a tick begins (39210).
pub(crate) async fn request(
    host: &Host,
    agent: &Agent,
    opened: &Opened,
    id: TickId,
    trigger: Trigger,
    taken: &[Taken],
    at: UnixMs,
) -> Option<Side> {
    let policy = opened.policy().filter(|policy| policy.publish.contains(&Public::Ticks))?;
    let to = relays(host, agent);
    // Of a private message nothing is said but that one came.
    let cause = taken.iter().find(|taken| taken.stimulus.trigger == trigger).filter(|_| is_public(trigger));
    let cause = cause.and_then(|taken| taken.event.as_ref());
    let request = TickRequest {
        agent: agent.npub,
        tick_id: id,
        trigger,
        cause: cause.map(|event| (nexus_nostr::event::hash(&event.id), host.config.own_relay.clone())),
        budgets: vec![Budget::lightning(policy.limits.tick_msat)],
        max_steps: None,
        approval: Some((policy.limits.approval_threshold_msat, opened.owner)),
        credit: None,
    };
    by_runner(host, at, |head| tick_events::tick_request(head, &request))
        .await
        .map(|event| publication(&event, &to, at))
}

/// The runner's word how a tick went (39211).
pub(crate) async fn result(
    host: &Host,
    agent: &Agent,
    opened: &Opened,
    id: TickId,
    tick: &Tick,
    end: End,
    at: UnixMs,
) -> Result<Option<Side>, TurnError> {
    if !names(opened, Public::Ticks) {
        return Ok(None);
    }
    let to = relays(host, agent);
    let request = publication::of_tick(&host.store, agent.npub, id, kinds::TICK_REQUEST).await?;
    let approved = tick.approved().is_none().then_some(ApprovedBy::Auto);
    let result = TickResult {
        agent: agent.npub,
        tick_id: id,
        request,
        outcome: match end {
            End::Completed => Outcome::Success,
            End::Failed(_) => Outcome::Error,
        },
        actions: tick.views().len(),
        cost: tick.spent(),
        duration_ms: u64::try_from(at.0.saturating_sub(tick.began_at.0)).unwrap_or(0),
        approved: approved.filter(|_| tick.spent() > Msat::ZERO),
        receipts: Vec::new(),
        results: Vec::new(),
        summary: String::new(),
    };
    let event = by_runner(host, at, |head| tick_events::tick_result(head, &result)).await;
    Ok(event.map(|event| publication(&event, &to, at)))
}

async fn by_runner(host: &Host, at: UnixMs, build: impl FnOnce(Head) -> UnsignedEvent) -> Option<SignedEvent> {
    let runner = host.runner.get()?;
    match runner.sign(build(Head::new(runner.public_key(), at.secs()))).await {
        Ok(event) => Some(signed(&event)),
        Err(error) => {
            tracing::warn!(%error, "a tick's event could not be signed");
            None
        }
    }
}

/// The story of a tick as everyone may read it (39230, 39231): what was public anyway, and of the rest only that it was.
pub(crate) async fn trajectory(
    host: &Host,
    agent: &Agent,
    opened: &mut Opened,
    id: TickId,
    tick: &Tick,
    taken: &[Taken],
    now: UnixMs,
) -> Result<Vec<Side>, TurnError> {
    if !names(opened, Public::Trajectory) || taken.is_empty() && tick.planned().is_empty() {
        return Ok(Vec::new());
    }
    let (to, relay, name) = (relays(host, agent), host.config.own_relay.clone(), id.to_string());
    let model = opened.policy().and_then(|policy| policy.compute.model.clone()).unwrap_or_default();
    let heard = taken.iter().map(|taken| (StepType::User, heard(taken), Audit::default()));
    let done = tick.planned().iter().enumerate().map(|(index, planned)| {
        let kind = planned.action.kind().as_str().to_owned();
        (
            StepType::Agent,
            said(&planned.action, &planned.plan, tick.zap_end(index)),
            Audit { action_type: Some(kind), ..Audit::default() },
        )
    });
    let last = std::iter::once((StepType::SessionEnd, Map::new(), Audit::default()));
    let steps: Vec<_> = heard.chain(done).chain(last).collect();
    let contents: Vec<String> = steps.iter().map(|(kind, body, _)| content(*kind, body)).collect();
    let about = Session {
        id: name.clone(),
        model,
        started_at: tick.began_at.secs(),
        trajectory_hash: Some(hash_contents(contents.iter().map(String::as_str))),
        ..Session::default()
    };
    let opening = sign(opened, &format!("39230:{name}"), now, |head| session(head, &about)).await?;
    let root = opening.id;
    let mut sides = vec![publication(&opening, &to, now)];
    let mut previous = None;
    for (seq, (kind, body, audit)) in (1..).zip(steps) {
        let place =
            Place { session: &name, root: (root, &relay), previous: previous.map(|id| (id, relay.as_str())), seq };
        let build = |head| step(head, &place, kind, &body, &audit);
        // Regular events of one moment; their numbers give their order.
        let unsigned = build(Head::new(opened.npub, now.secs()));
        let event = opened.signer.sign(unsigned).await.map_err(|error| crate::secrets::signer_problem(&error))?;
        let event = signed(&event);
        previous = Some(event.id);
        sides.push(publication(&event, &to, now));
    }
    // Never looked at again: a tick has its session once.
    opened.state.created_at.remove(&format!("39230:{name}"));
    Ok(sides)
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

fn heard(taken: &Taken) -> Map<String, Value> {
    let trigger = taken.stimulus.trigger;
    let mut body = Map::from_iter([("trigger".to_owned(), Value::String(trigger.to_string()))]);
    if let Some(event) = taken.event.as_ref().filter(|_| is_public(trigger)) {
        body.insert("event".to_owned(), nexus_nostr::event::hash(&event.id).to_string().into());
        body.insert("text".to_owned(), short(&taken.stimulus.text).into());
    } else {
        body.insert("redacted".to_owned(), Value::Bool(true));
    }
    body
}

fn said(action: &Action, plan: &Plan, zapped: Option<&ZapEnd>) -> Map<String, Value> {
    let outcome = match plan {
        Plan::Publish { .. } | Plan::Local => "done",
        Plan::Refused { .. } => "refused",
        Plan::Parked { .. } => "asked",
        Plan::Zap(_) => match zapped {
            Some(ZapEnd::Paid) => "done",
            Some(ZapEnd::Refused(_)) => "refused",
            Some(ZapEnd::Failed(_)) | None => "failed",
            Some(ZapEnd::Unresolved) => "unresolved",
        },
    };
    let mut body = Map::from_iter([("outcome".to_owned(), Value::from(outcome))]);
    match (action, plan) {
        (Action::Post { text } | Action::Reply { text, .. }, Plan::Publish { events, .. })
            if events.iter().all(|event| [kinds::NOTE, kinds::COMMENT].contains(&event.kind)) =>
        {
            body.insert("text".to_owned(), short(text).into());
            body.insert("event".to_owned(), events.first().map(|event| event.id.to_string()).into());
        }
        _ => drop(body.insert("redacted".to_owned(), Value::Bool(true))),
    }
    body
}

fn short(text: &str) -> &str {
    let end = (0..=text.len().min(MAX_STEP)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

/// The state, encrypted by the agent to itself, where its policy has it published and it is small enough. A signer that does
/// not answer leaves it at the anchor.
pub(crate) async fn sealed(opened: &Opened) -> Option<String> {
    if !names(opened, Public::State) {
        return None;
    }
    let bytes = zeroize::Zeroizing::new(opened.state.encode().ok()?);
    let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() <= MAX_PUBLISHED)?;
    opened.signer.nip44_encrypt(&opened.npub, text).await.ok()
}
