//! One seed, from its world to its report.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nexus_core::status::{Desired, Hosting};
use nexus_core::{Clock, Msat};
use nexus_seal::Signer;
use nexus_store::account::{self, Account};
use nexus_store::{Audit, Store, agent, tick};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agents::{self, ACCOUNT};
use crate::bus::SimBus;
use crate::dice::Dice;
use crate::fleet::Fleet;
use crate::ledger::Ledger;
use crate::people::Front;
use crate::plan::Plan;
use crate::process::{Process, SimClock};
use crate::trace::{Recorded, Trace};
use crate::world::World;
use crate::{check, database, provider};

/// Virtual time that everything gets to come to its end: an invoice's life, the heir's margin, and some more.
const SETTLE_MS: u64 = 400_000;
const LOOK_MS: u64 = 2_000;

/// What happened, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub ticks: u64,
    pub triggers: u64,
    pub payments: u64,
    pub crashes: u64,
    pub freezes: u64,
    /// Virtual ms.
    pub lasted_ms: u64,
}

/// A run's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub seed: u64,
    /// SHA-256 of the trace: the same for every run of this seed.
    pub hash: String,
    pub violations: Vec<String>,
    /// The end of the trace.
    pub tail: Vec<String>,
    pub totals: Totals,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.ticks += other.ticks;
        self.triggers += other.triggers;
        self.payments += other.payments;
        self.crashes += other.crashes;
        self.freezes += other.freezes;
        self.lasted_ms += other.lasted_ms;
    }
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Runs a seed on this thread. An error is one of the simulation itself.
pub fn run(seed: u64) -> Result<Report, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let (recorded, totals) = runtime.block_on(simulate(seed))?;
    drop(runtime);
    let Recorded { hash, tail, violations, .. } = recorded;
    Ok(Report { seed, hash, violations, tail, totals })
}

async fn simulate(seed: u64) -> Result<(Recorded, Totals), Fault> {
    let start = Instant::now();
    let dice = Arc::new(Dice::new(seed));
    let plan = Plan::of(seed);
    let (accident, accidents) = mpsc::unbounded_channel();
    let world = build(plan, start, &dice, accident).await?;
    let mut tasks = JoinSet::new();
    for index in 0..world.plan.providers {
        let seller = provider::seller(&world, index, &dice).ok_or("no seller")?;
        tasks.spawn(seller.run());
    }
    let front = Arc::new(front(&world, &dice, start));
    let fleet = Fleet::new(world.clone(), Arc::new(dice.fork("fleet")), accidents, start);
    tasks.spawn(fleet.run());
    let writer = front.clone();
    tasks.spawn(async move { writer.write().await });
    if world.plan.owners {
        let owner = front.clone();
        tasks.spawn(async move { owner.own().await });
    }
    tokio::time::sleep(Duration::from_millis(world.plan.trouble_ms)).await;
    world.calm.store(true, Ordering::SeqCst);
    for owned in &world.agents {
        front.wish(owned.npub, Desired::Running, false).await;
    }
    settle(&world).await?;
    let totals = totals(&world).await?;
    world.trace.note(format_args!("{totals:?}"));
    tasks.shutdown().await;
    Ok((world.trace.finish(), totals))
}

/// Waits until nothing is under way, and checks.
async fn settle(world: &World) -> Result<(), Fault> {
    // The first moments belong to restarts and hand-overs.
    tokio::time::sleep(Duration::from_millis(8_000)).await;
    let until = world.clock.mono().plus_ms(SETTLE_MS);
    while !world.trace.is_violated() && world.clock.mono() < until {
        if check::unrest(world).await?.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
    // Once more after a moment: quiet has to last.
    tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    check::all(world).await?;
    Ok(())
}

async fn build(
    plan: Plan,
    start: Instant,
    dice: &Arc<Dice>,
    accident: mpsc::UnboundedSender<(String, crate::world::Accident)>,
) -> Result<Arc<World>, Fault> {
    let clock = SimClock::new(start, plan.wall);
    let store = Store::open_memory()?;
    let owner = agents::owner(dice.clone())?.public_key();
    let at = plan.wall;
    let audit = || Audit {
        at,
        account: Some(ACCOUNT),
        actor: "simulation".into(),
        action: "create".into(),
        target: String::new(),
        detail: "{}".into(),
    };
    let house = Account {
        id: ACCOUNT,
        owner,
        name: String::new(),
        plan: "local".into(),
        hosting: Hosting::Paid,
        created_at: at,
    };
    account::ensure(&store, house, audit()).await?;
    let (ledger, mut made) = (Ledger::default(), Vec::new());
    for index in 0..plan.agents {
        let limits = agents::limits(dice, plan.poor);
        let (agent, new) = agents::make(index, limits, plan.heartbeat_secs, at, dice.clone()).await?;
        agent::create(&store, new, None, audit()).await?;
        agent::set_desired(&store, agent.npub, Desired::Running, false, None, audit()).await?;
        ledger.fund(agent.npub, Msat::sats(dice.between(5_000, 20_000)));
        made.push(agent);
    }
    let trace = Trace::new(start);
    trace.note(format_args!("{plan:?}"));
    Ok(World::new(plan, trace, store, clock, ledger, made, accident))
}

fn front(world: &Arc<World>, dice: &Arc<Dice>, start: Instant) -> Front {
    let process = Process::new("front", SimClock::new(start, world.plan.wall));
    let dice = Arc::new(dice.fork("front"));
    // The front is not killed here: a relay that dies simply does not acknowledge.
    let store = database::steady(world, &process, &dice);
    let bus = SimBus { world: world.clone(), process, dice: dice.clone() };
    Front { world: world.clone(), store, bus, dice }
}

async fn totals(world: &World) -> Result<Totals, Fault> {
    let mut totals = Totals { lasted_ms: world.clock.mono().0, ..Totals::default() };
    for owned in &world.agents {
        totals.ticks += u64::try_from(tick::list(&world.store, owned.npub, None, tick::MAX_PAGE).await?.len())?;
    }
    let seen = world.seen();
    totals.triggers = u64::try_from(seen.acknowledged.len())?;
    (totals.crashes, totals.freezes) = (seen.crashes.into(), seen.freezes.into());
    totals.payments = u64::try_from(world.ledger.books().settled.len())?;
    Ok(totals)
}
