//! What a file of evidence proves, and that no change of it proves the same.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;

use std::sync::Arc;

use common::{KeySigner, build, head, keys, now, npub, signed, tags};
use nexus_core::dispute::{DisputeId, DisputeState};
use nexus_core::{Hash32, Msat, TickId, UnixMs};
use nexus_nostr::dispute::{Bundle, Evidence, FORMAT, Invoice, MAX_BUNDLE, Unproven, late_result, verify};
use nexus_nostr::event;
use nexus_nostr::job::{self, Dialect, Feedback, Job, Status};

const BOLT11: &str = "lnbcrt10n1pdispute";

fn preimage() -> Hash32 {
    Hash32::from_bytes([42; 32])
}

fn invoice() -> Invoice {
    Invoice { hash: Hash32::sha256(preimage().as_bytes()), amount: Some(Msat::sats(10)) }
}

/// Encrypted as agents ask by default, or in clear.
async fn bundle(encrypted: bool) -> Bundle {
    let (agent, provider) = (keys(1), keys(2));
    let job = Job { prompt: "think".into(), ..Job::default() };
    let unsigned = if encrypted {
        job::request_to(&KeySigner(agent.clone()), now(), &npub(&provider), &job).await.unwrap()
    } else {
        job::clear_request(head(&agent), Some(&npub(&provider)), &job, Dialect::Standard)
    };
    let request = signed(&agent, unsigned);
    let read = job::receive(&request, &KeySigner(provider.clone())).await.unwrap();
    let signer = KeySigner(provider.clone());
    let mut heard = Vec::new();
    for feedback in [
        Feedback::payment_required(Msat::sats(10), BOLT11.into()),
        Feedback::new(Status::Processing),
        Feedback::error("out of paper"),
    ] {
        heard.push(signed(&provider, job::feedback_to(&signer, now(), &read, &feedback).await.unwrap()));
    }
    Bundle {
        nexus_dispute: FORMAT,
        agent: npub(&agent),
        provider: npub(&provider),
        amount: Msat::sats(10),
        fee: Msat::sats(1),
        paid_at: Some(UnixMs(1)),
        silent_at: UnixMs(2),
        state: DisputeState::Open,
        evidence: Evidence {
            dispute_id: DisputeId { tick_id: TickId::new(UnixMs(5), [1; 10]), attempt: 0 },
            request,
            heard,
            bolt11: BOLT11.into(),
            preimage: Some(preimage()),
            late: None,
            relays: vec!["ws://relay".into()],
        },
    }
}

fn result_of(bundle: &Bundle, by: u8) -> nostr::event::Event {
    let id = bundle.evidence.request.id.to_hex();
    build(&keys(by), 6_050, tags([&["e", &id], &["p", &keys(1).public_key().to_hex()]]), "late")
}

#[tokio::test]
async fn honest_evidence_proves_the_payment_of_the_job() {
    for encrypted in [true, false] {
        let mut bundle = bundle(encrypted).await;
        let read = Bundle::read(&serde_json::to_vec(&bundle).unwrap()).unwrap();
        let proven = verify(&read, Ok(invoice())).unwrap();
        assert_eq!((proven.agent, proven.provider), (npub(&keys(1)), npub(&keys(2))));
        assert_eq!((proven.amount, proven.payment_hash, proven.answered), (Msat::sats(10), invoice().hash, None));
        assert_eq!(proven.asked_by, event::hash(&bundle.evidence.heard[0].id));
        let late = result_of(&bundle, 2);
        bundle.evidence.late = Some(late.clone());
        assert_eq!(verify(&bundle, Ok(invoice())).unwrap().answered, Some(event::hash(&late.id)));
    }
}

#[tokio::test]
async fn no_change_proves_the_same() {
    let honest = bundle(true).await;
    let check = |change: &dyn Fn(&mut Bundle)| {
        let mut changed = honest.clone();
        change(&mut changed);
        verify(&changed, Ok(invoice())).unwrap_err()
    };
    assert_eq!(check(&|it| it.nexus_dispute = 2), Unproven::Format(2));
    assert_eq!(check(&|it| it.agent = npub(&keys(3))), Unproven::OtherAgent);
    assert_eq!(check(&|it| it.provider = npub(&keys(3))), Unproven::OtherProvider);
    assert_eq!(check(&|it| it.amount = Msat::sats(11)), Unproven::OtherAmount);
    assert_eq!(check(&|it| it.evidence.preimage = None), Unproven::NoPreimage);
    assert_eq!(check(&|it| it.evidence.preimage = Some(Hash32::ZERO)), Unproven::WrongPreimage);
    assert_eq!(check(&|it| it.evidence.bolt11 = "lnbcrt10n1another".into()), Unproven::NotAsked);
    assert_eq!(check(&|it| drop(it.evidence.heard.remove(0))), Unproven::NotAsked);
    assert!(matches!(check(&|it| it.evidence.request.content.push('x')), Unproven::Request(_)));
    assert!(matches!(check(&|it| it.evidence.heard[0].content.push('x')), Unproven::Heard(..)));
    // Of another provider, of another job, of another kind.
    let stranger = |it: &mut Bundle| {
        let id = it.evidence.request.id.to_hex();
        let tags = tags([&["e", &id], &["status", "payment-required"], &["amount", "10000", BOLT11]]);
        it.evidence.heard = vec![build(&keys(9), 7_000, tags, "")];
    };
    assert!(matches!(check(&stranger), Unproven::Heard(..)));
    let elsewhere = |it: &mut Bundle| {
        let tags = tags([&["e", &"11".repeat(32)], &["status", "payment-required"], &["amount", "10000", BOLT11]]);
        it.evidence.heard = vec![build(&keys(2), 7_000, tags, "")];
    };
    assert!(matches!(check(&elsewhere), Unproven::Heard(..)));
    assert!(matches!(check(&|it| it.evidence.late = Some(it.evidence.heard[0].clone())), Unproven::Heard(..)));
    assert!(matches!(check(&|it| it.evidence.late = Some(result_of(it, 9))), Unproven::Heard(..)));
    let many = |it: &mut Bundle| it.evidence.heard = vec![it.evidence.heard[0].clone(); 33];
    assert!(matches!(check(&many), Unproven::Malformed(_)));
    // The invoice's own word counts, not the file's.
    let other = Invoice { hash: Hash32::ZERO, ..invoice() };
    assert_eq!(verify(&honest, Ok(other)), Err(Unproven::WrongPreimage));
    assert_eq!(verify(&honest, Ok(Invoice { amount: None, ..invoice() })), Err(Unproven::OtherAmount));
    assert_eq!(verify(&honest, Err("torn".into())), Err(Unproven::Invoice("torn".into())));
    for bytes in [b"".as_slice(), b"{}", b"[1]", &vec![b' '; MAX_BUNDLE + 1]] {
        assert!(Bundle::read(bytes).is_err());
    }
}

#[tokio::test]
async fn only_the_providers_own_result_is_a_late_one() {
    let bundle = bundle(true).await;
    let (request, provider) = (event::hash(&bundle.evidence.request.id), npub(&keys(2)));
    let events: Vec<_> = bundle.evidence.heard.iter().cloned().chain([result_of(&bundle, 9)]).map(Arc::new).collect();
    assert!(late_result(&events, request, &provider).is_none(), "feedback, and a stranger's result");
    let late = Arc::new(result_of(&bundle, 2));
    let found = late_result(&[events[0].clone(), late.clone()], request, &provider);
    assert_eq!(found.map(|found| found.id), Some(late.id));
}

#[tokio::test]
async fn a_request_for_held_payment_says_so() {
    let (agent, provider) = (keys(1), keys(2));
    for (encrypted, hold) in [(true, true), (false, true), (true, false), (false, false)] {
        let bundle = bundle(encrypted).await;
        let read = job::receive(&bundle.evidence.request, &KeySigner(provider.clone())).await.unwrap();
        let feedback = Feedback { hold, ..Feedback::payment_required(Msat::sats(10), BOLT11.into()) };
        let unsigned = job::feedback_to(&KeySigner(provider.clone()), now(), &read, &feedback).await.unwrap();
        let event = signed(&provider, unsigned);
        let update = job::receive_update(&event, read.id, &npub(&provider), &KeySigner(agent.clone())).await.unwrap();
        let job_update = update.body;
        let nexus_nostr::UpdateBody::Feedback(said) = job_update else { panic!("feedback") };
        assert_eq!((said.hold, said.bolt11.as_deref()), (hold, Some(BOLT11)));
    }
}
