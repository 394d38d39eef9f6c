//! What each call does.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use nexus_core::payment::Outcome;
use nexus_core::{Hash32, Msat, UnixMs};
use tokio::sync::broadcast::error::RecvError;

use super::account::secp;
use super::api::{self, Code, Problem};
use super::auth::Signed;
use super::decide::{self, Course, Payment, Refusal};
use super::ledger::{Entry, InvoiceRow, InvoiceRowState, Ledger, PaymentKey};
use super::server::{Answer, Net};
use crate::bolt11::{Bolt11, MAX_DESCRIPTION_BYTES};
use crate::driver::{Cursor, Settlement};

/// Two weeks: the most that a time lock may have (2,016 blocks).
const MAX_HOLD_MS: i64 = 2_016 * 600_000;

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooManyAccounts => {
                Problem::new(Code::TooManyAccounts, "the network has no room for more accounts")
            }
            Refusal::TooManyInvoices => Problem::new(Code::TooManyInvoices, "the account has too many open invoices"),
            Refusal::Conflict => Problem::new(Code::Conflict, "this preimage is in use with other values"),
        }
        .into()
    }
}

fn bad(detail: impl Into<String>) -> Answer {
    Problem::new(Code::BadRequest, detail).into()
}

/// Runs a call under the fault that was asked for it, if any.
#[cfg(feature = "faults")]
async fn faulted<T: IntoResponse>(
    net: &Net,
    call: super::faults::Call,
    party: super::Party,
    hash: Option<Hash32>,
    work: impl Future<Output = Result<T, Answer>>,
) -> Result<Response, Answer> {
    super::faults::around(net, call, party, hash, work).await
}

pub(super) async fn account(
    State(net): State<Net>,
    Signed { party, ask: api::Nothing {} }: Signed<api::Nothing>,
) -> Result<Json<api::AccountAnswer>, Answer> {
    let balance = net.engine().transact(move |books| books.ledger().account(party).balance).await?;
    Ok(Json(api::AccountAnswer { party, balance: Msat::try_from(balance).unwrap_or(Msat::MAX) }))
}

pub(super) async fn faucet(
    State(net): State<Net>,
    Signed { party, ask: api::Nothing {} }: Signed<api::Nothing>,
) -> Result<Json<api::AccountAnswer>, Answer> {
    let given = net.engine().transact(move |books| {
        let entries = decide::faucet(books.ledger(), party, books.now())?;
        books.post(entries);
        Ok::<_, Refusal>(books.ledger().account(party).balance)
    });
    let balance = given.await??;
    Ok(Json(api::AccountAnswer { party, balance: Msat::try_from(balance).unwrap_or(Msat::MAX) }))
}

pub(super) async fn quote(State(net): State<Net>, Signed { ask, .. }: Signed<api::QuoteAsk>) -> Json<api::QuoteAnswer> {
    Json(api::QuoteAnswer { fee: net.parts().fee.of(ask.amount) })
}

pub(super) async fn create_invoice(
    State(net): State<Net>,
    Signed { party, ask }: Signed<api::InvoiceAsk>,
) -> Result<Response, Answer> {
    let preimage = ask.preimage.unwrap_or_else(|| Hash32::from_bytes(nexus_core::time::random(&*net.parts().entropy)));
    let hash = Hash32::sha256(preimage.as_bytes());
    let row = write_invoice(&net, party, preimage, hash, &ask)?;
    make(&net, party, hash, row).await
}

/// An invoice whose preimage its payee keeps.
pub(super) async fn create_hold(
    State(net): State<Net>,
    Signed { party, ask }: Signed<api::HoldAsk>,
) -> Result<Response, Answer> {
    if !(1..=MAX_HOLD_MS).contains(&ask.hold_ms) {
        return Err(bad("money is held for 1 ms to two weeks"));
    }
    let api::HoldAsk { hash, amount, memo, description_hash, expiry_s, hold_ms } = ask;
    // Not the preimage: what a payment secret is made of, and nothing that opens.
    let seed = Hash32::from_bytes(nexus_core::time::random(&*net.parts().entropy));
    let ask = api::InvoiceAsk { preimage: None, amount, memo, description_hash, expiry_s };
    let row = write_invoice(&net, party, seed, hash, &ask)?;
    make(&net, party, hash, InvoiceRow { preimage: Hash32::ZERO, hold_ms: Some(hold_ms), ..row }).await
}

/// Takes what is held.
pub(super) async fn settle_held(
    State(net): State<Net>,
    Signed { party, ask }: Signed<api::SettleAsk>,
) -> Result<Json<api::Nothing>, Answer> {
    let preimage = ask.preimage;
    hold_move(&net, move |ledger, now| decide::settle_held(ledger, party, preimage, now)).await
}

/// Gives back what is held, or ends an open invoice.
pub(super) async fn cancel_invoice(
    State(net): State<Net>,
    Signed { party, ask }: Signed<api::HashAsk>,
) -> Result<Json<api::Nothing>, Answer> {
    let hash = ask.hash;
    hold_move(&net, move |ledger, now| decide::cancel(ledger, party, hash, now)).await
}

async fn hold_move(
    net: &Net,
    decide: impl FnOnce(&Ledger, UnixMs) -> Option<Vec<Entry>> + Send + 'static,
) -> Result<Json<api::Nothing>, Answer> {
    let done = net.engine().transact(move |books| {
        let entries = decide(books.ledger(), books.now())?;
        books.post(entries);
        Some(())
    });
    let refused = || Problem::new(Code::NotHeld, "no money waits for this invoice, or it is settled already");
    done.await?.map(|()| Json(api::Nothing {})).ok_or_else(|| refused().into())
}

#[cfg_attr(not(feature = "faults"), expect(unused_variables, reason = "only faults ask who it is"))]
async fn make(net: &Net, party: super::Party, hash: Hash32, row: InvoiceRow) -> Result<Response, Answer> {
    let work = async {
        let made = net.engine().transact(move |books| {
            let (entries, row) = decide::invoice(books.ledger(), hash, row)?;
            // Followed from here, the settlement of this invoice is seen: also when it settled long ago.
            let cursor = match row.state {
                InvoiceRowState::Settled { index, .. } => index.saturating_sub(1),
                InvoiceRowState::Open | InvoiceRowState::InFlight | InvoiceRowState::Canceled => {
                    books.ledger().settled()
                }
            };
            books.post(entries);
            Ok::<_, Refusal>((row, cursor))
        });
        let (row, cursor) = made.await??;
        let cursor = Cursor(cursor);
        Ok(Json(api::InvoiceAnswer { bolt11: row.bolt11, hash, expires_at: row.expires_at, cursor }))
    };
    #[cfg(feature = "faults")]
    return faulted(net, super::faults::Call::CreateInvoice, party, Some(hash), work).await;
    #[cfg(not(feature = "faults"))]
    work.await.map(IntoResponse::into_response)
}

fn write_invoice(
    net: &Net,
    payee: super::Party,
    preimage: Hash32,
    hash: Hash32,
    ask: &api::InvoiceAsk,
) -> Result<InvoiceRow, Answer> {
    if ask.amount == Msat::ZERO || !(1..=api::MAX_EXPIRY_S).contains(&ask.expiry_s) {
        return Err(bad("an invoice asks for at least 1 msat and lives 1 to 86400 seconds"));
    }
    let now = net.now();
    let created_s = u64::try_from(now.secs()).map_err(|_| bad("the clock is before 1970"))?;
    let secret = Hash32::sha256(&[b"payment secret".as_slice(), preimage.as_bytes()].concat());
    let builder = InvoiceBuilder::new(Currency::Regtest)
        .payment_hash(bitcoin::hashes::Hash::from_byte_array(*hash.as_bytes()))
        .payment_secret(PaymentSecret(*secret.as_bytes()))
        .duration_since_epoch(Duration::from_secs(created_s))
        .min_final_cltv_expiry_delta(18)
        .expiry_time(Duration::from_secs(u64::from(ask.expiry_s)))
        .amount_milli_satoshis(ask.amount.as_u64());
    let sign = |digest: &bitcoin::secp256k1::Message| secp().sign_ecdsa_recoverable(digest, net.key());
    let made = match (&ask.memo, ask.description_hash) {
        (Some(memo), None) if memo.len() <= MAX_DESCRIPTION_BYTES => {
            builder.description(memo.clone()).build_signed(sign)
        }
        (None, Some(hash)) => {
            builder.description_hash(bitcoin::hashes::Hash::from_byte_array(*hash.as_bytes())).build_signed(sign)
        }
        (Some(_) | None, _) => return Err(bad("an invoice has a memo of at most 639 bytes, or a description hash")),
    };
    let bolt11 = made.map_err(|error| bad(format!("no invoice can say this: {error}")))?.to_string();
    let expires_at = UnixMs::from_secs(now.secs()).plus_ms(i64::from(ask.expiry_s) * 1_000);
    let state = InvoiceRowState::Open;
    Ok(InvoiceRow { payee, preimage, amount: ask.amount, bolt11, created_at: now, expires_at, state, hold_ms: None })
}

pub(super) async fn lookup_invoice(
    State(net): State<Net>,
    Signed { party, ask }: Signed<api::HashAsk>,
) -> Result<Response, Answer> {
    let hash = ask.hash;
    let work = async {
        let found = net.engine().transact(move |books| {
            let Some(row) = books.ledger().invoice(hash).filter(|row| row.payee == party) else {
                return api::InvoiceStateAnswer::NotFound;
            };
            match row.state {
                InvoiceRowState::Settled { at, .. } => {
                    api::InvoiceStateAnswer::Settled { amount: row.amount, preimage: row.preimage, at }
                }
                InvoiceRowState::Open if books.now() >= row.expires_at => api::InvoiceStateAnswer::Canceled,
                InvoiceRowState::Canceled => api::InvoiceStateAnswer::Canceled,
                InvoiceRowState::InFlight if books.ledger().held_for(hash).is_some() => {
                    api::InvoiceStateAnswer::Accepted
                }
                InvoiceRowState::Open | InvoiceRowState::InFlight => api::InvoiceStateAnswer::Open,
            }
        });
        Ok(Json(found.await?))
    };
    #[cfg(feature = "faults")]
    return faulted(&net, super::faults::Call::LookupInvoice, party, Some(hash), work).await;
    #[cfg(not(feature = "faults"))]
    work.await.map(IntoResponse::into_response)
}

pub(super) async fn pay(
    State(net): State<Net>,
    Signed { party, ask }: Signed<api::PaymentAsk>,
) -> Result<Response, Answer> {
    let invoice = Bolt11::decode(&ask.bolt11).map_err(|error| bad(error.to_string()))?;
    let key = payment_key(party, invoice.hash, ask.payment_id)?;
    let payment = Payment {
        key,
        attempt: ask.attempt,
        bolt11: ask.bolt11,
        expires_at: invoice.expires_at,
        amount: ask.amount,
        max_fee: ask.max_fee,
    };
    #[cfg(feature = "faults")]
    return super::faults::pay(&net, payment).await;
    #[cfg(not(feature = "faults"))]
    pay_on(&net, payment, Course::Plain).await.map(|outcome| Json(outcome).into_response())
}

/// Pays on a course that somebody chose; the outcome is durable.
pub(super) async fn pay_on(net: &Net, payment: Payment, course: Course) -> Result<Outcome, Answer> {
    let fee = net.parts().fee;
    let paid = net.engine().transact(move |books| {
        let entries = decide::pay(books.ledger(), &payment, fee, course, books.now());
        books.post(entries);
        books.ledger().outcome(&payment.key)
    });
    Ok(paid.await?)
}

fn payment_key(payer: super::Party, hash: Hash32, payment_id: String) -> Result<PaymentKey, Answer> {
    if payment_id.is_empty() || payment_id.len() > api::MAX_PAYMENT_ID_BYTES {
        return Err(bad("a payment's id has 1 to 64 bytes"));
    }
    Ok(PaymentKey { hash, payer, payment_id })
}

pub(super) async fn resolve(
    State(net): State<Net>,
    Signed { party, ask }: Signed<api::ResolveAsk>,
) -> Result<Response, Answer> {
    let hash = ask.hash;
    let key = payment_key(party, hash, ask.payment_id)?;
    let work = async { Ok(Json(net.engine().transact(move |books| books.ledger().outcome(&key)).await?)) };
    #[cfg(feature = "faults")]
    return faulted(&net, super::faults::Call::Resolve, party, Some(hash), work).await;
    #[cfg(not(feature = "faults"))]
    work.await.map(IntoResponse::into_response)
}

/// Settlements after a cursor; waits for one when there is none yet.
pub(super) async fn settlements(
    State(net): State<Net>,
    Signed { party, ask }: Signed<api::SettlementsAsk>,
) -> Result<Json<Vec<Settlement>>, Answer> {
    let mut wakes = net.engine().settled();
    let wait = tokio::time::sleep(Duration::from_millis(ask.wait_ms.min(api::MAX_WAIT_MS)));
    tokio::pin!(wait);
    loop {
        let after = ask.after;
        let list =
            net.engine().transact(move |books| books.ledger().settlements(party, after, api::MAX_SETTLEMENTS)).await?;
        if !list.is_empty() {
            return Ok(Json(list));
        }
        loop {
            tokio::select! {
                () = &mut wait => return Ok(Json(Vec::new())),
                () = net.stopping().cancelled() => return Err(super::engine::Gone.into()),
                woken = wakes.recv() => match woken {
                    Ok(paid) if paid == party => break,
                    Ok(_) => {}
                    // Missed some: look again.
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return Err(super::engine::Gone.into()),
                },
            }
        }
    }
}
