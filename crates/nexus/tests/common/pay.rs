//! Somebody with a wallet on the development network.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part of it")]

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nexus_core::payment::Outcome;
use nexus_core::{Clock, Msat, UnixMs};
use nexus_lightning::devnet::{self, AccountKey};
use nexus_lightning::{Dispatch, Pay};
use nexus_testkit::{ManualClock, SystemEntropy};

/// Pays as some wallet of the network at this place.
#[expect(clippy::disallowed_methods, reason = "a wallet has a clock of its own")]
pub fn pays(network: &str, bolt11: &str) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let clock = Arc::new(ManualClock::at(UnixMs(i64::try_from(since.as_millis()).unwrap())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let parts = devnet::Parts::new(clock.clone(), Arc::new(SystemEntropy));
        let network = devnet::open(network.parse().unwrap(), parts).await.unwrap();
        let wallet = network.wallet(AccountKey::from_wallet_seed(bolt11.as_bytes()));
        wallet.faucet().await.unwrap();
        let send = Dispatch {
            payment_id: "zap".into(),
            attempt: 1,
            key: "zap".into(),
            bolt11: bolt11.to_owned(),
            amount: None,
            max_fee: Msat::sats(100),
            deadline: clock.mono().plus_ms(30_000),
            handle: None,
        };
        wallet.dispatch(send).await
    });
    assert!(matches!(outcome, Outcome::Settled { .. }), "{outcome:?}");
}
