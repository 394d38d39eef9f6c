//! The least of an HTTP client.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part of it")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nexus_core::UnixMs;
use nexus_seal::webhook::{WebhookKey, sign_webhook};

/// Status and body of a GET.
pub fn get(origin: &str, path: &str) -> (u16, String) {
    ask(origin, path).unwrap()
}

/// The same of a process that may not be there.
pub fn ask(origin: &str, path: &str) -> Option<(u16, String)> {
    let address = origin.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A figure of an OpenMetrics text by its name with labels, as it stands in its line.
pub fn figure(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[expect(clippy::disallowed_methods, reason = "a sender has a clock of its own")]
fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixMs(i64::try_from(since.as_millis()).unwrap())
}

/// Posts a webhook as its sender does; returns the status.
pub fn signed(url: &str, id: &str, key: &WebhookKey, body: &str) -> u16 {
    let (address, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    let at = now();
    let signature = sign_webhook(id, at, body.as_bytes(), std::slice::from_ref(key)).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(
        stream,
        "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         webhook-id: {id}\r\nwebhook-timestamp: {}\r\nwebhook-signature: {signature}\r\n\r\n{body}",
        body.len(),
        at.secs()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}
