//! The processes: started, killed, frozen, restarted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nexus_control::{Billing, ControlConfig, ControlParts, Metrics, Retention};
use nexus_core::WorkerId;
use nexus_core::hosting::Plan;
use nexus_seal::operator::OperatorKey;
use nexus_store::Store;
use nexus_worker::{WorkerConfig, WorkerParts};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agents;
use crate::bus::SimBus;
use crate::counts;
use crate::database;
use crate::dice::Dice;
use crate::ledger;
use crate::node::SimNode;
use crate::process::{Phase, Process, SimClock};
use crate::relays::SimRelays;
use crate::shelves::OWN;
use crate::wallet::SimWallets;
use crate::world::{Accident, World};

/// The lease of a worker and of the reconciler's term, as both come configured.
const LEASE_MS: u64 = 5_000;
/// Where the API is.
pub const ORIGIN: &str = "http://control.sim";
/// In a world in which months pass nothing is forgotten: what is checked in the end is all that happened.
const KEPT_DAYS: u32 = 3_650;

/// A slot for a process: the same worker or control plane over its lives.
struct Slot {
    clock: Arc<SimClock>,
    life: u32,
    process: Arc<Process>,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

pub struct Fleet {
    world: Arc<World>,
    dice: Arc<Dice>,
    slots: BTreeMap<String, Slot>,
    accidents: mpsc::UnboundedReceiver<(String, Accident)>,
    /// What has to happen later, by virtual ms: thaws and restarts, with the life that they are meant for.
    later: BTreeMap<(u64, String), (Later, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Later {
    Thaw,
    Start,
    /// With its region.
    Return,
}

impl Fleet {
    pub fn new(world: Arc<World>, dice: Arc<Dice>, accidents: mpsc::UnboundedReceiver<(String, Accident)>) -> Self {
        let mut fleet = Self { world, dice, slots: BTreeMap::new(), accidents, later: BTreeMap::new() };
        let plan = fleet.world.plan.clone();
        let controls = (0..plan.controls).map(|index| format!("c{index}"));
        let workers = (0..plan.workers).map(|index| format!("w{index}"));
        for name in controls.chain(workers).collect::<Vec<_>>() {
            let clock = fleet.world.clock.twin();
            let skew = u64::try_from(plan.skew_ms).unwrap_or(0);
            if fleet.dice.chance(400) {
                clock.set_off(i64::try_from(fleet.dice.between(0, 2 * skew)).unwrap_or(0) - plan.skew_ms);
            }
            fleet.start(&name, clock, 1);
        }
        fleet
    }

    /// Lets what happens to processes happen, until the trouble is over; then everyone is brought back to life.
    pub async fn run(mut self) {
        let mut next = self.next_accident();
        loop {
            let now = self.mono();
            if self.world.calm() {
                return self.heal().await;
            }
            if now >= next {
                self.random_accident();
                next = self.next_accident();
            }
            self.due(now);
            let until =
                self.later.keys().next().map_or(next, |(at, _)| (*at).min(next)).saturating_sub(now).clamp(1, 500);
            let heard = tokio::time::timeout(Duration::from_millis(until), self.accidents.recv()).await;
            if let Ok(Some((name, accident))) = heard {
                self.follow(&name, accident);
            }
        }
    }

    fn mono(&self) -> u64 {
        use nexus_core::Clock;
        self.world.clock.mono().0
    }

    fn next_accident(&self) -> u64 {
        let pause = self.world.plan.accidents_ms.map(|mean| self.dice.between(mean / 4, mean * 2));
        pause.map_or(u64::MAX / 2, |pause| self.mono() + pause)
    }

    fn random_accident(&mut self) {
        let names: Vec<String> = self.slots.keys().cloned().collect();
        let name = self.dice.pick(&names).clone();
        let last = if self.world.plan.regions > 1 { 11 } else { 9 };
        match self.dice.between(0, last) {
            10 | 11 => self.lose_region(),
            0..=2 => self.hit(&name, Accident::Kill),
            3..=5 => {
                let ms = self.dice.between(1_000, 25_000);
                self.hit(&name, Accident::Freeze(ms));
            }
            6 => self.stop(&name),
            7 | 8 => {
                let skew = u64::try_from(self.world.plan.skew_ms).unwrap_or(0);
                let off = i64::try_from(self.dice.between(0, 2 * skew)).unwrap_or(0) - self.world.plan.skew_ms;
                self.world.trace.note(format_args!("{name} wall clock off by {off} ms"));
                self.world.count(counts::CLOCK_JUMP);
                if let Some(slot) = self.slots.get(&name) {
                    slot.clock.set_off(off);
                }
            }
            _ => {
                let ms = self.dice.between(50, 900);
                self.hit(&name, Accident::Freeze(ms));
            }
        }
    }

    /// All workers of a region are gone at once, and come back together.
    fn lose_region(&mut self) {
        let region = usize::try_from(self.dice.next() % 2).unwrap_or(0);
        let at = self.mono() + self.dice.between(8_000, 30_000);
        self.world.trace.note(format_args!("region r{region} is lost"));
        self.world.count(counts::REGION_LOST);
        let inside = |name: &String| self.world.region_of(name) == Some(region);
        let names: Vec<String> = self.slots.keys().filter(|name| inside(name)).cloned().collect();
        for name in names {
            let Some(slot) = self.slots.get(&name) else { continue };
            slot.process.kill();
            slot.task.abort();
            let life = slot.life;
            self.later.retain(|(_, other), _| *other != name);
            self.later.insert((at, name), (Later::Return, life));
        }
    }

    fn hit(&mut self, name: &str, accident: Accident) {
        let Some(slot) = self.slots.get(name) else { return };
        if slot.process.phase() != Phase::Running {
            return;
        }
        let process = slot.process.clone();
        match accident {
            Accident::Kill => process.kill(),
            Accident::Freeze(_) => process.freeze(true),
        }
        self.follow(name, accident);
    }

    /// A graceful stop: it has its time to drain, and comes back.
    fn stop(&mut self, name: &str) {
        let Some(slot) = self.slots.get(name) else { return };
        if slot.process.phase() == Phase::Running {
            self.world.trace.note(format_args!("{name} is asked to stop"));
            self.world.count(counts::DRAINED);
            slot.stop.cancel();
        }
    }

    /// What an accident leads to: the dead are swept away and restarted, the frozen thaw.
    fn follow(&mut self, name: &str, accident: Accident) {
        let now = self.mono();
        let Some(slot) = self.slots.get(name) else { return };
        let life = slot.life;
        match accident {
            Accident::Kill => {
                self.world.trace.note(format_args!("{name} is killed"));
                self.world.count(counts::KILLED);
                slot.task.abort();
                let at = now + self.dice.between(50, 12_000);
                self.later.insert((at, name.to_owned()), (Later::Start, life));
            }
            Accident::Freeze(ms) => {
                self.world.trace.note(format_args!("{name} stands still for {ms} ms"));
                self.world.count(if ms >= LEASE_MS { counts::STALLED } else { counts::PAUSED });
                self.later.insert((now + ms, name.to_owned()), (Later::Thaw, life));
            }
        }
    }

    fn due(&mut self, now: u64) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let ((_, name), (what, life)) = entry.remove_entry();
            let current = self.slots.get(&name).is_some_and(|slot| slot.life == life);
            match what {
                Later::Thaw if current => self.thaw(&name),
                Later::Start if current => self.restart(&name),
                Later::Return if current => {
                    self.world.count(counts::REGION_BACK);
                    self.restart(&name);
                }
                Later::Thaw | Later::Start | Later::Return => {}
            }
        }
        // Whoever ended by itself comes back at once, as under any supervisor.
        let ended = |slot: &Slot| slot.task.is_finished() && slot.process.phase() != Phase::Dead;
        let ended: Vec<String> =
            self.slots.iter().filter(|(_, slot)| ended(slot)).map(|(name, _)| name.clone()).collect();
        for name in ended {
            self.restart(&name);
        }
    }

    fn thaw(&self, name: &str) {
        if let Some(slot) = self.slots.get(name) {
            self.world.trace.note(format_args!("{name} goes on"));
            slot.process.freeze(false);
        }
    }

    fn restart(&mut self, name: &str) {
        let Some(slot) = self.slots.remove(name) else { return };
        slot.process.kill();
        slot.task.abort();
        self.start(name, slot.clock, slot.life + 1);
    }

    fn start(&mut self, name: &str, clock: Arc<SimClock>, life: u32) {
        self.world.trace.note(format_args!("{name} starts, life {life}"));
        let process = Process::new(name, clock.clone());
        let stop = CancellationToken::new();
        let dice = Arc::new(self.dice.fork(name));
        let task = if name.starts_with('w') {
            let parts = self.worker(name, &process, &dice);
            let (world, name, stop) = (self.world.clone(), name.to_owned(), stop.clone());
            tokio::spawn(async move {
                let ended = nexus_worker::run(parts, stop).await;
                let said = if ended.is_ok() { "well" } else { "with an error" };
                world.trace.note(format_args!("{name} ends {said}"));
            })
        } else {
            tokio::spawn(nexus_control::reconcile_only(self.control(&process, &dice, &stop)))
        };
        self.slots.insert(name.to_owned(), Slot { clock, life, process, task, stop });
    }

    fn worker(&self, name: &str, process: &Arc<Process>, dice: &Arc<Dice>) -> WorkerParts {
        let (world, process, dice) = (self.world.clone(), process.clone(), dice.clone());
        let number = name.bytes().last().unwrap_or(b'0');
        let region = self.world.region_of(name).unwrap_or(0);
        WorkerParts {
            id: WorkerId::from_bytes([number; 16]),
            store: database::store(&world, &process, &dice),
            bus: Arc::new(SimBus { world: world.clone(), process: process.clone(), dice: dice.clone() }),
            clock: process.clock.clone(),
            entropy: dice.clone(),
            relays: Arc::new(SimRelays { world: world.clone(), process: process.clone(), dice: dice.clone() }),
            wallets: Arc::new(SimWallets { world, process, dice }),
            pool: agents::pool(),
            config: WorkerConfig {
                region: format!("r{region}"),
                drain_ms: self.world.plan.drain_ms,
                capacity: 100,
                turns: 8,
                tick_timeout_ms: 90_000,
                offer_timeout_ms: 6_000,
                job_timeout_ms: 20_000,
                publish_timeout_ms: 2_000,
                own_relay: OWN.into(),
                market_ms: 15_000,
                ..WorkerConfig::default()
            },
            faults: self.world.faults.clone(),
        }
    }

    fn control(&self, process: &Arc<Process>, dice: &Arc<Dice>, stop: &CancellationToken) -> ControlParts {
        let (world, process, dice) = (self.world.clone(), process.clone(), dice.clone());
        let store = database::store(&world, &process, &dice);
        let bus = SimBus { world: world.clone(), process: process.clone(), dice: dice.clone() };
        ControlParts { stop: stop.clone(), ..control_parts(&world, &process, &dice, store, bus) }
    }

    /// Everyone lives and goes on, with a true clock, until the run ends.
    async fn heal(mut self) {
        self.world.trace.note("the trouble is over");
        let names: Vec<String> = self.slots.keys().cloned().collect();
        for name in names {
            let Some(slot) = self.slots.get(&name) else { continue };
            slot.clock.set_off(0);
            match slot.process.phase() {
                Phase::Running => {}
                Phase::Frozen => self.thaw(&name),
                Phase::Dead => self.restart(&name),
            }
        }
        loop {
            let now = self.mono();
            self.later.clear();
            self.due(now);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// A control plane of this world: one that places and bills, or one that answers callers.
pub fn control_parts(
    world: &Arc<World>,
    process: &Arc<Process>,
    dice: &Arc<Dice>,
    store: Store,
    bus: SimBus,
) -> ControlParts {
    let origin = url::Url::parse(ORIGIN).unwrap_or_else(|_| unreachable!("a constant URL"));
    let node = SimNode { world: world.clone(), process: process.clone(), dice: dice.clone() };
    let billing = world.plan.charging.as_ref().map(|charging| Billing {
        rules: charging.rules.clone(),
        plans: BTreeMap::from([("hosted".to_owned(), Plan { fee_sats: charging.fee_sats, ..Plan::default() })]),
        node: Arc::new(node),
        identity: Some(ledger::identity()),
    });
    let kept = Retention {
        events_days: KEPT_DAYS,
        ticks_days: KEPT_DAYS,
        inbox_days: KEPT_DAYS,
        publications_days: KEPT_DAYS,
        audit_days: KEPT_DAYS,
        relay_days: KEPT_DAYS,
    };
    ControlParts {
        store,
        bus: Arc::new(bus),
        clock: process.clock.clone(),
        entropy: dice.clone(),
        config: ControlConfig {
            home_settle_ms: 4_000,
            retention: if billing.is_some() { kept } else { Retention::default() },
            operator_key: billing.as_ref().map(|_| Arc::new(OperatorKey::generate(&Dice::new(7_038_329)))),
            billing,
            ..ControlConfig::new(origin)
        },
        metrics: Arc::new(Metrics::default()),
        stop: CancellationToken::new(),
    }
}
