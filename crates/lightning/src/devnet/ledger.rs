//! The network's books: pure double entry. Every change is an [`Entry`]; the state is nothing but its entries applied.

use std::collections::BTreeMap;
use std::ops::Bound;

use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Hash32, Msat, UnixMs};
use serde::{Deserialize, Serialize};

use super::Party;
use crate::driver::{Cursor, Settlement};

/// Accounts of one network.
pub(super) const MAX_ACCOUNTS: usize = 1_000_000;
/// Unpaid, unexpired invoices of one account.
pub(super) const MAX_OPEN_INVOICES: u32 = 10_000;
/// Unpaid invoices and failed payments are forgotten this long after the invoice's expiry; settled ones never.
pub(super) const KEEP_MS: i64 = 24 * 3_600_000;

/// When a payment in flight ends. Anything but [`Flight::Landed`] is somebody's wish for a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Flight {
    /// At once.
    Landed,
    Settles {
        at: UnixMs,
    },
    Fails {
        at: UnixMs,
    },
    /// Not before somebody says so.
    Stuck,
    /// Arrived, and waits for the payee, who may take it or give it back; back it goes at `until`.
    Held {
        until: UnixMs,
    },
}

/// One change of the books. The names are the log's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "entry")]
pub(super) enum Entry {
    /// `amount` from the faucet to an account.
    Faucet {
        party: Party,
        amount: Msat,
        at: UnixMs,
    },
    Invoice {
        hash: Hash32,
        row: InvoiceRow,
    },
    /// The payee of a hold invoice shows its preimage: what is held may settle.
    Reveal {
        hash: Hash32,
        preimage: Hash32,
    },
    /// An invoice with nothing in flight is over.
    Cancel {
        hash: Hash32,
        at: UnixMs,
    },
    /// `amount + fee` from the payer into flight.
    Begin {
        key: PaymentKey,
        attempt: u32,
        amount: Msat,
        fee: Msat,
        flight: Flight,
        at: UnixMs,
        expires_at: UnixMs,
    },
    /// Out of flight: `amount` to the payee, `fee` to the node.
    Settle {
        key: PaymentKey,
        at: UnixMs,
    },
    /// Out of flight: all of it back to the payer.
    Return {
        key: PaymentKey,
        class: FailureClass,
        at: UnixMs,
    },
    /// A verdict on a payment that never began.
    Refuse {
        key: PaymentKey,
        attempt: u32,
        class: FailureClass,
        at: UnixMs,
        expires_at: UnixMs,
    },
}

/// A row of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "row")]
pub(super) enum Row {
    Totals { issued: u64, in_flight: u64, fees: u64, settled: u64 },
    Account { party: Party, account: Account },
    Invoice { hash: Hash32, invoice: InvoiceRow },
    Payment { key: PaymentKey, payment: PaymentRow },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) balance: u64,
    pub(super) faucet: bool,
    #[serde(skip)]
    pub(super) open_invoices: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InvoiceRow {
    pub(super) payee: Party,
    pub(super) preimage: Hash32,
    pub(super) amount: Msat,
    pub(super) bolt11: String,
    pub(super) created_at: UnixMs,
    pub(super) expires_at: UnixMs,
    pub(super) state: InvoiceRowState,
    /// A hold invoice: its preimage is not known here until the payee shows it, and its money is held for so many ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hold_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum InvoiceRowState {
    Open,
    /// Some payment of it is in flight: no other may begin.
    InFlight,
    /// Its payee ended it unpaid.
    Canceled,
    Settled {
        at: UnixMs,
        index: u64,
    },
}

/// One payable step of one payer. A second payment of the same hash is another row, and is refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct PaymentKey {
    pub(super) hash: Hash32,
    pub(super) payer: Party,
    pub(super) payment_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PaymentRow {
    pub(super) attempt: u32,
    pub(super) amount: Msat,
    pub(super) fee: Msat,
    pub(super) state: PaymentRowState,
    pub(super) expires_at: UnixMs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PaymentRowState {
    InFlight(Flight),
    Settled,
    Failed(FailureClass),
}

/// An entry that does not follow from the books: a bug, or a log that was tampered with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the books do not allow this entry: {0}")]
pub(super) struct Impossible(pub(super) &'static str);

/// The books. `issued = balances + in_flight + fees`, always.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    issued: u64,
    in_flight: u64,
    fees: u64,
    settled: u64,
    accounts: BTreeMap<Party, Account>,
    invoices: BTreeMap<Hash32, InvoiceRow>,
    payments: BTreeMap<PaymentKey, PaymentRow>,
    settlements: BTreeMap<(Party, u64), Hash32>,
    flying: BTreeMap<PaymentKey, Flight>,
}

impl Ledger {
    pub(super) fn account(&self, party: Party) -> Account {
        self.accounts.get(&party).copied().unwrap_or_default()
    }

    pub(super) fn accounts(&self) -> usize {
        self.accounts.len()
    }

    pub(super) fn invoice(&self, hash: Hash32) -> Option<&InvoiceRow> {
        self.invoices.get(&hash)
    }

    pub(super) fn payment(&self, key: &PaymentKey) -> Option<&PaymentRow> {
        self.payments.get(key)
    }

    /// The index of the newest settlement of all.
    pub(super) fn settled(&self) -> u64 {
        self.settled
    }

    /// All accounts, flight and fees less what the faucet gave: zero.
    pub(super) fn sum(&self) -> i128 {
        let balances: i128 = self.accounts.values().map(|account| i128::from(account.balance)).sum();
        balances + i128::from(self.in_flight) + i128::from(self.fees) - i128::from(self.issued)
    }

    /// What a payment row says, in the words of the driver trait.
    pub(super) fn outcome(&self, key: &PaymentKey) -> Outcome {
        let Some(row) = self.payments.get(key) else { return Outcome::NotFound };
        match row.state {
            PaymentRowState::InFlight(_) => Outcome::Pending,
            PaymentRowState::Failed(class) => Outcome::Failed { class },
            PaymentRowState::Settled => {
                Outcome::Settled { preimage: self.invoices.get(&key.hash).map(|row| row.preimage), fee: row.fee }
            }
        }
    }

    /// Up to `limit` settlements of `party` after `after`, in order.
    pub(super) fn settlements(&self, party: Party, after: Cursor, limit: usize) -> Vec<Settlement> {
        self.settlements
            .range((Bound::Excluded((party, after.0)), Bound::Included((party, u64::MAX))))
            .filter_map(|((_, index), hash)| {
                let row = self.invoices.get(hash)?;
                let InvoiceRowState::Settled { at, .. } = row.state else { return None };
                Some(Settlement { cursor: Cursor(*index), hash: *hash, amount: row.amount, at })
            })
            .take(limit)
            .collect()
    }

    /// What payments in flight came to by now.
    pub(super) fn due(&self, now: UnixMs) -> Vec<Entry> {
        let back = |key: &PaymentKey, class| Entry::Return { key: key.clone(), class, at: now };
        let landed = |(key, flight): (&PaymentKey, &Flight)| match *flight {
            Flight::Settles { at } if at <= now => vec![Entry::Settle { key: key.clone(), at: now }],
            Flight::Fails { at } if at <= now => vec![back(key, FailureClass::NoRoute)],
            // As a node does shortly before the time lock ends: money back, invoice over.
            Flight::Held { until } if until <= now => {
                vec![back(key, FailureClass::Rejected), Entry::Cancel { hash: key.hash, at: now }]
            }
            Flight::Landed | Flight::Settles { .. } | Flight::Fails { .. } | Flight::Stuck | Flight::Held { .. } => {
                Vec::new()
            }
        };
        self.flying.iter().flat_map(landed).collect()
    }

    /// The payment of this hash that is in flight.
    pub(super) fn flying_for(&self, hash: Hash32) -> Option<PaymentKey> {
        self.flying.keys().find(|key| key.hash == hash).cloned()
    }

    /// The payment of this hash that arrived and waits for its payee.
    pub(super) fn held_for(&self, hash: Hash32) -> Option<PaymentKey> {
        let key = self.flying_for(hash)?;
        matches!(self.flying.get(&key), Some(Flight::Held { .. })).then_some(key)
    }

    /// When the next payment in flight ends by itself.
    pub(super) fn next_due(&self) -> Option<UnixMs> {
        let at = |flight: &Flight| match *flight {
            Flight::Settles { at } | Flight::Fails { at } | Flight::Held { until: at } => Some(at),
            Flight::Landed | Flight::Stuck => None,
        };
        self.flying.values().filter_map(at).min()
    }

    /// Applies one entry, whole or not at all.
    pub(super) fn apply(&mut self, entry: &Entry) -> Result<(), Impossible> {
        match entry {
            Entry::Faucet { party, amount, .. } => self.apply_faucet(*party, *amount),
            Entry::Invoice { hash, row } => self.apply_invoice(*hash, row),
            Entry::Reveal { hash, preimage } => self.apply_reveal(*hash, *preimage),
            Entry::Cancel { hash, .. } => self.apply_cancel(*hash),
            Entry::Begin { key, attempt, amount, fee, flight, expires_at, .. } => {
                let state = PaymentRowState::InFlight(*flight);
                self.apply_begin(
                    key,
                    PaymentRow { attempt: *attempt, amount: *amount, fee: *fee, state, expires_at: *expires_at },
                )
            }
            Entry::Settle { key, at } => self.apply_settle(key, *at),
            Entry::Return { key, class, .. } => self.apply_return(key, *class),
            Entry::Refuse { key, attempt, class, expires_at, .. } => {
                self.may_begin(key, *attempt)?;
                let state = PaymentRowState::Failed(*class);
                let row = PaymentRow {
                    attempt: *attempt,
                    amount: Msat::ZERO,
                    fee: Msat::ZERO,
                    state,
                    expires_at: *expires_at,
                };
                self.payments.insert(key.clone(), row);
                Ok(())
            }
        }
    }

    fn apply_faucet(&mut self, party: Party, amount: Msat) -> Result<(), Impossible> {
        let mut account = self.account(party);
        if account.faucet {
            return Err(Impossible("the faucet gives once"));
        }
        let issued = self.issued.checked_add(amount.as_u64()).ok_or(Impossible("too much money"))?;
        account.balance = account.balance.checked_add(amount.as_u64()).ok_or(Impossible("too much money"))?;
        account.faucet = true;
        self.issued = issued;
        self.accounts.insert(party, account);
        Ok(())
    }

    fn apply_invoice(&mut self, hash: Hash32, row: &InvoiceRow) -> Result<(), Impossible> {
        if self.invoices.contains_key(&hash) {
            return Err(Impossible("a hash has one invoice"));
        }
        let own = row.hold_ms.is_some() || Hash32::sha256(row.preimage.as_bytes()) == hash;
        if row.state != InvoiceRowState::Open || !own {
            return Err(Impossible("an invoice starts open, under its own hash"));
        }
        self.accounts.entry(row.payee).or_default().open_invoices += 1;
        self.invoices.insert(hash, row.clone());
        Ok(())
    }

    fn apply_reveal(&mut self, hash: Hash32, preimage: Hash32) -> Result<(), Impossible> {
        let held = self.held_for(hash).is_some();
        let invoice = self.invoices.get_mut(&hash).ok_or(Impossible("no such invoice"))?;
        if !held || Hash32::sha256(preimage.as_bytes()) != hash {
            return Err(Impossible("nothing is held for this preimage"));
        }
        invoice.preimage = preimage;
        Ok(())
    }

    fn apply_cancel(&mut self, hash: Hash32) -> Result<(), Impossible> {
        let invoice = self.invoices.get_mut(&hash).ok_or(Impossible("no such invoice"))?;
        if invoice.state != InvoiceRowState::Open {
            return Err(Impossible("only an open invoice can be ended"));
        }
        invoice.state = InvoiceRowState::Canceled;
        let account = self.accounts.entry(invoice.payee).or_default();
        account.open_invoices = account.open_invoices.saturating_sub(1);
        Ok(())
    }

    /// A row may be replaced only by a later attempt of a payment that failed.
    fn may_begin(&self, key: &PaymentKey, attempt: u32) -> Result<(), Impossible> {
        match self.payments.get(key) {
            None => Ok(()),
            Some(PaymentRow { state: PaymentRowState::Failed(_), attempt: last, .. }) if attempt > *last => Ok(()),
            Some(_) => Err(Impossible("this payment was begun already")),
        }
    }

    fn apply_begin(&mut self, key: &PaymentKey, row: PaymentRow) -> Result<(), Impossible> {
        self.may_begin(key, row.attempt)?;
        let invoice = self.invoices.get_mut(&key.hash).ok_or(Impossible("no such invoice"))?;
        if invoice.state != InvoiceRowState::Open || invoice.amount != row.amount || invoice.payee == key.payer {
            return Err(Impossible("the invoice cannot be paid so"));
        }
        let cost = row.amount.checked_add(row.fee).ok_or(Impossible("too much money"))?.as_u64();
        let account = self.accounts.get_mut(&key.payer).ok_or(Impossible("no such account"))?;
        account.balance = account.balance.checked_sub(cost).ok_or(Impossible("not enough money"))?;
        self.in_flight += cost;
        invoice.state = InvoiceRowState::InFlight;
        if let PaymentRowState::InFlight(flight) = row.state {
            self.flying.insert(key.clone(), flight);
        }
        self.payments.insert(key.clone(), row);
        Ok(())
    }

    fn flying(&mut self, key: &PaymentKey) -> Result<(&mut PaymentRow, &mut InvoiceRow), Impossible> {
        let row = self.payments.get_mut(key).ok_or(Impossible("no such payment"))?;
        if !matches!(row.state, PaymentRowState::InFlight(_)) {
            return Err(Impossible("the payment is not in flight"));
        }
        let invoice = self.invoices.get_mut(&key.hash).ok_or(Impossible("no such invoice"))?;
        Ok((row, invoice))
    }

    fn apply_settle(&mut self, key: &PaymentKey, at: UnixMs) -> Result<(), Impossible> {
        let index = self.settled + 1;
        let (row, invoice) = self.flying(key)?;
        if Hash32::sha256(invoice.preimage.as_bytes()) != key.hash {
            return Err(Impossible("nothing settles without its preimage"));
        }
        row.state = PaymentRowState::Settled;
        invoice.state = InvoiceRowState::Settled { at, index };
        let (payee, amount, fee) = (invoice.payee, row.amount.as_u64(), row.fee.as_u64());
        self.in_flight -= amount + fee;
        self.fees += fee;
        self.settled = index;
        let account = self.accounts.entry(payee).or_default();
        account.balance += amount;
        account.open_invoices = account.open_invoices.saturating_sub(1);
        self.settlements.insert((payee, index), key.hash);
        self.flying.remove(key);
        Ok(())
    }

    fn apply_return(&mut self, key: &PaymentKey, class: FailureClass) -> Result<(), Impossible> {
        let (row, invoice) = self.flying(key)?;
        row.state = PaymentRowState::Failed(class);
        invoice.state = InvoiceRowState::Open;
        let cost = row.amount.as_u64() + row.fee.as_u64();
        self.in_flight -= cost;
        self.accounts.entry(key.payer).or_default().balance += cost;
        self.flying.remove(key);
        Ok(())
    }

    /// Forgets what no longer matters: unpaid invoices and failed payments, [`KEEP_MS`] after the invoice's expiry.
    pub(super) fn prune(&mut self, now: UnixMs) {
        let accounts = &mut self.accounts;
        self.invoices.retain(|_, row| {
            let over = matches!(row.state, InvoiceRowState::Open | InvoiceRowState::Canceled);
            let keep = !over || row.expires_at.plus_ms(KEEP_MS) > now;
            if !keep
                && row.state == InvoiceRowState::Open
                && let Some(account) = accounts.get_mut(&row.payee)
            {
                account.open_invoices = account.open_invoices.saturating_sub(1);
            }
            keep
        });
        self.payments
            .retain(|_, row| !matches!(row.state, PaymentRowState::Failed(_)) || row.expires_at.plus_ms(KEEP_MS) > now);
    }

    /// Everything, as rows that [`Ledger::restore`] takes back.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let totals =
            Row::Totals { issued: self.issued, in_flight: self.in_flight, fees: self.fees, settled: self.settled };
        std::iter::once(totals)
            .chain(self.accounts.iter().map(|(party, account)| Row::Account { party: *party, account: *account }))
            .chain(self.invoices.iter().map(|(hash, row)| Row::Invoice { hash: *hash, invoice: row.clone() }))
            .chain(self.payments.iter().map(|(key, row)| Row::Payment { key: key.clone(), payment: row.clone() }))
    }

    pub(super) fn restore(&mut self, row: Row) {
        match row {
            Row::Totals { issued, in_flight, fees, settled } => {
                (self.issued, self.in_flight, self.fees, self.settled) = (issued, in_flight, fees, settled);
            }
            Row::Account { party, account } => {
                // Open invoices are counted as they come.
                self.accounts.insert(party, Account { open_invoices: 0, ..account });
            }
            Row::Invoice { hash, invoice } => {
                match invoice.state {
                    InvoiceRowState::Settled { index, .. } => {
                        self.settlements.insert((invoice.payee, index), hash);
                    }
                    InvoiceRowState::Canceled => {}
                    InvoiceRowState::Open | InvoiceRowState::InFlight => {
                        self.accounts.entry(invoice.payee).or_default().open_invoices += 1;
                    }
                }
                self.invoices.insert(hash, invoice);
            }
            Row::Payment { key, payment } => {
                if let PaymentRowState::InFlight(flight) = payment.state {
                    self.flying.insert(key.clone(), flight);
                }
                self.payments.insert(key, payment);
            }
        }
    }
}
