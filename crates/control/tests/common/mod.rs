//! A control plane on loopback over a real database, and owners who sign their requests.
#![expect(dead_code, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test")]

pub mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_bus::LocalBus;
use nexus_control::{ControlConfig, ControlParts, Metrics};
use nexus_core::policy::Policy;
use nexus_core::{Clock, Npub};
use nexus_seal::event::{npub_of, tag, timestamp};
use nexus_seal::policy::unsigned_policy;
use nexus_seal::proof::{Request, unsigned_agent_proof, unsigned_request};
use nexus_store::Store;
use nexus_testkit::{SystemEntropy, TestClock};
use nostr::event::{Event, UnsignedEvent};
use nostr::key::{Keys, SecretKey};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The recipient that age's own manual shows.
pub const INBOX_RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// A key that signs.
pub struct Key(Keys);

impl Key {
    pub fn new(number: u8) -> Self {
        Self(Keys::new(SecretKey::from_slice(&[number; 32]).unwrap()))
    }

    pub fn npub(&self) -> Npub {
        npub_of(&self.0.public_key())
    }

    pub fn sign(&self, event: UnsignedEvent) -> Event {
        let id = event.compute_id();
        let signature = self.0.sign_schnorr_with_aux_rand(secp256k1::SECP256K1, id.as_bytes(), &[7; 32]);
        Event::new(id, event.pubkey, event.created_at, event.kind, event.tags, event.content, signature)
    }

    /// Two requests in one second must not be the same event.
    fn sign_once(&self, mut event: UnsignedEvent) -> Event {
        static NONCE: AtomicU64 = AtomicU64::new(0);
        event.tags.push(tag("nonce", [NONCE.fetch_add(1, Ordering::Relaxed).to_string().as_str()]));
        event.id = None;
        self.sign(event)
    }

    /// An `Authorization` header for one request.
    pub fn authorization(&self, method: &str, url: &str, body: &[u8], now: nexus_core::UnixMs) -> String {
        let event = unsigned_request(&self.npub(), &Request { method, url, body }, now);
        nexus_seal::proof::authorization_header(&self.sign_once(event))
    }

    /// A `Nexus-Proof` header for one request.
    pub fn proof(&self, owner: &Npub, method: &str, url: &str, body: &[u8], now: nexus_core::UnixMs) -> String {
        let event = unsigned_agent_proof(&self.npub(), owner, &Request { method, url, body }, now);
        nexus_seal::proof::proof_header(&self.sign_once(event))
    }

    /// A policy of this owner.
    pub fn policy(&self, agent: Npub, version: u64, now: nexus_core::UnixMs) -> Event {
        self.signed_policy(&Policy { version, ..Policy::default_for(agent) }, now)
    }

    pub fn signed_policy(&self, policy: &Policy, now: nexus_core::UnixMs) -> Event {
        self.sign(unsigned_policy(&self.npub(), policy, timestamp(now)).unwrap())
    }
}

/// Who asks.
#[derive(Clone, Copy)]
pub enum By<'a> {
    Nobody,
    Key(&'a Key),
    Token(&'a str),
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub body: Value,
}

impl Answer {
    /// The problem's code; checks the shape of every problem on the way.
    pub fn code(&self) -> &str {
        assert!(!self.status.is_success(), "no problem: {self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status.as_u16(), "{self:?}");
        let code = self.body["code"].as_str().unwrap();
        assert_eq!(self.body["type"], format!("/docs#{code}"));
        assert!(self.body["title"].is_string());
        code
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.is_success(), "{} {}", self.status, self.text);
        self
    }
}

/// A running control plane.
pub struct Host {
    /// What signed requests name.
    pub origin: String,
    /// Where it listens.
    pub address: String,
    pub store: Store,
    pub bus: Arc<LocalBus>,
    pub clock: Arc<TestClock>,
    pub stop: CancellationToken,
    pub http: reqwest::Client,
    pub dir: Arc<tempfile::TempDir>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Host {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut ControlConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("nexus.db")).unwrap();
        Self::over(store, Arc::new(dir), None, change).await
    }

    /// Another control plane over the same database, known under the same origin.
    pub async fn twin(&self) -> Self {
        Self::over(self.store.clone(), self.dir.clone(), Some(self.origin.clone()), |_| {}).await
    }

    async fn over(
        store: Store,
        dir: Arc<tempfile::TempDir>,
        public: Option<String>,
        change: impl FnOnce(&mut ControlConfig),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let origin = public.unwrap_or_else(|| address.clone());
        let (bus, clock) = (LocalBus::new(), Arc::new(TestClock::default()));
        let stop = CancellationToken::new();
        let mut config = ControlConfig::new(origin.parse().unwrap());
        config.sole_reconciler = true;
        config.wallets = ["dev", "cashu"].into();
        (config.rate_per_key.burst, config.rate_per_address.burst) = (100_000, 100_000);
        change(&mut config);
        let parts = ControlParts {
            store: store.clone(),
            bus: bus.clone(),
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy),
            config,
            metrics: Arc::new(Metrics::default()),
            stop: stop.clone(),
        };
        tokio::spawn(async move { nexus_control::serve(parts, listener).await.unwrap() });
        Self { origin, address, store, bus, clock, stop, http: http_client(), dir }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    pub fn authorization(&self, by: By<'_>, method: &str, path: &str, body: &[u8]) -> Option<String> {
        match by {
            By::Nobody => None,
            By::Key(key) => Some(key.authorization(method, &self.url(path), body, self.clock.now())),
            By::Token(token) => Some(format!("Bearer {token}")),
        }
    }

    /// One request with whatever headers; signed if need be.
    pub async fn send(&self, by: By<'_>, method: &str, path: &str, body: Vec<u8>, headers: &[(&str, &str)]) -> Answer {
        let mut request =
            self.http.request(Method::from_bytes(method.as_bytes()).unwrap(), format!("{}{path}", self.address));
        if let Some(value) = self.authorization(by, method, path, &body) {
            request = request.header("authorization", value);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status, headers, text, body }
    }

    pub async fn get(&self, by: By<'_>, path: &str) -> Answer {
        self.send(by, "GET", path, Vec::new(), &[]).await
    }

    pub async fn post(&self, by: By<'_>, path: &str, body: &Value) -> Answer {
        self.send(by, "POST", path, body.to_string().into_bytes(), &[]).await
    }

    /// Sends a creation with its proof.
    pub async fn create_with(
        &self,
        by: By<'_>,
        owner: &Key,
        agent: &Key,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let bytes = body.to_string().into_bytes();
        let proof = agent.proof(&owner.npub(), "POST", &self.url("/v1/agents"), &bytes, self.clock.now());
        let mut all = vec![("nexus-proof", proof.as_str())];
        all.extend_from_slice(headers);
        self.send(by, "POST", "/v1/agents", bytes, &all).await
    }

    /// Creates an agent as a client does.
    pub async fn create(&self, owner: &Key, agent: &Key, name: &str) -> String {
        let body = self.agent_body(owner, agent, name);
        self.create_with(By::Key(owner), owner, agent, &body, &[]).await.ok();
        agent.npub().to_string()
    }

    pub fn agent_body(&self, owner: &Key, agent: &Key, name: &str) -> Value {
        json!({
            "name": name,
            "npub": agent.npub(),
            "mnemonic_encrypted": passphrase_envelope(),
            "sealed_key": recipient_envelope(),
            "policy": owner.policy(agent.npub(), 1, self.clock.now()),
            "inbox_recipient": INBOX_RECIPIENT,
            "wraps": [
                { "key": "data", "number": 1, "recipient": "self", "ciphertext": "closed to itself" },
                { "key": "inbox", "number": 1, "recipient": "data", "ciphertext": "closed under the data key" },
                { "key": "view", "number": 1, "recipient": "data", "ciphertext": "closed under the data key" },
                { "key": "view", "number": 1, "recipient": owner.npub(), "ciphertext": "closed to the owner" },
            ],
        })
    }

    /// A token with these scopes.
    pub async fn token(&self, owner: &Key, scopes: &[&str]) -> String {
        let body = json!({ "name": "test", "scopes": scopes });
        let answer = self.post(By::Key(owner), "/v1/tokens", &body).await.ok();
        answer.body["token"].as_str().unwrap().to_owned()
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests' own client, to a server of this process")]
pub fn http_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().build().unwrap()
}

/// The outside of an owner's envelope: what the API looks at, without the second that closing one takes.
pub fn passphrase_envelope() -> String {
    armored(&format!("-> scrypt {} 18\n{}\n", "A".repeat(22), "B".repeat(43)))
}

/// The outside of an envelope to an age recipient.
pub fn recipient_envelope() -> String {
    armored(&format!("-> X25519 {}\n{}\n", "A".repeat(43), "B".repeat(43)))
}

fn armored(stanzas: &str) -> String {
    let mut file = format!("age-encryption.org/v1\n{stanzas}--- {}\n", "C".repeat(43)).into_bytes();
    file.extend([9; 64]);
    let encoded = STANDARD.encode(file);
    let lines: Vec<&str> = encoded.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN AGE ENCRYPTED FILE-----\n{}\n-----END AGE ENCRYPTED FILE-----\n", lines.join("\n"))
}
