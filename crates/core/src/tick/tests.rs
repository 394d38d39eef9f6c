//! The machine against every order of records, and against a crash at every step.

use proptest::prelude::*;

use super::*;

fn event(n: u8) -> SignedEvent {
    SignedEvent { id: Hash32::from_bytes([n; 32]), kind: 1, created_at: 1, json: "{}".into() }
}

fn request(attempt: u8) -> Request {
    Request {
        attempt,
        provider: Npub::from_bytes([attempt; 32]),
        quote: Msat::sats(10),
        encrypted: true,
        event: event(attempt),
        relays: vec!["ws://127.0.0.1:7778".into()],
        at: UnixMs(0),
    }
}

fn bill() -> Bill {
    Bill {
        bolt11: "lnbcrt1".into(),
        hash: Hash32::from_bytes([9; 32]),
        amount: Msat::sats(10),
        max_fee: Msat::sats(1),
        expires_at: UnixMs(600_000),
    }
}

fn began() -> Record {
    Record::Began {
        trigger: Trigger::Mention,
        inbox: vec![Claimed { row: 1, digest: Hash32::sha256(b"hello") }],
        at: UnixMs(0),
    }
}

fn approval() -> ApprovalId {
    ApprovalId { tick_id: crate::id::TickId::new(UnixMs(5), [1; 10]), index: 3 }
}

fn planned() -> Vec<Planned> {
    let post = Action::Post { text: "hello".into() };
    vec![
        Planned { action: post.clone(), plan: Plan::Publish { events: vec![event(50)], relays: vec![] } },
        Planned { action: Action::AddMemory { text: "x".into() }, plan: Plan::Local },
        Planned { action: post.clone(), plan: Plan::Refused { why: "approval_needed".into() } },
        Planned { action: post, plan: Plan::Publish { events: vec![event(51)], relays: vec![] } },
    ]
}

/// A world that performs effects: it may fail, forget or repeat, as `script` says. Counts what it saw.
#[derive(Default)]
struct World {
    published: Vec<Hash32>,
    settled: usize,
    paid_hashes: Vec<Hash32>,
}

impl World {
    fn perform(&mut self, step: &Step, luck: u8) -> Vec<Record> {
        let attempt = |request: &Request| request.attempt;
        match step {
            Step::Prepare { attempt, .. } => vec![Record::Requested(request(*attempt))],
            Step::Decide { .. } => vec![Record::Decided { actions: planned(), note: None }],
            Step::Execute { .. } => vec![Record::Decided { actions: planned(), note: None }],
            Step::Commit(_) => vec![],
            Step::Perform(Effect::PublishRequest(r)) => {
                self.published.push(r.event.id);
                vec![Record::Published { attempt: attempt(r), relays: vec![] }]
            }
            Step::Perform(Effect::AwaitOffer(r)) => match luck % 4 {
                0 => vec![Record::Abandoned { attempt: attempt(r), why: "silent".into() }],
                1 => vec![Record::Answered { attempt: attempt(r), content: "free".into() }],
                _ => vec![Record::Invoiced { attempt: attempt(r), bill: bill() }],
            },
            Step::Perform(Effect::Pay { request: r, bill, dispatched: false }) => {
                // Dispatch: the record is durable before the bytes leave, then the outcome follows.
                let _ = bill;
                vec![Record::Paying { attempt: attempt(r) }]
            }
            Step::Perform(Effect::Pay { request: r, bill, dispatched: true }) => {
                // A repeated dispatch of one hash settles once.
                if !self.paid_hashes.contains(&bill.hash) {
                    if luck.is_multiple_of(5) {
                        return vec![Record::NotPaid { attempt: attempt(r), class: FailureClass::NoRoute }];
                    }
                    self.paid_hashes.push(bill.hash);
                    self.settled += 1;
                }
                vec![Record::Paid { attempt: attempt(r), fee: Msat::ZERO, preimage: None, at: UnixMs(1) }]
            }
            Step::Perform(Effect::AwaitResult { request: r, .. }) => match luck % 6 {
                0 => vec![Record::Disputed { attempt: attempt(r), why: "silent".into() }],
                _ => vec![Record::Answered { attempt: attempt(r), content: "{}".into() }],
            },
            Step::Perform(Effect::Act { index, events, .. }) => {
                self.published.extend(events.iter().map(|event| event.id));
                vec![Record::Acted { index: *index, outcome: ActionOutcome::Done { relays: vec![] } }]
            }
        }
    }
}

#[test]
fn the_straight_way() {
    let mut world = World::default();
    let mut tick = Tick::begin(&began()).unwrap();
    let mut kinds = vec![];
    loop {
        let step = tick.next();
        if let Step::Commit(end) = step {
            assert_eq!(end, End::Completed);
            break;
        }
        for record in world.perform(&step, 3) {
            kinds.push(record.kind());
            tick.apply(&record).unwrap();
        }
    }
    let expected = ["requested", "published", "invoiced", "paying", "paid", "answered", "decided", "acted", "acted"];
    assert_eq!(kinds, expected);
    assert_eq!(tick.spent(), Msat::sats(10));
    let outcomes: Vec<_> = tick.views().into_iter().map(|view| view.outcome).collect();
    assert_eq!(outcomes, ["done", "done", "refused: approval_needed", "done"]);
}

#[test]
fn an_approved_action_is_carried_out_without_a_thought() {
    let approval = || Record::Approved { id: approval() };
    let began = Record::Began { trigger: Trigger::Approval, inbox: Vec::new(), at: UnixMs(0) };
    let mut world = World::default();
    let mut tick = Tick::replay([began.clone(), approval()].iter()).unwrap();
    assert!(tick.apply(&approval()).is_err(), "one at a time");
    assert!(tick.apply(&Record::Requested(request(0))).is_err(), "nothing is bought for it");
    let mut kinds = vec![];
    while !matches!(tick.next(), Step::Commit(_)) {
        for record in world.perform(&tick.next(), 3) {
            kinds.push(record.kind());
            tick.apply(&record).unwrap();
        }
    }
    assert_eq!(kinds, ["decided", "acted", "acted"]);
    assert_eq!(tick.spent(), Msat::ZERO);
    // No other tick does that.
    let mut other = Tick::begin(&self::began()).unwrap();
    assert!(other.apply(&approval()).is_err());
}

#[test]
fn records_read_back_as_written() {
    let records = [
        began(),
        Record::Approved { id: approval() },
        Record::Requested(request(0)),
        Record::Invoiced { attempt: 0, bill: bill() },
        Record::Decided { actions: planned(), note: None },
        Record::Failed { reason: Failure::PaymentUnresolved },
    ];
    for record in records {
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }
}

#[test]
fn a_payment_in_flight_is_never_abandoned() {
    let records = [
        began(),
        Record::Requested(request(0)),
        Record::Published { attempt: 0, relays: vec![] },
        Record::Invoiced { attempt: 0, bill: bill() },
        Record::Paying { attempt: 0 },
    ];
    let mut tick = Tick::replay(records.iter()).unwrap();
    assert!(tick.apply(&Record::Abandoned { attempt: 0, why: "slow".into() }).is_err());
    assert!(tick.apply(&Record::Requested(request(1))).is_err());
    assert!(tick.apply(&Record::Invoiced { attempt: 0, bill: bill() }).is_err());
    tick.apply(&Record::NotPaid { attempt: 0, class: FailureClass::NoRoute }).unwrap();
    assert!(matches!(tick.next(), Step::Prepare { attempt: 1, .. }));
}

fn any_record() -> impl Strategy<Value = Record> {
    (0_usize..12, 0_u8..4, 0_usize..5).prop_map(|(kind, attempt, index)| match kind {
        0 => Record::Requested(request(attempt)),
        1 => Record::Published { attempt, relays: vec![] },
        2 => Record::Invoiced { attempt, bill: bill() },
        3 => Record::Paying { attempt },
        4 => Record::Paid { attempt, fee: Msat::ZERO, preimage: None, at: UnixMs(1) },
        5 => Record::NotPaid { attempt, class: FailureClass::NoRoute },
        6 => Record::Answered { attempt, content: "{}".into() },
        7 => Record::Abandoned { attempt, why: String::new() },
        8 => Record::Disputed { attempt, why: String::new() },
        9 => Record::Decided { actions: planned(), note: None },
        10 => Record::Acted { index, outcome: ActionOutcome::Done { relays: vec![] } },
        _ => began(),
    })
}

proptest! {
    /// However unlucky, a tick ends in a bounded number of steps, pays each bill at most once, and gives each
    /// published event one id; a crash before or after any append changes none of it.
    #[test]
    fn crashes_change_nothing(luck in prop::collection::vec(any::<u8>(), 64), crash in prop::collection::vec(any::<bool>(), 64)) {
        let mut world = World::default();
        let mut journal = vec![began()];
        let mut tick = Tick::begin(&journal[0]).unwrap();
        let mut ended = false;
        for turn in 0..64 {
            let step = tick.next();
            if matches!(step, Step::Commit(_)) { ended = true; break; }
            let records = world.perform(&step, luck[turn]);
            if crash[turn] {
                // Performed, but the outcome was not written: read the journal back.
                tick = Tick::replay(journal.iter()).unwrap();
                prop_assert_eq!(tick.next(), step);
                continue;
            }
            for record in records {
                tick.apply(&record).unwrap();
                journal.push(record);
            }
            prop_assert_eq!(&Tick::replay(journal.iter()).unwrap(), &tick);
        }
        prop_assert!(ended || crash.iter().filter(|c| **c).count() > 20);
        prop_assert!(world.settled <= 1);
        let mut ids = world.published.clone();
        ids.sort();
        ids.dedup();
        prop_assert!(ids.len() <= 5);
    }

    /// Any list of records is folded or refused; what was refused changed nothing; money is counted only when paid.
    #[test]
    fn nonsense_is_refused_whole(records in prop::collection::vec(any_record(), 0..80)) {
        let mut tick = Tick::begin(&began()).unwrap();
        for record in records {
            let before = tick.clone();
            if tick.apply(&record).is_err() {
                prop_assert_eq!(&before, &tick);
            }
            let paid = tick.jobs().iter().filter(|job| matches!(job, Job::Paying { .. } | Job::Paid { .. })).count();
            prop_assert!(paid <= 1);
        }
        let _ = tick.next();
    }
}
