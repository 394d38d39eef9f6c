//! The task behind one connection: connect when there is work, serve, pause, connect again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nexus_core::time::random;
use nexus_seal::Signer;
use nostr::event::EventId;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use super::address::RelayAddress;
use super::seat::Seat;
use super::{Inner, Notice, PublishError};

/// Largest message that a relay may send, in bytes.
const MAX_MESSAGE: usize = 512 * 1024;
/// A connection that lived this long starts its pauses over.
const STABLE: Duration = Duration::from_secs(10);

pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// An event on its way.
pub(super) struct Outgoing {
    pub(super) id: EventId,
    pub(super) frame: Arc<str>,
    pub(super) auth: Option<Arc<dyn Signer>>,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<(), PublishError>>,
}

pub(super) enum Command {
    Subscribe(Seat),
    Publish(Outgoing),
}

/// What the pool knows of a connection.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) serial: u64,
    pub(super) commands: mpsc::Sender<Command>,
    /// Wakes the task to look for subscriptions that were dropped or want to be repeated.
    pub(super) sweep: Arc<Notify>,
    pub(super) seats: Arc<AtomicUsize>,
    pub(super) connected: Arc<AtomicBool>,
}

/// The task's own side.
pub(super) struct Connection {
    pub(super) pool: Arc<Inner>,
    pub(super) address: RelayAddress,
    pub(super) relay: Arc<str>,
    pub(super) handle: Handle,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) seats: HashMap<u64, Seat>,
}

impl Connection {
    /// Runs until the pool is shut down, or there was nothing to do for the idle time.
    pub(super) async fn run(mut self) {
        let mut failures = 0;
        let cancelled = self.pool.cancel.clone();
        loop {
            let up_since = Instant::now();
            let ended = self.connect_and_serve().await;
            self.handle.connected.store(false, Ordering::Release);
            let Err(why) = ended else { return };
            tracing::debug!(relay = %self.relay, %why, "relay connection ended");
            self.tell_down(&why);
            failures = if up_since.elapsed() > STABLE { 0 } else { failures + 1 };
            tokio::select! {
                () = cancelled.cancelled() => return,
                retired = self.pause(failures, &why) => if retired { return },
            }
        }
    }

    async fn connect_and_serve(&mut self) -> Result<(), String> {
        let cancelled = self.pool.cancel.clone();
        let socket = tokio::select! {
            () = cancelled.cancelled() => return Ok(()),
            socket = timeout(self.pool.config.connect_timeout, connect(&self.address)) => socket,
        };
        let socket = socket.map_err(|_| "no connection in time".to_owned())??;
        self.handle.connected.store(true, Ordering::Release);
        super::session::serve(self, socket).await
    }

    /// Waits before the next attempt. What arrives meanwhile is seated, or told that the relay is away.
    async fn pause(&mut self, failures: u32, why: &str) -> bool {
        let (first, longest) = self.pool.config.backoff;
        let ceiling = first.saturating_mul(1_u32 << failures.min(20)).min(longest);
        let share = u32::from(u16::from_le_bytes(random(&*self.pool.entropy)));
        let until = Instant::now() + ceiling / 2 + (ceiling / 2).saturating_mul(share) / 65_536;
        loop {
            let sweep = self.handle.sweep.clone();
            tokio::select! {
                () = sleep(until.saturating_duration_since(Instant::now())) => break,
                () = sweep.notified() => self.drop_abandoned(),
                command = self.commands.recv() => match command {
                    None => return true,
                    Some(Command::Subscribe(seat)) => self.seat(seat),
                    Some(Command::Publish(outgoing)) => refuse(outgoing, why),
                },
            }
        }
        self.seats.is_empty() && self.retire()
    }

    pub(super) fn seat(&mut self, seat: Seat) {
        self.seats.insert(seat.shared.id, seat);
    }

    /// Forgets subscriptions that nobody reads any more.
    pub(super) fn drop_abandoned(&mut self) {
        let before = self.seats.len();
        self.seats.retain(|_, seat| !seat.abandoned());
        self.handle.seats.fetch_sub(before - self.seats.len(), Ordering::AcqRel);
    }

    fn tell_down(&mut self, why: &str) {
        for seat in self.seats.values_mut().filter(|seat| !seat.told_down) {
            seat.told_down =
                seat.tell(Notice::Closed { relay: self.relay.clone(), reason: format!("unreachable: {why}") });
        }
    }

    /// Leaves the pool, unless something arrived at the last moment.
    pub(super) fn retire(&mut self) -> bool {
        let mut connections = self.pool.connections();
        if !self.commands.is_empty() || self.handle.seats.load(Ordering::Acquire) > 0 {
            return false;
        }
        if let Some(same_relay) = connections.get_mut(self.address.as_str()) {
            same_relay.retain(|handle| handle.serial != self.handle.serial);
            if same_relay.is_empty() {
                connections.remove(self.address.as_str());
            }
        }
        true
    }
}

fn refuse(outgoing: Outgoing, why: &str) {
    let _ = outgoing.answer.send(Err(PublishError::Unreachable(why.to_owned())));
}

/// Connects to the addresses that the name has now, and to no other.
async fn connect(address: &RelayAddress) -> Result<Socket, String> {
    let mut last = "no address".to_owned();
    for target in address.resolve().await? {
        match TcpStream::connect(target).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                let config = WebSocketConfig::default()
                    .max_message_size(Some(MAX_MESSAGE))
                    .max_frame_size(Some(MAX_MESSAGE))
                    .max_write_buffer_size(4 * MAX_MESSAGE);
                let handshake = client_async_tls_with_config(address.as_str(), stream, Some(config), None);
                return handshake.await.map(|(socket, _)| socket).map_err(|error| short(&error.to_string()));
            }
            Err(error) => last = short(&error.to_string()),
        }
    }
    Err(last)
}

/// The first 256 characters: a relay's words are not trusted to be short.
pub(super) fn short(text: &str) -> String {
    text.chars().take(256).collect()
}
