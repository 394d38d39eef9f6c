//! Getting paid: making invoices and waiting for them to settle.
//!
//! The wallet's stream of settlements only wakes; what counts is what a lookup says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use nexus_core::{Clock, Entropy, Hash32, Msat};
use nexus_lightning::{Cursor, Description, InvoiceRequest, InvoiceState, Receive, WalletError};
use tokio::sync::{Notify, watch};

use crate::job::Bill;
use crate::pause::Backoff;

/// An invoice is looked up until this long after its expiry: a payment in flight may settle a little later.
const LATE_MS: i64 = 60_000;
/// First and longest pause between lookups of one invoice, in ms.
const POLL_MS: (u64, u64) = (1_000, 15_000);
const RESUBSCRIBE_MS: (u64, u64) = (500, 30_000);
/// Attempts to make an invoice, and the pauses between them, in ms. A customer waits some 20 s for a first word.
const INVOICE_ATTEMPTS: u32 = 4;
const INVOICE_PAUSE_MS: (u64, u64) = (250, 2_000);

/// What became of an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bought {
    Paid,
    /// Expired or cancelled unpaid.
    Never,
}

pub(crate) struct Till {
    wallet: Arc<dyn Receive>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    waiting: Mutex<HashMap<Hash32, Arc<Notify>>>,
    /// Where to follow settlements from; none until there is an invoice.
    from: watch::Sender<Option<Cursor>>,
}

impl Till {
    pub(crate) fn new(wallet: Arc<dyn Receive>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { wallet, clock, entropy, waiting: Mutex::default(), from: watch::Sender::new(None) }
    }

    /// Makes an invoice, in a few attempts. Nothing is lost if the process ends here: nobody has seen it.
    pub(crate) async fn bill(&self, amount: Msat, expiry_s: u32, memo: String) -> Result<Bill, WalletError> {
        let mut pause = Backoff::new(INVOICE_PAUSE_MS, Arc::clone(&self.entropy));
        let mut attempt = 0;
        loop {
            attempt += 1;
            let request =
                InvoiceRequest { preimage: None, amount, description: Description::Memo(memo.clone()), expiry_s };
            match self.wallet.create_invoice(request).await {
                Ok(invoice) => {
                    self.from.send_if_modified(|from| from.is_none().then(|| *from = Some(invoice.cursor)).is_some());
                    let (hash, bolt11, expires_at) = (invoice.hash, invoice.bolt11, invoice.expires_at);
                    return Ok(Bill { hash, bolt11, amount, expires_at });
                }
                Err(WalletError::Unreachable(_) | WalletError::Protocol(_)) if attempt < INVOICE_ATTEMPTS => {
                    pause.wait().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until an invoice is paid, or can't be any more.
    pub(crate) async fn wait(&self, bill: &Bill) -> Bought {
        let woken = self.listen(bill.hash);
        let mut poll = Backoff::new(POLL_MS, Arc::clone(&self.entropy));
        loop {
            let over = self.clock.now() >= bill.expires_at.plus_ms(LATE_MS);
            match self.wallet.lookup_invoice(bill.hash).await {
                Ok(InvoiceState::Settled { .. }) => return Bought::Paid,
                Ok(InvoiceState::Canceled) => return Bought::Never,
                Ok(InvoiceState::Open | InvoiceState::NotFound) if over => return Bought::Never,
                Ok(InvoiceState::Open | InvoiceState::Accepted | InvoiceState::NotFound) => {}
                Err(error) => tracing::warn!(hash = %bill.hash, %error, "an invoice could not be looked up"),
            }
            tokio::select! {
                () = woken.notify.notified() => {}
                () = poll.wait() => {}
            }
        }
    }

    fn listen(&self, hash: Hash32) -> Listening<'_> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let notify = Arc::clone(waiting.entry(hash).or_default());
        Listening { till: self, hash, notify }
    }

    /// Follows the wallet's settlements for as long as it is polled.
    pub(crate) async fn follow(&self) {
        let mut from = self.from.subscribe();
        let Ok(first) = from.wait_for(Option::is_some).await.map(|cursor| *cursor) else { return };
        let mut cursor = first.unwrap_or_default();
        let mut pause = Backoff::new(RESUBSCRIBE_MS, Arc::clone(&self.entropy));
        loop {
            let mut settled = self.wallet.settlements(cursor);
            while let Some(Ok(settlement)) = settled.next().await {
                cursor = cursor.max(settlement.cursor);
                pause.reset();
                let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(notify) = waiting.get(&settlement.hash) {
                    notify.notify_one();
                }
            }
            pause.wait().await;
        }
    }
}

/// Takes its entry away again.
struct Listening<'a> {
    till: &'a Till,
    hash: Hash32,
    notify: Arc<Notify>,
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.till.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hash);
    }
}
