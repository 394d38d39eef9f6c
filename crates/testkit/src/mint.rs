//! A real Cashu mint: Nutshell, which `scripts/setup` installs into `tests/mint/venv`, in a directory and on a port of
//! its own.
//!
//! The mint is the child of a small shell that waits on a pipe: when the test process ends, in whatever way, the pipe
//! closes and the mint is killed.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

const KEEPER: &str = r#"log=$1; shift
"$@" </dev/null >>"$log" 2>&1 & pid=$!
trap 'kill -9 $pid 2>/dev/null' EXIT
order=; read -r order
if [ "$order" = term ]; then
    kill -TERM $pid 2>/dev/null
    for _ in $(seq 60); do kill -0 $pid 2>/dev/null || break; sleep 0.05; done
fi
kill -9 $pid 2>/dev/null; wait $pid 2>/dev/null; trap - EXIT; exit 0"#;

/// What the mint pays with and is paid through.
#[derive(Debug, Clone)]
pub enum Backend {
    /// Says that everything is paid.
    Fake,
    /// A node that speaks LND's REST API.
    Lnd { url: String, certificate: PathBuf, macaroon: String },
}

/// Killed when dropped.
pub struct Mint {
    dir: TempDir,
    port: u16,
    backend: Backend,
    keeper: Mutex<Option<Child>>,
}

fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/mint/venv/bin/mint");
    assert!(root.exists(), "no mint at {}: run scripts/setup", root.display());
    root
}

impl Mint {
    /// Serving when it returns. Panics if it does not within a minute.
    pub async fn start(backend: Backend) -> Self {
        let port = {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            free.local_addr().expect("an address").port()
        };
        let mint = Self { dir: tempfile::tempdir().expect("a directory"), port, backend, keeper: Mutex::default() };
        mint.resume().await;
        mint
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "mint"]).arg(self.log()).arg(program());
        command.args(["--port", &self.port.to_string(), "--host", "127.0.0.1"]);
        let dir = self.dir.path();
        // Nothing of the machine's own settings reaches it.
        command.env_clear().current_dir(dir).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", dir).env("CASHU_DIR", dir).env("MINT_DATABASE", dir.join("data"));
        command.env("MINT_PRIVATE_KEY", "a key for tests").env("MINT_LISTEN_PORT", self.port.to_string());
        command.env("MINT_RATE_LIMIT", "FALSE").env("MINT_QUOTE_BACKEND_CHECK_RATE_LIMIT", "0");
        command.env("MINT_INPUT_FEE_PPK", "100").env("TOR", "FALSE").env("LOG_LEVEL", "INFO");
        match &self.backend {
            Backend::Fake => {
                command.env("MINT_BACKEND_BOLT11_SAT", "FakeWallet");
                command.env("FAKEWALLET_DELAY_OUTGOING_PAYMENT", "0").env("FAKEWALLET_DELAY_INCOMING_PAYMENT", "0");
            }
            Backend::Lnd { url, certificate, macaroon } => {
                command.env("MINT_BACKEND_BOLT11_SAT", "LndRestWallet").env("MINT_LND_ENABLE_MPP", "FALSE");
                command.env("MINT_LND_REST_ENDPOINT", url).env("MINT_LND_REST_CERT", certificate);
                command.env("MINT_LND_REST_MACAROON", macaroon);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Dies by SIGKILL.
    pub fn kill(&self) {
        self.end("");
    }

    /// Ends what it is doing, or dies three seconds later.
    pub fn stop(&self) {
        self.end("term\n");
    }

    fn end(&self, order: &str) {
        if let Some(mut keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            if let Some(mut stdin) = keeper.stdin.take() {
                stdin.write_all(order.as_bytes()).expect("the mint's keeper listens");
            }
            keeper.wait().expect("the mint's keeper ends");
        }
    }

    /// Serves again, with what it had stored.
    pub async fn resume(&self) {
        let keeper = self.command().spawn().expect("a shell");
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        for _ in 0..1_200 {
            if self.serves().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the mint does not serve: {}", std::fs::read_to_string(self.log()).unwrap_or_default());
    }

    async fn serves(&self) -> bool {
        // It listens once it is ready.
        tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_ok()
    }

    /// In good order where it can: Nutshell, killed between writing down that it pays and asking its node to, calls the
    /// quote pending for ever.
    pub async fn restart(&self) {
        self.stop();
        self.resume().await;
    }
}

impl Drop for Mint {
    fn drop(&mut self) {
        self.kill();
    }
}
