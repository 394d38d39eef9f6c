//! One user's line to its signer: questions and answers, kind 24133, closed to each other by NIP-44.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use nexus_core::time::random;
use nexus_core::{Clock, Entropy, Npub};
use nexus_seal::event::{npub_of, public_key, tag, timestamp, unsigned};
use nexus_seal::{BoxFuture, SecretText, Signer, SignerError};
use nostr::event::{Event, Kind};
use nostr::filter::Filter;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::kinds::REMOTE_SIGNING;
use crate::relay_pool::{Interest, RelayPool};

/// What an agent asks of its signer, as signers want to be told when they are connected.
pub const PERMISSIONS: &str = "sign_event,nip44_encrypt,nip44_decrypt,nip04_encrypt,nip04_decrypt";

/// A question is sent so often before the signer counts as offline.
const ATTEMPTS: u32 = 2;
/// Longest words of a signer that are passed on, in characters.
const MAX_WORDS: usize = 200;

/// Relays, as far as a signer's user needs them.
pub trait Line: Send + Sync + 'static {
    /// Publishes; true if a relay took it.
    fn publish<'a>(&'a self, event: &'a Event, relays: &'a [String], limit: Duration) -> BoxFuture<'a, bool>;

    /// Verified events, until the stream is dropped.
    fn subscribe(&self, interest: Interest) -> BoxStream<'static, Arc<Event>>;
}

impl Line for RelayPool {
    fn publish<'a>(&'a self, event: &'a Event, relays: &'a [String], limit: Duration) -> BoxFuture<'a, bool> {
        Box::pin(async move { Self::publish(self, event, relays, limit).await.iter().any(|r| r.outcome.is_ok()) })
    }

    fn subscribe(&self, interest: Interest) -> BoxStream<'static, Arc<Event>> {
        let next = |mut subscription: crate::Subscription| async move {
            subscription.next_event().await.map(|event| (event, subscription))
        };
        futures::stream::unfold(Self::subscribe(self, interest), next).boxed()
    }
}

#[derive(Serialize)]
struct Question<'a> {
    id: &'a str,
    method: &'a str,
    params: &'a [&'a str],
}

#[derive(Deserialize)]
struct Said {
    id: String,
    #[serde(default)]
    result: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

/// Who asks, whom, and where.
#[derive(Clone)]
pub struct Link {
    /// The signer's own key, which is not the user's.
    pub signer: Npub,
    pub relays: Vec<String>,
    /// The key that the signer knows this user's program by.
    pub client: Arc<dyn Signer>,
    pub line: Arc<dyn Line>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// For one answer.
    pub patience: Duration,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("signer", &self.signer).field("relays", &self.relays).finish_non_exhaustive()
    }
}

impl Link {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// `Offline` when nothing came in time; `Refused` with the signer's words.
    pub async fn ask(&self, method: &str, params: &[&str]) -> Result<String, SignerError> {
        let id = hex::encode(random::<16>(&*self.entropy));
        let question = serde_json::to_string(&Question { id: &id, method, params })
            .map_err(|_| SignerError::Cipher("the question cannot be written"))?;
        let mut answers = self.line.subscribe(self.interest(Some(self.signer)));
        let mut taken = false;
        for _ in 0..ATTEMPTS {
            let event = self.closed(&question).await?;
            let until = Instant::now() + self.patience / ATTEMPTS;
            taken |= self.line.publish(&event, &self.relays, self.patience / ATTEMPTS).await;
            while let Ok(Some(event)) = timeout_at(until, answers.next()).await {
                match self.read(&event).await {
                    Some(said) if said.id == id => return answered(said),
                    _ => {}
                }
            }
        }
        let why = if taken { "it does not answer" } else { "its relays do not take the question" };
        Err(SignerError::Offline(why.to_owned()))
    }

    /// Waits for the signer that was told `secret` (nostrconnect). `signer` of this link is not looked at.
    pub async fn first_word(&self, secret: &str) -> Result<Npub, SignerError> {
        let until = Instant::now() + self.patience;
        let mut answers = self.line.subscribe(self.interest(None));
        while let Ok(Some(event)) = timeout_at(until, answers.next()).await {
            let from = Self { signer: npub_of(&event.pubkey), ..self.clone() };
            if from.read(&event).await.is_some_and(|said| said.result.as_deref() == Some(secret)) {
                return Ok(from.signer);
            }
        }
        Err(SignerError::Offline("no signer connected in time".to_owned()))
    }

    fn interest(&self, from: Option<Npub>) -> Interest {
        let filter = Filter::new().kind(Kind::from_u16(REMOTE_SIGNING)).pubkey(public_key(&self.client.public_key()));
        let filter = match from {
            Some(signer) => filter.author(public_key(&signer)),
            None => filter,
        };
        Interest { relays: self.relays.clone(), filters: vec![filter], auth: vec![Arc::clone(&self.client)] }
    }

    async fn closed(&self, question: &str) -> Result<Event, SignerError> {
        let content = self.client.nip44_encrypt(&self.signer, question).await?;
        let tags = vec![tag("p", [self.signer.to_hex().as_str()])];
        let now = timestamp(self.clock.now());
        self.client.sign(unsigned(&self.client.public_key(), REMOTE_SIGNING, now, tags, content)).await
    }

    /// What does not open is not for this question.
    async fn read(&self, event: &Event) -> Option<Said> {
        if npub_of(&event.pubkey) != self.signer {
            return None;
        }
        let text = self.client.nip44_decrypt(&self.signer, &event.content).await.ok()?;
        serde_json::from_str(SecretText::new(text).expose()).ok()
    }
}

fn answered(said: Said) -> Result<String, SignerError> {
    let words = |text: String| text.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect::<String>();
    match (said.result, said.error.filter(|error| !error.is_empty())) {
        // It wants its user's word first, at an address of its own.
        (Some(result), Some(url)) if result == "auth_url" => {
            Err(SignerError::Refused(format!("it asks you to allow this at {}", words(url))))
        }
        (_, Some(error)) => Err(SignerError::Refused(words(error))),
        (Some(result), None) => Ok(result),
        (None, None) => Err(SignerError::Refused("it answered with nothing".to_owned())),
    }
}
