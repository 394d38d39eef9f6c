//! The process: started, greeted, spoken to line by line, and killed.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nexus_core::{Clock, MonoMs};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use super::config::{PROGRAM, Script, SidecarConfig};
use super::sidecar::{Ask, CallError, hello, read_reply};
use crate::driver::WalletError;

/// What both sides speak.
pub(super) const PROTOCOL: u64 = 1;
/// The longest line in either direction.
const MAX_LINE_BYTES: usize = 256 * 1024;
/// Requests that the process works on at once.
const MAX_IN_FLIGHT: usize = 200;
/// Between a death and the next start: the first, and doubled up to the last while none answers anything.
const AGAIN_MS: (u64, u64) = (100, 30_000);
/// What is kept of the lines on stderr: their length, and how many of one process.
const MAX_STDERR: (u64, u32) = (1_024, 100);
/// For a process to end that nobody needs: longer than it goes on with a send (`ENDING_MS` of `spark.py`).
const LEAVE_MS: u64 = 40_000;
/// Between two looks whether the process hangs.
const LOOK_MS: u64 = 1_000;

/// Keeps a process running while there is anybody to ask it.
pub(super) async fn run(
    config: SidecarConfig,
    clock: Arc<dyn Clock>,
    mut queue: mpsc::Receiver<Ask>,
    pid: Arc<AtomicU32>,
) {
    let mut again_ms = 0;
    while let Some(ask) = queue.recv().await {
        if ask.reply.is_closed() {
            continue;
        }
        tokio::time::sleep(Duration::from_millis(again_ms)).await;
        let mut sound = false;
        match Process::start(&config, &*clock).await {
            Ok(mut process) => {
                pid.store(process.child.id().unwrap_or(0), Ordering::Relaxed);
                match process.serve(ask, &mut queue, &config, &*clock).await {
                    End::Broken(why) => {
                        pid.store(0, Ordering::Relaxed);
                        sound = process.answered;
                        process.end(why).await;
                    }
                    End::Unused => return process.leave().await,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the Spark sidecar does not start");
                drop(ask.reply.send(Err(CallError::Wallet(error))));
            }
        }
        again_ms = if sound { AGAIN_MS.0 } else { (again_ms * 2).clamp(AGAIN_MS.0, AGAIN_MS.1) };
    }
}

/// A request that was written.
struct Asked {
    reply: oneshot::Sender<Result<Value, CallError>>,
    pays: bool,
    at: MonoMs,
}

/// Why a process is not spoken to any more.
enum End {
    Broken(String),
    /// Nobody is left who could ask.
    Unused,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: BufReader<ChildStdout>,
    /// What of a line has come.
    line: Vec<u8>,
    waiting: HashMap<u64, Asked>,
    next: u64,
    /// Anything, since it was greeted.
    answered: bool,
    /// Add to a time of our clock: never later than the same moment of the process's.
    offset_ms: i64,
}

fn unreachable(why: impl Into<String>) -> WalletError {
    WalletError::Unreachable(why.into())
}

impl Process {
    async fn start(config: &SidecarConfig, clock: &dyn Clock) -> Result<Self, WalletError> {
        let place = config.clone();
        let script = tokio::task::spawn_blocking(move || prepare(&place)).await;
        let script = script.map_err(|_| unreachable("the sidecar's program cannot be written"))?;
        let script =
            script.map_err(|error| unreachable(format!("cannot prepare {}: {error}", config.storage_dir.display())))?;
        let mut command = Command::new(&config.python);
        // Isolated: no module of the directory, of the user or of the environment; what it is told comes over stdin.
        command.args(["-I", "-B"]).arg(script).env_clear().current_dir(&config.storage_dir);
        for name in ["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|error| unreachable(format!("cannot start {}: {error}", config.python.display())))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(unreachable("the sidecar has no pipes"));
        };
        tokio::spawn(listen(stderr, config.api_key.as_ref().map(|it| Zeroizing::new(it.expose().to_owned()))));
        let (lines, line) = (BufReader::new(stdout), Vec::new());
        let mut process =
            Self { child, stdin, lines, line, waiting: HashMap::new(), next: 1, answered: false, offset_ms: 0 };
        let greeting = process.greet(config, clock);
        match tokio::time::timeout(Duration::from_millis(config.timeout_ms), greeting).await {
            Ok(greeted) => greeted?,
            Err(_) => return Err(unreachable("the sidecar did not greet in time")),
        }
        Ok(process)
    }

    async fn greet(&mut self, config: &SidecarConfig, clock: &dyn Clock) -> Result<(), WalletError> {
        let Value::Object(params) = hello(config) else { return Err(unreachable("no greeting")) };
        let key = config.api_key.as_ref().map(|it| ("api_key", Zeroizing::new(it.expose().to_owned())));
        let said = self.ask_alone("hello", params, key).await?;
        if said.get("protocol").and_then(Value::as_u64) != Some(PROTOCOL) {
            return Err(WalletError::Protocol("the sidecar speaks another protocol".to_owned()));
        }
        let sdk = said.get("sdk").and_then(Value::as_str).unwrap_or_default();
        tracing::info!(sdk, "the Spark sidecar runs");
        // Its clock was read before the answer came: taken as if at that moment, our deadlines are early by the way back.
        let said = self.ask_alone("clock", Map::new(), None).await?;
        let theirs = said.get("mono_ms").and_then(Value::as_i64);
        let theirs = theirs.ok_or_else(|| WalletError::Protocol("the sidecar has no clock".to_owned()))?;
        self.offset_ms = theirs.saturating_sub(signed(clock.mono().0));
        Ok(())
    }

    /// A request before there are others.
    async fn ask_alone(
        &mut self,
        method: &'static str,
        params: Map<String, Value>,
        secret: Option<(&'static str, Zeroizing<String>)>,
    ) -> Result<Value, WalletError> {
        let id = self.write(method, params, secret).await?;
        match self.read().await?.and_then(|line| read_reply(&line)) {
            Some((answered, said)) if answered == id => said.map_err(Into::into),
            Some(_) | None => Err(unreachable("the sidecar ended, or greeted in a way that cannot be read")),
        }
    }

    async fn write(
        &mut self,
        method: &'static str,
        mut params: Map<String, Value>,
        secret: Option<(&'static str, Zeroizing<String>)>,
    ) -> Result<u64, WalletError> {
        let id = self.next;
        self.next += 1;
        if let Some((name, _)) = &secret {
            params.insert((*name).to_owned(), Value::Null);
        }
        let ask = serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let mut line = Zeroizing::new(ask.to_string());
        if let Some((name, secret)) = &secret {
            // Both kinds of secrets are plain words and base64: nothing in them needs an escape in JSON.
            line = Zeroizing::new(line.replacen(
                &format!("\"{name}\":null"),
                &format!("\"{name}\":\"{}\"", secret.as_str()),
                1,
            ));
        }
        if line.len() >= MAX_LINE_BYTES {
            return Err(WalletError::Refused("a request that is too long".to_owned()));
        }
        line.push('\n');
        let written = async {
            self.stdin.write_all(line.as_bytes()).await?;
            self.stdin.flush().await
        };
        written.await.map_err(|error| unreachable(format!("the sidecar does not listen: {error}")))?;
        Ok(id)
    }

    /// The next line; none when it ended. May be dropped and called again.
    async fn read(&mut self) -> Result<Option<Vec<u8>>, WalletError> {
        loop {
            let room = u64::try_from(MAX_LINE_BYTES.saturating_sub(self.line.len())).unwrap_or(0);
            let mut bounded = (&mut self.lines).take(room);
            let came = bounded.read_until(b'\n', &mut self.line).await;
            match came {
                Err(error) => return Err(unreachable(format!("the sidecar cannot be heard: {error}"))),
                Ok(_) if self.line.ends_with(b"\n") => return Ok(Some(std::mem::take(&mut self.line))),
                Ok(0) if self.line.len() >= MAX_LINE_BYTES => {
                    return Err(WalletError::Protocol("the sidecar sent a line without end".to_owned()));
                }
                Ok(0) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    /// Passes requests and replies until the process ends or has to; says why.
    async fn serve(
        &mut self,
        first: Ask,
        queue: &mut mpsc::Receiver<Ask>,
        config: &SidecarConfig,
        clock: &dyn Clock,
    ) -> End {
        let patience_ms = 2 * config.timeout_ms.saturating_add(u64::from(config.settle_s) * 1_000);
        if let Err(why) = self.take(first, clock).await {
            return End::Broken(why);
        }
        loop {
            if self.waiting.len() >= MAX_IN_FLIGHT {
                self.waiting.retain(|_, asked| !asked.reply.is_closed());
            }
            let room = self.waiting.len() < MAX_IN_FLIGHT;
            tokio::select! {
                biased;
                line = self.read() => match line {
                    Ok(Some(line)) => match read_reply(&line) {
                        Some((id, said)) => {
                            self.answered = true;
                            if let Some(asked) = self.waiting.remove(&id) {
                                drop(asked.reply.send(said));
                            }
                        }
                        None => return End::Broken("the sidecar answered something unreadable".to_owned()),
                    },
                    Ok(None) => return End::Broken("the sidecar ended".to_owned()),
                    Err(error) => return End::Broken(error.to_string()),
                },
                ask = queue.recv(), if room => match ask {
                    Some(ask) => if let Err(why) = self.take(ask, clock).await {
                        return End::Broken(why);
                    },
                    None => return End::Unused,
                },
                () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => {}
            }
            let now = clock.mono();
            if self.waiting.values().any(|asked| now.since(asked.at) > patience_ms) {
                return End::Broken("the sidecar hung".to_owned());
            }
        }
    }

    /// Writes a request, unless it came to nothing before. An error is the process's end.
    async fn take(&mut self, mut ask: Ask, clock: &dyn Clock) -> Result<(), String> {
        if ask.reply.is_closed() {
            return Ok(());
        }
        let at = clock.mono();
        if let Some(deadline) = ask.deadline {
            // Both: what is left, and the moment itself, in case this line lies in the pipe for long.
            if at >= deadline {
                drop(ask.reply.send(Err(CallError::Late)));
                return Ok(());
            }
            ask.params.insert("left_ms".to_owned(), deadline.since(at).into());
            ask.params.insert("deadline_ms".to_owned(), signed(deadline.0).saturating_add(self.offset_ms).into());
        }
        let (pays, reply) = (ask.deadline.is_some(), ask.reply);
        let wait = Duration::from_millis(5_000);
        let written = tokio::time::timeout(wait, self.write(ask.method, ask.params, ask.secret)).await;
        match written {
            Ok(Ok(id)) => {
                self.waiting.insert(id, Asked { reply, pays, at });
                Ok(())
            }
            Ok(Err(WalletError::Refused(why))) => {
                drop(reply.send(Err(CallError::Wallet(WalletError::Refused(why)))));
                Ok(())
            }
            // Part of it may have been read.
            Ok(Err(error)) => {
                drop(reply.send(Err(CallError::Lost(error.to_string()))));
                Err(error.to_string())
            }
            Err(_) => {
                drop(reply.send(Err(CallError::Lost("the sidecar does not read".to_owned()))));
                Err("the sidecar does not read".to_owned())
            }
        }
    }

    /// Lets it end by itself, with what it is sending; killed if it does not.
    async fn leave(self) {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        match tokio::time::timeout(Duration::from_millis(LEAVE_MS), child.wait()).await {
            Ok(Ok(status)) => tracing::debug!(%status, "the Spark sidecar left"),
            Ok(Err(error)) => tracing::warn!(%error, "the Spark sidecar is lost"),
            Err(_) => tracing::warn!("the Spark sidecar did not leave, and is killed"),
        }
    }

    /// Kills it, and tells everybody who waits.
    async fn end(mut self, why: String) {
        if let Err(error) = self.child.start_kill() {
            tracing::debug!(%error, "the Spark sidecar was gone");
        }
        for (_, asked) in self.waiting.drain() {
            let error = if asked.pays {
                CallError::Lost(why.clone())
            } else {
                CallError::Wallet(WalletError::Unreachable(why.clone()))
            };
            drop(asked.reply.send(Err(error)));
        }
        match self.child.wait().await {
            Ok(status) => tracing::warn!(why, %status, "the Spark sidecar ended"),
            Err(error) => tracing::warn!(why, %error, "the Spark sidecar ended"),
        }
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// The directory, closed to others, and in it the program.
fn prepare(config: &SidecarConfig) -> std::io::Result<PathBuf> {
    let dir = &config.storage_dir;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    match &config.script {
        Script::File(path) => Ok(path.clone()),
        Script::Embedded => write_program(dir),
    }
}

fn write_program(dir: &Path) -> std::io::Result<PathBuf> {
    let (path, next) = (dir.join("sidecar.py"), dir.join(format!("sidecar.{}.next", std::process::id())));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(PROGRAM.as_bytes())?;
    std::fs::rename(&next, &path)?;
    Ok(path)
}

/// What the process prints, within bounds, in our log. It prints no secrets; the key is looked for all the same.
async fn listen(stderr: ChildStderr, api_key: Option<Zeroizing<String>>) {
    let (mut lines, mut line, mut told) = (BufReader::new(stderr), Vec::new(), 0);
    loop {
        line.clear();
        let came = (&mut lines).take(MAX_STDERR.0).read_until(b'\n', &mut line).await;
        if !matches!(came, Ok(bytes) if bytes > 0) {
            return;
        }
        if told < MAX_STDERR.1 {
            told += 1;
            let mut text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(key) = &api_key {
                text = text.replace(key.as_str(), "…");
            }
            tracing::warn!(text, "the Spark sidecar says");
        }
    }
}
