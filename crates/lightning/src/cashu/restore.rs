//! Proofs rebuilt from the seed (NUT-09, NUT-13).

use cdk::Amount;
use cdk::nuts::{CurrencyUnit, Id, Proof};

use super::Wallet;
use super::api::ProofState;
use super::book::{Owned, put_proof};
use super::keys::Range;
use crate::driver::WalletError;

/// NUT-13's advice: batches of 100, until three in a row are empty.
const BATCH: u32 = 100;
const EMPTY: u32 = 3;
/// Secrets of one keyset that are looked through at most.
const MAX_SECRETS: u32 = 100_000;
const MAX_KEYSETS: usize = 50;

/// What a restore found, in sats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Unspent, and new to these records.
    pub sats: u64,
    /// In a payment right now. Restoring again once it is over finds what came back.
    pub pending_sats: u64,
}

impl Wallet {
    pub(super) async fn restore(&self) -> Result<Found, WalletError> {
        let all = self.mint.keysets().await?;
        let mut found = Found::default();
        for keyset in all.into_iter().filter(|keyset| keyset.unit == CurrencyUnit::Sat).take(MAX_KEYSETS) {
            self.restore_keyset(keyset.id, &mut found).await?;
        }
        Ok(found)
    }

    async fn restore_keyset(&self, id: Id, found: &mut Found) -> Result<(), WalletError> {
        let keyset = self.keyset(id).await?;
        let (mut start, mut empty) = (0, 0);
        while empty < EMPTY && start < MAX_SECRETS {
            let mut made = self.outputs(&Range { keyset: id, start, count: BATCH }, &[])?;
            let told = self.mint.restore(&made.blinded_messages()).await?;
            let mut signatures = Vec::new();
            let mut last = None;
            let mut at = start;
            made.secrets.retain(|secret| {
                let b = secret.blinded_message.blinded_secret;
                let signature = told.outputs.iter().position(|it| it.blinded_secret == b);
                let signature = signature.and_then(|at| told.signatures.get(at));
                let here = at;
                at += 1;
                // A blank output that was promised nothing has no value.
                let Some(signature) = signature else { return false };
                last = Some(here);
                if signature.amount == Amount::ZERO {
                    return false;
                }
                signatures.push(signature.clone());
                true
            });
            empty = if last.is_some() { 0 } else { empty + 1 };
            let proofs = Self::unblind(&keyset, &made, signatures)?;
            let mut changes = match last {
                Some(last) => self.used_up_to(id, last + 1).await?,
                None => Vec::new(),
            };
            for owned in self.unspent(proofs, found).await? {
                changes.push(put_proof(&owned)?);
            }
            if !changes.is_empty() {
                self.write(changes).await?;
            }
            start += BATCH;
        }
        Ok(())
    }

    /// Those that can be spent and are not in the records yet.
    async fn unspent(&self, proofs: Vec<Proof>, found: &mut Found) -> Result<Vec<Owned>, WalletError> {
        let mut ys = Vec::new();
        for proof in &proofs {
            ys.push(proof.y().map_err(|_| WalletError::Protocol("a secret that is no point".to_owned()))?);
        }
        let states = if ys.is_empty() { Vec::new() } else { self.mint.check(&ys).await? };
        let mut unspent = Vec::new();
        for (proof, y) in proofs.into_iter().zip(ys) {
            let owned = Owned::new(proof);
            if self.proof(&owned.key).await?.is_some() {
                continue;
            }
            match states.iter().find(|it| it.y == y).map(|it| it.state) {
                Some(ProofState::Unspent) => {
                    found.sats += owned.sats();
                    unspent.push(owned);
                }
                Some(ProofState::Pending) => found.pending_sats += owned.sats(),
                Some(ProofState::Spent) => {}
                None => return Err(WalletError::Protocol("the mint does not say whether proofs are spent".to_owned())),
            }
        }
        Ok(unspent)
    }

    /// Forgets proofs that the mint calls spent: another copy of this wallet spent them.
    pub(super) async fn spent_among(&self, keys: &[(String, u64)]) -> Result<Vec<String>, WalletError> {
        let mut spent = Vec::new();
        for batch in keys.chunks(BATCH as usize) {
            let mut ys = Vec::new();
            for (key, _) in batch {
                let Some(proof) = self.proof(key).await? else { continue };
                let y = proof.y().map_err(|_| WalletError::Protocol("a secret that is no point".to_owned()))?;
                ys.push((key, y));
            }
            let states = self.mint.check(&ys.iter().map(|(_, y)| *y).collect::<Vec<_>>()).await?;
            for (key, y) in ys {
                if states.iter().any(|it| it.y == y && it.state == ProofState::Spent) {
                    spent.push(key.clone());
                }
            }
        }
        Ok(spent)
    }
}
