use nexus_core::UnixMs;
use nexus_seal::event::{tag, timestamp, unsigned, verify};
use nexus_testkit::SeededEntropy;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Gives the bytes that a vector wants.
struct Given(Vec<u8>);

impl Entropy for Given {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0[..bytes.len()]);
    }
}

fn seeded(seed: u64) -> LocalSigner {
    LocalSigner::generate(Arc::new(SeededEntropy::new(seed)))
}

fn vectors(group: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../tests/vectors/nip44.json")).unwrap();
    all[group].as_array().unwrap().clone()
}

fn bytes(vector: &Value, field: &str) -> Vec<u8> {
    hex::decode(vector[field].as_str().unwrap()).unwrap()
}

fn npub(hex: &str) -> Npub {
    hex.parse().unwrap()
}

#[test]
fn conversation_keys_are_those_of_nip44() {
    for vector in vectors("get_conversation_key") {
        let signer = LocalSigner::from_secret(&bytes(&vector, "sec1"), Arc::new(Given(vec![0; 32]))).unwrap();
        let key = signer.conversation(&npub(vector["pub2"].as_str().unwrap())).unwrap();
        assert_eq!(key.as_bytes(), bytes(&vector, "conversation_key"), "{vector}");
    }
    for vector in vectors("invalid_get_conversation_key") {
        let peer = npub(vector["pub2"].as_str().unwrap());
        let signer = LocalSigner::from_secret(&bytes(&vector, "sec1"), Arc::new(Given(vec![0; 32])));
        assert!(signer.is_err() || signer.unwrap().conversation(&peer).is_err(), "{vector}");
    }
}

#[test]
fn payloads_are_those_of_nip44() {
    for vector in vectors("encrypt_decrypt") {
        let entropy = Arc::new(Given(bytes(&vector, "nonce")));
        let one = LocalSigner::from_secret(&bytes(&vector, "sec1"), entropy.clone()).unwrap();
        let two = LocalSigner::from_secret(&bytes(&vector, "sec2"), entropy).unwrap();
        let plaintext = vector["plaintext"].as_str().unwrap();
        let payload = one.nip44_seal(&two.public_key(), plaintext).unwrap();
        assert_eq!(payload, vector["payload"].as_str().unwrap());
        assert_eq!(two.nip44_open(&one.public_key(), &payload).unwrap(), plaintext);
    }
    for vector in vectors("invalid_decrypt") {
        let key = ConversationKey::from_slice(&bytes(&vector, "conversation_key")).unwrap();
        assert!(open_payload(&key, vector["payload"].as_str().unwrap()).is_err(), "{vector}");
    }
}

#[test]
fn signatures_are_those_of_bip340() {
    for line in include_str!("../../tests/vectors/bip340.csv").lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [index, secret, public, aux, message, signature, valid] = fields[..] else { panic!("{line}") };
        let unhex = |text: &str| hex::decode(text).unwrap();
        let public = secp256k1::XOnlyPublicKey::from_slice(&unhex(public));
        if matches!(index, "5" | "14") {
            assert!(public.is_err(), "vector {index} has a key that is none");
            continue;
        }
        if !secret.is_empty() {
            let signer = LocalSigner::from_secret(&unhex(secret), Arc::new(Given(vec![]))).unwrap();
            let aux: [u8; 32] = unhex(aux).try_into().unwrap();
            let signed = signer.keys.sign_schnorr_with_aux_rand(secp256k1::SECP256K1, unhex(message), &aux);
            assert_eq!(signed.to_string(), signature, "vector {index}");
        }
        let signature = secp256k1::schnorr::Signature::from_slice(&unhex(signature)).unwrap();
        let verdict = secp256k1::SECP256K1.verify_schnorr(&signature, &unhex(message), &public.unwrap());
        assert_eq!(verdict.is_ok(), valid == "true", "vector {index}");
    }
}

#[test]
fn events_are_signed_as_this_key_or_not_at_all() {
    let (one, two) = (seeded(1), seeded(2));
    let event = |author: &LocalSigner| {
        let now = timestamp(UnixMs::from_secs(1_700_000_000));
        unsigned(&author.public_key(), 1, now, vec![tag("t", ["x"])], "hello".into())
    };
    let signed = one.sign_now(event(&one)).unwrap();
    verify(&signed).unwrap();
    assert!(matches!(one.sign_now(event(&two)), Err(SignerError::WrongKey { .. })));
    // An id that a caller made up is not signed.
    let mut forged = event(&one);
    forged.id = Some(two.sign_now(event(&two)).unwrap().id);
    assert_eq!(one.sign_now(forged).unwrap().id, signed.id);
}

#[test]
fn plaintexts_are_bounded() {
    let signer = seeded(3);
    let own = signer.public_key();
    for bad in [String::new(), "x".repeat(65_536)] {
        assert!(signer.nip44_seal(&own, &bad).is_err());
    }
    let largest = "x".repeat(65_535);
    let payload = signer.nip44_seal(&own, &largest).unwrap();
    assert_eq!(signer.nip44_open(&own, &payload).unwrap(), largest);
    assert!(signer.nip44_open(&own, &"A".repeat(1 << 20)).is_err());
    assert!(signer.nip04_open(&own, &"A".repeat(1 << 20)).is_err());
}

#[test]
fn the_key_file_text_reads_back() {
    let signer = seeded(4);
    let nsec = signer.expose_nsec();
    assert!(nsec.expose().starts_with("nsec1"));
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
    let same = LocalSigner::parse(nsec.expose(), Arc::clone(&entropy)).unwrap();
    assert_eq!(same.public_key(), signer.public_key());
    assert!(LocalSigner::parse("nsec1qqqq", entropy).is_err());
    assert_eq!(format!("{signer:?}"), format!("LocalSigner({})", signer.public_key()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn only_the_peer_reads(text in ".{1,300}", seed in 0_u64..1_000) {
        let (alice, bob, eve) = (seeded(seed), seeded(seed + 1_000), seeded(seed + 2_000));
        let (to, from) = (bob.public_key(), alice.public_key());
        let sealed = alice.nip44_seal(&to, &text).unwrap();
        prop_assert_eq!(bob.nip44_open(&from, &sealed).unwrap(), text.clone());
        prop_assert!(eve.nip44_open(&from, &sealed).is_err());
        let old = alice.nip04_seal(&to, &text).unwrap();
        prop_assert_eq!(bob.nip04_open(&from, &old).unwrap(), text.clone());
        prop_assert_ne!(eve.nip04_open(&from, &old).ok(), Some(text));
    }
}
