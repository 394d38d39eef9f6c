//! Zaps (NIP-57), as messages. A receipt is not proof of payment: money is counted by the wallet alone.

use nexus_core::{Hash32, Msat, Npub};
use nostr::event::{Event, UnsignedEvent};

use crate::event::{self, EventError, Head, tag};
use crate::kinds;

/// A zap receipt's own story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zap {
    /// Who wrote the receipt: to be compared with the `nostrPubkey` of the receiver's LNURL.
    pub issuer: Npub,
    pub sender: Npub,
    /// As the request asked; to be compared with the invoice.
    pub amount: Option<Msat>,
    pub bolt11: String,
    pub comment: String,
}

/// Reads a verified 9735 to `me`: the request inside must itself be valid, and name one receiver, this one.
pub fn read_receipt(receipt: &Event, me: &Npub) -> Result<Zap, EventError> {
    event::expect_kind(receipt, kinds::ZAP_RECEIPT)?;
    let description = event::first(receipt, "description").ok_or(EventError::Invalid("a receipt without a request"))?;
    let request = event::parse_event(description.as_bytes())?;
    event::expect_kind(&request, kinds::ZAP_REQUEST)?;
    if event::mentioned(&request, 2) != [*me] || event::mentioned(receipt, 2) != [*me] {
        return Err(EventError::Invalid("a zap for somebody else"));
    }
    let amount = event::first(&request, "amount").and_then(|text| text.parse::<u64>().ok());
    Ok(Zap {
        issuer: event::npub(&receipt.pubkey),
        sender: event::npub(&request.pubkey),
        amount: amount.and_then(|msat| Msat::try_from(msat).ok()),
        bolt11: event::first(receipt, "bolt11").ok_or(EventError::Invalid("a receipt without an invoice"))?.to_owned(),
        comment: request.content,
    })
}

/// What is known of the invoice in a receipt, once its text was parsed and its signature checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZapInvoice {
    /// None for an invoice that leaves the amount open.
    pub amount: Option<Msat>,
    /// The `h` field: the hash of what it is for. An invoice with a description in clear has none.
    pub description_hash: Option<Hash32>,
}

/// Why a receipt is not one of the receiver's own service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZapError {
    #[error(transparent)]
    Event(#[from] EventError),
    #[error("the receipt is by {found}, the receiver's LNURL names {expected}")]
    Issuer { expected: Npub, found: Npub },
    #[error("the receipt's invoice does not commit to its request: its description hash is another")]
    Description,
    #[error("the invoice is over {invoice:?}, the request asked for {request:?}")]
    Amount { request: Option<Msat>, invoice: Option<Msat> },
    #[error("the request's `lnurl` is not the receiver's")]
    Lnurl,
    #[error("the receipt names another sender than its request")]
    Sender,
}

/// Checks a verified 9735 as NIP-57 has it: by the key that the receiver's LNURL names, over an invoice that commits to
/// the request inside and is of its amount. `lnurl` is the receiver's, as bech32, for requests that name one.
///
/// What passes was issued by the receiver's service. It is still no proof of payment: money is counted by the wallet.
pub fn validate_receipt(
    receipt: &Event,
    me: &Npub,
    issuer: &Npub,
    lnurl: Option<&str>,
    invoice: &ZapInvoice,
) -> Result<Zap, ZapError> {
    let zap = read_receipt(receipt, me)?;
    if zap.issuer != *issuer {
        return Err(ZapError::Issuer { expected: *issuer, found: zap.issuer });
    }
    // `read_receipt` found a description; what is hashed is its text, to the byte.
    let description = event::first(receipt, "description").unwrap_or_default();
    if invoice.description_hash != Some(Hash32::sha256(description.as_bytes())) {
        return Err(ZapError::Description);
    }
    let request = event::parse_event(description.as_bytes())?;
    if event::first(&request, "amount").is_some() && zap.amount != invoice.amount || invoice.amount.is_none() {
        return Err(ZapError::Amount { request: zap.amount, invoice: invoice.amount });
    }
    let named = event::first(&request, "lnurl");
    if let (Some(named), Some(own)) = (named, lnurl)
        && !named.eq_ignore_ascii_case(own)
    {
        return Err(ZapError::Lnurl);
    }
    if event::first(receipt, "P").is_some_and(|sender| sender.parse() != Ok(zap.sender)) {
        return Err(ZapError::Sender);
    }
    Ok(Zap { amount: invoice.amount, ..zap })
}

/// What a receipt is issued for: the request as it came with the LNURL callback, checked as NIP-57 asks of a service.
pub fn check_request(json: &str, me: &Npub, amount: Msat) -> Result<Event, EventError> {
    let request = event::parse_event(json.as_bytes())?;
    event::expect_kind(&request, kinds::ZAP_REQUEST)?;
    if event::values(&request, "p").count() != 1 || event::mentioned(&request, 2) != [*me] {
        return Err(EventError::Invalid("a zap request names exactly one receiver, this one"));
    }
    if event::values(&request, "e").count() > 1 || event::values(&request, "a").count() > 1 {
        return Err(EventError::Invalid("a zap request names one event at most"));
    }
    if event::rows(&request, "relays").next().is_none_or(|row| row.len() < 2) {
        return Err(EventError::Invalid("a zap request names the relays for its receipt"));
    }
    let asked = event::first(&request, "amount");
    if asked.is_some_and(|asked| asked.parse() != Ok(amount.as_u64())) {
        return Err(EventError::Invalid("the zap request is over another amount"));
    }
    Ok(request)
}

/// Where the payer wants the receipt, of a checked request.
pub fn receipt_relays(request: &Event) -> impl Iterator<Item = &String> {
    event::rows(request, "relays").next().into_iter().flat_map(|row| row.iter().skip(1))
}

/// The receipt (9735) for a settled invoice, to be signed by the key that the LNURL names. `request` is the text that
/// the invoice's description hash was made of, to the byte.
pub fn receipt(head: Head, request: &Event, json: &str, bolt11: &str, preimage: Option<Hash32>) -> UnsignedEvent {
    let copied = |name: &'static str| {
        event::rows(request, name).next().map(|row| tag([name, row.get(1).map_or("", String::as_str)]))
    };
    let mut tags: Vec<_> = ["p", "e", "a"].into_iter().filter_map(copied).collect();
    tags.push(tag(["P", &event::npub(&request.pubkey).to_hex()]));
    tags.extend([tag(["bolt11", bolt11]), tag(["description", json])]);
    tags.extend(preimage.map(|preimage| tag(["preimage", &preimage.to_string()])));
    head.unsigned(kinds::ZAP_RECEIPT, tags, "")
}

/// The request (9734) that an LNURL callback gets: signed, sent over HTTP, never published. `event` is what the zap is for.
pub fn request(
    head: Head,
    to: &Npub,
    event: Option<Hash32>,
    amount: Msat,
    comment: &str,
    relays: &[String],
) -> UnsignedEvent {
    let mut tags = vec![tag(["p", &to.to_hex()]), tag(["amount", &amount.as_u64().to_string()])];
    tags.extend(event.map(|id| tag(["e", &id.to_string()])));
    tags.push(nostr::event::Tag::custom("relays", relays.iter().take(8)));
    head.unsigned(kinds::ZAP_REQUEST, tags, comment)
}
