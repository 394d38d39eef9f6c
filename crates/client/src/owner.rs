//! The owner key: how it is kept, and how it is opened.

use std::fmt;
use std::sync::Arc;

use nexus_core::{Entropy, Npub};
use nexus_seal::{Passphrase, Signer};
use nexus_vault::{LocalSigner, VaultError, decrypt_owner_key, encrypt_owner_key};
use zeroize::Zeroizing;

use crate::error::Error;

/// An owner key as a context keeps it.
#[derive(Clone)]
pub enum OwnerKey {
    /// In clear, as nsec: for development only.
    Development { npub: Npub, nsec: Zeroizing<String> },
    /// Under a passphrase (NIP-49).
    Encrypted { npub: Npub, ncryptsec: String },
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Development { npub, .. } => write!(f, "Development({npub})"),
            Self::Encrypted { npub, .. } => write!(f, "Encrypted({npub})"),
        }
    }
}

impl OwnerKey {
    pub const fn npub(&self) -> Npub {
        match self {
            Self::Development { npub, .. } | Self::Encrypted { npub, .. } => *npub,
        }
    }

    pub const fn is_development(&self) -> bool {
        matches!(self, Self::Development { .. })
    }

    /// Keeps a key in clear: for development only.
    pub fn development(keys: &OwnerKeys) -> Self {
        Self::Development { npub: keys.npub(), nsec: Zeroizing::new(keys.0.expose_nsec().expose().to_owned()) }
    }

    /// Keeps a key under a passphrase. Takes about a second and 256 MiB.
    pub fn encrypted(keys: &OwnerKeys, passphrase: &Passphrase, entropy: &dyn Entropy) -> Result<Self, Error> {
        let ncryptsec = encrypt_owner_key(&keys.0, passphrase, entropy)
            .map_err(|error| Error::Failed(format!("encrypting the owner key: {error}")))?;
        Ok(Self::Encrypted { npub: keys.npub(), ncryptsec })
    }

    /// The key itself. An encrypted one needs its passphrase, and about a second.
    pub fn open(&self, passphrase: Option<&Passphrase>, entropy: Arc<dyn Entropy>) -> Result<OwnerKeys, Error> {
        let keys = match (self, passphrase) {
            (Self::Development { nsec, .. }, _) => OwnerKeys::parse(nsec, entropy)?,
            (Self::Encrypted { .. }, None) => return Err(Error::KeyLocked),
            (Self::Encrypted { ncryptsec, .. }, Some(passphrase)) => {
                OwnerKeys::decrypt(ncryptsec, passphrase, entropy)?
            }
        };
        if keys.npub() == self.npub() {
            Ok(keys)
        } else {
            Err(Error::Failed(format!(
                "the kept owner key is {}, the context says {}\n  next: `nexus login --key-file FILE` writes it anew",
                keys.npub(),
                self.npub()
            )))
        }
    }
}

/// An owner key in memory. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct OwnerKeys(Arc<LocalSigner>);

impl fmt::Debug for OwnerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerKeys({})", self.npub())
    }
}

impl OwnerKeys {
    pub fn generate(entropy: Arc<dyn Entropy>) -> Self {
        Self(Arc::new(LocalSigner::generate(entropy)))
    }

    /// A key as `nsec1…` (NIP-19) or 64 hex digits.
    pub fn parse(text: &str, entropy: Arc<dyn Entropy>) -> Result<Self, Error> {
        let signer = LocalSigner::parse(text, entropy).map_err(|_| {
            Error::Usage(
                "that is no owner key\n  next: the file must hold an nsec1…, 64 hex digits or an ncryptsec1…"
                    .to_owned(),
            )
        })?;
        Ok(Self(Arc::new(signer)))
    }

    /// A key as `ncryptsec1…` (NIP-49).
    pub fn decrypt(ncryptsec: &str, passphrase: &Passphrase, entropy: Arc<dyn Entropy>) -> Result<Self, Error> {
        match decrypt_owner_key(ncryptsec, passphrase, entropy) {
            Ok(signer) => Ok(Self(Arc::new(signer))),
            Err(VaultError::WrongPassphrase) => {
                Err(Error::NotAllowed("the passphrase does not open the owner key\n  next: try again".to_owned()))
            }
            Err(error) => Err(Error::Usage(format!("the owner key can't be opened: {error}\n  next: check the file"))),
        }
    }

    pub fn npub(&self) -> Npub {
        self.0.public_key()
    }

    /// This key as a signer.
    pub fn signer(&self) -> Arc<dyn Signer> {
        Arc::<LocalSigner>::clone(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_testkit::SeededEntropy;

    fn entropy() -> Arc<dyn Entropy> {
        Arc::new(SeededEntropy::new(3))
    }

    /// NIP-49's own example.
    #[test]
    fn a_key_encrypted_elsewhere_opens() {
        let text = "ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w57lspw8gsq6yphnm8623nsl8xn9j4jdzz84zm3frztj3z7s35vpzmqf6ksu8r89qk5z2zxfmu5gv8th8wclt0h4p";
        let keys = OwnerKeys::decrypt(text, &Passphrase::existing("nostr"), entropy()).unwrap();
        let expected = "3501454135014541350145413501453fefb02227e449e57cf4d3a3ce05378683";
        assert_eq!(keys.npub(), OwnerKeys::parse(expected, entropy()).unwrap().npub());
        let wrong = OwnerKeys::decrypt(text, &Passphrase::existing("other"), entropy());
        assert_eq!(wrong.unwrap_err().exit().code(), 6);
    }

    #[test]
    fn a_kept_key_opens_again_and_only_with_its_passphrase() {
        let keys = OwnerKeys::generate(entropy());
        let open = OwnerKey::development(&keys);
        assert_eq!(open.open(None, entropy()).unwrap().npub(), keys.npub());
        let passphrase = Passphrase::existing("a passphrase");
        let kept = OwnerKey::encrypted(&keys, &passphrase, &*entropy()).unwrap();
        assert!(matches!(kept.open(None, entropy()), Err(Error::KeyLocked)));
        assert_eq!(kept.open(Some(&passphrase), entropy()).unwrap().npub(), keys.npub());
        assert!(kept.open(Some(&Passphrase::existing("another")), entropy()).is_err());
    }

    #[test]
    fn debug_shows_the_public_half_only() {
        let keys = OwnerKeys::generate(entropy());
        let nsec = keys.0.expose_nsec();
        for text in [format!("{keys:?}"), format!("{:?}", OwnerKey::development(&keys))] {
            assert!(!text.contains(nsec.expose()) && text.contains("npub1"), "{text}");
        }
    }
}
