//! SIGKILL of a real serving process under load: another process takes over, and nothing is lost or doubled.
//!
//! Without a test harness: started with a directory in its environment, this program is the process that is killed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nexus_core::payment::Outcome;
use nexus_core::{Clock, Msat};
use nexus_lightning::devnet::{self, AccountKey, Devnet, Parts, Place, Server};
use nexus_lightning::{Dispatch, Driver, InvoiceRequest, InvoiceState, Pay, Receive};
use nexus_testkit::{SystemEntropy, TestClock};

const DIR: &str = "NEXUS_TEST_DEVNET_DIR";

fn parts() -> Parts {
    Parts::new(Arc::new(TestClock::default()), Arc::new(SystemEntropy))
}

/// The process that the test kills.
async fn serve(dir: PathBuf) {
    let server = Server::start(dir, 0, parts()).await.unwrap();
    assert!(server.running());
    tokio::time::sleep(Duration::from_secs(60)).await;
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match std::env::var_os(DIR) {
        Some(dir) => runtime.block_on(serve(PathBuf::from(dir))),
        None => {
            runtime.block_on(killed_under_load());
            println!("killed_under_load ... ok");
        }
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .env(DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn connect(dir: &Path) -> Devnet {
    for _ in 0..1_000 {
        if dir.join("url").exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let net = devnet::open(Place::Dir(dir.to_owned()), parts()).await.unwrap();
    assert!(!net.serving(), "the other process serves");
    net
}

/// Pays as fast as it can until the server was killed; says what was sent and what was answered.
async fn pay_until_killed(net: &Devnet, lane: usize, killed: &AtomicBool) -> BTreeMap<String, (Dispatch, Outcome)> {
    let payer = net.wallet(AccountKey::from_wallet_seed(format!("payer {lane}").as_bytes()));
    let payee = net.wallet(AccountKey::from_wallet_seed(b"payee"));
    let clock = TestClock::default();
    let mut sent = BTreeMap::new();
    payer.faucet().await.unwrap();
    while !killed.load(Ordering::SeqCst) {
        let Ok(invoice) = payee.create_invoice(InvoiceRequest::new(Msat::sats(3), "kill")).await else { continue };
        let send = Dispatch {
            payment_id: format!("{lane}-{}", sent.len()),
            attempt: 1,
            key: "k".to_owned(),
            bolt11: invoice.bolt11,
            amount: None,
            max_fee: Msat::sats(1),
            deadline: clock.mono().plus_ms(600_000),
            handle: None,
        };
        let outcome = payer.dispatch(send.clone()).await;
        sent.insert(invoice.hash.to_string(), (send, outcome));
    }
    sent
}

async fn killed_under_load() {
    for round in 0..3_u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut child = spawn(dir.path());
        let net = connect(dir.path()).await;
        let killed = Arc::new(AtomicBool::new(false));
        let lanes: Vec<_> = (0..6)
            .map(|lane| {
                let (net, killed) = (net.clone(), killed.clone());
                tokio::spawn(async move { pay_until_killed(&net, lane, &killed).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(250 + round * 130)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        killed.store(true, Ordering::SeqCst);
        check(&net, futures::future::join_all(lanes).await.into_iter().map(Result::unwrap).collect()).await;
        net.shutdown().await;
    }
}

/// What was answered stands, what was not is found out, and the payee has exactly what the payers paid.
async fn check(net: &Devnet, lanes: Vec<BTreeMap<String, (Dispatch, Outcome)>>) {
    let payee = net.wallet(AccountKey::from_wallet_seed(b"payee"));
    let (mut settled, mut answered) = (0, 0);
    for (lane, sent) in lanes.into_iter().enumerate() {
        let payer = net.wallet(AccountKey::from_wallet_seed(format!("payer {lane}").as_bytes()));
        let mut paid = 0;
        for (hash, (send, outcome)) in sent {
            let hash = hash.parse().unwrap();
            let now = payer.resolve(send.resolve(hash)).await;
            match (&outcome, &now) {
                (Outcome::Settled { .. }, _) => assert_eq!(now, outcome, "an answered payment changed"),
                (Outcome::Unknown { .. }, Outcome::Settled { .. } | Outcome::NotFound) => {}
                other => panic!("{other:?}"),
            }
            answered += usize::from(matches!(outcome, Outcome::Settled { .. }));
            let state = payee.lookup_invoice(hash).await.unwrap();
            assert_eq!(matches!(now, Outcome::Settled { .. }), matches!(state, InvoiceState::Settled { .. }));
            paid += u64::from(matches!(now, Outcome::Settled { .. }));
        }
        assert_eq!(payer.balance().await.unwrap(), Msat::from_sats(1_000_000 - paid * 4).unwrap(), "lane {lane}");
        settled += paid;
    }
    assert!(answered > 0, "the load never got going");
    assert_eq!(payee.balance().await.unwrap(), Msat::from_sats(settled * 3).unwrap());
    assert!(net.serving(), "this process took over");
    assert_eq!(net.sum_msat().await, Some(0));
}
