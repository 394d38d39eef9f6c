//! One live connection: frames in and out, until it ends.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{FuturesUnordered, SplitSink, SplitStream};
use futures::{FutureExt, SinkExt, StreamExt};
use nexus_core::Npub;
use nexus_seal::{BoxFuture, Signer};
use nostr::event::{Event, EventId};
use nostr::message::RelayMessage;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::connection::{Command, Connection, Outgoing, Socket, short};
use super::seat::Seat;
use super::{Notice, PublishError};
use crate::auth;
use crate::event::Head;

/// How long one frame may take to leave.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that we end may take to go.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Frames that may wait beside events and requests.
const SPARE_FRAMES: usize = 128;
const NOT_READING: &str = "the relay does not read";
/// How long a remote signer may take to answer a challenge.
const SIGN_TIMEOUT: Duration = Duration::from_secs(15);
const PING_EVERY: Duration = Duration::from_secs(30);
/// A relay that says nothing for this long, not even a pong, is gone.
const SILENCE: Duration = Duration::from_secs(75);
/// Keys that authenticate on one connection.
const MAX_IDENTITIES: usize = 64;

type Signing = BoxFuture<'static, (Npub, Option<Event>)>;

struct Session<'a> {
    connection: &'a mut Connection,
    /// Frames on their way out: reading never waits for writing, or two full sockets would wait for each other.
    outbox: mpsc::Sender<Message>,
    challenge: Option<String>,
    /// Answers to the challenge that are being signed.
    signing: FuturesUnordered<Signing>,
    /// Authentications that wait for the relay's answer.
    asked: HashMap<EventId, Npub>,
    /// Keys that are known, on their way or refused: each is tried once a challenge.
    tried: HashSet<Npub>,
    /// Events sent, until the relay answers.
    pending: HashMap<EventId, Vec<Outgoing>>,
    heard_at: Instant,
    busy_at: Instant,
    pinged_at: Instant,
}

/// Serves until the connection ends (an error, with why) or was idle for long enough to be given up (fine).
pub(super) async fn serve(connection: &mut Connection, socket: Socket) -> Result<(), String> {
    let (sink, stream) = socket.split();
    let config = &connection.pool.config;
    let (outbox, queue) =
        mpsc::channel(2 * config.publish_queue + 2 * config.subscriptions_per_connection + SPARE_FRAMES);
    let now = Instant::now();
    let mut session = Session {
        connection,
        outbox,
        challenge: None,
        signing: FuturesUnordered::new(),
        asked: HashMap::new(),
        tried: HashSet::new(),
        pending: HashMap::new(),
        heard_at: now,
        busy_at: now,
        pinged_at: now,
    };
    let mut writer = pin!(write(sink, queue));
    let ended = tokio::select! {
        ended = session.run(stream) => ended,
        why = &mut writer => Err(why),
    };
    session.give_up();
    drop(session);
    if ended.is_ok() {
        let _ = timeout(CLOSE_TIMEOUT, writer).await;
    }
    ended
}

/// Sends what is queued until the queue or the connection ends, and says why.
async fn write(mut sink: SplitSink<Socket, Message>, mut queue: mpsc::Receiver<Message>) -> String {
    while let Some(frame) = queue.recv().await {
        match timeout(SEND_TIMEOUT, sink.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return short(&error.to_string()),
            Err(_) => return NOT_READING.into(),
        }
    }
    let _ = sink.close().await;
    "closed".into()
}

impl Session<'_> {
    async fn run(&mut self, mut stream: SplitStream<Socket>) -> Result<(), String> {
        self.begin()?;
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancelled = self.connection.pool.cancel.clone();
        let sweep = self.connection.handle.sweep.clone();
        loop {
            tokio::select! {
                () = cancelled.cancelled() => return Ok(()),
                frame = stream.next() => match frame {
                    None => return Err("the relay hung up".into()),
                    Some(Err(error)) => return Err(short(&error.to_string())),
                    Some(Ok(frame)) => self.receive(frame)?,
                },
                command = self.connection.commands.recv() => match command {
                    None => return Ok(()),
                    Some(command) => self.command(command)?,
                },
                Some((key, signed)) = self.signing.next() => self.authenticate(key, signed)?,
                () = sweep.notified() => self.sweep()?,
                _ = ticks.tick() => if self.tick()? { return Ok(()) },
            }
        }
    }

    /// Asks for everything that is subscribed.
    fn begin(&mut self) -> Result<(), String> {
        self.connection.drop_abandoned();
        let ids: Vec<u64> = self.connection.seats.keys().copied().collect();
        for id in ids {
            self.request(id)?;
        }
        Ok(())
    }

    fn send(&mut self, frame: String) -> Result<(), String> {
        self.outbox.try_send(Message::text(frame)).map_err(|_| NOT_READING.to_owned())
    }

    fn command(&mut self, command: Command) -> Result<(), String> {
        self.busy_at = Instant::now();
        match command {
            Command::Publish(outgoing) => self.publish(outgoing),
            Command::Subscribe(seat) => {
                let id = seat.shared.id;
                self.connection.seat(seat);
                self.introduce(id);
                self.request(id)
            }
        }
    }

    fn request(&mut self, id: u64) -> Result<(), String> {
        let now = self.connection.pool.clock.now().secs();
        let Some(seat) = self.connection.seats.get_mut(&id) else { return Ok(()) };
        (seat.lagged, seat.told_down, seat.closed) = (false, false, false);
        let frame = seat.request(now);
        self.send(frame)
    }

    fn publish(&mut self, outgoing: Outgoing) -> Result<(), String> {
        if self.pending.len() >= self.connection.pool.config.publish_queue {
            let _ = outgoing.answer.send(Err(PublishError::QueueFull));
            return Ok(());
        }
        let frame = outgoing.frame.to_string();
        self.pending.entry(outgoing.id).or_default().push(outgoing);
        self.send(frame)
    }

    fn receive(&mut self, frame: Message) -> Result<(), String> {
        self.heard_at = Instant::now();
        let text = match frame {
            Message::Text(text) => text,
            Message::Close(_) => return Err("the relay closed the connection".into()),
            Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_) => return Ok(()),
        };
        let Ok(message) = serde_json::from_str::<RelayMessage<'_>>(&text) else {
            tracing::debug!(relay = %self.connection.relay, "a relay said something unreadable");
            return Ok(());
        };
        let relay = self.connection.relay.clone();
        match message {
            RelayMessage::Event { subscription_id, event } => {
                if let Some(seat) = seat(self.connection, subscription_id.as_str()) {
                    seat.take(&relay, event.into_owned());
                }
            }
            RelayMessage::EndOfStoredEvents(subscription_id) => {
                let now = self.connection.pool.clock.now().secs();
                if let Some(seat) = seat(self.connection, subscription_id.as_str()) {
                    if !seat.lagged {
                        seat.heard = Some(now);
                    }
                    seat.tell(Notice::EndOfStored { relay });
                }
            }
            RelayMessage::Closed { subscription_id, message } => self.closed(subscription_id.as_str(), &message),
            RelayMessage::Ok { event_id, status, message } => self.answered(event_id, status, &message)?,
            RelayMessage::Auth { challenge } => self.challenged(&challenge),
            RelayMessage::Notice(text) => tracing::debug!(%relay, notice = %short(&text), "relay notice"),
            RelayMessage::Count { .. } | RelayMessage::NegMsg { .. } | RelayMessage::NegErr { .. } => {}
        }
        Ok(())
    }

    /// A relay that wants to know who asks is asked again once it knows; else the subscriber hears of it.
    fn closed(&mut self, name: &str, reason: &str) {
        let relay = self.connection.relay.clone();
        let in_progress = !self.signing.is_empty() || !self.asked.is_empty() || self.challenge.is_none();
        let Some(seat) = seat(self.connection, name) else { return };
        let about_auth = reason.starts_with("auth-required") || reason.starts_with("restricted");
        if about_auth && in_progress && !seat.shared.auth.is_empty() {
            seat.awaiting_auth = true;
        } else {
            seat.closed = true;
            seat.tell(Notice::Closed { relay, reason: short(reason) });
        }
    }

    fn challenged(&mut self, challenge: &str) {
        self.challenge = Some(short(challenge));
        self.tried.clear();
        let ids: Vec<u64> = self.connection.seats.keys().copied().collect();
        for id in ids {
            self.introduce(id);
        }
    }

    /// Starts the authentication of a subscription's keys.
    fn introduce(&mut self, id: u64) {
        let Some(seat) = self.connection.seats.get(&id) else { return };
        for signer in seat.shared.auth.clone() {
            self.sign_in(signer);
        }
    }

    /// Signs the challenge as one key, once.
    fn sign_in(&mut self, signer: Arc<dyn Signer>) {
        let Some(challenge) = &self.challenge else { return };
        let key = signer.public_key();
        if self.tried.len() >= MAX_IDENTITIES || !self.tried.insert(key) {
            return;
        }
        let head = Head::new(key, self.connection.pool.clock.now().secs());
        let unsigned = auth::answer(head, &self.connection.relay, challenge);
        let signing = async move {
            let signed = timeout(SIGN_TIMEOUT, signer.sign(unsigned)).await;
            (key, signed.ok().and_then(Result::ok))
        };
        self.signing.push(signing.boxed());
    }

    fn authenticate(&mut self, key: Npub, signed: Option<Event>) -> Result<(), String> {
        match signed {
            Some(event) => {
                self.asked.insert(event.id, key);
                self.send(serde_json::json!(["AUTH", event]).to_string())
            }
            None => self.introduced(key, Err("the signer did not answer")),
        }
    }

    /// A key is known to the relay, or will not be: what waited for it goes on.
    fn introduced(&mut self, key: Npub, outcome: Result<(), &str>) -> Result<(), String> {
        let relay = self.connection.relay.clone();
        let mut again = Vec::new();
        for (id, seat) in &mut self.connection.seats {
            if !seat.shared.auth.iter().any(|signer| signer.public_key() == key) {
                continue;
            }
            match outcome {
                Ok(()) => again.push(*id),
                Err(why) if seat.awaiting_auth => {
                    seat.closed = true;
                    let reason = format!("auth-required: {why}");
                    seat.tell(Notice::Closed { relay: relay.clone(), reason });
                }
                Err(_) => {}
            }
            seat.awaiting_auth = false;
        }
        for id in again {
            self.request(id)?;
        }
        let waits = |outgoing: &Outgoing| outgoing.auth.as_ref().is_some_and(|signer| signer.public_key() == key);
        let frames = self.pending.values_mut().flatten().filter(|outgoing| waits(outgoing));
        let frames: Vec<String> = frames
            .map(|outgoing| {
                outgoing.auth = None;
                outgoing.frame.to_string()
            })
            .collect();
        for frame in frames {
            self.send(frame)?;
        }
        Ok(())
    }

    fn answered(&mut self, id: EventId, accepted: bool, message: &str) -> Result<(), String> {
        if let Some(key) = self.asked.remove(&id) {
            let outcome = if accepted { Ok(()) } else { Err(message) };
            return self.introduced(key, outcome);
        }
        let Some(waiting) = self.pending.remove(&id) else { return Ok(()) };
        let accepted = accepted || message.starts_with("duplicate") || message.starts_with("replaced");
        let retry = !accepted && message.starts_with("auth-required") && self.challenge.is_some();
        for outgoing in waiting {
            match outgoing.auth.clone().filter(|_| retry) {
                Some(signer) => {
                    self.sign_in(signer);
                    self.pending.entry(id).or_default().push(outgoing);
                }
                None => {
                    let refused = || PublishError::Refused(short(message));
                    let _ = outgoing.answer.send(if accepted { Ok(()) } else { Err(refused()) });
                }
            }
        }
        Ok(())
    }

    /// Ends dropped subscriptions on the wire, and repeats those that lost something and have room again.
    fn sweep(&mut self) -> Result<(), String> {
        let seats = &self.connection.seats;
        let ended: Vec<String> = seats.values().filter(|seat| seat.abandoned()).map(Seat::name).collect();
        let again: Vec<u64> =
            seats.iter().filter(|(_, seat)| seat.lagged && !seat.abandoned()).map(|(id, _)| *id).collect();
        self.connection.drop_abandoned();
        for name in ended {
            self.send(serde_json::json!(["CLOSE", name]).to_string())?;
        }
        for id in again {
            self.request(id)?;
        }
        self.busy_at = Instant::now();
        Ok(())
    }

    /// Each second: time out what waits too long, keep the connection warm. True when it may go.
    fn tick(&mut self) -> Result<bool, String> {
        let now = Instant::now();
        for waiting in self.pending.values_mut() {
            waiting.retain(|outgoing| outgoing.deadline > now && !outgoing.answer.is_closed());
        }
        self.pending.retain(|_, waiting| !waiting.is_empty());
        if self.connection.seats.values().any(Seat::abandoned) {
            self.sweep()?;
        }
        if now.duration_since(self.heard_at) > SILENCE {
            return Err("the relay fell silent".into());
        }
        if now.duration_since(self.pinged_at) > PING_EVERY {
            self.pinged_at = now;
            self.outbox.try_send(Message::Ping(Vec::new().into())).map_err(|_| NOT_READING.to_owned())?;
        }
        if !self.connection.seats.is_empty() || !self.pending.is_empty() {
            self.busy_at = now;
        }
        let idle = now.duration_since(self.busy_at) > self.connection.pool.config.idle;
        Ok(idle && self.connection.retire())
    }

    /// The connection is gone: nobody may wait for its answers.
    fn give_up(&mut self) {
        for outgoing in self.pending.drain().flat_map(|(_, waiting)| waiting) {
            let _ = outgoing.answer.send(Err(PublishError::Unreachable("the connection ended".into())));
        }
        self.connection.handle.connected.store(false, Ordering::Release);
    }
}

fn seat<'a>(connection: &'a mut Connection, name: &str) -> Option<&'a mut Seat> {
    name.parse().ok().and_then(|id: u64| connection.seats.get_mut(&id))
}
