//! Pylon's `identity.enc`: a mnemonic under a password, as OpenAgents' programs read and write it.
//!
//! Argon2id (version 0x13) of the password over 16 bytes of salt makes a key of 32 bytes; AES-256-GCM with a nonce of 12
//! bytes and no associated data closes the words. In the file, a JSON object, the salt is base64 without padding, the
//! rest with. Nothing of ours is kept this way: it is here to come from Pylon, and to go back.

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use nexus_core::Entropy;
use nexus_core::time::random;
use nexus_seal::Passphrase;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::mnemonic::Mnemonic;

/// Largest file that is read, in bytes.
const MAX_FILE: usize = 16 * 1024;
/// Memory and passes that a file may ask for: 1 GiB, and some seconds.
const MAX_MEMORY_KIB: u32 = 1_048_576;
const MAX_PASSES: u32 = 32;
const MAX_LANES: u32 = 16;
const FILE_VERSION: u32 = 1;

#[derive(Serialize, Deserialize, Clone, Copy)]
struct Cost {
    m_cost: u32,
    t_cost: u32,
    p_cost: u32,
}

/// What a file without parameters has, and every file that we write: 19 MiB, two passes.
const DEFAULT_COST: Cost = Cost { m_cost: 19_456, t_cost: 2, p_cost: 1 };

#[derive(Serialize, Deserialize)]
struct File {
    ciphertext: String,
    nonce: String,
    salt: String,
    version: u32,
    #[serde(default)]
    argon2_params: Option<Cost>,
}

/// Whether a text has the form of an `identity.enc`.
pub fn is_pylon_identity(text: &str) -> bool {
    text.len() <= MAX_FILE && serde_json::from_str::<File>(text).is_ok()
}

/// Opens an `identity.enc`. Takes a moment and 19 MiB, or what the file asks for: call it off the async executor.
pub fn open_pylon_identity(text: &str, password: &Passphrase) -> Result<Mnemonic, VaultError> {
    let malformed = VaultError::Unreadable("identity.enc");
    if text.len() > MAX_FILE {
        return Err(VaultError::TooLarge);
    }
    let file: File = serde_json::from_str(text).map_err(|_| malformed.clone())?;
    if file.version != FILE_VERSION {
        return Err(malformed);
    }
    let bytes = |text: &str| STANDARD_NO_PAD.decode(text.trim_end_matches('='));
    let salt: [u8; 16] = bytes(&file.salt).ok().and_then(|salt| salt.try_into().ok()).ok_or(malformed.clone())?;
    let nonce: [u8; 12] = bytes(&file.nonce).ok().and_then(|nonce| nonce.try_into().ok()).ok_or(malformed.clone())?;
    let ciphertext = bytes(&file.ciphertext).map_err(|_| malformed)?;
    let key = key(password, &salt, file.argon2_params.unwrap_or(DEFAULT_COST))?;
    let cipher = Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(&*key));
    let opened = cipher.decrypt(Nonce::from_slice(&nonce), ciphertext.as_slice());
    let opened = Zeroizing::new(opened.map_err(|_| VaultError::WrongPassphrase)?);
    let words = std::str::from_utf8(&opened).map_err(|_| VaultError::Mnemonic("it cannot be read"))?;
    Mnemonic::parse(words)
}

/// Writes an `identity.enc` that Pylon opens. Its key stretching is weak beside the owner's envelope's: the password has
/// to be good.
pub fn seal_pylon_identity(
    mnemonic: &Mnemonic,
    password: &Passphrase,
    entropy: &dyn Entropy,
) -> Result<String, VaultError> {
    let (salt, nonce): ([u8; 16], [u8; 12]) = (random(entropy), random(entropy));
    let key = key(password, &salt, DEFAULT_COST)?;
    let words = mnemonic.expose();
    let cipher = Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(&*key));
    let sealed = cipher.encrypt(Nonce::from_slice(&nonce), words.expose().as_bytes());
    let file = File {
        ciphertext: STANDARD.encode(sealed.map_err(|_| VaultError::TooLarge)?),
        nonce: STANDARD.encode(nonce),
        salt: STANDARD_NO_PAD.encode(salt),
        version: FILE_VERSION,
        argon2_params: Some(DEFAULT_COST),
    };
    serde_json::to_string_pretty(&file).map_err(|_| VaultError::Unreadable("identity.enc"))
}

fn key(password: &Passphrase, salt: &[u8; 16], cost: Cost) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    if cost.m_cost > MAX_MEMORY_KIB || cost.t_cost > MAX_PASSES || cost.p_cost > MAX_LANES {
        return Err(VaultError::TooMuchStretching);
    }
    let params = Params::new(cost.m_cost, cost.t_cost, cost.p_cost, Some(32));
    let params = params.map_err(|_| VaultError::Unreadable("identity.enc"))?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.expose().as_bytes(), salt, &mut *key)
        .map_err(|_| VaultError::Derivation)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_testkit::SeededEntropy;

    const WORDS: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";

    /// Made with OpenAgents' own parameters: password, salt bytes 0 to 15, nonce bytes 0 to 11.
    const KNOWN: &str = r#"{
        "ciphertext": "yurgzgV+xouo3lHq1v0iV6X4eleycOucA+aTDz8MxomMAuWGWP+s99JwlCfPg7Ozv58k/WGhSJndMI9FSZf/DYi2R2mHvyAXFfawEnmwST6wzbfV/BJxOwaY3kRIxrrzfb0t3z5v1W+Nty2J0A==",
        "nonce": "AAECAwQFBgcICQoL",
        "salt": "AAECAwQFBgcICQoLDA0ODw",
        "version": 1,
        "argon2_params": null
    }"#;

    #[test]
    fn a_file_of_pylons_opens() {
        let password = Passphrase::existing("strong_password_123");
        let salt: [u8; 16] = std::array::from_fn(|n| n as u8);
        let key = key(&password, &salt, DEFAULT_COST).unwrap();
        let known = "f78972ae9b2be5e89782c2d4d632eacaa01bd902aee48904da35577c33c2e406";
        assert_eq!(hex::encode(*key), known);
        let opened = open_pylon_identity(KNOWN, &password).unwrap();
        assert_eq!(opened.expose().expose(), WORDS);
        assert!(is_pylon_identity(KNOWN) && !is_pylon_identity("{}") && !is_pylon_identity(WORDS));
        let wrong = open_pylon_identity(KNOWN, &Passphrase::existing("strong_password_124"));
        assert_eq!(wrong.unwrap_err(), VaultError::WrongPassphrase);
    }

    #[test]
    fn a_file_of_ours_opens_and_every_changed_part_does_not() {
        let entropy = SeededEntropy::new(1);
        let password = Passphrase::existing("velvet-goose 71 paints quietly");
        let mnemonic = Mnemonic::generate(&entropy);
        let file = seal_pylon_identity(&mnemonic, &password, &entropy).unwrap();
        assert!(!file.contains(mnemonic.expose().expose()));
        let opened = open_pylon_identity(&file, &password).unwrap();
        assert_eq!(opened.expose().expose(), mnemonic.expose().expose());
        let json: serde_json::Value = serde_json::from_str(&file).unwrap();
        assert!(!json["salt"].as_str().unwrap().ends_with('='));
        for member in ["ciphertext", "nonce", "salt"] {
            let mut changed = json.clone();
            let text = changed[member].as_str().unwrap();
            let first = if text.starts_with('A') { "B" } else { "A" };
            changed[member] = format!("{first}{}", &text[1..]).into();
            let refused = open_pylon_identity(&changed.to_string(), &password).unwrap_err();
            assert_eq!(refused, VaultError::WrongPassphrase, "{member}");
            changed[member] = "!".into();
            let refused = open_pylon_identity(&changed.to_string(), &password).unwrap_err();
            assert_eq!(refused, VaultError::Unreadable("identity.enc"), "{member}");
        }
    }

    #[test]
    fn a_file_cannot_ask_for_the_whole_machine() {
        let password = Passphrase::existing("x");
        for params in [
            "[]",
            r#"{"m_cost":4294967295,"t_cost":1,"p_cost":1}"#,
            r#"{"m_cost":8,"t_cost":99999,"p_cost":1}"#,
            r#"{"m_cost":0,"t_cost":0,"p_cost":0}"#,
        ] {
            let file = KNOWN.replace("null", params);
            assert!(open_pylon_identity(&file, &password).is_err(), "{params}");
        }
        assert_eq!(open_pylon_identity(&" ".repeat(20_000), &password).unwrap_err(), VaultError::TooLarge);
        assert!(open_pylon_identity(&KNOWN.replace("\"version\": 1", "\"version\": 2"), &password).is_err());
    }
}
