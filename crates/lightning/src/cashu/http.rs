//! One request to a mint, over a connection of its own.
//!
//! Owners choose mints, so the address is somebody else's word: HTTPS only, public addresses only, everything bounded.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use nexus_core::net::is_public;
use nexus_core::{Clock, MonoMs};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::driver::WalletError;
use crate::wire::{Connection, Deadline};

pub use crate::wire::NoAnswer;

const CONNECT: Duration = Duration::from_secs(5);
/// A thousand signatures with their proofs of equality, or a keyset with all its keys.
const MAX_ANSWER_BYTES: usize = 1 << 20;
const MAX_URL_BYTES: usize = 512;

/// A request to be made.
pub struct MintRequest {
    /// Below the mint's address, such as `/v1/info`.
    pub path: String,
    /// JSON to be posted; without one it is a GET. It may hold proofs, which are money.
    pub body: Option<Zeroizing<Vec<u8>>>,
    /// After this moment no byte leaves.
    pub deadline: Option<MonoMs>,
    pub timeout_ms: u64,
}

/// What a mint answered: status, and a bounded body.
pub struct MintAnswer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// How a mint is reached. [`Https`] is what production uses.
pub trait MintHttp: Send + Sync {
    fn ask(&self, request: MintRequest) -> BoxFuture<'_, Result<MintAnswer, NoAnswer>>;
}

/// Where a mint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MintUrl(Url);

impl MintUrl {
    /// An HTTPS address; for development also `http://127.0.0.1:PORT`. Without credentials, query or fragment.
    pub fn parse(text: &str, development: bool) -> Result<Self, WalletError> {
        let refuse = |why: &str| Err(WalletError::Refused(format!("the mint's address {why}")));
        if text.len() > MAX_URL_BYTES {
            return refuse("is too long");
        }
        let Ok(url) = Url::parse(text) else { return refuse("is no URL: it looks like https://mint.example.com") };
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return refuse("may only have a host and a path");
        }
        match (url.scheme(), url.host()) {
            (_, None) => refuse("has no host"),
            ("https", Some(_)) => Ok(Self(url)),
            ("http", Some(Host::Ipv4(Ipv4Addr::LOCALHOST))) if development => Ok(Self(url)),
            _ => refuse("must begin with https://"),
        }
    }

    /// As it is stored and compared: without a slash at the end.
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    fn loopback(&self) -> bool {
        matches!(self.0.host(), Some(Host::Ipv4(Ipv4Addr::LOCALHOST)))
    }
}

/// The guarded client.
pub struct Https {
    url: MintUrl,
    development: bool,
    tls: Arc<rustls::ClientConfig>,
    clock: Arc<dyn Clock>,
}

impl Https {
    /// Connects to nothing yet. `development` allows this machine's own loopback address.
    pub fn new(url: MintUrl, development: bool, clock: Arc<dyn Clock>) -> Result<Self, WalletError> {
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| WalletError::Protocol(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { url, development, tls: Arc::new(tls), clock })
    }

    fn allowed(&self, address: IpAddr) -> bool {
        is_public(address) || (self.development && self.url.loopback() && address.is_loopback())
    }

    async fn connect(&self) -> Result<Connection, String> {
        let url = &self.url.0;
        let host = url.host().ok_or("no host")?;
        let port = url.port_or_known_default().ok_or("no port")?;
        let found: Vec<SocketAddr> = match host {
            Host::Ipv4(ip) => vec![(ip, port).into()],
            Host::Ipv6(ip) => vec![(ip, port).into()],
            Host::Domain(name) => {
                let found = tokio::net::lookup_host((name, port)).await;
                found.map_err(|error| format!("{name}: {error}"))?.collect()
            }
        };
        // Each address is judged and then used, so that a second look-up cannot bring another.
        let mut last = format!("{host} is no public address: the host connects to none of its own network");
        for address in found.into_iter().filter(|it| self.allowed(it.ip())) {
            match TcpStream::connect(address).await {
                Ok(stream) => return self.over(stream, host).await,
                Err(error) => last = format!("{address}: {error}"),
            }
        }
        Err(last)
    }

    async fn over(&self, stream: TcpStream, host: Host<&str>) -> Result<Connection, String> {
        // Small requests: waiting for more to send would only cost time.
        let _ = stream.set_nodelay(true);
        if self.url.0.scheme() == "http" {
            return Connection::over(stream).await;
        }
        let name = match host {
            Host::Domain(name) => ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?,
            Host::Ipv4(ip) => ServerName::from(IpAddr::V4(ip)),
            Host::Ipv6(ip) => ServerName::from(IpAddr::V6(ip)),
        };
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        Connection::over(stream.map_err(|error| error.to_string())?).await
    }

    async fn answer(&self, request: MintRequest) -> Result<MintAnswer, NoAnswer> {
        let deadline = Deadline { clock: self.clock.clone(), at: request.deadline };
        if deadline.passed() {
            return Err(NoAnswer::Late);
        }
        let url = &self.url.0;
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let path = format!("{}{}", url.path().trim_end_matches('/'), request.path);
        let builder = Request::builder().uri(path).header(HOST, host);
        let (builder, body) = match request.body {
            Some(body) => {
                let builder = builder.method(Method::POST).header(CONTENT_TYPE, "application/json");
                (builder, Bytes::from(body.to_vec()))
            }
            None => (builder.method(Method::GET), Bytes::new()),
        };
        let http = builder.body(Full::new(body)).map_err(|error| NoAnswer::Unsent(error.to_string()))?;
        let mut connection = match tokio::time::timeout(CONNECT, self.connect()).await {
            Ok(connected) => connected.map_err(NoAnswer::Unsent)?,
            Err(_) => return Err(NoAnswer::Unsent("no connection within 5 s".to_owned())),
        };
        let answer = connection.ask(http, deadline, request.timeout_ms).await?;
        let status = answer.status().as_u16();
        let body = connection.whole(answer.into_body(), MAX_ANSWER_BYTES, request.timeout_ms).await;
        Ok(MintAnswer { status, body: body.map_err(NoAnswer::Lost)?.to_vec() })
    }
}

impl MintHttp for Https {
    fn ask(&self, request: MintRequest) -> BoxFuture<'_, Result<MintAnswer, NoAnswer>> {
        Box::pin(self.answer(request))
    }
}
