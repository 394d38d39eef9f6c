//! What all jobs share, and how the shop speaks.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use nexus_core::{Clock, Entropy, Npub};
use nexus_nostr::event::{self, next_created_at};
use nexus_nostr::job::{self, Feedback, JobError, Request};
use nexus_nostr::relay_pool::RelayPool;
use nexus_seal::{Signer, SignerError};
use nostr::event::{Event, UnsignedEvent};
use tokio::sync::Semaphore;

use crate::backend::Backend;
use crate::config::ProviderConfig;
use crate::job::Ledger;
use crate::pause::Backoff;
use crate::seats::Seats;
use crate::till::Till;

/// How long relays may take to answer.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses between attempts to publish what must arrive, in ms.
const PUBLISH_PAUSE_MS: (u64, u64) = (250, 30_000);
/// Publications to relays of customers' choice at the same time; more are left out.
const CUSTOMER_RELAY_SENDS: usize = 16;

pub(crate) struct Shop {
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) pool: RelayPool,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) models: Vec<String>,
    pub(crate) config: ProviderConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) ledger: Ledger,
    pub(crate) till: Till,
    pub(crate) seats: Seats,
    /// One permit for each job that the backend may work on.
    pub(crate) benches: Semaphore,
    pub(crate) courtesy: Arc<Semaphore>,
}

impl Shop {
    pub(crate) fn courtesy() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(CUSTOMER_RELAY_SENDS))
    }

    pub(crate) fn me(&self) -> Npub {
        self.signer.public_key()
    }

    pub(crate) async fn sign(&self, unsigned: UnsignedEvent) -> Result<Box<Event>, SignerError> {
        self.signer.sign(unsigned).await.map(Box::new)
    }

    /// Signed feedback, in the form that the request came in.
    pub(crate) async fn feedback(
        &self,
        stamp: &Stamp,
        request: &Request,
        feedback: &Feedback,
    ) -> Result<Box<Event>, JobError> {
        let unsigned = job::feedback_to(&*self.signer, stamp.next(&*self.clock), request, feedback).await?;
        Ok(self.sign(unsigned).await?)
    }

    /// Says something that may get lost: one attempt.
    pub(crate) async fn mention(&self, stamp: &Stamp, request: &Request, feedback: &Feedback) {
        match self.feedback(stamp, request, feedback).await {
            Ok(event) => {
                self.publish(&event, &request.relays).await;
            }
            Err(error) => tracing::warn!(job = %request.id, %error, "feedback could not be made"),
        }
    }

    /// Publishes to our relays, and on the side to some of the customer's. True when one of ours has it.
    pub(crate) async fn publish(&self, event: &Event, customer_relays: &[String]) -> bool {
        self.publish_aside(event, customer_relays);
        let auth = Some(Arc::clone(&self.signer));
        let answers = self.pool.publish_as(event, &self.config.relays, PUBLISH_TIMEOUT, auth).await;
        for answer in &answers {
            if let Err(error) = &answer.outcome {
                tracing::warn!(relay = %answer.relay, kind = event.kind.as_u16(), %error, "a relay did not take an event");
            }
        }
        answers.iter().any(|answer| answer.outcome.is_ok())
    }

    /// Customers choose these relays, so nothing waits for them and there are few at a time.
    fn publish_aside(&self, event: &Event, customer_relays: &[String]) {
        let own: HashSet<&str> = self.config.relays.iter().map(|url| trim(url)).collect();
        let others = customer_relays.iter().filter(|url| !own.contains(trim(url)));
        let others: Vec<String> = others.take(self.config.customer_relays).cloned().collect();
        if others.is_empty() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.courtesy).try_acquire_owned() else { return };
        let (pool, event) = (self.pool.clone(), event.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let answers = pool.publish(&event, &others, PUBLISH_TIMEOUT).await;
            let taken = answers.iter().filter(|answer| answer.outcome.is_ok()).count();
            tracing::debug!(taken, of = others.len(), "published to relays of a customer");
        });
    }

    /// Publishes until one of our relays has it, or `until` says that it is no use any more.
    pub(crate) async fn deliver(&self, event: &Event, customer_relays: &[String], until: impl Fn() -> bool) -> bool {
        let mut pause = Backoff::new(PUBLISH_PAUSE_MS, Arc::clone(&self.entropy));
        loop {
            if self.publish(event, customer_relays).await {
                return true;
            }
            if until() {
                return false;
            }
            pause.wait().await;
        }
    }
}

fn trim(url: &str) -> &str {
    url.trim_end_matches('/')
}

/// The times of what is said about one job: strictly increasing seconds, so that customers can order it.
#[derive(Debug, Default)]
pub(crate) struct Stamp(AtomicI64);

impl Stamp {
    /// After everything that was signed at `last`.
    pub(crate) fn after(last: Option<&Event>) -> Self {
        Self(AtomicI64::new(last.map_or(0, event::created_at)))
    }

    pub(crate) fn next(&self, clock: &dyn Clock) -> i64 {
        let now = clock.now().secs();
        let step = |last| Some(next_created_at(now, Some(last)));
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, step)
            .map_or(now, |last| next_created_at(now, Some(last)))
    }
}
