//! How much one address or key may write, and how many connections an address may hold.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nexus_core::{Clock, MonoMs, Npub};

use crate::RelayConfig;

const WINDOW_MS: u64 = 60_000;
/// Addresses and keys that are counted at once. When more write, the oldest windows make room.
const MAX_COUNTED: usize = 65_536;

/// Counts in windows of a minute.
struct Windows<K>(HashMap<K, (MonoMs, u32)>);

impl<K: Eq + Hash + Copy> Windows<K> {
    /// Counts one; false when the window is full.
    fn count(&mut self, key: K, limit: u32, now: MonoMs) -> bool {
        if self.0.len() >= MAX_COUNTED && !self.0.contains_key(&key) {
            self.0.retain(|_, (since, _)| now.since(*since) < WINDOW_MS);
            if self.0.len() >= MAX_COUNTED {
                return false;
            }
        }
        let (since, used) = self.0.entry(key).or_insert((now, 0));
        if now.since(*since) >= WINDOW_MS {
            (*since, *used) = (now, 0);
        }
        *used = used.saturating_add(1);
        *used <= limit
    }

    /// Whether a window is full, without counting.
    fn is_full(&self, key: &K, limit: u32, now: MonoMs) -> bool {
        self.0.get(key).is_some_and(|(since, used)| now.since(*since) < WINDOW_MS && *used >= limit)
    }
}

struct Counts {
    addresses: Windows<IpAddr>,
    keys: Windows<Npub>,
    connections: HashMap<IpAddr, usize>,
    open: usize,
}

/// The relay's counters.
pub(crate) struct Quotas {
    clock: Arc<dyn Clock>,
    config: Arc<RelayConfig>,
    counts: Mutex<Counts>,
}

/// A counted connection; gives its place back when dropped.
pub(crate) struct Place {
    quotas: Arc<Quotas>,
    address: IpAddr,
}

impl Quotas {
    pub(crate) fn new(clock: Arc<dyn Clock>, config: Arc<RelayConfig>) -> Arc<Self> {
        let (addresses, keys) = (Windows(HashMap::new()), Windows(HashMap::new()));
        let counts = Mutex::new(Counts { addresses, keys, connections: HashMap::new(), open: 0 });
        Arc::new(Self { clock, config, counts })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_exempt(&self, address: IpAddr) -> bool {
        self.config.trust_loopback && address.to_canonical().is_loopback()
    }

    /// Room for one more connection from here, if there is.
    pub(crate) fn connect(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let (address, exempt) = (network(address), self.is_exempt(address));
        let mut counts = self.counts();
        let here = counts.connections.get(&address).copied().unwrap_or(0);
        if counts.open >= self.config.max_connections || (!exempt && here >= self.config.max_connections_per_address) {
            return None;
        }
        counts.open += 1;
        counts.connections.insert(address, here + 1);
        Some(Place { quotas: self.clone(), address })
    }

    /// Whether an address has used up its minute.
    pub(crate) fn address_is_full(&self, address: IpAddr) -> bool {
        let (now, limit) = (self.clock.mono(), self.config.writes_per_minute_address);
        !self.is_exempt(address) && self.counts().addresses.is_full(&network(address), limit, now)
    }

    /// Counts one event of an address; false when it is one too many.
    pub(crate) fn address_may_write(&self, address: IpAddr) -> bool {
        let now = self.clock.mono();
        self.is_exempt(address)
            || self.counts().addresses.count(network(address), self.config.writes_per_minute_address, now)
    }

    /// Counts one event of a key that was proved; false when it is one too many.
    pub(crate) fn key_may_write(&self, key: Npub, address: IpAddr) -> bool {
        let now = self.clock.mono();
        self.is_exempt(address) || self.counts().keys.count(key, self.config.writes_per_minute_key, now)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.quotas.counts();
        counts.open = counts.open.saturating_sub(1);
        if let Some(here) = counts.connections.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                counts.connections.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: all of an IPv6 /64, since anybody with one has all of it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_core::UnixMs;
    use nexus_testkit::ManualClock;

    fn quotas(config: RelayConfig) -> (Arc<ManualClock>, Arc<Quotas>) {
        let clock = Arc::new(ManualClock::at(UnixMs(0)));
        (clock.clone(), Quotas::new(clock, Arc::new(config)))
    }

    #[test]
    fn a_window_fills_and_opens_again() {
        let (clock, quotas) = quotas(RelayConfig { writes_per_minute_address: 2, ..RelayConfig::default() });
        let (a, b): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        assert!(quotas.address_may_write(a) && quotas.address_may_write(b));
        assert!(!quotas.address_may_write(a), "one /64 is one address");
        assert!(quotas.address_may_write("127.0.0.1".parse().unwrap()));
        clock.advance_ms(60_000);
        assert!(quotas.address_may_write(a));
    }

    #[test]
    fn connections_are_counted_until_dropped() {
        let (_, quotas) = quotas(RelayConfig { max_connections_per_address: 1, ..RelayConfig::default() });
        let address = "203.0.113.9".parse().unwrap();
        let place = quotas.connect(address);
        assert!(place.is_some() && quotas.connect(address).is_none());
        drop(place);
        assert!(quotas.connect(address).is_some());
    }
}
