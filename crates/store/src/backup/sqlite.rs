//! Lines from SQLite, and back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nexus_core::UnixMs;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::{
    Contents, DUMP, Header, KEPT, LOAD, NOTE, ObjectName, Step, afterwards, check_columns, corrupt, failed, value,
};
use crate::{Result, StoreError, migrate};

const WAIT: Duration = Duration::from_secs(10);

fn open(path: &Path) -> Result<Connection> {
    let cannot = |error: rusqlite::Error| StoreError::Open { path: path.to_owned(), message: error.to_string() };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(cannot)?;
    connection.busy_timeout(WAIT).map_err(cannot)?;
    Ok(connection)
}

/// One row, beside whoever writes: a moment's wait for them.
pub(super) fn note(path: &Path, name: &str, value: &str) -> Result<()> {
    let database = |error: rusqlite::Error| failed(NOTE, error);
    let connection = open(path)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(database)?;
    let sql = "INSERT INTO installation_value (name, value) VALUES (?1, ?2)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    connection.execute(sql, [name, value]).map(drop).map_err(database)
}

pub(super) fn noted(path: &Path, name: &str) -> Result<Option<String>> {
    let connection = open(path)?;
    let found = connection.query_row("SELECT value FROM installation_value WHERE name = ?1", [name], |row| row.get(0));
    found.optional().map_err(|error| failed(NOTE, error))
}

/// Reads everything in one transaction, beside whoever writes.
pub(super) fn dump(path: &Path, at: UnixMs, lines: &mpsc::Sender<String>) -> Result<(Contents, Vec<ObjectName>)> {
    let database = |error: rusqlite::Error| failed(DUMP, error);
    let connection = open(path)?;
    connection.pragma_update(None, "query_only", 1).map_err(database)?;
    connection.execute_batch("BEGIN").map_err(database)?;
    let schema: i64 =
        connection.query_row("SELECT version FROM schema_version", [], |row| row.get(0)).map_err(database)?;
    let known = migrate::known();
    match schema {
        found if found > known => return Err(StoreError::NewerSchema { found, known }),
        found if found < known => return Err(StoreError::OlderSchema { found, known }),
        _ => {}
    }
    let sql = "SELECT installation, epoch FROM installation WHERE id = 1";
    let (installation, epoch) =
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(database)?;
    let header = Header::new(schema, at, installation, epoch);
    let send = |line: String| lines.blocking_send(line).map_err(|_| StoreError::Closed { attempted: DUMP });
    send(json!(header).to_string())?;
    let mut contents = Contents::default();
    for table in KEPT {
        let columns = columns(&connection, table).map_err(database)?;
        send(json!({ "table": table, "columns": columns }).to_string())?;
        let sql = format!("SELECT {} FROM {table}", columns.join(", "));
        let mut statement = connection.prepare(&sql).map_err(database)?;
        let mut rows = statement.query([]).map_err(database)?;
        while let Some(row) = rows.next().map_err(database)? {
            let values = (0..columns.len()).map(|place| row.get_ref(place).map(to_json));
            let values: Vec<Json> = values.collect::<rusqlite::Result<_>>().map_err(database)?;
            send(Json::Array(values).to_string())?;
            contents.rows += 1;
            contents.agents += u64::from(*table == "agent");
        }
    }
    let names = names(&connection).map_err(database)?;
    connection.execute_batch("ROLLBACK").map_err(database)?;
    Ok((contents, names))
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1) ORDER BY cid")?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

fn names(connection: &Connection) -> rusqlite::Result<Vec<ObjectName>> {
    let mut statement =
        connection.prepare("SELECT npub, hash, size FROM blob WHERE dropped_at IS NULL AND claimed = 0")?;
    let named = |row: &rusqlite::Row<'_>| {
        let (npub, hash, size): ([u8; 32], [u8; 32], i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let size = u64::try_from(size).unwrap_or_default();
        Ok(ObjectName { npub: nexus_core::Npub::from_bytes(npub), hash: nexus_core::Hash32::from_bytes(hash), size })
    };
    statement.query_map([], named)?.collect()
}

fn to_json(value: ValueRef<'_>) -> Json {
    match value {
        ValueRef::Null => Json::Null,
        ValueRef::Integer(number) => json!(number),
        // No column is one; what reads it back refuses it.
        ValueRef::Real(number) => json!(number),
        ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => json!({ "b": STANDARD.encode(bytes) }),
    }
}

/// Makes the file beside its place, and moves it there when it is whole.
pub(super) fn load(path: &Path, header: &Header, at: UnixMs, mut steps: mpsc::Receiver<Step>) -> Result<Contents> {
    if path.exists() {
        let message = format!("{} is there already: nothing is restored over a database", path.display());
        return Err(StoreError::Settings { message });
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    let beside = path.with_file_name(name);
    let _ = std::fs::remove_file(&beside);
    let loaded = fill(&beside, header, at, &mut steps);
    let moved = loaded.and_then(|contents| {
        let cannot = |error: std::io::Error| StoreError::Open { path: path.to_owned(), message: error.to_string() };
        std::fs::File::open(&beside).and_then(|file| file.sync_all()).map_err(cannot)?;
        std::fs::rename(&beside, path).map_err(cannot)?;
        let dir =
            path.parent().filter(|dir| !dir.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned);
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(cannot)?;
        Ok(contents)
    });
    if moved.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    moved
}

fn fill(path: &Path, header: &Header, at: UnixMs, steps: &mut mpsc::Receiver<Step>) -> Result<Contents> {
    let database = |error: rusqlite::Error| failed(LOAD, error);
    let mut connection = Connection::open(path)
        .map_err(|error| StoreError::Open { path: path.to_owned(), message: error.to_string() })?;
    keep_private(path).map_err(|error| failed(LOAD, error))?;
    // No log beside it: the file is made once, and moved when it is whole.
    connection.pragma_update(None, "journal_mode", "DELETE").map_err(database)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(database)?;
    migrate::run_to(&mut connection, header.schema)?;
    let contents = rows(&mut connection, at, steps)?;
    migrate::run(&mut connection)?;
    connection.close().map_err(|(_, error)| database(error))?;
    Ok(contents)
}

fn rows(connection: &mut Connection, at: UnixMs, steps: &mut mpsc::Receiver<Step>) -> Result<Contents> {
    let database = |error: rusqlite::Error| failed(LOAD, error);
    let mut contents = Contents::default();
    let mut into: Option<(String, String, usize)> = None;
    let transaction = connection.transaction().map_err(database)?;
    loop {
        match steps.blocking_recv() {
            None => return Err(corrupt("it ends before its last line")),
            Some(Step::End) => break,
            Some(Step::Table { table, columns: given }) => {
                check_columns(&table, &given, &columns(&transaction, &table).map_err(database)?)?;
                transaction.execute(&format!("DELETE FROM {table}"), []).map_err(database)?;
                let places: Vec<String> = (1..=given.len()).map(|place| format!("?{place}")).collect();
                let sql = format!("INSERT INTO {table} ({}) VALUES ({})", given.join(", "), places.join(", "));
                into = Some((table, sql, given.len()));
            }
            Some(Step::Row(row)) => {
                let Some((table, sql, width)) = &into else { return Err(corrupt("a row before its table")) };
                if row.len() != *width {
                    return Err(corrupt(&format!("a row of {table} has {} values, not {width}", row.len())));
                }
                let values = row.iter().map(value).collect::<Result<Vec<_>>>()?;
                let mut statement = transaction.prepare_cached(sql).map_err(database)?;
                statement.execute(rusqlite::params_from_iter(values)).map_err(database)?;
                contents.rows += 1;
                contents.agents += u64::from(table == "agent");
            }
        }
    }
    for sql in afterwards(at) {
        transaction.execute(&sql, []).map_err(database)?;
    }
    transaction.commit().map_err(database)?;
    Ok(contents)
}

#[cfg(unix)]
fn keep_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
fn keep_private(_: &Path) -> std::io::Result<()> {
    Ok(())
}
