//! A key that signs, for documents that tests make.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test")]

use nexus_core::{Npub, UnixMs};
use nexus_seal::event::npub_of;
use nostr::event::{Event, UnsignedEvent};
use nostr::key::{Keys, SecretKey};

pub const NOW: UnixMs = UnixMs::from_secs(1_790_000_000);

pub struct Key(Keys);

impl Key {
    pub fn new(number: u8) -> Self {
        Self(Keys::new(SecretKey::from_slice(&[number; 32]).unwrap()))
    }

    pub fn npub(&self) -> Npub {
        npub_of(&self.0.public_key())
    }

    pub fn sign(&self, event: UnsignedEvent) -> Event {
        let id = event.compute_id();
        let signature = self.0.sign_schnorr_with_aux_rand(secp256k1::SECP256K1, id.as_bytes(), &[7; 32]);
        Event::new(id, event.pubkey, event.created_at, event.kind, event.tags, event.content, signature)
    }
}
