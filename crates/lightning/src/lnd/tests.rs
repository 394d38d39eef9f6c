use proptest::prelude::*;

use super::json::{Balance, Info, Invoice, Line, Payment, Reason, State, Status};
use super::tag::{RECORD, Tag, Whose};
use super::*;

const IDENTITY: &str = "031b1e71e25b64e73902cbdf0eef857521696b0151682a40013ebcb8a83d980204";

fn config(url: &str) -> Result<NodeConfig, ConfigError> {
    NodeConfig::new(url, Trust::PublicRoots, IDENTITY, Network::Bitcoin)
}

#[test]
fn an_address_is_https_and_nothing_else() {
    for (url, host, port) in [
        ("https://node.example", "node.example", 8080),
        ("https://node.example/", "node.example", 8080),
        ("https://node.example:443", "node.example", 443),
        ("https://10.0.0.7:8181", "10.0.0.7", 8181),
        ("https://[::1]:8080", "::1", 8080),
    ] {
        let node = config(url).unwrap();
        assert_eq!((node.host.as_str(), node.port), (host, port), "{url}");
    }
    for url in
        ["http://node.example", "https://", "node.example:8080", "https://h/v1", "https://h?x", "https://h#x", ""]
    {
        assert!(config(url).is_err(), "{url}");
    }
    let error = config("https://user:hunter2@node.example").unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
    for identity in ["", "02", &IDENTITY[2..], &format!("04{}", &IDENTITY[2..]), &format!("{}zz", &IDENTITY[..64])] {
        assert!(NodeConfig::new("https://h", Trust::PublicRoots, identity, Network::Bitcoin).is_err(), "{identity}");
    }
}

#[test]
fn the_reserve_has_a_floor_and_no_overflow() {
    let reserve = FeeReserve::default();
    assert_eq!(reserve.of(Msat::sats(5)), Msat::sats(10));
    assert_eq!(reserve.of(Msat::sats(5_000)), Msat::sats(50));
    assert_eq!(FeeReserve { floor: Msat::ZERO, ppm: u32::MAX }.of(Msat::MAX), Msat::MAX);
}

#[test]
fn old_nodes_are_known_by_their_version() {
    assert_eq!(client::version("0.21.2-beta commit=v0.21.2-beta"), Some((0, 21)));
    assert_eq!(client::version("v1.0"), Some((1, 0)));
    assert!(client::version("0.18.5-beta").unwrap() < OLDEST);
    for text in ["", "beta", "0", "0.x"] {
        assert_eq!(client::version(text), None, "{text}");
    }
}

fn write(mode: u32, text: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("macaroon.hex");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    (dir, path)
}

#[test]
fn a_macaroon_is_hex_in_a_file_of_its_owners() {
    let (_dir, path) = write(0o600, b"0201036C6E64\n");
    let macaroon = PayerMacaroon::read(&path).unwrap();
    assert_eq!(macaroon.0.header(), "0201036c6e64");
    assert_eq!(format!("{macaroon:?}"), "PayerMacaroon(…)");
    for (mode, text) in [
        (0o640, &b"0201036c6e64"[..]),
        (0o604, b"0201036c6e64"),
        (0o600, b"\x02\x01\x03lnd\xff"),
        (0o600, b"0201036c6e6"),
        (0o600, b"hunter2 hunter2!"),
        (0o600, b""),
        (0o600, &[b'0'; 10_000]),
    ] {
        let (_dir, path) = write(mode, text);
        let error = InvoiceMacaroon::read(&path).unwrap_err().to_string();
        assert!(error.contains("macaroon.hex") && !error.contains("0201036c") && !error.contains("hunter2"), "{error}");
    }
    assert!(InvoiceMacaroon::from_hex("0g".to_owned()).is_none());
    assert!(InvoiceMacaroon::from_hex("0a".to_owned()).is_some());
}

/// As LND 0.21.2 wrote them.
#[test]
fn reads_what_a_node_says() {
    let balance = r#"{"balance":"0","local_balance":{"sat":"7","msat":"7001"},"remote_balance":{"sat":"0","msat":"0"},"custom_channel_data":"AAEA"}"#;
    let balance: Balance = serde_json::from_str(balance).unwrap();
    assert_eq!(balance.local_balance.msat, Msat::new(7_001));
    let info = format!(
        r#"{{"version":"0.21.2-beta","identity_pubkey":"{IDENTITY}","chains":[{{"chain":"bitcoin","network":"regtest"}}],"future":[1]}}"#
    );
    let info: Info = serde_json::from_str(&info).unwrap();
    assert_eq!((info.synced_to_chain, info.chains[0].network.as_str()), (false, "regtest"));
    for (body, code) in [
        (r#"{"code":2,"message":"permission denied","details":[]}"#, Some(2)),
        (r#"{"error":{"code":5,"message":"payment isn't initiated","details":[]}}"#, Some(5)),
        (r#"{"error":"permission denied","code":2,"message":"permission denied"}"#, Some(2)),
        ("<html>502</html>", None),
        (r#"{"ok":true}"#, None),
        ("", None),
    ] {
        assert_eq!(json::error(body.as_bytes()).map(|said| said.code), code, "{body}");
    }
    // The gateway's word for a path that it does not have says nothing about a payment.
    let absent = |message: &str| json::Said { code: 5, message: message.to_owned() }.absent();
    assert!(absent("payment isn't initiated") && absent("unable to locate invoice") && !absent("Not Found"));
}

fn payment(hash: &str, rest: &str) -> Result<Payment, serde_json::Error> {
    serde_json::from_str(&format!(r#"{{"payment_hash":"{hash}"{rest}}}"#))
}

/// A payment's hash is hex and an invoice's is base64; whoever mixes them up is told, and shown nothing.
#[test]
fn hex_and_base64_are_not_mixed_up() {
    let hex = "00".repeat(32);
    let base64 = json::base64(&[0; 32]);
    let status = r#","status":"FAILED","failure_reason":"FAILURE_REASON_NO_ROUTE","fee_msat":"0""#;
    let read = payment(&hex, status).unwrap();
    assert_eq!((read.status, read.failure_reason), (Status::Failed, Reason::NoRoute));
    assert!(payment(&base64, status).is_err());
    let invoice = |hash: &str| serde_json::from_str::<Invoice>(&format!(r#"{{"r_hash":"{hash}","state":"SETTLED"}}"#));
    let read = invoice(&base64).unwrap();
    assert_eq!((read.r_hash.hash().unwrap(), read.state), (Hash32::from_bytes([0; 32]), State::Settled));
    // Hex is base64 by its letters, but of another length.
    assert_eq!(invoice(&hex).unwrap().r_hash.hash(), None);
    assert_eq!(json::base64_url(&[0xfb, 0xff, 0xfe]), "-__-");
}

#[test]
fn integers_are_strings_and_have_bounds() {
    let hash = "00".repeat(32);
    let fee = |fee: &str| payment(&hash, &format!(r#","status":"SUCCEEDED","fee_msat":{fee}"#)).map(|it| it.fee_msat);
    assert_eq!(fee(r#""9223372036854775807""#).unwrap(), Msat::MAX);
    assert_eq!(fee("12").unwrap(), Msat::new(12));
    for bad in [r#""9223372036854775808""#, r#""-1""#, "-1", r#""1e3""#, "1.5", "null", "[]", r#""""#, r#"" 1""#] {
        assert!(fee(bad).is_err(), "{bad}");
    }
    assert_eq!(payment(&hash, r#","status":"SOMETHING_NEW""#).unwrap().status, Status::Unknown);
    assert_eq!(payment(&hash, r#","status":"FAILED","failure_reason":"NEW""#).unwrap().failure_reason, Reason::Other);
}

/// The mark tells owners, hashes and attempts apart, and comes back as it went.
#[test]
fn a_mark_says_whose() {
    let (hash, other) = (Hash32::sha256(b"a"), Hash32::sha256(b"b"));
    let marked = |tag: Tag| {
        let record = json::base64(&tag.to_bytes());
        payment(
            &hash.to_string(),
            &format!(r#","status":"FAILED","first_hop_custom_records":{{"{RECORD}":"{record}"}}"#),
        )
    };
    let mine = Tag::new("pay", hash, 2);
    assert_eq!(Tag::new("pay", hash, 1).whose(&marked(mine).unwrap()), Whose::Ours(2));
    assert_eq!(mine.whose(&marked(Tag::new("paz", hash, 2)).unwrap()), Whose::Anothers);
    assert_eq!(mine.whose(&marked(Tag::new("pay", other, 2)).unwrap()), Whose::Anothers);
    assert_eq!(mine.whose(&payment(&hash.to_string(), r#","status":"FAILED""#).unwrap()), Whose::Unmarked);
    let short = format!(r#","status":"FAILED","first_hop_custom_records":{{"{RECORD}":"AAAA"}}"#);
    assert_eq!(mine.whose(&payment(&hash.to_string(), &short).unwrap()), Whose::Unmarked);
}

proptest! {
    /// Any bytes give a value or an error, and an error never repeats what it could not read.
    #[test]
    fn any_line_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = json::error(&bytes);
        let _ = serde_json::from_slice::<Line<Payment>>(&bytes).is_ok();
        let _ = serde_json::from_slice::<Line<Invoice>>(&bytes).is_ok();
    }

    #[test]
    fn a_preimage_that_is_not_base64_is_not_shown(secret in "[a-z]{20}~") {
        let text = format!(r#"{{"r_hash":"","r_preimage":"{secret}","state":"OPEN"}}"#);
        let error = serde_json::from_str::<Invoice>(&text).err().map(|error| error.to_string());
        prop_assert!(error.is_some_and(|error| !error.contains(&secret)));
    }
}
