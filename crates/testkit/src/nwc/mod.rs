//! A wallet service as NIP-47 has it: several connections on one ledger, over a relay, with faults on request.
//!
//! It answers as Alby Hub does where NIP-47 leaves room: a request that it has heard before gets no answer, one for an
//! invoice that is pending or paid is INTERNAL, and an unsettled payment is `expired` once its invoice is. What it heard
//! and did survives [`Service::restart`]; what it had not said by then is never said.

mod books;
mod calls;
mod wire;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nexus_core::{Clock, Hash32};
use nostr::event::Event;
use nostr::key::Keys;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use books::FEE_MSAT;

use books::{App, Books, Status};

/// How a payment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Course {
    /// At once.
    #[default]
    Plain,
    /// In flight until [`Service::land`].
    Stuck,
    SettlesAfter {
        ms: u64,
    },
    FailsAfter {
        ms: u64,
    },
    /// The wallet says that it failed, and it settles.
    CalledFailed {
        settles_after_ms: u64,
    },
}

/// What becomes of the request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wire {
    #[default]
    Whole,
    /// The wallet never hears of it.
    Dropped,
    /// It hears of it so much later.
    Slow { ms: u64 },
    /// Done, and never answered; so many requests that come next are dropped.
    Lost { deaf: u32 },
    /// Done, and answered so much later.
    Late { ms: u64 },
    /// Done, and answered with what is not encrypted.
    Garbled,
    /// Done, and answered in another encryption than was asked for.
    Weaker,
    /// Not done, and refused with this code.
    Refused(&'static str),
}

/// A fault for the next request of a method over a connection.
#[derive(Debug, Clone, Default)]
struct Rule {
    app: usize,
    method: &'static str,
    course: Course,
    wire: Wire,
}

/// What a wallet says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guise {
    pub network: Option<&'static str>,
    pub methods: Vec<&'static str>,
    /// Knows NIP-44.
    pub modern: bool,
    /// Tells of what it was paid.
    pub tells: bool,
    /// Takes a request that it heard before for a new one.
    pub answers_repeats: bool,
}

impl Default for Guise {
    fn default() -> Self {
        Self {
            network: Some("regtest"),
            methods: vec!["pay_invoice", "make_invoice", "lookup_invoice", "get_balance", "get_info"],
            modern: true,
            tells: true,
            answers_repeats: false,
        }
    }
}

#[derive(Default)]
struct State {
    books: Books,
    rules: VecDeque<Rule>,
    arrived: Vec<String>,
    heard: Vec<(String, String)>,
    /// When it last told of itself, in seconds: each telling is later than the one before, and replaces it.
    told_s: i64,
}

struct World {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// To the relay, while it is connected.
    tell: Mutex<Option<mpsc::UnboundedSender<Event>>>,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what is in flight, and tells whom it paid.
    fn end(&self, app: usize, hash: Hash32, settle: bool) {
        let now_s = self.clock.now().secs();
        let mut state = self.lock();
        let Some(paid) = state.books.end(app, hash, settle, now_s) else { return };
        let App { wallet, client, guise, .. } = &state.books.apps[paid];
        let Some(invoice) = state.books.invoices.get(&hash) else { return };
        if guise.tells {
            let text = json!({
                "notification_type": "payment_received",
                "notification": books::incoming(hash, invoice, now_s),
            });
            let event = wire::notification(wallet, &*self.clock, &client.public_key(), &text.to_string(), guise.modern);
            let tell = self.tell.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(tell) = tell.as_ref() {
                let _ = tell.send(event);
            }
        }
    }

    /// Money that moves by itself, whether or not the service is there to say so.
    async fn run(self: Arc<Self>) {
        loop {
            let mono = self.clock.mono().0;
            let due: Vec<(usize, Hash32, bool)> = {
                let state = self.lock();
                let flying = state.books.payments.iter().filter(|(_, it)| it.status == Status::InFlight);
                flying
                    .filter_map(|((app, hash), it)| {
                        it.ends.filter(|(at, _)| *at <= mono).map(|(_, settle)| (*app, *hash, settle))
                    })
                    .collect()
            };
            for (app, hash, settle) in due {
                self.end(app, hash, settle);
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

/// The service. Dropping it ends it.
pub struct Service {
    world: Arc<World>,
    relay: String,
    serving: Mutex<Option<JoinHandle<()>>>,
    moving: JoinHandle<()>,
}

impl Service {
    /// One connection for each of `funds_msat`, over a relay at `ws://HOST:PORT`.
    pub async fn start(relay: &str, clock: Arc<dyn Clock>, funds_msat: &[u64]) -> Self {
        let key = |name: &str, index: usize| {
            let bytes = Hash32::sha256(format!("{name} {index}").as_bytes());
            Keys::parse(&bytes.to_string()).expect("a hash is a key")
        };
        let app = |(index, balance_msat): (usize, &u64)| App {
            wallet: key("wallet", index),
            client: key("client", index),
            balance_msat: *balance_msat,
            guise: Guise::default(),
            deaf: 0,
        };
        let mut state = State::default();
        state.books.apps = funds_msat.iter().enumerate().map(app).collect();
        let world = Arc::new(World { clock, state: Mutex::new(state), tell: Mutex::default() });
        let moving = tokio::spawn(world.clone().run());
        let service = Self { world, relay: relay.to_owned(), serving: Mutex::default(), moving };
        service.resume().await;
        service
    }

    /// The secret of a connection.
    pub fn uri(&self, app: usize) -> String {
        let relay = self.relay.replace(':', "%3A").replace('/', "%2F");
        let state = self.world.lock();
        let App { wallet, client, .. } = &state.books.apps[app];
        let secret = client.secret_key().to_secret_hex();
        format!("nostr+walletconnect://{}?relay={relay}&secret={secret}", wallet.public_key().to_hex())
    }

    /// The wallet's key, in hex.
    pub fn wallet(&self, app: usize) -> String {
        self.world.lock().books.apps[app].wallet.public_key().to_hex()
    }

    pub async fn stop(&self) {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        *self.world.tell.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(serving) = serving {
            serving.abort();
            let _ = serving.await;
        }
    }

    /// Serves, and has told its relay what it is.
    pub async fn resume(&self) {
        let (ready, mut wait) = watch::channel(false);
        let serving = tokio::spawn(wire::serve(self.world.clone(), self.relay.clone(), ready));
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(serving);
        let waiting = wait.wait_for(|ready| *ready);
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .expect("its relay within 30 s")
            .expect("it serves");
    }

    pub async fn restart(&self) {
        self.stop().await;
        self.resume().await;
    }

    /// Tells its relay of it only with the next [`Self::restart`].
    pub fn guise(&self, app: usize, guise: Guise) {
        self.world.lock().books.apps[app].guise = guise;
    }

    pub fn rule(&self, app: usize, method: &'static str, course: Course, wire: Wire) {
        self.world.lock().rules.push_back(Rule { app, method, course, wire });
    }

    /// Forgets faults that were not met.
    pub fn no_rules(&self) {
        let mut state = self.world.lock();
        state.rules.clear();
        state.books.apps.iter_mut().for_each(|app| app.deaf = 0);
    }

    /// Ends the payment of `hash` that is stuck. False if there is none.
    pub fn land(&self, hash: Hash32, settle: bool) -> bool {
        let flying = {
            let state = self.world.lock();
            let mut flying = state.books.payments.iter();
            flying.find(|((_, of), it)| *of == hash && it.status == Status::InFlight).map(|((app, _), _)| *app)
        };
        flying.map(|app| self.world.end(app, hash, settle)).is_some()
    }

    /// How often money left for this hash.
    pub fn begun(&self, hash: Hash32) -> u32 {
        self.world.lock().books.begun.get(&hash).copied().unwrap_or(0)
    }

    /// All the money there is, in millisatoshis.
    pub fn sum_msat(&self) -> u64 {
        self.world.lock().books.sum_msat()
    }

    /// What was heard since the last look: method and event id.
    pub fn heard(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.world.lock().heard)
    }

    /// Waits until a request of this method has reached the wire, then forgets all that did.
    pub async fn arrival(&self, method: &str) {
        loop {
            {
                let mut state = self.world.lock();
                if state.arrived.iter().any(|it| it == method) {
                    return state.arrived.clear();
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.moving.abort();
        if let Some(serving) = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take() {
            serving.abort();
        }
    }
}
