//! Being paid through a wallet.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_core::{Hash32, Msat, UnixMs};
use nostr::event::Kind as EventKind;
use nostr::filter::Filter;
use nostr::types::Timestamp;
use serde::{Deserialize, Serialize};

use super::book::{read, stored, write};
use super::envelope::read_notification;
use super::finality::invoice_state;
use super::line::Heard;
use super::message::{Request, Response, Transaction};
use super::wallet::{Inner, NwcWallet, said, unasked};
use crate::bolt11::{Bolt11, MAX_DESCRIPTION_BYTES};
use crate::driver::{
    Cursor, Description, Invoice, InvoiceRequest, InvoiceState, Kind, Receive, Settlement, WalletError,
};
use crate::storage::{Change, StorageError};

/// `<hash>`: an invoice of ours that was not seen settled yet.
const OPEN: &str = "nwc.invoice";
/// `<serial>`: what was seen settled, in the order in which it was seen.
const SEEN: &str = "nwc.settlement";
/// `expiry_s` of a request, at most.
const MAX_EXPIRY_S: u32 = 86_400;
/// How long past its expiry an invoice is still looked up: a payment may have been on its way.
const LATE_MS: i64 = 3_600_000;
/// Open invoices that are followed; more are refused.
const MAX_OPEN: usize = 1_000;
/// Invoices that are looked up in a row.
const MAX_LOOKS: usize = 50;
/// Settlements that are remembered for whoever follows them.
const MAX_SEEN: usize = 2_000;
const MAX_RACES: u32 = 16;
const AGAIN_MS: u64 = 500;

#[derive(Serialize, Deserialize)]
struct Open {
    expires_at: UnixMs,
}

#[derive(Serialize, Deserialize)]
struct Seen {
    hash: Hash32,
    amount: Msat,
    at: UnixMs,
}

impl Inner {
    async fn make(&self, request: InvoiceRequest) -> Result<Invoice, WalletError> {
        let InvoiceRequest { preimage, amount, description, expiry_s } = request;
        if preimage.is_some() {
            return Err(WalletError::Unsupported {
                kind: Kind::Nwc,
                what: "make an invoice of a preimage that is not their own",
            });
        }
        let refuse = |why: &str| Err(WalletError::Refused(why.to_owned()));
        match &description {
            Description::Memo(memo) if memo.len() > MAX_DESCRIPTION_BYTES => {
                return refuse("a memo of more than 639 bytes");
            }
            Description::Memo(_) | Description::Hash(_) => {}
        }
        if amount == Msat::ZERO {
            return refuse("an invoice over nothing");
        }
        if !(1..=MAX_EXPIRY_S).contains(&expiry_s) {
            return refuse("an expiry that is not 1 to 86,400 seconds ahead");
        }
        // Whether or not anybody follows settlements, what is long over makes room.
        let now = self.clock.now();
        let (over, open): (Vec<_>, Vec<_>) =
            self.open().await?.into_iter().partition(|(_, expires_at)| now >= expires_at.plus_ms(LATE_MS));
        if open.len() >= MAX_OPEN {
            return refuse("1,000 invoices wait to be paid: try again when some have expired");
        }
        if !over.is_empty() {
            let forget = |(hash, _): &(Hash32, UnixMs)| Change::Delete { space: OPEN, key: hash.to_string() };
            self.storage.write(over.iter().map(forget).collect()).await.map_err(stored)?;
        }
        let cursor = self.last_seen().await?;
        let asked = Request::MakeInvoice { amount, description: description.clone(), expiry_s };
        let bolt11 = match self.ask(&asked).await? {
            Response::Transaction(Transaction { bolt11: Some(bolt11), .. }) => bolt11,
            Response::Error { code, message } => return Err(said(code, &message)),
            Response::Transaction(_) | Response::Paid { .. } | Response::Balance(_) | Response::Info { .. } => {
                return Err(unasked());
            }
        };
        let wrong = |what: &str| Err(WalletError::Protocol(format!("the wallet made an invoice {what}")));
        let Ok(made) = Bolt11::decode(&bolt11) else { return wrong("that cannot be read") };
        if made.network != self.network {
            return wrong(&format!("for {}", made.network));
        }
        if made.amount != Some(amount) {
            return wrong("over another amount");
        }
        // A memo is for people; a hash is what others check.
        if let Description::Hash(hash) = description
            && made.description_hash != Some(hash)
        {
            return wrong("that does not commit to what was asked");
        }
        if made.expired(self.clock.now()) {
            return wrong("that has expired");
        }
        let value = write(&Open { expires_at: made.expires_at }).map_err(stored)?;
        let change = Change::Put { space: OPEN, key: made.hash.to_string(), value };
        self.storage.write(vec![change]).await.map_err(stored)?;
        Ok(Invoice { bolt11, hash: made.hash, expires_at: made.expires_at, cursor })
    }

    async fn state(&self, hash: Hash32) -> Result<InvoiceState, WalletError> {
        let response = self.ask(&Request::LookupInvoice { hash }).await?;
        if let Some(state) = invoice_state(&response, hash) {
            return Ok(state);
        }
        match response {
            // A payment of ours is no invoice of ours.
            Response::Transaction(told) if told.hash == hash && told.outgoing == Some(true) => {
                Ok(InvoiceState::NotFound)
            }
            Response::Transaction(told) if told.hash == hash => {
                Err(WalletError::Protocol("the wallet does not say when, or whether, it was paid".to_owned()))
            }
            Response::Error { code, message } => Err(said(code, &message)),
            Response::Transaction(_) | Response::Paid { .. } | Response::Balance(_) | Response::Info { .. } => {
                Err(unasked())
            }
        }
    }

    async fn seen(&self) -> Result<Vec<Settlement>, WalletError> {
        let records = self.storage.list(SEEN).await.map_err(stored)?;
        let read = |record: &crate::storage::Record| {
            let Seen { hash, amount, at } = read(&record.value).map_err(stored)?;
            let serial = record.key.parse().map_err(|_| stored(StorageError::Refused("a key".to_owned())))?;
            Ok(Settlement { cursor: Cursor(serial), hash, amount, at })
        };
        records.iter().map(read).collect()
    }

    async fn last_seen(&self) -> Result<Cursor, WalletError> {
        Ok(self.seen().await?.last().map(|it| it.cursor).unwrap_or_default())
    }

    /// Notes a settlement once, under the next serial.
    async fn note(&self, hash: Hash32, amount: Msat, at: UnixMs) -> Result<(), WalletError> {
        for _ in 0..MAX_RACES {
            let seen = self.seen().await?;
            let key = hash.to_string();
            let done = Change::Delete { space: OPEN, key };
            if seen.iter().any(|it| it.hash == hash) {
                return self.storage.write(vec![done]).await.map_err(stored);
            }
            let next = seen.last().map_or(1, |it| it.cursor.0.saturating_add(1));
            let value = write(&Seen { hash, amount, at }).map_err(stored)?;
            let mut changes = vec![Change::Insert { space: SEEN, key: format!("{next:020}"), value }, done];
            let surplus = seen.len().saturating_sub(MAX_SEEN).min(100);
            changes.extend(
                seen.iter().take(surplus).map(|it| Change::Delete { space: SEEN, key: format!("{:020}", it.cursor.0) }),
            );
            match self.storage.write(changes).await {
                Ok(()) => return Ok(()),
                Err(StorageError::Exists) => {}
                Err(error) => return Err(stored(error)),
            }
        }
        Err(WalletError::Unreachable("settlements are noted elsewhere at the same time".to_owned()))
    }

    /// Looks one open invoice up, and remembers if it is over.
    async fn check(&self, hash: Hash32, expires_at: UnixMs) -> Result<(), WalletError> {
        match self.state(hash).await? {
            InvoiceState::Settled { amount, at, .. } => self.note(hash, amount, at).await,
            InvoiceState::Open | InvoiceState::Accepted => Ok(()),
            InvoiceState::Canceled | InvoiceState::NotFound => {
                if self.clock.now() < expires_at.plus_ms(LATE_MS) {
                    return Ok(());
                }
                let done = Change::Delete { space: OPEN, key: hash.to_string() };
                self.storage.write(vec![done]).await.map_err(stored)
            }
        }
    }

    async fn open(&self) -> Result<Vec<(Hash32, UnixMs)>, WalletError> {
        let records = self.storage.list(OPEN).await.map_err(stored)?;
        let read = |record: &crate::storage::Record| {
            let hash = record.key.parse().map_err(|_| stored(StorageError::Refused("a key".to_owned())))?;
            let Open { expires_at } = read(&record.value).map_err(stored)?;
            Ok((hash, expires_at))
        };
        records.iter().map(read).collect()
    }

    /// Looks up some of what is open, those after `from`; where to go on if there are more.
    async fn sweep(&self, from: Option<Hash32>) -> Result<Option<Hash32>, WalletError> {
        let mut open = self.open().await?;
        open.retain(|(hash, _)| from.is_none_or(|from| hash.as_bytes() > from.as_bytes()));
        let more = open.len() > MAX_LOOKS;
        open.truncate(MAX_LOOKS);
        for (hash, expires_at) in &open {
            self.check(*hash, *expires_at).await?;
        }
        Ok(open.last().map(|(hash, _)| *hash).filter(|_| more))
    }

    async fn hinted(&self, hash: Hash32) -> Result<(), WalletError> {
        match self.open().await?.into_iter().find(|(open, _)| *open == hash) {
            Some((hash, expires_at)) => self.check(hash, expires_at).await,
            None => Ok(()),
        }
    }

    /// What the wallet tells by itself, where it does.
    async fn hints(&self) -> Result<BoxStream<'static, Heard>, WalletError> {
        let terms = self.terms().await?;
        if !terms.tells {
            return Ok(futures::stream::pending().boxed());
        }
        let since = Timestamp::from_secs(u64::try_from(self.clock.now().secs()).unwrap_or(0));
        let filter = Filter::new()
            .kind(EventKind::from_u16(terms.encryption.notification()))
            .author(*self.connection.wallet())
            .pubkey(self.connection.client())
            .since(since);
        Ok(self.line.subscribe(&self.relays, vec![filter]))
    }
}

/// Follows settlements. What was seen is told from the record of it; notifications say when to look, and so does time.
struct Follower {
    wallet: NwcWallet,
    after: Cursor,
    hints: Option<BoxStream<'static, Heard>>,
    /// Where the last look through what is open ended, if before the end.
    from: Option<Hash32>,
    again: bool,
}

impl Follower {
    async fn next(&mut self) -> Result<Settlement, WalletError> {
        let inner = Arc::clone(&self.wallet.0);
        if std::mem::take(&mut self.again) {
            tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
        }
        loop {
            if let Some(next) = inner.seen().await?.into_iter().find(|it| it.cursor > self.after) {
                self.after = next.cursor;
                return Ok(next);
            }
            if self.hints.is_none() {
                // Before the first look, so that nothing falls between the two.
                self.hints = Some(inner.hints().await?);
                self.from = inner.sweep(None).await?;
                continue;
            }
            let Some(hints) = &mut self.hints else { continue };
            match tokio::time::timeout(Duration::from_millis(inner.patience.poll_ms), hints.next()).await {
                Ok(Some(Heard::Event(event))) => {
                    let encryption = inner.terms().await?.encryption;
                    if let Ok(Some(hash)) = read_notification(&inner.connection, &event, encryption) {
                        inner.hinted(hash).await?;
                    }
                }
                Ok(Some(Heard::Standing)) => {}
                Ok(None) => {
                    self.hints = None;
                    return Err(WalletError::Unreachable("the relays are shut down".to_owned()));
                }
                Err(_) => self.from = inner.sweep(self.from).await?,
            }
        }
    }
}

impl Receive for NwcWallet {
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        Box::pin(self.0.make(request))
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        Box::pin(self.0.state(hash))
    }

    /// Of the invoices that this driver made, in the order in which it saw them settle. Never ends: after an error it is
    /// tried again half a second later.
    fn settlements(&self, cursor: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        let follower = Follower { wallet: self.clone(), after: cursor, hints: None, from: None, again: false };
        let told = futures::stream::unfold(follower, |mut follower| async move {
            let next = follower.next().await;
            follower.again = next.is_err();
            Some((next, follower))
        });
        told.boxed()
    }
}
