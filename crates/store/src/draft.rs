//! A batch in the making: the guards first, then the changes, then the events that tell them.

use nexus_core::{Generation, Npub, TickId, UnixMs};

use crate::batch::{Batch, Expect, Fence, Lock, Numbers, Statement, Verdict, params};
use crate::event::{self, NewEvent};
use crate::{Conflict, Result, Side, Store, StoreError};

pub(crate) struct Draft {
    batch: Batch,
    /// Places of the statements that return an event's number.
    events: Vec<usize>,
    /// Whose events they are, as long as they are one agent's.
    whose: Option<Npub>,
    mixed: bool,
}

impl Draft {
    pub(crate) fn new(attempted: &'static str) -> Self {
        Self { batch: Batch::new(attempted), events: Vec::new(), whose: None, mixed: false }
    }

    /// By a worker, for an agent that it holds at this generation: stale otherwise.
    pub(crate) fn hosted(attempted: &'static str, fence: Fence, npub: Npub, generation: Generation) -> Self {
        let mut batch = Batch::fenced(attempted, fence);
        batch.push(
            Statement::read(
                "SELECT 1 FROM agent WHERE npub = ?1 AND generation = ?2 AND worker_id = ?3",
                params![npub, generation, fence.worker],
            )
            .one_or(Verdict::Stale),
        );
        Self { batch, events: Vec::new(), whose: None, mixed: false }
    }

    pub(crate) fn attempted(&self) -> &'static str {
        self.batch.attempted
    }

    pub(crate) fn push(&mut self, statement: Statement) -> &mut Self {
        self.batch.push(statement);
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.batch.len()
    }

    pub(crate) fn into_batch(self) -> Batch {
        self.batch
    }

    /// Goes on only while this tick of this agent is open.
    pub(crate) fn tick_open(&mut self, npub: Npub, tick: TickId) -> &mut Self {
        self.push(
            Statement::read(
                "SELECT 1 FROM tick WHERE tick_id = ?1 AND npub = ?2 AND status = 'open'",
                params![tick, npub],
            )
            .one_or_conflict(Conflict::TickNotOpen),
        )
    }

    /// The next number of the revisions that workers hear of; `agent.desired_rev` is then set to it by `rev!`.
    pub(crate) fn next_rev(&mut self) -> &mut Self {
        self.push(Statement::write("UPDATE counter SET value = value + 1 WHERE name = 'desired_rev'", params![]))
    }

    /// Whoever raises a generation locks the worker's fence first, so that no write of its is under way.
    pub(crate) fn lock_fence(&mut self, worker: nexus_core::WorkerId) -> &mut Self {
        let sql = "SELECT 1 FROM worker_fence WHERE worker_id = ?1";
        self.push(Statement::read(sql, params![worker]).expect(Expect::Any).lock(Lock::Update))
    }

    pub(crate) fn event(&mut self, npub: Npub, event: &NewEvent) -> &mut Self {
        self.batch.extend(event::append_statements(npub, event));
        self.mixed |= self.whose.replace(npub).is_some_and(|other| other != npub);
        self.events.push(self.batch.len() - 1);
        self
    }

    pub(crate) fn events(&mut self, npub: Npub, events: &[NewEvent]) -> &mut Self {
        for event in events {
            self.event(npub, event);
        }
        self
    }

    pub(crate) fn sides(
        &mut self,
        side: &[Side],
        npub: Npub,
        generation: Generation,
        tick: Option<TickId>,
        now: UnixMs,
    ) -> Result<&mut Self> {
        for side in side {
            if let Side::AppendEvent(event) = side {
                self.event(npub, event);
                continue;
            }
            let attempted = self.attempted();
            let statements = side
                .statements(npub, generation, tick, now)
                .map_err(|conflict| StoreError::Conflict { attempted, conflict })?;
            self.batch.extend(statements);
        }
        Ok(self)
    }

    /// Writes it; returns the numbers of the appended events.
    pub(crate) async fn write(mut self, store: &Store) -> Result<Vec<i64>> {
        let attempted = self.batch.attempted;
        if !self.mixed {
            self.batch.numbers = Some(Numbers { npub: self.whose, places: self.events.clone() });
        }
        let mut outputs = store.write(self.batch).await?;
        let number = |place: usize| {
            let row = outputs.get_mut(place).and_then(|output| output.rows.pop()).unwrap_or_default();
            row.columns(attempted).get()
        };
        self.events.into_iter().map(number).collect()
    }
}

/// For an UPDATE of `agent` after [`Draft::next_rev`].
macro_rules! rev {
    () => {
        "(SELECT value FROM counter WHERE name = 'desired_rev')"
    };
}
pub(crate) use rev;
