//! Pays refunds of hosting credit out of the operator's node: what control has signed, once, by the machine that agents'
//! payments have.
//!
//! It opens no agent and needs no agent's key. Which process it runs in is the operator's choice: one that has a key to the
//! node which can pay. Several may run: whoever moves a row to `dispatched` first sends it, the others only look it up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nexus_core::payment::{Asker, EXPIRY_MARGIN_MS, Outcome, PaymentState, conclude};
use nexus_core::{Clock, Hash32, Npub, UnixMs, WorkerId};
use nexus_lightning::{Bolt11, Dispatch, Network, Pay, Resolve};
use nexus_seal::payout::{PayoutOrder, verify};
use nexus_store::payout::{self, Payout};
use nexus_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use crate::faults::{At, Faults};

const ROUND: Duration = Duration::from_millis(500);
const BATCH: u32 = 64;
/// One send may take this long before it is looked up instead; after it no byte leaves.
const SEND_MS: u64 = 30_000;
/// The node's time to say what became of a send.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between looks at one that is on its way, and at one that is not paid for a reason that an operator has to end.
const LOOK_MS: i64 = 2_000;
const REFUSED_MS: i64 = 600_000;

/// What pays refunds.
pub struct Payer {
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    /// The operator's node, by a key that can pay.
    pub node: Arc<dyn Pay>,
    pub network: Network,
    /// Who signs orders: the public half of control's key.
    pub signer: Npub,
    /// Of this process, new at each start.
    pub id: WorkerId,
    pub faults: Faults,
    /// What this process sent, and whether it had an answer.
    pub sent: Mutex<HashMap<Hash32, Asker>>,
}

impl Payer {
    /// Pays until told to stop.
    pub async fn run(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                paid = self.round() => if let Err(error) = paid {
                    tracing::warn!(%error, "refunds were not looked at; the next round tries again");
                },
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(ROUND) => {}
            }
        }
    }

    /// One look at what is due.
    pub async fn round(&self) -> Result<(), StoreError> {
        for payout in payout::due(&self.store, self.clock.now(), BATCH).await? {
            match self.look(payout).await {
                // Another payer was first.
                Err(error) if error.conflict().is_some() => tracing::debug!(%error, "a refund stands elsewhere by now"),
                done => done?,
            }
        }
        Ok(())
    }

    async fn look(&self, payout: Payout) -> Result<(), StoreError> {
        let now = self.clock.now();
        let order = match self.ordered(&payout) {
            Ok(order) => order,
            Err(why) => return self.refuse(&payout, why).await,
        };
        if payout.state == PaymentState::Reserved {
            if now.plus_ms(EXPIRY_MARGIN_MS) >= order.expires_at {
                let why = "the invoice ran out before it was paid".to_owned();
                return payout::not_paid(&self.store, &payout, PaymentState::Canceled, why, now).await;
            }
            return self.send(payout, &order).await;
        }
        let outcome = self.resolve(&order).await;
        let asker = self.asker(&payout);
        self.conclude(&payout, &outcome, asker).await
    }

    /// What control signed for this row; the row itself is believed in nothing.
    fn ordered(&self, payout: &Payout) -> Result<PayoutOrder, String> {
        let order = verify(&payout.order, &self.signer).map_err(|error| error.to_string())?;
        let same = order.hash == payout.hash
            && order.account == payout.account
            && (order.amount, order.max_fee, order.expires_at) == (payout.amount, payout.max_fee, payout.expires_at);
        if !same {
            return Err("the order is for something else than its row".to_owned());
        }
        let invoice = Bolt11::decode(&order.bolt11).map_err(|error| format!("the invoice: {error}"))?;
        if invoice.network != self.network || invoice.hash != order.hash || invoice.amount != Some(order.amount) {
            return Err("the order's invoice is for something else".to_owned());
        }
        if invoice.expires_at != order.expires_at {
            return Err("the order's invoice ends at another moment".to_owned());
        }
        Ok(order)
    }

    /// Nothing is paid for it. What was never sent gives its credit back when its invoice is over.
    async fn refuse(&self, payout: &Payout, why: String) -> Result<(), StoreError> {
        tracing::error!(hash = %payout.hash, why, "a refund is not paid: find out who wrote it to the database");
        let now = self.clock.now();
        if payout.state == PaymentState::Reserved && now >= payout.expires_at {
            return payout::not_paid(&self.store, payout, PaymentState::Canceled, why, now).await;
        }
        payout::look_later(&self.store, payout, Some(why), now.plus_ms(REFUSED_MS)).await
    }

    async fn send(&self, mut payout: Payout, order: &PayoutOrder) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.faults.pass(At::Before, "payout").await;
        let to = PaymentState::Dispatched;
        payout::moved(&self.store, &payout, to, self.id, now, now.plus_ms(LOOK_MS)).await?;
        (payout.state, payout.dispatched_by) = (to, Some(self.id));
        self.faults.pass(At::After, "payout").await;
        let until_expiry = order.expires_at.0.saturating_sub(EXPIRY_MARGIN_MS).saturating_sub(now.0);
        let wait = SEND_MS.min(u64::try_from(until_expiry).unwrap_or(0));
        let send = Dispatch {
            payment_id: step(order.hash),
            attempt: 1,
            key: step(order.hash),
            bolt11: order.bolt11.clone(),
            amount: None,
            max_fee: order.max_fee,
            deadline: self.clock.mono().plus_ms(wait),
            handle: None,
        };
        // Until its answer is known, this process too knows no more than that it may have left.
        self.note(order.hash, Asker::Unsure);
        let outcome = self.node.dispatch(send).await;
        let asker = if matches!(outcome, Outcome::Unknown { .. }) { Asker::Unsure } else { Asker::Dispatcher };
        self.note(order.hash, asker);
        self.faults.pass(At::After, "payout_sent").await;
        self.conclude(&payout, &outcome, asker).await
    }

    async fn resolve(&self, order: &PayoutOrder) -> Outcome {
        let question =
            Resolve { payment_id: step(order.hash), attempt: 1, hash: order.hash, key: step(order.hash), handle: None };
        match tokio::time::timeout(PATIENCE, self.node.resolve(question)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unknown { why: "no answer in time".into() },
        }
    }

    async fn conclude(&self, payout: &Payout, outcome: &Outcome, asker: Asker) -> Result<(), StoreError> {
        let (store, now) = (&self.store, self.clock.now());
        match (conclude(outcome, asker, payout.expires_at, now), outcome) {
            (Some(PaymentState::Settled), Outcome::Settled { fee, .. }) => {
                payout::settled(store, payout, *fee, now).await?;
                tracing::info!(account = %payout.account, msat = payout.amount.as_u64(), "a refund was paid");
                self.forget(payout.hash);
                Ok(())
            }
            (Some(to @ PaymentState::Failed), outcome) => {
                let why = match outcome {
                    Outcome::Failed { class } => class.to_string(),
                    Outcome::Settled { .. } | Outcome::Pending | Outcome::NotFound | Outcome::Unknown { .. } => {
                        "the node knows of no payment, and the invoice is over".to_owned()
                    }
                };
                payout::not_paid(store, payout, to, why, now).await?;
                self.forget(payout.hash);
                Ok(())
            }
            (Some(to), _) if to.unresolved() && to != payout.state && payout.state.may_become(to) => {
                payout::moved(store, payout, to, self.id, now, self.next(payout, now)).await
            }
            (_, _) => payout::look_later(store, payout, None, self.next(payout, now)).await,
        }
    }

    /// Rarely for what has been on its way for long: a part in flight can stay so for days.
    fn next(&self, payout: &Payout, now: UnixMs) -> UnixMs {
        let age = now.0.saturating_sub(payout.created_at.0);
        now.plus_ms((age / 8).clamp(LOOK_MS, REFUSED_MS))
    }

    fn asker(&self, payout: &Payout) -> Asker {
        if payout.dispatched_by != Some(self.id) {
            return Asker::Heir;
        }
        self.sent.lock().ok().and_then(|sent| sent.get(&payout.hash).copied()).unwrap_or(Asker::Heir)
    }

    fn note(&self, hash: Hash32, asker: Asker) {
        if let Ok(mut sent) = self.sent.lock() {
            sent.insert(hash, asker);
        }
    }

    fn forget(&self, hash: Hash32) {
        if let Ok(mut sent) = self.sent.lock() {
            sent.remove(&hash);
        }
    }
}

/// The payer's name for it; drivers take up to 64 bytes.
fn step(hash: Hash32) -> String {
    let hash: String = hash.to_string().chars().take(32).collect();
    format!("refund:{hash}")
}

#[cfg(test)]
mod tests;
