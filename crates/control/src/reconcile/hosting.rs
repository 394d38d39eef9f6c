//! Hosting is charged: paid invoices become credit, credit becomes months, and what is not paid ends.
//!
//! Only where the term is held, so that one control plane asks the node; should two for a moment, every step is still done
//! once, by its key in the ledger.

use std::sync::atomic::AtomicBool;

use futures::FutureExt;
use nexus_bus::Wake;
use nexus_core::hosting::{Plan, Term};
use nexus_core::status::Hosting;
use nexus_core::{Npub, UnixMs};
use nexus_lightning::{InvoiceState, Settlement};
use nexus_store::account::Account;
use nexus_store::hosting::{self, Billed, Invoice, Looked};
use nexus_store::sub_account::{self, Payee, State};
use nexus_store::{Conflict, StoreError, installation, ledger};

use super::pause;
use super::renewal;
use super::rent;
use super::till::{self, FOLLOW_MS, PATIENCE, Place};
use crate::app::Shared;
use crate::config::Billing;

const ROUND_MS: u64 = 500;
/// Invoices and agents of one round at most; the rest comes with the next.
const BATCH: u32 = 256;
/// Between two audits, and how far each looks back.
const AUDIT_MS: u64 = 3_600_000;
const AUDITED_MS: i64 = 31 * 86_400_000;
/// Whether agents were ever charged for: `yes`, and `no` once that ended.
const CHARGED: &str = "hosting_charged";
/// Since when this host charges.
const SINCE: &str = "hosting_since";
/// The stored place in the node's settlements.
const CURSOR: &str = "hosting_cursor";

/// Charges until the process stops; without prices there is nothing to do.
pub async fn run(app: &Shared) {
    let Some(billing) = &app.config.billing else { return free(app).await };
    tokio::join!(rounds(app, billing), follow(app, billing), audits(app, billing));
}

/// Whoever was charged before, and is not any more, is paid like everyone.
async fn free(app: &Shared) {
    loop {
        if app.reconciler.is_active() {
            match freed(app).await {
                Ok(true) => return,
                Ok(false) => app.bus.publish(Wake::Reconcile),
                Err(error) => tracing::warn!(%error, "agents that were charged before are not freed yet; tried again"),
            }
        }
        pause(ROUND_MS).await;
    }
}

/// One page of them. True when there are no more.
async fn freed(app: &Shared) -> Result<bool, StoreError> {
    if installation::get(&app.store, CHARGED).await?.is_none_or(|charged| charged != "yes") {
        return Ok(true);
    }
    if hosting::forget(&app.store).await? > 0 {
        return Ok(false);
    }
    installation::put(&app.store, CHARGED, "no".to_owned()).await?;
    Ok(true)
}

async fn rounds(app: &Shared, billing: &Billing) {
    let mut noted = false;
    loop {
        let pause_ms = match app.reconciler.is_active() {
            false => ROUND_MS,
            // Before the first charge: should charging end, it is known that there was some.
            true if !noted => {
                noted = installation::put(&app.store, CHARGED, "yes".to_owned()).await.is_ok();
                ROUND_MS
            }
            true => match round(app, billing).await {
                Ok(true) => ROUND_MS,
                Ok(false) => FOLLOW_MS,
                Err(error) => {
                    tracing::warn!(%error, "hosting was not charged; the next round tries again");
                    ROUND_MS
                }
            },
        };
        pause(pause_ms).await;
    }
}

async fn audits(app: &Shared, billing: &Billing) {
    loop {
        if app.reconciler.is_active()
            && let Err(error) = audit(app, billing).await
        {
            tracing::warn!(%error, "the hosting ledger was not audited; tried again in an hour");
        }
        pause(AUDIT_MS).await;
    }
}

/// Whether the books are sound, and what was credited in the last month is what the node says that it was paid. Returns how
/// many entries and accounts are not sound, and how many invoices differ.
pub async fn audit(app: &Shared, billing: &Billing) -> Result<(i64, i64), StoreError> {
    let found = ledger::unsound(&app.store).await?;
    let unsound = found.entries + found.accounts + found.refunds + found.kept;
    if unsound > 0 {
        tracing::error!(?found, "the hosting ledger is not sound: restore it, or find out who wrote to the database");
    }
    app.metrics.ledger_unsound.set(unsound);
    let (since, mut after, mut different) = (app.now().plus_ms(-AUDITED_MS), None, 0);
    loop {
        let page = hosting::credited(&app.store, since, after, hosting::MAX_PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.hash);
        for invoice in &page {
            match tokio::time::timeout(PATIENCE, billing.node.lookup_invoice(invoice.hash)).await {
                Ok(Ok(InvoiceState::Settled { amount, .. })) if Some(amount) == invoice.paid => {}
                // What an agent paid for within the node it never saw.
                Ok(Ok(InvoiceState::Canceled | InvoiceState::NotFound)) if inside(app, invoice).await? => {}
                Ok(Ok(said)) => {
                    different += 1;
                    tracing::error!(hash = %invoice.hash, ?said, credited = ?invoice.paid, "the node does not say what was credited");
                }
                // Asked again in an hour.
                Ok(Err(_)) | Err(_) => return Ok((unsound, different)),
            }
        }
    }
    app.metrics.node_differences.set(different);
    Ok((unsound, different))
}

async fn inside(app: &Shared, invoice: &Invoice) -> Result<bool, StoreError> {
    let Some(accounts) = &app.config.accounts else { return Ok(false) };
    let payment = sub_account::payment(&app.store, &accounts.identity, invoice.hash).await?;
    Ok(payment.is_some_and(|payment| payment.payee == Payee::Hosting && payment.state == State::Settled))
}

/// One look at what is due: invoices first, since they bring what the rest needs. False: the node does not answer.
pub async fn round(app: &Shared, billing: &Billing) -> Result<bool, StoreError> {
    let mut answers = true;
    for invoice in hosting::to_look_at(&app.store, app.now(), BATCH).await? {
        answers = ask(app, billing, &invoice).await?;
        if !answers {
            break;
        }
    }
    let up = AtomicBool::new(answers);
    for billed in hosting::due(&app.store, app.now(), BATCH).await? {
        bill(app, billing, &billed, &up).await?;
    }
    Ok(answers)
}

/// Asks the node about an invoice. False: it does not answer.
pub(crate) async fn ask(app: &Shared, billing: &Billing, invoice: &Invoice) -> Result<bool, StoreError> {
    let Some(state) = till::look_up(&*billing.node, invoice.hash).await else { return Ok(false) };
    let now = app.now();
    match state {
        InvoiceState::Settled { amount, at, .. } => {
            if hosting::paid(&app.store, invoice.hash, amount, at.min(now)).await? {
                tracing::info!(account = %invoice.account, msat = amount.as_u64(), "hosting credit came in");
            }
        }
        InvoiceState::Open | InvoiceState::Accepted | InvoiceState::Canceled | InvoiceState::NotFound => {
            let gone = matches!(state, InvoiceState::Canceled | InvoiceState::NotFound);
            let again = till::again(gone, invoice.created_at, invoice.expires_at, now);
            hosting::look_later(&app.store, invoice.hash, again.expired, again.at).await?;
        }
    }
    Ok(true)
}

/// Charges an agent's next month if it is due and there is credit; says how it stands else.
pub(crate) async fn bill(app: &Shared, billing: &Billing, billed: &Billed, up: &AtomicBool) -> Result<(), StoreError> {
    match charge(app, billing, billed, up).await {
        // Billed meanwhile, or gone: looked at again if it still is due.
        Err(error) if error.is_duplicate() || error.conflict() == Some(&Conflict::Version) => Ok(()),
        done => done,
    }
}

async fn charge(app: &Shared, billing: &Billing, billed: &Billed, up: &AtomicBool) -> Result<(), StoreError> {
    let (now, rules, plan) = (app.now(), &billing.rules, plan(app, billing, &billed.plan));
    let trial_until = match billed.trial_until {
        Some(until) => until,
        None => {
            let until = now.plus_ms(i64::from(rules.trial_days) * 86_400_000);
            hosting::begin_trial(&app.store, billed.account, until).await?;
            until
        }
    };
    let term = billed.term.unwrap_or_else(|| Term::begin(now, trial_until));
    let mut covered = billed.credit >= plan.fee();
    if now >= term.paid_until
        && covered
        && let Some(bought) = rules.next(&term, now)
    {
        let paid = Term { from: bought.start, months: bought.number + 1, paid_until: bought.month.until };
        match hosting::charge(&app.store, billed, bought, &plan, rules.look_at(&paid, now), now).await {
            // Another agent of the account took it in this very moment.
            Err(error) if error.conflict() == Some(&Conflict::NoCredit) => covered = false,
            charged => {
                announce(app, billed.npub, &charged?);
                return Ok(());
            }
        }
    }
    let rent = if covered { None } else { rent::pursue(app, billing, billed, &term, plan.fee(), up).await? };
    // Nobody is warned of a trial's end in the moment in which it begins, nor of what the agent pays by itself.
    let quiet = covered || billed.term.is_none() || rent.is_some_and(|rent| rent.able);
    let notice = if quiet { None } else { rules.notice(term.paid_until, billed.notice, now) };
    let notice = match notice {
        // Nor of what its owner's wallet pays.
        Some(_) if renewal::able(app, billing, billed.account).await? => None,
        notice => notice,
    };
    let look_at = rules.look_at(&term, now).min(rent.map_or(UnixMs(i64::MAX), |rent| rent.look_at));
    let looked =
        Looked { term, hosting: rules.hosting(&term, now), notice, covered, look_at, included: plan.included() };
    let seqs = hosting::looked(&app.store, billed, looked, now).await?;
    announce(app, billed.npub, &seqs);
    Ok(())
}

/// A plan by its name; the one of new accounts for a name that is not known any more.
pub(crate) fn plan(app: &Shared, billing: &Billing, name: &str) -> Plan {
    billing.plans.get(name).or_else(|| billing.plans.get(&app.config.plan)).cloned().unwrap_or_default()
}

/// How a new agent of the account stands until it is first looked at: nothing is given that nobody paid for.
pub(crate) async fn newborn(app: &Shared, account: &Account) -> Result<Hosting, StoreError> {
    let Some(billing) = &app.config.billing else { return Ok(account.hosting) };
    let (_, trial_until) = hosting::credit(&app.store, account.id).await?;
    let on_trial = trial_until.map_or(billing.rules.trial_days > 0, |until| app.now() < until);
    Ok(if on_trial { Hosting::Trial } else { Hosting::Suspended })
}

/// Agents that the account may have: what the operator allows everyone, and what its plan includes.
pub(crate) fn most_agents(app: &Shared, account: &Account) -> Option<u32> {
    let planned = app.config.billing.as_ref().and_then(|billing| plan(app, billing, &account.plan).agents);
    [app.config.max_agents_per_account, planned].into_iter().flatten().min()
}

fn announce(app: &Shared, npub: Npub, seqs: &[i64]) {
    for seq in seqs {
        app.bus.publish(Wake::Event { npub, seq: *seq });
    }
    if !seqs.is_empty() {
        app.wake_agent(npub);
    }
}

/// Follows what the node settles: a known invoice is looked up at once, money that nothing explains is kept apart. What the
/// node was paid before this host charged is none of its business.
async fn follow(app: &Shared, billing: &Billing) {
    let place = Place { cursor: CURSOR.to_owned(), since: SINCE.to_owned() };
    let told = |told, before| settled(app, billing, told, before).boxed();
    till::follow(app, &*billing.node, &place, told).await;
}

async fn settled(app: &Shared, billing: &Billing, settlement: Settlement, before: bool) -> Result<(), StoreError> {
    match hosting::invoice(&app.store, settlement.hash).await? {
        Some(invoice) if invoice.state == "paid" => {}
        Some(invoice) => drop(ask(app, billing, &invoice).await?),
        None if before => {}
        // An agent's: it hears of it from whoever keeps its account.
        None if sub_account::expects(&app.store, settlement.hash).await? => {}
        None => {
            if hosting::unexplained(&app.store, settlement.hash, settlement.amount, settlement.at).await? {
                tracing::warn!(hash = %settlement.hash, "the operator's node was paid for what is no invoice of this host");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
