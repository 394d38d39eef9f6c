//! Asking the sidecar: a queue in front of it, a bound on every wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nexus_core::{Clock, Hash32, MonoMs};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use super::config::{ConfigError, SidecarConfig};
use super::process;
use crate::driver::WalletError;

/// Requests that wait for the process to take them.
const MAX_QUEUE: usize = 256;

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CallError {
    /// The deadline passed; nothing was sent.
    Late,
    /// The wallet is not open in this process; nothing was done.
    Closed,
    NoFunds,
    FeeTooHigh,
    /// Nothing was sent, by this call.
    Wallet(WalletError),
    /// What became of it is unknown.
    Lost(String),
}

impl From<CallError> for WalletError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Late => Self::Unreachable("too late".to_owned()),
            CallError::Closed => Self::Unreachable("the sidecar closed the wallet".to_owned()),
            CallError::NoFunds => Self::Refused("the wallet has too little".to_owned()),
            CallError::FeeTooHigh => Self::Refused("the fee is above the limit".to_owned()),
            CallError::Wallet(error) => error,
            CallError::Lost(why) => Self::Unreachable(why),
        }
    }
}

/// A request on its way to the process.
pub(super) struct Ask {
    pub method: &'static str,
    pub params: Map<String, Value>,
    /// A parameter that is wiped after it was written.
    pub secret: Option<(&'static str, Zeroizing<String>)>,
    pub deadline: Option<MonoMs>,
    pub reply: oneshot::Sender<Result<Value, CallError>>,
}

type Locks = HashMap<(String, Hash32), Weak<tokio::sync::Mutex<()>>>;

/// The one Python process for all Spark wallets of a worker. Cheap to clone.
///
/// It is started when it is first asked, started again (after 0.1 to 30 s) when it died, and killed when the last handle
/// goes. What it was asked when it died is unknown for payments, unreachable for all else.
#[derive(Clone)]
pub struct Sidecar {
    shared: Arc<Shared>,
}

struct Shared {
    config: SidecarConfig,
    clock: Arc<dyn Clock>,
    asks: mpsc::Sender<Ask>,
    pid: Arc<AtomicU32>,
    locks: Mutex<Locks>,
}

impl std::fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sidecar").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Sidecar {
    /// Starts nothing yet. Must be called in a Tokio runtime.
    pub fn new(config: SidecarConfig, clock: Arc<dyn Clock>) -> Result<Self, ConfigError> {
        config.check()?;
        let (asks, queue) = mpsc::channel(MAX_QUEUE);
        let pid = Arc::new(AtomicU32::new(0));
        tokio::spawn(process::run(config.clone(), clock.clone(), queue, pid.clone()));
        let shared = Shared { config, clock, asks, pid, locks: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The process that runs now, if one does.
    pub fn process_id(&self) -> Option<u32> {
        Some(self.shared.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    pub(super) fn config(&self) -> &SidecarConfig {
        &self.shared.config
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    /// One decision at a time about a payment of a wallet.
    pub(super) fn lock(&self, identity: &str, hash: Hash32) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.shared.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let slot = locks.entry((identity.to_owned(), hash)).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let lock = Arc::default();
            *slot = Arc::downgrade(&lock);
            lock
        })
    }

    /// Asks, and waits for the answer no longer than the configured time; a call with a deadline may settle meanwhile.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
        secret: Option<(&'static str, Zeroizing<String>)>,
        deadline: Option<MonoMs>,
    ) -> Result<T, CallError> {
        let Value::Object(params) = params else {
            return Err(CallError::Wallet(WalletError::Protocol("a request without parameters".to_owned())));
        };
        let settle_ms = deadline.map_or(0, |_| u64::from(self.config().settle_s) * 1_000);
        let wait = Duration::from_millis(self.config().timeout_ms.saturating_add(settle_ms));
        let (reply, answer) = oneshot::channel();
        let ask = Ask { method, params, secret, deadline, reply };
        let asked = async {
            self.shared.asks.send(ask).await.map_err(|_| lost("the sidecar's keeper is gone"))?;
            answer.await.map_err(|_| lost("the sidecar's keeper is gone"))?
        };
        let value = match tokio::time::timeout(wait, asked).await {
            Ok(answered) => answered?,
            Err(_) => return Err(lost("the sidecar did not answer in time")),
        };
        serde_json::from_value(value).map_err(|_| lost("the sidecar's answer cannot be read"))
    }
}

fn lost(why: &str) -> CallError {
    CallError::Lost(why.to_owned())
}

/// Reads a reply: its number, and what it says.
pub(super) fn read_reply(line: &[u8]) -> Option<(u64, Result<Value, CallError>)> {
    let mut reply: Value = serde_json::from_slice(line).ok()?;
    let id = reply.get("id")?.as_u64()?;
    if let Some(result) = reply.get_mut("result") {
        return Some((id, Ok(result.take())));
    }
    let error = reply.get("error")?;
    let class = error.pointer("/data/class").and_then(Value::as_str).unwrap_or_default();
    let why = error.get("message").and_then(Value::as_str).unwrap_or_default();
    let why: String = why.chars().filter(|it| !it.is_control()).take(300).collect();
    Some((
        id,
        Err(match class {
            "late" => CallError::Late,
            "closed" => CallError::Closed,
            "no_funds" => CallError::NoFunds,
            "fee_too_high" => CallError::FeeTooHigh,
            "refused" => CallError::Wallet(WalletError::Refused(why)),
            "auth" => CallError::Wallet(WalletError::Auth),
            "unreachable" => CallError::Wallet(WalletError::Unreachable(why)),
            "protocol" => CallError::Wallet(WalletError::Protocol(why)),
            // `unknown`, and whatever a later sidecar says.
            _ => CallError::Lost(why),
        }),
    ))
}

/// What the process is told first.
pub(super) fn hello(config: &SidecarConfig) -> Value {
    json!({
        "protocol": process::PROTOCOL,
        "network": config.network.as_str(),
        "storage_dir": config.storage_dir.to_string_lossy(),
        "idle_ms": config.idle_ms,
        "places": config.places.as_ref().map(|it| json!({
            "operators": it.operators,
            "provider": it.provider,
            "chain": it.chain,
        })),
    })
}
