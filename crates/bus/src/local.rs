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

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_core::Npub;

    const AGENT: Npub = Npub::from_bytes([1; 32]);

    #[tokio::test]
    async fn everyone_hears_what_comes_after_they_joined() {
        let bus = LocalBus::new();
        bus.publish(Wake::Reconcile);
        let (mut first, mut second) = (bus.subscribe(), bus.subscribe());
        bus.publish(Wake::Event { npub: AGENT, seq: 7 });
        for listener in [&mut first, &mut second] {
            assert_eq!(listener.recv().await, Ok(Heard::Wake(Wake::Event { npub: AGENT, seq: 7 })));
        }
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_to_reread_and_goes_on() {
        let bus = LocalBus::with_capacity(2);
        let mut slow = bus.subscribe();
        for seq in 1..=5 {
            bus.publish(Wake::Event { npub: AGENT, seq });
        }
        assert_eq!(slow.recv().await, Ok(Heard::Lagged));
        assert_eq!(slow.recv().await, Ok(Heard::Wake(Wake::Event { npub: AGENT, seq: 4 })));
        assert_eq!(slow.recv().await, Ok(Heard::Wake(Wake::Event { npub: AGENT, seq: 5 })));
        drop(bus);
        assert_eq!(slow.recv().await, Err(Closed));
    }
}
