//! The Lightning network as it really is: who has what, and which invoices were paid by whom.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::hashes::Hash;
use bitcoin::secp256k1::{Message, Secp256k1, SecretKey};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use nexus_core::payment::FailureClass;
use nexus_core::{Hash32, Msat, Npub, UnixMs};
use tokio::sync::Notify;

use crate::node::Node;

/// The key of the node that signs every invoice.
const SIGNS: [u8; 32] = [7; 32];

/// An invoice, and whether it was paid.
#[derive(Debug, Clone)]
pub struct Bill {
    /// The job request that it is for.
    pub request: Hash32,
    pub preimage: Hash32,
    pub amount: Msat,
    pub expires_at: UnixMs,
    pub paid_by: Option<Npub>,
    /// Told when it is paid.
    pub paid: Arc<Notify>,
}

/// An invoice of an agent's wallet, to be paid by whoever funds it.
#[derive(Debug, Clone)]
pub struct Incoming {
    pub payee: Npub,
    pub preimage: Hash32,
    pub amount: Msat,
    pub expires_at: UnixMs,
    pub paid_at: Option<UnixMs>,
}

/// Where one send stands at the payer's backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    InFlight,
    Settled { fee: Msat },
    Failed(FailureClass),
}

/// One send as the payer's backend knows it.
#[derive(Debug, Clone)]
pub struct Sent {
    pub payer: Npub,
    pub hash: Hash32,
    pub payment_id: String,
    pub attempt: u32,
    pub standing: Standing,
}

#[derive(Debug, Default)]
pub struct Books {
    pub balances: BTreeMap<Npub, u64>,
    pub bills: BTreeMap<Hash32, Bill>,
    pub incoming: BTreeMap<Hash32, Incoming>,
    /// Sends whose bytes are on their way, by payer and hash.
    pub underway: BTreeMap<(Npub, Hash32), u32>,
    /// By payer and what the backend recognises a repeat by.
    pub sends: BTreeMap<(Npub, String), Sent>,
    /// In the order of their settlement: payer, hash, amount, fee.
    pub settled: Vec<(Npub, Hash32, Msat, Msat)>,
}

#[derive(Debug, Default)]
pub struct Ledger(Mutex<Books>);

impl Ledger {
    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fund(&self, who: Npub, amount: Msat) {
        *self.books().balances.entry(who).or_default() += amount.as_u64();
    }

    pub fn balance(&self, who: &Npub) -> Msat {
        let msat = self.books().balances.get(who).copied().unwrap_or(0);
        Msat::try_from(msat).unwrap_or(Msat::ZERO)
    }

    /// Makes an invoice for a job. Returns it with what is told when it is paid.
    pub fn invoice(
        &self,
        request: Hash32,
        preimage: Hash32,
        amount: Msat,
        now: UnixMs,
        secs: u64,
    ) -> Option<(String, Hash32, Arc<Notify>)> {
        let hash = Hash32::sha256(preimage.as_bytes());
        let bolt11 = write(hash, amount, now, secs)?;
        let paid = Arc::new(Notify::new());
        let expires_at = UnixMs::from_secs(now.secs()).plus_ms(i64::try_from(secs).unwrap_or(0) * 1_000);
        let bill = Bill { request, preimage, amount, expires_at, paid_by: None, paid: paid.clone() };
        self.books().bills.insert(hash, bill);
        Some((bolt11, hash, paid))
    }
}

impl Ledger {
    /// Makes an invoice of an agent's own wallet.
    pub fn incoming(
        &self,
        payee: Npub,
        preimage: Hash32,
        amount: Msat,
        now: UnixMs,
        secs: u64,
    ) -> Option<(String, Hash32, UnixMs)> {
        let hash = Hash32::sha256(preimage.as_bytes());
        let bolt11 = write(hash, amount, now, secs)?;
        let expires_at = UnixMs::from_secs(now.secs()).plus_ms(i64::try_from(secs).unwrap_or(0) * 1_000);
        self.books().incoming.insert(hash, Incoming { payee, preimage, amount, expires_at, paid_at: None });
        Some((bolt11, hash, expires_at))
    }

    /// Somebody pays an agent's invoice, once.
    pub fn pay_in(&self, hash: Hash32, now: UnixMs) -> bool {
        let mut books = self.books();
        let Some(incoming) = books.incoming.get_mut(&hash) else { return false };
        if incoming.paid_at.is_some() || now >= incoming.expires_at {
            return false;
        }
        incoming.paid_at = Some(now);
        let (payee, amount) = (incoming.payee, incoming.amount);
        *books.balances.entry(payee).or_default() += amount.as_u64();
        true
    }
}

impl Books {
    /// Pays an invoice of the operator's node, if payer and node allow it.
    pub fn settle_rent(&mut self, node: &Node, payer: Npub, hash: Hash32, fee: Msat, now: UnixMs) -> Standing {
        let Some(amount) = node.papers(now).invoices.get(&hash).map(|paper| paper.amount) else {
            return Standing::Failed(FailureClass::NoRoute);
        };
        if !self.has(payer, amount, fee) {
            return Standing::Failed(FailureClass::NoFunds);
        }
        if !node.pay(hash, amount, now, 0) {
            return Standing::Failed(FailureClass::Rejected);
        }
        self.takes(payer, amount, fee);
        self.settled.push((payer, hash, amount, fee));
        Standing::Settled { fee }
    }

    fn has(&self, payer: Npub, amount: Msat, fee: Msat) -> bool {
        self.balances.get(&payer).is_some_and(|balance| *balance >= amount.saturating_add(fee).as_u64())
    }

    /// Takes what a payment costs, if it is there.
    fn takes(&mut self, payer: Npub, amount: Msat, fee: Msat) -> bool {
        let balance = self.balances.entry(payer).or_default();
        let rest = balance.checked_sub(amount.saturating_add(fee).as_u64());
        if let Some(rest) = rest {
            *balance = rest;
        }
        rest.is_some()
    }

    /// Pays, if payer and invoice allow it. Money moves here and nowhere else.
    pub fn settle(&mut self, payer: Npub, hash: Hash32, fee: Msat) -> Standing {
        let Some(bill) = self.bills.get(&hash) else { return Standing::Failed(FailureClass::NoRoute) };
        if bill.paid_by.is_some() {
            return Standing::Failed(FailureClass::Rejected);
        }
        let amount = bill.amount;
        if !self.takes(payer, amount, fee) {
            return Standing::Failed(FailureClass::NoFunds);
        }
        if let Some(bill) = self.bills.get_mut(&hash) {
            bill.paid_by = Some(payer);
            bill.paid.notify_one();
        }
        self.settled.push((payer, hash, amount, fee));
        Standing::Settled { fee }
    }
}

/// Who signs the invoices of this world, in hex.
pub fn identity() -> String {
    let key = SecretKey::from_slice(&SIGNS);
    key.map(|key| key.public_key(&Secp256k1::new()).to_string()).unwrap_or_default()
}

/// A BOLT 11 invoice of the simulated node.
pub(crate) fn write(hash: Hash32, amount: Msat, now: UnixMs, secs: u64) -> Option<String> {
    let key = SecretKey::from_slice(&SIGNS).ok()?;
    let secp = Secp256k1::new();
    let builder = InvoiceBuilder::new(Currency::Regtest)
        .description("a job".into())
        .payment_hash(bitcoin::hashes::sha256::Hash::from_byte_array(*hash.as_bytes()))
        .payment_secret(PaymentSecret([9; 32]))
        .duration_since_epoch(Duration::from_secs(u64::try_from(now.secs()).ok()?))
        .min_final_cltv_expiry_delta(18)
        .expiry_time(Duration::from_secs(secs))
        .amount_milli_satoshis(amount.as_u64());
    let signed = builder.build_signed(|digest: &Message| secp.sign_ecdsa_recoverable(digest, &key));
    signed.ok().map(|invoice| invoice.to_string())
}
