//! Paying: a melt quote, and the one request that pays it.

use std::collections::HashMap;
use std::sync::PoisonError;

use cdk::nuts::{BlindSignature, Id, KeySet, PreMintSecrets, Proof};
use futures::future::BoxFuture;
use nexus_core::payment::{FailureClass, HEIR_FINALITY_MARGIN_MS, Outcome};
use nexus_core::{Hash32, MonoMs, Msat, UnixMs};

use super::api::{CallError, MeltQuote, ProofState, QuoteState, is_quote_id};
use super::book::{Owned, Payment, PaymentStage, Sent, delete_proof, hold, put_payment, put_proof, release};
use super::keys::{MAX_OUTPUTS, blanks};
use super::{CashuWallet, Wallet, msat};
use crate::bolt11::{Bolt11, without_scheme};
use crate::checks::{payable, refused};
use crate::driver::{Dispatch, Kind, Pay, PayRequest, Quote, Resolve, WalletError};
use crate::storage::StorageError;

const MAX_PAYMENT_ID_BYTES: usize = 64;
/// Proofs of one payment: what is held and what comes back fit into one write.
const MAX_INPUTS: usize = 400;
/// Inputs that the fee reserve allows for beyond those that would be taken now.
const SPARE_INPUTS: u64 = 8;

fn unknown(why: impl ToString) -> Outcome {
    Outcome::Unknown { why: why.to_string() }
}

const fn failed(class: FailureClass) -> Outcome {
    Outcome::Failed { class }
}

/// Thousandths of a sat that each keyset takes for an input (NUT-02).
struct InputFees(HashMap<Id, u64>);

impl InputFees {
    fn ppk(&self, id: Id) -> u64 {
        self.0.get(&id).copied().unwrap_or(0)
    }

    fn of(&self, proofs: &[Owned]) -> u64 {
        proofs.iter().map(|owned| self.ppk(owned.proof.keyset_id)).sum::<u64>().div_ceil(1_000)
    }

    fn dearest(&self) -> u64 {
        self.0.values().copied().max().unwrap_or(0)
    }
}

/// Proofs worth `need` and their own fee: the largest that fit, then the smallest that makes up the rest. None if all of
/// them are too few. What is too much comes back as change.
fn select(mut free: Vec<Owned>, need: u64, fees: &InputFees) -> Option<Vec<Owned>> {
    free.sort_by(|a, b| b.sats().cmp(&a.sats()).then_with(|| a.key.cmp(&b.key)));
    let (mut chosen, mut rest) = (Vec::new(), Vec::new());
    let mut sum = 0_u64;
    for owned in free {
        let with = sum.saturating_add(owned.sats());
        chosen.push(owned);
        if with <= need.saturating_add(fees.of(&chosen)) && chosen.len() < MAX_INPUTS {
            sum = with;
        } else {
            rest.extend(chosen.pop());
        }
    }
    // Smallest first.
    rest.reverse();
    loop {
        let lack = need.saturating_add(fees.of(&chosen)).saturating_sub(sum);
        if lack == 0 {
            return (chosen.len() <= MAX_INPUTS).then_some(chosen);
        }
        let enough = |owned: &Owned| owned.sats() >= lack + fees.ppk(owned.proof.keyset_id).div_ceil(1_000);
        let at = rest.iter().position(enough).or(rest.len().checked_sub(1))?;
        let owned = rest.remove(at);
        sum = sum.saturating_add(owned.sats());
        chosen.push(owned);
    }
}

/// What a payment is sent with.
struct Plan {
    sent: Sent,
    proofs: Vec<Proof>,
    changes: Vec<crate::storage::Change>,
}

impl Wallet {
    async fn input_fees(&self) -> Result<InputFees, CallError> {
        let all = self.mint.keysets().await?;
        Ok(InputFees(all.into_iter().map(|keyset| (keyset.id, keyset.input_fee_ppk)).collect()))
    }

    async fn payable(&self, bolt11: &str, amount: Option<Msat>) -> Result<(Bolt11, Msat), WalletError> {
        let invoice = payable(bolt11, amount, self.config.network)?;
        // NUT-23 allows a mint to; the reference mint does not.
        let Some(amount) = invoice.amount else {
            return Err(WalletError::Unsupported { kind: Kind::Cashu, what: "pay an invoice without an amount" });
        };
        if self.issue(invoice.hash).await?.is_some() {
            return Err(WalletError::Refused("an invoice of this wallet itself".to_owned()));
        }
        Ok((invoice, amount))
    }

    async fn quote(&self, request: PayRequest) -> Result<Quote, WalletError> {
        let (invoice, amount) = self.payable(&request.bolt11, request.amount).await?;
        let now = self.clock.now();
        let known = self.payment(invoice.hash).await?;
        let payment = match known {
            // A second quote for the same invoice would be a second payment.
            Some(payment) if matches!(payment.stage, PaymentStage::Sent(_)) || !payment.lapsed(now) => payment,
            Some(payment) if matches!(payment.stage, PaymentStage::Settled { .. }) => {
                return Err(WalletError::Refused("this invoice is paid already".to_owned()));
            }
            known => {
                let Some(_busy) = self.begin(invoice.hash) else {
                    return Err(WalletError::Unreachable("this payment is being worked on: ask again".to_owned()));
                };
                let bolt11 = without_scheme(&request.bolt11).to_ascii_lowercase();
                let told = self.mint.new_melt_quote(&bolt11).await?;
                let sats = amount.sats_ceil();
                if told.amount != sats || !is_quote_id(&told.quote) {
                    return Err(WalletError::Protocol("the mint asks for another amount than the invoice".to_owned()));
                }
                let (payment_id, attempt) = known.map_or_else(Default::default, |old| (old.payment_id, old.attempt));
                let payment = Payment {
                    hash: invoice.hash,
                    quote: told.quote,
                    amount,
                    sats,
                    fee_reserve: told.fee_reserve,
                    quote_ends: told.expiry.and_then(|s| i64::try_from(s).ok()?.checked_mul(1_000)).map(UnixMs),
                    expires_at: invoice.expires_at,
                    payment_id,
                    attempt,
                    stage: PaymentStage::Quoted,
                };
                self.write(vec![put_payment(&payment)?]).await?;
                payment
            }
        };
        let fees = self.input_fees().await?;
        let taken = select(self.free().await?, payment.sats.saturating_add(payment.fee_reserve), &fees);
        let inputs = taken.map_or(0, |taken| taken.len() as u64) + SPARE_INPUTS;
        let input_fee = inputs.saturating_mul(fees.dearest()).div_ceil(1_000);
        let rounding = msat(payment.sats).saturating_sub(amount);
        let max_fee = msat(payment.fee_reserve.saturating_add(input_fee)).saturating_add(rounding);
        Ok(Quote { max_fee, handle: Some(payment.quote), expires_at: payment.quote_ends })
    }

    async fn send(&self, send: Dispatch) -> Outcome {
        let invoice = match self.payable(&send.bolt11, send.amount).await {
            Ok((invoice, _)) => invoice,
            // Whether something was sent before is not known.
            Err(WalletError::Unreachable(why)) => return unknown(why),
            Err(_) => return refused(),
        };
        if send.payment_id.is_empty() || send.payment_id.len() > MAX_PAYMENT_ID_BYTES || send.attempt == 0 {
            return refused();
        }
        let Some(_busy) = self.begin(invoice.hash) else { return unknown("this payment is being worked on already") };
        let payment = match self.payment(invoice.hash).await {
            Ok(Some(payment)) => payment,
            // No quote, so that nothing was ever sent.
            Ok(None) => return refused(),
            Err(error) => return unknown(error),
        };
        // Whoever keeps no handle means the one quote that an invoice has; what it costs is bounded by the fee.
        if send.handle.as_ref().is_some_and(|handle| *handle != payment.quote) {
            return refused();
        }
        let late = invoice.expired(self.clock.now()) || self.clock.mono() >= send.deadline;
        let ours = payment.payment_id == send.payment_id;
        match (&payment.stage, payment.attempt >= send.attempt) {
            (PaymentStage::Quoted, _) => self.first(payment, &send, late).await,
            (PaymentStage::Failed { .. }, repeat) => match payment.known() {
                Some(outcome) if ours && repeat => outcome,
                _ => self.first(payment, &send, late).await,
            },
            // For somebody else: of this payment nothing was or will be sent.
            (PaymentStage::Sent(_) | PaymentStage::Settled { .. }, _) if !ours => failed(FailureClass::Rejected),
            (PaymentStage::Settled { .. }, _) => payment.known().unwrap_or(Outcome::NotFound),
            (PaymentStage::Sent(_), _) => match self.look(payment).await {
                (payment, Outcome::NotFound) if !late => match payment.stage.clone() {
                    PaymentStage::Sent(sent) => self.again(payment, sent, &send).await,
                    _ => self.first(payment, &send, late).await,
                },
                (payment, Outcome::Failed { .. }) if payment.attempt < send.attempt && !late => {
                    match payment.stage.clone() {
                        PaymentStage::Sent(sent) => self.again(payment, sent, &send).await,
                        _ => self.first(payment, &send, late).await,
                    }
                }
                (_, outcome) => outcome,
            },
        }
    }

    /// Chooses proofs, and writes down what will be sent before any of it is.
    async fn first(&self, mut payment: Payment, send: &Dispatch, late: bool) -> Outcome {
        if late || payment.lapsed(self.clock.now()) {
            return refused();
        }
        // A second handle on the same records may take proofs or secrets in between; then it is chosen again.
        for _ in 0..5 {
            let plan = match self.plan(&payment, send.max_fee).await {
                Ok(plan) => plan,
                Err(class) => return failed(class),
            };
            payment.payment_id.clone_from(&send.payment_id);
            payment.attempt = send.attempt;
            payment.stage = PaymentStage::Sent(plan.sent.clone());
            let mut changes = plan.changes;
            match put_payment(&payment) {
                Ok(change) => changes.push(change),
                Err(_) => return failed(FailureClass::Protocol),
            }
            match self.write(changes).await {
                Ok(()) => return self.transmit(payment, plan.sent, plan.proofs, send.deadline).await,
                Err(StorageError::Exists) => {}
                // It may have been written; nothing was sent.
                Err(error) => return unknown(error),
            }
        }
        failed(FailureClass::Refused)
    }

    async fn plan(&self, payment: &Payment, max_fee: Msat) -> Result<Plan, FailureClass> {
        let class = |error: WalletError| match error {
            WalletError::Unreachable(_) => FailureClass::Unreachable,
            WalletError::Refused(_)
            | WalletError::Protocol(_)
            | WalletError::Auth
            | WalletError::Unsupported { .. } => FailureClass::Protocol,
        };
        let fees = self.input_fees().await.map_err(|error| class(error.into()))?;
        let free = self.free().await.map_err(|error| class(error.into()))?;
        let needed = payment.sats.saturating_add(payment.fee_reserve);
        let chosen = select(free, needed, &fees).ok_or(FailureClass::NoFunds)?;
        let cost = msat(needed.saturating_add(fees.of(&chosen))).saturating_sub(payment.amount);
        if cost > max_fee {
            return Err(FailureClass::FeeTooHigh);
        }
        let inputs: Vec<(String, u64)> = chosen.iter().map(|owned| (owned.key.clone(), owned.sats())).collect();
        let over = chosen.iter().map(Owned::sats).sum::<u64>() - payment.sats - fees.of(&chosen);
        let mut changes = Vec::new();
        let change = match blanks(over).min(MAX_OUTPUTS) {
            0 => None,
            count => {
                let keyset = self.active().await.map_err(class)?;
                let range = self.next_range(keyset.id, count).await.map_err(|error| class(error.into()))?;
                changes.extend(range.1);
                Some(range.0)
            }
        };
        for owned in &chosen {
            changes.push(hold(&owned.key, payment.hash).map_err(|error| class(error.into()))?);
        }
        let sent = Sent { inputs, change, times: 1, seen: false, absent: false };
        Ok(Plan { sent, proofs: chosen.into_iter().map(|owned| owned.proof).collect(), changes })
    }

    /// The identical request once more: the mint takes it at most once.
    async fn again(&self, mut payment: Payment, mut sent: Sent, send: &Dispatch) -> Outcome {
        if payment.lapsed(self.clock.now()) {
            return Outcome::NotFound;
        }
        let mut proofs = Vec::new();
        for (key, _) in &sent.inputs {
            match self.proof(key).await {
                Ok(Some(proof)) => proofs.push(proof),
                Ok(None) => return unknown("a proof of this payment is missing"),
                Err(error) => return unknown(error),
            }
        }
        sent.times = sent.times.saturating_add(1);
        sent.absent = false;
        payment.attempt = payment.attempt.max(send.attempt);
        if let Err(error) = self.put(&mut payment, &sent).await {
            return unknown(error);
        }
        self.transmit(payment, sent, proofs, send.deadline).await
    }

    async fn put(&self, payment: &mut Payment, sent: &Sent) -> Result<(), StorageError> {
        payment.stage = PaymentStage::Sent(sent.clone());
        self.write(vec![put_payment(payment)?]).await
    }

    async fn transmit(&self, payment: Payment, sent: Sent, inputs: Vec<Proof>, deadline: MonoMs) -> Outcome {
        let made = match self.blank(&sent) {
            Ok(made) => made,
            Err(error) => return unknown(error),
        };
        let outputs = made.as_ref().map(PreMintSecrets::blinded_messages).unwrap_or_default();
        let patience = self.config.patience.settle_ms;
        match self.mint.melt(&payment.quote, &inputs, &outputs, deadline, patience).await {
            Ok(told) if told.quote != payment.quote => unknown("an answer about another payment"),
            Ok(told) => self.answered(payment, sent, told, FailureClass::NoRoute).await,
            Err(CallError::Late) => self.retract(payment, sent, FailureClass::Refused).await,
            Err(CallError::Unsent(_)) => self.retract(payment, sent, FailureClass::Unreachable).await,
            Err(CallError::Lost(why)) => unknown(why),
            Err(CallError::Silent(ms)) => match self.look(payment).await.1 {
                Outcome::NotFound => unknown(format!("no answer within {ms} ms")),
                outcome => outcome,
            },
            Err(CallError::Said { code, .. }) => {
                let class = match code {
                    CallError::PAYMENT_FAILED => FailureClass::NoRoute,
                    // The records are older than the wallet: another copy of it went on.
                    CallError::SPENT | CallError::ALREADY_SIGNED => FailureClass::Protocol,
                    _ => FailureClass::Rejected,
                };
                // It was heard: this request, or an identical one before it, is what the mint knows of.
                let heard = PaymentStage::Sent(Sent { seen: true, ..sent });
                self.look_as(Payment { stage: heard, ..payment }, class).await.1
            }
        }
    }

    fn blank(&self, sent: &Sent) -> Result<Option<PreMintSecrets>, WalletError> {
        sent.change.as_ref().map(|range| self.outputs(range, &[])).transpose()
    }

    /// No byte of this request left.
    async fn retract(&self, mut payment: Payment, mut sent: Sent, class: FailureClass) -> Outcome {
        sent.times = sent.times.saturating_sub(1);
        let written = if sent.times == 0 {
            payment.stage = PaymentStage::Quoted;
            self.give_back(&payment, &sent, &[]).await
        } else {
            self.put(&mut payment, &sent).await
        };
        match written {
            Ok(()) if sent.times == 0 => failed(class),
            Ok(()) => unknown("an earlier, identical request may be on its way"),
            Err(error) => unknown(error),
        }
    }

    /// The payment's new stage, and its proofs are free again, but for those that are spent.
    async fn give_back(&self, payment: &Payment, sent: &Sent, spent: &[String]) -> Result<(), StorageError> {
        let mut changes = vec![put_payment(payment)?];
        changes.extend(sent.inputs.iter().map(|(key, _)| release(key)));
        changes.extend(spent.iter().map(|key| delete_proof(key)));
        self.write(changes).await
    }

    /// The mint worked on this request, and says how it stands.
    async fn answered(&self, payment: Payment, mut sent: Sent, told: MeltQuote, class: FailureClass) -> Outcome {
        match told.state {
            QuoteState::Paid => self.settle(payment, sent, told).await.1,
            QuoteState::Unpaid | QuoteState::Failed if told.payment_preimage.is_none() => {
                sent.seen = true;
                self.fail(payment, sent, class).await.1
            }
            QuoteState::Pending => self.pending(payment, sent).await.1,
            QuoteState::Unpaid | QuoteState::Failed | QuoteState::Issued | QuoteState::Unknown => {
                unknown("the mint does not say how the payment stands")
            }
        }
    }

    /// Given up by the mint, which was seen at work on it. The proofs are free only if no other copy of the request can be
    /// on its way.
    async fn fail(&self, mut payment: Payment, mut sent: Sent, class: FailureClass) -> (Payment, Outcome) {
        let late = self.clock.now() >= payment.expires_at.plus_ms(HEIR_FINALITY_MARGIN_MS);
        let written = if sent.times <= 1 || late {
            let spent = match class {
                FailureClass::Protocol => match self.caught_up(&sent).await {
                    Ok(spent) => spent,
                    Err(error) => return (payment, unknown(error)),
                },
                _ => Vec::new(),
            };
            payment.stage = PaymentStage::Failed { class };
            self.give_back(&payment, &sent, &spent).await
        } else {
            sent.absent = true;
            self.put(&mut payment, &sent).await
        };
        let outcome = written.map_or_else(unknown, |()| failed(class));
        (payment, outcome)
    }

    /// What other copies of this wallet did is learned from the mint. Gives those inputs that are spent.
    async fn caught_up(&self, sent: &Sent) -> Result<Vec<String>, WalletError> {
        self.restore().await?;
        self.spent_among(&sent.inputs).await
    }

    async fn settle(&self, mut payment: Payment, sent: Sent, told: MeltQuote) -> (Payment, Outcome) {
        let change = match self.change(&sent, told.change).await {
            Ok(change) => change,
            // Paid it is, but at what cost is not known yet.
            Err(error) => return (payment, unknown(error)),
        };
        let back: u64 = change.iter().map(Owned::sats).sum();
        let fee = msat(sent.sats().saturating_sub(back)).saturating_sub(payment.amount);
        let proof = told.payment_preimage.and_then(|text| text.parse::<Hash32>().ok());
        // The mint's word alone where it gives none: the proofs are gone either way.
        let preimage = proof.filter(|it| Hash32::sha256(it.as_bytes()) == payment.hash);
        payment.stage = PaymentStage::Settled { preimage, fee };
        let written = async {
            let mut changes = vec![put_payment(&payment)?];
            for (key, _) in &sent.inputs {
                changes.extend([delete_proof(key), release(key)]);
            }
            for owned in &change {
                changes.push(put_proof(owned)?);
            }
            self.write(changes).await
        };
        let outcome = match written.await {
            Ok(()) => Outcome::Settled { preimage, fee },
            Err(error) => unknown(error),
        };
        (payment, outcome)
    }

    /// What was paid too much (NUT-08), from the answer, or from the mint's memory (NUT-09).
    async fn change(&self, sent: &Sent, told: Option<Vec<BlindSignature>>) -> Result<Vec<Owned>, WalletError> {
        let (Some(made), Some(range)) = (self.blank(sent)?, &sent.change) else { return Ok(Vec::new()) };
        let keyset: KeySet = self.keyset(range.keyset).await?;
        // In the outputs' order, as a rule: a signature that does not fit its output shows in its proof of equality.
        let proven = |all: &Vec<BlindSignature>| !all.is_empty() && all.iter().all(|it| it.dleq.is_some());
        if let Some(proofs) = told.filter(proven).and_then(|told| Self::unblind(&keyset, &made, told).ok()) {
            return Ok(proofs.into_iter().map(Owned::new).collect());
        }
        let signatures = self.signed_before(&made.blinded_messages(), 0).await?.unwrap_or_default();
        let mut proofs = Self::unblind(&keyset, &made, signatures)?;
        proofs.retain(|proof| u64::from(proof.amount) > 0);
        Ok(proofs.into_iter().map(Owned::new).collect())
    }

    /// Asks the mint how a payment stands that was sent, and writes down what follows from it. Sends nothing.
    pub(super) async fn look(&self, payment: Payment) -> (Payment, Outcome) {
        self.look_as(payment, FailureClass::NoRoute).await
    }

    /// How the mint says the proofs of a payment stand, or none if it is to be asked for the quote. Nutshell, asked for the
    /// quote in the moment in which the payment ends, may sign the change twice; asked for the proofs, it only looks.
    async fn at_work(&self, hash: Hash32, sent: &Sent) -> Result<Option<ProofState>, WalletError> {
        let Some((key, _)) = sent.inputs.first() else { return Ok(None) };
        let Some(proof) = self.proof(key).await? else { return Ok(None) };
        let y = proof.y().map_err(|_| WalletError::Protocol("a secret that is no point".to_owned()))?;
        let state = self.mint.check(&[y]).await?.first().map(|it| it.state);
        if state != Some(ProofState::Pending) {
            return Ok(state);
        }
        let now = self.clock.mono();
        let mut asked = self.memory.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *asked.entry(hash).or_insert(now);
        // A mint that was restarted may only look when it is asked.
        if now < since.plus_ms(self.config.patience.nudge_ms) {
            return Ok(state);
        }
        asked.remove(&hash);
        Ok(None)
    }

    /// The mint knows nothing of the request, which may still arrive.
    async fn absent(&self, mut payment: Payment, mut sent: Sent) -> (Payment, Outcome) {
        let written = if sent.absent {
            Ok(())
        } else {
            sent.absent = true;
            self.put(&mut payment, &sent).await
        };
        let outcome = written.map_or_else(unknown, |()| Outcome::NotFound);
        (payment, outcome)
    }

    async fn look_as(&self, mut payment: Payment, class: FailureClass) -> (Payment, Outcome) {
        let PaymentStage::Sent(sent) = payment.stage.clone() else {
            let known = payment.known().unwrap_or(Outcome::NotFound);
            return (payment, known);
        };
        // Nobody can pay it any more: what was on its way is not.
        let over = self.clock.now() >= payment.expires_at.plus_ms(HEIR_FINALITY_MARGIN_MS);
        match self.at_work(payment.hash, &sent).await {
            Ok(Some(ProofState::Pending)) => return self.pending(payment, sent).await,
            // Untouched, and nothing is to be given back.
            Ok(Some(ProofState::Unspent)) if !sent.seen && !over => return self.absent(payment, sent).await,
            Ok(Some(ProofState::Unspent | ProofState::Spent) | None) => {}
            Err(error) => return (payment, unknown(error)),
        }
        let told = match self.mint.melt_quote(&payment.quote).await {
            Ok(told) if told.quote == payment.quote => told,
            Ok(_) => return (payment, unknown("an answer about another payment")),
            Err(error) => return (payment, unknown(WalletError::from(error))),
        };
        match told.state {
            QuoteState::Paid => self.settle(payment, sent, told).await,
            QuoteState::Unpaid | QuoteState::Failed if told.payment_preimage.is_none() && sent.seen => {
                self.fail(payment, sent, class).await
            }
            QuoteState::Unpaid | QuoteState::Failed if told.payment_preimage.is_none() => {
                if !over {
                    return self.absent(payment, sent).await;
                }
                payment.stage = PaymentStage::Quoted;
                let written = self.give_back(&payment, &sent, &[]).await;
                let outcome = written.map_or_else(unknown, |()| Outcome::NotFound);
                (payment, outcome)
            }
            QuoteState::Pending => self.pending(payment, sent).await,
            QuoteState::Unpaid | QuoteState::Failed | QuoteState::Issued | QuoteState::Unknown => {
                (payment, unknown("the mint does not say how the payment stands"))
            }
        }
    }

    async fn pending(&self, mut payment: Payment, mut sent: Sent) -> (Payment, Outcome) {
        (sent.seen, sent.absent) = (true, false);
        let stage = PaymentStage::Sent(sent.clone());
        let written = if payment.stage == stage { Ok(()) } else { self.put(&mut payment, &sent).await };
        let outcome = written.map_or_else(unknown, |()| Outcome::Pending);
        (payment, outcome)
    }

    async fn answer(&self, question: Resolve) -> Outcome {
        let Some(_busy) = self.begin(question.hash) else { return unknown("this payment is being worked on") };
        let payment = match self.payment(question.hash).await {
            Ok(Some(payment)) if payment.payment_id == question.payment_id => payment,
            Ok(_) => return Outcome::NotFound,
            Err(error) => return unknown(error),
        };
        match self.look(payment).await {
            // An earlier attempt's failure says nothing of this one.
            (payment, Outcome::Failed { .. }) if payment.attempt < question.attempt => Outcome::NotFound,
            (_, outcome) => outcome,
        }
    }
}

impl Payment {
    /// Whether the mint's quote ended.
    fn lapsed(&self, now: UnixMs) -> bool {
        self.quote_ends.is_some_and(|ends| now >= ends)
    }
}

impl Pay for CashuWallet {
    fn quote(&self, request: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>> {
        Box::pin(self.0.quote(request))
    }

    fn dispatch(&self, send: Dispatch) -> BoxFuture<'_, Outcome> {
        Box::pin(self.0.send(send))
    }

    fn resolve(&self, question: Resolve) -> BoxFuture<'_, Outcome> {
        Box::pin(self.0.answer(question))
    }
}
