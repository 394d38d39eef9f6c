//! One seed, from its world to its report.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nexus_core::policy::Custody;
use nexus_core::rent::Rent;
use nexus_core::status::{Desired, Hosting};
use nexus_core::{Clock, Msat};
use nexus_seal::Signer;
use nexus_store::account::{self, Account};
use nexus_store::agent::NewAgent;
use nexus_store::{Audit, Store, agent, tick};
use nexus_worker::Faults;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agents::{self, ACCOUNT};
use crate::bus::SimBus;
use crate::counts::Counts;
use crate::dice::Dice;
use crate::fleet::Fleet;
use crate::ledger::{self, Ledger};
use crate::payers::{Payers, newborn};
use crate::people::Front;
use crate::plan::Plan;
use crate::process::{Process, SimClock};
use crate::signer::Remote;
use crate::trace::{Recorded, Trace};
use crate::world::World;
use crate::{check, counts, database, provider};

/// Virtual time that everything gets to come to its end: an invoice's life, the heir's margin, and some more.
const SETTLE_MS: u64 = 400_000;
const LOOK_MS: u64 = 2_000;

/// What happened, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    pub ticks: u64,
    pub triggers: u64,
    pub payments: u64,
    /// Virtual ms.
    pub lasted_ms: u64,
    /// Each kind of fault and of operation.
    pub counts: Counts,
}

/// A run's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub seed: u64,
    /// SHA-256 of the trace: the same for every run of this seed.
    pub hash: String,
    /// What must never be, and was. The first is what counts: others may follow from it.
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
        self.lasted_ms += other.lasted_ms;
        self.counts += other.counts;
    }
}

/// The simulation itself cannot go on: nothing that a seed decides.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Runs a seed on this thread.
pub fn run(seed: u64) -> Result<Report, Fault> {
    run_with(seed, Variant::default())
}

/// The code that runs: what is shipped, or what a test broke.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variant {
    pub faults: Faults,
    #[cfg(feature = "broken")]
    pub unfenced: bool,
    #[cfg(feature = "broken")]
    pub defect: Option<nexus_store::broken::Defect>,
}

impl Variant {
    fn store(&self) -> Result<Store, nexus_store::StoreError> {
        #[cfg(feature = "broken")]
        if self.unfenced {
            return Store::open_memory_unfenced();
        }
        Store::open_memory()
    }
}

pub(crate) fn run_with(seed: u64, variant: Variant) -> Result<Report, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let (recorded, totals) = runtime.block_on(simulate(seed, variant))?;
    drop(runtime);
    let Recorded { hash, tail, violations, .. } = recorded;
    Ok(Report { seed, hash, violations, tail, totals })
}

async fn simulate(seed: u64, variant: Variant) -> Result<(Recorded, Totals), Fault> {
    let start = Instant::now();
    let dice = Arc::new(Dice::new(seed));
    let plan = Plan::of(seed);
    let (accident, accidents) = mpsc::unbounded_channel();
    let world = build(plan, start, &dice, accident, variant).await?;
    let mut tasks = JoinSet::new();
    for index in 0..world.plan.providers {
        let seller = provider::seller(&world, index, &dice).ok_or("no seller")?;
        tasks.spawn(seller.run());
    }
    for owned in world.agents.iter().filter(|owned| owned.custody == Custody::Bunker) {
        tasks.spawn(Remote::new(&world, &dice, &owned.secret)?.run());
    }
    let front = Arc::new(front(&world, &dice));
    let fleet = Fleet::new(world.clone(), Arc::new(dice.fork("fleet")), accidents);
    tasks.spawn(fleet.run());
    let writer = front.clone();
    tasks.spawn(async move { writer.write().await });
    if world.plan.owners {
        let owner = front.clone();
        tasks.spawn(async move { owner.own().await });
    }
    let payers = Payers::new(&world, &front, &dice).map(Arc::new);
    if let Some(payers) = &payers {
        let (payer, calendar) = (payers.clone(), payers.clone());
        tasks.spawn(async move { payer.run().await });
        tasks.spawn(async move { calendar.calendar().await });
    }
    let guardian = front.clone();
    tasks.spawn(async move { guardian.decide().await });
    trouble(&world).await?;
    world.calm.store(true, Ordering::SeqCst);
    for owned in &world.agents {
        front.wish(owned.npub, Desired::Running, false).await;
    }
    settle(&world, &front, payers.as_deref()).await?;
    let totals = totals(&world).await?;
    world.trace.note(format_args!(
        "{} ticks, {} triggers, {} payments, {:?}",
        totals.ticks, totals.triggers, totals.payments, totals.counts
    ));
    tasks.shutdown().await;
    Ok((world.trace.finish(), totals))
}

/// The time in which everything goes wrong. Looks now and then who is away from home.
async fn trouble(world: &World) -> Result<(), Fault> {
    let until = world.clock.mono().plus_ms(world.plan.trouble_ms);
    let mut week = world.plan.a_week_passes.then(|| world.clock.mono().plus_ms(world.plan.trouble_ms / 2));
    while world.clock.mono() < until {
        if week.take_if(|at| world.clock.mono() >= *at).is_some() {
            world.trace.note("a week passes, and a day");
            world.count(counts::WEEK);
            world.clock.pass_ms(8 * 86_400_000);
        }
        let left = until.since(world.clock.mono()).min(LOOK_MS);
        tokio::time::sleep(Duration::from_millis(left)).await;
        check::homes(world).await?;
    }
    Ok(())
}

/// Waits until nothing is under way, and checks.
async fn settle(world: &World, front: &Front, payers: Option<&Payers>) -> Result<(), Fault> {
    // The first moments belong to restarts and hand-overs.
    tokio::time::sleep(Duration::from_millis(8_000)).await;
    front.wallets_away().await?;
    if let (true, Some(owned)) = (world.plan.unfunded, world.agents.first()) {
        // In case that no money reached it, or nobody noticed: from now on both must work.
        front.fund(owned.npub, Duration::from_secs(50)).await;
        if owned.custody == Custody::Bunker {
            // Its signer may have been away: an owner asks again.
            tokio::time::sleep(Duration::from_secs(20)).await;
            front.fund(owned.npub, Duration::from_secs(50)).await;
        }
    }
    if let Some(payers) = payers {
        payers.afterwards().await?;
    }
    let until = world.clock.mono().plus_ms(SETTLE_MS);
    let mut quiet = 0;
    // Quiet has to last: twice in a row. Who begins something new in between is waited for.
    while quiet < 2 && !world.trace.is_violated() && world.clock.mono() < until {
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        check::homes(world).await?;
        quiet = if check::unrest(world).await?.is_none() { quiet + 1 } else { 0 };
    }
    check::all(world).await?;
    Ok(())
}

async fn build(
    plan: Plan,
    start: Instant,
    dice: &Arc<Dice>,
    accident: mpsc::UnboundedSender<(String, crate::world::Accident)>,
    variant: Variant,
) -> Result<Arc<World>, Fault> {
    let clock = SimClock::new(start, plan.wall);
    let store = variant.store()?;
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
    let hosting = plan.charging.as_ref().map_or(Hosting::Paid, |charging| newborn(charging, None, at));
    for index in 0..plan.agents {
        let limits = agents::limits(dice, plan.poor);
        let home = (plan.regions > 1).then(|| format!("r{}", index % plan.regions));
        let schedules = if plan.schedules { agents::schedules(at) } else { Vec::new() };
        let custody = if plan.bunker && index + 1 == plan.agents { Custody::Bunker } else { Custody::Sealed };
        let rent = plan.charging.as_ref().filter(|charging| charging.rent).map(|charging| Rent {
            // For one month or two, or for hardly one.
            month_msat: Msat::sats(charging.fee_sats * dice.between(9, 25) / 10),
            payee: ledger::identity(),
        });
        let made_here =
            agents::make(index, limits, plan.heartbeat_secs, home, schedules, custody, rent, at, dice.clone());
        let (agent, new) = made_here.await?;
        let new = NewAgent { hosting, ..new };
        agent::create(&store, new, None, audit()).await?;
        agent::set_desired(&store, agent.npub, Desired::Running, false, None, audit()).await?;
        if !(plan.unfunded && index == 0) {
            ledger.fund(agent.npub, Msat::sats(dice.between(5_000, 20_000)));
        }
        made.push(agent);
    }
    let guest = match plan.charging.is_some() {
        true => {
            let limits = agents::limits(dice, false);
            let made =
                agents::make(agents::MAX - 1, limits, 900, None, Vec::new(), Custody::Sealed, None, at, dice.clone());
            Some(made.await?.1)
        }
        false => None,
    };
    let trace = Trace::new(start);
    trace.note(format_args!("{plan:?}"));
    Ok(World::new(plan, trace, store, clock, ledger, made, guest, accident, variant))
}

fn front(world: &Arc<World>, dice: &Arc<Dice>) -> Front {
    let process = Process::new("front", world.clock.twin());
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
    totals.counts = seen.counts.clone();
    totals.payments = u64::try_from(world.ledger.books().settled.len())?;
    Ok(totals)
}
