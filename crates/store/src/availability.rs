//! Due ticks and those that were on time, counted on the agent's own row: this month's, and the last one's.

use nexus_core::Npub;
use nexus_core::availability::{Availability, Month, TARGET_PER_100K};

use crate::batch::params;
use crate::{Result, Statement, Store};

/// An installation's month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Total {
    pub all: Availability,
    /// Agents that had something due.
    pub agents: u64,
    /// Those for whom the promise is not kept.
    pub below: u64,
}

/// Adds to this month's counters. The first of a month moves the month before out of the way.
pub(crate) fn statement(npub: Npub, month: Month, kept: Availability) -> Statement {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    Statement::write(
        "UPDATE agent SET
            last_month = CASE WHEN month < ?2 THEN month ELSE last_month END,
            last_month_due = CASE WHEN month < ?2 THEN month_due ELSE last_month_due END,
            last_month_on_time = CASE WHEN month < ?2 THEN month_on_time ELSE last_month_on_time END,
            month_due = CASE WHEN month < ?2 THEN ?3 ELSE month_due + ?3 END,
            month_on_time = CASE WHEN month < ?2 THEN ?4 ELSE month_on_time + ?4 END,
            month = CASE WHEN month < ?2 THEN ?2 ELSE month END
         WHERE npub = ?1",
        params![npub, month.0, count(kept.due), count(kept.on_time)],
    )
}

/// The same, and beats of the month before that nothing met.
pub(crate) fn statements(npub: Npub, month: Month, kept: Availability, missed_before: u64) -> Vec<Statement> {
    let mut statements = vec![statement(npub, month, kept)];
    if missed_before > 0 {
        let sql = "UPDATE agent SET last_month = ?2,
                last_month_due = CASE WHEN last_month = ?2 THEN last_month_due ELSE 0 END + ?3,
                last_month_on_time = CASE WHEN last_month = ?2 THEN last_month_on_time ELSE 0 END
             WHERE npub = ?1";
        let missed = i64::try_from(missed_before).unwrap_or(i64::MAX);
        statements.push(Statement::write(sql, params![npub, month.before().0, missed]));
    }
    statements
}

/// One agent's month; none when nothing was due in it, or it is longer ago than the last.
pub async fn of_agent(store: &Store, npub: Npub, month: Month) -> Result<Option<Availability>> {
    let sql = "SELECT CASE WHEN month = ?2 THEN month_due ELSE last_month_due END,
            CASE WHEN month = ?2 THEN month_on_time ELSE last_month_on_time END
        FROM agent WHERE npub = ?1 AND (month = ?2 OR last_month = ?2)";
    let read = |row: &mut crate::row::Columns| Ok(Availability { due: row.get()?, on_time: row.get()? });
    store.row("read an agent's availability", sql, params![npub, month.0], read).await
}

/// Every agent's month together.
pub async fn total(store: &Store, month: Month) -> Result<Total> {
    let sql = "SELECT CAST(COALESCE(SUM(due), 0) AS BIGINT), CAST(COALESCE(SUM(kept), 0) AS BIGINT), COUNT(*),
            CAST(COALESCE(SUM(CASE WHEN kept * 100000 < due * ?2 THEN 1 ELSE 0 END), 0) AS BIGINT)
        FROM (SELECT CASE WHEN month = ?1 THEN month_due ELSE last_month_due END AS due,
                CASE WHEN month = ?1 THEN month_on_time ELSE last_month_on_time END AS kept
            FROM agent WHERE month = ?1 OR last_month = ?1) counted WHERE due > 0";
    let target = i64::try_from(TARGET_PER_100K).unwrap_or(i64::MAX);
    let read = |row: &mut crate::row::Columns| {
        let all = Availability { due: row.get()?, on_time: row.get()? };
        Ok(Total { all, agents: row.get()?, below: row.get()? })
    };
    Ok(store.row("read the month's availability", sql, params![month.0, target], read).await?.unwrap_or_default())
}

/// Agents for whom the promise is kept least, worst first, at most `limit`.
pub async fn worst(store: &Store, month: Month, limit: u32) -> Result<Vec<(Npub, Availability)>> {
    let sql = "SELECT npub, month_due, month_on_time FROM agent
        WHERE month = ?1 AND month_on_time * 100000 < month_due * ?2
        ORDER BY month_due - month_on_time DESC, npub LIMIT ?3";
    let target = i64::try_from(TARGET_PER_100K).unwrap_or(i64::MAX);
    let read = |row: &mut crate::row::Columns| Ok((row.get()?, Availability { due: row.get()?, on_time: row.get()? }));
    store.rows("read who had the worst availability", sql, params![month.0, target, limit], read).await
}
