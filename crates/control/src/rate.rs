//! How often one key or one address may call: token buckets in memory, bounded.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use nexus_core::MonoMs;

use crate::config::Rate;

/// Buckets kept at once. Beyond it, refilled ones are forgotten; if none is, newcomers share one bucket.
const MAX_BUCKETS: usize = 65_536;
/// One request costs this much, so that a minute's rate refills in whole numbers by the millisecond.
const COST: u64 = 60_000;

#[derive(Clone, Copy)]
struct Bucket {
    level: u64,
    at: MonoMs,
}

/// Buckets by `K`.
pub struct RateLimiter<K> {
    rate: Rate,
    buckets: Mutex<HashMap<Option<K>, Bucket>>,
}

impl<K: Eq + Hash> RateLimiter<K> {
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Takes one request, or says how many seconds to wait.
    pub fn take(&self, key: K, now: MonoMs) -> Result<(), u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Some(key);
        let key = if buckets.contains_key(&key) || self.make_room(&mut buckets, now) { key } else { None };
        let bucket = buckets.entry(key).or_insert(Bucket { level: self.full(), at: now });
        *bucket = self.refilled(*bucket, now);
        if let Some(left) = bucket.level.checked_sub(COST) {
            bucket.level = left;
            return Ok(());
        }
        let missing = COST - bucket.level;
        Err(missing.div_ceil(u64::from(self.rate.per_minute.max(1))).div_ceil(1_000))
    }

    fn full(&self) -> u64 {
        u64::from(self.rate.burst.max(1)) * COST
    }

    fn refilled(&self, bucket: Bucket, now: MonoMs) -> Bucket {
        let gained = now.since(bucket.at).saturating_mul(u64::from(self.rate.per_minute));
        Bucket { level: bucket.level.saturating_add(gained).min(self.full()), at: now }
    }

    fn make_room(&self, buckets: &mut HashMap<Option<K>, Bucket>, now: MonoMs) -> bool {
        if buckets.len() >= MAX_BUCKETS {
            buckets.retain(|_, bucket| self.refilled(*bucket, now).level < self.full());
        }
        buckets.len() < MAX_BUCKETS
    }
}

/// What counts as one address: an IPv6 customer has a whole /64.
pub fn bucket_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let limiter = RateLimiter::new(Rate { per_minute: 60, burst: 3 });
        for _ in 0..3 {
            limiter.take("a", MonoMs(0)).unwrap();
        }
        assert_eq!(limiter.take("a", MonoMs(0)), Err(1));
        limiter.take("b", MonoMs(0)).unwrap();
        assert!(limiter.take("a", MonoMs(999)).is_err());
        limiter.take("a", MonoMs(1_000)).unwrap();
        assert!(limiter.take("a", MonoMs(1_000)).is_err());
        // Rest refills no further than the burst.
        for _ in 0..3 {
            limiter.take("a", MonoMs(10_000_000)).unwrap();
        }
        assert!(limiter.take("a", MonoMs(10_000_000)).is_err());
    }

    #[test]
    fn memory_is_bounded_and_strangers_share_what_is_left() {
        let limiter = RateLimiter::new(Rate { per_minute: 1, burst: 1 });
        for n in 0..MAX_BUCKETS as u64 {
            limiter.take(n, MonoMs(0)).unwrap();
        }
        assert!(limiter.take(u64::MAX, MonoMs(0)).is_ok());
        assert!(limiter.take(u64::MAX - 1, MonoMs(0)).is_err());
        assert!(limiter.buckets.lock().unwrap().len() <= MAX_BUCKETS + 1);
        limiter.take(u64::MAX - 1, MonoMs(120_000)).unwrap();
        assert!(limiter.buckets.lock().unwrap().len() < 10);
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let a = bucket_of("2001:db8::1".parse().unwrap());
        assert_eq!(a, bucket_of("2001:db8::ffff:1".parse().unwrap()));
        assert_ne!(a, bucket_of("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(bucket_of("::ffff:10.0.0.1".parse().unwrap()), bucket_of("10.0.0.1".parse().unwrap()));
    }
}
