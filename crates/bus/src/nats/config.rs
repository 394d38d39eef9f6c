//! How a NATS server is reached. Checked at boot; secrets are in files, read again for each connection.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const MAX_URLS: usize = 16;
const MAX_PREFIX: usize = 64;
const MAX_NAME: usize = 64;
const MAX_QUEUE: usize = 1 << 20;
/// Largest secret or certificate file, in bytes.
const MAX_FILE: u64 = 256 * 1024;
/// Messages that wait inside the connection.
const IN_CONNECTION: usize = 256;
/// Messages of one subject that wait to be looked at. They may be of any size that the server lets through.
const TO_READ: usize = 8_192;

/// How a NATS server (2.9 or later) is reached. At most one of `credentials_file`, `user` and `token_file`; that user
/// has to be allowed to publish and subscribe to `<prefix>.wake.*` and `<prefix>.echo.*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsConfig {
    /// `nats://host:port` or `tls://host:port`, without user or password. One of them, whichever answers, is used.
    /// Servers that they tell of are not.
    pub urls: Vec<String>,
    /// How connections are named in the server's monitoring.
    pub name: String,
    /// Begins every subject: another one for each installation that shares a server. Tokens of letters, digits, `-`
    /// and `_`, joined by dots.
    pub prefix: String,
    /// TLS or no connection. When unset: unless every URL names a loopback address.
    pub tls_required: Option<bool>,
    /// PEM file with the authorities that servers are verified against; the system's when unset.
    pub tls_ca_file: Option<PathBuf>,
    /// PEM files of our own certificate and its key, for servers that verify their clients.
    pub tls_cert_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    /// A `.creds` file: user JWT and NKey seed.
    pub credentials_file: Option<PathBuf>,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
    /// How long one address may take to answer.
    pub connect_timeout_ms: u64,
    /// A connection on which two pings in a row go unanswered is given up.
    pub ping_interval_ms: u64,
    /// Longest pause between two tries.
    pub reconnect_max_ms: u64,
    /// Wakes that wait while the server is away; what comes on top is dropped and counted.
    pub queue: usize,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".to_owned()],
            name: "nexus".to_owned(),
            prefix: "nexus".to_owned(),
            tls_required: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            credentials_file: None,
            user: None,
            password_file: None,
            token_file: None,
            connect_timeout_ms: 2_000,
            ping_interval_ms: 5_000,
            reconnect_max_ms: 5_000,
            queue: 4_096,
        }
    }
}

/// Why a NATS configuration is refused. Names the key at fault, never a secret.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    #[error("nats {key}: {reason}")]
    Setting { key: &'static str, reason: String },
    #[error("nats {key}: cannot read {path}")]
    File {
        key: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn refuse<T>(key: &'static str, reason: impl Into<String>) -> Result<T, NatsError> {
    Err(NatsError::Setting { key, reason: reason.into() })
}

impl NatsConfig {
    /// What each key takes, in words for whoever reads the configuration.
    pub const NOTES: &[(&str, &str)] = &[
        ("urls", "1 to 16 of nats://host:port or tls://host:port, without user or password"),
        ("name", "shown in the server's monitoring, at most 64 bytes"),
        ("prefix", "begins every subject, at most 64 bytes; one for each installation on a server"),
        ("tls_required", "true or false; when unset, unless every URL is a loopback address"),
        ("tls_ca_file", "PEM certificates to verify servers by; the system's when unset"),
        ("tls_cert_file", "PEM, our own certificate, for servers that verify their clients"),
        ("tls_key_file", "PEM, its key"),
        ("credentials_file", "a .creds file; at most one of this, user and token_file"),
        ("user", "needs password_file"),
        ("password_file", "file with the password alone; read for each connection"),
        ("token_file", "file with the token alone; read for each connection"),
        ("connect_timeout_ms", "100 to 60000"),
        ("ping_interval_ms", "100 to 60000; two unanswered pings end a connection"),
        ("reconnect_max_ms", "longest pause between tries, 100 to 60000"),
        ("queue", "wakes that wait while the server is away, 1 to 1048576"),
    ];

    /// Checks everything that can be checked without a server, files included.
    pub fn validate(&self) -> Result<(), NatsError> {
        self.addresses()?;
        self.check_names()?;
        self.check_numbers()?;
        self.check_tls()?;
        self.options().map(drop)
    }

    /// Where the servers are.
    pub(crate) fn addresses(&self) -> Result<Vec<ServerAddr>, NatsError> {
        if self.urls.is_empty() || self.urls.len() > MAX_URLS {
            return refuse("urls", format!("1 to {MAX_URLS} are needed"));
        }
        self.urls.iter().enumerate().map(|(number, url)| address(number + 1, url)).collect()
    }

    fn check_names(&self) -> Result<(), NatsError> {
        let token = |token: &str| {
            !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if self.prefix.len() > MAX_PREFIX || !self.prefix.split('.').all(token) {
            let reason = "tokens of letters, digits, `-` and `_`, joined by dots, at most 64 characters";
            return refuse("prefix", reason);
        }
        if self.name.len() > MAX_NAME || self.name.chars().any(char::is_control) {
            return refuse("name", format!("at most {MAX_NAME} bytes, nothing invisible"));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), NatsError> {
        let times = [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("ping_interval_ms", self.ping_interval_ms),
            ("reconnect_max_ms", self.reconnect_max_ms),
        ];
        if let Some((key, _)) = times.into_iter().find(|(_, ms)| !(100..=60_000).contains(ms)) {
            return refuse(key, "100 to 60000");
        }
        if !(1..=MAX_QUEUE).contains(&self.queue) {
            return refuse("queue", format!("1 to {MAX_QUEUE}"));
        }
        Ok(())
    }

    fn check_tls(&self) -> Result<(), NatsError> {
        if let Some(path) = &self.tls_ca_file {
            pem("tls_ca_file", path, "CERTIFICATE-----")?;
        }
        match (&self.tls_cert_file, &self.tls_key_file) {
            (None, None) => Ok(()),
            (Some(certificate), Some(key)) => {
                pem("tls_cert_file", certificate, "CERTIFICATE-----")?;
                pem("tls_key_file", key, "PRIVATE KEY-----")
            }
            (Some(_), None) => refuse("tls_key_file", "a certificate needs its key"),
            (None, Some(_)) => refuse("tls_cert_file", "a key needs its certificate"),
        }
    }

    /// Whether plaintext is refused.
    fn needs_tls(&self, addresses: &[ServerAddr]) -> bool {
        self.tls_required.unwrap_or_else(|| !addresses.iter().all(is_loopback))
    }

    /// Everything for one connection, with the secrets as they are on disk now.
    pub(crate) fn options(&self) -> Result<ConnectOptions, NatsError> {
        let addresses = self.addresses()?;
        let mut options = ConnectOptions::new()
            .name(&self.name)
            .require_tls(self.needs_tls(&addresses))
            .connection_timeout(Duration::from_millis(self.connect_timeout_ms))
            .ping_interval(Duration::from_millis(self.ping_interval_ms))
            .client_capacity(IN_CONNECTION)
            .subscription_capacity(TO_READ)
            // One look at each address: pauses and further tries are the caller's.
            .max_reconnects(addresses.len())
            .ignore_discovered_servers();
        if let Some(path) = &self.tls_ca_file {
            options = options.add_root_certificates(path.clone());
        }
        if let (Some(certificate), Some(key)) = (&self.tls_cert_file, &self.tls_key_file) {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        self.log_in(options)
    }

    fn log_in(&self, options: ConnectOptions) -> Result<ConnectOptions, NatsError> {
        let ways = [self.credentials_file.is_some(), self.user.is_some(), self.token_file.is_some()];
        if ways.into_iter().filter(|way| *way).count() > 1 {
            return refuse("credentials_file", "at most one of credentials_file, user and token_file");
        }
        match (&self.user, &self.password_file) {
            (Some(user), Some(path)) => {
                let password = secret("password_file", path)?;
                return Ok(options.user_and_password(user.clone(), password.to_string()));
            }
            (Some(_), None) => return refuse("password_file", "a user needs one"),
            (None, Some(_)) => return refuse("user", "a password needs one"),
            (None, None) => {}
        }
        if let Some(path) = &self.token_file {
            return Ok(options.token(secret("token_file", path)?.to_string()));
        }
        let Some(path) = &self.credentials_file else { return Ok(options) };
        let text = read("credentials_file", path)?;
        // The parser's own words might quote the file.
        options
            .credentials(&text)
            .or_else(|_| refuse("credentials_file", "not a .creds file with a user JWT and its seed"))
    }
}

/// Entry `number` of the URLs; never quoted, since somebody may have put a password there.
fn address(number: usize, url: &str) -> Result<ServerAddr, NatsError> {
    let refused = |reason: &str| refuse("urls", format!("entry {number} {reason}"));
    let Ok(address) = url.parse::<ServerAddr>() else { return refused("is not a URL of a NATS server") };
    let parts = address.clone().into_inner();
    if !matches!(parts.scheme(), "nats" | "tls") || address.host().is_empty() {
        return refused("is not nats://host:port or tls://host:port");
    }
    if address.has_user_pass() || address.password().is_some() {
        return refused("holds a user or password: use user and password_file, credentials_file or token_file");
    }
    if !matches!(parts.path(), "" | "/") || parts.query().is_some() || parts.fragment().is_some() {
        return refused("goes on after the port");
    }
    Ok(address)
}

fn is_loopback(address: &ServerAddr) -> bool {
    address.host() == "localhost" || address.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn read(key: &'static str, path: &Path) -> Result<Zeroizing<String>, NatsError> {
    let failed = |source| NatsError::File { key, path: path.to_owned(), source };
    let mut text = Zeroizing::new(String::new());
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text)).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return refuse(key, format!("the file is larger than {MAX_FILE} bytes"));
    }
    Ok(text)
}

/// The file's text without the end of its last line.
fn secret(key: &'static str, path: &Path) -> Result<Zeroizing<String>, NatsError> {
    let text = Zeroizing::new(read(key, path)?.trim_end_matches(['\r', '\n']).to_owned());
    if text.is_empty() {
        return refuse(key, "the file is empty");
    }
    Ok(text)
}

fn pem(key: &'static str, path: &Path, kind: &str) -> Result<(), NatsError> {
    if read(key, path)?.lines().any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(kind)) {
        return Ok(());
    }
    refuse(key, "the file is not PEM, or has something else in it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_is_for_this_machine_or_by_order() {
        let needs = |urls: &[&str], tls_required| {
            let urls = urls.iter().map(|url| (*url).to_owned()).collect();
            let config = NatsConfig { urls, tls_required, ..NatsConfig::default() };
            config.needs_tls(&config.addresses().unwrap())
        };
        let local = ["nats://127.0.0.1:4222", "nats://[::1]", "nats://localhost:4223"];
        assert!(!needs(&local, None));
        assert!(needs(&local, Some(true)));
        assert!(needs(&["nats://127.0.0.1:4222", "nats://nats.example:4222"], None));
        assert!(needs(&["nats://127.0.0.1.example"], None));
        assert!(!needs(&["nats://nats.example:4222"], Some(false)));
    }
}
