//! What must hold at a run's end, when everything that was under way has come to its end.

use std::collections::{BTreeMap, BTreeSet};

use nexus_core::budget::{Counter, Window};
use nexus_core::event::EventBody;
use nexus_core::lifecycle::{Lifecycle, LifecycleRules};
use nexus_core::payment::PaymentState;
use nexus_core::schedule::plan::run_of;
use nexus_core::status::{Desired, Reason};
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Msat, TickId, UnixMs, WorkerId};
use nexus_store::event::Chain;
use nexus_store::payment::{self, Payment};
use nexus_store::{StoreError, agent, event, inbox, inspect, publication, tick};

use crate::agents::Agent;
use crate::counts;
use crate::world::World;

/// Reasons for which a trigger may wait.
const WAITS: [&str; 6] = ["day_limit", "month_limit", "payment_rate", "tick_rate", "reserve", "no_provider"];

/// An agent whose sats were taken or spent sleeps until it has more; after a month of that, deeper.
const ASLEEP: [&str; 2] = ["hibernating", "dormant"];

pub fn may_wait(world: &World, owned: &Agent, reason: &Reason) -> bool {
    let poor = world.ledger.balance(&owned.npub) < LifecycleRules::default().hibernate_below_msat;
    WAITS.contains(&reason.code.as_str()) || (poor && ASLEEP.contains(&reason.code.as_str()))
}

/// Whether nothing is under way any more. `None`: all is quiet.
pub async fn unrest(world: &World) -> Result<Option<String>, StoreError> {
    for owned in &world.agents {
        let name = &owned.name;
        let Some(found) = agent::get(&world.store, owned.npub).await? else {
            return Ok(Some(format!("{name} is gone")));
        };
        if found.worker.is_none() {
            return Ok(Some(format!("{name} has no worker")));
        }
        if tick::open(&world.store, owned.npub).await?.is_some() {
            return Ok(Some(format!("{name} has an open tick")));
        }
        if !payment::open(&world.store, owned.npub).await?.is_empty() {
            return Ok(Some(format!("{name} has an open payment")));
        }
        if let Some(one) = publication::pending(&world.store, owned.npub).await?.first() {
            let ahead = one.next_attempt_at.0.saturating_sub(world.now().0);
            let (kind, attempts) = (one.kind, one.attempts);
            return Ok(Some(format!("{name} has to publish kind {kind}: {attempts} attempts, next in {ahead} ms")));
        }
        let funded = world.ledger.balance(&owned.npub) >= Msat::sats(1_000);
        if funded && found.lifecycle == Lifecycle::Spawning {
            return Ok(Some(format!("{name} has money, and does not know")));
        }
        if away(world, owned, found.worker).is_some() {
            let reason = found.reason.map_or_else(|| "no reason".into(), |reason| reason.code);
            let ahead = found.next_attempt_at.map(|at| at.0 - world.now().0);
            return Ok(Some(format!("{name} is not at home ({reason}, looked at in {ahead:?} ms)")));
        }
        if crate::approvals::waits(world, owned.npub).await? {
            return Ok(Some(format!("{name} has an approved action to carry out")));
        }
        if found.reason.as_ref().is_some_and(|reason| reason.code == "signer_offline") {
            return Ok(Some(format!("{name} waits for its signer")));
        }
        let waits = found.reason.as_ref().is_some_and(|reason| may_wait(world, owned, reason));
        if !waits && !inbox::pending(&world.store, owned.npub, 1).await?.is_empty() {
            let why = found.reason.map_or_else(|| "no reason".into(), |reason| reason.code);
            return Ok(Some(format!("{name} has triggers that wait ({why})")));
        }
    }
    Ok(None)
}

/// Whether an agent with a home is placed elsewhere; none at home, or placed nowhere.
fn away(world: &World, owned: &Agent, worker: Option<WorkerId>) -> Option<()> {
    let number = worker?.as_bytes()[0].checked_sub(b'0')?;
    let here = format!("r{}", usize::from(number) % world.plan.regions);
    (owned.home.as_ref()? != &here).then_some(())
}

/// Notes who is away from home, and who is home again.
pub async fn homes(world: &World) -> Result<(), StoreError> {
    for owned in &world.agents {
        let Some(found) = agent::get(&world.store, owned.npub).await? else { continue };
        let Some(worker) = found.worker else { continue };
        let is_away = away(world, owned, Some(worker)).is_some();
        let mut seen = world.seen();
        let was_away = seen.away.contains(&owned.npub);
        if is_away && !was_away {
            seen.away.insert(owned.npub);
            seen.counts.add(counts::AWAY);
        } else if was_away && !is_away {
            seen.away.remove(&owned.npub);
            seen.counts.add(counts::HOME);
        }
        if found.generation > *seen.generations.entry(owned.npub).or_insert(found.generation) {
            seen.generations.insert(owned.npub, found.generation);
            seen.counts.add(counts::MOVED);
        }
    }
    Ok(())
}

/// Checks everything; what does not hold is in the trace.
pub async fn all(world: &World) -> Result<(), StoreError> {
    if let Some(unrest) = unrest(world).await? {
        world.trace.violated(format_args!("stuck: {unrest}"));
    }
    for owned in &world.agents {
        chain(world, owned).await?;
        standing(world, owned).await?;
        triggers(world, owned).await?;
        schedules(world, owned).await?;
        money(world, owned).await?;
        crate::approvals::check(world, owned).await?;
    }
    jobs(world);
    crate::withdrawals::count(world);
    crate::books::check(world).await?;
    Ok(())
}

async fn chain(world: &World, owned: &Agent) -> Result<(), StoreError> {
    match event::verify_chain(&world.store, owned.npub).await? {
        Chain::Intact { events, .. } => world.trace.note(format_args!("{}: {events} events", owned.name)),
        Chain::Broken { seq, why } => {
            world.trace.violated(format_args!("{}: the events break at {seq}: {why}", owned.name));
        }
    }
    Ok(())
}

/// Whoever should run runs, or says why not and when it tries again.
async fn standing(world: &World, owned: &Agent) -> Result<(), StoreError> {
    let Some(found) = agent::get(&world.store, owned.npub).await? else { return Ok(()) };
    if found.desired != Desired::Running {
        world.trace.violated(format_args!("{} should run in the end", owned.name));
    }
    if found.reason.is_some() && found.next_attempt_at.is_none() && found.next_tick_at.is_none() {
        world.trace.violated(format_args!("{} has a reason and no next attempt", owned.name));
    }
    if found.next_tick_at.is_none() {
        world.trace.violated(format_args!("{} has no next tick", owned.name));
    }
    if let Some(reason) = found.reason.filter(|reason| !may_wait(world, owned, reason)) {
        world.trace.violated(format_args!("{} is kept from running: {}", owned.name, reason.code));
    }
    Ok(())
}

/// No acknowledged trigger is gone; each was settled once, or waits for a reason.
async fn triggers(world: &World, owned: &Agent) -> Result<(), StoreError> {
    let stored = inspect::triggers(&world.store, owned.npub).await?;
    let known: BTreeSet<&str> = stored.iter().map(|trigger| trigger.external_id.as_str()).collect();
    let lost = {
        let seen = world.seen();
        seen.acknowledged.iter().filter(|(npub, id)| *npub == owned.npub && !known.contains(id.as_str())).count()
    };
    if lost > 0 {
        world.trace.violated(format_args!("{}: {lost} acknowledged triggers are gone", owned.name));
    }
    for trigger in stored.iter().filter(|trigger| trigger.handled) {
        match (&trigger.tick, &trigger.note) {
            (Some(id), None) => {
                if tick::get(&world.store, owned.npub, *id).await?.is_none() {
                    world.trace.violated(format_args!("{}: a trigger was handled by no tick", owned.name));
                }
            }
            (None, Some(_)) => {}
            // It was in a tick that ended when its agent went to live elsewhere.
            (Some(_), Some(note)) if note == "moved" => {}
            (Some(_), Some(_)) | (None, None) => {
                world.trace.violated(format_args!("{}: a trigger was settled twice, or without a word", owned.name));
            }
        }
    }
    let handled = stored.iter().filter(|trigger| trigger.handled).count();
    world.trace.note(format_args!("{}: {handled} of {} triggers handled", owned.name, stored.len()));
    Ok(())
}

/// From its first run on, every time that a schedule was looked at is a run or told as missed.
async fn schedules(world: &World, owned: &Agent) -> Result<(), StoreError> {
    let Some(found) = agent::get(&world.store, owned.npub).await? else { return Ok(()) };
    // Who stops an agent forgets what comes due meanwhile.
    if world.plan.owners {
        return Ok(());
    }
    let stored = inspect::triggers(&world.store, owned.npub).await?;
    let missed = missed(world, owned).await?;
    for schedule in &found.config.schedules {
        let Ok(plan) = schedule.plan() else { continue };
        let due = stored.iter().filter_map(|trigger| run_of(&trigger.external_id));
        let runs: Vec<UnixMs> = due.filter(|(name, _)| *name == schedule.name).map(|(_, at)| at).collect();
        let (Some(first), Some(upto)) = (runs.iter().min(), found.schedules_at) else { continue };
        runs.iter().for_each(|_| world.count(counts::SCHEDULED));
        let times = plan.between(first.plus_ms(-1), upto, 20_000).len();
        let told = missed.get(&schedule.name).copied().unwrap_or(0);
        if runs.len() + told < times {
            world.trace.violated(format_args!(
                "{}: of {times} times of {}, {} were run and {told} told as missed",
                owned.name,
                schedule.name,
                runs.len()
            ));
        }
    }
    Ok(())
}

/// How many runs of each schedule the history tells as missed.
async fn missed(world: &World, owned: &Agent) -> Result<BTreeMap<String, usize>, StoreError> {
    let (mut missed, mut after) = (BTreeMap::new(), 0);
    loop {
        let page = event::after(&world.store, owned.npub, after, event::MAX_PAGE).await?;
        let Some(last) = page.last() else { return Ok(missed) };
        after = last.event.seq;
        for event in &page {
            let EventBody::TickSkipped { trigger: Trigger::Schedule, reason } = &event.event.body else { continue };
            let Some(told) = reason.strip_prefix("missed: ") else { continue };
            let count = told.split(' ').find_map(|word| word.parse::<usize>().ok());
            let name = told.split('"').nth(1);
            if let (Some(count), Some(name)) = (count, name) {
                *missed.entry(name.to_owned()).or_default() += count;
            }
        }
    }
}

/// The record is what happened, and within the limits.
async fn money(world: &World, owned: &Agent) -> Result<(), StoreError> {
    let payments = payment::list(&world.store, owned.npub, None, payment::MAX_PAGE).await?;
    compare(world, owned, &payments);
    one_for_each_tick(world, owned, &payments);
    let mut expected: BTreeMap<String, Counter> = BTreeMap::new();
    for payment in &payments {
        for window in &payment.windows {
            let counter = expected.entry(window.key()).or_default();
            if payment.state == PaymentState::Settled {
                let spent = payment.amount.saturating_add(payment.fee);
                counter.settled = counter.settled.saturating_add(spent);
            } else if payment.state.holds() {
                counter.held = counter.held.saturating_add(payment.hold());
            }
        }
    }
    for (window, counter) in inspect::windows(&world.store, owned.npub).await? {
        let limit = match window {
            Window::Day(_) => owned.limits.day_msat,
            Window::Tick(_) => owned.limits.tick_msat,
            Window::Month(_) => owned.limits.month_msat.unwrap_or(Msat::MAX),
            // Its own cap, and nothing where it has none.
            Window::Rent(_) => owned.rent.as_ref().map_or(Msat::ZERO, |rent| rent.month_msat),
            Window::Delegation(_) => Msat::MAX,
        };
        let key = window.key();
        let kind = key.split(':').next().unwrap_or_default();
        if counter.used() > limit {
            world.trace.violated(format_args!("{}: a {kind} spent {} of {limit}", owned.name, counter.used()));
        }
        let wanted = expected.remove(&window.key()).unwrap_or_default();
        if wanted != counter {
            world
                .trace
                .violated(format_args!("{}: a {kind} counts {counter:?}, its payments say {wanted:?}", owned.name));
        }
    }
    if expected.values().any(|counter| *counter != Counter::default()) {
        world.trace.violated(format_args!("{}: payments in windows that are not counted", owned.name));
    }
    Ok(())
}

/// The payee's side is the recorded side.
fn compare(world: &World, owned: &Agent, payments: &[Payment]) {
    let books = world.ledger.books();
    let mut really: BTreeMap<Hash32, (Msat, Msat)> = BTreeMap::new();
    for (payer, hash, amount, fee) in &books.settled {
        if *payer == owned.npub {
            really.insert(*hash, (*amount, *fee));
        }
    }
    let name = |hash: &Hash32| world.seen().names.get(hash).cloned().unwrap_or_default();
    for payment in payments {
        let recorded = payment.state == PaymentState::Settled;
        match (recorded, really.remove(&payment.hash)) {
            (true, Some((amount, fee))) if (amount, fee) == (payment.amount, payment.fee) => {}
            (false, None) => {}
            (true, Some(_)) => {
                world.trace.violated(format_args!("{}: {} was paid otherwise", owned.name, name(&payment.hash)));
            }
            (true, None) => {
                world.trace.violated(format_args!("{}: {} is settled, and unpaid", owned.name, name(&payment.hash)));
            }
            (false, Some(_)) => world.trace.violated(format_args!(
                "{}: {} was paid, and is on record as {}",
                owned.name,
                name(&payment.hash),
                payment.state.as_str()
            )),
        }
    }
    for hash in really.keys() {
        world.trace.violated(format_args!("{}: {} was paid without a record", owned.name, name(hash)));
    }
    let spent: u64 = books
        .settled
        .iter()
        .filter(|(payer, ..)| *payer == owned.npub)
        .map(|(_, _, a, f)| a.as_u64() + f.as_u64())
        .sum();
    world.trace.note(format_args!("{}: {} payments, {spent} msat", owned.name, payments.len()));
}

/// A tick buys once: going to another provider is for what was surely not paid.
fn one_for_each_tick(world: &World, owned: &Agent, payments: &[Payment]) {
    let books = world.ledger.books();
    let mut paid: BTreeMap<TickId, u32> = BTreeMap::new();
    for payment in payments {
        let settled = books.settled.iter().any(|(payer, hash, ..)| *payer == owned.npub && *hash == payment.hash);
        if let (true, Some(tick)) = (settled, payment.tick) {
            *paid.entry(tick).or_default() += 1;
        }
    }
    if paid.values().any(|times| *times > 1) {
        world.trace.violated(format_args!("{}: one tick paid twice", owned.name));
    }
}

/// The sellers' view: nobody is paid twice for one job.
fn jobs(world: &World) {
    let books = world.ledger.books();
    let mut paid: BTreeMap<Hash32, u32> = BTreeMap::new();
    for bill in books.bills.values().filter(|bill| bill.paid_by.is_some()) {
        *paid.entry(bill.request).or_default() += 1;
    }
    if paid.values().any(|times| *times > 1) {
        world.trace.violated("one job was paid twice");
    }
}
