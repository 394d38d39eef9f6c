//! Taking ports, with a message that helps when one is taken.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use tokio::net::TcpListener;

/// Listens on an address; port 0 takes any free one.
pub async fn bind(what: &str, flag: &str, address: IpAddr, port: u16) -> anyhow::Result<(TcpListener, SocketAddr)> {
    match TcpListener::bind((address, port)).await {
        Ok(listener) => {
            let at = listener.local_addr().with_context(|| format!("reading the {what}'s own address"))?;
            Ok((listener, at))
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
            "port {port}, for the {what}, is taken by another program\n  next: stop that one, or choose another with {flag} PORT (0 takes any free one)"
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => bail!(
            "port {port}, for the {what}, may not be opened by this user\n  next: choose one above 1023 with {flag} PORT"
        ),
        Err(error) => {
            Err(error).with_context(|| format!("opening {address}:{port} for the {what}\n  next: check the address"))
        }
    }
}

/// The address as clients on this machine write it: an unspecified one is reached over loopback.
pub fn reachable(at: SocketAddr) -> SocketAddr {
    match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], at.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], at.port())),
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_flag() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let (_held, at) = bind("API", "--api-port", loopback, 0).await.unwrap();
        let error = bind("API", "--api-port", loopback, at.port()).await.unwrap_err().to_string();
        assert!(error.contains(&at.port().to_string()) && error.contains("--api-port"), "{error}");
    }
}
