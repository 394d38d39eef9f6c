//! Actions that wait for their owner: parked by a tick's commit, answered by the owner's signature, carried out by a tick
//! of their own.
//!
//! The list that counts is in the encrypted state; rows only show it. An action leaves the list in the batch that says
//! what became of it, so that no answer, however often it comes, finds it there again.

use nexus_core::action::Action;
use nexus_core::approval::{Answered, Answers, ApprovalId, Asked, Ended, State, Waiting, may_wait};
use nexus_core::event::EventBody;
use nexus_core::policy::Policy;
use nexus_core::tick::zap::ZapEnd;
use nexus_core::tick::{Plan, Planned, Tick};
use nexus_core::{TickId, UnixMs};
use nexus_nostr::approval::{ApprovalRequest, SeenAnswer, read_answer, request};
use nexus_nostr::budget::Budget;
use nexus_nostr::{Head, event as events};
use nexus_seal::Signer;
use nexus_seal::blob::Purpose;
use nexus_seal::decision::{Pending, verify_decision};
use nexus_store::agent::{self, Agent, Settle};
use nexus_store::approval::NewApproval;
use nexus_store::event::NewEvent;
use nexus_store::inbox::Item;
use nexus_store::side::Side;

use crate::decide::{Replied, carry_out, refused};
use crate::error::TurnError;
use crate::faults::At;
use crate::host::Host;
use crate::ledger::Pen;
use crate::notice;
use crate::profile::{publication, relays, signed};
use crate::unlock::{Opened, seal_state};

/// The plan of an action that asks, or why it can't even wait. `before` are the actions of the same answer.
pub(crate) fn park(
    opened: &Opened,
    action: &Action,
    replied: Option<&Replied>,
    trusted: bool,
    why: &str,
    before: &[Planned],
) -> Plan {
    let answers = replied.map(|replied| Answers { event_id: replied.id, author: replied.author });
    let answered = replied
        .map(|replied| Answered { kind: replied.kind, event: replied.event.as_ref().map(nexus_nostr::event::to_json) });
    let plan = Plan::Parked { why: why.to_owned(), answers, trusted, answered };
    let mut all = opened.state.waiting.clone();
    let of = |planned: &Planned| waiting(opened, TickId::new(UnixMs(0), [0; 10]), 0, planned, UnixMs(0));
    all.extend(before.iter().filter_map(of));
    let this = Planned { action: action.clone(), plan };
    all.extend(of(&this));
    if may_wait(&all) { this.plan } else { refused("approval_needed, and too much waits for the owner already") }
}

fn waiting(opened: &Opened, tick_id: TickId, index: usize, planned: &Planned, at: UnixMs) -> Option<Waiting> {
    let Plan::Parked { answers, trusted, answered, .. } = &planned.plan else { return None };
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let action = planned.action.clone();
    let asked = Asked { agent: opened.npub, tick_id, index, action, answers: *answers, trusted: *trusted };
    Some(Waiting { asked, answered: answered.clone(), requested_at: at, request: None, state: State::Requested })
}

/// What commits with the tick that parks: an entry in the state for each parked action, its row, the event that tells it,
/// and the question to the owner (39212) on its way to the relays.
pub(crate) async fn commit_parked(
    pen: &Pen<'_>,
    agent: &Agent,
    opened: &mut Opened,
    tick: TickId,
    planned: &[Planned],
) -> Result<Vec<Side>, TurnError> {
    let now = pen.now();
    let mut sides = Vec::new();
    for (index, planned) in planned.iter().enumerate() {
        let Some(mut waiting) = waiting(opened, tick, index, planned, now) else { continue };
        let Plan::Parked { why, .. } = &planned.plan else { continue };
        if let Some(json) = ask_owner(pen.host, opened, &waiting, why).await? {
            waiting.request = Some(json.id);
            sides.push(publication(&json, &relays(pen.host, agent), now));
        }
        let asks = format!(
            "{0} asks you: {1}\nNext: nexus agent approvals {0}\n{2}",
            agent.name,
            waiting.parked().kind.as_str(),
            agent.npub
        );
        sides.extend(notice::message(pen.host, agent, &asks).await?);
        let sealed = details(pen.host, opened, &waiting.asked, why)?;
        let parked = waiting.parked();
        sides.push(Side::PutApproval(NewApproval::new(&parked, waiting.request, sealed)));
        let body = EventBody::ApprovalRequested { approval_id: parked.id, action: parked.kind };
        sides.push(Side::AppendEvent(NewEvent::new(now, body)));
        opened.state.waiting.push(waiting);
    }
    Ok(sides)
}

/// What it is about, for readers. The digest of `asked` is what an owner signs.
fn details(host: &Host, opened: &Opened, asked: &Asked, why: &str) -> Result<Vec<u8>, TurnError> {
    let document = serde_json::json!({ "asked": asked, "why": why });
    let bytes = zeroize::Zeroizing::new(document.to_string().into_bytes());
    let sealed = opened.keys.view.seal(Purpose::Approval, &bytes, &*host.entropy);
    sealed.map_err(|error| TurnError::parked("view_key", error.to_string(), 60_000))
}

/// The runner's question. It says what kind of action and how much, not what.
async fn ask_owner(
    host: &Host,
    opened: &Opened,
    waiting: &Waiting,
    why: &str,
) -> Result<Option<nexus_core::tick::SignedEvent>, TurnError> {
    let Some(runner) = host.runner.get() else { return Ok(None) };
    let parked = waiting.parked();
    let asked = ApprovalRequest {
        agent: opened.npub,
        guardian: opened.owner,
        id: parked.id,
        digest: parked.digest,
        tick_request: None,
        requested: parked.amount.map(Budget::lightning),
        threshold: opened.policy().map(|policy| policy.limits.approval_threshold_msat),
        scope: Some(("action".into(), parked.kind.as_str().into())),
        credit: None,
        reason: why.to_owned(),
        expires_at: parked.expires_at.secs(),
    };
    let unsigned = request(Head::new(runner.public_key(), waiting.requested_at.secs()), &asked);
    let event =
        runner.sign(unsigned).await.map_err(|error| TurnError::parked("signer_refused", error.to_string(), 10_000))?;
    Ok(Some(signed(&event)))
}

/// Takes the owner's answers, and what time decided, into the state, in one batch with the rows that it settles.
pub(crate) async fn tend(pen: &Pen<'_>, opened: &mut Opened, answers: &[Item]) -> Result<(), TurnError> {
    let now = pen.now();
    let mut moved: Vec<(ApprovalId, State)> = Vec::new();
    for waiting in &mut opened.state.waiting {
        if let Some(over) = waiting.parked().expire(false, now) {
            waiting.state = over;
            moved.push((waiting.asked.id(), over));
        }
    }
    let mut settled = Vec::with_capacity(answers.len());
    for item in answers {
        let word = match answer(opened, item, now) {
            Ok((id, state)) => {
                moved.push((id, state));
                state.as_str().to_owned()
            }
            Err(why) => {
                tracing::info!(npub = %pen.npub.short(), why, "an answer changes nothing");
                why.to_owned()
            }
        };
        settled.push((item.id, word));
    }
    if moved.is_empty() && settled.is_empty() {
        return Ok(());
    }
    if moved.is_empty() {
        return discard(pen, settled).await;
    }
    opened.state.waiting.retain(|waiting| !waiting.state.is_final());
    let host = pen.host;
    let (side, told) = shown(&moved, now);
    let state = seal_state(host, pen.generation, opened).await?;
    let version = state.version;
    let settle = Settle {
        fence: pen.fence()?,
        npub: pen.npub,
        generation: pen.generation,
        at: now,
        state,
        inbox: settled,
        side,
        events: told,
    };
    host.faults.pass(At::Before, "approval").await;
    let seqs = agent::settle(&host.store, settle).await?;
    opened.stored_version = version;
    host.announce(pen.npub, &seqs);
    host.faults.pass(At::After, "approval").await;
    Ok(())
}

/// Rows that change nothing: an answer to what is over, or to nothing.
async fn discard(pen: &Pen<'_>, settled: Vec<(i64, String)>) -> Result<(), TurnError> {
    let ids: Vec<i64> = settled.iter().map(|(id, _)| *id).collect();
    let why = "answer_changes_nothing";
    nexus_store::inbox::discard(&pen.host.store, pen.fence()?, pen.npub, pen.generation, &ids, why).await?;
    Ok(())
}

fn shown(moved: &[(ApprovalId, State)], now: UnixMs) -> (Vec<Side>, Vec<NewEvent>) {
    let body =
        |id: ApprovalId, state: State| EventBody::ApprovalChanged { approval_id: id, state: state.as_str().to_owned() };
    let sides = moved.iter().map(|(id, state)| Side::Approval { id: *id, state: *state });
    (sides.collect(), moved.iter().map(|(id, state)| NewEvent::new(now, body(*id, *state))).collect())
}

/// Reads one answer, checks it against the owner's key and moves what it is for. Says why it changes nothing.
fn answer(opened: &mut Opened, item: &Item, now: UnixMs) -> Result<(ApprovalId, State), &'static str> {
    let event = nexus_nostr::parse_event(&item.payload).map_err(|_| "not_verified")?;
    let seen = read_answer(&event).map_err(|_| "not_an_answer")?;
    if seen.guardian != opened.owner {
        return Err("not_the_owner");
    }
    let npub = opened.npub;
    let fits = |waiting: &&mut Waiting| is_for(&seen, waiting);
    let waiting = opened.state.waiting.iter_mut().find(fits).ok_or("nothing_waits")?;
    let parked = waiting.parked();
    let pending = Pending { agent: npub, id: parked.id, digest: parked.digest, request: waiting.request };
    let decision = verify_decision(&event, &opened.owner, &pending, now).map_err(|_| "answer_refused")?;
    match parked.decide(&decision, now) {
        Ok(Some(state)) => {
            waiting.state = state;
            Ok((parked.id, state))
        }
        Ok(None) | Err(nexus_core::approval::NotDecided::Already(_)) => Err("answered_before"),
        Err(nexus_core::approval::NotDecided::Late) => Err("answer_late"),
        Err(nexus_core::approval::NotDecided::OtherAction { .. }) => Err("answer_refused"),
    }
}

fn is_for(seen: &SeenAnswer, waiting: &Waiting) -> bool {
    seen.digest == Some(waiting.asked.digest()) || (seen.request.is_some() && seen.request == waiting.request)
}

/// The next action to carry out.
pub(crate) fn approved(opened: &Opened) -> Option<ApprovalId> {
    opened.state.waiting.iter().find(|waiting| waiting.is_approved()).map(|waiting| waiting.asked.id())
}

/// Judges an approved action by the policy of now, and signs it: what the tick of its own decides.
pub(crate) async fn execute(
    host: &Host,
    agent: &Agent,
    opened: &mut Opened,
    id: ApprovalId,
) -> Result<Planned, TurnError> {
    let missing = || TurnError::parked("approval_missing", "the approved action is not in the agent's state", 60_000);
    let waiting = opened.state.waiting.iter().find(|waiting| waiting.asked.id() == id).cloned().ok_or_else(missing)?;
    let action = waiting.asked.action.clone();
    let allowed = waiting
        .parked()
        .may_begin(&waiting.asked, host.now())
        .map_err(|error| error.to_string())
        .and_then(|()| still_allowed(opened.policy(), &waiting, opened));
    let plan = match allowed {
        Err(why) => refused(&why),
        Ok(()) => carry_out(host, agent, opened, &action, replied(&waiting).as_ref()).await?,
    };
    Ok(Planned { action, plan })
}

fn still_allowed(policy: Option<&Policy>, waiting: &Waiting, opened: &Opened) -> Result<(), String> {
    let policy = policy.ok_or("policy_missing")?;
    waiting.asked.still_allowed(policy, &opened.owner).map_err(str::to_owned)
}

/// The answered message as it was kept.
fn replied(waiting: &Waiting) -> Option<Replied> {
    let (answers, answered) = (waiting.asked.answers?, waiting.answered.as_ref()?);
    let event = answered.event.as_ref().and_then(|json| nexus_nostr::parse_event(json.as_bytes()).ok());
    let event = event.filter(|event| events::hash(&event.id) == answers.event_id);
    Some(Replied { id: answers.event_id, author: answers.author, kind: answered.kind, event })
}

/// What the commit of an execution says of it: the action leaves the list, whatever became of it.
pub(crate) fn commit_executed(opened: &mut Opened, id: ApprovalId, tick: &Tick, now: UnixMs) -> Vec<Side> {
    let Some(planned) = tick.planned().first() else { return Vec::new() };
    let ended = match planned.plan {
        Plan::Publish { .. } | Plan::Local => Ended::Done,
        Plan::Refused { .. } | Plan::Parked { .. } => Ended::Refused,
        Plan::Zap(_) => match tick.zap_end(0) {
            Some(ZapEnd::Paid) => Ended::Done,
            Some(ZapEnd::Refused(_)) => Ended::Refused,
            Some(ZapEnd::Failed(_)) | None => Ended::Failed,
            Some(ZapEnd::Unresolved) => Ended::Unresolved,
        },
    };
    let found = opened.state.waiting.iter().position(|waiting| waiting.asked.id() == id);
    let Some(place) = found else { return Vec::new() };
    let waiting = opened.state.waiting.remove(place);
    let Ok(state) = waiting.parked().executed(ended, now) else { return Vec::new() };
    let (mut sides, told) = shown(&[(id, state)], now);
    sides.extend(told.into_iter().map(Side::AppendEvent));
    sides
}
