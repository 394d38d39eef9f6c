//! The one mnemonic that an agent is made of.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use age::secrecy::SecretString;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bip39::Language;
use nexus_core::time::random;
use nexus_core::{Entropy, Npub};
use nexus_seal::{MAX_LOG_N, Passphrase, SecretText, Stretched};
use ring::pbkdf2::PBKDF2_HMAC_SHA512;
use zeroize::Zeroizing;

use crate::derive::{Root, WalletSeed};
use crate::error::VaultError;
use crate::signer::LocalSigner;

/// BIP-39's rounds of PBKDF2.
const STRETCHES: NonZeroU32 = NonZeroU32::MIN.saturating_add(2_047);
/// NIP-06.
const NOSTR_PATH: &str = "m/44'/1237'/0'/0/0";

/// A BIP-39 mnemonic in English, used without BIP-39 passphrase. Wiped when dropped.
#[derive(Clone)]
pub struct Mnemonic(bip39::Mnemonic);

impl Mnemonic {
    /// Twelve words, 128 bits of entropy.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        loop {
            // Sixteen bytes are a valid length of entropy, so the first ones are taken.
            let bytes: Zeroizing<[u8; 16]> = Zeroizing::new(random(entropy));
            if let Ok(mnemonic) = Self::from_entropy(&*bytes) {
                return mnemonic;
            }
        }
    }

    /// Reads 12 to 24 words; case and spacing do not matter, the checksum does.
    pub fn parse(text: &str) -> Result<Self, VaultError> {
        let mut normal = Zeroizing::new(String::with_capacity(text.len()));
        for word in text.split_whitespace().take(25) {
            if !normal.is_empty() {
                normal.push(' ');
            }
            normal.extend(word.chars().map(|c| c.to_ascii_lowercase()));
        }
        bip39::Mnemonic::parse_in_normalized(Language::English, &normal).map(Self).map_err(|error| {
            VaultError::Mnemonic(match error {
                bip39::Error::BadWordCount(_) => "it has 12, 15, 18, 21 or 24 words",
                bip39::Error::UnknownWord(_) => "a word is not in the list",
                bip39::Error::InvalidChecksum => "the checksum is wrong: a word is mistyped or misplaced",
                _ => "it cannot be read",
            })
        })
    }

    pub(crate) fn from_entropy(bytes: &[u8]) -> Result<Self, VaultError> {
        let mnemonic = bip39::Mnemonic::from_entropy_in(Language::English, bytes);
        mnemonic.map(Self).map_err(|_| VaultError::Derivation)
    }

    /// The words, to seal them or to show them to their owner.
    pub fn expose(&self) -> SecretText {
        let mut text = String::with_capacity(24 * 9);
        for word in self.0.words() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        SecretText::new(text)
    }

    /// The BIP-39 seed, without passphrase: PBKDF2 with HMAC-SHA-512, 2,048 times, which is most of what opening an agent
    /// costs.
    pub(crate) fn seed(&self) -> Zeroizing<[u8; 64]> {
        let mut seed = Zeroizing::new([0; 64]);
        let words = self.expose();
        ring::pbkdf2::derive(PBKDF2_HMAC_SHA512, STRETCHES, b"mnemonic", words.expose().as_bytes(), &mut *seed);
        seed
    }

    /// [`Self::signer`] and [`Self::wallet_seed`] at once, for half the work; for none of it if the words were stretched
    /// before.
    pub(crate) fn secrets(
        &self,
        stretched: Option<&Stretched>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<(LocalSigner, WalletSeed), VaultError> {
        let root = match stretched {
            Some(stretched) => {
                let seed = read_seed(&stretched.seed)?;
                Root::of_seed(&seed)?
            }
            None => Root::of(self)?,
        };
        let signer = LocalSigner::from_secret(&*root.secret(NOSTR_PATH)?, entropy)?;
        let words = root.bip85_words()?;
        let wallet = match stretched {
            Some(stretched) => WalletSeed::stretched(words, read_seed(&stretched.wallet_seed)?),
            None => WalletSeed::new(words),
        };
        Ok((signer, wallet))
    }

    /// What makes [`Self::secrets`] quick.
    pub(crate) fn stretched(&self) -> Result<Stretched, VaultError> {
        let seed = self.seed();
        let wallet = Root::of_seed(&seed)?.bip85_words()?.seed();
        Ok(Stretched { seed: write_seed(&seed), wallet_seed: write_seed(&wallet) })
    }

    /// The agent's Nostr key: NIP-06, `m/44'/1237'/0'/0/0`.
    pub fn signer(&self, entropy: Arc<dyn Entropy>) -> Result<LocalSigner, VaultError> {
        let key = Root::of(self)?.secret(NOSTR_PATH)?;
        LocalSigner::from_secret(&*key, entropy)
    }

    /// The seed of the agent's wallet: BIP-85, BIP-39 application, English, 12 words, index 0.
    pub fn wallet_seed(&self) -> Result<WalletSeed, VaultError> {
        Root::of(self)?.bip85_words().map(WalletSeed::new)
    }

    /// The public half of [`Self::signer`]'s key.
    pub fn npub(&self) -> Result<Npub, VaultError> {
        let public = Root::of(self)?.public_hex(NOSTR_PATH)?;
        // Compressed, with its sign in front: Nostr leaves that out.
        public.get(2..).and_then(|hex| hex.parse().ok()).ok_or(VaultError::Derivation)
    }

    /// The identity key of the Spark wallet that Pylon's Breez SDK makes of these words, compressed, in hex: where an
    /// imported agent's old funds are. `m/8797555'/<account>'/0'`, with account 1 on mainnet and 0 on regtest.
    pub fn spark_identity(&self, mainnet: bool) -> Result<String, VaultError> {
        Root::of(self)?.public_hex(if mainnet { "m/8797555'/1'/0'" } else { "m/8797555'/0'/0'" })
    }

    /// The compressed public key at `m/44'/0'/0'/0/0`, in hex: what Pylon shows as the agent's Spark signer. Holds no
    /// funds.
    pub fn pylon_signer(&self) -> Result<String, VaultError> {
        Root::of(self)?.public_hex("m/44'/0'/0'/0/0")
    }
}

fn write_seed(seed: &[u8; 64]) -> SecretText {
    SecretText::new(STANDARD.encode(seed))
}

fn read_seed(text: &SecretText) -> Result<Zeroizing<[u8; 64]>, VaultError> {
    let mut seed = Zeroizing::new([0; 64]);
    match STANDARD.decode_slice(text.expose(), &mut *seed) {
        Ok(64) => Ok(seed),
        Ok(_) | Err(_) => Err(VaultError::Derivation),
    }
}

impl fmt::Debug for Mnemonic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mnemonic(…)")
    }
}

/// Opens the owner's envelope. Takes about a second and 256 MiB: call it off the async executor.
pub fn open_mnemonic(armored: &str, passphrase: &Passphrase) -> Result<Mnemonic, VaultError> {
    let log_n = nexus_seal::mnemonic_work_factor(armored)?;
    if log_n > MAX_LOG_N {
        return Err(VaultError::TooMuchWork);
    }
    let mut identity = age::scrypt::Identity::new(SecretString::from(passphrase.expose().to_owned()));
    identity.set_max_work_factor(MAX_LOG_N);
    let plaintext = age::decrypt(&identity, armored.trim().as_bytes()).map(Zeroizing::new);
    let plaintext = plaintext.map_err(|error| match error {
        age::DecryptError::ExcessiveWork { .. } => VaultError::TooMuchWork,
        _ => VaultError::WrongPassphrase,
    })?;
    let text = std::str::from_utf8(&plaintext).map_err(|_| VaultError::Mnemonic("it cannot be read"))?;
    Mnemonic::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_seal::Signer;
    use nexus_testkit::SeededEntropy;

    #[test]
    fn what_is_derived_at_once_is_what_is_derived_alone() {
        let entropy = Arc::new(SeededEntropy::new(7));
        let mnemonic = Mnemonic::generate(&*entropy);
        // Another implementation of BIP-39.
        assert_eq!(*mnemonic.seed(), mnemonic.0.to_seed_normalized(""));
        let (signer, wallet) = mnemonic.secrets(None, entropy.clone()).unwrap();
        assert_eq!(signer.public_key(), mnemonic.signer(entropy.clone()).unwrap().public_key());
        assert_eq!(wallet.expose_words().expose(), mnemonic.wallet_seed().unwrap().expose_words().expose());
        let stretched = mnemonic.stretched().unwrap();
        let (quick, quick_wallet) = mnemonic.secrets(Some(&stretched), entropy.clone()).unwrap();
        assert_eq!(quick.public_key(), signer.public_key());
        assert_eq!(quick_wallet.expose_words().expose(), wallet.expose_words().expose());
        assert_eq!(quick_wallet.key_for("a"), wallet.key_for("a"));
        let short = Stretched { seed: SecretText::new("AAAA".to_owned()), ..stretched };
        assert!(mnemonic.secrets(Some(&short), entropy).is_err());
    }
}
