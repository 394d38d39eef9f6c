//! Zap receipts: what NIP-57 asks of them, broken once each.

mod common;

use common::*;
use nexus_core::{Hash32, Msat, Npub};
use nexus_nostr::event::{EventError, to_json};
use nexus_nostr::zap::{self, ZapError, ZapInvoice, check_request, validate_receipt};
use nostr::event::Event;

const AMOUNT: Msat = Msat::sats(21);

struct Zapped {
    receiver: Npub,
    service: Npub,
    request: Event,
    receipt: Event,
    invoice: ZapInvoice,
}

fn zapped() -> Zapped {
    let (sender, receiver, service) = (keys(1), npub(&keys(2)), keys(8));
    let relays = ["wss://relay".to_owned()];
    let request = signed(&sender, zap::request(head(&sender), &receiver, Some(Hash32::ZERO), AMOUNT, "great", &relays));
    let json = to_json(&request);
    let receipt = signed(&service, zap::receipt(head(&service), &request, &json, "lnbcrt210n1p", None));
    let invoice = ZapInvoice { amount: Some(AMOUNT), description_hash: Some(Hash32::sha256(json.as_bytes())) };
    Zapped { receiver, service: npub(&service), request, receipt, invoice }
}

#[test]
fn a_receipt_of_the_receivers_service_passes() {
    let z = zapped();
    let found = validate_receipt(&z.receipt, &z.receiver, &z.service, Some("lnurl1x"), &z.invoice).unwrap();
    assert_eq!((found.sender, found.amount, found.comment.as_str()), (npub(&keys(1)), Some(AMOUNT), "great"));
    assert_eq!(check_request(&to_json(&z.request), &z.receiver, AMOUNT).unwrap(), z.request);
    let zapped = |event: &Event| nexus_nostr::event::first(event, "e").map(str::to_owned);
    assert_eq!(zapped(&z.receipt), Some(Hash32::ZERO.to_string()), "what it was for");
}

#[test]
fn a_spoofed_receipt_does_not() {
    let z = zapped();
    let check = |receipt: &Event, invoice: &ZapInvoice| {
        validate_receipt(receipt, &z.receiver, &z.service, Some("lnurl1x"), invoice).unwrap_err()
    };
    // By anyone who found the request and an invoice.
    let json = to_json(&z.request);
    let anyone = keys(3);
    let spoofed = signed(&anyone, zap::receipt(head(&anyone), &z.request, &json, "lnbcrt210n1p", None));
    assert!(matches!(check(&spoofed, &z.invoice), ZapError::Issuer { .. }));
    // Over an invoice for something else, for another amount, or for any amount.
    let hash = z.invoice.description_hash;
    for description_hash in [None, Some(Hash32::ZERO)] {
        assert_eq!(check(&z.receipt, &ZapInvoice { description_hash, ..z.invoice }), ZapError::Description);
    }
    for amount in [None, Some(Msat::sats(20)), Some(Msat::new(21_001))] {
        let found = check(&z.receipt, &ZapInvoice { amount, description_hash: hash });
        assert_eq!(found, ZapError::Amount { request: Some(AMOUNT), invoice: amount });
    }
    // The request in other bytes: the same event, but not what the invoice committed to.
    let service = keys(8);
    let spaced = json.replacen(':', ": ", 1);
    let respaced = signed(&service, zap::receipt(head(&service), &z.request, &spaced, "lnbcrt210n1p", None));
    assert_eq!(check(&respaced, &z.invoice), ZapError::Description);
    // For somebody else.
    let other = validate_receipt(&z.receipt, &npub(&keys(7)), &z.service, None, &z.invoice).unwrap_err();
    assert!(matches!(other, ZapError::Event(EventError::Invalid(_))));
    // Naming a sender that did not sign the request.
    let mut rows: Vec<_> = z.receipt.tags.iter().filter(|tag| tag.as_slice()[0] != "P").cloned().collect();
    rows.push(nexus_nostr::event::tag(["P", &npub(&keys(5)).to_hex()]));
    assert_eq!(check(&build(&service, 9_735, rows, ""), &z.invoice), ZapError::Sender);
}

#[test]
fn a_request_for_another_lnurl_is_refused() {
    let (sender, receiver, service) = (keys(1), npub(&keys(2)), keys(8));
    let rows = tags([&["p", &receiver.to_hex()], &["relays", "wss://relay"], &["lnurl", "LNURL1OTHER"]]);
    let request = build(&sender, 9_734, rows, "");
    let json = to_json(&request);
    let receipt = signed(&service, zap::receipt(head(&service), &request, &json, "lnbc", None));
    let invoice = ZapInvoice { amount: Some(AMOUNT), description_hash: Some(Hash32::sha256(json.as_bytes())) };
    let check = |lnurl| validate_receipt(&receipt, &receiver, &npub(&service), lnurl, &invoice);
    assert_eq!(check(Some("lnurl1mine")), Err(ZapError::Lnurl));
    // A request that names no amount takes the invoice's.
    assert_eq!(check(Some("lnurl1other")).unwrap().amount, Some(AMOUNT));
}

#[test]
fn a_service_takes_only_requests_that_it_can_answer() {
    let (sender, receiver) = (keys(1), npub(&keys(2)));
    let hex = receiver.to_hex();
    let refused = |rows| check_request(&to_json(&build(&sender, 9_734, rows, "")), &receiver, AMOUNT).is_err();
    let (p, relays, amount): (&[&str], &[&str], &[&str]) = (&["p", &hex], &["relays", "wss://r"], &["amount", "21000"]);
    assert!(!refused(tags([p, relays, amount])));
    assert!(!refused(tags([p, relays])), "the amount may be left out");
    assert!(refused(tags([p, p, relays, amount])), "two receivers, be they the same");
    assert!(refused(tags([relays, amount])));
    assert!(refused(tags([p, amount])));
    assert!(refused(tags([p, &["relays"], amount])));
    assert!(refused(tags([p, relays, &["amount", "21001"]])));
    assert!(refused(tags([p, relays, &["amount", "21k"]])));
    assert!(refused(tags([p, relays, &["e", "x"], &["e", "y"]])));
    assert!(check_request(&to_json(&build(&sender, 1, tags([p, relays]), "")), &receiver, AMOUNT).is_err());
    let signed_by_nobody = to_json(&build(&sender, 9_734, tags([p, relays]), "")).replace("9734", "9733");
    assert!(check_request(&signed_by_nobody, &receiver, AMOUNT).is_err());
}
