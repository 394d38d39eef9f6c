//! Requests signed by a Nostr key: NIP-98, and the proof that an agent's key agrees to be created.
//!
//! Both are pure checks. The caller refuses an event id that it has seen before, for at least [`WINDOW_SECS`] on
//! either side of now.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::{Hash32, Npub, UnixMs};
use nostr::event::{Event, UnsignedEvent};

use crate::event::{
    EventError, created_at_secs, event_id, expect_tag, npub_of, single_tag, tag, timestamp, unsigned, verify,
};

/// NIP-98 HTTP authorization.
pub const PROOF_KIND: u16 = 27_235;
/// How far `created_at` may be from now, in seconds, either way.
pub const WINDOW_SECS: i64 = 60;
/// Name of the header that carries the agent's proof.
pub const PROOF_HEADER: &str = "Nexus-Proof";
/// Largest header value that is looked at, in bytes.
pub const MAX_HEADER: usize = 16 * 1024;
const SCHEME: &str = "Nostr ";

/// Why a request is not believed to be its sender's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("the authorization header must be `Nostr <base64 of an event>`")]
    Scheme,
    #[error("the header is larger than {MAX_HEADER} bytes")]
    TooLarge,
    #[error("the header is not the base64 of an event")]
    Encoding,
    #[error(transparent)]
    Event(#[from] EventError),
    #[error("the event is {off_secs} seconds off; at most {WINDOW_SECS} are allowed: check the clock")]
    Time { off_secs: i64 },
    #[error("the event is for {found}, but this is {expected}")]
    Url { expected: String, found: String },
    #[error("the event is for another method than {expected}")]
    Method { expected: String },
    #[error("a request with a body needs a `payload` tag with the SHA-256 of the body")]
    PayloadMissing,
    #[error("the event's `payload` is not the SHA-256 of this body")]
    Payload,
}

/// The request as the server knows it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Uppercase.
    pub method: &'a str,
    /// The public URL with its query, built from the configured origin: never from a `Host` header.
    pub url: &'a str,
    /// The raw body; empty when there is none.
    pub body: &'a [u8],
}

/// Who signed a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRequest {
    pub pubkey: Npub,
    /// To be used once.
    pub event_id: Hash32,
    /// Seconds since 1970. The id may be forgotten [`WINDOW_SECS`] after this.
    pub created_at: i64,
    pub event: Event,
}

/// Checks an `Authorization: Nostr …` header: kind 27235, at most 60 s off, exactly one `u` equal to the URL, exactly
/// one `method`, `payload` equal to the body's hash when there is a body, id and signature.
pub fn verify_nip98(header: &str, request: &Request<'_>, now: UnixMs) -> Result<VerifiedRequest, ProofError> {
    let encoded = header.get(..SCHEME.len()).filter(|scheme| scheme.eq_ignore_ascii_case(SCHEME));
    let encoded = encoded.and_then(|_| header.get(SCHEME.len()..)).ok_or(ProofError::Scheme)?;
    check(decode(encoded)?, request, now)
}

/// Checks a `Nexus-Proof` header: as NIP-98, signed by the agent, with exactly one `p`, the owner.
pub fn verify_agent_proof(
    header: &str,
    request: &Request<'_>,
    agent: &Npub,
    owner: &Npub,
    now: UnixMs,
) -> Result<VerifiedRequest, ProofError> {
    let verified = check(decode(header)?, request, now)?;
    if verified.pubkey != *agent {
        return Err(EventError::Author { expected: *agent, found: verified.pubkey }.into());
    }
    expect_tag(&verified.event, "p", &owner.to_hex())?;
    Ok(verified)
}

fn decode(encoded: &str) -> Result<Event, ProofError> {
    if encoded.len() > MAX_HEADER {
        return Err(ProofError::TooLarge);
    }
    let json = STANDARD.decode(encoded.trim()).map_err(|_| ProofError::Encoding)?;
    serde_json::from_slice(&json).map_err(|_| ProofError::Encoding)
}

fn check(event: Event, request: &Request<'_>, now: UnixMs) -> Result<VerifiedRequest, ProofError> {
    if event.kind.as_u16() != PROOF_KIND {
        return Err(EventError::Kind { expected: PROOF_KIND, found: event.kind.as_u16() }.into());
    }
    let created_at = created_at_secs(&event);
    let off_secs = now.secs().saturating_sub(created_at);
    if off_secs.saturating_abs() > WINDOW_SECS {
        return Err(ProofError::Time { off_secs });
    }
    let url = single_tag(&event, "u")?;
    if url != request.url {
        let found = url.chars().take(512).collect();
        return Err(ProofError::Url { expected: request.url.to_owned(), found });
    }
    if single_tag(&event, "method")? != request.method {
        return Err(ProofError::Method { expected: request.method.to_owned() });
    }
    check_payload(&event, request.body)?;
    verify(&event)?;
    Ok(VerifiedRequest { pubkey: npub_of(&event.pubkey), event_id: event_id(&event), created_at, event })
}

fn check_payload(event: &Event, body: &[u8]) -> Result<(), ProofError> {
    let present = event.tags.iter().any(|tag| tag.kind() == "payload");
    match (present, body.is_empty()) {
        (false, true) => Ok(()),
        (false, false) => Err(ProofError::PayloadMissing),
        (true, _) => {
            let hash: Option<Hash32> = single_tag(event, "payload")?.parse().ok();
            if hash == Some(Hash32::sha256(body)) { Ok(()) } else { Err(ProofError::Payload) }
        }
    }
}

/// The event that authorizes a request, for its sender to sign.
pub fn unsigned_request(sender: &Npub, request: &Request<'_>, now: UnixMs) -> UnsignedEvent {
    unsigned(sender, PROOF_KIND, timestamp(now), request_tags(request), String::new())
}

/// The event by which an agent's key agrees to a request of its owner, for the agent to sign.
pub fn unsigned_agent_proof(agent: &Npub, owner: &Npub, request: &Request<'_>, now: UnixMs) -> UnsignedEvent {
    let mut tags = request_tags(request);
    tags.push(tag("p", [owner.to_hex().as_str()]));
    unsigned(agent, PROOF_KIND, timestamp(now), tags, String::new())
}

fn request_tags(request: &Request<'_>) -> Vec<nostr::event::Tag> {
    let mut tags = vec![tag("u", [request.url]), tag("method", [request.method])];
    if !request.body.is_empty() {
        tags.push(tag("payload", [Hash32::sha256(request.body).to_string().as_str()]));
    }
    tags
}

/// The value of the `Authorization` header.
pub fn authorization_header(event: &Event) -> String {
    format!("{SCHEME}{}", proof_header(event))
}

/// The value of the `Nexus-Proof` header.
pub fn proof_header(event: &Event) -> String {
    STANDARD.encode(serde_json::to_string(event).unwrap_or_default())
}
