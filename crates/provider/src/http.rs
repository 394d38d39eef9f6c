//! The HTTP client for the model server: the operator's own choice of address, so loopback and private are allowed.

use std::time::Duration;

use reqwest::redirect::Policy;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Follows no redirect (the bearer token stays where it was meant to go); a server on this machine is never asked
/// through a proxy.
///
/// Needs the process's TLS provider to be installed.
#[expect(clippy::disallowed_methods, reason = "the one place where the model server's client is made")]
pub(crate) fn client(local: bool) -> Result<reqwest::Client, reqwest::Error> {
    let builder = reqwest::Client::builder().redirect(Policy::none()).connect_timeout(CONNECT_TIMEOUT);
    if local { builder.no_proxy() } else { builder }.build()
}

/// Whether an address is this machine's.
pub(crate) fn is_local(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
