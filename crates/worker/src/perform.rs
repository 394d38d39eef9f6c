//! The one boundary at which effects are performed. Each was journaled under a live fence before it gets here.

use std::time::Duration;

use futures::StreamExt;
use nexus_core::budget::Window;
use nexus_core::payment::{Asker, Outcome, PaymentState, conclude};
use nexus_core::policy::judge_quote;
use nexus_core::tick::{ActionOutcome, Bill, Effect, Failure, Record, Request, SignedEvent, hear};
use nexus_core::{Msat, UnixMs};
use nexus_lightning::{Bolt11, PayRequest};
use nexus_nostr::job::{self, Job, JobError, Params};
use nexus_nostr::relay_pool::Interest;
use nexus_nostr::{Head, Status, UpdateBody};
use nexus_seal::SignerError;
use nexus_store::Conflict;
use nexus_store::payment::{self, NewPayment, Payment};
use nexus_store::side::{PaymentMove, Side};

use crate::error::TurnError;
use crate::faults::At;
use crate::holding;
use crate::ledger::{settle_sides, windows};
use crate::market::{self, fee_limit};
use crate::payable::Payable;
use crate::perceive::{Thinker, prompt};
use crate::profile::signed;
use crate::recover::{ask, moved, send, words};
use crate::secrets::signer_problem;
use crate::tick::{Run, acted};
use crate::wallet::WALLET_TIMEOUT;
use crate::zapping;

/// Within which payments are counted for a rate.
const HOUR_MS: i64 = 3_600_000;
/// A resumed wait lasts at least this long, however old the request is: the answer may be stored already.
const RESUMED_WAIT_MS: i64 = 10_000;
/// How long a tick waits for a payment that is in flight before recovery takes it over.
const PENDING_WAIT_MS: u64 = 20_000;

/// Picks a provider, signs a request to it and journals the signed event. Nothing leaves.
pub(crate) async fn prepare(run: &mut Run<'_>, attempt: u8, tried: &[nexus_core::Npub]) -> Result<(), TurnError> {
    let host = run.pen.host;
    let relays = run.relays();
    let Some(policy) = run.opened.policy().cloned() else {
        return run.append(Record::Failed { reason: Failure::PolicyRefused }, Vec::new()).await;
    };
    let trusted = host.market.trusted(host, run.agent.account, run.pen.npub).await?;
    let network = host.wallets.network();
    let mut chosen = None;
    for fresh in [false, true] {
        let offers = host.market.offers(host, &relays, fresh).await;
        let me = run.pen.npub;
        chosen = market::choose(offers, &policy, network.as_str(), tried, &trusted, run.tick.spent(), run.balance, &me);
        if chosen.is_some() {
            break;
        }
    }
    let Some(candidate) = chosen else {
        return run.append(Record::Failed { reason: Failure::NoProvider }, Vec::new()).await;
    };
    let event = request_event(run, &candidate, &relays).await?;
    let mut to = relays;
    for relay in &candidate.offer.relays {
        if !to.contains(relay) && to.len() < 6 {
            to.push(relay.clone());
        }
    }
    let request = Request {
        attempt,
        provider: candidate.offer.provider,
        quote: candidate.quote,
        encrypted: candidate.encrypted,
        event,
        relays: to,
        at: run.pen.now(),
    };
    run.append(Record::Requested(request), Vec::new()).await
}

async fn request_event(
    run: &mut Run<'_>,
    candidate: &market::Candidate,
    relays: &[String],
) -> Result<SignedEvent, TurnError> {
    let now = run.pen.now();
    let agent = run.agent;
    let Some(policy) = run.opened.policy().cloned() else { return Err(TurnError::Interrupted) };
    let stimuli: Vec<_> = run.taken.iter().map(|taken| taken.stimulus.clone()).collect();
    let thinker = Thinker {
        npub: run.pen.npub,
        owner: run.opened.owner,
        name: &agent.name,
        policy: &policy,
        state: &run.opened.state,
        balance: run.balance,
    };
    let text = nexus_core::prompt::render(&prompt(&thinker, run.tick.trigger, &stimuli, candidate.encrypted, now));
    let mut params = Params::default();
    if let Some(model) = &policy.compute.model {
        params.set("model", model.clone());
    }
    let job = Job {
        prompt: text,
        params,
        output: Some("application/json".into()),
        bid: Some(candidate.quote),
        relays: relays.iter().take(4).cloned().collect(),
    };
    let created_at = run.opened.state.next_created_at("5050", now);
    let provider = candidate.offer.provider;
    let unsigned = if candidate.encrypted {
        job::request_to(&*run.opened.signer, created_at, &provider, &job).await.map_err(not_requested)?
    } else {
        job::clear_request(Head::new(run.pen.npub, created_at), Some(&provider), &job, candidate.offer.dialect)
    };
    let event = run.opened.signer.sign(unsigned).await.map_err(|error| signer_problem(&error))?;
    Ok(signed(&event))
}

fn not_requested(error: JobError) -> TurnError {
    match error {
        JobError::Signer(error) => signer_problem(&error),
        JobError::Event(_) | JobError::Invalid(_) => TurnError::parked("signer_refused", error.to_string(), 10_000),
    }
}

/// Performs one effect and appends what came of it.
pub(crate) async fn perform(run: &mut Run<'_>, effect: Effect) -> Result<(), TurnError> {
    let name = effect.name();
    let host = run.pen.host;
    host.faults.pass(At::Before, name).await;
    match effect {
        Effect::PublishRequest(request) => publish_request(run, request).await?,
        Effect::AwaitOffer(request) => await_offer(run, request).await?,
        Effect::Pay { request, bill, dispatched } => {
            pay(run, Payable::Job { attempt: request.attempt }, bill, dispatched, Some(&request)).await?;
        }
        Effect::AwaitResult { request, paid_at } => await_result(run, request, paid_at).await?,
        Effect::Act { index, events, relays } => act(run, index, &events, &relays).await?,
        Effect::AskZap { index, zap } => zapping::ask(run, index, &zap).await?,
        Effect::PayZap { index, zap, bill, dispatched } => zapping::pay(run, index, &zap, bill, dispatched).await?,
    }
    host.faults.pass(At::After, name).await;
    Ok(())
}

async fn publish(run: &Run<'_>, event: &SignedEvent, relays: &[String]) -> Result<(bool, Vec<String>), TurnError> {
    let event = nexus_nostr::parse_event(event.json.as_bytes())
        .map_err(|error| TurnError::parked("journal_invalid", error.to_string(), 60_000))?;
    let timeout = Duration::from_millis(run.pen.host.config.publish_timeout_ms);
    let publishing = run.pen.host.relays.publish(&event, relays, timeout);
    let reports = tokio::select! {
        biased;
        reports = publishing => reports,
        () = run.stop.cancelled() => return Err(TurnError::Interrupted),
    };
    Ok((reports.iter().any(|report| report.outcome.is_ok()), words(&reports)))
}

async fn publish_request(run: &mut Run<'_>, request: Request) -> Result<(), TurnError> {
    let (taken, relays) = publish(run, &request.event, &request.relays).await?;
    let attempt = request.attempt;
    if taken {
        run.append(Record::Published { attempt, relays }, Vec::new()).await
    } else {
        run.append(Record::Abandoned { attempt, why: "no relay took the request".into() }, Vec::new()).await
    }
}

/// What a provider said, read for a decision.
pub(crate) enum Heard {
    Bill { bolt11: String, hold: bool },
    Answer { content: String, bill: Option<String> },
    Refused(String),
    Busy,
}

/// Waits for the provider's word on a request: an invoice, an answer, or nothing in time.
async fn await_offer(run: &mut Run<'_>, request: Request) -> Result<(), TurnError> {
    let attempt = request.attempt;
    let config = &run.pen.host.config;
    let (silence, whole) = (config.offer_timeout_ms, config.job_timeout_ms);
    let resumed = run.pen.now().0 - request.at.0 > i64::try_from(silence).unwrap_or(i64::MAX);
    let silence = if resumed { u64::try_from(RESUMED_WAIT_MS).unwrap_or(0) } else { silence };
    let (npub, provider) = (run.pen.npub, request.provider);
    let abandon = |why: String| {
        tracing::info!(npub = %npub.short(), provider = %provider.short(), why, "a job is given up");
        Record::Abandoned { attempt, why }
    };
    let mut said = Vec::new();
    match listen(run, &request, silence, whole, false, &mut said).await? {
        None => run.append(abandon("the provider did not answer".into()), Vec::new()).await,
        Some(Heard::Busy) => run.append(abandon("the provider took too long".into()), Vec::new()).await,
        Some(Heard::Refused(why)) => run.append(abandon(format!("the provider refused: {why}")), Vec::new()).await,
        Some(Heard::Answer { content, .. }) => run.append(Record::Answered { attempt, content }, Vec::new()).await,
        Some(Heard::Bill { bolt11, hold }) => match accept(run, &request, &bolt11).await? {
            Ok(bill) => reserve(run, &request, Bill { hold, heard: said, ..bill }).await,
            Err(why) => run.append(abandon(why), Vec::new()).await,
        },
    }
}

/// Listens for what the provider says of one request. `None` when nothing came within `silence_ms`.
///
/// An answer that comes with a bill counts as the bill: it is paid for afterwards, and read again then. Signed feedback is
/// added to what was `said`.
pub(crate) async fn listen(
    run: &Run<'_>,
    request: &Request,
    silence_ms: u64,
    whole_ms: u64,
    paid: bool,
    said: &mut Vec<SignedEvent>,
) -> Result<Option<Heard>, TurnError> {
    let signer = run.opened.signer.clone();
    let interest = Interest {
        relays: request.relays.clone(),
        filters: vec![job::await_filter(request.event.id, &request.provider)],
        auth: vec![signer.clone()],
    };
    let mut updates = run.pen.host.relays.subscribe(interest);
    let silence = tokio::time::sleep(Duration::from_millis(silence_ms));
    let whole = tokio::time::sleep(Duration::from_millis(whole_ms));
    tokio::pin!(silence, whole);
    let mut sign_of_life = false;
    loop {
        let event = tokio::select! {
            biased;
            () = run.stop.cancelled() => return Err(TurnError::Interrupted),
            event = updates.next() => event,
            () = &mut silence, if !sign_of_life => return Ok(None),
            () = &mut whole => return Ok(sign_of_life.then_some(Heard::Busy)),
        };
        let Some(event) = event else { return Err(TurnError::Interrupted) };
        let update = job::receive_update(&event, request.event.id, &request.provider, &*signer).await;
        let update = match update {
            Ok(update) => update,
            // What the provider said is there still when the signer is back.
            Err(JobError::Signer(error @ SignerError::Offline(_))) => return Err(signer_problem(&error)),
            Err(_) => continue,
        };
        sign_of_life = true;
        let heard = match &update.body {
            UpdateBody::Result(result) => {
                Some(Heard::Answer { content: result.content.clone(), bill: result.bolt11.clone() })
            }
            UpdateBody::Feedback(feedback) => match feedback.status {
                Status::PaymentRequired => {
                    hear(said, signed(&event));
                    feedback.bolt11.clone().map(|bolt11| Heard::Bill { bolt11, hold: feedback.hold })
                }
                Status::Error => {
                    hear(said, signed(&event));
                    Some(Heard::Refused(feedback.text.chars().take(200).collect()))
                }
                Status::Processing | Status::Success | Status::Other(_) => {
                    hear(said, signed(&event));
                    None
                }
                // Pieces of an answer: many, and no proof of anything.
                Status::Partial => None,
            },
        };
        match heard {
            Some(Heard::Answer { bill: Some(bill), .. }) if !paid => {
                return Ok(Some(Heard::Bill { bolt11: bill, hold: false }));
            }
            Some(Heard::Bill { .. } | Heard::Refused(_)) if paid => {}
            Some(heard) => return Ok(Some(heard)),
            None => {}
        }
    }
}

/// Checks an invoice against the quote, the network, its expiry and every limit.
async fn accept(run: &Run<'_>, request: &Request, bolt11: &str) -> Result<Result<Bill, String>, TurnError> {
    let Some(policy) = run.opened.policy() else { return Ok(Err("no policy".into())) };
    let now = run.pen.now();
    let invoice = match Bolt11::decode(bolt11) {
        Ok(invoice) => invoice,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let network = run.pen.host.wallets.network();
    let Some(amount) = invoice.amount else { return Ok(Err("an invoice without an amount".into())) };
    if invoice.network != network {
        return Ok(Err(format!("an invoice for {}, this wallet is on {network}", invoice.network)));
    }
    if amount > request.quote {
        return Ok(Err(format!("asked {amount}, announced {}", request.quote)));
    }
    let latest = now.plus_ms(i64::from(policy.limits.invoice_expiry_max_secs) * 1_000);
    if invoice.expires_at > latest {
        return Ok(Err("the invoice expires too far ahead".into()));
    }
    if invoice.expires_at < now.plus_ms(2 * nexus_core::payment::EXPIRY_MARGIN_MS) {
        return Ok(Err("the invoice expires too soon".into()));
    }
    let asked = run.wallet.quote(PayRequest { bolt11: bolt11.to_owned(), amount: None });
    let max_fee = match tokio::time::timeout(WALLET_TIMEOUT, asked).await {
        Ok(Ok(quote)) => quote.max_fee,
        Ok(Err(error)) => return Ok(Err(format!("the wallet cannot pay it: {error}"))),
        Err(_) => return Ok(Err("the wallet did not answer in time".into())),
    };
    let cost = amount.saturating_add(max_fee);
    if max_fee > fee_limit(amount) {
        return Ok(Err(format!("routing would cost up to {max_fee}")));
    }
    let spent = run.tick.spent();
    if let Err(why) = judge_quote(policy, &request.provider, cost, request.encrypted, spent, run.balance) {
        return Ok(Err(why.to_string()));
    }
    let (hash, expires_at) = (invoice.hash, invoice.expires_at);
    Ok(Ok(Bill { bolt11: bolt11.to_owned(), hash, amount, max_fee, expires_at, hold: false, heard: Vec::new() }))
}

/// What commits with the record of an invoice: its budget is held and the payment's intent written.
pub(crate) fn reservation(
    run: &Run<'_>,
    payable: Payable,
    bill: &Bill,
    payee: nexus_core::Npub,
) -> Result<Vec<Side>, TurnError> {
    let Some(policy) = run.opened.policy() else { return Err(TurnError::Interrupted) };
    let windows = windows(run);
    let hold = |&(window, limit): &(Window, Msat)| Side::ReserveBudget { window, amount: bill.hold(), limit };
    let mut side: Vec<Side> = windows.iter().map(hold).collect();
    let since = run.pen.now().plus_ms(-HOUR_MS);
    side.extend(policy.limits.payments_per_hour.map(|most| Side::PaymentsWithin { since, most }));
    let windows = windows.into_iter().map(|(window, _)| window).collect();
    side.push(Side::InsertPayment(NewPayment {
        hash: bill.hash,
        step: payable.step(run.id),
        purpose: payable.purpose().into(),
        bolt11: bill.bolt11.clone(),
        amount: bill.amount,
        max_fee: bill.max_fee,
        expires_at: bill.expires_at,
        windows,
        payee: Some(payee),
    }));
    Ok(side)
}

/// Binds the invoice to the job, holds the budget and writes the payment's intent, in one batch.
async fn reserve(run: &mut Run<'_>, request: &Request, bill: Bill) -> Result<(), TurnError> {
    let side = reservation(run, Payable::Job { attempt: request.attempt }, &bill, request.provider)?;
    let attempt = request.attempt;
    match run.append(Record::Invoiced { attempt, bill }, side).await {
        Err(TurnError::Store(nexus_store::StoreError::Conflict { conflict, .. })) => {
            let why = match conflict {
                Conflict::Budget { .. } => "no room in the budget".to_owned(),
                Conflict::PaymentHash => "this invoice was met before".to_owned(),
                other => return Err(TurnError::parked("payment_conflict", other.to_string(), 10_000)),
            };
            tracing::info!(npub = %run.pen.npub.short(), provider = %request.provider.short(), why, "a job is given up");
            run.append(Record::Abandoned { attempt, why }, Vec::new()).await
        }
        other => other,
    }
}

/// Pays the bound invoice: dispatch once journaled, or look up what became of a dispatch.
pub(crate) async fn pay(
    run: &mut Run<'_>,
    payable: Payable,
    bill: Bill,
    dispatched: bool,
    job: Option<&Request>,
) -> Result<(), TurnError> {
    let host = run.pen.host;
    let stored = payment::get(&host.store, run.pen.npub, bill.hash).await?;
    let Some(mut payment) = stored else {
        let text = "the payment of an open tick is missing from the database";
        return Err(TurnError::parked("payment_missing", text, 60_000));
    };
    // What is paid is what the journal says, which only this agent's worker could write; the row only says how far.
    payment.step = payable.step(run.id);
    payment.bolt11.clone_from(&bill.bolt11);
    (payment.amount, payment.max_fee, payment.expires_at) = (bill.amount, bill.max_fee, bill.expires_at);
    if !dispatched {
        if run.pen.now().plus_ms(nexus_core::payment::EXPIRY_MARGIN_MS) >= bill.expires_at {
            let sides = settle_sides(&payment, PaymentState::Canceled, payment.state, Msat::ZERO, run.pen.now());
            let why = "the invoice ran out before it was paid".to_owned();
            return run.append(payable.given_up(why), sides).await;
        }
        #[cfg(feature = "broken")]
        if host.faults.is_broken(crate::faults::Broken::IntentNotJournaled) {
            drop(send(&run.pen, &*run.wallet, &payment).await);
        }
        let now = run.pen.now();
        let leave = PaymentMove {
            hash: bill.hash,
            from: PaymentState::Reserved,
            to: PaymentState::Dispatched,
            at: now,
            fee: None,
            preimage: None,
            note: None,
        };
        run.append(payable.paying(), vec![Side::Payment(leave)]).await?;
        payment.state = PaymentState::Dispatched;
        host.faults.pass(At::Before, "dispatch").await;
        let outcome = tokio::select! {
            biased;
            outcome = send(&run.pen, &*run.wallet, &payment) => outcome,
            // The request may be on its way: nobody here knows whether it is over, so it is asked about as an heir would.
            () = run.stop.cancelled() => return Err(TurnError::Interrupted),
        };
        let answered = !matches!(outcome, Outcome::Unknown { .. });
        let asker = if answered { Asker::Dispatcher } else { Asker::Unsure };
        host.note_dispatched(bill.hash, run.pen.generation, asker);
        host.faults.pass(At::After, "dispatch").await;
        let to = conclude(&outcome, Asker::Dispatcher, bill.expires_at, run.pen.now());
        return match (to, outcome) {
            (Some(PaymentState::Settled), Outcome::Settled { fee, preimage }) => {
                settled(run, payable, &payment, fee, preimage).await
            }
            (Some(PaymentState::Failed), Outcome::Failed { class }) => not_paid(run, payable, &payment, class).await,
            // Anything else: the machine asks for the payment again, as dispatched, and looks it up.
            (to, outcome) => {
                tracing::info!(npub = %run.pen.npub.short(), payment_hash = %bill.hash, ?outcome, "payment not concluded");
                let unresolved = to.filter(|to| to.unresolved() && *to != payment.state);
                if let Some(to) = unresolved {
                    run.pen.apply(vec![moved(&payment, to, run.pen.now())]).await?;
                }
                Ok(())
            }
        };
    }
    match job {
        Some(request) if bill.hold && !run.ending => holding::follow(run, request, payment).await,
        Some(_) | None => follow(run, payable, payment).await,
    }
}

/// Asks until the payment is concluded, or leaves it to recovery.
async fn follow(run: &mut Run<'_>, payable: Payable, mut payment: Payment) -> Result<(), TurnError> {
    let host = run.pen.host;
    // Told to stop at once, it asks once: recovery goes on asking. An answer that is there does not get lost by it.
    let until = host.mono().plus_ms(if run.ending { 0 } else { PENDING_WAIT_MS });
    let mut pause = 100;
    loop {
        let resolved = ask(&run.pen, &*run.wallet, &payment, !run.ending).await;
        match resolved.state {
            PaymentState::Settled => return settled(run, payable, &payment, resolved.fee, resolved.preimage).await,
            PaymentState::Failed => {
                return not_paid(run, payable, &payment, nexus_core::payment::FailureClass::Rejected).await;
            }
            PaymentState::Reserved
            | PaymentState::Dispatched
            | PaymentState::Pending
            | PaymentState::Unknown
            | PaymentState::Canceled => {}
        }
        if resolved.state != payment.state {
            run.pen.apply(vec![moved(&payment, resolved.state, run.pen.now())]).await?;
            payment.state = resolved.state;
        }
        if host.mono() >= until {
            return run.append(unresolved(run, payable), Vec::new()).await;
        }
        tokio::select! {
            biased;
            () = run.stop.cancelled() => return Err(TurnError::Interrupted),
            () = tokio::time::sleep(Duration::from_millis(pause)) => {}
        }
        pause = (pause * 2).min(2_000);
    }
}

/// What follows when a payment's end is left to recovery: the tick goes on with its answer, if it has one.
pub(crate) fn unresolved(run: &Run<'_>, payable: Payable) -> Record {
    match (payable, run.tick.jobs().last()) {
        (Payable::Job { attempt }, Some(nexus_core::tick::Job::Paying { answer: Some(_), .. })) => {
            Record::InFlight { attempt }
        }
        (Payable::Job { .. } | Payable::Zap { .. }, _) => payable.unresolved(),
    }
}

pub(crate) async fn settled(
    run: &mut Run<'_>,
    payable: Payable,
    payment: &Payment,
    fee: Msat,
    preimage: Option<nexus_core::Hash32>,
) -> Result<(), TurnError> {
    let at = run.pen.now();
    let mut sides = settle_sides(payment, PaymentState::Settled, payment.state, fee, at);
    if let (Some(preimage), Some(Side::Payment(step))) = (&preimage, sides.first_mut()) {
        let purpose = nexus_seal::blob::Purpose::Payment;
        step.preimage = run.opened.keys.data.seal(purpose, preimage.as_bytes(), &*run.pen.host.entropy).ok();
    }
    run.append(payable.paid(fee, preimage, at), sides).await?;
    run.pen.host.forget_dispatched(payment.hash, run.pen.generation);
    Ok(())
}

pub(crate) async fn not_paid(
    run: &mut Run<'_>,
    payable: Payable,
    payment: &Payment,
    class: nexus_core::payment::FailureClass,
) -> Result<(), TurnError> {
    tracing::info!(npub = %run.pen.npub.short(), payment_hash = %payment.hash, %class, "a payment failed");
    let sides = settle_sides(payment, PaymentState::Failed, payment.state, Msat::ZERO, run.pen.now());
    run.append(payable.not_paid(class), sides).await?;
    run.pen.host.forget_dispatched(payment.hash, run.pen.generation);
    Ok(())
}

/// How long to wait for what was paid for at `paid_at`: never longer than when nothing had come between, also where this
/// worker's clock is hours behind that of the one that paid.
pub(crate) fn result_wait(paid_at: UnixMs, now: UnixMs, timeout_ms: i64) -> u64 {
    let left = paid_at.plus_ms(timeout_ms).0.saturating_sub(now.0).max(RESUMED_WAIT_MS).min(timeout_ms);
    u64::try_from(left).unwrap_or(0)
}

/// Waits for what was paid for.
async fn await_result(run: &mut Run<'_>, request: Request, paid_at: UnixMs) -> Result<(), TurnError> {
    let attempt = request.attempt;
    let timeout = i64::try_from(run.pen.host.config.job_timeout_ms).unwrap_or(i64::MAX);
    let left = result_wait(paid_at, run.pen.now(), timeout);
    #[cfg(feature = "broken")]
    if run.pen.host.faults.is_broken(crate::faults::Broken::SecondInvoicePaid) {
        pay_again(run, &request).await?;
    }
    let mut said = Vec::new();
    match listen(run, &request, left, left, true, &mut said).await? {
        Some(Heard::Answer { content, .. }) => run.append(Record::Answered { attempt, content }, Vec::new()).await,
        None | Some(Heard::Busy | Heard::Bill { .. } | Heard::Refused(_)) => {
            let why = "paid, and no result came in time".to_owned();
            run.append(Record::Disputed { attempt, why, heard: said }, Vec::new()).await
        }
    }
}

/// Pays whatever else is asked for a job within a moment, with all that belongs to a payment.
#[cfg(feature = "broken")]
async fn pay_again(run: &Run<'_>, request: &Request) -> Result<(), TurnError> {
    let interest = Interest {
        relays: request.relays.clone(),
        filters: vec![job::await_filter(request.event.id, &request.provider)],
        auth: vec![run.opened.signer.clone()],
    };
    let mut updates = run.pen.host.relays.subscribe(interest);
    let moment = tokio::time::sleep(Duration::from_secs(2));
    tokio::pin!(moment);
    loop {
        let event = tokio::select! {
            biased;
            () = run.stop.cancelled() => return Err(TurnError::Interrupted),
            event = updates.next() => event,
            () = &mut moment => return Ok(()),
        };
        let Some(event) = event else { return Ok(()) };
        let update = job::receive_update(&event, request.event.id, &request.provider, &*run.opened.signer).await;
        let Ok(UpdateBody::Feedback(feedback)) = update.map(|update| update.body) else { continue };
        let Some(bolt11) = feedback.bolt11 else { continue };
        let Ok(bill) = accept(run, request, &bolt11).await? else { continue };
        let windows: Vec<Window> = windows(run).into_iter().map(|(window, _)| window).collect();
        let pen = &run.pen;
        if payment::get(&pen.host.store, pen.npub, bill.hash).await?.is_some() {
            continue;
        }
        let mut sides: Vec<Side> = windows
            .iter()
            .map(|window| Side::ReserveBudget { window: *window, amount: bill.hold(), limit: Msat::MAX })
            .collect();
        sides.push(Side::InsertPayment(NewPayment {
            hash: bill.hash,
            step: format!("{}:again", Payable::Job { attempt: request.attempt }.step(run.id)),
            purpose: "inference".into(),
            bolt11: bill.bolt11.clone(),
            amount: bill.amount,
            max_fee: bill.max_fee,
            expires_at: bill.expires_at,
            windows,
            payee: Some(request.provider),
        }));
        pen.apply(sides).await?;
        let Some(payment) = payment::get(&pen.host.store, pen.npub, bill.hash).await? else { continue };
        pen.apply(vec![moved(&payment, PaymentState::Dispatched, pen.now())]).await?;
        if let Outcome::Settled { fee, .. } = send(pen, &*run.wallet, &payment).await {
            pen.apply(settle_sides(&payment, PaymentState::Settled, PaymentState::Dispatched, fee, pen.now())).await?;
        }
    }
}

/// Publishes an action's events. What no relay takes now stays journaled, and recovery goes on.
/// Publishes what was decided. The outbox has it since then; an agent that is to stop at once leaves it to that.
async fn act(run: &mut Run<'_>, index: usize, events: &[SignedEvent], relays: &[String]) -> Result<(), TurnError> {
    if run.ending {
        let outcome = ActionOutcome::Queued { why: "the agent was stopped; it is published without it".into() };
        return run.append(Record::Acted { index, outcome }, Vec::new()).await;
    }
    let mut side = Vec::new();
    let mut all = true;
    let mut said = Vec::new();
    for event in events {
        let (taken, words) = publish(run, event, relays).await?;
        all &= taken;
        let next_attempt_at = if taken { None } else { Some(run.pen.now().plus_ms(5_000)) };
        let relays = serde_json::to_string(&words).unwrap_or_default();
        side.push(Side::PublicationResult { event_id: event.id, done: taken, relays, next_attempt_at });
        said.extend(words);
    }
    run.append(acted(index, all, said), side).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_clock_makes_a_result_be_waited_for_longer_than_its_timeout() {
        let paid_at = UnixMs(50_000_000);
        let wait = |now: i64| result_wait(paid_at, UnixMs(now), 120_000);
        assert_eq!(wait(paid_at.0 + 20_000), 100_000);
        assert_eq!(wait(paid_at.0 + 500_000), u64::try_from(RESUMED_WAIT_MS).unwrap());
        assert_eq!(wait(paid_at.0 - 9_343_583), 120_000);
        assert_eq!(wait(i64::MIN), 120_000);
        assert_eq!(wait(i64::MAX), u64::try_from(RESUMED_WAIT_MS).unwrap());
    }
}
