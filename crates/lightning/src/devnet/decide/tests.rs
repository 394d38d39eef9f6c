use std::collections::BTreeMap;

use nexus_core::payment::Outcome;
use proptest::prelude::*;

use super::*;

const FEE: Fee = Fee { base: Msat::new(1_000), ppm: 1_500 };
const PARTIES: u8 = 3;

/// What somebody may do to the network, in any order.
#[derive(Debug, Clone)]
enum Op {
    Faucet { party: u8 },
    Invoice { payee: u8, preimage: u8, amount_msat: u64, expiry_ms: i64 },
    Pay { payer: u8, preimage: u8, id: u8, attempt: u32, max_fee_msat: u64, forged: bool, course: Course },
    Land { settle: bool },
    Pass { ms: i64 },
    Snapshot,
}

fn course() -> impl Strategy<Value = Course> {
    prop_oneof![
        4 => Just(Course::Plain),
        1 => Just(Course::Flight(Flight::Stuck)),
        1 => (0_i64..5_000).prop_map(|at| Course::Flight(Flight::Settles { at: UnixMs(at) })),
        1 => (0_i64..5_000).prop_map(|at| Course::Flight(Flight::Fails { at: UnixMs(at) })),
        1 => Just(Course::Refuse(FailureClass::NoRoute)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let amounts = prop_oneof![Just(1), 1_u64..2_000_000, 400_000_000_u64..1_100_000_000, Just(i64::MAX as u64)];
    prop_oneof![
        2 => (0..PARTIES).prop_map(|party| Op::Faucet { party }),
        4 => (0..PARTIES, 0..6_u8, amounts, 1_i64..4_000)
            .prop_map(|(payee, preimage, amount_msat, expiry_ms)| Op::Invoice { payee, preimage, amount_msat, expiry_ms }),
        8 => (0..PARTIES, 0..7_u8, 0..2_u8, 1_u32..4, 0_u64..2_000_000, prop::bool::weighted(0.1), course()).prop_map(
            |(payer, preimage, id, attempt, max_fee_msat, forged, course)| Op::Pay {
                payer, preimage, id, attempt, max_fee_msat, forged, course
            }
        ),
        2 => any::<bool>().prop_map(|settle| Op::Land { settle }),
        2 => (0_i64..1_500).prop_map(|ms| Op::Pass { ms }),
        1 => Just(Op::Snapshot),
    ]
}

fn party(number: u8) -> Party {
    Party::from_bytes([number; 32])
}

fn preimage(number: u8) -> Hash32 {
    Hash32::from_bytes([100 + number; 32])
}

fn hash(number: u8) -> Hash32 {
    Hash32::sha256(preimage(number).as_bytes())
}

#[derive(Default)]
struct World {
    ledger: Ledger,
    now: i64,
    entries: Vec<Entry>,
    /// Entries before the last snapshot do not lead to the books alone.
    pruned: bool,
    settled: BTreeMap<Hash32, u32>,
}

impl World {
    fn post(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.ledger.apply(&entry).expect("a decision follows from the books");
            if let Entry::Settle { key, .. } = &entry {
                *self.settled.entry(key.hash).or_default() += 1;
            }
            self.entries.push(entry);
        }
    }

    fn step(&mut self, op: Op) {
        let now = UnixMs(self.now);
        self.post(self.ledger.due(now));
        match op {
            Op::Faucet { party: who } => {
                let entries = faucet(&self.ledger, party(who), now).expect("room for three");
                self.post(entries);
            }
            Op::Invoice { payee, preimage: number, amount_msat, expiry_ms } => {
                let row = InvoiceRow {
                    payee: party(payee),
                    preimage: preimage(number),
                    amount: Msat::try_from(amount_msat).expect("in range"),
                    bolt11: format!("invoice {number}"),
                    created_at: now,
                    expires_at: now.plus_ms(expiry_ms),
                    state: InvoiceRowState::Open,
                    hold_ms: None,
                };
                if let Ok((entries, _)) = invoice(&self.ledger, hash(number), row) {
                    self.post(entries);
                }
            }
            Op::Pay { payer, preimage, id, attempt, max_fee_msat, forged, course } => {
                self.pay(payer, preimage, id, attempt, max_fee_msat, forged, course);
            }
            Op::Land { settle } => self.land(settle),
            Op::Pass { ms } => self.now += ms,
            Op::Snapshot => {
                self.ledger.prune(now);
                let mut restored = Ledger::default();
                self.ledger.rows().for_each(|row| restored.restore(row));
                assert_eq!(restored, self.ledger, "a snapshot is the books");
                self.pruned = true;
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one operation")]
    fn pay(&mut self, payer: u8, number: u8, id: u8, attempt: u32, max_fee_msat: u64, forged: bool, course: Course) {
        let key = PaymentKey { hash: hash(number), payer: party(payer), payment_id: format!("payment {id}") };
        let payment = Payment {
            key: key.clone(),
            attempt,
            bolt11: if forged { "forged".to_owned() } else { format!("invoice {number}") },
            expires_at: UnixMs(self.now + 1_000),
            amount: None,
            max_fee: Msat::new(max_fee_msat),
        };
        let (before, balance) = (self.ledger.outcome(&key), self.ledger.account(key.payer).balance);
        let fee = |ledger: &Ledger| ledger.invoice(key.hash).map_or(Msat::ZERO, |row| FEE.of(row.amount));
        let entries = pay(&self.ledger, &payment, FEE, course, UnixMs(self.now));
        self.post(entries);
        let after = self.ledger.outcome(&key);
        assert_ne!(after, Outcome::NotFound, "every payment gets a verdict");
        let spent = balance - self.ledger.account(key.payer).balance;
        if matches!(before, Outcome::Settled { .. } | Outcome::Pending) {
            assert_eq!((after, spent), (before, 0), "a repeat changes nothing");
            return;
        }
        match after {
            Outcome::Failed { .. } => assert_eq!(spent, 0),
            Outcome::Settled { .. } | Outcome::Pending => {
                assert!(!forged, "a forged invoice was paid");
                assert!(fee(&self.ledger) <= payment.max_fee, "over the fee limit");
                let amount = self.ledger.invoice(key.hash).expect("it was paid").amount;
                assert_eq!(spent, amount.as_u64() + fee(&self.ledger).as_u64());
            }
            Outcome::NotFound | Outcome::Unknown { .. } => panic!("the books always know"),
        }
    }

    fn land(&mut self, settle: bool) {
        let at = UnixMs(self.now);
        let flying = (0..7).find_map(|number| self.ledger.flying_for(hash(number)));
        if let Some(key) = flying {
            self.post(vec![match settle {
                true => Entry::Settle { key, at },
                false => Entry::Return { key, class: FailureClass::NoRoute, at },
            }]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens in whatever order: the books sum to zero after every step, no hash is paid twice, a repeat
    /// changes nothing, and the entries alone lead to the same books again.
    #[test]
    fn the_books_balance(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::default();
        for op in ops {
            world.step(op);
            prop_assert_eq!(world.ledger.sum(), 0);
            prop_assert!(world.settled.values().all(|times| *times <= 1), "a hash was paid twice");
        }
        if !world.pruned {
            let mut again = Ledger::default();
            for entry in &world.entries {
                again.apply(entry).expect("it applied before");
            }
            prop_assert_eq!(again, world.ledger);
        }
    }

    /// An entry that does not follow from the books is refused whole, whatever it says.
    #[test]
    fn no_entry_breaks_the_books(ops in prop::collection::vec(op(), 1..40), picks in prop::collection::vec(0_usize..400, 1..60)) {
        let mut world = World::default();
        ops.into_iter().for_each(|op| world.step(op));
        for pick in picks {
            if world.entries.is_empty() { break; }
            let entry = world.entries[pick % world.entries.len()].clone();
            let before = world.ledger.clone();
            if world.ledger.apply(&entry).is_err() {
                prop_assert_eq!(&world.ledger, &before);
            }
            prop_assert_eq!(world.ledger.sum(), 0);
        }
    }
}

#[test]
fn the_fee_rounds_up() {
    assert_eq!(Fee::default().of(Msat::sats(5_000)), Msat::sats(1));
    assert_eq!(Fee { base: Msat::ZERO, ppm: 1 }.of(Msat::new(1)), Msat::new(1));
    assert_eq!(Fee { base: Msat::ZERO, ppm: 1_000 }.of(Msat::new(1_000_001)), Msat::new(1_001));
    assert_eq!(Fee { base: Msat::MAX, ppm: u32::MAX }.of(Msat::MAX), Msat::MAX);
}

#[test]
fn invoices_of_one_account_are_bounded() {
    let mut ledger = Ledger::default();
    let mut last = Ok(());
    for number in 0..=MAX_OPEN_INVOICES {
        let preimage = Hash32::sha256(&number.to_be_bytes());
        let row = InvoiceRow {
            payee: party(1),
            preimage,
            amount: Msat::sats(1),
            bolt11: String::new(),
            created_at: UnixMs(0),
            expires_at: UnixMs(1),
            state: InvoiceRowState::Open,
            hold_ms: None,
        };
        last = invoice(&ledger, Hash32::sha256(preimage.as_bytes()), row).map(|(entries, _)| {
            entries.iter().for_each(|entry| ledger.apply(entry).unwrap());
        });
    }
    assert_eq!(last, Err(Refusal::TooManyInvoices));
}
