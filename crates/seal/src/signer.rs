//! The use of a Nostr key, without the key.

use std::future::Future;
use std::pin::Pin;

use nexus_core::Npub;
use nostr::event::{Event, UnsignedEvent};

/// A boxed future, so that the trait is object-safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a signer did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// A remote signer that cannot be reached: worth another try.
    #[error("the signer is offline: {0}")]
    Offline(String),
    /// A remote signer that said no.
    #[error("the signer refused: {0}")]
    Refused(String),
    /// An event that names another author than this signer's key.
    #[error("asked to sign for {asked}, but this signer is {own}")]
    WrongKey { asked: Npub, own: Npub },
    /// A ciphertext that is not for this key, was changed, or is over its bound.
    #[error("{0}")]
    Cipher(&'static str),
}

/// Signs, encrypts and decrypts as one Nostr key: a local key (`nexus-vault`) or a NIP-46 remote signer.
///
/// Policy stands in front of it: a signer signs whatever it is given.
pub trait Signer: Send + Sync {
    /// The key this signer signs as.
    fn public_key(&self) -> Npub;

    /// Signs an event of this key. The event's `created_at` is the caller's.
    fn sign(&self, event: UnsignedEvent) -> BoxFuture<'_, Result<Event, SignerError>>;

    /// NIP-44 version 2; at most [`MAX_NIP44_PLAINTEXT`] bytes.
    fn nip44_encrypt<'a>(&'a self, peer: &'a Npub, plaintext: &'a str) -> BoxFuture<'a, Result<String, SignerError>>;

    /// NIP-44 version 2. The result is a secret more often than not: wipe it where it is one.
    fn nip44_decrypt<'a>(&'a self, peer: &'a Npub, ciphertext: &'a str) -> BoxFuture<'a, Result<String, SignerError>>;

    /// NIP-04, for peers that speak nothing newer. Not authenticated: a changed ciphertext may decrypt to garbage.
    fn nip04_encrypt<'a>(&'a self, peer: &'a Npub, plaintext: &'a str) -> BoxFuture<'a, Result<String, SignerError>>;

    /// NIP-04.
    fn nip04_decrypt<'a>(&'a self, peer: &'a Npub, ciphertext: &'a str) -> BoxFuture<'a, Result<String, SignerError>>;
}

/// Largest NIP-44 and NIP-04 plaintext, in bytes: the bound of the first NIP-44, before its long form.
pub const MAX_NIP44_PLAINTEXT: usize = 65_535;
