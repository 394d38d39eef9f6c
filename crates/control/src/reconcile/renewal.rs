//! Hosting that renews itself: what an account's months cost beyond its credit is paid out of its owner's own wallet, by
//! the connection that the owner gave (NIP-47), within the cap of a month.
//!
//! One invoice at a time. It is noted before the node is asked for it, and the step before the wallet is asked is taken by
//! one control plane: an heir only asks what became of it. Another invoice is made once this one is credited, or surely
//! will not be paid: by the driver's word, or by the node's, long after the expiry.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::StreamExt;
use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{AccountId, Msat, UnixMs};
use nexus_lightning::driver::Resolve;
use nexus_lightning::lnd::FeeReserve;
use nexus_lightning::nwc::{Connection, FAILURE_MARGIN_MS};
use nexus_lightning::{Dispatch, Pay, PayRequest, Preimage, WalletError};
use nexus_store::hosting::{self as books, Invoice};
use nexus_store::renewal::{self, Failed, NewPayment, Renewal, Stage};
use nexus_store::{Conflict, StoreError};

use super::{hosting, pause, rent};
use crate::app::Shared;
use crate::config::Billing;
use crate::owner_wallet::{Kept, OwnerWallets, purpose};

const ROUND_MS: u64 = 1_000;
/// Accounts of one round at most, and how many wallets are asked at a time.
const BATCH: u32 = 64;
const TOGETHER: usize = 8;
/// What nobody pays in this time is surely dead soon after.
const EXPIRY_S: u32 = 600;
/// The wallet needs some of it for itself.
const LAST_SEND_MS: i64 = 75_000;
/// After this nothing is published any more.
const DEADLINE_MS: u64 = 30_000;
/// For a call of the driver, which has patience of its own.
const PATIENCE: Duration = Duration::from_secs(75);
/// Between looks while something is under way, and while there is nothing to do: other agents may be there.
const LOOK_MS: i64 = 5_000;
const IDLE_MS: i64 = 60_000;
/// After what failed, twice as long after each; what the owner says anew is tried at once.
const PAUSE_MS: (i64, i64) = (60_000, 6 * 3_600_000);
/// The wallet says that it paid, and the node knows nothing of it for so long: the owner is told.
const CREDIT_MS: i64 = 900_000;
/// Agents of an account at most.
const MAX_AGENTS: u32 = 10_000;

/// Renews until the process stops; where nothing is charged, or no wallet can be asked, there is nothing to do.
pub async fn run(app: &Shared) {
    let (Some(billing), Some(wallets)) = (&app.config.billing, &app.config.owner_wallets) else { return };
    loop {
        if app.reconciler.is_active()
            && let Err(error) = round(app, billing, &**wallets).await
        {
            tracing::warn!(%error, "hosting was not renewed; the next round tries again");
        }
        pause(ROUND_MS).await;
    }
}

/// One step of each that is due. One that fails leaves the others alone.
pub(crate) async fn round(app: &Shared, billing: &Billing, wallets: &dyn OwnerWallets) -> Result<(), StoreError> {
    let due = renewal::due(&app.store, app.now(), BATCH).await?;
    let steps = futures::stream::iter(due).map(|row| async move { step(app, billing, wallets, &row).await });
    let done: Vec<Result<(), StoreError>> = steps.buffer_unordered(TOGETHER).collect().await;
    done.into_iter().collect()
}

async fn step(app: &Shared, billing: &Billing, wallets: &dyn OwnerWallets, row: &Renewal) -> Result<(), StoreError> {
    let turn = Turn { app, billing, wallets, row };
    let invoice = match row.hash {
        Some(hash) => books::invoice(&app.store, hash).await?,
        None => None,
    };
    let done = match (row.stage, invoice) {
        (Stage::None, _) => turn.plan().await,
        (Stage::Begun | Stage::Sent | Stage::Paid, Some(invoice)) if invoice.state == "paid" => turn.credited().await,
        (Stage::Begun, Some(invoice)) => turn.make_and_send(invoice).await,
        (Stage::Sent, Some(invoice)) => turn.follow(&invoice).await,
        (Stage::Paid, Some(invoice)) => turn.await_credit(&invoice).await,
        // The row is written with the invoice, and invoices are never deleted.
        (Stage::Begun | Stage::Sent | Stage::Paid, None) => {
            tracing::error!(account = %row.account, "the invoice of a renewal is gone: restore the database");
            turn.later(IDLE_MS, row.problem.clone()).await
        }
    };
    match done {
        // Somebody else was first, or the owner said something: looked at again.
        Err(error) if error.conflict() == Some(&Conflict::Version) => Ok(()),
        done => done,
    }
}

/// One look at one account.
struct Turn<'a> {
    app: &'a Shared,
    billing: &'a Billing,
    wallets: &'a dyn OwnerWallets,
    row: &'a Renewal,
}

impl Turn<'_> {
    /// Begins a payment if something is missing, the cap allows it, and the wallet seems to be able.
    async fn plan(&self) -> Result<(), StoreError> {
        let Self { app, row, .. } = self;
        let now = app.now();
        let (missing, next) = missing(app, self.billing, row.account, Some(now)).await?;
        let sats = missing.sats_ceil();
        if sats == 0 {
            let wait = next.0.saturating_sub(now.0).clamp(1_000, IDLE_MS);
            return self.later(wait, None).await;
        }
        let Some(amount) = Msat::from_sats(sats) else { return self.later(IDLE_MS, None).await };
        let held = amount.saturating_add(FeeReserve::default().of(amount));
        let month = month_of(now);
        if row.left(&month) < held {
            let (cap, left) = (row.cap, row.left(&month));
            let why = format!(
                "hosting needs {amount}, with fees up to {held}, and {left} of this month's {cap} are left: raise the cap"
            );
            return self.fail(why, false).await;
        }
        let wallet = match self.wallet() {
            Ok(wallet) => wallet,
            Err(why) => return self.fail(why, true).await,
        };
        match tokio::time::timeout(PATIENCE, wallet.balance()).await {
            Ok(Ok(balance)) if balance < amount => {
                return self.fail(format!("hosting needs {amount}, and the wallet has {balance}"), false).await;
            }
            // A connection need not be allowed to say what there is.
            Ok(Ok(_) | Err(WalletError::Refused(_) | WalletError::Unsupported { .. })) => {}
            Ok(Err(error)) => return self.unable(&error).await,
            Err(_) => return self.fail("the wallet does not answer in time".to_owned(), false).await,
        }
        self.begin(amount, held, month).await
    }

    async fn begin(&self, amount: Msat, held: Msat, month: String) -> Result<(), StoreError> {
        let Self { app, row, .. } = self;
        let Some(key) = app.config.operator_key.as_deref() else { return self.later(IDLE_MS, None).await };
        let bytes = app.random::<32>();
        let hash = Preimage::from_bytes(bytes).hash();
        let Ok(sealed_preimage) = key.seal(&format!("hosting-invoice:{hash}"), &bytes, &*app.entropy) else {
            return self.later(IDLE_MS, None).await;
        };
        let now = app.now();
        let host = app.config.public_origin.host_str().unwrap_or_default();
        let new = NewPayment {
            hash,
            amount,
            held,
            month,
            memo: format!("Hosting at {host}"),
            sealed_preimage,
            created_at: now,
            expires_at: now.plus_ms(i64::from(EXPIRY_S) * 1_000),
        };
        renewal::begin(&app.store, row, new).await
    }

    /// The invoice is made, and the wallet asked once. Until then nothing can have been paid out of it.
    async fn make_and_send(&self, invoice: Invoice) -> Result<(), StoreError> {
        let Self { app, row, .. } = self;
        let now = app.now();
        if !row.enabled || now.plus_ms(LAST_SEND_MS) >= invoice.expires_at {
            let why = if invoice.bolt11.is_empty() {
                "the operator's node made no invoice: it is tried again"
            } else {
                "the invoice was not handed to the wallet in time: it is tried again"
            };
            return self.fail(why.to_owned(), false).await;
        }
        let mut invoice = invoice;
        if invoice.bolt11.is_empty() {
            let wanted = rent::Wanted {
                hash: invoice.hash,
                sealed_preimage: &invoice.sealed_preimage,
                amount: invoice.amount,
                memo: &invoice.memo,
            };
            rent::make(app, self.billing, wanted, &AtomicBool::new(true)).await?;
            match books::invoice(&app.store, invoice.hash).await? {
                Some(made) if !made.bolt11.is_empty() => invoice = made,
                Some(_) | None => return self.later(LOOK_MS, None).await,
            }
        }
        let wallet = match self.wallet() {
            Ok(wallet) => wallet,
            Err(why) => return self.fail(why, true).await,
        };
        // What stands in the way is learned before the step that cannot be taken back.
        let asked = PayRequest { bolt11: invoice.bolt11.clone(), amount: None };
        let max_fee = match tokio::time::timeout(PATIENCE, wallet.quote(asked)).await {
            Ok(Ok(quote)) => quote.max_fee,
            Ok(Err(error)) => return self.unable(&error).await,
            Err(_) => return self.later(LOOK_MS, None).await,
        };
        if invoice.amount.saturating_add(max_fee) > row.held {
            return self.fail("the wallet wants a larger fee than was reckoned with".to_owned(), false).await;
        }
        renewal::send(&app.store, row, app.now().plus_ms(LOOK_MS)).await?;
        let sent = Renewal { stage: Stage::Sent, ..(*row).clone() };
        let name = invoice.hash.to_string();
        let dispatch = Dispatch {
            payment_id: name.clone(),
            attempt: 1,
            key: name,
            bolt11: invoice.bolt11.clone(),
            amount: None,
            max_fee,
            deadline: app.clock.mono().plus_ms(DEADLINE_MS),
            handle: None,
        };
        let turn = Turn { row: &sent, ..*self };
        match tokio::time::timeout(PATIENCE, wallet.dispatch(dispatch)).await {
            Ok(outcome) => turn.outcome(&invoice, outcome, true).await,
            Err(_) => turn.later(LOOK_MS, None).await,
        }
    }

    /// The wallet was asked, or may have been: what became of it?
    async fn follow(&self, invoice: &Invoice) -> Result<(), StoreError> {
        let outcome = match self.wallet() {
            Ok(wallet) => {
                let name = invoice.hash.to_string();
                let (key, hash) = (name.clone(), invoice.hash);
                let question = Resolve { payment_id: name, attempt: 1, hash, key, handle: None };
                match tokio::time::timeout(PATIENCE, wallet.resolve(question)).await {
                    Ok(outcome) => outcome,
                    Err(_) => Outcome::Unknown { why: "the wallet does not answer in time".to_owned() },
                }
            }
            Err(why) => Outcome::Unknown { why },
        };
        self.outcome(invoice, outcome, false).await
    }

    /// `own`: the answer to the one dispatch, of whoever sent it.
    async fn outcome(&self, invoice: &Invoice, outcome: Outcome, own: bool) -> Result<(), StoreError> {
        let Self { app, row, .. } = self;
        let late = app.now() >= invoice.expires_at.plus_ms(FAILURE_MARGIN_MS);
        match outcome {
            Outcome::Settled { fee, .. } => {
                let cost = invoice.amount.saturating_add(fee);
                if renewal::paid(&app.store, row, cost, app.now()).await? {
                    tracing::info!(account = %row.account, %cost, "hosting was renewed out of its owner's wallet");
                }
                // What is booked is what the node says.
                hosting::ask(app, self.billing, invoice).await.map(drop)
            }
            Outcome::Failed { class } => self.fail(words(class).to_owned(), class == FailureClass::Auth).await,
            // A sender that froze may still send before the invoice expires.
            Outcome::NotFound if late => self.fail("the wallet was not reached in time".to_owned(), false).await,
            Outcome::NotFound | Outcome::Pending | Outcome::Unknown { .. } => {
                // The node that would be paid says that the invoice is over: no money can come for it any more.
                if late && !own && self.dead(invoice).await? {
                    return self.fail("the wallet did not pay in time".to_owned(), false).await;
                }
                let problem = match outcome {
                    Outcome::Unknown { why } if late => Some(why),
                    _ => None,
                };
                self.later(LOOK_MS, problem).await
            }
        }
    }

    async fn dead(&self, invoice: &Invoice) -> Result<bool, StoreError> {
        if !hosting::ask(self.app, self.billing, invoice).await? {
            return Ok(false);
        }
        let now = books::invoice(&self.app.store, invoice.hash).await?;
        Ok(now.is_some_and(|invoice| invoice.state == "expired"))
    }

    /// The wallet has paid; the node decides what is credited.
    async fn await_credit(&self, invoice: &Invoice) -> Result<(), StoreError> {
        let Self { app, row, .. } = self;
        if hosting::ask(app, self.billing, invoice).await?
            && books::invoice(&app.store, invoice.hash).await?.is_some_and(|invoice| invoice.state == "paid")
        {
            return self.credited().await;
        }
        let late = app.now() >= invoice.expires_at.plus_ms(CREDIT_MS);
        let why = || format!("the wallet paid invoice {}, and no credit came: ask the operator", invoice.hash);
        if late && row.problem.is_none() {
            tracing::error!(account = %row.account, hash = %invoice.hash, "an owner's wallet paid what the node does not know");
        }
        self.later(if late { IDLE_MS } else { LOOK_MS }, late.then(why)).await
    }

    async fn credited(&self) -> Result<(), StoreError> {
        renewal::credited(&self.app.store, self.row, self.app.now()).await.map(drop)
    }

    fn wallet(&self) -> Result<Arc<dyn Pay>, String> {
        let (app, account) = (self.app, self.row.account);
        let again = || "the connection does not open: give it again".to_owned();
        let (Some(key), Some(sealed)) = (&app.config.operator_key, &self.row.sealed) else { return Err(again()) };
        let opened = key.open(&purpose(account), sealed).map_err(|_| again())?;
        let text = std::str::from_utf8(opened.expose()).map_err(|_| again())?;
        let connection = Connection::parse(text).map_err(|_| again())?;
        Ok(self.wallets.open(connection, Arc::new(Kept::new(app, key.clone(), account))))
    }

    async fn unable(&self, error: &WalletError) -> Result<(), StoreError> {
        let disable = matches!(error, WalletError::Auth);
        let why = if disable { words(FailureClass::Auth).to_owned() } else { error.to_string() };
        self.fail(why, disable).await
    }

    async fn fail(&self, problem: String, disable: bool) -> Result<(), StoreError> {
        let Self { app, row, .. } = self;
        let wait = PAUSE_MS.0.saturating_mul(1_i64 << row.failures.min(16)).min(PAUSE_MS.1);
        let problem: String = problem.chars().take(300).collect();
        let failed = Failed { problem: problem.clone(), look_at: app.now().plus_ms(wait), disable };
        if renewal::failed(&app.store, row, failed).await? {
            tracing::info!(account = %row.account, problem, disable, "hosting was not renewed");
        }
        Ok(())
    }

    async fn later(&self, wait_ms: i64, problem: Option<String>) -> Result<(), StoreError> {
        renewal::later(&self.app.store, self.row, self.app.now().plus_ms(wait_ms), problem).await
    }
}

/// Why a wallet surely did not pay, for its owner.
const fn words(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Refused => "the wallet cannot pay this invoice",
        FailureClass::NoRoute => "the wallet found no way to the operator's node",
        FailureClass::NoFunds => "there is not enough in the wallet, its fees included",
        FailureClass::FeeTooHigh => "the network's fee is too high",
        FailureClass::Rejected => "the wallet refuses: its own limit for this connection may be reached",
        FailureClass::Auth => "the wallet does not accept this connection any more: make another, and give it",
        FailureClass::Unreachable => "the wallet cannot be reached",
        FailureClass::Protocol => "the wallet does not understand what is asked",
    }
}

/// A UTC month, as `YYYY-MM`.
pub(crate) fn month_of(at: UnixMs) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| String::new(), |at| at.strftime("%Y-%m").to_string())
}

/// What the account's agents need beyond its credit: of those whose month begins soon or is owed at a moment, or of all. What
/// pays its own rent pays it first. And when there may be more.
async fn missing(
    app: &Shared,
    billing: &Billing,
    account: AccountId,
    at: Option<UnixMs>,
) -> Result<(Msat, UnixMs), StoreError> {
    let agents = books::of_account(&app.store, account, MAX_AGENTS).await?;
    let own: HashMap<_, _> = nexus_store::rent::unused(&app.store, account).await?.into_iter().collect();
    let (credit, _) = books::credit(&app.store, account).await?;
    let kept = own.values().fold(Msat::ZERO, |sum, rent| sum.saturating_add(*rent));
    let (mut need, mut next) = (Msat::ZERO, UnixMs(i64::MAX));
    for billed in &agents {
        // One that was never looked at has a trial first, or is looked at in a moment.
        let Some(term) = billed.term else { continue };
        let from = billing.rules.renew_from(term.paid_until);
        if at.is_some_and(|at| at < from) {
            next = next.min(from);
            continue;
        }
        let fee = hosting::plan(app, billing, &billed.plan).fee();
        let fee = fee.saturating_sub(own.get(&billed.npub).copied().unwrap_or(Msat::ZERO));
        if fee > Msat::ZERO && !rent::pays(app, billing, billed.npub, fee).await? {
            need = need.saturating_add(fee);
        }
    }
    Ok((need.saturating_sub(credit.saturating_sub(kept)), next))
}

/// Whether nothing is known to be in the way of what the account's next months cost: its owner need not be told of their end.
pub(crate) async fn able(app: &Shared, billing: &Billing, account: AccountId) -> Result<bool, StoreError> {
    if app.config.owner_wallets.is_none() {
        return Ok(false);
    }
    let Some(row) = renewal::get(&app.store, account).await? else { return Ok(false) };
    if !row.enabled || row.problem.is_some() {
        return Ok(false);
    }
    if row.stage != Stage::None {
        return Ok(true);
    }
    let (missing, _) = missing(app, billing, account, None).await?;
    Ok(missing.saturating_add(FeeReserve::default().of(missing)) <= row.cap)
}

#[cfg(test)]
mod tests;
