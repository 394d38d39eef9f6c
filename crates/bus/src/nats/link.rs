//! The connection: made, kept, and made again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Client, Event, Message, Subject, connection};
use futures::StreamExt;
use futures::stream::SelectAll;
use nexus_core::Entropy;
use nexus_core::time::random;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::config::NatsConfig;
use super::state::State;
use crate::{Heard, Topic, Wake, wire};

/// First pause between two tries, doubled with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Beyond the time that the addresses may take, for name lookups and reading files.
const SLACK: Duration = Duration::from_secs(5);
/// How often the connection is looked at whatever its events say, and an unanswered probe repeated.
const LOOK: Duration = Duration::from_millis(200);
/// Looks that a probe may take: three seconds.
const PROBES: u32 = 15;
/// What was published before the last handle went away may take so long to leave.
const GRACE: Duration = Duration::from_millis(500);
/// Events of the connection that wait. They are hints: whatever is missed, the next look finds.
const EVENTS: usize = 64;

/// The task behind a bus: everything that touches the network.
pub(super) struct Link {
    config: NatsConfig,
    subjects: Subjects,
    entropy: Arc<dyn Entropy>,
    outgoing: mpsc::Receiver<Wake>,
    heard: broadcast::Sender<Heard>,
    state: Arc<State>,
    stop: CancellationToken,
}

struct Subjects {
    prefix: String,
    topics: Vec<Topic>,
    /// Ours alone: what is sent here comes back to us.
    echo: Subject,
}

impl Subjects {
    fn of(&self, topic: Topic) -> String {
        let name = match topic {
            Topic::Agent => "agent",
            Topic::Event => "event",
            Topic::Worker => "worker",
            Topic::Reconcile => "reconcile",
        };
        format!("{}.wake.{name}", self.prefix)
    }
}

/// One client and what comes out of it. Ends when the client gives up.
struct Connection {
    client: Client,
    incoming: SelectAll<async_nats::Subscriber>,
    events: mpsc::Receiver<Event>,
}

impl Link {
    pub(super) fn new(
        config: NatsConfig,
        topics: &[Topic],
        entropy: Arc<dyn Entropy>,
        outgoing: mpsc::Receiver<Wake>,
        heard: broadcast::Sender<Heard>,
        state: Arc<State>,
        stop: CancellationToken,
    ) -> Self {
        let own = u64::from_be_bytes(random(&*entropy));
        let topics = Topic::ALL.iter().copied().filter(|topic| topics.contains(topic)).collect();
        let echo = Subject::from(format!("{}.echo.{own:016x}", config.prefix));
        let subjects = Subjects { prefix: config.prefix.clone(), topics, echo };
        Self { config, subjects, entropy, outgoing, heard, state, stop }
    }

    /// Until the bus is dropped.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let mut failures = 0;
        while !stop.is_cancelled() {
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = stop.cancelled() => return,
            };
            match connected {
                Ok(connection) => {
                    // A server that turns us away right after the greeting is no success.
                    failures = if self.serve(connection).await { 0 } else { failures + 1 };
                    self.state.down("the connection was lost");
                }
                Err(problem) => {
                    failures += 1;
                    self.state.down(&problem);
                }
            }
            tokio::select! {
                () = sleep(pause(failures, self.config.reconnect_max_ms, &*self.entropy)) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Tries each address once.
    async fn connect(&self) -> Result<Connection, String> {
        let (tell, events) = mpsc::channel(EVENTS);
        let config = self.config.clone();
        let read =
            tokio::task::spawn_blocking(move || Ok::<_, super::NatsError>((config.addresses()?, config.options()?)));
        let (addresses, options) = read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let made = Arc::new(AtomicBool::new(false));
        let (again, entropy, max_ms) = (made.clone(), self.entropy.clone(), self.config.reconnect_max_ms);
        let options = options
            .reconnect_delay_callback(move |attempt| match again.load(Ordering::Relaxed) {
                true => pause(u32::try_from(attempt).unwrap_or(u32::MAX), max_ms, &*entropy),
                false => Duration::ZERO,
            })
            .event_callback(move |event| {
                let _ = tell.try_send(event);
                std::future::ready(())
            });
        let tries = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let bound = Duration::from_millis(self.config.connect_timeout_ms).saturating_mul(tries) + SLACK;
        let client = match timeout(bound, options.connect(addresses)).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(format!("cannot connect: {error}")),
            Err(_) => return Err("cannot connect: no answer in time".to_owned()),
        };
        made.store(true, Ordering::Relaxed);
        let incoming = self.listen(&client).await.map_err(|error| format!("cannot subscribe: {error}"))?;
        Ok(Connection { client, incoming, events })
    }

    async fn listen(&self, client: &Client) -> Result<SelectAll<async_nats::Subscriber>, async_nats::SubscribeError> {
        let mut incoming = SelectAll::new();
        for topic in &self.subjects.topics {
            incoming.push(client.subscribe(self.subjects.of(*topic)).await?);
        }
        incoming.push(client.subscribe(self.subjects.echo.clone()).await?);
        Ok(incoming)
    }

    /// Until the connection is given up or the bus dropped. Says whether messages ever flowed.
    async fn serve(&mut self, connection: Connection) -> bool {
        let Connection { client, incoming, events } = connection;
        let (probe, probes) = mpsc::channel(1);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reader = Reader {
            client: &client,
            echo: &self.subjects.echo,
            heard: &self.heard,
            state: &self.state,
            probe,
            look,
            connects: 0,
            unanswered: None,
            missed: false,
            flowed: false,
        };
        let stop = &self.stop;
        tokio::select! {
            () = reader.read(incoming, events) => {}
            () = write(&client, &self.subjects, &mut self.outgoing, probes, &self.state) => {}
            () = async { stop.cancelled().await; sleep(GRACE).await } => {}
        }
        reader.flowed
    }
}

/// Half of the doubled pause, and up to as much again: a fleet that lost its server does not come back in one moment.
fn pause(failures: u32, max_ms: u64, entropy: &dyn Entropy) -> Duration {
    let first = u64::try_from(FIRST_PAUSE.as_millis()).unwrap_or(u64::MAX);
    let most = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(max_ms);
    let half = most / 2;
    Duration::from_millis(half + u64::from_be_bytes(random(entropy)) % (half + 1))
}

/// Ends when the bus was dropped and all is sent, or the client has ended.
async fn write(
    client: &Client,
    subjects: &Subjects,
    outgoing: &mut mpsc::Receiver<Wake>,
    mut probes: mpsc::Receiver<u64>,
    state: &State,
) {
    loop {
        let (subject, payload, is_wake) = tokio::select! {
            biased;
            Some(number) = probes.recv() => (subjects.echo.clone(), number.to_be_bytes().to_vec(), false),
            wake = outgoing.recv() => match wake {
                Some(wake) => (Subject::from(subjects.of(wake.topic())), wire::encode(&wake), true),
                None => {
                    let _ = client.flush().await;
                    return;
                }
            },
        };
        let sent = client.publish(subject, payload.into()).await;
        match (sent, is_wake) {
            (Ok(()), true) => state.published(),
            (Ok(()), false) => {}
            (Err(_), true) => return state.dropped(),
            (Err(_), false) => return,
        }
    }
}

/// Reads one client, across the short breaks that it heals by itself.
struct Reader<'a> {
    client: &'a Client,
    echo: &'a Subject,
    heard: &'a broadcast::Sender<Heard>,
    state: &'a State,
    probe: mpsc::Sender<u64>,
    look: Interval,
    /// Connections that this client has made so far.
    connects: u64,
    /// Looks since the last connection was made, while its probe has not come back.
    unanswered: Option<u32>,
    /// The client dropped messages that were not read in time.
    missed: bool,
    /// Some probe came back.
    flowed: bool,
}

impl Reader<'_> {
    /// Ends with the client.
    async fn read(&mut self, mut incoming: SelectAll<async_nats::Subscriber>, mut events: mpsc::Receiver<Event>) {
        // Before any event: a new connection forgets the troubles of the last one.
        self.look();
        loop {
            tokio::select! {
                message = incoming.next() => match message {
                    Some(message) => self.take(&message),
                    None => return,
                },
                Some(event) = events.recv() => self.note(event),
                _ = self.look.tick() => self.look(),
            }
        }
    }

    fn take(&mut self, message: &Message) {
        if message.subject == *self.echo {
            // Not one that was sent over the connection before this one.
            if self.unanswered.is_some() && message.payload[..] == self.connects.to_be_bytes() {
                self.flows();
            }
            return;
        }
        match wire::decode(&message.payload) {
            Ok(wake) => {
                self.state.received();
                let _ = self.heard.send(Heard::Wake(wake));
            }
            Err(why) => self.state.ignored(&why),
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Connected | Event::Disconnected => self.look(),
            Event::SlowConsumer(_) => self.missed = true,
            Event::ServerError(error) => self.state.trouble(&error.to_string()),
            // When the client gives up, the next try says why in full.
            Event::ClientError(error) => tracing::debug!(%error, "bus"),
            Event::LameDuckMode => tracing::info!("bus: the server is about to stop"),
            Event::Draining | Event::Closed => {}
        }
    }

    /// Finds new connections and asks each whether it carries messages. The server handles what one connection sends
    /// in order, so once the probe comes back, our subscriptions stand.
    fn look(&mut self) {
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        if connects != self.connects {
            self.connects = connects;
            self.unanswered = Some(0);
            self.state.connecting();
        }
        if self.client.connection_state() == connection::State::Disconnected {
            self.state.down("the connection was lost");
        }
        if std::mem::take(&mut self.missed) {
            let _ = self.heard.send(Heard::Lagged);
        }
        let Some(looks) = self.unanswered else { return };
        if looks < PROBES {
            self.unanswered = Some(looks + 1);
            // A full channel has one on its way already.
            let _ = self.probe.try_send(self.connects);
            return;
        }
        // Subscribers must not wait for it forever: others' messages may come in all the same.
        if !self.state.has_trouble() {
            self.state.trouble("own messages do not come back: may this user publish and subscribe under the prefix?");
        }
        self.flows();
    }

    /// Whatever was published until now may have been missed.
    fn flows(&mut self) {
        self.unanswered = None;
        self.flowed = true;
        // In this order: whoever subscribes once the bus is called connected has missed nothing.
        let _ = self.heard.send(Heard::Lagged);
        self.state.up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_testkit::SeededEntropy;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let entropy = SeededEntropy::new(7);
        for failures in 0..80 {
            let most = 250 * (1_u64 << (failures.clamp(1, 6) - 1));
            for _ in 0..20 {
                let ms = u64::try_from(pause(failures, 5_000, &entropy).as_millis()).unwrap();
                let most = most.min(5_000);
                assert!((most / 2..=most).contains(&ms), "{failures} failures: {ms} ms");
            }
        }
        let pauses: std::collections::HashSet<_> = (0..50).map(|_| pause(9, 5_000, &entropy)).collect();
        assert!(pauses.len() > 20);
    }
}
