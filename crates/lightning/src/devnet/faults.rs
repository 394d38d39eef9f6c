//! Faults on request, for tests: compiled only with the feature `faults`.
//!
//! A test reaches them through [`Faults`] in its own process, or over `POST /v1/faults` with a [`Command`] as JSON when
//! it drives a real binary.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nexus_core::Hash32;
use nexus_core::payment::FailureClass;
use serde::{Deserialize, Serialize};

use super::Party;
use super::decide::{Course, Payment};
use super::engine::Engine;
use super::handlers;
use super::ledger::{Entry, Flight};
use super::log::Log;
use super::server::{Answer, Net};

const MAX_RULES: usize = 1_000;
/// A hung request is cut after this long, or when the server stops.
const HANG_MS: u64 = 120_000;

/// Which request a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    Pay,
    CreateInvoice,
    LookupInvoice,
    Resolve,
}

/// What goes wrong. For calls other than [`Call::Pay`] only `unknown`, `dropped` and `hang` mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub enum Fault {
    /// Nothing: takes the place of a fault once.
    Settle,
    /// Terminal, recorded.
    Fail { class: FailureClass },
    /// Says pending, settles `ms` later.
    Delay { ms: u64 },
    /// Says pending, fails `ms` later.
    DelayThenFail { ms: u64 },
    /// Pays, but the answer is lost.
    Unknown,
    /// The answer is lost while the payment is in flight; it fails `ms` later.
    UnknownThenFail { ms: u64 },
    /// In flight until [`Command::Settle`] or [`Command::Fail`] says otherwise.
    Stuck,
    /// Nothing is done and nothing answered.
    Hang,
    /// Nothing is done; the connection is cut.
    Dropped,
}

/// A fault, for whom, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub call: Call,
    #[serde(flatten)]
    pub fault: Fault,
    /// Whose requests; everybody's when absent.
    #[serde(default)]
    pub party: Option<Party>,
    /// Which invoice's; every one's when absent.
    #[serde(default)]
    pub hash: Option<Hash32>,
    pub times: u32,
}

impl Rule {
    /// The next payment of anybody.
    pub fn next_payment(fault: Fault) -> Self {
        Self { call: Call::Pay, fault, party: None, hash: None, times: 1 }
    }
}

/// Where in the next write the server dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrashPoint {
    /// Decided, nothing written.
    BeforeWrite,
    /// Half of the line is written.
    TornWrite,
    /// Written, not yet durable; nobody was answered.
    AfterWrite,
    /// Durable; nobody was answered.
    AfterSync,
}

/// What a test asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum Command {
    Rule(Rule),
    /// Forgets every rule.
    Clear,
    /// Ends the payment of this hash that is in flight.
    Settle {
        hash: Hash32,
    },
    Fail {
        hash: Hash32,
        class: FailureClass,
    },
    /// The server ends at the next write, at this point of it.
    Crash {
        at: CrashPoint,
    },
}

/// The switches of one server. Cheap to clone.
#[derive(Clone)]
pub struct Faults {
    rules: Arc<Mutex<VecDeque<Rule>>>,
    engine: Engine,
}

/// Armed by a test, taken by the next write.
#[derive(Clone, Default)]
pub(super) struct CrashSwitch(Arc<Mutex<Option<CrashPoint>>>);

impl CrashSwitch {
    pub(super) fn take(&self) -> Option<CrashPoint> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn arm(&self, at: CrashPoint) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }
}

impl CrashPoint {
    /// Does what a dying process would have done; never says that it went well.
    pub(super) fn strike(self, log: &mut Log, batch: &[Entry]) -> bool {
        let written = match self {
            Self::BeforeWrite => Ok(()),
            Self::TornWrite => log.append_torn(batch, false),
            Self::AfterWrite => log.append_torn(batch, true),
            Self::AfterSync => log.append(batch),
        };
        if let Err(error) = written {
            tracing::error!(%error, "the crash itself failed");
        }
        false
    }
}

impl Faults {
    pub(super) fn new(engine: Engine) -> Self {
        Self { rules: Arc::default(), engine }
    }

    fn rules(&self) -> std::sync::MutexGuard<'_, VecDeque<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Obeys. False when there was nothing to do it to, or too many rules.
    pub async fn command(&self, command: Command) -> bool {
        match command {
            Command::Rule(rule) => {
                let mut rules = self.rules();
                let room = rules.len() < MAX_RULES;
                if room {
                    rules.push_back(rule);
                }
                room
            }
            Command::Clear => {
                self.rules().clear();
                true
            }
            Command::Settle { hash } => self.end(hash, None).await,
            Command::Fail { hash, class } => self.end(hash, Some(class)).await,
            Command::Crash { at } => {
                self.engine.crash.arm(at);
                true
            }
        }
    }

    async fn end(&self, hash: Hash32, class: Option<FailureClass>) -> bool {
        let ended = self.engine.transact(move |books| {
            let Some(key) = books.ledger().flying_for(hash) else { return false };
            if class.is_none() && books.ledger().invoice(hash).is_some_and(|invoice| invoice.hold_ms.is_some()) {
                // Its payee alone can.
                return false;
            }
            let at = books.now();
            books.post(vec![match class {
                None => Entry::Settle { key, at },
                Some(class) => Entry::Return { key, class, at },
            }]);
            true
        });
        ended.await.unwrap_or(false)
    }

    fn take(&self, call: Call, party: Party, hash: Option<Hash32>) -> Option<Fault> {
        let mut rules = self.rules();
        let fits = |rule: &Rule| {
            rule.call == call
                && rule.party.is_none_or(|wanted| wanted == party)
                && (rule.hash.is_none() || rule.hash == hash)
        };
        let at = rules.iter().position(fits)?;
        let rule = rules.get_mut(at)?;
        let fault = rule.fault;
        rule.times = rule.times.saturating_sub(1);
        if rule.times == 0 {
            rules.remove(at);
        }
        Some(fault)
    }
}

pub(super) async fn command(State(net): State<Net>, Json(command): Json<Command>) -> StatusCode {
    if net.faults().command(command).await { StatusCode::NO_CONTENT } else { StatusCode::CONFLICT }
}

/// An answer that breaks off: the client cannot know what it would have said.
fn cut() -> Response {
    let broken = futures::stream::once(async { Err::<Vec<u8>, _>(std::io::Error::other("cut")) });
    Body::from_stream(broken).into_response()
}

async fn hang(net: &Net) -> Response {
    tokio::select! {
        () = net.stopping().cancelled() => {}
        () = tokio::time::sleep(Duration::from_millis(HANG_MS)) => {}
    }
    cut()
}

/// A call that is not a payment, under the fault that was asked for it, if any.
pub(super) async fn around<T: IntoResponse>(
    net: &Net,
    call: Call,
    party: Party,
    hash: Option<Hash32>,
    work: impl Future<Output = Result<T, Answer>>,
) -> Result<Response, Answer> {
    match net.faults().take(call, party, hash) {
        Some(Fault::Unknown) => work.await.map(|_| cut()),
        Some(Fault::Dropped) => Ok(cut()),
        Some(Fault::Hang) => Ok(hang(net).await),
        Some(_) | None => work.await.map(IntoResponse::into_response),
    }
}

/// A payment, under the fault that was asked for it, if any.
pub(super) async fn pay(net: &Net, payment: Payment) -> Result<Response, Answer> {
    let fault = net.faults().take(Call::Pay, payment.key.payer, Some(payment.key.hash));
    let later = |ms: u64| net.now().plus_ms(i64::try_from(ms).unwrap_or(i64::MAX));
    let (course, lost) = match fault {
        None | Some(Fault::Settle) => (Course::Plain, false),
        Some(Fault::Fail { class }) => (Course::Refuse(class), false),
        Some(Fault::Delay { ms }) => (Course::Flight(Flight::Settles { at: later(ms) }), false),
        Some(Fault::DelayThenFail { ms }) => (Course::Flight(Flight::Fails { at: later(ms) }), false),
        Some(Fault::Unknown) => (Course::Plain, true),
        Some(Fault::UnknownThenFail { ms }) => (Course::Flight(Flight::Fails { at: later(ms) }), true),
        Some(Fault::Stuck) => (Course::Flight(Flight::Stuck), false),
        Some(Fault::Hang) => return Ok(hang(net).await),
        Some(Fault::Dropped) => return Ok(cut()),
    };
    let outcome = handlers::pay_on(net, payment, course).await?;
    Ok(if lost { cut() } else { Json(outcome).into_response() })
}
