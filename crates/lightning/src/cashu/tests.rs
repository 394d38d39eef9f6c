use std::sync::Arc;

use nexus_core::{Clock as _, MonoMs};
use nexus_testkit::TestClock;
use proptest::prelude::*;

use super::keys::blanks;
use super::{Https, MintHttp as _, MintRequest, MintUrl, NoAnswer, WalletSeed};

#[test]
fn only_https_and_in_development_loopback() {
    for (url, production, development) in [
        ("https://mint.example.com", true, true),
        ("https://mint.example.com/Bitcoin", true, true),
        ("http://mint.example.com", false, false),
        ("http://127.0.0.1:3338", false, true),
        ("http://127.0.0.2:3338", false, false),
        ("http://localhost:3338", false, false),
        ("https://user@mint.example.com", false, false),
        ("https://mint.example.com/?a", false, false),
        ("ftp://mint.example.com", false, false),
        ("mint", false, false),
        ("", false, false),
    ] {
        assert_eq!(MintUrl::parse(url, false).is_ok(), production, "{url}");
        assert_eq!(MintUrl::parse(url, true).is_ok(), development, "{url}");
    }
    assert_eq!(MintUrl::parse("https://mint.example.com/", false).unwrap().as_str(), "https://mint.example.com");
}

#[test]
fn a_seed_does_not_show_itself() {
    assert_eq!(format!("{:?}", WalletSeed::new([7; 64])), "WalletSeed(…)");
}

fn ask(path: &str, deadline: Option<MonoMs>) -> MintRequest {
    MintRequest { path: path.to_owned(), body: None, deadline, timeout_ms: 1_000 }
}

/// Whoever names an address cannot make the host connect to itself or its network.
#[tokio::test]
async fn only_public_addresses_are_connected_to() {
    let clock: Arc<TestClock> = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "[::1]", "localhost", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]"] {
        for development in [false, true] {
            let url = MintUrl::parse(&format!("https://{host}:{port}"), development).unwrap();
            let http = Https::new(url, development && host != "127.0.0.1", clock.clone()).unwrap();
            let Err(NoAnswer::Unsent(why)) = http.ask(ask("/v1/info", None)).await else { panic!("{host}") };
            assert!(why.contains("no public address"), "{host}: {why}");
        }
    }
    let accepted = tokio::time::timeout(std::time::Duration::from_millis(50), listener.accept()).await;
    assert!(accepted.is_err(), "somebody connected");
}

/// After the deadline no byte leaves, and nobody is connected to.
#[tokio::test]
async fn late_is_late() {
    let clock: Arc<TestClock> = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let http = Https::new(MintUrl::parse(&url, true).unwrap(), true, clock.clone()).unwrap();
    let said = http.ask(ask("/v1/melt/bolt11", Some(clock.mono()))).await;
    assert!(matches!(said, Err(NoAnswer::Late)));
    let accepted = tokio::time::timeout(std::time::Duration::from_millis(50), listener.accept()).await;
    assert!(accepted.is_err(), "somebody connected");
}

proptest! {
    /// Blank outputs carry any change up to what was paid too much: one power of two each.
    #[test]
    fn blanks_are_enough(sats in 1_u64..1 << 40) {
        let most = (1_u64 << blanks(sats).min(63)) - 1;
        prop_assert!(most >= sats || 1 << blanks(sats) == sats);
        prop_assert!(blanks(sats) <= 41);
    }
}
