//! What all turns of one worker share.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use nexus_bus::{SharedBus, Wake};
use nexus_core::{Clock, Entropy, Hash32, MonoMs, Npub, UnixMs, WorkerId};
use nexus_store::{Fence, Store};
use nexus_vault::PoolIdentity;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::WorkerConfig;
use crate::faults::Faults;
use crate::market::Market;
use crate::relays::Relays;
use crate::roster::Roster;
use crate::wallet::Wallets;

/// What a worker is made of.
pub struct WorkerParts {
    pub id: WorkerId,
    pub store: Store,
    pub bus: SharedBus,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub relays: Arc<dyn Relays>,
    pub wallets: Arc<dyn Wallets>,
    pub pool: Arc<PoolIdentity>,
    pub config: WorkerConfig,
    pub faults: Faults,
}

/// Senders remembered for the rate limit, over all agents.
const MAX_SENDERS: usize = 65_536;

pub(crate) struct Host {
    pub id: WorkerId,
    pub store: Store,
    pub bus: SharedBus,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub relays: Arc<dyn Relays>,
    pub wallets: Arc<dyn Wallets>,
    pub pool: Arc<PoolIdentity>,
    pub config: WorkerConfig,
    pub faults: Faults,
    pub market: Market,
    pub shutdown: CancellationToken,
    /// Something is due or has ended: the turn loop looks again.
    pub notify: Notify,
    /// Agents of this worker changed: the next beat is due now.
    pub news: Notify,
    fence: Mutex<Option<Fence>>,
    beat_sent: AtomicU64,
    roster: Mutex<Roster>,
    /// Turns under way, with what interrupts each, in one order always.
    running: Mutex<BTreeMap<Npub, CancellationToken>>,
    /// Payments that this very process sent: of these it knows whether its own request is over.
    dispatched: Mutex<HashSet<Hash32>>,
    /// Invoices of agents that may be paid any moment: looked up until they expire.
    watched: Mutex<HashMap<Npub, Vec<Watch>>>,
    senders: Mutex<HashMap<(Npub, Npub), VecDeque<i64>>>,
    failures: Mutex<HashMap<Npub, u32>>,
}

/// An unpaid invoice of an agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    pub hash: Hash32,
    pub expires_at: UnixMs,
    pub looks: u32,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Host {
    pub fn new(parts: WorkerParts, shutdown: CancellationToken) -> Self {
        Self {
            id: parts.id,
            store: parts.store,
            bus: parts.bus,
            clock: parts.clock,
            entropy: parts.entropy,
            relays: parts.relays,
            wallets: parts.wallets,
            pool: parts.pool,
            config: parts.config,
            faults: parts.faults,
            market: Market::default(),
            shutdown,
            notify: Notify::new(),
            news: Notify::new(),
            fence: Mutex::new(None),
            beat_sent: AtomicU64::new(0),
            roster: Mutex::new(Roster::default()),
            running: Mutex::new(BTreeMap::new()),
            dispatched: Mutex::new(HashSet::new()),
            watched: Mutex::new(HashMap::new()),
            senders: Mutex::new(HashMap::new()),
            failures: Mutex::new(HashMap::new()),
        }
    }

    pub fn now(&self) -> UnixMs {
        self.clock.now()
    }

    pub fn mono(&self) -> MonoMs {
        self.clock.mono()
    }

    pub fn roster(&self) -> MutexGuard<'_, Roster> {
        locked(&self.roster)
    }

    /// The fence to write under; none while this worker has to fence itself.
    pub fn fence(&self) -> Option<Fence> {
        if self.mono() >= self.lease_ends() { None } else { *locked(&self.fence) }
    }

    /// The fence as registered, whether or not the lease has ended.
    pub fn raw_fence(&self) -> Option<Fence> {
        *locked(&self.fence)
    }

    pub fn set_fence(&self, fence: Option<Fence>) {
        *locked(&self.fence) = fence;
    }

    pub fn note_beat(&self, sent: MonoMs) {
        self.beat_sent.store(sent.0, Ordering::SeqCst);
    }

    /// One second before others may believe this worker dead: nothing leaves after that.
    pub fn lease_ends(&self) -> MonoMs {
        let lease = self.config.lease_ms.saturating_sub(1_000).max(1);
        MonoMs(self.beat_sent.load(Ordering::SeqCst)).plus_ms(lease)
    }

    /// Has an agent looked at now, if it is held here.
    pub fn wake(&self, npub: &Npub) -> bool {
        let held = self.roster().wake(npub, self.mono());
        if held {
            self.notify.notify_one();
        }
        held
    }

    /// Tells the live streams where to look.
    pub fn announce(&self, npub: Npub, seqs: &[i64]) {
        for seq in seqs {
            self.bus.publish(Wake::Event { npub, seq: *seq });
        }
    }

    pub fn enter(&self, npub: Npub) -> CancellationToken {
        let token = self.shutdown.child_token();
        locked(&self.running).insert(npub, token.clone());
        token
    }

    pub fn leave(&self, npub: &Npub) {
        locked(&self.running).remove(npub);
    }

    pub fn is_running(&self, npub: &Npub) -> bool {
        locked(&self.running).contains_key(npub)
    }

    /// Cuts a turn short: between steps, or while it waits.
    pub fn interrupt(&self, npub: &Npub) {
        if let Some(token) = locked(&self.running).get(npub) {
            token.cancel();
        }
    }

    pub fn interrupt_all(&self) {
        for token in locked(&self.running).values() {
            token.cancel();
        }
    }

    pub fn note_dispatched(&self, hash: Hash32) {
        locked(&self.dispatched).insert(hash);
    }

    pub fn dispatched_here(&self, hash: &Hash32) -> bool {
        locked(&self.dispatched).contains(hash)
    }

    pub fn forget_dispatched(&self, hash: &Hash32) {
        locked(&self.dispatched).remove(hash);
    }

    pub fn watch(&self, npub: Npub, hash: Hash32, expires_at: UnixMs) {
        locked(&self.watched).entry(npub).or_default().push(Watch { hash, expires_at, looks: 0 });
    }

    pub fn watches(&self, npub: &Npub) -> Vec<Watch> {
        locked(&self.watched).get(npub).cloned().unwrap_or_default()
    }

    pub fn set_watches(&self, npub: Npub, watches: Vec<Watch>) {
        if watches.is_empty() {
            locked(&self.watched).remove(&npub);
        } else {
            locked(&self.watched).insert(npub, watches);
        }
    }

    /// Counts one more message of a sender; false if it had as many as a minute may have.
    pub fn admit_sender(&self, agent: Npub, sender: Npub, per_minute: u32, now: UnixMs) -> bool {
        let mut senders = locked(&self.senders);
        if senders.len() >= MAX_SENDERS {
            senders.retain(|_, at| at.back().is_some_and(|last| *last > now.0 - 60_000));
        }
        let at = senders.entry((agent, sender)).or_default();
        while at.front().is_some_and(|first| *first <= now.0 - 60_000) {
            at.pop_front();
        }
        if at.len() >= per_minute as usize {
            return false;
        }
        at.push_back(now.0);
        true
    }

    /// How often in a row turns of an agent have failed, this time included.
    pub fn note_failure(&self, npub: Npub) -> u32 {
        let mut failures = locked(&self.failures);
        let count = failures.entry(npub).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }

    pub fn note_success(&self, npub: &Npub) {
        locked(&self.failures).remove(npub);
    }
}
