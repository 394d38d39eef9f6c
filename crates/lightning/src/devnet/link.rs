//! The way to whoever serves the network now.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use nexus_core::MonoMs;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::account::AccountKey;
use super::api::{self, Code, Problem};
use super::server::Server;
use super::{OpenError, Parts, Place, dir};
use crate::wire::{self, Deadline, NoAnswer};

/// How long a change of server may take before a call gives up.
const FIND_MS: u64 = 4_000;
const FIND_STEP_MS: u64 = 40;
const NODE_MS: u64 = 1_500;

/// Why a call has no result.
#[derive(Debug, Clone)]
pub(super) enum CallError {
    /// The deadline passed; nothing left.
    Late,
    /// Nothing left.
    Unsent(String),
    /// What became of it is unknown.
    Lost(String),
    /// The network said no.
    Refused(Problem),
}

impl From<NoAnswer> for CallError {
    fn from(none: NoAnswer) -> Self {
        match none {
            NoAnswer::Late => Self::Late,
            NoAnswer::Unsent(why) => Self::Unsent(why),
            NoAnswer::Lost(why) => Self::Lost(why),
            NoAnswer::Silent(ms) => Self::Lost(format!("no answer within {ms} ms")),
        }
    }
}

/// Limits of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) deadline: Option<MonoMs>,
    pub(super) timeout_ms: u64,
}

/// A server that was asked for its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    addr: SocketAddr,
    pub(super) node: api::Node,
}

/// The way to the network. One per [`super::Devnet`], shared by its wallets.
pub(super) struct Link {
    place: Place,
    parts: Parts,
    /// The node that this link was opened to: another one on the same address is another network.
    pinned: Mutex<Option<String>>,
    current: tokio::sync::Mutex<Option<Endpoint>>,
    server: Mutex<Option<Server>>,
    url: Mutex<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) async fn open(place: Place, parts: Parts) -> Result<Arc<Self>, OpenError> {
        let link = Arc::new(Self {
            place,
            parts,
            pinned: Mutex::default(),
            current: tokio::sync::Mutex::default(),
            server: Mutex::default(),
            url: Mutex::default(),
        });
        link.endpoint().await?;
        Ok(link)
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    pub(super) fn url(&self) -> String {
        lock(&self.url).clone()
    }

    pub(super) fn node(&self) -> Option<String> {
        lock(&self.pinned).clone()
    }

    pub(super) fn serving(&self) -> bool {
        lock(&self.server).as_ref().is_some_and(Server::running)
    }

    #[cfg(feature = "faults")]
    pub(super) fn faults(&self) -> Option<super::faults::Faults> {
        lock(&self.server).as_ref().map(Server::faults)
    }

    pub(super) async fn sum_msat(&self) -> Option<i128> {
        let engine = lock(&self.server).as_ref().map(Server::engine)?;
        engine.transact(|books| books.ledger().sum()).await.ok()
    }

    pub(super) async fn shutdown(&self) {
        let server = lock(&self.server).take();
        if let Some(server) = server {
            server.shutdown().await;
        }
    }

    /// Whoever serves now: as known, or found anew, or this process itself.
    pub(super) async fn endpoint(&self) -> Result<Endpoint, OpenError> {
        let mut current = self.current.lock().await;
        if let Some(endpoint) = &*current {
            return Ok(endpoint.clone());
        }
        let endpoint = match &self.place {
            Place::Url(url) => self.ask(url.as_str().trim_end_matches('/'), None).await?,
            Place::Dir(dir) => self.find(dir).await?,
        };
        *lock(&self.pinned) = Some(endpoint.node.node.clone());
        *lock(&self.url) = format!("http://{}", endpoint.addr);
        *current = Some(endpoint.clone());
        Ok(endpoint)
    }

    /// Forgets a server that does not answer, unless another call found a new one meanwhile.
    async fn forget(&self, endpoint: &Endpoint) {
        let mut current = self.current.lock().await;
        if current.as_ref() == Some(endpoint) {
            *current = None;
        }
    }

    /// Serves the directory if nobody does, else asks the one who says that he does.
    async fn find(&self, dir: &Path) -> Result<Endpoint, OpenError> {
        let mut last = OpenError::Unreachable(dir.display().to_string());
        for _ in 0..FIND_MS / FIND_STEP_MS {
            // An own server that broke holds nothing any more.
            let broken = lock(&self.server).take_if(|server| !server.running());
            drop(broken);
            match Server::start(dir.to_owned(), 0, self.parts.clone()).await {
                Ok(server) => {
                    let address = server.address().clone();
                    *lock(&self.server) = Some(server);
                    return self.ask(&address.url, Some(&address.node)).await;
                }
                Err(OpenError::Held { .. }) => {}
                Err(other) => return Err(other),
            }
            if let Some(address) = dir::address(dir) {
                match self.ask(&address.url, Some(&address.node)).await {
                    Ok(endpoint) => return Ok(endpoint),
                    Err(error) => last = error,
                }
            }
            tokio::time::sleep(Duration::from_millis(FIND_STEP_MS)).await;
        }
        Err(last)
    }

    /// Who answers at `url`; nobody else than `node` or the one known before will do.
    async fn ask(&self, url: &str, node: Option<&str>) -> Result<Endpoint, OpenError> {
        let bad = || OpenError::Address(url.to_owned());
        let addr = loopback(url).ok_or_else(bad)?;
        let unreachable = |why: &str| OpenError::Unreachable(format!("{url}: {why}"));
        let request = Request::builder()
            .uri(api::NODE)
            .header(HOST, addr.to_string())
            .header(CONNECTION, "close")
            .body(Full::default())
            .map_err(|_| bad())?;
        let deadline = Deadline { clock: self.parts.clock.clone(), at: None };
        let answer = wire::send(addr, request, deadline, api::MAX_ANSWER_BYTES, NODE_MS).await;
        let (status, body) = answer.map_err(|error| unreachable(&format!("{error:?}")))?;
        let node_said: Option<api::Node> =
            (status == StatusCode::OK).then(|| serde_json::from_slice(&body).ok()).flatten();
        let said = node_said.ok_or_else(|| unreachable("something else answers there"))?;
        let pinned = lock(&self.pinned).clone();
        if [pinned.as_deref(), node].into_iter().flatten().any(|known| known != said.node) {
            return Err(unreachable("another network answers there"));
        }
        Ok(Endpoint { addr, node: said })
    }

    /// Makes a signed call. A server that cannot be reached is looked for anew, for a while; once a byte has left there
    /// is no second try, except where the server says that it did nothing.
    pub(super) async fn call<Ask: Serialize + Sync, T: DeserializeOwned>(
        &self,
        key: &AccountKey,
        path: &str,
        ask: &Ask,
        limits: Limits,
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(ask).map_err(|error| CallError::Unsent(error.to_string()))?;
        let body = Bytes::from(body);
        let mut last = CallError::Unsent("the server changes too often".to_owned());
        for _ in 0..4 {
            let endpoint = self.endpoint().await.map_err(|error| CallError::Unsent(error.to_string()))?;
            match self.once(&endpoint, key, path, body.clone(), limits).await {
                Err(error @ CallError::Unsent(_)) => last = error,
                Err(CallError::Refused(problem)) if problem.code == Code::StaleBoot => {
                    last = CallError::Refused(problem);
                }
                Err(error @ CallError::Lost(_)) => {
                    self.forget(&endpoint).await;
                    return Err(error);
                }
                Err(CallError::Refused(problem)) if problem.code == Code::Stopping => {
                    self.forget(&endpoint).await;
                    return Err(CallError::Lost(problem.detail));
                }
                other => return other,
            }
            self.forget(&endpoint).await;
        }
        Err(last)
    }

    async fn once<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        key: &AccountKey,
        path: &str,
        body: Bytes,
        limits: Limits,
    ) -> Result<T, CallError> {
        let request = self.sign(endpoint, key, path, body).map_err(|error| CallError::Unsent(error.to_string()))?;
        let deadline = Deadline { clock: self.parts.clock.clone(), at: limits.deadline };
        let max = api::MAX_ANSWER_BYTES;
        let (status, body) = wire::send(endpoint.addr, request, deadline, max, limits.timeout_ms).await?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| CallError::Lost(error.to_string()));
        }
        match serde_json::from_slice(&body) {
            Ok(problem) => Err(CallError::Refused(problem)),
            Err(_) => Err(CallError::Lost(format!("the server answered {status}"))),
        }
    }

    fn sign(
        &self,
        endpoint: &Endpoint,
        key: &AccountKey,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let now = self.parts.clock.now();
        let random: [u8; 48] = nexus_core::time::random(&*self.parts.entropy);
        let nonce = hex::encode(&random[..16]);
        let mut aux = [0; 32];
        aux.copy_from_slice(&random[16..]);
        let digest = api::digest(&endpoint.node.boot, path, now, &nonce, &body);
        let signature = hex::encode(key.sign(digest, &aux));
        Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, endpoint.addr.to_string())
            .header(CONNECTION, "close")
            .header(CONTENT_TYPE, "application/json")
            .header("nexus-devnet-boot", &endpoint.node.boot)
            .header(AUTHORIZATION, format!("Devnet {} {now} {nonce} {signature}", key.party()))
            .body(Full::new(body))
    }
}

/// Only this machine may be asked: `http://127.0.0.1:PORT`, `http://[::1]:PORT` or `http://localhost:PORT`.
fn loopback(url: &str) -> Option<SocketAddr> {
    let url: url::Url = url.parse().ok()?;
    let port = url.port_or_known_default()?;
    let ip = match url.host()? {
        url::Host::Ipv4(ip) => ip.into(),
        url::Host::Ipv6(ip) => ip.into(),
        url::Host::Domain("localhost") => std::net::Ipv4Addr::LOCALHOST.into(),
        url::Host::Domain(_) => return None,
    };
    let addr = SocketAddr::new(ip, port);
    (url.scheme() == "http" && addr.ip().is_loopback()).then_some(addr)
}
