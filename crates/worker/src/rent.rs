//! The agent's own rent: an invoice that control asks to be paid, as far as the owner's signed policy allows it.
//!
//! Whoever asks, and whoever writes the database, is not believed: the payee is the policy's, and what was begun in the
//! month is counted in the encrypted state too, in the batch that reserves the payment. A repeat pays nothing again: the
//! invoice's hash is the payment's.

use nexus_core::budget::Window;
use nexus_core::payment::{Asker, EXPIRY_MARGIN_MS, PaymentState, conclude};
use nexus_core::rent::{ASK_RENT, Begun, RentDue, RentPaid, affords, allows};
use nexus_core::{Hash32, Msat};
use nexus_lightning::{Bolt11, PayRequest, Resolve, WalletDriver};
use nexus_store::agent::{self, Agent, Settle};
use nexus_store::payment::{self, NewPayment, Payment};
use nexus_store::side::{PaymentMove, Side};
use nexus_store::wallet_request::{Answer, WalletRequest};
use nexus_store::{Conflict, StoreError};
use tokio_util::sync::CancellationToken;

use crate::error::TurnError;
use crate::faults::At;
use crate::ledger::Pen;
use crate::market::fee_limit;
use crate::recover::{ask, store};
use crate::unlock::{Opened, seal_state};
use crate::wallet::{self, WALLET_TIMEOUT, say};
use crate::withdraw::dispatch;

/// Hosting invoices live for minutes.
const MAX_EXPIRY_MS: i64 = 86_400_000;
/// Earlier payments that the wallet is asked about in one go, when they take the room of this one.
const MAX_LOOKED_UP: usize = 8;

/// Pays the rent that is asked for; gives back what others answer, and whether money may have moved.
pub(crate) async fn answer(
    pen: &Pen<'_>,
    agent: &Agent,
    opened: &mut Opened,
    requests: Vec<WalletRequest>,
    stop: &CancellationToken,
) -> Result<(Vec<WalletRequest>, bool), TurnError> {
    let (mut others, mut paid) = (Vec::new(), false);
    for request in requests {
        if request.kind != ASK_RENT {
            others.push(request);
            continue;
        }
        let said = match pay(pen, opened, &request.body, stop).await? {
            Ok(said) => {
                paid = true;
                Answer::Done(serde_json::to_string(&said).unwrap_or_default())
            }
            Err(why) => {
                tracing::info!(npub = %pen.npub.short(), why, "rent is not paid");
                Answer::Failed(why)
            }
        };
        say(pen.host, agent, &request.id, said).await?;
    }
    Ok((others, paid))
}

/// Why it is not paid, in words for the agent's owner.
type Refused = String;

/// An invoice that the policy lets the agent pay.
struct Due {
    text: String,
    invoice: Bolt11,
    amount: Msat,
    cap: Msat,
    /// The largest fee.
    max_fee: Msat,
}

impl Due {
    fn cost(&self) -> Msat {
        self.amount.saturating_add(self.max_fee)
    }
}

async fn pay(
    pen: &Pen<'_>,
    opened: &mut Opened,
    body: &str,
    stop: &CancellationToken,
) -> Result<Result<RentPaid, Refused>, TurnError> {
    let mut due = match read(pen, opened, body) {
        Ok(due) => due,
        Err(why) => return Ok(Err(why)),
    };
    let driver = wallet::open(pen.host, opened).await?;
    let hash = due.invoice.hash;
    let stored = payment::get(&pen.host.store, pen.npub, hash).await?;
    let counted = opened.state.rent.find(&hash).map(|begun| begun.cost);
    let known = counted.is_some();
    let mut payment = match stored {
        Some(_) if !known => return Ok(Err("this invoice was met before, and not as rent".to_owned())),
        None if known => return Ok(Err("its payment is gone from the database: it is not begun anew".to_owned())),
        Some(payment) if payment.state.unresolved() => {
            let counted = counted.unwrap_or(due.amount);
            return follow(pen, &*driver, payment, due, counted).await.map(Ok);
        }
        Some(payment) if payment.state == PaymentState::Settled || payment.state == PaymentState::Canceled => {
            return Ok(Ok(told(&payment, payment.state, None)));
        }
        Some(payment) => {
            if let Err(why) = quote(opened, &*driver, &mut due).await {
                return Ok(Err(why));
            }
            match payment.state == PaymentState::Failed {
                true => match again(pen, opened, payment, &due).await? {
                    Ok(payment) => payment,
                    Err(why) => return Ok(Err(why)),
                },
                // What a crash left: it was never sent.
                false => payment,
            }
        }
        None => {
            if let Err(why) = quote(opened, &*driver, &mut due).await {
                return Ok(Err(why));
            }
            if let Err(why) = begin(pen, opened, &*driver, &due).await? {
                return Ok(Err(why));
            }
            match payment::get(&pen.host.store, pen.npub, hash).await? {
                Some(payment) => payment,
                None => return Ok(Err("the payment is gone from the database".to_owned())),
            }
        }
    };
    let counted = opened.state.rent.find(&hash).map_or(due.amount, |begun| begun.cost);
    believe(&mut payment, &due, counted);
    let (resolved, why) = dispatch(pen, &*driver, &mut payment, stop).await?;
    Ok(Ok(told(&payment, resolved.state, why)))
}

fn told(payment: &Payment, state: PaymentState, why: Option<String>) -> RentPaid {
    RentPaid { payment_hash: payment.hash, state: state.as_str().to_owned(), why }
}

/// What is sent is what was judged here and counted in the state, whatever the row says by now.
fn believe(payment: &mut Payment, due: &Due, counted: Msat) {
    payment.bolt11.clone_from(&due.text);
    payment.step = step(&due.invoice.hash);
    payment.expires_at = due.invoice.expires_at;
    payment.amount = due.amount;
    payment.max_fee = counted.saturating_sub(due.amount);
}

/// The payable step; drivers take up to 64 bytes.
fn step(hash: &Hash32) -> String {
    let hash: String = hash.to_string().chars().take(32).collect();
    format!("rent:{hash}")
}

/// The invoice, if it is one that the owner signed for: from that node, for an amount, and good for a while.
fn read(pen: &Pen<'_>, opened: &Opened, body: &str) -> Result<Due, Refused> {
    let policy = opened.policy.as_ref().map_err(|problem| problem.text.clone())?;
    let asked: RentDue = serde_json::from_str(body).map_err(|_| "it names no invoice".to_owned())?;
    let invoice = Bolt11::decode(&asked.invoice).map_err(|error| format!("the invoice: {error}"))?;
    let rent = allows(policy, &invoice.payee).map_err(|refused| refused.to_string())?;
    let (now, network) = (pen.now(), pen.host.wallets.network());
    if invoice.network != network {
        return Err(format!("the invoice is for {}, this wallet is on {network}", invoice.network));
    }
    let amount = invoice.amount.ok_or("the invoice names no amount")?;
    if invoice.expires_at < now.plus_ms(2 * EXPIRY_MARGIN_MS) || invoice.expires_at > now.plus_ms(MAX_EXPIRY_MS) {
        return Err("the invoice has expired, or expires too soon or too late".to_owned());
    }
    Ok(Due { text: asked.invoice, amount, cap: rent.month_msat, max_fee: Msat::ZERO, invoice })
}

/// What it costs at most, and whether the wallet has that above the reserve.
async fn quote(opened: &Opened, driver: &dyn WalletDriver, due: &mut Due) -> Result<(), Refused> {
    let policy = opened.policy.as_ref().map_err(|problem| problem.text.clone())?;
    let quote = driver.quote(PayRequest { bolt11: due.text.clone(), amount: None });
    due.max_fee = match tokio::time::timeout(WALLET_TIMEOUT, quote).await {
        Ok(Ok(quote)) => quote.max_fee,
        Ok(Err(error)) => return Err(format!("the wallet cannot pay it: {error}")),
        Err(_) => return Err("the wallet did not answer in time".to_owned()),
    };
    if due.max_fee > fee_limit(due.amount) {
        return Err(format!("routing would cost up to {}", due.max_fee));
    }
    let balance = wallet::balance(driver).await?;
    affords(policy, balance, due.cost()).map_err(|refused| refused.to_string())
}

/// Counts the payment in the state and in the database, and writes its intent, in one batch.
async fn begin(
    pen: &Pen<'_>,
    opened: &mut Opened,
    driver: &dyn WalletDriver,
    due: &Due,
) -> Result<Result<(), Refused>, TurnError> {
    let open = payment::open(&pen.host.store, pen.npub).await?;
    if open.iter().any(|payment| payment.step.starts_with("rent:")) {
        return Ok(Err("an earlier payment of rent has not come to its end".to_owned()));
    }
    let before = opened.state.clone();
    let month = opened.state.rent.month_at(pen.now());
    if opened.state.rent.used(month).saturating_add(due.cost()) > due.cap {
        make_room(pen, opened, driver).await;
    }
    let begun = Begun { hash: due.invoice.hash, cost: due.cost(), attempt: 1, expires_at: due.invoice.expires_at };
    if let Err(refused) = opened.state.rent.begin(month, begun, due.cap) {
        opened.state = before;
        return Ok(Err(refused.to_string()));
    }
    let window = Window::Rent(month);
    let new = NewPayment {
        hash: due.invoice.hash,
        step: step(&due.invoice.hash),
        purpose: "rent".into(),
        bolt11: due.text.clone(),
        amount: due.amount,
        max_fee: due.max_fee,
        expires_at: due.invoice.expires_at,
        windows: vec![window],
        payee: None,
    };
    let side = vec![Side::ReserveBudget { window, amount: due.cost(), limit: due.cap }, Side::InsertPayment(new)];
    commit(pen, opened, before, side).await
}

/// The same payment once more, of which it is certain that it failed: it is counted in the state already.
async fn again(
    pen: &Pen<'_>,
    opened: &mut Opened,
    mut payment: Payment,
    due: &Due,
) -> Result<Result<Payment, Refused>, TurnError> {
    let month = opened.state.rent.month_at(pen.now());
    let window = Window::Rent(month);
    if payment.windows != [window] || due.cost() != payment.hold() {
        return Ok(Err("it failed, and is not begun anew: another invoice is needed".to_owned()));
    }
    let before = opened.state.clone();
    opened.state.rent.again(&payment.hash);
    let (hash, at) = (payment.hash, pen.now());
    let (from, to) = (PaymentState::Failed, PaymentState::Reserved);
    let side = vec![
        Side::ReserveBudget { window, amount: due.cost(), limit: due.cap },
        Side::Payment(PaymentMove { hash, from, to, at, fee: None, preimage: None, note: None }),
    ];
    if let Err(why) = commit(pen, opened, before, side).await? {
        return Ok(Err(why));
    }
    payment.state = PaymentState::Reserved;
    payment.attempt = payment.attempt.saturating_add(1);
    Ok(Ok(payment))
}

async fn commit(
    pen: &Pen<'_>,
    opened: &mut Opened,
    before: nexus_core::state::AgentState,
    side: Vec<Side>,
) -> Result<Result<(), Refused>, TurnError> {
    let host = pen.host;
    let state = seal_state(host, pen.generation, opened).await?;
    let version = state.version;
    let (fence, npub, generation, at) = (pen.fence()?, pen.npub, pen.generation, pen.now());
    let settle = Settle { fence, npub, generation, at, state, inbox: Vec::new(), side, events: Vec::new() };
    host.faults.pass(At::Before, "rent").await;
    match agent::settle(&host.store, settle).await {
        Ok(_) => opened.stored_version = version,
        Err(StoreError::Conflict { conflict, .. }) if refuses(&conflict) => {
            opened.state = before;
            return Ok(Err(format!("it is not begun: {conflict}")));
        }
        Err(error) => return Err(error.into()),
    }
    host.faults.pass(At::After, "rent").await;
    Ok(Ok(()))
}

fn refuses(conflict: &Conflict) -> bool {
    matches!(conflict, Conflict::PaymentHash | Conflict::PaymentStep | Conflict::Budget { .. })
}

/// Asks the wallet about what was begun this month and ran out since: what surely was never paid gives its room back.
/// What the database says of it does not count.
async fn make_room(pen: &Pen<'_>, opened: &mut Opened, driver: &dyn WalletDriver) {
    let now = pen.now();
    let past: Vec<Begun> =
        opened.state.rent.begun.iter().filter(|begun| begun.expires_at < now).take(MAX_LOOKED_UP).cloned().collect();
    for begun in past {
        let payment_id = step(&begun.hash);
        let question =
            Resolve { key: payment_id.clone(), payment_id, attempt: begun.attempt, hash: begun.hash, handle: None };
        let Ok(said) = tokio::time::timeout(WALLET_TIMEOUT, driver.resolve(question)).await else { return };
        if conclude(&said, Asker::Heir, begun.expires_at, now) == Some(PaymentState::Failed) {
            opened.state.rent.over(&begun.hash);
        }
    }
}

/// Finds out what became of what may have left; the identical payment is sent again where the wallet recognises it.
async fn follow(
    pen: &Pen<'_>,
    driver: &dyn WalletDriver,
    mut payment: Payment,
    due: Due,
    counted: Msat,
) -> Result<RentPaid, TurnError> {
    believe(&mut payment, &due, counted);
    let resolved = ask(pen, driver, &payment, true).await;
    store(pen, &payment, &resolved).await?;
    Ok(told(&payment, resolved.state, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_fits_what_drivers_take() {
        assert_eq!(step(&Hash32::from_bytes([7; 32])).len(), 37);
    }
}
