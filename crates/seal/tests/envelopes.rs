//! Envelopes from outside: the owner's, the pool's, and what only looks like one.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test")]

use age::armor::{ArmoredWriter, Format};
use nexus_core::{Npub, UnixMs};
use nexus_seal::{
    CreateAgent, EnvelopeError, Passphrase, Recipient, SecretText, check_mnemonic_envelope, check_recipient_envelope,
    mnemonic_work_factor, seal_mnemonic, seal_to_recipient_armored,
};
use proptest::prelude::*;
use std::io::Write;

/// An owner's envelope of some work factor, made by the age library itself.
fn envelope(log_n: u8) -> String {
    let mut recipient = age::scrypt::Recipient::new("passphrase".to_owned().into());
    recipient.set_work_factor(log_n);
    age::encrypt_and_armor(&recipient, b"twelve words").unwrap()
}

fn pool_envelope() -> String {
    let identity = age::x25519::Identity::generate();
    let recipient: Recipient = identity.to_public().to_string().parse().unwrap();
    seal_to_recipient_armored(&recipient, b"secret").unwrap()
}

/// Armors bytes that need not be an age file.
fn armor(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    let mut writer = ArmoredWriter::wrap_output(&mut out, Format::AsciiArmor).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_work_factor_is_eighteen_and_nothing_else() {
    let words = SecretText::new("leader monkey parrot");
    let ours = seal_mnemonic(&words, &Passphrase::existing("passphrase")).unwrap();
    check_mnemonic_envelope(&ours).unwrap();
    assert!(ours.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"));
    for weak in [1, 10, 17] {
        let refused = check_mnemonic_envelope(&envelope(weak)).unwrap_err();
        assert_eq!(refused, EnvelopeError::WorkFactor { found: weak });
    }
    assert_eq!(mnemonic_work_factor(&envelope(3)).unwrap(), 3);
}

#[test]
fn a_pools_envelope_is_not_an_owners_nor_the_other_way() {
    for _ in 0..50 {
        // Many, because the library adds random stanzas to some files.
        let pool = pool_envelope();
        check_recipient_envelope(&pool).unwrap();
        assert_eq!(check_mnemonic_envelope(&pool).unwrap_err(), EnvelopeError::NotPassphrase);
    }
    assert_eq!(check_recipient_envelope(&envelope(2)).unwrap_err(), EnvelopeError::NotRecipient);
}

#[test]
fn plaintext_is_no_envelope() {
    for bad in [
        "",
        "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
        "-----BEGIN AGE ENCRYPTED FILE-----\n-----END AGE ENCRYPTED FILE-----",
        "-----BEGIN AGE ENCRYPTED FILE-----\n!!!!\n-----END AGE ENCRYPTED FILE-----",
        &armor(b"hello"),
        &armor(b"age-encryption.org/v1\n"),
        &armor(b"age-encryption.org/v1\n--- AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n0123456789012345678901234567890123"),
        &armor(b"age-encryption.org/v2\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 18\n"),
        &format!("{}\n{}", envelope(2), envelope(2)),
        &format!("words before {}", envelope(2)),
    ] {
        assert!(check_mnemonic_envelope(bad).is_err(), "{bad}");
        assert!(check_recipient_envelope(bad).is_err(), "{bad}");
    }
    let large = check_mnemonic_envelope(&"A".repeat(5_000)).unwrap_err();
    assert_eq!(large, EnvelopeError::TooLarge { max: 4_096 });
}

#[test]
fn work_factors_are_read_as_age_reads_them() {
    let body = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let file = |stanza: &str| {
        armor(format!("age-encryption.org/v1\n-> {stanza}\n{body}\n--- {body}\n{}", "x".repeat(40)).as_bytes())
    };
    let salt = "AAAAAAAAAAAAAAAAAAAAAA";
    check_mnemonic_envelope(&file(&format!("scrypt {salt} 18"))).unwrap();
    for bad in [
        format!("scrypt {salt} 018"),
        format!("scrypt {salt} +18"),
        format!("scrypt {salt} 300"),
        format!("scrypt {salt}"),
        format!("scrypt {salt} 18 18"),
        "scrypt AAAA 18".to_owned(),
        format!("X25519 {salt} 18"),
    ] {
        assert!(check_mnemonic_envelope(&file(&bad)).is_err(), "{bad}");
    }
}

#[test]
fn a_body_is_checked_before_anything_is_stored() {
    let agent = Npub::from_bytes([3; 32]);
    let body = |mnemonic_encrypted: String| CreateAgent {
        name: "ada".into(),
        npub: agent,
        mnemonic_encrypted,
        config: Default::default(),
        sealed_key: None,
        policy: None,
        claim: None,
        inbox_recipient: None,
        wraps: vec![],
        state: None,
    };
    let owner = Npub::from_bytes([1; 32]);
    let sealed = seal_mnemonic(&SecretText::new("words"), &Passphrase::existing("passphrase")).unwrap();
    let good = body(sealed);
    good.check(&owner, UnixMs::from_secs(1_790_000_000)).unwrap();
    let field = |change: &dyn Fn(&mut CreateAgent)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed.check(&owner, UnixMs::from_secs(1_790_000_000)).unwrap_err().field
    };
    assert_eq!(
        body(envelope(2)).check(&owner, UnixMs::from_secs(1_790_000_000)).unwrap_err().field,
        "mnemonic_encrypted"
    );
    assert_eq!(field(&|b| b.name = "Ada Lovelace".into()), "name");
    assert_eq!(field(&|b| b.config.heartbeat_secs = 1), "config");
    assert_eq!(field(&|b| b.sealed_key = Some("plain".into())), "sealed_key");
    assert_eq!(field(&|b| b.state = Some(nexus_seal::Sealed(vec![1; 10]))), "state");
    assert_eq!(field(&|b| b.state = Some(nexus_seal::Sealed(vec![1; 100]))), "wraps");
    let json = serde_json::to_value(&good).unwrap();
    assert_eq!(serde_json::from_value::<CreateAgent>(json.clone()).unwrap(), good);
    let mut unknown = json;
    unknown["mnemonik"] = "x".into();
    assert!(serde_json::from_value::<CreateAgent>(unknown).is_err());
}

proptest! {
    #[test]
    fn nothing_makes_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        nexus_seal::fuzz::fuzz_envelope(&bytes);
        nexus_seal::fuzz::fuzz_request(&bytes);
        nexus_seal::fuzz::fuzz_document(&bytes);
        nexus_seal::fuzz::fuzz_envelope(armor(&bytes).as_bytes());
        let header = [b"age-encryption.org/v1\n".as_slice(), &bytes].concat();
        nexus_seal::fuzz::fuzz_envelope(armor(&header).as_bytes());
    }
}
