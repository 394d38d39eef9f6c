//! What every paying driver checks alike.

use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Hash32, Msat};

use crate::bolt11::{Bolt11, Network};
use crate::driver::WalletError;

/// Refused before anything was sent.
pub(crate) const fn refused() -> Outcome {
    Outcome::Failed { class: FailureClass::Refused }
}

/// An invoice of `network` with an amount, its own or the payer's. What is not is refused for reasons that no repeat
/// would change.
pub(crate) fn payable(bolt11: &str, amount: Option<Msat>, network: Network) -> Result<Bolt11, WalletError> {
    let refuse = |why: String| Err(WalletError::Refused(why));
    let invoice = match Bolt11::decode(bolt11) {
        Ok(invoice) => invoice,
        Err(error) => return refuse(error.to_string()),
    };
    if invoice.network != network {
        return refuse(format!("an invoice for {}: this wallet pays {network}", invoice.network));
    }
    match (invoice.amount, amount) {
        (Some(Msat::ZERO), _) | (None, Some(Msat::ZERO)) => refuse("an invoice over nothing".to_owned()),
        (Some(_), Some(_)) => refuse("the invoice names its amount; the payer must not".to_owned()),
        (None, None) => refuse("the invoice leaves the amount to the payer, who named none".to_owned()),
        (Some(_), None) | (None, Some(_)) => Ok(invoice),
    }
}

/// A claim to have paid is believed with the preimage, and only with it.
pub(crate) fn proven(outcome: Outcome, hash: Hash32) -> Outcome {
    match outcome {
        Outcome::Settled { preimage, .. } if preimage.map(|it| Hash32::sha256(it.as_bytes())) != Some(hash) => {
            Outcome::Unknown { why: "called paid without the right preimage".to_owned() }
        }
        proven => proven,
    }
}
