//! Paid, and not served: what proves it is kept with the tick's commit, the owner is told, and relays are asked for a late
//! result now and then. Nothing here pays.

use std::time::Duration;

use nexus_core::dispute::{DisputeId, DisputeState, next_look};
use nexus_core::event::EventBody;
use nexus_core::payment::PaymentState;
use nexus_core::tick::{Bill, End, Failure, Job, Receipt, Request, SignedEvent, hear};
use nexus_core::{Hash32, Msat, Npub, UnixMs};
use nexus_nostr::dispute::{Evidence, late_result};
use nexus_nostr::event::decode_event;
use nexus_nostr::job::await_filter;
use nexus_nostr::relay_pool::Interest;
use nexus_seal::blob::{Blob, Purpose};
use nexus_store::agent::Agent;
use nexus_store::dispute::{self, Dispute, DisputeMove};
use nexus_store::event::NewEvent;
use nexus_store::payment::Payment;
use nexus_store::provider::Fact;
use nexus_store::side::Side;

use crate::error::TurnError;
use crate::ledger::Pen;
use crate::notice;
use crate::recover::Resolved;
use crate::tick::Run;
use crate::unlock::Opened;

/// Disputes looked after before one tick.
const MAX_LOOKED: u32 = 4;
const LOOKUP: Duration = Duration::from_secs(3);

fn broken(text: impl std::fmt::Display) -> TurnError {
    TurnError::parked("dispute_unwritable", text.to_string(), 60_000)
}

/// What a tick's end leaves open of its jobs: those paid and not served, and the one whose payment is not known to have
/// arrived when nothing came.
pub(crate) async fn opened(run: &Run<'_>, end: End, now: UnixMs) -> Result<Vec<Side>, TurnError> {
    let mut sides = Vec::new();
    for job in run.tick.jobs() {
        let (request, bill, receipt, heard) = match job {
            Job::Disputed { request, bill, receipt, heard } => (request, bill, Some(receipt), heard.as_slice()),
            Job::Paying { request, bill, answer: None } if end == End::Failed(Failure::PaymentUnresolved) => {
                (request, bill, None, [].as_slice())
            }
            Job::Requested { .. }
            | Job::Invoiced { .. }
            | Job::Paying { .. }
            | Job::Paid { .. }
            | Job::Done { .. }
            | Job::Abandoned { .. } => continue,
        };
        let id = DisputeId { tick_id: run.id, attempt: request.attempt };
        let evidence = evidence(id, request, bill, receipt, heard)?;
        let state = if receipt.is_some() { DisputeState::Open } else { DisputeState::Unsettled };
        let row = Dispute {
            id,
            provider: request.provider,
            request: request.event.id,
            payment_hash: bill.hash,
            bolt11: bill.bolt11.clone(),
            amount: bill.amount,
            fee: receipt.map_or(Msat::ZERO, |receipt| receipt.fee),
            paid_at: receipt.map(|receipt| receipt.at),
            silent_at: now,
            state,
            changed_at: now,
            look_at: next_look(now, 0, now),
            looks: 0,
            sealed: close(&run.pen, run.opened, &evidence)?,
        };
        sides.push(told(&row, state, now));
        if state == DisputeState::Open {
            sides.extend(notice::message(run.pen.host, run.agent, &said(run.agent, &row)).await?);
        }
        sides.push(Side::OpenDispute(Box::new(row)));
    }
    Ok(sides)
}

fn evidence(
    dispute_id: DisputeId,
    request: &Request,
    bill: &Bill,
    receipt: Option<&Receipt>,
    heard: &[SignedEvent],
) -> Result<Evidence, TurnError> {
    let mut all = bill.heard.clone();
    heard.iter().for_each(|event| hear(&mut all, event.clone()));
    let read = |event: &SignedEvent| decode_event(event.json.as_bytes(), nexus_nostr::event::MAX_EVENT).map_err(broken);
    Ok(Evidence {
        dispute_id,
        request: read(&request.event)?,
        heard: all.iter().map(read).collect::<Result<_, _>>()?,
        bolt11: bill.bolt11.clone(),
        preimage: receipt.and_then(|receipt| receipt.preimage),
        late: None,
        relays: request.relays.clone(),
    })
}

/// What recovery's word on a payment means for the dispute that waits for it.
pub(crate) async fn concluded(
    pen: &Pen<'_>,
    opened: &Opened,
    payment: &Payment,
    resolved: &Resolved,
) -> Result<Vec<Side>, TurnError> {
    if resolved.state.unresolved() || payment.purpose != "inference" {
        return Ok(Vec::new());
    }
    let found = dispute::of_payment(&pen.host.store, pen.npub, payment.hash).await?;
    // One that was answered before the money was known to have arrived lacks its proof as well.
    let waits =
        |row: &Dispute| row.paid_at.is_none() && matches!(row.state, DisputeState::Unsettled | DisputeState::Answered);
    let Some(row) = found.filter(waits) else { return Ok(Vec::new()) };
    let now = pen.now();
    let mut change = follows(&row);
    let fact = if resolved.state == PaymentState::Settled {
        if row.state == DisputeState::Unsettled {
            change.to = DisputeState::Open;
        }
        (change.fee, change.paid_at) = (Some(resolved.fee), Some(now));
        let mut evidence = open(opened, &row)?;
        evidence.preimage = resolved.preimage;
        change.sealed = Some(close(pen, opened, &evidence)?);
        Fact::Disputed
    } else {
        // The money came back: it was silent, and took nothing.
        change.to = DisputeState::Closed;
        change.look_at = None;
        Fact::Abandoned
    };
    let to = change.to;
    let mut sides = vec![Side::Dispute(Box::new(change))];
    if to != row.state {
        sides.push(told(&row, to, now));
    }
    if row.state == DisputeState::Unsettled {
        sides.push(Side::Provider { provider: row.provider, fact });
    }
    if to == DisputeState::Open
        && let Some(agent) = nexus_store::agent::get(&pen.host.store, pen.npub).await?
    {
        pen.host.market.forget(agent.account);
        sides.extend(notice::message(pen.host, &agent, &said(&agent, &row)).await?);
    }
    Ok(sides)
}

/// Asks relays once more for what was paid and did not come, where that is due.
pub(crate) async fn look(pen: &Pen<'_>, agent: &Agent, opened: &Opened) -> Result<(), TurnError> {
    let due = dispute::due(&pen.host.store, pen.npub, pen.now(), MAX_LOOKED).await?;
    for row in due {
        look_after(pen, agent, opened, &row).await?;
    }
    Ok(())
}

async fn look_after(pen: &Pen<'_>, agent: &Agent, opened: &Opened, row: &Dispute) -> Result<(), TurnError> {
    let mut change = follows(row);
    change.looks = row.looks.saturating_add(1);
    change.look_at = next_look(row.silent_at, change.looks, pen.now());
    // One that does not open is shown as it is, and not looked after any more.
    let Ok(mut evidence) = open(opened, row) else {
        change.look_at = None;
        return pen.apply(vec![Side::Dispute(Box::new(change))]).await;
    };
    let interest = Interest {
        relays: evidence.relays.clone(),
        filters: vec![await_filter(row.request, &row.provider)],
        auth: vec![opened.signer.clone()],
    };
    let found = pen.host.relays.fetch(interest, LOOKUP).await.events;
    let Some(late) = late_result(&found, row.request, &row.provider) else {
        return pen.apply(vec![Side::Dispute(Box::new(change))]).await;
    };
    evidence.late = Some(late);
    change.sealed = Some(close(pen, opened, &evidence)?);
    (change.to, change.look_at) = (DisputeState::Answered, None);
    let mut sides = vec![told(row, DisputeState::Answered, pen.now()), Side::Dispute(Box::new(change))];
    // Before the money was known to have arrived nothing was held against the provider.
    if row.state == DisputeState::Open {
        sides.push(Side::Provider { provider: row.provider, fact: Fact::Answered });
    }
    pen.host.market.forget(agent.account);
    tracing::info!(npub = %pen.npub.short(), dispute = %row.id, "a result came after its dispute");
    pen.apply(sides).await
}

/// A change that changes nothing yet.
fn follows(row: &Dispute) -> DisputeMove {
    DisputeMove {
        id: row.id,
        from: row.state,
        to: row.state,
        fee: None,
        paid_at: None,
        look_at: row.look_at,
        looks: row.looks,
        sealed: None,
    }
}

fn told(row: &Dispute, state: DisputeState, at: UnixMs) -> Side {
    let body = EventBody::Dispute {
        dispute_id: row.id,
        provider: row.provider,
        amount_sats: row.amount.sats_ceil(),
        state: state.as_str().to_owned(),
    };
    Side::AppendEvent(NewEvent::new(at, body))
}

fn said(agent: &Agent, row: &Dispute) -> String {
    let (name, id, sats) = (&agent.name, row.id, row.amount.sats_ceil());
    format!(
        "{name} paid {sats} sats and was not served by {}\nNext: nexus agent disputes {name} {id} --out FILE keeps the evidence\n{}",
        row.provider, agent.npub
    )
}

fn close(pen: &Pen<'_>, opened: &Opened, evidence: &Evidence) -> Result<Vec<u8>, TurnError> {
    let bytes = zeroize::Zeroizing::new(serde_json::to_vec(evidence).map_err(broken)?);
    opened.keys.view.seal(Purpose::Dispute, &bytes, &*pen.host.entropy).map_err(broken)
}

fn open(opened: &Opened, row: &Dispute) -> Result<Evidence, TurnError> {
    let number = Blob::parse(&row.sealed).map_err(broken)?.key_number;
    let key = opened.keys.view_numbered(number).ok_or_else(|| broken("its view key is gone"))?;
    let bytes = key.open(Purpose::Dispute, &row.sealed).map_err(broken)?;
    let evidence: Evidence = serde_json::from_slice(bytes.expose()).map_err(broken)?;
    let same: (Hash32, Npub) = (nexus_nostr::event::hash(&evidence.request.id), author(&evidence));
    if evidence.dispute_id == row.id && same == (row.request, opened.npub) {
        Ok(evidence)
    } else {
        Err(broken("the evidence is another dispute's"))
    }
}

fn author(evidence: &Evidence) -> Npub {
    nexus_nostr::event::npub(&evidence.request.pubkey)
}
