//! One job from its stage in the ledger to its end. A restart drives it on from wherever it was.

use std::sync::Arc;
use std::time::Duration;

use nexus_core::{Hash32, Msat, UnixMs};
use nexus_nostr::job::{self, Feedback, Request, Status};
use nostr::event::Event;
use tokio::sync::mpsc;

use crate::backend::{BackendError, Completion, Prompt};
use crate::config::Payment;
use crate::intake::memo;
use crate::job::{Bill, Closed, Job, LedgerError, Stage};
use crate::order::prompt_of;
use crate::pause::Backoff;
use crate::price::{estimate_tokens, price};
use crate::seats::Seat;
use crate::shop::{Shop, Stamp};
use crate::till::Bought;

/// Pauses between attempts of the backend, in ms.
const RETRY_MS: (u64, u64) = (500, 10_000);
/// A result that no relay took in this time is tried again after the next start.
const DELIVERY_MS: i64 = 3_600_000;
/// Pieces of an answer that wait to be published.
const PIECES: usize = 32;

/// Drives a job until there is nothing left to do for it in this process.
pub(crate) async fn drive(shop: &Shop, id: Hash32, mut seat: Seat) -> Result<(), LedgerError> {
    while let Some(job) = shop.ledger.get(&id) {
        seat.set_unpaid(job.stage.awaits_payment());
        let (to, result) = match &job.stage {
            Stage::Invoiced { bill, notice } => (collect(shop, &job, bill, notice).await, None),
            Stage::Accepted => work(shop, &job, None).await,
            Stage::Paid { bill } => work_paid(shop, &job, bill).await,
            Stage::Delivered { owed } => match publish(shop, &job).await {
                true => (Stage::Published { owed: owed.clone() }, None),
                false => match owed.as_ref().filter(|bill| bill.preimage.is_some()) {
                    // Nobody has the result: the money goes back.
                    Some(bill) => {
                        shop.till.give_back(bill).await;
                        (Stage::Closed { how: Closed::Unpaid }, None)
                    }
                    None => return Ok(()),
                },
            },
            Stage::Published { owed: Some(bill) } if bill.preimage.is_some() => match shop.till.take(bill).await {
                true => (Stage::Published { owed: None }, None),
                false => (Stage::Closed { how: Closed::Unpaid }, None),
            },
            Stage::Published { owed: Some(bill) } => match shop.till.wait(bill).await {
                Bought::Paid | Bought::Held => (Stage::Published { owed: None }, None),
                Bought::Never => (Stage::Closed { how: Closed::Unpaid }, None),
            },
            Stage::Published { owed: None } | Stage::Closed { .. } => return Ok(()),
        };
        tracing::info!(job = %id, customer = %job.customer.short(), from = job.stage.as_str(), to = to.as_str(), "job");
        shop.ledger.advance(id, to, result, shop.clock.now()).await?;
    }
    Ok(())
}

/// Asks for the payment and waits for it.
async fn collect(shop: &Shop, job: &Job, bill: &Bill, notice: &Event) -> Stage {
    let relays = job.request.as_deref().map(named_relays).unwrap_or_default();
    let expired = || shop.clock.now() >= bill.expires_at;
    if !expired() {
        shop.deliver(notice, &relays, expired).await;
    }
    match shop.till.wait(bill).await {
        Bought::Paid | Bought::Held => Stage::Paid { bill: bill.clone() },
        Bought::Never => Stage::Closed { how: Closed::Expired },
    }
}

/// Does what was paid for. What is held is given back when there is no result, and not worked for once it is gone.
async fn work_paid(shop: &Shop, job: &Job, bill: &Bill) -> (Stage, Option<Box<Event>>) {
    if bill.preimage.is_none() {
        return work(shop, job, Some(bill)).await;
    }
    // After a restart the money may have gone back.
    if shop.till.wait(bill).await == Bought::Never {
        return (Stage::Closed { how: Closed::Expired }, None);
    }
    match work(shop, job, Some(bill)).await {
        (Stage::Delivered { .. }, result) => (Stage::Delivered { owed: Some(bill.clone()) }, result),
        failed => {
            shop.till.give_back(bill).await;
            failed
        }
    }
}

/// Does the work. The result is signed here once and goes into the ledger before any relay.
async fn work(shop: &Shop, job: &Job, paid: Option<&Bill>) -> (Stage, Option<Box<Event>>) {
    const FAILED: (Stage, Option<Box<Event>>) = (Stage::Closed { how: Closed::Failed }, None);
    let Some(event) = &job.request else { return FAILED };
    let Ok(request) = job::receive(event, &*shop.signer).await else { return FAILED };
    let stamp = Stamp::after(None);
    match answer(shop, &request, &stamp).await {
        Ok(completion) => match seal(shop, &request, &stamp, &completion, paid.is_some()).await {
            Ok((owed, result)) => (Stage::Delivered { owed }, Some(result)),
            Err(reason) => {
                tracing::error!(job = %job.id, %reason, "a result could not be made");
                shop.mention(&stamp, &request, &Feedback::error("the result could not be made")).await;
                FAILED
            }
        },
        Err(error) => {
            tracing::warn!(job = %job.id, %error, paid = paid.is_some(), "no answer");
            shop.mention(&stamp, &request, &Feedback::error(error.to_string())).await;
            FAILED
        }
    }
}

/// Has the backend answer, in as many attempts as fit into the job's time. Pieces are published during the first
/// attempt alone: customers append them.
async fn answer(shop: &Shop, request: &Request, stamp: &Stamp) -> Result<Completion, BackendError> {
    let prompt = prompt_of(&shop.config, request);
    // The semaphore is never closed.
    let _bench = shop.benches.acquire().await;
    let limit = Duration::from_millis(shop.config.limits.job_timeout_ms);
    let mut error = BackendError::Unavailable("it took too long".into());
    let attempts = async {
        shop.mention(stamp, request, &Feedback::new(Status::Processing)).await;
        let mut pause = Backoff::new(RETRY_MS, Arc::clone(&shop.entropy));
        let mut streams = shop.config.limits.partial_interval_ms > 0;
        loop {
            match attempt(shop, request, stamp, &prompt, std::mem::take(&mut streams)).await {
                Ok(completion) => return Ok(completion),
                Err(failed) if failed.is_transient() => error = failed,
                Err(failed) => return Err(failed),
            }
            pause.wait().await;
        }
    };
    match tokio::time::timeout(limit, attempts).await {
        Ok(ended) => ended,
        Err(_) => Err(error),
    }
}

async fn attempt(
    shop: &Shop,
    request: &Request,
    stamp: &Stamp,
    prompt: &Prompt,
    streams: bool,
) -> Result<Completion, BackendError> {
    let (send, receive) = mpsc::channel(PIECES);
    let complete = shop.backend.complete(prompt, send);
    let completion = if streams {
        tokio::select! {
            completion = complete => completion,
            () = stream(shop, request, stamp, receive) => {
                Err(BackendError::Unavailable("it ended without an answer".into()))
            }
        }
    } else {
        drop(receive);
        complete.await
    }?;
    let max = shop.config.limits.answer_bytes;
    if completion.text.len() > max { Err(BackendError::TooLarge(max)) } else { Ok(completion) }
}

/// Publishes what came since the last time, at most once in an interval. Goes on until it is dropped.
async fn stream(shop: &Shop, request: &Request, stamp: &Stamp, mut pieces: mpsc::Receiver<String>) {
    let interval = Duration::from_millis(shop.config.limits.partial_interval_ms);
    let mut pending = String::new();
    loop {
        let due = tokio::time::sleep(interval);
        tokio::pin!(due);
        loop {
            tokio::select! {
                () = &mut due => break,
                piece = pieces.recv() => match piece {
                    Some(piece) => pending.push_str(&piece),
                    // The backend is about to return, and this to be dropped.
                    None => std::future::pending().await,
                },
            }
        }
        if !pending.is_empty() {
            shop.mention(stamp, request, &Feedback::partial(std::mem::take(&mut pending))).await;
        }
    }
}

/// The signed result, and what is owed for it when it is paid after.
async fn seal(
    shop: &Shop,
    request: &Request,
    stamp: &Stamp,
    completion: &Completion,
    paid: bool,
) -> Result<(Option<Bill>, Box<Event>), String> {
    let owed =
        if !paid && shop.config.payment == Payment::After { owed(shop, request, completion).await? } else { None };
    let amount = owed.as_ref().map(|bill| (bill.amount, bill.bolt11.as_str()));
    let created_at = stamp.next(&*shop.clock);
    let unsigned = job::result_to(&*shop.signer, created_at, request, &completion.text, amount).await;
    let unsigned = unsigned.map_err(|error| error.to_string())?;
    let result = shop.sign(unsigned).await.map_err(|error| error.to_string())?;
    Ok((owed, result))
}

async fn owed(shop: &Shop, request: &Request, completion: &Completion) -> Result<Option<Bill>, String> {
    let tokens = completion
        .tokens
        .unwrap_or_else(|| estimate_tokens(&request.prompt()).saturating_add(estimate_tokens(&completion.text)));
    // A backend that counts more than we announced does not raise the price over the customer's bid.
    let amount = price(shop.config.price, tokens).min(request.bid.unwrap_or(Msat::MAX));
    if amount == Msat::ZERO {
        return Ok(None);
    }
    let memo = memo(&shop.config.name, request.id);
    let bill = shop.till.bill(amount, shop.config.limits.invoice_expiry_s, memo).await;
    bill.map(Some).map_err(|error| error.to_string())
}

/// Publishes a result until a relay has it. False when none had it in time.
async fn publish(shop: &Shop, job: &Job) -> bool {
    let Some(result) = &job.result else { return true };
    let give_up: UnixMs = shop.clock.now().plus_ms(DELIVERY_MS);
    let relays = job.request.as_deref().map(named_relays).unwrap_or_default();
    shop.deliver(result, &relays, || shop.clock.now() >= give_up).await
}

/// The relays that a request names, encrypted or not.
fn named_relays(request: &Event) -> Vec<String> {
    let row = nexus_nostr::event::rows(request, "relays").next().unwrap_or_default();
    row.iter().skip(1).take(8).cloned().collect()
}
