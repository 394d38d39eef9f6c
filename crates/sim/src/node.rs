//! The operator's node: what it was asked for and what it was paid, as it really is, and how control planes reach it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_core::{Hash32, Msat, UnixMs};
use nexus_lightning::{
    Capabilities, Cursor, Custody, Driver, Health, Idempotency, Invoice, InvoiceRequest, InvoiceState, Kind, Network,
    PreimageProof, Receive, Settlement, WalletError,
};

use crate::dice::Dice;
use crate::ledger::write;
use crate::plan::Fault;
use crate::process::Process;
use crate::world::{World, lag};

/// Longer than a control plane waits for an answer.
const NO_ANSWER: Duration = Duration::from_secs(12);
/// How long a settlement waits for one that overtakes it.
const OVERTAKEN: Duration = Duration::from_secs(4);
/// Between looks for new settlements.
const LOOK: Duration = Duration::from_millis(700);

/// An invoice of the node's.
#[derive(Debug, Clone)]
pub struct Paper {
    pub bolt11: String,
    pub preimage: Hash32,
    pub amount: Msat,
    pub expires_at: UnixMs,
    /// What somebody sent, and when it arrives for good.
    pub sent: Option<(Msat, UnixMs)>,
}

/// What the node knows.
#[derive(Debug, Default)]
pub struct Papers {
    pub invoices: BTreeMap<Hash32, Paper>,
    /// In the order in which they arrived; a place is an index, from 1.
    pub settled: Vec<Settlement>,
    /// Settled for what no control plane asked for.
    pub foreign: BTreeSet<Hash32>,
    /// A follower may have gone on without having heard of these.
    pub untold: BTreeSet<Hash32>,
    coming: Vec<(UnixMs, Hash32, Msat)>,
}

impl Papers {
    fn arrive(&mut self, now: UnixMs) {
        self.coming.sort_by_key(|(at, ..)| *at);
        let due = self.coming.iter().take_while(|(at, ..)| *at <= now).count();
        for (at, hash, amount) in self.coming.drain(..due).collect::<Vec<_>>() {
            let cursor = Cursor(u64::try_from(self.settled.len()).unwrap_or(u64::MAX).saturating_add(1));
            self.settled.push(Settlement { cursor, hash, amount, at });
        }
    }

    /// What came for an invoice.
    pub fn came(&self, hash: &Hash32) -> Option<&Settlement> {
        self.settled.iter().find(|settlement| settlement.hash == *hash)
    }
}

#[derive(Debug, Default)]
pub struct Node(Mutex<Papers>);

impl Node {
    /// As it is at a moment.
    pub fn papers(&self, now: UnixMs) -> MutexGuard<'_, Papers> {
        let mut papers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        papers.arrive(now);
        papers
    }

    /// Somebody pays an invoice; what they send arrives for good after so long. False: the node takes nothing for it, or
    /// nothing more.
    pub fn pay(&self, hash: Hash32, amount: Msat, now: UnixMs, after_ms: i64) -> bool {
        let mut papers = self.papers(now);
        let Some(paper) = papers.invoices.get_mut(&hash) else { return false };
        if paper.sent.is_some() || now >= paper.expires_at || amount < paper.amount {
            return false;
        }
        paper.sent = Some((amount, now.plus_ms(after_ms)));
        papers.coming.push((now.plus_ms(after_ms), hash, amount));
        papers.arrive(now);
        true
    }

    /// Money for an invoice that no control plane asked for.
    pub fn pay_foreign(&self, hash: Hash32, amount: Msat, now: UnixMs) {
        let mut papers = self.papers(now);
        papers.foreign.insert(hash);
        papers.coming.push((now, hash, amount));
        papers.arrive(now);
    }
}

/// The node as one process reaches it.
#[derive(Clone)]
pub struct SimNode {
    pub world: Arc<World>,
    pub process: Arc<Process>,
    pub dice: Arc<Dice>,
}

impl SimNode {
    async fn round_trip(&self) -> Result<(), WalletError> {
        self.process.pass().await;
        lag(&self.world, &self.dice, 300).await;
        let away = self.world.node_away() || self.world.fault(&self.dice, Fault::NodeUnreachable);
        self.process.pass().await;
        if away { Err(WalletError::Unreachable("simulated".into())) } else { Ok(()) }
    }

    async fn make(&self, request: InvoiceRequest) -> Result<Invoice, WalletError> {
        self.round_trip().await?;
        let wanted = || WalletError::Refused("a preimage of the caller's is wanted".into());
        let preimage = Hash32::from_bytes(*request.preimage.as_ref().ok_or_else(wanted)?.expose());
        let hash = Hash32::sha256(preimage.as_bytes());
        let now = self.world.now();
        let paper = {
            let mut papers = self.world.node.papers(now);
            match papers.invoices.entry(hash) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(free) => {
                    let bolt11 = write(hash, request.amount, now, u64::from(request.expiry_s));
                    let bolt11 = bolt11.ok_or_else(|| WalletError::Refused("no such invoice".into()))?;
                    let expires_at = UnixMs::from_secs(now.secs()).plus_ms(i64::from(request.expiry_s) * 1_000);
                    let paper = Paper { bolt11, preimage, amount: request.amount, expires_at, sent: None };
                    free.insert(paper).clone()
                }
            }
        };
        if self.world.fault(&self.dice, Fault::NodeAnswerLost) {
            tokio::time::sleep(NO_ANSWER).await;
            return Err(WalletError::Unreachable("no answer".into()));
        }
        self.process.pass().await;
        Ok(Invoice { bolt11: paper.bolt11, hash, expires_at: paper.expires_at, cursor: Cursor(0) })
    }

    async fn look(&self, hash: Hash32) -> Result<InvoiceState, WalletError> {
        self.round_trip().await?;
        let now = self.world.now();
        let state = {
            let papers = self.world.node.papers(now);
            match (papers.came(&hash), papers.invoices.get(&hash)) {
                (Some(came), _) => InvoiceState::Settled { amount: came.amount, preimage: None, at: came.at },
                (None, None) => InvoiceState::NotFound,
                // Some nodes say so at once, others leave what has expired open.
                (None, Some(paper)) if now >= paper.expires_at && hash.as_bytes()[0].is_multiple_of(2) => {
                    InvoiceState::Canceled
                }
                (None, Some(_)) => InvoiceState::Open,
            }
        };
        // Meanwhile the world goes on.
        lag(&self.world, &self.dice, 1_500).await;
        if self.world.fault(&self.dice, Fault::NodeAnswerLost) {
            tokio::time::sleep(NO_ANSWER).await;
        }
        self.process.pass().await;
        Ok(state)
    }

    /// What a follower at this place is told next, with everything that may go wrong with it.
    async fn tell(&self, place: u64) -> Result<(u64, VecDeque<Settlement>), WalletError> {
        loop {
            self.round_trip().await?;
            let mut news = self.after(place);
            if news.is_empty() {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            if self.world.fault(&self.dice, Fault::NodeReordered) {
                self.untold(news[0].hash);
                tokio::time::sleep(OVERTAKEN).await;
                news = self.after(place);
                if news.len() > 1 {
                    news.swap(0, 1);
                }
            }
            let last = news.iter().map(|settlement| settlement.cursor.0).max().unwrap_or(place);
            let mut told = VecDeque::new();
            for settlement in news {
                if self.world.fault(&self.dice, Fault::NodeForgets) {
                    self.untold(settlement.hash);
                    continue;
                }
                if self.world.fault(&self.dice, Fault::NodeDoubled) {
                    told.push_back(settlement.clone());
                }
                told.push_back(settlement);
            }
            return Ok((last, told));
        }
    }

    fn after(&self, place: u64) -> Vec<Settlement> {
        let papers = self.world.node.papers(self.world.now());
        papers.settled.iter().filter(|settlement| settlement.cursor.0 > place).cloned().collect()
    }

    fn untold(&self, hash: Hash32) {
        self.world.node.papers(self.world.now()).untold.insert(hash);
    }
}

impl Driver for SimNode {
    fn kind(&self) -> Kind {
        Kind::Lnd
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: true,
            hold: false,
            lookup_out: false,
            idempotency: Idempotency::None,
            preimage: PreimageProof::Maybe,
            custody: Custody::Own,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        Box::pin(async {
            self.round_trip().await?;
            Ok(Health {
                identity: "simulated".into(),
                network: Network::Regtest,
                synced: true,
                spendable: Msat::ZERO,
                receivable: None,
            })
        })
    }
}

impl Receive for SimNode {
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        Box::pin(self.make(request))
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        Box::pin(self.look(hash))
    }

    fn settlements(&self, cursor: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        let start = (Some(self.clone()), cursor.0, VecDeque::new());
        Box::pin(futures::stream::unfold(start, |(node, mut place, mut told)| async move {
            let node = node?;
            loop {
                if let Some(next) = told.pop_front() {
                    node.process.pass().await;
                    return Some((Ok(next), (Some(node), place, told)));
                }
                match node.tell(place).await {
                    Ok((last, news)) => (place, told) = (last, news),
                    Err(error) => return Some((Err(error), (None, place, told))),
                }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invoice_is_paid_once_in_time_and_arrives_when_it_does() {
        let (node, hash) = (Node::default(), Hash32::from_bytes([1; 32]));
        let paper =
            Paper { bolt11: String::new(), preimage: hash, amount: Msat::sats(5), expires_at: UnixMs(100), sent: None };
        node.papers(UnixMs(0)).invoices.insert(hash, paper);
        assert!(!node.pay(hash, Msat::sats(4), UnixMs(1), 0), "too little");
        assert!(!node.pay(hash, Msat::sats(5), UnixMs(100), 0), "too late");
        assert!(node.pay(hash, Msat::sats(6), UnixMs(50), 500));
        assert!(!node.pay(hash, Msat::sats(5), UnixMs(51), 0), "twice");
        node.pay_foreign(Hash32::from_bytes([2; 32]), Msat::sats(1), UnixMs(60));
        assert_eq!(node.papers(UnixMs(549)).came(&hash), None);
        let papers = node.papers(UnixMs(550));
        let came = papers.came(&hash).unwrap();
        assert_eq!((came.amount, came.cursor, papers.settled.len()), (Msat::sats(6), Cursor(2), 2));
    }
}
