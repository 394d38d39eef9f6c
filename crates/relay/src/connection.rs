//! One client: its frames in, ours out.
//!
//! Two queues lead out. What the client asked for waits for room in the first, so that a client that asks for much
//! waits itself. Live events never wait: they go into the second, and a client that lets it fill is disconnected.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, SplitSink, SplitStream};
use futures::{FutureExt, SinkExt, StreamExt};
use nexus_core::time::random;
use nexus_core::{MonoMs, Npub};
use nexus_store::StoreError;
use nostr::event::{Event, EventId};
use nostr::filter::Filter;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::hub::Listener;
use crate::intake::Intake;
use crate::message::{self, Request};
use crate::stored::Stored;
use crate::{Relay, access};

/// Keys that one connection may authenticate as.
const MAX_IDENTITIES: usize = 64;
/// Frames of answers that wait to leave.
const ANSWERS: usize = 64;
/// What a request for stored events costs, in frames.
const REQUEST_COST: u32 = 5;
/// What a wrong signature costs, beside its own frame.
const FORGERY_COST: u32 = 50;

/// Serves a client until it leaves, breaks the rules, falls silent or the relay stops.
pub(crate) async fn serve(relay: Arc<Relay>, socket: WebSocket, address: IpAddr) {
    let end = relay.shutdown.child_token();
    let config = &relay.config;
    let (listener, live) = relay.hub.join(config.live_queue_frames, config.live_queue_bytes, end.clone());
    let (sink, stream) = socket.split();
    let (answers, queued) = mpsc::channel(ANSWERS);
    let writer = Writer { sink, answers: queued, live, listener: listener.clone(), limit: config.write_timeout() };
    let challenge = hex::encode(random::<16>(&*relay.entropy));
    let client = Client {
        relay: relay.clone(),
        address,
        listener: listener.clone(),
        answers,
        challenge,
        round: 0,
        window: (relay.intake.clock.mono(), 0),
    };
    tokio::join!(writer.run(end.clone()), client.run(stream, end));
    relay.hub.leave(&listener);
}

struct Writer {
    sink: SplitSink<WebSocket, Message>,
    answers: mpsc::Receiver<String>,
    live: mpsc::Receiver<String>,
    listener: Arc<Listener>,
    limit: Duration,
}

impl Writer {
    /// Answers go first: the end of a subscription's stored events must leave before what follows live.
    async fn run(mut self, end: CancellationToken) {
        let mut pings = interval(Duration::from_secs(30));
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let frame = tokio::select! {
                biased;
                () = end.cancelled() => break,
                frame = self.answers.recv() => match frame {
                    Some(frame) => Message::text(frame),
                    None => break,
                },
                Some(frame) = self.live.recv() => {
                    self.listener.popped(&frame);
                    Message::text(frame)
                }
                _ = pings.tick() => Message::Ping(axum::body::Bytes::new()),
            };
            match timeout(self.limit, self.sink.send(frame)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => break,
            }
        }
        end.cancel();
        let _ = timeout(Duration::from_millis(200), self.sink.close()).await;
    }
}

struct Client {
    relay: Arc<Relay>,
    address: IpAddr,
    listener: Arc<Listener>,
    answers: mpsc::Sender<String>,
    challenge: String,
    /// Counts subscriptions, to tell a replaced one from its successor.
    round: u64,
    /// Since when this minute's frames are counted, and how many there were.
    window: (MonoMs, u32),
}

/// Why a connection ends. Nobody is told: it is the other side's doing, or all of ours ends.
struct Ended;

/// Events in work, each to become its answer and what it cost in frames.
type Writes = FuturesUnordered<BoxFuture<'static, (String, u32)>>;

impl Client {
    async fn run(mut self, mut stream: SplitStream<WebSocket>, end: CancellationToken) {
        let mut writes = Writes::new();
        let serve = async {
            self.answer(message::challenge(&self.challenge)).await?;
            loop {
                let room = writes.len() < self.relay.config.writes_in_flight;
                tokio::select! {
                    Some(written) = writes.next() => self.written(written).await?,
                    frame = timeout(self.relay.config.idle_timeout(), stream.next()), if room => {
                        let Ok(Some(Ok(frame))) = frame else { return Err(Ended) };
                        self.frame(frame, &mut writes).await?;
                    }
                }
            }
        };
        let _: Option<Result<(), Ended>> = tokio::select! {
            () = end.cancelled() => None,
            ended = serve => Some(ended),
        };
        end.cancel();
        // What was taken is finished, acknowledged or not.
        let finish = async { while writes.next().await.is_some() {} };
        let _ = timeout(Duration::from_secs(5), finish).await;
    }

    async fn answer(&self, frame: String) -> Result<(), Ended> {
        self.answers.send(frame).await.map_err(|_| Ended)
    }

    async fn written(&mut self, (answer, cost): (String, u32)) -> Result<(), Ended> {
        self.answer(answer).await?;
        if self.within_rate(cost) { Ok(()) } else { Err(Ended) }
    }

    async fn frame(&mut self, frame: Message, writes: &mut Writes) -> Result<(), Ended> {
        let text = match frame {
            Message::Text(text) => text,
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Binary(_) => return self.answer(message::notice("invalid: text frames only")).await,
            Message::Close(_) => return Err(Ended),
        };
        let request = message::read(&text, &self.relay.config);
        let cost = if matches!(request, Request::Subscribe { .. }) { REQUEST_COST } else { 1 };
        if !self.within_rate(cost) {
            self.answer(message::notice("rate-limited: too many frames in a minute")).await?;
            return Err(Ended);
        }
        match request {
            Request::Event(event) => {
                writes.push(self.take(*event));
                Ok(())
            }
            Request::Subscribe { name, filters } => {
                // A client that writes and then asks finds what it wrote.
                while let Some(written) = writes.next().await {
                    self.written(written).await?;
                }
                self.subscribe(name, filters).await
            }
            Request::Close { name } => {
                self.listener.unsubscribe(&name);
                Ok(())
            }
            Request::Auth(event) => self.authenticate(&event).await,
            Request::Refused(frame) => self.answer(frame).await,
        }
    }

    fn within_rate(&mut self, cost: u32) -> bool {
        let now = self.relay.intake.clock.mono();
        if now.since(self.window.0) >= 60_000 {
            self.window = (now, 0);
        }
        self.window.1 = self.window.1.saturating_add(cost);
        let exempt = self.relay.config.trust_loopback && self.address.to_canonical().is_loopback();
        exempt || self.window.1 <= self.relay.config.frames_per_minute
    }

    fn take(&self, event: Event) -> BoxFuture<'static, (String, u32)> {
        let (relay, address, keys) = (self.relay.clone(), self.address, self.listener.keys());
        async move {
            let id = event.id;
            let answer = relay.intake.take(event, address, &keys).await;
            (message::ok(&id, answer.accepted, &answer.message), if answer.forged { FORGERY_COST } else { 0 })
        }
        .boxed()
    }

    async fn authenticate(&self, event: &Event) -> Result<(), Ended> {
        let now = self.relay.intake.clock.now().secs();
        let checked = nexus_nostr::auth::check(event, &self.challenge, now, |url| self.relay.is_ours(url));
        let frame = match checked {
            Ok(key) if self.listener.authenticate(key, MAX_IDENTITIES) => message::ok(&event.id, true, ""),
            Ok(_) => message::ok(&event.id, false, "restricted: too many keys on one connection"),
            Err(error) => message::ok(&event.id, false, &format!("restricted: {error}")),
        };
        self.answer(frame).await
    }

    async fn subscribe(&mut self, name: String, filters: Vec<Filter>) -> Result<(), Ended> {
        let keys = self.listener.keys();
        if keys.is_empty() && filters.iter().any(access::asks_for_private) {
            self.listener.unsubscribe(&name);
            let reason = "auth-required: private messages go to their reader alone";
            return self.answer(message::closed(&name, reason)).await;
        }
        self.round += 1;
        if !self.listener.subscribe(&name, filters.clone(), self.round, self.relay.config.max_subscriptions) {
            let reason = format!("rate-limited: at most {} subscriptions", self.relay.config.max_subscriptions);
            return self.answer(message::closed(&name, &reason)).await;
        }
        let mut sent: HashSet<EventId> = HashSet::new();
        for filter in &filters {
            if let Err(error) = self.send_stored(&name, filter, &keys, &mut sent).await? {
                tracing::warn!(%error, "stored events could not be read");
                self.listener.unsubscribe(&name);
                return self.answer(message::closed(&name, "error: could not read what is stored")).await;
            }
        }
        self.answer(message::end_of_stored(&name)).await?;
        self.listener.follow(&name, self.round, &sent);
        Ok(())
    }

    /// Sends the stored events of one filter, as fast as the client reads.
    async fn send_stored(
        &self,
        name: &str,
        filter: &Filter,
        keys: &HashSet<Npub>,
        sent: &mut HashSet<EventId>,
    ) -> Result<Result<(), StoreError>, Ended> {
        let Some(mut stored) = Stored::new(filter, keys, self.relay.config.max_results) else { return Ok(Ok(())) };
        loop {
            let Intake { store, clock, .. } = &self.relay.intake;
            match stored.next(store, keys, clock.now()).await {
                Err(error) => return Ok(Err(error)),
                Ok(None) => return Ok(Ok(())),
                Ok(Some(found)) => {
                    for (event, json) in found {
                        if sent.insert(event.id) {
                            self.answer(message::event(name, &json)).await?;
                        }
                    }
                }
            }
        }
    }
}
