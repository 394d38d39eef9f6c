//! Ecash at a mint that the owner chose (Cashu): the mint holds the money, the agent the proofs.
//!
//! The protocol's types, key derivation and blind signatures are `cdk`'s. The steps are our own, because each has to be
//! one write, and because a lost answer must not be taken for a failure: a mint that calls a quote unpaid may still get
//! the request that is on its way.

mod api;
mod book;
mod http;
mod keys;
mod memory;
mod pay;
mod receive;
mod restore;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, PoisonError};

use futures::future::BoxFuture;
use nexus_core::{Clock, Hash32, Msat};

use crate::bolt11::Network;
use crate::driver::{Capabilities, Custody, Driver, Health, Idempotency, Kind, PreimageProof, WalletError};
use crate::storage::WalletStorage;
use api::Mint;
use book::PaymentStage;

pub use http::{Https, MintAnswer, MintHttp, MintRequest, MintUrl, NoAnswer};
pub use keys::WalletSeed;
pub use memory::CashuMemory;
pub use restore::Found;

/// How long the driver waits, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For an answer that needs no payment.
    pub answer_ms: u64,
    /// For a payment to end before it is called pending.
    pub settle_ms: u64,
    /// Between two looks at open invoices while settlements are followed.
    pub poll_ms: u64,
    /// Before a mint that is at work on a payment is asked for it again.
    pub nudge_ms: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer_ms: 15_000, settle_ms: 30_000, poll_ms: 5_000, nudge_ms: 20_000 }
    }
}

/// One wallet at one mint.
#[derive(Debug, Clone)]
pub struct CashuConfig {
    pub url: MintUrl,
    /// What the mint's invoices are for. Mints do not say; every invoice of theirs is checked.
    pub network: Network,
    /// The most that the mint is to hold: no invoice is made that would lift the balance above it.
    pub most: Msat,
    pub patience: Patience,
}

/// What all clones of a wallet share.
pub(crate) struct Wallet {
    config: CashuConfig,
    seed: WalletSeed,
    mint: Mint,
    storage: Arc<dyn WalletStorage>,
    clock: Arc<dyn Clock>,
    memory: Arc<memory::Memory>,
}

/// A payment that is worked on; others leave it alone until this is dropped.
struct Busy<'a>(&'a Wallet, Hash32);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.memory.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Wallet {
    fn begin(&self, hash: Hash32) -> Option<Busy<'_>> {
        let new = self.memory.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
        new.then(|| Busy(self, hash))
    }
}

/// A Cashu wallet. Cheap to clone.
///
/// What holds: an invoice has one melt quote as long as it is not over, a quote is paid by a mint at most once, and each
/// repeat of a payment sends the same proofs for the same quote. `Failed` is said when nothing left, or when the mint
/// worked on the only request that was ever sent and gave it up; a quote that the mint calls unpaid without having been
/// seen at work is `NotFound`, because the request may still arrive.
#[derive(Clone)]
pub struct CashuWallet(Arc<Wallet>);

impl fmt::Debug for CashuWallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CashuWallet").field("mint", &self.0.config.url.as_str()).finish_non_exhaustive()
    }
}

impl CashuWallet {
    /// Connects to nothing yet. The storage is this mint's and this seed's alone.
    pub fn new(
        config: CashuConfig,
        seed: WalletSeed,
        http: Arc<dyn MintHttp>,
        storage: Arc<dyn WalletStorage>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::again(config, seed, http, storage, clock, CashuMemory::default())
    }

    /// The same wallet again: another handle, at another moment, with what the process remembers of it.
    pub fn again(
        config: CashuConfig,
        seed: WalletSeed,
        http: Arc<dyn MintHttp>,
        storage: Arc<dyn WalletStorage>,
        clock: Arc<dyn Clock>,
        memory: CashuMemory,
    ) -> Self {
        let mint = Mint { http, answer_ms: config.patience.answer_ms };
        Self(Arc::new(Wallet { config, seed, mint, storage, clock, memory: memory.0 }))
    }

    /// Rebuilds the proofs from seed and mint (NUT-09): for a wallet whose records are new here, or older than the wallet.
    pub async fn restore(&self) -> Result<Found, WalletError> {
        self.0.restore().await
    }
}

pub(super) fn msat(sats: u64) -> Msat {
    Msat::from_sats(sats).unwrap_or(Msat::MAX)
}

impl Driver for CashuWallet {
    fn kind(&self) -> Kind {
        Kind::Cashu
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: true,
            hold: false,
            lookup_out: true,
            idempotency: Idempotency::ByHash,
            preimage: PreimageProof::Maybe,
            custody: Custody::Custodial,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        Box::pin(async {
            let info = self.0.mint.info().await?;
            let address = || Hash32::sha256(self.0.config.url.as_str().as_bytes()).to_string();
            let spendable = self.balance().await?;
            let receivable = self.0.config.most.saturating_sub(self.0.whole().await?);
            Ok(Health {
                // Not every mint names a key (NUT-06); then it is where it is.
                identity: info.pubkey.filter(|it| it.len() == 66).unwrap_or_else(address),
                network: self.0.config.network,
                synced: true,
                spendable,
                receivable: Some(receivable),
            })
        })
    }

    /// What the wallet's own records say; the mint is not asked.
    fn balance(&self) -> BoxFuture<'_, Result<Msat, WalletError>> {
        Box::pin(async {
            let (all, flying) = self.0.sums().await?;
            Ok(msat(all.saturating_sub(flying)))
        })
    }

    fn recover(&self) -> BoxFuture<'_, Result<(), WalletError>> {
        Box::pin(async {
            let mut first = None;
            for issue in self.0.issues().await? {
                if matches!(issue.stage, book::IssueStage::Issuing { .. }) {
                    match self.0.advance(issue.hash).await {
                        Ok(_) => {}
                        // Whoever looks the invoice up goes on with it.
                        Err(WalletError::Unreachable(why)) => tracing::debug!(%why, "an invoice waits for its mint"),
                        Err(error) => first = first.or(Some(error)),
                    }
                }
            }
            for payment in self.0.payments().await? {
                if matches!(payment.stage, PaymentStage::Sent(_)) {
                    let Some(_busy) = self.0.begin(payment.hash) else { continue };
                    // What it is, is asked again by whoever owns the payment.
                    let _ = self.0.look(payment).await;
                }
            }
            first.map_or(Ok(()), Err)
        })
    }
}

impl Wallet {
    /// What the mint holds for us, in flight or not.
    async fn whole(&self) -> Result<Msat, WalletError> {
        Ok(msat(self.sums().await?.0))
    }
}
