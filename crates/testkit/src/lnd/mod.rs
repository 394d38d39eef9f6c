//! A pair of Lightning nodes that speak LND's REST API: over TLS, with certificates, macaroons, error shapes and states
//! as LND has them, money that adds up, and faults on request.
//!
//! Written after the answers of LND 0.21.2; `crates/lightning/tests/lnd_real.rs` holds the driver against a real pair.

mod books;
mod calls;
mod http;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nexus_core::{Clock, Hash32};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use books::{Books, Key};

use crate::TestClock;

/// What the network takes for a payment, in msat.
pub const FEE_MSAT: u64 = 1_000;
/// What each node has at first, in msat.
pub const FUNDS_MSAT: u64 = 2_000_000_000;

/// How a payment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Course {
    /// As the books say, at once.
    #[default]
    Plain,
    /// In flight until [`Node::land`].
    Stuck,
    SettlesAfter {
        ms: u64,
    },
    FailsAfter {
        ms: u64,
    },
}

/// What the wire does to the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Wire {
    #[default]
    Whole,
    /// Cut before the node heard of the request.
    Dropped,
    /// Done, and cut after so many lines of the answer, or in the middle of the next.
    Cut { lines: usize, within: bool },
    /// Something else answers, and the node hears nothing.
    Instead { status: u16, body: String },
    /// Done, and something else comes back.
    Garbled { body: String },
    /// The node hears of it so much later.
    Slow { ms: u64 },
    /// Done, and nothing is ever said.
    Mute,
    /// Done, and the answer does not end: so many bytes of one line.
    Huge { bytes: usize },
}

/// A fault for the next request whose path begins so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub path: &'static str,
    pub course: Course,
    pub wire: Wire,
}

/// What a node says of itself, when it is not to be itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guise {
    pub identity: Option<String>,
    pub network: Option<&'static str>,
    pub version: Option<&'static str>,
    pub out_of_step: bool,
    /// gRPC code and message that every call ends with.
    pub refuses: Option<(u32, &'static str)>,
}

struct State {
    books: Books,
    rules: VecDeque<Rule>,
    guise: Guise,
    payer_macaroon: String,
    invoice_macaroon: String,
    /// For a mint, which both pays and is paid.
    admin_macaroon: String,
    /// Method and path of each request that reached the wire, and of each that the node heard.
    arrived: Vec<String>,
    heard: Vec<String>,
}

/// What all parts of a node share.
struct Shared {
    index: usize,
    state: Mutex<State>,
    /// Raised with each change of the books.
    changed: watch::Sender<u64>,
    clock: TestClock,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().0
    }
}

/// Both nodes, as each sees the other.
struct World {
    nodes: [Arc<Shared>; 2],
}

/// A node. It serves until it is dropped or stopped.
pub struct Node {
    world: Arc<World>,
    shared: Arc<Shared>,
    dir: TempDir,
    address: SocketAddr,
    certificate: Mutex<rcgen::CertifiedKey<rcgen::KeyPair>>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

/// Two nodes with a channel between them.
pub struct Pair {
    pub payer: Node,
    pub payee: Node,
}

impl Pair {
    /// On regtest, on loopback ports. Needs a Tokio runtime as long as it lives.
    pub async fn start() -> Self {
        let nodes = [0, 1].map(|index| {
            let secret = |role: &str| hex::encode(Hash32::sha256(format!("{role} {index}").as_bytes()).as_bytes());
            let state = State {
                books: Books::new(Key::of(index), FUNDS_MSAT),
                rules: VecDeque::new(),
                guise: Guise::default(),
                payer_macaroon: secret("the payer's macaroon of"),
                invoice_macaroon: secret("the invoice macaroon of"),
                admin_macaroon: secret("the macaroon of everything of"),
                arrived: Vec::new(),
                heard: Vec::new(),
            };
            let (changed, _) = watch::channel(0);
            Arc::new(Shared { index, state: Mutex::new(state), changed, clock: TestClock::default() })
        });
        let world = Arc::new(World { nodes });
        Self { payer: Node::start(&world, 0).await, payee: Node::start(&world, 1).await }
    }

    /// Everything that both nodes have, held or took as fees, in msat: always twice [`FUNDS_MSAT`].
    pub fn sum_msat(&self) -> u64 {
        [&self.payer, &self.payee].map(|node| node.shared.lock().books.sum_msat()).iter().sum()
    }
}

/// As LND makes its own: signed by itself, and marked as an authority.
fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = rcgen::CertificateParams::new(names).expect("names that fit a certificate");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "lnd autogenerated cert");
    params.key_usages = vec![
        rcgen::KeyUsagePurpose::DigitalSignature,
        rcgen::KeyUsagePurpose::KeyEncipherment,
        rcgen::KeyUsagePurpose::KeyCertSign,
    ];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let signing_key = rcgen::KeyPair::generate().expect("a key");
    let cert = params.self_signed(&signing_key).expect("a certificate");
    rcgen::CertifiedKey { cert, signing_key }
}

impl Node {
    async fn start(world: &Arc<World>, index: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let node = Self {
            world: world.clone(),
            shared: world.nodes[index].clone(),
            dir: tempfile::tempdir().expect("a directory"),
            address: listener.local_addr().expect("an address"),
            certificate: Mutex::new(certificate()),
            serving: Mutex::default(),
        };
        node.write_files();
        node.serve(listener);
        node
    }

    fn write_files(&self) {
        let write = |name: &str, text: &str| {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).expect("a file");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&path, mode).expect("its mode");
        };
        write("tls.cert", &self.certificate.lock().unwrap_or_else(PoisonError::into_inner).cert.pem());
        let state = self.shared.lock();
        write("payer.macaroon.hex", &state.payer_macaroon);
        write("invoice.macaroon.hex", &state.invoice_macaroon);
    }

    fn serve(&self, listener: TcpListener) {
        let certified = self.certificate.lock().unwrap_or_else(PoisonError::into_inner);
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .expect("a certificate and its key");
        let serving = tokio::spawn(http::serve(listener, Arc::new(tls), self.world.clone(), self.shared.clone()));
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(serving);
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The node's public key, in hex.
    pub fn identity(&self) -> String {
        self.shared.lock().books.key.public.clone()
    }

    /// The certificate, in PEM.
    pub fn certificate_file(&self) -> PathBuf {
        self.dir.path().join("tls.cert")
    }

    /// SHA-256 of the certificate's DER.
    pub fn fingerprint(&self) -> Hash32 {
        Hash32::sha256(self.certificate.lock().unwrap_or_else(PoisonError::into_inner).cert.der())
    }

    pub fn payer_macaroon_file(&self) -> PathBuf {
        self.dir.path().join("payer.macaroon.hex")
    }

    pub fn invoice_macaroon_file(&self) -> PathBuf {
        self.dir.path().join("invoice.macaroon.hex")
    }

    /// In hex; may do everything.
    pub fn admin_macaroon(&self) -> String {
        self.shared.lock().admin_macaroon.clone()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Dies with all its connections. What it answered is durable.
    pub async fn stop(&self) {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(serving) = serving {
            serving.abort();
            let _ = serving.await;
        }
    }

    /// Serves again, where it did before.
    pub async fn resume(&self) {
        self.serve(TcpListener::bind(self.address).await.expect("its own port"));
    }

    pub async fn restart(&self) {
        self.stop().await;
        self.resume().await;
    }

    /// Makes a new certificate, for the next [`Self::resume`]; `tell` writes it to the file too.
    pub fn renew_certificate(&self, tell: bool) {
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = certificate();
        if tell {
            self.write_files();
        }
    }

    /// From now on only new macaroons are good, which no file holds.
    pub fn revoke_macaroons(&self) {
        let mut state = self.shared.lock();
        state.payer_macaroon = "00".repeat(40);
        state.invoice_macaroon = "11".repeat(40);
        state.admin_macaroon = "22".repeat(40);
    }

    pub fn rule(&self, path: &'static str, course: Course, wire: Wire) {
        self.shared.lock().rules.push_back(Rule { path, course, wire });
    }

    pub fn guise(&self, guise: Guise) {
        self.shared.lock().guise = guise;
    }

    /// `METHOD /path` of each request heard since the last look.
    pub fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().heard)
    }

    /// Waits until a request whose path begins so has reached the wire, then forgets all that did.
    pub async fn arrival(&self, path: &str) {
        loop {
            {
                let mut state = self.shared.lock();
                if state.arrived.iter().any(|it| it.split_once(' ').is_some_and(|(_, it)| it.starts_with(path))) {
                    return state.arrived.clear();
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Forgets faults that were not met.
    pub fn no_rules(&self) {
        self.shared.lock().rules.clear();
    }

    /// Ends the payment of `hash` that is stuck. False if there is none.
    pub fn land(&self, hash: Hash32, settle: bool) -> bool {
        calls::land(&self.world, self.shared.index, *hash.as_bytes(), settle)
    }

    /// How many payments of this hash the node ever began.
    pub fn begun(&self, hash: Hash32) -> u32 {
        self.shared.lock().books.begun(hash.as_bytes())
    }

    /// The custom records of the payment of this hash, as JSON.
    pub fn records(&self, hash: Hash32) -> String {
        self.shared.lock().books.payment(hash.as_bytes()).map(|it| it.records.to_string()).unwrap_or_default()
    }

    /// Tells subscribers of the invoice's settlement once more.
    pub fn tell_again(&self, hash: Hash32) {
        self.shared.lock().books.tell(hash.as_bytes());
        self.shared.changed();
    }

    /// Pays by hand, as `lncli payinvoice` does, without a mark.
    pub fn pay_by_hand(&self, bolt11: &str, course: Course) {
        calls::pay_by_hand(&self.world, self.shared.index, bolt11, course);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take() {
            serving.abort();
        }
    }
}
