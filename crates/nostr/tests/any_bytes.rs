//! Any bytes are read or refused.

mod common;

use common::*;
use nexus_nostr::event::to_json;
use nexus_nostr::fuzz::{fuzz_event, fuzz_job, fuzz_trigger};
use proptest::prelude::*;

fn all(bytes: &[u8]) {
    fuzz_event(bytes);
    fuzz_trigger(bytes);
    fuzz_job(bytes);
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
