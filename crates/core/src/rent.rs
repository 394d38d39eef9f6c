//! An agent's own rent: what its owner signed that it may pay for its hosting, and what it began to pay.
//!
//! Whoever hosts it asks for the money, and writes the database. So what is asked is believed in nothing: the payee is
//! pinned in the signed policy, and what was begun is counted in the encrypted state as well.

use serde::{Deserialize, Serialize};

use crate::availability::Month;
use crate::id::Hash32;
use crate::money::Msat;
use crate::policy::Policy;
use crate::time::UnixMs;

/// The kind of what control asks the agent's worker for.
pub const ASK_RENT: &str = "rent";

/// In the policy: the agent pays its own hosting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rent {
    /// At most so much in a calendar month (UTC), fees included. No other limit of the policy counts it.
    pub month_msat: Msat,
    /// Public key of the node that hosting invoices come from: 33 bytes in hex, as BOLT 11 has it.
    pub payee: String,
}

impl Rent {
    /// Whether the payee is a compressed public key, as invoices name theirs.
    pub fn is_valid(&self) -> bool {
        self.payee.len() == 66
            && (self.payee.starts_with("02") || self.payee.starts_with("03"))
            && self.payee.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }
}

/// What control asks for: the invoice of one month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RentDue {
    /// BOLT 11.
    pub invoice: String,
}

/// What became of it, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RentPaid {
    pub payment_hash: Hash32,
    /// As in payments.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Payments of one month that the state remembers at most.
const MAX_BEGUN: usize = 64;

/// A payment that was begun, with all that it may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub hash: Hash32,
    pub cost: Msat,
    /// Sends that were decided on, from 1.
    pub attempt: u32,
    pub expires_at: UnixMs,
}

/// What was begun in a month, whatever a database says became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RentBook {
    /// `yyyymm`.
    pub month: i64,
    pub begun: Vec<Begun>,
}

impl RentBook {
    /// The month to count in: a clock that went back opens no new one.
    pub fn month_at(&self, now: UnixMs) -> Month {
        Month(Month::of(now).0.max(self.month))
    }

    pub fn used(&self, month: Month) -> Msat {
        if self.month == month.0 {
            self.begun.iter().fold(Msat::ZERO, |sum, begun| sum.saturating_add(begun.cost))
        } else {
            Msat::ZERO
        }
    }

    pub fn find(&self, hash: &Hash32) -> Option<&Begun> {
        self.begun.iter().find(|begun| begun.hash == *hash)
    }

    /// Counts a payment that begins.
    ///
    /// # Errors
    /// [`RentRefused::Cap`] when the month has no room for it.
    pub fn begin(&mut self, month: Month, new: Begun, cap: Msat) -> Result<(), RentRefused> {
        let used = self.used(month);
        if used.saturating_add(new.cost) > cap || (self.month == month.0 && self.begun.len() >= MAX_BEGUN) {
            return Err(RentRefused::Cap { cost: new.cost, left: cap.saturating_sub(used), cap });
        }
        if self.month != month.0 {
            *self = Self { month: month.0, begun: Vec::new() };
        }
        self.begun.push(new);
        Ok(())
    }

    /// The next send of a payment that surely failed: it is counted already.
    pub fn again(&mut self, hash: &Hash32) {
        for begun in self.begun.iter_mut().filter(|begun| begun.hash == *hash) {
            begun.attempt = begun.attempt.saturating_add(1);
        }
    }

    /// The wallet itself is certain that nothing of it was paid, nor will be.
    pub fn over(&mut self, hash: &Hash32) {
        self.begun.retain(|begun| begun.hash != *hash);
    }
}

/// Why rent is not paid, in words for the agent's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RentRefused {
    #[error("the policy pays no rent: `nexus agent rent` signs that it does")]
    NotAllowed,
    #[error("the agent is frozen")]
    Frozen,
    #[error("the invoice is not from the node that the policy names")]
    Payee,
    #[error("this takes up to {cost}, and {left} of the month's {cap} are left: `nexus agent rent` raises it")]
    Cap { cost: Msat, left: Msat, cap: Msat },
    #[error("the wallet has {balance}; this takes up to {cost} and has to leave the reserve of {reserve}")]
    Reserve { balance: Msat, cost: Msat, reserve: Msat },
}

/// Whether the policy lets its agent pay this node rent at all.
pub fn allows<'a>(policy: &'a Policy, payee: &str) -> Result<&'a Rent, RentRefused> {
    let rent = policy.rent.as_ref().ok_or(RentRefused::NotAllowed)?;
    if policy.frozen {
        return Err(RentRefused::Frozen);
    }
    if rent.payee != payee {
        return Err(RentRefused::Payee);
    }
    Ok(rent)
}

/// Whether the wallet can pay it and keep what the policy wants kept.
pub fn affords(policy: &Policy, balance: Msat, cost: Msat) -> Result<(), RentRefused> {
    let reserve = policy.limits.reserve_msat;
    if balance < reserve.saturating_add(cost) {
        return Err(RentRefused::Reserve { balance, cost, reserve });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Npub;
    use proptest::prelude::*;

    const NODE: &str = "02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn begun(n: u8, cost: u64) -> Begun {
        Begun { hash: Hash32::from_bytes([n; 32]), cost: Msat::new(cost), attempt: 1, expires_at: UnixMs(0) }
    }

    #[test]
    fn only_the_pinned_node_is_paid_and_never_when_frozen() {
        let mut policy = Policy::default_for(Npub::from_bytes([1; 32]));
        assert_eq!(allows(&policy, NODE), Err(RentRefused::NotAllowed));
        policy.rent = Some(Rent { month_msat: Msat::sats(5), payee: NODE.into() });
        assert_eq!(allows(&policy, NODE).unwrap().month_msat, Msat::sats(5));
        assert_eq!(allows(&policy, &NODE.replace("02aa", "03aa")), Err(RentRefused::Payee));
        policy.limits.reserve_msat = Msat::new(10);
        assert!(affords(&policy, Msat::new(30), Msat::new(20)).is_ok());
        assert!(affords(&policy, Msat::new(29), Msat::new(20)).is_err());
        policy.frozen = true;
        assert_eq!(allows(&policy, NODE), Err(RentRefused::Frozen));
        for bad in ["", "02", &NODE.to_uppercase(), &NODE.replace("02aa", "04aa"), &format!("{NODE}a")] {
            assert!(!Rent { month_msat: Msat::ZERO, payee: (*bad).to_owned() }.is_valid(), "{bad}");
        }
    }

    #[test]
    fn a_new_month_begins_anew_and_an_old_one_never_again() {
        let mut book = RentBook::default();
        let (november, cap) = (Month(202_611), Msat::new(100));
        book.begin(november, begun(1, 100), cap).unwrap();
        assert!(matches!(book.begin(november, begun(2, 1), cap), Err(RentRefused::Cap { .. })));
        book.again(&begun(1, 0).hash);
        assert_eq!((book.used(november), book.begun[0].attempt), (cap, 2));
        book.begin(Month(202_612), begun(3, 60), cap).unwrap();
        assert_eq!(book.month_at(Month(202_611).start()), Month(202_612));
        assert_eq!(book.used(Month(202_612)), Msat::new(60));
        book.over(&begun(3, 0).hash);
        assert_eq!(book.used(Month(202_612)), Msat::ZERO);
    }

    proptest! {
        /// Whatever is asked for, what a month begins and is not surely over stays within the largest cap that was signed.
        #[test]
        fn a_month_never_passes_its_cap(
            asks in prop::collection::vec((0_u8..20, 0_u64..60, 0_i64..3, any::<bool>()), 0..80), cap in 0_u64..150,
        ) {
            let (mut book, cap) = (RentBook::default(), Msat::new(cap));
            let mut paid = std::collections::BTreeMap::<i64, std::collections::BTreeMap<u8, u64>>::new();
            for (n, cost, ahead, fails) in asks {
                let month = book.month_at(Month(202_601 + ahead).start());
                if book.find(&begun(n, 0).hash).is_some() {
                    continue;
                }
                if book.begin(month, begun(n, cost), cap).is_ok() {
                    if fails {
                        book.over(&begun(n, 0).hash);
                    } else {
                        paid.entry(month.0).or_default().insert(n, cost);
                    }
                }
            }
            for month in paid.values() {
                prop_assert!(month.values().sum::<u64>() <= cap.as_u64());
            }
        }
    }
}
