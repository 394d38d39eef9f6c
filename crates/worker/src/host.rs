//! What all turns of one worker share.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use nexus_bus::{SharedBus, Wake};
use nexus_core::payment::Asker;
use nexus_core::{Clock, Entropy, Generation, Hash32, MonoMs, Npub, UnixMs, WorkerId};
use nexus_store::{Fence, Store, installation};
use nexus_vault::{LocalSigner, PoolIdentity};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::WorkerConfig;
use crate::custody::Attended;
use crate::error::TurnError;
use crate::faults::Faults;
use crate::market::Market;
use crate::relays::Relays;
use crate::roster::Roster;
use crate::trace::Traces;
use crate::vitals::Vitals;
use crate::wallet::Wallets;
use crate::web::Web;

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

/// What a worker may be given beside its parts.
#[derive(Default)]
pub struct Extras {
    /// Beats go over this handle, so that they never queue behind other writes; over the worker's own without one.
    pub beats: Option<Store>,
    /// Where it tells how it is.
    pub vitals: Arc<Vitals>,
    /// Where traces of ticks go, if anywhere.
    pub traces: Option<Arc<dyn Traces>>,
    /// What reaches the services of payees; without it zaps are refused.
    pub web: Option<Arc<dyn Web>>,
}

/// Senders remembered for the rate limit, over all agents.
const MAX_SENDERS: usize = 65_536;
/// Payments remembered as sent by this process.
const MAX_DISPATCHED: usize = 65_536;

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
    /// What it reads and writes.
    pub version: u32,
    pub market: Market,
    pub shutdown: CancellationToken,
    /// Beats go over this one.
    pub beats: Store,
    pub vitals: Arc<Vitals>,
    pub traces: Option<Arc<dyn Traces>>,
    pub web: Option<Arc<dyn Web>>,
    /// Signs what this installation asks of owners; there once the worker runs.
    pub runner: OnceLock<LocalSigner>,
    /// Which installation this is, and how often it was put back from a backup; read once.
    installation: OnceLock<String>,
    /// Cuts every turn short.
    cut: CancellationToken,
    /// Something is due or has ended: the turn loop looks again.
    pub notify: Notify,
    /// Agents of this worker changed: the next beat is due now.
    pub news: Notify,
    fence: Mutex<Option<Fence>>,
    beat_sent: AtomicU64,
    roster: Mutex<Roster>,
    /// Turns under way, with what interrupts each, in one order always.
    running: Mutex<BTreeMap<Npub, CancellationToken>>,
    /// What this very process knows of the payments it sent, at the generation that sent them.
    dispatched: Mutex<HashMap<(Hash32, Generation), Asker>>,
    senders: Mutex<Senders>,
    failures: Mutex<HashMap<Npub, u32>>,
    attended: Mutex<Attended>,
}

/// What each sender of each agent wrote in the last minute.
#[derive(Default)]
struct Senders(HashMap<(Npub, Npub), Vec<(i64, i64)>>);

impl Senders {
    /// Counts an inbox row by when it was first looked at: one that waits is looked at again and again.
    fn admit(&mut self, key: (Npub, Npub), row: i64, per_minute: u32, now: UnixMs) -> bool {
        let lately = |at: i64| at > now.0 - 60_000 && at <= now.0;
        if self.0.len() >= MAX_SENDERS && !self.0.contains_key(&key) {
            self.0.retain(|_, rows| rows.last().is_some_and(|(at, _)| lately(*at)));
            if self.0.len() >= MAX_SENDERS {
                // A minute's counts are forgotten rather than kept without bound.
                self.0.clear();
            }
        }
        let rows = self.0.entry(key).or_default();
        rows.retain(|(at, _)| lately(*at));
        if rows.iter().any(|(_, known)| *known == row) {
            return true;
        }
        let room = rows.len() < per_minute as usize;
        if room {
            rows.push((now.0, row));
        }
        room
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Host {
    pub fn new(parts: WorkerParts, extras: Extras, shutdown: CancellationToken) -> Self {
        Self {
            beats: extras.beats.unwrap_or_else(|| parts.store.clone()),
            vitals: extras.vitals,
            traces: extras.traces,
            web: extras.web,
            // Without draining, being told to stop cuts every turn short at once.
            cut: if parts.config.drain_ms == 0 { shutdown.clone() } else { CancellationToken::new() },
            id: parts.id,
            store: parts.store,
            bus: parts.bus,
            clock: parts.clock,
            entropy: parts.entropy,
            relays: parts.relays,
            wallets: parts.wallets,
            pool: parts.pool,
            config: parts.config,
            version: parts.faults.version(),
            faults: parts.faults,
            market: Market::default(),
            shutdown,
            runner: OnceLock::new(),
            installation: OnceLock::new(),
            notify: Notify::new(),
            news: Notify::new(),
            fence: Mutex::new(None),
            beat_sent: AtomicU64::new(0),
            roster: Mutex::new(Roster::default()),
            running: Mutex::new(BTreeMap::new()),
            dispatched: Mutex::new(HashMap::new()),
            senders: Mutex::default(),
            failures: Mutex::new(HashMap::new()),
            attended: Mutex::default(),
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

    /// What owners delivered. Not to be held while the roster is taken.
    pub fn attended(&self) -> MutexGuard<'_, Attended> {
        locked(&self.attended)
    }

    /// Gives an agent up, and wipes what its owner delivered.
    pub fn drop_agent(&self, npub: &Npub) {
        self.roster().drop_agent(npub);
        self.attended().forget(npub);
    }

    /// The same for all. Returns how many they were.
    pub fn drop_all(&self) -> usize {
        let dropped = self.roster().drop_all();
        self.attended().forget_all();
        dropped
    }

    /// After a turn: what it left of an agent that was given up meanwhile is wiped, too.
    pub fn forget_unheld(&self, npub: &Npub) {
        if !self.roster().holds(npub) {
            self.attended().forget(npub);
        }
    }

    /// `<installation>:<epoch>`, the same for as long as this process lives.
    pub async fn installation(&self) -> Result<String, TurnError> {
        if let Some(known) = self.installation.get() {
            return Ok(known.clone());
        }
        let found = installation::this(&self.store).await?;
        let named = found.map_or_else(String::new, |found| format!("{}:{}", found.id, found.epoch));
        Ok(self.installation.get_or_init(|| named).clone())
    }

    /// The fence to write under; none while this worker has to fence itself.
    pub fn fence(&self) -> Option<Fence> {
        if self.mono() >= self.lease_ends() { None } else { *locked(&self.fence) }
    }

    /// The fence for a turn's writes. A lease that ended is no verdict: the next beat may find it whole, and then nobody says
    /// again which agents are ours, so none is dropped for it.
    pub fn live_fence(&self) -> Result<Fence, TurnError> {
        match self.raw_fence() {
            None => Err(TurnError::Stale),
            Some(fence) if self.mono() < self.lease_ends() => Ok(fence),
            Some(_) => Err(TurnError::Interrupted),
        }
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
        self.vitals.beat(sent, self.lease_ends());
        self.vitals.holds(self.roster().len());
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
        let token = self.cut.child_token();
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

    /// Cuts every turn short, also those that are about to begin.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    pub fn note_dispatched(&self, hash: Hash32, generation: Generation, asker: Asker) {
        let mut dispatched = locked(&self.dispatched);
        if dispatched.len() >= MAX_DISPATCHED {
            // Whoever does not know is an heir, and waits longer.
            dispatched.clear();
        }
        dispatched.insert((hash, generation), asker);
    }

    /// As whom this process asks about a payment.
    pub fn asker(&self, hash: Hash32, generation: Generation) -> Asker {
        locked(&self.dispatched).get(&(hash, generation)).copied().unwrap_or(Asker::Heir)
    }

    pub fn forget_dispatched(&self, hash: Hash32, generation: Generation) {
        locked(&self.dispatched).remove(&(hash, generation));
    }

    /// Counts an inbox row of a sender, once however often it is looked at; false if a minute had as many as it may.
    pub fn admit_sender(&self, agent: Npub, sender: Npub, row: i64, per_minute: u32, now: UnixMs) -> bool {
        locked(&self.senders).admit((agent, sender), row, per_minute, now)
    }

    /// How often in a row turns of an agent have failed, this time included.
    pub fn note_failure(&self, npub: Npub) -> u32 {
        let mut failures = locked(&self.failures);
        let count = failures.entry(npub).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }

    pub fn failures(&self, npub: &Npub) -> u32 {
        locked(&self.failures).get(npub).copied().unwrap_or(0)
    }

    pub fn note_success(&self, npub: &Npub) {
        locked(&self.failures).remove(npub);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_waits_is_counted_once() {
        let key = (Npub::from_bytes([1; 32]), Npub::from_bytes([2; 32]));
        let mut senders = Senders::default();
        for look in 0..30 {
            assert!(senders.admit(key, 7, 5, UnixMs(100_000 + look * 5_000)), "look {look}");
        }
        for row in 8..12 {
            assert!(senders.admit(key, row, 5, UnixMs(245_000)));
        }
        assert!(!senders.admit(key, 12, 5, UnixMs(245_000)), "a sixth message in a minute");
        assert!(senders.admit(key, 8, 5, UnixMs(245_000)));
    }

    #[test]
    fn senders_without_end_fill_no_memory() {
        let mut senders = Senders::default();
        for n in 0..(MAX_SENDERS as u64 + 1_000) {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            assert!(senders.admit((Npub::from_bytes([1; 32]), Npub::from_bytes(bytes)), 1, 5, UnixMs(100_000)));
        }
        assert!(senders.0.len() <= MAX_SENDERS);
    }
}
