//! A store with an account, a worker, a reconciler's term and agents, on each executor.
#![expect(dead_code, reason = "each test file uses its part")]

use nexus_core::event::EventBody;
use nexus_core::placement::Step;
use nexus_core::status::{Hosting, Purpose};
use nexus_core::trigger::Trigger;
use nexus_core::{AccountId, AgentConfig, Generation, Hash32, Msat, Npub, TickId, UnixMs, WorkerId};
use nexus_store::account::{self, Account};
use nexus_store::agent::{self, Change, NewAgent, Sealed, StoredPolicy};
use nexus_store::event::NewEvent;
use nexus_store::journal::{Append, Record};
use nexus_store::payment::NewPayment;
use nexus_store::placement::{self, Term};
use nexus_store::tick::{Begin, Commit, NewState};
use nexus_store::worker::{self, NewWorker};
use nexus_store::{Audit, Fence, PostgresConfig, Side, Store};
use nexus_testkit::postgres;

pub const NOW: UnixMs = UnixMs(1_760_000_000_000);
pub const ALICE: Npub = Npub::from_bytes([0xa1; 32]);
pub const BOB: Npub = Npub::from_bytes([0xb0; 32]);

#[derive(Clone, Copy)]
pub enum Kind {
    Thread,
    Inline,
    Postgres,
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub kind: Kind,
    /// PostgreSQL's name of it.
    pub database: String,
    pub store: Store,
    pub account: AccountId,
    pub fence: Fence,
    pub term: Term,
    /// Alice's and Bob's.
    pub generation: Generation,
}

pub fn path(dir: &tempfile::TempDir) -> std::path::PathBuf {
    dir.path().join("nexus.db")
}

pub async fn open(kind: Kind, dir: &tempfile::TempDir, database: &str) -> Store {
    match kind {
        Kind::Thread => Store::open(&path(dir)).unwrap(),
        Kind::Inline => Store::open_inline(&path(dir)).unwrap(),
        Kind::Postgres => Store::open_postgres(config(database)).await.unwrap(),
    }
}

/// For a database of the shared server.
pub fn config(database: &str) -> PostgresConfig {
    PostgresConfig {
        host: postgres::shared().socket_dir().into(),
        database: database.into(),
        user: postgres::USER.into(),
        ..PostgresConfig::default()
    }
}

/// A migrated database, copied for each test.
pub async fn new_database() -> String {
    static TEMPLATE: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
    let make = || async {
        let database = postgres::shared().database();
        Store::migrate_postgres(config(&database)).await.unwrap();
        database
    };
    let template = TEMPLATE.get_or_init(make).await;
    postgres::shared().database_like(template)
}

pub fn audit(action: &str) -> Audit {
    Audit {
        at: NOW,
        account: Some(account_id()),
        actor: "test".into(),
        action: action.into(),
        target: "x".into(),
        detail: "{}".into(),
    }
}

pub fn account_id() -> AccountId {
    AccountId::from_bytes([1; 16])
}

pub fn worker_id(n: u8) -> WorkerId {
    WorkerId::from_bytes([n; 16])
}

pub fn tick_id(n: u8) -> TickId {
    TickId::new(NOW.plus_ms(i64::from(n)), [n; 10])
}

pub fn new_agent(npub: Npub, name: &str) -> NewAgent {
    NewAgent {
        npub,
        account: account_id(),
        name: name.into(),
        config: AgentConfig::default(),
        sealed: Sealed {
            mnemonic_encrypted: "age".into(),
            policy: Some(StoredPolicy { version: 1, event: "{}".into() }),
            ..Sealed::default()
        },
        wraps: Vec::new(),
        state: Some(vec![1]),
        hosting: Hosting::Paid,
        reason: None,
        created_at: NOW,
    }
}

pub fn new_worker(n: u8) -> NewWorker {
    NewWorker { id: worker_id(n), region: "eu".into(), pool: "default".into(), capacity: 100, version: 1 }
}

impl World {
    /// Alice and Bob, placed on worker 1.
    pub async fn new(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = match kind {
            Kind::Postgres => new_database().await,
            Kind::Thread | Kind::Inline => String::new(),
        };
        let store = open(kind, &dir, &database).await;
        Self::furnish(dir, store, kind, database).await
    }

    /// In an empty database that is open.
    pub async fn on(store: Store, kind: Kind, database: String) -> Self {
        Self::furnish(tempfile::tempdir().unwrap(), store, kind, database).await
    }

    async fn furnish(dir: tempfile::TempDir, store: Store, kind: Kind, database: String) -> Self {
        let account = Account {
            id: account_id(),
            owner: Npub::from_bytes([9; 32]),
            name: "me".into(),
            plan: "local".into(),
            hosting: Hosting::Paid,
            created_at: NOW,
        };
        account::ensure(&store, account, audit("account.create")).await.unwrap();
        let fence = worker::register(&store, new_worker(1), NOW).await.unwrap();
        let term = placement::take_term(&store, "test", NOW).await.unwrap();
        let mut world =
            Self { dir, kind, database, store, account: account_id(), fence, term, generation: Generation(0) };
        for (npub, name) in [(ALICE, "alice"), (BOB, "bob")] {
            agent::create(&world.store, new_agent(npub, name), None, audit("agent.create")).await.unwrap();
            world.generation = world.place(npub, Generation(0), None, 1).await;
        }
        world
    }

    pub async fn place(&self, npub: Npub, generation: Generation, from: Option<WorkerId>, to: u8) -> Generation {
        let step = Step { npub, generation, from, to: worker_id(to), purpose: Purpose::Run };
        placement::place(&self.store, self.term, &step, NOW).await.unwrap()
    }

    /// Closes and opens again, as a restart does.
    pub async fn reopen(self) -> Self {
        let Self { dir, kind, database, store, account, fence, term, generation } = self;
        drop(store);
        let store = open(kind, &dir, &database).await;
        Self { dir, kind, database, store, account, fence, term, generation }
    }

    pub fn begin(&self, npub: Npub, n: u8) -> Begin {
        Begin {
            fence: self.fence,
            npub,
            generation: self.generation,
            tick: tick_id(n),
            trigger: Trigger::Manual,
            at: NOW,
            inbox: Vec::new(),
            records: vec![record(1)],
            events: vec![started(n)],
            side: Vec::new(),
        }
    }

    pub fn append(&self, npub: Npub, n: u8, seq: i64, side: Vec<Side>) -> Append {
        Append {
            fence: self.fence,
            npub,
            generation: self.generation,
            tick: tick_id(n),
            at: NOW,
            records: vec![record(seq)],
            side,
        }
    }

    pub fn commit(&self, npub: Npub, n: u8, version: i64) -> Commit {
        Commit {
            fence: self.fence,
            npub,
            generation: self.generation,
            tick: tick_id(n),
            at: NOW.plus_ms(5),
            failed: None,
            again: false,
            state: Some(NewState { version, after: version - 1, blob: vec![2; 64].into() }),
            cost: Msat::new(7),
            actions: "[]".into(),
            steps: "[]".into(),
            sealed: None,
            change: Change { balance: Some(Msat::sats(5)), ..Change::default() },
            events: vec![NewEvent::new(NOW, EventBody::TickCompleted { tick_id: tick_id(n), actions: Vec::new() })],
            side: Vec::new(),
        }
    }
}

pub fn started(n: u8) -> NewEvent {
    NewEvent::new(NOW, EventBody::TickStarted { tick_id: tick_id(n) })
}

pub fn record(seq: i64) -> Record {
    Record {
        seq,
        kind: "requested".into(),
        version: 1,
        class: "repeat".into(),
        digest: Hash32::sha256(&seq.to_be_bytes()),
        blob: vec![7; 200],
    }
}

pub fn new_payment(hash: u8, step: &str) -> NewPayment {
    NewPayment {
        hash: Hash32::from_bytes([hash; 32]),
        step: step.into(),
        purpose: "inference".into(),
        bolt11: "lnbcrt1".into(),
        amount: Msat::new(100),
        max_fee: Msat::new(10),
        expires_at: NOW.plus_ms(600_000),
        windows: vec![nexus_core::budget::Window::Day(1), nexus_core::budget::Window::Tick(tick_id(1))],
        payee: None,
    }
}

/// Everything that is durable, table by table, except what only counts commits.
pub fn dump(world: &World) -> String {
    let tables = match world.kind {
        Kind::Thread | Kind::Inline => "SELECT name FROM sqlite_master WHERE type = 'table'",
        Kind::Postgres => "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
    };
    let tables = sql(world, tables);
    let mut names: Vec<&str> = tables.lines().filter(|name| *name != "commit_marker").collect();
    names.sort_unstable();
    match world.kind {
        Kind::Thread | Kind::Inline => {
            names.iter().map(|name| format!("{name}\n{}\n", sql(world, &format!("SELECT * FROM {name}")))).collect()
        }
        // One call for all, so that it is quick.
        Kind::Postgres => {
            let each = |name: &&str| format!("SELECT '{name} ' || t::text FROM {name} t ORDER BY 1");
            sql(world, &names.iter().map(each).collect::<Vec<_>>().join(";"))
        }
    }
}

/// Runs statements on the database itself, beside the store (rows of one only, as lines).
pub fn sql(world: &World, sql: &str) -> String {
    match world.kind {
        Kind::Thread | Kind::Inline => {
            let connection = rusqlite::Connection::open(path(&world.dir)).unwrap();
            if sql.contains(';') {
                connection.execute_batch(sql).unwrap();
                return String::new();
            }
            let mut statement = connection.prepare(sql).unwrap();
            let columns = statement.column_count();
            let mut rows = statement.query([]).unwrap();
            let mut lines = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                let shown = (0..columns).map(|column| format!("{:?}", row.get_ref(column).unwrap()));
                lines.push(match row.get_ref(0).unwrap() {
                    rusqlite::types::ValueRef::Text(text) if columns == 1 => String::from_utf8_lossy(text).into_owned(),
                    _ => shown.collect::<Vec<_>>().join("|"),
                });
            }
            lines.join("\n")
        }
        Kind::Postgres => postgres::shared().sql(&world.database, sql),
    }
}

/// Bytes in the engine's own way.
pub fn bytes(world: &World, hex: &str) -> String {
    match world.kind {
        Kind::Thread | Kind::Inline => format!("x'{hex}'"),
        Kind::Postgres => format!("'\\x{hex}'::bytea"),
    }
}
