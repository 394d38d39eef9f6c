//! Closing something to an age X25519 recipient: a pool, or an agent's inbox.

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use age::armor::{ArmoredWriter, Format};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Largest plaintext of an envelope to a recipient, in bytes.
pub const MAX_SEALED_PLAINTEXT: usize = 1024 * 1024;

/// A text that is not an X25519 recipient, or a plaintext over its bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipientError {
    #[error("not an age X25519 recipient (age1…)")]
    Malformed,
    #[error("more than {MAX_SEALED_PLAINTEXT} bytes to seal")]
    TooLarge,
    #[error("sealing failed: {0}")]
    Failed(String),
}

/// An age X25519 recipient, `age1…`. Public.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(String);

impl Recipient {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn key(&self) -> Result<age::x25519::Recipient, RecipientError> {
        self.0.parse().map_err(|_| RecipientError::Malformed)
    }
}

impl From<&age::x25519::Recipient> for Recipient {
    fn from(key: &age::x25519::Recipient) -> Self {
        Self(key.to_string())
    }
}

impl FromStr for Recipient {
    type Err = RecipientError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key: age::x25519::Recipient = text.parse().map_err(|_| RecipientError::Malformed)?;
        Ok(Self::from(&key))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Recipient {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Recipient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A binary age file that only the holder of the recipient's identity opens. Says nothing about who closed it.
///
/// The file key comes from the operating system's randomness, inside the age library.
pub fn seal_to_recipient(recipient: &Recipient, plaintext: &[u8]) -> Result<Vec<u8>, RecipientError> {
    seal(recipient, plaintext, Format::Binary)
}

/// The same as an armored text.
pub fn seal_to_recipient_armored(recipient: &Recipient, plaintext: &[u8]) -> Result<String, RecipientError> {
    let bytes = seal(recipient, plaintext, Format::AsciiArmor)?;
    String::from_utf8(bytes).map_err(|error| RecipientError::Failed(error.to_string()))
}

fn seal(recipient: &Recipient, plaintext: &[u8], format: Format) -> Result<Vec<u8>, RecipientError> {
    if plaintext.len() > MAX_SEALED_PLAINTEXT {
        return Err(RecipientError::TooLarge);
    }
    let key = recipient.key()?;
    encrypt(&key, plaintext, format).map_err(RecipientError::Failed)
}

/// One age file to one recipient of any type.
pub(crate) fn encrypt(to: &dyn age::Recipient, plaintext: &[u8], format: Format) -> Result<Vec<u8>, String> {
    let encryptor = age::Encryptor::with_recipients(std::iter::once(to)).map_err(|error| error.to_string())?;
    let mut file = Vec::with_capacity(plaintext.len() * 3 / 2 + 512);
    let run = |file: &mut Vec<u8>| -> std::io::Result<()> {
        let mut writer = encryptor.wrap_output(ArmoredWriter::wrap_output(file, format)?)?;
        writer.write_all(plaintext)?;
        writer.finish()?.finish()?;
        Ok(())
    };
    run(&mut file).map_err(|error| error.to_string())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_x25519_recipients_are_taken() {
        // The recipient of age's own documentation.
        let text = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        let recipient: Recipient = text.parse().unwrap();
        assert_eq!(serde_json::to_value(&recipient).unwrap(), text);
        for bad in ["", "age1", "ssh-ed25519 AAAA", &text.replace("ac8p", "ac8q")] {
            assert_eq!(bad.parse::<Recipient>().unwrap_err(), RecipientError::Malformed, "{bad}");
        }
    }

    #[test]
    fn an_age_identity_opens_what_was_sealed() {
        let identity = age::x25519::Identity::generate();
        let recipient: Recipient = identity.to_public().to_string().parse().unwrap();
        let binary = seal_to_recipient(&recipient, b"hello").unwrap();
        let armored = seal_to_recipient_armored(&recipient, b"hello").unwrap();
        assert_eq!(age::decrypt(&identity, &binary).unwrap(), b"hello");
        assert_eq!(age::decrypt(&identity, armored.as_bytes()).unwrap(), b"hello");
        let large = vec![0; MAX_SEALED_PLAINTEXT + 1];
        assert_eq!(seal_to_recipient(&recipient, &large).unwrap_err(), RecipientError::TooLarge);
    }
}
