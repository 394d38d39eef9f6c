//! An agent's wallet is elsewhere, over Nostr Wallet Connect: given by its owner, paid and paying, kept across a kill, and
//! changed for another.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;
mod nwc_bench;

use std::sync::Arc;

use common::{Place, eventually};
use nexus_core::payment::Outcome;
use nexus_core::{Clock, Msat};
use nexus_lightning::nwc::NwcWallet;
use nexus_lightning::storage::MemoryStorage;
use nexus_lightning::{Dispatch, InvoiceRequest, Pay, Receive};
use nexus_testkit::TestClock;
use nexus_testkit::nwc::Service;
use nwc_bench::{PoolLine, wallet};
use tokio::runtime::Runtime;

/// That wallet can pay nobody on the development network: nothing is bought.
const NO_PROVIDER: [(&str, &str); 1] = [("NEXUS_PROVIDER_ENABLED", "false")];

fn balance(place: &Place) -> Option<u64> {
    place.ok(&["agent", "balance", "ada"])["balance_sats"].as_u64()
}

fn has(place: &Place, sats: u64) {
    let seen = eventually(30, || (balance(place) == Some(sats)).then_some(()));
    assert!(seen.is_some(), "{sats}? {:?}\n{}", balance(place), place.status("ada"));
}

/// Somebody else with a wallet of the same service.
fn friend(runtime: &Runtime, service: &Service) -> NwcWallet {
    let _inside = runtime.enter();
    let clock = Arc::<TestClock>::default();
    wallet(&service.uri(1), PoolLine::new(clock.clone()), Arc::new(MemoryStorage::default()), clock)
}

fn pays(runtime: &Runtime, friend: &NwcWallet, bolt11: &str) {
    let clock = TestClock::default();
    let send = Dispatch {
        payment_id: "friend".into(),
        attempt: 1,
        key: "friend".into(),
        bolt11: bolt11.to_owned(),
        amount: None,
        max_fee: Msat::sats(20),
        deadline: clock.mono().plus_ms(30_000),
        handle: None,
    };
    let outcome = runtime.block_on(friend.dispatch(send));
    assert!(matches!(outcome, Outcome::Settled { .. }), "{outcome:?}");
}

#[test]
fn an_agents_wallet_is_elsewhere() {
    let place = Place::new();
    let host = place.start(&NO_PROVIDER);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (relay, clock) = (place.relay(), Arc::<TestClock>::default());
    let service = runtime.block_on(Service::start(&relay, clock, &[5_000_000, 2_000_000]));
    let passphrase = place.path("passphrase");
    place.ok(&[
        "agent",
        "create",
        "ada",
        "--start",
        "--goal",
        "Be",
        "--heartbeat",
        "1d",
        "--passphrase-file",
        passphrase.to_str().unwrap(),
    ]);
    has(&place, 0);

    // A connection to another wallet than the file's is no connection; one that is no URI is told so, and not shown.
    let file = place.path("uri");
    std::fs::write(&file, "nostr+walletconnect://nonsense?secret=hush").unwrap();
    let give = ["agent", "wallet", "ada", "--wallet", "nwc", "--nwc-file", file.to_str().unwrap()];
    let (code, _, said) = place.run(&give);
    assert!(code == 2 && !said.contains("hush"), "{code} {said}");
    let uri = service.uri(0);
    std::fs::write(&file, &uri).unwrap();
    let given = place.ok(&give);
    assert_eq!(given["balance_msat"], 5_000_000, "{given}\n{}", host.logged());
    has(&place, 5_000);
    let shown = place.ok(&["agent", "wallet", "ada"]);
    assert_eq!((&shown["wallet"]["backend"], &shown["balance_sats"]), (&"nwc".into(), &5_000.into()), "{shown}");

    // Paid by a friend of the same service, and paying it.
    let friend = friend(&runtime, &service);
    let invoice = place.ok(&["agent", "fund", "ada", "--sats", "100", "--invoice-only"]);
    pays(&runtime, &friend, invoice["bolt11"].as_str().unwrap());
    has(&place, 5_100);
    let home = runtime.block_on(friend.create_invoice(InvoiceRequest::new(Msat::sats(600), "home"))).unwrap();
    let said = place.ok(&["agent", "withdraw", "ada", "--sats", "600", "--to", &home.bolt11]);
    assert_eq!(said["state"], "settled", "{said}");
    let left = eventually(30, || balance(&place).filter(|sats| *sats < 5_100)).unwrap();
    assert!((4_400..=4_500).contains(&left), "{left}");

    // Killed, it is still there.
    host.kill();
    let host = place.start(&NO_PROVIDER);
    let invoice = place.ok(&["agent", "fund", "ada", "--sats", "7", "--invoice-only"]);
    pays(&runtime, &friend, invoice["bolt11"].as_str().unwrap());
    has(&place, left + 7);

    // Another wallet by the owner's signature: what was here stays here.
    place.ok(&["agent", "wallet", "ada", "--wallet", "dev"]);
    has(&place, 0);
    place.ok(&["agent", "fund", "ada", "--sats", "30"]);
    has(&place, 30);
    place.ok(&give);
    has(&place, left + 7);

    // The connection's secret is in nothing that the host wrote.
    let secret = uri.split("secret=").nth(1).unwrap().split('&').next().unwrap();
    assert_eq!(secret.len(), 64);
    let written = |path: &std::path::Path| std::fs::read(path).unwrap_or_default();
    let mut looked = 0;
    for path in [place.database(), place.database().with_extension("db-wal"), host.log.clone()] {
        let bytes = written(&path);
        looked += bytes.len();
        assert!(!bytes.windows(64).any(|window| window == secret.as_bytes()), "in {}", path.display());
    }
    assert!(looked > 100_000, "{looked}");
    assert_eq!(host.interrupt(), 0);
}
