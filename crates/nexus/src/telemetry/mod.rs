//! Traces of ticks, on their way to an OpenTelemetry collector (OTLP over HTTP, JSON). A tick never waits for it: what
//! does not fit into the queue, or is not taken in time, is dropped and counted.

mod span;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nexus_core::{Entropy, TickId};
use nexus_worker::{TickTrace, Traces};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::config::{AgentAttribute, TelemetryConfig};
use crate::dev::keys;

/// Traces of one request at most.
const BATCH: usize = 256;
/// How long a trace waits for others to be sent with.
const LINGER: Duration = Duration::from_millis(500);
/// Once the process stops, a collector that takes longer is not asked again: what is left is given up.
const LAST: Duration = Duration::from_secs(2);
const STOPS: &str = "this process stops";
/// Headers for the collector at most.
const MAX_HEADERS: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fate {
    fate: &'static str,
}

/// The worker's end of the queue.
struct Queue {
    send: Sender<TickTrace>,
    sampled_of_thousand: u64,
    fates: Family<Fate, Counter>,
}

impl Traces for Queue {
    fn wants(&self, tick: TickId) -> bool {
        // The last bytes of a UUIDv7 are random (RFC 9562), and the same everywhere.
        let mut random = [0; 8];
        random[2..].copy_from_slice(&tick.as_bytes()[10..]);
        u64::from_be_bytes(random) % 1_000 < self.sampled_of_thousand
    }

    fn tick(&self, trace: TickTrace) {
        if self.send.try_send(trace).is_err() {
            self.fates.get_or_create(&Fate { fate: "dropped" }).inc();
        }
    }
}

/// The other end: ends when every sender has gone and what they left is sent.
pub struct Exporter {
    client: reqwest::Client,
    url: String,
    about: Vec<(&'static str, String)>,
    queue: Receiver<TickTrace>,
    timeout: Duration,
    agents: AgentAttribute,
    fates: Family<Fate, Counter>,
    entropy: Arc<dyn Entropy>,
    stop: CancellationToken,
}

/// Both ends, where the configuration asks for traces. `about` says who this process is.
pub fn open(
    config: &TelemetryConfig,
    about: Vec<(&'static str, String)>,
    registry: &mut Registry,
    entropy: Arc<dyn Entropy>,
    stop: CancellationToken,
) -> anyhow::Result<Option<(Arc<dyn Traces>, Exporter)>> {
    let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
    let fates: Family<Fate, Counter> = Family::default();
    for fate in ["sent", "failed", "dropped"] {
        drop(fates.get_or_create(&Fate { fate }));
    }
    registry.register("nexus_traces", "Ticks traced, by what became of their trace", fates.clone());
    let (send, queue) = mpsc::channel(config.queue);
    let sampled_of_thousand = u64::from(config.sample_per_thousand);
    let traces = Arc::new(Queue { send, sampled_of_thousand, fates: fates.clone() });
    let timeout = Duration::from_millis(config.timeout_ms);
    let ours = [("service.name", "nexus".to_owned()), ("service.version", env!("CARGO_PKG_VERSION").to_owned())];
    let exporter = Exporter {
        client: client(headers(config).context("reading telemetry.otlp_headers_file")?, timeout)?,
        url: traces_below(endpoint),
        about: ours.into_iter().chain(about).collect(),
        queue,
        timeout,
        agents: config.agents,
        fates,
        entropy,
        stop,
    };
    Ok(Some((traces, exporter)))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the collector is the operator's own choice, so it may be loopback or private"
)]
fn client(headers: HeaderMap, timeout: Duration) -> anyhow::Result<reqwest::Client> {
    let builder = reqwest::Client::builder().user_agent(concat!("nexus/", env!("CARGO_PKG_VERSION")));
    let builder = builder.default_headers(headers).timeout(timeout).redirect(reqwest::redirect::Policy::none());
    builder.build().context("making the collector's HTTP client")
}

/// OTLP's path below a base URL (OTLP specification, "OTLP/HTTP Request").
fn traces_below(base: &Url) -> String {
    format!("{}/v1/traces", base.as_str().trim_end_matches('/').trim_end_matches("/v1/traces"))
}

/// Headers from their file. They may hold the collector's token, so nothing of them is ever said.
fn headers(config: &TelemetryConfig) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let Some(path) = &config.otlp_headers_file else { return Ok(headers) };
    let text = keys::private_text(path)?;
    for (index, line) in text.expose().lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let header = |(name, value): (&str, &str)| {
            let (name, mut value) =
                (HeaderName::try_from(name.trim()).ok()?, HeaderValue::try_from(value.trim()).ok()?);
            value.set_sensitive(true);
            Some((name, value))
        };
        let Some((name, value)) = line.split_once(':').and_then(header) else {
            bail!("{}: line {} is no header\n  next: write `name: value`", path.display(), index + 1);
        };
        headers.insert(name, value);
    }
    if headers.len() > MAX_HEADERS {
        bail!("{}: more than {MAX_HEADERS} headers\n  next: leave some out", path.display());
    }
    Ok(headers)
}

impl Exporter {
    /// Sends what comes until the worker has gone.
    pub async fn run(mut self) {
        let (mut waiting, mut failing, mut hopeless) = (Vec::with_capacity(BATCH), false, false);
        while self.queue.recv_many(&mut waiting, BATCH).await > 0 {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
            while waiting.len() < BATCH
                && let Ok(more) = self.queue.try_recv()
            {
                waiting.push(more);
            }
            let sent = if hopeless { Err(STOPS.to_owned()) } else { self.send(&waiting).await };
            hopeless = sent.is_err() && self.stop.is_cancelled();
            let fate = if sent.is_ok() { "sent" } else { "failed" };
            self.fates.get_or_create(&Fate { fate }).inc_by(u64::try_from(waiting.len()).unwrap_or(u64::MAX));
            match sent {
                Ok(()) if failing => tracing::info!("the collector takes traces again"),
                Ok(()) => {}
                // Once, not for each batch.
                Err(why) if !failing => tracing::warn!(why, "traces were not taken, and are given up; ticks go on"),
                Err(_) => {}
            }
            failing = fate == "failed";
            waiting.clear();
        }
    }

    async fn send(&self, traces: &[TickTrace]) -> Result<(), String> {
        let body = span::request(traces, &self.about, self.agents, &*self.entropy);
        let post = async {
            let answer = self.client.post(&self.url).json(&body).send().await.map_err(|error| said(&error))?;
            match answer.status() {
                status if status.is_success() => Ok(()),
                status => Err(format!("the collector answers {status}")),
            }
        };
        let over = async {
            self.stop.cancelled().await;
            tokio::time::sleep(LAST).await;
        };
        tokio::select! {
            sent = post => sent,
            () = tokio::time::sleep(self.timeout) => Err("no answer in time".to_owned()),
            () = over => Err(STOPS.to_owned()),
        }
    }
}

/// An error with its causes.
fn said(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let all: Vec<String> = causes.map(ToString::to_string).collect();
    all.join(": ").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use nexus_core::UnixMs;

    use super::*;

    fn queue(sampled_of_thousand: u64) -> (Queue, Receiver<TickTrace>) {
        let (send, receive) = mpsc::channel(2);
        (Queue { send, sampled_of_thousand, fates: Family::default() }, receive)
    }

    fn trace() -> TickTrace {
        TickTrace {
            tick: TickId::new(UnixMs(1), [1; 10]),
            npub: nexus_core::Npub::from_bytes([1; 32]),
            trigger: nexus_core::trigger::Trigger::Heartbeat,
            generation: nexus_core::Generation(1),
            resumed: false,
            outcome: "completed",
            reason: None,
            cost_msat: 0,
            start: UnixMs(1),
            end: UnixMs(2),
            spans: Vec::new(),
            dropped: 0,
        }
    }

    #[test]
    fn a_share_of_ticks_is_traced() {
        let wanted = |per_thousand| {
            let (queue, _receive) = queue(per_thousand);
            let tick = |n: u64| {
                let mut random = [7; 10];
                random[2..].copy_from_slice(&(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes());
                TickId::new(UnixMs(1_790_000_000_000), random)
            };
            (0..10_000).filter(|n| queue.wants(tick(*n))).count()
        };
        assert_eq!((wanted(0), wanted(1_000)), (0, 10_000));
        assert!((800..1_200).contains(&wanted(100)), "{}", wanted(100));
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (queue, receive) = queue(1_000);
        for _ in 0..5 {
            queue.tick(trace());
        }
        assert_eq!(queue.fates.get_or_create(&Fate { fate: "dropped" }).get(), 3);
        drop(receive);
    }

    /// It takes connections and never answers.
    #[tokio::test]
    async fn a_collector_that_hangs_keeps_no_process_from_stopping() {
        let collector = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", collector.local_addr().unwrap()).parse().unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = TelemetryConfig { otlp_endpoint: Some(endpoint), ..TelemetryConfig::default() };
        let (stop, mut registry) = (CancellationToken::new(), Registry::default());
        let entropy = Arc::new(crate::ambient::SystemEntropy);
        let (traces, exporter) = open(&config, Vec::new(), &mut registry, entropy, stop.clone()).unwrap().unwrap();
        let fates = exporter.fates.clone();
        (0..8 * BATCH).for_each(|_| traces.tick(trace()));
        stop.cancel();
        drop(traces);
        // Eight batches, and time for one.
        let ended = tokio::time::timeout(LAST * 4, exporter.run()).await;
        assert!(ended.is_ok(), "{} given up by now", fates.get_or_create(&Fate { fate: "failed" }).get());
        assert_eq!(fates.get_or_create(&Fate { fate: "failed" }).get(), 8 * BATCH as u64);
    }

    #[test]
    fn the_path_is_otlps() {
        for base in ["http://c:4318", "http://c:4318/", "http://c:4318/v1/traces"] {
            assert_eq!(traces_below(&base.parse().unwrap()), "http://c:4318/v1/traces");
        }
        assert_eq!(traces_below(&"https://c/otlp".parse().unwrap()), "https://c/otlp/v1/traces");
    }

    #[test]
    fn headers_are_read_from_a_private_file_and_never_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("headers");
        let config = TelemetryConfig { otlp_headers_file: Some(path.clone()), ..TelemetryConfig::default() };
        nexus_client::file::write_private(&path, b"# of ours\nauthorization: Bearer a:b\n\nx-team:  red \n").unwrap();
        let read = headers(&config).unwrap();
        assert_eq!((read["authorization"].to_str().unwrap(), read["x-team"].to_str().unwrap()), ("Bearer a:b", "red"));
        assert!(!format!("{read:?}").contains("Bearer"));
        nexus_client::file::write_private(&path, b"x-ok: 1\nsecret-token-without-a-name\n").unwrap();
        let error = headers(&config).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("secret-token"), "{error}");
    }
}
