//! Keys derived from a mnemonic: BIP-32 paths and the BIP-85 child.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use bitcoin::NetworkKind;
use bitcoin::bip32::{DerivationPath, Xpriv, Xpub};
use bitcoin::secp256k1::Secp256k1;
use hmac::{Hmac, Mac};
use nexus_seal::{SecretBytes, SecretText};
use sha2::{Sha256, Sha512};
use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::mnemonic::Mnemonic;

/// BIP-85's HMAC key.
const BIP85_KEY: &[u8] = b"bip-entropy-from-k";
/// BIP-85, application 39: language 0 (English), 12 words, index 0.
const BIP85_PATH: &str = "m/83696968'/39'/0'/12'/0'";

/// The BIP-32 master key of a mnemonic. Erased when dropped.
pub(crate) struct Root(Xpriv);

impl Root {
    pub(crate) fn of(mnemonic: &Mnemonic) -> Result<Self, VaultError> {
        Self::of_seed(&mnemonic.seed())
    }

    pub(crate) fn of_seed(seed: &[u8; 64]) -> Result<Self, VaultError> {
        // The network is part of the serialized form only, which is never written.
        Xpriv::new_master(NetworkKind::Main, seed).map(Self).map_err(|_| VaultError::Derivation)
    }

    fn derive(&self, path: &str) -> Result<Self, VaultError> {
        let path = DerivationPath::from_str(path).map_err(|_| VaultError::Derivation)?;
        self.0.derive_priv(&Secp256k1::signing_only(), &path).map(Self).map_err(|_| VaultError::Derivation)
    }

    /// The private key at a path.
    pub(crate) fn secret(&self, path: &str) -> Result<Zeroizing<[u8; 32]>, VaultError> {
        Ok(Zeroizing::new(self.derive(path)?.0.private_key.secret_bytes()))
    }

    /// The compressed public key at a path, in hex.
    pub(crate) fn public_hex(&self, path: &str) -> Result<String, VaultError> {
        let child = self.derive(path)?;
        Ok(Xpub::from_priv(&Secp256k1::signing_only(), &child.0).public_key.to_string())
    }

    /// The 12-word child of BIP-85 at index 0.
    pub(crate) fn bip85_words(&self) -> Result<Mnemonic, VaultError> {
        let key = self.secret(BIP85_PATH)?;
        let mut mac = Hmac::<Sha512>::new_from_slice(BIP85_KEY).map_err(|_| VaultError::Derivation)?;
        mac.update(&*key);
        let entropy: Zeroizing<[u8; 64]> = Zeroizing::new(mac.finalize().into_bytes().into());
        Mnemonic::from_entropy(&entropy[..16])
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.0.private_key.non_secure_erase();
    }
}

/// The seed of an agent's wallet. Whoever has it has the money.
#[derive(Clone)]
pub struct WalletSeed {
    words: Mnemonic,
    /// Stretched once, for all copies.
    seed: Arc<OnceLock<Zeroizing<[u8; 64]>>>,
}

impl WalletSeed {
    pub(crate) fn new(mnemonic: Mnemonic) -> Self {
        Self { words: mnemonic, seed: Arc::default() }
    }

    pub(crate) fn stretched(words: Mnemonic, seed: Zeroizing<[u8; 64]>) -> Self {
        Self { words, seed: Arc::new(OnceLock::from(seed)) }
    }

    fn seed(&self) -> &[u8; 64] {
        self.seed.get_or_init(|| self.words.seed())
    }

    /// The wallet's twelve words, for wallet software that wants words.
    pub fn expose_words(&self) -> SecretText {
        self.words.expose()
    }

    /// The BIP-39 seed of 64 bytes, for wallet software that wants a seed.
    pub fn expose_seed(&self) -> SecretBytes {
        SecretBytes::new(self.seed().to_vec())
    }

    /// A key of 32 bytes for one use, for example `devnet account`: HMAC-SHA-256 of the use under the seed.
    pub fn key_for(&self, purpose: &str) -> SecretBytes {
        // A seed is as long as a block of SHA-256, which is the key as it stands.
        let mut mac = <Hmac<Sha256> as Mac>::new(self.seed().into());
        mac.update(b"nexus-wallet|");
        mac.update(purpose.as_bytes());
        SecretBytes::new(mac.finalize().into_bytes().to_vec())
    }
}

impl fmt::Debug for WalletSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WalletSeed(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_is_the_one_of_bip85() {
        // BIP-85, "BIP39, 12 English words", index 0.
        let master = "xprv9s21ZrQH143K2LBWUUQRFXhucrQqBpKdRRxNVq2zBqsx8HVqFk2uYo8kmbaLLHRdqtQpUm98uKfu3vca1LqdGhUtyoFnCNkfmXRyPXLjbKb";
        let root = Root(master.parse().unwrap());
        let words = root.bip85_words().unwrap();
        assert_eq!(words.expose().expose(), "girl mad pet galaxy egg matter matrix prison refuse sense ordinary nose");
    }

    #[test]
    fn keys_of_a_wallet_differ_by_use() {
        let words = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
        let seed = Mnemonic::parse(words).unwrap().wallet_seed().unwrap();
        assert_eq!(seed.key_for("a"), seed.key_for("a"));
        assert_ne!(seed.key_for("a"), seed.key_for("b"));
        assert_eq!(seed.key_for("a").expose().len(), 32);
        assert_eq!(format!("{seed:?}"), "WalletSeed(…)");
    }
}
