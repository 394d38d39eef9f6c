//! What a wallet does with each request.

use std::sync::Arc;
use std::time::Duration;

use lightning_invoice::Bolt11Invoice;
use nexus_core::Hash32;
use nostr::event::Event;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::books::{Payment, Refusal, Status};
use super::{Course, Rule, Wire, World, wire};

type Tell = mpsc::UnboundedSender<Event>;

pub(super) async fn heard(world: Arc<World>, event: Event, tell: Tell) {
    let Some(app) = addressed(&world, &event) else { return };
    let keys = world.lock().books.apps[app].wallet.clone();
    let Some(asked) = wire::opened(&keys, &event) else { return };
    let method = asked["method"].as_str().unwrap_or_default().to_owned();
    let Rule { course, wire: fault, .. } = {
        let mut state = world.lock();
        state.arrived.push(method.clone());
        if state.books.apps[app].deaf > 0 {
            state.books.apps[app].deaf -= 1;
            return;
        }
        let found = state.rules.iter().position(|rule| rule.app == app && rule.method == method);
        found.and_then(|at| state.rules.remove(at)).unwrap_or_default()
    };
    match fault {
        Wire::Dropped => return,
        Wire::Slow { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
        Wire::Whole | Wire::Lost { .. } | Wire::Late { .. } | Wire::Garbled | Wire::Weaker | Wire::Refused(_) => {}
    }
    {
        let mut state = world.lock();
        state.heard.push((method.clone(), event.id.to_hex()));
        // As Alby Hub does: a request that was heard before is not answered.
        if !state.books.seen.insert(event.id) && !state.books.apps[app].guise.answers_repeats {
            return;
        }
        if let Wire::Lost { deaf } = fault {
            state.books.apps[app].deaf = deaf;
        }
    }
    let done = match fault {
        Wire::Refused(code) => Err((code, "as the test wants it".to_owned())),
        Wire::Whole
        | Wire::Dropped
        | Wire::Slow { .. }
        | Wire::Lost { .. }
        | Wire::Late { .. }
        | Wire::Garbled
        | Wire::Weaker => done(&world, app, &method, &asked["params"], course).await,
    };
    let text = match done {
        Ok(result) => json!({ "result_type": method, "error": null, "result": result }),
        Err((code, message)) => {
            json!({ "result_type": method, "error": { "code": code, "message": message }, "result": null })
        }
    };
    let modern = wire::is_modern(&event);
    let said = match fault {
        Wire::Lost { .. } | Wire::Dropped => return,
        Wire::Late { ms } => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            wire::answer(&keys, &*world.clock, &event, &text.to_string(), modern)
        }
        Wire::Garbled => wire::garbage(&keys, &*world.clock, &event),
        Wire::Weaker => wire::answer(&keys, &*world.clock, &event, &text.to_string(), !modern),
        Wire::Whole | Wire::Slow { .. } | Wire::Refused(_) => {
            wire::answer(&keys, &*world.clock, &event, &text.to_string(), modern)
        }
    };
    let _ = tell.send(said);
}

/// Whose request it is, if it is one that counts.
fn addressed(world: &World, event: &Event) -> Option<usize> {
    event.verify().ok()?;
    let expires = wire::tagged(event, "expiration").and_then(|text| text.parse::<i64>().ok());
    if expires.is_some_and(|at| at <= world.clock.now().secs()) {
        return None;
    }
    let wallet = wire::tagged(event, "p")?;
    let state = world.lock();
    let ours =
        |app: &super::books::App| app.client.public_key() == event.pubkey && app.wallet.public_key().to_hex() == wallet;
    state.books.apps.iter().position(ours)
}

async fn done(world: &Arc<World>, app: usize, method: &str, params: &Value, course: Course) -> Result<Value, Refusal> {
    let now_s = world.clock.now().secs();
    if !world.lock().books.apps[app].guise.methods.contains(&method) {
        return Err(("RESTRICTED", format!("this connection may not {method}")));
    }
    match method {
        "get_balance" => Ok(json!({ "balance": world.lock().books.apps[app].balance_msat })),
        "get_info" => {
            let guise = world.lock().books.apps[app].guise.clone();
            Ok(json!({
                "alias": "a wallet", "color": "#000000", "pubkey": "02".repeat(33), "network": guise.network,
                "block_height": 1, "block_hash": "00".repeat(32), "methods": guise.methods,
                "notifications": ["payment_received"],
            }))
        }
        "make_invoice" => world.lock().books.make(app, params, now_s),
        "lookup_invoice" => {
            let hash = params["payment_hash"].as_str().and_then(|text| text.parse::<Hash32>().ok());
            let hash = hash.ok_or(("OTHER", "a payment hash is needed".to_owned()))?;
            world.lock().books.look(app, hash, now_s)
        }
        "pay_invoice" => pay(world, app, params, course).await,
        _ => Err(("NOT_IMPLEMENTED", method.to_owned())),
    }
}

async fn pay(world: &Arc<World>, app: usize, params: &Value, course: Course) -> Result<Value, Refusal> {
    let bolt11 = params["invoice"].as_str().unwrap_or_default();
    let invoice: Bolt11Invoice = bolt11.parse().map_err(|_| ("OTHER", "not an invoice".to_owned()))?;
    let hash = Hash32::from_bytes(*bitcoin::hashes::Hash::as_byte_array(invoice.payment_hash()));
    let msat = invoice.amount_milli_satoshis().or_else(|| params["amount"].as_u64());
    let msat = msat.ok_or(("OTHER", "no amount".to_owned()))?;
    let expires_s = invoice.expires_at().map_or(0, |at| i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
    let (now_s, mono) = (world.clock.now().secs(), world.clock.mono().0);
    let payment = Payment {
        msat,
        bolt11: bolt11.to_owned(),
        status: Status::InFlight,
        called_failed: matches!(course, Course::CalledFailed { .. }),
        preimage: None,
        created_s: now_s,
        expires_s,
        settled_s: None,
        ends: match course {
            Course::Plain | Course::Stuck => None,
            Course::SettlesAfter { ms } | Course::CalledFailed { settles_after_ms: ms } => Some((mono + ms, true)),
            Course::FailsAfter { ms } => Some((mono + ms, false)),
        },
    };
    world.lock().books.begin(app, hash, payment, now_s)?;
    match course {
        Course::Plain => world.end(app, hash, true),
        Course::CalledFailed { .. } => return Err(("INTERNAL", "the payment failed, or so it seems".to_owned())),
        Course::Stuck | Course::SettlesAfter { .. } | Course::FailsAfter { .. } => {}
    }
    loop {
        let payment = world.lock().books.payments.get(&(app, hash)).cloned();
        match payment {
            Some(Payment { status: Status::Settled, preimage, .. }) => {
                return Ok(json!({ "preimage": preimage, "fees_paid": super::FEE_MSAT }));
            }
            Some(Payment { status: Status::Failed, .. }) | None => {
                return Err(("PAYMENT_FAILED", "no route".to_owned()));
            }
            Some(Payment { status: Status::InFlight, .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
