//! Who owns an account, and how a request proves it.

use std::fmt;
use std::str::FromStr;

use bitcoin::hashes::{Hash, HashEngine, Hmac, HmacEngine, sha256};
use bitcoin::secp256k1::{All, Keypair, Message, Secp256k1, SecretKey, XOnlyPublicKey, schnorr};
use serde::{Deserialize, Serialize};

/// An account's public name: an x-only public key (BIP 340), in hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Party([u8; 32]);

impl Party {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Party {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Party {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Party {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

pub(super) fn secp() -> &'static Secp256k1<All> {
    static CONTEXT: std::sync::LazyLock<Secp256k1<All>> = std::sync::LazyLock::new(Secp256k1::new);
    &CONTEXT
}

/// The secret that owns an account.
#[derive(Clone)]
pub struct AccountKey {
    pair: Keypair,
    party: Party,
}

impl AccountKey {
    /// The account key of a wallet seed (any bytes, at least 16): HMAC-SHA256 under a name of its own, so that the seed
    /// serves other wallets too and none learns another's key.
    pub fn from_wallet_seed(seed: &[u8]) -> Self {
        let mut counter = 0_u32;
        loop {
            let mut engine = HmacEngine::<sha256::Hash>::new(b"nexus development network account 1");
            engine.input(seed);
            engine.input(&counter.to_be_bytes());
            let bytes = Hmac::from_engine(engine).to_byte_array();
            // All but 2^-128 of all values are keys.
            if let Some(key) = Self::from_secret(bytes) {
                return key;
            }
            counter = counter.wrapping_add(1);
        }
    }

    /// None for the few values that are not secp256k1 keys.
    pub fn from_secret(mut bytes: [u8; 32]) -> Option<Self> {
        let secret = SecretKey::from_slice(&bytes);
        zeroize::Zeroize::zeroize(&mut bytes);
        let pair = Keypair::from_secret_key(secp(), &secret.ok()?);
        let party = Party(pair.x_only_public_key().0.serialize());
        Some(Self { pair, party })
    }

    pub const fn party(&self) -> Party {
        self.party
    }

    pub(super) fn sign(&self, digest: [u8; 32], aux: &[u8; 32]) -> [u8; 64] {
        secp().sign_schnorr_with_aux_rand(&Message::from_digest(digest), &self.pair, aux).serialize()
    }
}

impl Drop for AccountKey {
    fn drop(&mut self) {
        self.pair.non_secure_erase();
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountKey({})", self.party)
    }
}

pub(super) fn verify(party: Party, digest: [u8; 32], signature: &[u8; 64]) -> bool {
    let (Ok(key), Ok(signature)) = (XOnlyPublicKey::from_slice(&party.0), schnorr::Signature::from_slice(signature))
    else {
        return false;
    };
    secp().verify_schnorr(&signature, &Message::from_digest(digest), &key).is_ok()
}
