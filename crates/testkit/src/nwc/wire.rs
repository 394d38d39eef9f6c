//! The service's side of NIP-47's events, and its connection to a relay.

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use nexus_core::{Clock, UnixMs};
use nostr::event::{Event, EventId, Kind, Tag, UnsignedEvent};
use nostr::key::{Keys, PublicKey};
use nostr::nips::{nip04, nip44};
use nostr::types::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use super::World;
use crate::SystemEntropy;

const INFO: u16 = 13_194;
const REQUEST: u16 = 23_194;
const RESPONSE: u16 = 23_195;

fn random<const N: usize>() -> [u8; N] {
    nexus_core::time::random(&SystemEntropy)
}

fn signed(keys: &Keys, at: UnixMs, kind: u16, tags: Vec<Tag>, content: String) -> Event {
    let at = Timestamp::from_secs(at.secs().unsigned_abs());
    let unsigned = UnsignedEvent::new(keys.public_key(), at, Kind::from_u16(kind), tags, content);
    let id = unsigned.compute_id();
    let signature = keys.sign_schnorr_with_aux_rand(secp256k1::SECP256K1, id.as_bytes(), &random());
    unsigned.add_signature(signature).expect("its own signature")
}

fn closed(keys: &Keys, to: &PublicKey, text: &str, modern: bool) -> String {
    if modern {
        nip44::encrypt_with_nonce(keys.secret_key(), to, text, nip44::Nonce::V2(random())).expect("a text")
    } else {
        nip04::encrypt_with_iv(keys.secret_key(), to, text, random()).expect("a text")
    }
}

pub(super) fn tagged<'a>(event: &'a Event, name: &str) -> Option<&'a str> {
    let row = event.tags.iter().map(Tag::as_slice).find(|row| row.first().is_some_and(|it| it == name))?;
    row.get(1).map(String::as_str)
}

/// Whether a request asks to be answered in NIP-44.
pub(super) fn is_modern(event: &Event) -> bool {
    tagged(event, "encryption") == Some("nip44_v2")
}

pub(super) fn opened(keys: &Keys, event: &Event) -> Option<Value> {
    let text = if is_modern(event) {
        nip44::decrypt(keys.secret_key(), &event.pubkey, &event.content).ok()?
    } else {
        nip04::decrypt(keys.secret_key(), &event.pubkey, &event.content).ok()?
    };
    serde_json::from_str(&text).ok()
}

pub(super) fn answer(keys: &Keys, clock: &dyn Clock, to: &Event, text: &str, modern: bool) -> Event {
    let tags = vec![Tag::custom("p", [to.pubkey.to_hex()]), Tag::custom("e", [to.id.to_hex()])];
    signed(keys, clock.now(), RESPONSE, tags, closed(keys, &to.pubkey, text, modern))
}

pub(super) fn garbage(keys: &Keys, clock: &dyn Clock, to: &Event) -> Event {
    let tags = vec![Tag::custom("p", [to.pubkey.to_hex()]), Tag::custom("e", [to.id.to_hex()])];
    signed(keys, clock.now(), RESPONSE, tags, "not what was encrypted".to_owned())
}

pub(super) fn notification(keys: &Keys, clock: &dyn Clock, client: &PublicKey, text: &str, modern: bool) -> Event {
    let kind = if modern { 23_197 } else { 23_196 };
    let tags = vec![Tag::custom("p", [client.to_hex()])];
    signed(keys, clock.now(), kind, tags, closed(keys, client, text, modern))
}

/// What each wallet says of itself.
fn infos(world: &World) -> Vec<Event> {
    let mut state = world.lock();
    state.told_s = world.clock.now().secs().max(state.told_s + 1);
    let at = UnixMs::from_secs(state.told_s);
    let info = |app: &super::books::App| {
        let mut tags = Vec::new();
        if app.guise.modern {
            tags.push(Tag::custom("encryption", ["nip44_v2 nip04"]));
        }
        if app.guise.tells {
            tags.push(Tag::custom("notifications", ["payment_received payment_sent"]));
        }
        signed(&app.wallet, at, INFO, tags, app.guise.methods.join(" "))
    };
    state.books.apps.iter().map(info).collect()
}

/// Serves until it is aborted; connects anew after whatever ends a connection.
pub(super) async fn serve(world: Arc<World>, relay: String, ready: watch::Sender<bool>) {
    loop {
        if let Some(end) = connected(&world, &relay, &ready).await {
            eprintln!("the wallet service's relay: {end}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn connected(world: &Arc<World>, relay: &str, ready: &watch::Sender<bool>) -> Option<String> {
    let authority = relay.trim_start_matches("ws://").trim_end_matches('/');
    let stream = TcpStream::connect(authority).await.map_err(|error| error.to_string());
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => return Some(error),
    };
    let (mut socket, _) = match client_async(relay, stream).await {
        Ok(socket) => socket,
        Err(error) => return Some(error.to_string()),
    };
    let wallets: Vec<String> = world.lock().books.apps.iter().map(|app| app.wallet.public_key().to_hex()).collect();
    let since = world.clock.now().secs();
    let request = json!(["REQ", "requests", { "kinds": [REQUEST], "#p": wallets, "since": since - 60 }]);
    let mut first: Vec<String> = infos(world).iter().map(|event| json!(["EVENT", event]).to_string()).collect();
    let mut awaited: Vec<EventId> = Vec::new();
    for frame in &first {
        if let Some(id) =
            serde_json::from_str::<Value>(frame).ok().and_then(|it| EventId::from_hex(it[1]["id"].as_str()?).ok())
        {
            awaited.push(id);
        }
    }
    first.push(request.to_string());
    for frame in first {
        if let Err(error) = socket.send(Message::text(frame)).await {
            return Some(error.to_string());
        }
    }
    let (tell, mut told) = mpsc::unbounded_channel::<Event>();
    *world.tell.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(tell.clone());
    // Dropped with this connection: what was not answered is not answered.
    let mut tasks = JoinSet::new();
    let mut stored = false;
    loop {
        tokio::select! {
            Some(event) = told.recv() => {
                if let Err(error) = socket.send(Message::text(json!(["EVENT", event]).to_string())).await {
                    return Some(error.to_string());
                }
            }
            Some(_) = tasks.join_next() => {}
            frame = socket.next() => {
                let text = match frame {
                    Some(Ok(Message::Text(text))) => text,
                    Some(Ok(Message::Close(_))) | None => return Some("closed".to_owned()),
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Some(error.to_string()),
                };
                let frame: Value = serde_json::from_str(&text).unwrap_or_default();
                match frame[0].as_str() {
                    Some("EVENT") => {
                        if let Ok(event) = serde_json::from_value::<Event>(frame[2].clone()) {
                            tasks.spawn(super::calls::heard(world.clone(), event, tell.clone()));
                        }
                    }
                    Some("OK") => awaited.retain(|id| Some(id.to_hex().as_str()) != frame[1].as_str()),
                    Some("EOSE") => stored = true,
                    _ => {}
                }
                if stored && awaited.is_empty() {
                    let _ = ready.send(true);
                }
            }
        }
    }
}
