//! A second connection to a world's database, through a wire that can be held.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use nexus_store::{PostgresConfig, SslMode, Store};
use nexus_testkit::postgres::shared;
use nexus_testkit::proxy::{Proxy, Rule, Upstream};
use tokio::task::JoinHandle;

use crate::common::{World, config};

/// The bytes with which a client says COMMIT: the binding of the statement of that name.
pub const COMMIT: &[u8] = b"\0commit";
/// Between two looks at the server.
const LOOK: Duration = Duration::from_millis(10);

pub struct Second {
    pub store: Store,
    pub proxy: Proxy,
    pub database: String,
}

/// Nothing times out as long as a test holds it.
pub fn patient(config: PostgresConfig) -> PostgresConfig {
    PostgresConfig { idle_in_transaction_timeout_ms: 600_000, statement_timeout_ms: 600_000, ..config }
}

impl Second {
    /// Patient.
    pub async fn of(world: &World) -> Self {
        Self::with(world, patient).await
    }

    pub async fn with(world: &World, change: impl FnOnce(PostgresConfig) -> PostgresConfig) -> Self {
        let socket = Path::new(shared().socket_dir()).join(".s.PGSQL.5432");
        let proxy = Proxy::start(Upstream::Unix(socket)).await;
        let through = PostgresConfig {
            host: "127.0.0.1".into(),
            port: proxy.port(),
            sslmode: SslMode::Disable,
            ..config(&world.database)
        };
        let store = Store::open_postgres(change(through)).await.unwrap();
        Self { store, proxy, database: world.database.clone() }
    }

    /// Starts `call` and returns when it stands right before its commit.
    pub async fn hold<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.hold_before(COMMIT, call).await
    }

    /// Starts `call` and returns when everything before these bytes is executed, inside a transaction.
    pub async fn hold_before<T: Send + 'static>(
        &self,
        place: &[u8],
        call: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.proxy.set(Rule::HoldBefore(place.to_vec()));
        let call = tokio::spawn(call);
        self.proxy.met(1).await;
        // What was sent before it is executed when the server waits for more.
        let standing = "wait_event = 'ClientRead' AND backend_xid IS NOT NULL";
        until_sessions(&self.database, standing, 1).await;
        call
    }

    pub fn release(&self) {
        self.proxy.set(Rule::Pass);
    }
}

/// Until so many sessions of the database wait for a lock that another holds.
pub async fn until_waiting(world: &World, count: u32) {
    until_sessions(&world.database, "wait_event_type = 'Lock'", count).await;
}

async fn until_sessions(database: &str, which: &str, count: u32) {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {which}");
    let looks = async {
        while shared().sql(database, &sql) != count.to_string() {
            tokio::time::sleep(LOOK).await;
        }
    };
    // Not a measure of anything: a test that would wait forever says for what.
    let patience = Duration::from_secs(120);
    assert!(tokio::time::timeout(patience, looks).await.is_ok(), "never {count} sessions where {which}");
}
