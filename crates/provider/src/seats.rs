//! How many jobs there may be at the same time, and of whom.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use nexus_core::{Hash32, Npub};

use crate::config::Limits;
use crate::order::Refusal;

/// The places of all jobs that are not over.
#[derive(Clone)]
pub(crate) struct Seats {
    taken: Arc<Mutex<Taken>>,
    limits: Limits,
}

#[derive(Default)]
struct Taken {
    jobs: HashSet<Hash32>,
    unpaid: usize,
    ready: usize,
    of: HashMap<Npub, usize>,
}

/// A job's place. It is free again when this is dropped.
pub(crate) struct Seat {
    taken: Arc<Mutex<Taken>>,
    job: Hash32,
    customer: Npub,
    unpaid: bool,
}

impl Seats {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { taken: Arc::default(), limits }
    }

    /// The place of a new job; none if it has one already.
    pub(crate) fn take(&self, job: Hash32, customer: Npub, unpaid: bool) -> Result<Option<Seat>, Refusal> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.jobs.contains(&job) {
            return Ok(None);
        }
        if taken.of.get(&customer).is_some_and(|count| *count >= self.limits.per_customer) {
            return Err(Refusal::TooManyOfYours);
        }
        let full = match unpaid {
            true => taken.unpaid >= self.limits.open_invoices,
            false => taken.ready >= self.limits.queue + self.limits.concurrency,
        };
        if full {
            return Err(Refusal::Busy);
        }
        Ok(Some(taken.seat(&self.taken, job, customer, unpaid)))
    }

    /// The place of a job that was taken before this process began: it has one whatever the limits say.
    pub(crate) fn retake(&self, job: Hash32, customer: Npub, unpaid: bool) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        (!taken.jobs.contains(&job)).then(|| taken.seat(&self.taken, job, customer, unpaid))
    }
}

impl Taken {
    fn seat(&mut self, shared: &Arc<Mutex<Self>>, job: Hash32, customer: Npub, unpaid: bool) -> Seat {
        self.jobs.insert(job);
        *self.of.entry(customer).or_default() += 1;
        *self.counter(unpaid) += 1;
        Seat { taken: Arc::clone(shared), job, customer, unpaid }
    }

    fn counter(&mut self, unpaid: bool) -> &mut usize {
        if unpaid { &mut self.unpaid } else { &mut self.ready }
    }
}

impl Seat {
    /// Moves a job between the unpaid and the ready. Who has paid is never turned away.
    pub(crate) fn set_unpaid(&mut self, unpaid: bool) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken.counter(self.unpaid) -= 1;
        *taken.counter(unpaid) += 1;
        self.unpaid = unpaid;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.jobs.remove(&self.job);
        *taken.counter(self.unpaid) -= 1;
        if let Some(count) = taken.of.get_mut(&self.customer) {
            *count -= 1;
            if *count == 0 {
                taken.of.remove(&self.customer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats() -> Seats {
        let limits = Limits { concurrency: 1, queue: 1, open_invoices: 2, per_customer: 2, ..Limits::default() };
        Seats::new(limits)
    }

    fn job(n: u8) -> Hash32 {
        Hash32::from_bytes([n; 32])
    }

    fn customer(n: u8) -> Npub {
        Npub::from_bytes([n; 32])
    }

    #[test]
    fn a_job_has_one_place() {
        let seats = seats();
        let first = seats.take(job(1), customer(1), false).unwrap();
        assert!(first.is_some() && seats.take(job(1), customer(1), false).unwrap().is_none());
        drop(first);
        assert!(seats.take(job(1), customer(1), false).unwrap().is_some());
    }

    #[test]
    fn limits_hold_and_places_come_free() {
        let seats = seats();
        let ours: Vec<_> = (1..=2).map(|n| seats.take(job(n), customer(1), true).unwrap()).collect();
        assert!(matches!(seats.take(job(3), customer(1), false), Err(Refusal::TooManyOfYours)));
        assert!(matches!(seats.take(job(3), customer(2), true), Err(Refusal::Busy)));
        drop(ours);
        assert!(seats.take(job(3), customer(1), true).is_ok());
    }

    #[test]
    fn who_has_paid_is_let_in() {
        let seats = seats();
        let _ready: Vec<_> = (1..=2).map(|n| seats.take(job(n), customer(n), false).unwrap()).collect();
        assert!(matches!(seats.take(job(4), customer(4), false), Err(Refusal::Busy)));
        let mut paid = seats.take(job(3), customer(3), true).unwrap().unwrap();
        paid.set_unpaid(false);
        assert!(matches!(seats.take(job(4), customer(4), false), Err(Refusal::Busy)));
        assert!(seats.retake(job(5), customer(5), false).is_some());
    }
}
