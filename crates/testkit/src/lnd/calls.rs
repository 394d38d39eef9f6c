//! What a node answers to each call.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use futures::channel::mpsc;
use lightning_invoice::Bolt11Invoice;
use nexus_core::Hash32;
use serde_json::{Value, json};

use super::books::{Books, Bytes32, Invoice, InvoiceState, Payment, Status};
use super::http::Answer;
use super::{Course, Guise, Shared, World};

pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) body: &'a [u8],
    pub(super) macaroon: Option<&'a str>,
    pub(super) course: Course,
}

/// gRPC code and message.
type Refusal = (u32, String);

const UNKNOWN: u32 = 2;
const INVALID: u32 = 3;
const NOT_FOUND: u32 = 5;
const ALREADY_EXISTS: u32 = 6;

fn unknown(message: impl Into<String>) -> Refusal {
    (UNKNOWN, message.into())
}

pub(super) fn answer(world: &Arc<World>, shared: &Arc<Shared>, call: &Call<'_>) -> Answer {
    match answered(world, shared, call) {
        Ok(answer) => answer,
        // Streams' errors are wrapped, others are bare.
        Err(refusal) if call.path.starts_with("/v2/router/") || call.path.starts_with("/v1/invoices/subscribe") => {
            let (tell, told) = mpsc::unbounded();
            let _ = tell.unbounded_send(Err(refusal));
            Answer::Stream(told)
        }
        Err((code, message)) => Answer::Error(code, message),
    }
}

fn answered(world: &Arc<World>, shared: &Arc<Shared>, call: &Call<'_>) -> Result<Answer, Refusal> {
    let (path, query) = call.path.split_once('?').unwrap_or((call.path, ""));
    if let Some((code, message)) = shared.lock().guise.refuses {
        return Err((code, message.to_owned()));
    }
    let may = |permission: &str| permitted(shared, call.macaroon, permission);
    match (call.method, path) {
        ("GET", "/v1/getinfo") => may("info:read").map(|()| Answer::Whole(info(shared))),
        ("GET", "/v1/balance/channels") => may("offchain:read").map(|()| Answer::Whole(balance(shared))),
        ("POST", "/v2/router/send") => may("offchain:write").and_then(|()| send(world, shared, call)),
        ("POST", "/v1/invoices") => may("invoices:write").and_then(|()| add(shared, call, false)),
        ("POST", "/v2/invoices/hodl") => may("invoices:write").and_then(|()| add(shared, call, true)),
        ("POST", "/v2/invoices/settle") => may("invoices:write").and_then(|()| settle(world, shared, call)),
        ("POST", "/v2/invoices/cancel") => may("invoices:write").and_then(|()| cancel(world, shared, call)),
        ("GET", "/v1/invoices") => may("invoices:read").map(|()| list(shared, query)),
        ("GET", "/v1/invoices/subscribe") => may("invoices:read").map(|()| subscribe(shared, query)),
        ("GET", path) => {
            if let Some(hash) = path.strip_prefix("/v2/router/track/") {
                may("offchain:read").and_then(|()| track(shared, hash))
            } else if let Some(hash) = path.strip_prefix("/v1/invoice/") {
                may("invoices:read").and_then(|()| lookup(shared, hash))
            } else {
                Err((NOT_FOUND, "Not Found".to_owned()))
            }
        }
        _ => Err((12, "Method Not Allowed".to_owned())),
    }
}

fn permitted(shared: &Shared, macaroon: Option<&str>, permission: &str) -> Result<(), Refusal> {
    let state = shared.lock();
    let permissions: &[&str] = match macaroon {
        None => return Err(unknown("expected 1 macaroon, got 0")),
        Some(payer) if *payer == state.payer_macaroon => &["offchain:read", "offchain:write", "info:read"],
        Some(biller) if *biller == state.invoice_macaroon => {
            &["invoices:read", "invoices:write", "offchain:read", "info:read"]
        }
        Some(admin) if *admin == state.admin_macaroon => return Ok(()),
        Some(_) => return Err(unknown("verification failed: signature mismatch after caveat verification")),
    };
    if permissions.contains(&permission) { Ok(()) } else { Err(unknown("permission denied")) }
}

fn info(shared: &Shared) -> Value {
    let state = shared.lock();
    let Guise { identity, network, version, out_of_step, .. } = state.guise.clone();
    json!({
        "version": version.unwrap_or("0.21.2-beta commit=v0.21.2-beta"),
        "identity_pubkey": identity.unwrap_or_else(|| state.books.key.public.clone()),
        "alias": "test",
        "num_active_channels": 1,
        "block_height": 200,
        "best_header_timestamp": "1700000000",
        "synced_to_chain": !out_of_step,
        "synced_to_graph": true,
        "testnet": false,
        "chains": [{ "chain": "bitcoin", "network": network.unwrap_or("regtest") }],
        "uris": [],
        "features": {},
        "require_htlc_interceptor": false,
    })
}

fn balance(shared: &Shared) -> Value {
    let state = shared.lock();
    let amount = |msat: u64| json!({ "sat": (msat / 1_000).to_string(), "msat": msat.to_string() });
    json!({
        "balance": (state.books.local_msat / 1_000).to_string(),
        "pending_open_balance": "0",
        "local_balance": amount(state.books.local_msat),
        "remote_balance": amount(state.books.remote_msat),
        "unsettled_local_balance": amount(0),
        "unsettled_remote_balance": amount(0),
        "pending_open_local_balance": amount(0),
        "pending_open_remote_balance": amount(0),
        "custom_channel_data": "",
    })
}

/// LND reads requests strictly: a field it does not know is an error.
fn read(call: &Call<'_>, fields: &[&str]) -> Result<Value, Refusal> {
    let value: Value = serde_json::from_slice(call.body).map_err(|error| (INVALID, format!("proto: {error}")))?;
    let object = value.as_object().ok_or((INVALID, "proto: syntax error".to_owned()))?;
    match object.keys().find(|key| !fields.contains(&key.as_str())) {
        Some(field) => Err((INVALID, format!("proto: (line 1:2): unknown field \"{field}\""))),
        None => Ok(value),
    }
}

/// An integer as a number or as a string: protobuf's JSON reads both.
fn integer(value: &Value, field: &str) -> Result<u64, Refusal> {
    match &value[field] {
        Value::Null => Ok(0),
        Value::Number(number) => number.as_u64().ok_or_else(|| unknown("payments of negative value are not allowed")),
        Value::String(text) => text.parse().map_err(|_| (INVALID, format!("proto: invalid value for {field}"))),
        _ => Err((INVALID, format!("proto: invalid value for {field}"))),
    }
}

fn bytes(value: &Value, field: &str) -> Result<Vec<u8>, Refusal> {
    let text = value[field].as_str().unwrap_or_default();
    STANDARD.decode(text).map_err(|_| (INVALID, format!("proto: invalid value for bytes field {field}")))
}

fn bytes32(value: &Value, field: &str) -> Result<Bytes32, Refusal> {
    let bytes = bytes(value, field)?;
    let length = bytes.len();
    bytes.try_into().map_err(|_| unknown(format!("invalid hash length of {length}, want 32")))
}

fn one(value: Value) -> Answer {
    Answer::Whole(value)
}

fn add(shared: &Shared, call: &Call<'_>, hold: bool) -> Result<Answer, Refusal> {
    let common = ["memo", "description_hash", "value_msat", "value", "expiry", "cltv_expiry", "private"];
    let own = if hold { "hash" } else { "r_preimage" };
    let ask = read(call, &[&common[..], &[own]].concat())?;
    let memo = ask["memo"].as_str().unwrap_or_default().to_owned();
    if memo.len() > 1_024 {
        return Err(unknown(format!("memo too large: {} bytes (maxsize=1024)", memo.len())));
    }
    let now_ms = shared.now_ms();
    let (preimage, hash) = if hold {
        (None, bytes32(&ask, "hash")?)
    } else {
        let preimage = if ask["r_preimage"].is_null() {
            *Hash32::sha256(format!("a preimage of {} at {now_ms}/{}", shared.index, next(shared)).as_bytes())
                .as_bytes()
        } else {
            bytes32(&ask, "r_preimage")?
        };
        (Some(preimage), *Hash32::sha256(&preimage).as_bytes())
    };
    let expiry_s = match integer(&ask, "expiry")? {
        0 => 86_400,
        expiry => i64::try_from(expiry).map_err(|_| unknown("expiry too long"))?,
    };
    // One of the two.
    let value_msat = match (integer(&ask, "value_msat")?, integer(&ask, "value")?) {
        (msat, 0) => msat,
        (0, sats) => sats.checked_mul(1_000).ok_or_else(|| unknown("invoice amount too large"))?,
        _ => return Err(unknown("value and value_msat are both set")),
    };
    let invoice = Invoice {
        memo,
        description_hash: bytes(&ask, "description_hash")?,
        preimage,
        hash,
        value_msat,
        created_s: now_ms / 1_000,
        expiry_s,
        bolt11: String::new(),
        add_index: 0,
        settle_index: 0,
        settle_s: 0,
        paid_msat: 0,
        state: InvoiceState::Open,
    };
    let added = shared.lock().books.add(invoice).map_err(unknown)?;
    shared.changed();
    let mut answer = json!({
        "payment_request": added.bolt11,
        "add_index": added.add_index.to_string(),
        "payment_addr": STANDARD.encode([3; 32]),
    });
    if !hold {
        answer["r_hash"] = STANDARD.encode(added.hash).into();
    }
    Ok(one(answer))
}

fn next(shared: &Shared) -> usize {
    shared.lock().books.events.len()
}

fn lookup(shared: &Shared, hash: &str) -> Result<Answer, Refusal> {
    let decoded: Option<Bytes32> = hex::decode(hash).ok().and_then(|it| it.try_into().ok());
    let hash = decoded
        .ok_or_else(|| unknown(format!("payment hash must be exactly 32 bytes, is instead {}", hash.len() / 2)))?;
    let now_ms = shared.now_ms();
    let mut state = shared.lock();
    let invoice = state.books.invoice(&hash, now_ms).ok_or((NOT_FOUND, "unable to locate invoice".to_owned()))?;
    Ok(one(invoice.json()))
}

fn parameter(query: &str, name: &str) -> u64 {
    let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found.and_then(|it| it.parse().ok()).unwrap_or(0)
}

fn list(shared: &Shared, query: &str) -> Answer {
    let (offset, reversed) = (parameter(query, "index_offset"), query.contains("reversed=true"));
    let most = match usize::try_from(parameter(query, "num_max_invoices")) {
        Ok(0) | Err(_) => 100,
        Ok(most) => most,
    };
    let state = shared.lock();
    let mut page: Vec<&Invoice> = if reversed {
        state.books.invoices().rev().filter(|it| offset == 0 || it.add_index < offset).take(most).collect()
    } else {
        state.books.invoices().filter(|it| it.add_index > offset).take(most).collect()
    };
    if reversed {
        page.reverse();
    }
    let index = |invoice: Option<&&Invoice>| invoice.map_or(0, |it| it.add_index).to_string();
    one(json!({
        "invoices": page.iter().map(|it| it.json()).collect::<Vec<_>>(),
        "last_index_offset": index(page.last()),
        "first_index_offset": index(page.first()),
    }))
}

/// What settled after an index (none after 0), then whatever happens.
fn subscribe(shared: &Arc<Shared>, query: &str) -> Answer {
    let after = parameter(query, "settle_index");
    let (tell, told) = mpsc::unbounded();
    let mut seen = {
        let state = shared.lock();
        let mut backlog: Vec<&Invoice> =
            state.books.invoices().filter(|it| after > 0 && it.settle_index > after).collect();
        backlog.sort_by_key(|it| it.settle_index);
        for invoice in backlog {
            let _ = tell.unbounded_send(Ok(invoice.json()));
        }
        state.books.events.len()
    };
    let (shared, mut changed) = (shared.clone(), shared.changed.subscribe());
    tokio::spawn(async move {
        while !tell.is_closed() {
            let news: Vec<Value> = shared.lock().books.events[seen..].to_vec();
            seen += news.len();
            for event in news {
                let _ = tell.unbounded_send(Ok(event));
            }
            // Looked at now and then without a change, so that an abandoned subscription ends.
            let _ = tokio::time::timeout(Duration::from_secs(1), changed.changed()).await;
        }
    });
    Answer::Stream(told)
}

fn track(shared: &Arc<Shared>, hash: &str) -> Result<Answer, Refusal> {
    let decoded =
        URL_SAFE.decode(hash).map_err(|error| (INVALID, format!("type mismatch, parameter: payment_hash: {error}")))?;
    let hash: Bytes32 = decoded.try_into().map_err(|_| unknown("invalid hash length"))?;
    follow(shared, hash, false)
}

/// Tells of a payment: all its states, or that of now and those to come. Ends with the last.
fn follow(shared: &Arc<Shared>, hash: Bytes32, from_the_first: bool) -> Result<Answer, Refusal> {
    let (begun, mut seen) = {
        let state = shared.lock();
        let payment = state.books.payment(&hash);
        let payment = payment.ok_or((NOT_FOUND, "payment isn't initiated".to_owned()))?;
        (payment.index, if from_the_first { 0 } else { payment.told.len() - 1 })
    };
    let (tell, told) = mpsc::unbounded();
    let (shared, mut changed) = (shared.clone(), shared.changed.subscribe());
    tokio::spawn(async move {
        while !tell.is_closed() {
            let (news, over) = {
                let state = shared.lock();
                let Some(payment) = state.books.payment(&hash).filter(|it| it.index == begun) else { return };
                (payment.told[seen..].to_vec(), matches!(payment.status, Status::Succeeded | Status::Failed))
            };
            seen += news.len();
            for event in news {
                let _ = tell.unbounded_send(Ok(event));
            }
            if over {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), changed.changed()).await;
        }
    });
    Ok(Answer::Stream(told))
}

fn send(world: &Arc<World>, shared: &Arc<Shared>, call: &Call<'_>) -> Result<Answer, Refusal> {
    let ask = read(
        call,
        &[
            "payment_request",
            "fee_limit_msat",
            "timeout_seconds",
            "max_parts",
            "amt_msat",
            "allow_self_payment",
            "cancelable",
            "no_inflight_updates",
            "first_hop_custom_records",
        ],
    )?;
    let records = match &ask["first_hop_custom_records"] {
        Value::Null => json!({}),
        records => records.clone(),
    };
    for (key, record) in records.as_object().into_iter().flatten() {
        let free = key.parse::<u64>().is_ok_and(|it| it >= 65_536);
        if !free || record.as_str().is_none_or(|it| STANDARD.decode(it).is_err()) {
            return Err(unknown("custom records entry below the custom range"));
        }
    }
    let bolt11 = ask["payment_request"].as_str().unwrap_or_default();
    let (amount, max_fee) = (integer(&ask, "amt_msat")?, integer(&ask, "fee_limit_msat")?);
    let hash = begin(shared, bolt11, amount, records)?;
    let told = follow(shared, hash, true)?;
    go(world, shared, hash, max_fee, call.course);
    Ok(told)
}

/// As much as LND checks before it records a payment, and the record.
fn begin(shared: &Shared, bolt11: &str, amount: u64, records: Value) -> Result<Bytes32, Refusal> {
    let invoice: Bolt11Invoice = bolt11.parse().map_err(|_| unknown("checksum failed"))?;
    let now_ms = shared.now_ms();
    let created_ms = i64::try_from(invoice.duration_since_epoch().as_millis()).unwrap_or(i64::MAX);
    let expires_ms = created_ms.saturating_add(i64::try_from(invoice.expiry_time().as_millis()).unwrap_or(i64::MAX));
    if now_ms >= expires_ms {
        return Err(unknown(format!("invoice expired. Valid until {expires_ms}")));
    }
    let value_msat = match (invoice.amount_milli_satoshis(), amount) {
        (Some(_), 1..) => return Err(unknown("amount must not be specified when paying a non-zero amount invoice")),
        (None, 0) => return Err(unknown("amount must be specified when paying a zero amount invoice")),
        (Some(msat), 0) | (None, msat) => msat,
    };
    let mut state = shared.lock();
    if invoice.get_payee_pub_key().to_string() == state.books.key.public {
        return Err(unknown("self-payments not allowed"));
    }
    let hash: Bytes32 = *bitcoin::hashes::Hash::as_byte_array(invoice.payment_hash());
    let payment = Payment {
        index: 0,
        bolt11: bolt11.to_owned(),
        value_msat,
        created_ms: now_ms,
        status: Status::Initiated,
        reason: "FAILURE_REASON_NONE",
        preimage: [0; 32],
        fee_msat: super::FEE_MSAT,
        records,
        told: Vec::new(),
    };
    state.books.begin(hash, payment).map_err(|message| (ALREADY_EXISTS, message.to_owned()))?;
    drop(state);
    shared.changed();
    Ok(hash)
}

/// Lets a payment that was recorded go its way.
fn go(world: &Arc<World>, shared: &Arc<Shared>, hash: Bytes32, max_fee: u64, course: Course) {
    let (world, shared) = (world.clone(), shared.clone());
    tokio::spawn(async move {
        let flies = shared.lock().books.fly(&hash, max_fee);
        if let Err(reason) = flies {
            shared.lock().books.failed(&hash, reason);
            shared.changed();
            return;
        }
        shared.changed();
        match course {
            Course::Plain => {}
            Course::Stuck => return,
            Course::SettlesAfter { ms } | Course::FailsAfter { ms } => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
        }
        if matches!(course, Course::FailsAfter { .. }) {
            shared.lock().books.failed(&hash, "FAILURE_REASON_NO_ROUTE");
            shared.changed();
        } else {
            deliver(&world, &shared, hash);
        }
    });
}

fn other(world: &World, index: usize) -> &Arc<Shared> {
    &world.nodes[1 - index]
}

/// The money reaches the payee, who takes it, holds it, or sends it back. Money that arrived is in both books for a
/// moment only while both are locked, in the order of the nodes.
fn deliver(world: &World, payer: &Shared, hash: Bytes32) {
    let payee = other(world, payer.index);
    both(world, payer.index, |from, to| {
        let Some(msat) = from.payment(&hash).map(|it| it.value_msat) else { return };
        match to.receive(&hash, msat, payee.now_ms()) {
            Ok(Some(preimage)) => from.arrived(&hash, preimage),
            Ok(None) => {}
            Err(()) => from.failed(&hash, "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS"),
        }
    });
    payer.changed();
    payee.changed();
}

fn both<T>(world: &World, payer: usize, work: impl FnOnce(&mut Books, &mut Books) -> T) -> T {
    let mut first = world.nodes[0].lock();
    let mut second = world.nodes[1].lock();
    if payer == 0 { work(&mut first.books, &mut second.books) } else { work(&mut second.books, &mut first.books) }
}

pub(super) fn land(world: &Arc<World>, payer: usize, hash: Bytes32, settle: bool) -> bool {
    let shared = &world.nodes[payer];
    let flying = shared.lock().books.payment(&hash).is_some_and(|it| it.status == Status::InFlight);
    if flying && settle {
        deliver(world, shared, hash);
    } else if flying {
        shared.lock().books.failed(&hash, "FAILURE_REASON_NO_ROUTE");
        shared.changed();
    }
    flying
}

pub(super) fn pay_by_hand(world: &Arc<World>, payer: usize, bolt11: &str, course: Course) {
    let shared = &world.nodes[payer];
    let hash = begin(shared, bolt11, 0, json!({})).expect("a payment that can begin");
    go(world, shared, hash, u64::MAX, course);
}

fn settle(world: &Arc<World>, shared: &Arc<Shared>, call: &Call<'_>) -> Result<Answer, Refusal> {
    let ask = read(call, &["preimage"])?;
    let preimage = bytes32(&ask, "preimage")?;
    let hash = *Hash32::sha256(&preimage).as_bytes();
    let (payee, now_ms) = (shared.index, shared.now_ms());
    both(world, 1 - payee, |from, to| {
        let invoice = to.invoice(&hash, now_ms).ok_or_else(|| unknown("unable to locate invoice"))?;
        match invoice.state {
            InvoiceState::Settled => return Ok(()),
            InvoiceState::Open => return Err(unknown("invoice still open")),
            InvoiceState::Canceled => return Err(unknown("invoice already canceled")),
            InvoiceState::Accepted => {}
        }
        to.settle(&hash, preimage, now_ms);
        from.arrived(&hash, preimage);
        Ok(())
    })?;
    shared.changed();
    other(world, payee).changed();
    Ok(one(json!({})))
}

fn cancel(world: &Arc<World>, shared: &Arc<Shared>, call: &Call<'_>) -> Result<Answer, Refusal> {
    let ask = read(call, &["payment_hash"])?;
    let hash = bytes32(&ask, "payment_hash")?;
    let (payee, now_ms) = (shared.index, shared.now_ms());
    both(world, 1 - payee, |from, to| {
        let invoice = to.invoice(&hash, now_ms).ok_or_else(|| unknown("unable to locate invoice"))?;
        match invoice.state {
            InvoiceState::Settled => return Err(unknown("invoice already settled")),
            InvoiceState::Canceled => return Ok(()),
            InvoiceState::Open => to.cancel(&hash),
            InvoiceState::Accepted => {
                to.cancel(&hash);
                from.failed(&hash, "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS");
            }
        }
        Ok(())
    })?;
    shared.changed();
    other(world, payee).changed();
    Ok(one(json!({})))
}
