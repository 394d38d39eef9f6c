//! age X25519 identities: a pool's, and an agent's inbox.

use std::fmt;
use std::sync::Arc;

use age::secrecy::ExposeSecret;
use bech32::{Bech32, Hrp};
use hmac::{Hmac, Mac};
use nexus_core::time::random;
use nexus_core::{Entropy, Npub};
use nexus_seal::{Recipient, SecretBytes, SecretText};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::signer::LocalSigner;

/// Largest sealed thing that is opened, in bytes: the largest plaintext as armored text, with its header.
const MAX_SEALED: usize = 2 * 1024 * 1024;
/// Identities in one file: the current one and those before it.
const MAX_IDENTITIES: usize = 16;

/// What runtime envelopes are closed to. The first identity is current; the others open older envelopes.
#[derive(Clone)]
pub struct PoolIdentity(Vec<age::x25519::Identity>);

impl PoolIdentity {
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(vec![fresh(entropy).1])
    }

    /// Reads an age identity file: `AGE-SECRET-KEY-1…` lines, comments with `#`.
    pub fn parse(text: &str) -> Result<Self, VaultError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let identities = lines.map(|line| line.parse().map_err(|_| VaultError::Identity));
        let identities: Vec<age::x25519::Identity> = identities.collect::<Result<_, _>>()?;
        if identities.is_empty() || identities.len() > MAX_IDENTITIES {
            return Err(VaultError::Identity);
        }
        Ok(Self(identities))
    }

    /// The identity file's text.
    pub fn expose_text(&self) -> SecretText {
        let mut text = Zeroizing::new(String::with_capacity(self.0.len() * 80));
        for identity in &self.0 {
            text.push_str(identity.to_string().expose_secret());
            text.push('\n');
        }
        SecretText::new(text.as_str())
    }

    /// As the library takes them.
    pub(crate) fn as_age(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|identity| identity as &dyn age::Identity)
    }

    /// The current recipient.
    pub fn recipient(&self) -> Recipient {
        recipient(&self.0[0])
    }

    /// All recipients, current first: what the pool document lists.
    pub fn recipients(&self) -> Vec<Recipient> {
        self.0.iter().map(recipient).collect()
    }

    /// The pool's signing key, derived from the current identity, so that there is no other file to keep: HMAC-SHA-256 of
    /// a name under the X25519 secret. It signs unlock offers; the pool document names its public half.
    pub fn signer(&self, entropy: Arc<dyn Entropy>) -> Result<LocalSigner, VaultError> {
        LocalSigner::from_secret(&*self.signing_secret()?, entropy)
    }

    /// The public half of [`Self::signer`].
    pub fn signing_key(&self) -> Result<Npub, VaultError> {
        LocalSigner::public_half(&*self.signing_secret()?)
    }

    fn signing_secret(&self) -> Result<Zeroizing<[u8; 32]>, VaultError> {
        let text = self.0[0].to_string();
        let (_, secret) = bech32::decode(text.expose_secret()).map_err(|_| VaultError::Identity)?;
        let secret = Zeroizing::new(secret);
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&secret).map_err(|_| VaultError::Derivation)?;
        mac.update(b"nexus-pool-signer");
        Ok(Zeroizing::new(mac.finalize().into_bytes().into()))
    }

    /// Opens something that was closed to one of the recipients.
    pub fn open(&self, sealed: &[u8]) -> Result<SecretBytes, VaultError> {
        open(&self.0, sealed)
    }
}

impl fmt::Debug for PoolIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PoolIdentity").field(&self.recipient()).finish()
    }
}

/// Opens what was sealed to an agent's inbox recipient.
#[derive(Clone)]
pub struct InboxKey {
    npub: Npub,
    number: u32,
    secret: Zeroizing<[u8; 32]>,
    identity: [age::x25519::Identity; 1],
}

impl InboxKey {
    pub fn generate(npub: Npub, number: u32, entropy: &dyn Entropy) -> Self {
        let (secret, identity) = fresh(entropy);
        Self { npub, number, secret, identity: [identity] }
    }

    pub(crate) fn from_secret(npub: Npub, number: u32, secret: &SecretBytes) -> Result<Self, VaultError> {
        let secret = Zeroizing::new(secret.expose().try_into().map_err(|_| VaultError::SecretKey)?);
        let identity = [identity(&secret)?];
        Ok(Self { npub, number, secret, identity })
    }

    pub(crate) fn expose(&self) -> SecretBytes {
        SecretBytes::new(self.secret.to_vec())
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    /// Public: where clients and hooks seal to.
    pub fn recipient(&self) -> Recipient {
        recipient(&self.identity[0])
    }

    /// Opens an inbox item, binary or armored. Says nothing about who sealed it.
    pub fn open(&self, sealed: &[u8]) -> Result<SecretBytes, VaultError> {
        open(&self.identity, sealed)
    }
}

impl fmt::Debug for InboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxKey").field("npub", &self.npub).field("number", &self.number).finish_non_exhaustive()
    }
}

/// A fresh identity for one use, to be held in memory alone.
pub(crate) struct Ephemeral([age::x25519::Identity; 1]);

impl Ephemeral {
    pub(crate) fn generate(entropy: &dyn Entropy) -> Self {
        Self([fresh(entropy).1])
    }

    pub(crate) fn recipient(&self) -> Recipient {
        recipient(&self.0[0])
    }

    pub(crate) fn open(&self, sealed: &[u8]) -> Result<SecretBytes, VaultError> {
        open(&self.0, sealed)
    }
}

/// Any 32 bytes are an X25519 secret; if age had it otherwise, the next ones would be tried.
fn fresh(entropy: &dyn Entropy) -> (Zeroizing<[u8; 32]>, age::x25519::Identity) {
    loop {
        let secret = Zeroizing::new(random::<32>(entropy));
        if let Ok(identity) = identity(&secret) {
            return (secret, identity);
        }
    }
}

/// age takes identities as text only.
fn identity(secret: &[u8; 32]) -> Result<age::x25519::Identity, VaultError> {
    let hrp = Hrp::parse("age-secret-key-").map_err(|_| VaultError::Identity)?;
    let text = Zeroizing::new(bech32::encode_upper::<Bech32>(hrp, secret).map_err(|_| VaultError::Identity)?);
    text.parse().map_err(|_| VaultError::Identity)
}

fn recipient(identity: &age::x25519::Identity) -> Recipient {
    Recipient::from(&identity.to_public())
}

fn open(identities: &[age::x25519::Identity], sealed: &[u8]) -> Result<SecretBytes, VaultError> {
    use std::io::Read;

    if sealed.len() > MAX_SEALED {
        return Err(VaultError::TooLarge);
    }
    let reader = age::armor::ArmoredReader::new(sealed);
    let file = age::Decryptor::new_buffered(reader).map_err(|_| VaultError::Unopened)?;
    let keys = identities.iter().map(|identity| identity as &dyn age::Identity);
    let mut plaintext = Zeroizing::new(Vec::with_capacity(sealed.len()));
    file.decrypt(keys)
        .map_err(|_| VaultError::Unopened)?
        .read_to_end(&mut plaintext)
        .map_err(|_| VaultError::Unopened)?;
    Ok(SecretBytes::new(std::mem::take(&mut *plaintext)))
}
