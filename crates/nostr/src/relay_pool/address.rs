//! Which relays may be connected to, and where they really are.

use std::net::SocketAddr;

use nexus_core::net::is_public;
use url::{Host, Url};

use super::PoolConfig;

/// Longest relay URL, in bytes.
const MAX_URL: usize = 512;

/// A relay URL that passed the rules, in its one spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RelayAddress {
    url: Url,
    text: String,
    /// Whether only public addresses will do.
    public_only: bool,
}

impl RelayAddress {
    /// Reads a relay URL and applies the rules of the pool.
    pub(super) fn parse(text: &str, config: &PoolConfig) -> Result<Self, &'static str> {
        let (url, text) = normalise(text).ok_or("not a relay URL")?;
        let own = config.own_relays.iter().filter_map(|own| normalise(own)).any(|(_, own)| own == text);
        let trusted = own || config.development;
        if url.scheme() == "ws" && !trusted {
            return Err("a relay that is not our own needs wss://");
        }
        Ok(Self { url, text, public_only: !trusted })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Resolves the host now; the connection goes to exactly these addresses, at most four.
    pub(super) async fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let port = self.url.port_or_known_default().ok_or("no port")?;
        let found: Vec<SocketAddr> = match self.url.host().ok_or("no host")? {
            Host::Ipv4(ip) => vec![(ip, port).into()],
            Host::Ipv6(ip) => vec![(ip, port).into()],
            Host::Domain(name) => {
                let found = tokio::net::lookup_host((name, port)).await;
                found.map_err(|error| format!("cannot resolve: {error}"))?.take(16).collect()
            }
        };
        let allowed = found.iter().filter(|address| !self.public_only || is_public(address.ip()));
        let allowed: Vec<SocketAddr> = allowed.copied().take(4).collect();
        match (allowed.is_empty(), found.is_empty()) {
            (false, _) => Ok(allowed),
            (true, true) => Err("the name has no address".into()),
            (true, false) => Err("a private address".into()),
        }
    }
}

/// Scheme, host and path alone: lower case, no trailing slash, no user, no fragment.
fn normalise(text: &str) -> Option<(Url, String)> {
    if text.len() > MAX_URL {
        return None;
    }
    let mut url = Url::parse(text.trim()).ok()?;
    if !matches!(url.scheme(), "ws" | "wss") || url.host().is_none() || !url.username().is_empty() {
        return None;
    }
    url.set_fragment(None);
    let text = url.as_str().trim_end_matches('/').to_owned();
    Some((url, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_relays_are_public_and_encrypted() {
        let config = PoolConfig { own_relays: vec!["ws://127.0.0.1:7778/".into()], ..PoolConfig::default() };
        assert!(RelayAddress::parse("ws://relay.example", &config).is_err());
        assert!(RelayAddress::parse("ws://127.0.0.1:9", &config).is_err());
        assert!(RelayAddress::parse("https://relay.example", &config).is_err());
        assert!(RelayAddress::parse("wss://user@relay.example", &config).is_err());
        assert!(RelayAddress::parse("ws://127.0.0.1:7778", &config).is_ok());
        let relay = RelayAddress::parse("wss://Relay.Example/#x", &config).unwrap();
        assert_eq!(relay.as_str(), "wss://relay.example");
        let development = PoolConfig { development: true, ..PoolConfig::default() };
        assert!(RelayAddress::parse("ws://127.0.0.1:9", &development).is_ok());
    }

    #[tokio::test]
    async fn a_private_address_is_refused_even_under_tls() {
        let config = PoolConfig::default();
        for url in
            ["wss://127.0.0.1", "wss://10.1.2.3", "wss://169.254.169.254", "wss://[::1]", "wss://[::ffff:10.0.0.1]"]
        {
            let relay = RelayAddress::parse(url, &config).unwrap();
            assert_eq!(relay.resolve().await, Err("a private address".into()), "{url}");
        }
        let relay = RelayAddress::parse("wss://1.1.1.1", &config).unwrap();
        assert_eq!(relay.resolve().await.unwrap().len(), 1);
    }
}
