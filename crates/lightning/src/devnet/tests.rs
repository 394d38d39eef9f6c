use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::Full;
use hyper::Request;
use nexus_core::payment::Outcome;
use nexus_core::{MonoMs, UnixMs};
use nexus_testkit::{SystemEntropy, TestClock};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::driver::{Dispatch, Driver, InvoiceRequest, Pay, Receive};
use crate::wire::{self, Deadline, NoAnswer};

fn parts() -> Parts {
    Parts::new(Arc::new(TestClock::default()), Arc::new(SystemEntropy))
}

/// Each look at the clock is later than the one before.
struct Hurried(AtomicU64);

impl Clock for Hurried {
    fn now(&self) -> UnixMs {
        UnixMs(0)
    }

    fn mono(&self) -> MonoMs {
        MonoMs(self.0.fetch_add(10, Ordering::SeqCst))
    }
}

/// The deadline is looked at with the connection standing, right before the first byte: none arrives.
#[tokio::test]
async fn no_byte_leaves_after_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.map(|_| bytes)
    });
    let request = Request::post("/").body(Full::from("money")).unwrap();
    let clock = Arc::new(Hurried(AtomicU64::new(0)));
    // The look before connecting sees 0, the one at the gate 10.
    let deadline = Deadline { clock, at: Some(MonoMs(5)) };
    assert_eq!(wire::send(addr, request, deadline, 1_000, 1_000).await, Err(NoAnswer::Late));
    assert!(server.await.unwrap().unwrap_or_default().is_empty());
}

/// With the deadline far, the same request arrives, and a server that hangs up leaves its fate open.
#[tokio::test]
async fn what_left_is_lost_and_not_unsent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        bytes
    });
    let request = Request::post("/").body(Full::from("money")).unwrap();
    let deadline = Deadline { clock: Arc::new(Hurried(AtomicU64::new(0))), at: Some(MonoMs(50_000)) };
    let lost = wire::send(addr, request.clone(), deadline.clone(), 1_000, 1_000).await;
    assert!(matches!(lost, Err(NoAnswer::Lost(_))), "{lost:?}");
    assert_eq!(&server.await.unwrap(), b"POST");
    let nobody = wire::send(addr, request, deadline, 1_000, 1_000).await;
    assert!(matches!(nobody, Err(NoAnswer::Unsent(_))), "{nobody:?}");
}

/// Payments while the log is compacted over and over: nothing is lost, and the file stays in proportion to the books.
#[tokio::test]
async fn compaction_under_way_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_compacting(dir.path().to_owned(), 0, parts(), 20_000).await.unwrap();
    let net = open(Place::Dir(dir.path().to_owned()), parts()).await.unwrap();
    assert!(!net.serving());
    let (payer, payee) =
        (net.wallet(AccountKey::from_wallet_seed(b"payer")), net.wallet(AccountKey::from_wallet_seed(b"payee")));
    payer.faucet().await.unwrap();
    let log = dir.path().join("log");
    let mut largest = 0;
    for number in 0..120_u32 {
        let invoice = payee.create_invoice(InvoiceRequest::new(Msat::sats(10), "compact")).await.unwrap();
        let deadline = net.link.parts().clock.mono().plus_ms(10_000);
        let send = Dispatch {
            payment_id: number.to_string(),
            attempt: 1,
            key: number.to_string(),
            bolt11: invoice.bolt11,
            amount: None,
            max_fee: Msat::sats(1),
            deadline,
            handle: None,
        };
        let outcome = payer.dispatch(send).await;
        assert!(matches!(outcome, Outcome::Settled { .. }), "{outcome:?}");
        largest = largest.max(std::fs::metadata(&log).unwrap().len());
    }
    let balances = (payer.balance().await.unwrap(), payee.balance().await.unwrap());
    assert_eq!(balances, (Msat::sats(1_000_000 - 120 * 11), Msat::sats(1_200)));
    assert_eq!(server.sum_msat().await, Some(0));
    server.shutdown().await;
    assert_eq!(payer.balance().await.unwrap(), balances.0, "after a restart from the compacted log");
    assert!(net.serving());
    let text = std::fs::read_to_string(&log).unwrap();
    let rows: u64 = text.lines().next().unwrap().split(&[':', '}']).nth(2).unwrap().parse().unwrap();
    assert!(rows > 50, "the log was compacted: {rows} rows");
    assert!(largest < 400_000, "{largest} bytes for 120 payments");
}

#[test]
fn a_key_of_a_seed_is_its_own_and_stays_the_same() {
    let key = AccountKey::from_wallet_seed(&[7; 64]);
    assert_eq!(key.party().to_string(), "62f69a567a42928659bff2e7d1e7f9851f372b7a116ec15a6d87b092c577593c");
    assert_ne!(key.party(), AccountKey::from_wallet_seed(&[8; 64]).party());
    assert_eq!(format!("{key:?}"), format!("AccountKey({})", key.party()));
    assert!(AccountKey::from_secret([0; 32]).is_none());
}

#[test]
fn a_place_is_an_address_or_a_directory() {
    assert!(matches!("http://127.0.0.1:1".parse(), Ok(Place::Url(_))));
    assert!(matches!("./http/net".parse(), Ok(Place::Dir(_))));
    assert!("http://".parse::<Place>().is_err());
}
