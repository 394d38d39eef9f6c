//! Standard Webhooks signatures, incoming and outgoing (<https://www.standardwebhooks.com>).
//!
//! `webhook-signature` holds one or more `v1,<base64>`, HMAC-SHA-256 over `<id>.<timestamp>.<body>`; several, because a
//! sender signs with the old and the new key while one replaces the other. Versions that are not known are passed over.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use nexus_core::time::random;
use nexus_core::{Entropy, UnixMs};
use sha2::Sha256;

use crate::secret::{SecretBytes, SecretText};

/// How far `webhook-timestamp` may be from now, in seconds, either way. Ids are remembered at least as long.
pub const TOLERANCE_SECS: i64 = 300;
/// Keys of one hook: the current one, and those that it replaces.
pub const MAX_KEYS: usize = 4;
/// The header names, in lower case.
pub const ID_HEADER: &str = "webhook-id";
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
pub const SIGNATURE_HEADER: &str = "webhook-signature";

const PREFIX: &str = "whsec_";
/// Bytes of a key: what the specification asks for.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const MAX_ID: usize = 256;
const MAX_SIGNATURES: usize = 16;
const MAX_HEADER: usize = 4 * 1024;

/// Why a webhook is not believed, or cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    #[error("the webhook secret must be `whsec_` and the base64 of 24 to 64 bytes")]
    Secret,
    #[error("webhook-id must have 1 to {MAX_ID} visible ASCII characters, and no `.`")]
    Id,
    #[error("webhook-timestamp must be seconds since 1970")]
    Timestamp,
    #[error("the webhook is {off_secs} seconds off; at most {TOLERANCE_SECS} are allowed: check the sender's clock")]
    Time { off_secs: i64 },
    #[error("webhook-signature has no signature of version v1")]
    NoSignature,
    #[error("webhook-signature fits none of the hook's keys")]
    Signature,
}

/// The key of one hook. Shown to its owner once.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookKey(SecretBytes);

impl fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookKey(…)")
    }
}

impl WebhookKey {
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(SecretBytes::new(random::<32>(entropy).to_vec()))
    }

    /// Reads `whsec_…`.
    pub fn parse(text: &str) -> Result<Self, WebhookError> {
        let encoded = text.trim().strip_prefix(PREFIX).filter(|encoded| encoded.len() <= 128);
        let bytes = encoded.and_then(|encoded| STANDARD.decode(encoded).ok()).map(SecretBytes::new);
        bytes.filter(|bytes| KEY_BYTES.contains(&bytes.expose().len())).map(Self).ok_or(WebhookError::Secret)
    }

    /// `whsec_…`, for the one time that it is shown, and for the other side's settings.
    pub fn expose_text(&self) -> SecretText {
        SecretText::new(format!("{PREFIX}{}", STANDARD.encode(self.0.expose())))
    }

    fn mac(&self, id: &str, timestamp: i64, body: &[u8]) -> Result<Hmac<Sha256>, WebhookError> {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(self.0.expose()).map_err(|_| WebhookError::Secret)?;
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        Ok(mac)
    }
}

/// The three headers of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookHeaders<'a> {
    pub id: &'a str,
    pub timestamp: &'a str,
    pub signature: &'a str,
}

/// A webhook that its sender's key signed. Its body is data from outside all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedWebhook {
    /// To be taken once: the same id again is the same event, sent again.
    pub id: String,
    /// Seconds since 1970.
    pub timestamp: i64,
}

/// Checks a webhook against a hook's keys. Comparisons take the same time wherever they differ.
pub fn verify_webhook(
    headers: &WebhookHeaders<'_>,
    body: &[u8],
    keys: &[WebhookKey],
    now: UnixMs,
) -> Result<VerifiedWebhook, WebhookError> {
    check_id(headers.id)?;
    let digits = (1..=12).contains(&headers.timestamp.len()) && headers.timestamp.bytes().all(|b| b.is_ascii_digit());
    let timestamp: i64 = digits.then(|| headers.timestamp.parse().ok()).flatten().ok_or(WebhookError::Timestamp)?;
    let off_secs = now.secs().saturating_sub(timestamp);
    if off_secs.saturating_abs() > TOLERANCE_SECS {
        return Err(WebhookError::Time { off_secs });
    }
    if headers.signature.len() > MAX_HEADER {
        return Err(WebhookError::NoSignature);
    }
    let signatures: Vec<Vec<u8>> = headers
        .signature
        .split(' ')
        .filter_map(|part| STANDARD.decode(part.strip_prefix("v1,")?).ok())
        .take(MAX_SIGNATURES)
        .collect();
    if signatures.is_empty() {
        return Err(WebhookError::NoSignature);
    }
    for key in keys.iter().take(MAX_KEYS) {
        // The timestamp as it was sent is what was signed; leading zeros would be another text.
        let mac = key.mac(headers.id, timestamp, body)?;
        if headers.timestamp == timestamp.to_string()
            && signatures.iter().any(|signature| mac.clone().verify_slice(signature).is_ok())
        {
            return Ok(VerifiedWebhook { id: headers.id.to_owned(), timestamp });
        }
    }
    Err(WebhookError::Signature)
}

/// The `webhook-signature` of an outgoing webhook, with each of the keys in use. A repeat has the same id and a new
/// timestamp.
pub fn sign_webhook(id: &str, now: UnixMs, body: &[u8], keys: &[WebhookKey]) -> Result<String, WebhookError> {
    check_id(id)?;
    if keys.is_empty() || keys.len() > MAX_KEYS {
        return Err(WebhookError::Secret);
    }
    let mut parts = Vec::with_capacity(keys.len());
    for key in keys {
        let mac = key.mac(id, now.secs(), body)?.finalize().into_bytes();
        parts.push(format!("v1,{}", STANDARD.encode(mac)));
    }
    Ok(parts.join(" "))
}

/// A dot would let a part of the id pass for the timestamp.
fn check_id(id: &str) -> Result<(), WebhookError> {
    let fine = (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic() && b != b'.');
    if fine { Ok(()) } else { Err(WebhookError::Id) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_testkit::SeededEntropy;
    use proptest::prelude::*;

    // The example that the specification's reference libraries test with.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const AT: UnixMs = UnixMs::from_secs(1_614_265_330);

    fn verify(
        signature: &str,
        timestamp: &str,
        body: &[u8],
        keys: &[WebhookKey],
    ) -> Result<VerifiedWebhook, WebhookError> {
        verify_webhook(&WebhookHeaders { id: ID, timestamp, signature }, body, keys, AT)
    }

    #[test]
    fn the_known_answer() {
        let key = WebhookKey::parse(SECRET).unwrap();
        assert_eq!(sign_webhook(ID, AT, BODY, std::slice::from_ref(&key)).unwrap(), SIGNATURE);
        let found = verify(SIGNATURE, "1614265330", BODY, std::slice::from_ref(&key)).unwrap();
        assert_eq!((found.id.as_str(), found.timestamp), (ID, 1_614_265_330));
        assert_eq!(key.expose_text().expose(), SECRET);
        assert_eq!(format!("{key:?}"), "WebhookKey(…)");
    }

    #[test]
    fn keys_change_without_a_gap() {
        let entropy = SeededEntropy::new(1);
        let (old, new) = (WebhookKey::generate(&entropy), WebhookKey::generate(&entropy));
        let both = sign_webhook(ID, AT, BODY, &[new.clone(), old.clone()]).unwrap();
        for keys in [vec![old.clone()], vec![new.clone()], vec![new.clone(), old.clone()]] {
            verify(&both, "1614265330", BODY, &keys).unwrap();
        }
        let by_old = sign_webhook(ID, AT, BODY, std::slice::from_ref(&old)).unwrap();
        verify(&by_old, "1614265330", BODY, &[new.clone(), old]).unwrap();
        assert_eq!(verify(&by_old, "1614265330", BODY, &[new]), Err(WebhookError::Signature));
        // Versions that are not known stand beside ours.
        verify(&format!("v1a,AAAA v2,x {by_old}"), "1614265330", BODY, &[]).unwrap_err();
        assert_eq!(verify("v1a,AAAA", "1614265330", BODY, &[]), Err(WebhookError::NoSignature));
    }

    #[test]
    fn a_replay_a_change_and_nonsense_are_refused() {
        let keys = [WebhookKey::parse(SECRET).unwrap()];
        let at = |off: i64| {
            let headers = WebhookHeaders { id: ID, timestamp: "1614265330", signature: SIGNATURE };
            verify_webhook(&headers, BODY, &keys, UnixMs::from_secs(AT.secs() + off)).map(drop)
        };
        for off in [TOLERANCE_SECS, -TOLERANCE_SECS] {
            at(off).unwrap();
            assert_eq!(at(off + off.signum()), Err(WebhookError::Time { off_secs: off + off.signum() }));
        }
        for at in 0..BODY.len() {
            let mut changed = BODY.to_vec();
            changed[at] ^= 1;
            assert_eq!(verify(SIGNATURE, "1614265330", &changed, &keys), Err(WebhookError::Signature));
        }
        assert_eq!(verify(SIGNATURE, "1614265331", BODY, &keys), Err(WebhookError::Signature));
        assert_eq!(verify(SIGNATURE, "01614265330", BODY, &keys), Err(WebhookError::Signature));
        for bad in ["", "now", "-1", "+1614265330", "1614265330.5", "9999999999999999999"] {
            assert_eq!(verify(SIGNATURE, bad, BODY, &keys), Err(WebhookError::Timestamp), "{bad}");
        }
        for bad in ["", "v1", "v1,", "v1,!", &"v1,AAAA ".repeat(1_000)] {
            assert!(verify(bad, "1614265330", BODY, &keys).is_err(), "{bad}");
        }
        for id in ["", "a.b", "a b", "é", &"x".repeat(257)] {
            assert_eq!(sign_webhook(id, AT, BODY, &keys), Err(WebhookError::Id), "{id}");
            let headers = WebhookHeaders { id, timestamp: "1614265330", signature: SIGNATURE };
            assert_eq!(verify_webhook(&headers, BODY, &keys, AT), Err(WebhookError::Id));
        }
        for secret in [
            "",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_",
            "whsec_c2hvcnQ=",
            "whsec_!",
            &format!("whsec_{}", "A".repeat(256)),
        ] {
            assert_eq!(WebhookKey::parse(secret), Err(WebhookError::Secret), "{secret}");
        }
        assert_eq!(sign_webhook(ID, AT, BODY, &[]), Err(WebhookError::Secret));
    }

    proptest! {
        #[test]
        fn any_headers_are_refused_or_signed(id in "\\PC{0,12}", timestamp in "[0-9.-]{0,14}", signature in "(v1,)?[A-Za-z0-9+/= ]{0,50}") {
            let keys = [WebhookKey::parse(SECRET).unwrap()];
            let headers = WebhookHeaders { id: &id, timestamp: &timestamp, signature: &signature };
            prop_assert!(verify_webhook(&headers, BODY, &keys, AT).is_err());
        }
    }
}
