//! A Nostr key in memory.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::time::random;
use nexus_core::{Entropy, Npub};
use nexus_seal::event::{npub_of, public_key};
use nexus_seal::signer::MAX_NIP44_PLAINTEXT;
use nexus_seal::{BoxFuture, SecretBytes, SecretText, Signer, SignerError};
use nostr::event::{Event, UnsignedEvent};
use nostr::key::{Keys, SecretKey};
use nostr::nips::nip44::v2::{self, ConversationKey};
use nostr::nips::{nip04, nip19::ToBech32};
use zeroize::Zeroizing;

use crate::error::VaultError;

/// Longest NIP-44 payload that is opened: the base64 of the largest plaintext with padding, nonce and MAC.
const MAX_PAYLOAD: usize = 87_472 + 4;

/// A Nostr key that signs here, in this process. The key is wiped when dropped.
pub struct LocalSigner {
    keys: Keys,
    entropy: Arc<dyn Entropy>,
}

impl LocalSigner {
    /// A fresh key.
    pub fn generate(entropy: Arc<dyn Entropy>) -> Self {
        loop {
            // All but about 2^-128 of the numbers of 32 bytes are keys.
            let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(random(&*entropy));
            if let Ok(signer) = Self::from_secret(&*bytes, Arc::clone(&entropy)) {
                return signer;
            }
        }
    }

    /// From 32 bytes. Randomness goes into signatures (BIP-340's auxiliary data) and nonces.
    pub fn from_secret(secret: &[u8], entropy: Arc<dyn Entropy>) -> Result<Self, VaultError> {
        let secret = SecretKey::from_slice(secret).map_err(|_| VaultError::SecretKey)?;
        Ok(Self { keys: Keys::new(secret), entropy })
    }

    /// The public half of a key of 32 bytes.
    pub(crate) fn public_half(secret: &[u8]) -> Result<Npub, VaultError> {
        let secret = SecretKey::from_slice(secret).map_err(|_| VaultError::SecretKey)?;
        Ok(npub_of(&Keys::new(secret).public_key()))
    }

    /// From `nsec1…` or 64 hex digits.
    pub fn parse(text: &str, entropy: Arc<dyn Entropy>) -> Result<Self, VaultError> {
        let secret = SecretKey::parse(text.trim()).map_err(|_| VaultError::SecretKey)?;
        Ok(Self { keys: Keys::new(secret), entropy })
    }

    /// `nsec1…`, to write a key file.
    pub fn expose_nsec(&self) -> SecretText {
        SecretText::new(self.keys.secret_key().to_bech32().unwrap_or_default())
    }

    /// The 32 bytes of the key.
    pub fn expose_secret(&self) -> SecretBytes {
        SecretBytes::new(self.keys.secret_key().as_secret_bytes().to_vec())
    }

    pub(crate) fn secret_key(&self) -> &SecretKey {
        self.keys.secret_key()
    }

    /// Signs at once: a local key waits for nobody.
    pub fn sign_now(&self, event: UnsignedEvent) -> Result<Event, SignerError> {
        let (asked, own) = (npub_of(&event.pubkey), self.public_key());
        if asked != own {
            return Err(SignerError::WrongKey { asked, own });
        }
        // The id is the hash of what is signed, never what a caller wrote into it.
        let id = event.compute_id();
        let aux = Zeroizing::new(random::<32>(&*self.entropy));
        let signature = self.keys.sign_schnorr_with_aux_rand(secp256k1::SECP256K1, id.as_bytes(), &aux);
        Ok(Event::new(id, event.pubkey, event.created_at, event.kind, event.tags, event.content, signature))
    }

    fn conversation(&self, peer: &Npub) -> Result<ConversationKey, SignerError> {
        ConversationKey::derive(self.keys.secret_key(), &public_key(peer))
            .map_err(|_| SignerError::Cipher("the peer's key is not a valid public key"))
    }

    fn nip44_seal(&self, peer: &Npub, plaintext: &str) -> Result<String, SignerError> {
        if plaintext.is_empty() || plaintext.len() > MAX_NIP44_PLAINTEXT {
            return Err(SignerError::Cipher("a NIP-44 plaintext has 1 to 65535 bytes"));
        }
        let key = self.conversation(peer)?;
        let payload = v2::encrypt_to_bytes_with_nonce(&key, plaintext.as_bytes(), random(&*self.entropy));
        payload.map(|bytes| STANDARD.encode(bytes)).map_err(|_| SignerError::Cipher("NIP-44 encryption failed"))
    }

    fn nip44_open(&self, peer: &Npub, ciphertext: &str) -> Result<String, SignerError> {
        open_payload(&self.conversation(peer)?, ciphertext)
    }

    /// Opens a message of this key to itself, whatever its form.
    pub(crate) fn open_any(&self, ciphertext: &str) -> Result<String, SignerError> {
        let own = self.public_key();
        self.nip44_open(&own, ciphertext).or_else(|_| self.nip04_open(&own, ciphertext))
    }

    fn nip04_seal(&self, peer: &Npub, plaintext: &str) -> Result<String, SignerError> {
        if plaintext.len() > MAX_NIP44_PLAINTEXT {
            return Err(SignerError::Cipher("a NIP-04 plaintext has at most 65535 bytes"));
        }
        let iv = random(&*self.entropy);
        nip04::encrypt_with_iv(self.keys.secret_key(), &public_key(peer), plaintext, iv)
            .map_err(|_| SignerError::Cipher("NIP-04 encryption failed"))
    }

    fn nip04_open(&self, peer: &Npub, ciphertext: &str) -> Result<String, SignerError> {
        if ciphertext.len() > MAX_PAYLOAD + 64 {
            return Err(SignerError::Cipher("the NIP-04 payload is too large"));
        }
        nip04::decrypt(self.keys.secret_key(), &public_key(peer), ciphertext)
            .map_err(|_| SignerError::Cipher("the NIP-04 payload does not open"))
    }
}

fn open_payload(key: &ConversationKey, ciphertext: &str) -> Result<String, SignerError> {
    if ciphertext.len() > MAX_PAYLOAD {
        return Err(SignerError::Cipher("the NIP-44 payload is too large"));
    }
    let bytes = STANDARD.decode(ciphertext).map_err(|_| SignerError::Cipher("the NIP-44 payload is not base64"))?;
    if bytes.first() != Some(&2) {
        return Err(SignerError::Cipher("the NIP-44 payload is not version 2"));
    }
    let text =
        v2::decrypt_to_bytes(key, &bytes).map_err(|_| SignerError::Cipher("the NIP-44 payload does not open"))?;
    String::from_utf8(text).map_err(|_| SignerError::Cipher("the NIP-44 plaintext is not a text"))
}

impl Signer for LocalSigner {
    fn public_key(&self) -> Npub {
        npub_of(&self.keys.public_key())
    }

    fn sign(&self, event: UnsignedEvent) -> BoxFuture<'_, Result<Event, SignerError>> {
        Box::pin(async move { self.sign_now(event) })
    }

    fn nip44_encrypt<'a>(&'a self, peer: &'a Npub, plaintext: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(async move { self.nip44_seal(peer, plaintext) })
    }

    fn nip44_decrypt<'a>(&'a self, peer: &'a Npub, ciphertext: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(async move { self.nip44_open(peer, ciphertext) })
    }

    fn nip04_encrypt<'a>(&'a self, peer: &'a Npub, plaintext: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(async move { self.nip04_seal(peer, plaintext) })
    }

    fn nip04_decrypt<'a>(&'a self, peer: &'a Npub, ciphertext: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(async move { self.nip04_open(peer, ciphertext) })
    }
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalSigner").field(&self.public_key()).finish()
    }
}

#[cfg(test)]
mod tests;
