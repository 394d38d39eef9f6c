//! The agent's row, column by column.

use nexus_core::lifecycle::Lifecycle;
use nexus_core::status::{CustodyState, Desired, Hosting, Placement, Purpose, Reason};

use super::Agent;
use crate::Result;
use crate::row::Columns;

macro_rules! agent_columns {
    () => {
        "SELECT a.npub, a.account_id, a.name, a.config, a.config_version, a.desired, a.desired_rev, a.stop_now,
            a.custody, a.lifecycle, a.lifecycle_since, a.hosting, a.placement, a.purpose, a.worker_id,
            a.last_worker_id, a.generation, a.reason_code, a.reason_text, a.next_attempt_at, a.next_tick_at,
            a.last_tick_at, a.balance_msat, a.balance_at, a.policy_version, a.last_quote_msat, a.event_seq,
            a.event_head, a.created_at, a.updated_at, a.reader_version, a.moved_to,
            a.restored_at, a.unreconciled, a.noticed, a.noticed_at, a.schedules_at, a.next_schedule_at,
            a.hosting_notice, a.ticks_per_day, a.state_kib, a.address, a.shown_active FROM agent a"
    };
}
pub(crate) use agent_columns;

pub(crate) fn agent_row(row: &mut Columns) -> Result<Agent> {
    Ok(Agent {
        npub: row.get()?,
        account: row.get()?,
        name: row.get()?,
        config: row.parse(|text| serde_json::from_str(text).ok())?,
        config_version: row.get()?,
        desired: row.parse(Desired::parse)?,
        desired_rev: row.get()?,
        stop_now: row.get()?,
        custody: row.parse(CustodyState::parse)?,
        lifecycle: row.parse(Lifecycle::parse)?,
        lifecycle_since: row.get()?,
        hosting: row.parse(Hosting::parse)?,
        placement: row.parse(Placement::parse)?,
        purpose: row.parse(Purpose::parse)?,
        worker: row.get()?,
        last_worker: row.get()?,
        generation: row.get()?,
        reason: reason(row)?,
        next_attempt_at: row.get()?,
        next_tick_at: row.get()?,
        last_tick_at: row.get()?,
        balance: row.get()?,
        balance_at: row.get()?,
        policy_version: row.get()?,
        last_quote: row.get()?,
        event_seq: row.get()?,
        event_head: row.get()?,
        created_at: row.get()?,
        updated_at: row.get()?,
        reader_version: row.get()?,
        moved_to: row.get()?,
        restored_at: row.get()?,
        unreconciled: row.get()?,
        noticed: row.get()?,
        noticed_at: row.get()?,
        schedules_at: row.get()?,
        next_schedule_at: row.get()?,
        hosting_notice: row.get::<Option<i64>>()?.and_then(|days| u16::try_from(days).ok()),
        ticks_per_day: row.get::<Option<i64>>()?.and_then(|ticks| u32::try_from(ticks).ok()),
        state_kib: row.get::<Option<i64>>()?.and_then(|kib| u32::try_from(kib).ok()),
        address: row.get()?,
        shown_active: row.get()?,
    })
}

fn reason(row: &mut Columns) -> Result<Option<Reason>> {
    let (code, text): (Option<String>, Option<String>) = (row.get()?, row.get()?);
    Ok(code.map(|code| Reason { code, text: text.unwrap_or_default() }))
}
