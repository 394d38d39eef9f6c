//! One trace a tick, sent to a collector that decodes it; none of it secret, and no tick waits for it.

use std::collections::BTreeSet;
use std::net::TcpListener;

use crate::collector::{Collector, Span};
use crate::common::{self, Place, eventually, hex_of};
use crate::web::{figure, get};

const GOAL: &str = "zebra-goal: keep the lighthouse keepers company";
const TOKEN: &str = "zebra-collector-token";
/// What a span may say, and nothing else.
const ATTRIBUTES: [&str; 10] = [
    "nexus.trigger",
    "nexus.outcome",
    "nexus.resumed",
    "nexus.generation",
    "nexus.cost_msat",
    "nexus.reason",
    "nexus.agent",
    "nexus.effect",
    "nexus.number",
    "nexus.records",
];

fn environment(place: &Place, endpoint: &str) -> Vec<(&'static str, String)> {
    let headers = place.path("otlp-headers");
    nexus_client::file::write_private(&headers, format!("authorization: Bearer {TOKEN}\n").as_bytes()).unwrap();
    vec![
        ("NEXUS_TELEMETRY_OTLP_ENDPOINT", endpoint.to_owned()),
        ("NEXUS_TELEMETRY_OTLP_HEADERS_FILE", headers.display().to_string()),
        ("NEXUS_TELEMETRY_AGENTS", "hashed".to_owned()),
        ("NEXUS_TELEMETRY_TIMEOUT_MS", "300".to_owned()),
    ]
}

fn start(place: &Place, environment: &[(&'static str, String)], fault: Option<&str>) -> common::Host {
    let mut all: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    all.extend(fault.map(|point| ("NEXUS_FAULT", point)));
    // Payment and result are steps of their own where a provider holds nothing.
    all.push(("NEXUS_PROVIDER_HOLD", "false"));
    place.start(&all)
}

/// A tick's id, as a trace's.
fn trace_id(tick: &serde_json::Value) -> Vec<u8> {
    hex::decode(tick["tick_id"].as_str().or(tick["id"].as_str()).unwrap().replace('-', "")).unwrap()
}

fn completed(place: &Place) -> Vec<serde_json::Value> {
    place.ticks("ada").into_iter().filter(|tick| tick["status"] == "completed").collect()
}

fn ticked(place: &Place, times: usize) -> Vec<serde_json::Value> {
    let done = eventually(60, || Some(completed(place)).filter(|done| done.len() >= times));
    done.unwrap_or_else(|| panic!("fewer than {times} ticks: {:?}", place.ticks("ada")))
}

/// The spans of a trace, once its tick's own span has come.
fn trace(collector: &Collector, id: &[u8], name: &str) -> Vec<Span> {
    let spans = || collector.spans().into_iter().filter(|span| span.trace == id).collect::<Vec<_>>();
    let found = eventually(30, || Some(spans()).filter(|spans| spans.iter().any(|span| span.name == name)));
    found.unwrap_or_else(|| panic!("no `{name}` of this tick among {:?}", collector.spans()))
}

#[test]
fn a_tick_is_one_trace() {
    let (place, collector) = (Place::new(), Collector::start());
    let sent = environment(&place, &format!("http://{}", collector.at));
    let host = start(&place, &sent, None);
    let npub = place.agent("ada", &["--heartbeat", "1d", "--goal", GOAL]);
    ticked(&place, 1);
    place.ok(&["agent", "tick", "ada"]);
    let ticks = ticked(&place, 2);

    for tick in &ticks {
        let spans = trace(&collector, &trace_id(tick), "tick");
        let roots: Vec<&Span> = spans.iter().filter(|span| span.parent.is_empty()).collect();
        let [root] = roots.as_slice() else { panic!("one root: {spans:?}") };
        assert_eq!(root.name, "tick");
        assert_eq!((root.status, root.message.as_str()), (1, ""));
        assert_eq!(root.says("nexus.trigger"), tick["trigger"].as_str());
        assert_eq!(root.says("nexus.outcome"), Some("completed"));
        assert_eq!(
            root.says("nexus.cost_msat").map(str::to_owned),
            tick["cost_msat"].as_u64().map(|cost| cost.to_string())
        );
        let steps: Vec<&Span> = spans.iter().filter(|span| !span.parent.is_empty()).collect();
        let mut before = root.start_ns;
        for step in &steps {
            assert_eq!(step.parent, root.id, "{step:?}");
            assert!(step.start_ns >= before && step.end_ns >= step.start_ns);
            assert!(step.end_ns <= root.end_ns, "{step:?} ends after {root:?}");
            before = step.end_ns;
        }
        let names: BTreeSet<&str> = steps.iter().map(|step| step.name.as_str()).collect();
        for name in ["perceive", "think", "job", "pay", "decide", "commit"] {
            assert!(names.contains(name), "no {name} in {names:?}");
        }
        let effects: Vec<String> =
            steps.iter().filter_map(|step| step.says("nexus.effect").map(str::to_owned)).collect();
        assert_eq!(effects[..4], ["publish_request", "await_offer", "pay", "await_result"], "{effects:?}");
        let pay = steps.iter().find(|step| step.name == "pay").unwrap();
        assert_eq!(pay.says("nexus.records"), Some("paying,paid"));
        let ids: BTreeSet<&[u8]> = spans.iter().map(|span| span.id.as_slice()).collect();
        assert_eq!(ids.len(), spans.len(), "each span has an id of its own");
    }
    let agents: BTreeSet<Option<String>> = collector
        .spans()
        .iter()
        .filter(|span| span.parent.is_empty())
        .map(|span| span.says("nexus.agent").map(str::to_owned))
        .collect();
    assert!(matches!(agents.iter().collect::<Vec<_>>().as_slice(), [Some(hash)] if hash.len() == 32), "{agents:?}");
    let resources = collector.resources();
    assert!(resources.iter().all(|about| about["service.name"] == "nexus" && about.contains_key("nexus.region")));
    let authorised = |headers: &axum::http::HeaderMap| headers["authorization"] == format!("Bearer {TOKEN}").as_str();
    assert!(collector.headers().iter().all(authorised));
    let (_, metrics) = get(&place.api(), "/metrics");
    assert!(figure(&metrics, "nexus_traces_total{fate=\"sent\"}").unwrap() >= 2.0, "{metrics}");

    // Killed in the middle, it goes on in the same trace, below the span that was never ended.
    assert_eq!(host.interrupt(), 0);
    let host = start(&place, &sent, Some("before:append:decided"));
    place.ok(&["agent", "tick", "ada"]);
    assert!(host.says("fault reached: before:append:decided", 30));
    host.kill();
    let host = start(&place, &sent, None);
    let ticks = ticked(&place, 3);
    let id = trace_id(&ticks[0]);
    let spans = trace(&collector, &id, "tick resumed");
    let resumed = spans.iter().find(|span| span.name == "tick resumed").unwrap();
    assert_eq!(resumed.parent, id[8..], "the id that the first part's own span has");
    assert_eq!(resumed.says("nexus.resumed"), Some("true"));
    assert!(spans.iter().all(|span| span.name == "tick resumed" || span.parent == resumed.id));
    assert!(!spans.iter().any(|span| span.name == "pay"), "paid before: {spans:?}");

    nothing_secret(&collector, &npub, &place, &host);
}

fn nothing_secret(collector: &Collector, npub: &str, place: &Place, host: &common::Host) {
    for span in collector.spans() {
        for key in span.attributes.keys() {
            assert!(ATTRIBUTES.contains(&key.as_str()), "{key}");
        }
    }
    let bytes = collector.bytes();
    let needles = [
        npub.to_owned(),
        hex_of(npub),
        "zebra".to_owned(),
        common::PASSPHRASE.to_owned(),
        "lnbc".to_owned(),
        "://".to_owned(),
    ];
    for needle in &needles {
        assert!(!bytes.windows(needle.len()).any(|window| window == needle.as_bytes()), "{needle} is in the traces");
    }
    let raw = npub.parse::<nexus_core::Npub>().unwrap();
    assert!(!bytes.windows(32).any(|window| window == raw.as_bytes()));
    assert!(!host.logged().contains(TOKEN) && !place.ok(&["config"]).to_string().contains(TOKEN));
}

#[test]
fn a_collector_that_is_mute_or_gone_holds_no_tick_up() {
    let place = Place::new();
    // Takes connections, and never answers.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = start(&place, &environment(&place, &format!("http://{}", mute.local_addr().unwrap())), None);
    place.agent("ada", &["--heartbeat", "1d"]);
    ticked(&place, 1);
    let failed = |place: &Place| figure(&get(&place.api(), "/metrics").1, "nexus_traces_total{fate=\"failed\"}");
    assert!(eventually(30, || failed(&place).filter(|failed| *failed >= 1.0)).is_some());
    assert_eq!(host.interrupt(), 0);

    drop(mute);
    let host = start(&place, &environment(&place, &format!("http://127.0.0.1:{}", common::free_port())), None);
    place.ok(&["agent", "tick", "ada"]);
    ticked(&place, 2);
    assert!(eventually(30, || failed(&place).filter(|failed| *failed >= 1.0)).is_some());
    assert!(host.says("traces were not taken", 10) && !host.logged().contains(TOKEN));
    assert_eq!(host.interrupt(), 0);
}
