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
        hold: false,
        heard: vec![event(8)],
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

fn a_zap() -> Zap {
    let request = SignedEvent { kind: 9_734, ..event(60) };
    Zap { to: Npub::from_bytes([8; 32]), address: "ada@host".parse().unwrap(), amount: Msat::sats(21), request }
}

fn zap_bill() -> Bill {
    Bill { hash: Hash32::from_bytes([10; 32]), amount: Msat::sats(21), ..bill() }
}

const ZAP: usize = 3;

fn planned() -> Vec<Planned> {
    let post = Action::Post { text: "hello".into() };
    vec![
        Planned { action: post.clone(), plan: Plan::Publish { events: vec![event(50)], relays: vec![] } },
        Planned { action: Action::AddMemory { text: "x".into() }, plan: Plan::Local },
        Planned { action: post.clone(), plan: Plan::Refused { why: "approval_needed".into() } },
        Planned {
            action: Action::Zap { to: a_zap().to, event: None, amount: Msat::sats(21), comment: "thanks".into() },
            plan: Plan::Zap(a_zap()),
        },
        Planned { action: post, plan: Plan::Publish { events: vec![event(51)], relays: vec![] } },
    ]
}

/// A world that performs effects: it may fail, forget or repeat, as `script` says. Counts what it saw.
#[derive(Default)]
struct World {
    published: Vec<Hash32>,
    settled: usize,
    paid_hashes: Vec<Hash32>,
    /// What each question to a payee's service was signed with, and what was settled of it.
    asked: Vec<Hash32>,
    zapped: Vec<Hash32>,
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
                0 => vec![Record::Disputed { attempt: attempt(r), why: "silent".into(), heard: vec![event(7)] }],
                _ => vec![Record::Answered { attempt: attempt(r), content: "{}".into() }],
            },
            Step::Perform(Effect::Act { index, events, .. }) => {
                self.published.extend(events.iter().map(|event| event.id));
                vec![Record::Acted { index: *index, outcome: ActionOutcome::Done { relays: vec![] } }]
            }
            Step::Perform(Effect::AskZap { index, zap }) => {
                self.asked.push(zap.request.id);
                let step = match luck % 5 {
                    0 => ZapMove::Refused { why: "another amount".into() },
                    1 => ZapMove::Failed { why: "no answer".into() },
                    // Each question brings another invoice.
                    n => {
                        let hash = Hash32::from_bytes([100 + n + u8::try_from(self.asked.len() % 100).unwrap(); 32]);
                        ZapMove::Invoiced { bill: Bill { hash, ..zap_bill() } }
                    }
                };
                vec![Record::Zap { index: *index, step }]
            }
            Step::Perform(Effect::PayZap { index, dispatched: false, .. }) => {
                let step =
                    if luck.is_multiple_of(7) { ZapMove::Refused { why: "frozen".into() } } else { ZapMove::Paying };
                vec![Record::Zap { index: *index, step }]
            }
            Step::Perform(Effect::PayZap { index, bill, dispatched: true, .. }) => {
                let step = if self.zapped.contains(&bill.hash) {
                    ZapMove::Paid { fee: Msat::ZERO, preimage: None, at: UnixMs(1) }
                } else if luck.is_multiple_of(5) {
                    ZapMove::NotPaid { class: FailureClass::NoRoute }
                } else {
                    self.zapped.push(bill.hash);
                    // Settled, and the answer to it may be lost.
                    match luck % 3 {
                        0 => ZapMove::Unresolved,
                        _ => ZapMove::Paid { fee: Msat::sats(1), preimage: None, at: UnixMs(1) },
                    }
                };
                vec![Record::Zap { index: *index, step }]
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
    let job = ["requested", "published", "invoiced", "paying", "paid", "answered", "decided"];
    let actions = ["acted", "zap_invoiced", "zap_paying", "zap_unresolved", "acted"];
    assert_eq!(kinds, [&job[..], &actions].concat(), "an unresolved zap holds nothing up");
    assert_eq!(tick.spent(), Msat::sats(10));
    let outcomes: Vec<_> = tick.views().into_iter().map(|view| view.outcome).collect();
    assert_eq!(outcomes[..3], ["done", "done", "refused: approval_needed"]);
    assert!(outcomes[3].starts_with("unresolved: ") && outcomes[4] == "done", "{outcomes:?}");
    assert_eq!(tick.zap_end(ZAP), Some(&ZapEnd::Unresolved));
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
    assert_eq!(kinds, ["decided", "acted", "zap_invoiced", "zap_paying", "zap_unresolved", "acted"]);
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
        Record::Zap { index: 3, step: ZapMove::Invoiced { bill: zap_bill() } },
        Record::Zap { index: 3, step: ZapMove::Paying },
        Record::Zap { index: 3, step: ZapMove::Paid { fee: Msat::ZERO, preimage: Some(Hash32::ZERO), at: UnixMs(1) } },
        Record::Zap { index: 3, step: ZapMove::NotPaid { class: FailureClass::NoRoute } },
        Record::Zap { index: 3, step: ZapMove::Unresolved },
        Record::Zap { index: 3, step: ZapMove::Refused { why: "frozen".into() } },
        Record::Zap { index: 3, step: ZapMove::Failed { why: "no answer".into() } },
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

/// A tick whose thought is bought and whose actions are decided.
fn decided() -> Vec<Record> {
    vec![
        began(),
        Record::Requested(request(0)),
        Record::Published { attempt: 0, relays: vec![] },
        Record::Answered { attempt: 0, content: "free".into() },
        Record::Decided { actions: planned(), note: None },
    ]
}

#[test]
fn a_zap_has_one_invoice_and_one_end() {
    let zap = |step| Record::Zap { index: ZAP, step };
    let invoiced = |n| zap(ZapMove::Invoiced { bill: Bill { hash: Hash32::from_bytes([n; 32]), ..zap_bill() } });
    let paid = || zap(ZapMove::Paid { fee: Msat::sats(1), preimage: None, at: UnixMs(1) });
    let mut tick = Tick::replay(decided().iter()).unwrap();
    assert!(tick.apply(&zap(ZapMove::Paying)).is_err(), "nothing to pay");
    for index in [0, 1, 2, 4, 5, usize::MAX] {
        let other = Record::Zap { index, step: ZapMove::Failed { why: String::new() } };
        assert!(tick.apply(&other).is_err(), "{index} is no zap");
    }
    tick.apply(&invoiced(1)).unwrap();
    assert!(tick.apply(&invoiced(2)).is_err(), "another invoice");
    assert!(tick.apply(&paid()).is_err(), "never sent");
    assert!(tick.apply(&zap(ZapMove::Unresolved)).is_err(), "never sent");
    tick.apply(&zap(ZapMove::Paying)).unwrap();
    for not in [ZapMove::Paying, ZapMove::Refused { why: String::new() }, ZapMove::Failed { why: String::new() }] {
        assert!(tick.apply(&zap(not)).is_err(), "what may have left is only ended by the wallet's word");
    }
    assert!(tick.apply(&invoiced(3)).is_err());
    let sent = tick.clone();
    for (end, spent, ended) in [
        (paid(), Msat::sats(22), Some(ZapEnd::Paid)),
        (zap(ZapMove::NotPaid { class: FailureClass::NoRoute }), Msat::ZERO, None),
        (zap(ZapMove::Unresolved), Msat::ZERO, Some(ZapEnd::Unresolved)),
    ] {
        let mut tick = sent.clone();
        tick.apply(&end).unwrap();
        assert_eq!(tick.spent(), spent);
        assert!(ended.is_none_or(|ended| tick.zap_end(ZAP) == Some(&ended)));
        for again in [paid(), invoiced(4), zap(ZapMove::Paying), zap(ZapMove::Unresolved)] {
            assert!(tick.apply(&again).is_err(), "over is over");
        }
        assert!(!matches!(tick.next(), Step::Perform(Effect::AskZap { .. } | Effect::PayZap { .. })));
    }
}

fn any_zap() -> impl Strategy<Value = Record> {
    (0_usize..6, 0_usize..8, any::<u8>()).prop_map(|(index, kind, n)| {
        let step = match kind {
            0 | 1 => ZapMove::Invoiced { bill: Bill { hash: Hash32::from_bytes([n; 32]), ..zap_bill() } },
            2 => ZapMove::Paying,
            3 => ZapMove::Paid { fee: Msat::new(u64::from(n)), preimage: None, at: UnixMs(1) },
            4 => ZapMove::NotPaid { class: FailureClass::NoRoute },
            5 => ZapMove::Unresolved,
            6 => ZapMove::Refused { why: String::new() },
            _ => ZapMove::Failed { why: String::new() },
        };
        Record::Zap { index: if n.is_multiple_of(3) { index } else { ZAP }, step }
    })
}

fn any_record() -> impl Strategy<Value = Record> {
    (0_usize..13, 0_u8..4, 0_usize..5).prop_map(|(kind, attempt, index)| match kind {
        0 => Record::Requested(request(attempt)),
        1 => Record::Published { attempt, relays: vec![] },
        2 => Record::Invoiced { attempt, bill: bill() },
        3 => Record::Paying { attempt },
        4 => Record::Paid { attempt, fee: Msat::ZERO, preimage: None, at: UnixMs(1) },
        5 => Record::NotPaid { attempt, class: FailureClass::NoRoute },
        6 => Record::Answered { attempt, content: "{}".into() },
        7 => Record::Abandoned { attempt, why: String::new() },
        8 => Record::Disputed { attempt, why: String::new(), heard: Vec::new() },
        12 => Record::InFlight { attempt },
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
        // One request for the zap, however often it was asked with, and one settled payment.
        prop_assert!(world.asked.iter().all(|id| *id == a_zap().request.id));
        prop_assert!(world.zapped.len() <= 1);
        let booked = tick.zap_end(ZAP) == Some(&ZapEnd::Paid);
        prop_assert!(!booked || world.zapped.len() == 1, "paid is only what was");
    }

    /// Any order of a zap's records: one invoice, one end, and money is counted once and only when it was sent and paid.
    #[test]
    fn a_zap_is_paid_once_in_any_order(records in prop::collection::vec(any_zap(), 0..60)) {
        let mut tick = Tick::replay(decided().iter()).unwrap();
        let (mut invoices, mut sent, mut paid) = (0, 0, 0);
        for record in records {
            let before = tick.clone();
            if tick.apply(&record).is_err() {
                prop_assert_eq!(&before, &tick);
                continue;
            }
            prop_assert!(before.zap_end(ZAP).is_none(), "nothing follows an end");
            let Record::Zap { step, .. } = &record else { continue };
            invoices += u32::from(matches!(step, ZapMove::Invoiced { .. }));
            sent += u32::from(*step == ZapMove::Paying);
            paid += u32::from(matches!(step, ZapMove::Paid { .. }));
            prop_assert!(invoices <= 1 && sent <= invoices && paid <= sent);
            prop_assert_eq!(tick.spent() > Msat::ZERO, paid == 1);
        }
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

/// A provider that holds: the payment stays in flight until it settles or gives the money back, as `luck` says, and a
/// result may come before. Counts what left the wallet for good.
#[derive(Default)]
struct Holding {
    held: bool,
    settled: u32,
    returned: u32,
    published: bool,
}

impl Holding {
    fn pay(&mut self, tick: &Tick, request: &Request, luck: u8) -> Vec<Record> {
        let attempt = request.attempt;
        let paid = Record::Paid { attempt, fee: Msat::ZERO, preimage: Some(Hash32::ZERO), at: UnixMs(1) };
        let not_paid = Record::NotPaid { attempt, class: FailureClass::Rejected };
        // What a wallet once said for certain it says again.
        match (self.settled, self.returned) {
            (1.., _) => return vec![paid],
            (_, 1..) => return vec![not_paid],
            _ => self.held = true,
        }
        let answered = matches!(tick.jobs().last(), Some(Job::Paying { answer: Some(_), .. }));
        match (luck % 4, answered) {
            (0, _) => {
                self.returned += 1;
                vec![not_paid]
            }
            (1, _) => {
                self.settled += 1;
                vec![paid]
            }
            (_, false) if luck.is_multiple_of(5) => vec![Record::Failed { reason: Failure::PaymentUnresolved }],
            (_, false) => {
                self.published = true;
                vec![Record::Answered { attempt, content: "{}".into() }]
            }
            (_, true) => vec![Record::InFlight { attempt }],
        }
    }
}

#[test]
fn an_answer_is_taken_while_its_payment_is_in_flight() {
    let until_paying = [
        began(),
        Record::Requested(request(0)),
        Record::Published { attempt: 0, relays: vec![] },
        Record::Invoiced { attempt: 0, bill: Bill { hold: true, ..bill() } },
        Record::Paying { attempt: 0 },
    ];
    let answered = Record::Answered { attempt: 0, content: "{}".into() };
    let mut tick = Tick::replay(until_paying.iter()).unwrap();
    assert!(tick.apply(&Record::InFlight { attempt: 0 }).is_err(), "without an answer there is nothing to go on with");
    tick.apply(&answered).unwrap();
    assert!(matches!(tick.next(), Step::Perform(Effect::Pay { dispatched: true, .. })), "its payment is seen through");
    assert!(tick.apply(&answered).is_err(), "one answer");
    assert!(tick.apply(&Record::Abandoned { attempt: 0, why: String::new() }).is_err());
    assert!(tick.apply(&Record::Requested(request(1))).is_err(), "nobody else is asked");
    for (end, spent) in [
        (Record::Paid { attempt: 0, fee: Msat::sats(1), preimage: None, at: UnixMs(1) }, Msat::sats(11)),
        (Record::NotPaid { attempt: 0, class: FailureClass::Rejected }, Msat::ZERO),
        (Record::InFlight { attempt: 0 }, Msat::ZERO),
    ] {
        let mut tick = tick.clone();
        tick.apply(&end).unwrap();
        assert!(matches!(tick.next(), Step::Decide { .. }), "{end:?}");
        assert_eq!(tick.spent(), spent, "{end:?}");
    }
}

#[test]
fn a_dispute_keeps_what_it_rests_on() {
    let receipt = Receipt { at: UnixMs(9), fee: Msat::sats(1), preimage: Some(Hash32::sha256(b"preimage")) };
    let records = [
        began(),
        Record::Requested(request(0)),
        Record::Published { attempt: 0, relays: vec![] },
        Record::Invoiced { attempt: 0, bill: bill() },
        Record::Paying { attempt: 0 },
        Record::Paid { attempt: 0, fee: receipt.fee, preimage: receipt.preimage, at: receipt.at },
        Record::Disputed { attempt: 0, why: "silent".into(), heard: vec![event(7)] },
    ];
    let written: Vec<Record> =
        records.iter().map(|record| serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap()).collect();
    let tick = Tick::replay(written.iter()).unwrap();
    assert_eq!(tick.next(), Step::Commit(End::Failed(Failure::PaidNotServed)));
    let expected = Job::Disputed { request: request(0), bill: bill(), receipt, heard: vec![event(7)] };
    assert_eq!(tick.jobs(), [expected]);
}

#[test]
fn a_journal_of_an_older_worker_is_read() {
    let bill = r#"{"bolt11":"lnbcrt1","hash":"HASH","amount":10000,"max_fee":1000,"expires_at":600000}"#;
    let bill = bill.replace("HASH", &Hash32::from_bytes([9; 32]).to_string());
    let invoiced = format!(r#"{{"record":"invoiced","attempt":0,"bill":{bill}}}"#);
    let read: Record = serde_json::from_str(&invoiced).unwrap();
    let expected = Bill { heard: Vec::new(), ..self::bill() };
    assert_eq!(read, Record::Invoiced { attempt: 0, bill: expected });
    let disputed: Record = serde_json::from_str(r#"{"record":"disputed","attempt":0,"why":"silent"}"#).unwrap();
    assert_eq!(disputed, Record::Disputed { attempt: 0, why: "silent".into(), heard: Vec::new() });
}

#[test]
fn what_is_heard_is_bounded() {
    let mut heard = Vec::new();
    (0..40).for_each(|n| hear(&mut heard, event(n)));
    assert_eq!(heard.len(), MAX_HEARD);
    let mut heard = Vec::new();
    let long = |n| SignedEvent { json: "x".repeat(20_000), ..event(n) };
    (0..40).for_each(|n| hear(&mut heard, long(n)));
    assert_eq!(heard.len(), 2);
    hear(&mut heard, event(1));
    assert_eq!(heard.len(), 2, "the same words once");
}

proptest! {
    /// Whatever a holding provider does, and wherever a crash comes: money leaves at most once, is counted when it did,
    /// nobody else is asked while it is in flight, and the tick ends.
    #[test]
    fn held_money_is_never_paid_twice(luck in prop::collection::vec(any::<u8>(), 64), crash in prop::collection::vec(any::<bool>(), 64)) {
        let (mut world, mut wallets) = (World::default(), [Holding::default(), Holding::default(), Holding::default()]);
        let mut journal = vec![began()];
        let mut tick = Tick::begin(&journal[0]).unwrap();
        let mut end = None;
        for turn in 0..64 {
            let step = tick.next();
            if let Step::Commit(how) = step { end = Some(how); break; }
            let records = match &step {
                Step::Perform(Effect::Pay { request: r, dispatched: true, .. }) => {
                    wallets[usize::from(r.attempt)].pay(&tick, r, luck[turn])
                }
                Step::Perform(Effect::AwaitOffer(r)) => {
                    vec![Record::Invoiced { attempt: r.attempt, bill: Bill { hold: true, ..bill() } }]
                }
                other => world.perform(other, luck[turn]),
            };
            let in_flight = wallets.iter().filter(|w| w.held && w.settled + w.returned == 0).count();
            prop_assert!(in_flight <= 1);
            if crash[turn] {
                tick = Tick::replay(journal.iter()).unwrap();
                prop_assert_eq!(tick.next(), step);
                continue;
            }
            for record in records {
                if matches!(record, Record::Requested(_)) {
                    prop_assert_eq!(in_flight, 0, "nobody else is asked while money is in flight");
                }
                tick.apply(&record).unwrap();
                journal.push(record);
            }
            prop_assert_eq!(&Tick::replay(journal.iter()).unwrap(), &tick);
        }
        let settled: u32 = wallets.iter().map(|wallet| wallet.settled).sum();
        prop_assert!(settled <= 1);
        prop_assert!(end.is_some() || crash.iter().filter(|crashed| **crashed).count() > 20);
        if end.is_some() {
            // A zap that is looked up costs a sat of fee.
            let paid = tick.zap_end(ZAP) == Some(&ZapEnd::Paid);
            let zapped = if paid { [21, 22] } else { [0, 0] };
            let bought = if settled == 1 { 10 } else { 0 };
            let expected = zapped.map(|sats| Msat::sats(bought + sats));
            prop_assert!(expected.contains(&tick.spent()), "{:?} of {expected:?}", tick.spent());
        }
    }
}
