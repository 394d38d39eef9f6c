//! What a worker asks of relays, so that a simulation can stand in for them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use nexus_nostr::relay_pool::{Fetched, Interest, Notice};
use nexus_nostr::{Published, RelayPool};
use nostr::event::Event;

/// Relays as a worker uses them. Events that come out were verified: id, signature, and that they were asked for.
pub trait Relays: Send + Sync + 'static {
    /// Publishes to each relay and waits for their answers, at most `limit`: one report for each distinct relay.
    fn publish<'a>(&'a self, event: &'a Event, relays: &'a [String], limit: Duration) -> BoxFuture<'a, Vec<Published>>;

    /// Stored events, then live ones, until the stream is dropped. It ends when the relays are shut down.
    fn subscribe(&self, interest: Interest) -> BoxStream<'static, Arc<Event>>;

    /// Like [`Self::subscribe`], with word of each relay that has sent what it had stored. Where that is not told, the
    /// subscription counts as standing from the beginning.
    fn notices(&self, interest: Interest) -> BoxStream<'static, Notice> {
        let relays = interest.relays.clone();
        let standing = stream::iter(relays).map(|relay| Notice::EndOfStored { relay: relay.into() });
        let events = self.subscribe(interest).map(|event| Notice::Event { relay: "".into(), event });
        standing.chain(events).boxed()
    }

    /// Asks once, at most for `limit`.
    fn fetch(&self, interest: Interest, limit: Duration) -> BoxFuture<'_, Fetched>;
}

impl Relays for RelayPool {
    fn publish<'a>(&'a self, event: &'a Event, relays: &'a [String], limit: Duration) -> BoxFuture<'a, Vec<Published>> {
        Self::publish(self, event, relays, limit).boxed()
    }

    fn subscribe(&self, interest: Interest) -> BoxStream<'static, Arc<Event>> {
        let subscription = Self::subscribe(self, interest);
        let next = |mut subscription: nexus_nostr::Subscription| async move {
            subscription.next_event().await.map(|event| (event, subscription))
        };
        stream::unfold(subscription, next).boxed()
    }

    fn notices(&self, interest: Interest) -> BoxStream<'static, Notice> {
        let next = |mut subscription: nexus_nostr::Subscription| async move {
            subscription.next().await.map(|notice| (notice, subscription))
        };
        stream::unfold(Self::subscribe(self, interest), next).boxed()
    }

    fn fetch(&self, interest: Interest, limit: Duration) -> BoxFuture<'_, Fetched> {
        Self::fetch(self, interest, limit).boxed()
    }
}
