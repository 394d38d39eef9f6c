//! Stories that a node of our own and a real one have to tell alike.

use std::time::Duration;

use futures::StreamExt as _;
use nexus_core::payment::Outcome;
use nexus_core::{Clock, Hash32, Msat};
use nexus_lightning::{
    Cursor, Description, Dispatch, Hold as _, HoldRequest, InvoiceRequest, InvoiceState, Pay, Preimage, Receive,
    Settlement, WalletError,
};

use super::lnd_bench::Whole;
use super::lnd_send::send_of;

fn fresh(clock: &dyn Clock, salt: &str) -> Preimage {
    Preimage::from_bytes(*Hash32::sha256(format!("{:?} {salt}", clock.now()).as_bytes()).as_bytes())
}

async fn until(wanted: &InvoiceState, payee: &Whole, hash: Hash32) {
    for _ in 0..400 {
        if payee.lookup_invoice(hash).await.unwrap() == *wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not {wanted:?} within ten seconds");
}

async fn certain(payer: &Whole, send: &Dispatch, hash: Hash32) -> Outcome {
    for _ in 0..400 {
        match payer.resolve(send.resolve(hash)).await {
            Outcome::Pending | Outcome::Unknown { .. } => tokio::time::sleep(Duration::from_millis(25)).await,
            certain => return certain,
        }
    }
    panic!("still not certain after ten seconds");
}

/// Money that waits is neither paid nor failed until the payee decides; each decision repeats, and neither is undone.
pub async fn holds(payer: &Whole, payee: &Whole, clock: &dyn Clock) {
    for settle in [true, false] {
        let preimage = fresh(clock, "hold");
        let request = HoldRequest {
            hash: preimage.hash(),
            amount: Msat::sats(400),
            description: Description::Memo("held".to_owned()),
            expiry_s: 3_600,
            cltv_expiry: 40,
        };
        let invoice = payee.receive.create_hold_invoice(request.clone()).await.unwrap();
        let again = payee.receive.create_hold_invoice(request.clone()).await.unwrap();
        assert_eq!((&again.bolt11, again.hash), (&invoice.bolt11, preimage.hash()));
        let dearer = HoldRequest { amount: Msat::sats(401), ..request };
        assert!(matches!(payee.receive.create_hold_invoice(dearer).await, Err(WalletError::Refused(_))));
        assert!(payee.receive.settle_hold_invoice(preimage.clone()).await.is_err(), "nothing waits yet");
        let send = send_of(&invoice.bolt11, &format!("hold {settle}"), clock);
        assert_eq!(payer.dispatch(send.clone()).await, Outcome::Pending);
        until(&InvoiceState::Accepted, payee, invoice.hash).await;
        assert_eq!(payer.dispatch(send.clone()).await, Outcome::Pending, "a repeat while it is held");
        for _ in 0..2 {
            match settle {
                true => payee.receive.settle_hold_invoice(preimage.clone()).await.unwrap(),
                false => payee.receive.cancel_invoice(invoice.hash).await.unwrap(),
            }
        }
        let outcome = certain(payer, &send, invoice.hash).await;
        let state = payee.lookup_invoice(invoice.hash).await.unwrap();
        if settle {
            assert!(
                matches!(outcome, Outcome::Settled { preimage: Some(it), .. } if it.as_bytes() == preimage.expose())
            );
            assert!(matches!(state, InvoiceState::Settled { amount, .. } if amount == Msat::sats(400)), "{state:?}");
            assert!(payee.receive.cancel_invoice(invoice.hash).await.is_err(), "cancelled after it was settled");
        } else {
            assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
            assert_eq!(state, InvoiceState::Canceled);
            assert!(payee.receive.settle_hold_invoice(preimage).await.is_err(), "settled after it was cancelled");
        }
    }
}

/// Every settlement is found from every earlier cursor, zero included; what is told twice is the same twice.
pub async fn settlements_are_found(payer: &Whole, payee: &Whole, clock: &dyn Clock) {
    let mut paid = Vec::new();
    for at in 0..3_u64 {
        let preimage = fresh(clock, &format!("settlement {at}"));
        let memo = Description::Memo(format!("settlement {at}"));
        let amount = Msat::new(400_000 + at);
        let request = InvoiceRequest { preimage: Some(preimage), amount, description: memo, expiry_s: 600 };
        let invoice = payee.create_invoice(request).await.unwrap();
        let outcome = payer.dispatch(send_of(&invoice.bolt11, &format!("settlement {at}"), clock)).await;
        assert!(matches!(outcome, Outcome::Settled { .. }), "{outcome:?}");
        paid.push((invoice.hash, amount, invoice.cursor));
    }
    let mut cursors: Vec<Cursor> = vec![Cursor(0)];
    cursors.extend(paid.iter().map(|(_, _, cursor)| *cursor));
    let mut known: Vec<Settlement> = Vec::new();
    for cursor in cursors {
        let mut stream = payee.settlements(cursor);
        let mut missing: Vec<_> = paid.iter().filter(|(_, _, from)| *from >= cursor).collect();
        let all = async {
            while !missing.is_empty() {
                let Some(Ok(told)) = stream.next().await else { continue };
                assert!(told.cursor > cursor || told.cursor > Cursor(0), "{told:?} is not after {cursor:?}");
                if let Some(at) = missing.iter().position(|(hash, _, _)| *hash == told.hash) {
                    assert_eq!(told.amount, missing.remove(at).1);
                    match known.iter().find(|it| it.hash == told.hash) {
                        Some(before) => assert_eq!(*before, told),
                        None => known.push(told),
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.expect("all settlements within 30 s");
    }
    known.sort_by_key(|it| it.cursor);
    known.dedup_by_key(|it| it.cursor);
    assert_eq!(known.len(), paid.len(), "settlements share a cursor");
}
