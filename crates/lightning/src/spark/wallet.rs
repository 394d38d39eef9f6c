//! One wallet: opened in the sidecar when it is needed, and again when that closed it.

use std::sync::Arc;

use futures::future::BoxFuture;
use nexus_core::{MonoMs, Msat};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::config::WalletWords;
use super::record::{self, WALLET};
use super::sidecar::{CallError, Sidecar};
use crate::driver::{Capabilities, Custody, Driver, Health, Idempotency, Kind, PreimageProof, WalletError};
use crate::storage::{StorageError, WalletStorage};

/// A Spark wallet. Cheap to clone.
///
/// Holds the twelve words in memory, to open the wallet again when the sidecar closed it or died.
#[derive(Clone)]
pub struct SparkWallet {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub sidecar: Sidecar,
    pub storage: Arc<dyn WalletStorage>,
    words: WalletWords,
    /// Known once it was opened and compared with what the storage remembers.
    identity: OnceCell<String>,
}

#[derive(Deserialize)]
struct Opened {
    identity: String,
}

#[derive(Deserialize)]
struct Info {
    identity: String,
    balance_sats: u64,
}

impl std::fmt::Debug for SparkWallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SparkWallet").field("identity", &self.inner.identity.get()).finish_non_exhaustive()
    }
}

pub(super) fn stored(error: StorageError) -> CallError {
    CallError::Wallet(WalletError::Unreachable(error.to_string()))
}

/// Sats as the sidecar says them.
pub(super) fn sats(count: u64) -> Option<Msat> {
    count.checked_mul(1_000).and_then(|msat| Msat::try_from(msat).ok())
}

impl SparkWallet {
    /// Opens nothing yet.
    pub fn new(sidecar: Sidecar, words: WalletWords, storage: Arc<dyn WalletStorage>) -> Self {
        Self { inner: Arc::new(Inner { sidecar, storage, words, identity: OnceCell::new() }) }
    }

    /// Whose wallet this is: the wallet's public key, in hex.
    pub(super) async fn identity(&self) -> Result<&str, CallError> {
        self.inner.identity.get_or_try_init(|| self.open()).await.map(String::as_str)
    }

    async fn open(&self) -> Result<String, CallError> {
        let words = Zeroizing::new(self.inner.words.expose().to_owned());
        let opened: Opened = self.inner.sidecar.call("open", json!({}), Some(("mnemonic", words)), None).await?;
        let storage = &*self.inner.storage;
        let known: Option<String> = record::read(storage, WALLET, "identity").await.map_err(stored)?;
        match known {
            Some(known) if known != opened.identity => {
                let why = "this storage belongs to a wallet of other words";
                Err(CallError::Wallet(WalletError::Protocol(why.to_owned())))
            }
            Some(_) => Ok(opened.identity),
            None => {
                let first = record::put(WALLET, "identity".to_owned(), &opened.identity).map_err(stored)?;
                storage.write(vec![first]).await.map_err(stored)?;
                Ok(opened.identity)
            }
        }
    }

    /// Asks the sidecar about this wallet; if it is not open there, opens it and asks once more.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        mut params: Value,
        deadline: Option<MonoMs>,
    ) -> Result<T, CallError> {
        let identity = self.identity().await?;
        params["wallet"] = identity.into();
        match self.inner.sidecar.call(method, params.clone(), None, deadline).await {
            Err(CallError::Closed) => {
                if self.open().await? != identity {
                    let why = "the sidecar opened another wallet";
                    return Err(CallError::Wallet(WalletError::Protocol(why.to_owned())));
                }
                self.inner.sidecar.call(method, params, None, deadline).await
            }
            answered => answered,
        }
    }
}

impl Driver for SparkWallet {
    fn kind(&self) -> Kind {
        Kind::Spark
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: true,
            hold: false,
            lookup_out: true,
            idempotency: Idempotency::ByKey,
            // The SDK's payment has one where the provider or the operators gave it.
            preimage: PreimageProof::Maybe,
            custody: Custody::Shared,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        Box::pin(async {
            let info: Info = self.ask("info", json!({}), None).await?;
            if info.identity != self.identity().await? {
                return Err(WalletError::Protocol("the sidecar answered for another wallet".to_owned()));
            }
            let spendable = sats(info.balance_sats);
            let spendable = spendable.ok_or_else(|| WalletError::Protocol("a balance beyond reason".to_owned()))?;
            let network = self.inner.sidecar.config().network;
            // It answered only because it was in step with the operators.
            Ok(Health { identity: info.identity, network, synced: true, spendable, receivable: None })
        })
    }
}
