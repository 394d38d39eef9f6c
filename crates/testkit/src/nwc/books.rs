//! What a wallet service keeps: connections, invoices, payments, money.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bitcoin::secp256k1::{Secp256k1, SecretKey};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use nexus_core::Hash32;
use nostr::event::EventId;
use nostr::key::Keys;
use serde_json::{Value, json};

use super::Guise;

/// What a payment costs, whatever its size.
pub const FEE_MSAT: u64 = 1_000;

/// One connection: a wallet of its own, with a key of its own.
pub(super) struct App {
    pub(super) wallet: Keys,
    pub(super) client: Keys,
    pub(super) balance_msat: u64,
    pub(super) guise: Guise,
    /// Requests that will be lost, whatever they ask.
    pub(super) deaf: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Invoice {
    pub(super) app: usize,
    pub(super) preimage: Hash32,
    pub(super) msat: u64,
    pub(super) memo: String,
    pub(super) description_hash: Option<Hash32>,
    pub(super) created_s: i64,
    pub(super) expires_s: i64,
    pub(super) bolt11: String,
    pub(super) settled_s: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    InFlight,
    Settled,
    Failed,
}

#[derive(Debug, Clone)]
pub(super) struct Payment {
    pub(super) msat: u64,
    pub(super) bolt11: String,
    pub(super) status: Status,
    /// Called failed, whatever it is.
    pub(super) called_failed: bool,
    pub(super) preimage: Option<Hash32>,
    pub(super) created_s: i64,
    pub(super) expires_s: i64,
    pub(super) settled_s: Option<i64>,
    /// When it ends by itself, by the monotonic clock, and how.
    pub(super) ends: Option<(u64, bool)>,
}

#[derive(Default)]
pub(super) struct Books {
    pub(super) apps: Vec<App>,
    pub(super) invoices: BTreeMap<Hash32, Invoice>,
    pub(super) payments: BTreeMap<(usize, Hash32), Payment>,
    /// How often money left for a hash.
    pub(super) begun: BTreeMap<Hash32, u32>,
    /// Requests that were heard, which is durable before anything is done.
    pub(super) seen: BTreeSet<EventId>,
    pub(super) fees_msat: u64,
    pub(super) flying_msat: u64,
    made: u64,
}

/// An error of NIP-47.
pub(super) type Refusal = (&'static str, String);

fn refuse<T>(code: &'static str, message: &str) -> Result<T, Refusal> {
    Err((code, message.to_owned()))
}

impl Books {
    pub(super) fn sum_msat(&self) -> u64 {
        self.apps.iter().map(|app| app.balance_msat).sum::<u64>() + self.fees_msat + self.flying_msat
    }

    pub(super) fn make(&mut self, app: usize, params: &Value, now_s: i64) -> Result<Value, Refusal> {
        let msat = params["amount"].as_u64().filter(|msat| *msat > 0);
        let Some(msat) = msat else { return refuse("OTHER", "an invoice needs an amount") };
        self.made += 1;
        let wallet = self.apps[app].wallet.public_key().to_hex();
        let preimage = Hash32::sha256(format!("preimage {} of {wallet} at {now_s}", self.made).as_bytes());
        let hash = Hash32::sha256(preimage.as_bytes());
        let expiry_s = params["expiry"].as_i64().filter(|secs| *secs > 0).unwrap_or(86_400);
        let mut invoice = Invoice {
            app,
            preimage,
            msat,
            memo: params["description"].as_str().unwrap_or_default().to_owned(),
            description_hash: params["description_hash"].as_str().and_then(|text| text.parse().ok()),
            created_s: now_s,
            expires_s: now_s + expiry_s,
            bolt11: String::new(),
            settled_s: None,
        };
        invoice.bolt11 = sign(&invoice, hash);
        self.invoices.insert(hash, invoice.clone());
        Ok(incoming(hash, &invoice, now_s))
    }

    pub(super) fn look(&self, app: usize, hash: Hash32, now_s: i64) -> Result<Value, Refusal> {
        if let Some(payment) = self.payments.get(&(app, hash)) {
            return Ok(outgoing(hash, payment, now_s));
        }
        match self.invoices.get(&hash).filter(|invoice| invoice.app == app) {
            Some(invoice) => Ok(incoming(hash, invoice, now_s)),
            None => refuse("NOT_FOUND", "no such transaction"),
        }
    }

    /// Sends money on its way, or says why not.
    pub(super) fn begin(&mut self, app: usize, hash: Hash32, payment: Payment, now_s: i64) -> Result<(), Refusal> {
        match self.payments.get(&(app, hash)).map(|known| known.status) {
            Some(Status::Settled) => return refuse("INTERNAL", "this invoice has already been paid"),
            Some(Status::InFlight) => return refuse("INTERNAL", "there is already a payment pending for this invoice"),
            Some(Status::Failed) | None => {}
        }
        if now_s >= payment.expires_s {
            return refuse("OTHER", "this invoice has expired");
        }
        let reserve = (payment.msat / 100).max(10_000);
        let balance = &mut self.apps[app].balance_msat;
        if *balance < payment.msat + reserve {
            return refuse("INSUFFICIENT_BALANCE", "your wallet balance is insufficient, fee reserve included");
        }
        *balance -= payment.msat + FEE_MSAT;
        self.flying_msat += payment.msat + FEE_MSAT;
        *self.begun.entry(hash).or_default() += 1;
        self.payments.insert((app, hash), payment);
        Ok(())
    }

    /// Ends what is in flight; the app that was paid, if it was one of ours.
    pub(super) fn end(&mut self, app: usize, hash: Hash32, settle: bool, now_s: i64) -> Option<usize> {
        let payment = self.payments.get_mut(&(app, hash)).filter(|it| it.status == Status::InFlight)?;
        let cost = payment.msat + FEE_MSAT;
        self.flying_msat -= cost;
        let open = self.invoices.get_mut(&hash).filter(|it| settle && it.settled_s.is_none());
        let Some(invoice) = open else {
            payment.status = Status::Failed;
            self.apps[app].balance_msat += cost;
            return None;
        };
        invoice.settled_s = Some(now_s);
        (payment.status, payment.preimage, payment.settled_s) = (Status::Settled, Some(invoice.preimage), Some(now_s));
        self.fees_msat += FEE_MSAT;
        self.apps[invoice.app].balance_msat += payment.msat;
        Some(invoice.app)
    }
}

pub(super) fn incoming(hash: Hash32, invoice: &Invoice, now_s: i64) -> Value {
    let state = match invoice.settled_s {
        Some(_) => "settled",
        None if now_s >= invoice.expires_s => "expired",
        None => "pending",
    };
    json!({
        "type": "incoming",
        "state": state,
        "invoice": invoice.bolt11,
        "description": invoice.memo,
        "preimage": if invoice.settled_s.is_some() { invoice.preimage.to_string() } else { String::new() },
        "payment_hash": hash,
        "amount": invoice.msat,
        "fees_paid": 0,
        "created_at": invoice.created_s,
        "expires_at": invoice.expires_s,
        "settled_at": invoice.settled_s,
        "metadata": {},
    })
}

/// As Alby Hub tells it: what is not settled is `expired` once its invoice is, in flight or not.
fn outgoing(hash: Hash32, payment: &Payment, now_s: i64) -> Value {
    let state = match payment.status {
        Status::Settled => "settled",
        Status::InFlight | Status::Failed if now_s >= payment.expires_s => "expired",
        Status::InFlight if payment.called_failed => "failed",
        Status::InFlight => "pending",
        Status::Failed => "failed",
    };
    let fee = if payment.status == Status::Settled { FEE_MSAT } else { 0 };
    json!({
        "type": "outgoing",
        "state": state,
        "invoice": payment.bolt11,
        "preimage": payment.preimage,
        "payment_hash": hash,
        "amount": payment.msat,
        "fees_paid": fee,
        "created_at": payment.created_s,
        "expires_at": payment.expires_s,
        "settled_at": payment.settled_s,
    })
}

fn sign(invoice: &Invoice, hash: Hash32) -> String {
    let key = Hash32::sha256(b"the node behind the wallet service");
    let key = SecretKey::from_slice(key.as_bytes()).expect("a hash is a key");
    let of = |hash: Hash32| bitcoin::hashes::Hash::from_slice(hash.as_bytes()).expect("32 bytes");
    let created = Duration::from_secs(invoice.created_s.unsigned_abs());
    let expiry = Duration::from_secs((invoice.expires_s - invoice.created_s).unsigned_abs());
    let sign = |digest: &bitcoin::secp256k1::Message| Secp256k1::new().sign_ecdsa_recoverable(digest, &key);
    let builder = InvoiceBuilder::new(Currency::Regtest);
    macro_rules! built {
        ($described:expr) => {
            $described
                .payment_hash(of(hash))
                .payment_secret(PaymentSecret(*Hash32::sha256(hash.as_bytes()).as_bytes()))
                .duration_since_epoch(created)
                .min_final_cltv_expiry_delta(80)
                .expiry_time(expiry)
                .basic_mpp()
                .amount_milli_satoshis(invoice.msat)
                .build_signed(sign)
                .expect("an invoice")
                .to_string()
        };
    }
    match invoice.description_hash {
        None => built!(builder.description(invoice.memo.clone())),
        Some(described) => built!(builder.description_hash(of(described))),
    }
}
