//! What outlives a wallet's handles in one process: whoever opens the same wallet again goes on with it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use cdk::nuts::{Id, KeySet};
use nexus_core::{Hash32, MonoMs};

use super::CashuWallet;
use crate::driver::{Driver, WalletError};
use crate::storage::Change;

/// Where it is written whose records these are.
const SPACE: &str = "cashu.records";
const KEY: &str = "of";

/// Of one wallet at one mint; nothing of it has to survive the process. Cheap to clone.
#[derive(Clone, Default)]
pub struct CashuMemory(pub(super) Arc<Memory>);

#[derive(Default)]
pub(super) struct Memory {
    /// Payments that this process is working on right now.
    pub busy: Mutex<HashSet<Hash32>>,
    /// Since when a payment is known to be worked on by the mint without its quote having been asked for.
    pub asked: Mutex<HashMap<Hash32, MonoMs>>,
    /// One at a time turns paid invoices into proofs.
    pub issuing: tokio::sync::Mutex<()>,
    pub keysets: tokio::sync::Mutex<HashMap<Id, KeySet>>,
    /// Whose records were looked through, once they were.
    pub settled: tokio::sync::Mutex<Option<String>>,
}

impl CashuWallet {
    /// Before the first use: what an earlier process left begun is finished, and records that were another's (`of` names
    /// whose they are) are made good by the mint. Those may be older than the wallet: what they call unspent may be spent,
    /// and secrets that they would use next may be used.
    ///
    /// # Errors
    /// When the mint cannot be reached, or the storage: nothing may be paid before this was done.
    pub async fn settle_records(&self, of: &str) -> Result<(), WalletError> {
        let mut settled = self.0.memory.settled.lock().await;
        if settled.as_deref() == Some(of) {
            return Ok(());
        }
        let known = self.0.storage.get(SPACE, KEY).await?;
        if known.as_deref().is_none_or(|known| known != of.as_bytes()) {
            self.restore().await?;
            let value = of.as_bytes().to_vec().into();
            let put = Change::Put { space: SPACE, key: KEY.to_owned(), value };
            self.0.storage.write(vec![put]).await?;
        }
        self.recover().await?;
        *settled = Some(of.to_owned());
        Ok(())
    }
}
