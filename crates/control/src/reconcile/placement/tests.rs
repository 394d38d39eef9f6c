//! Rounds of real reconcilers over real databases, on a clock that the tests move: workers beat between the rounds, or do
//! not.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexus_bus::LocalBus;
use nexus_core::placement::Failover;
use nexus_core::status::{Desired, Hosting};
use nexus_core::trigger::Trigger;
use nexus_core::{AccountId, AgentConfig, Msat, TickId, UnixMs};
use nexus_store::account::{self, Account};
use nexus_store::agent::{self, Agent, Change, NewAgent, Sealed};
use nexus_store::inbox::{self, NewItem};
use nexus_store::tick::{self, Begin, Commit};
use nexus_store::worker::NewWorker;
use nexus_store::{Audit, Batch, Fence, PostgresConfig, Statement, Store};
use nexus_testkit::{ManualClock, SystemEntropy, postgres};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{ControlConfig, ControlParts, Metrics};

const START: UnixMs = UnixMs(1_790_000_000_000);
/// Between two looks of a reconciler.
const STEP_MS: u64 = 500;

#[derive(Clone, Copy)]
enum Kind {
    Inline,
    Postgres,
}

struct World {
    store: Store,
    clock: Arc<ManualClock>,
    config: ControlConfig,
    /// Workers that live.
    beating: BTreeMap<u8, Fence>,
}

impl World {
    async fn new(kind: Kind) -> Self {
        let store = match kind {
            Kind::Inline => Store::open_memory().unwrap(),
            Kind::Postgres => {
                let database = postgres::shared().database();
                let config = PostgresConfig {
                    host: postgres::shared().socket_dir().into(),
                    database,
                    user: postgres::USER.into(),
                    ..PostgresConfig::default()
                };
                Store::open_postgres(config).await.unwrap()
            }
        };
        let account = Account {
            id: account_id(),
            owner: Npub::from_bytes([255; 32]),
            name: String::new(),
            plan: "local".into(),
            hosting: Hosting::Paid,
            created_at: START,
        };
        account::ensure(&store, account, audit()).await.unwrap();
        let config = ControlConfig {
            lease_ms: 5_000,
            moves_per_second: 4,
            home_settle_ms: 15_000,
            ..ControlConfig::new("http://127.0.0.1".parse().unwrap())
        };
        Self { store, clock: Arc::new(ManualClock::at(START)), config, beating: BTreeMap::new() }
    }

    /// One control process.
    fn app(&self) -> Shared {
        let parts = ControlParts {
            store: self.store.clone(),
            bus: LocalBus::new(),
            clock: self.clock.clone(),
            entropy: Arc::new(SystemEntropy),
            config: self.config.clone(),
            metrics: Arc::new(Metrics::default()),
            stop: CancellationToken::new(),
        };
        crate::api::router(parts).1
    }

    fn now(&self) -> UnixMs {
        nexus_core::Clock::now(&*self.clock)
    }

    async fn worker(&mut self, number: u8, region: &str, capacity: u32) {
        self.worker_of(number, region, "default", capacity, 1).await;
    }

    /// Registers, or registers again, and beats from now on.
    async fn worker_of(&mut self, number: u8, region: &str, pool: &str, capacity: u32, version: u32) {
        let new = NewWorker { id: worker_id(number), region: region.into(), pool: pool.into(), capacity, version };
        let fence = worker::register(&self.store, new, self.now()).await.unwrap();
        self.beating.insert(number, fence);
    }

    /// Falls silent, as a crash does.
    fn kill(&mut self, number: u8) {
        self.beating.remove(&number).unwrap();
    }

    async fn agent(&self, number: u8, region: Option<&str>, failover: Failover) -> Npub {
        let config = AgentConfig { region: region.map(str::to_owned), failover, ..AgentConfig::default() };
        let npub = Npub::from_bytes([number; 32]);
        let new = NewAgent {
            npub,
            account: account_id(),
            name: format!("agent{number}"),
            config,
            sealed: Sealed::default(),
            wraps: Vec::new(),
            state: None,
            hosting: Hosting::Paid,
            reason: None,
            created_at: START,
        };
        agent::create(&self.store, new, None, audit()).await.unwrap();
        agent::set_desired(&self.store, npub, Desired::Running, false, None, audit()).await.unwrap();
        npub
    }

    async fn agents(&self, numbers: std::ops::Range<u8>, region: Option<&str>) -> Vec<Npub> {
        let mut made = Vec::new();
        for number in numbers {
            made.push(self.agent(number, region, Failover::Anywhere).await);
        }
        made
    }

    async fn get(&self, npub: Npub) -> Agent {
        agent::get(&self.store, npub).await.unwrap().unwrap()
    }

    async fn holder(&self, npub: Npub) -> Option<WorkerId> {
        self.get(npub).await.worker
    }

    async fn reason(&self, npub: Npub) -> Option<String> {
        let agent = self.get(npub).await;
        let waits = agent.reason.map(|reason| reason.code);
        assert!(waits.is_none() || agent.next_attempt_at > Some(self.now()), "a reason has a next attempt ahead");
        waits
    }

    /// How many of these each worker has.
    async fn loads(&self, agents: &[Npub]) -> BTreeMap<Option<WorkerId>, usize> {
        let mut loads = BTreeMap::new();
        for npub in agents {
            *loads.entry(self.holder(*npub).await).or_insert(0) += 1;
        }
        loads
    }

    async fn on(&self, agents: &[Npub], number: u8) -> usize {
        self.loads(agents).await.get(&Some(worker_id(number))).copied().unwrap_or(0)
    }

    /// Half a second in which every live worker beats and every reconciler looks.
    async fn step(&self, reconcilers: &mut [&mut Reconciler<'_>]) {
        self.clock.advance_ms(STEP_MS);
        for fence in self.beating.values() {
            worker::beat(&self.store, *fence, i64::MAX, self.now()).await.unwrap();
        }
        for reconciler in reconcilers {
            match reconciler.round().await {
                Ok(_) => {}
                Err(error) => reconciler.failed(&error),
            }
        }
    }

    async fn seconds(&self, seconds: u64, reconcilers: &mut [&mut Reconciler<'_>]) {
        for _ in 0..seconds * 1_000 / STEP_MS {
            self.step(reconcilers).await;
        }
    }

    async fn set_config(&self, npub: Npub, change: impl FnOnce(&mut AgentConfig)) {
        let agent = self.get(npub).await;
        let mut config = agent.config;
        change(&mut config);
        agent::set_config(&self.store, npub, agent.config_version, &agent.name, &config, audit()).await.unwrap();
    }
}

fn audit() -> Audit {
    Audit {
        at: START,
        account: Some(account_id()),
        actor: "test".into(),
        action: "test".into(),
        target: String::new(),
        detail: "{}".into(),
    }
}

fn account_id() -> AccountId {
    AccountId::from_bytes([1; 16])
}

fn worker_id(number: u8) -> WorkerId {
    WorkerId::from_bytes([number; 16])
}

/// A reconciler of its own process, under a name.
macro_rules! reconciler {
    ($world:ident, $app:ident, $name:ident) => {
        let $app = $world.app();
        let mut $name = Reconciler::new(&$app);
    };
}

async fn a_full_fleet_takes_no_more_until_there_is_room(mut world: World) {
    world.worker(1, "eu", 3).await;
    world.worker(2, "eu", 3).await;
    let agents = world.agents(1..9, None).await;
    reconciler!(world, app, one);
    world.seconds(11, &mut [&mut one]).await;
    let loads = world.loads(&agents).await;
    assert_eq!(loads, [(None, 2), (Some(worker_id(1)), 3), (Some(worker_id(2)), 3)].into());
    for npub in &agents {
        let waits = world.holder(*npub).await.is_none();
        assert_eq!(world.reason(*npub).await.as_deref(), waits.then_some("no_capacity"));
    }
    assert_eq!(app.metrics.agents_waiting.get(), 2);
    world.worker(3, "eu", 3).await;
    world.seconds(2, &mut [&mut one]).await;
    assert_eq!(world.loads(&agents).await.get(&None), None);
    for npub in &agents {
        assert_eq!(world.reason(*npub).await, None);
    }
    assert_eq!(app.metrics.agents_waiting.get(), 0);
}

async fn a_region_that_is_lost_and_comes_back(mut world: World) {
    world.worker(1, "eu", 50).await;
    world.worker(2, "us", 50).await;
    let movers = world.agents(1..13, Some("eu")).await;
    let stayer = world.agent(20, Some("eu"), Failover::Never).await;
    let (nowhere, lost) =
        (world.agent(21, Some("ap"), Failover::Anywhere).await, world.agent(22, Some("ap"), Failover::Never).await);
    reconciler!(world, app, one);
    world.seconds(3, &mut [&mut one]).await;
    assert_eq!((world.on(&movers, 1).await, world.on(&[stayer], 1).await), (12, 1));
    assert!(world.holder(nowhere).await.is_some());
    assert_eq!(world.reason(lost).await.as_deref(), Some("no_worker_in_region"));
    let before = world.get(movers[0]).await.generation;

    world.kill(1);
    world.seconds(4, &mut [&mut one]).await;
    assert_eq!(world.on(&movers, 1).await, 12, "nobody is declared dead before the lease is over");
    world.seconds(4, &mut [&mut one]).await;
    assert_eq!(world.on(&movers, 2).await, 12);
    assert_eq!(world.reason(stayer).await.as_deref(), Some("no_worker_in_region"));
    assert!(world.get(movers[0]).await.generation > before);

    // It is back. Who waited goes home at once; the others when it has lived for a while, a few at a time.
    world.worker(1, "eu", 50).await;
    let generation = world.get(movers[0]).await.generation;
    world.seconds(2, &mut [&mut one]).await;
    assert_eq!(world.on(&[stayer], 1).await, 1);
    assert_eq!(world.reason(stayer).await, None);
    world.seconds(11, &mut [&mut one]).await;
    assert_eq!(world.on(&movers, 1).await, 0, "a home that has just come back may go again");
    let mut home = 0;
    let mut seconds = 0;
    while home < movers.len() {
        world.seconds(1, &mut [&mut one]).await;
        let now = world.on(&movers, 1).await;
        assert!(now <= home + 4, "{now} after {home}: more than four in a second");
        (home, seconds) = (now, seconds + 1);
        assert!(seconds < 20, "only {home} are home");
    }
    assert!(seconds >= 3);
    assert_eq!(world.get(movers[0]).await.generation.0, generation.0 + 1, "one move, not to and fro");
    assert_eq!(app.metrics.agents_moved.get(), 12);
}

async fn a_worker_that_joins_gets_its_share_a_few_at_a_time(mut world: World) {
    world.worker(1, "eu", 100).await;
    let agents = world.agents(1..41, None).await;
    reconciler!(world, app, one);
    world.seconds(3, &mut [&mut one]).await;
    assert_eq!(world.on(&agents, 1).await, 40);
    world.worker(2, "eu", 100).await;
    let mut there = 0;
    for _ in 0..20 {
        world.seconds(1, &mut [&mut one]).await;
        let now = world.on(&agents, 2).await;
        assert!((there..=there + 4).contains(&now), "{now} after {there}");
        there = now;
    }
    assert!((18..=20).contains(&there), "{there}");
    let moved = app.metrics.agents_moved.get();
    assert_eq!(moved, there as u64);
    world.seconds(5, &mut [&mut one]).await;
    assert_eq!(app.metrics.agents_moved.get(), moved, "then it is at rest");
}

async fn without_a_move_allowed_nobody_is_moved_for_a_better_place(mut world: World) {
    world.config.moves_per_second = 0;
    world.worker(1, "eu", 100).await;
    let agents = world.agents(1..11, None).await;
    reconciler!(world, app, one);
    world.seconds(3, &mut [&mut one]).await;
    world.worker(2, "eu", 100).await;
    world.seconds(10, &mut [&mut one]).await;
    assert_eq!((world.on(&agents, 1).await, app.metrics.agents_moved.get()), (10, 0));
}

async fn a_drained_worker_hands_over_and_ends_its_ticks_first(mut world: World) {
    world.worker(1, "eu", 50).await;
    let agents = world.agents(1..6, None).await;
    reconciler!(world, app, one);
    world.seconds(2, &mut [&mut one]).await;
    let (busy, fence) = (world.get(agents[0]).await, world.beating[&1]);
    let id = TickId::new(world.now(), [7; 10]);
    let begin = Begin {
        fence,
        npub: busy.npub,
        generation: busy.generation,
        tick: id,
        trigger: Trigger::Manual,
        at: world.now(),
        inbox: Vec::new(),
        records: Vec::new(),
        events: Vec::new(),
        side: Vec::new(),
    };
    tick::begin(&world.store, begin).await.unwrap();
    worker::set_draining(&world.store, fence, true).await.unwrap();
    world.seconds(2, &mut [&mut one]).await;
    assert_eq!(world.on(&agents, 1).await, 5, "nobody takes them yet");
    world.worker(2, "us", 50).await;
    world.seconds(2, &mut [&mut one]).await;
    assert_eq!((world.on(&agents, 1).await, world.on(&agents, 2).await), (1, 4), "its tick is under way");
    let commit = Commit {
        fence,
        npub: busy.npub,
        generation: busy.generation,
        tick: id,
        at: world.now(),
        failed: None,
        again: false,
        state: None,
        cost: Msat::ZERO,
        actions: "[]".into(),
        steps: "[]".into(),
        sealed: None,
        change: Change::default(),
        events: Vec::new(),
        side: Vec::new(),
    };
    tick::commit(&world.store, commit).await.unwrap();
    world.seconds(1, &mut [&mut one]).await;
    assert_eq!(world.on(&agents, 2).await, 5);
    // New agents go past it, however empty it is.
    let late = world.agent(9, None, Failover::Anywhere).await;
    world.seconds(1, &mut [&mut one]).await;
    assert_eq!(world.on(&[late], 2).await, 1);
}

async fn pool_and_version_are_kept_to(mut world: World) {
    world.worker_of(1, "eu", "other", 50, 9).await;
    let npub = world.agent(1, None, Failover::Anywhere).await;
    reconciler!(world, app, one);
    world.seconds(3, &mut [&mut one]).await;
    assert_eq!(world.reason(npub).await.as_deref(), Some("no_worker"));
    let sql = "UPDATE agent SET reader_version = 2";
    world.store.write(Batch::new("raise").with(Statement::write(sql, Vec::new()))).await.unwrap();
    world.worker(2, "eu", 50).await;
    world.seconds(3, &mut [&mut one]).await;
    assert_eq!(world.reason(npub).await.as_deref(), Some("workers_too_old"), "the reason follows what is the matter");
    world.worker_of(3, "eu", "default", 50, 2).await;
    world.seconds(2, &mut [&mut one]).await;
    assert_eq!(world.on(&[npub], 3).await, 1);
    assert_eq!(world.reason(npub).await, None);
    // Its only reader dies: it waits, rather than going to one that is too old.
    world.kill(3);
    world.seconds(8, &mut [&mut one]).await;
    assert_eq!(world.reason(npub).await.as_deref(), Some("workers_too_old"));
}

async fn an_agent_goes_back_to_where_it_was(mut world: World) {
    world.worker(1, "eu", 50).await;
    let agents = world.agents(1..5, None).await;
    reconciler!(world, app, one);
    world.seconds(2, &mut [&mut one]).await;
    agent::set_desired(&world.store, agents[0], Desired::Stopped, false, None, audit()).await.unwrap();
    world.seconds(1, &mut [&mut one]).await;
    assert_eq!(world.holder(agents[0]).await, None);
    world.config.moves_per_second = 0;
    reconciler!(world, other, two);
    one.resign().await;
    world.worker(2, "eu", 50).await;
    world.seconds(2, &mut [&mut two]).await;
    agent::set_desired(&world.store, agents[0], Desired::Running, false, None, audit()).await.unwrap();
    world.seconds(1, &mut [&mut two]).await;
    assert_eq!(world.on(&agents, 1).await, 4, "emptier is not better than known");
}

async fn another_takes_over_in_the_middle_of_a_plan(mut world: World) {
    world.worker(1, "eu", 200).await;
    world.worker(2, "us", 200).await;
    reconciler!(world, first, one);
    reconciler!(world, second, two);
    world.seconds(2, &mut [&mut one, &mut two]).await;
    assert!(first.reconciler.is_active() && !second.reconciler.is_active());
    let agents = world.agents(1..61, None).await;
    // The first one plans, carries some of it out, and freezes.
    let now = first.clock.mono();
    let term = one.term(now).await.unwrap().unwrap();
    let (live, _) = one.watch(term, now).await.unwrap();
    let workers = one.views(live, now).await.unwrap();
    let waiting = rows::unplaced_after(&world.store, world.now(), None, BATCH).await.unwrap();
    let made = plan(&Snapshot { workers, agents: waiting });
    assert_eq!(made.steps.len(), 60);
    one.carry_out(term, &made.steps[..20]).await.unwrap();
    world.seconds(4, &mut [&mut two]).await;
    assert!(!second.reconciler.is_active(), "within the lease the term is not taken");
    world.seconds(4, &mut [&mut two]).await;
    assert!(second.reconciler.is_active());
    assert_eq!(world.loads(&agents).await.get(&None), None);
    let placed = world.loads(&agents).await;
    // It thaws, and goes on where it was.
    let error = one.carry_out(term, &made.steps[20..]).await.unwrap_err();
    assert!(error.is_stale(), "{error}");
    one.failed(&error);
    assert!(one.unplace(term, agents[0], Generation(1), worker_id(1)).await.unwrap_err().is_stale());
    world.seconds(3, &mut [&mut one, &mut two]).await;
    assert!(!first.reconciler.is_active() && second.reconciler.is_active());
    assert_eq!(world.loads(&agents).await, placed);
    for npub in &agents {
        assert_eq!(world.get(*npub).await.generation, Generation(1), "placed once, by one of them");
    }
}

async fn a_new_home_takes_effect_where_the_agent_is(mut world: World) {
    world.worker(1, "eu", 50).await;
    world.worker(2, "us", 50).await;
    let agents = world.agents(1..11, Some("eu")).await;
    reconciler!(world, app, one);
    world.seconds(20, &mut [&mut one]).await;
    assert_eq!(world.on(&agents, 1).await, 10);
    for npub in &agents {
        world.set_config(*npub, |config| config.region = Some("us".into())).await;
    }
    let mut there = 0;
    for _ in 0..5 {
        world.seconds(1, &mut [&mut one]).await;
        let now = world.on(&agents, 2).await;
        assert!(now <= there + 4, "{now} after {there}: more than four in a second");
        there = now;
    }
    assert_eq!(there, 10);

    // One that waits for something is moved as well: it would wait there for ever.
    let parked = world.get(agents[0]).await;
    let item = NewItem {
        npub: parked.npub,
        external_id: "one".into(),
        trigger: Trigger::Mention,
        sender: None,
        received_at: world.now(),
        payload: vec![1],
    };
    inbox::put(&world.store, item).await.unwrap();
    let change = Change {
        reason: Some(Some(Reason::new("policy_missing", "no policy"))),
        next_attempt_at: Some(Some(world.now().plus_ms(60_000))),
        ..Change::default()
    };
    let fence = world.beating[&2];
    agent::change(&world.store, fence, parked.npub, parked.generation, world.now(), change, Vec::new()).await.unwrap();
    world.set_config(parked.npub, |config| config.region = Some("eu".into())).await;
    world.seconds(2, &mut [&mut one]).await;
    assert_eq!(world.on(&[parked.npub], 1).await, 1);

    // A home without a worker: who may be anywhere stays, who may not leaves, and says why.
    world.set_config(agents[1], |config| config.region = Some("ap".into())).await;
    world
        .set_config(agents[2], |config| {
            config.region = Some("ap".into());
            config.failover = Failover::Never;
        })
        .await;
    world.seconds(3, &mut [&mut one]).await;
    assert_eq!(world.on(&agents[1..2], 2).await, 1);
    assert_eq!(world.holder(agents[2]).await, None);
    assert_eq!(world.reason(agents[2]).await.as_deref(), Some("no_worker_in_region"));
    world.worker(3, "ap", 50).await;
    world.seconds(2, &mut [&mut one]).await;
    assert_eq!(world.on(&agents[2..3], 3).await, 1);
}

async fn a_reconciler_that_just_began_sends_nobody_away(mut world: World) {
    world.worker(1, "eu", 50).await;
    world.worker(2, "us", 50).await;
    let npub = world.agent(1, Some("eu"), Failover::Never).await;
    reconciler!(world, app, one);
    world.seconds(3, &mut [&mut one]).await;
    assert_eq!(world.on(&[npub], 1).await, 1);
    world.set_config(npub, |config| config.region = Some("us".into())).await;
    one.resign().await;
    // The second one has not seen anyone beat yet, and the agent's new home is not known to live.
    world.kill(2);
    reconciler!(world, other, two);
    world.seconds(2, &mut [&mut two]).await;
    assert_eq!(world.on(&[npub], 1).await, 1);
    world.worker(2, "us", 50).await;
    world.seconds(16, &mut [&mut two]).await;
    assert_eq!(world.on(&[npub], 2).await, 1);
    assert_eq!(world.get(npub).await.generation, Generation(2), "moved once, and never without a worker");
}

async fn a_worker_that_moved_house_sends_its_agents_home(mut world: World) {
    world.worker(1, "eu", 50).await;
    world.worker(2, "eu", 50).await;
    let agents = world.agents(1..7, Some("eu")).await;
    reconciler!(world, app, one);
    world.seconds(17, &mut [&mut one]).await;
    assert_eq!(world.on(&agents, 1).await, 3);
    // The same worker, started again under another region.
    world.worker(1, "us", 50).await;
    world.seconds(4, &mut [&mut one]).await;
    assert_eq!(world.on(&agents, 2).await, 6);
    // And under another pool, whose key opens none of them.
    world.worker_of(2, "eu", "other", 50, 1).await;
    world.worker(3, "eu", 50).await;
    world.seconds(20, &mut [&mut one]).await;
    assert_eq!(world.on(&agents, 3).await, 6);
}

async fn nobody_hears_that_there_is_no_worker_while_one_is_looked_at(mut world: World) {
    world.worker(1, "eu", 50).await;
    let npub = world.agent(1, None, Failover::Anywhere).await;
    reconciler!(world, app, one);
    world.step(&mut [&mut one]).await;
    assert_eq!((world.holder(npub).await, world.reason(npub).await), (None, None));
    world.step(&mut [&mut one]).await;
    assert!(world.holder(npub).await.is_some());
}

async fn a_worker_that_died_before_anyone_saw_it_does_not_hide_that_there_is_none(mut world: World) {
    world.worker(1, "eu", 50).await;
    world.kill(1);
    let npub = world.agent(1, None, Failover::Anywhere).await;
    reconciler!(world, app, one);
    world.seconds(8, &mut [&mut one]).await;
    assert_eq!(world.reason(npub).await.as_deref(), Some("no_worker"));
}

/// Each test on SQLite and on PostgreSQL.
macro_rules! suite {
    ($($name:ident),+ $(,)?) => {
        mod inline {
            $(#[tokio::test] async fn $name() { super::$name(super::World::new(super::Kind::Inline).await).await })+
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::World::new(super::Kind::Postgres).await).await })+
        }
    };
}

suite!(
    a_full_fleet_takes_no_more_until_there_is_room,
    a_region_that_is_lost_and_comes_back,
    a_worker_that_joins_gets_its_share_a_few_at_a_time,
    without_a_move_allowed_nobody_is_moved_for_a_better_place,
    a_drained_worker_hands_over_and_ends_its_ticks_first,
    pool_and_version_are_kept_to,
    an_agent_goes_back_to_where_it_was,
    another_takes_over_in_the_middle_of_a_plan,
    a_new_home_takes_effect_where_the_agent_is,
    a_reconciler_that_just_began_sends_nobody_away,
    a_worker_that_moved_house_sends_its_agents_home,
    nobody_hears_that_there_is_no_worker_while_one_is_looked_at,
    a_worker_that_died_before_anyone_saw_it_does_not_hide_that_there_is_none,
);
