//! Agents that pay their own hosting: an invoice for exactly the next month of one of them, handed to its worker until it is
//! paid or surely dead.
//!
//! Control decides nothing about the money: the worker checks the owner's signed policy, and pays this node or nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nexus_core::hosting::Term;
use nexus_core::policy::Policy;
use nexus_core::rent::{ASK_RENT, Rent, RentDue};
use nexus_core::{Hash32, Msat, Npub, UnixMs};
use nexus_lightning::{Description, InvoiceRequest, Preimage};
use nexus_store::agent;
use nexus_store::hosting::{self, Billed};
use nexus_store::rent::{self, NewRent};
use nexus_store::wallet_request::{self, WalletRequest};
use nexus_store::{Conflict, StoreError};
use nostr::event::Event;

use crate::app::Shared;
use crate::config::Billing;

/// What nobody pays in this time is surely dead soon after.
const EXPIRY_S: u32 = 600;
/// The worker needs some of it for itself.
const LAST_ASK_MS: i64 = 75_000;
/// Between two requests for the same invoice; a worker that is away for a moment still finds the last one.
const ASK_MS: i64 = 30_000;
/// Between looks while something is under way, and while something stands in its way.
const LOOK_MS: i64 = 10_000;
const STUCK_MS: i64 = 20_000;
/// After an invoice that nobody paid, twice as long after each; a new policy is asked at once.
const PAUSE_MS: (i64, i64) = (60_000, 3_600_000);
/// The node's time to make an invoice.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far an agent is on with its own rent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pursued {
    pub look_at: UnixMs,
    /// Nothing is known to be in its way: its owner need not be told that the month ends.
    pub able: bool,
}

/// Has the agent pay what its next month costs beyond the credit, where its policy says that it does. Returns when to look
/// again; none where it pays no rent. `up`: whether the node is asked for invoices in this round.
pub(crate) async fn pursue(
    app: &Shared,
    billing: &Billing,
    billed: &Billed,
    term: &Term,
    fee: Msat,
    up: &AtomicBool,
) -> Result<Option<Pursued>, StoreError> {
    let now = app.now();
    let Some((policy, version)) = signed(app, billed.npub).await? else { return Ok(None) };
    let Some(wanted) = policy.rent.as_ref().filter(|_| !policy.frozen) else { return Ok(None) };
    let from = billing.rules.rent_from(term.paid_until);
    let Some(amount) = Msat::from_sats(fee.saturating_sub(billed.credit).sats_ceil()) else { return Ok(None) };
    let able = obstacle(app, billing, billed.npub, wanted, amount).await?.is_none();
    let next = |look_at| Ok(Some(Pursued { look_at, able }));
    if now < from {
        return next(from);
    }
    let latest = rent::latest(&app.store, billed.npub).await?;
    if let Some(open) = latest.as_ref().filter(|latest| latest.may_be_paid(now)) {
        if open.bolt11.is_empty() {
            // A crash, or the node's silence, came in between: asked again it makes the same one.
            if up.load(Ordering::Relaxed) && now < open.expires_at {
                make(app, billing, Wanted::of(open), up).await?;
            }
        } else if now.plus_ms(LAST_ASK_MS) < open.expires_at {
            ask(app, billed.npub, open, version).await?;
        }
        return next(now.plus_ms(LOOK_MS));
    }
    let month = month_of(billing, term, now);
    let unpaid = |latest: &&rent::Rent| latest.month == month && latest.unpaid > 0 && latest.policy == version;
    let pause = latest.as_ref().filter(unpaid).map(|latest| {
        let pause = PAUSE_MS.0.saturating_mul(1_i64 << latest.unpaid.min(16)).min(PAUSE_MS.1);
        latest.expires_at.plus_ms(pause)
    });
    if pause.is_some_and(|until| now < until) {
        return next(now.plus_ms(STUCK_MS));
    }
    if !up.load(Ordering::Relaxed) || !able {
        return next(now.plus_ms(STUCK_MS));
    }
    if amount == Msat::ZERO {
        // The credit that was read is another agent's by now: what it takes is known when it is read again.
        return next(now.plus_ms(1_000));
    }
    begin(app, billing, billed, (month, version), amount, up).await?;
    next(now.plus_ms(1_000))
}

/// Whether an agent pays what its next month costs, as far as is known.
pub(crate) async fn pays(app: &Shared, billing: &Billing, npub: Npub, amount: Msat) -> Result<bool, StoreError> {
    let Some((policy, _)) = signed(app, npub).await? else { return Ok(false) };
    let Some(wanted) = policy.rent.as_ref().filter(|_| !policy.frozen) else { return Ok(false) };
    Ok(obstacle(app, billing, npub, wanted, amount).await?.is_none())
}

/// Why an agent's rent is not paid, for its owner; none where it pays none, or nothing is in its way.
pub(crate) async fn problem(
    app: &Shared,
    billing: &Billing,
    npub: Npub,
    fee: Msat,
) -> Result<Option<String>, StoreError> {
    let Some((policy, _)) = signed(app, npub).await? else { return Ok(None) };
    let Some(wanted) = &policy.rent else { return Ok(None) };
    if policy.frozen {
        return Ok(Some("the agent is frozen: `nexus agent thaw`".to_owned()));
    }
    match obstacle(app, billing, npub, wanted, fee).await? {
        Some(why) => Ok(Some(why)),
        None => rent::last_refusal(&app.store, npub).await,
    }
}

/// What control itself knows to be in the way: then no invoice is made that nobody will pay.
async fn obstacle(
    app: &Shared,
    billing: &Billing,
    npub: Npub,
    wanted: &Rent,
    amount: Msat,
) -> Result<Option<String>, StoreError> {
    if billing.identity.as_ref().is_some_and(|node| *node != wanted.payee) {
        return Ok(Some(
            "its policy names another node than this host's: `nexus agent rent` signs for this one".into(),
        ));
    }
    if wanted.month_msat < amount {
        let cap = wanted.month_msat;
        return Ok(Some(format!("a month needs {amount}, and its policy allows {cap}: `nexus agent rent` raises it")));
    }
    let balance = agent::get(&app.store, npub).await?.and_then(|agent| agent.balance);
    Ok(match balance {
        Some(balance) if balance < amount => {
            Some(format!("a month needs {amount}, and its wallet has {balance}: `nexus agent fund`"))
        }
        Some(_) | None => None,
    })
}

/// The stored policy and its version. The worker verifies the signature; here it only says whether asking is worth it.
async fn signed(app: &Shared, npub: Npub) -> Result<Option<(Policy, i64)>, StoreError> {
    let stored = agent::sealed(&app.store, npub).await?.and_then(|sealed| sealed.policy);
    Ok(stored.and_then(|stored| {
        let event: Event = serde_json::from_str(&stored.event).ok()?;
        Some((Policy::parse(&event.content).ok()?, stored.version))
    }))
}

/// The name of the month that is paid for next. One that begins when it is paid has no start yet.
fn month_of(billing: &Billing, term: &Term, now: UnixMs) -> String {
    match billing.rules.next(term, now) {
        Some(next) if next.start == term.from => format!("{}:{}", next.start, next.number),
        Some(_) | None => format!("after:{}", term.paid_until),
    }
}

async fn begin(
    app: &Shared,
    billing: &Billing,
    billed: &Billed,
    (month, policy): (String, i64),
    amount: Msat,
    up: &AtomicBool,
) -> Result<(), StoreError> {
    let Some(key) = app.config.operator_key.as_deref() else { return Ok(()) };
    let bytes = app.random::<32>();
    let hash = Preimage::from_bytes(bytes).hash();
    let Ok(sealed_preimage) = key.seal(&format!("hosting-invoice:{hash}"), &bytes, &*app.entropy) else {
        return Ok(());
    };
    let now = app.now();
    let host = app.config.public_origin.host_str().unwrap_or_default();
    let new = NewRent {
        hash,
        account: billed.account,
        npub: billed.npub,
        month,
        policy,
        amount,
        memo: format!("Rent of {} at {host}", billed.name),
        sealed_preimage,
        created_at: now,
        expires_at: now.plus_ms(i64::from(EXPIRY_S) * 1_000),
    };
    match rent::put(&app.store, new).await {
        Ok(()) => {}
        // Another control plane was first.
        Err(error) if error.conflict() == Some(&Conflict::TooMany) => return Ok(()),
        Err(error) => return Err(error),
    }
    let Some(made) = rent::latest(&app.store, billed.npub).await? else { return Ok(()) };
    make(app, billing, Wanted::of(&made), up).await
}

/// An invoice that is noted and not made.
pub(crate) struct Wanted<'a> {
    pub hash: Hash32,
    pub sealed_preimage: &'a [u8],
    pub amount: Msat,
    pub memo: &'a str,
}

impl<'a> Wanted<'a> {
    fn of(rent: &'a rent::Rent) -> Self {
        Self { hash: rent.hash, sealed_preimage: &rent.sealed_preimage, amount: rent.amount, memo: &rent.memo }
    }
}

/// The node makes it of our own preimage: repeated, it is the same one. One that does not is asked no more in this round.
pub(crate) async fn make(app: &Shared, billing: &Billing, rent: Wanted<'_>, up: &AtomicBool) -> Result<(), StoreError> {
    let opened = app.config.operator_key.as_deref().and_then(|key| {
        let opened = key.open(&format!("hosting-invoice:{}", rent.hash), rent.sealed_preimage).ok()?;
        <[u8; 32]>::try_from(opened.expose()).ok()
    });
    let Some(bytes) = opened else {
        tracing::warn!(hash = %rent.hash, "the preimage of an invoice does not open under the operator's key");
        return Ok(());
    };
    let request = InvoiceRequest {
        preimage: Some(Preimage::from_bytes(bytes)),
        amount: rent.amount,
        description: Description::Memo(rent.memo.to_owned()),
        expiry_s: EXPIRY_S,
    };
    match tokio::time::timeout(PATIENCE, billing.node.create_invoice(request)).await {
        Ok(Ok(made)) if made.hash == rent.hash => {
            hosting::made(&app.store, rent.hash, &made.bolt11, made.expires_at).await
        }
        Ok(Ok(_)) => {
            tracing::warn!("the operator's node made an invoice of another hash");
            Ok(())
        }
        Ok(Err(error)) => {
            up.store(false, Ordering::Relaxed);
            tracing::warn!(%error, "the operator's node made no invoice; asked again");
            Ok(())
        }
        Err(_) => {
            up.store(false, Ordering::Relaxed);
            tracing::warn!("the operator's node made no invoice in time; asked again");
            Ok(())
        }
    }
}

/// One request in each span of time, and at once when the policy is a new one.
async fn ask(app: &Shared, npub: Npub, rent: &rent::Rent, version: i64) -> Result<(), StoreError> {
    let now = app.now();
    let body = serde_json::to_string(&RentDue { invoice: rent.bolt11.clone() }).unwrap_or_default();
    let request = WalletRequest {
        id: format!("rent:{}:{version}:{}", rent.hash, now.0.div_euclid(ASK_MS)),
        npub,
        kind: ASK_RENT.to_owned(),
        body,
        created_at: now,
        expires_at: now.plus_ms(2 * ASK_MS),
        answer: None,
    };
    match wallet_request::put(&app.store, request, None).await {
        Ok(()) => app.wake_agent(npub),
        // Asked already, or too much waits for its worker.
        Err(error) if matches!(error.conflict(), Some(Conflict::TooMany | Conflict::NoAgent)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
