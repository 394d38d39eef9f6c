//! What becomes of a group when its commit, or a statement of it, fails.

use super::*;
use crate::batch::Verdict as Said;
use std::cell::Cell;

thread_local! { static LEFT: Cell<u32> = const { Cell::new(0) }; }

fn lost() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR), None)
}

fn fault_left() -> bool {
    LEFT.with(|left| left.replace(left.get().saturating_sub(1)) > 0)
}

/// The commit happens, its answer is lost.
fn answer_lost(connection: &Connection) -> rusqlite::Result<()> {
    commit_once(connection)?;
    if fault_left() { Err(lost()) } else { Ok(()) }
}

/// The commit does not happen.
fn commit_lost(connection: &Connection) -> rusqlite::Result<()> {
    if fault_left() { Err(lost()) } else { commit_once(connection) }
}

fn insert(name: &'static str) -> Batch {
    let sql = "INSERT INTO counter (name, value) VALUES (?1, 1) ON CONFLICT DO NOTHING";
    let statement = Statement::write(sql, vec![name.into()]).one_or(Said::Duplicate);
    Batch::new("count").with(statement)
}

fn names(engine: &Engine) -> i64 {
    engine.connection.query_row("SELECT COUNT(*) FROM counter WHERE value = 1", [], |row| row.get(0)).unwrap()
}

fn engine(dir: &tempfile::TempDir, commit: Commit, faults: u32) -> Engine {
    LEFT.with(|left| left.set(faults));
    Engine::open(&dir.path().join("db")).unwrap().with_commit(commit)
}

#[test]
fn a_commit_whose_answer_is_lost_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = engine(&dir, answer_lost, 1);
    let verdicts = engine.run_group(&[insert("a"), insert("b"), insert("a")]);
    assert!(verdicts[0].is_ok() && verdicts[1].is_ok(), "{verdicts:?}");
    assert!(verdicts[2].as_ref().unwrap_err().is_duplicate(), "the twin in the same group");
    assert_eq!(names(&engine), 2);
    // Had the group been run again, `a` would have been told Duplicate.
    assert!(engine.run_group(&[insert("c")])[0].is_ok());
}

#[test]
fn a_commit_that_did_not_happen_is_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = engine(&dir, commit_lost, 2);
    assert!(engine.run_group(&[insert("a"), insert("b")]).iter().all(Result::is_ok));
    assert_eq!(names(&engine), 2);
}

#[test]
fn a_commit_that_never_happens_is_told_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = engine(&dir, commit_lost, GROUP_TRIES);
    for verdict in engine.run_group(&[insert("a"), insert("b")]) {
        assert!(matches!(verdict, Err(StoreError::Database { attempted: "count", .. })), "{verdict:?}");
    }
    assert_eq!(names(&engine), 0);
    assert!(engine.run_group(&[insert("a")])[0].is_ok(), "and the engine goes on");
}

#[test]
fn a_batch_that_wrote_too_much_is_undone_without_harm_to_its_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = engine(&dir, commit_once, 0);
    let wide = Statement::write("UPDATE counter SET value = 5", vec![]).one_or(Said::Stale);
    let verdicts = engine.run_group(&[insert("a"), insert("b"), Batch::new("wide").with(wide), insert("c")]);
    let told: Vec<bool> = verdicts.iter().map(Result::is_ok).collect();
    assert_eq!(told, [true, true, false, true]);
    assert_eq!(names(&engine), 3);
}

#[test]
fn a_statement_that_fails_harms_its_own_batch_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = engine(&dir, commit_once, 0);
    let raises = Statement::write("INSERT INTO counter (name, value) VALUES ('x', NULL)", vec![]);
    let too_few = Statement::write("UPDATE counter SET value = ?1", vec![]);
    let mut half = insert("h");
    half.push(raises.clone());
    let verdicts = engine.run_group(&[
        insert("a"),
        Batch::new("raises").with(raises),
        half,
        Batch::new("too few parameters").with(too_few),
        Batch::new("no such table").with(Statement::write("DELETE FROM nowhere", vec![])),
        insert("b"),
    ]);
    let told: Vec<bool> = verdicts.iter().map(Result::is_ok).collect();
    assert_eq!(told, [true, false, false, false, false, true]);
    assert_eq!(names(&engine), 2);
}

#[test]
fn a_reader_cannot_write_and_a_write_through_read_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(&dir, commit_once, 0);
    let reader = open_reader(&dir.path().join("db")).unwrap();
    assert!(read(&reader, &insert("a")).is_err());
    assert_eq!(names(&engine), 0);
}

#[test]
fn a_batch_refused_after_its_first_write_is_undone_alone_and_gets_a_savepoint_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = engine(&dir, commit_once, 0);
    let half = || {
        let sql = "INSERT INTO counter (name, value) VALUES (?1, 1)";
        let refused = Statement::read("SELECT 1 WHERE 1 = 0", vec![]).one_or(Said::Stale);
        Batch::new("half").with(Statement::write(sql, vec!["half".into()])).with(refused)
    };
    for (round, names_then) in [(["a", "b"], 2), (["c", "d"], 4)] {
        let verdicts = engine.run_group(&[insert(round[0]), half(), insert(round[1])]);
        assert!(verdicts[0].is_ok() && verdicts[2].is_ok(), "{verdicts:?}");
        assert!(matches!(verdicts[1], Err(StoreError::Stale { .. })), "{verdicts:?}");
        assert_eq!(names(&engine), names_then, "nothing of the refused one stays");
        assert_eq!(engine.cautious.keys().collect::<Vec<_>>(), [&"half"]);
    }
}
