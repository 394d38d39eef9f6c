//! Invoices of agents' wallets that may be paid any moment. Whoever hosts the agent looks them up until they are paid or
//! over, so an agent hears of its money whatever was restarted between the invoice and the payment.

use nexus_core::{Generation, Hash32, Npub, UnixMs};

use crate::batch::params;
use crate::draft::Draft;
use crate::publication::NewPublication;
use crate::{Fence, Result, Statement, Store};

/// Invoices of one agent looked up at a time, the newest first.
pub const MAX_LOOKED_UP: i64 = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceWatch {
    pub hash: Hash32,
    pub made_at: UnixMs,
    /// A while after the invoice expires: from then on nobody looks.
    pub until: UnixMs,
    /// What its receipt is made of once it is paid (JSON), if it is a zap's.
    pub zap: Option<String>,
}

impl InvoiceWatch {
    pub(crate) fn statement(self, npub: Npub) -> Statement {
        Statement::write(
            "INSERT INTO invoice_watch (npub, payment_hash, made_at, until_at, zap) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO NOTHING",
            params![npub, self.hash, self.made_at, self.until, self.zap],
        )
    }
}

/// The invoices of an agent that are not over, newest first.
pub async fn open(store: &Store, npub: Npub, now: UnixMs) -> Result<Vec<InvoiceWatch>> {
    let sql = "SELECT payment_hash, made_at, until_at, zap FROM invoice_watch WHERE npub = ?1 AND until_at > ?2
        ORDER BY made_at DESC, payment_hash LIMIT ?3";
    store
        .rows("read an agent's open invoices", sql, params![npub, now, MAX_LOOKED_UP], |row| {
            Ok(InvoiceWatch { hash: row.get()?, made_at: row.get()?, until: row.get()?, zap: row.get()? })
        })
        .await
}

/// Ends the watch of invoices that were paid or cancelled, under the fence; with the receipts of those that were zaps, which
/// are on their way from then on.
pub async fn end(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: Generation,
    hashes: impl IntoIterator<Item = Hash32>,
    receipts: &[NewPublication],
    now: UnixMs,
) -> Result<()> {
    let mut draft = Draft::hosted("end the watch of invoices", fence, npub, generation);
    for hash in hashes {
        let sql = "DELETE FROM invoice_watch WHERE npub = ?1 AND payment_hash = ?2";
        draft.push(Statement::write(sql, params![npub, hash]));
    }
    for receipt in receipts {
        draft.push(receipt.statement(npub, None, now));
    }
    draft.write(store).await.map(|_| ())
}

/// Forgets what is over, at most `limit`. Returns how many.
pub async fn purge(store: &Store, now: UnixMs, limit: u32) -> Result<u64> {
    let sql = "DELETE FROM invoice_watch WHERE payment_hash IN
        (SELECT payment_hash FROM invoice_watch WHERE until_at <= ?1 ORDER BY until_at LIMIT ?2) AND until_at <= ?1";
    store.change("purge invoice watches", Statement::write(sql, params![now, limit])).await
}
