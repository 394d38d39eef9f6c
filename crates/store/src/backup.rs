//! A whole database as lines of text, and back: what `nexus backup` keeps and `nexus restore` puts back.
//!
//! One JSON value a line. First [`Header`]; then, table by table, `{"table": …, "columns": […]}` and a line for each row:
//! numbers, texts, nulls, and bytes as `{"b": "<base64>"}`; then what the object store holds for these rows; last the number
//! of lines before it, without which nothing is loaded. The lines are of one snapshot, taken while the host runs, and the
//! same from either engine, so that a database of one can be put back into the other.
//!
//! What was private stays ciphertext, and the rest is metadata: the caller closes the lines before they are kept.
//!
//! A database that is put back is of an earlier moment, and things have happened since that it does not know: jobs were
//! paid, messages answered. So loading also raises the installation's epoch and every generation, ends what was open, marks
//! every trigger handled, and has each agent wait until its worker has compared its wallet with its books
//! ([`crate::agent::Agent::unreconciled`]). It is one transaction, after which either all of it is there or nothing.

mod postgres;
mod sqlite;

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::{Hash32, Npub, UnixMs};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::sync::mpsc;

use crate::batch::Value;
use crate::object::Objects;
use crate::{PostgresConfig, Result, StoreError};

/// Version of the lines.
pub const FORMAT: u32 = 1;
/// The schema with which backups began. What makes a restored database safe is written in its words, in the transaction that
/// loads, before later migrations.
const FIRST_SCHEMA: i64 = 9;
/// Longest line, in bytes.
pub const MAX_LINE: usize = 64 * 1024 * 1024;
/// By so much each generation is raised: more than placements of any gap.
pub const GENERATIONS: i64 = 1_000_000;
/// The reason of an agent that was restored, until its worker has compared wallet and books.
pub const RESTORED: &str = "restored";
const DUMP: &str = "back up the database";
const LOAD: &str = "restore the database";
const NOTE: &str = "note a backup";

/// How many tables are kept, each with a line that names it.
pub const TABLES: usize = 48;
/// Tables of which every row is kept.
const KEPT: &[&str; TABLES] = &[
    "installation",
    "installation_value",
    "counter",
    "account",
    "member",
    "token",
    "replay",
    "idempotency",
    "audit",
    "agent",
    "agent_label",
    "agent_sealed",
    "agent_wrap",
    "agent_state",
    "inbox",
    "tick",
    "journal",
    "budget",
    "payment",
    "event",
    "publication",
    "provider_score",
    "relay_event",
    "relay_tag",
    "relay_deleted",
    "relay_deleted_slot",
    "blob",
    "approval",
    "invoice_watch",
    "wallet_record",
    "hook",
    "ledger_entry",
    "ledger_line",
    "hosting_invoice",
    "sub_account",
    "sub_entry",
    "sub_line",
    "sub_invoice",
    "sub_payment",
    "hosting_payout",
    "webhook",
    "webhook_cursor",
    "webhook_delivery",
    "outside_relay",
    "dispute",
    "provider_week",
    "renewal",
    "operator_record",
];

/// Tables of a running host, of which nothing is worth keeping: who is live now, and what is asked right now.
#[cfg(test)]
const LEFT: &[&str] =
    &["commit_marker", "schema_version", "worker", "worker_fence", "reconciler", "ticket", "wallet_request"];

/// Columns that the engine numbers.
const SERIALS: &[(&str, &str)] = &[("inbox", "id"), ("audit", "id"), ("event", "id"), ("relay_event", "position")];

/// The database that is backed up, or put back.
#[derive(Debug, Clone)]
pub enum Place {
    /// Put back into a file that must not be there yet.
    Sqlite(PathBuf),
    /// Put back into a database that must have no agents and no accounts.
    Postgres(Box<PostgresConfig>),
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub nexus_backup: u32,
    pub schema: i64,
    pub made_at: UnixMs,
    pub installation: String,
    pub epoch: i64,
}

/// What was written or put back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    pub rows: u64,
    pub agents: u64,
    pub objects: u64,
}

/// One line, as the reader tells them apart.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Row(Vec<Json>),
    Table {
        table: String,
        columns: Vec<String>,
    },
    Object {
        object: ObjectName,
        bytes: String,
    },
    /// Of somebody else: files that are kept beside the database.
    File {
        #[serde(rename = "file")]
        _file: String,
        #[serde(rename = "bytes")]
        _bytes: String,
    },
    End {
        end: u64,
    },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectName {
    npub: Npub,
    hash: Hash32,
    size: u64,
}

/// The last line, after so many others.
pub fn end_line(lines: u64) -> String {
    serde_json::json!({ "end": lines }).to_string()
}

/// A file that is kept beside the database.
pub fn file_line(name: &str, bytes: &[u8]) -> String {
    serde_json::json!({ "file": name, "bytes": STANDARD.encode(bytes) }).to_string()
}

/// Name and content, if this line is one of [`file_line`].
pub fn read_file_line(line: &str) -> Option<(String, Vec<u8>)> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        file: String,
        bytes: String,
    }
    if !line.starts_with('{') {
        return None;
    }
    let File { file, bytes } = serde_json::from_str(line).ok()?;
    Some((file, STANDARD.decode(bytes).ok()?))
}

/// How many lines this one says came before it, if it is the last.
pub fn read_end_line(line: &str) -> Option<u64> {
    match serde_json::from_str(line) {
        Ok(Line::End { end }) if line.starts_with('{') => Some(end),
        _ => None,
    }
}

/// Sends every line but the last, from one snapshot of a database that may be in use.
///
/// # Errors
/// Also when whoever takes the lines has gone, and when an object of these rows is missing from the object store.
pub async fn dump(
    place: Place,
    objects: Option<&Objects>,
    at: UnixMs,
    lines: &mpsc::Sender<String>,
) -> Result<Contents> {
    let (mut contents, names) = match place {
        Place::Sqlite(path) => {
            let lines = lines.clone();
            let read = tokio::task::spawn_blocking(move || sqlite::dump(&path, at, &lines)).await;
            read.map_err(|error| failed(DUMP, error))??
        }
        Place::Postgres(config) => postgres::dump(*config, at, lines).await?,
    };
    if !names.is_empty() && objects.is_none() {
        return Err(StoreError::Object { attempted: DUMP, problem: crate::ObjectProblem::NotConfigured });
    }
    if let Some(objects) = objects {
        for name in names {
            let found = objects.get(name.npub, name.hash, name.size).await;
            let bytes = found.map_err(|problem| StoreError::Object { attempted: DUMP, problem })?;
            let line = serde_json::json!({ "object": name, "bytes": STANDARD.encode(&bytes) }).to_string();
            lines.send(line).await.map_err(|_| StoreError::Closed { attempted: DUMP })?;
            contents.objects += 1;
        }
    }
    Ok(contents)
}

/// Puts a database back from its lines, as of `at`.
///
/// # Errors
/// [`StoreError::Corrupt`] for lines that are no backup; [`StoreError::NewerSchema`]; [`StoreError::Settings`] when there is a
/// database already. In each case nothing was changed, but that objects may have been put.
pub async fn load(
    place: Place,
    objects: Option<&Objects>,
    at: UnixMs,
    mut lines: mpsc::Receiver<String>,
) -> Result<(Header, Contents)> {
    let first = lines.recv().await.ok_or_else(|| corrupt("it is empty"))?;
    let header = Header::parse(&first)?;
    let (rows, wanted) = mpsc::channel(64);
    let loading = match place {
        Place::Sqlite(path) => {
            let header = header.clone();
            tokio::task::spawn_blocking(move || sqlite::load(&path, &header, at, wanted))
        }
        Place::Postgres(config) => tokio::spawn(postgres::load(*config, header.clone(), at, wanted)),
    };
    // Both to their end: what is refused has left nothing behind when the caller hears of it.
    let (put, loaded) = tokio::join!(feed(&mut lines, rows, objects), loading);
    let loaded = loaded.map_err(|error| failed(LOAD, error))?;
    let objects = put?;
    let contents = Contents { objects, ..loaded? };
    Ok((header, contents))
}

/// Puts objects where they belong, and hands on everything else. A feed that fails ends without the last line, and then
/// nothing is committed.
async fn feed(lines: &mut mpsc::Receiver<String>, rows: mpsc::Sender<Step>, objects: Option<&Objects>) -> Result<u64> {
    let (mut count, mut put) = (1, 0);
    while let Some(line) = lines.recv().await {
        let step = match parse(&line)? {
            Line::Row(row) => Step::Row(row),
            Line::Table { table, columns } => Step::Table { table, columns },
            Line::Object { object, bytes } => {
                let bytes = STANDARD.decode(bytes).map_err(|_| corrupt("an object is not base64"))?;
                if Hash32::sha256(&bytes) != object.hash || bytes.len() as u64 != object.size {
                    return Err(corrupt("an object is not what its name says"));
                }
                let not_set = StoreError::Object { attempted: LOAD, problem: crate::ObjectProblem::NotConfigured };
                let objects = objects.ok_or(not_set)?;
                let done = objects.put(object.npub, object.hash, bytes).await;
                done.map_err(|problem| StoreError::Object { attempted: LOAD, problem })?;
                put += 1;
                count += 1;
                continue;
            }
            Line::File { .. } => {
                count += 1;
                continue;
            }
            Line::End { end } if end == count => Step::End,
            Line::End { end } => return Err(corrupt(&format!("it has {count} lines, and says that it has {end}"))),
        };
        count += 1;
        let last = matches!(step, Step::End);
        if rows.send(step).await.is_err() || last {
            break;
        }
    }
    Ok(put)
}

/// What an engine is given to put back.
enum Step {
    Table { table: String, columns: Vec<String> },
    Row(Vec<Json>),
    End,
}

impl Header {
    fn new(schema: i64, made_at: UnixMs, installation: String, epoch: i64) -> Self {
        Self { nexus_backup: FORMAT, schema, made_at, installation, epoch }
    }

    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::NewerSchema`].
    pub fn parse(line: &str) -> Result<Self> {
        let read = |_| corrupt("its first line is not the header of a backup");
        let loose: Json = serde_json::from_str(line).map_err(read)?;
        match loose.get("nexus_backup").and_then(Json::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => return Err(corrupt(&format!("it has format {format}, this program reads {FORMAT}"))),
            None => return Err(corrupt("its first line is not the header of a backup")),
        }
        let header: Self = serde_json::from_value(loose).map_err(read)?;
        let known = crate::migrate::known();
        match header.schema {
            found if found > known => Err(StoreError::NewerSchema { found, known }),
            found if found < FIRST_SCHEMA => Err(corrupt(&format!("it has schema {found}, which no backup has"))),
            _ => Ok(header),
        }
    }
}

/// Nothing but what is about to be put back may come of a line.
fn parse(line: &str) -> Result<Line> {
    serde_json::from_str(line).map_err(|error| corrupt(&format!("a line can't be read: {error}")))
}

/// The columns of a table that is kept, all of which `there` has.
fn check_columns(table: &str, columns: &[String], there: &[String]) -> Result<()> {
    if !KEPT.contains(&table) {
        return Err(corrupt(&format!("it has a table {table:?}, which no backup has")));
    }
    match columns.iter().find(|column| !there.contains(column)) {
        Some(column) => Err(corrupt(&format!("table {table} has no column {column:?}"))),
        None if columns.is_empty() => Err(corrupt(&format!("table {table} has no columns"))),
        None => Ok(()),
    }
}

/// A row's value, for an engine.
fn value(json: &Json) -> Result<Value> {
    let unreadable = || corrupt("a row has a value that is no number, text, bytes or null");
    Ok(match json {
        Json::Null => Value::Null,
        Json::Number(number) => Value::Int(number.as_i64().ok_or_else(unreadable)?),
        Json::String(text) => Value::Text(text.clone().into()),
        Json::Object(map) => {
            let text = map.get("b").filter(|_| map.len() == 1).and_then(Json::as_str).ok_or_else(unreadable)?;
            Value::Blob(STANDARD.decode(text).map_err(|_| unreadable())?)
        }
        Json::Bool(_) | Json::Array(_) => return Err(unreadable()),
    })
}

/// What makes a database of an earlier moment safe to go on with.
fn afterwards(at: UnixMs) -> Vec<String> {
    let now = at.0;
    let waits = "it was restored from a backup; its wallet is compared with its books first";
    vec![
        "UPDATE installation SET epoch = epoch + 1".to_owned(),
        format!(
            "UPDATE agent SET generation = generation + {GENERATIONS}, desired_rev = desired_rev + {GENERATIONS}, worker_id = NULL,
                placed_incarnation = NULL, prev_worker_id = NULL, last_worker_id = NULL, placement = 'unplaced', away = 0,
                reason_code = '{RESTORED}', reason_text = '{waits}', next_attempt_at = {now},
                next_tick_at = CASE WHEN next_tick_at < {now} THEN {now} ELSE next_tick_at END,
                rest_config = NULL, rest_policy = NULL, rest_at = NULL, restored_at = {now}, unreconciled = 1
             WHERE moved_to IS NULL"
        ),
        format!("UPDATE counter SET value = value + {GENERATIONS} WHERE name = 'desired_rev'"),
        format!("UPDATE inbox SET handled = 1, note = '{RESTORED}' WHERE handled = 0"),
        "DELETE FROM journal".to_owned(),
        format!("UPDATE tick SET status = 'failed', reason = '{RESTORED}', ended_at = {now} WHERE status = 'open'"),
        // It may have been sent since: whoever asks is an heir, and it is never sent from here.
        format!("UPDATE payment SET state = 'unknown', updated_at = {now} WHERE state IN ('reserved', 'dispatched')"),
    ]
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt { attempted: LOAD, what: what.to_owned() }
}

fn failed(attempted: &'static str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Database { attempted, message: error.to_string() }
}

/// What is noted of the last backup, for whoever watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    pub at: UnixMs,
    pub bytes: u64,
    /// One is made this often, if by a clock.
    pub every_secs: Option<u32>,
}

impl LastBackup {
    /// Without a clock: a week.
    const OLD_SECS: i64 = 7 * 86_400;
    const MARGIN_SECS: i64 = 600;

    /// Whether the next one should have been made by now.
    pub fn is_stale(&self, now: UnixMs) -> bool {
        let most = self.every_secs.map_or(Self::OLD_SECS, |secs| 2 * i64::from(secs) + Self::MARGIN_SECS);
        now.0.saturating_sub(self.at.0) > most.saturating_mul(1_000)
    }
}

const LAST: &str = "last_backup";

/// Notes a backup that was made and looked through.
pub async fn note(place: Place, last: LastBackup) -> Result<()> {
    let value = serde_json::to_string(&last).map_err(|error| failed(NOTE, error))?;
    match place {
        Place::Sqlite(path) => {
            let noted = tokio::task::spawn_blocking(move || sqlite::note(&path, LAST, &value)).await;
            noted.map_err(|error| failed(NOTE, error))?
        }
        Place::Postgres(config) => postgres::note(*config, LAST, &value).await,
    }
}

/// The last backup that was noted.
pub async fn last(store: &crate::Store) -> Result<Option<LastBackup>> {
    let value = crate::installation::get(store, LAST).await?;
    Ok(value.and_then(|value| serde_json::from_str(&value).ok()))
}

/// The same, of a database that this process does not hold.
pub async fn last_at(place: Place) -> Result<Option<LastBackup>> {
    let value = match place {
        Place::Sqlite(path) => {
            let read = tokio::task::spawn_blocking(move || sqlite::noted(&path, LAST)).await;
            read.map_err(|error| failed(NOTE, error))??
        }
        Place::Postgres(config) => postgres::noted(*config, LAST).await?,
    };
    Ok(value.and_then(|value| serde_json::from_str(&value).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_kept_or_left() {
        let mut connection = rusqlite::Connection::open_in_memory().unwrap();
        crate::migrate::run(&mut connection).unwrap();
        let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
        let mut statement = connection.prepare(sql).unwrap();
        let names = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let mut found: Vec<String> = names.map(Result::unwrap).collect();
        let mut told: Vec<String> = KEPT.iter().chain(LEFT).map(|name| (*name).to_owned()).collect();
        found.sort();
        told.sort();
        assert_eq!(found, told);
    }

    /// What makes a restored database safe runs before later migrations: an old backup is of an old schema.
    #[test]
    fn the_oldest_backup_is_made_safe_in_its_own_words() {
        let mut connection = rusqlite::Connection::open_in_memory().unwrap();
        crate::migrate::run_to(&mut connection, FIRST_SCHEMA).unwrap();
        for sql in afterwards(UnixMs(1)) {
            connection.execute(&sql, []).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    #[test]
    fn a_backup_is_stale_when_the_next_is_late() {
        let last = |every_secs| LastBackup { at: UnixMs(0), bytes: 1, every_secs };
        let after = |secs: i64| UnixMs(secs * 1_000);
        assert!(!last(Some(3_600)).is_stale(after(7_800)) && last(Some(3_600)).is_stale(after(7_801)));
        assert!(!last(None).is_stale(after(7 * 86_400)) && last(None).is_stale(after(7 * 86_400 + 1)));
        assert!(!last(None).is_stale(UnixMs(-1)));
    }

    #[test]
    fn lines_are_told_apart() {
        assert!(matches!(parse("[1, null, \"a\", {\"b\": \"AQ==\"}]"), Ok(Line::Row(_))));
        assert!(matches!(parse("{\"table\": \"agent\", \"columns\": [\"npub\"]}"), Ok(Line::Table { .. })));
        assert!(matches!(parse(&file_line("keys/a", b"x")), Ok(Line::File { .. })));
        assert_eq!(read_file_line(&file_line("keys/a", b"x")), Some(("keys/a".to_owned(), b"x".to_vec())));
        assert_eq!(read_end_line(&end_line(7)), Some(7));
        for line in ["", "[", "{}", "7", "{\"ends\": 3}"] {
            assert!(parse(line).is_err(), "{line}");
            assert!(read_end_line(line).is_none() && read_file_line(line).is_none(), "{line}");
        }
        assert!(matches!(value(&serde_json::json!({ "b": "AQ==" })), Ok(Value::Blob(bytes)) if bytes == [1]));
        for bad in
            [serde_json::json!(true), serde_json::json!([1]), serde_json::json!({"b": 1}), serde_json::json!(0.5)]
        {
            assert!(value(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_our_own_tables_and_columns() {
        let there = ["npub".to_owned()];
        assert!(check_columns("agent", &there, &there).is_ok());
        for (table, columns) in [
            ("worker", vec!["npub"]),
            ("agent; DROP TABLE agent", vec!["npub"]),
            ("agent", vec!["npub) VALUES (1); --"]),
            ("agent", vec![]),
        ] {
            let columns: Vec<String> = columns.into_iter().map(str::to_owned).collect();
            assert!(check_columns(table, &columns, &there).is_err(), "{table} {columns:?}");
        }
    }
}
