//! The development network as its users meet it: several processes, crashes, strangers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Clock, Msat};
use nexus_lightning::devnet::faults::{Command, CrashPoint, Fault, Rule};
use nexus_lightning::devnet::{self, AccountKey, Devnet, OpenError, Parts, Place, Server, Wallet};
use nexus_lightning::{Dispatch, Driver, Invoice, InvoiceRequest, InvoiceState, Pay, PayRequest, Receive, WalletError};
use nexus_testkit::{SystemEntropy, TestClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn parts() -> Parts {
    Parts::new(Arc::new(TestClock::default()), Arc::new(SystemEntropy))
}

async fn open(dir: &std::path::Path) -> Devnet {
    devnet::open(Place::Dir(dir.to_owned()), parts()).await.unwrap()
}

async fn funded(net: &Devnet, seed: &[u8]) -> Wallet {
    let wallet = net.wallet(AccountKey::from_wallet_seed(seed));
    assert_eq!(wallet.faucet().await.unwrap(), devnet::FAUCET);
    wallet
}

async fn invoice(wallet: &Wallet, sats: u64) -> Invoice {
    wallet.create_invoice(InvoiceRequest::new(Msat::from_sats(sats).unwrap(), "devnet")).await.unwrap()
}

fn send(invoice: &Invoice) -> Dispatch {
    Dispatch {
        payment_id: format!("p{}", &invoice.hash.to_string()[..20]),
        attempt: 1,
        key: "k".to_owned(),
        bolt11: invoice.bolt11.clone(),
        amount: None,
        max_fee: Msat::sats(5),
        // Far beyond any clock's start in these tests.
        deadline: TestClock::default().mono().plus_ms(600_000),
        handle: None,
    }
}

/// Wherever in its write the server dies: what was not durable never was, what was is found, and nothing is doubled.
#[tokio::test]
async fn a_server_that_dies_in_a_write() {
    for (at, durable) in [
        (CrashPoint::BeforeWrite, false),
        (CrashPoint::TornWrite, false),
        (CrashPoint::AfterWrite, true),
        (CrashPoint::AfterSync, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let net = open(dir.path()).await;
        let (payer, payee) = (funded(&net, b"payer").await, net.wallet(AccountKey::from_wallet_seed(b"payee")));
        let invoice = invoice(&payee, 50).await;
        net.faults().unwrap().command(Command::Crash { at }).await;
        let outcome = payer.dispatch(send(&invoice)).await;
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{at:?}: {outcome:?}");
        // The next call finds the server gone and serves the directory anew.
        match payer.resolve(send(&invoice).resolve(invoice.hash)).await {
            Outcome::Settled { .. } => assert!(durable, "{at:?}"),
            Outcome::NotFound => assert!(!durable, "{at:?}"),
            other => panic!("{at:?}: {other:?}"),
        }
        let outcome = payer.dispatch(send(&invoice)).await;
        assert!(matches!(outcome, Outcome::Settled { fee, .. } if fee == Msat::sats(1)), "{at:?}: {outcome:?}");
        assert_eq!(payer.balance().await.unwrap(), Msat::sats(1_000_000 - 51));
        assert_eq!(payee.balance().await.unwrap(), Msat::sats(50));
        assert_eq!(net.sum_msat().await, Some(0));
    }
}

/// Two processes on one directory: the second connects, takes over when the first is gone, and the first finds it.
#[tokio::test]
async fn two_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).await;
    let second = open(dir.path()).await;
    assert!(first.serving() && !second.serving());
    assert_eq!(first.url(), second.url());
    match Server::start(dir.path().to_owned(), 0, parts()).await {
        Err(OpenError::Held { url, .. }) => assert_eq!(url, Some(first.url())),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("two servers on one directory"),
    }
    let (payer, payee) = (funded(&first, b"payer").await, second.wallet(AccountKey::from_wallet_seed(b"payee")));
    let node = payee.node().await.unwrap();
    let before = invoice(&payee, 7).await;
    first.shutdown().await;
    assert!(!first.serving());
    assert_eq!(payee.lookup_invoice(before.hash).await.unwrap(), InvoiceState::Open);
    assert!(second.serving() && !first.serving());
    assert_eq!(payee.node().await.unwrap(), node);
    assert!(matches!(payer.dispatch(send(&before)).await, Outcome::Settled { .. }));
    assert_eq!(first.url(), second.url());
    assert_eq!(payer.faucet().await.unwrap(), Msat::sats(1_000_000 - 8), "the faucet gives once");
    // An address serves as well as the directory, as long as that server lives.
    let third = devnet::open(second.url().parse().unwrap(), parts()).await.unwrap();
    assert_eq!(third.wallet(AccountKey::from_wallet_seed(b"payee")).balance().await.unwrap(), Msat::sats(7));
    second.shutdown().await;
    let third = third.wallet(AccountKey::from_wallet_seed(b"payee"));
    assert!(matches!(third.balance().await, Err(WalletError::Unreachable(_))));
    assert!(matches!(third.dispatch(send(&before)).await, Outcome::Unknown { .. }));
}

/// Who is not a network of this machine is told apart at once.
#[tokio::test]
async fn only_a_network_of_this_machine_will_do() {
    for place in ["http://10.0.0.1:80", "http://example.org", "https://127.0.0.1:1"] {
        let opened = devnet::open(place.parse().unwrap(), parts()).await;
        assert!(matches!(opened, Err(OpenError::Address(_))), "{place}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        }
    });
    let opened = devnet::open(url.parse().unwrap(), parts()).await;
    assert!(matches!(opened, Err(OpenError::Unreachable(_))));
}

/// A server that never answers leaves the outcome unknown after the time limit, and a call that comes through says that
/// nothing happened.
#[tokio::test]
async fn a_hung_server_is_unknown_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let parts = Parts { timeout_ms: 300, ..parts() };
    let net = devnet::open(Place::Dir(dir.path().to_owned()), parts).await.unwrap();
    let (payer, payee) = (funded(&net, b"payer").await, net.wallet(AccountKey::from_wallet_seed(b"payee")));
    let invoice = invoice(&payee, 9).await;
    net.faults().unwrap().command(Command::Rule(Rule::next_payment(Fault::Hang))).await;
    let outcome = payer.dispatch(send(&invoice)).await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    assert_eq!(payer.resolve(send(&invoice).resolve(invoice.hash)).await, Outcome::NotFound);
    let fail = Fault::Fail { class: FailureClass::NoRoute };
    net.faults().unwrap().command(Command::Rule(Rule::next_payment(fail))).await;
    assert_eq!(payer.dispatch(send(&invoice)).await, Outcome::Failed { class: FailureClass::NoRoute });
    assert_eq!(
        payer.resolve(send(&invoice).resolve(invoice.hash)).await,
        Outcome::Failed { class: FailureClass::NoRoute }
    );
    // A stopping server does not wait for those it left hanging.
    tokio::time::timeout(Duration::from_secs(3), net.shutdown()).await.unwrap();
}

/// Passes everything through and keeps what the wallet sent.
async fn wiretap(server: &str) -> (String, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (heard, tape) = tokio::sync::mpsc::unbounded_channel();
    let server = server.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((mut wallet, _)) = listener.accept().await {
            let mut request = vec![0; 65_536];
            let mut length = wallet.read(&mut request).await.unwrap();
            // Head and body may come apart.
            while let Ok(Ok(more)) =
                tokio::time::timeout(Duration::from_millis(20), wallet.read(&mut request[length..])).await
                && more > 0
            {
                length += more;
            }
            request.truncate(length);
            wallet.write_all(&raw(&server, &request).await).await.unwrap();
            heard.send(request).unwrap();
        }
    });
    (url, tape)
}

async fn raw(server: &str, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

fn status(answer: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(answer).into_owned();
    (text[9..12].parse().unwrap(), text.rsplit("\r\n").next().unwrap().to_owned())
}

/// A request is good once, as it was signed, for this run of the server; and no account reaches another's.
#[tokio::test]
async fn requests_cannot_be_borrowed() {
    let dir = tempfile::tempdir().unwrap();
    let net = open(dir.path()).await;
    let (rich, thief) = (funded(&net, b"rich").await, net.wallet(AccountKey::from_wallet_seed(b"thief")));
    let server = net.url().trim_start_matches("http://").to_owned();
    let (tapped, mut tape) = wiretap(&net.url()).await;
    let tapped = devnet::open(tapped.parse().unwrap(), parts()).await.unwrap();
    let own = tapped.wallet(AccountKey::from_wallet_seed(b"rich"));
    assert!(matches!(own.dispatch(send(&invoice(&thief, 10).await)).await, Outcome::Settled { .. }));
    let request = loop {
        let heard = tape.recv().await.unwrap();
        if heard.starts_with(b"POST /v1/payments ") {
            break String::from_utf8(heard).unwrap();
        }
    };
    let balance = Msat::sats(1_000_000 - 11);
    let refused = async |request: String, status_wanted: u16, code: &str| {
        let (status, body) = status(&raw(&server, request.as_bytes()).await);
        assert_eq!(status, status_wanted, "{request}\n{body}");
        assert!(body.contains(code), "{body}");
        assert_eq!(rich.balance().await.unwrap(), balance);
    };
    refused(request.clone(), 401, "replayed").await;
    let mine = invoice(&thief, 10).await.bolt11;
    let body: serde_json::Value = serde_json::from_str(request.rsplit("\r\n").next().unwrap()).unwrap();
    let swapped = request.replace(body["bolt11"].as_str().unwrap(), &mine);
    assert_ne!(swapped, request);
    let length = swapped.rsplit("\r\n").next().unwrap().len();
    let old_length = request.rsplit("\r\n").next().unwrap().len();
    let swapped = swapped.replace(&format!("content-length: {old_length}"), &format!("content-length: {length}"));
    refused(swapped, 401, "unauthorized").await;
    refused(request.replace("/v1/payments ", "/v1/payments/resolve "), 401, "unauthorized").await;
    refused(request.replace(&rich.party().to_string(), &thief.party().to_string()), 401, "unauthorized").await;
    refused(request.replace("authorization:", "x-authorization:"), 401, "unauthorized").await;
    let header = request.lines().find(|line| line.starts_with("authorization:")).unwrap();
    let stamp = header.split(' ').nth(3).unwrap();
    refused(request.replace(stamp, &(stamp.parse::<i64>().unwrap() - 60_000).to_string()), 401, "replayed").await;
    refused(request.replace(stamp, &(stamp.parse::<i64>().unwrap() + 60_000).to_string()), 401, "replayed").await;
    net.shutdown().await;
    let reopened = open(dir.path()).await;
    let server = reopened.url().trim_start_matches("http://").to_owned();
    assert!(status(&raw(&server, request.as_bytes()).await).1.contains("stale_boot"));
    let unmarked = request.replace("nexus-devnet-boot:", "x-boot:");
    assert!(status(&raw(&server, unmarked.as_bytes()).await).1.contains("unauthorized"));
    assert_eq!(rich.balance().await.unwrap(), balance);
}

/// Bodies that are too long, not what a call takes, or out of bounds are refused by name.
#[tokio::test]
async fn bounds_hold() {
    let dir = tempfile::tempdir().unwrap();
    let net = open(dir.path()).await;
    let wallet = funded(&net, b"bounds").await;
    let base = InvoiceRequest::new(Msat::sats(1), "");
    for request in [
        InvoiceRequest { amount: Msat::ZERO, ..base.clone() },
        InvoiceRequest { expiry_s: 0, ..base.clone() },
        InvoiceRequest { expiry_s: 86_401, ..base.clone() },
        InvoiceRequest::new(Msat::sats(1), "m".repeat(640)),
        InvoiceRequest::new(Msat::MAX, "too much for an invoice"),
    ] {
        assert!(matches!(wallet.create_invoice(request).await, Err(WalletError::Refused(_))));
    }
    assert!(wallet.create_invoice(InvoiceRequest::new(Msat::sats(1), "m".repeat(20_000))).await.is_err());
    let hash = nexus_core::Hash32::sha256(b"a zap request");
    let zap = InvoiceRequest { description: nexus_lightning::Description::Hash(hash), ..base };
    let zap = wallet.create_invoice(zap).await.unwrap();
    let said = nexus_lightning::decode_bolt11(&zap.bolt11).unwrap();
    assert_eq!((said.description_hash, said.hash, said.expires_at), (Some(hash), zap.hash, zap.expires_at));
    assert_eq!(said.payee, wallet.node().await.unwrap());
    let id = "i".repeat(65);
    let refused = wallet.dispatch(Dispatch { payment_id: id, ..send(&zap) }).await;
    assert_eq!(refused, Outcome::Failed { class: FailureClass::Refused });
    let quote = wallet.quote(PayRequest { bolt11: zap.bolt11, amount: None }).await.unwrap();
    assert_eq!(quote.max_fee, Msat::sats(1));
}

/// The commands of a test that drives a real binary go over the wire.
#[tokio::test]
async fn faults_can_be_asked_for_over_the_wire() {
    let dir = tempfile::tempdir().unwrap();
    let net = open(dir.path()).await;
    let (payer, payee) = (funded(&net, b"payer").await, net.wallet(AccountKey::from_wallet_seed(b"payee")));
    let body = r#"{"command":"rule","call":"pay","fault":"fail","class":"no_route","times":1}"#;
    let request = format!(
        "POST /v1/faults HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(net.url().trim_start_matches("http://"), request.as_bytes()).await;
    assert_eq!(status(&answer).0, 204, "{}", String::from_utf8_lossy(&answer));
    let invoice = invoice(&payee, 3).await;
    assert_eq!(payer.dispatch(send(&invoice)).await, Outcome::Failed { class: FailureClass::NoRoute });
    assert!(matches!(payer.dispatch(Dispatch { attempt: 2, ..send(&invoice) }).await, Outcome::Settled { .. }));
}
