//! Relays, as far as a wallet's user needs them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nostr::event::Event;
use nostr::filter::Filter;

/// What a subscription tells.
#[derive(Debug, Clone)]
pub enum Heard {
    Event(Arc<Event>),
    /// One relay has sent what it had stored: from now on it tells what comes.
    Standing,
}

/// Relays: this crate speaks to none itself. Whoever implements it decides which addresses may be connected to.
pub trait Line: Send + Sync {
    /// Publishes to each relay; true if one of them took it. Nothing leaves later than `limit` from now.
    fn publish<'a>(&'a self, event: &'a Event, relays: &'a [String], limit: Duration) -> BoxFuture<'a, bool>;

    /// What matches one of the filters, stored and then live, until the stream is dropped.
    fn subscribe(&self, relays: &[String], filters: Vec<Filter>) -> BoxStream<'static, Heard>;
}
