//! A private NATS server for one test: the real one, on a free loopback port, in a directory of its own.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

/// A start is looked at this often, for this many times: ten seconds.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: u32 = 500;
/// Starts that are tried, in case another process takes the port first.
const STARTS: u32 = 5;

/// Killed when dropped. All methods block for at most some seconds and panic when the server does not do as told.
#[derive(Debug)]
pub struct NatsServer {
    dir: TempDir,
    port: u16,
    child: Option<Child>,
}

impl NatsServer {
    /// A server that anyone may use, without TLS.
    pub fn start() -> Self {
        Self::start_with(|_| String::new())
    }

    /// With more lines for its configuration file. They are made from the server's directory, for files that they name.
    pub fn start_with(configuration: impl FnOnce(&Path) -> String) -> Self {
        let server = Self::reserve(configuration);
        server.started()
    }

    /// A port at which no server answers yet; [`start_again`](Self::start_again) starts it.
    pub fn stopped() -> Self {
        Self::reserve(|_| String::new())
    }

    fn reserve(configuration: impl FnOnce(&Path) -> String) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        fs::write(dir.path().join("extra.conf"), configuration(dir.path())).expect("writes the configuration");
        Self { dir, port: free_port(), child: None }
    }

    fn started(mut self) -> Self {
        for _ in 1..STARTS {
            if self.try_start() {
                return self;
            }
            self.port = free_port();
        }
        self.start_again();
        self
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `nats://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Its directory: configuration, log, and whatever a test puts there.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process, for tests that stop or kill it their own way.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What the server logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("nats.log")).unwrap_or_default()
    }

    /// SIGKILL: nobody is told.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: the connections stay, nothing answers.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.pid().expect("the server runs").to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("runs kill");
        assert!(status.success(), "kill -s {name} {pid}: {status}");
    }

    /// On the same port, with nothing remembered. The port may have been lent to some connection meanwhile, so this
    /// takes a while at worst.
    pub fn start_again(&mut self) {
        self.stop();
        for _ in 0..LOOKS / 10 {
            if self.try_start() {
                return;
            }
            sleep(LOOK * 10);
        }
        panic!("nats-server does not start on port {}:\n{}", self.port, self.log());
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// False when the process ended, as it does when the port is taken.
    fn try_start(&mut self) -> bool {
        let mut child = self.spawn();
        for _ in 0..LOOKS {
            if let Some(status) = child.try_wait().expect("looks at the server") {
                let log = self.log();
                assert!(log.contains("address already in use"), "nats-server ended ({status}):\n{log}");
                return false;
            }
            if self.greets() {
                self.child = Some(child);
                return true;
            }
            sleep(LOOK);
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("nats-server does not answer:\n{}", self.log());
    }

    fn spawn(&self) -> Child {
        let path = |name: &str| self.dir.path().join(name);
        let main =
            format!("listen: \"{}\"\nlogtime: false\nmax_control_line: 4096\ninclude \"extra.conf\"\n", self.address());
        fs::write(path("nats.conf"), main).expect("writes the configuration");
        let log = File::create(path("nats.log")).expect("makes the log");
        Command::new("nats-server")
            .arg("--config")
            .arg(path("nats.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("shares the log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| match error.kind() {
                ErrorKind::NotFound => panic!("nats-server is not installed: run ./scripts/setup"),
                _ => panic!("nats-server cannot be run: {error}"),
            })
    }

    /// Whether it sends its INFO line, which it does unasked.
    fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect_timeout(&self.address(), Duration::from_secs(1)) else { return false };
        let mut start = [0; 5];
        stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
            && stream.read_exact(&mut start).is_ok()
            && start == *b"INFO "
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
