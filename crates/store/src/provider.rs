//! What agents experienced with compute providers, counted by week (`core/score.rs` says what that means).
//!
//! An agent writes rows of its own alone; an account's experience is the sum of its agents' rows. No row names what another
//! account experienced, and none is read for it.

use nexus_core::score::{WEEKS, Week, week_of};
use nexus_core::{AccountId, Npub, UnixMs};

use crate::batch::params;
use crate::row::Columns;
use crate::{Result, Statement, Store};

/// Most rows of one look: providers times weeks.
const MAX_ROWS: u32 = 8_000;

/// One thing that happened with a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    Done,
    /// Abandoned before payment, or after the money came back: silent, too dear, not acceptable.
    Abandoned,
    /// Paid, and nothing came.
    Disputed,
    /// What was disputed came after all.
    Answered,
}

/// What is known of a provider for one week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experience {
    pub provider: Npub,
    pub week: Week,
}

/// What an agent itself experienced in the weeks that count.
pub async fn own(store: &Store, npub: Npub, now: UnixMs) -> Result<Vec<Experience>> {
    let sql = "SELECT provider, week, done, refused, disputed, answered FROM provider_week
        WHERE npub = ?1 AND week >= ?2 ORDER BY week DESC, provider LIMIT ?3";
    store.rows("read an agent's providers", sql, params![npub, since(now), MAX_ROWS], experience_row).await
}

/// What all agents of an account experienced in the weeks that count.
pub async fn of_account(store: &Store, account: AccountId, now: UnixMs) -> Result<Vec<Experience>> {
    let sql = "SELECT provider, week, CAST(SUM(done) AS BIGINT), CAST(SUM(refused) AS BIGINT),
            CAST(SUM(disputed) AS BIGINT), CAST(SUM(answered) AS BIGINT) FROM provider_week
        WHERE account_id = ?1 AND week >= ?2 GROUP BY provider, week ORDER BY week DESC, provider LIMIT ?3";
    store.rows("read an account's providers", sql, params![account, since(now), MAX_ROWS], experience_row).await
}

/// Forgets weeks that count no more. Returns how many rows.
pub async fn purge(store: &Store, now: UnixMs, limit: u32) -> Result<u64> {
    let sql = "DELETE FROM provider_week WHERE (npub, provider, week) IN
        (SELECT npub, provider, week FROM provider_week WHERE week < ?1 LIMIT ?2)";
    store.change("purge providers", Statement::write(sql, params![since(now), limit])).await
}

fn since(now: UnixMs) -> i64 {
    week_of(now).saturating_sub(WEEKS)
}

fn experience_row(row: &mut Columns) -> Result<Experience> {
    Ok(Experience {
        provider: row.get()?,
        week: Week {
            week: row.get()?,
            done: row.get()?,
            refused: row.get()?,
            disputed: row.get()?,
            answered: row.get()?,
        },
    })
}

impl Fact {
    pub(crate) fn statement(self, npub: Npub, provider: Npub, now: UnixMs) -> Statement {
        let (done, refused, disputed, answered) = match self {
            Self::Done => (1_i64, 0_i64, 0_i64, 0_i64),
            Self::Abandoned => (0, 1, 0, 0),
            Self::Disputed => (0, 0, 1, 0),
            Self::Answered => (0, 0, 0, 1),
        };
        Statement::write(
            "INSERT INTO provider_week (npub, provider, week, account_id, done, refused, disputed, answered)
             SELECT npub, ?2, ?3, account_id, ?4, ?5, ?6, ?7 FROM agent WHERE npub = ?1
             ON CONFLICT (npub, provider, week) DO UPDATE SET
                done = provider_week.done + excluded.done,
                refused = provider_week.refused + excluded.refused,
                disputed = provider_week.disputed + excluded.disputed,
                answered = provider_week.answered + excluded.answered",
            params![npub, provider, week_of(now), done, refused, disputed, answered],
        )
    }
}
