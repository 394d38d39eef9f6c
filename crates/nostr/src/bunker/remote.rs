//! A signer elsewhere, used like one at hand.

use std::fmt;

use nexus_core::Npub;
use nexus_seal::signer::MAX_NIP44_PLAINTEXT;
use nexus_seal::{BoxFuture, SecretText, Signer, SignerError};
use nostr::event::{Event, UnsignedEvent};
use serde_json::json;

use super::link::{Link, PERMISSIONS};
use crate::event;

/// A Nostr key that another program holds. Whatever it gives back is checked: it can refuse, it cannot sign something
/// else.
#[derive(Clone)]
pub struct RemoteSigner {
    link: Link,
    user: Npub,
}

impl fmt::Debug for RemoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSigner").field("user", &self.user).field("link", &self.link).finish()
    }
}

impl RemoteSigner {
    /// For a signer that knows this link's client already, and holds the key of `user`.
    pub fn known(link: Link, user: Npub) -> Self {
        Self { link, user }
    }

    /// Introduces the client with the one-time secret of a bunker URI, and asks whose key it is.
    pub async fn connect(link: Link, secret: Option<&SecretText>) -> Result<Self, SignerError> {
        let signer = link.signer.to_hex();
        let secret = secret.map_or("", SecretText::expose);
        let said = link.ask("connect", &[&signer, secret, PERMISSIONS]).await?;
        if said != "ack" && (secret.is_empty() || said != secret) {
            return Err(SignerError::Refused("it did not acknowledge the connection".to_owned()));
        }
        Self::introduced(link).await
    }

    /// For a signer that has connected by itself: asks whose key it holds.
    pub async fn introduced(link: Link) -> Result<Self, SignerError> {
        let user = link.ask("get_public_key", &[]).await?;
        let user = user.parse().map_err(|_| SignerError::Refused("it did not say whose key it holds".to_owned()))?;
        Ok(Self { link, user })
    }

    /// Whether it answers, and still holds this key.
    pub async fn check(&self) -> Result<(), SignerError> {
        let user = self.link.ask("get_public_key", &[]).await?;
        if user.parse() == Ok(self.user) {
            Ok(())
        } else {
            Err(SignerError::Refused("it holds another key now".to_owned()))
        }
    }

    async fn signed(&self, event: UnsignedEvent) -> Result<Event, SignerError> {
        let asked = nexus_seal::event::npub_of(&event.pubkey);
        if asked != self.user {
            return Err(SignerError::WrongKey { asked, own: self.user });
        }
        let id = event.compute_id();
        let question = json!({
            "created_at": event.created_at, "kind": event.kind, "tags": event.tags, "content": event.content,
        });
        let said = self.link.ask("sign_event", &[&question.to_string()]).await?;
        let signed = event::parse_event(said.as_bytes())
            .map_err(|error| SignerError::Refused(format!("what it signed is no event: {error}")))?;
        if signed.id == id {
            Ok(signed)
        } else {
            Err(SignerError::Refused("it signed something else than it was asked".to_owned()))
        }
    }

    async fn cipher(&self, method: &str, peer: &Npub, text: &str) -> Result<String, SignerError> {
        // The question is closed by NIP-44 itself, and has to fit into it.
        if text.is_empty() || text.len() > MAX_NIP44_PLAINTEXT {
            return Err(SignerError::Cipher("a text for a remote signer has 1 to 65535 bytes"));
        }
        self.link.ask(method, &[&peer.to_hex(), text]).await
    }
}

impl Signer for RemoteSigner {
    fn public_key(&self) -> Npub {
        self.user
    }

    fn sign(&self, event: UnsignedEvent) -> BoxFuture<'_, Result<Event, SignerError>> {
        Box::pin(self.signed(event))
    }

    fn nip44_encrypt<'a>(&'a self, peer: &'a Npub, plaintext: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(self.cipher("nip44_encrypt", peer, plaintext))
    }

    fn nip44_decrypt<'a>(&'a self, peer: &'a Npub, ciphertext: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(self.cipher("nip44_decrypt", peer, ciphertext))
    }

    fn nip04_encrypt<'a>(&'a self, peer: &'a Npub, plaintext: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(self.cipher("nip04_encrypt", peer, plaintext))
    }

    fn nip04_decrypt<'a>(&'a self, peer: &'a Npub, ciphertext: &'a str) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(self.cipher("nip04_decrypt", peer, ciphertext))
    }
}
