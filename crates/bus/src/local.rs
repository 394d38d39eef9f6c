//! The bus inside one process.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::{BoxFuture, Bus, Closed, Heard, Subscription, Wake};

/// Messages that a subscriber may be behind before it is told to re-read.
const CAPACITY: usize = 4_096;

/// A broadcast channel. Closed for its subscribers when the last handle is dropped.
#[derive(Debug)]
pub struct LocalBus {
    sender: broadcast::Sender<Heard>,
}

impl LocalBus {
    pub fn new() -> Arc<Self> {
        Self::with_capacity(CAPACITY)
    }

    /// With room for `capacity` messages (at least 1) for each subscriber.
    pub fn with_capacity(capacity: usize) -> Arc<Self> {
        Arc::new(Self { sender: broadcast::Sender::new(capacity.max(1)) })
    }
}

impl Bus for LocalBus {
    fn publish(&self, wake: Wake) {
        // An error says that nobody listens, which is fine.
        let _ = self.sender.send(Heard::Wake(wake));
    }

    fn subscribe(&self) -> Box<dyn Subscription> {
        Box::new(Listener { receiver: self.sender.subscribe() })
    }
}

/// A place in a broadcast channel.
pub(crate) struct Listener {
    pub(crate) receiver: broadcast::Receiver<Heard>,
}

impl Subscription for Listener {
    fn recv(&mut self) -> BoxFuture<'_, Result<Heard, Closed>> {
        Box::pin(async {
            match self.receiver.recv().await {
                Ok(heard) => Ok(heard),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::debug!(missed, "bus subscriber lagged");
                    Ok(Heard::Lagged)
                }
                Err(broadcast::error::RecvError::Closed) => Err(Closed),
            }
        })
    }
}
