//! Zaps (NIP-57), as messages. A receipt is not proof of payment: money is counted by the wallet alone.

use nexus_core::{Msat, Npub};
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

/// The request (9734) that an LNURL callback gets: signed, sent over HTTP, never published.
pub fn request(head: Head, to: &Npub, amount: Msat, comment: &str, relays: &[String]) -> UnsignedEvent {
    let mut tags = vec![tag(["p", &to.to_hex()]), tag(["amount", &amount.as_u64().to_string()])];
    tags.push(nostr::event::Tag::custom("relays", relays.iter().take(8)));
    head.unsigned(kinds::ZAP_REQUEST, tags, comment)
}
