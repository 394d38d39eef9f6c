//! Stands beside every write that moves what hosting costs: what it did to the credit and to the months of an account.

use std::collections::BTreeMap;

use nexus_core::hosting::{Term, month};
use nexus_core::status::Hosting;
use nexus_core::{Clock, Msat, Npub, UnixMs};
use nexus_store::StoreError;
use nexus_store::hosting::{self, Billed};
use nexus_store::ledger::{self, Book};

use crate::agents::ACCOUNT;
use crate::counts;
use crate::plan::Charging;
use crate::process::Process;
use crate::world::World;

pub const CHARGE: &str = "charge a month of hosting";
pub const LOOK: &str = "look at an agent's hosting";
pub const CREDIT: &str = "credit a payment";
pub const KEEP: &str = "keep a payment that nothing explains";
pub const LEAVE: &str = "let an agent go";
const DELETE: &str = "delete an agent";
/// Everything that may change an account's credit, or how far an agent is paid.
const MONEY: [&str; 9] =
    [CHARGE, LOOK, CREDIT, KEEP, LEAVE, DELETE, "create an agent", "take an agent in", "begin a trial"];

/// What a control plane has begun when an agent is suspended may still become a tick; later nothing does.
const BEGUN_MS: u64 = 30_000;
/// Agents of an account here at most.
const MANY: u32 = 100;

/// An agent that went in a month that is paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    pub npub: Npub,
    pub term: Term,
    pub paid: Msat,
    pub at: UnixMs,
}

/// An account's money at one moment.
pub struct Held {
    credit: Msat,
    trial_until: Option<UnixMs>,
    agents: BTreeMap<Npub, Billed>,
}

/// How far wrong two clocks can be from each other, in ms.
pub fn doubt(world: &World) -> i64 {
    2 * world.plan.skew_ms + 60_000
}

/// What is to be compared with what a write leaves; none for one that moves no money.
pub async fn before(world: &World, attempted: &str) -> Result<Option<Held>, StoreError> {
    match world.plan.charging.is_some() && MONEY.contains(&attempted) {
        true => look(world).await.map(Some),
        false => Ok(None),
    }
}

async fn look(world: &World) -> Result<Held, StoreError> {
    let (credit, trial_until) = hosting::credit(&world.store, ACCOUNT).await?;
    let agents = hosting::of_account(&world.store, ACCOUNT, MANY).await?;
    Ok(Held { credit, trial_until, agents: agents.into_iter().map(|billed| (billed.npub, billed)).collect() })
}

/// After a write that was done.
pub async fn after(world: &World, process: &Process, attempted: &str, before: &Held) -> Result<(), StoreError> {
    let Some(charging) = &world.plan.charging else { return Ok(()) };
    let after = look(world).await?;
    let (was, is) = (before.credit.as_i64(), after.credit.as_i64());
    let wrong =
        |what: &str| world.trace.violated(format_args!("{}: {attempted}: {what}: {was} to {is} msat", process.name));
    world.trace.note(format_args!("  credit {was} to {is}"));
    if before.trial_until.is_some() && before.trial_until != after.trial_until {
        wrong("the trial begins again");
    }
    match attempted {
        CHARGE => {
            if was - is != Msat::sats(charging.fee_sats).as_i64() {
                wrong("a month costs something else than its fee");
            }
            charged(world, process, charging, before, &after);
        }
        CREDIT => {
            world.count(counts::CREDITED);
            if is <= was {
                wrong("a payment is credited, and there is no more credit");
            }
        }
        LEAVE | DELETE => {
            if is < was {
                wrong("who goes pays for it");
            }
            left(world, before, &after);
        }
        LOOK => {
            if was != is {
                wrong("a look costs something");
            }
            looked(world, process, charging, before, &after);
        }
        _ if was != is => wrong("the credit changes"),
        _ => {}
    }
    if matches!(attempted, CREDIT | KEEP) {
        let booked = ledger::balance(&world.store, Book::Lightning).await?;
        let came: i64 = world.node.papers(world.now()).settled.iter().map(|one| one.amount.as_i64()).sum();
        if booked > came {
            wrong("the books have more than the node was paid");
        }
    }
    standings(world, &after);
    Ok(())
}

/// One agent's next month, when it was due, behind the one before.
fn charged(world: &World, process: &Process, charging: &Charging, before: &Held, after: &Held) {
    world.count(counts::CHARGED);
    let changed: Vec<(&Billed, &Billed)> = after
        .agents
        .values()
        .filter_map(|new| before.agents.get(&new.npub).map(|old| (old, new)))
        .filter(|(old, new)| old.term != new.term)
        .collect();
    let [(old, new)] = changed[..] else {
        let name = &process.name;
        return world.trace.violated(format_args!("{name} charges a month that {} agents have of it", changed.len()));
    };
    let (name, now, doubt) = (world.label(&new.npub), world.now(), doubt(world));
    let bought = new.term.and_then(|term| month(term.from, term.months.checked_sub(1)?));
    let Some(bought) = bought else {
        return world.trace.violated(format_args!("{name} was charged for no month"));
    };
    let paid_until = old.term.map(|term| term.paid_until);
    if paid_until.is_some_and(|until| now.plus_ms(doubt) < until) {
        world.trace.violated(format_args!("{name} was charged for a month before the one before it was over"));
    }
    if paid_until.is_some_and(|until| bought.from < until) {
        world.trace.violated(format_args!("{name} was charged twice for the same days"));
    }
    let owed = paid_until.filter(|until| {
        old.term.is_some_and(|term| term.months > 0)
            && now.plus_ms(doubt) < until.plus_ms(i64::from(charging.rules.grace_days) * 86_400_000)
    });
    if owed.is_some_and(|until| bought.from != until) {
        world.trace.violated(format_args!("{name} had days of grace for nothing"));
    }
    if bought.until < now.plus_ms(-doubt) {
        world.trace.violated(format_args!("{name} was charged for a month that is over"));
    }
    if old.hosting == Hosting::Suspended {
        world.count(counts::REVIVED);
    }
}

/// Nobody is suspended who is paid, or is in trial or grace.
fn looked(world: &World, process: &Process, charging: &Charging, before: &Held, after: &Held) {
    let (now, doubt) = (world.now(), doubt(world));
    for new in after.agents.values() {
        let Some(old) = before.agents.get(&new.npub) else { continue };
        let name = world.label(&new.npub);
        if old.term.is_some() && old.term != new.term {
            world.trace.violated(format_args!("{}: a look at {name} changes how far it is paid", process.name));
        }
        let Some(term) = new.term.filter(|_| old.hosting != new.hosting) else { continue };
        let grace_days = if term.months == 0 { 0 } else { charging.rules.grace_days };
        let until = term.paid_until.plus_ms(i64::from(grace_days) * 86_400_000);
        match new.hosting {
            Hosting::Suspended => {
                world.count(counts::SUSPENDED);
                if now.plus_ms(doubt) < until {
                    world.trace.violated(format_args!("{name} is suspended before its time"));
                }
            }
            Hosting::Trial | Hosting::Paid | Hosting::Grace if now > until.plus_ms(doubt) => {
                world.trace.violated(format_args!("{name} is {} after its time", new.hosting.as_str()));
            }
            Hosting::Trial | Hosting::Paid | Hosting::Grace => {}
        }
    }
}

fn left(world: &World, before: &Held, after: &Held) {
    let at = world.now();
    for gone in before.agents.values().filter(|old| !after.agents.contains_key(&old.npub)) {
        let Some(term) = gone.term.filter(|term| term.months > 0) else { continue };
        world.seen().departures.push(Departure { npub: gone.npub, term, paid: gone.paid, at });
    }
}

/// Since when each agent is suspended.
fn standings(world: &World, after: &Held) {
    let now = world.clock.mono().0;
    let mut seen = world.seen();
    seen.suspended.retain(|npub, _| after.agents.get(npub).is_some_and(|one| one.hosting == Hosting::Suspended));
    for one in after.agents.values().filter(|one| one.hosting == Hosting::Suspended) {
        seen.suspended.entry(one.npub).or_insert(now);
    }
}

/// A worker begins a tick: what it had begun before its agent was suspended it may.
pub fn begins(world: &World, process: &Process, npub: Npub) {
    let since = world.seen().suspended.get(&npub).copied();
    let allowed = BEGUN_MS + process.stood_still_ms();
    let late = since.is_some_and(|since| world.clock.mono().0.saturating_sub(since) > allowed);
    if late {
        world.trace.violated(format_args!("{} ticks, and is suspended", world.label(&npub)));
    }
}
