//! Being paid: a mint quote, its invoice, and the proofs that it becomes.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_core::{Hash32, Msat};

use super::api::{CallError, QuoteState, is_quote_id};
use super::book::{Issue, IssueStage, Owned, new_issue, put_issue, put_proof};
use super::keys::split;
use super::{CashuWallet, Wallet, msat};
use crate::bolt11::{Bolt11, MAX_DESCRIPTION_BYTES};
use crate::driver::{
    Cursor, Description, Invoice, InvoiceRequest, InvoiceState, Kind, Receive, Settlement, WalletError,
};

/// How long past its expiry an invoice may turn out paid: money that was in flight then.
const LATE_MS: i64 = 60_000;
/// Invoices that are remembered; beyond that the oldest that are over are forgotten.
const MAX_INVOICES: usize = 4_000;

fn refused<T>(why: impl Into<String>) -> Result<T, WalletError> {
    Err(WalletError::Refused(why.into()))
}

impl Wallet {
    async fn create(&self, request: InvoiceRequest) -> Result<Invoice, WalletError> {
        let unsupported = |what| Err(WalletError::Unsupported { kind: Kind::Cashu, what });
        if request.preimage.is_some() {
            return unsupported("make an invoice for a given preimage: the mint makes it");
        }
        let memo = match request.description {
            Description::Memo(memo) if memo.len() <= MAX_DESCRIPTION_BYTES => memo,
            Description::Memo(_) => return refused(format!("a memo of more than {MAX_DESCRIPTION_BYTES} bytes")),
            // NUT-23 knows a text and no hash.
            Description::Hash(_) => return unsupported("make an invoice with the hash of a description"),
        };
        let sats = request.amount.whole_sats();
        if sats == 0 || msat(sats) != request.amount {
            return refused("a Cashu wallet receives whole sats: ask for a multiple of 1,000 msat");
        }
        let (whole, most) = (self.whole().await?, self.config.most);
        if whole.checked_add(request.amount).is_none_or(|sum| sum > most) {
            return refused(format!(
                "the mint may hold {} sats for this wallet and holds {}: receive less, or spend first",
                most.whole_sats(),
                whole.whole_sats()
            ));
        }
        let quote = self.mint.new_mint_quote(sats, &memo).await?;
        let told = Bolt11::decode(&quote.request).map_err(|error| WalletError::Protocol(error.to_string()))?;
        if told.network != self.config.network {
            let (its, ours) = (told.network, self.config.network);
            return refused(format!(
                "the mint makes invoices for {its}; this wallet is on {ours}: choose another mint"
            ));
        }
        if told.amount != Some(request.amount) || !is_quote_id(&quote.quote) || told.expired(self.clock.now()) {
            return Err(WalletError::Protocol("the mint made an invoice for something else".to_owned()));
        }
        let issue = Issue {
            hash: told.hash,
            quote: quote.quote,
            bolt11: quote.request.clone(),
            sats,
            expires_at: told.expires_at,
            stage: IssueStage::Open,
        };
        let issues = self.issues().await?;
        let mut changes = self.forget(&issues);
        changes.push(new_issue(&issue)?);
        self.write(changes).await?;
        let cursor = Cursor(last(&issues));
        Ok(Invoice { bolt11: quote.request, hash: told.hash, expires_at: told.expires_at, cursor })
    }

    /// Makes room for one more.
    fn forget(&self, issues: &[Issue]) -> Vec<crate::storage::Change> {
        let over = self.clock.now().plus_ms(-LATE_MS * 60 * 24);
        let mut old: Vec<&Issue> = issues
            .iter()
            .filter(|issue| !matches!(issue.stage, IssueStage::Issuing { .. }) && issue.expires_at < over)
            .collect();
        old.sort_by_key(|issue| issue.expires_at);
        let surplus = (issues.len() + 1).saturating_sub(MAX_INVOICES);
        old.into_iter().take(surplus).map(super::book::delete_issue).collect()
    }

    async fn look_up(&self, hash: Hash32) -> Result<InvoiceState, WalletError> {
        let Some(issue) = self.advance(hash).await? else { return Ok(InvoiceState::NotFound) };
        Ok(match issue.stage {
            IssueStage::Issued { at, .. } => InvoiceState::Settled { amount: msat(issue.sats), preimage: None, at },
            IssueStage::Issuing { .. } => InvoiceState::Open,
            IssueStage::Open if self.over(&issue) => InvoiceState::Canceled,
            IssueStage::Open => InvoiceState::Open,
        })
    }

    fn over(&self, issue: &Issue) -> bool {
        self.clock.now() >= issue.expires_at.plus_ms(LATE_MS)
    }

    /// Takes an invoice as far as it goes: once it is paid, until its proofs are stored. Each step may be done again.
    pub(super) async fn advance(&self, hash: Hash32) -> Result<Option<Issue>, WalletError> {
        let _turn = self.memory.issuing.lock().await;
        // Two rounds are the regular way; others find that secrets were used before.
        for _ in 0..5 {
            let Some(issue) = self.issue(hash).await? else { return Ok(None) };
            let done = match issue.stage.clone() {
                IssueStage::Issued { .. } => true,
                IssueStage::Open => match self.mint.mint_quote(&issue.quote).await?.state {
                    QuoteState::Paid => {
                        self.choose(issue.clone()).await?;
                        false
                    }
                    QuoteState::Issued => {
                        // An older state of the wallet: the seed knows the proofs.
                        self.restore().await?;
                        self.issued(issue.clone(), Vec::new()).await?;
                        false
                    }
                    QuoteState::Unpaid | QuoteState::Pending | QuoteState::Failed | QuoteState::Unknown => true,
                },
                IssueStage::Issuing { range, amounts } => {
                    self.sign(issue.clone(), &range, &amounts).await?;
                    false
                }
            };
            if done {
                return Ok(Some(issue));
            }
        }
        Err(WalletError::Protocol("the mint does not come to an end with a paid invoice".to_owned()))
    }

    /// Which outputs a paid invoice becomes, stored before the mint is asked for them.
    async fn choose(&self, issue: Issue) -> Result<(), WalletError> {
        let keyset = self.active().await?;
        let amounts = split(&keyset, issue.sats)
            .ok_or_else(|| WalletError::Protocol("the mint's keys cannot make up the amount".to_owned()))?;
        let count = u32::try_from(amounts.len()).unwrap_or(u32::MAX);
        let (range, mut changes) = self.next_range(keyset.id, count).await?;
        changes.push(put_issue(&Issue { stage: IssueStage::Issuing { range, amounts }, ..issue })?);
        Ok(self.write(changes).await?)
    }

    async fn sign(&self, issue: Issue, range: &super::keys::Range, amounts: &[u64]) -> Result<(), WalletError> {
        let keyset = self.keyset(range.keyset).await?;
        let made = self.outputs(range, amounts)?;
        let outputs = made.blinded_messages();
        let signatures = match self.mint.issue(&issue.quote, &outputs).await {
            Ok(signatures) if signatures.len() == outputs.len() => signatures,
            Ok(_) => return Err(WalletError::Protocol("the mint signed another number of outputs".to_owned())),
            // Signed before, and the answer was lost; or signed for something else, and an older state came back.
            Err(error @ CallError::Said { .. }) => match self.mint.mint_quote(&issue.quote).await?.state {
                QuoteState::Issued => match self.signed_before(&outputs, outputs.len()).await? {
                    Some(signatures) => signatures,
                    None => {
                        self.restore().await?;
                        return self.issued(issue, Vec::new()).await;
                    }
                },
                QuoteState::Paid if error.code() == Some(CallError::ALREADY_SIGNED) => {
                    self.restore().await?;
                    return self.choose(issue).await;
                }
                // An earlier, identical request is still being worked on.
                QuoteState::Pending => return Err(WalletError::Unreachable("the mint is still at work".to_owned())),
                QuoteState::Paid | QuoteState::Unpaid | QuoteState::Failed | QuoteState::Unknown => {
                    return Err(error.into());
                }
            },
            Err(error) => return Err(error.into()),
        };
        let proofs = Self::unblind(&keyset, &made, signatures)?;
        self.issued(issue, proofs.into_iter().map(Owned::new).collect()).await
    }

    /// The proofs and the word that the invoice is settled, in one write.
    async fn issued(&self, issue: Issue, proofs: Vec<Owned>) -> Result<(), WalletError> {
        let cursor = last(&self.issues().await?) + 1;
        let stage = IssueStage::Issued { at: self.clock.now(), cursor };
        let mut changes = vec![put_issue(&Issue { stage, ..issue })?];
        for proof in &proofs {
            changes.push(put_proof(proof)?);
        }
        Ok(self.write(changes).await?)
    }

    /// Looks at every open invoice, and gives what settled after `cursor`.
    async fn news(&self, cursor: Cursor) -> Result<VecDeque<Settlement>, WalletError> {
        for issue in self.issues().await? {
            let open = !matches!(issue.stage, IssueStage::Issued { .. });
            if open && (!self.over(&issue) || matches!(issue.stage, IssueStage::Issuing { .. })) {
                self.advance(issue.hash).await?;
            }
        }
        let mut news: Vec<Settlement> = self.issues().await?.iter().filter_map(settlement).collect();
        news.retain(|settlement| settlement.cursor > cursor);
        news.sort_by_key(|settlement| settlement.cursor);
        Ok(news.into())
    }
}

fn settlement(issue: &Issue) -> Option<Settlement> {
    match issue.stage {
        IssueStage::Issued { at, cursor } => {
            Some(Settlement { cursor: Cursor(cursor), hash: issue.hash, amount: amount(issue), at })
        }
        IssueStage::Open | IssueStage::Issuing { .. } => None,
    }
}

fn amount(issue: &Issue) -> Msat {
    msat(issue.sats)
}

fn last(issues: &[Issue]) -> u64 {
    issues.iter().filter_map(settlement).map(|settlement| settlement.cursor.0).max().unwrap_or(0)
}

struct Following {
    wallet: CashuWallet,
    cursor: Cursor,
    told: VecDeque<Settlement>,
    first: bool,
}

impl Receive for CashuWallet {
    /// The mint decides how long its invoice lives: [`Invoice::expires_at`] says it, whatever was asked for.
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        Box::pin(self.0.create(request))
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        Box::pin(self.0.look_up(hash))
    }

    fn settlements(&self, cursor: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        let start = Following { wallet: self.clone(), cursor, told: VecDeque::new(), first: true };
        futures::stream::unfold(start, |mut state| async move {
            loop {
                if let Some(settlement) = state.told.pop_front() {
                    state.cursor = settlement.cursor;
                    return Some((Ok(settlement), state));
                }
                if !std::mem::take(&mut state.first) {
                    tokio::time::sleep(Duration::from_millis(state.wallet.0.config.patience.poll_ms)).await;
                }
                match state.wallet.0.news(state.cursor).await {
                    Ok(news) => state.told = news,
                    Err(error) => return Some((Err(error), state)),
                }
            }
        })
        .boxed()
    }
}
