//! Agents at rest: nothing waits for them before their next schedule but heartbeats, which have nothing new.
//!
//! A worker that opened an agent and found nothing new marks what it saw. Until something of it changes, the next
//! heartbeats are skipped on the mark's word alone: no key is opened, no wallet asked. Whoever writes the database can
//! so delay an agent (as it can by stopping it), never make it do anything.

use nexus_core::agent::AgentConfig;
use nexus_core::{Generation, Npub, UnixMs, WorkerId};

use crate::batch::params;
use crate::draft::Draft;
use crate::{Fence, Result, Statement, Store};

/// A mark is believed for so long; then the agent is opened and looked at again.
pub const BELIEVED_MS: i64 = 86_400_000;

/// A condition on `agent a`. `$now` and `$since` are the parameters that hold the present and the oldest mark to believe.
macro_rules! at_rest {
    ($now:literal, $since:literal) => {
        concat!(
            "(a.desired = 'running' AND a.custody = 'ready' AND a.hosting <> 'suspended'
              AND a.lifecycle IN ('active', 'low_balance') AND a.reason_code IS NULL AND a.next_tick_at IS NOT NULL
              AND (a.next_schedule_at IS NULL OR a.next_schedule_at > ",
            $now,
            ") AND a.rest_at >= ",
            $since,
            " AND a.rest_at >= a.last_tick_at AND a.rest_config = a.config_version
              AND a.rest_policy = a.policy_version
              AND NOT EXISTS (SELECT 1 FROM inbox i WHERE i.npub = a.npub AND i.handled = 0)
              AND NOT EXISTS (SELECT 1 FROM tick t WHERE t.npub = a.npub AND t.status = 'open')
              AND NOT EXISTS (SELECT 1 FROM payment p WHERE p.npub = a.npub
                  AND p.state IN ('reserved', 'dispatched', 'pending', 'unknown'))
              AND NOT EXISTS (SELECT 1 FROM publication b WHERE b.npub = a.npub AND b.done = 0)
              AND NOT EXISTS (SELECT 1 FROM approval d WHERE d.npub = a.npub AND d.state = 'approved')
              AND NOT EXISTS (SELECT 1 FROM wallet_request w WHERE w.npub = a.npub
                  AND w.outcome IS NULL AND w.expires_at > ",
            $now,
            ") AND NOT EXISTS (SELECT 1 FROM invoice_watch v WHERE v.npub = a.npub AND v.until_at > ",
            $now,
            "))"
        )
    };
}
pub(crate) use at_rest;

/// An agent at rest, with all that its heartbeat needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resting {
    pub generation: Generation,
    pub next_tick_at: UnixMs,
    pub next_schedule_at: Option<UnixMs>,
    pub config: AgentConfig,
}

/// What a worker saw when nothing was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub config_version: i64,
    pub policy_version: i64,
    pub at: UnixMs,
}

/// The oldest mark that is believed at `now`.
pub(crate) fn since(now: UnixMs) -> UnixMs {
    now.plus_ms(-BELIEVED_MS)
}

/// The agent if this worker holds it and it is at rest.
pub async fn resting(store: &Store, worker: WorkerId, npub: Npub, now: UnixMs) -> Result<Option<Resting>> {
    let sql = concat!(
        "SELECT a.generation, a.next_tick_at, a.next_schedule_at, a.config FROM agent a WHERE a.npub = ?1 AND a.worker_id = ?2 AND ",
        at_rest!("?3", "?4")
    );
    store
        .row("look whether an agent rests", sql, params![npub, worker, now, since(now)], |row| {
            let (generation, next_tick_at, next_schedule_at) = (row.get()?, row.get()?, row.get()?);
            let config = row.parse(|text| serde_json::from_str(text).ok())?;
            Ok(Resting { generation, next_tick_at, next_schedule_at, config })
        })
        .await
}

/// Notes what was seen when nothing was new. `Stale` when the agent is another worker's, or of another generation.
pub async fn mark(store: &Store, fence: Fence, npub: Npub, generation: Generation, seen: Seen) -> Result<()> {
    let mut draft = Draft::hosted("mark an agent as resting", fence, npub, generation);
    draft.push(Statement::write(
        "UPDATE agent SET rest_config = ?2, rest_policy = ?3, rest_at = ?4 WHERE npub = ?1",
        params![npub, seen.config_version, seen.policy_version, seen.at],
    ));
    draft.write(store).await.map(|_| ())
}
