use nexus_core::Npub;
use nexus_core::time::random;
use nexus_nostr::event::{self, public_key};
use nexus_seal::{BoxFuture, Signer, SignerError};
use nexus_testkit::SystemEntropy;
use nostr::event::{Event, UnsignedEvent};
use nostr::key::{Keys, SecretKey};
use nostr::nips::nip04;
use nostr::nips::nip44::v2::{self, ConversationKey};

/// A key of a test.
pub struct TestSigner(Keys);

impl TestSigner {
    pub fn new(seed: u8) -> Self {
        Self(Keys::new(SecretKey::from_slice(&[seed; 32]).unwrap()))
    }

    pub fn sign_now(&self, unsigned: UnsignedEvent) -> Event {
        event::sign(unsigned, &self.0, &random(&SystemEntropy)).unwrap()
    }

    fn conversation(&self, peer: &Npub) -> ConversationKey {
        ConversationKey::derive(self.0.secret_key(), &public_key(peer)).unwrap()
    }
}

// Base64 without another dependency: the form of NIP-44 payloads.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(bytes: &[u8]) -> String {
    bytes
        .chunks(3)
        .flat_map(|chunk| {
            let bits = chunk.iter().enumerate().fold(0_u32, |bits, (n, byte)| bits | u32::from(*byte) << (16 - 8 * n));
            (0..4).map(move |n| match n <= chunk.len() {
                true => char::from(ALPHABET[(bits >> (18 - 6 * n) & 63) as usize]),
                false => '=',
            })
        })
        .collect()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        bits = bits << 6 | u32::try_from(ALPHABET.iter().position(|known| *known == c)?).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 255) as u8);
        }
    }
    Some(bytes)
}

impl Signer for TestSigner {
    fn public_key(&self) -> Npub {
        event::npub(&self.0.public_key())
    }

    fn sign(&self, event: UnsignedEvent) -> BoxFuture<'_, Result<Event, SignerError>> {
        Box::pin(async move { Ok(self.sign_now(event)) })
    }

    fn nip44_encrypt<'a>(&'a self, peer: &'a Npub, plaintext: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(async move {
            let payload =
                v2::encrypt_to_bytes_with_nonce(&self.conversation(peer), plaintext.as_bytes(), random(&SystemEntropy));
            payload.map(|bytes| encode(&bytes)).map_err(|_| SignerError::Cipher("nip44"))
        })
    }

    fn nip44_decrypt<'a>(&'a self, peer: &'a Npub, ciphertext: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(async move {
            let bytes = decode(ciphertext).ok_or(SignerError::Cipher("nip44"))?;
            let plain = v2::decrypt_to_bytes(&self.conversation(peer), &bytes);
            plain.ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(SignerError::Cipher("nip44"))
        })
    }

    fn nip04_encrypt<'a>(&'a self, peer: &'a Npub, plaintext: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(async move {
            nip04::encrypt_with_iv(self.0.secret_key(), &public_key(peer), plaintext, random(&SystemEntropy))
                .map_err(|_| SignerError::Cipher("nip04"))
        })
    }

    fn nip04_decrypt<'a>(&'a self, peer: &'a Npub, ciphertext: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(async move {
            nip04::decrypt(self.0.secret_key(), &public_key(peer), ciphertext).map_err(|_| SignerError::Cipher("nip04"))
        })
    }
}
