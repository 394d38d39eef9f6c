//! Zaps to the agent (NIP-57): the receipts that this installation signs for those that were paid, and which receipts are
//! believed. A receipt wakes the agent; its money is what the wallet says.

use nexus_core::{Hash32, UnixMs};
use nexus_lightning::{Bolt11, InvoiceState, decode_bolt11};
use nexus_nostr::zap::{self, ZapInvoice};
use nexus_nostr::{Head, kinds};
use nexus_seal::Signer;
use nexus_store::agent::Agent;
use nexus_store::publication::NewPublication;
use nostr::event::Event;
use serde::{Deserialize, Serialize};

use crate::error::TurnError;
use crate::filter::Closed;
use crate::funds::Paid;
use crate::host::Host;
use crate::profile::signed;
use crate::unlock::Opened;
use crate::wallet;

/// Relays of the payer's choice that get a receipt, beside the host's own.
const MAX_RELAYS: usize = 4;
/// Until a receipt is looked at again whose invoice the wallet could not look up.
const RETRY_MS: u64 = 10_000;

/// What is kept of a zap until its invoice is paid.
#[derive(Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// The signed request (9734), to the byte: the invoice commits to it.
    pub request: String,
    pub bolt11: String,
}

/// The receipt for an invoice that the wallet says was paid. The same at each call: it is of the second of the payment.
/// None for an invoice that was no zap, or whose row is not what this host wrote.
pub(crate) async fn receipt(host: &Host, agent: &Agent, paid: &Paid) -> Result<Option<NewPublication>, TurnError> {
    let (Some(kept), Some(runner)) = (&paid.watch.zap, host.runner.get()) else { return Ok(None) };
    let unfit = |why: &dyn std::fmt::Display| {
        tracing::warn!(npub = %agent.npub.short(), %why, "no receipt is written for a zap");
        Ok(None)
    };
    let Ok(waiting) = serde_json::from_str::<Waiting>(kept) else { return unfit(&"its row can't be read") };
    let invoice = match decode_bolt11(&waiting.bolt11) {
        Ok(invoice) if invoice.hash == paid.watch.hash => invoice,
        Ok(_) => return unfit(&"its row holds another invoice"),
        Err(error) => return unfit(&error),
    };
    if invoice.committed() != Some(Hash32::sha256(waiting.request.as_bytes())) {
        return unfit(&"the invoice does not commit to the request");
    }
    let request = match zap::check_request(&waiting.request, &agent.npub, invoice.amount.unwrap_or_default()) {
        Ok(request) => request,
        Err(error) => return unfit(&error),
    };
    let head = Head::new(runner.public_key(), paid.at.secs());
    let unsigned = zap::receipt(head, &request, &waiting.request, &waiting.bolt11, paid.preimage);
    let event = match runner.sign(unsigned).await {
        Ok(event) => signed(&event),
        Err(error) => return unfit(&error),
    };
    let mut relays = vec![host.config.own_relay.clone()];
    let asked = zap::receipt_relays(&request).filter(|url| **url != host.config.own_relay);
    relays.extend(asked.take(MAX_RELAYS).cloned());
    Ok(Some(NewPublication {
        event_id: event.id,
        kind: event.kind,
        json: event.json,
        relays,
        next_attempt_at: host.now(),
    }))
}

/// The invoice that a receipt is about.
pub(crate) fn invoice(receipt: &Event) -> Result<Bolt11, Closed> {
    let text = nexus_nostr::event::first(receipt, "bolt11").ok_or("not_readable")?;
    decode_bolt11(text).map_err(|_| Closed::For("not_readable"))
}

/// What a zap says to the agent.
pub(crate) fn said(invoice: &Bolt11, comment: &str) -> String {
    let sats = invoice.amount.unwrap_or_default().whole_sats();
    if comment.trim().is_empty() { format!("{sats} sats") } else { format!("{sats} sats: {comment}") }
}

/// Whether a receipt is this installation's own, over an invoice that commits to what the payer signed. Asks nobody.
pub(crate) fn check(host: &Host, opened: &Opened, receipt: &Event) -> Result<(), &'static str> {
    if receipt.kind.as_u16() != kinds::ZAP_RECEIPT {
        return Ok(());
    }
    let invoice = invoice(receipt).map_err(|_| "not_readable")?;
    let Some(runner) = host.runner.get() else { return Err("zap_not_verified") };
    if invoice.network != host.wallets.network() {
        return Err("zap_not_verified");
    }
    let said = ZapInvoice { amount: invoice.amount, description_hash: invoice.committed() };
    zap::validate_receipt(receipt, &opened.npub, &runner.public_key(), None, &said)
        .map_err(|_| "zap_not_verified")
        .map(|_| ())
}

/// Whether the agent's own wallet was paid what a checked receipt says.
pub(crate) async fn paid(host: &Host, opened: &Opened, receipt: &Event) -> Result<(), Closed> {
    if receipt.kind.as_u16() != kinds::ZAP_RECEIPT {
        return Ok(());
    }
    let hash = invoice(receipt)?.hash;
    let wallet = wallet::open(host, opened).await.map_err(Closed::Now)?;
    match tokio::time::timeout(wallet::WALLET_TIMEOUT, wallet.lookup_invoice(hash)).await {
        Ok(Ok(InvoiceState::Settled { .. })) => Ok(()),
        Ok(Ok(_)) => Err(Closed::For("zap_not_paid")),
        Ok(Err(_)) | Err(_) => {
            let text = "the agent's wallet cannot be asked about a zap; it is tried again";
            Err(Closed::Now(TurnError::parked(wallet::UNREACHABLE, text, RETRY_MS)))
        }
    }
}

/// What is kept with the watch of an invoice, for the request of a zap.
pub(crate) fn waiting(request: String, bolt11: &str) -> Result<String, String> {
    let kept = Waiting { request, bolt11: bolt11.to_owned() };
    serde_json::to_string(&kept).map_err(|error| error.to_string())
}

/// When an invoice was paid, as its wallet says; no later than now.
pub(crate) const fn paid_at(said: UnixMs, made: UnixMs, now: UnixMs) -> UnixMs {
    let at = if said.0 < made.0 { made } else { said };
    if at.0 > now.0 { now } else { at }
}
