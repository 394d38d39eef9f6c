//! LNURL-pay (LUD-06, LUD-16) as whoever zaps speaks it (NIP-57): what is asked, and what an answer means. Nothing here connects.
//!
//! The service is the payee's choice and nobody's friend: what it says is bounded, and its invoice is taken only if it is exactly
//! what was asked for.

use std::net::IpAddr;

use nexus_core::payee::LightningAddress;
use nexus_core::payment::EXPIRY_MARGIN_MS;
use nexus_core::{Hash32, Msat, Npub, UnixMs};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::bolt11::{Bolt11, MAX_BYTES, Network};

/// Most of what a service says in words that is passed on, in characters.
const MAX_REASON: usize = 200;

/// Why there is no invoice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LnurlError {
    /// The service's own words, or that it said nothing readable.
    #[error("{0}")]
    Failed(String),
    /// What it offers is not what would be paid.
    #[error("{0}")]
    Refused(String),
}

impl LnurlError {
    fn unreadable(status: u16) -> Self {
        let why = if (300..400).contains(&status) { "redirects, which is not followed" } else { "is no LNURL-pay" };
        Self::Failed(format!("what the payee's service answers {why} (status {status})"))
    }
}

/// Where the service of an address is asked: by HTTPS; on this machine itself, where development is allowed, by HTTP.
pub fn service_url(address: &LightningAddress, development: bool) -> String {
    let scheme = if development && is_loopback(address.host()) { "http" } else { "https" };
    format!("{scheme}://{}/.well-known/lnurlp/{}", address.host(), address.name().replace('+', "%2B"))
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inner, _)) => inner,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A payee's service that issues receipts for zaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZapService {
    pub callback: Url,
    /// Who signs its receipts.
    pub issuer: Npub,
}

#[derive(Deserialize)]
struct PayRequest {
    tag: String,
    callback: String,
    #[serde(rename = "minSendable")]
    min: u64,
    #[serde(rename = "maxSendable")]
    max: u64,
    #[serde(rename = "allowsNostr", default)]
    allows_nostr: bool,
    #[serde(rename = "nostrPubkey", default)]
    nostr_pubkey: Option<String>,
}

/// The object of an answer that is none of LUD-06's errors.
fn object(status: u16, body: &[u8]) -> Result<Value, LnurlError> {
    let said: Value = serde_json::from_slice(body).map_err(|_| LnurlError::unreadable(status))?;
    if said["status"].as_str().is_some_and(|word| word.eq_ignore_ascii_case("error")) {
        let reason = said["reason"].as_str().unwrap_or("nothing");
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
        return Err(LnurlError::Failed(format!("the payee's service says: {reason}")));
    }
    if (200..300).contains(&status) && said.is_object() { Ok(said) } else { Err(LnurlError::unreadable(status)) }
}

/// Reads a payRequest, for a zap of this amount.
pub fn read_service(status: u16, body: &[u8], amount: Msat) -> Result<ZapService, LnurlError> {
    let said: PayRequest = serde_json::from_value(object(status, body)?).map_err(|_| LnurlError::unreadable(status))?;
    let refused = |why: String| Err(LnurlError::Refused(why));
    if said.tag != "payRequest" {
        return Err(LnurlError::unreadable(status));
    }
    // Without either, what is paid is a payment that nobody confirms, and no zap.
    let issuer = said.nostr_pubkey.filter(|hex| hex.len() == 64).and_then(|hex| hex.parse().ok());
    let Some(issuer) = issuer.filter(|_| said.allows_nostr) else {
        return refused("payee cannot be zapped: its service issues no receipts (allowsNostr, nostrPubkey)".into());
    };
    if !(said.min..=said.max).contains(&amount.as_u64()) {
        return refused(format!("the payee takes {} to {} msat", said.min, said.max));
    }
    let callback = Url::parse(&said.callback).map_err(|_| LnurlError::unreadable(status))?;
    Ok(ZapService { callback, issuer })
}

impl ZapService {
    /// The question for an invoice. `request` is the signed 9734 as JSON.
    pub fn question(&self, amount: Msat, request: &str) -> String {
        let mut url = self.callback.clone();
        url.set_fragment(None);
        let asked = format!("amount={}&nostr={}", amount.as_u64(), percent_encoded(request));
        let query = match url.query().filter(|query| !query.is_empty()) {
            Some(query) => format!("{query}&{asked}"),
            None => asked,
        };
        url.set_query(Some(&query));
        url.into()
    }
}

/// Every byte but RFC 3986's unreserved ones: no service reads it in two ways.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Reads the answer to [`ZapService::question`]: the invoice as text, not yet believed.
pub fn read_invoice(status: u16, body: &[u8]) -> Result<String, LnurlError> {
    let said = object(status, body)?;
    let invoice = said["pr"].as_str().filter(|text| text.len() <= MAX_BYTES);
    invoice.map(str::to_owned).ok_or_else(|| LnurlError::unreadable(status))
}

/// What an invoice has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub network: Network,
    pub amount: Msat,
    /// SHA-256 of the 9734 as it was sent.
    pub description_hash: Hash32,
    pub now: UnixMs,
    /// How far ahead it may expire at most, in seconds.
    pub expiry_max_secs: u32,
}

impl Wanted {
    /// Reads an invoice that is exactly this.
    pub fn check(&self, text: &str) -> Result<Bolt11, LnurlError> {
        let refused = |why: String| Err(LnurlError::Refused(why));
        let invoice = Bolt11::decode(text).map_err(|error| LnurlError::Refused(error.to_string()))?;
        if invoice.network != self.network {
            return refused(format!("an invoice for {}, this wallet is on {}", invoice.network, self.network));
        }
        match invoice.amount {
            Some(amount) if amount == self.amount => {}
            Some(amount) => return refused(format!("an invoice over {amount}, asked for was {}", self.amount)),
            None => return refused("an invoice without an amount".into()),
        }
        if invoice.committed() != Some(self.description_hash) {
            return refused("the invoice does not commit to the zap request".into());
        }
        if invoice.expires_at > self.now.plus_ms(i64::from(self.expiry_max_secs) * 1_000) {
            return refused("the invoice expires too far ahead".into());
        }
        if invoice.expires_at < self.now.plus_ms(2 * EXPIRY_MARGIN_MS) {
            return refused("the invoice expires too soon".into());
        }
        Ok(invoice)
    }
}

/// Fuzz target: whatever a service says is a service, an invoice or an error.
pub fn fuzz(data: &[u8]) {
    let (status, body) =
        data.split_at_checked(1).map_or((200, data), |(first, rest)| (u16::from(first[0]) + 100, rest));
    if let Ok(service) = read_service(status, body, Msat::sats(1)) {
        let asked = service.question(Msat::sats(1), "{\"kind\":9734}");
        assert!(Url::parse(&asked).is_ok_and(|url| url.host() == service.callback.host()));
    }
    if let Ok(invoice) = read_invoice(status, body) {
        assert!(invoice.len() <= MAX_BYTES);
    }
}

#[cfg(test)]
mod tests;
