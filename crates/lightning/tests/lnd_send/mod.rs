//! A send as a payer of LND makes it, who needs no handle.

use nexus_core::{Clock, Msat};
use nexus_lightning::Dispatch;

/// A send of an invoice, in time.
pub fn send_of(bolt11: &str, payment_id: &str, clock: &dyn Clock) -> Dispatch {
    Dispatch {
        payment_id: payment_id.to_owned(),
        attempt: 1,
        key: "key".to_owned(),
        bolt11: bolt11.to_owned(),
        amount: None,
        max_fee: Msat::sats(10),
        deadline: clock.mono().plus_ms(60_000),
        handle: None,
    }
}
