//! HTTP to addresses that others chose: never to this machine, its network, or the metadata of whoever runs it.
//!
//! The name is resolved once, and the connection goes to exactly the addresses that passed: a name that changes in between
//! changes nothing. Redirects are not followed, proxies not asked; of an answer its status is read, and where one is asked for
//! so much of its body as the caller allows.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nexus_core::net::is_public;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use url::{Host, Url};

/// Longest address, in bytes.
pub const MAX_URL: usize = 1_024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest address that is asked for a text: a zap request stands in its query.
pub const MAX_QUERY_URL: usize = 16 * 1_024;
/// From the first byte sent to the last one read, for a text.
pub const TEXT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest text that is read, in bytes.
pub const MAX_TEXT: usize = 256 * 1_024;

/// Why nothing was sent, or no answer came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// It never will be.
    #[error("{0}")]
    Refused(&'static str),
    #[error("no answer: {0}")]
    Unanswered(&'static str),
}

/// Sends to public addresses; in development to private ones as well.
pub struct Egress {
    /// Made with the first that is sent: a host without webhooks needs none, nor what it is made of.
    client: OnceLock<Option<reqwest::Client>>,
    development: bool,
}

impl Egress {
    pub const fn new(development: bool) -> Self {
        Self { client: OnceLock::new(), development }
    }

    /// Whether private addresses, and HTTP, are taken.
    pub const fn development(&self) -> bool {
        self.development
    }

    fn client(&self) -> Option<&reqwest::Client> {
        let made = self.client.get_or_init(|| {
            let client = client(self.development);
            if let Err(error) = &client {
                tracing::error!(%error, "no HTTP client could be made: nothing is sent to others");
            }
            client.ok()
        });
        made.as_ref()
    }

    /// Whether something could be sent there, as far as the address itself says.
    pub fn check(&self, text: &str) -> Result<Url, &'static str> {
        self.check_up_to(text, MAX_URL)
    }

    fn check_up_to(&self, text: &str, longest: usize) -> Result<Url, &'static str> {
        if text.len() > longest {
            return Err("too long");
        }
        let url = Url::parse(text).map_err(|_| "not a URL")?;
        match url.scheme() {
            "https" => {}
            "http" if self.development => {}
            _ => return Err("use https://"),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL with a user or password would be shown in lists: leave it out");
        }
        let literal = match url.host() {
            None => return Err("no host"),
            Some(Host::Domain(_)) => None,
            Some(Host::Ipv4(ip)) => Some(ip.into()),
            Some(Host::Ipv6(ip)) => Some(ip.into()),
        };
        match literal {
            Some(ip) if !self.development && !is_public(ip) => Err("a private address"),
            _ => Ok(url),
        }
    }

    /// Posts a text; the status that came back, whatever it is.
    pub async fn post(&self, url: &str, headers: &[(&'static str, &str)], body: String) -> Result<u16, EgressError> {
        let url = self.check(url).map_err(EgressError::Refused)?;
        let client = self.client().ok_or(EgressError::Refused("this host has no HTTP client"))?;
        let mut request = client.post(url).header("content-type", "application/json").body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match request.send().await {
            Ok(answer) => Ok(answer.status().as_u16()),
            Err(error) => Err(EgressError::Unanswered(why(&error))),
        }
    }

    /// Asks for a text: its status, and at most [`MAX_TEXT`] bytes within [`TEXT_TIMEOUT`]. More, or later, is no answer.
    pub async fn get(&self, url: &str) -> Result<(u16, Vec<u8>), EgressError> {
        let url = self.check_up_to(url, MAX_QUERY_URL).map_err(EgressError::Refused)?;
        let client = self.client().ok_or(EgressError::Refused("this host has no HTTP client"))?;
        let asked = client.get(url).header("accept", "application/json").timeout(TEXT_TIMEOUT).send().await;
        let mut answer = asked.map_err(|error| EgressError::Unanswered(why(&error)))?;
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| EgressError::Unanswered(why(&error)))? {
            if body.len() + piece.len() > MAX_TEXT {
                return Err(EgressError::Unanswered("more than 256 KiB"));
            }
            body.extend_from_slice(&piece);
        }
        Ok((status, body))
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the egress client")]
fn client(development: bool) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(concat!("nexus/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(Arc::new(Guarded { development }))
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        // A connection that was kept would be one whose address nobody looked at again.
        .pool_max_idle_per_host(0)
        .build()
}

/// In words of our own: what a library says may hold addresses.
fn why(error: &reqwest::Error) -> &'static str {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(inner) = source {
        if inner.downcast_ref::<Private>().is_some() {
            return "a private address";
        }
        source = inner.source();
    }
    if error.is_timeout() {
        "too slow"
    } else if error.is_connect() {
        "it can't be connected to"
    } else {
        "the connection ended"
    }
}

struct Guarded {
    development: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("a private address")]
struct Private;

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let development = self.development;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.take(16).collect();
            let allowed = found.into_iter().filter(|address| development || is_public(address.ip()));
            let allowed: Vec<SocketAddr> = allowed.take(4).collect();
            if allowed.is_empty() {
                return Err(Box::new(Private) as Box<dyn std::error::Error + Send + Sync>);
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }

    #[test]
    fn an_address_is_judged_before_it_is_stored() {
        provider();
        let egress = Egress::new(false);
        for bad in [
            "http://hooks.example/x",
            "ftp://hooks.example",
            "https://user:word@hooks.example",
            "https://127.0.0.1/x",
            "https://10.0.0.8",
            "https://169.254.169.254/latest/meta-data",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[fe80::1]/",
            "https://[64:ff9b::a00:1]/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://0.0.0.0/",
            "https://",
            "nonsense",
        ] {
            assert!(egress.check(bad).is_err(), "{bad}");
        }
        assert!(egress.check(&format!("https://hooks.example/{}", "x".repeat(MAX_URL))).is_err());
        for good in ["https://hooks.example/x?y=1", "https://1.1.1.1:8443/"] {
            assert!(egress.check(good).is_ok(), "{good}");
        }
        assert!(Egress::new(true).check("http://127.0.0.1:9/").is_ok());
    }

    /// A name that resolves to this machine is no better than its address, whenever it began to.
    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        provider();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let refused = Egress::new(false).post(&url, &[], "{}".into()).await;
        assert_eq!(refused, Err(EgressError::Unanswered("a private address")));
        let connected = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
        assert!(connected.is_err(), "nothing was connected to");
    }

    /// Answers one request with this and then nothing more until the connection is dropped.
    async fn serves(head: String, forever: Option<Vec<u8>>) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x?y=1", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            match forever {
                Some(piece) => while stream.write_all(&piece).await.is_ok() {},
                None => std::future::pending().await,
            }
        });
        url
    }

    #[tokio::test]
    async fn a_text_has_a_bound_and_a_deadline() {
        provider();
        let egress = Egress::new(true);
        let small = serves("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}".into(), None).await;
        assert_eq!(egress.get(&small).await, Ok((404, b"{}".to_vec())));
        let endless = serves("HTTP/1.1 200 OK\r\n\r\n".into(), Some(vec![b'x'; 8_192])).await;
        assert_eq!(egress.get(&endless).await, Err(EgressError::Unanswered("more than 256 KiB")));
        let mute = serves("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".into(), None).await;
        assert_eq!(egress.get(&mute).await, Err(EgressError::Unanswered("too slow")));
        assert_eq!(Egress::new(false).get(&small).await, Err(EgressError::Refused("use https://")));
        let private = Egress::new(false).get("https://10.0.0.1/").await;
        assert_eq!(private, Err(EgressError::Refused("a private address")));
        let long = format!("{small}&z={}", "x".repeat(MAX_QUERY_URL));
        assert_eq!(egress.get(&long).await, Err(EgressError::Refused("too long")));
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        provider();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = inner.local_addr().unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request).await.unwrap();
            let answer =
                format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{to}/\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        assert_eq!(Egress::new(true).post(&url, &[], "{}".into()).await, Ok(307));
        server.await.unwrap();
        let elsewhere = format!("HTTP/1.1 302 Found\r\nLocation: http://{to}/\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(Egress::new(true).get(&serves(elsewhere, None).await).await, Ok((302, Vec::new())));
        assert!(tokio::time::timeout(Duration::from_millis(200), inner.accept()).await.is_err());
    }
}
