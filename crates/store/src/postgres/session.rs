//! What each kind of connection is set up to be, and what is asked of the server before it is believed.

use std::sync::Arc;

use super::config::PostgresConfig;
use super::group::Link;
use super::pipeline::Connection;
use super::tls::{self, Tls};
use super::wire::{Failure, KEEPALIVE, KEEPALIVES, SqlError, Wire};
use crate::error::StoreError;

/// The oldest server that is spoken to.
pub(crate) const OLDEST: i64 = 150_000;
/// Markers of writers that have not committed for so many transactions are forgotten.
const FORGET_MARKERS: i64 = 1_000_000;

/// Makes connections.
pub(crate) struct Dialer {
    pub(crate) config: PostgresConfig,
    tls: Option<Tls>,
}

impl Dialer {
    pub(crate) fn new(config: PostgresConfig) -> Result<Self, StoreError> {
        config.check()?;
        let tls = tls::prepare(&config).map_err(|message| StoreError::Settings { message })?;
        Ok(Self { config, tls })
    }

    pub(crate) fn unreachable(&self, failure: &Failure) -> StoreError {
        StoreError::Unreachable { place: self.config.place(), message: failure.to_string() }
    }

    /// Plans once and by index: a writer's statements all go by key, and tables were small when they were planned.
    pub(crate) async fn writer(self: &Arc<Self>) -> Result<Link, Failure> {
        let settings = format!(
            "SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {}; SET idle_session_timeout = 0; \
             SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off; \
             SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
             SET enable_mergejoin = off; SET jit = off; \
             SELECT set_config('synchronous_commit', 'on', false) \
                WHERE current_setting('synchronous_commit') IN ('off', 'local')",
            self.config.statement_timeout_ms, self.config.idle_in_transaction_timeout_ms
        );
        let mut wire = self.open(self.config.statement_timeout_ms, &settings).await?;
        let forget = format!("DELETE FROM commit_marker WHERE id <> 1 AND age(xmin) > {FORGET_MARKERS}");
        wire.simple(&forget).await?;
        let marker =
            wire.simple("INSERT INTO commit_marker (id, value) VALUES (nextval('writer'), 0) RETURNING id").await?;
        Ok(Link::new(self.clone(), Connection::new(wire), number(&marker)?))
    }

    /// Looks at other sessions, in no transaction of its own.
    pub(crate) async fn onlooker(&self) -> Result<Wire, Failure> {
        let settings = format!("SET statement_timeout = {}; SET jit = off", self.config.statement_timeout_ms);
        self.open(self.config.statement_timeout_ms, &settings).await
    }

    pub(crate) async fn reader(&self) -> Result<Connection, Failure> {
        let settings = format!(
            "SET statement_timeout = {0}; SET idle_in_transaction_session_timeout = {0}; SET idle_session_timeout = 0; \
             SET default_transaction_read_only = on; SET jit = off",
            self.config.read_timeout_ms
        );
        Ok(Connection::new(self.open(self.config.read_timeout_ms, &settings).await?))
    }

    /// For migrations, which may take their time.
    pub(crate) async fn owner(&self) -> Result<Wire, Failure> {
        self.open(
            self.config.statement_timeout_ms,
            "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 60000; \
             SET default_transaction_read_only = off",
        )
        .await
    }

    /// The server too must notice a peer that is cut off: until then its transaction keeps its locks.
    fn server_side(&self) -> String {
        if self.config.is_socket() {
            return String::new();
        }
        format!(
            "SET tcp_keepalives_idle = {0}; SET tcp_keepalives_interval = {0}; SET tcp_keepalives_count = {KEEPALIVES}; \
             SET tcp_user_timeout = {1}; ",
            KEEPALIVE.as_secs(),
            self.config.unacknowledged().as_millis()
        )
    }

    async fn open(&self, statement_ms: u64, settings: &str) -> Result<Wire, Failure> {
        let settings = format!("{}{settings}", self.server_side());
        let mut wire = Wire::connect(&self.config, self.tls.as_ref(), statement_ms, &settings).await?;
        let version = number(&wire.simple("SELECT current_setting('server_version_num')").await?)?;
        if version < OLDEST {
            return Err(unfit(&format!("the server's version is {version}, at least {OLDEST} is needed")));
        }
        // Reads of a standby do not see what was answered before.
        if wire.simple("SELECT pg_is_in_recovery()").await? != ["f"] {
            return Err(Failure::Lost("the server is a standby".into()));
        }
        Ok(wire)
    }
}

/// What a lost writer left to be read back.
pub(crate) struct Settled {
    pub(crate) commits: i64,
    /// 0 if it never told one.
    pub(crate) last_event: i64,
}

/// What the lost writer's marker counts, and an end to it. Waits for a transaction that still holds it; what that one told is
/// read after it, by a statement of its own.
pub(crate) async fn settle(link: &mut Link, marker: i64) -> Result<Option<Settled>, Failure> {
    let sql = format!(
        "DELETE FROM commit_marker WHERE id = {marker} RETURNING 'commits ' || value;
         DELETE FROM commit_marker WHERE id = -{marker} RETURNING 'event ' || value"
    );
    let found = link.simple(&sql).await?;
    let value = |name: &str| found.iter().find_map(|text| text.strip_prefix(name)?.trim().parse().ok());
    Ok(value("commits").map(|commits| Settled { commits, last_event: value("event").unwrap_or(0) }))
}

fn number(texts: &[String]) -> Result<i64, Failure> {
    let found = texts.last().and_then(|text| text.parse().ok());
    found.ok_or_else(|| Failure::Lost("a number was expected".into()))
}

fn unfit(message: &str) -> Failure {
    Failure::Sql(SqlError { code: "0A000".into(), message: message.into() })
}
