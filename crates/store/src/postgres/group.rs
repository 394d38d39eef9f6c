//! Many callers' batches in one transaction, and each its own verdict.
//!
//! A group is first run as if nothing in it could be refused: everything in one round trip, the counts examined here,
//! then the commit. If something did not hold, the group is run again with a savepoint around each batch and every
//! expectation checked by the server, which costs more but needs no more round trips, however many are refused.
//!
//! Locks are taken in one order by all: fences by worker, the counter, agents by npub.

use std::sync::Arc;

use super::evict;
use super::lock::{Locks, agent_of};
use super::pipeline::{Connection, Reply, fits};
use super::prepared::Prepared;
use super::session::Dialer;
use super::together;
use super::wire::{Failure, SqlError};
use crate::batch::{Batch, Expect, Output, Statement, Value, Verdict, params};
use crate::dialect::{self, Form};
use crate::error::{Conflict, StoreError};
use crate::row::Row;

/// What a batch's caller will hear, if the transaction ends as it should.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    Told(Result<Vec<Output>, StoreError>),
    /// Nothing was done and another try may do it: a deadlock, a twin that was faster.
    Again(String),
}

/// The connection broke.
pub(crate) struct Broken {
    pub(crate) why: String,
    /// When COMMIT was already on its way: what to tell if it arrived.
    pub(crate) doubt: Option<Vec<Fate>>,
    /// Outputs of the one batch in doubt that the marker's companion tells, in order: numbers of events.
    pub(crate) numbers: Vec<usize>,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self { why: failure.to_string(), doubt: None, numbers: Vec::new() }
    }
}

/// A writer's connection.
pub(crate) struct Link {
    dialer: Arc<Dialer>,
    connection: Connection,
    /// Its row of `commit_marker`, which counts its commits.
    pub(crate) marker: i64,
    pub(crate) commits: i64,
    /// A transaction was left open or failed.
    open: bool,
}

const BEGIN: &str = "BEGIN";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";
const SAVEPOINT: &str = "SAVEPOINT batch";
const RELEASE: &str = "RELEASE SAVEPOINT batch";
const UNDO: &str = "ROLLBACK TO SAVEPOINT batch";
/// Zero rows: someone has settled this writer's last commit, so it is not this connection's any more.
const MARK: &str = "UPDATE commit_marker SET value = ?2 WHERE id = ?1 AND value = ?3";

/// The marker's companion, its id negative: the number of the last event that the transaction appended to an agent's.
const TELL: &str = "INSERT INTO commit_marker (id, value) SELECT ?1, event_seq FROM agent WHERE npub = ?2
    ON CONFLICT (id) DO UPDATE SET value = excluded.value";

type Steps<'a> = Vec<(&'a Statement, Form)>;

fn plain(sql: &'static str) -> Statement {
    Statement::write(sql, Vec::new())
}

fn values(statement: &Statement) -> impl ExactSizeIterator<Item = &Value> + Clone {
    statement.params.iter()
}

impl Link {
    pub(crate) fn new(dialer: Arc<Dialer>, connection: Connection, marker: i64) -> Self {
        Self { dialer, connection, marker, commits: 0, open: false }
    }

    pub(crate) async fn close(self) {
        self.connection.close().await;
    }

    /// As [`Link::run`], for a statement that is text.
    pub(crate) async fn simple(&mut self, sql: &str) -> Result<Vec<String>, Failure> {
        let pid = self.connection.wire().pid();
        tokio::select! {
            biased;
            texts = self.connection.wire().simple(sql) => texts,
            never = evict::watch(&self.dialer, pid) => match never {},
        }
    }

    /// Sends what was pushed and reads the replies, and meanwhile sees to it that nobody frozen is in the way.
    async fn run(&mut self) -> Result<Vec<Reply>, Failure> {
        let pid = self.connection.wire().pid();
        tokio::select! {
            biased;
            replies = self.connection.run() => replies,
            never = evict::watch(&self.dialer, pid) => match never {},
        }
    }

    /// One fate for each batch, in their order.
    pub(crate) async fn run_group(&mut self, batches: &[&Batch]) -> Result<Vec<Fate>, Broken> {
        let mut order: Vec<usize> = (0..batches.len()).collect();
        order.sort_by_key(|place| batches.get(*place).and_then(|batch| agent_of(batch)));
        let sorted: Vec<&Batch> = order.iter().filter_map(|place| batches.get(*place).copied()).collect();
        let back = |fates: Vec<Fate>| {
            let mut placed: Vec<(usize, Fate)> = order.iter().copied().zip(fates).collect();
            placed.sort_by_key(|(place, _)| *place);
            placed.into_iter().map(|(_, fate)| fate).collect::<Vec<_>>()
        };
        match self.run_sorted(&sorted).await {
            Ok(fates) => {
                // What was refused must not hold its locks while nothing is to be done.
                self.roll_back().await?;
                Ok(back(fates))
            }
            Err(Broken { why, doubt, numbers }) => Err(Broken { why, doubt: doubt.map(back), numbers }),
        }
    }

    async fn run_sorted(&mut self, batches: &[&Batch]) -> Result<Vec<Fate>, Broken> {
        let locks = Locks::of(batches);
        let found = match batches {
            [batch] if (is_foretold(batch) || batch.numbers.is_some()) && locks.only_share(batch) => {
                self.run_together(batch).await?
            }
            _ => self.run_hopefully(batches, &locks).await?,
        };
        match found {
            Some(fates) => Ok(fates),
            None => self.run_carefully(batches, &locks).await,
        }
    }

    /// A lone batch whose outputs are known if it succeeds, or can be read back: everything, the commit too, in one round trip.
    /// `None`: it does not fit as it is, nothing was done.
    async fn run_together(&mut self, batch: &Batch) -> Result<Option<Vec<Fate>>, Broken> {
        self.roll_back().await?;
        let (begin, mark, commit) = (plain(BEGIN), self.mark(), plain(COMMIT));
        let fence = batch.fence.map(|fence| {
            let sql = Statement::read(dialect::FENCE, params![fence.worker, fence.incarnation]);
            sql.lock(crate::Lock::Share).one_or(Verdict::Stale)
        });
        let mut steps: Steps<'_> = vec![(&begin, Form::Plain), (&mark, Form::exact(&mark))];
        let guards = steps.len();
        steps.extend(fence.iter().map(|fence| (fence, Form::exact(fence))));
        let first = steps.len();
        steps.extend(exactly(batch));
        let told = batch.numbers.as_ref().and_then(|numbers| numbers.npub);
        let told = told.map(|npub| Statement::write(TELL, params![-self.marker, npub]));
        steps.extend(told.iter().map(|told| (told, Form::Plain)));
        steps.push((&commit, Form::Plain));
        if !self.push_all(&steps).await? {
            return Ok(None);
        }
        self.connection.sync();
        let foretold = batch.statements.iter().map(|statement| Form::exact(statement).output(0, Vec::new(), true));
        let foretold = Fate::Told(Ok(foretold.collect()));
        let replies = match self.run().await {
            Ok(replies) => replies,
            Err(failure) => {
                let numbers = batch.numbers.as_ref().map(|numbers| numbers.places.clone()).unwrap_or_default();
                return Err(Broken { why: failure.to_string(), doubt: Some(vec![foretold]), numbers });
            }
        };
        if matches!(replies.last(), Some(Reply::Done { rolled_back: false, .. })) {
            self.commits += 1;
            return Ok(Some(vec![fate(batch, &mut replies.into_iter().skip(first))]));
        }
        self.open = true;
        check_opening(&replies[..guards.min(replies.len())])?;
        let refused = |reply: &Reply| matches!(reply, Reply::Failed(error) if error.code == dialect::REFUSED);
        if replies[guards..first].iter().any(refused) {
            return Ok(Some(vec![Fate::Told(Err(batch.refused(Verdict::Stale)))]));
        }
        if let Some(error) = first_error(&replies[..first]) {
            return Ok(Some(vec![Fate::Again(error.to_string())]));
        }
        Ok(Some(vec![fate(batch, &mut replies.into_iter().skip(first))]))
    }

    /// Everything in one round trip and then the commit. `None` if something did not hold: nothing was done then.
    async fn run_hopefully(&mut self, batches: &[&Batch], locks: &Locks) -> Result<Option<Vec<Fate>>, Broken> {
        self.roll_back().await?;
        let opening = self.opening(locks);
        let steps = together::steps(batches);
        let agents = if steps.sets.is_empty() { Vec::new() } else { together::locks(batches) };
        if !self.push_opening(&opening, &steps, &agents).await? {
            return Ok(None);
        }
        self.connection.sync();
        self.open = true;
        let mut replies = self.run().await?.into_iter();
        let opening: Vec<Reply> = replies.by_ref().take(opening.len()).collect();
        check_opening(&opening)?;
        if first_error(&opening).is_some() {
            return Ok(None);
        }
        let stands = locks.stands(&opening);
        if let [batch] = batches {
            // Alone, nothing of what is refused is done and it is told at once.
            let fate = match stale(batch, &stands) {
                true => Fate::Told(Err(batch.refused(Verdict::Stale))),
                false => fate(batch, &mut replies),
            };
            return match fate {
                Fate::Told(Ok(_)) => self.commit(vec![fate]).await.map(Some),
                refused => Ok(Some(vec![refused])),
            };
        }
        if batches.iter().any(|batch| stale(batch, &stands)) {
            return Ok(None);
        }
        if !agents.is_empty() && !matches!(replies.next(), Some(Reply::Done { .. })) {
            return Ok(None);
        }
        let Some(outputs) = steps.read(batches.len(), replies) else { return Ok(None) };
        self.commit(outputs.into_iter().map(|outputs| Fate::Told(Ok(outputs))).collect()).await.map(Some)
    }

    /// Writes the opening and the group's steps, or nothing. Before statements of many batches the agents' rows are locked,
    /// in the order in which every group takes them.
    async fn push_opening(
        &mut self,
        opening: &[Statement],
        steps: &together::Steps<'_>,
        agents: &[Value],
    ) -> Result<bool, Broken> {
        let lock = Statement::read(together::LOCK_AGENTS, vec![Value::Blob(Vec::new())]);
        let mut wanted: Steps<'_> = opening.iter().map(|statement| (statement, Form::Plain)).collect();
        if !agents.is_empty() {
            wanted.push((&lock, Form::Together));
        }
        wanted.extend(steps.steps.iter().map(|step| match step {
            together::Step::One { statement, .. } => (*statement, Form::Plain),
            together::Step::All { statement, .. } => (*statement, Form::Together),
        }));
        let prepared = match self.prepared(&wanted).await? {
            Ok(prepared) => prepared,
            Err(error) => {
                tracing::debug!(%error, "a group is run batch by batch: a statement of it cannot be prepared");
                return Ok(false);
            }
        };
        let mut prepared = prepared.iter();
        let mut pushed = Ok(());
        for (statement, prepared) in opening.iter().zip(prepared.by_ref()) {
            pushed = pushed.and_then(|()| self.connection.push(prepared, values(statement)));
        }
        if let Some(prepared) = prepared.by_ref().take(usize::from(!agents.is_empty())).next() {
            let agents: Vec<&[Value]> = agents.iter().map(std::slice::from_ref).collect();
            pushed = pushed.and_then(|()| self.connection.push_together(prepared, &agents));
        }
        for (step, prepared) in steps.steps.iter().zip(prepared) {
            pushed = pushed.and_then(|()| match step {
                together::Step::One { statement, .. } => self.connection.push(prepared, values(statement)),
                together::Step::All { params, .. } => self.connection.push_together(prepared, params),
            });
        }
        if pushed.is_err() {
            self.connection.discard();
        }
        Ok(pushed.is_ok())
    }

    /// A savepoint around each batch. Whoever is refused leaves nothing and disturbs nobody.
    async fn run_carefully(&mut self, batches: &[&Batch], locks: &Locks) -> Result<Vec<Fate>, Broken> {
        self.roll_back().await?;
        let opening = self.opening(locks);
        // All before the transaction begins: a statement that cannot be prepared would end it.
        let marks = [plain(SAVEPOINT), plain(RELEASE), plain(UNDO)];
        let steps: Steps<'_> = marks.iter().map(|mark| (mark, Form::Plain)).collect();
        let marks: Vec<Arc<Prepared>> = self.prepared(&steps).await?.map_err(|error| unprepared(&error))?;
        let mut fates = Vec::with_capacity(batches.len());
        let mut statements = Vec::with_capacity(batches.len());
        for batch in batches {
            let prepared = self.prepared(&exactly(batch).collect::<Vec<_>>()).await?;
            let fitting = prepared.map_err(|error| error.to_string()).and_then(|prepared| {
                prepared
                    .iter()
                    .zip(&batch.statements)
                    .try_for_each(|(prepared, statement)| fits(prepared, values(statement)))?;
                Ok(prepared)
            });
            fates.push(fitting.as_ref().err().map(|why| Fate::Told(Err(database(batch, why)))));
            statements.push(fitting.unwrap_or_default());
        }
        let steps: Steps<'_> = opening.iter().map(|statement| (statement, Form::Plain)).collect();
        if !self.push_all(&steps).await? {
            return Ok(again(batches, "the opening does not fit"));
        }
        self.connection.sync();
        self.open = true;
        let opening = self.run().await?;
        check_opening(&opening)?;
        if let Some(error) = first_error(&opening) {
            return Ok(again(batches, &error.to_string()));
        }
        let stands = locks.stands(&opening);
        for (batch, fate) in batches.iter().zip(&mut fates) {
            if stale(batch, &stands) {
                *fate = Some(Fate::Told(Err(batch.refused(Verdict::Stale))));
            }
        }
        if fates.iter().any(Option::is_none) {
            self.push_guarded(batches, &statements, &fates, &marks);
            let replies = self.run().await?;
            if !read_guarded(batches, &mut fates, replies) {
                return Ok(again(batches, "the transaction failed between two batches"));
            }
        }
        let fates: Vec<Fate> =
            fates.into_iter().map(|fate| fate.unwrap_or_else(|| Fate::Again("not run".into()))).collect();
        if fates.iter().any(|fate| matches!(fate, Fate::Told(Ok(_)))) { self.commit(fates).await } else { Ok(fates) }
    }

    /// Writes each batch that has no fate yet between two savepoints and the undoing of what follows the last: after a
    /// success that is nothing, after a failure it is the batch.
    fn push_guarded(
        &mut self,
        batches: &[&Batch],
        statements: &[Vec<Arc<Prepared>>],
        fates: &[Option<Fate>],
        marks: &[Arc<Prepared>],
    ) {
        let [savepoint, release, undo] = marks else { return };
        for ((batch, statements), _) in batches.iter().zip(statements).zip(fates).filter(|(_, fate)| fate.is_none()) {
            self.push(savepoint, &[]);
            for (prepared, statement) in statements.iter().zip(&batch.statements) {
                self.push(prepared, &statement.params);
            }
            self.push(release, &[]);
            self.push(savepoint, &[]);
            self.connection.sync();
            self.push(undo, &[]);
            self.push(release, &[]);
        }
        self.connection.sync();
    }

    /// Writes what was seen to fit.
    fn push(&mut self, prepared: &Arc<Prepared>, params: &[Value]) {
        if let Err(why) = self.connection.push(prepared, params.iter()) {
            tracing::error!(%why, "a statement fitted and then did not");
        }
    }

    /// Ends what an earlier group left.
    async fn roll_back(&mut self) -> Result<(), Broken> {
        if !self.open {
            return Ok(());
        }
        let rollback = plain(ROLLBACK);
        self.connection.wire().simple(&rollback.sql).await?;
        self.open = false;
        Ok(())
    }

    /// Begins, claims the marker, takes the locks that all take first.
    fn opening(&self, locks: &Locks) -> Vec<Statement> {
        let mut statements = vec![plain(BEGIN), self.mark()];
        statements.extend(locks.statements());
        statements
    }

    fn mark(&self) -> Statement {
        Statement::write(MARK, params![self.marker, self.commits + 1, self.commits]).one_or(Verdict::Stale)
    }

    async fn prepared(&mut self, steps: &[(&Statement, Form)]) -> Result<Result<Vec<Arc<Prepared>>, SqlError>, Broken> {
        Ok(self.connection.prepare(steps).await?.into_iter().collect())
    }

    /// Prepares and writes all of it, or none.
    async fn push_all(&mut self, steps: &[(&Statement, Form)]) -> Result<bool, Broken> {
        let Ok(prepared) = self.prepared(steps).await? else { return Ok(false) };
        for (prepared, (statement, _)) in prepared.iter().zip(steps) {
            if self.connection.push(prepared, values(statement)).is_err() {
                self.connection.discard();
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn commit(&mut self, fates: Vec<Fate>) -> Result<Vec<Fate>, Broken> {
        let commit = plain(COMMIT);
        if !self.push_all(&[(&commit, Form::Plain)]).await? {
            return Err(Broken { why: "COMMIT cannot be said".into(), doubt: None, numbers: Vec::new() });
        }
        self.connection.sync();
        match self.run().await {
            Ok(replies) => match replies.as_slice() {
                [Reply::Done { rolled_back: false, .. }] => {
                    self.commits += 1;
                    self.open = false;
                    Ok(fates)
                }
                _ => {
                    let why = first_error(&replies).map_or_else(|| "rolled back".to_owned(), SqlError::to_string);
                    Ok(fates.into_iter().map(|fate| undone(fate, &why)).collect())
                }
            },
            Err(failure) => Err(Broken { why: failure.to_string(), doubt: Some(fates), numbers: Vec::new() }),
        }
    }
}

fn exactly(batch: &Batch) -> impl Iterator<Item = (&Statement, Form)> {
    batch.statements.iter().map(|statement| (statement, Form::exact(statement)))
}

/// Fills numbers that were read back into the outputs of a batch that had no answer: the last is `last`, those before it
/// come right before, since the agent's row was locked in between.
pub(crate) fn tell_numbers(fates: &mut [Fate], places: &[usize], last: i64) {
    let [Fate::Told(Ok(outputs))] = fates else { return };
    for (number, place) in (0..=last).rev().zip(places.iter().rev()) {
        if let Some(output) = outputs.get_mut(*place) {
            *output = Output { affected: 1, rows: vec![Row(vec![Value::Int(number)])] };
        }
    }
}

fn is_foretold(batch: &Batch) -> bool {
    exactly(batch).all(|(_, form)| form.is_foretold())
}

fn again(batches: &[&Batch], why: &str) -> Vec<Fate> {
    batches.iter().map(|_| Fate::Again(why.to_owned())).collect()
}

/// A transaction that did not commit has refused nobody for good, and done nothing.
fn undone(fate: Fate, why: &str) -> Fate {
    match fate {
        Fate::Told(Ok(_)) => Fate::Again(why.to_owned()),
        other => other,
    }
}

fn database(batch: &Batch, message: &str) -> StoreError {
    StoreError::Database { attempted: batch.attempted, message: message.to_owned() }
}

fn unprepared(error: &SqlError) -> Broken {
    Broken { why: error.to_string(), doubt: None, numbers: Vec::new() }
}

fn first_error(replies: &[Reply]) -> Option<&SqlError> {
    replies.iter().find_map(|reply| match reply {
        Reply::Failed(error) => Some(error),
        Reply::Done { .. } | Reply::Skipped => None,
    })
}

/// A marker that moved without this connection: it was given up for lost, and may not write any more.
fn check_opening(opening: &[Reply]) -> Result<(), Broken> {
    match opening.get(1) {
        Some(Reply::Done { output, .. }) if output.affected == 1 => Ok(()),
        Some(Reply::Failed(error)) if error.code != dialect::REFUSED => Ok(()),
        Some(Reply::Skipped) => Ok(()),
        _ => Err(Broken { why: "this writer's marker is gone".into(), doubt: None, numbers: Vec::new() }),
    }
}

fn stale(batch: &Batch, stands: &[(Vec<u8>, i64)]) -> bool {
    batch.fence.is_some_and(|fence| {
        let worker = fence.worker.as_bytes();
        !stands.iter().any(|(id, incarnation)| id == worker && *incarnation == fence.incarnation)
    })
}

/// Reads the replies to one batch's statements.
fn fate(batch: &Batch, replies: &mut impl Iterator<Item = Reply>) -> Fate {
    let mut outputs = Vec::with_capacity(batch.statements.len());
    let mut found = None;
    // To its end, so that the next batch's replies come next.
    for statement in &batch.statements {
        let reply = replies.next().unwrap_or(Reply::Skipped);
        if found.is_some() {
            continue;
        }
        match (reply, &statement.expect) {
            (Reply::Done { output, .. }, Expect::Rows(rows, verdict)) if output.affected != *rows => {
                found = Some(Fate::Told(Err(batch.refused(verdict.clone()))));
            }
            (Reply::Done { output, .. }, _) => outputs.push(output),
            (Reply::Failed(error), Expect::Rows(_, verdict)) if error.code == dialect::REFUSED => {
                found = Some(Fate::Told(Err(batch.refused(verdict.clone()))));
            }
            (Reply::Failed(error), _) => found = Some(failed(batch, &error)),
            (Reply::Skipped, _) => found = Some(Fate::Again("skipped".into())),
        }
    }
    found.unwrap_or(Fate::Told(Ok(outputs)))
}

/// Deadlock, serialization, a lock or statement that took too long, and a twin that inserted the same key first: another
/// try begins from what is there by then. Anything else would fail again.
fn failed(batch: &Batch, error: &SqlError) -> Fate {
    match error.code.as_str() {
        "40001" | "40P01" | "55P03" | "57014" | "23505" => Fate::Again(error.to_string()),
        // A row of an index is beyond what a page holds.
        "54000" => Fate::Told(Err(batch.refused(Verdict::Conflict(Conflict::TooLong)))),
        _ => {
            tracing::warn!(attempted = batch.attempted, %error, "statement failed");
            Fate::Told(Err(database(batch, &error.to_string())))
        }
    }
}

/// Fills in the fates of what [`Link::push_guarded`] wrote. `false` if the transaction is not what it should be.
fn read_guarded(batches: &[&Batch], fates: &mut [Option<Fate>], replies: Vec<Reply>) -> bool {
    let mut replies = replies.into_iter();
    for (batch, fate_of) in batches.iter().zip(fates).filter(|(_, fate)| fate.is_none()) {
        let done = |reply: Option<Reply>| matches!(reply, Some(Reply::Done { .. }));
        if !done(replies.next()) {
            return false;
        }
        let found = fate(batch, &mut replies);
        let (release, savepoint) = (replies.next(), replies.next());
        let whole = done(release) && done(savepoint);
        let (undo, undone) = (replies.next(), replies.next());
        if whole != matches!(found, Fate::Told(Ok(_))) || !done(undo) || !done(undone) {
            return false;
        }
        *fate_of = Some(found);
    }
    true
}
