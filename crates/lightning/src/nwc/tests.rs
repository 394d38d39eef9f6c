use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Hash32, Msat, UnixMs};
use nexus_testkit::SeededEntropy;
use nostr::event::{Event, EventId, Kind, Tag, UnsignedEvent};
use nostr::key::{Keys, PublicKey};
use nostr::nips::{nip04, nip44};
use nostr::types::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::driver::{Description, InvoiceState};

const SECRET: &str = "71a8c14c1407c113601079c4302dab36460f0ccd0ad506f1f2dc73b5100e4f3c";
const NOW: UnixMs = UnixMs::from_secs(1_800_000_000);

/// A wallet service's side.
fn wallet() -> Keys {
    Keys::parse("67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa").unwrap()
}

fn text() -> String {
    let wallet = wallet().public_key().to_hex();
    format!(
        "nostr+walletconnect://{wallet}?relay=wss%3A%2F%2Frelay.example&relay=wss://other.example&secret={SECRET}&lud16=a@b.c"
    )
}

fn connection() -> Connection {
    Connection::parse(&text()).unwrap()
}

fn signed(keys: &Keys, kind: u16, tags: Vec<Tag>, content: &str) -> Event {
    let at = Timestamp::from_secs(1_800_000_000);
    let unsigned = UnsignedEvent::new(keys.public_key(), at, Kind::from_u16(kind), tags, content);
    let signature = keys.sign_schnorr_with_aux_rand(secp256k1::SECP256K1, unsigned.compute_id().as_bytes(), &[1; 32]);
    unsigned.add_signature(signature).unwrap()
}

fn encrypted(text: &str, encryption: Encryption) -> String {
    let (secret, client) = (wallet().secret_key().clone(), connection().client());
    match encryption {
        Encryption::Nip44V2 => nip44::encrypt_with_nonce(&secret, &client, text, nip44::Nonce::V2([5; 32])).unwrap(),
        Encryption::Nip04 => nip04::encrypt_with_iv(&secret, &client, text, [5; 16]).unwrap(),
    }
}

fn answer(text: &str, to: &EventId, encryption: Encryption) -> Event {
    let tags = vec![Tag::custom("e", [to.to_hex()]), Tag::custom("p", [connection().client().to_hex()])];
    signed(&wallet(), 23_195, tags, &encrypted(text, encryption))
}

fn sealed(request: &Request, encryption: Encryption, seed: u64) -> Event {
    let entropy = SeededEntropy::new(seed);
    seal_request(&connection(), request, encryption, NOW, NOW.plus_ms(60_000), &entropy).unwrap()
}

#[test]
fn a_connection_is_read_and_not_shown() {
    let connection = connection();
    assert_eq!(connection.wallet(), &wallet().public_key());
    let relays: Vec<&str> = connection.relays().iter().map(url::Url::as_str).collect();
    assert_eq!(relays, ["wss://relay.example/", "wss://other.example/"]);
    assert!(!format!("{connection:?}").contains(SECRET));
    let good = text();
    let key = wallet().public_key().to_hex();
    for (bad, why) in [
        (String::new(), ConnectionError::Form),
        ("x".repeat(5_000), ConnectionError::Form),
        (good.replace("nostr+walletconnect", "https"), ConnectionError::Form),
        (good.replace(&key, &key[1..]), ConnectionError::Wallet),
        (good.replace(&key, &"f".repeat(64)), ConnectionError::Wallet),
        (good.replace("relay=", "relais="), ConnectionError::Relays),
        (good.replace("wss://other", "https://other"), ConnectionError::Relays),
        (good.replace("secret=", "geheim="), ConnectionError::Secret),
        (good.replace(SECRET, &SECRET[1..]), ConnectionError::Secret),
        (good.replace(SECRET, &"0".repeat(64)), ConnectionError::Secret),
        (format!("{good}&secret={SECRET}"), ConnectionError::Secret),
        (good.clone() + &"&relay=wss://r.example".repeat(8), ConnectionError::Relays),
    ] {
        let error = Connection::parse(&bad).unwrap_err();
        assert_eq!(error, why, "{bad}");
        assert!(!error.to_string().contains(&SECRET[1..]));
    }
}

#[test]
fn the_best_common_encryption_is_taken() {
    let info = |tags: Vec<Tag>| read_info(&connection(), &signed(&wallet(), 13_194, tags, "pay_invoice  get_info"));
    let scheme = |text: &str| info(vec![Tag::custom("encryption", [text])]).map(|info| info.encryption);
    assert_eq!(scheme("nip44_v2 nip04"), Ok(Encryption::Nip44V2));
    assert_eq!(scheme("nip04 nip44_v2"), Ok(Encryption::Nip44V2));
    assert_eq!(scheme("nip04"), Ok(Encryption::Nip04));
    assert_eq!(scheme("nip44_v3"), Err(EnvelopeError::Encryption));
    assert_eq!(scheme("nip44_v22"), Err(EnvelopeError::Encryption));
    let old = info(Vec::new()).unwrap();
    assert_eq!(
        (old.encryption, old.methods),
        (Encryption::Nip04, vec!["pay_invoice".to_owned(), "get_info".to_owned()])
    );
    let stranger = signed(&Keys::parse(SECRET).unwrap(), 13_194, Vec::new(), "pay_invoice");
    assert_eq!(read_info(&connection(), &stranger), Err(EnvelopeError::Author));
    assert_eq!(read_info(&connection(), &signed(&wallet(), 1, Vec::new(), "")), Err(EnvelopeError::Kind));
}

#[test]
fn an_answer_is_of_the_wallet_and_to_the_request() {
    let (request, encryption) = (Request::GetBalance, Encryption::Nip44V2);
    let asked = sealed(&request, encryption, 1).id;
    let text = r#"{"result_type":"get_balance","result":{"balance":21000}}"#;
    let open = |event: &Event| open_response(&connection(), event, &asked, request.method(), encryption);
    let good = answer(text, &asked, encryption);
    assert_eq!(open(&good), Ok(Response::Balance(Msat::sats(21))));
    let other = sealed(&request, encryption, 2).id;
    assert_eq!(open(&answer(text, &other, encryption)), Err(EnvelopeError::NotOurs));
    let bare = signed(&wallet(), 23_195, Vec::new(), &good.content);
    assert_eq!(open(&bare), Err(EnvelopeError::NotOurs));
    let to_another = vec![Tag::custom("e", [asked.to_hex()]), Tag::custom("p", [wallet().public_key().to_hex()])];
    assert_eq!(open(&signed(&wallet(), 23_195, to_another, &good.content)), Err(EnvelopeError::NotOurs));
    let ours = vec![Tag::custom("e", [asked.to_hex()])];
    let stranger = Keys::parse("0000000000000000000000000000000000000000000000000000000000000003").unwrap();
    assert_eq!(open(&signed(&stranger, 23_195, ours.clone(), &good.content)), Err(EnvelopeError::Author));
    assert_eq!(open(&signed(&wallet(), 23_196, ours.clone(), &good.content)), Err(EnvelopeError::Kind));
    let mut forged = good.clone();
    forged.content = encrypted(r#"{"result_type":"get_balance","result":{"balance":1}}"#, encryption);
    assert_eq!(open(&forged), Err(EnvelopeError::Author));
    // In the encryption that was asked for, and no weaker one.
    assert_eq!(open(&answer(text, &asked, Encryption::Nip04)), Err(EnvelopeError::Sealed));
    let garbled = signed(&wallet(), 23_195, ours, "not encrypted");
    assert_eq!(open(&garbled), Err(EnvelopeError::Sealed));
    let method = answer(r#"{"result_type":"get_info","result":{}}"#, &asked, encryption);
    assert_eq!(open(&method), Err(EnvelopeError::Message(MessageError::OtherMethod)));
}

#[test]
fn a_notification_is_a_hint_of_the_wallet_to_us() {
    let hash = Hash32::sha256(&[9; 32]);
    let text = |kind: &str| json!({ "notification_type": kind, "notification": { "payment_hash": hash } }).to_string();
    let to = |keys: PublicKey| vec![Tag::custom("p", [keys.to_hex()])];
    let us = connection().client();
    for (encryption, kind) in [(Encryption::Nip44V2, 23_197), (Encryption::Nip04, 23_196)] {
        let told = |text: &str| signed(&wallet(), kind, to(us), &encrypted(text, encryption));
        let read = |event: &Event| read_notification(&connection(), event, encryption);
        assert_eq!(read(&told(&text("payment_received"))), Ok(Some(hash)));
        assert_eq!(read(&told(&text("payment_sent"))), Ok(None));
        assert!(matches!(read(&told("{}")), Ok(None)));
        assert!(read(&told("no JSON")).is_err());
        let anothers =
            signed(&wallet(), kind, to(wallet().public_key()), &encrypted(&text("payment_received"), encryption));
        assert_eq!(read(&anothers), Err(EnvelopeError::NotOurs));
        let strangers = signed(&Keys::parse(SECRET).unwrap(), kind, to(us), "x");
        assert_eq!(read(&strangers), Err(EnvelopeError::Author));
        let other_kind = signed(&wallet(), 23_195, to(us), &encrypted(&text("payment_received"), encryption));
        assert_eq!(read(&other_kind), Err(EnvelopeError::Kind));
    }
}

const PREIMAGE: [u8; 32] = [9; 32];

fn payment() -> Outgoing {
    Outgoing { hash: Hash32::sha256(&PREIMAGE), max_fee: Msat::sats(10), expires_at: NOW }
}

fn settled(fee: Msat) -> Outcome {
    Outcome::Settled { preimage: Some(Hash32::from_bytes(PREIMAGE)), fee }
}

fn read(method: &str, text: &Value) -> Response {
    Response::read(&text.to_string(), method).unwrap()
}

fn refusal(method: &str, code: &str) -> Response {
    read(method, &json!({ "result_type": method, "error": { "code": code, "message": "no\nno" }, "result": null }))
}

#[test]
fn paid_is_a_preimage_and_nothing_else() {
    let pay = |result: Value| {
        paid(&read("pay_invoice", &json!({ "result_type": "pay_invoice", "result": result })), &payment())
    };
    let good = hex::encode(PREIMAGE);
    assert_eq!(pay(json!({ "preimage": good, "fees_paid": 3 })), settled(Msat::new(3)));
    assert_eq!(
        pay(json!({ "preimage": good })),
        settled(Msat::sats(10)),
        "fees that are not told are taken to be the reserve"
    );
    for bad in
        [json!({}), json!({ "preimage": "" }), json!({ "preimage": "00" }), json!({ "preimage": "0".repeat(64) })]
    {
        assert!(matches!(pay(bad), Outcome::Unknown { .. }));
    }
    for (code, class) in [
        ("QUOTA_EXCEEDED", FailureClass::Rejected),
        ("RESTRICTED", FailureClass::Rejected),
        ("INSUFFICIENT_BALANCE", FailureClass::NoFunds),
        ("UNAUTHORIZED", FailureClass::Auth),
        ("UNSUPPORTED_ENCRYPTION", FailureClass::Protocol),
    ] {
        assert_eq!(paid(&refusal("pay_invoice", code), &payment()), Outcome::Failed { class });
    }
    for code in ["PAYMENT_FAILED", "INTERNAL", "OTHER", "RATE_LIMITED", "NOT_IMPLEMENTED", "NOT_FOUND", "NEW_ONE"] {
        let outcome = paid(&refusal("pay_invoice", code), &payment());
        assert!(matches!(&outcome, Outcome::Unknown { why } if why.ends_with("no no")), "{code}: {outcome:?}");
    }
}

fn told(direction: &str, state: Option<&str>, preimage: Option<&str>, settled_at: Option<i64>) -> Response {
    let hash = payment().hash;
    let mut result = json!({ "type": direction, "payment_hash": hash, "amount": 5_000, "fees_paid": 7 });
    if let Some(state) = state {
        result["state"] = state.into();
    }
    if let Some(preimage) = preimage {
        result["preimage"] = preimage.into();
    }
    if let Some(at) = settled_at {
        result["settled_at"] = at.into();
    }
    read("lookup_invoice", &json!({ "result_type": "lookup_invoice", "error": null, "result": result }))
}

#[test]
fn a_wallets_no_is_believed_late() {
    let good = hex::encode(PREIMAGE);
    let in_time = NOW.plus_ms(FAILURE_MARGIN_MS - 1);
    let late = NOW.plus_ms(FAILURE_MARGIN_MS);
    for state in ["failed", "expired"] {
        let no = told("outgoing", Some(state), None, None);
        assert!(matches!(looked_up(&no, &payment(), in_time), Outcome::Unknown { .. }));
        assert_eq!(looked_up(&no, &payment(), late), Outcome::Failed { class: FailureClass::NoRoute });
        // Failed, and yet paid: the preimage says so.
        let yes = told("outgoing", Some(state), Some(&good), None);
        assert_eq!(looked_up(&yes, &payment(), late), settled(Msat::new(7)));
    }
    let none = refusal("lookup_invoice", "NOT_FOUND");
    assert!(matches!(looked_up(&none, &payment(), in_time), Outcome::Unknown { .. }));
    assert_eq!(looked_up(&none, &payment(), late), Outcome::NotFound);
    assert_eq!(looked_up(&told("outgoing", Some("pending"), None, None), &payment(), late), Outcome::Pending);
    assert_eq!(looked_up(&told("outgoing", None, None, None), &payment(), late), Outcome::Pending);
    for unproven in [
        told("outgoing", Some("settled"), None, Some(1)),
        told("outgoing", None, Some(&"00".repeat(32)), Some(1)),
        told("incoming", Some("failed"), None, None),
        told("outgoing", Some("new"), None, None),
        refusal("lookup_invoice", "INTERNAL"),
    ] {
        assert!(matches!(looked_up(&unproven, &payment(), late), Outcome::Unknown { .. }), "{unproven:?}");
    }
    let another = Outgoing { hash: Hash32::sha256(b"another"), ..payment() };
    assert!(matches!(
        looked_up(&told("outgoing", Some("failed"), None, None), &another, late),
        Outcome::Unknown { .. }
    ));
}

#[test]
fn an_invoices_state() {
    let hash = payment().hash;
    let state = |response: Response| invoice_state(&response, hash);
    let good = hex::encode(PREIMAGE);
    let settled = InvoiceState::Settled {
        amount: Msat::sats(5),
        preimage: Some(Hash32::from_bytes(PREIMAGE)),
        at: UnixMs::from_secs(7),
    };
    assert_eq!(state(told("incoming", Some("settled"), Some(&good), Some(7))), Some(settled.clone()));
    assert_eq!(state(told("incoming", None, Some(&good), Some(7))), Some(settled));
    assert_eq!(state(told("incoming", Some("pending"), None, Some(0))), Some(InvoiceState::Open));
    assert_eq!(state(told("incoming", None, None, None)), Some(InvoiceState::Open));
    assert_eq!(state(told("incoming", Some("accepted"), None, None)), Some(InvoiceState::Accepted));
    assert_eq!(state(told("incoming", Some("expired"), None, None)), Some(InvoiceState::Canceled));
    assert_eq!(state(refusal("lookup_invoice", "NOT_FOUND")), Some(InvoiceState::NotFound));
    assert_eq!(state(told("outgoing", Some("settled"), Some(&good), Some(7))), None);
    assert_eq!(state(told("incoming", Some("settled"), None, None)), None);
    assert_eq!(state(refusal("lookup_invoice", "INTERNAL")), None);
    assert_eq!(invoice_state(&told("incoming", Some("settled"), None, Some(7)), Hash32::sha256(b"x")), None);
}

fn any_request() -> impl Strategy<Value = Request> {
    let amount = (1_u64..1 << 60).prop_map(Msat::new);
    prop_oneof![
        ("[a-z0-9]{1,400}", prop::option::of(amount.clone()))
            .prop_map(|(bolt11, amount)| Request::PayInvoice { bolt11, amount }),
        any::<[u8; 32]>().prop_map(|hash| Request::LookupInvoice { hash: Hash32::from_bytes(hash) }),
        (amount.clone(), "\\PC{0,200}", any::<u32>()).prop_map(|(amount, memo, expiry_s)| Request::MakeInvoice {
            amount,
            description: Description::Memo(memo),
            expiry_s
        }),
        (amount, any::<[u8; 32]>(), any::<u32>()).prop_map(|(amount, hash, expiry_s)| Request::MakeInvoice {
            amount,
            description: Description::Hash(Hash32::from_bytes(hash)),
            expiry_s
        }),
        Just(Request::GetBalance),
        Just(Request::GetInfo),
    ]
}

fn any_scheme() -> impl Strategy<Value = Encryption> {
    prop_oneof![Just(Encryption::Nip44V2), Just(Encryption::Nip04)]
}

/// Answers that have NIP-47's form, true or not.
fn any_answer() -> impl Strategy<Value = Value> {
    let word = |words: &'static [&'static str]| prop::option::of(prop::sample::select(words));
    let preimage = prop_oneof![
        Just(None),
        Just(Some(hex::encode(PREIMAGE))),
        any::<[u8; 32]>().prop_map(|bytes| Some(hex::encode(bytes))),
        "\\PC{0,70}".prop_map(Some),
    ];
    let hash = prop_oneof![4 => Just(payment().hash), 1 => any::<[u8; 32]>().prop_map(Hash32::from_bytes)];
    (
        word(&["incoming", "outgoing", "sideways"]),
        word(&["pending", "settled", "accepted", "expired", "failed", "lost"]),
        word(&["INTERNAL", "NOT_FOUND", "PAYMENT_FAILED", "OTHER", "RATE_LIMITED", "NOT_IMPLEMENTED"]),
        (preimage, hash),
        prop::option::of(0_u64..1 << 62),
        prop::option::of(any::<i64>()),
    )
        .prop_map(|(direction, state, code, (preimage, hash), fees, at)| {
            json!({
                "error": code.map(|code| json!({ "code": code, "message": "" })),
                "result": {
                    "type": direction, "state": state, "payment_hash": hash, "preimage": preimage,
                    "amount": 5, "fees_paid": fees, "settled_at": at,
                },
            })
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The wallet, and nobody else, reads what was asked, as it was asked.
    #[test]
    fn the_wallet_reads_the_request(request in any_request(), encryption in any_scheme(), seed in any::<u64>()) {
        let event = sealed(&request, encryption, seed);
        prop_assert!(event.verify().is_ok());
        prop_assert_eq!(event.kind, Kind::from_u16(23_194));
        prop_assert_eq!(event.pubkey, connection().client());
        let (keys, client) = (wallet(), connection().client());
        let text = match encryption {
            Encryption::Nip44V2 => nip44::decrypt(keys.secret_key(), &client, &event.content).unwrap(),
            Encryption::Nip04 => nip04::decrypt(keys.secret_key(), &client, &event.content).unwrap(),
        };
        prop_assert_eq!(&text, &request.to_json());
        let read: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read["method"].as_str(), Some(request.method()));
        let tags: Vec<&[String]> = event.tags.iter().map(Tag::as_slice).collect();
        prop_assert!(tags.contains(&["p".to_owned(), keys.public_key().to_hex()].as_slice()));
        prop_assert!(tags.contains(&["expiration".to_owned(), "1800000060".to_owned()].as_slice()));
        let named = tags.contains(&["encryption".to_owned(), "nip44_v2".to_owned()].as_slice());
        prop_assert_eq!(named, encryption == Encryption::Nip44V2);
        // Stored and published again, it is the same event.
        prop_assert_eq!(sealed(&request, encryption, seed).id, event.id);
    }

    /// Whatever a wallet says: settled needs the preimage, and before the margin nothing but a refusal is a failure.
    #[test]
    fn no_word_of_a_wallet_moves_money_alone(answer in any_answer(), after_ms in -10_000_000_i64..10_000_000) {
        let now = NOW.plus_ms(after_ms);
        for method in ["pay_invoice", "lookup_invoice"] {
            let mut answer = answer.clone();
            answer["result_type"] = method.into();
            let Ok(response) = Response::read(&answer.to_string(), method) else { continue };
            for outcome in [paid(&response, &payment()), looked_up(&response, &payment(), now)] {
                match outcome {
                    Outcome::Settled { preimage, .. } => prop_assert_eq!(preimage, Some(Hash32::from_bytes(PREIMAGE))),
                    Outcome::Failed { .. } | Outcome::NotFound => prop_assert!(after_ms >= FAILURE_MARGIN_MS),
                    Outcome::Pending | Outcome::Unknown { .. } => {}
                }
            }
        }
    }

    /// Any text gives a value or an error, and no error repeats it.
    #[test]
    fn any_answer_is_survived(text in "\\PC{0,300}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for method in ["pay_invoice", "lookup_invoice", "make_invoice", "get_balance", "get_info", "other"] {
            let _ = Response::read(&text, method).is_ok();
            let _ = Response::read(&String::from_utf8_lossy(&bytes), method).is_ok();
        }
        let _ = Connection::parse(&text).is_ok();
        let _ = Connection::parse(&format!("nostr+walletconnect://{text}")).is_ok();
    }
}
