//! Content that only its reader can open.

use nexus_core::Npub;
use nexus_seal::{Signer, SignerError};

/// A ciphertext and the key at its other end. NIP-44 unless it has the shape of NIP-04.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub peer: Npub,
    pub ciphertext: String,
}

impl Sealed {
    pub fn new(peer: Npub, ciphertext: &str) -> Self {
        Self { peer, ciphertext: ciphertext.to_owned() }
    }

    /// NIP-04 appends its initialisation vector, with a character that base64 does not have.
    pub fn is_nip04(&self) -> bool {
        self.ciphertext.contains("?iv=")
    }

    /// Decrypts with the reader's key.
    pub async fn open(&self, signer: &dyn Signer) -> Result<String, SignerError> {
        if self.is_nip04() {
            signer.nip04_decrypt(&self.peer, &self.ciphertext).await
        } else {
            signer.nip44_decrypt(&self.peer, &self.ciphertext).await
        }
    }
}
