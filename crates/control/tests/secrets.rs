//! Secrets that are sent by mistake are refused, and are nowhere afterwards: not in the answer, the log or the database.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use common::{By, Host, Key};
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

// BIP-39's own test vector, NIP-06's and NIP-49's.
const MNEMONIC: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";
const NSEC: &str = "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp";
const NCRYPTSEC: &str = "ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w57lspw8gsq6yphnm8623nsl8xn9j4jdzz84zm3frztj3z7s35vpzmqf6ksu8r89qk5z2zxfmu5gv8th8wclt0h4p";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_secret_in_a_body_is_refused_and_is_nowhere_afterwards() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let host = Host::start().await;
    let (owner, agent) = (Key::new(1), Key::new(2));
    let npub = host.create(&owner, &agent, "ada").await;
    let token = host.token(&owner, &["operate", "configure"]).await;
    let change = format!("/v1/agents/{npub}");
    let passphrase = "correct horse battery staple 7";
    let mut create = host.agent_body(&owner, &Key::new(3), "eve");
    create["config"] = json!({ "about": format!("my words are {MNEMONIC}") });
    let bodies = [
        ("POST", "/v1/agents", create),
        ("POST", "/v1/agents", json!({ "name": "eve", "mnemonic": passphrase })),
        ("POST", "/v1/agents", json!({ "config": { "deep": [{ "Passphrase": passphrase }] } })),
        ("POST", "/v1/agents", json!({ "seed": passphrase })),
        ("PATCH", change.as_str(), json!({ "config": { "about": NSEC } })),
        ("PATCH", change.as_str(), json!({ "config": { "labels": { NSEC: "x" } } })),
        ("POST", "/v1/tokens", json!({ "name": format!("key:{NCRYPTSEC}"), "scopes": ["read"] })),
        ("POST", &format!("{change}/ticks"), json!({ "sealed_text": MNEMONIC })),
    ];
    for (method, path, body) in bodies {
        let answer =
            host.send(By::Key(&owner), method, path, body.to_string().into_bytes(), &[("if-match", "*")]).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (422, "secret_in_body"), "{method} {path}");
        for secret in [MNEMONIC, NSEC, NCRYPTSEC, passphrase] {
            assert!(!answer.text.contains(secret));
        }
    }
    // A mistake in a body that holds a passphrase under another name is not quoted back.
    let odd = json!({ "name": { "x": passphrase }, "scopes": passphrase }).to_string().into_bytes();
    let answer = host.send(By::Key(&owner), "POST", "/v1/tokens", odd, &[]).await;
    assert_eq!(answer.code(), "invalid_json");
    assert!(!answer.text.contains(passphrase));
    host.get(By::Token(&token), &format!("/v1/agents/{npub}/policy")).await;

    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(log.contains("nexus_control"), "nothing was logged, so nothing was tested");
    let mut places = vec![("log", log.into_bytes())];
    for name in ["nexus.db", "nexus.db-wal"] {
        places.push((name, std::fs::read(host.dir.path().join(name)).unwrap()));
    }
    for (place, bytes) in places {
        for secret in [MNEMONIC, NSEC, NCRYPTSEC, passphrase, &token] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "in {place}: {secret}");
        }
    }
}
