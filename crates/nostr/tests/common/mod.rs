//! Keys at hand, and a relay that does what a test tells it: the faults that a real one cannot be told to make.
#![expect(dead_code, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, SinkExt, StreamExt};
use nexus_core::{Clock, Npub};
use nexus_nostr::event::{self, Head, sign};
use nexus_seal::{BoxFuture, Signer, SignerError};
use nexus_testkit::TestClock;
use nostr::event::{Event, Tag, UnsignedEvent};
use nostr::key::{Keys, SecretKey};
use nostr::nips::{nip04, nip44};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};

pub fn keys(n: u8) -> Keys {
    Keys::new(SecretKey::from_slice(&[n; 32]).unwrap())
}

pub fn npub(keys: &Keys) -> Npub {
    event::npub(&keys.public_key())
}

pub fn clock() -> Arc<TestClock> {
    Arc::new(TestClock::default())
}

pub fn now() -> i64 {
    clock().now().secs()
}

pub fn head(keys: &Keys) -> Head {
    Head::new(npub(keys), now())
}

pub fn signed(keys: &Keys, unsigned: UnsignedEvent) -> Event {
    sign(unsigned, keys, &[4; 32]).unwrap()
}

pub fn build(keys: &Keys, kind: u16, tags: Vec<Tag>, content: &str) -> Event {
    signed(keys, head(keys).unsigned(kind, tags, content))
}

pub fn tags<const N: usize>(tags: [&[&str]; N]) -> Vec<Tag> {
    tags.into_iter().map(|tag| Tag::parse(tag.iter().copied()).unwrap()).collect()
}

/// A signer over a key at hand.
pub struct KeySigner(pub Keys);

impl Signer for KeySigner {
    fn public_key(&self) -> Npub {
        npub(&self.0)
    }

    fn sign(&self, unsigned: UnsignedEvent) -> BoxFuture<'_, Result<Event, SignerError>> {
        async move { sign(unsigned, &self.0, &[6; 32]).map_err(|_| SignerError::Cipher("sign")) }.boxed()
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

    fn nip04_encrypt<'a>(&'a self, peer: &'a Npub, text: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        let sealed = nip04::encrypt_with_iv(self.0.secret_key(), &event::public_key(peer), text, [3; 16]);
        async move { sealed.map_err(|_| SignerError::Cipher("nip04")) }.boxed()
    }

    fn nip04_decrypt<'a>(&'a self, peer: &'a Npub, text: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        let opened = nip04::decrypt(self.0.secret_key(), &event::public_key(peer), text);
        async move { opened.map_err(|_| SignerError::Cipher("nip04")) }.boxed()
    }
}

/// A listener whose connections a test plays by hand.
pub struct Puppet {
    listener: TcpListener,
    pub url: String,
}

pub struct Side(WebSocketStream<TcpStream>);

impl Puppet {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        Self { listener, url }
    }

    /// The next connection of the pool.
    pub async fn accept(&self) -> Side {
        let accepted = tokio::time::timeout(Duration::from_secs(5), self.listener.accept()).await;
        let (stream, _) = accepted.expect("a connection in time").unwrap();
        Side(accept_async(stream).await.unwrap())
    }
}

impl Side {
    pub async fn next(&mut self) -> Value {
        let read = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                    Some(Ok(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), read).await.expect("a frame in time")
    }

    pub async fn send(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    pub async fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text.to_owned())).await.unwrap();
    }
}
