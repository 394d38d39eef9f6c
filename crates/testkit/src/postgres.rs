//! A private PostgreSQL: the real one, on a Unix socket (and a loopback port where asked) in a directory of its own.
//!
//! [`shared`] is one server for a whole test binary, with one database for each test. The server is the child of a small
//! shell that waits on a pipe: when the test process ends, in whatever way, the pipe closes, the server is killed and its
//! directory removed.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The superuser and owner of every database.
pub const USER: &str = "nexus";

/// Runs as an unprivileged user, answers each line it reads with one line.
const KEEPER: &str = r#"
set -u
bin=$1; port=$2
dir=$(mktemp -d "${TMPDIR:-/tmp}/nexus-pg.XXXXXX") || exit 1
trap 'exit 1' INT TERM HUP
trap 'kill -QUIT "$(head -1 "$dir/data/postmaster.pid" 2>/dev/null)" 2>/dev/null; rm -rf "$dir"' EXIT
locale="--locale=C.UTF-8 --locale-provider=icu --icu-locale=en-US"
"$bin/initdb" -D "$dir/data" -U nexus -A trust --no-sync -E UTF8 $locale >"$dir/initdb.log" 2>&1 ||
    { rm -rf "$dir/data"; "$bin/initdb" -D "$dir/data" -U nexus -A trust --no-sync -E UTF8 --locale=C >"$dir/initdb.log" 2>&1; } ||
    { echo "error: initdb: $(tail -3 "$dir/initdb.log" | tr '\n' ' ')"; exit 1; }
echo "$dir"
# What follows up to an empty line is configuration.
while read -r line && [ -n "$line" ]; do echo "$line" >>"$dir/data/postgresql.conf"; done
listen=
[ "$port" != 0 ] && listen=127.0.0.1
start() {
    "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 120 -s start \
        -o "-k $dir -p $([ "$port" = 0 ] && echo 5432 || echo "$port") -c listen_addresses='$listen'" \
        </dev/null >"$dir/start.log" 2>&1 && echo ok || echo "error: $(cat "$dir/start.log" "$dir/log" | tail -5 | tr '\n' ' ')"
}
start
while read -r order; do
    case "$order" in
        start) start ;;
        *) "$bin/pg_ctl" -D "$dir/data" -m "$order" -w -t 120 -s stop >/dev/null 2>&1 </dev/null; echo ok ;;
    esac
done
"#;

/// Killed when dropped. All methods block for at most two minutes and panic when the server does not do as told.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    port: Option<u16>,
    keeper: Mutex<Keeper>,
    databases: AtomicU64,
}

#[derive(Debug)]
struct Keeper {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are told, transactions rolled back, everything written.
    Fast,
    /// As in a crash: nothing is written, the next start recovers from the log.
    Immediate,
}

/// The server of this test binary, started at the first call.
pub fn shared() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(Postgres::start)
}

impl Postgres {
    /// On a Unix socket, fsync on.
    pub fn start() -> Self {
        Self::start_with(None, &[])
    }

    /// Also on a free loopback port.
    pub fn start_on_port(settings: &[&str]) -> Self {
        // Lent by the system and given back: another process may be faster, which then shows as a failed start.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        Self::start_with(Some(port), settings)
    }

    /// With more lines for `postgresql.conf`.
    pub fn start_with(port: Option<u16>, settings: &[&str]) -> Self {
        let bin = binaries();
        let mut command = unprivileged();
        command.args(["-c", KEEPER, "keeper"]).arg(&bin).arg(port.unwrap_or(0).to_string());
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("a shell starts");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut keeper = Keeper { child, orders, answers };
        let dir = PathBuf::from(keeper.answer());
        let mut lines = String::from("max_connections = 200\nshared_buffers = 64MB\ndeadlock_timeout = 200ms\n");
        for setting in settings {
            let _ = writeln!(lines, "{setting}");
        }
        keeper.order(&lines);
        Self { bin, dir, port, keeper: Mutex::new(keeper), databases: AtomicU64::new(0) }
    }

    /// The directory of its socket: `host` for a client.
    pub fn socket_dir(&self) -> &str {
        self.dir.to_str().expect("a plain path")
    }

    /// The loopback port, if it has one; the socket's number is 5432 otherwise.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(5432)
    }

    /// Its directory; `data` and `log` are in it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn stop(&self, how: Stop) {
        let order = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.keeper().order(&format!("{order}\n"));
    }

    pub fn start_again(&self) {
        self.keeper().order("start\n");
    }

    /// Writes a file of the server's data directory that only the server may read. Lines without tabs and backslashes.
    pub fn write_file(&self, name: &str, text: &str) {
        assert!(!text.contains(['\t', '\\', '$']), "plain lines");
        let lines = format!("SELECT line FROM unnest(string_to_array($file${}$file$, E'\\n')) line", text.trim_end());
        let program = format!("umask 077; cat > {name}.new && mv {name}.new {name}");
        self.sql("postgres", &format!("COPY ({lines}) TO PROGRAM '{program}'"));
    }

    /// Makes it read its configuration again; returns when this setting is in force.
    pub fn reload(&self, setting: &str, value: &str) {
        self.sql("postgres", "SELECT pg_reload_conf()");
        while self.sql("postgres", &format!("SHOW {setting}")) != value {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// A database that nobody else has, empty.
    pub fn database(&self) -> String {
        self.database_like("template0")
    }

    /// A copy of a database that nobody is connected to.
    pub fn database_like(&self, template: &str) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}"));
        name
    }

    /// Runs statements as the superuser; rows come as lines, columns between `|`.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = Command::new(self.bin.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.socket_dir(), "-U", USER])
            .args(["-p", &self.port().to_string(), "-d", database, "-c", sql])
            .output()
            .expect("psql runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "psql: {errors}\n{sql}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the keeper answers");
        let line = line.trim_end();
        assert!(!line.is_empty() && !line.starts_with("error"), "PostgreSQL: {line}");
        line.to_owned()
    }

    fn order(&mut self, lines: &str) {
        let orders = self.orders.as_mut().expect("open until dropped");
        // The configuration ends with an empty line.
        let end = if lines.contains(" = ") { "\n" } else { "" };
        write!(orders, "{lines}{end}").expect("the keeper listens");
        orders.flush().expect("the keeper listens");
        self.answer();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}

/// PostgreSQL refuses to run as root: then as the user that its package makes.
fn unprivileged() -> Command {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if !root {
        return Command::new("sh");
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--", "sh"]);
    command
}

/// The newest installed.
fn binaries() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").exists())
        .collect();
    found.sort();
    match found.pop() {
        Some((_, bin)) => bin,
        None => panic!("no PostgreSQL in /usr/lib/postgresql: run ./scripts/setup"),
    }
}
