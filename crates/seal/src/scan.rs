//! Finds secrets where none may be: in the bodies that a host is sent.

use bech32::Bech32;
use bech32::primitives::decode::CheckedHrpstring;
use bip39::{Language, Mnemonic};
use serde_json::Value;

/// What was found. Never says what the secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FoundSecret {
    #[error("the body holds an nsec: private keys never leave your machine")]
    Nsec,
    #[error("the body holds an ncryptsec: private keys, even encrypted ones, never leave your machine")]
    Ncryptsec,
    #[error("the body holds a mnemonic in clear: send it encrypted, as mnemonic_encrypted")]
    Mnemonic,
    #[error("the body holds an age identity")]
    AgeIdentity,
    #[error("the body has a field named `{0}`: such things are not sent here")]
    Field(&'static str),
}

/// Field names that are refused whatever they hold.
pub const FORBIDDEN_FIELDS: [&str; 4] = ["mnemonic", "nsec", "seed", "passphrase"];
/// Nesting that is looked into; serde_json itself refuses more than 128.
const MAX_DEPTH: usize = 128;

/// Looks through every string and field name of a body for a secret that was sent by mistake.
pub fn looks_like_secret(body: &Value) -> Option<FoundSecret> {
    scan(body, 0)
}

fn scan(value: &Value, depth: usize) -> Option<FoundSecret> {
    if depth > MAX_DEPTH {
        return None;
    }
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
        Value::String(text) => secret_in_text(text),
        Value::Array(items) => items.iter().find_map(|item| scan(item, depth + 1)),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let forbidden = FORBIDDEN_FIELDS.iter().find(|field| name.eq_ignore_ascii_case(field));
            forbidden
                .map(|field| FoundSecret::Field(field))
                .or_else(|| secret_in_text(name))
                .or_else(|| scan(value, depth + 1))
        }),
    }
}

/// Looks for a secret anywhere in a text.
pub fn secret_in_text(text: &str) -> Option<FoundSecret> {
    key_in_text(text).or_else(|| mnemonic_in_text(text).then_some(FoundSecret::Mnemonic))
}

/// Prefix and length of each kind of key, as bech32 text.
const KEYS: [(&str, usize, FoundSecret); 3] = [
    ("nsec1", 63, FoundSecret::Nsec),
    ("ncryptsec1", 162, FoundSecret::Ncryptsec),
    ("age-secret-key-1", 74, FoundSecret::AgeIdentity),
];

fn key_in_text(text: &str) -> Option<FoundSecret> {
    let lower = text.to_ascii_lowercase();
    KEYS.into_iter().find_map(|(prefix, length, found)| {
        // Text may run on before and after the key.
        let mut candidates = lower.match_indices(prefix).filter_map(|(at, _)| lower.get(at..at + length));
        candidates.any(|candidate| CheckedHrpstring::new::<Bech32>(candidate).is_ok()).then_some(found)
    })
}

/// Lengths of a BIP-39 mnemonic, in words.
const LENGTHS: [usize; 5] = [12, 15, 18, 21, 24];

/// Whether a text holds, among other things perhaps, consecutive words with a valid BIP-39 checksum.
fn mnemonic_in_text(text: &str) -> bool {
    let mut run: Vec<&'static str> = Vec::new();
    let mut words = text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
    loop {
        let listed = words.next().map(|word| listed(word));
        if let Some(Some(word)) = listed {
            run.push(word);
            continue;
        }
        if run_is_mnemonic(&run) {
            return true;
        }
        run.clear();
        if listed.is_none() {
            return false;
        }
    }
}

fn listed(word: &str) -> Option<&'static str> {
    // The longest word of the list has eight letters.
    if word.len() > 8 {
        return None;
    }
    let index = Language::English.find_word(&word.to_lowercase())?;
    Language::English.word_list().get(usize::from(index)).copied()
}

fn run_is_mnemonic(run: &[&str]) -> bool {
    LENGTHS.iter().any(|length| {
        run.windows(*length).any(|words| Mnemonic::parse_in_normalized(Language::English, &words.join(" ")).is_ok())
    })
}
