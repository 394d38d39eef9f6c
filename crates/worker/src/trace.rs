//! What a tick did and how long each step took, for whoever collects traces. Names are words of our own; there is no
//! text, no amount of anyone else, no key in it.

use std::sync::Arc;

use nexus_core::tick::{Effect, Step};
use nexus_core::trigger::Trigger;
use nexus_core::{Generation, MonoMs, Npub, TickId, UnixMs};

use crate::error::TurnError;
use crate::host::Host;

/// Spans of one part of a tick at most; what comes after them is left out and counted.
pub const MAX_SPANS: usize = 256;
/// Records named in one span at most.
const MAX_RECORDS: usize = 8;

/// Where traces go. Both calls return at once, whatever becomes of the trace.
pub trait Traces: Send + Sync {
    /// Whether this tick's trace is wanted: the same answer on every worker, since a tick may go on elsewhere.
    fn wants(&self, tick: TickId) -> bool;
    fn tick(&self, trace: TickTrace);
}

/// One tick, or the part of it that one turn did. All parts of a tick name the same `tick`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TickTrace {
    pub tick: TickId,
    pub npub: Npub,
    pub trigger: Trigger,
    pub generation: Generation,
    /// Taken up from its journal: another turn began it.
    pub resumed: bool,
    /// `completed`, `failed`, `interrupted`, `stale`, `parked`, `database` or `cut_off`.
    pub outcome: &'static str,
    /// Why, as a code, where there is more to say.
    pub reason: Option<&'static str>,
    pub cost_msat: u64,
    /// Wall clock at the start; every time after it is that plus the monotonic clock's distance.
    pub start: UnixMs,
    pub end: UnixMs,
    /// In the order in which they began; none overlaps another.
    pub spans: Vec<StepSpan>,
    /// Spans left out.
    pub dropped: u32,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepSpan {
    /// `perceive`, `think`, `job`, `pay`, `decide`, `act` or `commit`.
    pub step: &'static str,
    /// What was done to the outside, such as `publish_request`.
    pub effect: Option<&'static str>,
    /// Which provider in a row, or which action; of a zap's payment which action.
    pub number: Option<u32>,
    /// Kinds of the records that it made durable.
    pub records: Vec<&'static str>,
    /// It ended in an error of this class.
    pub error: Option<&'static str>,
    pub start: UnixMs,
    pub end: UnixMs,
}

/// Writes one part of a tick down and hands it over when dropped, so that a turn that is cut off shows, too.
pub(crate) struct Recorder {
    to: Arc<dyn Traces>,
    clock: Arc<dyn nexus_core::Clock>,
    began: MonoMs,
    trace: TickTrace,
    records: Vec<&'static str>,
}

impl Recorder {
    /// None where nobody wants it. `since` is when the turn turned to this tick.
    pub fn new(
        host: &Host,
        tick: TickId,
        npub: Npub,
        generation: Generation,
        trigger: Trigger,
        resumed: bool,
        since: MonoMs,
    ) -> Option<Self> {
        let to = host.traces.clone().filter(|to| to.wants(tick))?;
        let ago = i64::try_from(host.mono().since(since)).unwrap_or(0);
        let start = host.now().plus_ms(-ago);
        let trace = TickTrace {
            tick,
            npub,
            trigger,
            generation,
            resumed,
            outcome: "cut_off",
            reason: None,
            cost_msat: 0,
            start,
            end: start,
            spans: Vec::new(),
            dropped: 0,
        };
        let mut made = Self { to, clock: host.clock.clone(), began: since, trace, records: Vec::new() };
        made.span(("perceive", None, None), since, None);
        Some(made)
    }

    pub fn record(&mut self, kind: &'static str) {
        if self.records.len() < MAX_RECORDS {
            self.records.push(kind);
        }
    }

    /// A step that ended now.
    pub fn span(&mut self, named: Named, since: MonoMs, error: Option<&TurnError>) {
        let records = std::mem::take(&mut self.records);
        if self.trace.spans.len() >= MAX_SPANS {
            self.trace.dropped = self.trace.dropped.saturating_add(1);
            return;
        }
        let (step, effect, number) = named;
        let (start, end) = (self.at(since), self.at(self.clock.mono()));
        let error = error.map(|error| ended(error).0);
        self.trace.spans.push(StepSpan { step, effect, number, records, error, start, end });
    }

    pub fn ended(&mut self, outcome: &'static str, reason: Option<&'static str>, cost_msat: u64) {
        (self.trace.outcome, self.trace.reason, self.trace.cost_msat) = (outcome, reason, cost_msat);
    }

    fn at(&self, mono: MonoMs) -> UnixMs {
        self.trace.start.plus_ms(i64::try_from(mono.since(self.began)).unwrap_or(i64::MAX))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.trace.end = self.at(self.clock.mono());
        self.to.tick(self.trace.clone());
    }
}

/// Step, effect and number of a span.
pub(crate) type Named = (&'static str, Option<&'static str>, Option<u32>);

pub(crate) fn named(step: &Step) -> Named {
    match step {
        Step::Prepare { attempt, .. } => ("think", None, Some(u32::from(*attempt))),
        Step::Perform(effect) => {
            let name = Some(effect.name());
            match effect {
                Effect::PublishRequest(request) | Effect::AwaitOffer(request) | Effect::AwaitResult { request, .. } => {
                    ("job", name, Some(u32::from(request.attempt)))
                }
                Effect::Pay { request, .. } => ("pay", name, Some(u32::from(request.attempt))),
                Effect::Act { index, .. } | Effect::AskZap { index, .. } => ("act", name, u32::try_from(*index).ok()),
                Effect::PayZap { index, .. } => ("pay", name, u32::try_from(*index).ok()),
            }
        }
        Step::Execute { .. } | Step::Decide { .. } => ("decide", None, None),
        Step::Commit(_) => ("commit", None, None),
    }
}

/// How a part of a tick ended that did not end well: outcome and code.
pub(crate) fn ended(error: &TurnError) -> (&'static str, Option<&'static str>) {
    match error {
        TurnError::Stale => ("stale", None),
        TurnError::Store(_) => ("database", None),
        TurnError::Parked { code, .. } => ("parked", Some(code)),
        TurnError::Newer { .. } => ("parked", Some("newer_version")),
        TurnError::Interrupted => ("interrupted", None),
    }
}
