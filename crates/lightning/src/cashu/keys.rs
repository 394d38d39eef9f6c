//! Secrets out of the seed (NUT-13), and proofs out of signatures.

use std::fmt;

use cdk::Amount;
use cdk::dhke::construct_proofs;
use cdk::nuts::{BlindSignature, BlindedMessage, CurrencyUnit, Id, KeySet, PreMintSecrets, Proof};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Wallet;
use super::api::CallError;
use crate::driver::WalletError;

/// Outputs of one request at most.
pub(super) const MAX_OUTPUTS: u32 = 64;

/// The 64 bytes of a BIP-39 mnemonic that every secret of the wallet comes from.
#[derive(Clone)]
pub struct WalletSeed(Zeroizing<[u8; 64]>);

impl WalletSeed {
    pub fn new(seed: [u8; 64]) -> Self {
        Self(Zeroizing::new(seed))
    }
}

impl fmt::Debug for WalletSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WalletSeed(…)")
    }
}

/// Consecutive secrets of a keyset. What one request used, no other may: signatures on equal outputs would be refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Range {
    pub(super) keyset: Id,
    pub(super) start: u32,
    pub(super) count: u32,
}

impl Range {
    pub(super) fn end(&self) -> u32 {
        self.start.saturating_add(self.count)
    }
}

/// The fewest amounts of the keyset's that make up `sats`.
pub(super) fn split(keyset: &KeySet, mut sats: u64) -> Option<Vec<u64>> {
    let mut parts = Vec::new();
    for (amount, _) in keyset.keys.iter().collect::<Vec<_>>().into_iter().rev() {
        let amount = u64::from(*amount);
        while amount > 0 && amount <= sats {
            parts.push(amount);
            sats -= amount;
            if parts.len() > MAX_OUTPUTS as usize {
                return None;
            }
        }
    }
    (sats == 0).then_some(parts)
}

/// How many blank outputs can carry `sats` of change (NUT-08): ceil(log2), and at least one.
pub(super) fn blanks(sats: u64) -> u32 {
    match sats {
        0 => 0,
        1 => 1,
        sats => u64::BITS - (sats - 1).leading_zeros(),
    }
}

fn broken(why: &str) -> WalletError {
    WalletError::Protocol(format!("the mint: {why}"))
}

impl Wallet {
    /// The outputs of a range; blank where no amounts are given.
    pub(super) fn outputs(&self, range: &Range, amounts: &[u64]) -> Result<PreMintSecrets, WalletError> {
        let made = PreMintSecrets::restore_batch(range.keyset, &self.seed.0, range.start, range.end());
        let mut made = made.map_err(|_| broken("secrets cannot be derived for this keyset"))?;
        for (secret, sats) in made.secrets.iter_mut().zip(amounts) {
            secret.amount = Amount::from(*sats);
            secret.blinded_message.amount = Amount::from(*sats);
        }
        Ok(made)
    }

    /// A keyset with its keys, believed only if its id is made of them.
    pub(super) async fn keyset(&self, id: Id) -> Result<KeySet, WalletError> {
        if let Some(known) = self.memory.keysets.lock().await.get(&id) {
            return Ok(known.clone());
        }
        let keyset = self.mint.keys(id).await?.ok_or_else(|| broken("it does not know its own keyset"))?;
        keyset.verify_id().map_err(|_| broken("the keys are not those of the keyset's id"))?;
        if keyset.unit != CurrencyUnit::Sat {
            return Err(broken("the keyset counts something other than sats"));
        }
        self.memory.keysets.lock().await.insert(id, keyset.clone());
        Ok(keyset)
    }

    /// The cheapest keyset that the mint still signs with.
    pub(super) async fn active(&self) -> Result<KeySet, WalletError> {
        let all = self.mint.keysets().await?;
        let ours = all.into_iter().filter(|keyset| keyset.active && keyset.unit == CurrencyUnit::Sat);
        let best = ours.min_by_key(|keyset| (keyset.input_fee_ppk, keyset.id));
        let best = best.ok_or_else(|| WalletError::Refused("the mint has no keyset for sats".to_owned()))?;
        self.keyset(best.id).await
    }

    /// Proofs out of the signatures on the first outputs of `made`. Amounts are the outputs' own, or, on blanks, the
    /// mint's.
    pub(super) fn unblind(
        keyset: &KeySet,
        made: &PreMintSecrets,
        signatures: Vec<BlindSignature>,
    ) -> Result<Vec<Proof>, WalletError> {
        if signatures.len() > made.secrets.len() {
            return Err(broken("more signatures than were asked for"));
        }
        let count = signatures.len();
        for (signature, secret) in signatures.iter().zip(&made.secrets) {
            let blank = secret.amount == Amount::ZERO;
            let key = keyset.keys.amount_key(signature.amount).filter(|_| blank || signature.amount == secret.amount);
            let (Some(key), true) = (key, signature.keyset_id == keyset.id) else {
                return Err(broken("a signature for something else than was asked for"));
            };
            // NUT-12: with the proof of equality the signature is the announced key's, and no mark of this wallet.
            if signature.dleq.is_some() && signature.verify_dleq(key, secret.blinded_message.blinded_secret).is_err() {
                return Err(broken("a signature by another key than the announced one"));
            }
        }
        let (mut rs, mut secrets) = (made.rs(), made.secrets());
        rs.truncate(count);
        secrets.truncate(count);
        let proofs = construct_proofs(signatures, rs, secrets, &keyset.keys);
        let mut proofs = proofs.map_err(|_| broken("signatures that are none"))?;
        for proof in &mut proofs {
            proof.dleq = None;
        }
        Ok(proofs)
    }

    /// Signatures that the mint made on these outputs before (NUT-09), in their order. None if it lacks one of the first
    /// `at_least`.
    pub(super) async fn signed_before(
        &self,
        outputs: &[BlindedMessage],
        at_least: usize,
    ) -> Result<Option<Vec<BlindSignature>>, CallError> {
        if outputs.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let found = self.mint.restore(outputs).await?;
        let mut signatures = Vec::new();
        for output in outputs {
            let at = found.outputs.iter().position(|it| it.blinded_secret == output.blinded_secret);
            match at.and_then(|at| found.signatures.get(at)) {
                Some(signature) => signatures.push(signature.clone()),
                None => break,
            }
        }
        Ok((signatures.len() >= at_least).then_some(signatures))
    }
}
