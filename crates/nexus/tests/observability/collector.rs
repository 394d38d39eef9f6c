//! A small OpenTelemetry collector (OTLP over HTTP, JSON) that keeps what it is sent, and takes nothing malformed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Request {
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ResourceSpans {
    resource: Resource,
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    attributes: Vec<Attribute>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScopeSpans {
    scope: Value,
    spans: Vec<RawSpan>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attribute {
    key: String,
    value: AnyValue,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
enum AnyValue {
    #[serde(rename = "stringValue")]
    Text(String),
    #[serde(rename = "boolValue")]
    Flag(bool),
    #[serde(rename = "intValue")]
    Number(String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSpan {
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    name: String,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute>,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Status {
    code: u8,
    message: String,
}

/// A span, read.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace: Vec<u8>,
    pub id: Vec<u8>,
    /// Empty for the first.
    pub parent: Vec<u8>,
    pub name: String,
    pub start_ns: u64,
    pub end_ns: u64,
    pub attributes: BTreeMap<String, String>,
    /// 0 unset, 1 ok, 2 error.
    pub status: u8,
    pub message: String,
}

impl Span {
    pub fn says(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }
}

fn read(raw: RawSpan) -> Span {
    let id = |text: &str, bytes: usize| {
        let id = hex::decode(text).unwrap();
        assert!(id.len() == bytes && id.iter().any(|byte| *byte != 0), "no id: {text}");
        id
    };
    assert_eq!(raw.kind, 1);
    Span {
        trace: id(&raw.trace_id, 16),
        id: id(&raw.span_id, 8),
        parent: if raw.parent_span_id.is_empty() { Vec::new() } else { id(&raw.parent_span_id, 8) },
        name: raw.name,
        start_ns: raw.start_time_unix_nano.parse().unwrap(),
        end_ns: raw.end_time_unix_nano.parse().unwrap(),
        attributes: values(raw.attributes),
        status: raw.status.code,
        message: raw.status.message,
    }
}

fn values(attributes: Vec<Attribute>) -> BTreeMap<String, String> {
    let value = |attribute: Attribute| match attribute.value {
        AnyValue::Text(text) => (attribute.key, text),
        AnyValue::Flag(flag) => (attribute.key, flag.to_string()),
        AnyValue::Number(number) => (attribute.key, number.parse::<i64>().unwrap().to_string()),
    };
    attributes.into_iter().map(value).collect()
}

#[derive(Default)]
struct Kept {
    spans: Vec<Span>,
    resources: Vec<BTreeMap<String, String>>,
    headers: Vec<HeaderMap>,
    bytes: Vec<u8>,
}

pub struct Collector {
    pub at: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let kept = Arc::new(Mutex::new(Kept::default()));
        let router = Router::new().route("/v1/traces", post(take)).with_state(kept.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let at = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { at, kept, _runtime: runtime }
    }

    pub fn spans(&self) -> Vec<Span> {
        self.kept.lock().unwrap().spans.clone()
    }

    pub fn resources(&self) -> Vec<BTreeMap<String, String>> {
        self.kept.lock().unwrap().resources.clone()
    }

    pub fn headers(&self) -> Vec<HeaderMap> {
        self.kept.lock().unwrap().headers.clone()
    }

    /// Everything that came, as it came.
    pub fn bytes(&self) -> Vec<u8> {
        self.kept.lock().unwrap().bytes.clone()
    }
}

async fn take(State(kept): State<Arc<Mutex<Kept>>>, headers: HeaderMap, body: Bytes) -> Json<Value> {
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    let request: Request = serde_json::from_slice(&body).unwrap();
    let mut kept = kept.lock().unwrap();
    kept.bytes.extend(&body);
    kept.headers.push(headers);
    for resource in request.resource_spans {
        kept.resources.push(values(resource.resource.attributes));
        for scope in resource.scope_spans {
            assert_eq!(scope.scope["name"], "nexus");
            kept.spans.extend(scope.spans.into_iter().map(read));
        }
    }
    Json(json!({}))
}
