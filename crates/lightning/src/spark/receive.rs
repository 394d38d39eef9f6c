//! Being paid. The SDK tells of settlements only while it is asked: whoever waits looks, and looking claims.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use nexus_core::{Hash32, UnixMs};
use serde_json::{Value, json};

use super::pay::Told;
use super::record::{self, Came, INVOICES, MAX_KEPT, Made, SETTLED};
use super::wallet::{SparkWallet, sats, stored};
use crate::bolt11::{Bolt11, MAX_DESCRIPTION_BYTES};
use crate::driver::{
    Cursor, Description, Invoice, InvoiceRequest, InvoiceState, Kind, Receive, Settlement, WalletError,
};
use crate::storage::{Change, StorageError};

/// `expiry_s` of a request, at most.
const MAX_EXPIRY_S: u32 = 86_400;
/// How much later than it was made an invoice's payment may be dated earlier, and how long after its expiry it is looked for.
const MARGIN_MS: i64 = 3_600_000;
const LATE_MS: i64 = 86_400_000;
/// Invoices in one look.
const AT_ONCE: usize = 200;

fn refuse<T>(why: &str) -> Result<T, WalletError> {
    Err(WalletError::Refused(why.to_owned()))
}

fn kept(error: StorageError) -> WalletError {
    stored(error).into()
}

impl SparkWallet {
    fn now(&self) -> UnixMs {
        self.inner.sidecar.clock().now()
    }

    async fn made(&self, hash: Hash32) -> Result<Option<Made>, WalletError> {
        record::read(&*self.inner.storage, INVOICES, &hash.to_string()).await.map_err(kept)
    }

    async fn invoice(&self, hash: Hash32, made: &Made) -> Result<Invoice, WalletError> {
        let last = record::last_place(&*self.inner.storage).await.map_err(kept)?;
        let (bolt11, expires_at) = (made.bolt11.clone(), made.expires_at);
        Ok(Invoice { bolt11, hash, expires_at, cursor: Cursor(last) })
    }

    async fn create(&self, request: InvoiceRequest) -> Result<Invoice, WalletError> {
        let amount_sats = request.amount.as_u64() / 1_000;
        let Description::Memo(memo) = request.description else {
            return Err(WalletError::Unsupported { kind: Kind::Spark, what: "commit to a description's hash" });
        };
        if amount_sats == 0 || sats(amount_sats) != Some(request.amount) {
            return refuse("Spark invoices are over whole sats, at least one");
        }
        if memo.len() > MAX_DESCRIPTION_BYTES {
            return refuse("a memo of more than 639 bytes");
        }
        if !(1..=MAX_EXPIRY_S).contains(&request.expiry_s) {
            return refuse("an expiry that is not 1 to 86,400 seconds ahead");
        }
        let own = request.preimage.as_ref().map(|it| (it.hash(), Hash32::from_bytes(*it.expose())));
        if let Some((hash, _)) = own
            && let Some(made) = self.made(hash).await?
        {
            if (made.amount, &made.memo, made.expiry_s) != (request.amount, &memo, request.expiry_s) {
                return refuse("this preimage is another invoice's");
            }
            return self.invoice(hash, &made).await;
        }
        let storage = &*self.inner.storage;
        record::prune(storage, INVOICES, |it: &Made| Some(it.expires_at).filter(|at| at.plus_ms(LATE_MS) < self.now()))
            .await
            .map_err(kept)?;
        let mut ask = json!({ "memo": memo, "amount_sats": amount_sats, "expiry_s": request.expiry_s });
        if let Some((hash, _)) = own {
            // The provider holds what comes until we give the preimage.
            ask["hash"] = hash.to_string().into();
        }
        let answer: Value = self.ask("invoice", ask, None).await?;
        let text = answer.get("bolt11").and_then(Value::as_str).unwrap_or_default();
        let network = self.inner.sidecar.config().network;
        let right = Bolt11::decode(text).ok().filter(|it| {
            it.network == network
                && it.amount == Some(request.amount)
                && it.description == memo
                && own.is_none_or(|(hash, _)| hash == it.hash)
        });
        let invoice = right.ok_or_else(|| WalletError::Protocol("an invoice that was not asked for".to_owned()))?;
        let made = Made {
            bolt11: text.to_owned(),
            amount: request.amount,
            memo,
            expiry_s: request.expiry_s,
            made_at: invoice.created_at,
            expires_at: invoice.expires_at,
            preimage: own.map(|(_, preimage)| preimage),
            came: None,
        };
        // Only what is stored is handed out: another that a crash left behind is known to nobody.
        let change = record::insert(INVOICES, invoice.hash.to_string(), &made).map_err(kept)?;
        match storage.write(vec![change]).await {
            Ok(()) => self.invoice(invoice.hash, &made).await,
            Err(StorageError::Exists) => match self.made(invoice.hash).await? {
                Some(made) => self.invoice(invoice.hash, &made).await,
                None => Err(WalletError::Unreachable("the invoice went as it came".to_owned())),
            },
            Err(error) => Err(kept(error)),
        }
    }

    /// Looks for payments of open invoices; records what came.
    async fn sweep(&self, open: &[(Hash32, Made)]) -> Result<(), WalletError> {
        let Some(since) = open.iter().map(|(_, it)| it.made_at.0).min() else { return Ok(()) };
        let wanted: serde_json::Map<String, Value> =
            open.iter().map(|(hash, it)| (hash.to_string(), it.preimage.map(|it| it.to_string()).into())).collect();
        let ask = json!({ "wanted": wanted, "since_s": (since - MARGIN_MS).max(0) / 1_000 });
        let found: Vec<Told> = self.ask("received", ask, None).await?;
        for told in found {
            let ours = open.iter().find(|(hash, _)| told.hash == Some(*hash) && !told.outgoing);
            if let Some((hash, _)) = ours.filter(|_| told.completed()) {
                self.record(*hash, &told).await?;
            }
        }
        Ok(())
    }

    /// Once: the invoice becomes paid and its settlement gets the next place, in one write.
    async fn record(&self, hash: Hash32, told: &Told) -> Result<(), WalletError> {
        let lock = self.inner.sidecar.lock(self.identity().await?, Hash32::sha256(SETTLED.as_bytes()));
        let _alone = lock.lock().await;
        let storage = &*self.inner.storage;
        let Some(mut made) = self.made(hash).await?.filter(|it| it.came.is_none()) else { return Ok(()) };
        let amount =
            sats(told.amount_sats).ok_or_else(|| WalletError::Protocol("an amount beyond reason".to_owned()))?;
        let at = UnixMs::from_secs(told.at_s).max(made.made_at);
        let preimage = told.preimage.filter(|it| Hash32::sha256(it.as_bytes()) == hash);
        made.came = Some(Came { amount, preimage, at });
        let settled = record::list::<Settlement>(storage, SETTLED).await.map_err(kept)?;
        let cursor = Cursor(settled.last().map_or(0, |(_, it)| it.cursor.0).saturating_add(1));
        let mut changes = vec![
            record::put(INVOICES, hash.to_string(), &made).map_err(kept)?,
            record::insert(SETTLED, record::place(cursor.0), &Settlement { cursor, hash, amount, at }).map_err(kept)?,
        ];
        let over = settled.len().saturating_sub(MAX_KEPT).min(10);
        changes.extend(settled.into_iter().take(over).map(|(key, _)| Change::Delete { space: SETTLED, key }));
        storage.write(changes).await.map_err(kept)
    }

    async fn state(&self, hash: Hash32) -> Result<InvoiceState, WalletError> {
        let Some(made) = self.made(hash).await? else { return Ok(InvoiceState::NotFound) };
        if made.came.is_none() {
            self.sweep(&[(hash, made)]).await?;
        }
        let Some(made) = self.made(hash).await? else { return Ok(InvoiceState::NotFound) };
        Ok(match made.came {
            Some(Came { amount, preimage, at }) => InvoiceState::Settled { amount, preimage, at },
            None if self.now() >= made.expires_at => InvoiceState::Canceled,
            None => InvoiceState::Open,
        })
    }

    /// The settlements after a place; where there are none, after a look.
    async fn page(&self, after: Cursor) -> Result<Vec<Settlement>, WalletError> {
        let storage = &*self.inner.storage;
        for look in [true, false] {
            let settled = record::list::<Settlement>(storage, SETTLED).await.map_err(kept)?;
            let page: Vec<_> = settled.into_iter().map(|(_, it)| it).filter(|it| it.cursor > after).collect();
            if !page.is_empty() || !look {
                return Ok(page);
            }
            let now = self.now();
            let made = record::list::<Made>(storage, INVOICES).await.map_err(kept)?;
            let open = made.into_iter().filter(|(_, it)| it.came.is_none() && it.expires_at.plus_ms(LATE_MS) > now);
            let open: Vec<_> = open.filter_map(|(key, it)| key.parse().ok().map(|hash| (hash, it))).collect();
            for open in open.chunks(AT_ONCE) {
                self.sweep(open).await?;
            }
        }
        Ok(Vec::new())
    }
}

impl Receive for SparkWallet {
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        Box::pin(self.create(request))
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        Box::pin(self.state(hash))
    }

    /// Never ends: looks every `poll_ms` while nothing comes.
    fn settlements(&self, cursor: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        let poll = Duration::from_millis(self.inner.sidecar.config().poll_ms);
        let pages = futures::stream::unfold((self.clone(), cursor, false), move |(wallet, after, again)| async move {
            if again {
                tokio::time::sleep(poll).await;
            }
            Some(match wallet.page(after).await {
                Ok(page) => {
                    let last = page.last().map_or(after, |last| last.cursor);
                    let nothing = page.is_empty();
                    (page.into_iter().map(Ok).collect::<Vec<_>>(), (wallet, last, nothing))
                }
                Err(error) => (vec![Err(error)], (wallet, after, true)),
            })
        });
        pages.flat_map(futures::stream::iter).boxed()
    }
}
