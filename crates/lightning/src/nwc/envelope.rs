//! Signed and encrypted: what goes over relays, and what comes back.

use nexus_core::time::random;
use nexus_core::{Entropy, Hash32, UnixMs};
use nostr::event::{Event, EventId, Kind, Tag, UnsignedEvent};
use nostr::nips::{nip04, nip44};
use nostr::types::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::connection::Connection;
use super::message::{MessageError, Request, Response, read_paid};

pub(super) const INFO: u16 = 13_194;
const REQUEST: u16 = 23_194;
pub(super) const RESPONSE: u16 = 23_195;
/// Told in NIP-04 and in NIP-44.
const NOTIFICATIONS: [u16; 2] = [23_196, 23_197];
/// NIP-44's largest payload is 87,472 bytes of base64.
const MAX_CONTENT_BYTES: usize = 96 * 1024;
const MAX_METHODS: usize = 100;
const PAID: &str = "payment_received";

/// How a connection's messages are encrypted. Both ends use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    Nip44V2,
    /// Of wallets that know nothing better.
    Nip04,
}

impl Encryption {
    /// What a request of ours is encrypted with, by its own tag.
    pub(super) fn of(request: &Event) -> Self {
        match tagged(request, "encryption") {
            Some("nip44_v2") => Self::Nip44V2,
            Some(_) | None => Self::Nip04,
        }
    }

    /// The kind of the notifications that are encrypted so.
    pub(super) const fn notification(self) -> u16 {
        match self {
            Self::Nip04 => NOTIFICATIONS[0],
            Self::Nip44V2 => NOTIFICATIONS[1],
        }
    }
}

/// What a wallet says that it can do, in its info event (kind 13194).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    pub methods: Vec<String>,
    /// The best that both ends know.
    pub encryption: Encryption,
    /// Whether it tells of what it was paid.
    pub tells: bool,
}

/// Why an event is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("an event of another kind")]
    Kind,
    #[error("an event of somebody else, or with a wrong signature")]
    Author,
    #[error("an answer to another request, or to somebody else")]
    NotOurs,
    #[error("the wallet knows no encryption that is known here")]
    Encryption,
    #[error("what was encrypted does not open")]
    Sealed,
    #[error("the request is too large to be encrypted")]
    TooLarge,
    #[error(transparent)]
    Message(#[from] MessageError),
}

fn tagged<'a>(event: &'a Event, name: &str) -> Option<&'a str> {
    event
        .tags
        .iter()
        .map(Tag::as_slice)
        .find(|row| row.first().is_some_and(|it| it == name))?
        .get(1)
        .map(String::as_str)
}

fn of_the_wallet(connection: &Connection, event: &Event, kind: u16) -> Result<(), EnvelopeError> {
    if event.kind != Kind::from_u16(kind) {
        return Err(EnvelopeError::Kind);
    }
    if event.pubkey != *connection.wallet() || event.content.len() > MAX_CONTENT_BYTES || event.verify().is_err() {
        return Err(EnvelopeError::Author);
    }
    Ok(())
}

/// Reads the wallet's info event. Without an `encryption` tag a wallet knows NIP-04 alone.
pub fn read_info(connection: &Connection, event: &Event) -> Result<Info, EnvelopeError> {
    of_the_wallet(connection, event, INFO)?;
    let schemes = tagged(event, "encryption").unwrap_or("nip04");
    let knows = |scheme: &str| schemes.split_whitespace().any(|it| it == scheme);
    let encryption = match (knows("nip44_v2"), knows("nip04")) {
        (true, _) => Encryption::Nip44V2,
        (false, true) => Encryption::Nip04,
        (false, false) => return Err(EnvelopeError::Encryption),
    };
    let methods = event.content.split_whitespace().take(MAX_METHODS).map(str::to_owned).collect();
    let tells = tagged(event, "notifications").is_some_and(|it| it.split_whitespace().any(|it| it == PAID));
    Ok(Info { methods, encryption, tells })
}

/// The signed request, to be stored before it is published, and published again as it is: a wallet does what an event
/// asks at most once. It is not to be heeded after `expires_at`.
pub fn seal_request(
    connection: &Connection,
    request: &Request,
    encryption: Encryption,
    now: UnixMs,
    expires_at: UnixMs,
    entropy: &dyn Entropy,
) -> Result<Event, EnvelopeError> {
    let seconds = |at: UnixMs| u64::try_from(at.secs()).unwrap_or(0);
    let (keys, wallet) = (connection.keys(), connection.wallet());
    let text = request.to_json();
    let mut tags =
        vec![Tag::custom("p", [wallet.to_hex()]), Tag::custom("expiration", [seconds(expires_at).to_string()])];
    let content = match encryption {
        Encryption::Nip44V2 => {
            tags.push(Tag::custom("encryption", ["nip44_v2"]));
            let nonce = nip44::Nonce::V2(random(entropy));
            nip44::encrypt_with_nonce(keys.secret_key(), wallet, text, nonce).map_err(|_| EnvelopeError::TooLarge)?
        }
        Encryption::Nip04 => nip04::encrypt_with_iv(keys.secret_key(), wallet, text, random(entropy))
            .map_err(|_| EnvelopeError::TooLarge)?,
    };
    let at = Timestamp::from_secs(seconds(now));
    let unsigned = UnsignedEvent::new(connection.client(), at, Kind::from_u16(REQUEST), tags, content);
    let aux = Zeroizing::new(random::<32>(entropy));
    let id = unsigned.compute_id();
    let signature = keys.sign_schnorr_with_aux_rand(secp256k1::SECP256K1, id.as_bytes(), &aux);
    unsigned.add_signature(signature).map_err(|_| EnvelopeError::Author)
}

/// Opens the answer to a request of ours. Anything that is not certainly that answer is an error and says nothing about
/// the request.
pub fn open_response(
    connection: &Connection,
    event: &Event,
    request: &EventId,
    method: &str,
    encryption: Encryption,
) -> Result<Response, EnvelopeError> {
    of_the_wallet(connection, event, RESPONSE)?;
    let ours = tagged(event, "e").is_some_and(|it| it.eq_ignore_ascii_case(&request.to_hex()));
    let to_us = tagged(event, "p").is_none_or(|it| it.eq_ignore_ascii_case(&connection.client().to_hex()));
    if !ours || !to_us {
        return Err(EnvelopeError::NotOurs);
    }
    let text = opened(connection, event, encryption)?;
    Ok(Response::read(&text, method)?)
}

fn opened(connection: &Connection, event: &Event, encryption: Encryption) -> Result<Zeroizing<String>, EnvelopeError> {
    let (secret, wallet) = (connection.keys().secret_key(), connection.wallet());
    let text = match encryption {
        Encryption::Nip44V2 => nip44::decrypt(secret, wallet, &event.content).map_err(|_| EnvelopeError::Sealed)?,
        Encryption::Nip04 => nip04::decrypt(secret, wallet, &event.content).map_err(|_| EnvelopeError::Sealed)?,
    };
    Ok(Zeroizing::new(text))
}

/// The hash that a wallet says was paid to it; none for other notifications. A hint, to be looked up.
pub fn read_notification(
    connection: &Connection,
    event: &Event,
    encryption: Encryption,
) -> Result<Option<Hash32>, EnvelopeError> {
    of_the_wallet(connection, event, encryption.notification())?;
    if tagged(event, "p").is_none_or(|it| !it.eq_ignore_ascii_case(&connection.client().to_hex())) {
        return Err(EnvelopeError::NotOurs);
    }
    let text = opened(connection, event, encryption)?;
    Ok(read_paid(&text, PAID)?)
}
