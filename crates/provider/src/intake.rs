//! From an event on a relay to a job in the ledger, or a refusal.

use std::sync::Arc;

use nexus_core::{Hash32, Msat};
use nexus_nostr::event;
use nexus_nostr::job::{self, Feedback, Readable, Request, read_request};
use nostr::event::Event;

use crate::config::Payment;
use crate::job::{Closed, Job, LedgerError, Stage};
use crate::order::{Order, Refusal, assess, check_form};
use crate::seats::Seat;
use crate::shop::{Shop, Stamp};

/// Requests older than this are not taken, whatever relays send, in seconds. Ids are remembered for longer.
const MAX_AGE_S: i64 = 25 * 3_600;
/// How far ahead of our clock a request may be, in seconds.
const MAX_AHEAD_S: i64 = 900;

/// What is to be done with an event.
pub(crate) enum Taken {
    /// Nothing.
    Ignored,
    /// A job of ours, new or not: drive it on.
    Job(Seat),
}

/// Whether an event is a request that this shop has to look at, by its envelope alone.
pub(crate) fn concerns(shop: &Shop, request: &Event) -> bool {
    let me = shop.me();
    let now = shop.clock.now().secs();
    let created_at = event::created_at(request);
    let named = event::mentioned(request, 16);
    let for_me = if named.is_empty() { shop.config.open_requests } else { named.contains(&me) };
    let fresh = created_at > now - MAX_AGE_S && created_at < now + MAX_AHEAD_S;
    let alive = event::expiration(request).is_none_or(|at| at > now);
    for_me && fresh && alive && event::npub(&request.pubkey) != me
}

/// Takes a request into the ledger. `live` says that it was published just now, not found in a relay's store: then a
/// repeated request is answered again, with the same events as before.
pub(crate) async fn take(shop: &Shop, event: &Arc<Event>, live: bool) -> Result<Taken, LedgerError> {
    let id = event::hash(&event.id);
    if let Some(known) = shop.ledger.get(&id) {
        if live {
            repeat(shop, &known).await;
        }
        return Ok(Taken::Ignored);
    }
    let request = match read(shop, event).await {
        Ok(request) => request,
        Err(refusal) => return refuse(shop, event, &nameless(event), &refusal).await,
    };
    match order(shop, &request).await {
        Ok(None) => Ok(Taken::Ignored),
        Ok(Some((order, seat))) => begin(shop, event, &request, order, seat).await,
        Err(refusal) => refuse(shop, event, &request, &refusal).await,
    }
}

async fn read(shop: &Shop, event: &Event) -> Result<Request, Refusal> {
    let rule = shop.config.encryption;
    match read_request(event).map_err(|_| Refusal::Unreadable)? {
        Readable::Clear(request) => check_form(rule, false).map(|()| request),
        Readable::Sealed(sealed) => {
            check_form(rule, true)?;
            let plaintext = sealed.open(&*shop.signer).await.map_err(|_| Refusal::Unreadable)?;
            job::open_request(event, &plaintext).map_err(|_| Refusal::Unreadable)
        }
    }
}

/// A request whose content we don't know: enough to answer it, in clear.
fn nameless(event: &Event) -> Request {
    Request {
        id: event::hash(&event.id),
        customer: event::npub(&event.pubkey),
        provider: None,
        created_at: event::created_at(event),
        inputs: Vec::new(),
        params: job::Params::default(),
        output: None,
        bid: None,
        relays: Vec::new(),
        encrypted: false,
        json: String::new(),
    }
}

/// The order and its place; none when the same job has its place already.
async fn order(shop: &Shop, request: &Request) -> Result<Option<(Order, Seat)>, Refusal> {
    let order = assess(&shop.config, &shop.models, request)?;
    let owes = |job: &Job| job.customer == request.customer && job.stage == Stage::Closed { how: Closed::Unpaid };
    if shop.config.payment == Payment::After && shop.ledger.count(owes) > 0 {
        return Err(Refusal::UnpaidResults);
    }
    let unpaid = shop.config.payment == Payment::Before && order.price > Msat::ZERO;
    let seat = shop.seats.take(request.id, request.customer, unpaid)?;
    Ok(seat.map(|seat| (order, seat)))
}

async fn begin(
    shop: &Shop,
    event: &Arc<Event>,
    request: &Request,
    order: Order,
    seat: Seat,
) -> Result<Taken, LedgerError> {
    let stage = if shop.config.payment == Payment::Before && order.price > Msat::ZERO {
        match invoice(shop, request, order.price).await {
            Ok(stage) => stage,
            Err(refusal) => return refuse(shop, event, request, &refusal).await,
        }
    } else {
        Stage::Accepted
    };
    match shop.ledger.begin(Box::new(Event::clone(event)), stage, shop.clock.now()).await {
        Ok(()) => Ok(Taken::Job(seat)),
        Err(LedgerError::Full) => refuse(shop, event, request, &Refusal::Busy).await,
        Err(LedgerError::Known(_)) => Ok(Taken::Ignored),
        Err(error) => Err(error),
    }
}

/// The invoice and the signed notice that asks for its payment.
async fn invoice(shop: &Shop, request: &Request, price: Msat) -> Result<Stage, Refusal> {
    let memo = memo(&shop.config.name, request.id);
    let bill = shop.till.bill_before(price, shop.config.limits.invoice_expiry_s, memo).await.map_err(|error| {
        tracing::error!(job = %request.id, %error, "no invoice could be made");
        Refusal::NoInvoice
    })?;
    let mut feedback = Feedback::payment_required(price, bill.bolt11.clone());
    feedback.hold = bill.preimage.is_some();
    if !request.encrypted {
        // OpenAgents' customers look for the invoice here.
        feedback.content = bill.bolt11.clone();
    }
    let notice = shop.feedback(&Stamp::default(), request, &feedback).await.map_err(|error| {
        tracing::error!(job = %request.id, %error, "the request for payment could not be made");
        Refusal::NoInvoice
    })?;
    Ok(Stage::Invoiced { bill, notice })
}

/// What an invoice says of itself: nothing of the prompt.
pub(crate) fn memo(name: &str, job: Hash32) -> String {
    let name: String = name.chars().take(64).collect();
    format!("{name}: job {}", &job.to_string()[..16])
}

async fn refuse(shop: &Shop, event: &Event, request: &Request, refusal: &Refusal) -> Result<Taken, LedgerError> {
    tracing::info!(job = %request.id, customer = %request.customer.short(), reason = %refusal, "refused a request");
    if !refusal.is_transient() {
        match shop.ledger.refuse(event, shop.clock.now()).await {
            Ok(()) => {}
            Err(LedgerError::Known(_)) => return Ok(Taken::Ignored),
            Err(error) => return Err(error),
        }
    }
    shop.mention(&Stamp::default(), request, &Feedback::error(refusal.to_string())).await;
    Ok(Taken::Ignored)
}

/// Answers a repeated request with what was answered before: the same invoice, the same result.
async fn repeat(shop: &Shop, known: &Job) {
    let answer = match &known.stage {
        Stage::Invoiced { bill, notice } if shop.clock.now() < bill.expires_at => Some(notice),
        Stage::Delivered { .. } | Stage::Published { .. } => known.result.as_ref(),
        Stage::Invoiced { .. } | Stage::Accepted | Stage::Paid { .. } | Stage::Closed { .. } => None,
    };
    if let Some(event) = answer {
        shop.publish(event, &[]).await;
    }
}
