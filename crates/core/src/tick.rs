//! The tick machine: a pure fold over a journal.
//!
//! A tick is the list of its [`Record`]s. [`Tick::apply`] folds one in and refuses what does not follow;
//! [`Tick::next`] says what to do now. The worker does it, appends the record it led to, and asks again. A crash
//! anywhere is met by reading the journal back and asking: the same event is published again under the same id, and
//! a payment is looked up before it is ever sent again.
//!
//! Intents are records too, so the outcome of one effect and the intent of the next are one durable append.

pub mod zap;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionKind};
use crate::approval::{Answered, Answers, ApprovalId};
use crate::event::ActionView;
use crate::id::{Hash32, Npub};
use crate::money::Msat;
use crate::payment::FailureClass;
use crate::time::UnixMs;
use crate::trigger::Trigger;
use zap::{Zap, ZapEnd, ZapMove, Zapping};

/// Version of the records below, beside each journal row. Another one parks the agent by name.
///
/// 3: memory is summed up; the state remembers what was published and the month's spending.
/// 4: zaps are sent; jobs whose payment waits for their result; the state knows the wallet in force and the rent paid.
pub const RECORD_VERSION: u32 = 4;
/// Providers tried in one tick.
pub const MAX_ATTEMPTS: u8 = 3;
/// Records in one tick's journal: above what 16 zaps (three each) and three providers need.
pub const MAX_RECORDS: usize = 96;

/// An event as it was signed, once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedEvent {
    pub id: Hash32,
    pub kind: u16,
    /// Seconds since 1970.
    pub created_at: i64,
    /// The NIP-01 JSON that goes to relays.
    pub json: String,
}

impl std::fmt::Debug for SignedEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignedEvent({} kind {})", self.id, self.kind)
    }
}

/// A job request to one provider: attempt n of a tick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub attempt: u8,
    pub provider: Npub,
    /// What the provider's announcement asks.
    pub quote: Msat,
    pub encrypted: bool,
    pub event: SignedEvent,
    pub relays: Vec<String>,
    pub at: UnixMs,
}

/// Signed words of a provider that are kept of one job, and their bytes together: evidence, should it take the money and
/// stay silent. Relays need not keep them, and their author can have them deleted.
pub const MAX_HEARD: usize = 8;
pub const MAX_HEARD_BYTES: usize = 48 * 1024;

/// Adds to what a provider was heard to say, within the bounds; the same words are kept once.
pub fn hear(heard: &mut Vec<SignedEvent>, event: SignedEvent) {
    let bytes: usize = heard.iter().map(|event| event.json.len()).sum();
    let fits = heard.len() < MAX_HEARD && bytes.saturating_add(event.json.len()) <= MAX_HEARD_BYTES;
    if fits && heard.iter().all(|known| known.id != event.id) {
        heard.push(event);
    }
}

/// The one invoice that is bound to a job. Any other hash for it is recorded and ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    pub bolt11: String,
    pub hash: Hash32,
    pub amount: Msat,
    pub max_fee: Msat,
    pub expires_at: UnixMs,
    /// The provider says that it takes the money only with its result: the payment stays in flight while it works.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    /// What the provider said until then, this invoice among it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heard: Vec<SignedEvent>,
}

impl Bill {
    /// What is held for it.
    pub fn hold(&self) -> Msat {
        self.amount.saturating_add(self.max_fee)
    }
}

/// An action with what was decided of it. What leaves is already signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    pub action: Action,
    pub plan: Plan,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "plan", rename_all = "snake_case")]
pub enum Plan {
    /// Publish these (a gift-wrapped message is two: one for its reader, one for the agent itself).
    Publish {
        events: Vec<SignedEvent>,
        relays: Vec<String>,
    },
    /// Changes state at commit; nothing leaves.
    Local,
    Refused {
        why: String,
    },
    /// Ask the payee's service for an invoice and pay it.
    Zap(Zap),
    /// Waits for the owner from the commit on; says why it asks.
    Parked {
        why: String,
        answers: Option<Answers>,
        trusted: bool,
        answered: Option<Answered>,
    },
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ActionOutcome {
    /// At least one relay took it; each relay's answer in words.
    Done { relays: Vec<String> },
    /// No relay took it within the time; it stays journaled and recovery goes on publishing it.
    Queued { why: String },
}

/// A row of the inbox that a tick answers to, and what stood in it: a row that reads otherwise later is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    pub row: i64,
    /// SHA-256 over what the row says.
    pub digest: Hash32,
}

/// One journal entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    Began {
        trigger: Trigger,
        inbox: Vec<Claimed>,
        at: UnixMs,
    },
    /// This tick carries out an action that its owner approved: nothing is asked of a provider.
    Approved {
        id: ApprovalId,
    },
    Requested(Request),
    Published {
        attempt: u8,
        relays: Vec<String>,
    },
    Invoiced {
        attempt: u8,
        bill: Bill,
    },
    /// The payment is about to leave. Committed before its bytes do.
    Paying {
        attempt: u8,
    },
    Paid {
        attempt: u8,
        fee: Msat,
        preimage: Option<Hash32>,
        at: UnixMs,
    },
    /// Surely not paid: the job is over.
    NotPaid {
        attempt: u8,
        class: FailureClass,
    },
    /// The answer is there and its payment still in flight: the tick goes on, recovery finishes the books.
    InFlight {
        attempt: u8,
    },
    Answered {
        attempt: u8,
        content: String,
    },
    Abandoned {
        attempt: u8,
        why: String,
    },
    Disputed {
        attempt: u8,
        why: String,
        /// What the provider said after it was paid.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        heard: Vec<SignedEvent>,
    },
    Decided {
        actions: Vec<Planned>,
        note: Option<String>,
    },
    Acted {
        index: usize,
        outcome: ActionOutcome,
    },
    /// What happened to the zap that is this action.
    Zap {
        index: usize,
        step: ZapMove,
    },
    Failed {
        reason: Failure,
    },
}

impl Record {
    /// The journal row's `kind`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Began { .. } => "began",
            Self::Approved { .. } => "approved",
            Self::Requested(_) => "requested",
            Self::Published { .. } => "published",
            Self::Invoiced { .. } => "invoiced",
            Self::Paying { .. } => "paying",
            Self::Paid { .. } => "paid",
            Self::NotPaid { .. } => "not_paid",
            Self::InFlight { .. } => "in_flight",
            Self::Answered { .. } => "answered",
            Self::Abandoned { .. } => "abandoned",
            Self::Disputed { .. } => "disputed",
            Self::Decided { .. } => "decided",
            Self::Acted { .. } => "acted",
            Self::Zap { step, .. } => step.kind(),
            Self::Failed { .. } => "failed",
        }
    }

    /// How the effect that follows may be repeated: `repeat` (same bytes, same id), `resolve` (look up first),
    /// or `none` (nothing leaves).
    pub const fn idempotency(&self) -> &'static str {
        match self {
            Self::Requested(_) | Self::Decided { .. } => "repeat",
            Self::Invoiced { .. } | Self::Paying { .. } => "resolve",
            Self::Zap { step, .. } => step.idempotency(),
            Self::Began { .. }
            | Self::Approved { .. }
            | Self::Published { .. }
            | Self::Paid { .. }
            | Self::NotPaid { .. }
            | Self::InFlight { .. }
            | Self::Answered { .. }
            | Self::Abandoned { .. }
            | Self::Disputed { .. }
            | Self::Acted { .. }
            | Self::Failed { .. } => "none",
        }
    }
}

/// Why a tick failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// No acceptable provider answered.
    NoProvider,
    /// A payment may have left and is not known to have arrived; recovery keeps it.
    PaymentUnresolved,
    /// Paid, and nothing came.
    PaidNotServed,
    Timeout,
    /// Parked by the owner or by shutdown before anything was bought.
    Stopped,
    /// The policy changed under the tick or no longer allows it.
    PolicyRefused,
}

impl Failure {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoProvider => "no_provider",
            Self::PaymentUnresolved => "payment_unresolved",
            Self::PaidNotServed => "paid_not_served",
            Self::Timeout => "timeout",
            Self::Stopped => "stopped",
            Self::PolicyRefused => "policy_refused",
        }
    }
}

/// How a payment of a job ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub at: UnixMs,
    pub fee: Msat,
    pub preimage: Option<Hash32>,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    Requested { request: Request, published: bool, answer: Option<String> },
    Invoiced { request: Request, bill: Bill, answer: Option<String> },
    Paying { request: Request, bill: Bill, answer: Option<String> },
    Paid { request: Request, bill: Bill, receipt: Receipt },
    Done { request: Request, answer: String },
    Disputed { request: Request, bill: Bill, receipt: Receipt, heard: Vec<SignedEvent> },
    Abandoned { request: Request },
}

impl Job {
    pub const fn request(&self) -> &Request {
        match self {
            Self::Requested { request, .. }
            | Self::Invoiced { request, .. }
            | Self::Paying { request, .. }
            | Self::Paid { request, .. }
            | Self::Done { request, .. }
            | Self::Disputed { request, .. }
            | Self::Abandoned { request } => request,
        }
    }

    /// Its name in the history.
    pub const fn state(&self) -> &'static str {
        match self {
            Self::Requested { .. } => "requested",
            Self::Invoiced { .. } => "invoiced",
            Self::Paying { .. } => "paying",
            Self::Paid { .. } => "paid",
            Self::Done { .. } => "done",
            Self::Disputed { .. } => "disputed",
            Self::Abandoned { .. } => "abandoned",
        }
    }
}

/// What to do now. The first four are effects: performed at one boundary, under a live fence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one exists at a time, and it is taken apart at once")]
pub enum Step {
    /// Pick a provider not tried yet, sign a request, append [`Record::Requested`]. Nothing leaves.
    Prepare {
        attempt: u8,
        tried: Vec<Npub>,
    },
    Perform(Effect),
    /// Judge the approved action once more and sign it, append [`Record::Decided`]. Nothing leaves.
    Execute {
        id: ApprovalId,
    },
    /// Read the answer, judge and sign the actions, append [`Record::Decided`]. Nothing leaves.
    Decide {
        answer: String,
    },
    Commit(End),
}

/// Something done to the outside world, or waited for from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    PublishRequest(Request),
    AwaitOffer(Request),
    /// Dispatch the payment, or resolve it if it may have left already (`dispatched`).
    Pay {
        request: Request,
        bill: Bill,
        dispatched: bool,
    },
    AwaitResult {
        request: Request,
        paid_at: UnixMs,
    },
    Act {
        index: usize,
        events: Vec<SignedEvent>,
        relays: Vec<String>,
    },
    /// Ask the payee's service for the one invoice.
    AskZap {
        index: usize,
        zap: Zap,
    },
    /// Dispatch a zap's payment, or resolve it if it may have left already (`dispatched`).
    PayZap {
        index: usize,
        zap: Zap,
        bill: Bill,
        dispatched: bool,
    },
}

impl Effect {
    /// Its name: in traces, and where a crash is injected.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PublishRequest(_) => "publish_request",
            Self::AwaitOffer(_) => "await_offer",
            Self::Pay { .. } => "pay",
            Self::AwaitResult { .. } => "await_result",
            Self::Act { .. } => "act",
            Self::AskZap { .. } => "ask_zap",
            Self::PayZap { .. } => "pay_zap",
        }
    }
}

/// How the tick ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Completed,
    Failed(Failure),
}

/// A record that does not follow from the tick's state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("journal record {record} does not follow {state}")]
pub struct InvalidRecord {
    pub record: &'static str,
    pub state: &'static str,
}

/// A tick: the fold of its journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    pub trigger: Trigger,
    /// Rows of the inbox that this tick answers to.
    pub inbox: Vec<Claimed>,
    pub began_at: UnixMs,
    approved: Option<ApprovalId>,
    jobs: Vec<Job>,
    decided: Option<(Vec<Planned>, Vec<Option<ActionOutcome>>)>,
    /// Those of the decided actions that are zaps, by their place.
    zaps: BTreeMap<usize, Zapping>,
    failed: Option<Failure>,
    spent: Msat,
    records: usize,
}

impl Tick {
    /// A tick from its first record.
    pub fn begin(first: &Record) -> Result<Self, InvalidRecord> {
        let Record::Began { trigger, inbox, at } = first else {
            return Err(InvalidRecord { record: first.kind(), state: "nothing" });
        };
        Ok(Self {
            trigger: *trigger,
            inbox: inbox.clone(),
            began_at: *at,
            approved: None,
            jobs: Vec::new(),
            decided: None,
            zaps: BTreeMap::new(),
            failed: None,
            spent: Msat::ZERO,
            records: 1,
        })
    }

    /// A tick from its whole journal.
    pub fn replay<'a>(mut records: impl Iterator<Item = &'a Record>) -> Result<Self, InvalidRecord> {
        let first = records.next().ok_or(InvalidRecord { record: "nothing", state: "nothing" })?;
        let mut tick = Self::begin(first)?;
        for record in records {
            tick.apply(record)?;
        }
        Ok(tick)
    }

    /// Amounts and fees settled in this tick.
    pub const fn spent(&self) -> Msat {
        self.spent
    }

    pub fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    /// The approved action that this tick carries out.
    pub const fn approved(&self) -> Option<ApprovalId> {
        self.approved
    }

    pub fn planned(&self) -> &[Planned] {
        self.decided.as_ref().map_or(&[], |(planned, _)| planned)
    }

    /// How the zap at this place ended, if it is one and is over.
    pub fn zap_end(&self, index: usize) -> Option<&ZapEnd> {
        match self.zaps.get(&index)? {
            Zapping::Over(end) => Some(end),
            Zapping::Asking | Zapping::Invoiced { .. } | Zapping::Paying { .. } => None,
        }
    }

    fn state(&self) -> &'static str {
        if self.failed.is_some() {
            "failed"
        } else if self.decided.is_some() {
            "decided"
        } else if self.approved.is_some() {
            "approved"
        } else {
            self.jobs.last().map_or("began", Job::state)
        }
    }

    /// Folds one record in. An error leaves the tick as it was.
    pub fn apply(&mut self, record: &Record) -> Result<(), InvalidRecord> {
        let invalid = InvalidRecord { record: record.kind(), state: self.state() };
        if self.failed.is_some() || self.records >= MAX_RECORDS {
            return Err(invalid);
        }
        match record {
            Record::Began { .. } => return Err(invalid),
            Record::Failed { reason } => self.failed = Some(*reason),
            Record::Approved { id } => {
                if self.trigger != Trigger::Approval || self.records > 1 {
                    return Err(invalid);
                }
                self.approved = Some(*id);
            }
            Record::Decided { actions, .. } => {
                let thought = self.approved.is_some() || matches!(self.jobs.last(), Some(Job::Done { .. }));
                if self.decided.is_some() || !thought {
                    return Err(invalid);
                }
                let zaps = actions.iter().enumerate().filter(|(_, planned)| matches!(planned.plan, Plan::Zap(_)));
                self.zaps = zaps.map(|(index, _)| (index, Zapping::Asking)).collect();
                self.decided = Some((actions.clone(), vec![None; actions.len()]));
            }
            Record::Acted { index, outcome } => {
                let slot = self.decided.as_mut().and_then(|(planned, outcomes)| {
                    let publishes = matches!(planned.get(*index)?.plan, Plan::Publish { .. });
                    outcomes.get_mut(*index).filter(|slot| publishes && slot.is_none())
                });
                *slot.ok_or(invalid)? = Some(outcome.clone());
            }
            Record::Zap { index, step } => {
                let zap = self.zaps.get_mut(index).ok_or(invalid)?;
                let (next, spent) = zap.apply(step)?;
                *zap = next;
                self.spent = self.spent.saturating_add(spent);
            }
            Record::Requested(request) => {
                let open = self.jobs.last().is_some_and(|job| !matches!(job, Job::Abandoned { .. }));
                if open
                    || self.approved.is_some()
                    || usize::from(request.attempt) != self.jobs.len()
                    || self.jobs.len() >= usize::from(MAX_ATTEMPTS)
                {
                    return Err(invalid);
                }
                self.jobs.push(Job::Requested { request: request.clone(), published: false, answer: None });
            }
            Record::Published { attempt, .. }
            | Record::Invoiced { attempt, .. }
            | Record::Paying { attempt }
            | Record::Paid { attempt, .. }
            | Record::NotPaid { attempt, .. }
            | Record::InFlight { attempt }
            | Record::Answered { attempt, .. }
            | Record::Abandoned { attempt, .. }
            | Record::Disputed { attempt, .. } => {
                let current = self.jobs.len().checked_sub(1).ok_or_else(|| invalid.clone())?;
                if usize::from(*attempt) != current || self.decided.is_some() {
                    return Err(invalid);
                }
                let next = advance(&self.jobs[current], record).ok_or(invalid)?;
                if let (Record::Paid { fee, .. }, Job::Invoiced { bill, .. } | Job::Paying { bill, .. }) =
                    (record, &self.jobs[current])
                {
                    self.spent = self.spent.saturating_add(bill.amount).saturating_add(*fee);
                }
                self.jobs[current] = next;
            }
        }
        self.records += 1;
        Ok(())
    }

    /// What to do now.
    pub fn next(&self) -> Step {
        if let Some(reason) = self.failed {
            return Step::Commit(End::Failed(reason));
        }
        if let Some((planned, outcomes)) = &self.decided {
            return next_action(planned, outcomes, &self.zaps);
        }
        if let Some(id) = self.approved {
            return Step::Execute { id };
        }
        match self.jobs.last() {
            None => Step::Prepare { attempt: 0, tried: Vec::new() },
            Some(Job::Abandoned { .. }) if self.jobs.len() >= usize::from(MAX_ATTEMPTS) => {
                Step::Commit(End::Failed(Failure::NoProvider))
            }
            Some(Job::Abandoned { request }) => Step::Prepare {
                attempt: request.attempt + 1,
                tried: self.jobs.iter().map(|job| job.request().provider).collect(),
            },
            Some(Job::Requested { request, published: false, .. }) => {
                Step::Perform(Effect::PublishRequest(request.clone()))
            }
            Some(Job::Requested { request, .. }) => Step::Perform(Effect::AwaitOffer(request.clone())),
            Some(Job::Invoiced { request, bill, .. }) => {
                Step::Perform(Effect::Pay { request: request.clone(), bill: bill.clone(), dispatched: false })
            }
            Some(Job::Paying { request, bill, .. }) => {
                Step::Perform(Effect::Pay { request: request.clone(), bill: bill.clone(), dispatched: true })
            }
            Some(Job::Paid { request, receipt, .. }) => {
                Step::Perform(Effect::AwaitResult { request: request.clone(), paid_at: receipt.at })
            }
            Some(Job::Done { answer, .. }) => Step::Decide { answer: answer.clone() },
            Some(Job::Disputed { .. }) => Step::Commit(End::Failed(Failure::PaidNotServed)),
        }
    }

    /// The actions as everyone may see them.
    pub fn views(&self) -> Vec<ActionView> {
        let Some((planned, outcomes)) = &self.decided else { return Vec::new() };
        let both = planned.iter().zip(outcomes).enumerate();
        both.map(|(index, (planned, outcome))| view(planned, outcome.as_ref(), self.zaps.get(&index))).collect()
    }
}

fn next_action(planned: &[Planned], outcomes: &[Option<ActionOutcome>], zaps: &BTreeMap<usize, Zapping>) -> Step {
    for (index, (planned, outcome)) in planned.iter().zip(outcomes).enumerate() {
        if let (Plan::Publish { events, relays }, None) = (&planned.plan, outcome) {
            return Step::Perform(Effect::Act { index, events: events.clone(), relays: relays.clone() });
        }
        if let (Plan::Zap(zap), Some(zapping)) = (&planned.plan, zaps.get(&index))
            && let Some(effect) = zapping.next(index, zap)
        {
            return Step::Perform(effect);
        }
    }
    Step::Commit(End::Completed)
}

/// The job that follows, or none if the record does not.
fn advance(job: &Job, record: &Record) -> Option<Job> {
    Some(match (job.clone(), record) {
        (Job::Requested { request, answer, .. }, Record::Published { .. }) => {
            Job::Requested { request, published: true, answer }
        }
        (Job::Requested { request, published: true, answer: None }, Record::Answered { content, .. }) => {
            Job::Done { request, answer: content.clone() }
        }
        (Job::Requested { request, published: true, answer }, Record::Invoiced { bill, .. }) => {
            Job::Invoiced { request, bill: bill.clone(), answer }
        }
        (Job::Invoiced { request, bill, answer }, Record::Paying { .. }) => Job::Paying { request, bill, answer },
        (Job::Paying { request, bill, answer }, Record::Paid { at, fee, preimage, .. }) => match answer {
            Some(answer) => Job::Done { request, answer },
            None => Job::Paid { request, bill, receipt: Receipt { at: *at, fee: *fee, preimage: *preimage } },
        },
        // Who delivers before it takes the money is believed to want it: the payment is seen through.
        (Job::Paying { request, bill, answer: None }, Record::Answered { content, .. }) => {
            Job::Paying { request, bill, answer: Some(content.clone()) }
        }
        // The answer is there, whatever becomes of the money: in flight, or given back.
        (Job::Paying { request, answer: Some(answer), .. }, Record::InFlight { .. } | Record::NotPaid { .. }) => {
            Job::Done { request, answer }
        }
        (Job::Paid { request, .. }, Record::Answered { content, .. }) => Job::Done { request, answer: content.clone() },
        (Job::Paid { request, bill, receipt }, Record::Disputed { heard, .. }) => {
            Job::Disputed { request, bill, receipt, heard: heard.clone() }
        }
        // Nothing was dispatched, or the backend said for certain that nothing was paid.
        (Job::Requested { request, .. } | Job::Invoiced { request, .. }, Record::Abandoned { .. })
        | (Job::Paying { request, .. }, Record::NotPaid { .. }) => Job::Abandoned { request },
        _ => return None,
    })
}

fn view(planned: &Planned, outcome: Option<&ActionOutcome>, zap: Option<&Zapping>) -> ActionView {
    let (event_id, outcome) = match (&planned.plan, outcome) {
        (Plan::Refused { why }, _) => (None, format!("refused: {why}")),
        (Plan::Parked { why, .. }, _) => (None, format!("parked: {why}")),
        (Plan::Local, _) => (None, "done".to_owned()),
        (Plan::Zap(_), _) => (None, zap.map_or_else(|| "open".to_owned(), Zapping::outcome)),
        (Plan::Publish { events, .. }, Some(ActionOutcome::Done { .. })) => {
            (events.first().map(|event| event.id), "done".to_owned())
        }
        (Plan::Publish { events, .. }, Some(ActionOutcome::Queued { why })) => {
            (events.first().map(|event| event.id), format!("queued: {why}"))
        }
        (Plan::Publish { .. }, None) => (None, "open".to_owned()),
    };
    let kind: ActionKind = planned.action.kind();
    ActionView { kind, event_id, amount_sats: planned.action.amount().map(Msat::sats_ceil), outcome }
}

#[cfg(test)]
mod tests;
