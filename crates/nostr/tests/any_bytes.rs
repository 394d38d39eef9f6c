//! Any bytes are read or refused.

mod common;

use common::*;
use nexus_nostr::event::to_json;
use nexus_nostr::fuzz::{fuzz_agent, fuzz_event, fuzz_job, fuzz_trigger};
use proptest::prelude::*;

fn all(bytes: &[u8]) {
    fuzz_event(bytes);
    fuzz_trigger(bytes);
    fuzz_job(bytes);
    fuzz_agent(bytes);
}

proptest! {
    #[test]
    fn bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        all(&bytes);
    }

    #[test]
    fn events_of_any_shape(
        kind in any::<u16>(),
        rows in prop::collection::vec(prop::collection::vec("[a-zE0-9:\"\\\\]{0,6}|é|lnbc1|payment-required", 1..5), 0..6),
        content in ".{0,60}",
    ) {
        let tags = rows.into_iter().map(|row| nostr::event::Tag::parse(row).unwrap()).collect();
        all(to_json(&build(&keys(1), kind, tags, &content)).as_bytes());
    }

    #[test]
    fn damaged_events(place in 0_usize..400, byte in any::<u8>()) {
        let event = build(&keys(1), 7_000, tags([&["status", "x"], &["e", &"ab".repeat(32)], &["amount", "5", "lnbc"]]), "[[\"i\"]]");
        let mut json = to_json(&event).into_bytes();
        let place = place % json.len();
        json[place] = byte;
        all(&json);
    }
}

proptest! {
    /// Tags that NIP-SA knows, with values that it may not.
    #[test]
    fn agent_events_of_any_shape(
        rows in prop::collection::vec(
            ("d|p|e|a|x|seq|exp|scope|budget|status|trigger|threshold|signer|max_amount|heartbeat|step|session|guardian_approved|agent",
             prop::collection::vec("[0-9]{0,20}|skill|cashu|kind|custom:[0-9]{0,6}|profile|[a-f0-9]{64}|\\PC{0,8}", 0..4)),
            0..8),
        content in "\\PC{0,40}|[{}\\[\\]\":,a-z0-9]{0,40}",
    ) {
        let tags = rows.into_iter().map(|(name, values)| nostr::event::Tag::custom(name, values)).collect();
        fuzz_agent(to_json(&build(&keys(1), 39_200, tags, &content)).as_bytes());
    }
}
