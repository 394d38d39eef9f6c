//! Following an agent's events over a WebSocket, across lost connections and without gaps.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt, StreamExt};
use nexus_core::event::AgentEvent;
use nexus_core::time::random;
use nexus_core::{Entropy, Hash32, Npub};
use reqwest::header::AUTHORIZATION;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::api::{Api, problem};
use crate::error::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which the other side is asked whether it lives; twice that, and it does not.
const IDLE: Duration = Duration::from_secs(30);
const BACKOFF_FIRST_MS: u64 = 500;
const BACKOFF_MOST_MS: u64 = 15_000;
/// Largest message that is taken, in bytes.
const MAX_MESSAGE: usize = 1024 * 1024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What a follower is told.
#[derive(Debug)]
pub enum Heard<'a> {
    /// One event, in order of `seq`, each once.
    Event(&'a Value),
    /// The connection is lost and will be tried again.
    Lost { why: &'a str, again_in_ms: u64 },
}

/// Hands every event after `after` to `hear`, and stays for those to come, until `hear` says to stop.
///
/// A lost connection is taken up again after the last event that was heard. What the host refuses (no such agent, not
/// allowed, events pruned) ends it.
pub async fn follow(
    api: &Api,
    npub: &Npub,
    after: Option<u64>,
    mut hear: impl FnMut(Heard<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut last = after;
    let mut backoff_ms = BACKOFF_FIRST_MS;
    let mut ever = false;
    loop {
        let why = match connect(api, npub, last).await {
            Ok(socket) => {
                (ever, backoff_ms) = (true, BACKOFF_FIRST_MS);
                match listen(socket, &mut last, &mut hear).await {
                    Ended::Told => return Ok(()),
                    Ended::Lost(why) => why,
                }
            }
            // A host that was never there is an error; one that went away may come back.
            Err(Error::Unreachable { why, .. }) if ever => why,
            Err(error) => return Err(error),
        };
        let again_in_ms = jitter(backoff_ms, &*api.entropy);
        if hear(Heard::Lost { why: &why, again_in_ms }).is_break() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(again_in_ms)).await;
        backoff_ms = (backoff_ms * 2).min(BACKOFF_MOST_MS);
    }
}

enum Ended {
    Told,
    Lost(String),
}

async fn listen(
    mut socket: Socket,
    last: &mut Option<u64>,
    hear: &mut impl FnMut(Heard<'_>) -> ControlFlow<()>,
) -> Ended {
    let mut silent = false;
    loop {
        let message = match tokio::time::timeout(IDLE, socket.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return Ended::Lost(error.to_string()),
            Ok(None) => return Ended::Lost("the host closed the stream".to_owned()),
            Err(_) if silent => return Ended::Lost("the host fell silent".to_owned()),
            Err(_) => {
                silent = true;
                if socket.send(Message::Ping(Vec::new().into())).await.is_err() {
                    return Ended::Lost("the connection is gone".to_owned());
                }
                continue;
            }
        };
        silent = false;
        let text = match message {
            Message::Text(text) => text,
            Message::Close(frame) => {
                let reason = frame.map(|frame| frame.reason.to_string()).filter(|reason| !reason.is_empty());
                return Ended::Lost(reason.unwrap_or_else(|| "the host closed the stream".to_owned()));
            }
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        let Ok(event) = serde_json::from_str::<Value>(text.as_str()) else { continue };
        let Some(seq) = event["seq"].as_u64() else { continue };
        // After a reconnect the host may repeat; it must not skip.
        match *last {
            Some(last) if seq <= last => continue,
            Some(last) if seq - last > 1 => {
                return Ended::Lost(format!("events {} to {} are missing", last + 1, seq - 1));
            }
            _ => *last = Some(seq),
        }
        if hear(Heard::Event(&event)).is_break() {
            let _ = socket.close(None).await;
            return Ended::Told;
        }
    }
}

async fn connect(api: &Api, npub: &Npub, after: Option<u64>) -> Result<Socket, Error> {
    let query = after.map(|seq| format!("?after={seq}")).unwrap_or_default();
    let url = api.url(&format!("/v1/agents/{npub}/events{query}"))?;
    let authorization = api.authorization("GET", &url, None, None).await?;
    let unreachable = |why: String| Error::Unreachable { url: api.origin().to_string(), why };
    // The request is signed for the http URL, which is what the host knows itself by.
    let text = match url.as_str().strip_prefix("http") {
        Some(rest) => format!("ws{rest}"),
        None => url.to_string(),
    };
    let mut request = text.into_client_request().map_err(|error| unreachable(error.to_string()))?;
    if let Some(value) = authorization {
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    match tokio::time::timeout(CONNECT_TIMEOUT, open(request)).await {
        Err(_) => Err(unreachable("no answer in time".to_owned())),
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(tungstenite::Error::Http(response))) => {
            let body = response.body().as_deref().unwrap_or_default();
            Err(Error::Api(problem(response.status(), body, None)))
        }
        Ok(Err(error)) => Err(unreachable(error.to_string())),
    }
}

/// The one place where this crate opens a WebSocket: to the host of the context, which is the user's own choice. Relays go
/// through the relay pool.
async fn open(request: tungstenite::handshake::client::Request) -> Result<Socket, tungstenite::Error> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let connected = tokio_tungstenite::connect_async_with_config(request, Some(config), true).await;
    connected.map(|(socket, _)| socket)
}

/// Between half and one and a half of this many milliseconds.
fn jitter(ms: u64, entropy: &dyn Entropy) -> u64 {
    let random = u64::from(u16::from_be_bytes(random(entropy)));
    ms / 2 + ms * random / u64::from(u16::MAX)
}

/// Follows the hash chain of an agent's events: that none is missing, changed or put in between.
///
/// Each event's hash is `SHA-256(hash before | SHA-256(at | length of body | body | sealed))`, numbers as eight bytes, big
/// endian; the chain begins at the SHA-256 of `nexus events of ` and the agent's key.
#[derive(Debug)]
pub struct Chain {
    npub: Npub,
    /// Of the last event: its hash and its number.
    head: Hash32,
    last: i64,
    checked: u64,
}

impl Chain {
    /// From the end of what the host says it has pruned: the event that follows must be there, and follow.
    pub fn after(npub: Npub, seq: i64, head: Hash32) -> Self {
        // Where nothing was pruned, the beginning is known.
        let head = if seq == 0 { genesis(&npub) } else { head };
        Self { npub, head, last: seq, checked: 0 }
    }

    /// Whether the events go on to where the host says that they end.
    pub fn reaches(&self, seq: i64, head: Hash32) -> Result<(), String> {
        match self.last.cmp(&seq) {
            Ordering::Less => Err(format!("events {} to {seq} are missing", self.last + 1)),
            Ordering::Equal if self.head != head => Err("the last event is not the head".to_owned()),
            // More came since the end was asked for.
            Ordering::Equal | Ordering::Greater => Ok(()),
        }
    }

    /// How many events were found in order.
    pub const fn checked(&self) -> u64 {
        self.checked
    }

    /// The hash of the last event.
    pub const fn head(&self) -> Hash32 {
        self.head
    }

    /// Takes the next event, as the API gives it. `Err` names the first that does not fit.
    pub fn take(&mut self, event: &Value) -> Result<(), String> {
        let parsed: AgentEvent =
            serde_json::from_value(event.clone()).map_err(|error| format!("unreadable: {error}"))?;
        let seq = parsed.seq;
        let said: Hash32 =
            event["hash"].as_str().and_then(|text| text.parse().ok()).ok_or(format!("event {seq} has no hash"))?;
        if parsed.npub != self.npub {
            return Err(format!("event {seq} is of another agent"));
        }
        if seq != self.last.saturating_add(1) {
            return Err(format!("event {seq} follows {}: some are missing", self.last));
        }
        let sealed = event["sealed"].as_str().map(|text| STANDARD.decode(text)).transpose();
        let sealed = sealed.map_err(|_| format!("event {seq}: its sealed part is not base64"))?;
        let digest = digest(&parsed, sealed.as_deref().unwrap_or_default())?;
        if Hash32::sha256(&[*self.head.as_bytes(), *digest.as_bytes()].concat()) != said {
            return Err(format!("event {seq} was changed, or something before it"));
        }
        (self.last, self.head) = (seq, said);
        self.checked += 1;
        Ok(())
    }
}

fn genesis(npub: &Npub) -> Hash32 {
    Hash32::sha256(&[b"nexus events of ".as_slice(), npub.as_bytes()].concat())
}

fn digest(event: &AgentEvent, sealed: &[u8]) -> Result<Hash32, String> {
    let body = serde_json::to_string(&event.body).map_err(|error| error.to_string())?;
    let mut bytes = event.at.0.to_be_bytes().to_vec();
    bytes.extend((body.len() as u64).to_be_bytes());
    bytes.extend(body.as_bytes());
    bytes.extend(sealed);
    Ok(Hash32::sha256(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_core::UnixMs;
    use nexus_core::event::EventBody;

    fn chained(npub: Npub, count: i64) -> Vec<Value> {
        let mut head = genesis(&npub);
        let event = |seq| {
            let body = EventBody::BalanceChanged { balance_sats: seq as u64 };
            let event = AgentEvent { seq, at: UnixMs(seq * 10), npub, body };
            let sealed = b"sealed".as_slice();
            head = Hash32::sha256(&[*head.as_bytes(), *digest(&event, sealed).unwrap().as_bytes()].concat());
            let mut value = serde_json::to_value(&event).unwrap();
            value["hash"] = serde_json::json!(head);
            value["sealed"] = serde_json::json!(STANDARD.encode(sealed));
            value
        };
        (1..=count).map(event).collect()
    }

    #[test]
    fn an_honest_chain_holds_and_any_change_breaks_it() {
        let npub = Npub::from_bytes([5; 32]);
        let events = chained(npub, 6);
        let head = |seq: usize| events[seq - 1]["hash"].as_str().unwrap().parse::<Hash32>().unwrap();
        let after = |seq, head, events: &[Value]| {
            let mut chain = Chain::after(npub, seq, head);
            events.iter().try_for_each(|event| chain.take(event)).map(|()| chain)
        };
        // Nothing was pruned, whatever hash is said to be before it.
        let run = |events: &[Value]| after(0, Hash32::ZERO, events).map(|chain| chain.checked());
        assert_eq!(run(&events), Ok(6));
        assert!(run(&events[2..]).unwrap_err().contains("missing"));
        // Pruned at the front: what is kept still follows.
        let chain = after(2, head(2), &events[2..]).unwrap();
        assert_eq!((chain.checked(), chain.reaches(6, head(6)), chain.reaches(5, head(5))), (4, Ok(()), Ok(())));
        assert!(chain.reaches(7, head(6)).unwrap_err().contains("7"));
        assert!(chain.reaches(6, head(5)).is_err());
        assert!(after(2, head(1), &events[2..]).unwrap_err().contains("event 3"), "another pruned head");
        assert!(after(1, head(1), &events[2..]).unwrap_err().contains("missing"));
        assert!(after(i64::MAX, head(1), &events).unwrap_err().contains("missing"));
        let mut missing = events.clone();
        missing.remove(3);
        assert!(run(&missing).unwrap_err().contains("missing"));
        for (name, value) in [("balance_sats", 99.into()), ("at", 1.into()), ("sealed", "AAAA".into())] {
            let mut changed = events.clone();
            changed[3][name] = value;
            assert!(run(&changed).unwrap_err().contains("event 4"), "{name}");
        }
    }

    #[test]
    fn waits_stay_near_what_was_meant() {
        let entropy = nexus_testkit::SeededEntropy::new(1);
        for _ in 0..200 {
            let ms = jitter(1_000, &entropy);
            assert!((500..=1_500).contains(&ms), "{ms}");
        }
    }
}
