//! One tick: begun, driven step by step through its journal, committed.

use std::sync::Arc;

use nexus_core::action::Action;
use nexus_core::approval::ApprovalId;
use nexus_core::availability::{Availability, Missed, Month};
use nexus_core::budget::Window;
use nexus_core::event::EventBody;
use nexus_core::tick::{ActionOutcome, End, Failure, Job, Plan, Record, Step, Tick};
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, MonoMs, Msat, TickId, UnixMs};
use nexus_lightning::WalletDriver;
use nexus_nostr::state::{Anchor, anchor, sealed_state};
use nexus_seal::blob::Purpose;
use nexus_store::agent::{Agent, Change};
use nexus_store::blob::Blob;
use nexus_store::event::NewEvent;
use nexus_store::tick::OpenTick;
use nexus_store::{Side, journal, tick as ticks};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::approval;
use crate::decide::{Decision, decide};
use crate::dispute;
use crate::error::TurnError;
use crate::faults::At;
use crate::filter::{self, Closed, Taken};
use crate::funds;
use crate::ledger::Pen;
use crate::perform;
use crate::profile::{publication, relays, sign};
use crate::public;
use crate::trace::{self, Recorder};
use crate::unlock::{Opened, seal_state, stage};
use crate::vitals::payment_states;
use crate::wallet;

/// A step as the history shows it: no text.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Trail {
    pub step: &'static str,
    pub at: UnixMs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A tick under way.
pub(crate) struct Run<'a> {
    pub pen: Pen<'a>,
    pub agent: &'a Agent,
    pub opened: &'a mut Opened,
    pub wallet: Arc<dyn WalletDriver>,
    pub balance: Msat,
    pub stop: &'a CancellationToken,
    pub id: TickId,
    pub tick: Tick,
    pub taken: Vec<Taken>,
    /// The owner said stop at once: nothing new is begun.
    pub ending: bool,
    next_seq: i64,
    started: MonoMs,
    /// When the last record was durable.
    last: MonoMs,
    trail: Vec<Trail>,
    recorder: Option<Recorder>,
}

fn sealed_record(
    pen: &Pen<'_>,
    opened: &Opened,
    id: TickId,
    seq: i64,
    record: &Record,
) -> Result<journal::Record, TurnError> {
    let failed = |text: String| TurnError::parked("journal_unwritable", text, 60_000);
    let json = serde_json::to_vec(record).map_err(|error| failed(error.to_string()))?;
    let json = zeroize::Zeroizing::new(json);
    let purpose = Purpose::Journal { tick_id: id, seq: u32::try_from(seq).unwrap_or(u32::MAX) };
    let blob = opened.keys.data.seal(purpose, &json, &*pen.host.entropy).map_err(|error| failed(error.to_string()))?;
    Ok(journal::Record {
        seq,
        kind: record.kind().to_owned(),
        version: i32::try_from(pen.host.version).unwrap_or(i32::MAX),
        class: record.idempotency().to_owned(),
        // Of the ciphertext: a digest of the clear record could be guessed from.
        digest: Hash32::sha256(&blob),
        blob,
    })
}

/// What wakes an agent, and since when that was due.
pub(crate) struct Cause {
    pub trigger: Trigger,
    pub taken: Vec<Taken>,
    pub due: UnixMs,
    /// Heartbeats before it that were never met.
    pub missed: Missed,
    /// The approved action that it is for, when it is for one.
    pub approved: Option<ApprovalId>,
    /// When the turn began to look at what there is.
    pub since: MonoMs,
}

/// What a tick that starts now means for the agent's availability.
fn promise(due: UnixMs, now: UnixMs, missed: Missed) -> Side {
    let month = Month::of(now);
    let (missed, missed_before) = missed.by_month(month);
    Side::Promise { month, kept: Availability::started(due, now, missed), missed_before }
}

/// Begins a tick: its row, its inbox rows, its first record and `tick_started`, in one batch.
pub(crate) async fn begin<'a>(
    pen: Pen<'a>,
    agent: &'a Agent,
    opened: &'a mut Opened,
    wallet: Arc<dyn WalletDriver>,
    balance: Msat,
    stop: &'a CancellationToken,
    cause: Cause,
) -> Result<Run<'a>, TurnError> {
    let Cause { trigger, taken, due, missed, approved, since } = cause;
    let now = pen.now();
    let id = TickId::new(now, nexus_core::time::random(&*pen.host.entropy));
    let rows: Vec<i64> = taken.iter().map(|taken| taken.row).collect();
    let first = Record::Began { trigger, inbox: taken.iter().map(Taken::claim).collect(), at: now };
    let first: Vec<Record> = [first].into_iter().chain(approved.map(|id| Record::Approved { id })).collect();
    let tick =
        Tick::replay(first.iter()).map_err(|error| TurnError::parked("journal_invalid", error.to_string(), 60_000))?;
    let records = (1..).zip(&first).map(|(seq, record)| sealed_record(&pen, opened, id, seq, record));
    let records = records.collect::<Result<Vec<_>, _>>()?;
    let next_seq = i64::try_from(records.len()).unwrap_or(i64::MAX) + 1;
    let started = EventBody::TickStarted { tick_id: id };
    let mut side = vec![promise(due, now, missed)];
    side.extend(public::request(pen.host, agent, opened, id, trigger, &taken, now).await);
    let begin = ticks::Begin {
        fence: pen.fence()?,
        npub: pen.npub,
        generation: pen.generation,
        tick: id,
        trigger,
        at: now,
        inbox: rows,
        records,
        events: vec![NewEvent::new(now, started)],
        side,
    };
    pen.host.faults.pass(At::Before, "append:began").await;
    let seqs = ticks::begin(&pen.host.store, begin).await?;
    pen.host.announce(pen.npub, &seqs);
    pen.host.faults.pass(At::After, "append:began").await;
    pen.host.vitals.tick_started(u64::try_from(now.0.saturating_sub(due.0)).unwrap_or(0));
    tracing::info!(npub = %pen.npub.short(), tick_id = %id, %trigger, generation = pen.generation.0, "tick started");
    let trail = vec![Trail { step: "began", at: now, note: Some(trigger.to_string()) }];
    let started = pen.host.mono();
    let recorder = Recorder::new(pen.host, id, pen.npub, pen.generation, trigger, false, since);
    Ok(Run {
        pen,
        agent,
        opened,
        wallet,
        balance,
        stop,
        id,
        tick,
        taken,
        ending: false,
        next_seq,
        started,
        last: started,
        trail,
        recorder,
    })
}

/// Reads the journal of a tick that a crash, a hand-over or a stop left open.
pub(crate) async fn resume<'a>(
    pen: Pen<'a>,
    agent: &'a Agent,
    opened: &'a mut Opened,
    wallet: Arc<dyn WalletDriver>,
    balance: Msat,
    stop: &'a CancellationToken,
    open: OpenTick,
) -> Result<Run<'a>, TurnError> {
    let unreadable = |text: String| TurnError::parked("journal_unreadable", text, 60_000);
    let since = pen.host.mono();
    let id = open.tick.id;
    let mut records = Vec::with_capacity(open.records.len());
    for row in &open.records {
        let version = u32::try_from(row.version).unwrap_or(0);
        if version > pen.host.version {
            return Err(TurnError::Newer { what: format!("journal record `{}`", row.kind), version });
        }
        if version == 0 {
            return Err(unreadable(format!("journal record {} has version {}", row.kind, row.version)));
        }
        let purpose = Purpose::Journal { tick_id: id, seq: u32::try_from(row.seq).unwrap_or(u32::MAX) };
        let json = opened.keys.data.open(purpose, &row.blob).map_err(|error| unreadable(error.to_string()))?;
        let record: Record = serde_json::from_slice(json.expose())
            .map_err(|_| unreadable(format!("journal record of unknown kind {}", row.kind)))?;
        records.push(record);
    }
    let tick = Tick::replay(records.iter()).map_err(|error| unreadable(error.to_string()))?;
    let mut taken = Vec::new();
    for claimed in &tick.inbox {
        let row = match open.inbox.iter().find(|item| item.id == claimed.row) {
            Some(item) if filter::digest(item) == claimed.digest => match filter::open(opened, item).await {
                Ok(row) => Some(row),
                Err(Closed::For(_)) => None,
                Err(Closed::Now(problem)) => return Err(problem),
            },
            Some(_) | None => None,
        };
        // Readable when the tick began, so readable now. One that is not, or that says something else than what
        // passed the filter, keeps its label, so that no answer goes to the sender of another.
        taken.push(row.unwrap_or_else(|| Taken::gone(claimed.row, tick.began_at)));
    }
    tracing::info!(npub = %pen.npub.short(), tick_id = %id, records = records.len(), "tick resumed");
    pen.host.vitals.tick_resumed();
    let trail = vec![Trail { step: "resumed", at: pen.now(), note: None }];
    let next_seq = open.records.last().map_or(1, |record| record.seq + 1);
    let started = pen.host.mono();
    let recorder = Recorder::new(pen.host, id, pen.npub, pen.generation, tick.trigger, true, since);
    Ok(Run {
        pen,
        agent,
        opened,
        wallet,
        balance,
        stop,
        id,
        tick,
        taken,
        ending: false,
        next_seq,
        started,
        last: started,
        trail,
        recorder,
    })
}

impl Run<'_> {
    /// Appends one record with what commits beside it, then folds it in.
    pub async fn append(&mut self, record: Record, side: Vec<Side>) -> Result<(), TurnError> {
        let kind = record.kind();
        let mut folded = self.tick.clone();
        folded.apply(&record).map_err(|error| TurnError::parked("journal_invalid", error.to_string(), 60_000))?;
        let host = self.pen.host;
        let at = self.pen.now();
        let states = payment_states(&side);
        let append = journal::Append {
            fence: self.pen.fence()?,
            npub: self.pen.npub,
            generation: self.pen.generation,
            tick: self.id,
            at,
            records: vec![sealed_record(&self.pen, self.opened, self.id, self.next_seq, &record)?],
            side,
        };
        host.faults.pass(At::Before, &format!("append:{kind}")).await;
        let seqs = journal::append(&host.store, append).await?;
        host.announce(self.pen.npub, &seqs);
        host.faults.pass(At::After, &format!("append:{kind}")).await;
        self.tick = folded;
        self.next_seq += 1;
        host.vitals.committed(&states);
        host.vitals.step(kind, host.mono().since(self.last));
        self.last = host.mono();
        self.trail.push(Trail { step: kind, at, note: None });
        if let Some(recorder) = &mut self.recorder {
            recorder.record(kind);
        }
        Ok(())
    }

    pub fn relays(&self) -> Vec<String> {
        relays(self.pen.host, self.agent)
    }

    pub fn timed_out(&self) -> bool {
        self.pen.host.mono().since(self.started) > self.pen.host.config.tick_timeout_ms
    }

    /// Does steps until the tick is over. An error leaves the journal where it stands.
    pub async fn drive(mut self) -> Result<(), TurnError> {
        let ended = self.steps().await;
        let cost = self.tick.spent().as_u64();
        if let Some(mut recorder) = self.recorder.take() {
            let (outcome, reason) = match &ended {
                Ok(End::Completed) => ("completed", None),
                Ok(End::Failed(reason)) => ("failed", Some(reason.as_str())),
                Err(error) => trace::ended(error),
            };
            recorder.ended(outcome, reason, cost);
        }
        ended.map(|_| ())
    }

    async fn steps(&mut self) -> Result<End, TurnError> {
        loop {
            if self.stop.is_cancelled() {
                return Err(TurnError::Interrupted);
            }
            let step = self.tick.next();
            if let Some(reason) = self.cut_short(&step) {
                self.append(Record::Failed { reason }, Vec::new()).await?;
                continue;
            }
            let (since, named) = (self.pen.host.mono(), trace::named(&step));
            let (done, end) = match step {
                Step::Prepare { attempt, tried } => (perform::prepare(self, attempt, &tried).await, None),
                Step::Perform(effect) => (perform::perform(self, effect).await, None),
                Step::Execute { id } => (self.execute(id).await, None),
                Step::Decide { answer } => (self.decide(&answer).await, None),
                Step::Commit(end) => (self.commit(end).await, Some(end)),
            };
            if let Some(recorder) = &mut self.recorder {
                recorder.span(named, since, done.as_ref().err());
            }
            done?;
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Why the next step is not taken. Nothing that may have been paid is cut short: it is resolved first.
    fn cut_short(&self, step: &Step) -> Option<Failure> {
        use nexus_core::tick::Effect;
        let spendable = match step {
            Step::Prepare { .. } | Step::Execute { .. } => true,
            Step::Perform(effect) => match effect {
                Effect::PublishRequest(_) | Effect::AwaitOffer(_) => true,
                Effect::Pay { dispatched, .. } => !dispatched,
                Effect::AwaitResult { .. } => self.ending,
                // What has not left yet ends by its own record, so that nothing that was done before it is done again.
                Effect::AskZap { .. } | Effect::PayZap { .. } => false,
                // Signed and on its way to the relays with the decision: it will be out, and is told so.
                Effect::Act { .. } => false,
            },
            Step::Decide { .. } => self.ending,
            Step::Commit(_) => false,
        };
        match (spendable, self.ending) {
            (true, true) => Some(Failure::Stopped),
            (true, false) if self.opened.policy().is_none_or(|policy| policy.frozen) => Some(Failure::PolicyRefused),
            (true, false) if self.timed_out() => Some(Failure::Timeout),
            (true | false, _) => None,
        }
    }

    async fn decide(&mut self, answer: &str) -> Result<(), TurnError> {
        let host = self.pen.host;
        let decision = decide(host, self.agent, self.opened, &self.taken, answer).await?;
        self.decided(decision).await
    }

    /// The action that the owner approved, and nothing else.
    async fn execute(&mut self, id: ApprovalId) -> Result<(), TurnError> {
        let planned = approval::execute(self.pen.host, self.agent, self.opened, id).await?;
        self.decided(Decision { planned: vec![planned], note: None }).await
    }

    async fn decided(&mut self, decision: Decision) -> Result<(), TurnError> {
        // Should the publishing fail, recovery goes on with it.
        let later = self.pen.now().plus_ms(crate::recover::FIRST_PLANNED_MS);
        let mut side = Vec::new();
        for planned in &decision.planned {
            if let Plan::Publish { events, relays } = &planned.plan {
                side.extend(events.iter().map(|event| publication(event, relays, later)));
            }
        }
        let note = decision.note.clone();
        self.append(Record::Decided { actions: decision.planned, note: decision.note }, side).await?;
        if let (Some(note), Some(last)) = (note, self.trail.last_mut()) {
            last.note = Some(note);
        }
        Ok(())
    }

    /// Ends the tick: new state, its anchor, spending, lifecycle, history and events in one batch.
    async fn commit(&mut self, end: End) -> Result<(), TurnError> {
        let now = self.pen.now();
        let spent = self.tick.spent();
        let again = spent == Msat::ZERO && !self.taken.is_empty() && bought_nothing(end);
        self.fold_into_state(now, again);
        let policy_version = self.opened.state.policy_version;
        // What was not thought about stays new: the next heartbeat tries again.
        if end == End::Completed && self.tick.approved().is_none() {
            self.opened.state.intent_digest = Some(self.opened.state.digest_intent(policy_version));
        }
        self.opened.state.last_tick_at = Some(now);
        let mut asked = self.approvals(now).await?;
        let (host, agent) = (self.pen.host, self.agent);
        asked.extend(public::result(host, agent, self.opened, self.id, &self.tick, end, now).await?);
        asked.extend(public::trajectory(host, agent, self.opened, self.id, &self.tick, &self.taken, now).await?);
        let (state, mut side) = self.anchored_state(now).await?;
        side.append(&mut asked);

        let balance = if spent > Msat::ZERO {
            wallet::balance(&*self.wallet).await.unwrap_or_else(|_| self.balance.saturating_sub(spent))
        } else {
            self.balance
        };
        let funded = funds::follow(&self.pen, self.agent, balance, spent).await?;
        let mut events = funded.events;
        let failed = match end {
            End::Completed => None,
            End::Failed(reason) => Some(reason.as_str().to_owned()),
        };
        let views = self.tick.views();
        let body = match &failed {
            None => EventBody::TickCompleted { tick_id: self.id, actions: views.clone() },
            Some(reason) => EventBody::TickFailed { tick_id: self.id, reason: reason.clone() },
        };
        let trajectory = stage(self.pen.host, self.pen.npub, self.pen.generation, self.trajectory()?).await?;
        let mut event = NewEvent::new(now, body);
        // One that is too large for a row is read where the tick is.
        event.sealed = match &trajectory {
            Blob::Row(bytes) => Some(bytes.clone()),
            Blob::Object { .. } => None,
        };
        events.insert(0, event);
        side.extend(self.provider_facts());
        side.extend(dispute::opened(self, end, now).await?);
        let change = Change {
            last_tick_at: Some(now),
            reason: Some(None),
            next_attempt_at: Some(None),
            last_quote: self.tick.jobs().last().map(|job| job.request().quote),
            ..funded.change
        };
        let trail = serde_json::to_string(&self.trail).unwrap_or_default();
        let commit = ticks::Commit {
            fence: self.pen.fence()?,
            npub: self.pen.npub,
            generation: self.pen.generation,
            tick: self.id,
            at: now,
            failed: failed.clone(),
            again,
            state: Some(state),
            cost: spent,
            actions: serde_json::to_string(&views).unwrap_or_default(),
            steps: trail,
            sealed: Some(trajectory),
            change,
            events,
            side,
        };
        let host = self.pen.host;
        host.faults.pass(At::Before, "commit").await;
        let seqs = ticks::commit(&host.store, commit).await?;
        host.vitals.step("committed", host.mono().since(self.last));
        if self.tick.jobs().iter().any(|job| matches!(job, Job::Disputed { .. })) {
            // The account's other agents choose by it at once.
            host.market.forget(self.agent.account);
        }
        host.vitals.tick_ended(if failed.is_some() { "failed" } else { "completed" });
        host.announce(self.pen.npub, &seqs);
        host.faults.pass(At::After, "commit").await;
        let outcome = failed.as_deref().unwrap_or("completed");
        tracing::info!(npub = %self.pen.npub.short(), tick_id = %self.id, outcome, cost_msat = spent.as_u64(), "tick ended");
        Ok(())
    }

    /// What this tick changes in the agent's own memory of the world.
    fn fold_into_state(&mut self, now: UnixMs, again: bool) {
        let state = &mut self.opened.state;
        // What another tick will take was not acted on.
        for taken in self.taken.iter().filter(|_| !again) {
            if let Some(effect) = taken.effect {
                state.note_seen(effect);
            }
        }
        if let Window::Day(day) = Window::day_of(self.tick.began_at) {
            state.add_spend(day, self.tick.spent());
        }
        // Before anything is added: it stands for those that were the oldest then.
        for planned in self.tick.planned() {
            if let (Plan::Local, Action::SummariseMemory { covers, text }) = (&planned.plan, &planned.action) {
                state.condense(usize::try_from(*covers).unwrap_or(0), text.clone());
            }
        }
        for planned in self.tick.planned() {
            match (&planned.plan, &planned.action) {
                (Plan::Local, Action::AddMemory { text }) => state.remember(now, text.clone()),
                (Plan::Local, Action::UpdateGoal { goal, done, note }) => {
                    state.update_goal(goal, *done, note.clone());
                }
                (Plan::Publish { events, .. }, _) => {
                    for event in events {
                        let address = crate::profile::address(event.kind);
                        let stamp = state.created_at.entry(address).or_insert(event.created_at);
                        *stamp = (*stamp).max(event.created_at);
                    }
                }
                (Plan::Zap(zap), _) => {
                    let stamp = state.created_at.entry(crate::profile::address(zap.request.kind)).or_insert(0);
                    *stamp = (*stamp).max(zap.request.created_at);
                }
                (Plan::Local | Plan::Refused { .. } | Plan::Parked { .. }, _) => {}
            }
        }
        let answered =
            self.tick.planned().iter().any(|planned| matches!(planned.plan, Plan::Publish { .. } | Plan::Zap(_)));
        if answered {
            for sender in self.taken.iter().filter_map(|taken| taken.stimulus.sender) {
                state.note_answer(sender, now);
            }
        }
        state.fit();
    }

    /// What begins to wait for the owner with this tick, and what it carried out of that.
    async fn approvals(&mut self, now: UnixMs) -> Result<Vec<Side>, TurnError> {
        let planned = self.tick.planned();
        let mut sides = approval::commit_parked(&self.pen, self.agent, self.opened, self.id, planned).await?;
        if let Some(id) = self.tick.approved() {
            sides.extend(approval::commit_executed(self.opened, id, &self.tick, now));
        }
        Ok(sides)
    }

    /// The sealed state, and its public anchor on its way to the relays.
    async fn anchored_state(&mut self, now: UnixMs) -> Result<(ticks::NewState, Vec<Side>), TurnError> {
        // The anchor's own time is part of the state that it anchors.
        let created_at = self.opened.state.next_created_at("39201:state", now);
        let state = seal_state(self.pen.host, self.pen.generation, self.opened).await?;
        let fact = Anchor { version: u64::try_from(state.version).unwrap_or(0), digest: state.blob.digest() };
        let before = self.opened.state.created_at.insert("39201:state".into(), created_at - 1);
        let shown = public::sealed(self.opened).await;
        let signed = sign(self.opened, "39201:state", UnixMs::from_secs(created_at), |head| match &shown {
            Some(ciphertext) => sealed_state(head, fact, ciphertext),
            None => anchor(head, fact),
        })
        .await?;
        if let Some(before) = before {
            self.opened.state.created_at.insert("39201:state".into(), before);
        }
        let relays = self.relays();
        Ok((state, vec![publication(&signed, &relays, now)]))
    }

    /// What a reader may see of this tick, under the view key: what was said and what was decided.
    fn trajectory(&self) -> Result<Vec<u8>, TurnError> {
        let messages: Vec<_> = self
            .taken
            .iter()
            .map(|taken| serde_json::json!({ "from": taken.stimulus.sender, "trigger": taken.stimulus.trigger, "text": taken.stimulus.text }))
            .collect();
        let actions: Vec<_> = self.tick.planned().iter().map(|planned| &planned.action).collect();
        let document = serde_json::json!({ "tick_id": self.id, "messages": messages, "actions": actions });
        let bytes = zeroize::Zeroizing::new(document.to_string().into_bytes());
        self.opened
            .keys
            .view
            .seal(Purpose::Trajectory, &bytes, &*self.pen.host.entropy)
            .map_err(|error| TurnError::parked("view_key", error.to_string(), 60_000))
    }

    fn provider_facts(&self) -> Vec<Side> {
        use nexus_store::provider::Fact;
        self.tick
            .jobs()
            .iter()
            .filter_map(|job| {
                let request = job.request();
                let fact = match job {
                    Job::Done { .. } => Fact::Done,
                    Job::Disputed { .. } => Fact::Disputed,
                    Job::Abandoned { .. } => Fact::Abandoned,
                    Job::Requested { .. } | Job::Invoiced { .. } | Job::Paying { .. } | Job::Paid { .. } => {
                        return None;
                    }
                };
                Some(Side::Provider { provider: request.provider, fact })
            })
            .collect()
    }
}

/// Whether a tick ended before any money may have left: what it was for can be tried again without paying twice.
const fn bought_nothing(end: End) -> bool {
    match end {
        End::Failed(Failure::NoProvider | Failure::Timeout | Failure::Stopped | Failure::PolicyRefused) => true,
        End::Completed | End::Failed(Failure::PaymentUnresolved | Failure::PaidNotServed) => false,
    }
}

/// Used by the performer for an action that relays took or did not.
pub(crate) fn acted(index: usize, taken: bool, relays: Vec<String>) -> Record {
    let outcome = if taken {
        ActionOutcome::Done { relays }
    } else {
        ActionOutcome::Queued { why: "no relay took it yet; it is tried again".into() }
    };
    Record::Acted { index, outcome }
}
