//! What must hold of the hosting ledger in the end: the node's word, the entries and the agents' months are one story.

use std::collections::{BTreeMap, BTreeSet};

use nexus_core::hosting::{Month, month};
use nexus_core::status::Hosting;
use nexus_core::{Hash32, Msat, Npub, UnixMs};
use nexus_store::inspect::{self, Line};
use nexus_store::ledger::{self, Unsound};
use nexus_store::{StoreError, hosting, installation};

use crate::agents::ACCOUNT;
use crate::counts;
use crate::money::{Departure, doubt};
use crate::world::World;

/// How far before the day on which charging began the node's payments are looked at, as the reconciler has it.
const SINCE_MS: i64 = 60_000;
/// Agents of an account here at most.
const MANY: u32 = 100;

/// A month that was charged, as its key names it.
struct Charged {
    start: UnixMs,
    number: u32,
    month: Month,
    fee: i64,
}

/// Whether every payment of an invoice of ours is credited.
pub async fn is_credited(world: &World) -> Result<bool, StoreError> {
    for (hash, _) in ours(world) {
        if hosting::invoice(&world.store, hash).await?.is_none_or(|invoice| invoice.state != "paid") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What the node was paid on invoices that it was asked for.
fn ours(world: &World) -> BTreeMap<Hash32, Msat> {
    let papers = world.node.papers(world.now());
    let asked = papers.settled.iter().filter(|one| papers.invoices.contains_key(&one.hash));
    asked.map(|one| (one.hash, one.amount)).collect()
}

pub async fn check(world: &World) -> Result<(), StoreError> {
    if world.plan.charging.is_none() {
        return Ok(());
    }
    let unsound = ledger::unsound(&world.store).await?;
    if unsound != Unsound::default() {
        world.trace.violated(format_args!("the ledger is not sound: {unsound:?}"));
    }
    let lines = inspect::ledger(&world.store).await?;
    world.trace.note(format_args!("{} lines in the ledger", lines.len()));
    credited(world, &lines).await?;
    foreign(world, &lines).await?;
    let charged = months(world, &lines);
    standings(world, &charged).await?;
    refunds(world, &lines, &charged);
    rents(world).await?;
    Ok(())
}

/// Each settled invoice once, with what came; nothing that did not come.
async fn credited(world: &World, lines: &[Line]) -> Result<(), StoreError> {
    let mut booked: BTreeMap<Hash32, Vec<i64>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.kind == "top_up" && line.book == "credit") {
        let hash = line.key.split(':').nth(1).and_then(|hash| hash.parse().ok());
        let Some(hash) = hash else {
            world.trace.violated("a credit names no payment");
            continue;
        };
        booked.entry(hash).or_default().push(-line.amount_msat);
    }
    for (hash, came) in ours(world) {
        let times = booked.remove(&hash).unwrap_or_default();
        if times != [came.as_i64()] {
            world
                .trace
                .violated(format_args!("an invoice was paid with {} msat, and credited {times:?}", came.as_u64()));
        }
        let stored = hosting::invoice(&world.store, hash).await?;
        if stored.is_none_or(|invoice| invoice.state != "paid" || invoice.paid != Some(came)) {
            world.trace.violated("an invoice was paid, and does not say so");
        }
    }
    if !booked.is_empty() {
        world.trace.violated(format_args!("{} invoices are credited that nobody paid", booked.len()));
    }
    Ok(())
}

/// Each agent pays its own rent, and for one month no more than its fee: in two parts where others used the credit that the
/// first one counted on.
async fn rents(world: &World) -> Result<(), StoreError> {
    let fee = world.plan.charging.as_ref().map_or(Msat::ZERO, |charging| Msat::sats(charging.fee_sats));
    let mut months: BTreeMap<(Npub, String), Msat> = BTreeMap::new();
    for rent in inspect::rents(&world.store).await? {
        let paid: Vec<(Npub, Msat)> = {
            let books = world.ledger.books();
            let of = books.settled.iter().filter(|(_, hash, ..)| *hash == rent.hash);
            of.map(|(payer, _, amount, _)| (*payer, *amount)).collect()
        };
        let Some((payer, amount)) = paid.first().copied() else { continue };
        let name = world.label(&rent.npub);
        if paid.len() > 1 || payer != rent.npub {
            world.trace.violated(format_args!("the rent of {name} was paid {} times, or by another", paid.len()));
        }
        let month = months.entry((rent.npub, rent.month)).or_default();
        *month = month.saturating_add(amount);
        if *month > fee {
            world.trace.violated(format_args!("{name} paid {month} of rent for one month, which costs {fee}"));
        }
    }
    Ok(())
}

/// What came for no invoice of ours stands apart: once, and surely if a follower was told of it.
async fn foreign(world: &World, lines: &[Line]) -> Result<(), StoreError> {
    let since = installation::get(&world.store, "hosting_since").await?.and_then(|text| text.parse().ok());
    let kept: BTreeMap<Hash32, i64> = lines
        .iter()
        .filter(|line| line.kind == "unknown" && line.book == "suspense")
        .filter_map(|line| Some((line.key.split(':').nth(1)?.parse().ok()?, -line.amount_msat)))
        .collect();
    let (came, untold): (BTreeMap<Hash32, (i64, UnixMs)>, BTreeSet<Hash32>) = {
        let papers = world.node.papers(world.now());
        let foreign = papers.settled.iter().filter(|one| papers.foreign.contains(&one.hash));
        (foreign.map(|one| (one.hash, (one.amount.as_i64(), one.at))).collect(), papers.untold.clone())
    };
    for (hash, amount) in &kept {
        if came.get(hash).is_none_or(|(came, _)| came != amount) {
            world.trace.violated("something stands in suspense that did not come so");
        }
    }
    for (hash, (_, at)) in &came {
        let counted = since.is_some_and(|since| *at >= UnixMs(since).plus_ms(-SINCE_MS));
        if counted && !untold.contains(hash) && !kept.contains_key(hash) {
            world.trace.violated("money that nothing explains is not in suspense");
        }
    }
    Ok(())
}

/// The months of each agent: none twice, and none of two over the same days, unless its agent went in between.
fn months(world: &World, lines: &[Line]) -> BTreeMap<Npub, Vec<Charged>> {
    let mut charged: BTreeMap<Npub, Vec<Charged>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.kind == "month" && line.book == "credit") {
        let mut parts = line.key.split(':').skip(2);
        let start = parts.next().and_then(|start| start.parse().ok()).map(UnixMs);
        let number = parts.next().and_then(|number| number.parse().ok());
        let named = start.zip(number).and_then(|(start, number)| Some((start, number, month(start, number)?)));
        let (Some((start, number, month)), Some(npub)) = (named, line.npub) else {
            world.trace.violated("a charge names no month");
            continue;
        };
        charged.entry(npub).or_default().push(Charged { start, number, month, fee: line.amount_msat });
    }
    let departures = world.seen().departures.clone();
    for (npub, months) in &mut charged {
        months.sort_by_key(|one| (one.month.from, one.number));
        for pair in months.windows(2) {
            let (one, next) = (&pair[0], &pair[1]);
            // Who comes back begins anew, by a clock that may be behind.
            let went = |departure: &&Departure| {
                departure.npub == *npub
                    && departure.at < one.month.until
                    && departure.at <= next.month.from.plus_ms(doubt(world))
            };
            if (one.start, one.number) == (next.start, next.number) {
                world.trace.violated(format_args!("{} was charged twice for one month", world.label(npub)));
            } else if next.month.from < one.month.until && !departures.iter().any(|gone| went(&gone)) {
                world.trace.violated(format_args!("{} was charged twice for the same days", world.label(npub)));
            }
        }
    }
    charged
}

/// Each agent here has been charged exactly the months that it says it is paid for, and stands as that says.
async fn standings(world: &World, charged: &BTreeMap<Npub, Vec<Charged>>) -> Result<(), StoreError> {
    let now = world.now();
    for billed in hosting::of_account(&world.store, ACCOUNT, MANY).await? {
        let name = world.label(&billed.npub);
        let Some(term) = billed.term else {
            world.trace.violated(format_args!("{name} was never looked at"));
            continue;
        };
        let of = charged.get(&billed.npub).map_or(&[][..], Vec::as_slice);
        let numbers: Vec<u32> = of.iter().filter(|one| one.start == term.from).map(|one| one.number).collect();
        if numbers != (0..term.months).collect::<Vec<_>>() {
            world.trace.violated(format_args!("{name} has {} months, and paid for {numbers:?}", term.months));
        }
        let is_paid = now < term.paid_until && term.months > 0;
        if is_paid != (billed.hosting == Hosting::Paid) {
            let hosting = billed.hosting.as_str();
            world.trace.violated(format_args!("{name} is {hosting}, {} ms before its end", term.paid_until.0 - now.0));
        }
    }
    Ok(())
}

/// Who went in the middle of a month got back what was left of it, to the millisecond; nobody else got anything.
fn refunds(world: &World, lines: &[Line], charged: &BTreeMap<Npub, Vec<Charged>>) {
    let mut departures = world.seen().departures.clone();
    for line in lines.iter().filter(|line| line.kind == "unused" && line.book == "credit") {
        let mut parts = line.key.split(':').skip(2);
        let from = parts.next().and_then(|from| from.parse().ok()).map(UnixMs);
        let months: Option<u32> = parts.next().and_then(|months| months.parse().ok());
        let went = departures.iter().position(|gone| {
            Some(gone.npub) == line.npub && Some(gone.term.from) == from && Some(gone.term.months) == months
        });
        let Some(gone) = went.map(|place| departures.swap_remove(place)) else {
            world.trace.violated("something was given back to one who did not go");
            continue;
        };
        let of = charged.get(&gone.npub).map_or(&[][..], Vec::as_slice);
        let last = of.iter().find(|one| one.start == gone.term.from && one.number + 1 == gone.term.months);
        let Some(last) = last else {
            world.trace.violated("something was given back of a month that was not charged");
            continue;
        };
        world.count(counts::REFUNDED);
        let (whole, left) = (last.month.until.0 - last.month.from.0, last.month.until.0 - line.at.0);
        let right = i128::from(last.fee) * i128::from(left.clamp(0, whole)) / i128::from(whole);
        if i128::from(-line.amount_msat) != right || line.at > gone.at {
            world.trace.violated(format_args!(
                "{}: {} msat of {} were given back, {right} were left",
                world.label(&gone.npub),
                -line.amount_msat,
                last.fee
            ));
        }
    }
    // What was over, or so nearly that nothing is left of it, comes back with nothing.
    let ended = |gone: &Departure| gone.at >= gone.term.paid_until || gone.paid == Msat::ZERO;
    if departures.iter().any(|gone| !ended(gone)) {
        world.trace.violated("one went in a month that was paid, and got nothing back");
    }
}
