//! Money out by the owner's command: one payment, journaled as any other, outside of ticks and their limits.
//!
//! The command's id is in the encrypted state in the batch that reserves the payment. What a crash leaves reserved was
//! never sent and is cancelled; what it leaves dispatched is looked up, as every payment is.

use nexus_core::Msat;
use nexus_core::payment::{Asker, EXPIRY_MARGIN_MS, Outcome, PaymentState, conclude};
use nexus_lightning::{Bolt11, PayRequest, WalletDriver};
use nexus_seal::withdrawal::{ASK_WITHDRAW, Withdrawal, Withdrawn, path};
use nexus_seal::{OwnerCommand, VerifiedCommand};
use nexus_store::agent::{self, Agent, Settle};
use nexus_store::payment::{self, NewPayment, Payment};
use nexus_store::side::Side;
use nexus_store::wallet_request::{Answer, WalletRequest};
use nexus_store::{Conflict, StoreError};
use tokio_util::sync::CancellationToken;

use crate::error::TurnError;
use crate::faults::At;
use crate::ledger::Pen;
use crate::market::fee_limit;
use crate::recover::{Resolved, moved, send, store};
use crate::unlock::{Opened, seal_state};
use crate::wallet::{self, WALLET_TIMEOUT, say};

/// An owner's own invoice may live longer than a provider's, up to what a policy could allow.
const MAX_EXPIRY_MS: i64 = 86_400_000;

/// Carries out what the owner commanded; gives back what others answer, and whether money may have moved.
pub(crate) async fn answer(
    pen: &Pen<'_>,
    agent: &Agent,
    opened: &mut Opened,
    requests: Vec<WalletRequest>,
    stop: &CancellationToken,
) -> Result<(Vec<WalletRequest>, bool), TurnError> {
    let (mut others, mut paid) = (Vec::new(), false);
    for request in requests {
        if request.kind != ASK_WITHDRAW {
            others.push(request);
            continue;
        }
        let said = match command(pen, opened, &request.body, stop).await? {
            Ok(withdrawn) => {
                paid = true;
                Answer::Done(serde_json::to_string(&withdrawn).unwrap_or_default())
            }
            Err(why) => Answer::Failed(why),
        };
        say(pen.host, agent, &request.id, said).await?;
    }
    Ok((others, paid))
}

/// Why a command is not carried out, in words for its owner.
type Refused = String;

async fn command(
    pen: &Pen<'_>,
    opened: &mut Opened,
    body: &str,
    stop: &CancellationToken,
) -> Result<Result<Withdrawn, Refused>, TurnError> {
    let (verified, asked) = match read(pen, opened, body) {
        Ok(read) => read,
        Err(why) => return Ok(Err(why)),
    };
    let driver = wallet::open(pen.host, opened).await?;
    let new = match payable(pen, &*driver, &verified, &asked).await {
        Ok(new) => new,
        Err(why) => return Ok(Err(why)),
    };
    let hash = new.hash;
    if let Err(why) = reserve(pen, opened, &verified, new).await? {
        return Ok(Err(why));
    }
    let stored = payment::get(&pen.host.store, pen.npub, hash).await?;
    let Some(mut payment) = stored else { return Ok(Err("the payment is gone from the database".to_owned())) };
    // What is paid is what the owner signed for, whatever the row says by now.
    payment.bolt11 = asked.invoice;
    payment.step = step(&verified);
    let (resolved, why) = dispatch(pen, &*driver, &mut payment, stop).await?;
    let state = resolved.state.as_str();
    tracing::info!(npub = %pen.npub.short(), payment_hash = %hash, state, why, "withdrawal");
    Ok(Ok(Withdrawn { payment_hash: hash, state: state.to_owned(), fee: resolved.fee, why }))
}

/// The command, if the owner signed it for exactly this, lately, and it was not obeyed before.
fn read(pen: &Pen<'_>, opened: &Opened, body: &str) -> Result<(VerifiedCommand, Withdrawal), Refused> {
    let command: OwnerCommand = serde_json::from_str(body).map_err(|_| "not an owner's command".to_owned())?;
    let verified = command.verify("POST", &path(&pen.npub), &pen.npub, pen.now()).map_err(|error| error.to_string())?;
    if verified.by != opened.owner {
        return Err("signed by another key than the owner's".to_owned());
    }
    if opened.state.commands.contains(&verified.id) {
        return Err("this command was used before".to_owned());
    }
    let asked = serde_json::from_str(&command.body).map_err(|_| "it names no invoice and amount".to_owned())?;
    Ok((verified, asked))
}

/// Checks the invoice against what the owner said and what the wallet has.
async fn payable(
    pen: &Pen<'_>,
    driver: &dyn WalletDriver,
    verified: &VerifiedCommand,
    asked: &Withdrawal,
) -> Result<NewPayment, Refused> {
    let now = pen.now();
    let invoice = Bolt11::decode(&asked.invoice).map_err(|error| format!("the invoice: {error}"))?;
    let network = pen.host.wallets.network();
    if invoice.network != network {
        return Err(format!("the invoice is for {}, this wallet is on {network}", invoice.network));
    }
    let amount = invoice.amount.ok_or("the invoice names no amount: make one that does")?;
    if Msat::from_sats(asked.amount_sats) != Some(amount) {
        return Err(format!("the invoice asks for {amount}, not for {} sats", asked.amount_sats));
    }
    if invoice.expires_at < now.plus_ms(2 * EXPIRY_MARGIN_MS) {
        return Err("the invoice has expired or expires too soon: make another".to_owned());
    }
    if invoice.expires_at > now.plus_ms(MAX_EXPIRY_MS) {
        return Err("the invoice expires more than a day ahead: make one that does not".to_owned());
    }
    let quote = driver.quote(PayRequest { bolt11: asked.invoice.clone(), amount: None });
    let max_fee = match tokio::time::timeout(WALLET_TIMEOUT, quote).await {
        Ok(Ok(quote)) => quote.max_fee,
        Ok(Err(error)) => return Err(format!("the wallet cannot pay it: {error}")),
        Err(_) => return Err("the wallet did not answer in time".to_owned()),
    };
    if max_fee > fee_limit(amount) {
        return Err(format!("routing would cost up to {max_fee}"));
    }
    let (balance, cost) = (wallet::balance(driver).await?, amount.saturating_add(max_fee));
    if balance < cost {
        return Err(format!("the wallet has {balance}, and this takes up to {cost} with its fee"));
    }
    Ok(NewPayment {
        hash: invoice.hash,
        step: step(verified),
        purpose: "withdrawal".into(),
        bolt11: asked.invoice.clone(),
        amount,
        max_fee,
        expires_at: invoice.expires_at,
        // The owner's own money, by the owner's own word: no limit of the policy counts it.
        windows: Vec::new(),
        payee: None,
    })
}

/// The payable step that a command is; drivers take up to 64 bytes.
fn step(verified: &VerifiedCommand) -> String {
    let id: String = verified.id.to_string().chars().take(32).collect();
    format!("withdrawal:{id}")
}

/// Uses the command up and writes the payment's intent, in one batch.
async fn reserve(
    pen: &Pen<'_>,
    opened: &mut Opened,
    verified: &VerifiedCommand,
    new: NewPayment,
) -> Result<Result<(), Refused>, TurnError> {
    let host = pen.host;
    let before = opened.state.clone();
    opened.state.note_command(verified.id);
    let state = seal_state(host, pen.generation, opened).await?;
    let version = state.version;
    let settle = Settle {
        fence: pen.fence()?,
        npub: pen.npub,
        generation: pen.generation,
        at: pen.now(),
        state,
        inbox: Vec::new(),
        side: vec![Side::InsertPayment(new)],
        events: Vec::new(),
    };
    host.faults.pass(At::Before, "withdraw").await;
    match agent::settle(&host.store, settle).await {
        Ok(_) => opened.stored_version = version,
        Err(StoreError::Conflict { conflict: Conflict::PaymentHash | Conflict::PaymentStep, .. }) => {
            opened.state = before;
            return Ok(Err("this invoice was met before: make another".to_owned()));
        }
        Err(error) => return Err(error.into()),
    }
    host.faults.pass(At::After, "withdraw").await;
    Ok(Ok(()))
}

/// Sends what is reserved, once. What is not known then is recovery's.
pub(crate) async fn dispatch(
    pen: &Pen<'_>,
    driver: &dyn WalletDriver,
    payment: &mut Payment,
    stop: &CancellationToken,
) -> Result<(Resolved, Option<String>), TurnError> {
    let host = pen.host;
    pen.apply(vec![moved(payment, PaymentState::Dispatched, pen.now())]).await?;
    payment.state = PaymentState::Dispatched;
    host.faults.pass(At::Before, "dispatch").await;
    let outcome = tokio::select! {
        biased;
        outcome = send(pen, driver, payment) => outcome,
        () = stop.cancelled() => return Err(TurnError::Interrupted),
    };
    let answered = !matches!(outcome, Outcome::Unknown { .. });
    host.note_dispatched(payment.hash, pen.generation, if answered { Asker::Dispatcher } else { Asker::Unsure });
    host.faults.pass(At::After, "dispatch").await;
    let state = conclude(&outcome, Asker::Dispatcher, payment.expires_at, pen.now()).unwrap_or(payment.state);
    let fee = if let Outcome::Settled { fee, .. } = &outcome { *fee } else { Msat::ZERO };
    let why = if let Outcome::Failed { class } = &outcome { Some(class.to_string()) } else { None };
    let resolved = Resolved { state, fee, preimage: None };
    store(pen, payment, &resolved).await?;
    Ok((resolved, why))
}
