use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use nexus_nostr::filter;
use nostr::event::Event;
use nostr::filter::Filter;
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// NIP-01 in memory: keeps everything that is published, ephemeral or not.
#[derive(Clone)]
pub struct Relay {
    address: SocketAddr,
    store: Arc<Mutex<Vec<Event>>>,
    live: broadcast::Sender<Event>,
    refuses: Arc<std::sync::atomic::AtomicBool>,
}

impl Relay {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            store: Arc::default(),
            live: broadcast::Sender::new(4_096),
            refuses: Arc::default(),
        };
        let app = Router::new().route("/", get(upgrade)).with_state(relay.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        relay
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Everything that was published, in order of arrival.
    pub fn events(&self) -> Vec<Event> {
        self.store.lock().unwrap().clone()
    }

    /// Answers `OK false` from now on, or takes events again.
    pub fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, std::sync::atomic::Ordering::SeqCst);
    }

    fn take(&self, event: Event) -> bool {
        if self.refuses.load(std::sync::atomic::Ordering::SeqCst) {
            return false;
        }
        let mut store = self.store.lock().unwrap();
        // A repeated event is sent on again, though not stored again: some relays do.
        if !store.iter().any(|known| known.id == event.id) {
            store.push(event.clone());
        }
        let _ = self.live.send(event);
        true
    }
}

async fn upgrade(State(relay): State<Relay>, upgrade: WebSocketUpgrade) -> axum::response::Response {
    upgrade.on_upgrade(move |socket| serve(relay, socket))
}

async fn serve(relay: Relay, mut socket: WebSocket) {
    let mut live = relay.live.subscribe();
    let mut subscriptions: Vec<(String, Vec<Filter>)> = Vec::new();
    loop {
        tokio::select! {
            frame = socket.recv() => {
                let Some(Ok(frame)) = frame else { return };
                let Message::Text(text) = frame else { continue };
                for answer in handle(&relay, &mut subscriptions, &text) {
                    if socket.send(Message::Text(answer.to_string().into())).await.is_err() { return }
                }
            }
            event = live.recv() => {
                let Ok(event) = event else { return };
                for (name, filters) in &subscriptions {
                    if filter::any(filters, &event) {
                        let frame = json!(["EVENT", name, event]).to_string();
                        if socket.send(Message::Text(frame.into())).await.is_err() { return }
                    }
                }
            }
        }
    }
}

fn handle(relay: &Relay, subscriptions: &mut Vec<(String, Vec<Filter>)>, text: &str) -> Vec<Value> {
    let Ok(Value::Array(frame)) = serde_json::from_str(text) else { return Vec::new() };
    let name = frame.get(1).and_then(Value::as_str).unwrap_or_default().to_owned();
    match frame.first().and_then(Value::as_str) {
        Some("EVENT") => {
            let event: Event = serde_json::from_value(frame[1].clone()).unwrap();
            let id = event.id.to_hex();
            let taken = relay.take(event);
            vec![json!(["OK", id, taken, if taken { "" } else { "blocked: not now" }])]
        }
        Some("REQ") => {
            let filters: Vec<Filter> =
                frame[2..].iter().map(|filter| serde_json::from_value(filter.clone()).unwrap()).collect();
            let stored = relay.events().into_iter().filter(|event| filter::any(&filters, event));
            let mut answers: Vec<Value> = stored.map(|event| json!(["EVENT", name, event])).collect();
            answers.push(json!(["EOSE", name]));
            subscriptions.retain(|(known, _)| *known != name);
            subscriptions.push((name, filters));
            answers
        }
        Some("CLOSE") => {
            subscriptions.retain(|(known, _)| *known != name);
            Vec::new()
        }
        _ => Vec::new(),
    }
}
