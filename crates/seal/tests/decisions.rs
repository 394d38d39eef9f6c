//! An owner's answer to a parked action, and what a database or a relay could make of it.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test")]

mod common;

use common::{Key, NOW};
use nexus_core::approval::{Answer, ApprovalId};
use nexus_core::{Hash32, Npub, TickId};
use nexus_seal::decision::{DECISION_KIND, DecisionError, MAX_AHEAD_SECS, MAX_REASON};
use nexus_seal::event::{EventError, tag, timestamp, unsigned};
use nexus_seal::{Pending, unsigned_decision, verify_decision};
use nostr::event::{Event, Tag};

fn pending(request: Option<u8>) -> Pending {
    Pending {
        agent: Key::new(3).npub(),
        id: ApprovalId { tick_id: TickId::from_bytes([7; 16]), index: 1 },
        digest: Hash32::sha256(b"the action"),
        request: request.map(|n| Hash32::from_bytes([n; 32])),
    }
}

fn signed(pending: &Pending, answer: Answer) -> Event {
    let (owner, runner) = (Key::new(1), Key::new(9).npub());
    owner.sign(unsigned_decision(&owner.npub(), pending, answer, "fine", Some(&runner), timestamp(NOW)).unwrap())
}

fn with(tags: Vec<Tag>) -> Event {
    let owner = Key::new(1);
    owner.sign(unsigned(&owner.npub(), DECISION_KIND, timestamp(NOW), tags, String::new()))
}

#[test]
fn an_answer_is_to_one_action() {
    for (answer, request) in [(Answer::Approved, None), (Answer::Denied, None), (Answer::Approved, Some(5))] {
        let pending = pending(request);
        let event = signed(&pending, answer);
        let decision = verify_decision(&event, &Key::new(1).npub(), &pending, NOW).unwrap();
        assert_eq!((decision.answer, decision.digest), (answer, pending.digest));
        assert_eq!(decision.event_id, Hash32::from_bytes(event.id.to_bytes()));
        // The same answer, shown for another action, another place, another agent's record or another request.
        let elsewhere = |pending: &Pending| verify_decision(&event, &Key::new(1).npub(), pending, NOW).unwrap_err();
        let other = Pending { digest: Hash32::sha256(b"another action"), ..pending };
        assert_eq!(elsewhere(&other), DecisionError::OtherAction { expected: other.digest });
        let other = Pending { id: ApprovalId { index: 2, ..pending.id }, ..pending };
        assert!(matches!(elsewhere(&other), DecisionError::OtherApproval { .. }));
        if request.is_some() {
            let other = Pending { request: Some(Hash32::ZERO), ..pending };
            assert_eq!(elsewhere(&other), DecisionError::OtherRequest);
        }
    }
}

#[test]
fn only_the_owner_answers() {
    let pending = pending(None);
    let (owner, thief) = (Key::new(1), Key::new(2));
    let made = |by: &Key, named: &Npub| {
        let event = unsigned_decision(&by.npub(), &pending, Answer::Approved, "", None, timestamp(NOW)).unwrap();
        verify_decision(&by.sign(event), named, &pending, NOW)
    };
    made(&owner, &owner.npub()).unwrap();
    // A guardian that the runner chose, and the agent itself.
    for key in [&thief, &Key::new(3)] {
        let refused = made(key, &owner.npub()).unwrap_err();
        assert!(matches!(refused, DecisionError::Event(EventError::Author { .. })));
    }
    // A denial turned into an approval.
    let mut json = serde_json::to_value(signed(&pending, Answer::Denied)).unwrap();
    let text = json["tags"].to_string().replace("denied", "approved");
    json["tags"] = serde_json::from_str(&text).unwrap();
    let forged: Event = serde_json::from_value(json).unwrap();
    let refused = verify_decision(&forged, &owner.npub(), &pending, NOW).unwrap_err();
    assert_eq!(refused, DecisionError::Event(EventError::Id));
}

#[test]
fn a_guardians_client_that_names_the_request_only_is_understood() {
    let pending = pending(Some(5));
    let owner = Key::new(1).npub();
    let request = Hash32::from_bytes([5; 32]).to_string();
    let tick = Hash32::from_bytes([6; 32]).to_string();
    let draft = |first: &str, second: &str| {
        with(vec![tag("p", ["00"]), tag("e", [first]), tag("e", [second]), tag("decision", ["approved"])])
    };
    let decision = verify_decision(&draft(&request, &tick), &owner, &pending, NOW).unwrap();
    assert_eq!((decision.answer, decision.digest), (Answer::Approved, pending.digest));
    // Naming the tick's request alone approves nothing.
    assert_eq!(verify_decision(&draft(&tick, &request), &owner, &pending, NOW), Err(DecisionError::OtherRequest));
    // Nor does naming a request where none was published, or nothing at all.
    let unpublished = Pending { request: None, ..pending };
    assert_eq!(verify_decision(&draft(&request, &tick), &owner, &unpublished, NOW), Err(DecisionError::Unbound));
    let bare = with(vec![tag("decision", ["approved"])]);
    assert_eq!(verify_decision(&bare, &owner, &pending, NOW), Err(DecisionError::Unbound));
}

#[test]
fn what_is_unclear_is_no_answer() {
    let pending = pending(None);
    let owner = Key::new(1).npub();
    let digest = pending.digest.to_string();
    let refused = |tags| verify_decision(&with(tags), &owner, &pending, NOW).unwrap_err();
    let x = || tag("x", [digest.as_str()]);
    assert_eq!(refused(vec![x(), tag("decision", ["yes"])]), DecisionError::Answer);
    assert_eq!(refused(vec![x()]), DecisionError::Event(EventError::Tag("decision")));
    let both = vec![x(), tag("decision", ["approved"]), tag("decision", ["denied"])];
    assert_eq!(refused(both), DecisionError::Event(EventError::Tag("decision")));
    let two = vec![x(), x(), tag("decision", ["approved"])];
    assert_eq!(refused(two), DecisionError::Event(EventError::Tag("x")));
    let dated = |ahead: i64| {
        let stamp = timestamp(NOW.plus_ms(ahead * 1_000));
        let event = unsigned_decision(&owner, &pending, Answer::Approved, "", None, stamp).unwrap();
        verify_decision(&Key::new(1).sign(event), &owner, &pending, NOW)
    };
    dated(MAX_AHEAD_SECS).unwrap();
    assert_eq!(dated(MAX_AHEAD_SECS + 1), Err(DecisionError::Ahead { ahead_secs: MAX_AHEAD_SECS + 1 }));
    dated(-30 * 86_400).unwrap();
    let long = "x".repeat(MAX_REASON + 1);
    let refused = unsigned_decision(&owner, &pending, Answer::Denied, &long, None, timestamp(NOW));
    assert_eq!(refused.unwrap_err(), DecisionError::Reason);
}
