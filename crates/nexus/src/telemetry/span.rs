//! A tick's trace as OpenTelemetry's spans, in OTLP's JSON encoding (OTLP specification 1.x, "JSON Protobuf Encoding": ids in
//! hex, 64-bit integers as decimal text, enums as numbers).
//!
//! The trace's id is the tick's own, so that every part of a tick is in one trace, whoever did it; the span of the tick
//! itself has an id made of it, so that parts that another worker did know their parent.

use nexus_core::trigger::Trigger;
use nexus_core::{Entropy, Hash32, Npub, TickId, UnixMs};
use nexus_worker::{StepSpan, TickTrace};
use serde_json::{Value, json};

use crate::config::AgentAttribute;

const INTERNAL: u8 = 1;
const OK: u8 = 1;
const ERROR: u8 = 2;

/// The body of one request.
pub fn request(
    traces: &[TickTrace],
    about: &[(&'static str, String)],
    agents: AgentAttribute,
    entropy: &dyn Entropy,
) -> Value {
    let about: Vec<Value> = about.iter().map(|(name, value)| text(name, value)).collect();
    let spans: Vec<Value> = traces.iter().flat_map(|trace| spans(trace, agents, entropy)).collect();
    let scope = json!({ "name": "nexus", "version": env!("CARGO_PKG_VERSION") });
    json!({ "resourceSpans": [{
        "resource": { "attributes": about },
        "scopeSpans": [{ "scope": scope, "spans": spans }],
    }] })
}

/// The spans of one part of a tick: the part itself, then its steps.
fn spans(trace: &TickTrace, agents: AgentAttribute, entropy: &dyn Entropy) -> Vec<Value> {
    let fresh = || hex::encode(nexus_core::time::random::<8>(entropy));
    let root = root_id(trace.tick);
    let (id, parent, name) =
        if trace.resumed { (fresh(), root, "tick resumed") } else { (root, String::new(), "tick") };
    let status = match trace.outcome {
        "completed" => json!({ "code": OK }),
        outcome => json!({ "code": ERROR, "message": trace.reason.unwrap_or(outcome) }),
    };
    let whole = Span { trace: trace.tick, id: &id, parent: &parent, name, start: trace.start, end: trace.end };
    let mut spans = vec![whole.value(tick_attributes(trace, agents), &status)];
    for step in &trace.spans {
        let status = step.error.map_or_else(|| json!({}), |error| json!({ "code": ERROR, "message": error }));
        let (start, end) = (step.start, step.end);
        let span = Span { trace: trace.tick, id: &fresh(), parent: &id, name: step.step, start, end };
        spans.push(span.value(step_attributes(step), &status));
    }
    spans
}

struct Span<'a> {
    trace: TickId,
    id: &'a str,
    parent: &'a str,
    name: &'static str,
    start: UnixMs,
    end: UnixMs,
}

impl Span<'_> {
    fn value(self, attributes: Vec<Value>, status: &Value) -> Value {
        json!({
            "traceId": hex::encode(self.trace.as_bytes()),
            "spanId": self.id,
            "parentSpanId": self.parent,
            "name": self.name,
            "kind": INTERNAL,
            "startTimeUnixNano": nanos(self.start),
            "endTimeUnixNano": nanos(self.end),
            "attributes": attributes,
            "status": status,
        })
    }
}

/// Of the tick itself. Never zero: the random half of a UUIDv7 begins with its variant (RFC 9562).
fn root_id(tick: TickId) -> String {
    hex::encode(&tick.as_bytes()[8..])
}

fn tick_attributes(trace: &TickTrace, agents: AgentAttribute) -> Vec<Value> {
    let trigger = match trace.trigger {
        // As many kinds as anyone likes to send are not as many values.
        Trigger::Kind(_) => "kind".to_owned(),
        named => named.to_string(),
    };
    let mut attributes = vec![
        text("nexus.trigger", &trigger),
        text("nexus.outcome", trace.outcome),
        json!({ "key": "nexus.resumed", "value": { "boolValue": trace.resumed } }),
        number("nexus.generation", trace.generation.0),
        number("nexus.cost_msat", i64::try_from(trace.cost_msat).unwrap_or(i64::MAX)),
    ];
    if let Some(reason) = trace.reason {
        attributes.push(text("nexus.reason", reason));
    }
    if trace.dropped > 0 {
        attributes.push(number("nexus.spans_dropped", i64::from(trace.dropped)));
    }
    match agents {
        AgentAttribute::None => {}
        AgentAttribute::Hashed => attributes.push(text("nexus.agent", &hashed(&trace.npub))),
    }
    attributes
}

fn hashed(npub: &Npub) -> String {
    let hash = Hash32::sha256(&[b"nexus agent in traces".as_slice(), npub.as_bytes()].concat());
    hex::encode(&hash.as_bytes()[..16])
}

fn step_attributes(step: &StepSpan) -> Vec<Value> {
    let mut attributes = Vec::new();
    if let Some(effect) = step.effect {
        attributes.push(text("nexus.effect", effect));
    }
    if let Some(which) = step.number {
        attributes.push(number("nexus.number", i64::from(which)));
    }
    if !step.records.is_empty() {
        attributes.push(text("nexus.records", &step.records.join(",")));
    }
    attributes
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn number(key: &str, value: i64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

fn nanos(at: UnixMs) -> String {
    (u128::try_from(at.0).unwrap_or(0) * 1_000_000).to_string()
}
