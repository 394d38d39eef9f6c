//! What the provider's tests stand on: a small relay, keys, a customer, and a wallet that can be made to fail.

mod customer;
mod keys;
mod relay;
mod wallet;

pub use customer::{Customer, texts};
pub use keys::TestSigner;
pub use relay::Relay;
pub use wallet::FlakyWallet;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use nexus_core::Npub;
use nexus_lightning::{Hold, Receive};
use nexus_nostr::relay_pool::{PoolConfig, RelayPool};
use nexus_provider::{Backend, BackendError, Completion, Prompt, ProviderConfig, ProviderError, ProviderParts, run};
use nexus_seal::Signer;
use nexus_testkit::{SystemEntropy, TestClock};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub fn pool() -> RelayPool {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = PoolConfig { development: true, ..PoolConfig::default() };
    RelayPool::new(config, Arc::new(TestClock::default()), Arc::new(SystemEntropy))
}

/// A provider's key, relay and directory, over its restarts.
pub struct Seller {
    pub signer: Arc<TestSigner>,
    pub config: ProviderConfig,
    pub wallet: Arc<dyn Receive>,
    pub hold: Option<Arc<dyn Hold>>,
    pub backend: Arc<dyn Backend>,
}

/// One run of it.
pub struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ProviderError>>,
    pool: RelayPool,
    dir: PathBuf,
}

impl Seller {
    pub fn new(relay: &Relay, dir: &Path, wallet: Arc<dyn Receive>, backend: Arc<dyn Backend>) -> Self {
        let config = ProviderConfig {
            relays: vec![relay.url()],
            data_dir: dir.to_owned(),
            limits: nexus_provider::Limits { partial_interval_ms: 200, ..nexus_provider::Limits::default() },
            ..ProviderConfig::default()
        };
        Self { signer: Arc::new(TestSigner::new(1)), config, wallet, hold: None, backend }
    }

    pub fn npub(&self) -> Npub {
        self.signer.public_key()
    }

    pub fn start(&self) -> Running {
        let (shutdown, pool) = (CancellationToken::new(), pool());
        let parts = ProviderParts {
            signer: self.signer.clone(),
            pool: pool.clone(),
            wallet: Arc::clone(&self.wallet),
            hold: self.hold.clone(),
            backend: Arc::clone(&self.backend),
            config: self.config.clone(),
            clock: Arc::new(TestClock::default()),
            entropy: Arc::new(SystemEntropy),
            shutdown: shutdown.clone(),
        };
        Running { shutdown, task: tokio::spawn(run(parts)), pool, dir: self.config.data_dir.clone() }
    }
}

impl Running {
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
        self.pool.shutdown().await;
    }

    /// As a SIGKILL would: nothing is finished or said.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        self.pool.shutdown().await;
        // A write that was under way holds the directory until it is through, as the dying process would.
        let lock = std::fs::File::open(self.dir.join("jobs.lock")).unwrap();
        while lock.try_lock().is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub async fn ended(self) -> Result<(), ProviderError> {
        self.task.await.unwrap()
    }
}

/// A backend that counts its work and does it as it is told.
pub struct Workbench {
    pub asked: std::sync::Mutex<Vec<String>>,
    pub gate: tokio::sync::Semaphore,
    pub work: fn(&str, usize) -> Result<String, BackendError>,
}

impl Workbench {
    /// `work` gets the prompt and how many came before it.
    pub fn new(work: fn(&str, usize) -> Result<String, BackendError>) -> Arc<Self> {
        Arc::new(Self { asked: std::sync::Mutex::default(), gate: tokio::sync::Semaphore::new(1_000), work })
    }

    pub fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Backend for Workbench {
    fn models(&self) -> Vec<String> {
        vec!["bench".into()]
    }

    fn complete<'a>(
        &'a self,
        prompt: &'a Prompt,
        partial: mpsc::Sender<String>,
    ) -> BoxFuture<'a, Result<Completion, BackendError>> {
        Box::pin(async move {
            let before = {
                let mut asked = self.asked.lock().unwrap();
                asked.push(prompt.text.clone());
                asked.len() - 1
            };
            self.gate.acquire().await.unwrap().forget();
            let text = (self.work)(&prompt.text, before)?;
            for word in text.split_inclusive(' ') {
                let _ = partial.send(word.to_owned()).await;
                if text.contains("slowly") {
                    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
                }
            }
            Ok(Completion { text, tokens: Some(1_500) })
        })
    }
}
