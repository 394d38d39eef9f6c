//! Whether anything that a host writes holds what it must not.

use serde_json::json;

use super::{Friend, Host, PASSPHRASE, Place};

/// Searches everything that the host writes for everything that it must not.
pub fn secrets_are_nowhere(place: &Place, host: &Host, npub: &str, friend: &Friend) {
    these_are_nowhere(place, host, friend, opened_secrets(place, npub));
}

/// Searches for these, and for what no agent's host may ever write.
pub fn these_are_nowhere(place: &Place, host: &Host, friend: &Friend, secrets: Vec<(&'static str, String)>) {
    let mut needles = vec![
        ("passphrase", PASSPHRASE.to_owned()),
        ("goal", "zebra-goal".to_owned()),
        ("message", "zebra-message".to_owned()),
        ("old message", "zebra-old-message".to_owned()),
        ("prompt", "You are an autonomous agent on Nostr".to_owned()),
    ];
    needles.extend(secrets);
    let mut haystacks: Vec<(String, Vec<u8>)> = Vec::new();
    for dir in ["data", "devnet"] {
        collect(&place.path(dir), &mut haystacks);
    }
    for entry in std::fs::read_dir(place.root.path()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("log-") {
            haystacks.push((entry.path().display().to_string(), std::fs::read(entry.path()).unwrap()));
        }
    }
    for call in [&["agent", "status", "ada"][..], &["agent", "ticks", "ada"], &["agent", "events", "ada"], &["pool"]] {
        haystacks.push((call.join(" "), place.ok(call).to_string().into_bytes()));
    }
    let stored = friend.query(json!({ "limit": 500 }));
    assert!(stored.len() > 10);
    haystacks.push(("the relay".into(), serde_json::to_vec(&stored).unwrap()));
    assert!(host.logged().contains("TRACE") || host.logged().contains("DEBUG"), "the log is at its most talkative");

    let mut found = Vec::new();
    for (what, needle) in &needles {
        assert!(needle.len() >= 8, "{what} is too short to search for");
        for (place, hay) in &haystacks {
            // The keys of the host itself are files of their own, for its user alone.
            if place.contains("/keys/") {
                continue;
            }
            if hay.windows(needle.len()).any(|window| window == needle.as_bytes()) {
                found.push(format!("{what} in {place}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:?}");
}

/// The agent's own secrets, opened from the owner's envelope by the real `age` rules of the client's crate.
fn opened_secrets(place: &Place, npub: &str) -> Vec<(&'static str, String)> {
    use nexus_seal::Passphrase;
    let database = rusqlite::Connection::open_with_flags(
        place.database(),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .unwrap();
    let key: nexus_core::Npub = npub.parse().unwrap();
    let envelope: String = database
        .query_row("SELECT mnemonic_encrypted FROM agent_sealed WHERE npub = ?1", [key.as_bytes().to_vec()], |row| {
            row.get(0)
        })
        .unwrap();
    let mnemonic = nexus_vault::open_mnemonic(&envelope, &Passphrase::existing(PASSPHRASE)).unwrap();
    let entropy: std::sync::Arc<dyn nexus_core::Entropy> = std::sync::Arc::new(nexus_testkit::SystemEntropy);
    let signer = mnemonic.signer(entropy).unwrap();
    let wallet = mnemonic.wallet_seed().unwrap();
    assert_eq!(nexus_seal::Signer::public_key(&signer), key);
    let words = mnemonic.expose();
    let wallet_words = wallet.expose_words();
    vec![
        ("mnemonic", words.expose().to_owned()),
        ("half the mnemonic", words.expose().split(' ').take(6).collect::<Vec<_>>().join(" ")),
        ("nsec", signer.expose_nsec().expose().to_owned()),
        ("secret key in hex", hex::encode(signer.expose_secret().expose())),
        ("secret key as bytes", String::from_utf8_lossy(signer.expose_secret().expose()).into_owned()),
        ("wallet words", wallet_words.expose().to_owned()),
        ("wallet seed in hex", hex::encode(wallet.expose_seed().expose())),
    ]
}

fn collect(dir: &std::path::Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into);
        } else {
            into.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default()));
        }
    }
}
