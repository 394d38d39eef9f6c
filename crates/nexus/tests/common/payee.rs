//! Somebody who is zapped: a key, a lightning address, and a service for it that is honest or is not.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part of it")]
#![expect(clippy::disallowed_methods, reason = "a service has a clock of its own")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use nexus_core::{Hash32, Msat, UnixMs};
use nexus_lightning::devnet::{self, AccountKey};
use nexus_lightning::{Description, InvoiceRequest, InvoiceState, Receive};
use nexus_testkit::{ManualClock, SystemEntropy};
use serde_json::{Value, json};

use crate::common::{Friend, nostr};

/// BOLT 11's own example: an invoice of the main network.
const OTHER_NETWORK: &str = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";

/// What a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Honest,
    AnotherAmount,
    AnotherHash,
    AnotherNetwork,
    FarExpiry,
    NoReceipts,
    /// The callback answers with a redirect to a port of this machine, where somebody waits.
    Redirect,
    Endless,
    Refuses,
    /// The same invoice as the last time.
    Again,
}

/// A question to the callback.
#[derive(Debug, Clone)]
pub struct Question {
    pub request: Value,
    pub hash: Option<Hash32>,
}

struct Shared {
    /// Where the development network writes its address.
    network: PathBuf,
    service: Mutex<Service>,
    questions: Mutex<Vec<Question>>,
    last: Mutex<Option<String>>,
    port: u16,
    /// Where redirects lead.
    trap: TcpListener,
}

pub struct Payee {
    pub friend: Friend,
    shared: Arc<Shared>,
}

/// A wallet of the payee's on the network at this place, with what is done with it.
fn with_wallet<T>(network: &Path, work: impl AsyncFnOnce(devnet::Wallet) -> T) -> T {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let clock = Arc::new(ManualClock::at(UnixMs(i64::try_from(since.as_millis()).unwrap())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let parts = devnet::Parts::new(clock.clone(), Arc::new(SystemEntropy));
        let at = std::fs::read_to_string(network).unwrap();
        let network = devnet::open(at.lines().next().unwrap().parse().unwrap(), parts).await.unwrap();
        work(network.wallet(AccountKey::from_wallet_seed(b"the payee's wallet"))).await
    })
}

fn invoice(network: &Path, amount: Msat, hash: Hash32, expiry_s: u32) -> String {
    with_wallet(network, async |wallet| {
        let request = InvoiceRequest { preimage: None, amount, description: Description::Hash(hash), expiry_s };
        wallet.create_invoice(request).await.unwrap().bolt11
    })
}

impl Payee {
    /// Serves at a port of its own, and says so in a profile on this relay. `network` is the development network's
    /// directory: whichever host serves it, and at whichever port.
    pub fn new(relay: &str, network: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let trap = TcpListener::bind("127.0.0.1:0").unwrap();
        trap.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            network: network.join("url"),
            service: Mutex::new(Service::Honest),
            questions: Mutex::default(),
            last: Mutex::default(),
            port,
            trap,
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                std::thread::spawn(move || serve(&shared, stream));
            }
        });
        let payee = Self { friend: Friend::new(relay), shared };
        payee.announce();
        payee
    }

    pub fn address(&self) -> String {
        format!("payee@127.0.0.1:{}", self.shared.port)
    }

    /// Its profile, on its relay.
    pub fn announce(&self) {
        let content = json!({ "name": "payee", "lud16": self.address() }).to_string();
        let options = json!({ "relay": self.friend.relay, "sk": self.friend.sk, "to": self.friend.pk, "text": content, "kind": 0 });
        nostr("send", options).unwrap();
    }

    pub fn becomes(&self, service: Service) {
        *self.shared.service.lock().unwrap() = service;
    }

    /// What its callback was asked, oldest first.
    pub fn questions(&self) -> Vec<Question> {
        self.shared.questions.lock().unwrap().clone()
    }

    /// How many of all the invoices that it ever gave were paid.
    pub fn paid(&self) -> usize {
        let hashes: std::collections::BTreeSet<Hash32> =
            self.questions().into_iter().filter_map(|one| one.hash).collect();
        with_wallet(&self.shared.network, async |wallet| {
            let mut paid = 0;
            for hash in hashes {
                let state = wallet.lookup_invoice(hash).await.unwrap();
                paid += usize::from(matches!(state, InvoiceState::Settled { .. }));
            }
            paid
        })
    }

    /// Whether somebody went where a redirect led.
    pub fn trapped(&self) -> bool {
        self.shared.trap.accept().is_ok()
    }
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn serve(shared: &Shared, mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut piece = [0; 4_096];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(read) => head.extend_from_slice(&piece[..read]),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let service = *shared.service.lock().unwrap();
    let body = if path == "/.well-known/lnurlp/payee" {
        json!({
            "tag": "payRequest", "callback": format!("http://127.0.0.1:{}/cb?for=payee", shared.port),
            "minSendable": 1_000, "maxSendable": 1_000_000, "metadata": "[]",
            "allowsNostr": service != Service::NoReceipts, "nostrPubkey": "07".repeat(32),
        })
    } else {
        match callback(shared, service, &path) {
            Some(body) => body,
            None if service == Service::Endless => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"pr\":\"");
                while stream.write_all(&[b'l'; 8_192]).is_ok() {}
                return;
            }
            None => {
                let to = shared.trap.local_addr().unwrap();
                let _ = write!(stream, "HTTP/1.1 302 Found\r\nLocation: http://{to}/\r\nContent-Length: 0\r\n\r\n");
                return;
            }
        }
    };
    let body = body.to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// None for an answer that is no JSON object.
fn callback(shared: &Shared, service: Service, path: &str) -> Option<Value> {
    let query = path.split_once('?').unwrap().1;
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap();
    assert_eq!(value("for"), "payee", "the callback's own query is kept");
    let amount = Msat::new(value("amount").parse().unwrap());
    let text = decoded(value("nostr"));
    let hash = Hash32::sha256(text.as_bytes());
    let made = match service {
        Service::Honest => invoice(&shared.network, amount, hash, 600),
        Service::AnotherAmount => invoice(&shared.network, amount.saturating_add(Msat::new(1)), hash, 600),
        Service::AnotherHash => invoice(&shared.network, amount, Hash32::sha256(b"something else"), 600),
        Service::AnotherNetwork => OTHER_NETWORK.to_owned(),
        Service::FarExpiry => invoice(&shared.network, amount, hash, 7_200),
        Service::Again => shared.last.lock().unwrap().clone().unwrap(),
        Service::NoReceipts | Service::Refuses | Service::Redirect | Service::Endless => String::new(),
    };
    let bill = nexus_lightning::decode_bolt11(&made).ok().map(|bill| bill.hash);
    let request = serde_json::from_str(&text).unwrap();
    shared
        .questions
        .lock()
        .unwrap()
        .push(Question { request, hash: bill.filter(|_| service != Service::AnotherNetwork) });
    match service {
        Service::Redirect | Service::Endless => None,
        Service::Refuses => Some(json!({ "status": "ERROR", "reason": "not today" })),
        _ => {
            *shared.last.lock().unwrap() = Some(made.clone());
            Some(json!({ "pr": made, "routes": [] }))
        }
    }
}
