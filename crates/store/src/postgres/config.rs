//! How to reach PostgreSQL, and how long to wait for it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::StoreError;

/// Connections of one process at most, of each kind.
const MAX_CONNECTIONS: u16 = 64;

/// PostgreSQL 15 or later. Unknown keys are refused; nothing in it is a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresConfig {
    /// A host name, an address, or the directory of a Unix socket (begins with `/`).
    pub host: String,
    pub port: u16,
    pub database: String,
    pub user: String,
    /// A file whose first line is the password. Read again for each connection, so that it can be rotated.
    pub password_file: Option<PathBuf>,
    /// Name of an environment variable that holds the password, for those who have no file. At most one of the two.
    pub password_env: Option<String>,
    /// On a Unix socket nothing is encrypted and this is not looked at.
    pub sslmode: SslMode,
    /// PEM certificates that the server's must chain to; without it the usual public roots.
    pub ca_file: Option<PathBuf>,
    /// Connections that write, each with its own group commit. One is right for a worker.
    pub writers: u16,
    /// Connections that read, opened when first needed.
    pub readers: u16,
    pub connect_timeout_ms: u64,
    /// The server ends a writer's statement after this time; at most half a worker's lease.
    pub statement_timeout_ms: u64,
    /// The server ends a transaction whose client fell silent; at most half a worker's lease.
    pub idle_in_transaction_timeout_ms: u64,
    /// The server ends a reader's statement after this time.
    pub read_timeout_ms: u64,
    /// How long callers wait for a lost connection to come back before they are told that it is gone.
    pub outage_ms: u64,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// Brings the schema forward when opening. Without it an older schema is refused.
    pub migrate: bool,
}

/// What is asked of the server's TLS, named as in libpq. There is no mode that falls back to clear text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Clear text: for a loopback address or a network that is itself encrypted.
    Disable,
    /// Encrypted, but whoever answers is believed.
    Require,
    /// The certificate must chain to `ca_file`; its name is not compared.
    VerifyCa,
    /// The certificate must chain and carry the host's name.
    #[default]
    VerifyFull,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            host: "/var/run/postgresql".into(),
            port: 5432,
            database: "nexus".into(),
            user: "nexus".into(),
            password_file: None,
            password_env: None,
            sslmode: SslMode::default(),
            ca_file: None,
            writers: 1,
            readers: 4,
            connect_timeout_ms: 3_000,
            statement_timeout_ms: 2_500,
            idle_in_transaction_timeout_ms: 2_500,
            read_timeout_ms: 10_000,
            outage_ms: 30_000,
            application_name: "nexus".into(),
            migrate: true,
        }
    }
}

impl PostgresConfig {
    /// What each key takes, in words for whoever reads the configuration.
    pub const NOTES: &[(&str, &str)] = &[
        ("host", "name, address, or the directory of a Unix socket"),
        ("port", "TCP port, or the number of the socket"),
        ("database", "its name"),
        ("user", "owner of the tables; the same for every role, since roles end each other's frozen sessions"),
        ("password_file", "file whose first line is the password; read for each connection"),
        ("password_env", "name of an environment variable that holds it, instead of a file"),
        ("sslmode", "disable, require, verify-ca, verify-full; a Unix socket needs none"),
        ("ca_file", "PEM certificates to verify the server by; the usual public ones when unset"),
        ("writers", "connections that write, 1 to 64"),
        ("readers", "connections that read, 1 to 64, opened when needed"),
        ("connect_timeout_ms", "1 to 3600000"),
        ("statement_timeout_ms", "of a write, 1 to 3600000, at most half of worker.lease_ms"),
        ("idle_in_transaction_timeout_ms", "1 to 3600000, at most half of worker.lease_ms"),
        ("read_timeout_ms", "of a read, 1 to 3600000"),
        ("outage_ms", "how long calls wait for a lost server, at most 3600000"),
        ("application_name", "shown in pg_stat_activity, at most 63 bytes"),
        ("migrate", "not looked at by roles: `nexus migrate` alone changes the schema"),
    ];

    /// For a handle whose writes must not queue behind others: a worker's beats. One connection, opened at once.
    #[must_use]
    pub fn alone(&self) -> Self {
        Self { writers: 1, readers: 1, migrate: false, ..self.clone() }
    }

    /// Whether the timeouts leave a frozen worker's transaction ended well before its lease is.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check_lease(&self, lease_ms: u64) -> Result<(), String> {
        let half = lease_ms / 2;
        for (name, value) in [
            ("statement_timeout_ms", self.statement_timeout_ms),
            ("idle_in_transaction_timeout_ms", self.idle_in_transaction_timeout_ms),
        ] {
            if value > half {
                return Err(format!("{name} is {value}, but at most half the lease ({half}) is safe"));
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`StoreError::Settings`] says which setting and why.
    pub fn check(&self) -> Result<(), StoreError> {
        let refuse = |message: String| Err(StoreError::Settings { message });
        for (name, value) in [("host", &self.host), ("database", &self.database), ("user", &self.user)] {
            if value.is_empty() || value.contains('\0') {
                return refuse(format!("{name} is empty or not a name"));
            }
        }
        if self.password_file.is_some() && self.password_env.is_some() {
            return refuse("password_file and password_env: at most one of them".into());
        }
        if self.password_env.as_ref().is_some_and(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return refuse("password_env is not the name of a variable".into());
        }
        if self.application_name.contains('\0') || self.application_name.len() > 63 {
            return refuse("application_name: at most 63 bytes".into());
        }
        if self.outage_ms > 3_600_000 {
            return refuse(format!("outage_ms is {}: at most 3600000", self.outage_ms));
        }
        for (name, value) in [("writers", self.writers), ("readers", self.readers)] {
            if value == 0 || value > MAX_CONNECTIONS {
                return refuse(format!("{name} is {value}: between 1 and {MAX_CONNECTIONS}"));
            }
        }
        for (name, value) in [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("statement_timeout_ms", self.statement_timeout_ms),
            ("idle_in_transaction_timeout_ms", self.idle_in_transaction_timeout_ms),
            ("read_timeout_ms", self.read_timeout_ms),
        ] {
            // 0 would mean "never" to the server.
            if value == 0 || value > 3_600_000 {
                return refuse(format!("{name} is {value}: between 1 and 3600000"));
            }
        }
        Ok(())
    }

    pub(crate) fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// For errors: where, never how.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}/{}", self.host, self.port, self.database)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    /// A client that is silent for so long inside a transaction is taken for frozen as soon as it is in somebody's way. Half of
    /// what the server itself allows, so that it is gone before that, looking included.
    pub(crate) fn frozen_after(&self) -> Duration {
        Duration::from_millis((self.idle_in_transaction_timeout_ms / 2).max(1))
    }

    /// Bytes that the other end has not confirmed for so long end a TCP connection, at either end.
    pub(crate) fn unacknowledged(&self) -> Duration {
        Duration::from_millis(self.idle_in_transaction_timeout_ms)
    }

    pub(crate) fn outage(&self) -> Duration {
        Duration::from_millis(self.outage_ms)
    }

    /// Longer than the server itself may stay silent over one statement of `statement_ms`.
    pub(crate) fn silence(statement_ms: u64) -> Duration {
        Duration::from_millis(statement_ms.saturating_add(2_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_lease_is_the_most() {
        let config = PostgresConfig::default();
        config.check().unwrap();
        config.check_lease(5_000).unwrap();
        assert!(config.check_lease(4_998).unwrap_err().contains("statement_timeout_ms"));
        let frozen = PostgresConfig { idle_in_transaction_timeout_ms: 2_501, ..config };
        assert!(frozen.check_lease(5_000).unwrap_err().contains("idle_in_transaction"));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let good = PostgresConfig::default();
        for bad in [
            PostgresConfig { host: String::new(), ..good.clone() },
            PostgresConfig { user: "a\0b".into(), ..good.clone() },
            PostgresConfig { writers: 0, ..good.clone() },
            PostgresConfig { readers: 65, ..good.clone() },
            PostgresConfig { statement_timeout_ms: 0, ..good.clone() },
            PostgresConfig { connect_timeout_ms: 9_999_999, ..good.clone() },
            PostgresConfig { outage_ms: 9_999_999, ..good.clone() },
            PostgresConfig { application_name: "x".repeat(64), ..good.clone() },
            PostgresConfig { password_env: Some("A=B".into()), ..good.clone() },
            PostgresConfig { password_env: Some("A".into()), password_file: Some("/f".into()), ..good.clone() },
        ] {
            assert!(matches!(bad.check(), Err(StoreError::Settings { .. })), "{bad:?}");
        }
        let unknown = serde_json::from_str::<PostgresConfig>(r#"{"hots": "db"}"#);
        assert!(unknown.is_err());
        let read: PostgresConfig = serde_json::from_str(r#"{"host": "db", "sslmode": "verify-ca"}"#).unwrap();
        assert_eq!((read.sslmode, read.writers), (SslMode::VerifyCa, 1));
    }
}
