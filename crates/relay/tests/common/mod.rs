//! A relay on a real socket over a real database, and a client that speaks plain frames.
#![expect(dead_code, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, SinkExt, StreamExt};
use nexus_bus::{Bus, LocalBus};
use nexus_core::status::Hosting;
use nexus_core::{AccountId, AgentConfig, Clock, Npub};
use nexus_nostr::event::{self, Head, sign};
use nexus_relay::{RelayConfig, RelayParts};
use nexus_seal::{BoxFuture, Signer, SignerError};
use nexus_store::account::{self, Account};
use nexus_store::agent::{self, NewAgent, Sealed};
use nexus_store::{Audit, Store};
use nexus_testkit::{SeededEntropy, TestClock};
use nostr::event::{Event, Tag, UnsignedEvent};
use nostr::key::{Keys, SecretKey};
use nostr::nips::nip44;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;

/// A running relay. Dropping it stops it.
pub struct TestRelay {
    pub address: SocketAddr,
    pub store: Store,
    pub bus: Arc<LocalBus>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl TestRelay {
    pub async fn start(dir: &Path, config: RelayConfig) -> Self {
        Self::start_at(dir, config, "127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(dir: &Path, config: RelayConfig, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = Store::open(&dir.join("nexus.db")).unwrap();
        let (bus, shutdown) = (LocalBus::new(), CancellationToken::new());
        let parts = RelayParts {
            outside: None,
            store: store.clone(),
            bus: bus.clone() as Arc<dyn Bus>,
            clock: clock(),
            entropy: Arc::new(SeededEntropy::new(7)),
            config,
            listener,
            shutdown: shutdown.clone(),
        };
        let task = tokio::spawn(async move { nexus_relay::serve(parts).await.unwrap() });
        Self { address, store, bus, shutdown, task }
    }

    pub async fn stop(mut self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), &mut self.task).await.unwrap().unwrap();
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub async fn client(&self) -> Client {
        let mut client = self.silent_client().await;
        let challenge = client.next().await;
        assert_eq!(challenge[0], "AUTH");
        client.challenge = challenge[1].as_str().unwrap().to_owned();
        client
    }

    /// A client that has not yet read anything.
    pub async fn silent_client(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (socket, _) = client_async(self.url(), stream).await.unwrap();
        Client { socket, challenge: String::new(), url: self.url() }
    }

    /// An agent that lives here, of an account whose owner is `owner`.
    pub async fn host(&self, agent: &Keys, owner: &Keys, config: AgentConfig) -> Npub {
        let now = clock().now();
        let audit = || Audit {
            at: now,
            account: None,
            actor: "test".into(),
            action: "agent.create".into(),
            target: String::new(),
            detail: "{}".into(),
        };
        let account = Account {
            id: AccountId::new(now, [3; 10]),
            owner: npub(owner),
            name: "owner".into(),
            plan: "local".into(),
            hosting: Hosting::Paid,
            created_at: now,
        };
        let account = account::ensure(&self.store, account, audit()).await.unwrap();
        let npub = npub(agent);
        let new = NewAgent {
            npub,
            account: account.id,
            name: format!("agent-{}", &npub.to_hex()[..8]),
            config,
            sealed: Sealed { mnemonic_encrypted: "x".into(), ..Sealed::default() },
            wraps: Vec::new(),
            state: None,
            hosting: Hosting::Paid,
            reason: None,
            created_at: now,
        };
        agent::create(&self.store, new, None, audit()).await.unwrap();
        npub
    }
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A client that speaks frames and nothing else.
pub struct Client {
    pub socket: WebSocketStream<TcpStream>,
    pub challenge: String,
    url: String,
}

impl Client {
    pub async fn send(&mut self, frame: Value) {
        self.send_text(frame.to_string()).await;
    }

    pub async fn send_text(&mut self, frame: String) {
        self.socket.send(Message::text(frame)).await.unwrap();
    }

    /// The next frame, within five seconds.
    pub async fn next(&mut self) -> Value {
        self.try_next().await.expect("the connection is open")
    }

    /// The next frame; none when the connection ended.
    pub async fn try_next(&mut self) -> Option<Value> {
        let read = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).ok(),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                    Some(Ok(_)) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), read).await.expect("a frame in time")
    }

    /// Asserts that nothing comes for a while.
    pub async fn nothing(&mut self) {
        let silence = tokio::time::timeout(Duration::from_millis(150), self.socket.next()).await;
        if let Ok(Some(Ok(Message::Text(text)))) = silence {
            panic!("unexpected: {text}");
        }
    }

    /// Publishes and reads the answer.
    pub async fn publish(&mut self, event: &Event) -> (bool, String) {
        self.send(json!(["EVENT", event])).await;
        let answer = self.next().await;
        assert_eq!(
            (answer[0].as_str(), answer[1].as_str()),
            (Some("OK"), Some(event.id.to_hex().as_str())),
            "{answer}"
        );
        (answer[2].as_bool().unwrap(), answer[3].as_str().unwrap().to_owned())
    }

    pub async fn accept(&mut self, event: &Event) {
        assert_eq!(self.publish(event).await, (true, String::new()));
    }

    /// Subscribes and reads what is stored, as ids.
    pub async fn ask(&mut self, name: &str, filter: Value) -> Vec<String> {
        self.send(json!(["REQ", name, filter])).await;
        let mut ids = Vec::new();
        loop {
            let frame = self.next().await;
            assert_eq!(frame[1], name, "{frame}");
            match frame[0].as_str() {
                Some("EVENT") => ids.push(frame[2]["id"].as_str().unwrap().to_owned()),
                Some("EOSE") => return ids,
                _ => panic!("{frame}"),
            }
        }
    }

    /// Subscribes and expects to be refused; gives the reason.
    pub async fn refused(&mut self, name: &str, filter: Value) -> String {
        self.send(json!(["REQ", name, filter])).await;
        let frame = self.next().await;
        assert_eq!(frame[0], "CLOSED", "{frame}");
        frame[2].as_str().unwrap().to_owned()
    }

    pub async fn authenticate(&mut self, keys: &Keys) -> (bool, String) {
        let answer = nexus_nostr::auth::answer(Head::new(npub(keys), now()), &self.url, &self.challenge);
        self.send_auth(&sign(answer, keys, &[9; 32]).unwrap()).await
    }

    pub async fn send_auth(&mut self, event: &Event) -> (bool, String) {
        self.send(json!(["AUTH", event])).await;
        let answer = self.next().await;
        assert_eq!(answer[0], "OK", "{answer}");
        (answer[2].as_bool().unwrap(), answer[3].as_str().unwrap().to_owned())
    }
}

pub fn clock() -> Arc<TestClock> {
    Arc::new(TestClock::default())
}

pub fn now() -> i64 {
    clock().now().secs()
}

pub fn keys(n: u8) -> Keys {
    Keys::new(SecretKey::from_slice(&[n; 32]).unwrap())
}

pub fn npub(keys: &Keys) -> Npub {
    event::npub(&keys.public_key())
}

pub fn tags<const N: usize>(tags: [[&str; 2]; N]) -> Vec<Tag> {
    tags.into_iter().map(event::tag).collect()
}

/// A signed event of now.
pub fn build(keys: &Keys, kind: u16, tags: Vec<Tag>, content: &str) -> Event {
    build_at(keys, now(), kind, tags, content)
}

pub fn build_at(keys: &Keys, at: i64, kind: u16, tags: Vec<Tag>, content: &str) -> Event {
    sign(Head::new(npub(keys), at).unsigned(kind, tags, content), keys, &[5; 32]).unwrap()
}

pub fn open() -> RelayConfig {
    RelayConfig::development()
}

/// Production rules, without counting the tests' own address.
pub fn closed() -> RelayConfig {
    RelayConfig { trust_loopback: true, ..RelayConfig::default() }
}

/// A signer over a key at hand.
pub struct KeySigner(pub Keys);

impl Signer for KeySigner {
    fn public_key(&self) -> Npub {
        npub(&self.0)
    }

    fn sign(&self, unsigned: UnsignedEvent) -> BoxFuture<'_, Result<Event, SignerError>> {
        async move { sign(unsigned, &self.0, &[6; 32]).map_err(|_| SignerError::Cipher("cannot sign")) }.boxed()
    }

    fn nip44_encrypt<'a>(&'a self, peer: &'a Npub, text: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        let nonce = nip44::Nonce::V2([8; 32]);
        let sealed = nip44::encrypt_with_nonce(self.0.secret_key(), &event::public_key(peer), text, nonce);
        async move { sealed.map_err(|_| SignerError::Cipher("nip44")) }.boxed()
    }

    fn nip44_decrypt<'a>(&'a self, peer: &'a Npub, text: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        let opened = nip44::decrypt(self.0.secret_key(), &event::public_key(peer), text);
        async move { opened.map_err(|_| SignerError::Cipher("nip44")) }.boxed()
    }

    fn nip04_encrypt<'a>(&'a self, _: &'a Npub, _: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        async { Err(SignerError::Cipher("not in these tests")) }.boxed()
    }

    fn nip04_decrypt<'a>(&'a self, _: &'a Npub, _: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        async { Err(SignerError::Cipher("not in these tests")) }.boxed()
    }
}
