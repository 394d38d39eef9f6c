//! What the schedules of an agent came to: which runs wait or run, and up to when they were looked at.

use nexus_core::schedule::plan::run_of;
use nexus_core::trigger::Trigger;
use nexus_core::{Generation, Npub, TickId, UnixMs};

use crate::batch::params;
use crate::draft::Draft;
use crate::event::NewEvent;
use crate::inbox::{self, NewItem};
use crate::{Conflict, Fence, Result, Statement, Store};

/// Runs of one batch at most.
const TOGETHER: usize = 32;

/// A run that no tick has finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRun {
    pub name: String,
    pub due: UnixMs,
    /// The tick that has it.
    pub tick: Option<TickId>,
}

/// What a look at an agent's schedules came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The configuration that was looked at.
    pub config_version: i64,
    pub upto: UnixMs,
    pub next: Option<UnixMs>,
    /// External ids and moments of the runs to make.
    pub runs: Vec<(String, UnixMs)>,
    /// Runs that will not be made.
    pub missed: Vec<NewEvent>,
}

/// The runs that wait or are in a tick.
pub async fn open_runs(store: &Store, npub: Npub) -> Result<Vec<OpenRun>> {
    let sql = "SELECT external_id, tick_id FROM inbox
        WHERE npub = ?1 AND handled = 0 AND class = 'schedule' ORDER BY id";
    let rows = store.rows("read the runs of schedules", sql, params![npub], |row| {
        let (id, tick): (String, Option<TickId>) = (row.get()?, row.get()?);
        Ok(run_of(&id).map(|(name, due)| OpenRun { name: name.to_owned(), due, tick }))
    });
    Ok(rows.await?.into_iter().flatten().collect())
}

/// Puts the runs into the inbox, each once however often it is put, then notes what was looked at. After a crash in
/// between the same look does it again. Returns the events' numbers.
///
/// # Errors
/// `Stale`; [`Conflict::InboxFull`]; [`Conflict::Version`] when the configuration was changed meanwhile.
pub async fn looked(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: Generation,
    looked: Looked,
) -> Result<Vec<i64>> {
    for runs in looked.runs.chunks(TOGETHER) {
        let mut draft = Draft::hosted("put runs of schedules", fence, npub, generation);
        for (id, due) in runs {
            let item = NewItem {
                npub,
                external_id: id.clone(),
                trigger: Trigger::Schedule,
                sender: None,
                received_at: *due,
                payload: Vec::new(),
            };
            for statement in inbox::put_statements(&item) {
                draft.push(statement);
            }
        }
        draft.write(store).await?;
    }
    let mut draft = Draft::hosted("note a look at schedules", fence, npub, generation);
    draft.push(
        Statement::write(
            "UPDATE agent SET schedules_at = ?3, next_schedule_at = ?4 WHERE npub = ?1 AND config_version = ?2",
            params![npub, looked.config_version, looked.upto, looked.next],
        )
        .one_or_conflict(Conflict::Version),
    );
    draft.events(npub, &looked.missed);
    draft.write(store).await
}
