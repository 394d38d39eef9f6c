//! People who write to the agents all the time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use nexus_core::time::random;
use nexus_nostr::event::{Head, npub, sign, tag};
use nexus_testkit::SystemEntropy;
use nostr::event::Event;
use nostr::key::{Keys, PublicKey, SecretKey};
use nostr::nips::nip04;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{STUCK_SECS, now_ms};
use crate::common::eventually;

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone)]
pub struct Sent {
    agent: String,
    kind: u16,
    id: String,
    from: String,
    /// The relay said OK true: it must be answered. Otherwise it may be.
    pub acknowledged: bool,
}

impl Sent {
    pub fn key(&self) -> (String, String) {
        (self.agent.clone(), if self.kind == 1 { self.id.clone() } else { self.from.clone() })
    }
}

/// People who write to agents, until told to stop. Whoever hears no OK sends the same event again.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<Mutex<Vec<Sent>>>,
    agents: Vec<String>,
    thread: JoinHandle<()>,
}

impl Load {
    pub fn start(relay: &str, agents: Vec<String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(Mutex::new(Vec::new()));
        let mut people = People {
            relay: relay.to_owned(),
            agents: agents.clone(),
            stop: stop.clone(),
            sent: sent.clone(),
            socket: None,
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(people.write());
        });
        Self { stop, sent, agents, thread }
    }

    fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }

    /// Waits until every agent was sent something more, and the relay took it.
    pub fn round(&self) {
        let before = self.sent().len();
        let all = eventually(STUCK_SECS, || {
            let sent = self.sent();
            let later: BTreeSet<&String> =
                sent[before..].iter().filter(|sent| sent.acknowledged).map(|sent| &sent.agent).collect();
            self.agents.iter().all(|agent| later.contains(agent)).then_some(())
        });
        assert!(all.is_some(), "the relay takes no messages: {:?}", self.sent().last());
    }

    pub fn finish(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        let sent = self.sent.lock().unwrap();
        sent.clone()
    }
}

struct People {
    relay: String,
    agents: Vec<String>,
    stop: Arc<AtomicBool>,
    sent: Arc<Mutex<Vec<Sent>>>,
    socket: Option<WebSocketStream<tokio::net::TcpStream>>,
}

impl People {
    async fn write(&mut self) {
        for number in 0_usize.. {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let agent = self.agents[number % self.agents.len()].clone();
            // Every fifth is a direct message: with eight agents, each gets both.
            let kind = if number % 5 == 4 { 4 } else { 1 };
            let (event, from) = message(&agent, kind, number);
            let sent = Sent { agent, kind, id: event.id.to_hex(), from, acknowledged: false };
            self.sent.lock().unwrap().push(sent);
            while !self.deliver(&event).await {
                self.socket = None;
                if self.stop.load(Ordering::SeqCst) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            self.sent.lock().unwrap()[number].acknowledged = true;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether the relay said OK true.
    async fn deliver(&mut self, event: &Event) -> bool {
        let attempt = async {
            if self.socket.is_none() {
                let address = self.relay.trim_start_matches("ws://").trim_end_matches('/');
                let stream = tokio::net::TcpStream::connect(address).await.ok()?;
                self.socket = Some(client_async(&self.relay, stream).await.ok()?.0);
            }
            let socket = self.socket.as_mut()?;
            socket.send(Message::text(json!(["EVENT", event]).to_string())).await.ok()?;
            loop {
                let Message::Text(text) = socket.next().await?.ok()? else { continue };
                let frame: Value = serde_json::from_str(&text).ok()?;
                if frame[0] == "OK" && frame[1] == event.id.to_hex() {
                    return frame[2].as_bool();
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), attempt).await.ok().flatten().unwrap_or(false)
    }
}

fn message(agent: &str, kind: u16, number: usize) -> (Event, String) {
    let keys = Keys::new(SecretKey::from_slice(&random::<32>(&SystemEntropy)).unwrap());
    let text = format!("Hello number {number}, who are you?");
    let content = if kind == 4 {
        let reader = PublicKey::from_hex(agent).unwrap();
        nip04::encrypt_with_iv(keys.secret_key(), &reader, text, random(&SystemEntropy)).unwrap()
    } else {
        text
    };
    let head = Head::new(npub(&keys.public_key()), now_ms() / 1_000);
    let event = sign(head.unsigned(kind, vec![tag(["p", agent])], content), &keys, &[7; 32]).unwrap();
    (event, keys.public_key().to_hex())
}
