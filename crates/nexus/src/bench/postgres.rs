//! PostgreSQL to measure: a server that is there, or a private one for as long as a run takes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nexus_store::{PostgresConfig, SslMode};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};
use url::Url;

use super::place;
use crate::cli::DatabaseArgs;

/// Where packages put it: a directory for each version.
const INSTALLED: &str = "/usr/lib/postgresql";
/// As distributions ship it, with more memory and room for the log. Commits wait for the disk.
const SETTINGS: &str = "fsync = on
synchronous_commit = on
full_page_writes = on
shared_buffers = 256MB
max_wal_size = 4GB
max_connections = 50
listen_addresses = ''
";
const READY: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);
/// Who owns a private server's databases, and the database that is there from the start.
const USER: &str = "nexus";
const FIRST: &str = "postgres";

/// Where databases come from.
pub enum Source {
    Private(Server),
    There(PostgresConfig),
}

/// A server of our own, stopped and removed when dropped.
pub struct Server {
    bin: PathBuf,
    user: Option<Unprivileged>,
    directory: TempDir,
    child: Child,
    databases: std::cell::Cell<u32>,
}

/// PostgreSQL refuses to run as root: then as the user that its package makes.
#[derive(Debug, Clone, Copy)]
struct Unprivileged {
    uid: u32,
    gid: u32,
}

impl Source {
    pub async fn open(args: &DatabaseArgs, directory: &Path) -> anyhow::Result<Self> {
        let Some(url) = &args.postgres_url else { return Ok(Self::Private(Server::start(directory).await?)) };
        let config = read_url(url, args.postgres_password_file.clone())?;
        let empty: bool = connect(&config).await?.query_one("SELECT to_regclass('agent') IS NULL", &[]).await?.get(0);
        if !empty {
            bail!("there is a schema in {}\n  next: name an empty database in --postgres-url", config.database);
        }
        Ok(Self::There(config))
    }

    /// An empty database: a new one each time on a private server; the one that was named elsewhere.
    pub async fn database(&self) -> anyhow::Result<PostgresConfig> {
        match self {
            Self::Private(server) => server.database().await,
            Self::There(config) => Ok(config.clone()),
        }
    }
}

/// A connection of the yardstick's, not of the product's.
pub async fn connect(config: &PostgresConfig) -> anyhow::Result<Client> {
    let mut plain = tokio_postgres::Config::new();
    plain.host(&config.host).port(config.port).user(&config.user).dbname(&config.database);
    if let Some(file) = &config.password_file {
        let text = nexus_client::file::read_secret(file)?;
        plain.password(text.lines().next().unwrap_or_default());
    }
    let (client, connection) =
        plain.connect(NoTls).await.with_context(|| format!("connecting to PostgreSQL at {}", config.host))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "a connection to PostgreSQL ended");
        }
    });
    Ok(client)
}

fn read_url(url: &Url, password_file: Option<PathBuf>) -> anyhow::Result<PostgresConfig> {
    if !matches!(url.scheme(), "postgres" | "postgresql") || url.password().is_some() {
        bail!("--postgres-url: use postgres://user@host:port/database, and --postgres-password-file for a password");
    }
    let host = url.host_str().map(decoded).filter(|host| !host.is_empty()).context("--postgres-url names no host")?;
    let database = url.path().trim_start_matches('/').to_owned();
    Ok(PostgresConfig {
        host,
        port: url.port().unwrap_or(5432),
        user: if url.username().is_empty() { USER.to_owned() } else { decoded(url.username()) },
        database: if database.is_empty() { USER.to_owned() } else { decoded(&database) },
        password_file,
        sslmode: SslMode::Disable,
        ..PostgresConfig::default()
    })
}

fn decoded(text: &str) -> String {
    let pairs = format!("v={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(pairs.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

impl Server {
    async fn start(parent: &Path) -> anyhow::Result<Self> {
        let bin = binaries()?;
        let user = Unprivileged::needed()?;
        let directory = place(parent)?;
        let data = directory.path().join("data");
        if let Some(user) = user {
            std::os::unix::fs::chown(directory.path(), Some(user.uid), Some(user.gid))?;
        }
        let made = run(
            user,
            Command::new(bin.join("initdb")).arg("-D").arg(&data).args([
                "-U",
                USER,
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ]),
        )?;
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr);
            bail!("initdb: {}\n  next: give --data-dir a directory that the user postgres may enter", why.trim());
        }
        let settings = data.join("postgresql.conf");
        let before = std::fs::read_to_string(&settings)?;
        std::fs::write(&settings, before + SETTINGS)?;
        let log = std::fs::File::create(directory.path().join("log"))?;
        let mut command = Command::new(bin.join("postgres"));
        command.arg("-D").arg(&data).arg("-k").arg(directory.path()).current_dir("/");
        as_user(user, &mut command).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("starting PostgreSQL")?;
        let mut server = Self { bin, user, directory, child, databases: std::cell::Cell::new(0) };
        server.ready().await?;
        Ok(server)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let config = self.config(FIRST.to_owned())?;
        for _ in 0..READY.as_millis() / LOOK.as_millis() {
            if connect(&config).await.is_ok() {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        bail!("PostgreSQL did not get ready:\n{log}")
    }

    async fn database(&self) -> anyhow::Result<PostgresConfig> {
        let number = self.databases.get() + 1;
        self.databases.set(number);
        let name = format!("bench{number}");
        let client = connect(&self.config(FIRST.to_owned())?).await?;
        client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await?;
        self.config(name)
    }

    fn config(&self, database: String) -> anyhow::Result<PostgresConfig> {
        let host = self.directory.path().to_str().context("an odd directory")?.to_owned();
        let sslmode = SslMode::Disable;
        Ok(PostgresConfig { host, user: USER.to_owned(), database, sslmode, ..PostgresConfig::default() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.directory.path().join("data");
        let mut stop = Command::new(self.bin.join("pg_ctl"));
        stop.arg("-D").arg(data).args(["-m", "immediate", "-w", "-t", "20", "stop"]);
        if run(self.user, &mut stop).is_ok_and(|done| done.status.success()) {
            let _ = self.child.wait();
        } else {
            let _ = self.child.kill();
        }
    }
}

impl Unprivileged {
    /// Who to be, if this process is root.
    fn needed() -> anyhow::Result<Option<Self>> {
        let id = |args: &[&str]| -> anyhow::Result<u32> {
            let output = Command::new("id").args(args).output().context("asking `id`")?;
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            text.parse().context("there is no user postgres\n  next: run this as somebody else than root")
        };
        if id(&["-u"])? != 0 {
            return Ok(None);
        }
        Ok(Some(Self { uid: id(&["-u", "postgres"])?, gid: id(&["-g", "postgres"])? }))
    }
}

fn as_user(user: Option<Unprivileged>, command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt;
    match user {
        Some(user) => command.uid(user.uid).gid(user.gid),
        None => command,
    }
}

fn run(user: Option<Unprivileged>, command: &mut Command) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    as_user(user, command).current_dir("/").stdin(Stdio::null()).output().with_context(|| format!("running {name}"))
}

/// The newest installed.
fn binaries() -> anyhow::Result<PathBuf> {
    let versions = std::fs::read_dir(INSTALLED).into_iter().flatten().flatten();
    let version = |entry: std::fs::DirEntry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path()));
    let mut found: Vec<_> = versions.filter_map(version).map(|(number, path)| (number, path.join("bin"))).collect();
    found.retain(|(_, bin)| bin.join("initdb").exists());
    found.sort();
    let newest = found.pop().map(|(_, bin)| bin);
    newest.with_context(|| format!("no PostgreSQL in {INSTALLED}\n  next: install one, or give --postgres-url"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_server_and_never_a_password() {
        let read = |text: &str| read_url(&text.parse().unwrap(), None);
        let socket = read("postgres://me@%2Frun%2Fpostgresql/bench").unwrap();
        assert_eq!((socket.host.as_str(), socket.user.as_str()), ("/run/postgresql", "me"));
        let named = read("postgres://127.0.0.1:6000/x").unwrap();
        assert_eq!((named.host.as_str(), named.port, named.database.as_str()), ("127.0.0.1", 6000, "x"));
        assert!(read("postgres://me:secret@db/x").unwrap_err().to_string().contains("password-file"));
        assert!(read("mysql://db/x").is_err());
    }
}
