use std::sync::Arc;
use std::time::Duration;

use nexus_core::{Clock, Hash32, Msat, Npub};
use nexus_nostr::event::{self, Head};
use nexus_nostr::job::{
    Dialect, Job, Status, UpdateBody, await_filter, clear_request, encrypted_request, private_part, receive_update,
    request_to,
};
use nexus_nostr::relay_pool::{Interest, RelayPool, Subscription};
use nexus_seal::Signer;
use nexus_testkit::TestClock;
use nostr::event::Event;

use super::{Relay, TestSigner, pool};

const PATIENCE: Duration = Duration::from_secs(15);

/// Somebody who buys.
pub struct Customer {
    pub signer: Arc<TestSigner>,
    pub pool: RelayPool,
    pub relay: String,
    pub provider: Npub,
}

/// One job, as its customer sees it.
pub struct Bought {
    pub request: Event,
    updates: Subscription,
    signer: Arc<TestSigner>,
    provider: Npub,
}

impl Customer {
    pub fn new(seed: u8, relay: &Relay, provider: Npub) -> Self {
        Self { signer: Arc::new(TestSigner::new(seed)), pool: pool(), relay: relay.url(), provider }
    }

    pub fn job(prompt: &str, bid: Option<Msat>) -> Job {
        Job { prompt: prompt.into(), bid, ..Job::default() }
    }

    fn now() -> i64 {
        TestClock::default().now().secs()
    }

    pub async fn sealed(&self, job: &Job) -> Event {
        self.signer.sign_now(request_to(&*self.signer, Self::now(), &self.provider, job).await.unwrap())
    }

    pub async fn sealed_nip04(&self, job: &Job) -> Event {
        let hidden = private_part(job).unwrap();
        let ciphertext = self.signer.nip04_encrypt(&self.provider, &hidden).await.unwrap();
        let head = Head::new(self.signer.public_key(), Self::now());
        self.signer.sign_now(encrypted_request(head, &self.provider, job, &ciphertext))
    }

    pub fn clear(&self, job: &Job, provider: Option<&Npub>) -> Event {
        let head = Head::new(self.signer.public_key(), Self::now());
        self.signer.sign_now(clear_request(head, provider, job, Dialect::Standard))
    }

    /// Listens for answers, then publishes.
    pub async fn send(&self, request: Event) -> Bought {
        let updates = self.listen(&request);
        self.publish(&request).await;
        Bought { request, updates, signer: self.signer.clone(), provider: self.provider }
    }

    /// Listens alone, for a request published before.
    pub fn hear(&self, request: Event) -> Bought {
        Bought { updates: self.listen(&request), request, signer: self.signer.clone(), provider: self.provider }
    }

    fn listen(&self, request: &Event) -> Subscription {
        let filters = vec![await_filter(event::hash(&request.id), &self.provider)];
        self.pool.subscribe(Interest { relays: vec![self.relay.clone()], filters, auth: Vec::new() })
    }

    pub async fn publish(&self, event: &Event) {
        let answers = self.pool.publish(event, std::slice::from_ref(&self.relay), Duration::from_secs(5)).await;
        assert!(answers.iter().all(|answer| answer.outcome.is_ok()), "{answers:?}");
    }
}

impl Bought {
    pub fn id(&self) -> Hash32 {
        event::hash(&self.request.id)
    }

    /// The next answer, with its event.
    pub async fn next(&mut self) -> (UpdateBody, Arc<Event>) {
        let event = tokio::time::timeout(PATIENCE, self.updates.next_event()).await.expect("an answer").unwrap();
        let update = receive_update(&event, self.id(), &self.provider, &*self.signer).await.unwrap();
        (update.body, event)
    }

    /// Whether nothing comes for a while.
    pub async fn silent(&mut self, ms: u64) -> bool {
        tokio::time::timeout(Duration::from_millis(ms), self.updates.next_event()).await.is_err()
    }

    /// Amount and invoice of the payment that is asked for next.
    pub async fn invoice(&mut self) -> (Msat, String) {
        match self.next().await.0 {
            UpdateBody::Feedback(feedback) => {
                assert_eq!(feedback.status, Status::PaymentRequired, "{}", feedback.text);
                (feedback.amount.unwrap(), feedback.bolt11.unwrap())
            }
            UpdateBody::Result(_) => panic!("a result before payment"),
        }
    }

    /// The words of the error that comes next.
    pub async fn error(&mut self) -> String {
        match self.next().await.0 {
            UpdateBody::Feedback(feedback) => {
                assert_eq!(feedback.status, Status::Error);
                if feedback.text.is_empty() { feedback.content } else { feedback.text }
            }
            UpdateBody::Result(_) => panic!("a result instead of an error"),
        }
    }

    /// Everything up to the result: the feedback in between, and the result with its event.
    pub async fn result(&mut self) -> (Vec<UpdateBody>, nexus_nostr::JobResult, Arc<Event>) {
        let mut before = Vec::new();
        loop {
            match self.next().await {
                (UpdateBody::Result(result), event) => return (before, result, event),
                (feedback, _) => before.push(feedback),
            }
        }
    }
}

/// What feedback of one status said.
pub fn texts(updates: &[UpdateBody], wanted: &Status) -> Vec<String> {
    let feedback = updates.iter().filter_map(|update| match update {
        UpdateBody::Feedback(feedback) if feedback.status == *wanted => Some(feedback.content.clone()),
        _ => None,
    });
    feedback.collect()
}
