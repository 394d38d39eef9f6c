//! Secrets in bodies.

use nexus_seal::looks_like_secret;
use nexus_seal::scan::FoundSecret;
use proptest::prelude::*;
use serde_json::json;

const NSEC: &str = "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp";
const NCRYPTSEC: &str = "ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w57lspw8gsq6yphnm8623nsl8xn9j4jdzz84zm3frztj3z7s35vpzmqf6ksu8r89qk5z2zxfmu5gv8th8wclt0h4p";
const WORDS: &str = "leader monkey parrot ring guide accident before fence cannon height naive bean";

#[test]
fn secrets_are_found_wherever_they_are() {
    let long = format!("{}{WORDS} and more", "the words of my agent, dear host, are: ".repeat(3));
    let twenty_four = "what bleak badge arrange retreat wolf trade produce cricket blur garlic valid proud rude strong choose busy staff weather area salt hollow arm fade";
    let numbered = WORDS.split(' ').enumerate().map(|(n, w)| format!("{}. {w}\n", n + 1)).collect::<String>();
    let age = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
    for (body, found) in [
        (json!({ "name": NSEC }), FoundSecret::Nsec),
        (json!({ "config": { "labels": { "x": format!("nostr:{NSEC}!") } } }), FoundSecret::Nsec),
        (json!([[[NSEC.to_uppercase()]]]), FoundSecret::Nsec),
        (json!(format!("nsec1{NSEC}tail")), FoundSecret::Nsec),
        (json!({ NSEC: 1 }), FoundSecret::Nsec),
        (json!({ "about": NCRYPTSEC }), FoundSecret::Ncryptsec),
        (json!({ "mnemonic_encrypted": WORDS }), FoundSecret::Mnemonic),
        (json!({ "about": long }), FoundSecret::Mnemonic),
        (json!({ "about": twenty_four.to_uppercase() }), FoundSecret::Mnemonic),
        (json!({ "about": numbered }), FoundSecret::Mnemonic),
        (json!({ "about": format!("zoo zoo {WORDS} zoo") }), FoundSecret::Mnemonic),
        (json!({ "about": age }), FoundSecret::AgeIdentity),
        (json!({ "mnemonic": null }), FoundSecret::Field("mnemonic")),
        (json!({ "a": [{ "Seed": "" }] }), FoundSecret::Field("seed")),
        (json!({ "nsec": 1 }), FoundSecret::Field("nsec")),
        (json!({ "PASSPHRASE": "x" }), FoundSecret::Field("passphrase")),
    ] {
        assert_eq!(looks_like_secret(&body), Some(found), "{body}");
        assert!(!found.to_string().contains("leader"));
    }
}

#[test]
fn what_is_no_secret_passes() {
    let misplaced = WORDS.replace("leader monkey", "monkey leader");
    for body in [
        json!({ "name": "ada", "mnemonic_encrypted": "-----BEGIN AGE ENCRYPTED FILE-----", "seeds": 3 }),
        json!({ "npub": "npub1zutzeysacnf9rru6zqwmxd54mud0k44tst6l70ja5mhv8jjumytsd2x7nu" }),
        json!({ "about": "an nsec1 is a private key; a mnemonic has twelve words" }),
        json!({ "about": NSEC.replace("hhkp", "hhkq") }),
        json!({ "about": misplaced }),
        json!({ "about": "abandon all hope, ye who enter here; the ability to act is about will" }),
    ] {
        assert_eq!(looks_like_secret(&body), None, "{body}");
    }
}

proptest! {
    #[test]
    fn any_text_is_looked_at_without_harm(text in "\\PC{0,300}") {
        let _ = looks_like_secret(&json!({ "x": text, text.clone(): [text.clone()] }));
    }
}

#[test]
fn a_large_body_is_looked_at_in_bounded_time() {
    // Every window is a candidate, none has the checksum.
    let started = nexus_testkit::TestClock::default();
    let body = json!({ "about": "zoo ".repeat(16 * 1024) });
    assert_eq!(looks_like_secret(&body), None);
    let spent = nexus_core::Clock::mono(&started).0;
    eprintln!("64 KiB of listed words: {spent} ms");
    assert!(spent < 5_000, "{spent} ms");
}
