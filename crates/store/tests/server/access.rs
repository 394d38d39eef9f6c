//! TLS and passwords: what is let in, what is refused, and what the refusal says.

use std::path::PathBuf;

use nexus_store::{PostgresConfig, SslMode, Store, StoreError};
use nexus_testkit::postgres::{Postgres, USER};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

const PASSWORD: &str = "sesame-4711";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }
}

/// A server that lets `nexus` in with a password over TLS, `clear` with one without TLS, and nobody else over TCP.
struct Guarded {
    server: Postgres,
    dir: TempDir,
    database: String,
}

impl Guarded {
    /// Its certificate is for 127.0.0.1, signed by `ca.pem`; `stranger.pem` signed nothing of it.
    fn start() -> Self {
        let server = Postgres::start_on_port(&[]);
        let (ours, stranger) = (Authority::new("ours"), Authority::new("stranger"));
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ours.0).unwrap();
        server.write_file("server.crt", &certificate.pem());
        server.write_file("server.key", &key.serialize_pem());
        server.write_file(
            "pg_hba.conf",
            "local all all trust\nhostssl all nexus 127.0.0.1/32 scram-sha-256\n\
             hostnossl all clear 127.0.0.1/32 scram-sha-256\nhostnossl all plain 127.0.0.1/32 password\n",
        );
        server.sql("postgres", &format!("ALTER USER nexus PASSWORD '{PASSWORD}'"));
        for user in ["clear", "plain"] {
            server.sql("postgres", &format!("CREATE USER {user} SUPERUSER PASSWORD '{PASSWORD}'"));
        }
        server.sql("postgres", "ALTER SYSTEM SET ssl = on");
        server.reload("ssl", "on");
        let dir = TempDir::new().unwrap();
        let database = server.database();
        let guarded = Self { server, dir, database };
        guarded.file("ca.pem", &ours.0.pem());
        guarded.file("stranger.pem", &stranger.0.pem());
        guarded.file("password", &format!("{PASSWORD}\n"));
        guarded.file("wrong", "open-4712\n");
        guarded
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.dir.path().join(name))
    }

    fn right(&self) -> PostgresConfig {
        PostgresConfig {
            host: "127.0.0.1".into(),
            port: self.server.port(),
            database: self.database.clone(),
            user: USER.into(),
            password_file: self.path("password"),
            ca_file: self.path("ca.pem"),
            ..PostgresConfig::default()
        }
    }

    async fn works(&self, config: PostgresConfig, encrypted: bool) {
        let (user, shown) = (config.user.clone(), format!("{config:?}"));
        assert!(!shown.contains(PASSWORD), "{shown}");
        let store = Store::open_postgres(config).await.unwrap();
        let sql = format!(
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
             WHERE usename = '{user}' AND client_addr IS NOT NULL"
        );
        assert_eq!(self.server.sql(&self.database, &sql), if encrypted { "t" } else { "f" });
        drop(store);
    }

    /// At once, whatever outages are put up with, and without a secret.
    async fn refused(&self, config: PostgresConfig, why: &str) {
        let shown = match Store::open_postgres(config).await {
            Ok(_) => panic!("let in, expected: {why}"),
            Err(error @ (StoreError::Unreachable { .. } | StoreError::Settings { .. })) => error.to_string(),
            Err(error) => panic!("{error}"),
        };
        assert!(shown.contains(why), "not {why}: {shown}");
        assert!(!shown.contains(PASSWORD) && !shown.contains("open-4712"), "{shown}");
    }
}

#[tokio::test]
async fn who_is_let_in_and_over_what() {
    let server = Guarded::start();
    let right = server.right();
    server.works(right.clone(), true).await;
    let stranger = PostgresConfig { ca_file: server.path("stranger.pem"), ..right.clone() };
    server.refused(stranger.clone(), "UnknownIssuer").await;
    server.refused(PostgresConfig { sslmode: SslMode::VerifyCa, ..stranger.clone() }, "UnknownIssuer").await;
    server.refused(PostgresConfig { ca_file: None, ..right.clone() }, "UnknownIssuer").await;
    // Believed by order.
    server.works(PostgresConfig { sslmode: SslMode::Require, ..stranger }, true).await;

    // Another name for the same address.
    let named = PostgresConfig { host: "localhost".into(), ..right.clone() };
    server.refused(named.clone(), "not valid for name").await;
    server.works(PostgresConfig { sslmode: SslMode::VerifyCa, ..named }, true).await;

    let no_ca = PostgresConfig { ca_file: server.path("missing.pem"), ..right.clone() };
    server.refused(no_ca, "missing.pem").await;
    let no_pem = PostgresConfig { ca_file: server.path("password"), ..right.clone() };
    server.refused(no_pem, "no certificate in it").await;

    server
        .refused(PostgresConfig { password_file: server.path("wrong"), ..right.clone() }, "password authentication")
        .await;
    server.refused(PostgresConfig { password_file: None, ..right.clone() }, "no password_file").await;
    let missing = PostgresConfig { password_file: server.path("missing"), ..right.clone() };
    server.refused(missing, "password_file").await;
    let variable =
        |name: &str| PostgresConfig { password_file: None, password_env: Some(name.into()), ..right.clone() };
    server.refused(variable("NEXUS_TEST_NOT_THERE"), "there is no variable NEXUS_TEST_NOT_THERE").await;
    // Cargo's own: a value that is surely there, and surely wrong.
    server.refused(variable("CARGO_MANIFEST_DIR"), "password authentication").await;

    server.refused(PostgresConfig { user: "nobody".into(), ..right.clone() }, "pg_hba.conf").await;
    server.refused(PostgresConfig { database: "nowhere".into(), ..right.clone() }, "\"nowhere\" does not exist").await;
}

#[tokio::test]
async fn clear_text_is_by_order_and_never_for_a_password_in_clear() {
    let server = Guarded::start();
    let clear = PostgresConfig { user: "clear".into(), sslmode: SslMode::Disable, ..server.right() };
    server.works(clear.clone(), false).await;
    server.refused(PostgresConfig { user: "plain".into(), ..clear.clone() }, "the password in clear").await;
    // A server without TLS, or somebody who says so in its name.
    server.server.sql("postgres", "ALTER SYSTEM SET ssl = off");
    server.server.reload("ssl", "off");
    server.refused(server.right(), "does not speak TLS").await;
    server.refused(PostgresConfig { sslmode: SslMode::Require, ..clear }, "does not speak TLS").await;
}

/// A password that is changed is read again by the next connection.
#[tokio::test]
async fn a_password_can_be_rotated() {
    let server = Guarded::start();
    let store = Store::open_postgres(PostgresConfig { outage_ms: 60_000, ..server.right() }).await.unwrap();
    server.server.sql("postgres", "ALTER USER nexus PASSWORD 'new-1'");
    server.file("password", "new-1\n");
    server
        .server
        .sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_addr IS NOT NULL");
    nexus_store::installation::ensure(&store, [1; 16], nexus_core::UnixMs(1)).await.unwrap();
}
