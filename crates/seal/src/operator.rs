//! The operator's own secrets (macaroons, webhook keys, invoice preimages), closed under the operator's key.
//!
//! Control opens these; they never reach workers, and no agent secret is ever among them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use nexus_core::Entropy;
use nexus_core::time::random;
use zeroize::Zeroizing;

use crate::blob::Blob;
use crate::secret::{SecretBytes, SecretText};

/// Why an operator secret does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    #[error("the operator key must be 32 bytes in base64")]
    Key,
    #[error("the operator secret `{purpose}` does not open: another key, another place, or it was changed")]
    Open { purpose: String },
    #[error("the operator secret `{purpose}` cannot be sealed: too large")]
    Seal { purpose: String },
}

/// The key in the file that `NEXUS_OPERATOR_KEY_FILE` names.
pub struct OperatorKey(Zeroizing<[u8; 32]>);

impl OperatorKey {
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(Zeroizing::new(random(entropy)))
    }

    /// Reads the key file's text.
    pub fn parse(text: &str) -> Result<Self, OperatorError> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| OperatorError::Key)?);
        let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| OperatorError::Key)?;
        Ok(Self(Zeroizing::new(key)))
    }

    /// The key file's text.
    pub fn expose_text(&self) -> SecretText {
        SecretText::new(STANDARD.encode(*self.0))
    }

    /// Closes a secret for one purpose and place, for example `webhook:<id>`.
    pub fn seal(&self, purpose: &str, plaintext: &[u8], entropy: &dyn Entropy) -> Result<Vec<u8>, OperatorError> {
        let nonce: [u8; 24] = random(entropy);
        let aad = associated_data(purpose);
        let payload = Payload { msg: plaintext, aad: &aad };
        let sealed = self.cipher().encrypt(XNonce::from_slice(&nonce), payload);
        let ciphertext = sealed.map_err(|_| OperatorError::Seal { purpose: purpose.to_owned() })?;
        Ok(Blob { key_number: 1, nonce: &nonce, ciphertext: &ciphertext }.to_bytes())
    }

    /// Opens what was closed for the same purpose and place.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<SecretBytes, OperatorError> {
        let error = || OperatorError::Open { purpose: purpose.to_owned() };
        let blob = Blob::parse(sealed).map_err(|_| error())?;
        let aad = associated_data(purpose);
        let payload = Payload { msg: blob.ciphertext, aad: &aad };
        let opened = self.cipher().decrypt(XNonce::from_slice(blob.nonce), payload).map_err(|_| error())?;
        Ok(SecretBytes::new(opened))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(Key::from_slice(&*self.0))
    }
}

fn associated_data(purpose: &str) -> Vec<u8> {
    format!("nexus-operator|{purpose}|1").into_bytes()
}

impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_testkit::SeededEntropy;

    #[test]
    fn an_operator_secret_opens_at_its_own_place_only() {
        let entropy = SeededEntropy::new(1);
        let key = OperatorKey::generate(&entropy);
        let sealed = key.seal("webhook:1", b"whsec", &entropy).unwrap();
        assert_eq!(key.open("webhook:1", &sealed).unwrap().expose(), b"whsec");
        assert!(key.open("webhook:2", &sealed).is_err());
        assert!(OperatorKey::generate(&entropy).open("webhook:1", &sealed).is_err());
        // The key number is the only part outside the authentication, and means nothing here.
        for at in (0..sealed.len()).filter(|at| !(1..5).contains(at)) {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open("webhook:1", &changed).is_err(), "byte {at}");
        }
        assert_ne!(sealed, key.seal("webhook:1", b"whsec", &entropy).unwrap());
    }

    #[test]
    fn the_key_file_reads_back() {
        let entropy = SeededEntropy::new(2);
        let key = OperatorKey::generate(&entropy);
        let sealed = key.seal("x", b"y", &entropy).unwrap();
        let text = key.expose_text();
        let same = OperatorKey::parse(&format!("{}\n", text.expose())).unwrap();
        assert_eq!(same.open("x", &sealed).unwrap().expose(), b"y");
        assert_eq!(OperatorKey::parse("c2hvcnQ=").unwrap_err(), OperatorError::Key);
        assert_eq!(format!("{key:?}"), "OperatorKey(…)");
    }
}
