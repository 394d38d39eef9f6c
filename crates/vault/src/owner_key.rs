//! The owner's key as a file: NIP-49 `ncryptsec`.

use std::sync::Arc;

use nexus_core::Entropy;
use nexus_core::time::random;
use nexus_seal::{MAX_LOG_N, MNEMONIC_LOG_N, Passphrase};
use nostr::nips::nip19::{FromBech32, ToBech32};
use nostr::nips::nip49::{EncryptedSecretKey, KeySecurity};

use crate::error::VaultError;
use crate::signer::LocalSigner;

/// The key as `ncryptsec1…`, under scrypt with N = 2^18. Takes about a second: call it off the async executor.
pub fn encrypt_owner_key(
    signer: &LocalSigner,
    passphrase: &Passphrase,
    entropy: &dyn Entropy,
) -> Result<String, VaultError> {
    let (salt, nonce) = (random(entropy), random(entropy));
    let security = KeySecurity::Medium;
    EncryptedSecretKey::new_with_salt_and_nonce(
        signer.secret_key(),
        passphrase.expose(),
        MNEMONIC_LOG_N,
        security,
        salt,
        nonce,
    )
    .and_then(|sealed| sealed.to_bech32())
    .map_err(|_| VaultError::SecretKey)
}

/// Opens `ncryptsec1…`. Takes about a second: call it off the async executor.
pub fn decrypt_owner_key(
    ncryptsec: &str,
    passphrase: &Passphrase,
    entropy: Arc<dyn Entropy>,
) -> Result<LocalSigner, VaultError> {
    let sealed = EncryptedSecretKey::from_bech32(ncryptsec.trim()).map_err(|_| VaultError::SecretKey)?;
    if sealed.log_n() > MAX_LOG_N {
        return Err(VaultError::TooMuchWork);
    }
    let secret = sealed.decrypt_with_max_log_n(passphrase.expose(), MAX_LOG_N);
    let secret = secret.map_err(|_| VaultError::WrongPassphrase)?;
    LocalSigner::from_secret(secret.as_secret_bytes(), entropy)
}
