//! What all parts of a run share: the truth, and what was seen of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nexus_bus::LocalBus;
use nexus_core::{Clock, Generation, Hash32, Npub, UnixMs};
use nexus_store::Store;
use nexus_store::agent::NewAgent;
use nexus_worker::Faults;
use tokio::sync::mpsc;

use crate::agents::Agent;
use crate::counts::{self, Counts};
use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::money::Departure;
use crate::node::Node;
use crate::plan::{Fault, Plan};
use crate::process::{Process, SimClock};
use crate::run::Variant;
use crate::shelves::Shelves;
use crate::trace::Trace;

/// What a part asks of whoever runs the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accident {
    /// SIGKILL.
    Kill,
    /// SIGSTOP for so many ms, then SIGCONT.
    Freeze(u64),
}

/// What was seen from outside, to be compared with what is on record.
#[derive(Debug, Default)]
pub struct Seen {
    /// Triggers that were acknowledged, by agent and external id.
    pub acknowledged: BTreeSet<(Npub, String)>,
    /// Ids of signed events that an open tick's journal held at some moment.
    pub journaled: BTreeSet<Hash32>,
    /// Distinct answers that relays have, by agent and answered note or message.
    pub answers: BTreeMap<(Npub, Hash32), BTreeSet<Hash32>>,
    /// Names for ids, so that a trace does not show them.
    pub names: BTreeMap<Hash32, String>,
    /// Invoices of owners who take sats out.
    pub withdrawals: BTreeSet<Hash32>,
    /// Who placed agents last.
    pub reconciler: Option<String>,
    /// Agents last seen away from home, and the generation that each was last seen at.
    pub away: BTreeSet<Npub>,
    pub generations: BTreeMap<Npub, Generation>,
    /// Since when (virtual ms) each agent is suspended that is.
    pub suspended: BTreeMap<Npub, u64>,
    /// Agents that went in a month that was paid.
    pub departures: Vec<Departure>,
    pub counts: Counts,
    /// Waits without any time passing, since when.
    idle: (u64, u32),
}

/// Waits at one moment after which time has to pass: nothing real takes so many steps in no time.
const MAX_IDLE: u32 = 20_000;

pub struct World {
    pub plan: Plan,
    pub trace: Trace,
    /// The database as it is, without faults in between.
    pub store: Store,
    pub bus: Arc<LocalBus>,
    /// The true time.
    pub clock: Arc<SimClock>,
    pub shelves: Shelves,
    pub ledger: Ledger,
    /// The operator's, for hosting.
    pub node: Node,
    pub agents: Vec<Agent>,
    /// Where hosting is charged: an agent that comes and goes, and never runs.
    pub guest: Option<NewAgent>,
    pub accidents: mpsc::UnboundedSender<(String, Accident)>,
    /// What workers are given: nothing, unless one is broken on purpose.
    pub faults: Faults,
    /// What is wrong with everyone's hosting ledger, on purpose.
    #[cfg(feature = "broken")]
    pub defect: Option<nexus_store::broken::Defect>,
    /// No faults any more: what is under way comes to its end.
    pub calm: AtomicBool,
    seen: Mutex<Seen>,
}

impl World {
    #[expect(clippy::too_many_arguments, reason = "the parts that a world is made of")]
    pub fn new(
        plan: Plan,
        trace: Trace,
        store: Store,
        clock: Arc<SimClock>,
        ledger: Ledger,
        agents: Vec<Agent>,
        guest: Option<NewAgent>,
        accidents: mpsc::UnboundedSender<(String, Accident)>,
        variant: Variant,
    ) -> Arc<Self> {
        Arc::new(Self {
            plan,
            trace,
            store,
            bus: LocalBus::new(),
            clock,
            shelves: Shelves::default(),
            ledger,
            node: Node::default(),
            agents,
            guest,
            accidents,
            faults: variant.faults,
            #[cfg(feature = "broken")]
            defect: variant.defect,
            calm: AtomicBool::new(false),
            seen: Mutex::default(),
        })
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> UnixMs {
        self.clock.now()
    }

    pub fn calm(&self) -> bool {
        self.calm.load(Ordering::SeqCst)
    }

    /// Whether the operator's node is away for a while.
    pub fn node_away(&self) -> bool {
        let away = self.plan.charging.as_ref().and_then(|charging| charging.node_away);
        let is = !self.calm() && self.is_within(away);
        if is {
            self.count(counts::NODE_AWAY);
        }
        is
    }

    /// Whether the wallets' backends are away: that may outlast the trouble.
    pub fn wallets_away(&self) -> bool {
        let is = self.is_within(self.plan.wallets_away);
        if is {
            self.count(counts::WALLETS_AWAY);
        }
        is
    }

    fn is_within(&self, window: Option<(u64, u64)>) -> bool {
        let now = self.clock.mono().0;
        window.is_some_and(|(from, ms)| (from..from + ms).contains(&now))
    }

    /// Whether a fault happens now.
    pub fn fault(&self, dice: &Dice, fault: Fault) -> bool {
        let permille = self.plan.rates.permille(fault);
        let happens = permille > 0 && !self.calm() && dice.chance(permille);
        if happens {
            self.count(fault.name());
        }
        happens
    }

    pub fn count(&self, what: &'static str) {
        self.seen().counts.add(what);
    }

    /// False when too much happened at this moment.
    fn may_go_on(&self) -> bool {
        let now = self.clock.mono().0;
        let mut seen = self.seen();
        seen.idle = if seen.idle.0 == now { (now, seen.idle.1 + 1) } else { (now, 0) };
        seen.idle.1 < MAX_IDLE
    }

    /// Ends or freezes a process from inside one of its calls.
    pub fn accident(&self, process: &Process, accident: Accident) {
        match accident {
            Accident::Kill => process.kill(),
            Accident::Freeze(_) => process.freeze(true),
        }
        let _ = self.accidents.send((process.name.clone(), accident));
    }

    /// The region that a process is in; none for one that is no worker.
    pub fn region_of(&self, process: &str) -> Option<usize> {
        let number: usize = process.strip_prefix('w')?.parse().ok()?;
        Some(number % self.plan.regions)
    }

    /// An agent's place among the agents.
    pub fn index(&self, npub: &Npub) -> Option<usize> {
        self.agents.iter().position(|agent| agent.npub == *npub)
    }

    /// What the trace calls an agent.
    pub fn label(&self, npub: &Npub) -> String {
        self.index(npub).map_or_else(|| "nobody".into(), |index| format!("a{index}"))
    }
}

/// Gives others their turn, most often for no time at all.
pub async fn lag(world: &World, dice: &Dice, most_ms: u64) {
    if !world.may_go_on() {
        if !world.trace.is_violated() {
            world.trace.violated("somebody loops without waiting");
        }
        return tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if world.calm() {
        return tokio::task::yield_now().await;
    }
    match dice.between(0, 9) {
        0..=5 => tokio::task::yield_now().await,
        6..=8 => tokio::time::sleep(Duration::from_millis(dice.between(1, 4))).await,
        _ => tokio::time::sleep(Duration::from_millis(dice.between(1, most_ms.max(1)))).await,
    }
}
