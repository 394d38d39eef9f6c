//! Payments of agents: one intent for each payable step, moved by compare-and-set, and the budget counters.

use nexus_core::budget::{Counter, Window};
use nexus_core::payment::PaymentState;
use nexus_core::{Generation, Hash32, Msat, Npub, TickId, UnixMs};

use crate::{Fence, Result, Store};

/// A payment to be made, with its budget held by `Side::ReserveBudget` in the same batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPayment {
    pub hash: Hash32,
    /// The payable step: `job:<tick>:<attempt>`, `zap:<event id>`, `withdrawal:<id>`. At most one open intent each.
    pub step: String,
    /// `inference`, `zap`, `withdrawal`.
    pub purpose: String,
    pub bolt11: String,
    pub amount: Msat,
    pub max_fee: Msat,
    pub expires_at: UnixMs,
    /// The windows that hold `amount + max_fee` for it.
    pub windows: Vec<Window>,
    pub payee: Option<Npub>,
}

/// A stored payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    pub npub: Npub,
    pub hash: Hash32,
    pub step: String,
    pub purpose: String,
    pub bolt11: String,
    pub amount: Msat,
    pub max_fee: Msat,
    pub fee: Msat,
    pub state: PaymentState,
    /// Counts from 1.
    pub attempt: u32,
    /// The generation that sent it; none while reserved.
    pub dispatched_by: Option<Generation>,
    pub tick: Option<TickId>,
    pub windows: Vec<Window>,
    pub payee: Option<Npub>,
    pub preimage: Option<Vec<u8>>,
    pub note: Option<String>,
    pub expires_at: UnixMs,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}

impl Payment {
    /// What each window holds for it while it is open.
    pub fn hold(&self) -> Msat {
        self.amount.saturating_add(self.max_fee)
    }
}

pub async fn get(store: &Store, npub: Npub, hash: Hash32) -> Result<Option<Payment>> {
    todo!()
}

/// Payments that recovery owes an answer (dispatched, pending, unknown), oldest first.
pub async fn unresolved(store: &Store, npub: Npub) -> Result<Vec<Payment>> {
    todo!()
}

/// Payments still open: also `reserved` ones, which a crash may have left between the hold and the dispatch.
pub async fn open(store: &Store, npub: Npub) -> Result<Vec<Payment>> {
    todo!()
}

/// Agents of this worker with unresolved payments.
pub async fn agents_unresolved(store: &Store, fence: Fence, limit: u32) -> Result<Vec<Npub>> {
    todo!()
}

/// Newest first.
pub async fn list(store: &Store, npub: Npub, before: Option<UnixMs>, limit: u32) -> Result<Vec<Payment>> {
    todo!()
}

/// The window's counters, zero if it was never used.
pub async fn counter(store: &Store, npub: Npub, window: Window) -> Result<Counter> {
    todo!()
}

/// Deletes tick windows with nothing held of ticks that are closed, and day windows before `day`. Returns how many.
pub async fn purge_windows(store: &Store, npub: Npub, day: i64) -> Result<u64> {
    todo!()
}
