//! Which address a request came from, through proxies that the operator named.

use std::net::IpAddr;

use axum::http::HeaderMap;

/// The peer's address, or what a trusted proxy says it is.
///
/// The last entry of `X-Forwarded-For` is the one that our own proxy wrote; entries before it are whatever the
/// caller liked to send. Entries that are trusted proxies themselves are stepped over from the right.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpAddr]) -> IpAddr {
    let mut address = peer.to_canonical();
    let forwarded = headers.get_all("x-forwarded-for").iter().rev().filter_map(|value| value.to_str().ok());
    let mut hops = forwarded.flat_map(|value| value.rsplit(','));
    while trusted.contains(&address) {
        let Some(hop) = hops.next().and_then(|hop| hop.trim().parse::<IpAddr>().ok()) else { break };
        address = hop.to_canonical();
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.0.0.2".parse().unwrap());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(client_address(ip("9.9.9.9"), &headers, &[ip("10.0.0.1")]), ip("9.9.9.9"));
        assert_eq!(client_address(ip("10.0.0.1"), &headers, &[ip("10.0.0.1"), ip("10.0.0.2")]), ip("1.2.3.4"));
        assert_eq!(client_address(ip("10.0.0.1"), &HeaderMap::new(), &[ip("10.0.0.1")]), ip("10.0.0.1"));
        headers.insert("x-forwarded-for", "junk".parse().unwrap());
        assert_eq!(client_address(ip("10.0.0.1"), &headers, &[ip("10.0.0.1")]), ip("10.0.0.1"));
    }
}
