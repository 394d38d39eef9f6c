use std::time::Duration;

use bitcoin::secp256k1::{Secp256k1, SecretKey};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const REQUEST: &str = r#"{"kind":9734,"content":"für dich & mich + 1 = 100 %"}"#;
const NOW: UnixMs = UnixMs::from_secs(1_800_000_000);

fn service() -> Value {
    json!({
        "tag": "payRequest", "callback": "https://pay.example/cb?user=7#top", "minSendable": 1_000, "maxSendable": 50_000,
        "metadata": "[]", "allowsNostr": true, "nostrPubkey": "07".repeat(32), "commentAllowed": 200,
    })
}

fn read(said: &Value) -> Result<ZapService, LnurlError> {
    read_service(200, said.to_string().as_bytes(), Msat::sats(21))
}

#[test]
fn an_address_says_where_its_service_is() {
    let url = |address: &str, development| service_url(&address.parse().unwrap(), development);
    assert_eq!(url("ada@host.example", true), "https://host.example/.well-known/lnurlp/ada");
    for loopback in ["127.0.0.1:80", "127.0.0.1", "localhost:7777", "[::1]:80"] {
        assert_eq!(url(&format!("ada@{loopback}"), true), format!("http://{loopback}/.well-known/lnurlp/ada"));
        assert!(url(&format!("ada@{loopback}"), false).starts_with("https://"), "{loopback}");
    }
    assert!(url("ada@10.0.0.1", true).starts_with("https://"));
    assert!(url("a+b@host", false).ends_with("/a%2Bb"));
    for address in ["a.b-c_d@host:1", "x@[::1]:80"] {
        assert!(Url::parse(&url(address, true)).is_ok());
    }
}

#[test]
fn only_a_service_with_receipts_is_one() {
    let found = read(&service()).unwrap();
    assert_eq!(found.issuer, Npub::from_bytes([7; 32]));
    let with = |name: &str, value: Value| {
        let mut said = service();
        said[name] = value;
        read(&said).unwrap_err()
    };
    for (name, value) in [
        ("allowsNostr", json!(false)),
        ("nostrPubkey", Value::Null),
        ("nostrPubkey", json!("07")),
        ("nostrPubkey", json!(Npub::from_bytes([7; 32]).to_string())),
    ] {
        let error = with(name, value);
        assert!(matches!(&error, LnurlError::Refused(why) if why.contains("payee cannot be zapped")), "{error:?}");
    }
    for (name, value) in [("minSendable", json!(21_001)), ("maxSendable", json!(20_999))] {
        assert!(matches!(with(name, value), LnurlError::Refused(_)));
    }
    for (name, value) in [
        ("tag", json!("withdrawRequest")),
        ("callback", json!("nowhere")),
        ("minSendable", json!(-1)),
        ("maxSendable", json!("many")),
    ] {
        assert!(matches!(with(name, value), LnurlError::Failed(_)), "{name}");
    }
    let said = br#"{"status":"ERROR","reason":"try\u001b[2J later"}"#;
    assert_eq!(
        read_service(503, said, Msat::sats(1)),
        Err(LnurlError::Failed("the payee's service says: try[2J later".into()))
    );
    let moved = read_service(302, b"", Msat::sats(1)).unwrap_err().to_string();
    assert!(moved.contains("redirects"), "{moved}");
    assert!(read_service(404, service().to_string().as_bytes(), Msat::sats(1)).is_err());
}

#[test]
fn a_question_carries_the_request_to_the_byte() {
    let asked = Url::parse(&read(&service()).unwrap().question(Msat::sats(21), REQUEST)).unwrap();
    assert_eq!((asked.host_str(), asked.path(), asked.fragment()), (Some("pay.example"), "/cb", None));
    let pairs: Vec<(String, String)> = asked.query_pairs().into_owned().collect();
    let expected = [("user", "7"), ("amount", "21000"), ("nostr", REQUEST)];
    assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert!(!asked.query().unwrap().contains('+'));
}

struct Made {
    currency: Currency,
    msat: Option<u64>,
    hash: Option<[u8; 32]>,
    expiry_s: u64,
}

fn made(what: &Made) -> String {
    use bitcoin::hashes::Hash;
    let (secp, key) = (Secp256k1::new(), SecretKey::from_slice(&[7; 32]).unwrap());
    let sign = |digest: &bitcoin::secp256k1::Message| secp.sign_ecdsa_recoverable(digest, &key);
    let builder = InvoiceBuilder::new(what.currency.clone());
    macro_rules! finish {
        ($described:expr) => {{
            let builder = $described
                .payment_hash(Hash::from_byte_array([9; 32]))
                .payment_secret(PaymentSecret([3; 32]))
                .duration_since_epoch(Duration::from_secs(1_800_000_000))
                .min_final_cltv_expiry_delta(18)
                .expiry_time(Duration::from_secs(what.expiry_s));
            match what.msat {
                Some(msat) => builder.amount_milli_satoshis(msat).build_signed(sign),
                None => builder.build_signed(sign),
            }
        }};
    }
    let signed = match what.hash {
        Some(hash) => finish!(builder.description_hash(Hash::from_byte_array(hash))),
        None => finish!(builder.description(REQUEST.to_owned())),
    };
    signed.unwrap().to_string()
}

#[test]
fn only_the_invoice_that_was_asked_for_is_taken() {
    let description_hash = Hash32::sha256(REQUEST.as_bytes());
    let hash = *description_hash.as_bytes();
    let wanted = Wanted {
        network: Network::Regtest,
        amount: Msat::sats(21),
        description_hash,
        now: NOW,
        expiry_max_secs: 3_600,
    };
    let good = || Made { currency: Currency::Regtest, msat: Some(21_000), hash: Some(hash), expiry_s: 600 };
    let check = |what: Made| wanted.check(&made(&what));
    assert_eq!(check(good()).unwrap().amount, Some(Msat::sats(21)));
    check(Made { expiry_s: 3_600, ..good() }).unwrap();
    check(Made { expiry_s: 60, ..good() }).unwrap();
    for (bad, word) in [
        (Made { currency: Currency::Bitcoin, ..good() }, "bitcoin"),
        (Made { msat: Some(21_001), ..good() }, "asked for"),
        (Made { msat: Some(20_999), ..good() }, "asked for"),
        (Made { msat: None, ..good() }, "without an amount"),
        (Made { hash: Some([1; 32]), ..good() }, "commit"),
        (Made { hash: None, ..good() }, "commit"),
        (Made { expiry_s: 3_601, ..good() }, "too far"),
        (Made { expiry_s: 59, ..good() }, "too soon"),
    ] {
        let error = check(bad).unwrap_err();
        assert!(matches!(&error, LnurlError::Refused(why) if why.contains(word)), "{word}: {error:?}");
    }
    assert!(wanted.check("lnbcrt1nonsense").is_err());
    let answer = json!({ "pr": made(&good()), "routes": [] }).to_string();
    assert_eq!(read_invoice(200, answer.as_bytes()).unwrap(), made(&good()));
    let long = json!({ "pr": "l".repeat(MAX_BYTES + 1) }).to_string();
    for bad in ["{}", "[]", "null", r#"{"pr":5}"#, r#"{"status":"error"}"#, long.as_str()] {
        assert!(read_invoice(200, bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(read_invoice(500, answer.as_bytes()).is_err());
}

proptest! {
    #[test]
    fn anything_is_a_service_an_invoice_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz(&bytes);
    }
}
