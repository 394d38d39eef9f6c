//! One look at one agent: recovery, wallet requests, the filter, the gate and, if all agree, a tick.

use std::sync::Arc;

use nexus_bus::Wake;
use nexus_core::availability::{Missed, Month};
use nexus_core::budget::{Counter, Window, believe};
use nexus_core::gate::{self, Refusal, Standing};
use nexus_core::lifecycle::{self, Lifecycle};
use nexus_core::policy::Custody;
use nexus_core::rollback::STATE_ROLLBACK;
use nexus_core::schedule;
use nexus_core::status::{CustodyState, Desired, Reason};
use nexus_core::trigger::{Class, Trigger};
use nexus_core::{AgentConfig, Generation, MonoMs, Msat, Npub, TickId, UnixMs};
use nexus_lightning::WalletDriver;
use nexus_store::agent::{self, Agent, Change};
use nexus_store::event::NewEvent;
use nexus_store::invoice_watch::InvoiceWatch;
use nexus_store::tick::Skip;
use nexus_store::{
    Conflict, Side, StoreError, inbox, invoice_watch, payment, placement, tick as ticks, wallet_request,
};
use tokio_util::sync::CancellationToken;

use crate::error::TurnError;
use crate::filter::{Sifted, Taken, sift};
use crate::host::Host;
use crate::ledger::Pen;
use crate::perceive::Room;
use crate::roster::NEVER;
use crate::secrets::{LOCKED, SIGNER_OFFLINE};
use crate::unlock::{Opened, unlock};
use crate::{
    approval, custody, delegation, dispute, funds, notice, profile, public, readers, recover, rent, rest, restored,
    rollback, schedules, tick, wallet, withdraw, zap,
};

/// What becomes of the agent's seat.
pub(crate) enum After {
    At(MonoMs),
    Drop,
}

const DAY_MS: i64 = 86_400_000;
/// Rows of the inbox looked at in one turn.
const BATCH: u32 = 64;
/// Turns in a row that the database has to fail for the agent's reason to say so.
const SHOWN_FAILURES: u32 = 3;
/// Crashes in a row after which an agent is parked, and for how long.
const CRASH_LOOP: u32 = 6;
const CRASH_LOOP_MS: u64 = 900_000;
/// How long a next attempt that is over may be shown, while the same refusal goes on.
const SHOWN_FOR_MS: i64 = 60_000;
/// Until a refused policy is read again; a new one wakes the agent at once.
const POLICY_RETRY_MS: u64 = 60_000;
/// Between looks at providers when none would take the job.
const NO_PROVIDER_MS: i64 = 5_000;
/// And when there was none before: longer than what makes an agent too busy to be moved.
const STILL_NO_PROVIDER_MS: i64 = 15_000;
/// Until payments that hold something up are asked about again.
const RESOLVE_MS: u64 = 1_000;
/// The reason of an agent that a newer worker wrote, and when it is looked at again at the latest.
const NEWER: &str = "newer_version";
const NEWER_RETRY_MS: i64 = 60_000;

/// Takes a turn, and turns every error into a reason and a next attempt.
pub(crate) async fn take(host: &Arc<Host>, npub: Npub, generation: Generation, stop: &CancellationToken) -> After {
    match attempt(host, npub, generation, stop).await {
        Ok(after) => {
            host.note_success(&npub);
            after
        }
        Err(TurnError::Stale) => After::Drop,
        Err(TurnError::Interrupted) => After::At(host.mono()),
        Err(TurnError::Store(error)) => failed(host, npub, generation, &error).await,
        Err(TurnError::Newer { what, version }) => hand_back(host, npub, generation, &what, version).await,
        Err(TurnError::Parked { code, text, retry_ms }) => {
            tracing::info!(npub = %npub.short(), code, "parked");
            host.vitals.parked(code);
            park(host, npub, generation, code, &text, retry_ms).await
        }
    }
}

/// A turn that the database ended. Once it is taken again without a word; what persists is shown.
async fn failed(host: &Arc<Host>, npub: Npub, generation: Generation, error: &StoreError) -> After {
    let pause = backoff(host, npub);
    host.vitals.failed();
    tracing::warn!(npub = %npub.short(), %error, pause_ms = pause, "turn failed; taken again");
    if host.failures(&npub) < SHOWN_FAILURES {
        return After::At(host.mono().plus_ms(pause));
    }
    let (code, text) = match error.conflict() {
        Some(Conflict::BudgetHold { .. }) => ("budget_tampered", format!("what is stored does not fit: {error}")),
        Some(_) => ("rows_conflict", format!("what is stored does not fit: {error}")),
        None => ("database", "the database fails; the turn is taken again".to_owned()),
    };
    park(host, npub, generation, code, &text, pause).await
}

/// Half a second doubling to a minute, with jitter.
fn backoff(host: &Host, npub: Npub) -> u64 {
    let failures = host.note_failure(npub).min(8);
    let whole = (250_u64 << failures).min(60_000);
    let [random] = nexus_core::time::random::<1>(&*host.entropy);
    whole / 2 + whole * u64::from(random) / 510
}

async fn park(host: &Host, npub: Npub, generation: Generation, code: &str, text: &str, retry_ms: u64) -> After {
    let pen = Pen { host, npub, generation };
    let retry = host.now().plus_ms(i64::try_from(retry_ms).unwrap_or(i64::MAX));
    let shown = async {
        let mut agent = agent::get(&host.store, npub).await?.ok_or(TurnError::Stale)?;
        let custody = match code {
            LOCKED => CustodyState::Locked,
            SIGNER_OFFLINE => CustodyState::SignerOffline,
            _ => agent.custody,
        };
        let reason = Some(Reason::new(code, text));
        if agent.custody == custody {
            pen.reason(&agent, reason.clone(), Some(retry)).await?;
        } else {
            let (custody, reason, next_attempt_at) = (Some(custody), Some(reason.clone()), Some(Some(retry)));
            pen.change(Change { custody, reason, next_attempt_at, ..Change::default() }, Vec::new()).await?;
        }
        (agent.custody, agent.reason) = (custody, reason);
        notice::tend(&pen, &agent).await
    };
    match shown.await {
        Err(TurnError::Stale) => After::Drop,
        Ok(()) | Err(_) => After::At(host.mono().plus_ms(retry_ms)),
    }
}

/// What this worker can't read it leaves as it is. The agent is given back, and waits under this reason for a worker that
/// can.
async fn hand_back(host: &Arc<Host>, npub: Npub, generation: Generation, what: &str, version: u32) -> After {
    host.vitals.parked(NEWER);
    let text =
        format!("{what} has version {version}, this worker reads up to {}; it waits for an upgraded one", host.version);
    tracing::warn!(npub = %npub.short(), version, what, "written by a newer worker; given back");
    let retry = host.now().plus_ms(NEWER_RETRY_MS);
    let given = async {
        let agent = agent::get(&host.store, npub).await?.ok_or(TurnError::Stale)?;
        let generation = agent.generation.max(generation);
        let pen = Pen { host, npub, generation };
        agent::raise_reader(&host.store, pen.fence()?, npub, generation, version).await?;
        pen.reason(&agent, Some(Reason::new(NEWER, text)), Some(retry)).await?;
        placement::give_up(&host.store, pen.fence()?, npub, generation).await?;
        Ok::<(), TurnError>(())
    };
    match given.await {
        Ok(()) => {
            host.bus.publish(Wake::Reconcile);
            After::Drop
        }
        Err(TurnError::Stale) => After::Drop,
        Err(error) => {
            tracing::warn!(npub = %npub.short(), %error, "giving an agent back; tried again");
            After::At(host.mono().plus_ms(backoff(host, npub)))
        }
    }
}

/// A turn that panicked: the agent waits, longer each time, with its reason shown; after some times in a row, for long.
pub(crate) async fn park_crashed(host: &Arc<Host>, npub: Npub, generation: Generation) -> After {
    host.vitals.crashed();
    let pause = backoff(host, npub).max(1_000);
    if host.failures(&npub) < CRASH_LOOP {
        let text = "the worker hit a bug in this agent's turn; it is tried again";
        return park(host, npub, generation, "crashed", text, pause).await;
    }
    let text = "the worker hits a bug in each of this agent's turns; it is parked, and tried again now and then";
    park(host, npub, generation, "crash_loop", text, CRASH_LOOP_MS).await
}

async fn attempt(
    host: &Arc<Host>,
    npub: Npub,
    generation: Generation,
    stop: &CancellationToken,
) -> Result<After, TurnError> {
    if let Some(after) = rest::pass_by(host, npub, generation).await? {
        return Ok(after);
    }
    let mut agent = agent::get(&host.store, npub).await?.ok_or(TurnError::Stale)?;
    if agent.worker != Some(host.id) || agent.generation < generation {
        return Err(TurnError::Stale);
    }
    let pen = Pen { host, npub, generation: agent.generation };
    if agent.reader_version > host.version {
        return Err(TurnError::Newer {
            what: "what is stored of this agent".to_owned(),
            version: agent.reader_version,
        });
    }
    notice::tend(&pen, &agent).await?;
    let publish_in = recover::publications(&pen).await?;
    let open = ticks::open(&host.store, npub).await?;
    let requests = wallet_request::waiting(&host.store, npub, host.now()).await?;
    let payments = payment::open(&host.store, npub).await?;
    let invoices = invoice_watch::open(&host.store, npub, host.now()).await?;
    let idle = open.is_none() && requests.is_empty() && payments.is_empty() && invoices.is_empty();
    // What relays were told of its schedule is put right first.
    if agent.desired == Desired::Stopped && idle && !agent.shown_active {
        return Ok(After::At(due_in(host, publish_in)));
    }

    if agent.reader_version < host.version {
        // Before the first write that an older worker can't read.
        agent::raise_reader(&host.store, pen.fence()?, npub, pen.generation, host.version).await?;
    }
    let requests = custody::answer(host, &agent, requests).await?;
    let mut opened = match unlock(host, &agent).await {
        Err(TurnError::Parked { code: code @ (LOCKED | SIGNER_OFFLINE), text, retry_ms }) => {
            wallet::refuse(host, &agent, requests, &text).await?;
            return Err(TurnError::Parked { code, text, retry_ms });
        }
        opened => opened?,
    };
    if agent.custody != CustodyState::Ready {
        // What was shown of it is over; that it was shown still explains why a tick is late.
        let over = agent.reason.as_ref().is_some_and(|reason| [LOCKED, SIGNER_OFFLINE].contains(&&*reason.code));
        let reason = over.then_some(None);
        let change = Change { custody: Some(CustodyState::Ready), reason, ..Change::default() };
        pen.change(change, Vec::new()).await?;
        agent.custody = CustodyState::Ready;
    }
    let requests = rollback::answer(host, &agent, &mut opened, requests).await?;
    if let Some(found) = &opened.rollback {
        let text = format!("{}: `nexus agent accept-rollback {}` goes on with it", found.rollback, agent.name);
        wallet::refuse(host, &agent, requests, &text).await?;
        return Err(TurnError::parked(STATE_ROLLBACK, text, POLICY_RETRY_MS));
    }
    let named = wallet::take(&pen, &mut agent, &mut opened, open.is_none() && payments.is_empty()).await?;
    if let Err(error) = wallet::at_home(host, &mut opened) {
        if let TurnError::Parked { text, .. } = &error {
            wallet::refuse(host, &agent, requests, text).await?;
        }
        return Err(error);
    }
    if agent.unreconciled {
        match restored::reconcile(&pen, &mut agent, &mut opened).await {
            Err(TurnError::Parked { code, text, retry_ms }) => {
                wallet::refuse(host, &agent, requests, &text).await?;
                return Err(TurnError::Parked { code, text, retry_ms });
            }
            done => done?,
        }
    }
    let (requests, withdrew) = withdraw::answer(&pen, &agent, &mut opened, requests, stop).await?;
    let (requests, paid_rent) = rent::answer(&pen, &agent, &mut opened, requests, stop).await?;
    let asked = wallet::answer(host, &agent, &opened, requests).await?;
    let driver = wallet::open(host, &opened).await?;
    let resolved = recover::payments(&pen, &*driver, &opened, open.as_ref().map(|open| open.tick.id)).await?;

    if let Some(open) = open {
        // The wallet's own word where there is one: the stored one is anybody's who writes the database.
        let balance = wallet::balance(&*driver).await.ok().or(agent.balance).unwrap_or(Msat::ZERO);
        let mut run = tick::resume(pen, &agent, &mut opened, driver, balance, stop, open).await?;
        run.ending = agent.desired == Desired::Stopped && agent.stop_now;
        let ran = schedules::run_for(&run.taken);
        run.drive().await?;
        if !ran.is_empty() && agent.desired == Desired::Running {
            schedules::look(&pen, &mut agent, &ran).await?;
        }
        return Ok(After::At(host.mono()));
    }
    let resolve_in = resolved.again;
    // Those of this very turn as well.
    let invoices = if asked { invoice_watch::open(&host.store, npub, host.now()).await? } else { invoices };
    let look_in = watch(&pen, &mut agent, &*driver, invoices, resolved.concluded || withdrew || paid_rent).await?;
    if agent.desired == Desired::Stopped {
        if agent.shown_active {
            public::announce(&pen, &mut agent, &mut opened).await?;
            return Ok(After::At(host.mono()));
        }
        return Ok(After::At(due_in(host, soonest([publish_in, resolve_in, look_in]))));
    }
    // Without a policy nobody knows who may wake the agent or what it may do: everything waits, and says so.
    if let Err(problem) = &opened.policy {
        return Err(TurnError::parked(problem.code, problem.text.clone(), POLICY_RETRY_MS));
    }
    if !named {
        let text = "its policy names another wallet: that is used once the payments of the one before are known";
        return Err(TurnError::parked(wallet::CHANGING, text, RESOLVE_MS));
    }
    readers::tend(&pen, &mut opened).await?;
    if opened.policy().is_some_and(|policy| !policy.frozen) {
        profile::announce(&pen, &agent, &mut opened).await?;
        public::announce(&pen, &mut agent, &mut opened).await?;
    }
    let outdated =
        |reason: &Reason| reason.code != "no_provider" && !gate::STANDING_REASONS.contains(&reason.code.as_str());
    if agent.reason.as_ref().is_some_and(outdated) {
        pen.reason(&agent, None, agent.next_tick_at).await?;
        agent.reason = None;
    }
    let scheduled = schedules::look(&pen, &mut agent, &[]).await?;
    let next = live(host, pen, agent, &mut opened, driver, stop).await?;
    let next = scheduled.map(|at| until(host, Some(at))).into_iter().chain(next).min();
    let next = match next {
        Some(next) => next.since(host.mono()).min(soonest([publish_in, resolve_in, look_in]).unwrap_or(u64::MAX)),
        None => return Ok(After::At(due_in(host, soonest([publish_in, resolve_in, look_in])))),
    };
    Ok(After::At(host.mono().plus_ms(next)))
}

fn soonest<const N: usize>(times: [Option<u64>; N]) -> Option<u64> {
    times.into_iter().flatten().min()
}

fn due_in(host: &Host, ms: Option<u64>) -> MonoMs {
    ms.map_or(NEVER, |ms| host.mono().plus_ms(ms))
}

/// Keeps the balance fresh: when an invoice of the agent was paid or a payment ended, and while it is not known.
async fn watch(
    pen: &Pen<'_>,
    agent: &mut Agent,
    driver: &dyn WalletDriver,
    invoices: Vec<InvoiceWatch>,
    concluded: bool,
) -> Result<Option<u64>, TurnError> {
    let looked = funds::look_at_invoices(pen.now(), driver, invoices).await;
    let stale = agent.balance.is_none();
    let asleep = !nexus_core::lifecycle::admits(agent.lifecycle, Trigger::Mention);
    let known = match !looked.paid.is_empty() || concluded || stale || asleep {
        true => funds::refresh(pen, agent, driver).await?.is_some(),
        false => true,
    };
    if !looked.paid.is_empty() && !known {
        // What was paid is looked up again until the balance shows it.
        return Ok(soonest([looked.again, Some(funds::MAX_PAUSE_MS)]));
    }
    if looked.over.is_empty() {
        return Ok(looked.again);
    }
    let mut receipts = Vec::new();
    for paid in &looked.paid {
        receipts.extend(zap::receipt(pen.host, agent, paid).await?);
    }
    let (fence, now) = (pen.fence()?, pen.now());
    invoice_watch::end(&pen.host.store, fence, pen.npub, pen.generation, looked.over, &receipts, now).await?;
    // They leave with the next look.
    Ok(if receipts.is_empty() { looked.again } else { Some(0) })
}

/// The part of a turn that may start a tick. Returns when to look again; none for never.
async fn live(
    host: &Arc<Host>,
    pen: Pen<'_>,
    mut agent: Agent,
    opened: &mut Opened,
    driver: Arc<dyn WalletDriver>,
    stop: &CancellationToken,
) -> Result<Option<MonoMs>, TurnError> {
    let (now, since) = (host.now(), host.mono());
    if agent.next_tick_at.is_none() {
        let change = Change { next_tick_at: Some(Some(now)), ..Change::default() };
        pen.change(change, Vec::new()).await?;
        agent.next_tick_at = Some(now);
    }
    let mut taken = sift_inbox(&pen, &agent, opened).await?;
    // What the owner approved comes first, in a tick of its own: everything else waits a moment for the next.
    let approved = approval::approved(opened);
    if approved.is_some() {
        taken.clear();
    }
    let heartbeat_due = approved.is_none() && agent.next_tick_at.is_some_and(|due| due <= now);
    let trigger = match cause(agent.lifecycle, &taken) {
        _ if approved.is_some() => Trigger::Approval,
        Some(trigger) => trigger,
        None if heartbeat_due => Trigger::Heartbeat,
        None => return Ok(Some(until(host, agent.next_tick_at))),
    };
    // The truth about money, before it is spent. It may change what the agent's lifecycle admits.
    if let Some(balance) = funds::refresh(&pen, &mut agent, &*driver).await? {
        agent.balance = Some(balance);
    } else {
        let text = "the agent's wallet cannot be reached; it is tried again";
        return Err(TurnError::parked(wallet::UNREACHABLE, text, 10_000));
    }
    let trigger = cause(agent.lifecycle, &taken).unwrap_or(trigger);
    match gate(&pen, &agent, opened, trigger, &taken).await? {
        Ok(()) => {}
        Err(refusal) => {
            let rests = refusal.code == rest::NOTHING_NEW;
            let next = refuse(&pen, &agent, trigger, &taken, refusal).await?;
            // An agent whose key nobody stored is looked at, so that it shows when it is locked again.
            if rests && opened.custody == Custody::Sealed {
                rest::mark(&pen, &agent, opened.state.policy_version, now).await?;
            }
            return Ok(Some(next));
        }
    }
    let balance = agent.balance.unwrap_or(Msat::ZERO);
    // What stood in the way was shown with its reason: the promise begins when it is gone.
    let explained = agent.reason.is_some();
    let heartbeat = agent.next_tick_at.filter(|_| approved.is_none());
    let due = taken.iter().map(|taken| taken.received_at).min().or(heartbeat).filter(|_| !explained);
    let missed = if heartbeat_due { advance(&pen, &agent, now).await? } else { Missed::NONE };
    let missed = if explained { Missed::NONE } else { missed };
    let cause = tick::Cause { trigger, taken, due: due.unwrap_or(now), missed, approved, since };
    dispute::look(&pen, &agent, opened).await?;
    let ran = schedules::run_for(&cause.taken);
    let run = tick::begin(pen, &agent, opened, driver, balance, stop, cause).await?;
    run.drive().await?;
    if !ran.is_empty() {
        schedules::look(&pen, &mut agent, &ran).await?;
    }
    // More may wait; if nothing does, the next turn finds out for free.
    Ok(Some(host.mono()))
}

/// The trigger that a tick would be for: the oldest that the lifecycle admits, since one that does not wake the agent
/// must not stand in the way of one that does.
fn cause(lifecycle: Lifecycle, taken: &[Taken]) -> Option<Trigger> {
    let triggers = || taken.iter().map(|taken| taken.stimulus.trigger);
    triggers().find(|trigger| lifecycle::admits(lifecycle, *trigger)).or_else(|| triggers().next())
}

/// When a moment of the wall clock comes. Should that clock jump ahead, the roster is hurried.
pub(crate) fn until(host: &Host, at: Option<UnixMs>) -> MonoMs {
    let Some(at) = at else { return NEVER };
    let wait = u64::try_from(at.0.saturating_sub(host.now().0)).unwrap_or(0);
    host.mono().plus_ms(wait)
}

/// Moves the heartbeat on, and notes the beats that were missed. Returns which.
async fn advance(pen: &Pen<'_>, agent: &Agent, now: UnixMs) -> Result<Missed, TurnError> {
    let Some(due) = agent.next_tick_at else { return Ok(Missed::NONE) };
    let interval_ms = i64::from(agent.config.heartbeat_secs) * 1_000;
    let met = schedule::meet(due, interval_ms, now, agent.config.catch_up);
    let change = Change { next_tick_at: Some(Some(met.next)), ..Change::default() };
    let mut events = Vec::new();
    if met.missed > 0 {
        let reason = format!("missed: {} heartbeats while nothing ran", met.missed);
        let body = nexus_core::event::EventBody::TickSkipped { trigger: Trigger::Heartbeat, reason };
        events.push(NewEvent::new(now, body));
    }
    pen.change(change, events).await?;
    Ok(Missed { count: met.missed, first: due, interval_ms })
}

/// Opens and judges what waits in the inbox; what is refused is marked as handled. The owner's answers to what waits for
/// them are taken on the way.
async fn sift_inbox(pen: &Pen<'_>, agent: &Agent, opened: &mut Opened) -> Result<Vec<Taken>, TurnError> {
    let host = pen.host;
    let mut taken: Vec<Taken> = Vec::new();
    let pending = inbox::pending(&host.store, pen.npub, BATCH).await?;
    let (answers, messages): (Vec<_>, Vec<_>) = pending.into_iter().partition(|item| item.class == Class::Approval);
    approval::tend(pen, opened, &answers).await?;
    let mut room = Room::beside(&opened.state);
    for item in messages {
        if room.is_full() {
            break;
        }
        match sift(host, opened, agent, &item, &taken).await {
            // A delegation's tick is for it alone: its limit is the tick's.
            Sifted::Keep(_) if delegation::of(&taken).is_some() => break,
            Sifted::Keep(row) if !taken.is_empty() && is_delegation(&row) => break,
            Sifted::Keep(row) if room.take(&row.stimulus) => taken.push(*row),
            // In their order: a short one does not overtake.
            Sifted::Keep(_) => break,
            Sifted::Unread(problem) => return Err(problem),
            Sifted::Discard(why) => {
                tracing::debug!(npub = %pen.npub.short(), why, "inbox row discarded");
                inbox::discard(&host.store, pen.fence()?, pen.npub, pen.generation, &[item.id], why).await?;
            }
        }
    }
    Ok(taken)
}

fn is_delegation(row: &Taken) -> bool {
    row.event.as_ref().is_some_and(|event| delegation::read(event).is_some())
}

/// The one gate on every wake path.
async fn gate(
    pen: &Pen<'_>,
    agent: &Agent,
    opened: &mut Opened,
    trigger: Trigger,
    taken: &[Taken],
) -> Result<Result<(), Refusal>, TurnError> {
    let host = pen.host;
    let now = host.now();
    let today = Window::day_of(now);
    let day = payment::counter(&host.store, pen.npub, today).await?;
    if let Window::Day(number) = today
        && let Err(found) = believe(day.settled, opened.state.spent_on(number))
    {
        return Err(TurnError::parked("budget_tampered", found.to_string(), 60_000));
    }
    let (month, limits) = (Month::of(now), opened.policy().map(|policy| policy.limits.clone()).unwrap_or_default());
    let spent_in_month = match limits.month_msat {
        Some(_) => spent_in(pen, opened, month).await?,
        None => Counter::default(),
    };
    let hour_ago = UnixMs(now.0 - 3_600_000);
    let payments_last_hour = match limits.payments_per_hour {
        Some(_) => payment::begun_since(&host.store, pen.npub, hour_ago).await?,
        None => 0,
    };
    let network = host.wallets.network();
    let relays = profile::relays(host, agent);
    let thinks = trigger != Trigger::Approval;
    let cheapest = match opened.policy() {
        Some(policy) if thinks => host.market.cheapest(host, &relays, policy, network.as_str()).await,
        Some(_) | None => None,
    };
    let intent = opened.state.digest_intent(opened.state.policy_version);
    let standing = Standing {
        desired: agent.desired,
        custody: agent.custody,
        hosting: agent.hosting,
        lifecycle: agent.lifecycle,
        policy: opened.policy(),
        day,
        month: spent_in_month,
        next_month_at: month.after().start(),
        payments_last_hour,
        balance: agent.balance.unwrap_or(Msat::ZERO),
        cheapest,
        ticks_last_hour: ticks::count_since(&host.store, pen.npub, hour_ago).await?,
        ticks_per_hour: agent.config.ticks_per_hour,
        hour_frees_at: now.plus_ms(60_000),
        something_new: agent.config.heartbeat_when == nexus_core::agent::HeartbeatWhen::Always
            || opened.state.last_tick_at.is_none()
            || opened.state.intent_digest != Some(intent),
        next_day_at: UnixMs((now.0.div_euclid(DAY_MS) + 1) * DAY_MS),
        ticks_left_today: match agent.ticks_per_day {
            None => None,
            Some(most) => {
                let midnight = UnixMs(now.0.div_euclid(DAY_MS) * DAY_MS);
                Some(most.saturating_sub(ticks::count_since(&host.store, pen.npub, midnight).await?))
            }
        },
        has_room: opened.state.fits_room().is_ok(),
    };
    if let Err(refusal) = gate::pass(&standing, trigger) {
        return Ok(Err(refusal));
    }
    if let Some(delegation) = delegation::of(taken) {
        let spent = payment::counter(&host.store, pen.npub, delegation::window(&delegation)).await?;
        let cost = cheapest.unwrap_or(Msat::ZERO).max(Msat::new(1));
        if !spent.admits(cost, delegation.max_amount.unwrap_or_default()) {
            let text = "what the delegation allows does not pay for an inference";
            return Ok(Err(Refusal { code: "delegation_spent", text, retry_at: None, keep: false }));
        }
    }
    if thinks && cheapest.is_none() {
        let known = agent.reason.as_ref().is_some_and(|reason| reason.code == "no_provider");
        return Ok(Err(Refusal {
            code: "no_provider",
            text: "no compute provider that the policy allows is announced; looked for again",
            retry_at: Some(now.plus_ms(if known { STILL_NO_PROVIDER_MS } else { NO_PROVIDER_MS })),
            keep: true,
        }));
    }
    Ok(Ok(()))
}

/// What a month has counted. The encrypted state remembers it too: a counter that was lowered, or stayed behind when the agent
/// moved, is raised to that.
async fn spent_in(pen: &Pen<'_>, opened: &mut Opened, month: Month) -> Result<Counter, TurnError> {
    let window = Window::Month(month);
    let mut counter = payment::counter(&pen.host.store, pen.npub, window).await?;
    if let Some(amount) = opened.state.believe_month(month, counter.settled) {
        pen.apply(vec![Side::CountSpent { window, amount }]).await?;
        counter.settled = counter.settled.saturating_add(amount);
    }
    Ok(counter)
}

/// What follows for an agent's clock when a trigger was refused.
#[derive(Debug, PartialEq, Eq)]
struct NextLook {
    next_tick: Option<UnixMs>,
    /// Always ahead.
    attempt: Option<UnixMs>,
    beat_moved: bool,
}

/// A heartbeat that is due is met, whatever was refused: a message that waits does not stop its clock. One that can
/// pass before the next stays due, and is tried again then.
fn look_after(retry_at: Option<UnixMs>, due: Option<UnixMs>, config: &AgentConfig, now: UnixMs) -> NextLook {
    let interval = i64::from(config.heartbeat_secs) * 1_000;
    let met = due.filter(|due| *due <= now).map(|due| schedule::meet(due, interval, now, config.catch_up).next);
    let beat = met.or(due);
    let soon = retry_at.filter(|retry| *retry > now && beat.is_none_or(|beat| *retry < beat));
    let beat_moved = met.is_some() && soon.is_none();
    NextLook { next_tick: if beat_moved { met } else { due }, attempt: soon.or(beat), beat_moved }
}

/// Records a refusal: in the history, as the agent's reason, and with the next attempt.
async fn refuse(
    pen: &Pen<'_>,
    agent: &Agent,
    trigger: Trigger,
    taken: &[Taken],
    refusal: Refusal,
) -> Result<MonoMs, TurnError> {
    let host = pen.host;
    let now = host.now();
    let known = agent.reason.as_ref().is_some_and(|reason| reason.code == refusal.code);
    let NextLook { next_tick, attempt: next_attempt, beat_moved } =
        look_after(refusal.retry_at, agent.next_tick_at, &agent.config, now);
    // A refusal that says nothing is wrong leaves no reason behind.
    let quiet = refusal.code == rest::NOTHING_NEW;
    let reason = if quiet { None } else { Some(Reason::new(refusal.code, refusal.text)) };
    let discard: Vec<i64> = if refusal.keep { Vec::new() } else { taken.iter().map(|taken| taken.row).collect() };
    // The same refusal of rows that go on waiting is told once.
    if known && discard.is_empty() && !beat_moved {
        // What is shown of the next attempt is renewed now and then.
        if agent.next_attempt_at.is_some_and(|shown| shown.0 < now.0 - SHOWN_FOR_MS) {
            let change = Change { next_attempt_at: Some(next_attempt), ..Change::default() };
            pen.change(change, Vec::new()).await?;
        }
        return Ok(until(host, next_attempt));
    }
    let body = nexus_core::event::EventBody::TickSkipped { trigger, reason: refusal.code.to_owned() };
    let skip = Skip {
        fence: pen.fence()?,
        npub: pen.npub,
        generation: pen.generation,
        tick: TickId::new(now, nexus_core::time::random(&*host.entropy)),
        trigger,
        at: now,
        reason: refusal.code.to_owned(),
        discard,
        change: Change {
            reason: Some(reason),
            next_attempt_at: Some(next_attempt),
            next_tick_at: Some(next_tick),
            ..Change::default()
        },
        events: vec![NewEvent::new(now, body)],
    };
    let seqs = ticks::skip(&host.store, skip).await?;
    host.vitals.tick_ended("skipped");
    host.announce(pen.npub, &seqs);
    Ok(until(host, next_attempt))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waiting(trigger: Trigger) -> Taken {
        let mut row = Taken::gone(1, UnixMs(0));
        row.stimulus.trigger = trigger;
        row
    }

    #[test]
    fn a_message_that_does_not_wake_does_not_stand_in_the_way_of_one_that_does() {
        let rows = [waiting(Trigger::Mention), waiting(Trigger::Manual)];
        assert_eq!(cause(Lifecycle::Hibernating, &rows), Some(Trigger::Manual));
        assert_eq!(cause(Lifecycle::Active, &rows), Some(Trigger::Mention));
        assert_eq!(cause(Lifecycle::Hibernating, &rows[..1]), Some(Trigger::Mention));
        assert_eq!(cause(Lifecycle::Hibernating, &[]), None);
    }

    proptest! {
        /// Whatever is refused, the next look is ahead: nobody loops on a heartbeat that came due meanwhile.
        #[test]
        fn the_next_look_is_ahead(
            retry in prop::option::of(-100_000_i64..100_000),
            due in prop::option::of(-10_000_000_i64..10_000_000),
            heartbeat_secs in 10_u32..10_000,
        ) {
            let now = UnixMs(50_000_000);
            let config = AgentConfig { heartbeat_secs, ..AgentConfig::default() };
            let (retry, due) = (retry.map(|ms| now.plus_ms(ms)), due.map(|ms| now.plus_ms(ms)));
            let look = look_after(retry, due, &config, now);
            prop_assert!(look.attempt.is_none_or(|at| at > now), "{:?}", look);
            prop_assert!(due.is_none() || look.attempt.is_some());
            prop_assert!(!look.beat_moved || look.next_tick.is_some_and(|next| next > now));
        }
    }
}
