//! A small pool of connections that read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::pipeline::{Connection, Reply};
use super::session::Dialer;
use super::wire::Failure;
use crate::batch::{Batch, Expect, Output, Statement};
use crate::dialect::Form;
use crate::error::StoreError;

/// Between looks for a server that is away.
const WAIT: Duration = Duration::from_millis(100);
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const COMMIT: &str = "COMMIT";

pub(crate) struct Readers {
    dialer: Arc<Dialer>,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(crate) fn new(dialer: Arc<Dialer>) -> Self {
        let permits = Semaphore::new(usize::from(dialer.config.readers));
        Self { dialer, permits, idle: Mutex::new(Vec::new()) }
    }

    /// Reading twice is harmless, so a lost connection is replaced and the question asked again, within the outage that
    /// callers put up with.
    pub(crate) async fn read(&self, batch: &Batch) -> Result<Vec<Output>, StoreError> {
        let attempted = batch.attempted;
        let closed = |_| StoreError::Closed { attempted };
        let _permit = self.permits.acquire().await.map_err(closed)?;
        let deadline = Instant::now() + self.dialer.config.outage();
        loop {
            let failure = match self.take().await {
                // A caller that goes away mid-answer takes the connection with it.
                Ok(mut connection) => match run(&mut connection, batch).await {
                    Ok(verdict) => {
                        self.idle().push(connection);
                        return verdict;
                    }
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            if !failure.is_passing() || Instant::now() >= deadline {
                return Err(StoreError::Database { attempted, message: failure.to_string() });
            }
            tracing::debug!(attempted, error = %failure, "asking again");
            // What else is idle was most likely lost with it.
            self.idle().clear();
            sleep(WAIT).await;
        }
    }

    async fn take(&self) -> Result<Connection, Failure> {
        let idle = self.idle().pop();
        match idle {
            Some(connection) => Ok(connection),
            None => self.dialer.reader().await,
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One statement sees one snapshot by itself; several share one.
async fn run(connection: &mut Connection, batch: &Batch) -> Result<Result<Vec<Output>, StoreError>, Failure> {
    let database = |message: String| StoreError::Database { attempted: batch.attempted, message };
    let (begin, commit) = (Statement::read(BEGIN, Vec::new()), Statement::read(COMMIT, Vec::new()));
    let mut steps: Vec<(&Statement, Form)> =
        batch.statements.iter().map(|statement| (statement, Form::Plain)).collect();
    let several = steps.len() > 1;
    if several {
        steps.insert(0, (&begin, Form::Plain));
        steps.push((&commit, Form::Plain));
    }
    let prepared = match connection.prepare(&steps).await?.into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(prepared) => prepared,
        Err(error) => return Ok(Err(database(error.to_string()))),
    };
    for (prepared, (statement, _)) in prepared.iter().zip(&steps) {
        if let Err(why) = connection.push(prepared, statement.params.iter()) {
            connection.discard();
            return Ok(Err(database(why)));
        }
    }
    connection.sync();
    let replies = connection.run().await?;
    let failed = replies.iter().find_map(|reply| match reply {
        Reply::Failed(error) => Some(error.clone()),
        Reply::Done { .. } | Reply::Skipped => None,
    });
    if let Some(error) = failed {
        // A plan that no longer fits, after a migration: the next connection plans anew.
        if error.code == "0A000" || error.code == "26000" {
            return Err(Failure::Lost(error.to_string()));
        }
        if several {
            connection.wire().simple("ROLLBACK").await?;
        }
        return Ok(Err(database(error.to_string())));
    }
    let outputs = replies.into_iter().skip(usize::from(several)).take(batch.statements.len());
    Ok(outputs.zip(&batch.statements).map(|(reply, statement)| expected(batch, statement, reply)).collect())
}

fn expected(batch: &Batch, statement: &Statement, reply: Reply) -> Result<Output, StoreError> {
    let Reply::Done { output, .. } = reply else { return Err(StoreError::Closed { attempted: batch.attempted }) };
    match &statement.expect {
        Expect::Rows(rows, verdict) if *rows != output.affected => Err(batch.refused(verdict.clone())),
        Expect::Rows(..) | Expect::Any => Ok(output),
    }
}
