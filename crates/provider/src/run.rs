//! The provider's loop: listen, take jobs, drive them, until told to stop.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use nexus_core::{Clock, Entropy, Hash32};
use nexus_lightning::{Hold, Receive};
use nexus_nostr::event;
use nexus_nostr::job::request_filter;
use nexus_nostr::relay_pool::{Interest, Notice, RelayPool, Subscription};
use nexus_seal::Signer;
use nostr::event::Event;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::announce::announce;
use crate::backend::Backend;
use crate::config::{ConfigError, Payment, ProviderConfig};
use crate::intake::{Taken, concerns, take};
use crate::job::{Ledger, LedgerError};
use crate::seats::Seats;
use crate::seller::drive;
use crate::shop::Shop;
use crate::till::Till;

/// Requests that are being looked at beside the jobs there may be; more wait in the subscription.
const INTAKE: usize = 256;
/// Overlap of what is read again after a restart, in seconds: relays and clocks are not exact.
const OVERLAP_S: i64 = 600;
/// How far back a first start looks, in seconds.
const FIRST_LOOK_S: i64 = 60;
/// How long jobs may take to end when the provider stops. What they are in the middle of goes on after a restart.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// All that a provider is made of.
pub struct ProviderParts {
    /// The provider's own Nostr key.
    pub signer: Arc<dyn Signer>,
    pub pool: RelayPool,
    /// The wallet that invoices are made by.
    pub wallet: Arc<dyn Receive>,
    /// The same wallet, if it makes hold invoices.
    pub hold: Option<Arc<dyn Hold>>,
    pub backend: Arc<dyn Backend>,
    pub config: ProviderConfig,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub shutdown: CancellationToken,
}

/// Why a provider can't run.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the list of jobs: {0}")]
    Ledger(#[from] LedgerError),
    #[error("the relay pool was shut down")]
    PoolClosed,
}

/// Sells until `shutdown` is cancelled.
///
/// Jobs that are not over are in `data_dir` and go on after the next start: a paid job is neither lost nor done twice.
/// Ends with an error when the list of jobs can't be written any more. When it has ended, `data_dir` is free.
pub async fn run(parts: ProviderParts) -> Result<(), ProviderError> {
    parts.config.validate()?;
    let ledger = Ledger::open(&parts.config.data_dir, parts.clock.now()).await?;
    let shutdown = parts.shutdown.clone();
    let subscription = subscribe(&parts, &ledger);
    let shop = Arc::new(open_shop(parts, ledger));
    let mut jobs = Jobs { shop: Arc::clone(&shop), set: JoinSet::new(), shutdown: shutdown.clone() };
    jobs.resume();
    let ended = tokio::select! {
        ended = jobs.serve(subscription) => ended,
        () = shop.till.follow() => Ok(()),
        () = announce(&shop) => Ok(()),
        () = shutdown.cancelled() => Ok(()),
    };
    shutdown.cancel();
    jobs.finish().await;
    ended
}

fn open_shop(parts: ProviderParts, ledger: Ledger) -> Shop {
    let wanted = parts.config.hold && parts.config.payment == Payment::Before;
    let hold = parts.hold.filter(|_| wanted);
    Shop {
        till: Till::new(parts.wallet, hold, Arc::clone(&parts.clock), Arc::clone(&parts.entropy)),
        seats: Seats::new(parts.config.limits),
        benches: Semaphore::new(parts.config.limits.concurrency),
        courtesy: Shop::courtesy(),
        models: parts.backend.models(),
        signer: parts.signer,
        pool: parts.pool,
        backend: parts.backend,
        config: parts.config,
        clock: parts.clock,
        entropy: parts.entropy,
        ledger,
    }
}

/// Listens from before the last thing that we know of, but no further back than the configuration says.
fn subscribe(parts: &ProviderParts, ledger: &Ledger) -> Subscription {
    let now = parts.clock.now().secs();
    let last = ledger.last_at().map_or(now - FIRST_LOOK_S, |at| at.secs() - OVERLAP_S);
    let since = last.clamp(now - i64::from(parts.config.limits.catch_up_s), now);
    let requests = request_filter(since);
    let filter = match parts.config.open_requests {
        true => requests,
        false => requests.pubkey(event::public_key(&parts.signer.public_key())),
    };
    parts.pool.subscribe(Interest {
        relays: parts.config.relays.clone(),
        filters: vec![filter],
        auth: vec![Arc::clone(&parts.signer)],
    })
}

/// The tasks of all jobs and requests.
struct Jobs {
    shop: Arc<Shop>,
    set: JoinSet<Result<(), LedgerError>>,
    shutdown: CancellationToken,
}

impl Jobs {
    /// Goes on with what an earlier process left.
    fn resume(&mut self) {
        let open = self.shop.ledger.open_jobs();
        if !open.is_empty() {
            tracing::info!(jobs = open.len(), "going on with jobs from before the restart");
        }
        for id in open {
            let Some(job) = self.shop.ledger.get(&id) else { continue };
            if let Some(seat) = self.shop.seats.retake(id, job.customer, job.stage.awaits_payment()) {
                let shop = Arc::clone(&self.shop);
                self.spawn(id, async move { drive(&shop, id, seat).await });
            }
        }
    }

    async fn serve(&mut self, mut subscription: Subscription) -> Result<(), ProviderError> {
        let limits = &self.shop.config.limits;
        let most = INTAKE + limits.open_invoices + limits.queue + limits.concurrency;
        let mut live = HashSet::new();
        loop {
            tokio::select! {
                Some(ended) = self.set.join_next() => check(ended)?,
                notice = subscription.next(), if self.set.len() < most => match notice {
                    Some(Notice::Event { relay, event }) => self.request(event, live.contains(&relay)),
                    Some(Notice::EndOfStored { relay }) => { live.insert(relay); }
                    Some(Notice::Closed { relay, reason }) => {
                        tracing::warn!(%relay, %reason, "a relay ended the subscription");
                        live.remove(&relay);
                    }
                    None => return Err(ProviderError::PoolClosed),
                },
            }
        }
    }

    fn request(&mut self, event: Arc<Event>, live: bool) {
        if !concerns(&self.shop, &event) {
            return;
        }
        let shop = Arc::clone(&self.shop);
        let id = event::hash(&event.id);
        self.spawn(id, async move {
            match take(&shop, &event, live).await? {
                Taken::Job(seat) => drive(&shop, id, seat).await,
                Taken::Ignored => Ok(()),
            }
        });
    }

    /// A task that ends early when the provider stops: its job is in the ledger.
    fn spawn(&mut self, id: Hash32, task: impl Future<Output = Result<(), LedgerError>> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.set.spawn(async move {
            let ended = shutdown.run_until_cancelled(task).await.unwrap_or(Ok(()));
            if let Err(error) = &ended {
                tracing::error!(job = %id, %error, "a job could not go on");
            }
            ended
        });
    }

    async fn finish(&mut self) {
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
            self.set.shutdown().await;
        }
        self.shop.ledger.settle().await;
    }
}

/// A job that panicked is lost to this process alone; a ledger that can't be written ends the provider.
fn check(ended: Result<Result<(), LedgerError>, JoinError>) -> Result<(), ProviderError> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error @ (LedgerError::Io { .. } | LedgerError::Closed))) => Err(error.into()),
        Ok(Err(_)) => Ok(()),
        Err(error) => {
            tracing::error!(%error, "a job panicked");
            Ok(())
        }
    }
}
