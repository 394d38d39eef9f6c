//! Who is let in, and how often.

mod common;

use common::{By, Host, Key};
use nexus_control::{Rate, Registration};
use nexus_core::{Clock, Hash32};
use serde_json::json;

#[tokio::test]
async fn a_signed_request_is_good_once_and_only_as_it_was_signed() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let url = host.url("/v1/account");
    let header = owner.authorization("GET", &url, b"", host.clock.now());
    let send = |path: &'static str, header: String| {
        let host = &host;
        async move { host.send(By::Nobody, "GET", path, Vec::new(), &[("authorization", &header)]).await }
    };
    let first = send("/v1/account", header.clone()).await.ok();
    assert_eq!(first.body["owner"], owner.npub().to_string());
    assert_eq!(send("/v1/account", header).await.code(), "proof_replayed");

    // Another path, query or method than signed.
    for path in ["/v1/agents", "/v1/account?x=1"] {
        let header = owner.authorization("GET", &url, b"", host.clock.now());
        assert_eq!(send(path, header).await.code(), "unauthorized", "{path}");
    }
    let posted = owner.authorization("POST", &url, b"", host.clock.now());
    assert_eq!(send("/v1/account", posted).await.code(), "unauthorized");
    // Too old, and too far ahead.
    for off_ms in [-61_000, 62_000] {
        let header = owner.authorization("GET", &url, b"", host.clock.now().plus_ms(off_ms));
        assert_eq!(send("/v1/account", header).await.code(), "unauthorized", "{off_ms}");
    }
    // Another body than signed; and a Host header decides nothing.
    let url = host.url("/v1/tokens");
    let header = owner.authorization("POST", &url, b"{}", host.clock.now());
    let answer = host.send(By::Nobody, "POST", "/v1/tokens", b"{ }".to_vec(), &[("authorization", &header)]).await;
    assert_eq!(answer.code(), "unauthorized");
    assert_eq!(answer.headers["www-authenticate"], "Nostr, Bearer");
    let evil = owner.authorization("GET", "http://evil.example/v1/account", b"", host.clock.now());
    let headers = [("authorization", evil.as_str()), ("host", "evil.example")];
    assert_eq!(host.send(By::Nobody, "GET", "/v1/account", Vec::new(), &headers).await.code(), "unauthorized");
}

#[tokio::test]
async fn two_authorizations_or_nonsense_are_refused() {
    let host = Host::start().await;
    for header in ["", "Nostr", "Nostr !!!", "Basic YTpi", "Bearer ", "Bearer nexus_x", "Bearer x"] {
        let answer = host.send(By::Nobody, "GET", "/v1/account", Vec::new(), &[("authorization", header)]).await;
        assert_eq!(answer.code(), "unauthorized", "{header:?}");
    }
    let owner = Key::new(1);
    let good = host.authorization(By::Key(&owner), "GET", "/v1/account", b"").unwrap();
    let twice = [("authorization", good.as_str()), ("authorization", "Bearer x")];
    assert_eq!(host.send(By::Nobody, "GET", "/v1/account", Vec::new(), &twice).await.code(), "unauthorized");
}

#[tokio::test]
async fn tokens_are_shown_once_listed_without_secret_and_end_when_revoked() {
    let host = Host::start().await;
    let (owner, other) = (Key::new(1), Key::new(2));
    let made =
        host.post(By::Key(&owner), "/v1/tokens", &json!({ "name": "ci", "scopes": ["read", "read"] })).await.ok();
    let (token, id) = (made.body["token"].as_str().unwrap().to_owned(), made.body["id"].as_str().unwrap().to_owned());
    assert_eq!(made.body["scopes"], json!(["read"]));
    host.get(By::Token(&token), "/v1/account").await.ok();
    let listed = host.get(By::Key(&owner), "/v1/tokens").await.ok();
    assert_eq!(listed.body["tokens"][0]["id"], id);
    assert!(!listed.text.contains(&token));
    assert!(listed.body["tokens"][0]["last_used_at_ms"].is_i64());

    // A token makes no token, lists none, and somebody else can't revoke it.
    let body = json!({ "name": "x", "scopes": ["read"] });
    assert_eq!(host.post(By::Token(&token), "/v1/tokens", &body).await.code(), "owner_key_required");
    let path = format!("/v1/tokens/{id}");
    assert_eq!(host.send(By::Key(&other), "DELETE", &path, Vec::new(), &[]).await.code(), "not_found");
    host.get(By::Token(&token), "/v1/account").await.ok();
    // It may revoke itself.
    assert_eq!(host.send(By::Token(&token), "DELETE", &path, Vec::new(), &[]).await.status, 204);
    assert_eq!(host.get(By::Token(&token), "/v1/account").await.code(), "unauthorized");

    for bad in [
        json!({ "name": "", "scopes": ["read"] }),
        json!({ "name": "x", "scopes": [] }),
        json!({ "name": "x", "scopes": ["read"], "expires_in_secs": 59 }),
    ] {
        assert_eq!(host.post(By::Key(&owner), "/v1/tokens", &bad).await.code(), "invalid");
    }
    let bad = json!({ "name": "x", "scopes": ["approve"] });
    assert_eq!(host.post(By::Key(&owner), "/v1/tokens", &bad).await.code(), "invalid_json");
    // What the database keeps of it is a hash.
    for name in ["nexus.db", "nexus.db-wal"] {
        let bytes = std::fs::read(host.dir.path().join(name)).unwrap();
        assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()), "{name}");
    }
}

#[tokio::test]
async fn registration_is_the_operators_choice() {
    let closed = Host::start_with(|config| config.registration = Registration::Closed).await;
    assert_eq!(closed.get(By::Key(&Key::new(1)), "/v1/account").await.code(), "registration_closed");

    let code = "let me in";
    let hash = Hash32::sha256(code.as_bytes()).to_string();
    let invite =
        Host::start_with(|config| config.registration = Registration::Invite { codes_sha256: vec![hash] }).await;
    let (first, second) = (Key::new(1), Key::new(2));
    assert_eq!(invite.get(By::Key(&first), "/v1/account").await.code(), "invite_required");
    let wrong = [("nexus-invite", "wrong")];
    assert_eq!(invite.send(By::Key(&first), "GET", "/v1/account", Vec::new(), &wrong).await.code(), "invite_required");
    let right = [("nexus-invite", code)];
    invite.send(By::Key(&first), "GET", "/v1/account", Vec::new(), &right).await.ok();
    // The account stays, the code is spent.
    invite.get(By::Key(&first), "/v1/account").await.ok();
    assert_eq!(invite.send(By::Key(&second), "GET", "/v1/account", Vec::new(), &right).await.code(), "invite_required");
}

#[tokio::test]
async fn two_first_requests_make_one_account() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let (a, b) = tokio::join!(host.get(By::Key(&owner), "/v1/account"), host.get(By::Key(&owner), "/v1/account"));
    assert_eq!(a.ok().body["id"], b.ok().body["id"]);
}

#[tokio::test]
async fn rates_hold_for_a_key_and_for_an_address() {
    let slow = Rate { per_minute: 1, burst: 3 };
    let host = Host::start_with(|config| config.rate_per_key = slow).await;
    let (owner, other) = (Key::new(1), Key::new(2));
    for _ in 0..3 {
        host.get(By::Key(&owner), "/v1/account").await.ok();
    }
    let refused = host.get(By::Key(&owner), "/v1/account").await;
    assert_eq!(refused.code(), "rate_limited");
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    host.get(By::Key(&other), "/v1/account").await.ok();

    let host = Host::start_with(|config| config.rate_per_address = slow).await;
    for _ in 0..3 {
        host.get(By::Nobody, "/v1/pool").await.ok();
    }
    assert_eq!(host.get(By::Nobody, "/healthz").await.code(), "rate_limited");
}

#[tokio::test]
async fn bodies_are_bounded() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let big = |bytes: usize| format!("{{\"name\":\"{}\"}}", "x".repeat(bytes)).into_bytes();
    let answer = host.send(By::Key(&owner), "POST", "/v1/tokens", big(64 * 1024), &[]).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (413, "body_too_large"));
    // A creation may be larger, up to its own bound.
    let answer = host.send(By::Key(&owner), "POST", "/v1/agents", big(900_000), &[]).await;
    assert_eq!(answer.code(), "invalid_json");
    let answer = host.send(By::Key(&owner), "POST", "/v1/agents", big(1024 * 1024), &[]).await;
    assert_eq!(answer.code(), "body_too_large");
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_nonsense_ends_it() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let host = Host::start().await;
    let address = host.origin.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut buffer = vec![0; 16 * 1024];
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
    }
    // More headers than anyone needs.
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(100));
    stream.write_all(many.as_bytes()).await.unwrap();
    let read = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&buffer[..read]));
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
    host.get(By::Nobody, "/healthz").await.ok();
}

#[tokio::test]
async fn what_was_used_stays_used_across_a_restart() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let header = owner.authorization("GET", &host.url("/v1/account"), b"", host.clock.now());
    host.send(By::Nobody, "GET", "/v1/account", Vec::new(), &[("authorization", &header)]).await.ok();
    let key = [("idempotency-key", "k")];
    let body = json!({ "name": "x", "scopes": ["read"] }).to_string().into_bytes();
    host.send(By::Key(&owner), "POST", "/v1/tokens", body.clone(), &key).await.ok();
    // A second process on the same database, under the same name.
    let twin = host.twin().await;
    let path = "/v1/account";
    assert_eq!(
        twin.send(By::Nobody, "GET", path, Vec::new(), &[("authorization", &header)]).await.code(),
        "proof_replayed"
    );
    // A token is not kept, so it can't be told again; but it is known that it was made.
    let again = twin.send(By::Key(&owner), "POST", "/v1/tokens", body, &key).await;
    assert_eq!(again.code(), "secret_shown_once");
    assert_eq!(twin.get(By::Key(&owner), "/v1/tokens").await.ok().body["tokens"].as_array().unwrap().len(), 1);
}
