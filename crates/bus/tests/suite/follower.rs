//! Someone who uses the bus as it is meant: a message says where to look, a timer covers the ones that never come.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nexus_bus::{Bus, Heard, SharedBus, Subscription, Wake};
use nexus_core::time::random;
use nexus_testkit::SeededEntropy;

use crate::rig::{AGENT, event};

const ROWS: i64 = 200;
const POLL: Duration = Duration::from_millis(50);

/// What becomes of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mischief {
    /// A third is lost, some are doubled, some held back until much later, some made up.
    Mixed,
    Lost,
    Doubled,
    /// Each comes after the one that follows it, the last when nobody waits any more.
    Late,
}

struct Unreliable {
    inner: SharedBus,
    mischief: Mischief,
    entropy: SeededEntropy,
    held: Mutex<Vec<Wake>>,
}

impl Bus for Unreliable {
    fn publish(&self, wake: Wake) {
        let mut held = self.held.lock().unwrap();
        match self.mischief {
            Mischief::Mixed => {}
            Mischief::Lost => return,
            Mischief::Doubled => {
                self.inner.publish(wake);
                return self.inner.publish(wake);
            }
            Mischief::Late => {
                held.push(wake);
                if held.len() > 1 {
                    self.inner.publish(held.remove(0));
                }
                return;
            }
        }
        match random::<1>(&self.entropy)[0] % 6 {
            0 | 1 => {}
            2 => held.push(wake),
            3 => {
                self.inner.publish(wake);
                self.inner.publish(wake);
            }
            4 => {
                let forged = i64::from_be_bytes(random(&self.entropy)) & i64::MAX;
                self.inner.publish(event(forged));
                self.inner.publish(wake);
            }
            _ => {
                self.inner.publish(wake);
                // The oldest held one arrives after newer ones.
                if !held.is_empty() {
                    self.inner.publish(held.remove(0));
                }
            }
        }
    }

    fn subscribe(&self) -> Box<dyn Subscription> {
        self.inner.subscribe()
    }
}

/// Rows are stored, then announced through a bus that does its worst. A reader that takes each row once, in order,
/// has them all shortly after the last, whatever it was told.
pub async fn reaches_the_truth(writes: SharedBus, reads: SharedBus, mischief: Mischief, seed: u64) {
    let stored = Arc::new(AtomicI64::new(0));
    let reader = tokio::spawn(follow(reads.subscribe(), stored.clone()));
    let bus = Unreliable { inner: writes, mischief, entropy: SeededEntropy::new(seed), held: Mutex::default() };
    for seq in 1..=ROWS {
        stored.store(seq, Ordering::SeqCst);
        bus.publish(event(seq));
        if random::<1>(&bus.entropy)[0] < 32 {
            tokio::task::yield_now().await;
        }
    }
    let rows = tokio::time::timeout(Duration::from_secs(60), reader).await.expect("the reader ends").unwrap();
    assert_eq!(rows, (1..=ROWS).collect::<Vec<_>>(), "{mischief:?}, seed {seed}");
    // What is still held comes when nobody waits for it any more.
    bus.held.lock().unwrap().drain(..).for_each(|wake| bus.inner.publish(wake));
}

async fn follow(mut bus: Box<dyn Subscription>, stored: Arc<AtomicI64>) -> Vec<i64> {
    let mut rows = Vec::new();
    while rows.len() < usize::try_from(ROWS).unwrap() {
        let last = rows.last().copied().unwrap_or(0);
        rows.extend(last + 1..=stored.load(Ordering::SeqCst));
        loop {
            match tokio::time::timeout(POLL, bus.recv()).await {
                Ok(Ok(Heard::Wake(Wake::Event { npub, .. }))) if npub == AGENT => break,
                Ok(Ok(Heard::Wake(_))) => {}
                Ok(Ok(Heard::Lagged)) | Err(_) => break,
                Ok(Err(closed)) => panic!("{closed}"),
            }
        }
    }
    rows
}
