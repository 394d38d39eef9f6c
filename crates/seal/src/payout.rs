//! Refunds of hosting credit: what control orders, and whoever has the operator's node pays.
//!
//! Control holds no key that pays. It signs what is to be paid with a key made from the operator's; the payer knows the
//! public half of that key, and pays what is signed, whatever the row beside it says.

use nexus_core::{AccountId, Hash32, Msat, Npub, UnixMs};
use secp256k1::{Keypair, SECP256K1, XOnlyPublicKey, schnorr};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::operator::OperatorKey;

/// What the key and the signature are for, so that neither can be taken for another.
const KEY: &str = "nexus payout key|1|";
const ORDER: &str = "nexus payout order|1|";

/// What is to be paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayoutOrder {
    pub hash: Hash32,
    pub account: AccountId,
    pub bolt11: String,
    pub amount: Msat,
    /// The largest fee.
    pub max_fee: Msat,
    /// The invoice's.
    pub expires_at: UnixMs,
}

/// The order as it is stored: its text is signed to the byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    order: String,
    /// BIP-340, in hex.
    signature: String,
}

/// Why nothing is paid for a stored order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayoutError {
    #[error("the operator's key gives no key for payouts")]
    Key,
    #[error("not an order for a payout")]
    Malformed,
    #[error("the order is not signed by this installation's control plane")]
    Signature,
}

/// Signs orders. Only control has it.
pub struct PayoutKey(Keypair);

impl Drop for PayoutKey {
    fn drop(&mut self) {
        self.0.non_secure_erase();
    }
}

impl PayoutKey {
    pub fn of(operator: &OperatorKey) -> Result<Self, PayoutError> {
        let text = operator.expose_text();
        let seed = Zeroizing::new([KEY.as_bytes(), text.expose().as_bytes()].concat());
        let secret = Zeroizing::new(*Hash32::sha256(&seed).as_bytes());
        Keypair::from_seckey_slice(SECP256K1, &*secret).map(Self).map_err(|_| PayoutError::Key)
    }

    /// What a payer is configured with.
    pub fn public(&self) -> Npub {
        Npub::from_bytes(self.0.x_only_public_key().0.serialize())
    }

    /// The signed order as text.
    pub fn sign(&self, order: &PayoutOrder) -> Result<String, PayoutError> {
        let order = serde_json::to_string(order).map_err(|_| PayoutError::Malformed)?;
        let signature = SECP256K1.sign_schnorr_no_aux_rand(digest(&order).as_bytes(), &self.0);
        let signed = Signed { order, signature: hex::encode(signature.to_byte_array()) };
        serde_json::to_string(&signed).map_err(|_| PayoutError::Malformed)
    }
}

/// What a stored text orders, if the holder of this key signed it.
pub fn verify(text: &str, by: &Npub) -> Result<PayoutOrder, PayoutError> {
    let signed: Signed = serde_json::from_str(text).map_err(|_| PayoutError::Malformed)?;
    let bytes = hex::decode(&signed.signature).map_err(|_| PayoutError::Malformed)?;
    let signature = schnorr::Signature::from_slice(&bytes).map_err(|_| PayoutError::Malformed)?;
    let key = XOnlyPublicKey::from_slice(by.as_bytes()).map_err(|_| PayoutError::Key)?;
    SECP256K1.verify_schnorr(&signature, digest(&signed.order).as_bytes(), &key).map_err(|_| PayoutError::Signature)?;
    serde_json::from_str(&signed.order).map_err(|_| PayoutError::Malformed)
}

fn digest(order: &str) -> Hash32 {
    Hash32::sha256([ORDER, order].concat().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_testkit::SeededEntropy;

    #[test]
    fn an_order_is_paid_only_as_it_was_signed() {
        let key = PayoutKey::of(&OperatorKey::generate(&SeededEntropy::new(1))).unwrap();
        let other = PayoutKey::of(&OperatorKey::generate(&SeededEntropy::new(2))).unwrap();
        let order = PayoutOrder {
            hash: Hash32::from_bytes([7; 32]),
            account: AccountId::new(UnixMs(5), [1; 10]),
            bolt11: "lnbcrt1".into(),
            amount: Msat::sats(900),
            max_fee: Msat::sats(10),
            expires_at: UnixMs(9),
        };
        let text = key.sign(&order).unwrap();
        assert_eq!(verify(&text, &key.public()).unwrap(), order);
        assert_eq!(verify(&text, &other.public()), Err(PayoutError::Signature));
        assert_eq!(verify(&text.replace("900000", "900001"), &key.public()), Err(PayoutError::Signature));
        for bad in ["", "{}", "[]", "{\"order\":\"{}\",\"signature\":\"00\"}"] {
            assert_eq!(verify(bad, &key.public()), Err(PayoutError::Malformed), "{bad}");
        }
        let other_order = other.sign(&order).unwrap();
        assert_eq!(verify(&other_order, &key.public()), Err(PayoutError::Signature));
    }
}
