//! Budget counters: one row for each (npub, window), reserved by a guarded update whose row count is examined.

use nexus_core::budget::Window;
use nexus_core::{Msat, Npub};

use crate::batch::params;
use crate::{Conflict, Statement};

/// Holds `amount`, if what is settled and held stays within `limit`; one statement, also for a window's first hold.
pub(crate) fn reserve(npub: Npub, window: &Window, amount: Msat, limit: Msat) -> Statement {
    // Written as differences, so that no sum can overflow.
    Statement::write(
        "INSERT INTO budget (npub, win, held_msat, settled_msat) SELECT ?1, ?2, ?3, 0 WHERE ?3 <= ?4
         ON CONFLICT (npub, win) DO UPDATE SET held_msat = budget.held_msat + excluded.held_msat
         WHERE budget.held_msat <= ?4 - ?3 AND budget.settled_msat <= ?4 - ?3 - budget.held_msat",
        params![npub, window.key(), amount, limit],
    )
    .one_or_conflict(Conflict::Budget { window: window.key() })
}

/// Ends a hold, of which `spent` was really spent (zero: a release).
pub(crate) fn settle(npub: Npub, window: &Window, held: Msat, spent: Msat) -> Statement {
    Statement::write(
        "UPDATE budget SET held_msat = held_msat - ?3, settled_msat = settled_msat + ?4
         WHERE npub = ?1 AND win = ?2 AND held_msat >= ?3",
        params![npub, window.key(), held, spent],
    )
    .one_or_conflict(Conflict::BudgetHold { window: window.key() })
}

/// Counts at least this much as settled: what was spent elsewhere counts here too.
pub(crate) fn at_least(npub: Npub, window: &Window, settled: Msat) -> Statement {
    Statement::write(
        "INSERT INTO budget (npub, win, held_msat, settled_msat) VALUES (?1, ?2, 0, ?3)
         ON CONFLICT (npub, win) DO UPDATE SET settled_msat = excluded.settled_msat
         WHERE budget.settled_msat < excluded.settled_msat",
        params![npub, window.key(), settled],
    )
}

/// Counts more as settled, without a hold.
pub(crate) fn count(npub: Npub, window: &Window, spent: Msat) -> Statement {
    Statement::write(
        "INSERT INTO budget (npub, win, held_msat, settled_msat) VALUES (?1, ?2, 0, ?3)
         ON CONFLICT (npub, win) DO UPDATE SET settled_msat = budget.settled_msat + excluded.settled_msat",
        params![npub, window.key(), spent],
    )
}
