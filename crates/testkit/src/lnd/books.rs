//! What a node keeps: invoices, payments, money.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitcoin::secp256k1::{PublicKey, Secp256k1, SecretKey};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use nexus_core::Hash32;
use serde_json::{Value, json};

use super::FEE_MSAT;

pub(super) type Bytes32 = [u8; 32];

pub(super) struct Key {
    secret: SecretKey,
    pub(super) public: String,
}

impl Key {
    pub(super) fn of(index: usize) -> Self {
        let bytes = Hash32::sha256(format!("the key of node {index}").as_bytes());
        let secret = SecretKey::from_slice(bytes.as_bytes()).expect("a hash is a key");
        let public = PublicKey::from_secret_key(&Secp256k1::new(), &secret).to_string();
        Self { secret, public }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InvoiceState {
    Open,
    Accepted,
    Settled,
    Canceled,
}

#[derive(Debug, Clone)]
pub(super) struct Invoice {
    pub(super) memo: String,
    pub(super) description_hash: Vec<u8>,
    pub(super) preimage: Option<Bytes32>,
    pub(super) hash: Bytes32,
    pub(super) value_msat: u64,
    pub(super) created_s: i64,
    pub(super) expiry_s: i64,
    pub(super) bolt11: String,
    pub(super) add_index: u64,
    pub(super) settle_index: u64,
    pub(super) settle_s: i64,
    pub(super) paid_msat: u64,
    pub(super) state: InvoiceState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Initiated,
    InFlight,
    Succeeded,
    Failed,
}

#[derive(Debug, Clone)]
pub(super) struct Payment {
    pub(super) index: u64,
    pub(super) bolt11: String,
    pub(super) value_msat: u64,
    pub(super) created_ms: i64,
    pub(super) status: Status,
    pub(super) reason: &'static str,
    pub(super) preimage: Bytes32,
    pub(super) fee_msat: u64,
    pub(super) records: Value,
    /// Every state it had, as it was told.
    pub(super) told: Vec<Value>,
}

pub(super) struct Books {
    pub(super) key: Key,
    pub(super) local_msat: u64,
    pub(super) remote_msat: u64,
    fees_msat: u64,
    /// Spent and not yet with the payee, and the other way round what came: in flight.
    flying_msat: u64,
    invoices: BTreeMap<Bytes32, Invoice>,
    payments: BTreeMap<Bytes32, Payment>,
    begun: BTreeMap<Bytes32, u32>,
    payment_index: u64,
    add_index: u64,
    settle_index: u64,
    /// Events of invoices, in order, as subscribers are told.
    pub(super) events: Vec<Value>,
}

fn status_text(status: Status) -> &'static str {
    match status {
        // LND says IN_FLIGHT here too, unless it runs with routerrpc.usestatusinitiated.
        Status::Initiated => "INITIATED",
        Status::InFlight => "IN_FLIGHT",
        Status::Succeeded => "SUCCEEDED",
        Status::Failed => "FAILED",
    }
}

impl Payment {
    pub(super) fn json(&self, hash: &Bytes32) -> Value {
        let fee = if self.status == Status::Succeeded { self.fee_msat } else { 0 };
        let preimage = if self.status == Status::Succeeded { self.preimage } else { [0; 32] };
        json!({
            "payment_hash": hex::encode(hash),
            "value": (self.value_msat / 1_000).to_string(),
            "creation_date": (self.created_ms / 1_000).to_string(),
            "fee": (fee / 1_000).to_string(),
            "payment_preimage": hex::encode(preimage),
            "value_sat": (self.value_msat / 1_000).to_string(),
            "value_msat": self.value_msat.to_string(),
            "payment_request": self.bolt11,
            "status": status_text(self.status),
            "fee_sat": (fee / 1_000).to_string(),
            "fee_msat": fee.to_string(),
            "creation_time_ns": (self.created_ms * 1_000_000).to_string(),
            "htlcs": [],
            "payment_index": self.index.to_string(),
            "failure_reason": self.reason,
            "first_hop_custom_records": self.records,
        })
    }
}

impl Invoice {
    pub(super) fn json(&self) -> Value {
        let state = match self.state {
            InvoiceState::Open => "OPEN",
            InvoiceState::Accepted => "ACCEPTED",
            InvoiceState::Settled => "SETTLED",
            InvoiceState::Canceled => "CANCELED",
        };
        json!({
            "memo": self.memo,
            "r_preimage": self.preimage.map(|it| STANDARD.encode(it)).unwrap_or_default(),
            "r_hash": STANDARD.encode(self.hash),
            "value": (self.value_msat / 1_000).to_string(),
            "value_msat": self.value_msat.to_string(),
            "settled": self.state == InvoiceState::Settled,
            "creation_date": self.created_s.to_string(),
            "settle_date": self.settle_s.to_string(),
            "payment_request": self.bolt11,
            "description_hash": STANDARD.encode(&self.description_hash),
            "expiry": self.expiry_s.to_string(),
            "fallback_addr": "",
            "cltv_expiry": "80",
            "route_hints": [],
            "private": false,
            "add_index": self.add_index.to_string(),
            "settle_index": self.settle_index.to_string(),
            "amt_paid": self.paid_msat.to_string(),
            "amt_paid_sat": (self.paid_msat / 1_000).to_string(),
            "amt_paid_msat": self.paid_msat.to_string(),
            "state": state,
            "htlcs": [],
            "features": { "9": { "name": "tlv-onion", "is_required": false, "is_known": true } },
            "is_keysend": false,
            "payment_addr": STANDARD.encode([3; 32]),
            "is_amp": false,
            "amp_invoice_state": {},
            "is_blinded": false,
            "blinded_path_config": null,
        })
    }
}

impl Books {
    pub(super) fn new(key: Key, funds_msat: u64) -> Self {
        Self {
            key,
            local_msat: funds_msat,
            remote_msat: funds_msat,
            fees_msat: 0,
            flying_msat: 0,
            invoices: BTreeMap::new(),
            payments: BTreeMap::new(),
            begun: BTreeMap::new(),
            payment_index: 0,
            add_index: 0,
            settle_index: 0,
            events: Vec::new(),
        }
    }

    pub(super) fn sum_msat(&self) -> u64 {
        self.local_msat + self.fees_msat + self.flying_msat
    }

    pub(super) fn begun(&self, hash: &Bytes32) -> u32 {
        self.begun.get(hash).copied().unwrap_or(0)
    }

    pub(super) fn payment(&self, hash: &Bytes32) -> Option<&Payment> {
        self.payments.get(hash)
    }

    /// Signs and stores an invoice. `preimage` is kept unless this is a hold invoice.
    pub(super) fn add(&mut self, mut invoice: Invoice) -> Result<Invoice, &'static str> {
        if self.invoices.contains_key(&invoice.hash) {
            return Err("invoice with payment hash already exists");
        }
        self.add_index += 1;
        invoice.add_index = self.add_index;
        invoice.bolt11 = self.sign(&invoice);
        self.events.push(invoice.json());
        self.invoices.insert(invoice.hash, invoice.clone());
        Ok(invoice)
    }

    fn sign(&self, invoice: &Invoice) -> String {
        let builder = InvoiceBuilder::new(Currency::Regtest);
        let hash = |bytes: &[u8]| bitcoin::hashes::Hash::from_slice(bytes).expect("32 bytes");
        let created = Duration::from_secs(invoice.created_s.unsigned_abs());
        let expiry = Duration::from_secs(invoice.expiry_s.unsigned_abs());
        let sign =
            |digest: &bitcoin::secp256k1::Message| Secp256k1::new().sign_ecdsa_recoverable(digest, &self.key.secret);
        let secret = PaymentSecret(*Hash32::sha256(&invoice.hash).as_bytes());
        macro_rules! built {
            ($described:expr) => {{
                let builder = $described
                    .payment_hash(hash(&invoice.hash))
                    .payment_secret(secret)
                    .duration_since_epoch(created)
                    .min_final_cltv_expiry_delta(80)
                    .expiry_time(expiry)
                    .basic_mpp();
                let builder =
                    if invoice.value_msat > 0 { builder.amount_milli_satoshis(invoice.value_msat) } else { builder };
                builder.build_signed(sign).expect("an invoice").to_string()
            }};
        }
        if invoice.description_hash.is_empty() {
            built!(builder.description(invoice.memo.clone()))
        } else {
            built!(builder.description_hash(hash(&invoice.description_hash)))
        }
    }

    /// An invoice as it is now: what expired is cancelled.
    pub(super) fn invoice(&mut self, hash: &Bytes32, now_ms: i64) -> Option<&mut Invoice> {
        let invoice = self.invoices.get_mut(hash)?;
        if invoice.state == InvoiceState::Open && now_ms >= (invoice.created_s + invoice.expiry_s) * 1_000 {
            invoice.state = InvoiceState::Canceled;
        }
        Some(invoice)
    }

    pub(super) fn invoices(&self) -> impl DoubleEndedIterator<Item = &Invoice> {
        let mut all: Vec<&Invoice> = self.invoices.values().collect();
        all.sort_by_key(|invoice| invoice.add_index);
        all.into_iter()
    }

    pub(super) fn tell(&mut self, hash: &Bytes32) {
        if let Some(invoice) = self.invoices.get(hash) {
            self.events.push(invoice.json());
        }
    }

    /// Money arrives. For an ordinary invoice the preimage goes back; a hold invoice waits. Err: it is not taken.
    pub(super) fn receive(&mut self, hash: &Bytes32, msat: u64, now_ms: i64) -> Result<Option<Bytes32>, ()> {
        let open = self.invoice(hash, now_ms).filter(|it| it.state == InvoiceState::Open);
        let invoice = open.filter(|it| msat >= it.value_msat).ok_or(())?;
        invoice.paid_msat = msat;
        match invoice.preimage {
            Some(preimage) => {
                self.settle(hash, preimage, now_ms);
                Ok(Some(preimage))
            }
            None => {
                invoice.state = InvoiceState::Accepted;
                self.tell(hash);
                Ok(None)
            }
        }
    }

    pub(super) fn settle(&mut self, hash: &Bytes32, preimage: Bytes32, now_ms: i64) {
        let Some(invoice) = self.invoices.get_mut(hash) else { return };
        self.settle_index += 1;
        (invoice.settle_index, invoice.settle_s) = (self.settle_index, now_ms / 1_000);
        (invoice.state, invoice.preimage) = (InvoiceState::Settled, Some(preimage));
        self.local_msat += invoice.paid_msat;
        self.tell(hash);
    }

    pub(super) fn cancel(&mut self, hash: &Bytes32) {
        if let Some(invoice) = self.invoices.get_mut(hash) {
            (invoice.state, invoice.paid_msat) = (InvoiceState::Canceled, 0);
            self.tell(hash);
        }
    }

    /// Begins a payment, as LND does: one for a hash, and another only after a failed one.
    pub(super) fn begin(&mut self, hash: Bytes32, mut payment: Payment) -> Result<(), &'static str> {
        match self.payments.get(&hash).map(|known| known.status) {
            Some(Status::Initiated) => return Err("payment already exists"),
            Some(Status::InFlight) => return Err("payment is in transition"),
            Some(Status::Succeeded) => return Err("invoice is already paid"),
            Some(Status::Failed) | None => {}
        }
        self.payment_index += 1;
        payment.index = self.payment_index;
        payment.told = vec![payment.json(&hash)];
        self.payments.insert(hash, payment);
        *self.begun.entry(hash).or_default() += 1;
        Ok(())
    }

    fn now_is(&mut self, hash: &Bytes32, change: impl FnOnce(&mut Payment)) {
        if let Some(payment) = self.payments.get_mut(hash) {
            change(payment);
            let json = payment.json(hash);
            payment.told.push(json);
        }
    }

    /// Sends the money on its way, or says why it cannot go.
    pub(super) fn fly(&mut self, hash: &Bytes32, max_fee_msat: u64) -> Result<(), &'static str> {
        let Some(payment) = self.payments.get(hash) else { return Err("FAILURE_REASON_ERROR") };
        if self.local_msat < payment.value_msat {
            return Err("FAILURE_REASON_INSUFFICIENT_BALANCE");
        }
        if max_fee_msat < FEE_MSAT {
            return Err("FAILURE_REASON_NO_ROUTE");
        }
        let cost = payment.value_msat + FEE_MSAT;
        if self.local_msat < cost {
            return Err("FAILURE_REASON_INSUFFICIENT_BALANCE");
        }
        self.local_msat -= cost;
        self.flying_msat += cost;
        self.now_is(hash, |payment| payment.status = Status::InFlight);
        Ok(())
    }

    pub(super) fn arrived(&mut self, hash: &Bytes32, preimage: Bytes32) {
        let Some(payment) = self.payments.get(hash).filter(|it| it.status == Status::InFlight) else { return };
        self.flying_msat -= payment.value_msat + FEE_MSAT;
        self.fees_msat += FEE_MSAT;
        self.now_is(hash, |payment| (payment.status, payment.preimage) = (Status::Succeeded, preimage));
    }

    pub(super) fn failed(&mut self, hash: &Bytes32, reason: &'static str) {
        if let Some(payment) = self.payments.get(hash).filter(|it| it.status == Status::InFlight) {
            let cost = payment.value_msat + FEE_MSAT;
            self.flying_msat -= cost;
            self.local_msat += cost;
        }
        self.now_is(hash, |payment| (payment.status, payment.reason) = (Status::Failed, reason));
    }
}
