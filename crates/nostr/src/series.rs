//! NIP-SA's numbers, old and new. The draft moved its kinds by 1,200; what others still publish under the old ones is
//! read, and only the new ones are written.

use nostr::event::Event;

use crate::event::{self, EventError};

/// New kind minus old kind.
const MOVED_BY: u16 = 1_200;
/// The kinds that the old series had.
const OLD: [std::ops::RangeInclusive<u16>; 4] = [38_000..=38_003, 38_010..=38_011, 38_020..=38_021, 38_030..=38_031];

/// The kind that an event of either series has in the new one; other kinds are themselves.
pub fn canonical(kind: u16) -> u16 {
    if OLD.iter().any(|range| range.contains(&kind)) { kind + MOVED_BY } else { kind }
}

/// The kind that a new one had in the old series, for filters that look for both.
pub fn old(kind: u16) -> Option<u16> {
    let old = kind.checked_sub(MOVED_BY)?;
    OLD.iter().any(|range| range.contains(&old)).then_some(old)
}

/// Refuses an event that is not of this (new) kind in one of the series.
pub fn expect(event: &Event, expected: u16) -> Result<(), EventError> {
    let found = event.kind.as_u16();
    if canonical(found) == expected { Ok(()) } else { Err(EventError::WrongKind { expected, found }) }
}

/// Refuses an event whose `d` is another. The old 38000 is also a mint's recommendation (NIP-87), so in the old series
/// the `d` must be there; in the new one, an event without any is taken.
pub fn expect_identifier(event: &Event, expected: &str, why: &'static str) -> Result<(), EventError> {
    let moved = canonical(event.kind.as_u16()) != event.kind.as_u16();
    match event::first(event, "d") {
        Some(d) if d == expected => Ok(()),
        None if !moved => Ok(()),
        Some(_) | None => Err(EventError::Invalid(why)),
    }
}
