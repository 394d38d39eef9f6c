//! Requests to a host's API, signed (NIP-98) or with a token.

use std::sync::Arc;
use std::time::Duration;

use nexus_core::{Clock, Entropy, Npub};
use nexus_seal::Signer;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;
use zeroize::Zeroizing;

use crate::error::{Error, Problem};
use crate::proof;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the longest answer that a host takes its time for (an invoice waits 10 s for a worker).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(45);
/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Who asks.
#[derive(Clone)]
pub enum Auth {
    /// Nobody: for what everyone may read.
    Nobody,
    Bearer(Zeroizing<String>),
    /// Each request signed by this key.
    Signer(Arc<dyn Signer>),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nobody => f.write_str("Nobody"),
            Self::Bearer(_) => f.write_str("Bearer(…)"),
            Self::Signer(signer) => write!(f, "Signer({})", signer.public_key().short()),
        }
    }
}

/// A host's API, as seen by one caller. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    origin: Url,
    auth: Auth,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    headers: HeaderMap,
    about: Option<Npub>,
}

impl Call {
    /// `path` starts with a slash and may have a query.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None, headers: HeaderMap::new(), about: None }
    }

    /// A body, as JSON.
    #[must_use]
    pub fn json(self, value: &Value) -> Self {
        self.bytes(value.to_string().into_bytes())
    }

    /// A body that is JSON already: what is signed is exactly these bytes.
    #[must_use]
    pub fn bytes(mut self, body: Vec<u8>) -> Self {
        self.body = Some(body);
        self
    }

    /// Signed as a command about this agent (`p`), which its worker will check too.
    #[must_use]
    pub fn about(mut self, agent: Npub) -> Self {
        self.about = Some(agent);
        self
    }

    /// A header, unless its value cannot be one.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub etag: Option<String>,
    pub body: Value,
}

impl Answer {
    /// The body as what is expected there.
    pub fn read<T: DeserializeOwned>(self, attempted: &'static str) -> Result<T, Error> {
        serde_json::from_value(self.body).map_err(|error| Error::Protocol { attempted, why: error.to_string() })
    }
}

impl Api {
    /// Nothing is sent yet. A rustls crypto provider must be installed in the process.
    pub fn new(origin: Url, auth: Auth, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self, Error> {
        Ok(Self { http: http_client()?, origin, auth, clock, entropy })
    }

    pub fn origin(&self) -> &Url {
        &self.origin
    }

    /// The same host, asked by somebody else.
    #[must_use]
    pub fn asked_by(&self, auth: Auth) -> Self {
        Self { auth, ..self.clone() }
    }

    /// The absolute URL of a path, as signed requests name it.
    pub fn url(&self, path: &str) -> Result<Url, Error> {
        self.origin
            .join(path)
            .map_err(|error| Error::Usage(format!("`{path}` is not a path of {}: {error}", self.origin)))
    }

    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        Ok(self.call(Call::new(Method::GET, path)).await?.body)
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        Ok(self.call(Call::new(Method::POST, path).json(body)).await?.body)
    }

    /// Sends one request. An error answer is an [`Error::Api`].
    pub async fn call(&self, call: Call) -> Result<Answer, Error> {
        let response = self.send(call).await?;
        let status = response.status();
        let text = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let etag = text(ETAG).map(str::to_owned);
        let retry_after_secs = text(RETRY_AFTER).and_then(|text| text.parse().ok());
        let body = self.body(response).await?;
        if !status.is_success() {
            return Err(Error::Api(problem(status, &body, retry_after_secs)));
        }
        let body = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&body) };
        let body = body.map_err(|_| Error::Protocol {
            attempted: "reading the answer",
            why: format!("{} does not answer with JSON: is this a Nexus host?", self.origin),
        })?;
        Ok(Answer { status, etag, body })
    }

    /// Reads a file: its bytes as they came, within the bound of an answer.
    pub async fn download(&self, path: &str) -> Result<Vec<u8>, Error> {
        let response = self.send(Call::new(Method::GET, path)).await?;
        let status = response.status();
        let body = self.body(response).await?;
        if status.is_success() { Ok(body) } else { Err(Error::Api(problem(status, &body, None))) }
    }

    /// Another host's API, asked by nobody: for what anyone may say and ask there.
    pub fn elsewhere(&self, origin: Url) -> Self {
        Self { origin, auth: Auth::Nobody, ..self.clone() }
    }

    /// Sends one request and takes any answer as it is; a body that is no JSON becomes null.
    pub async fn probe(&self, call: Call) -> Result<Answer, Error> {
        let response = self.send(call).await?;
        let status = response.status();
        let body = serde_json::from_slice(&self.body(response).await?).unwrap_or(Value::Null);
        Ok(Answer { status, etag: None, body })
    }

    async fn send(&self, call: Call) -> Result<reqwest::Response, Error> {
        let url = self.url(&call.path)?;
        let body = call.body.as_deref();
        let authorization = self.authorization(call.method.as_str(), &url, body, call.about).await?;
        let mut request = self.http.request(call.method, url).headers(call.headers);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(body) = call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        request.send().await.map_err(|error| self.unreachable(&error))
    }

    /// The `Authorization` header of a request, marked as a secret.
    pub(crate) async fn authorization(
        &self,
        method: &str,
        url: &Url,
        body: Option<&[u8]>,
        about: Option<Npub>,
    ) -> Result<Option<HeaderValue>, Error> {
        let text = match &self.auth {
            Auth::Nobody => return Ok(None),
            Auth::Bearer(token) => Zeroizing::new(format!("Bearer {}", token.as_str())),
            Auth::Signer(signer) => {
                let (now, entropy) = (self.clock.now(), &*self.entropy);
                Zeroizing::new(proof::nip98(&**signer, method, url, body, about, now, entropy).await?)
            }
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| Error::Failed("the token of this context is damaged\n  next: `nexus login`".to_owned()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// The whole body, within its bound.
    async fn body(&self, mut response: reqwest::Response) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(Error::Protocol { attempted: "reading the answer", why: "it is too large".to_owned() });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        Error::Unreachable { url: self.origin.to_string(), why: root_cause(error) }
    }
}

/// The problem that an error answer holds, or one made of its status.
pub(crate) fn problem(status: StatusCode, body: &[u8], retry_after_secs: Option<u64>) -> Problem {
    let mut problem: Problem = serde_json::from_slice(body).unwrap_or_else(|_| Problem {
        status: 0,
        code: String::new(),
        title: format!("the host answered {status}"),
        detail: None,
        retry_after_secs: None,
    });
    problem.status = status.as_u16();
    problem.retry_after_secs = retry_after_secs;
    problem
}

/// The innermost reason, without the URL that stands in the outer ones.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut source: &dyn std::error::Error = error;
    while let Some(inner) = source.source() {
        source = inner;
    }
    source.to_string()
}

/// The one place where this crate makes an HTTP client. The host's address is the user's own choice, so it may be
/// loopback or private; redirects are not followed, since a signed request is for one URL.
#[expect(
    clippy::disallowed_methods,
    reason = "the user's own client to the host of the context; the egress rules are for URLs that others chose"
)]
fn http_client() -> Result<reqwest::Client, Error> {
    reqwest::Client::builder()
        .user_agent(concat!("nexus/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| Error::Failed(format!("no HTTP client could be made: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_no_problem_document_still_has_a_status() {
        let odd = problem(StatusCode::BAD_GATEWAY, b"<html>", None);
        assert_eq!(Error::Api(odd).exit().code(), 5);
        let body = br#"{"type":"/docs#not_found","title":"There is no such thing","status":404,"code":"not_found"}"#;
        let known = problem(StatusCode::NOT_FOUND, body, Some(3));
        assert_eq!((known.code.as_str(), known.retry_after_secs), ("not_found", Some(3)));
    }

    #[test]
    fn debug_of_a_caller_shows_no_token() {
        let auth = Auth::Bearer(Zeroizing::new("abc".to_owned()));
        assert_eq!(format!("{auth:?}"), "Bearer(…)");
    }
}
