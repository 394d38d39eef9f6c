//! Connections to one node. Each is asked who it is before it is used.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use nexus_core::{Clock, MonoMs};
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::error::Category;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::json::{self, Info, Line, Said};
use super::secret::Secret;
use super::trust::Truster;
use super::{NodeConfig, OLDEST};
use crate::bolt11::Network;
use crate::driver::WalletError;
use crate::wire::{Connection, Deadline, NoAnswer};

/// A hundred invoices, or a payment with hundreds of tries; also the longest line of a stream.
const MAX_ANSWER_BYTES: usize = 4 << 20;
const MAX_MESSAGE_CHARS: usize = 300;

/// Why a call has no result.
#[derive(Debug)]
pub(super) enum CallError {
    /// The deadline passed; nothing left.
    Late,
    /// Nothing left.
    Unsent(WalletError),
    /// What became of it is unknown.
    Lost(WalletError),
    /// The same, because nothing came back within so many milliseconds.
    Silent(u64),
    /// The node answered that it did not do it, or not further.
    Said(Said),
}

impl From<NoAnswer> for CallError {
    fn from(none: NoAnswer) -> Self {
        match none {
            NoAnswer::Late => Self::Late,
            NoAnswer::Unsent(why) => Self::Unsent(WalletError::Unreachable(why)),
            NoAnswer::Lost(why) => Self::Lost(WalletError::Unreachable(why)),
            NoAnswer::Silent(ms) => Self::Silent(ms),
        }
    }
}

impl From<CallError> for WalletError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Late => Self::Unreachable("too late".to_owned()),
            CallError::Unsent(error) | CallError::Lost(error) => error,
            CallError::Silent(ms) => Self::Unreachable(format!("no answer within {ms} ms")),
            CallError::Said(said) => said.into(),
        }
    }
}

impl Said {
    pub(super) const ALREADY_EXISTS: u32 = 6;

    /// Whether what was asked for does not exist. The gateway's own word for a path it does not know is told apart.
    pub(super) fn absent(&self) -> bool {
        self.code == 5 && self.message != "Not Found"
    }

    /// LND checks macaroons before anything else, and most of its complaints about them have no code of their own.
    fn about_our_key(&self) -> bool {
        let texts = ["macaroon", "permission denied", "verification failed"];
        matches!(self.code, 7 | 16) || texts.iter().any(|text| self.message.contains(text))
    }

    /// Whether the node is there but does not serve yet, or no longer.
    fn passing(&self) -> bool {
        let texts = ["wallet locked", "starting up", "waiting to start", "shutting down", "not yet ready"];
        matches!(self.code, 4 | 8 | 14) || texts.iter().any(|text| self.message.contains(text))
    }
}

impl From<Said> for WalletError {
    fn from(said: Said) -> Self {
        if said.about_our_key() {
            return Self::Auth;
        }
        let passing = said.passing();
        let text = format!("{} (code {})", shown(&said.message), said.code);
        if passing { Self::Unreachable(text) } else { Self::Refused(text) }
    }
}

/// Somebody else's words, bounded and on one line.
fn shown(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { ' ' } else { it }).take(MAX_MESSAGE_CHARS).collect()
}

fn protocol(why: impl std::fmt::Display) -> WalletError {
    WalletError::Protocol(shown(&why.to_string()))
}

/// Where, and not what: serde's own words repeat what was read, which may be a preimage.
fn unreadable(error: &serde_json::Error) -> WalletError {
    let what = match error.classify() {
        Category::Io | Category::Syntax => "no JSON",
        Category::Eof => "JSON that breaks off",
        Category::Data => "JSON of another form than LND's",
    };
    protocol(format!("{what}, at line {} column {}", error.line(), error.column()))
}

/// One node and the secret for one half of it.
pub(super) struct Client {
    pub(super) node: NodeConfig,
    pub(super) clock: Arc<dyn Clock>,
    secret: Secret,
    truster: Truster,
}

/// A connection whose other end is the node that was meant.
pub(super) struct Verified {
    connection: Connection,
    pub(super) synced: bool,
}

/// An answer that comes line by line.
pub(super) struct Lines {
    verified: Verified,
    body: Incoming,
    buffer: Vec<u8>,
}

/// What came of waiting for a line.
pub(super) enum Next<T> {
    Line(T),
    Said(Said),
    /// Nothing within the time given; waiting may go on.
    Silence,
    /// The regular end.
    End,
    Broken(WalletError),
}

impl Client {
    pub(super) fn new(node: NodeConfig, secret: Secret, clock: Arc<dyn Clock>) -> Self {
        let truster = Truster::new(node.trust.clone());
        Self { node, clock, secret, truster }
    }

    /// Connects and asks who is there: nobody but the configured node, on the configured network, will do. Nothing but
    /// that question leaves.
    pub(super) async fn open(&self) -> Result<Verified, WalletError> {
        let wait = Duration::from_millis(self.node.patience.connect_ms);
        let connection = match tokio::time::timeout(wait, self.connect()).await {
            Ok(connected) => connected.map_err(WalletError::Unreachable)?,
            Err(_) => {
                let (host, port, ms) = (&self.node.host, self.node.port, self.node.patience.connect_ms);
                return Err(WalletError::Unreachable(format!("{host}:{port}: no connection within {ms} ms")));
            }
        };
        let mut verified = Verified { connection, synced: false };
        let info: Info = self.call(&mut verified, Method::GET, "/v1/getinfo", None).await?;
        self.is_the_one(&info)?;
        verified.synced = info.synced_to_chain;
        Ok(verified)
    }

    async fn connect(&self) -> Result<Connection, String> {
        let (host, port) = (self.node.host.as_str(), self.node.port);
        let tls = self.truster.config().await?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host} is no host's name"))?;
        let stream = TcpStream::connect((host, port)).await.map_err(|error| format!("{host}:{port}: {error}"))?;
        // Small requests: waiting for more to send would only cost time.
        let _ = stream.set_nodelay(true);
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|error| match pinned_out(&error) {
            true => format!("{host}:{port} does not show the certificate that was configured"),
            false => format!("{host}:{port}: {error}"),
        })?;
        Connection::over(stream).await
    }

    fn is_the_one(&self, info: &Info) -> Result<(), WalletError> {
        let (identity, network) = (&self.node.identity, self.node.network);
        if !info.identity_pubkey.eq_ignore_ascii_case(identity) {
            let other = shown(&info.identity_pubkey);
            return Err(protocol(format!("node {other} answers where {identity} should: nothing is asked of it")));
        }
        let networks: Vec<&str> = info.chains.iter().map(|chain| chain.network.as_str()).collect();
        if networks != [name_of(network)] {
            let named = shown(&networks.join(", "));
            return Err(protocol(format!("the node is on `{named}`, not on {network}: nothing is asked of it")));
        }
        match version(&info.version) {
            Some(version) if version >= OLDEST => Ok(()),
            _ => {
                let (major, minor) = OLDEST;
                let version = shown(&info.version);
                Err(protocol(format!("LND `{version}` is too old or unknown: {major}.{minor} or later is needed")))
            }
        }
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, CallError> {
        let unsent = |why: String| CallError::Unsent(WalletError::Protocol(why));
        let mut secret = HeaderValue::from_str(self.secret.header()).map_err(|error| unsent(error.to_string()))?;
        secret.set_sensitive(true);
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| unsent(error.to_string()))?,
            None => Vec::new(),
        };
        let (host, port) = (&self.node.host, self.node.port);
        let host = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let request = Request::builder().method(method).uri(path).header(HOST, host);
        let request = request.header("Grpc-Metadata-macaroon", secret);
        let request = if body.is_some() { request.header(CONTENT_TYPE, "application/json") } else { request };
        request.body(Full::new(bytes.into())).map_err(|error| unsent(error.to_string()))
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        verified: &mut Verified,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, CallError> {
        let (status, body) = self.head(verified, method, path, body, None).await?;
        let whole = self.whole(verified, body).await?;
        if status != StatusCode::OK {
            return Err(said(status, &whole));
        }
        serde_json::from_slice(&whole).map_err(|error| CallError::Lost(unreadable(&error)))
    }

    /// Asks for a stream. An error that LND gives instead of its first line is an error here.
    pub(super) async fn stream(
        &self,
        mut verified: Verified,
        method: Method,
        path: &str,
        body: Option<&Value>,
        deadline: Option<MonoMs>,
        first_ms: u64,
    ) -> Result<Lines, (CallError, Verified)> {
        let limits = Some((deadline, first_ms));
        let (status, body) = match self.head(&mut verified, method, path, body, limits).await {
            Ok(head) => head,
            Err(error) => return Err((error, verified)),
        };
        if status == StatusCode::OK {
            return Ok(Lines { verified, body, buffer: Vec::new() });
        }
        let error = match self.whole(&mut verified, body).await {
            Ok(whole) => said(status, &whole),
            Err(error) => error,
        };
        Err((error, verified))
    }

    async fn head(
        &self,
        verified: &mut Verified,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limits: Option<(Option<MonoMs>, u64)>,
    ) -> Result<(StatusCode, Incoming), CallError> {
        let request = self.request(method, path, body)?;
        let (at, timeout_ms) = limits.unwrap_or((None, self.node.patience.answer_ms));
        let deadline = Deadline { clock: self.clock.clone(), at };
        let answer = verified.connection.ask(request, deadline, timeout_ms).await?;
        Ok((answer.status(), answer.into_body()))
    }

    async fn whole(&self, verified: &mut Verified, body: Incoming) -> Result<Bytes, CallError> {
        let read = verified.connection.whole(body, MAX_ANSWER_BYTES, self.node.patience.answer_ms).await;
        read.map_err(|why| CallError::Lost(WalletError::Unreachable(why)))
    }
}

/// An error's body that is not LND's was made by something between us: what LND did is not known.
fn said(status: StatusCode, body: &[u8]) -> CallError {
    match json::error(body) {
        Some(said) => CallError::Said(said),
        None => CallError::Lost(WalletError::Unreachable(format!("an answer {status} that is not LND's"))),
    }
}

impl Lines {
    /// The next line, if it comes within `wait_ms`.
    pub(super) async fn next<T: DeserializeOwned>(&mut self, wait_ms: u64) -> Next<T> {
        match tokio::time::timeout(Duration::from_millis(wait_ms), self.line()).await {
            Err(_) => Next::Silence,
            Ok(Err(error)) => Next::Broken(error),
            Ok(Ok(None)) => Next::End,
            Ok(Ok(Some(line))) => match serde_json::from_slice(&line) {
                Ok(Line::Result(result)) => Next::Line(result),
                Ok(Line::Error(said)) => Next::Said(said),
                Err(error) => Next::Broken(unreadable(&error)),
            },
        }
    }

    async fn line(&mut self) -> Result<Option<Vec<u8>>, WalletError> {
        let mut looked = 0;
        loop {
            if let Some(end) = self.buffer[looked..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=looked + end).collect();
                line.pop();
                looked = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some(line));
            }
            looked = self.buffer.len();
            match self.verified.connection.more(&mut self.body).await.map_err(WalletError::Unreachable)? {
                Some(bytes) if self.buffer.len() + bytes.len() > MAX_ANSWER_BYTES => {
                    return Err(protocol(format!("a line of more than {MAX_ANSWER_BYTES} bytes")));
                }
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None if self.buffer.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => return Err(protocol("a stream that ends within a line")),
            }
        }
    }

    /// The connection, to be asked again once the stream has ended.
    pub(super) fn into_connection(self) -> Verified {
        self.verified
    }
}

fn pinned_out(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)))
}

/// As LND calls it.
const fn name_of(network: Network) -> &'static str {
    match network {
        Network::Bitcoin => "mainnet",
        Network::Testnet => "testnet",
        Network::Signet => "signet",
        Network::Regtest => "regtest",
        Network::Simnet => "simnet",
    }
}

/// `0.21.2-beta commit=…` gives (0, 21).
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split(['.', '-', ' ']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
