//! Wallets of owners that renew hosting: behind Nostr Wallet Connect, over relays of the control plane's own.

use std::sync::Arc;

use nexus_control::OwnerWallets;
use nexus_core::{Clock, Entropy};
use nexus_lightning::lnd::FeeReserve;
use nexus_lightning::nwc::{Connection, NwcParts, NwcWallet, Patience};
use nexus_lightning::{Network, Pay, WalletStorage};
use nexus_nostr::RelayPool;
use nexus_worker::RelayLine;

use super::base::Base;
use super::wire::relay_pool;

pub struct NwcWallets {
    /// Connects to public addresses over TLS alone, but in development.
    relays: RelayPool,
    network: Network,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl NwcWallets {
    pub fn new(base: &Base, relay_url: &str, development: bool) -> Self {
        Self {
            relays: relay_pool(base, relay_url, development),
            network: base.config.wallets.network(development),
            clock: base.clock.clone(),
            entropy: base.entropy.clone(),
        }
    }

    pub async fn shutdown(&self) {
        self.relays.shutdown().await;
    }
}

impl OwnerWallets for NwcWallets {
    fn open(&self, connection: Connection, storage: Arc<dyn WalletStorage>) -> Arc<dyn Pay> {
        Arc::new(NwcWallet::new(NwcParts {
            connection,
            network: self.network,
            line: Arc::new(RelayLine(Arc::new(self.relays.clone()))),
            storage,
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            fee_reserve: FeeReserve::default(),
            patience: Patience::default(),
        }))
    }
}
