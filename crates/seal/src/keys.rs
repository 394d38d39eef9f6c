//! What a wrap of one of an agent's keys holds, once opened.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::Npub;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::api::WrapKey;
use crate::secret::{SecretBytes, SecretText, to_secret_json};

/// The plaintext of a wrap. It names agent, key and number, so that no wrap can stand in for another.
pub struct WrapPlaintext {
    pub npub: Npub,
    pub key: WrapKey,
    pub number: u32,
    /// 32 bytes.
    pub secret: SecretBytes,
}

/// A wrap that opened to something else than its label says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    #[error("the wrap's plaintext is not a wrap")]
    Malformed,
    #[error("the wrap of {expected:?} key {number} of {npub} holds something else")]
    Mismatch { npub: Npub, expected: WrapKey, number: u32 },
}

#[derive(Serialize)]
struct Closing<'a> {
    npub: Npub,
    key: WrapKey,
    number: u32,
    secret: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Opened {
    npub: Npub,
    key: WrapKey,
    number: u32,
    /// Base64.
    secret: SecretText,
}

impl WrapPlaintext {
    /// The text that is encrypted to the wrap's recipient. The only place where it is written out.
    pub fn to_text(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(STANDARD.encode(self.secret.expose()));
        let wrap = Closing { npub: self.npub, key: self.key, number: self.number, secret: &secret };
        let json = to_secret_json(&wrap).unwrap_or_default();
        Zeroizing::new(std::str::from_utf8(&json).unwrap_or_default().to_owned())
    }

    /// Reads a decrypted wrap, and checks that it is the one expected.
    pub fn from_text(text: &str, npub: &Npub, key: WrapKey, number: u32) -> Result<SecretBytes, WrapError> {
        let wrap: Opened = serde_json::from_str(text).map_err(|_| WrapError::Malformed)?;
        if (&wrap.npub, wrap.key, wrap.number) != (npub, key, number) {
            return Err(WrapError::Mismatch { npub: *npub, expected: key, number });
        }
        let secret = STANDARD.decode(wrap.secret.expose()).map_err(|_| WrapError::Malformed)?;
        let secret = SecretBytes::new(secret);
        if secret.expose().len() == 32 { Ok(secret) } else { Err(WrapError::Malformed) }
    }
}
