//! An agent's symmetric keys.

use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use nexus_core::time::random;
use nexus_core::{Entropy, Npub};
use nexus_seal::SecretBytes;
use nexus_seal::blob::{Blob, Purpose, associated_data};
use zeroize::Zeroizing;

use crate::error::VaultError;

/// XChaCha20-Poly1305 under one key of one agent.
#[derive(Clone)]
struct Cipher {
    npub: Npub,
    number: u32,
    key: Zeroizing<[u8; 32]>,
}

impl Cipher {
    fn generate(npub: Npub, number: u32, entropy: &dyn Entropy) -> Self {
        Self { npub, number, key: Zeroizing::new(random(entropy)) }
    }

    fn from_secret(npub: Npub, number: u32, secret: &SecretBytes) -> Result<Self, VaultError> {
        let key = secret.expose().try_into().map_err(|_| VaultError::SecretKey)?;
        Ok(Self { npub, number, key: Zeroizing::new(key) })
    }

    fn seal(&self, purpose: Purpose, plaintext: &[u8], entropy: &dyn Entropy) -> Result<Vec<u8>, VaultError> {
        let nonce: [u8; 24] = random(entropy);
        let aad = associated_data(&self.npub, purpose);
        let payload = Payload { msg: plaintext, aad: &aad };
        let ciphertext = self.aead().encrypt(XNonce::from_slice(&nonce), payload).map_err(|_| VaultError::TooLarge)?;
        let sealed = Blob { key_number: self.number, nonce: &nonce, ciphertext: &ciphertext }.to_bytes();
        if sealed.len() > nexus_seal::blob::MAX_BLOB { Err(VaultError::TooLarge) } else { Ok(sealed) }
    }

    fn open(&self, purpose: Purpose, sealed: &[u8]) -> Result<SecretBytes, VaultError> {
        let unopened = || VaultError::Ciphertext { what: purpose.to_string(), npub: self.npub, number: self.number };
        let blob = Blob::parse(sealed).map_err(|_| unopened())?;
        if blob.key_number != self.number {
            let (what, number) = (purpose.to_string(), self.number);
            return Err(VaultError::KeyNumber { what, number, found: blob.key_number });
        }
        let aad = associated_data(&self.npub, purpose);
        let payload = Payload { msg: blob.ciphertext, aad: &aad };
        let opened = self.aead().decrypt(XNonce::from_slice(blob.nonce), payload);
        opened.map(SecretBytes::new).map_err(|_| unopened())
    }

    fn aead(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(Key::from_slice(&*self.key))
    }
}

macro_rules! agent_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Cipher);

        impl $name {
            /// A fresh key. Numbers count from 1.
            pub fn generate(npub: Npub, number: u32, entropy: &dyn Entropy) -> Self {
                Self(Cipher::generate(npub, number, entropy))
            }

            /// From an opened wrap.
            pub(crate) fn from_secret(npub: Npub, number: u32, secret: &SecretBytes) -> Result<Self, VaultError> {
                Cipher::from_secret(npub, number, secret).map(Self)
            }

            /// The agent whose key this is: part of every ciphertext's associated data.
            pub fn npub(&self) -> Npub {
                self.0.npub
            }

            /// The number that ciphertexts name.
            pub fn number(&self) -> u32 {
                self.0.number
            }

            /// Closes something for one purpose, under a fresh nonce. [`nexus_seal::blob`] has the form.
            pub fn seal(&self, purpose: Purpose, plaintext: &[u8], entropy: &dyn Entropy) -> Result<Vec<u8>, VaultError> {
                self.0.seal(purpose, plaintext, entropy)
            }

            /// Opens what was closed for the same agent and purpose under this key.
            pub fn open(&self, purpose: Purpose, sealed: &[u8]) -> Result<SecretBytes, VaultError> {
                self.0.open(purpose, sealed)
            }

            pub(crate) fn expose(&self) -> SecretBytes {
                SecretBytes::new(self.0.key.to_vec())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("npub", &self.0.npub).field("number", &self.0.number).finish_non_exhaustive()
            }
        }
    };
}

agent_key!(
    /// Encrypts state, journal and what else only the agent reads.
    DataKey
);
agent_key!(
    /// Encrypts what people read: event content, trajectories, approval details.
    ViewKey
);
