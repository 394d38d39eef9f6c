//! The receiving half.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use hyper::Method;
use nexus_core::{Clock, Hash32, Msat, UnixMs};
use serde_json::{Value, json};

use super::NodeConfig;
use super::client::{CallError, Client, Lines, Next, Verified};
use super::json::{self, Added, Balance, Invoices, Nothing, State};
use super::secret::InvoiceMacaroon;
use crate::bolt11::{Bolt11, MAX_DESCRIPTION_BYTES};
use crate::driver::{
    Capabilities, Cursor, Custody, Description, Driver, Health, Hold, HoldRequest, Idempotency, Invoice,
    InvoiceRequest, InvoiceState, Kind, Preimage, PreimageProof, Receive, Settlement, WalletError,
};

/// Between two tries to follow settlements.
const FOLLOW_AGAIN_MS: u64 = 500;
/// Invoices in one page of a list.
const PAGE: u64 = 100;
/// Pages of one look through all invoices.
const MAX_PAGES: u32 = 1_000;
/// How long a node that never settled anything is listened to before its list is looked through again.
const FIRST_MS: u64 = 2_000;
/// `expiry_s` of a request, at most.
const MAX_EXPIRY_S: u32 = 86_400;

/// Is paid on an LND node. Cheap to clone.
///
/// An invoice with the caller's own preimage can be made again after a crash and is the same one. Settlements are told
/// after the cursor, LND's settle index; doubled ones carry the same hash and index. Whoever credits money does so once
/// for a hash, and looks up what is still open every few minutes: a hint that was missed is found then.
#[derive(Clone)]
pub struct LndReceive {
    client: Arc<Client>,
    settled: Arc<Settled>,
}

/// The largest settle index seen: a place before every invoice that is not settled yet.
#[derive(Default)]
struct Settled {
    index: AtomicU64,
    asked: AtomicBool,
}

pub(super) async fn health(client: &Client) -> Result<Health, WalletError> {
    let mut connection = client.open().await?;
    let balance: Balance = client.call(&mut connection, Method::GET, "/v1/balance/channels", None).await?;
    Ok(Health {
        identity: client.node.identity().to_owned(),
        network: client.node.network(),
        synced: connection.synced,
        spendable: balance.local_balance.msat,
        receivable: Some(balance.remote_balance.msat),
    })
}

/// An invoice as it is to be, whatever made it.
struct Wanted<'a> {
    hash: Option<Hash32>,
    amount: Msat,
    description: &'a Description,
    expiry_s: u32,
}

impl Wanted<'_> {
    fn check(&self) -> Result<(), WalletError> {
        let refuse = |why: &str| Err(WalletError::Refused(why.to_owned()));
        match self.description {
            Description::Memo(memo) if memo.len() > MAX_DESCRIPTION_BYTES => refuse("a memo of more than 639 bytes"),
            Description::Memo(_) | Description::Hash(_) if self.amount == Msat::ZERO => {
                refuse("an invoice over nothing")
            }
            Description::Memo(_) | Description::Hash(_) if !(1..=MAX_EXPIRY_S).contains(&self.expiry_s) => {
                refuse("an expiry that is not 1 to 86,400 seconds ahead")
            }
            Description::Memo(_) | Description::Hash(_) => Ok(()),
        }
    }

    fn ask(&self) -> Value {
        let mut ask = json!({
            "value_msat": self.amount.as_u64().to_string(),
            "expiry": self.expiry_s.to_string(),
            "private": false,
        });
        match self.description {
            Description::Memo(memo) => ask["memo"] = memo.as_str().into(),
            Description::Hash(hash) => ask["description_hash"] = json::base64(hash.as_bytes()).into(),
        }
        ask
    }

    /// Reads what the node made; none unless it is what was wanted.
    fn read(&self, bolt11: &str, node: &NodeConfig) -> Option<Bolt11> {
        let made = Bolt11::decode(bolt11).ok()?;
        let described = match self.description {
            Description::Memo(memo) => made.description == *memo && made.description_hash.is_none(),
            Description::Hash(hash) => made.description_hash == Some(*hash),
        };
        let lives_ms = made.expires_at.0.saturating_sub(made.created_at.0);
        let right = described
            && self.hash.is_none_or(|hash| hash == made.hash)
            && made.amount == Some(self.amount)
            && made.network == node.network()
            && made.payee == node.identity()
            && lives_ms == i64::from(self.expiry_s) * 1_000;
        right.then_some(made)
    }
}

impl LndReceive {
    /// Connects to nothing yet.
    pub fn new(node: NodeConfig, macaroon: InvoiceMacaroon, clock: Arc<dyn Clock>) -> Self {
        Self { client: Arc::new(Client::new(node, macaroon.0, clock)), settled: Arc::default() }
    }

    fn saw(&self, index: u64) {
        self.settled.index.fetch_max(index, Ordering::SeqCst);
    }

    async fn post<T: serde::de::DeserializeOwned>(&self, path: &str, ask: &Value) -> Result<T, CallError> {
        let mut connection = self.client.open().await.map_err(CallError::Unsent)?;
        self.client.call(&mut connection, Method::POST, path, Some(ask)).await
    }

    /// A settle index that the node has reached. Settled invoices stand anywhere in its list, so this is a lower bound.
    async fn reached(&self) -> Result<Cursor, WalletError> {
        if !self.settled.asked.load(Ordering::SeqCst) {
            let mut connection = self.client.open().await?;
            let path = format!("/v1/invoices?reversed=true&num_max_invoices={PAGE}");
            let page: Invoices = self.client.call(&mut connection, Method::GET, &path, None).await?;
            for invoice in &page.invoices {
                self.saw(invoice.settle_index);
            }
            self.settled.asked.store(true, Ordering::SeqCst);
        }
        Ok(Cursor(self.settled.index.load(Ordering::SeqCst)))
    }

    /// Makes an invoice, or finds the one that an earlier, identical call made.
    async fn make(&self, path: &str, ask: &Value, wanted: &Wanted<'_>) -> Result<Invoice, WalletError> {
        let cursor = self.reached().await?;
        let bolt11 = match self.post::<Added>(path, ask).await {
            Ok(added) => added.payment_request,
            // No code of its own: this is how LND says it.
            Err(CallError::Said(said)) if said.message.contains("already exists") => {
                let Some(hash) = wanted.hash else { return Err(said.into()) };
                let known = self.find(hash).await?;
                let known =
                    known.ok_or_else(|| WalletError::Unreachable("an invoice that exists and does not".into()))?;
                if wanted.read(&known.payment_request, &self.client.node).is_none() {
                    return Err(WalletError::Refused("the preimage is in use with other values".to_owned()));
                }
                known.payment_request
            }
            Err(error) => return Err(error.into()),
        };
        let made = wanted.read(&bolt11, &self.client.node);
        let made = made.ok_or_else(|| WalletError::Protocol("an invoice that was not asked for".to_owned()))?;
        Ok(Invoice { bolt11, hash: made.hash, expires_at: made.expires_at, cursor })
    }

    async fn find(&self, hash: Hash32) -> Result<Option<json::Invoice>, WalletError> {
        let mut connection = self.client.open().await?;
        let path = format!("/v1/invoice/{hash}");
        match self.client.call::<json::Invoice>(&mut connection, Method::GET, &path, None).await {
            Ok(invoice) if invoice.r_hash.hash() == Some(hash) => Ok(Some(invoice)),
            Ok(_) => Err(WalletError::Protocol("an answer about another invoice".to_owned())),
            Err(CallError::Said(said)) if said.absent() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn state(&self, hash: Hash32) -> Result<InvoiceState, WalletError> {
        let Some(invoice) = self.find(hash).await? else { return Ok(InvoiceState::NotFound) };
        Ok(match invoice.state {
            State::Open => InvoiceState::Open,
            State::Accepted => InvoiceState::Accepted,
            State::Canceled => InvoiceState::Canceled,
            State::Settled => {
                self.saw(invoice.settle_index);
                let Settlement { amount, at, .. } = settlement(&invoice)
                    .ok_or_else(|| WalletError::Protocol("settled, but not when or what".into()))?;
                let preimage = invoice.r_preimage.hash().filter(|it| Hash32::sha256(it.as_bytes()) == hash);
                InvoiceState::Settled { amount, preimage, at }
            }
        })
    }
}

/// The settlement that an invoice tells of, if it is settled.
fn settlement(invoice: &json::Invoice) -> Option<Settlement> {
    let settled = invoice.state == State::Settled && invoice.settle_index > 0;
    let at = i64::try_from(invoice.settle_date).ok().map(UnixMs::from_secs)?;
    let hash = invoice.r_hash.hash().filter(|_| settled)?;
    Some(Settlement { cursor: Cursor(invoice.settle_index), hash, amount: invoice.amt_paid_msat, at })
}

/// Follows settlements, and begins anew after whatever ends it.
struct Follower {
    wallet: LndReceive,
    after: Cursor,
    lines: Option<Lines>,
    again: bool,
}

impl Follower {
    async fn next(&mut self) -> Result<Option<Settlement>, WalletError> {
        if std::mem::take(&mut self.again) {
            tokio::time::sleep(Duration::from_millis(FOLLOW_AGAIN_MS)).await;
        }
        if self.lines.is_none() {
            // LND replays what settled after an index from 1 on; after 0 it replays nothing.
            if self.after == Cursor(0)
                && let Some(first) = self.first().await?
            {
                return Ok(Some(first));
            }
            self.lines = self.subscribe().await?;
        }
        let patience = self.wallet.client.node.patience;
        let wait_ms = if self.after == Cursor(0) { FIRST_MS } else { patience.idle_ms };
        let Some(lines) = &mut self.lines else { return Ok(None) };
        match lines.next::<json::Invoice>(wait_ms).await {
            Next::Line(invoice) => {
                let Some(told) = settlement(&invoice) else { return Ok(None) };
                // Some settled before the subscription stood.
                if self.after == Cursor(0)
                    && told.cursor > Cursor(1)
                    && let Some(first) = self.first().await?
                {
                    self.lines = None;
                    return Ok(Some(first));
                }
                self.wallet.saw(told.cursor.0);
                self.after = self.after.max(told.cursor);
                Ok(Some(told))
            }
            Next::Silence => {
                self.lines = None;
                Ok(None)
            }
            // LND ends no subscription by itself: something between us does, and would again at once.
            Next::End => {
                self.lines = None;
                self.again = true;
                Ok(None)
            }
            Next::Said(said) => Err(said.into()),
            Next::Broken(error) => Err(error),
        }
    }

    /// None if nothing was said for a while: LND's gateway sends nothing, not even a head, before the first event.
    async fn subscribe(&mut self) -> Result<Option<Lines>, WalletError> {
        let client = &self.wallet.client;
        let connection = client.open().await?;
        let path = format!("/v1/invoices/subscribe?settle_index={}", self.after.0);
        let wait_ms = if self.after == Cursor(0) { FIRST_MS } else { client.node.patience.idle_ms };
        match client.stream(connection, Method::GET, &path, None, None, wait_ms).await {
            Ok(lines) => Ok(Some(lines)),
            Err((CallError::Silent(_), _)) => Ok(None),
            Err((error, _)) => Err(error.into()),
        }
    }

    /// The very first settlement, which no subscription replays.
    async fn first(&mut self) -> Result<Option<Settlement>, WalletError> {
        let client = self.wallet.client.clone();
        let mut connection: Verified = client.open().await?;
        let mut offset = 0;
        for _ in 0..MAX_PAGES {
            let path = format!("/v1/invoices?index_offset={offset}&num_max_invoices={PAGE}");
            let page: Invoices = client.call(&mut connection, Method::GET, &path, None).await?;
            if let Some(first) = page.invoices.iter().filter_map(settlement).find(|it| it.cursor == Cursor(1)) {
                self.after = first.cursor;
                self.wallet.saw(1);
                return Ok(Some(first));
            }
            let whole = u64::try_from(page.invoices.len()).is_ok_and(|length| length >= PAGE);
            if !whole || page.last_index_offset <= offset {
                return Ok(None);
            }
            offset = page.last_index_offset;
        }
        Err(WalletError::Protocol("too many invoices to look through for the first settled one".to_owned()))
    }
}

impl Driver for LndReceive {
    fn kind(&self) -> Kind {
        Kind::Lnd
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: true,
            hold: true,
            lookup_out: false,
            idempotency: Idempotency::None,
            preimage: PreimageProof::Always,
            custody: Custody::Custodial,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        Box::pin(health(&self.client))
    }

    fn recover(&self) -> BoxFuture<'_, Result<(), WalletError>> {
        Box::pin(async { self.client.open().await.map(|_| ()) })
    }
}

impl Receive for LndReceive {
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        Box::pin(async move {
            let InvoiceRequest { preimage, amount, description, expiry_s } = request;
            let hash = preimage.as_ref().map(Preimage::hash);
            let wanted = Wanted { hash, amount, description: &description, expiry_s };
            wanted.check()?;
            let mut ask = wanted.ask();
            if let Some(preimage) = &preimage {
                ask["r_preimage"] = json::base64(preimage.expose()).into();
            }
            self.make("/v1/invoices", &ask, &wanted).await
        })
    }

    /// An open invoice past its expiry stays open until LND itself cancels it, so late money is never overlooked.
    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        Box::pin(self.state(hash))
    }

    /// Never ends: after an error it is tried again half a second later, from the largest cursor seen.
    fn settlements(&self, cursor: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        let follower = Follower { wallet: self.clone(), after: cursor, lines: None, again: false };
        let told = futures::stream::unfold(follower, |mut follower| async move {
            let next = follower.next().await;
            if next.is_err() {
                follower.lines = None;
                follower.again = true;
            }
            Some((next.transpose(), follower))
        });
        told.filter_map(|told| async { told }).boxed()
    }
}

impl Hold for LndReceive {
    fn create_hold_invoice(&self, request: HoldRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        Box::pin(async move {
            let HoldRequest { hash, amount, description, expiry_s, cltv_expiry } = request;
            let wanted = Wanted { hash: Some(hash), amount, description: &description, expiry_s };
            wanted.check()?;
            if !(18..=2_016).contains(&cltv_expiry) {
                return Err(WalletError::Refused("a hold of other than 18 to 2,016 blocks".to_owned()));
            }
            let mut ask = wanted.ask();
            ask["hash"] = json::base64(hash.as_bytes()).into();
            ask["cltv_expiry"] = cltv_expiry.to_string().into();
            self.make("/v2/invoices/hodl", &ask, &wanted).await
        })
    }

    fn settle_hold_invoice(&self, preimage: Preimage) -> BoxFuture<'_, Result<(), WalletError>> {
        Box::pin(async move {
            let ask = json!({ "preimage": json::base64(preimage.expose()) });
            let Nothing {} = self.post("/v2/invoices/settle", &ask).await?;
            Ok(())
        })
    }

    fn cancel_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<(), WalletError>> {
        Box::pin(async move {
            let ask = json!({ "payment_hash": json::base64(hash.as_bytes()) });
            let Nothing {} = self.post("/v2/invoices/cancel", &ask).await?;
            Ok(())
        })
    }
}
