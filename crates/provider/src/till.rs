//! Getting paid: making invoices and waiting for them to settle.
//!
//! The wallet's stream of settlements only wakes; what counts is what a lookup says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use nexus_core::time::random;
use nexus_core::{Clock, Entropy, Hash32, Msat};
use nexus_lightning::{
    Cursor, Description, Hold, HoldRequest, InvoiceRequest, InvoiceState, Preimage, Receive, WalletError,
};
use tokio::sync::{Notify, watch};

use crate::job::Bill;
use crate::pause::Backoff;

/// An invoice is looked up until this long after its expiry: a payment in flight may settle a little later.
const LATE_MS: i64 = 60_000;
/// How long money may be held, in blocks: some seven hours. A job takes minutes; the rest is for a provider that was down.
const HOLD_BLOCKS: u32 = 40;
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
    /// The money of a hold invoice arrived and waits.
    Held,
    /// Expired, cancelled unpaid, or given back.
    Never,
}

pub(crate) struct Till {
    wallet: Arc<dyn Receive>,
    /// The same wallet, where invoices are to be held.
    hold: Option<Arc<dyn Hold>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    waiting: Mutex<HashMap<Hash32, Arc<Notify>>>,
    /// Where to follow settlements from; none until there is an invoice.
    from: watch::Sender<Option<Cursor>>,
}

impl Till {
    pub(crate) fn new(
        wallet: Arc<dyn Receive>,
        hold: Option<Arc<dyn Hold>>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self { wallet, hold, clock, entropy, waiting: Mutex::default(), from: watch::Sender::new(None) }
    }

    /// Whether its invoices for work to be done are hold invoices.
    pub(crate) fn holds(&self) -> bool {
        self.hold.is_some()
    }

    /// An invoice for work to be done: one that holds, where the wallet makes such.
    pub(crate) async fn bill_before(&self, amount: Msat, expiry_s: u32, memo: String) -> Result<Bill, WalletError> {
        let preimage = self.hold.is_some().then(|| Preimage::from_bytes(random(&*self.entropy)));
        self.make(amount, expiry_s, memo, preimage).await
    }

    /// An invoice for work that is done.
    pub(crate) async fn bill(&self, amount: Msat, expiry_s: u32, memo: String) -> Result<Bill, WalletError> {
        self.make(amount, expiry_s, memo, None).await
    }

    /// Makes an invoice, in a few attempts. Nothing is lost if the process ends here: nobody has seen it.
    async fn make(
        &self,
        amount: Msat,
        expiry_s: u32,
        memo: String,
        preimage: Option<Preimage>,
    ) -> Result<Bill, WalletError> {
        let mut pause = Backoff::new(INVOICE_PAUSE_MS, Arc::clone(&self.entropy));
        let mut attempt = 0;
        loop {
            attempt += 1;
            let description = Description::Memo(memo.clone());
            let made = match (&self.hold, &preimage) {
                (Some(hold), Some(preimage)) => {
                    let (hash, cltv_expiry) = (preimage.hash(), HOLD_BLOCKS);
                    hold.create_hold_invoice(HoldRequest { hash, amount, description, expiry_s, cltv_expiry }).await
                }
                (Some(_) | None, _) => {
                    self.wallet.create_invoice(InvoiceRequest { preimage: None, amount, description, expiry_s }).await
                }
            };
            match made {
                Ok(invoice) => {
                    self.from.send_if_modified(|from| from.is_none().then(|| *from = Some(invoice.cursor)).is_some());
                    let (hash, bolt11, expires_at) = (invoice.hash, invoice.bolt11, invoice.expires_at);
                    let preimage = preimage.map(|preimage| Hash32::from_bytes(*preimage.expose()));
                    return Ok(Bill { hash, bolt11, amount, expires_at, preimage });
                }
                Err(WalletError::Unreachable(_) | WalletError::Protocol(_)) if attempt < INVOICE_ATTEMPTS => {
                    pause.wait().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes what is held for a result that is out. False when it is not there any more.
    pub(crate) async fn take(&self, bill: &Bill) -> bool {
        let (Some(hold), Some(preimage)) = (&self.hold, bill.preimage) else { return self.lost(bill) };
        let mut pause = Backoff::new(POLL_MS, Arc::clone(&self.entropy));
        loop {
            match hold.settle_hold_invoice(Preimage::from_bytes(*preimage.as_bytes())).await {
                Ok(()) => return true,
                // Refused: settled in an answer that was lost, or the money went back.
                Err(WalletError::Refused(_)) => match self.wallet.lookup_invoice(bill.hash).await {
                    Ok(InvoiceState::Settled { .. }) => return true,
                    Ok(InvoiceState::Canceled | InvoiceState::NotFound | InvoiceState::Open) => return false,
                    Ok(InvoiceState::Accepted) | Err(_) => {}
                },
                Err(error) => tracing::warn!(hash = %bill.hash, %error, "what is held could not be taken"),
            }
            pause.wait().await;
        }
    }

    /// Gives back what is held, since there is no result. Until it is done, or there is nothing to be given back.
    pub(crate) async fn give_back(&self, bill: &Bill) {
        let (Some(hold), Some(_)) = (&self.hold, bill.preimage) else {
            self.lost(bill);
            return;
        };
        let mut pause = Backoff::new(POLL_MS, Arc::clone(&self.entropy));
        loop {
            match hold.cancel_invoice(bill.hash).await {
                Ok(()) | Err(WalletError::Refused(_)) => return,
                Err(error) => tracing::warn!(hash = %bill.hash, %error, "what is held could not be given back"),
            }
            pause.wait().await;
        }
    }

    /// A wallet that holds no more leaves what it held to its time lock.
    fn lost(&self, bill: &Bill) -> bool {
        tracing::error!(hash = %bill.hash, "this wallet can't settle a hold invoice that an earlier one made");
        false
    }

    /// Waits until an invoice is paid, its money is held, or it can't be any more.
    pub(crate) async fn wait(&self, bill: &Bill) -> Bought {
        let woken = self.listen(bill.hash);
        let mut poll = Backoff::new(POLL_MS, Arc::clone(&self.entropy));
        loop {
            let over = self.clock.now() >= bill.expires_at.plus_ms(LATE_MS);
            match self.wallet.lookup_invoice(bill.hash).await {
                Ok(InvoiceState::Settled { .. }) => return Bought::Paid,
                Ok(InvoiceState::Accepted) if bill.preimage.is_some() => return Bought::Held,
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
