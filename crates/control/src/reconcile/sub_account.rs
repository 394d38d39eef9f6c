//! Accounts of agents at the operator's node: what is paid on their invoices is theirs, what one pays another is booked, and
//! the books are held against the node.
//!
//! Only where the term is held; should two for a moment, every step is still done once, by its key in the books.

use std::time::Duration;

use futures::FutureExt;
use nexus_core::{Hash32, Msat};
use nexus_lightning::{InvoiceState, Receive, Settlement};
use nexus_store::StoreError;
use nexus_store::hosting;
use nexus_store::ledger;
use nexus_store::sub_account::{self, Book, Invoice, Payee, Payment, State};

use super::pause;
use super::till::{self, FOLLOW_MS, PATIENCE, Place};
use crate::app::Shared;
use crate::config::Accounts;

const ROUND_MS: u64 = 500;
/// Invoices and payments of one round at most; the rest comes with the next.
const BATCH: u32 = 256;
const PAGE: u32 = 500;
/// Between two audits, and how far each looks back.
const AUDIT_MS: u64 = 3_600_000;
const AUDITED_MS: i64 = 31 * 86_400_000;

/// Keeps the accounts until the process stops; without any there is nothing to do.
pub async fn run(app: &Shared) {
    let Some(accounts) = &app.config.accounts else { return };
    tokio::join!(rounds(app, accounts), follow(app, accounts), audits(app, accounts));
}

async fn rounds(app: &Shared, accounts: &Accounts) {
    loop {
        let pause_ms = match app.reconciler.is_active() {
            false => ROUND_MS,
            true => match round(app, accounts).await {
                Ok(true) => ROUND_MS,
                Ok(false) => FOLLOW_MS,
                Err(error) => {
                    tracing::warn!(%error, "accounts at the operator's node were not tended; the next round tries again");
                    ROUND_MS
                }
            },
        };
        pause(pause_ms).await;
    }
}

/// One look at what is due. False: the node does not answer.
pub async fn round(app: &Shared, accounts: &Accounts) -> Result<bool, StoreError> {
    for payment in sub_account::inside(&app.store, &accounts.identity, BATCH).await? {
        if !inside(app, accounts, &payment).await? {
            return Ok(false);
        }
    }
    for invoice in sub_account::to_look_at(&app.store, &accounts.identity, app.now(), BATCH).await? {
        if !ask(app, accounts, &invoice).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Asks the node about an invoice, and credits what came. False: it does not answer.
pub(crate) async fn ask(app: &Shared, accounts: &Accounts, invoice: &Invoice) -> Result<bool, StoreError> {
    let node: &dyn Receive = &*accounts.node;
    let Some(state) = till::look_up(node, invoice.hash).await else { return Ok(false) };
    let now = app.now();
    match state {
        InvoiceState::Settled { amount, at, preimage } => {
            if sub_account::received(&app.store, invoice.hash, amount, preimage, at.min(now)).await? {
                tracing::info!(npub = %invoice.npub.short(), msat = amount.as_u64(), "an agent's account was paid");
                app.wake_agent(invoice.npub);
            }
        }
        InvoiceState::Open | InvoiceState::Accepted | InvoiceState::Canceled | InvoiceState::NotFound => {
            let gone = matches!(state, InvoiceState::Canceled | InvoiceState::NotFound);
            let again = till::again(gone, invoice.created_at, invoice.expires_at, now);
            sub_account::look_later(&app.store, invoice.hash, again.expired, again.at).await?;
        }
    }
    Ok(true)
}

/// A payment to another at the same node. Its invoice is cancelled first, so that nobody pays it from outside any more; only
/// when the node says that it is none any more are both sides booked, in one batch. A crash between the two repeats the
/// first, which changes nothing. If the node was paid for it before, that payment counts, and this one is given back. False:
/// the node does not answer.
async fn inside(app: &Shared, accounts: &Accounts, payment: &Payment) -> Result<bool, StoreError> {
    let node: &dyn Receive = &*accounts.node;
    // What the node answers is asked for anyhow: also a lost answer may have been a done one.
    match tokio::time::timeout(PATIENCE, accounts.node.cancel_invoice(payment.hash)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(hash = %payment.hash, %error, "the node cancels no invoice"),
        Err(_) => return Ok(false),
    }
    let Some(state) = till::look_up(node, payment.hash).await else { return Ok(false) };
    match state {
        InvoiceState::Canceled | InvoiceState::NotFound => book(app, payment).await?,
        InvoiceState::Settled { amount, at, preimage } => {
            let at = at.min(app.now());
            match payment.payee {
                Payee::Agent => drop(sub_account::received(&app.store, payment.hash, amount, preimage, at).await?),
                Payee::Hosting => drop(hosting::paid(&app.store, payment.hash, amount, at).await?),
                Payee::Outside => {}
            }
            refuse(app, payment, "its invoice was paid from outside first").await?;
        }
        // A payment from outside is just coming.
        InvoiceState::Open | InvoiceState::Accepted => {}
    }
    Ok(true)
}

async fn book(app: &Shared, payment: &Payment) -> Result<(), StoreError> {
    let Some(preimage) = preimage(app, payment).await? else {
        return refuse(app, payment, "its invoice's preimage does not open").await;
    };
    if sub_account::pay_inside(&app.store, payment, preimage, app.now()).await? {
        let msat = payment.amount.as_u64();
        tracing::info!(npub = %payment.npub.short(), msat, "paid within the operator's node");
        if let Some(invoice) = sub_account::invoice(&app.store, payment.hash).await? {
            app.wake_agent(invoice.npub);
        }
        app.wake_agent(payment.npub);
        return Ok(());
    }
    let now = sub_account::payment(&app.store, &payment.node, payment.hash).await?;
    if now.is_some_and(|now| now.state == State::Held) {
        refuse(app, payment, "its invoice was paid otherwise").await?;
    }
    Ok(())
}

async fn refuse(app: &Shared, payment: &Payment, why: &str) -> Result<(), StoreError> {
    if sub_account::refuse_inside(&app.store, payment, app.now()).await? {
        tracing::info!(npub = %payment.npub.short(), hash = %payment.hash, why, "not paid within the operator's node");
        app.wake_agent(payment.npub);
    }
    Ok(())
}

/// The proof of payment, which we made and stored before the node was asked.
async fn preimage(app: &Shared, payment: &Payment) -> Result<Option<Hash32>, StoreError> {
    let found = match payment.payee {
        Payee::Outside => None,
        Payee::Agent => sub_account::invoice(&app.store, payment.hash)
            .await?
            .map(|it| (format!("agent-invoice:{}", it.hash), it.sealed_preimage)),
        Payee::Hosting => hosting::invoice(&app.store, payment.hash)
            .await?
            .map(|it| (format!("hosting-invoice:{}", it.hash), it.sealed_preimage)),
    };
    let Some(((purpose, sealed), key)) = found.zip(app.config.operator_key.as_deref()) else { return Ok(None) };
    let opened = key.open(&purpose, &sealed).ok();
    let bytes = opened.and_then(|opened| <[u8; 32]>::try_from(opened.expose()).ok()).map(Hash32::from_bytes);
    Ok(bytes.filter(|bytes| Hash32::sha256(bytes.as_bytes()) == payment.hash))
}

/// Follows what the node settles: an agent's invoice is looked up at once, money that nothing explains is kept apart.
async fn follow(app: &Shared, accounts: &Accounts) {
    let node: &dyn Receive = &*accounts.node;
    let place = Place {
        cursor: format!("accounts_cursor:{}", accounts.identity),
        since: format!("accounts_since:{}", accounts.identity),
    };
    let told = |told, before| settled(app, accounts, told, before).boxed();
    till::follow(app, node, &place, told).await;
}

async fn settled(app: &Shared, accounts: &Accounts, told: Settlement, before: bool) -> Result<(), StoreError> {
    match sub_account::invoice(&app.store, told.hash).await? {
        Some(invoice) if invoice.state == "paid" => {}
        Some(invoice) => drop(ask(app, accounts, &invoice).await?),
        // Where hosting is paid to the same node, what nobody expects is kept apart there.
        None if before || accounts.shared => {}
        None => {
            if sub_account::unexplained(&app.store, &accounts.identity, told.hash, told.amount, told.at).await? {
                tracing::warn!(hash = %told.hash, "the agents' node was paid for what is no invoice of this host");
            }
        }
    }
    Ok(())
}

async fn audits(app: &Shared, accounts: &Accounts) {
    loop {
        if app.reconciler.is_active()
            && let Err(error) = audit(app, accounts).await
        {
            tracing::warn!(%error, "accounts at the operator's node were not audited; tried again in an hour");
        }
        pause(AUDIT_MS).await;
    }
}

/// What an audit found; all zero when books and node agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Entries and accounts that do not fit together.
    pub unsound: i64,
    /// Credited invoices of which the node says something else.
    pub different: i64,
    /// By how much the node has less than the books say that it must.
    pub short: Msat,
}

/// Holds the books against themselves and against the node: what was credited in the last month is what it says that it was
/// paid, and it has what all agents (and hosting, if it is paid there) have together.
///
/// What is held may have left it already, so only what is missing beyond that is short.
pub async fn audit(app: &Shared, accounts: &Accounts) -> Result<Found, StoreError> {
    let (store, node) = (&app.store, &*accounts.identity);
    let mut found = Found { unsound: sub_account::unsound(store).await?.count(), ..Found::default() };
    app.metrics.accounts_unsound.set(found.unsound);
    let (since, mut after) = (app.now().plus_ms(-AUDITED_MS), None);
    loop {
        let page = sub_account::received_since(store, node, since, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.hash);
        for invoice in &page {
            let Some(said) = till::look_up(&*accounts.node, invoice.hash).await else { return Ok(found) };
            let by_node = matches!(said, InvoiceState::Settled { amount, .. } if Some(amount) == invoice.paid);
            // What was paid within the node it never saw.
            let here = sub_account::payment(store, node, invoice.hash).await?;
            let within = here.is_some_and(|it| it.payee == Payee::Agent && it.state == State::Settled)
                && matches!(said, InvoiceState::Canceled | InvoiceState::NotFound);
            if !by_node && !within {
                found.different += 1;
                tracing::error!(hash = %invoice.hash, ?said, credited = ?invoice.paid, "the node does not say what an agent was credited");
            }
        }
    }
    app.metrics.accounts_differences.set(found.different);
    let health = tokio::time::timeout(Duration::from_secs(30), accounts.node.health()).await;
    let Ok(Ok(health)) = health else { return Ok(found) };
    let held = sub_account::sum(store, node).await?.held;
    let mut owed = sub_account::balance(store, node, Book::Lightning).await?;
    // What a payment cost beyond its hold the operator owes as well.
    owed = owed.saturating_add(sub_account::balance(store, node, Book::Fees).await?);
    if accounts.shared {
        // Less what hosting has earned: that the operator may have taken.
        for book in [ledger::Book::Lightning, ledger::Book::Income] {
            owed = owed.saturating_add(ledger::balance(store, book).await?);
        }
    }
    let has = health.spendable.saturating_add(held).as_i64();
    found.short =
        u64::try_from(owed.saturating_sub(has)).ok().and_then(|it| Msat::try_from(it).ok()).unwrap_or_default();
    if found.unsound > 0 || found.short > Msat::ZERO {
        tracing::error!(
            ?found,
            "the books of the agents' node do not fit: find out who wrote to them, or who paid from the node"
        );
    }
    app.metrics.accounts_short_msat.set(found.short.as_i64());
    Ok(found)
}

#[cfg(test)]
mod tests;
